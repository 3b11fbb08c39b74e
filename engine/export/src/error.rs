//! What can go wrong in an exporter.

use std::io;
use std::path::{Path, PathBuf};

/// Result of an export.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of an exporter; every message names the object.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] cofferdam_store::Error),
    /// The registry failed or refused.
    #[error(transparent)]
    Registry(#[from] cofferdam_registry::Error),
    /// A file cannot be read or written.
    #[error("{action} `{}`: {source}", path.display())]
    Io {
        /// What was being done, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What an archive is written to does not take it.
    #[error("cannot write the archive: {0}")]
    Output(#[source] io::Error),
    /// A blob that was stored for the export is gone or damaged.
    #[error("the blob {0} is not in the store any more")]
    NoBlob(cofferdam_types::Digest),
    /// A file of the layer or tree cannot be put where it should go.
    #[error("cannot export `/{path}`: {reason}")]
    Entry {
        /// The path in the layer or tree.
        path: String,
        /// Why not.
        reason: String,
    },
    /// A blob of a registry's cannot be compressed anew.
    #[error("layer {digest}: {reason}")]
    Layer {
        /// The blob.
        digest: cofferdam_types::Digest,
        /// Why not.
        reason: String,
    },
    /// An engine on this machine does not take the image.
    #[error("cannot load the image into {into}: {reason}")]
    Load {
        /// Which engine.
        into: String,
        /// Why not.
        reason: String,
    },
    /// There is no engine to load into.
    #[error("found no engine to load the image into; tried {tried}")]
    NothingToLoadInto {
        /// What was tried, and what came of it.
        tried: String,
    },
    /// The image config of a platform cannot be used.
    #[error("image config for {platform}: {reason}")]
    Config {
        /// The platform.
        platform: String,
        /// What is wrong.
        reason: String,
    },
    /// The options contradict each other or the image.
    #[error("{0}")]
    Options(String),
}

/// Adds what was being done, and to what, to an IO error.
pub(crate) trait IoContext<T> {
    /// Names the action and the path.
    fn io(self, action: &'static str, path: impl AsRef<Path>) -> Result<T>;
}

impl<T, E: Into<io::Error>> IoContext<T> for std::result::Result<T, E> {
    fn io(self, action: &'static str, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|source| Error::Io {
            action,
            path: path.as_ref().to_owned(),
            source: source.into(),
        })
    }
}
