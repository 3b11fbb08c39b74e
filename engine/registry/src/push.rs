//! Blobs and manifests into a registry. How a blob's bytes get there is told in `upload`.

use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use cofferdam_types::Digest;
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncSeekExt as _};

use crate::auth::Scope;
use crate::client::{Client, Operation};
use crate::error::{Error, Problem};
use crate::manifest::{Descriptor, MAX_MANIFEST_SIZE};
use crate::pull::{blob_name, digest_header, expect_digest, manifest_name};
use crate::reference::Reference;
use crate::transport::Call;
use crate::upload::{State, Upload};

/// Where the bytes of a blob to push come from.
///
/// A push that breaks off goes on from where the registry has it, so a source can be opened
/// repeatedly, and in the middle.
#[async_trait]
pub trait BlobSource: Send + Sync {
    /// Opens the contents at their beginning.
    ///
    /// # Errors
    ///
    /// The contents cannot be read.
    async fn open(&self) -> io::Result<Box<dyn AsyncRead + Send + Unpin>>;

    /// Opens the contents at an offset; by default, reads up to there.
    ///
    /// # Errors
    ///
    /// The contents cannot be read.
    async fn open_at(&self, offset: u64) -> io::Result<Box<dyn AsyncRead + Send + Unpin>> {
        let mut reader = self.open().await?;
        if offset > 0 {
            tokio::io::copy(&mut (&mut reader).take(offset), &mut tokio::io::sink()).await?;
        }
        Ok(reader)
    }
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

    async fn open_at(&self, offset: u64) -> io::Result<Box<dyn AsyncRead + Send + Unpin>> {
        let mut file = tokio::fs::File::open(self).await?;
        file.seek(io::SeekFrom::Start(offset)).await?;
        Ok(Box::new(file))
    }
}

#[async_trait]
impl BlobSource for PathBuf {
    async fn open(&self) -> io::Result<Box<dyn AsyncRead + Send + Unpin>> {
        self.as_path().open().await
    }

    async fn open_at(&self, offset: u64) -> io::Result<Box<dyn AsyncRead + Send + Unpin>> {
        self.as_path().open_at(offset).await
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
        let scope = Scope {
            repository: reference.repository().into(),
            push: true,
            mount_from: mount_from.clone(),
        };
        let _permit = self.uploads().acquire().await.expect("the semaphore is never closed");
        let mut upload = Upload {
            operation: self.push_operation(reference, blob_name(reference, descriptor), scope),
            descriptor,
            source,
            mount_from,
            state: State::New,
            sent: false,
            counted_from: 0,
        };
        let pushed = upload.run().await;
        pushed.map_err(|problem| upload.operation.error(problem))
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
        let mut operation = self.push_operation(reference, manifest_name(reference), scope);
        expect_digest(reference.digest(), digest).map_err(|p| operation.error(p))?;
        if bytes.len() as u64 > MAX_MANIFEST_SIZE {
            return Err(operation.error(Problem::TooLarge { limit: MAX_MANIFEST_SIZE }));
        }
        let media_type = HeaderValue::from_str(media_type)
            .map_err(|_| operation.error(Problem::Invalid(format!("media type {media_type:?}"))))?;
        loop {
            match put_once(&mut operation, reference, &media_type, &bytes, digest).await {
                Ok(()) => return Ok(digest),
                Err(problem) => {
                    operation.again(problem).await.map_err(|problem| operation.error(problem))?;
                }
            }
        }
    }
}

async fn put_once(
    operation: &mut Operation,
    reference: &Reference,
    media_type: &HeaderValue,
    bytes: &Bytes,
    digest: Digest,
) -> Result<(), Problem> {
    let url = operation.url(&format!("manifests/{}", reference.manifest_name())).await?;
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, media_type.clone())]);
    let call = Call { method: Method::PUT, url, headers, body: bytes.clone() };
    let response = operation.send(call).await?;
    expect_digest(Some(digest), digest_header(response.headers()).unwrap_or(digest))
}
