//! Builds the guests that the bundle holds, or takes them from `COFFERDAM_GUESTS`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The guests of the bundle.
const GUESTS: [&str; 2] = ["dockerfile", "file-op"];
/// What the guests are made of, from the workspace's root on. All of it is in git; build
/// results are elsewhere.
const SOURCES: [&str; 12] = [
    "Cargo.lock",
    "Cargo.toml",
    "engine/patterns/Cargo.toml",
    "engine/patterns/src",
    "engine/types/Cargo.toml",
    "engine/types/src",
    "frontends-wasm/build.sh",
    "frontends-wasm/dockerfile/Cargo.toml",
    "frontends-wasm/dockerfile/src",
    "frontends-wasm/file-op",
    "frontends-wasm/sdk",
    "wit",
];

fn main() {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=COFFERDAM_GUESTS");
    println!("cargo::rerun-if-env-changed=COFFERDAM_GUEST_TARGET");
    if let Some(prebuilt) = std::env::var_os("COFFERDAM_GUESTS") {
        for guest in GUESTS {
            let from = Path::new(&prebuilt).join(format!("{guest}.wasm"));
            println!("cargo::rerun-if-changed={}", from.display());
            if let Err(error) = std::fs::copy(&from, out.join(format!("{guest}.wasm"))) {
                fail(&format!("COFFERDAM_GUESTS: {}: {error}", from.display()));
            }
        }
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for source in SOURCES {
        println!("cargo::rerun-if-changed={}", root.join(source).display());
    }
    let mut script = Command::new("sh");
    script.arg(root.join("frontends-wasm/build.sh")).arg(&out).args(GUESTS);
    match script.status() {
        Ok(status) if status.success() => {}
        Ok(_) => fail("frontends-wasm/build.sh failed: its message is above"),
        Err(error) => fail(&format!("cannot start frontends-wasm/build.sh: {error}")),
    }
}

fn fail(message: &str) -> ! {
    println!("cargo::error={message}");
    std::process::exit(1)
}
