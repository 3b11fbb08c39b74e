//! What can go wrong in the store.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use cofferdam_types::Digest;

use crate::{LayerId, PackId};

/// Result of a store operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the store; every message names the object.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("{action} `{}`: {source}", path.display())]
    Io {
        /// What was being done, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The record database failed.
    #[error("state database: {0}")]
    Database(#[from] rusqlite::Error),
    /// The state directory was written by a version that this one does not know.
    #[error(
        "state directory `{}` has format {found}, this version of cofferdam reads format {expected}",
        path.display()
    )]
    Format {
        /// The state directory.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// Ours.
        expected: i64,
    },
    /// A layer that a record names is not there.
    #[error("layer {0} is not in the store")]
    NoLayer(LayerId),
    /// A pack that a layer refers to is not there.
    #[error("pack {0} is not in the store")]
    NoPack(PackId),
    /// Another process is using the state directory.
    #[error("state directory `{}` is in use by another process", .0.display())]
    InUse(PathBuf),
    /// There is no room within the storage limit.
    #[error(
        "the storage limit of {} is reached: {} are in use, {} more are needed, and nothing else \
         can be removed",
        Bytes(*limit), Bytes(*used), Bytes(*needed)
    )]
    StorageLimit {
        /// The limit in bytes.
        limit: u64,
        /// Bytes that are in use or reserved.
        used: u64,
        /// Bytes that were asked for.
        needed: u64,
    },
    /// The disk has no room even for the database.
    #[error(
        "the disk of the state directory `{}` is full: {} are free",
        path.display(), Bytes(*free)
    )]
    DiskFull {
        /// The state directory.
        path: PathBuf,
        /// Bytes that are free.
        free: u64,
    },
    /// A manifest or index does not decode.
    #[error("`{}` is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A path does not exist in a tree.
    #[error("`{0}`: not found")]
    NotFound(String),
    /// A path is of another kind than was asked for.
    #[error("`{path}` is not a {expected}")]
    WrongKind {
        /// The path.
        path: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A path cannot be used.
    #[error("invalid path `{path}`: {reason}")]
    InvalidPath {
        /// The path.
        path: String,
        /// Why.
        reason: &'static str,
    },
    /// Bytes do not have the digest that they should have.
    #[error("wrong contents: expected {expected}, got {actual}")]
    WrongDigest {
        /// What was promised.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
}

impl Error {
    /// Whether the cause is a full disk.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::DiskFull { .. } => true,
            Self::Io { source, .. } => source.kind() == io::ErrorKind::StorageFull,
            Self::Database(error) => {
                error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
            }
            _ => false,
        }
    }

    /// Whether something in the state directory is damaged.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. }) || self.is_damaged_database()
    }

    /// Whether it is SQLite's word for a database that is damaged.
    pub(crate) fn is_damaged_database(&self) -> bool {
        let Self::Database(error) = self else { return false };
        matches!(
            error.sqlite_error_code(),
            Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt)
        )
    }
}

/// A number of bytes for people.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut amount, mut unit) = (self.0 as f64, "B");
        for larger in ["KiB", "MiB", "GiB", "TiB"] {
            if amount < 1024.0 {
                break;
            }
            (amount, unit) = (amount / 1024.0, larger);
        }
        match unit {
            "B" => write!(f, "{} B", self.0),
            unit => write!(f, "{amount:.1} {unit}"),
        }
    }
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
