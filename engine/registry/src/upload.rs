//! One blob into a registry: begun once, and gone on with from where it broke off.
//!
//! A small blob goes in one request. A larger one is streamed by `PATCH`, so that after a broken
//! connection the registry can be asked how much of it has come, and is then named by `PUT`. See
//! the OCI distribution specification, "Pushing blobs". Memory does not grow with the size.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cofferdam_types::{Digest, Hasher};
use futures::stream::{self, Stream, StreamExt as _};
use reqwest::header::{
    CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RANGE,
};
use reqwest::{Method, Response, StatusCode, Url};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio_util::io::ReaderStream;

use crate::client::Operation;
use crate::error::Problem;
use crate::manifest::Descriptor;
use crate::push::{BlobSource, Pushed};
use crate::transport::Call;

/// The size of the pieces that a blob is read in.
const PIECE: usize = 256 << 10;
/// Blobs up to this size are sent in one request, which saves one and leaves nothing to resume.
const SMALL: u64 = 512 << 10;
/// How much has to arrive for the attempts to be counted from the beginning again.
const PROGRESS: u64 = 1 << 20;

/// The upload of one blob.
pub(crate) struct Upload<'a, S: ?Sized> {
    pub operation: Operation,
    pub descriptor: &'a Descriptor,
    pub source: &'a S,
    /// Another repository of the registry, which may have the blob.
    pub mount_from: Option<String>,
    pub state: State,
    /// Whether any of it was sent.
    pub sent: bool,
    /// Up to where the attempts were counted.
    pub counted_from: u64,
}

/// How far an upload is.
pub(crate) enum State {
    /// Nothing was sent, or nothing is left of what was.
    New,
    /// The registry waits for the bytes from `offset` on.
    Open { location: Url, offset: u64 },
    /// Something was sent, and nobody said that it has come.
    Unclear { location: Url },
}

impl<S: BlobSource + ?Sized> Upload<'_, S> {
    /// Makes all the attempts that it takes.
    pub(crate) async fn run(&mut self) -> Result<Pushed, Problem> {
        loop {
            let problem = match self.step().await {
                Ok(Some(pushed)) => return Ok(pushed),
                Ok(None) => continue,
                Err(problem) => problem,
            };
            let problem = self.explained(problem).await?;
            self.operation.again(problem).await?;
        }
    }

    async fn step(&mut self) -> Result<Option<Pushed>, Problem> {
        match &self.state {
            State::New => self.begin().await,
            State::Unclear { location } => {
                let location = location.clone();
                self.state = self.ask(location).await?;
                if let State::Open { offset, .. } = self.state
                    && offset >= self.counted_from + PROGRESS
                {
                    self.counted_from = offset;
                    self.operation.start_over();
                }
                Ok(None)
            }
            State::Open { location, offset } => {
                let (location, offset) = (location.clone(), *offset);
                let size = self.descriptor.size;
                if offset < size && size > SMALL {
                    self.state = self.patch(location, offset).await?;
                    return Ok(None);
                }
                self.put(location, offset).await.map(Some)
            }
        }
    }

    /// Finds out whether anything has to be sent, and begins if so.
    async fn begin(&mut self) -> Result<Option<Pushed>, Problem> {
        let path = format!("blobs/{}", self.descriptor.digest);
        match self.operation.call(Method::HEAD, &path, HeaderMap::new()).await {
            // What was sent may have arrived without our being told.
            Ok(_) if self.sent => return Ok(Some(Pushed::Uploaded)),
            Ok(_) => return Ok(Some(Pushed::Existed)),
            Err(Problem::NotFound) => {}
            Err(problem) => return Err(problem),
        }
        let uploads = self.operation.url("blobs/uploads/").await?;
        if let Some(from) = self.mount_from.take() {
            let mut url = uploads.clone();
            url.query_pairs_mut()
                .append_pair("mount", &self.descriptor.digest.to_string())
                .append_pair("from", &from);
            match self.operation.send(post(url)).await {
                Ok(response) if response.status() == StatusCode::CREATED => {
                    return Ok(Some(Pushed::Mounted));
                }
                // It does not mount, and has begun an upload instead.
                Ok(response) => {
                    self.state = State::Open { location: location(&response)?, offset: 0 };
                    return Ok(None);
                }
                Err(problem) if self.operation.may_show_more() => {
                    self.mount_from = Some(from);
                    return Err(problem);
                }
                // A mount saves time and nothing depends on it: a registry may refuse it because
                // the blob is not there, because we may not read it there, or because it knows
                // no mounts.
                Err(problem) => tracing::debug!(%problem, "no mount"),
            }
        }
        let response = self.operation.send(post(uploads)).await?;
        self.state = State::Open { location: location(&response)?, offset: 0 };
        Ok(None)
    }

    /// Asks how much has come.
    async fn ask(&mut self, at: Url) -> Result<State, Problem> {
        let call =
            Call { method: Method::GET, url: at, headers: HeaderMap::new(), body: Bytes::new() };
        let response = match self.operation.send(call).await {
            // It is complete, or lost, or the registry has no such thing to say.
            Err(Problem::NotFound | Problem::Status { code: 400..=407 | 409..=424, .. }) => {
                return Ok(State::New);
            }
            other => other?,
        };
        Ok(match received(response.headers()) {
            Some(offset) if offset <= self.descriptor.size => {
                tracing::debug!(offset, "the upload goes on");
                State::Open { location: location(&response)?, offset }
            }
            _ => State::New,
        })
    }

    /// Sends what is missing.
    async fn patch(&mut self, at: Url, offset: u64) -> Result<State, Problem> {
        let size = self.descriptor.size;
        let mut headers = HeaderMap::new();
        if offset > 0 {
            let range = HeaderValue::from_str(&format!("{offset}-{}", size - 1));
            headers.insert(CONTENT_RANGE, range.expect("digits are valid in a header"));
        }
        let response = self.stream(Method::PATCH, at, offset, headers).await?;
        let offset = match received(response.headers()) {
            Some(reached) if reached <= offset || reached > size => {
                return Err(Problem::Invalid(format!(
                    "sent the bytes {offset} to {size} of an upload, the registry has {reached}"
                )));
            }
            Some(reached) => reached,
            None => size,
        };
        Ok(State::Open { location: location(&response)?, offset })
    }

    /// Ends the upload: sends what is missing, and says what all of it is.
    async fn put(&mut self, mut at: Url, offset: u64) -> Result<Pushed, Problem> {
        at.query_pairs_mut().append_pair("digest", &self.descriptor.digest.to_string());
        self.stream(Method::PUT, at, offset, HeaderMap::new()).await?;
        Ok(Pushed::Uploaded)
    }

    /// Sends the bytes from `offset` to the end.
    async fn stream(
        &mut self,
        method: Method,
        at: Url,
        offset: u64,
        mut headers: HeaderMap,
    ) -> Result<Response, Problem> {
        let length = self.descriptor.size - offset;
        let kind = HeaderValue::from_static("application/octet-stream");
        headers.insert(CONTENT_TYPE, kind);
        headers.insert(CONTENT_LENGTH, length.into());
        let reader = self.source.open_at(offset).await.map_err(Problem::Source)?;
        let (failure, moved) = (Arc::new(Mutex::new(None)), Arc::new(AtomicU64::new(0)));
        let body = pieces(reader, length, failure.clone(), moved.clone());
        let body = reqwest::Body::wrap_stream(body);
        self.sent = true;
        // Until the registry says something, what came of it is not known.
        let mut location = at.clone();
        location.set_query(without_digest(&at).as_deref());
        self.state = State::Unclear { location };
        let call = Call { method, url: at, headers, body: Bytes::new() };
        let result = self.operation.upload(call, body, length, &moved).await;
        // If the source failed, what the connection made of it is of no interest.
        match failure.lock().expect("no panic while the lock is held").take() {
            Some(error) => Err(Problem::Source(error)),
            None => result,
        }
    }

    /// What a problem with an upload means, and what is left of the upload after it.
    async fn explained(&mut self, problem: Problem) -> Result<Problem, Problem> {
        let State::Unclear { .. } = self.state else {
            return Ok(problem);
        };
        match problem {
            Problem::NotFound => {
                self.state = State::New;
                Ok(Problem::UploadLost)
            }
            Problem::Status { code: 400..=407 | 409..=424, ref message, .. } => {
                self.state = State::New;
                if message.contains("DIGEST_INVALID") {
                    self.verify_source().await?;
                    return Ok(Problem::Garbled);
                }
                Ok(problem)
            }
            other => Ok(other),
        }
    }

    /// Finds out whether it is the source that is wrong.
    async fn verify_source(&self) -> Result<(), Problem> {
        let mut reader = self.source.open_at(0).await.map_err(Problem::Source)?;
        let (mut hasher, mut buffer) = (Hasher::new(), vec![0; PIECE]);
        loop {
            match reader.read(&mut buffer).await.map_err(Problem::Source)? {
                0 => break,
                count => hasher.update(&buffer[..count]),
            }
        }
        let (expected, actual): (Digest, Digest) = (self.descriptor.digest, hasher.finish());
        if expected == actual {
            return Ok(());
        }
        let text = format!("they have digest {actual}, expected {expected}");
        Err(Problem::Source(io::Error::other(text)))
    }
}

fn post(url: Url) -> Call {
    Call { method: Method::POST, url, headers: HeaderMap::new(), body: Bytes::new() }
}

/// Where an upload goes on.
fn location(response: &Response) -> Result<Url, Problem> {
    let from = response.url();
    let text = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let mut url = match text {
        Some(text) => from.join(text).ok(),
        // An answer to a part of the upload may leave it where it was.
        None if response.status() != StatusCode::CREATED => Some(from.clone()),
        None => None,
    }
    .ok_or_else(|| Problem::Invalid("an upload without a location".into()))?;
    if from.scheme() == "https" && url.scheme() == "http" && url.host() == from.host() {
        // A registry behind a proxy that does not tell it about TLS.
        url.set_scheme("https").expect("from one special scheme to another");
        if url.port() == Some(80) {
            url.set_port(None).expect("it has a host");
        }
    }
    match (from.scheme(), url.scheme()) {
        (_, "https") | ("http", "http") => Ok(url),
        (from, to) => Err(Problem::Invalid(format!("an upload is sent from {from} to {to}"))),
    }
}

/// The query of an upload's address as it was before the digest came to it.
fn without_digest(url: &Url) -> Option<String> {
    let query = url.query()?;
    let kept: Vec<&str> = query.split('&').filter(|part| !part.starts_with("digest=")).collect();
    (!kept.is_empty()).then(|| kept.join("&"))
}

/// How many bytes the registry says that it has: `0-99` for 100 of them.
fn received(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(RANGE)?.to_str().ok()?.trim();
    let (start, end) = text.strip_prefix("bytes=").unwrap_or(text).split_once('-')?;
    match (start.parse().ok()?, end.parse::<u64>().ok()?) {
        // Some registries say this for nothing and others for one byte: then nothing is known.
        (0_u64, 0) => None,
        (0, end) => end.checked_add(1),
        _ => None,
    }
}

/// The pieces of a source of which `length` bytes were promised; a failure is left in `failure`,
/// and `moved` counts what was taken.
fn pieces(
    reader: Box<dyn AsyncRead + Send + Unpin>,
    length: u64,
    failure: Arc<Mutex<Option<io::Error>>>,
    moved: Arc<AtomicU64>,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let fail = move |error: io::Error| {
        let kind = error.kind();
        *failure.lock().expect("no panic while the lock is held") = Some(error);
        Err(kind.into())
    };
    let pieces = ReaderStream::with_capacity(reader, PIECE).map(Some);
    // One more item tells the end, at which a short source is found out.
    pieces.chain(stream::iter([None])).scan((0_u64, false), move |(sent, failed), piece| {
        let item = match piece {
            _ if *failed => None,
            Some(Err(error)) => Some(fail(error)),
            Some(Ok(piece)) => {
                *sent += piece.len() as u64;
                moved.store(*sent, Ordering::Relaxed);
                Some(if *sent > length { fail(changed(length, "more")) } else { Ok(piece) })
            }
            None if *sent < length => Some(fail(changed(length, &sent.to_string()))),
            None => None,
        };
        *failed = matches!(item, Some(Err(_)));
        std::future::ready(item)
    })
}

fn changed(expected: u64, found: &str) -> io::Error {
    io::Error::other(format!("expected {expected} bytes, found {found}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_registry_has_is_read_with_care() {
        let table = [
            ("0-99", Some(100)),
            ("bytes=0-99", Some(100)),
            ("0-0", None),
            ("5-99", None),
            ("0-", None),
            ("x", None),
            ("0-18446744073709551615", None),
        ];
        for (text, expected) in table {
            let headers = HeaderMap::from_iter([(RANGE, HeaderValue::from_static(text))]);
            assert_eq!(received(&headers), expected, "{text}");
        }
        assert_eq!(received(&HeaderMap::new()), None);
    }

    #[test]
    fn the_address_of_an_upload_is_kept() {
        for (address, expected) in [
            ("http://host/up?_state=a%3D&digest=sha256%3A00", Some("_state=a%3D")),
            ("http://host/up?digest=sha256%3A00", None),
            ("http://host/up", None),
        ] {
            let url = Url::parse(address).expect("valid");
            assert_eq!(without_digest(&url).as_deref(), expected, "{address}");
        }
    }
}
