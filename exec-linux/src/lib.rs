//! One process in one sandbox: namespaces, mounts, capabilities, seccomp, cgroups.
//!
//! **Invariant:** this crate never knows the solver, LLB or the store. It gets a [`Step`] of plain
//! data with the privileges that it was [`Granted`], and gives back its output and [`Exit`].
//!
//! # Process model
//!
//! The engine is large and has many threads, so it must not fork: it *spawns* its own program with
//! `argv[0]` = [`HELPER_ARGV0`]. The first thing the program's `main` does is to call
//! [`sandbox_entry`], which then never returns.
//!
//! ```text
//! engine ──spawn──▶ helper (single-threaded, host's pid namespace)
//!    ◀─ socket ─▶     │  waits for a step, makes the cgroup, the mount namespace and all mounts
//!                     ├─clone─▶ pid 1 of the step: /proc, credentials, seccomp, exec
//!                     │  waits; the socket's end means "kill the step"
//!                     └  leaves the mount namespace, removes mount stubs and the cgroup, reports
//! ```
//!
//! While a step runs, the helper of the next one is started. Where the time of a step goes, and
//! what was done about it, is told in `docs/design/exec-start-up.md`.
//!
//! A step's standard output and error are the helper's, two pipes. What it reads is made by the
//! helper, a pipe or a pseudo-terminal of the step's own `/dev/pts`, whose other end is sent to
//! the engine over the socket ([`Input`]).
//!
//! Pid 1 runs in a user namespace that all steps of a runner share ([`UserNamespace`]); all else
//! around it (mounts, host name, the pid namespace) belongs to the engine's, so that a step's root
//! has no say in it.
//!
//! The network namespace is made by the engine, ahead, and lent with the order ([`Networks`]).
//!
//! There is no init process: as under BuildKit the step itself is pid 1, so it ignores signals it
//! has no handler for, and when it ends the kernel kills and reaps all that it left behind.
//!
//! All mounts live in the step's mount namespace only. Whatever is killed, nothing stays mounted
//! on the host.

mod cdi;
mod cgroup;
mod check;
mod emulation;
mod entitlement;
mod error;
mod network;
mod rlimits;
pub mod rootless;
mod runner;
mod sandbox;
mod seal;
mod seccomp;
mod step;
mod streams;
mod user;
mod user_namespace;
mod wire;

pub use cdi::{CdiConfig, CdiProblem, Device, DeviceRegistry, DeviceRequest, Edits, Node};
pub use check::Invalid;
pub use emulation::{Emulator, Emulators, Execution, Means, Missing, Rejected};
pub use entitlement::{Denied, DeviceGrants, Entitlements, Given, Granted, Privileges};
pub use error::Error;
pub use network::{
    Chosen, Imitator, Namespace, NetworkConfig, NetworkKind, NetworkMode, Networks,
    ParseSubnetError, Subnet, host_address,
};
pub use runner::{Config, Exit, Runner};
pub use sandbox::{HELPER_ARGV0, sandbox_entry};
pub use step::{
    BindSource, Limits, Mount, Network, Overlay, Restrictions, Rlimit, Rootfs, Security, Step,
    Swap, User,
};
pub use streams::{Input, Stream, Streams, TerminalEvent, TerminalSize};
pub use user::{UserError, lookup_user};
pub use user_namespace::{HOST_ROOT, NoUserNamespace, UserNamespace, host_id};
