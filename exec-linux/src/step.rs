//! What a step is: plain data that the engine fills in and the helper reads. Nothing here is
//! checked; that is [`crate::Runner`]'s task. What the paths hold is the caller's affair.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::emulation::Execution;
use crate::entitlement::Granted;

/// One process to run, with everything it may see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The root file system.
    pub rootfs: Rootfs,
    /// Further mounts, in the order in which they are made; a later one may lie within an earlier.
    pub mounts: Vec<Mount>,
    /// The program and its arguments; a name without a slash is looked up in the step's `PATH`.
    pub args: Vec<String>,
    /// `NAME=value` entries, handed over as they are. A missing `PATH` gets Docker's default, a
    /// missing `HOME` the one that the step's `/etc/passwd` names for the user, else `/`.
    pub env: Vec<String>,
    /// The absolute working directory; created, owned by `user`, where it does not exist.
    pub cwd: String,
    /// Whom the process runs as; see [`crate::lookup_user`].
    pub user: User,
    /// The host name.
    pub hostname: String,
    /// What it has that not every step has.
    #[serde(skip)]
    pub privileges: Granted,
    /// How its programs, and those that they start, are executed.
    #[serde(default)]
    pub execution: Execution,
    /// Whether set-user-id programs and file capabilities give no privilege. BuildKit leaves this
    /// off, and images that call `sudo` in a RUN need it off. Ignored by [`Security::Insecure`].
    pub no_new_privileges: bool,
    /// The content of `/etc/hosts`; the step may write to it, the changes are thrown away.
    /// `None` leaves the root file system's file.
    pub hosts: Option<String>,
    /// The content of `/etc/resolv.conf`; as `hosts`.
    pub resolv_conf: Option<String>,
    /// Resource limits.
    pub limits: Limits,
}

/// Where the root file system comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rootfs {
    /// Layers that are mounted as an overlay; `writable` must be given.
    Overlay(Overlay),
    /// A directory that is used, and changed, as it is.
    Bind {
        /// The directory.
        path: PathBuf,
    },
}

/// Directories that are mounted as one overlay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlay {
    /// The read-only layers, bottom first; none for a scratch image, 500 at most.
    pub lowers: Vec<PathBuf>,
    /// The directory that takes the changes, and overlayfs's work directory: an empty one on the
    /// same file system, that is thrown away afterwards (the mount is `volatile`, which marks it).
    /// Without it the overlay is read-only.
    pub writable: Option<(PathBuf, PathBuf)>,
}

impl Overlay {
    /// All directories that it is made of.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        let writable = self.writable.iter().flat_map(|(upper, work)| [upper, work]);
        self.lowers.iter().chain(writable).map(PathBuf::as_path)
    }
}

/// What is mounted by [`Mount::Bind`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BindSource {
    /// A directory, file or socket of the engine's.
    Path(PathBuf),
    /// The same, but of the machine's, on whatever file system.
    Host(PathBuf),
    /// The union of layers.
    Overlay(Overlay),
}

/// A mount beside the root file system. `dest` is absolute and resolved within the step's root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mount {
    /// A directory or a file.
    Bind {
        /// What is mounted.
        source: BindSource,
        /// A path within the source, resolved as if the source were the root.
        selector: Option<String>,
        /// Where it is mounted.
        dest: String,
        /// Whether the step may not write to it.
        readonly: bool,
        /// What else the step may not do with it.
        restrictions: Restrictions,
    },
    /// An empty file system in memory.
    Tmpfs {
        /// Where it is mounted.
        dest: String,
        /// Its size in bytes; the kernel's default (half of the memory) if not given.
        size: Option<u64>,
    },
    /// A file in memory that is never on disk, as a secret needs.
    File {
        /// Where it is mounted.
        dest: String,
        /// Its content.
        contents: Vec<u8>,
        /// Its permission bits.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
        /// Whether the step may not write to it.
        readonly: bool,
        /// What else the step may not do with it.
        restrictions: Restrictions,
    },
}

impl Mount {
    /// Returns where it is mounted.
    pub fn dest(&self) -> &str {
        match self {
            Self::Bind { dest, .. } | Self::Tmpfs { dest, .. } | Self::File { dest, .. } => dest,
        }
    }
}

/// What the kernel refuses on a mount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restrictions {
    /// Set-user-id bits have no effect.
    pub nosuid: bool,
    /// Device nodes cannot be opened.
    pub nodev: bool,
    /// Nothing can be executed.
    pub noexec: bool,
}

/// Whom a process runs as, in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The user id.
    pub uid: u32,
    /// The primary group id.
    pub gid: u32,
    /// The supplementary group ids.
    pub groups: Vec<u32>,
}

/// Which network a step sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// What [`crate::NetworkConfig`] says: a network of its own, if one can be had.
    #[default]
    Default,
    /// The host's network, asked for by name; needs [`crate::Entitlements::network_host`].
    Host,
    /// A network of its own with nothing but the loopback device.
    None,
}

/// How much a step is confined.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Security {
    /// Docker's default capabilities and seccomp filter, masked `/proc`, read-only `/sys`.
    #[default]
    Sandbox,
    /// All capabilities, no filter; needs [`crate::Entitlements::security_insecure`].
    Insecure,
}

/// Resource limits of all processes of a step together, but `rlimits`, which are those of each.
/// One that the host cannot enforce is an error, never ignored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory, in bytes.
    pub memory: Option<u64>,
    /// Memory and swap together; only with `memory`. Without it there is no swap.
    pub memory_and_swap: Option<Swap>,
    /// The number of processes and threads.
    pub pids: Option<u64>,
    /// The share of a processor that others want, too: 2 to 262144; 1024 is usual.
    pub cpu_shares: Option<u64>,
    /// The processor time in each period, in microseconds.
    pub cpu_quota: Option<u64>,
    /// The period of `cpu_quota`, in microseconds; a tenth of a second if not given.
    pub cpu_period: Option<u64>,
    /// The processors, as a list like `0-2,5` (cpuset(7)).
    pub cpuset_cpus: Option<String>,
    /// The memory nodes, likewise.
    pub cpuset_mems: Option<String>,
    /// What each process may use (getrlimit(2)).
    pub rlimits: Vec<Rlimit>,
}

/// How much swap a step may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Swap {
    /// As much as there is.
    Unlimited,
    /// With the memory so many bytes; not less than the memory.
    Total(u64),
}

/// A limit of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// The resource's name in lower case, without `RLIMIT_`.
    pub name: String,
    /// The limit that is enforced; `u64::MAX` is none.
    pub soft: u64,
    /// How far the process may raise it.
    pub hard: u64,
}
