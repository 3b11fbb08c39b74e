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
    /// A download failed.
    #[error("{}", .0)]
    Download(Box<cofferdam_registry::WebFailure>),
    /// What was downloaded is not what it should be.
    #[error("`{url}`: {reason}")]
    File {
        /// Where from, without credentials.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// A git repository cannot be had.
    #[error("repository `{url}`: cannot {action}: {reason}")]
    Repository {
        /// Its URL, without credentials.
        url: String,
        /// What was being done, as a verb.
        action: &'static str,
        /// What git says.
        reason: String,
    },
    /// A git repository has not what was asked for, or what nobody should have.
    #[error("repository `{url}`: {reason}")]
    Git {
        /// Its URL, without credentials.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// What is to be a repository is none that is fetched from.
    #[error("git repository `{url}`: {reason}")]
    Remote {
        /// What was given, without credentials.
        url: String,
        /// What is wrong with it.
        reason: String,
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
