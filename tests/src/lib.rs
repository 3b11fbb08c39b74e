//! The harness of Cofferdam's whole-program suites.
//!
//! It starts a real registry, makes base images out of Debian packages, drives the built
//! `cofferdam` binary and reads back what came out of it. It knows the command line and the
//! published formats (OCI, `--progress json`) and nothing of the engine's crates: what a user
//! cannot see, these suites do not look at. The suites themselves are in `tests/e2e/`.

pub mod apt;
pub mod bases;
pub mod cofferdam;
pub mod command;
pub mod context;
pub mod docker;
pub mod faults;
pub mod network;
pub mod oci;
mod port;
pub mod progress;
pub mod registry;
pub mod schema;
pub mod terminal;
pub mod tree;
mod twice;
pub mod unpacked;
pub mod web;

/// Whether this test cannot be made because an ordinary user runs it (`scripts/test-as-user.sh`):
/// only root can have what it needs. Says so.
#[must_use]
pub fn needs_root(what: &str) -> bool {
    let user = !rustix::process::geteuid().is_root();
    if user {
        eprintln!("not tested, since it needs root: {what}");
    }
    user
}

/// What the host's own binfmt_misc has registered, seen through a mount of nobody else's. An
/// ordinary user neither sees it nor could change it.
///
/// # Errors
/// There is none.
pub fn binfmt_handlers() -> anyhow::Result<Vec<String>> {
    if needs_root("the host's binfmt_misc") {
        return Ok(Vec::new());
    }
    let place = tempfile::tempdir()?;
    let script = "mount -t binfmt_misc none \"$0\" && ls \"$0\"";
    let mut look = command::command("unshare", ["--mount", "sh", "-ec", script]);
    let listed = command::run(look.arg(place.path()))?;
    anyhow::ensure!(listed.contains("register"), "no binfmt_misc: {listed}");
    Ok(listed.lines().map(str::to_owned).collect())
}

/// Whether this test cannot be made because who runs it can run no steps (`test-as-user.sh --alone`).
/// Says so. Only for tests that would not show why else.
#[must_use]
pub fn needs_steps() -> bool {
    let none = std::env::var_os("COFFERDAM_TEST_ALONE").is_some();
    if none {
        eprintln!("not tested, since a RUN cannot be run here");
    }
    none
}

/// Whom a file belongs to that `--output type=local` writes, where it belongs to somebody in the
/// image: only root can give files away.
#[must_use]
pub fn exported_owner(uid: u32, gid: u32) -> (u32, u32) {
    use rustix::process::{getegid, geteuid};
    match geteuid().is_root() {
        true => (uid, gid),
        false => (geteuid().as_raw(), getegid().as_raw()),
    }
}

pub use cofferdam::{Build, Cofferdam, Outcome, Running};
pub use context::Context;
pub use docker::Docker;
pub use faults::{Fault, FaultyRegistry};
pub use oci::Layout;
pub use port::Port;
pub use registry::Registry;
pub use tree::Tree;
pub use web::{Web, WebAnswer};
