//! What frontends need of the engine.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use cofferdam_llb::{Edge, Graph, Source};
use cofferdam_types::{Digest, Platform};

use super::SourceRange;
use crate::path::TreePath;
use crate::stdio::LogStream;

/// Answers what a frontend asks while it works. One host serves one run.
#[async_trait]
pub trait FrontendHost: Send + Sync {
    /// Looks an image reference up and returns its config for a platform (`None`: the
    /// engine's own). `log_name` is what the progress display calls it.
    ///
    /// # Errors
    /// See [`HostError`].
    async fn resolve_image(
        &self,
        reference: &str,
        platform: Option<Platform>,
        mode: ResolveMode,
        log_name: &str,
    ) -> Result<ResolvedImage, HostError>;

    /// Builds `edge` of the graph, and what it needs. `source` says where ops come from.
    ///
    /// # Errors
    /// See [`HostError`]; a step that failed is [`HostError::BuildFailed`].
    async fn solve(
        &self,
        graph: &Graph,
        source: &Source,
        edge: Edge,
    ) -> Result<Arc<dyn Snapshot>, HostError>;

    /// A named input of the request; `None` is an empty tree.
    ///
    /// # Errors
    /// [`HostError::NotFound`] when the request has no input of this name.
    async fn named_input(&self, name: &str) -> Result<Option<Subgraph>, HostError>;

    /// Has another frontend build a request. `source` names it as a syntax directive does.
    ///
    /// # Errors
    /// See [`HostError`].
    async fn call_frontend(
        &self,
        source: &str,
        options: BTreeMap<String, String>,
    ) -> Result<Option<Subgraph>, HostError>;

    /// Shows the user a warning. `source` has the files that its locations point into.
    fn warn(&self, warning: Warning, source: &Source);

    /// Takes a line that the frontend wrote to its stdout or stderr.
    fn log(&self, stream: LogStream, line: &str);
}

/// A tree that was built. Reads resolve symlinks inside it; no path leads out.
#[async_trait]
pub trait Snapshot: Send + Sync {
    /// Reads up to `max` bytes of a regular file from `offset` on, following symlinks. Fewer
    /// bytes than `max` mean the end of the file.
    ///
    /// # Errors
    /// [`HostError::NotFound`], or [`HostError::Invalid`] when it is not a regular file.
    async fn read_file(&self, path: &TreePath, offset: u64, max: u32)
    -> Result<Vec<u8>, HostError>;

    /// Lists a directory, sorted by name. `pattern` is one for names (Go's `filepath.Match`);
    /// empty: all.
    ///
    /// # Errors
    /// [`HostError::NotFound`], or [`HostError::Invalid`] when it is not a directory.
    async fn read_dir(&self, path: &TreePath, pattern: &str) -> Result<Vec<FileStat>, HostError>;

    /// Looks at a path, without following a symlink at its end.
    ///
    /// # Errors
    /// [`HostError::NotFound`].
    async fn stat_file(&self, path: &TreePath) -> Result<FileStat, HostError>;
}

/// Why the engine has no answer. All but [`HostError::Stop`] are told to the frontend, which
/// may go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// The question was not valid.
    #[error("{0}")]
    Invalid(String),
    /// What was asked for does not exist.
    #[error("{0}")]
    NotFound(String),
    /// The engine does not support or does not allow this.
    #[error("{0}")]
    Unsupported(String),
    /// A build step failed. The engine keeps the details and shows them.
    #[error("{0}")]
    BuildFailed(String),
    /// The engine cannot go on: the frontend is ended, and its caller gets
    /// [`Error::Host`](crate::Error::Host).
    #[error("{0}")]
    Stop(String),
}

/// A result in a graph of its own, which becomes part of the frontend's.
#[derive(Clone, Debug)]
pub struct Subgraph {
    /// A graph that holds at least what `edge` needs.
    pub graph: Graph,
    /// The result.
    pub edge: Edge,
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

/// An image, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedImage {
    /// The reference in full, with the digest left out.
    pub reference: String,
    /// Digest of the manifest or index that the reference names.
    pub digest: Digest,
    /// The image config, as JSON.
    pub config: Vec<u8>,
}

/// A warning that points into source files.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    pub name: Vec<u8>,
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
    pub link_target: Option<Vec<u8>>,
}
