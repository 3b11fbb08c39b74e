//! What this machine can run steps for, and how; without building anything.

use std::path::PathBuf;

use cofferdam_exec_linux::{CdiConfig, CdiProblem, Device, DeviceRegistry, Emulators};
use cofferdam_types::Platform;

pub use cofferdam_exec_linux::{Means, Missing};

/// A platform, and what runs its programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runnable {
    /// The platform.
    pub platform: Platform,
    /// How its steps run.
    pub how: How,
}

/// How the steps of a platform run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// In a sandbox of the kernel.
    Process(Means),
    /// In Wasmtime, in this process.
    Wasmtime,
    /// Not at all.
    Not(Missing),
}

/// Looks at every known platform, this machine's first. Starts programs to ask for their versions:
/// call it where blocking is right.
pub fn platforms(qemu_directories: Vec<PathBuf>) -> Vec<Runnable> {
    let emulators = Emulators::new(qemu_directories);
    let look = |platform: Platform| {
        let how = match emulators.means(&platform) {
            Ok(means) => How::Process(means),
            Err(missing) => How::Not(missing),
        };
        Runnable { platform, how }
    };
    let wasm = Runnable { platform: Platform::new("wasi", "wasm"), how: How::Wasmtime };
    Emulators::platforms().into_iter().map(look).chain([wasm]).collect()
}

/// Lists the devices that steps can ask for by name, and what of their descriptions cannot be read.
pub fn devices(config: &CdiConfig) -> (Vec<Device>, Vec<CdiProblem>) {
    let registry = DeviceRegistry::read(config);
    (registry.devices().collect(), registry.problems)
}
