//! The client: its configuration, and one [`Host`] per registry.
//!
//! What it does is in `pull`, `blob` and `push`; how it is let in is in `auth`.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::auth::{Host, Scope, Session};
use crate::credentials::{Anonymous, Credentials};
use crate::error::{Error, Problem};
use crate::reference::Reference;
use crate::retry::{Attempts, RetryPolicy};

/// How a [`Client`] behaves.
#[derive(Clone)]
pub struct ClientConfig {
    /// Who we are.
    pub credentials: Arc<dyn Credentials>,
    /// Registries to talk to without TLS, written as in references (`host:port`). Those on
    /// loopback addresses need no entry.
    pub plain_http: Vec<String>,
    /// Registries whose certificates are not verified.
    pub insecure_tls: Vec<String>,
    /// Certificates in PEM form that are trusted besides those of the system.
    pub extra_root_certificates: Vec<Vec<u8>>,
    /// The `User-Agent` header.
    pub user_agent: &'static str,
    /// The most blobs that are downloaded at the same time, and the most that are uploaded.
    pub concurrency: usize,
    /// The longest time to wait for a connection.
    pub connect_timeout: Duration,
    /// The longest time that a connection may be silent.
    pub read_timeout: Duration,
    /// When to try again.
    pub retry: RetryPolicy,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            credentials: Arc::new(Anonymous),
            plain_http: Vec::new(),
            insecure_tls: Vec::new(),
            extra_root_certificates: Vec::new(),
            user_agent: concat!("cofferdam/", env!("CARGO_PKG_VERSION")),
            concurrency: 6,
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(60),
            retry: RetryPolicy::default(),
        }
    }
}

/// Talks to registries. Clones share connections, tokens and limits.
///
/// Tokens are kept per client: what one set of credentials may read must not be served to
/// another, so each client of a daemon needs its own.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    config: Arc<ClientConfig>,
    hosts: Mutex<HashMap<String, Arc<Host>>>,
    downloads: Arc<Semaphore>,
    /// Apart from the downloads, because what is uploaded may come from one of those.
    uploads: Arc<Semaphore>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("user_agent", &self.inner.config.user_agent)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Makes a client; nothing is connected before it is used.
    pub fn new(config: ClientConfig) -> Self {
        let limit = || Arc::new(Semaphore::new(config.concurrency.max(1)));
        let (downloads, uploads) = (limit(), limit());
        let config = Arc::new(config);
        Self { inner: Arc::new(Inner { config, hosts: Mutex::default(), downloads, uploads }) }
    }

    pub(crate) fn downloads(&self) -> Arc<Semaphore> {
        self.inner.downloads.clone()
    }

    pub(crate) fn uploads(&self) -> &Semaphore {
        &self.inner.uploads
    }

    /// Starts an operation on `object` in the repository of `reference`.
    pub(crate) fn operation(
        &self,
        reference: &Reference,
        object: impl ToString,
        scope: Scope,
    ) -> Result<Operation, Error> {
        let object = object.to_string();
        let host = match self.host(reference.registry()) {
            Ok(host) => host,
            Err(problem) => return Err(Error::new(reference.registry(), object, problem)),
        };
        Ok(Operation {
            registry: reference.registry().into(),
            object,
            host,
            scope,
            attempts: Attempts::new(self.inner.config.retry),
            policy: self.inner.config.retry,
            reused: false,
            renewed: false,
        })
    }

    fn host(&self, registry: &str) -> Result<Arc<Host>, Problem> {
        let mut hosts = self.inner.hosts.lock().expect("no panic while the lock is held");
        if let Some(host) = hosts.get(registry) {
            return Ok(host.clone());
        }
        let host = Arc::new(Host::new(registry, self.inner.config.clone())?);
        hosts.insert(registry.into(), host.clone());
        Ok(host)
    }
}

/// One operation with all its attempts.
pub(crate) struct Operation {
    registry: String,
    object: String,
    pub host: Arc<Host>,
    scope: Scope,
    attempts: Attempts,
    policy: RetryPolicy,
    /// Whether the session of this attempt was used before, and so may have run out.
    reused: bool,
    /// Whether that was tried; concurrent operations must not keep each other going.
    renewed: bool,
}

impl Operation {
    pub(crate) async fn session(&mut self) -> Result<Arc<Session>, Problem> {
        // A failed renewal is not a session that ran out.
        self.reused = false;
        let (session, reused) = self.host.session(&self.scope).await?;
        self.reused = reused && session.authorization.is_some();
        Ok(session)
    }

    /// Whether to make another attempt after `problem`; waits if that helps.
    pub(crate) async fn again(&mut self, problem: &Problem) -> bool {
        if matches!(problem, Problem::Unauthorized(_)) && self.reused && !self.renewed {
            self.renewed = true;
            self.host.forget(&self.scope).await;
            return true;
        }
        self.attempts.again(problem).await
    }

    /// Grants the full number of attempts again, after progress.
    pub(crate) fn start_over(&mut self) {
        self.attempts = Attempts::new(self.policy);
    }

    pub(crate) fn error(&self, problem: Problem) -> Error {
        Error::new(&self.registry, &self.object, problem)
    }
}
