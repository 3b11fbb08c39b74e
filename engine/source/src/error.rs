//! What can go wrong with a source.

use std::io;
use std::path::PathBuf;

/// Result of a source operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a source; every message names the object.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] cofferdam_store::Error),
    /// The registry failed, or gave something wrong.
    #[error(transparent)]
    Registry(#[from] cofferdam_registry::Error),
    /// A file of a local directory or layout cannot be read.
    #[error("{action} `{}`: {source}", path.display())]
    Io {
        /// What was being done, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A pattern is malformed.
    #[error(transparent)]
    Pattern(#[from] cofferdam_patterns::Error),
    /// A layer's archive is not right.
    #[error("layer {layer}: {reason}")]
    Layer {
        /// Its digest.
        layer: String,
        /// What is wrong.
        reason: String,
    },
    /// An image is not right.
    #[error("image `{image}`: {reason}")]
    Image {
        /// Its name.
        image: String,
        /// What is wrong.
        reason: String,
    },
    /// An OCI layout is not right.
    #[error("OCI layout `{}`: {reason}", path.display())]
    Layout {
        /// Its directory.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// Adds what was being done, and to what, to an IO error.
pub(crate) trait IoContext<T> {
    /// Names the action and the path.
    fn io(self, action: &'static str, path: impl AsRef<std::path::Path>) -> Result<T>;
}

impl<T, E: Into<io::Error>> IoContext<T> for std::result::Result<T, E> {
    fn io(self, action: &'static str, path: impl AsRef<std::path::Path>) -> Result<T> {
        self.map_err(|source| Error::Io {
            action,
            path: path.as_ref().to_owned(),
            source: source.into(),
        })
    }
}
