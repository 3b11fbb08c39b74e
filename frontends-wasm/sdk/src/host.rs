//! The host as a frontend sees it: makes ops, builds them, reads from results, looks up images.

use crate::{ExecOp, FileAction, OpMetadata, Platform, SourceRange};

/// Why the host did not make an op or could not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// The call was not valid.
    #[error("{0}")]
    Invalid(String),
    /// Something that was asked for does not exist.
    #[error("{0}")]
    NotFound(String),
    /// The host does not support or not allow this.
    #[error("{0}")]
    Unsupported(String),
    /// A build step that had to run failed.
    #[error("{0}")]
    BuildFailed(String),
}

/// What a frontend can ask of the engine. Every method that makes an op only describes it;
/// nothing runs before [`Host::solve`] or the end of the request.
pub trait Host {
    /// A handle to one output of one op: a file tree.
    type Output: Clone;
    /// A tree that was built.
    type Snapshot: Snapshot;

    /// Makes a source op.
    ///
    /// # Errors
    /// When the identifier or an attribute is not valid.
    fn source(
        &self,
        identifier: &str,
        attributes: &[(String, String)],
        platform: Option<&Platform>,
        metadata: &OpMetadata,
    ) -> Result<Self::Output, HostError>;

    /// Makes an exec op; one output for each bind mount with `has_output`, in the call's order.
    ///
    /// # Errors
    /// When the op is not valid or asks for what is not allowed.
    fn exec(
        &self,
        op: &ExecOp<Self::Output>,
        platform: Option<&Platform>,
        metadata: &OpMetadata,
    ) -> Result<Vec<Self::Output>, HostError>;

    /// Makes a file op; one output for each action with `has_output`, in order.
    ///
    /// # Errors
    /// When an action is not valid.
    fn file(
        &self,
        actions: &[FileAction<Self::Output>],
        metadata: &OpMetadata,
    ) -> Result<Vec<Self::Output>, HostError>;

    /// Lays trees over each other, the last on top; `None` is an empty tree.
    ///
    /// # Errors
    /// When the host refuses the op.
    fn merge(
        &self,
        inputs: &[Self::Output],
        metadata: &OpMetadata,
    ) -> Result<Option<Self::Output>, HostError>;

    /// What `upper` has that `lower` has not; `None` is an empty tree.
    ///
    /// # Errors
    /// When the host refuses the op.
    fn diff(
        &self,
        lower: Option<&Self::Output>,
        upper: Option<&Self::Output>,
        metadata: &OpMetadata,
    ) -> Result<Option<Self::Output>, HostError>;

    /// Takes a graph made by an LLB library: serialised `pb.Op` messages, the last of which
    /// names the output. `None` is an empty tree.
    ///
    /// # Errors
    /// When a message is not a valid op.
    #[expect(clippy::wrong_self_convention, reason = "the name is that of the WIT function")]
    fn from_definition(&self, definition: &[Vec<u8>]) -> Result<Option<Self::Output>, HostError>;

    /// Registers a source file; returns the number for [`SourceRange::source`].
    fn add_source(&self, filename: &str, language: &str, data: &[u8]) -> u32;

    /// Builds an output now, to read from it.
    ///
    /// # Errors
    /// When a step fails.
    fn solve(&self, output: &Self::Output) -> Result<Self::Snapshot, HostError>;

    /// Looks up an image and returns its config for a platform.
    ///
    /// # Errors
    /// When there is no such image, or it cannot be had.
    fn resolve_image(
        &self,
        reference: &str,
        platform: Option<&Platform>,
        mode: ResolveMode,
        log_name: &str,
    ) -> Result<ResolvedImage, HostError>;

    /// Shows the user a warning.
    fn warn(&self, warning: &Warning);

    /// A named input of the request.
    ///
    /// # Errors
    /// When the input cannot be had.
    fn named_input(&self, name: &str) -> Result<Option<Self::Output>, HostError>;

    /// Has another frontend build a request; `source` names it as a syntax directive does.
    ///
    /// # Errors
    /// What the other frontend says.
    fn call_frontend(
        &self,
        source: &str,
        options: &[(String, String)],
    ) -> Result<Option<Self::Output>, HostError>;
}

/// A tree that was built; reads stay inside it.
pub trait Snapshot {
    /// Reads a whole file, following symlinks.
    ///
    /// # Errors
    /// [`HostError::NotFound`] when there is no such file.
    fn read_file(&self, path: &str) -> Result<Vec<u8>, HostError>;

    /// Reads the beginning of a file, following symlinks: at most `limit` bytes.
    ///
    /// # Errors
    /// [`HostError::NotFound`] when there is no such file.
    fn read_start(&self, path: &str, limit: u32) -> Result<Vec<u8>, HostError> {
        let mut data = self.read_file(path)?;
        data.truncate(limit as usize);
        Ok(data)
    }

    /// Lists a directory, sorted by name; `pattern` is one for names, empty is all.
    ///
    /// # Errors
    /// [`HostError::NotFound`] when there is no such directory.
    fn read_dir(&self, path: &str, pattern: &str) -> Result<Vec<FileStat>, HostError>;

    /// Looks at a path, without following a symlink at its end.
    ///
    /// # Errors
    /// [`HostError::NotFound`] when nothing is there.
    fn stat_file(&self, path: &str) -> Result<FileStat, HostError>;
}

/// What kind of thing a path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// Regular file.
    Regular,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Character device.
    CharacterDevice,
    /// Block device.
    BlockDevice,
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
}

/// Metadata of one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileStat {
    /// Base name.
    pub name: String,
    /// Kind.
    pub kind: FileKind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Modification time in nanoseconds since 1970.
    pub mtime: i64,
    /// What a symlink says.
    pub link_target: Option<String>,
}

/// How an image reference is looked up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResolveMode {
    /// What the engine prefers.
    #[default]
    Default,
    /// Ask the registry.
    Pull,
    /// Prefer what the store has.
    Local,
}

/// An image that was looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedImage {
    /// The reference in full, without a digest.
    pub reference: String,
    /// Digest of the manifest or index that the reference names.
    pub digest: String,
    /// The image config, JSON.
    pub config: Vec<u8>,
}

/// A warning that points into source files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Warning {
    /// One line.
    pub short: String,
    /// Further lines.
    pub detail: Vec<String>,
    /// Where to read more; may be empty.
    pub url: String,
    /// Where it is about.
    pub locations: Vec<SourceRange>,
}
