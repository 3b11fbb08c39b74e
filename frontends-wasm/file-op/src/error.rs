//! Everything that can be wrong with an action. A path is shown quoted, as it is in the tree.

use crate::tree::Fault;

/// Why an action failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A path that has to exist does not. The text is BuildKit's; frontends look for it.
    #[error("{0:?}: not found")]
    NotFound(String),
    /// Something below a path that is no directory was named.
    #[error("{0:?}: not a directory")]
    NotDirectory(String),
    /// Symlinks lead to symlinks without end.
    #[error("{0:?}: too many symlinks, expected at most 255")]
    TooManyLinks(String),
    /// A path goes through a symlink that leads out of the directory it has to stay in.
    #[error("{0:?}: symlink leads out of the destination")]
    LinkEscapes(String),
    /// A file is to replace a directory.
    #[error("cannot replace directory {0:?} with file")]
    FileOverDirectory(String),
    /// A directory is to be copied onto something else.
    #[error("cannot copy to non-directory: {0:?}")]
    DirectoryOverFile(String),
    /// Something is in the way of a new symlink.
    #[error("{0:?}: already exists")]
    Exists(String),
    /// A regular file is needed.
    #[error("{0:?}: not a regular file")]
    NotRegular(String),
    /// The root itself cannot be removed or replaced.
    #[error("{0:?}: expected a path below the root")]
    IsRoot(String),
    /// Directories are nested deeper than a path can say.
    #[error("{0:?}: directories nested too deep, expected at most {1} levels")]
    TooDeep(String, usize),
    /// A pattern cannot be read.
    #[error(transparent)]
    Pattern(#[from] cofferdam_patterns::Error),
    /// Permission bits cannot be read.
    #[error("invalid mode {0:?}: expected octal digits or clauses like `u=rwX,go=rX`")]
    Mode(String),
    /// `/etc/passwd` or `/etc/group` is too large.
    #[error("{path:?}: {size} bytes, expected at most {limit}")]
    TooLarge {
        /// The file.
        path: String,
        /// Its size in bytes.
        size: u64,
        /// The largest size in bytes.
        limit: u64,
    },
    /// A name was given without a tree to look it up in.
    #[error("no tree to look up {0:?} in")]
    NoTreeForName(String),
    /// A reference to an input or an action that there is not.
    #[error("{what} {index} does not exist, expected less than {count}")]
    Reference {
        /// What is referred to.
        what: &'static str,
        /// Its number.
        index: u32,
        /// How many there are.
        count: usize,
    },
    /// The outputs are not numbered from 0 on, each once.
    #[error("output {0} is not expected: outputs are numbered from 0, each once")]
    Output(u32),
    /// An archive is damaged, or says something that only an attacker would.
    #[error("archive {archive:?}, offset {offset}: {reason}")]
    Archive {
        /// The archive.
        archive: String,
        /// Where in the unpacked archive the entry starts.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// The host could not do it.
    #[error(transparent)]
    Host(#[from] Fault),
}

impl Error {
    /// Whether something that was named does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound(_) | Self::Host(Fault::NotFound(_)))
    }
}
