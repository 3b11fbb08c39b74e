//! The op that runs a process: its settings and its mounts.
//!
//! What a mode or an option asks of the host is decided elsewhere; here it is only typed.

use crate::codec::{
    Check, Checked, Each, Flag, Index, Int32, Int64, Maybe, Nested, OneOfValues, Packed, Size,
    Text, Uint32,
};
use crate::message::{choice, message};
use crate::{Error, Problem};

message! {
    /// Runs a process on a root file system and further mounts.
    pub struct ExecOp, Refuse {
        /// The process.
        pub meta: Meta = 1 => Nested<Meta>, "meta";
        /// The file systems; outputs of the op are bind mounts with an output number.
        pub mounts: Vec<Mount> = 2 => Each<Checked<MountWire, Mount>>, "mounts";
        /// The network that the process sees.
        pub network: NetMode = 3 => OneOfValues<NetMode>, "network";
        /// The privileges that the process has.
        pub security: SecurityMode = 4 => OneOfValues<SecurityMode>, "security";
        /// Environment variables whose values are secrets.
        pub secret_env: Vec<SecretEnv> = 5 => Each<Nested<SecretEnv>>, "secretenv";
        /// Devices, by their names in the Container Device Interface.
        pub cdi_devices: Vec<CdiDevice> = 6 => Each<Nested<CdiDevice>>, "cdiDevices";
    }
}

message! {
    /// A process: command line, environment, identity and limits.
    #[derive(Default)]
    pub struct Meta, Refuse {
        /// The program and its arguments; never empty in a valid op.
        pub args: Vec<String> = 1 => Each<Text>, "args";
        /// `NAME=value` pairs.
        pub env: Vec<String> = 2 => Each<Text>, "env";
        /// The working directory; never empty in a valid op.
        pub cwd: String = 3 => Text, "cwd";
        /// `user[:group]`, names or numbers; empty is root.
        pub user: String = 4 => Text, "user";
        /// Proxy settings, which are no part of the cache key.
        pub proxy_env: Option<ProxyEnv> = 5 => Maybe<Nested<ProxyEnv>>, "proxy_env";
        /// Lines for `/etc/hosts`.
        pub extra_hosts: Vec<HostIp> = 6 => Each<Nested<HostIp>>, "extraHosts";
        /// The host name; empty is the engine's choice.
        pub hostname: String = 7 => Text, "hostname";
        /// Resource limits.
        pub ulimits: Vec<Ulimit> = 9 => Each<Nested<Ulimit>>, "ulimit";
        /// The cgroup below which to run.
        pub cgroup_parent: String = 10 => Text, "cgroupParent";
        /// Whether mount points that the mounts made are removed with their parents.
        pub remove_mount_stubs_recursive: bool = 11 => Flag, "removeMountStubsRecursive";
        /// The exit codes that mean success; empty is 0 only.
        pub valid_exit_codes: Vec<i32> = 12 => Packed<Int32>, "validExitCodes";
    }
}

message! {
    /// Proxy settings, given to the process in upper and lower case variables.
    #[derive(Default)]
    pub struct ProxyEnv, Refuse {
        /// `HTTP_PROXY`
        pub http_proxy: String = 1 => Text, "http_proxy";
        /// `HTTPS_PROXY`
        pub https_proxy: String = 2 => Text, "https_proxy";
        /// `FTP_PROXY`
        pub ftp_proxy: String = 3 => Text, "ftp_proxy";
        /// `NO_PROXY`
        pub no_proxy: String = 4 => Text, "no_proxy";
        /// `ALL_PROXY`
        pub all_proxy: String = 5 => Text, "all_proxy";
    }
}

message! {
    /// A line of `/etc/hosts`.
    pub struct HostIp, Refuse {
        /// The name.
        pub host: String = 1 => Text, "Host";
        /// The address in text form; no part of the cache key.
        pub ip: String = 2 => Text, "IP";
    }
}

message! {
    /// A resource limit (`setrlimit`).
    pub struct Ulimit, Refuse {
        /// The name without `RLIMIT_`, like `nofile`.
        pub name: String = 1 => Text, "Name";
        /// The soft limit; −1 is none.
        pub soft: i64 = 2 => Int64, "Soft";
        /// The hard limit; −1 is none.
        pub hard: i64 = 3 => Int64, "Hard";
    }
}

message! {
    /// An environment variable that holds a secret.
    pub struct SecretEnv, Refuse {
        /// The secret's id.
        pub id: String = 1 => Text, "ID";
        /// The variable's name.
        pub name: String = 2 => Text, "name";
        /// Whether the variable is left unset if the client has no such secret.
        pub optional: bool = 3 => Flag, "optional";
    }
}

message! {
    /// A device of the Container Device Interface.
    pub struct CdiDevice, Refuse {
        /// `vendor/class=device`
        pub name: String = 1 => Text, "name";
        /// Whether the step runs without the device if there is none.
        pub optional: bool = 2 => Flag, "optional";
    }
}

choice! {
    /// The network that a process sees.
    pub enum NetMode {
        /// A network of its own, from which the outside can be reached.
        Sandbox,
        /// The host's network; needs the entitlement `network.host`.
        Host,
        /// Nothing but loopback.
        None,
    }
}

choice! {
    /// The privileges of a process.
    pub enum SecurityMode {
        /// The engine's sandbox.
        Sandbox,
        /// All privileges; needs the entitlement `security.insecure`.
        Insecure,
    }
}

choice! {
    /// Whether the cache key of an op depends on what a mount contains, not on how it was made.
    pub enum ContentCache {
        /// Where it is cheap and correct.
        Default,
        /// Yes.
        On,
        /// No.
        Off,
    }
}

choice! {
    /// Who may use a cache directory at the same time.
    pub enum CacheSharing {
        /// Everybody.
        Shared,
        /// Everybody, each with a directory of their own.
        Private,
        /// One after the other.
        Locked,
    }
}

/// One file system in the sandbox of an [`ExecOp`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The op's input that is mounted; none is an empty directory.
    pub input: Option<u32>,
    /// The path inside the input that is mounted; empty is its root.
    pub selector: String,
    /// Where it is mounted; `/` is the root file system.
    pub dest: String,
    /// The op's output that the result becomes. Means something for bind mounts only; clients
    /// leave 0 in secret and ssh mounts.
    pub output: Option<u32>,
    /// Whether the process cannot write to it.
    pub readonly: bool,
    /// What kind of mount it is.
    pub kind: MountKind,
    /// A result of the gateway; of use outside of graphs only.
    pub result_id: String,
    /// How the contents enter the cache key.
    pub content_cache: ContentCache,
}

/// The kinds of [`Mount`] and their options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountKind {
    /// An input, or an empty directory; the only kind that can become an output.
    Bind,
    /// A file with a secret.
    Secret(SecretOpt),
    /// A socket to the client's ssh agent.
    Ssh(SshOpt),
    /// A directory that stays for later builds.
    Cache(CacheOpt),
    /// A directory in memory.
    Tmpfs(Option<TmpfsOpt>),
}

impl Mount {
    /// Whether the mount's result is an output of the op.
    pub fn is_output(&self) -> bool {
        self.kind == MountKind::Bind && self.output.is_some()
    }
}

impl ExecOp {
    /// The mounts whose results are outputs, in the order of the outputs.
    pub fn output_mounts(&self) -> impl Iterator<Item = &Mount> {
        self.mounts.iter().filter(|mount| mount.is_output())
    }
}

message! {
    /// Options of a tmpfs mount.
    pub struct TmpfsOpt, Refuse {
        /// Bytes; 0 is no limit.
        pub size: u64 = 1 => Size, "size";
    }
}

message! {
    /// Options of a cache mount.
    pub struct CacheOpt, Refuse {
        /// Names the directory.
        pub id: String = 1 => Text, "ID";
        /// Who may use it at the same time.
        pub sharing: CacheSharing = 2 => OneOfValues<CacheSharing>, "sharing";
    }
}

message! {
    /// Options of a secret mount.
    pub struct SecretOpt, Refuse {
        /// The secret's id.
        pub id: String = 1 => Text, "ID";
        /// The owner of the file.
        pub uid: u32 = 2 => Uint32, "uid";
        /// The group of the file.
        pub gid: u32 = 3 => Uint32, "gid";
        /// The mode of the file.
        pub mode: u32 = 4 => Uint32, "mode";
        /// Whether the file is left out if the client has no such secret.
        pub optional: bool = 5 => Flag, "optional";
    }
}

message! {
    /// Options of an ssh mount.
    pub struct SshOpt, Refuse {
        /// The agent's id; empty is the default one.
        pub id: String = 1 => Text, "ID";
        /// The owner of the socket.
        pub uid: u32 = 2 => Uint32, "uid";
        /// The group of the socket.
        pub gid: u32 = 3 => Uint32, "gid";
        /// The mode of the socket.
        pub mode: u32 = 4 => Uint32, "mode";
        /// Whether the socket is left out if the client has no such agent.
        pub optional: bool = 5 => Flag, "optional";
    }
}

choice! {
    /// The number of a mount's kind on the wire.
    pub(crate) enum MountType {
        Bind,
        Secret,
        Ssh,
        Cache,
        Tmpfs,
    }
}

message! {
    /// A mount on the wire, where any kind can come with any options.
    pub(crate) struct MountWire, Refuse {
        input: Option<u32> = 1 => Index, "input";
        selector: String = 2 => Text, "selector";
        dest: String = 3 => Text, "dest";
        output: Option<u32> = 4 => Index, "output";
        readonly: bool = 5 => Flag, "readonly";
        mount_type: MountType = 6 => OneOfValues<MountType>, "mountType";
        tmpfs: Option<TmpfsOpt> = 19 => Maybe<Nested<TmpfsOpt>>, "TmpfsOpt";
        cache: Option<CacheOpt> = 20 => Maybe<Nested<CacheOpt>>, "cacheOpt";
        secret: Option<SecretOpt> = 21 => Maybe<Nested<SecretOpt>>, "secretOpt";
        ssh: Option<SshOpt> = 22 => Maybe<Nested<SshOpt>>, "SSHOpt";
        result_id: String = 23 => Text, "resultID";
        content_cache: ContentCache = 24 => OneOfValues<ContentCache>, "contentCache";
    }
}

impl Check<MountWire> for Mount {
    fn check(wire: MountWire) -> Result<Self, Error> {
        let kind = match (wire.mount_type, wire.tmpfs, wire.cache, wire.secret, wire.ssh) {
            (MountType::Bind, None, None, None, None) => MountKind::Bind,
            (MountType::Tmpfs, opt, None, None, None) => MountKind::Tmpfs(opt),
            (MountType::Cache, None, Some(opt), None, None) => MountKind::Cache(opt),
            (MountType::Secret, None, None, Some(opt), None) => MountKind::Secret(opt),
            (MountType::Ssh, None, None, None, Some(opt)) => MountKind::Ssh(opt),
            (kind, ..) => {
                let expected = match kind {
                    MountType::Bind => "expected no options with a bind mount",
                    MountType::Tmpfs => "expected no other options with a tmpfs mount",
                    MountType::Cache => "expected cacheOpt alone with a cache mount",
                    MountType::Secret => "expected secretOpt alone with a secret mount",
                    MountType::Ssh => "expected SSHOpt alone with an ssh mount",
                };
                return Err(Problem::Mismatch(expected).into());
            }
        };
        Ok(Self {
            input: wire.input,
            selector: wire.selector,
            dest: wire.dest,
            output: wire.output,
            readonly: wire.readonly,
            kind,
            result_id: wire.result_id,
            content_cache: wire.content_cache,
        })
    }

    fn wire(&self) -> MountWire {
        let mut wire = MountWire {
            input: self.input,
            selector: self.selector.clone(),
            dest: self.dest.clone(),
            output: self.output,
            readonly: self.readonly,
            mount_type: MountType::Bind,
            tmpfs: None,
            cache: None,
            secret: None,
            ssh: None,
            result_id: self.result_id.clone(),
            content_cache: self.content_cache,
        };
        match self.kind.clone() {
            MountKind::Bind => {}
            MountKind::Tmpfs(opt) => (wire.mount_type, wire.tmpfs) = (MountType::Tmpfs, opt),
            MountKind::Cache(opt) => (wire.mount_type, wire.cache) = (MountType::Cache, Some(opt)),
            MountKind::Secret(opt) => {
                (wire.mount_type, wire.secret) = (MountType::Secret, Some(opt));
            }
            MountKind::Ssh(opt) => (wire.mount_type, wire.ssh) = (MountType::Ssh, Some(opt)),
        }
        wire
    }
}
