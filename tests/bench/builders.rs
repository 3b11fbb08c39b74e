//! The builders that are measured: ours, and whichever others this machine has. Each is given the
//! same context and the same kind of output, in its own words.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Result;
use cofferdam_tests::{Cofferdam, Context, Registry};
use tempfile::TempDir;

use crate::measure::{self, Cost};

/// What becomes of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// It stays with the builder.
    Nothing,
    /// An OCI archive, its new layers compressed like this: `uncompressed`, `gzip` or `zstd`.
    Archive(&'static str),
}

/// A builder with a state of its own.
pub enum Builder {
    /// The built `cofferdam`: the last of its states is in use. The others stay until the end,
    /// because ext4 makes files slowly for minutes where it has just deleted many.
    Cofferdam(Vec<Cofferdam>),
    /// BuildKit's client, with the daemon that answers it.
    Buildctl,
    /// `buildah`, which needs no daemon and has no OCI runtime here: its steps run by chroot.
    Buildah(TempDir),
}

impl Builder {
    /// Ours, with an empty state.
    ///
    /// # Errors
    /// There is no built program.
    pub fn cofferdam() -> Result<Self> {
        let mut builder = Self::Cofferdam(Vec::new());
        builder.reset()?;
        Ok(builder)
    }

    /// The others on this machine that answer.
    ///
    /// # Errors
    /// No temporary directory can be made.
    pub fn peers() -> Result<Vec<Self>> {
        let answers = |program: &str, arguments: &[&str]| {
            let mut command = Command::new(program);
            command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        };
        let mut peers = Vec::new();
        if answers("buildctl", &["debug", "workers"]) {
            peers.push(Self::Buildctl);
        }
        if answers("buildah", &["version"]) {
            peers.push(Self::Buildah(tempfile::tempdir()?));
        }
        Ok(peers)
    }

    /// What tables call it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Cofferdam(_) => "cofferdam",
            Self::Buildctl => "BuildKit",
            Self::Buildah(_) => "buildah",
        }
    }

    /// Empties its state: no images, no cache. Ours then compiles its components, so that what
    /// is measured is a first build and not the first use of the program.
    ///
    /// # Errors
    /// It cannot be emptied.
    pub fn reset(&mut self) -> Result<()> {
        match self {
            Self::Cofferdam(states) => {
                let cofferdam = Cofferdam::new()?;
                let context = Context::new("FROM scratch\nCOPY Dockerfile /\n")?;
                let mut command = cofferdam.command();
                command.arg("build").arg("--root").arg(cofferdam.root()).arg(context.path());
                measure::run(&mut command, &[])?;
                states.push(cofferdam);
            }
            Self::Buildctl => {
                let mut command = Command::new("buildctl");
                let _ = measure::run(command.args(["prune", "--all"]), &[])?;
            }
            Self::Buildah(home) => *home = tempfile::tempdir()?,
        }
        Ok(())
    }

    /// Builds a context and says what that took.
    ///
    /// # Errors
    /// The build fails.
    pub fn build(&self, registry: &Registry, context: &Path, output: Output) -> Result<Cost> {
        let files = tempfile::tempdir()?;
        let archive = files.path().join("image.tar");
        let registry = format!("REGISTRY={}", registry.address());
        let target = |compression: &str| {
            format!("type=oci,dest={},compression={compression}", archive.display())
        };
        match self {
            Self::Cofferdam(states) => {
                let cofferdam = states.last().expect("`reset` made one");
                let mut command = cofferdam.command();
                // Not `quiet`: it prints the digest of the image, which has to be made for that.
                command.args(["build", "--progress", "plain", "--build-arg", &registry, "--root"]);
                command.arg(cofferdam.root()).arg(context);
                if let Output::Archive(compression) = output {
                    command.arg("--output").arg(target(compression));
                }
                measure::run(&mut command, &[])
            }
            Self::Buildctl => {
                let mut command = Command::new("buildctl");
                command.args(["build", "--progress", "plain", "--frontend", "dockerfile.v0"]);
                command.arg("--opt").arg(format!("build-arg:{registry}"));
                for name in ["context", "dockerfile"] {
                    command.arg("--local").arg(format!("{name}={}", context.display()));
                }
                if let Output::Archive(compression) = output {
                    command.arg("--output").arg(target(compression));
                }
                measure::run(&mut command, &measure::processes("buildkitd"))
            }
            Self::Buildah(home) => {
                let storage = Storage(home.path().to_owned());
                let mut command = storage.buildah("build");
                command.args([
                    "--layers",
                    "--isolation",
                    "chroot",
                    "--tls-verify=false",
                    "--quiet",
                ]);
                command.args(["--build-arg", &registry, "--tag", "measured"]).arg(context);
                let built = measure::run(&mut command, &[])?;
                let Output::Archive(compression) = output else { return Ok(built) };
                let mut command = storage.buildah("push");
                match compression {
                    "uncompressed" => command.arg("--disable-compression"),
                    format => command.args(["--compression-format", format]),
                };
                command.arg("measured").arg(format!("oci-archive:{}", archive.display()));
                Ok(built.and_then(measure::run(&mut command, &[])?))
            }
        }
    }
}

/// Where a `buildah` of ours keeps everything: not where the user's does.
struct Storage(PathBuf);

impl Storage {
    fn buildah(&self, action: &str) -> Command {
        let mut command = Command::new("buildah");
        command.arg("--root").arg(self.0.join("root"));
        command.arg("--runroot").arg(self.0.join("run"));
        // The same everywhere, whatever `storage.conf` says.
        command.args(["--storage-driver", "overlay", action]);
        command
    }
}
