//! Steps for other platforms: what this machine runs by itself, and what QEMU stands in for.
//!
//! A step of another architecture is started like any other. The kernel hands its programs, and
//! those that they start, to QEMU because of handlers that are registered in the user namespace of
//! the engine's steps (`binfmt`): nothing changes for the rest of the machine. Where that cannot be
//! (`--security=insecure`, older kernels), the step's own program is started with QEMU, and what it
//! starts in turn is not emulated.

mod architecture;
pub(crate) mod binfmt;
mod find;
mod handlers;
mod native;

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use cofferdam_types::Platform;
use serde::{Deserialize, Serialize};

use native::Native;

pub use architecture::{ARCHITECTURES, Architecture, HEADER};
pub use find::Rejected;

/// How a step's programs are executed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Execution {
    /// By the processor.
    #[default]
    Native,
    /// By the processor in its 32-bit mode, which the kernel tells programs that ask (uname(2)).
    In32Bits,
    /// By an emulator.
    Emulated(Emulator),
    /// By whatever the machine's own binfmt_misc starts for them.
    ByHandler,
}

/// A QEMU user-mode emulator, statically linked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Emulator {
    /// The architecture that it stands in for, by OCI's name.
    pub architecture: String,
    /// The program.
    pub program: PathBuf,
}

/// How programs of a platform can run on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Means {
    /// By themselves.
    Native,
    /// By themselves, in the processor's 32-bit mode.
    In32Bits,
    /// With QEMU.
    Qemu {
        /// The program.
        program: PathBuf,
        /// What it says its version is.
        version: String,
    },
    /// With what the machine's own binfmt_misc has registered.
    Handler {
        /// The handler's name.
        name: String,
        /// Its program, where that was when it was registered.
        interpreter: String,
    },
}

impl Means {
    /// How a step for the platform is executed.
    pub fn execution(&self, platform: &Platform) -> Execution {
        match self {
            Self::Native => Execution::Native,
            Self::In32Bits => Execution::In32Bits,
            Self::Handler { .. } => Execution::ByHandler,
            Self::Qemu { program, .. } => Execution::Emulated(Emulator {
                architecture: platform.architecture.clone(),
                program: program.clone(),
            }),
        }
    }

    /// What results depend on besides the step itself: nothing where there is no emulator.
    pub fn version(&self) -> Option<String> {
        match self {
            Self::Native | Self::In32Bits => None,
            Self::Qemu { version, .. } => Some(format!("QEMU {version}")),
            Self::Handler { name, interpreter } => {
                Some(format!("the host's binfmt_misc handler {name} ({interpreter})"))
            }
        }
    }
}

/// Why programs of a platform cannot run on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// They are of another operating system, or of an architecture that nothing is known of.
    Unknown,
    /// The processor lacks what the variant of its own architecture needs.
    Processor,
    /// There is no emulator.
    Emulator {
        /// The names of the programs that would do.
        names: Vec<String>,
        /// Where they were looked for.
        directories: Vec<PathBuf>,
        /// Those that were there.
        rejected: Vec<Rejected>,
    },
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("neither this machine nor QEMU runs such programs"),
            Self::Processor => f.write_str("this machine's processor is too old for it"),
            Self::Emulator { names, directories, rejected } => {
                let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
                let shown = |path: &PathBuf| path.display().to_string();
                let places: Vec<_> = directories.iter().map(shown).collect();
                let places = match places.is_empty() {
                    true => "no directory".to_owned(),
                    false => places.join(", "),
                };
                write!(f, "no QEMU for it: looked for {} in {places}", names.join(", "))?;
                for Rejected { program, reason } in rejected {
                    write!(f, "; `{}` cannot be used: {reason}", program.display())?;
                }
                Ok(())
            }
        }
    }
}

/// Finds what runs programs of other platforms, once for each architecture. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Emulators(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    directories: Vec<PathBuf>,
    handlers: PathBuf,
    found: Mutex<HashMap<Platform, Arc<OnceLock<Search>>>>,
}

type Search = Result<Means, Missing>;

/// The platform that stands for all that run in the same way: variants matter where the processor
/// itself may have them.
fn one_of(platform: &Platform) -> Platform {
    let mut one = platform.clone();
    if one.architecture != Platform::host().architecture {
        one.variant.clear();
    }
    one
}

impl Emulators {
    /// Looks for QEMU in these directories, the earlier ones first, and for the machine's own
    /// handlers where binfmt_misc is usually mounted. Nothing is read yet.
    pub fn new(directories: impl IntoIterator<Item = PathBuf>) -> Self {
        let mut unique: Vec<PathBuf> = Vec::new();
        for directory in directories {
            if !unique.contains(&directory) {
                unique.push(directory);
            }
        }
        let handlers = "/proc/sys/fs/binfmt_misc".into();
        Self(Arc::new(Inner { directories: unique, handlers, found: Mutex::default() }))
    }

    /// How programs of a platform run here. May start a program to find out: call it where
    /// blocking is right.
    ///
    /// # Errors
    /// Says what is missing.
    pub fn means(&self, platform: &Platform) -> Search {
        let search = self.found().entry(one_of(platform)).or_default().clone();
        search.get_or_init(|| self.search(platform)).clone()
    }

    /// The same where it was found out before: looks at nothing, and never blocks.
    pub fn known_means(&self, platform: &Platform) -> Option<Search> {
        self.found().get(&one_of(platform))?.get().cloned()
    }

    fn found(&self) -> MutexGuard<'_, HashMap<Platform, Arc<OnceLock<Search>>>> {
        self.0.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn search(&self, platform: &Platform) -> Search {
        match native::native(platform) {
            Native::Yes => return Ok(Means::Native),
            Native::In32Bits => return Ok(Means::In32Bits),
            Native::TooOld => return Err(Missing::Processor),
            Native::No => {}
        }
        let architecture = Architecture::of(platform).filter(|_| platform.os == "linux");
        self.emulator(architecture.ok_or(Missing::Unknown)?)
    }

    fn emulator(&self, architecture: &Architecture) -> Search {
        match find::find(architecture, &self.0.directories) {
            Ok(found) => Ok(Means::Qemu { program: found.program, version: found.version }),
            Err(rejected) => match handlers::find(&self.0.handlers, architecture) {
                // Where handlers of our own are registered, the machine's are not asked.
                Some(handler) if self.programs().next().is_none() => {
                    let handlers::Handler { name, interpreter } = handler;
                    Ok(Means::Handler { name, interpreter })
                }
                _ => Err(Missing::Emulator {
                    names: find::names(architecture).into(),
                    directories: self.0.directories.clone(),
                    rejected,
                }),
            },
        }
    }

    /// The emulators of all architectures that this machine does not run by itself.
    pub(crate) fn programs(&self) -> impl Iterator<Item = (&'static Architecture, PathBuf)> {
        let foreign = |architecture: &&Architecture| {
            let platform = Platform::new("linux", architecture.name);
            native::native(&platform) == Native::No
        };
        ARCHITECTURES.iter().filter(foreign).filter_map(|architecture| {
            Some((architecture, find::program(architecture, &self.0.directories).ok()?))
        })
    }

    /// Every platform that is known, in the order in which lists show them: first this machine's.
    pub fn platforms() -> Vec<Platform> {
        let host = Platform::host();
        let variant = |variant: &str| Platform { variant: variant.to_owned(), ..host.clone() };
        let mut all = vec![host.clone()];
        if host.architecture == "amd64" {
            all.extend(native::levels().map(variant));
        }
        for architecture in &ARCHITECTURES {
            let variants: &[&str] = match architecture.name {
                "arm" => &["v7", "v6", "v5"],
                _ => &[""],
            };
            for variant in variants {
                let mut platform = Platform::new("linux", architecture.name);
                platform.variant = (*variant).to_owned();
                if !all.contains(&platform) {
                    all.push(platform);
                }
            }
        }
        all
    }
}

/// Says what a program is for, if it is not for this machine.
pub(crate) fn foreign_architecture(program: &Path) -> Option<&'static str> {
    let own = Platform::host().architecture;
    let found = Architecture::of_program(&header(program).ok()?)?.name;
    (found != own).then_some(found)
}

/// The first bytes of a file, as many as tell its architecture.
pub(crate) fn header(program: &Path) -> std::io::Result<[u8; HEADER]> {
    let mut header = [0; HEADER];
    std::io::Read::read_exact(&mut std::fs::File::open(program)?, &mut header)?;
    Ok(header)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let emulators = Emulators::new(["/nonexistent/a".into(), "/nonexistent/b".into()]);
        let means = |platform: &str| {
            let platform: Platform = platform.parse().expect("a platform");
            match emulators.means(&platform) {
                Ok(means) => format!("{means:?}"),
                Err(missing) => missing.to_string(),
            }
        };
        assert_eq!(means(&Platform::host().to_string()), "Native");
        assert_eq!(means("linux/bogus"), "neither this machine nor QEMU runs such programs");
        assert_eq!(means("windows/arm64"), "neither this machine nor QEMU runs such programs");
        expect!["no QEMU for it: looked for `qemu-s390x-static`, `qemu-s390x`, `buildkit-qemu-s390x` in /nonexistent/a, /nonexistent/b"]
            .assert_eq(&means("linux/s390x"));
        assert_eq!(emulators.programs().count(), 0);
    }

    #[test]
    fn every_known_platform_is_there_once() {
        let all = Emulators::platforms();
        assert_eq!(all[0], Platform::host());
        let unique: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(unique.len(), all.len());
        for name in ["linux/arm64", "linux/arm/v6", "linux/386", "linux/s390x"] {
            let platform = name.parse().expect("a platform");
            assert!(all.contains(&platform), "{name}");
        }
    }
}
