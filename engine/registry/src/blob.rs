//! One blob out of a registry, as a stream that verifies what goes through it.
//!
//! A connection that breaks is resumed where it ended, by `Range`. The digest is computed
//! over all the parts together, and the last bytes are not handed out before it agrees, so
//! that nobody ever holds a complete wrong blob.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use cofferdam_types::Hasher;
use futures::stream::{self, BoxStream, Stream, StreamExt as _, TryStreamExt as _};
use reqwest::header::{CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, Response, StatusCode};
use tokio::io::AsyncRead;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::io::StreamReader;

use crate::client::{Client, Operation};
use crate::error::{Error, Problem};
use crate::manifest::Descriptor;
use crate::pull::{blob_name, expect_digest};
use crate::reference::Reference;
use crate::transport::next_chunk;

/// How much has to come for the attempts to be counted from the beginning again. It bounds
/// the connections that a registry can make us open, to one per this many bytes of the blob.
const PROGRESS: u64 = 1 << 20;

/// The bytes of a blob; ends in an error if they are not the ones that the descriptor names.
///
/// The connection is made when the stream is first polled.
pub struct BlobStream {
    inner: BoxStream<'static, Result<Bytes, Error>>,
}

impl BlobStream {
    /// Reads the stream; errors come as [`std::io::Error`]s that hold an [`Error`].
    pub fn into_reader(self) -> impl AsyncRead + Send + Unpin + 'static {
        StreamReader::new(self.inner.map_err(std::io::Error::other))
    }
}

impl Stream for BlobStream {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.inner.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for BlobStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobStream").finish_non_exhaustive()
    }
}

impl Client {
    /// Fetches a blob from the repository of `reference`, whose tag and digest do not matter.
    ///
    /// At most [`ClientConfig::concurrency`](crate::ClientConfig::concurrency) streams make
    /// progress at the same time, so a stream should be read to its end or dropped.
    ///
    /// What happens on the way comes out of the stream: no such blob, a connection that cannot
    /// be resumed, wrong bytes.
    pub fn blob(&self, reference: &Reference, descriptor: &Descriptor) -> BlobStream {
        let download = Download {
            operation: self.pull_operation(reference, blob_name(reference, descriptor)),
            descriptor: descriptor.clone(),
            downloads: self.downloads(),
            permit: None,
            body: None,
            received: 0,
            skip: 0,
            whole_only: false,
            counted_from: 0,
            hasher: Hasher::new(),
            complete: false,
        };
        let inner = stream::try_unfold(download, |mut download| async move {
            match download.next().await {
                Ok(Some(chunk)) => Ok(Some((chunk, download))),
                Ok(None) => Ok(None),
                Err(problem) => Err(download.operation.error(problem)),
            }
        });
        BlobStream { inner: inner.boxed() }
    }
}

struct Download {
    operation: Operation,
    descriptor: Descriptor,
    downloads: Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
    body: Option<Response>,
    /// Bytes that went out.
    received: u64,
    /// Bytes of the present body that went out already.
    skip: u64,
    /// Whether a part was asked for and refused, so that only the whole is to be had.
    whole_only: bool,
    /// Where the attempts were last counted from.
    counted_from: u64,
    hasher: Hasher,
    complete: bool,
}

impl Download {
    async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        if self.complete {
            return Ok(None);
        }
        if self.descriptor.size == 0 {
            // Nothing to ask for, and a `Range` could not say so.
            self.finish()?;
            return Ok(None);
        }
        loop {
            let problem = match self.receive().await {
                Ok(chunk) => return self.accept(chunk).await.map(Some),
                Err(problem) => problem,
            };
            self.body = None;
            if self.received - self.counted_from >= PROGRESS {
                self.counted_from = self.received;
                self.operation.start_over();
            }
            let problem = self.told(problem);
            self.operation.again(problem).await?;
        }
    }

    /// The next bytes that have not gone out yet, connecting first if need be.
    async fn receive(&mut self) -> Result<Bytes, Problem> {
        if self.permit.is_none() {
            let permit = self.downloads.clone().acquire_owned().await;
            self.permit = Some(permit.expect("the semaphore is never closed"));
        }
        if self.body.is_none() {
            self.connect().await?;
        }
        let body = self.body.as_mut().expect("connected above");
        while let Some(mut chunk) = next_chunk(body, self.operation.patience()).await? {
            let skipped = self.skip.min(chunk.len() as u64);
            chunk.advance(usize::try_from(skipped).expect("at most the chunk's length"));
            self.skip -= skipped;
            if !chunk.is_empty() {
                return Ok(chunk);
            }
        }
        Err(Problem::Connection(String::new()))
    }

    async fn connect(&mut self) -> Result<(), Problem> {
        let from = self.received;
        let path = format!("blobs/{}", self.descriptor.digest);
        let mut headers = HeaderMap::new();
        if from > 0 && !self.whole_only {
            let range = HeaderValue::from_str(&format!("bytes={from}-"));
            headers.insert(RANGE, range.expect("digits are valid in a header"));
        }
        let partial = !headers.is_empty();
        let body = match self.operation.call(Method::GET, &path, headers).await {
            Err(Problem::Status { code: 400 | 405 | 416 | 501, .. }) if partial => {
                self.whole_only = true;
                self.operation.call(Method::GET, &path, HeaderMap::new()).await?
            }
            other => other?,
        };
        let start = if partial && body.status() == StatusCode::PARTIAL_CONTENT {
            let start = range_start(body.headers());
            start.filter(|start| *start <= from).ok_or_else(|| {
                Problem::Invalid(format!("asked for the bytes from {from}, got others"))
            })?
        } else {
            0
        };
        let expected = self.descriptor.size - start;
        if let Some(announced) = body.content_length()
            && announced != expected
        {
            return Err(Problem::Invalid(format!(
                "expected {expected} bytes, the registry announces {announced}"
            )));
        }
        self.body = Some(body);
        self.skip = from - start;
        Ok(())
    }

    /// Accounts for bytes that are to go out, and verifies the whole if they are the last.
    async fn accept(&mut self, chunk: Bytes) -> Result<Bytes, Problem> {
        let size = self.descriptor.size;
        if chunk.len() as u64 > size - self.received {
            return Err(Problem::Long { expected: size });
        }
        self.hasher.update(&chunk);
        self.received += chunk.len() as u64;
        if self.received < size {
            return Ok(chunk);
        }
        self.finish()?;
        // How the connection ends no longer matters, unless there is more.
        let body = self.body.as_mut().expect("the chunk came from it");
        while let Ok(Some(more)) = next_chunk(body, self.operation.patience()).await {
            if !more.is_empty() {
                return Err(Problem::Long { expected: size });
            }
        }
        self.body = None;
        self.permit = None;
        Ok(chunk)
    }

    fn finish(&mut self) -> Result<(), Problem> {
        self.complete = true;
        let actual = std::mem::take(&mut self.hasher).finish();
        let verdict = expect_digest(Some(self.descriptor.digest), actual);
        if let Err(problem) = &verdict {
            self.operation.distrust(problem);
        }
        verdict
    }

    /// A problem on the way, told with how far the blob came.
    fn told(&self, problem: Problem) -> Problem {
        let (expected, received) = (self.descriptor.size, self.received);
        match problem {
            Problem::Connection(cause) if received > 0 || cause.is_empty() => {
                Problem::Short { expected, received, cause }
            }
            Problem::Stalled(_) if received > 0 => {
                Problem::Short { expected, received, cause: problem.to_string() }
            }
            other => other,
        }
    }
}

/// Where the bytes of a partial answer begin: `bytes 100-199/200`.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    text.trim().strip_prefix("bytes")?.trim_start().split('-').next()?.parse().ok()
}
