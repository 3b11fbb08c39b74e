//! The client: its configuration, one [`Host`] per registry, and which of them an operation
//! turns to.
//!
//! What it does is in `pull`, `blob`, `push` and `upload`; how it is let in is in `auth`.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, HeaderMap};
use reqwest::{Method, Response, StatusCode, Url};
use tokio::sync::Semaphore;

use crate::auth::{Scope, Session, Wish};
use crate::credentials::{Anonymous, Credentials};
use crate::error::{Error, ErrorKind, Problem};
use crate::host::Host;
use crate::hosts::{HostConfig, Mirror};
use crate::reference::Reference;
use crate::retry::{Attempts, RetryPolicy};
use crate::transport::{Call, Pool, error_of};

/// How a [`Client`] behaves.
#[derive(Clone)]
pub struct ClientConfig {
    /// Who we are.
    pub credentials: Arc<dyn Credentials>,
    /// What is special about registries and mirrors, by their names in references (`host:port`).
    pub hosts: BTreeMap<String, HostConfig>,
    /// The `User-Agent` header.
    pub user_agent: &'static str,
    /// The most blobs that are downloaded at the same time, and the most that are uploaded.
    pub concurrency: usize,
    /// The longest time to wait for a connection.
    pub connect_timeout: Duration,
    /// The longest time that nothing may come or go on a connection.
    pub stall_timeout: Duration,
    /// The same for the first answer of a mirror, which can be passed over.
    pub mirror_timeout: Duration,
    /// When to try again.
    pub retry: RetryPolicy,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            credentials: Arc::new(Anonymous),
            hosts: BTreeMap::new(),
            user_agent: concat!("cofferdam/", env!("CARGO_PKG_VERSION")),
            concurrency: 6,
            connect_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(30),
            mirror_timeout: Duration::from_secs(5),
            retry: RetryPolicy::default(),
        }
    }
}

/// Talks to registries. Clones share connections, tokens, limits and what is known of mirrors.
///
/// Tokens are kept per client: what one set of credentials may read must not be served to
/// another, so each client of a daemon needs its own.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    config: ClientConfig,
    pool: Arc<Pool>,
    hosts: Mutex<HashMap<String, Arc<Host>>>,
    mirrors: Mutex<Mirrors>,
    downloads: Arc<Semaphore>,
    /// Apart from the downloads, because what is uploaded may come from one of those.
    uploads: Arc<Semaphore>,
}

/// What is known of mirrors; kept for as long as the client, so that each failure costs time
/// once.
#[derive(Default)]
struct Mirrors {
    /// Hosts that do not work: not asked again.
    down: HashSet<String>,
    /// Mirrors and repositories of which they lack something: asked after the registry itself.
    lacking: HashSet<(Mirror, String)>,
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
        let pool = Arc::new(Pool::new(config.user_agent, config.connect_timeout));
        let (hosts, mirrors) = (Mutex::default(), Mutex::default());
        Self { inner: Arc::new(Inner { config, pool, hosts, mirrors, downloads, uploads }) }
    }

    pub(crate) fn config(&self) -> &ClientConfig {
        &self.inner.config
    }

    pub(crate) fn pool(&self) -> Arc<Pool> {
        self.inner.pool.clone()
    }

    pub(crate) fn downloads(&self) -> Arc<Semaphore> {
        self.inner.downloads.clone()
    }

    pub(crate) fn uploads(&self) -> &Semaphore {
        &self.inner.uploads
    }

    /// Starts to read `object` from the repository of `reference`, at its mirrors if it has any.
    pub(crate) fn pull_operation(&self, reference: &Reference, object: String) -> Operation {
        let (registry, repository) = (reference.registry(), reference.repository());
        let mut first = VecDeque::new();
        let mut last = Vec::new();
        if let Some(settings) = self.inner.config.hosts.get(registry) {
            let known = self.inner.mirrors();
            for mirror in settings.mirrors.iter().filter(|m| !known.down.contains(&m.host)) {
                let place = Place {
                    host: self.host(&mirror.host),
                    scope: pull_scope(mirror.repository(repository)),
                    mirror: Some(mirror.clone()),
                };
                match known.lacking.contains(&(mirror.clone(), repository.to_owned())) {
                    true => last.push(place),
                    false => first.push_back(place),
                }
            }
        }
        first.push_back(self.origin(reference, pull_scope(repository.into())));
        first.extend(last);
        self.operation(reference, object, first)
    }

    /// Starts to do something to `object` in the registry of `reference` itself.
    pub(crate) fn push_operation(
        &self,
        reference: &Reference,
        object: String,
        scope: Scope,
    ) -> Operation {
        let place = self.origin(reference, scope);
        self.operation(reference, object, VecDeque::from([place]))
    }

    fn operation(
        &self,
        reference: &Reference,
        object: String,
        mut places: VecDeque<Place>,
    ) -> Operation {
        Operation {
            inner: self.inner.clone(),
            registry: reference.registry().into(),
            repository: reference.repository().into(),
            object,
            place: places.pop_front().expect("there is the registry itself"),
            places,
            attempts: Attempts::new(self.inner.config.retry),
            failed: 0,
            moved: false,
            door: Door::Unknown,
            challenged: false,
            renewed: 0,
            passed_over: Vec::new(),
            of_registry: None,
        }
    }

    fn origin(&self, reference: &Reference, scope: Scope) -> Place {
        Place { host: self.host(reference.registry()), scope, mirror: None }
    }

    fn host(&self, registry: &str) -> Arc<Host> {
        let inner = &self.inner;
        let mut hosts = inner.hosts.lock().expect("no panic while the lock is held");
        if let Some(host) = hosts.get(registry) {
            return host.clone();
        }
        let host = Arc::new(Host::new(registry, &inner.config, inner.pool.clone()));
        hosts.insert(registry.into(), host.clone());
        host
    }
}

impl Inner {
    fn mirrors(&self) -> MutexGuard<'_, Mirrors> {
        self.mirrors.lock().expect("no panic while the lock is held")
    }
}

/// Permission to read a repository.
fn pull_scope(repository: String) -> Scope {
    Scope { repository, push: false, mount_from: None }
}

/// A registry or mirror, and the repository there.
struct Place {
    host: Arc<Host>,
    scope: Scope,
    mirror: Option<Mirror>,
}

/// How many tokens in a row may be forgotten before they were of use.
const MAX_RENEWALS: u32 = 3;

/// How the last request was met at the door.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Door {
    /// It was not refused.
    Unknown,
    /// It was refused, and had nothing to show.
    Anonymous,
    /// It was refused with a token that may have been good before.
    Expired,
    /// It was refused for good.
    Closed,
}

/// One operation with all its attempts, at all the places where it can be done.
pub(crate) struct Operation {
    inner: Arc<Inner>,
    registry: String,
    repository: String,
    object: String,
    /// Where it is tried now.
    place: Place,
    /// Where it can be tried after that.
    places: VecDeque<Place>,
    attempts: Attempts,
    /// Attempts at the registry itself that failed.
    failed: u32,
    /// Whether the place has given some of what was asked for.
    moved: bool,
    door: Door,
    /// Whether we have shown who we are because we were asked to.
    challenged: bool,
    /// How often a token was renewed since the last success. Servers forget tokens at any time, but
    /// concurrent operations must not keep each other going.
    renewed: u32,
    passed_over: Vec<String>,
    /// The registry's own problem, while mirrors are asked in its place.
    of_registry: Option<Problem>,
}

impl Operation {
    /// How long nothing may come or go.
    pub(crate) fn patience(&self) -> Duration {
        self.inner.config.stall_timeout
    }

    /// How long to wait for an answer.
    fn patience_for_answers(&self) -> Duration {
        let config = &self.inner.config;
        match self.place.mirror {
            Some(_) => config.mirror_timeout.min(config.stall_timeout),
            None => config.stall_timeout,
        }
    }

    /// The URL of something in the repository, such as `manifests/latest`.
    pub(crate) async fn url(&self, path: &str) -> Result<Url, Problem> {
        let base = self.place.host.base(self.patience_for_answers()).await?;
        let mut url = base
            .join(&format!("{}/{path}", self.place.scope.repository))
            .map_err(|error| Problem::Invalid(format!("registry address: {error}")))?;
        if self.place.mirror.is_some() {
            // For mirrors of several registries, as containerd does it.
            url.query_pairs_mut().append_pair("ns", &self.registry);
        }
        Ok(url)
    }

    /// Sends a request to `path` in the repository and gives its answer if it is a good one.
    pub(crate) async fn call(
        &mut self,
        method: Method,
        path: &str,
        headers: HeaderMap,
    ) -> Result<Response, Problem> {
        let url = self.url(path).await?;
        self.send(Call { method, url, headers, body: Bytes::new() }).await
    }

    /// Sends a request and gives its answer if it is a good one.
    pub(crate) async fn send(&mut self, mut call: Call) -> Result<Response, Problem> {
        let session = self.open(&mut call).await?;
        let patience = self.patience_for_answers();
        let sent_to = call.url.clone();
        let response = self.place.host.transport.send(call, patience).await?;
        self.judge(response, &sent_to, session).await
    }

    /// Sends a body as it is read; `moved` counts the bytes that went.
    pub(crate) async fn upload(
        &mut self,
        mut call: Call,
        body: reqwest::Body,
        length: u64,
        moved: &std::sync::atomic::AtomicU64,
    ) -> Result<Response, Problem> {
        let session = self.open(&mut call).await?;
        let patience = self.patience();
        let sent_to = call.url.clone();
        let transport = &self.place.host.transport;
        let response = transport.upload(call, body, length, moved, patience).await?;
        self.judge(response, &sent_to, session).await
    }

    /// Gets permission, and writes it on the request where that goes to the registry itself.
    async fn open(&mut self, call: &mut Call) -> Result<Arc<Session>, Problem> {
        self.door = Door::Unknown;
        let Place { host, scope, .. } = &self.place;
        let patience = self.patience_for_answers();
        let session = host.auth.session(scope, &host.transport, patience).await?;
        let ours = call.url.origin() == host.base(patience).await?.origin();
        if let Some(authorization) = session.authorization.as_ref().filter(|_| ours) {
            call.headers.insert(AUTHORIZATION, authorization.clone());
        }
        Ok(session)
    }

    async fn judge(
        &mut self,
        response: Response,
        sent_to: &Url,
        session: Arc<Session>,
    ) -> Result<Response, Problem> {
        let status = response.status();
        if status.is_success() {
            // The next request may find that this token has run out in its turn.
            self.renewed = 0;
            return Ok(response);
        }
        let refused = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        if refused && response.url().origin() != sent_to.origin() {
            // The address was signed for us and may have run out; the next one is a new one.
            let code = status.as_u16();
            let text = format!("the storage that the registry sends us to answered {code}");
            return Err(Problem::Connection(text));
        }
        if status == StatusCode::UNAUTHORIZED {
            let Place { host, scope, .. } = &self.place;
            let https = sent_to.scheme() == "https";
            let headers = response.headers();
            let wish = host.auth.refused(scope, &session, headers, https).await?;
            self.door = match (&session.authorization, wish) {
                (_, Wish::Nothing) => Door::Closed,
                (None, _) => Door::Anonymous,
                // Tokens run out, and servers that gave them forget them.
                (Some(_), Wish::Token) => Door::Expired,
                (Some(_), Wish::Password) => Door::Closed,
            };
        }
        Err(error_of(response, self.patience()).await)
    }

    /// Whether the last request was refused and another permission may be had.
    pub(crate) fn may_show_more(&self) -> bool {
        match self.door {
            Door::Anonymous => !self.challenged,
            Door::Expired => self.renewed < MAX_RENEWALS,
            Door::Unknown | Door::Closed => false,
        }
    }

    /// Gets ready for another attempt after `problem`: waits, shows who we are, or turns to
    /// another place.
    ///
    /// # Errors
    ///
    /// There is no use in another attempt; what to tell about it.
    pub(crate) async fn again(&mut self, problem: Problem) -> Result<(), Problem> {
        if self.may_show_more() {
            self.challenged |= self.door == Door::Anonymous;
            self.renewed += u32::from(self.door == Door::Expired);
            return Ok(());
        }
        self.failed += u32::from(self.place.mirror.is_none());
        // A mirror is not waited for, unless it has been of use already.
        let waited_for = self.place.mirror.is_none() || self.moved;
        if waited_for && self.attempts.again(&problem).await {
            return Ok(());
        }
        let next = self.places.pop_front();
        match &self.place.mirror {
            Some(mirror) => {
                tracing::debug!(%mirror, %problem, "passed over");
                self.passed_over.push(format!("{mirror}: {problem}"));
                self.remember(mirror, &problem);
                if next.is_none() {
                    let told = self.of_registry.take();
                    return Err(told.expect("the registry itself comes before the last mirror"));
                }
            }
            None if next.is_none() => return Err(problem),
            None => self.of_registry = Some(problem),
        }
        self.place = next.expect("looked at above");
        self.attempts = Attempts::new(self.inner.config.retry);
        self.moved = false;
        (self.challenged, self.renewed) = (false, 0);
        Ok(())
    }

    /// Keeps in mind what is wrong with a mirror, so that nobody finds it out again.
    fn remember(&self, mirror: &Mirror, problem: &Problem) {
        let mut known = self.inner.mirrors();
        match problem.kind() {
            ErrorKind::NotFound | ErrorKind::Unauthorized | ErrorKind::Rejected => {
                known.lacking.insert((mirror.clone(), self.repository.clone()));
            }
            _ => {
                known.down.insert(mirror.host.clone());
            }
        }
    }

    /// Grants the full number of attempts again, after progress.
    pub(crate) fn start_over(&mut self) {
        self.attempts = Attempts::new(self.inner.config.retry);
        self.renewed = 0;
        self.moved = true;
    }

    /// Keeps in mind that the place gave wrong bytes.
    pub(crate) fn distrust(&mut self, problem: &Problem) {
        if let Some(mirror) = &self.place.mirror {
            self.remember(mirror, problem);
        }
    }

    pub(crate) fn error(&self, problem: Problem) -> Error {
        Error {
            attempts: self.failed.max(1),
            mirrors: self.passed_over.clone(),
            ..Error::new(&self.registry, &self.object, problem)
        }
    }
}
