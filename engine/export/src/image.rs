//! Builds an image as blobs of the store: configs, manifests and an index, around the layers that
//! `layers` packs. Where the image goes is for `push` and `layout`.

use std::collections::HashSet;

use cofferdam_registry::Descriptor;
use cofferdam_store::{ImageRecord, Snapshot, Store};
use cofferdam_types::{Digest, Platform};

use crate::annotations::{Annotations, ForPlatform};
use crate::compress::Compression;
use crate::config::{ConfigLayer, complete};
use crate::layers::{Packed, pack};
use crate::manifest::{self, Types};
use crate::{Error, Progress, Result};

/// The layers and the config of one platform.
#[derive(Clone, Debug)]
pub struct PlatformImage {
    /// The platform.
    pub platform: Platform,
    /// The layers.
    pub snapshot: Snapshot,
    /// The image config as JSON; empty for the default one.
    pub config: Vec<u8>,
}

/// How an image is made.
#[derive(Clone, Debug)]
pub struct ImageOptions {
    /// How layers are compressed that no registry gave. zstd implies OCI's media types.
    pub compression: Compression,
    /// Compresses layers that a registry gave anew where they are compressed otherwise.
    pub force_compression: bool,
    /// OCI's media types rather than Docker's.
    pub oci_media_types: bool,
    /// An index even for one platform.
    pub multi_platform: bool,
    /// The time that the image was created at, in seconds since 1970; no time in a config is
    /// later. Otherwise times are those at which the layers were made.
    pub source_date_epoch: Option<i64>,
    /// Makes files of layers that no registry gave not younger than `source_date_epoch`.
    pub rewrite_timestamp: bool,
    /// Annotations, which Docker's media types do not have.
    pub annotations: Annotations,
}

impl Default for ImageOptions {
    fn default() -> Self {
        Self {
            compression: Compression::GZIP,
            force_compression: false,
            oci_media_types: true,
            multi_platform: false,
            source_date_epoch: None,
            rewrite_timestamp: false,
            annotations: Annotations::default(),
        }
    }
}

impl ImageOptions {
    /// No file of a layer that no registry gave is younger.
    pub(crate) fn latest(&self) -> Option<i64> {
        self.source_date_epoch.filter(|_| self.rewrite_timestamp)
    }
}

/// An image whose blobs are all in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuiltImage {
    /// The index, or the manifest of an image without one.
    pub descriptor: Descriptor,
    /// The manifests, in the order of the platforms.
    pub manifests: Vec<BuiltManifest>,
    /// When the newest of the images was created (RFC 3339), where that is known.
    pub created: Option<String>,
}

/// The image of one platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuiltManifest {
    /// The manifest, with its platform if it is in an index.
    pub descriptor: Descriptor,
    /// The config.
    pub config: Descriptor,
    /// The layers, the lowest first.
    pub layers: Vec<BuiltLayer>,
}

/// A layer of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuiltLayer {
    /// The blob.
    pub descriptor: Descriptor,
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Repository that the blob was pulled from (`registry/repository`), or empty.
    pub origin: String,
}

impl BuiltImage {
    /// What the store remembers under the image's name.
    pub fn record(&self) -> ImageRecord {
        let Descriptor { digest, media_type, size, .. } = self.descriptor.clone();
        let manifests = self.manifests.iter().map(|manifest| manifest.descriptor.digest);
        let others = self.blobs().into_iter().map(|(blob, _)| blob.digest);
        let blobs = [digest].into_iter().chain(manifests).chain(others).collect();
        ImageRecord { digest, media_type, size, blobs }
    }

    /// The image's descriptor with what an `index.json` says of it besides.
    pub fn described(&self) -> Descriptor {
        let mut descriptor = self.descriptor.clone();
        if let Some(created) = &self.created {
            let key = "org.opencontainers.image.created".to_owned();
            descriptor.annotations.entry(key).or_insert_with(|| created.clone());
        }
        descriptor
    }

    /// Bytes of all that the image consists of, as it is packed: index, manifests, configs and
    /// layers, each once.
    pub fn size(&self) -> u64 {
        let mut seen = HashSet::from([self.descriptor.digest]);
        let manifests = self.manifests.iter().map(|manifest| &manifest.descriptor);
        let others = manifests.chain(self.blobs().into_iter().map(|(blob, _)| blob));
        let others = others.filter(|blob| seen.insert(blob.digest)).map(|blob| blob.size);
        self.descriptor.size + others.sum::<u64>()
    }

    /// Whether the image has an index.
    pub(crate) fn has_index(&self) -> bool {
        self.manifests.iter().all(|manifest| manifest.descriptor.digest != self.descriptor.digest)
    }

    /// Configs and layers, each once, with the repository that each was pulled from.
    pub(crate) fn blobs(&self) -> Vec<(&Descriptor, &str)> {
        let mut seen = HashSet::new();
        let configs = self.manifests.iter().map(|manifest| (&manifest.config, ""));
        let layers = self.manifests.iter().flat_map(|manifest| &manifest.layers);
        configs
            .chain(layers.map(|layer| (&layer.descriptor, layer.origin.as_str())))
            .filter(|(descriptor, _)| seen.insert(descriptor.digest))
            .collect()
    }
}

/// Makes an image of one or several platforms. It blocks: call it where that is allowed.
///
/// The result depends on layers, configs and options alone: where the layers are the same ones,
/// it is the same image. `progress` is told of each layer that is packed.
///
/// # Errors
/// When there is no platform, the options contradict each other, a config is not valid, or a
/// layer cannot be read or written.
pub fn build_image(
    store: &Store,
    images: &[PlatformImage],
    options: &ImageOptions,
    progress: &Progress,
) -> Result<BuiltImage> {
    let with_index = options.multi_platform || images.len() > 1;
    let types = check(images, options, with_index)?;
    let packed = pack(store, images, options, progress)?;
    let mut manifests = Vec::new();
    let mut newest: Option<String> = None;
    for image in images {
        let annotations = options.annotations.of(&image.platform);
        let (manifest, created) =
            build_manifest(store, image, options, types, &packed, &annotations)?;
        newest = newest.max(created);
        manifests.push(manifest);
    }
    let descriptor = if with_index {
        for (manifest, image) in manifests.iter_mut().zip(images) {
            manifest.descriptor.platform = Some(image.platform.clone());
        }
        let entries = manifests.iter().map(|manifest| &manifest.descriptor);
        let json = manifest::index(types, entries, &options.annotations.of_index());
        store.put_blob(&json)?;
        let mut descriptor = Descriptor::of(types.index(), &json);
        descriptor.annotations = options.annotations.of_index_descriptor();
        descriptor
    } else {
        manifests[0].descriptor.clone()
    };
    Ok(BuiltImage { descriptor, manifests, created: newest })
}

fn check(images: &[PlatformImage], options: &ImageOptions, with_index: bool) -> Result<Types> {
    let wrong = |reason: String| Err(Error::Options(reason));
    if images.is_empty() {
        return wrong("an image needs at least one platform".into());
    }
    if !options.compression.is_valid() {
        let (name, levels) = match options.compression {
            Compression::Gzip { .. } => ("gzip", "0 to 9"),
            _ => ("zstd", "0 to 22"),
        };
        return wrong(format!("invalid compression level for {name}: expected {levels}"));
    }
    let mut platforms = HashSet::new();
    for image in images {
        if !platforms.insert(&image.platform) {
            return wrong(format!("platform {} is there twice", image.platform));
        }
    }
    let annotations = &options.annotations;
    if annotations.need_index() && !with_index {
        return wrong("annotations of the index: the image has no index".into());
    }
    if let Some(platform) = annotations.platforms().find(|wanted| !platforms.contains(wanted)) {
        return wrong(format!("annotation for the platform {platform}, which is not built"));
    }
    let zstd = matches!(options.compression, Compression::Zstd { .. });
    if options.oci_media_types || zstd {
        return Ok(Types::Oci);
    }
    if !annotations.is_empty() {
        return wrong("annotations need OCI media types".into());
    }
    Ok(Types::Docker)
}

fn build_manifest(
    store: &Store,
    image: &PlatformImage,
    options: &ImageOptions,
    types: Types,
    packed: &Packed,
    annotations: &ForPlatform,
) -> Result<(BuiltManifest, Option<String>)> {
    let wrong = |reason| Error::Config { platform: image.platform.to_string(), reason };
    let (mut layers, mut of_config) = (Vec::new(), Vec::new());
    for id in image.snapshot.layers() {
        let blob = &packed[&id];
        let created = store.layer_created(id)?;
        of_config.push(ConfigLayer { diff_id: blob.diff_id, created });
        layers.push(BuiltLayer {
            descriptor: Descriptor::new(types.layer(&blob.media_type), blob.digest, blob.size),
            diff_id: blob.diff_id,
            origin: blob.origin.clone(),
        });
    }
    let config = complete(&image.config, &image.platform, &of_config, options.source_date_epoch)
        .map_err(wrong)?;
    store.put_blob(&config.json)?;
    let config_descriptor = Descriptor::of(types.config(), &config.json);
    let descriptors = layers.iter().map(|layer| &layer.descriptor);
    let json = manifest::manifest(types, &config_descriptor, descriptors, &annotations.manifest);
    store.put_blob(&json)?;
    let mut descriptor = Descriptor::of(types.manifest(), &json);
    descriptor.annotations = annotations.descriptor.clone();
    let built = BuiltManifest { descriptor, config: config_descriptor, layers };
    Ok((built, config.created))
}
