//! Ops as plain data. Shapes and meanings are those of the WIT package `cofferdam:llb`;
//! `O` is the host's output handle.

/// What a person sees of an op, and how it is treated; no field is part of the digest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpMetadata {
    /// Name in the progress display; `None` lets the host make one up.
    pub name: Option<String>,
    /// Run even if a cache record exists.
    pub ignore_cache: bool,
    /// Any further description.
    pub description: Vec<(String, String)>,
    /// Where in the source files the op comes from.
    pub locations: Vec<SourceRange>,
}

impl OpMetadata {
    /// Metadata with nothing but a name.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: Some(name.into()), ..Self::default() }
    }
}

/// A place in a source file: lines, or a part of them. Lines and columns are counted from 1, both
/// ends included; columns are characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceRange {
    /// What [`crate::Host::add_source`] returned.
    pub source: u32,
    /// First line.
    pub start_line: u32,
    /// Last line.
    pub end_line: u32,
    /// First column in the first line; 0: the whole lines are meant.
    pub start_column: u32,
    /// Last column in the last line; 0: to the end of the line.
    pub end_column: u32,
}

impl SourceRange {
    /// Whole lines.
    pub fn lines(source: u32, start_line: u32, end_line: u32) -> Self {
        Self { source, start_line, end_line, start_column: 0, end_column: 0 }
    }
}

/// A user or group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// By number.
    Id(u32),
    /// By name, looked up in the tree that the op works on; an unknown name means 0.
    Name(String),
}

/// Who a file made by a file action belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ownership {
    /// The user.
    pub user: Option<Principal>,
    /// The group.
    pub group: Option<Principal>,
}

/// Which network an exec op sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NetworkMode {
    /// The sandbox's default network.
    #[default]
    Default,
    /// The host's network; needs the entitlement `network.host`.
    Host,
    /// Loopback only.
    None,
}

/// How far an exec op is confined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SecurityMode {
    /// The full sandbox.
    #[default]
    Sandbox,
    /// No confinement; needs the entitlement `security.insecure`.
    Insecure,
}

/// How concurrent users of a cache mount share it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheSharing {
    /// Any number of users at the same time.
    #[default]
    Shared,
    /// A second user gets a directory of its own.
    Private,
    /// A second user waits.
    Locked,
}

/// A secret as an environment variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretEnv {
    /// The secret's id.
    pub id: String,
    /// The variable's name.
    pub name: String,
    /// Without the secret the variable is not set, instead of an error.
    pub optional: bool,
}

/// A CDI device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Fully qualified CDI name.
    pub name: String,
    /// An unknown device is skipped, instead of an error.
    pub optional: bool,
}

/// A line for the step's `/etc/hosts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtraHost {
    /// Host name.
    pub host: String,
    /// Address.
    pub ip: String,
}

/// A resource limit, as in `setrlimit`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ulimit {
    /// Name in lower case without `RLIMIT_`.
    pub name: String,
    /// Soft limit.
    pub soft: i64,
    /// Hard limit.
    pub hard: i64,
}

/// Proxy variables: visible to the step, in no cache key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyEnv {
    /// `HTTP_PROXY`
    pub http: String,
    /// `HTTPS_PROXY`
    pub https: String,
    /// `FTP_PROXY`
    pub ftp: String,
    /// `NO_PROXY`
    pub no_proxy: String,
    /// `ALL_PROXY`
    pub all: String,
}

/// The process of an exec op.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Program and arguments.
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Working directory, absolute.
    pub cwd: String,
    /// `user[:group]`; empty is root.
    pub user: String,
    /// Host name; empty is the default.
    pub hostname: String,
    /// Proxy variables.
    pub proxy: Option<ProxyEnv>,
    /// Lines for `/etc/hosts`.
    pub extra_hosts: Vec<ExtraHost>,
    /// Resource limits.
    pub ulimits: Vec<Ulimit>,
    /// Parent cgroup; empty is the default.
    pub cgroup_parent: String,
    /// Also remove parent directories that were made for mount points.
    pub remove_mount_stubs_recursive: bool,
    /// Exit codes that mean success; empty means only 0.
    pub valid_exit_codes: Vec<i32>,
}

/// Details of a bind mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BindMount {
    /// Path inside the source; empty is `/`.
    pub selector: String,
    /// Writes are refused.
    pub readonly: bool,
    /// Whether what the step writes here is an output of the op.
    pub has_output: bool,
}

/// Details of a cache mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheMount {
    /// Names the directory.
    pub id: String,
    /// Path inside the source that a new directory starts from.
    pub selector: String,
    /// What happens with a second user at the same time.
    pub sharing: CacheSharing,
    /// Writes are refused.
    pub readonly: bool,
}

/// Details of a secret or ssh mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretMount {
    /// The secret's or agent's id.
    pub id: String,
    /// Owner of the file.
    pub uid: u32,
    /// Group of the file.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
    /// Without it the mount is left out, instead of an error.
    pub optional: bool,
}

/// What a mount of an exec op shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountKind {
    /// A tree.
    Bind(BindMount),
    /// A directory that outlives the build.
    Cache(CacheMount),
    /// An empty directory in memory, of that many bytes at most; 0 is without limit.
    Tmpfs(u64),
    /// A secret as a file.
    Secret(SecretMount),
    /// An ssh agent's socket.
    Ssh(SecretMount),
}

/// A mount of an exec op.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount<O> {
    /// Absolute path in the step.
    pub dest: String,
    /// The tree that it shows or starts from; `None` is an empty one.
    pub source: Option<O>,
    /// What it shows.
    pub kind: MountKind,
}

impl<O> Mount<O> {
    /// The root mount: writable, and what is written is the op's output.
    pub fn root(source: Option<O>) -> Self {
        let bind = BindMount { has_output: true, ..BindMount::default() };
        Self { dest: "/".into(), source, kind: MountKind::Bind(bind) }
    }
}

/// A process to run. One mount must have the destination `/`.
#[derive(Clone, Debug)]
pub struct ExecOp<O> {
    /// The process.
    pub process: Process,
    /// Mounts, in any order.
    pub mounts: Vec<Mount<O>>,
    /// Network.
    pub network: NetworkMode,
    /// Confinement.
    pub security: SecurityMode,
    /// Secrets in the environment.
    pub secret_env: Vec<SecretEnv>,
    /// Devices.
    pub devices: Vec<Device>,
}

/// What an action of a file op works on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActionInput<O> {
    /// An empty tree.
    Scratch,
    /// The result of another op.
    Output(O),
    /// The result of an earlier action of the same op, counted from 0.
    Action(u32),
}

impl<O> From<Option<O>> for ActionInput<O> {
    fn from(output: Option<O>) -> Self {
        output.map_or(Self::Scratch, Self::Output)
    }
}

/// Copies from another tree.
#[derive(Clone, Debug)]
pub struct CopyAction<O> {
    /// The tree that `src` is in.
    pub from: ActionInput<O>,
    /// Path in that tree.
    pub src: String,
    /// Destination; with a slash at the end it is a directory.
    pub dest: String,
    /// New owner; `None` keeps it.
    pub owner: Option<Ownership>,
    /// New permission bits; `None` keeps them.
    pub mode: Option<u32>,
    /// New permission bits in `chmod`'s symbolic form; empty: none.
    pub mode_string: String,
    /// Follow a symlink that `src` ends in.
    pub follow_symlink: bool,
    /// Of a directory copy the contents.
    pub dir_copy_contents: bool,
    /// Unpack `src` if it is an archive.
    pub attempt_unpack: bool,
    /// Make missing parents of `dest`.
    pub create_dest_path: bool,
    /// Whether `src` may have wildcards.
    pub allow_wildcard: bool,
    /// Whether a pattern may match nothing.
    pub allow_empty_wildcard: bool,
    /// Modification time in nanoseconds since 1970; `None` keeps it.
    pub timestamp: Option<i64>,
    /// Only paths that match one of these; empty: all.
    pub include_patterns: Vec<String>,
    /// No paths that match one of these.
    pub exclude_patterns: Vec<String>,
    /// Replace what is in the way at the destination.
    pub always_replace_existing: bool,
    /// Paths that must exist in the source.
    pub required_paths: Vec<String>,
}

impl<O> CopyAction<O> {
    /// A plain copy: no option set, everything kept.
    pub fn new(
        from: impl Into<ActionInput<O>>,
        src: impl Into<String>,
        dest: impl Into<String>,
    ) -> Self {
        Self {
            from: from.into(),
            src: src.into(),
            dest: dest.into(),
            owner: None,
            mode: None,
            mode_string: String::new(),
            follow_symlink: false,
            dir_copy_contents: false,
            attempt_unpack: false,
            create_dest_path: false,
            allow_wildcard: false,
            allow_empty_wildcard: false,
            timestamp: None,
            include_patterns: Vec::new(),
            exclude_patterns: Vec::new(),
            always_replace_existing: false,
            required_paths: Vec::new(),
        }
    }
}

/// Writes a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MkfileAction {
    /// Absolute path.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Contents.
    pub data: Vec<u8>,
    /// Owner; `None` is root.
    pub owner: Option<Ownership>,
    /// Modification time in nanoseconds since 1970; `None` is the time of the build.
    pub timestamp: Option<i64>,
}

/// Makes a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MkdirAction {
    /// Absolute path.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Make missing parents, too.
    pub make_parents: bool,
    /// Owner; `None` is root.
    pub owner: Option<Ownership>,
    /// Modification time in nanoseconds since 1970; `None` is the time of the build.
    pub timestamp: Option<i64>,
}

/// Removes a file or a directory with all that is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RmAction {
    /// Absolute path.
    pub path: String,
    /// A path that does not exist is right.
    pub allow_not_found: bool,
    /// Whether `path` is a pattern.
    pub allow_wildcard: bool,
}

/// Makes a symlink.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SymlinkAction {
    /// What the link says.
    pub oldpath: String,
    /// Where the link is.
    pub newpath: String,
    /// Owner; `None` is root.
    pub owner: Option<Ownership>,
    /// Modification time in nanoseconds since 1970; `None` is the time of the build.
    pub timestamp: Option<i64>,
}

/// What an action does.
#[derive(Clone, Debug)]
pub enum ActionKind<O> {
    /// Copies.
    Copy(CopyAction<O>),
    /// Writes a file.
    Mkfile(MkfileAction),
    /// Makes a directory.
    Mkdir(MkdirAction),
    /// Removes.
    Rm(RmAction),
    /// Makes a symlink.
    Symlink(SymlinkAction),
}

/// One step of a file op.
#[derive(Clone, Debug)]
pub struct FileAction<O> {
    /// The tree that is changed.
    pub input: ActionInput<O>,
    /// How.
    pub kind: ActionKind<O>,
    /// Whether the result is an output of the op.
    pub has_output: bool,
}

impl<O> FileAction<O> {
    /// An action whose result is an output of the op.
    pub fn new(input: ActionInput<O>, kind: ActionKind<O>) -> Self {
        Self { input, kind, has_output: true }
    }

    /// An action whose result only later actions of the op see.
    pub fn intermediate(input: ActionInput<O>, kind: ActionKind<O>) -> Self {
        Self { input, kind, has_output: false }
    }
}
