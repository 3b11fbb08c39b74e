//! Images, from a registry or a layout, into the store: manifests and configs as blobs, layers
//! unpacked while they stream, several at once.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;
use cofferdam_registry::{
    Client, Descriptor, Document, ErrorKind, Manifest, RawManifest, Reference, parse_document,
    select_manifest,
};
use cofferdam_store::{BlobWriter, LayerBlob, Snapshot, Store, UnpackedLayer};
use cofferdam_types::{Digest, Platform};
use futures::{StreamExt, TryStreamExt};
use tokio::sync::mpsc;

use crate::settle::settle;
use crate::unpack::{Form, unpack};
use crate::{Error, Layout, Result};

/// Indexes in indexes that are followed.
const MAX_DEPTH: usize = 4;
/// Layers that are fetched and unpacked at the same time.
const CONCURRENT_LAYERS: usize = 3;
/// Layers of one image. overlayfs takes 500.
const MAX_LAYERS: usize = 500;

/// Is told how many bytes of which blob came, and of how many.
pub type Progress = Arc<dyn Fn(&Digest, u64, u64) + Send + Sync>;

/// Blobs up to this size are fetched to their end after they did not unpack, to find out whether
/// they are what the registry should have sent.
const MAX_AFTER_FAILURE: u64 = 256 << 20;

/// Where an image is.
#[derive(Clone)]
pub enum Origin {
    /// In a registry.
    Registry {
        /// How to talk to it.
        client: Client,
        /// Its name.
        reference: Reference,
    },
    /// In a directory.
    Layout {
        /// The directory.
        layout: Layout,
        /// What errors call it, and the tag or digest that is meant.
        name: String,
        /// Tag in the layout.
        tag: Option<String>,
        /// Digest that the image must have.
        digest: Option<Digest>,
    },
}

impl Origin {
    /// What messages call the image.
    pub fn name(&self) -> String {
        match self {
            Self::Registry { reference, .. } => reference.familiar(),
            Self::Layout { name, .. } => name.clone(),
        }
    }

    /// `registry/repository`, for mounting blobs across repositories; empty for a layout.
    fn repository(&self) -> String {
        match self {
            Self::Registry { reference, .. } => reference.name(),
            Self::Layout { .. } => String::new(),
        }
    }
}

/// An image of one platform whose manifest and config are known.
#[derive(Clone, Debug)]
pub struct ResolvedImage {
    /// Digest of what the name means: an index or the manifest itself.
    pub root: Digest,
    /// Digest of the manifest.
    pub digest: Digest,
    /// The manifest.
    pub manifest: Manifest,
    /// The config, as JSON.
    pub config: Bytes,
    /// Digests of the uncompressed layers, from the config.
    pub diff_ids: Vec<Digest>,
}

impl ResolvedImage {
    /// Identifies the file tree: equal for images with the same layers, whatever their names.
    pub fn chain_id(&self) -> Digest {
        let mut hasher = cofferdam_types::Hasher::new();
        for diff_id in &self.diff_ids {
            hasher.field(diff_id.as_bytes());
        }
        hasher.finish()
    }
}

/// Brings images into a store.
#[derive(Clone)]
pub struct ImageSource {
    store: Store,
}

impl ImageSource {
    /// Brings images into `store`.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Finds an image's manifest and config for a platform. What the store has is not fetched
    /// again; a reference with a digest whose manifest is there needs no network.
    ///
    /// # Errors
    /// When the image does not exist, has nothing for the platform, or cannot be fetched.
    pub async fn resolve(&self, origin: &Origin, platform: &Platform) -> Result<ResolvedImage> {
        let wrong = |reason: String| Error::Image { image: origin.name(), reason };
        let root = self.root(origin).await?;
        let mut raw = root.clone();
        for _ in 0..MAX_DEPTH {
            let problem = |problem: cofferdam_registry::Problem| wrong(problem.to_string());
            let document =
                parse_document(&raw.descriptor.media_type, &raw.bytes).map_err(problem)?;
            let manifest = match document {
                Document::Manifest(manifest) => manifest,
                Document::Index(index) => {
                    let entry = select_manifest(&index, platform).map_err(problem)?;
                    raw = self.manifest(origin, entry).await?;
                    continue;
                }
            };
            let config = self.config(origin, &manifest.config).await?;
            let diff_ids = diff_ids(&config).map_err(wrong)?;
            if diff_ids.len() != manifest.layers.len() {
                return Err(wrong(format!(
                    "its manifest has {} layers, its config {}",
                    manifest.layers.len(),
                    diff_ids.len()
                )));
            }
            if diff_ids.len() > MAX_LAYERS {
                return Err(wrong(format!("it has more than {MAX_LAYERS} layers")));
            }
            return Ok(ResolvedImage {
                root: root.descriptor.digest,
                digest: raw.descriptor.digest,
                manifest: *manifest,
                config,
                diff_ids,
            });
        }
        Err(wrong(format!("more than {MAX_DEPTH} indexes in each other")))
    }

    /// Brings the layers of an image into the store. `progress` is told how many bytes of which
    /// blob came, and of how many. Layers that are not there yet get this form.
    ///
    /// # Errors
    /// When a layer cannot be fetched, is not what its digests say, or does not unpack.
    pub async fn pull(
        &self,
        origin: &Origin,
        image: &ResolvedImage,
        form: Form,
        progress: Progress,
    ) -> Result<Snapshot> {
        let layers: Vec<_> =
            image.manifest.layers.iter().cloned().zip(image.diff_ids.iter().copied()).collect();
        let layers: Vec<UnpackedLayer> = futures::stream::iter(layers)
            .map(|(descriptor, diff_id)| {
                self.layer(origin.clone(), descriptor, diff_id, form, progress.clone())
            })
            .buffered(CONCURRENT_LAYERS)
            .try_collect()
            .await?;
        let (store, diff_ids) = (self.store.clone(), image.diff_ids.clone());
        let settled = tokio::task::spawn_blocking(move || {
            let mut chain = Snapshot::default();
            for (layer, diff_id) in layers.iter().zip(&diff_ids) {
                chain = chain.with(settle(&store, &chain, layer, diff_id)?);
            }
            Ok(chain)
        });
        settled.await.map_err(|error| Error::Image {
            image: origin.name(),
            reason: format!("settling its layers ended: {error}"),
        })?
    }

    async fn root(&self, origin: &Origin) -> Result<RawManifest> {
        let raw = match origin {
            Origin::Layout { layout, tag, digest, name } => {
                let raw = layout.find(tag.as_deref(), digest.as_ref())?;
                match digest {
                    Some(wanted) if *wanted != raw.descriptor.digest => {
                        return Err(Error::Image {
                            image: name.clone(),
                            reason: format!("{wanted} expected, found {}", raw.descriptor.digest),
                        });
                    }
                    _ => raw,
                }
            }
            Origin::Registry { client, reference } => {
                if let Some(raw) = reference.digest().and_then(|digest| self.stored(&digest)) {
                    return Ok(raw);
                }
                let descriptor = client.resolve(reference).await?;
                match self.store.read_blob(&descriptor.digest)? {
                    Some(bytes) => return Ok(RawManifest { descriptor, bytes: bytes.into() }),
                    None => client.manifest(&reference.with_digest(descriptor.digest)).await?,
                }
            }
        };
        self.store.put_blob(&raw.bytes)?;
        Ok(raw)
    }

    /// A manifest that is in the store; its type is what its own JSON says.
    fn stored(&self, digest: &Digest) -> Option<RawManifest> {
        let bytes = self.store.read_blob(digest).ok()??;
        let json: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
        let media_type = json.get("mediaType").and_then(|text| text.as_str()).unwrap_or(
            if json.get("manifests").is_some() {
                cofferdam_registry::media_type::OCI_INDEX
            } else {
                cofferdam_registry::media_type::OCI_MANIFEST
            },
        );
        Some(RawManifest { descriptor: Descriptor::of(media_type, &bytes), bytes: bytes.into() })
    }

    async fn manifest(&self, origin: &Origin, entry: &Descriptor) -> Result<RawManifest> {
        if let Some(bytes) = self.store.read_blob(&entry.digest)? {
            return Ok(RawManifest { descriptor: entry.clone(), bytes: bytes.into() });
        }
        let raw = match origin {
            Origin::Registry { client, reference } => {
                client.manifest(&reference.with_digest(entry.digest)).await?
            }
            Origin::Layout { layout, .. } => layout.manifest(entry)?,
        };
        self.store.put_blob(&raw.bytes)?;
        Ok(raw)
    }

    async fn config(&self, origin: &Origin, descriptor: &Descriptor) -> Result<Bytes> {
        if let Some(bytes) = self.store.read_blob(&descriptor.digest)? {
            return Ok(bytes.into());
        }
        let bytes = match origin {
            Origin::Registry { client, reference } => {
                client.small_blob(reference, descriptor).await?
            }
            Origin::Layout { layout, .. } => layout.small_blob(descriptor)?,
        };
        self.store.put_blob(&bytes)?;
        Ok(bytes)
    }

    async fn layer(
        &self,
        origin: Origin,
        descriptor: Descriptor,
        diff_id: Digest,
        form: Form,
        progress: Progress,
    ) -> Result<UnpackedLayer> {
        if let Some(layer) = self.store.unpacked_layer(&diff_id)? {
            return Ok(layer);
        }
        match self.fetch(&origin, &descriptor, diff_id, form, &progress).await {
            // Bytes that were changed on the way, or are wrong at a mirror, are right next time.
            Err(Error::Registry(error)) if error.kind() == ErrorKind::WrongContents => {
                tracing::debug!(%error, "fetched once more");
                self.fetch(&origin, &descriptor, diff_id, form, &progress).await
            }
            result => result,
        }
    }

    /// Fetches and unpacks a layer at the same time.
    async fn fetch(
        &self,
        origin: &Origin,
        descriptor: &Descriptor,
        diff_id: Digest,
        form: Form,
        progress: &Progress,
    ) -> Result<UnpackedLayer> {
        let store = self.store.clone();
        let name = descriptor.digest.to_string();
        let repository = origin.repository();
        let (sender, receiver) = mpsc::channel(16);
        let blob = descriptor.clone();
        let unpacking = tokio::task::spawn_blocking(move || {
            // Until the layer refers to its blob.
            let _keep = store.keep();
            let writer = store.new_blob()?;
            let mut tee = Tee { receiver, chunk: Bytes::new(), writer, failed: None };
            let unpacked =
                unpack(&store, &name, &mut tee, Some(&diff_id), form).and_then(|unpacked| {
                    // What follows the compressed archive belongs to the blob's digest too.
                    io::copy(&mut tee, &mut io::sink()).map_err(|error| Error::Layer {
                        layer: name.clone(),
                        reason: error.to_string(),
                    })?;
                    Ok(unpacked)
                });
            // A full disk also ends the archive early: the cause goes first.
            if let Some(error) = tee.failed {
                return Err(error.into());
            }
            let unpacked = unpacked?;
            let (digest, size) = tee.writer.commit(Some(&blob.digest))?;
            let record = LayerBlob {
                diff_id,
                digest,
                size,
                media_type: blob.media_type,
                origin: repository,
            };
            store.save_layer_content(unpacked.layer.id(), &diff_id)?;
            store.save_layer_blob(unpacked.layer.id(), "original", &record)?;
            let unpacked = UnpackedLayer { layer: unpacked.layer, implied: unpacked.implied };
            store.save_unpacked_layer(&diff_id, &unpacked)?;
            Ok::<_, Error>(unpacked)
        });
        let feeding = feed(origin, descriptor, sender, &**progress);
        let (fed, unpacked) = tokio::join!(feeding, unpacking);
        // A connection that breaks also ends the archive early: the cause goes first.
        fed?;
        unpacked.map_err(|error| Error::Layer {
            layer: descriptor.digest.to_string(),
            reason: error.to_string(),
        })?
    }
}

/// Sends the bytes of a blob to whoever unpacks it.
async fn feed(
    origin: &Origin,
    descriptor: &Descriptor,
    sender: mpsc::Sender<Bytes>,
    progress: &(dyn Fn(&Digest, u64, u64) + Send + Sync),
) -> Result<()> {
    let mut current = 0;
    let mut send = async |chunk: Bytes| {
        current += chunk.len() as u64;
        progress(&descriptor.digest, current, descriptor.size);
        sender.send(chunk).await.is_ok()
    };
    match origin {
        Origin::Registry { client, reference } => {
            let mut blob = client.blob(reference, descriptor);
            let mut listening = true;
            while let Some(chunk) = blob.try_next().await? {
                if listening {
                    listening = send(chunk).await;
                } else if descriptor.size > MAX_AFTER_FAILURE {
                    // The other side failed and says why.
                    return Ok(());
                }
                // Unpacking may have failed because the bytes are wrong: the end of the stream,
                // where the digest is checked, tells.
            }
        }
        Origin::Layout { layout, .. } => {
            let path = layout.blob_path(&descriptor.digest);
            let failed = |source| Error::Io { action: "cannot read", path: path.clone(), source };
            let file = tokio::fs::File::open(&path).await.map_err(failed)?;
            let mut chunks = tokio_util::io::ReaderStream::with_capacity(file, 256 * 1024);
            while let Some(chunk) = chunks.try_next().await.map_err(failed)? {
                if !send(chunk).await {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// Reads what arrives, and keeps it as a blob on the way.
struct Tee {
    receiver: mpsc::Receiver<Bytes>,
    chunk: Bytes,
    writer: BlobWriter,
    /// Why the blob could not be written.
    failed: Option<cofferdam_store::Error>,
}

impl Read for Tee {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => {
                    if let Err(error) = self.writer.append(&chunk) {
                        let told = io::Error::other(error.to_string());
                        self.failed = Some(error);
                        return Err(told);
                    }
                    self.chunk = chunk;
                }
                None => return Ok(0),
            }
        }
        let count = self.chunk.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.chunk.split_to(count));
        Ok(count)
    }
}

fn diff_ids(config: &[u8]) -> Result<Vec<Digest>, String> {
    #[derive(serde::Deserialize)]
    struct Config {
        rootfs: RootFs,
    }
    #[derive(serde::Deserialize)]
    struct RootFs {
        #[serde(default)]
        diff_ids: Option<Vec<Digest>>,
    }
    serde_json::from_slice::<Config>(config)
        .map(|config| config.rootfs.diff_ids.unwrap_or_default())
        .map_err(|error| format!("its config does not parse: {error}"))
}
