//! Suites over the built binary: each drives `cofferdam` as a user does, against a real registry
//! filled with base images from Debian packages, and looks at what came out with other programs.
//!
//! They need root (RUN steps, umoci, chroot) and the packages that `scripts/setup.sh` installs.
//! One test program, so that the harness is linked once.

mod cancellation;
mod cases;
mod checks;
mod contexts;
mod debug_shell;
mod devices;
mod exports;
mod frontends;
mod gnu_hello;
mod images;
mod limits;
mod mounts;
mod network;
mod oci_runtime;
mod platforms;
mod privileges;
mod progress;
mod rebuild;
mod registry_faults;
mod sandbox;
mod sources;
mod storage;
mod terminal;
mod transfers;
mod trees;
mod wasi;
mod why;
mod wrong_input;

use anyhow::Result;
use cofferdam_tests::{Build, Cofferdam, Context, Registry, Tree, bases};
use tempfile::TempDir;

/// A registry with `busybox:latest`, a `cofferdam` with an empty state directory, and a place for
/// what comes out.
struct World {
    registry: Registry,
    cofferdam: Cofferdam,
    out: TempDir,
}

impl World {
    fn new() -> Result<Self> {
        let registry = Registry::start()?;
        registry.push(&bases::busybox()?, "busybox:latest")?;
        Ok(Self { registry, cofferdam: Cofferdam::new()?, out: tempfile::tempdir()? })
    }

    /// A build of this context; Dockerfiles name the registry as `${REGISTRY}`.
    fn build(&self, context: &Context) -> Build {
        self.cofferdam.build(context.path()).build_arg("REGISTRY", self.registry.address())
    }

    /// Builds, pushes as `name`, pulls with skopeo and returns the image's tree and its config.
    fn image(&self, context: &Context, name: &str) -> Result<(Tree, serde_json::Value)> {
        let reference = self.registry.reference(name);
        let _ = self.build(context).option("-t", &reference).arg("--push").run()?.succeeded();
        let directory = tempfile::tempdir_in(self.out.path())?;
        let layout = self.registry.pull(name, directory.path())?;
        let image = layout.image(&bases::oci_architecture()?)?;
        Ok((Tree::from_image(&layout, &image)?, image.config))
    }

    /// A step's name without what changes from run to run: the port and the digest of an image.
    fn stable(&self, name: &str) -> String {
        let name = name.replace(&self.registry.address().to_string(), "REGISTRY");
        name.split("@sha256:").next().unwrap_or_default().to_owned()
    }
}

/// Seconds since 1970.
fn now() -> Result<i64> {
    let elapsed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(i64::try_from(elapsed.as_secs())?)
}
