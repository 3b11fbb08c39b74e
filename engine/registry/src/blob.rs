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
use oci_client::client::{BlobResponse, SizedStream};
use oci_client::errors::DigestError;
use tokio::io::AsyncRead;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::io::StreamReader;

use crate::client::{Client, Operation};
use crate::error::{Error, Problem, chain};
use crate::manifest::Descriptor;
use crate::pull::{expect_digest, pull_scope};
use crate::reference::Reference;

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
    /// # Errors
    ///
    /// The configuration for this registry is not valid. What happens on the way comes out of
    /// the stream: no such blob, a connection that cannot be resumed, wrong bytes.
    pub fn blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
    ) -> Result<BlobStream, Error> {
        let object = format!("blob {}", descriptor.digest);
        let download = Download {
            operation: self.operation(reference, object, pull_scope(reference))?,
            repository: reference.repository().into(),
            descriptor: descriptor.clone(),
            downloads: self.downloads(),
            permit: None,
            body: None,
            received: 0,
            skip: 0,
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
        Ok(BlobStream { inner: inner.boxed() })
    }
}

struct Download {
    operation: Operation,
    repository: String,
    descriptor: Descriptor,
    downloads: Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
    body: Option<SizedStream>,
    /// Bytes that went out.
    received: u64,
    /// Bytes of the present body that went out already.
    skip: u64,
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
            if !self.operation.again(&problem).await {
                return Err(self.ended_by(problem));
            }
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
        loop {
            match body.next().await {
                Some(Ok(mut chunk)) => {
                    let skipped = self.skip.min(chunk.len() as u64);
                    chunk.advance(usize::try_from(skipped).expect("at most the chunk's length"));
                    self.skip -= skipped;
                    if !chunk.is_empty() {
                        return Ok(chunk);
                    }
                }
                Some(Err(error)) => return Err(self.short(&error)),
                None => return Err(self.short_because(String::new())),
            }
        }
    }

    async fn connect(&mut self) -> Result<(), Problem> {
        let session = self.operation.session().await?;
        let image = self.operation.host.oci_reference(&self.repository);
        let digest = self.descriptor.digest.to_string();
        let (body, skip, expected) = if self.received == 0 {
            let body = session.oci.pull_blob_stream(&image, digest.as_str()).await?;
            (body, 0, self.descriptor.size)
        } else {
            let from = self.received;
            match session.oci.pull_blob_stream_partial(&image, digest.as_str(), from, None).await? {
                BlobResponse::Partial(body) => (body, 0, self.descriptor.size - from),
                BlobResponse::Full(body) => (body, from, self.descriptor.size),
            }
        };
        if let Some(announced) = body.content_length
            && announced != expected
        {
            return Err(Problem::Invalid(format!(
                "expected {expected} bytes, the registry announces {announced}"
            )));
        }
        self.body = Some(body);
        self.skip = skip;
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
        while let Some(Ok(more)) = self.body.as_mut().expect("the chunk came from it").next().await
        {
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
        expect_digest(Some(self.descriptor.digest), actual)
    }

    fn short(&self, error: &std::io::Error) -> Problem {
        // oci-client verifies as well, and takes an early end for a wrong digest.
        let early_end = error.get_ref().is_some_and(|inner| inner.is::<DigestError>());
        let transport = error.get_ref().and_then(|inner| inner.downcast_ref::<reqwest::Error>());
        self.short_because(match transport.and_then(std::error::Error::source) {
            _ if early_end => String::new(),
            // The HTTP client's own message has the URL in it.
            Some(cause) => chain(cause),
            None => "connection failed".into(),
        })
    }

    fn short_because(&self, cause: String) -> Problem {
        Problem::Short { expected: self.descriptor.size, received: self.received, cause }
    }

    /// The last problem, told with how far the blob came.
    fn ended_by(&self, problem: Problem) -> Problem {
        match problem {
            Problem::Connection(cause) if self.received > 0 => self.short_because(cause),
            other => other,
        }
    }
}
