//! What a client lends to a build: the directories that it may read, by name.
//!
//! The trait is all that the engine knows of its client. This file has the implementation for a
//! client in the same process; one that speaks BuildKit's session protocol belongs to the daemon.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A client of a build.
pub trait Session: Send + Sync {
    /// The directory that the client lends under `name` (`context`, `dockerfile`, …).
    ///
    /// # Errors
    /// When the client lends no such directory.
    fn directory(&self, name: &str) -> Result<PathBuf, Error>;
}

/// Why the session has not what was asked for.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// No directory of that name.
    #[error("the client lends no directory `{name}`; it lends: {lent}")]
    NoDirectory {
        /// What was asked for.
        name: String,
        /// What there is, comma separated.
        lent: String,
    },
}

/// A client in the same process: it lends directories of this machine.
#[derive(Clone, Debug, Default)]
pub struct LocalSession {
    directories: BTreeMap<String, PathBuf>,
}

impl LocalSession {
    /// Lends a directory under a name.
    #[must_use]
    pub fn lend(mut self, name: &str, directory: &Path) -> Self {
        self.directories.insert(name.to_owned(), directory.to_owned());
        self
    }
}

impl Session for LocalSession {
    fn directory(&self, name: &str) -> Result<PathBuf, Error> {
        self.directories.get(name).cloned().ok_or_else(|| Error::NoDirectory {
            name: name.to_owned(),
            lent: self.directories.keys().map(String::as_str).collect::<Vec<_>>().join(", "),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_lent_is_found() {
        let session = LocalSession::default().lend("context", Path::new("/src"));
        assert_eq!(session.directory("context"), Ok("/src".into()));
        let error = session.directory("secrets").unwrap_err();
        assert_eq!(error.to_string(), "the client lends no directory `secrets`; it lends: context");
    }
}
