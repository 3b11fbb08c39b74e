//! The JSON of manifests and indexes, laid out as BuildKit does: indented by two spaces, keys in
//! the order of the Go types (OCI image specification, `manifest.md`, `image-index.md`).

use std::collections::BTreeMap;

use cofferdam_registry::{Descriptor, media_type};
use cofferdam_types::{Digest, Platform};
use serde::Serialize;

use crate::compress::Compression;

const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";

/// Whose names the documents of an image go by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Types {
    Oci,
    Docker,
}

impl Types {
    pub(crate) fn config(self) -> &'static str {
        match self {
            Self::Oci => OCI_CONFIG,
            Self::Docker => DOCKER_CONFIG,
        }
    }

    pub(crate) fn manifest(self) -> &'static str {
        match self {
            Self::Oci => media_type::OCI_MANIFEST,
            Self::Docker => media_type::DOCKER_MANIFEST,
        }
    }

    pub(crate) fn index(self) -> &'static str {
        match self {
            Self::Oci => media_type::OCI_INDEX,
            Self::Docker => media_type::DOCKER_INDEX,
        }
    }

    /// The type of a layer, from that of either family. Types of layers that must not be
    /// distributed become ordinary ones, as in BuildKit; types that are not known stay.
    pub(crate) fn layer(self, media_type: &str) -> String {
        let compression = match Compression::of(media_type) {
            Some(Compression::Uncompressed) => "",
            Some(Compression::Gzip { .. }) => "gzip",
            Some(Compression::Zstd { .. }) => "zstd",
            None => return media_type.to_owned(),
        };
        match (self, compression) {
            (Self::Oci, "") => OCI_LAYER.into(),
            (Self::Docker, "") => DOCKER_LAYER.into(),
            (Self::Oci, compression) => format!("{OCI_LAYER}+{compression}"),
            (Self::Docker, compression) => format!("{DOCKER_LAYER}.{compression}"),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WireDescriptor<'a> {
    media_type: &'a str,
    digest: Digest,
    size: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<&'a Platform>,
}

impl<'a> From<&'a Descriptor> for WireDescriptor<'a> {
    fn from(descriptor: &'a Descriptor) -> Self {
        Self {
            media_type: &descriptor.media_type,
            digest: descriptor.digest,
            size: descriptor.size,
            annotations: &descriptor.annotations,
            platform: descriptor.platform.as_ref(),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WireDocument<'a> {
    schema_version: u8,
    media_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<WireDescriptor<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    layers: Option<Vec<WireDescriptor<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    manifests: Option<Vec<WireDescriptor<'a>>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
}

/// The JSON of an image manifest.
pub(crate) fn manifest<'a>(
    types: Types,
    config: &Descriptor,
    layers: impl Iterator<Item = &'a Descriptor>,
    annotations: &BTreeMap<String, String>,
) -> Vec<u8> {
    pretty(&WireDocument {
        schema_version: 2,
        media_type: types.manifest(),
        config: Some(config.into()),
        layers: Some(layers.map(Into::into).collect()),
        manifests: None,
        annotations,
    })
}

/// The JSON of an image index.
pub(crate) fn index<'a>(
    types: Types,
    manifests: impl Iterator<Item = &'a Descriptor>,
    annotations: &BTreeMap<String, String>,
) -> Vec<u8> {
    pretty(&WireDocument {
        schema_version: 2,
        media_type: types.index(),
        config: None,
        layers: None,
        manifests: Some(manifests.map(Into::into).collect()),
        annotations,
    })
}

fn pretty(document: &WireDocument<'_>) -> Vec<u8> {
    serde_json::to_vec_pretty(document).expect("strings, numbers and maps of strings serialise")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layer_types_convert() {
        let cases = [
            ("application/vnd.oci.image.layer.v1.tar", "", ""),
            ("application/vnd.docker.image.rootfs.diff.tar", "", ""),
            ("application/vnd.oci.image.layer.v1.tar+gzip", "+gzip", ".gzip"),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", "+gzip", ".gzip"),
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "+gzip", ".gzip"),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", "+zstd", ".zstd"),
            ("application/vnd.docker.image.rootfs.diff.tar.zstd", "+zstd", ".zstd"),
        ];
        for (from, oci, docker) in cases {
            assert_eq!(Types::Oci.layer(from), format!("{OCI_LAYER}{oci}"));
            assert_eq!(Types::Docker.layer(from), format!("{DOCKER_LAYER}{docker}"));
        }
        assert_eq!(Types::Oci.layer("application/wasm"), "application/wasm");
    }
}
