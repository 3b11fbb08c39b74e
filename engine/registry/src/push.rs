//! Blobs and manifests into a registry.
//!
//! Blobs are pushed in one request each, streamed: memory does not grow with their size, and
//! every registry supports it. Manifests are pushed here and not by oci-client, which panics
//! when a manifest is pushed by digest and the registry sends no `Location`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use cofferdam_types::Digest;
use futures::stream::{self, Stream, StreamExt as _};
use oci_client::errors::OciDistributionError;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

use crate::auth::{Scope, error_of};
use crate::client::{Client, Operation};
use crate::error::{Error, Problem};
use crate::manifest::{Descriptor, MAX_MANIFEST_SIZE};
use crate::pull::{digest_header, expect_digest};
use crate::reference::Reference;

/// The size of the pieces that a blob is read in.
const PIECE: usize = 256 << 10;

/// Where the bytes of a blob to push come from.
///
/// A push that breaks off begins again from the start, so a source can be opened repeatedly.
#[async_trait]
pub trait BlobSource: Send + Sync {
    /// Opens the contents at their beginning.
    ///
    /// # Errors
    ///
    /// The contents cannot be read.
    async fn open(&self) -> io::Result<Box<dyn AsyncRead + Send + Unpin>>;
}

#[async_trait]
impl BlobSource for Bytes {
    async fn open(&self) -> io::Result<Box<dyn AsyncRead + Send + Unpin>> {
        Ok(Box::new(io::Cursor::new(self.clone())))
    }
}

#[async_trait]
impl BlobSource for Path {
    async fn open(&self) -> io::Result<Box<dyn AsyncRead + Send + Unpin>> {
        Ok(Box::new(tokio::fs::File::open(self).await?))
    }
}

#[async_trait]
impl BlobSource for PathBuf {
    async fn open(&self) -> io::Result<Box<dyn AsyncRead + Send + Unpin>> {
        self.as_path().open().await
    }
}

/// How a blob got into a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It was there before.
    Existed,
    /// The registry took it from another repository.
    Mounted,
    /// Its bytes were sent.
    Uploaded,
}

impl Client {
    /// Puts a blob into the repository of `reference`, sending it only if it has to be.
    ///
    /// With `mount_from`, a repository in which the blob is, the registry is asked to take it
    /// from there; other registries' repositories are passed over.
    ///
    /// # Errors
    ///
    /// The source cannot be read or is not of the descriptor's size, the registry refuses, or
    /// it cannot be reached.
    pub async fn push_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        source: &(impl BlobSource + ?Sized),
        mount_from: Option<&Reference>,
    ) -> Result<Pushed, Error> {
        let mount_from = mount_from
            .filter(|from| from.registry() == reference.registry())
            .map(|from| from.repository().to_owned())
            .filter(|from| from != reference.repository());
        let scope = Scope { repository: reference.repository().into(), push: true, mount_from };
        let object = format!("blob {}", descriptor.digest);
        let mut operation = self.operation(reference, object, scope.clone())?;
        let _permit = self.uploads().acquire().await.expect("the semaphore is never closed");
        loop {
            match push_once(&mut operation, &scope, descriptor, source).await {
                Ok(pushed) => return Ok(pushed),
                Err(problem) if operation.again(&problem).await => {}
                Err(problem) => return Err(operation.error(problem)),
            }
        }
    }

    /// Puts a manifest or index into a registry, under the reference's digest or else its tag.
    ///
    /// # Errors
    ///
    /// The reference names another digest, the registry refuses, for instance because blobs
    /// of the manifest are missing, or it cannot be reached.
    pub async fn push_manifest(
        &self,
        reference: &Reference,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<Digest, Error> {
        let digest = Digest::of(&bytes);
        let scope =
            Scope { repository: reference.repository().into(), push: true, mount_from: None };
        let object = format!("manifest {}:{}", reference.repository(), reference.manifest_name());
        let mut operation = self.operation(reference, object, scope)?;
        expect_digest(reference.digest(), digest).map_err(|p| operation.error(p))?;
        if bytes.len() as u64 > MAX_MANIFEST_SIZE {
            return Err(operation.error(Problem::TooLarge { limit: MAX_MANIFEST_SIZE }));
        }
        let media_type = HeaderValue::from_str(media_type)
            .map_err(|_| operation.error(Problem::Invalid(format!("media type {media_type:?}"))))?;
        loop {
            match put_once(&mut operation, reference, &media_type, &bytes, digest).await {
                Ok(()) => return Ok(digest),
                Err(problem) if operation.again(&problem).await => {}
                Err(problem) => return Err(operation.error(problem)),
            }
        }
    }
}

async fn push_once(
    operation: &mut Operation,
    scope: &Scope,
    descriptor: &Descriptor,
    source: &(impl BlobSource + ?Sized),
) -> Result<Pushed, Problem> {
    let session = operation.session().await?;
    let image = operation.host.oci_reference(&scope.repository);
    let digest = descriptor.digest.to_string();
    if session.oci.blob_exists(&image, &digest).await? {
        return Ok(Pushed::Existed);
    }
    if let Some(from) = &scope.mount_from {
        let from = operation.host.oci_reference(from);
        // A mount saves time and nothing depends on it: a registry may refuse it because the
        // blob is not there, because we may not read it there, or because it knows no mounts.
        match session.oci.mount_blob(&image, &from, &digest).await {
            Ok(()) => return Ok(Pushed::Mounted),
            Err(error) => tracing::debug!(problem = %Problem::from(error), "no mount"),
        }
    }
    let reader = source.open().await.map_err(Problem::Source)?;
    let failure = Arc::new(Mutex::new(None));
    let body = counted(reader, descriptor.size, failure.clone());
    let result = session.oci.push_blob_stream(&image, body, &digest, Some(descriptor.size)).await;
    // If the source failed, what the connection made of it is of no interest.
    let source_failure = failure.lock().expect("no panic while the lock is held").take();
    match (source_failure, result) {
        (Some(error), _) => Err(Problem::Source(error)),
        (None, Ok(_)) => Ok(Pushed::Uploaded),
        // The blob is in, the registry just does not say where.
        (None, Err(OciDistributionError::RegistryNoLocationError))
            if session.oci.blob_exists(&image, &digest).await? =>
        {
            Ok(Pushed::Uploaded)
        }
        (None, Err(error)) => Err(error.into()),
    }
}

/// The pieces of a source of which `size` bytes were promised; a failure is left in `failure`.
fn counted(
    reader: Box<dyn AsyncRead + Send + Unpin>,
    size: u64,
    failure: Arc<Mutex<Option<io::Error>>>,
) -> impl Stream<Item = Result<Bytes, OciDistributionError>> + Send + 'static {
    let fail = move |error: io::Error| {
        let kind = error.kind();
        *failure.lock().expect("no panic while the lock is held") = Some(error);
        Err(OciDistributionError::IoError(kind.into()))
    };
    let pieces = ReaderStream::with_capacity(reader, PIECE).map(Some);
    // One more item tells the end, at which a short source is found out.
    pieces.chain(stream::iter([None])).scan((0_u64, false), move |(sent, failed), piece| {
        let item = match piece {
            _ if *failed => None,
            Some(Err(error)) => Some(fail(error)),
            Some(Ok(piece)) => {
                *sent += piece.len() as u64;
                Some(if *sent > size { fail(changed(size, "more")) } else { Ok(piece) })
            }
            None if *sent < size => Some(fail(changed(size, &sent.to_string()))),
            None => None,
        };
        *failed = matches!(item, Some(Err(_)));
        std::future::ready(item)
    })
}

fn changed(size: u64, found: &str) -> io::Error {
    io::Error::other(format!("expected {size} bytes, found {found}"))
}

async fn put_once(
    operation: &mut Operation,
    reference: &Reference,
    media_type: &HeaderValue,
    bytes: &Bytes,
    digest: Digest,
) -> Result<(), Problem> {
    let session = operation.session().await?;
    let path = format!("{}/manifests/{}", reference.repository(), reference.manifest_name());
    let mut request = session.http.put(operation.host.url(&path)?);
    request = request.header(CONTENT_TYPE, media_type).body(bytes.clone());
    if let Some(authorization) = &session.authorization {
        request = request.header(AUTHORIZATION, authorization);
    }
    let response = request.send().await?;
    if !response.status().is_success() {
        return Err(error_of(response).await);
    }
    expect_digest(Some(digest), digest_header(response.headers()).unwrap_or(digest))
}
