//! Pushes an image: blobs in parallel, then the manifests, then what the name points at.

use std::io;
use std::path::PathBuf;

use async_trait::async_trait;
use cofferdam_registry::{BlobSource, Client, Descriptor, Pushed, Reference};
use cofferdam_store::Store;
use cofferdam_types::Digest;
use futures::{StreamExt, TryStreamExt};
use tokio::io::AsyncRead;
use tokio_util::io::InspectReader;

use crate::image::BuiltImage;
use crate::{Progress, Result};

/// Blobs that are asked for at the same time; how many are sent at once is the client's choice.
const CONCURRENT: usize = 16;

/// Puts an image into a registry under `reference`. Layers of images of the same registry are
/// mounted from where they are. `progress` is told of every blob, by its digest.
///
/// # Errors
/// When a blob cannot be read, or the registry refuses or cannot be reached. The name then still
/// points at what it did before.
pub async fn push(
    store: &Store,
    client: &Client,
    reference: &Reference,
    image: &BuiltImage,
    progress: &Progress,
) -> Result<Digest> {
    let blobs = image.blobs();
    futures::stream::iter(blobs)
        .map(|(blob, origin)| push_blob(store, client, reference, blob, origin, progress))
        .buffer_unordered(CONCURRENT)
        .try_collect::<()>()
        .await?;
    if image.has_index() {
        for manifest in &image.manifests {
            let reference = reference.with_digest(manifest.descriptor.digest);
            push_manifest(store, client, &reference, &manifest.descriptor).await?;
        }
    }
    push_manifest(store, client, reference, &image.descriptor).await
}

async fn push_blob(
    store: &Store,
    client: &Client,
    reference: &Reference,
    blob: &Descriptor,
    origin: &str,
    progress: &Progress,
) -> Result<()> {
    let id = blob.digest.to_string();
    progress(&id, 0, blob.size);
    let source = Source {
        path: store.blob_path(&blob.digest),
        id: id.clone(),
        size: blob.size,
        progress: progress.clone(),
    };
    // An origin that does not parse is only a mount less.
    let origin = Reference::parse(origin).ok();
    let pushed = client.push_blob(reference, blob, &source, origin.as_ref()).await?;
    if pushed != Pushed::Uploaded {
        tracing::debug!(blob = %id, ?pushed, "not sent");
    }
    progress(&id, blob.size, blob.size);
    Ok(())
}

async fn push_manifest(
    store: &Store,
    client: &Client,
    reference: &Reference,
    descriptor: &Descriptor,
) -> Result<Digest> {
    let bytes = store
        .read_blob(&descriptor.digest)?
        .ok_or_else(|| crate::Error::NoBlob(descriptor.digest))?;
    Ok(client.push_manifest(reference, &descriptor.media_type, bytes.into()).await?)
}

/// A blob of the store that tells how much of it was read.
struct Source {
    path: PathBuf,
    id: String,
    size: u64,
    progress: Progress,
}

#[async_trait]
impl BlobSource for Source {
    async fn open(&self) -> io::Result<Box<dyn AsyncRead + Send + Unpin>> {
        let file = tokio::fs::File::open(&self.path).await?;
        let (id, size, progress) = (self.id.clone(), self.size, self.progress.clone());
        let mut sent = 0;
        Ok(Box::new(InspectReader::new(file, move |data: &[u8]| {
            let count = data.len() as u64;
            sent += count;
            progress(&id, sent.min(size), size);
        })))
    }
}
