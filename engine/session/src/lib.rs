//! What a client lends to a build: directories and files that it may read, secrets, ssh agents.
//!
//! The trait is all that the engine knows of its client. This file has the implementation for a
//! client in the same process; one that speaks BuildKit's session protocol belongs to the daemon.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Larger secrets are refused, as in BuildKit.
const MAX_SECRET: u64 = 500 << 10;

/// A client of a build.
pub trait Session: Send + Sync {
    /// The directory that the client lends under `name` (`context`, `dockerfile`, …).
    ///
    /// # Errors
    /// When the client lends no such directory.
    fn directory(&self, name: &str) -> Result<PathBuf, Error>;

    /// The secret that the client calls `id`; `None` if it has none.
    ///
    /// # Errors
    /// When it cannot be read.
    fn secret(&self, id: &str) -> Result<Option<Secret>, Error>;

    /// The socket of the ssh agent that the client calls `id`; `None` if it has none.
    fn agent(&self, id: &str) -> Option<PathBuf>;

    /// What the client sends under `id`, from its beginning.
    ///
    /// # Errors
    /// When the client sends nothing of that name.
    fn upload(&self, id: &str) -> Result<File, Error>;
}

/// The bytes of a secret. They are in no text that is made of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<[u8]>);

impl Secret {
    /// Takes the bytes.
    pub fn new(bytes: impl Into<Arc<[u8]>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes, for whom the secret is meant.
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Why the session has not what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No directory of that name.
    #[error("the client lends no directory `{name}`; it lends: {lent}")]
    NoDirectory {
        /// What was asked for.
        name: String,
        /// What there is, comma separated.
        lent: String,
    },
    /// Nothing is sent under that name.
    #[error("the client sends nothing called `{0}`")]
    NoUpload(String),
    /// A secret cannot be read.
    #[error("secret `{id}`: cannot read `{}`: {source}", path.display())]
    SecretFile {
        /// The secret.
        id: String,
        /// Where it is.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A secret is too large.
    #[error("secret `{id}` is larger than {} KiB", MAX_SECRET >> 10)]
    LargeSecret {
        /// The secret.
        id: String,
    },
    /// What is sent cannot be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Upload {
        /// Where it is.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Where a client has a secret.
#[derive(Clone, Debug)]
pub enum SecretSource {
    /// In a file, which is read when the secret is needed.
    File(PathBuf),
    /// At hand.
    Value(Secret),
}

/// A client in the same process: it lends what this machine has.
#[derive(Clone, Debug, Default)]
pub struct LocalSession {
    directories: BTreeMap<String, PathBuf>,
    secrets: BTreeMap<String, SecretSource>,
    agents: BTreeMap<String, PathBuf>,
    uploads: BTreeMap<String, PathBuf>,
}

impl LocalSession {
    /// Lends a directory under a name.
    #[must_use]
    pub fn lend(mut self, name: &str, directory: &Path) -> Self {
        self.directories.insert(name.to_owned(), directory.to_owned());
        self
    }

    /// Lends a secret.
    #[must_use]
    pub fn lend_secret(mut self, id: &str, secret: SecretSource) -> Self {
        self.secrets.insert(id.to_owned(), secret);
        self
    }

    /// Lends the ssh agent that listens at a socket.
    #[must_use]
    pub fn lend_agent(mut self, id: &str, socket: &Path) -> Self {
        self.agents.insert(id.to_owned(), socket.to_owned());
        self
    }

    /// Sends a file under a name.
    #[must_use]
    pub fn send(mut self, id: &str, file: &Path) -> Self {
        self.uploads.insert(id.to_owned(), file.to_owned());
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

    fn secret(&self, id: &str) -> Result<Option<Secret>, Error> {
        let secret = match self.secrets.get(id) {
            None => return Ok(None),
            Some(SecretSource::Value(secret)) => secret.clone(),
            Some(SecretSource::File(path)) => {
                let mut bytes = Vec::new();
                let read = File::open(path)
                    .and_then(|file| file.take(MAX_SECRET + 1).read_to_end(&mut bytes));
                read.map_err(|source| Error::SecretFile {
                    id: id.to_owned(),
                    path: path.clone(),
                    source,
                })?;
                Secret::new(bytes)
            }
        };
        match secret.reveal().len() as u64 > MAX_SECRET {
            true => Err(Error::LargeSecret { id: id.to_owned() }),
            false => Ok(Some(secret)),
        }
    }

    fn agent(&self, id: &str) -> Option<PathBuf> {
        self.agents.get(id).cloned()
    }

    fn upload(&self, id: &str) -> Result<File, Error> {
        let path = self.uploads.get(id).ok_or_else(|| Error::NoUpload(id.to_owned()))?;
        File::open(path).map_err(|source| Error::Upload { path: path.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_lent_is_found() {
        let session = LocalSession::default().lend("context", Path::new("/src"));
        assert_eq!(session.directory("context").expect("it is lent"), Path::new("/src"));
        let error = session.directory("secrets").expect_err("it is not lent");
        assert_eq!(error.to_string(), "the client lends no directory `secrets`; it lends: context");
        assert_eq!(session.secret("a").expect("no error"), None);
        assert_eq!(session.agent("default"), None);
        let error = session.upload("x").expect_err("nothing is sent");
        assert_eq!(error.to_string(), "the client sends nothing called `x`");
    }

    #[test]
    fn secrets_are_bounded_and_never_shown() {
        let value = |size| SecretSource::Value(Secret::new(vec![b's'; size]));
        let session = LocalSession::default()
            .lend_secret("small", value(500 << 10))
            .lend_secret("large", value((500 << 10) + 1))
            .lend_secret("gone", SecretSource::File("/nonexistent".into()));
        let secret = session.secret("small").expect("it fits").expect("it is lent");
        assert_eq!((format!("{secret:?}"), secret.reveal().len()), ("Secret".into(), 500 << 10));
        assert!(!format!("{session:?}").contains("ss, "), "bytes as numbers or text");
        let error = |id| session.secret(id).expect_err("no secret").to_string();
        assert_eq!(error("large"), "secret `large` is larger than 500 KiB");
        assert!(error("gone").starts_with("secret `gone`: cannot read `/nonexistent`: "));
    }
}
