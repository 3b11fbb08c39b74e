//! HTTP as registries need it: connections that are made when they are needed and trust whom
//! they should, careful redirects, and an end for those on which nothing moves.
//!
//! What is asked for, and whether it is asked for again, is decided elsewhere.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use reqwest::header::{AUTHORIZATION, HeaderMap, LOCATION, RETRY_AFTER};
use reqwest::{Method, Response, StatusCode, Url};
use tokio::time::timeout;

use crate::error::{Problem, chain};
use crate::hosts::{HostConfig, is_loopback};
use crate::retry::parse_retry_after;

/// How much of an error answer is read.
const MAX_ERROR_ANSWER: u64 = 64 << 10;
/// Redirects that one request follows.
const MAX_REDIRECTS: usize = 5;
/// A registry that has all of a blob may have to move it before it answers, so it gets this many
/// times the usual patience.
const PATIENCE_AT_THE_END: u32 = 5;

/// The connections of all registries that need no certificates of their own.
///
/// Making a client for TLS reads the system's certificates, which takes longer than asking a
/// registry nearby: it is done once, and not where everything is plain HTTP.
pub(crate) struct Pool {
    user_agent: &'static str,
    connect_timeout: Duration,
    clients: Mutex<HashMap<Kind, reqwest::Client>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Kind {
    tls: bool,
    /// Past the proxies of the environment, which have no business with this machine itself.
    direct: bool,
}

impl Kind {
    fn of(url: &Url) -> Self {
        Self { tls: url.scheme() == "https", direct: url.host_str().is_some_and(is_loopback) }
    }
}

impl Pool {
    pub(crate) fn new(user_agent: &'static str, connect_timeout: Duration) -> Self {
        Self { user_agent, connect_timeout, clients: Mutex::default() }
    }

    fn client(&self, kind: Kind) -> Result<reqwest::Client, Problem> {
        let mut clients = self.clients.lock().expect("no panic while the lock is held");
        if let Some(client) = clients.get(&kind) {
            return Ok(client.clone());
        }
        let client = built(if kind.tls {
            self.builder(kind)
        } else {
            // No certificates rather than the system's.
            self.builder(kind).tls_certs_only([])
        })?;
        clients.insert(kind, client.clone());
        Ok(client)
    }

    fn builder(&self, kind: Kind) -> reqwest::ClientBuilder {
        let builder = reqwest::Client::builder()
            .user_agent(self.user_agent)
            .connect_timeout(self.connect_timeout)
            .redirect(reqwest::redirect::Policy::none());
        if kind.direct { builder.no_proxy() } else { builder }
    }
}

fn built(builder: reqwest::ClientBuilder) -> Result<reqwest::Client, Problem> {
    builder.build().map_err(|error| {
        let cause = std::error::Error::source(&error).map_or_else(|| chain(&error), chain);
        Problem::Tls(cause)
    })
}

/// The way to one registry, its token server, and the storage that it redirects to.
pub(crate) struct Transport {
    pool: Arc<Pool>,
    config: HostConfig,
    /// The client for TLS, where this registry has settings for that.
    own: OnceLock<reqwest::Client>,
}

/// A request whose body, if any, is at hand.
pub(crate) struct Call {
    pub method: Method,
    pub url: Url,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Transport {
    pub(crate) fn new(pool: Arc<Pool>, config: HostConfig) -> Self {
        Self { pool, config, own: OnceLock::new() }
    }

    fn client(&self, url: &Url) -> Result<reqwest::Client, Problem> {
        let kind = Kind::of(url);
        let config = &self.config;
        let ordinary = !config.insecure && config.ca.is_empty() && config.identity.is_none();
        if !kind.tls || ordinary {
            return self.pool.client(kind);
        }
        if let Some(client) = self.own.get() {
            return Ok(client.clone());
        }
        let mut builder = self.pool.builder(kind).tls_danger_accept_invalid_certs(config.insecure);
        for pem in &config.ca {
            let certificates = reqwest::Certificate::from_pem_bundle(pem)
                .map_err(|error| Problem::Tls(format!("its `ca`: {}", chain(&error))))?;
            builder = builder.tls_certs_merge(certificates);
        }
        if let Some(pem) = &config.identity {
            let identity = reqwest::Identity::from_pem(pem)
                .map_err(|error| Problem::Tls(format!("its `keypair`: {}", chain(&error))))?;
            builder = builder.identity(identity);
        }
        let client = built(builder)?;
        Ok(self.own.get_or_init(|| client).clone())
    }

    /// Sends a request and follows redirects; secrets stay with the host they are for. An error
    /// status is an answer like any other.
    pub(crate) async fn send(&self, call: Call, patience: Duration) -> Result<Response, Problem> {
        let Call { method, mut url, mut headers, body } = call;
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send_once(&method, &url, &headers, &body, patience).await?;
            let Some(next) = redirect(&method, &response)? else {
                return Ok(response);
            };
            if next.origin() != url.origin() {
                headers.remove(AUTHORIZATION);
            }
            url = next;
        }
        Err(Problem::Invalid(format!("more than {MAX_REDIRECTS} redirects")))
    }

    /// Sends a request as it is: for those whose secrets nobody else should get.
    pub(crate) async fn send_there_only(
        &self,
        call: &Call,
        patience: Duration,
    ) -> Result<Response, Problem> {
        self.send_once(&call.method, &call.url, &call.headers, &call.body, patience).await
    }

    async fn send_once(
        &self,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
        body: &Bytes,
        patience: Duration,
    ) -> Result<Response, Problem> {
        let request = self.client(url)?.request(method.clone(), url.clone());
        let mut request = request.headers(headers.clone());
        // A body, even an empty one, is announced; GET and HEAD have none.
        if !matches!(*method, Method::GET | Method::HEAD) {
            request = request.body(body.clone());
        }
        match timeout(patience, request.send()).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(Problem::Stalled(patience)),
        }
    }

    /// Sends a body of which `moved` counts the bytes as they go, for as long as they do.
    pub(crate) async fn upload(
        &self,
        call: Call,
        body: reqwest::Body,
        length: u64,
        moved: &AtomicU64,
        patience: Duration,
    ) -> Result<Response, Problem> {
        let Call { method, url, headers, .. } = call;
        let request = self.client(&url)?.request(method, url).headers(headers).body(body);
        let mut sending = std::pin::pin!(request.send());
        loop {
            let before = moved.load(Ordering::Relaxed);
            let waiting = if before < length { patience } else { patience * PATIENCE_AT_THE_END };
            match timeout(waiting, &mut sending).await {
                Ok(answer) => return Ok(answer?),
                Err(_) if moved.load(Ordering::Relaxed) == before => {
                    return Err(Problem::Stalled(waiting));
                }
                Err(_) => {}
            }
        }
    }
}

/// Where an answer sends us, if it does and we may go there.
fn redirect(method: &Method, response: &Response) -> Result<Option<Url>, Problem> {
    let status = response.status();
    let reading = matches!(*method, Method::GET | Method::HEAD);
    let followed = match status {
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER => reading,
        _ => false,
    };
    if !followed {
        return Ok(None);
    }
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let next = location.and_then(|location| response.url().join(location).ok());
    let next = next.ok_or_else(|| Problem::Invalid("a redirect to nowhere".into()))?;
    match (response.url().scheme(), next.scheme()) {
        (_, "https") | ("http", "http") => Ok(Some(next)),
        (from, to) => Err(Problem::Invalid(format!("a redirect from {from} to {to}"))),
    }
}

/// The next bytes of an answer.
pub(crate) async fn next_chunk(
    response: &mut Response,
    patience: Duration,
) -> Result<Option<Bytes>, Problem> {
    match timeout(patience, response.chunk()).await {
        Ok(chunk) => Ok(chunk?),
        Err(_) => Err(Problem::Stalled(patience)),
    }
}

/// Reads a whole answer of at most `limit` bytes.
pub(crate) async fn read_limited(
    mut response: Response,
    limit: u64,
    patience: Duration,
) -> Result<Bytes, Problem> {
    let too_large = |size: u64| size > limit;
    if response.content_length().is_some_and(too_large) {
        return Err(Problem::TooLarge { limit });
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = next_chunk(&mut response, patience).await? {
        if too_large((body.len() + chunk.len()) as u64) {
            return Err(Problem::TooLarge { limit });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// The problem that an answer with an error status stands for.
pub(crate) async fn error_of(response: Response, patience: Duration) -> Problem {
    let code = response.status().as_u16();
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = retry_after.and_then(|text| parse_retry_after(text, SystemTime::now()));
    // The status is worth more than the reason why its text could not be read.
    let body = read_limited(response, MAX_ERROR_ANSWER, patience).await.unwrap_or_default();
    Problem::from_status(code, &String::from_utf8_lossy(&body), retry_after)
}
