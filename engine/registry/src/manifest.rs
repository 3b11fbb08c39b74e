//! Descriptors, manifests and indexes as checked values, and the choice of a platform.
//!
//! Pure: bytes in, values out, so that OCI layouts on disk can use it as well. The JSON is
//! parsed by `oci-spec`; Docker's schema 2 types have the same shape and other names. See
//! the OCI image specification, `descriptor.md`, `manifest.md` and `image-index.md`.

use std::collections::BTreeMap;

use bytes::Bytes;
use cofferdam_types::{Digest, Platform};
use oci_spec::image as oci;
use serde::Deserialize;

use crate::error::{Problem, shorten};

/// Media types of manifests and indexes.
pub mod media_type {
    /// An OCI image manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// An OCI image index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// A Docker schema 2 image manifest.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// A Docker schema 2 manifest list.
    pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
}

/// The most bytes that a manifest, index or config may have.
pub const MAX_MANIFEST_SIZE: u64 = 8 << 20;

/// Content by type, digest and size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// The media type of the content.
    pub media_type: String,
    /// The digest of the content.
    pub digest: Digest,
    /// The size of the content in bytes.
    pub size: u64,
    /// The platform, for the entries of an index.
    pub platform: Option<Platform>,
    /// Arbitrary metadata.
    pub annotations: BTreeMap<String, String>,
}

/// An image manifest: a config and layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The image's configuration, or an artifact's.
    pub config: Descriptor,
    /// The layers, the lowest first.
    pub layers: Vec<Descriptor>,
    /// The type of an artifact that is not an image.
    pub artifact_type: Option<String>,
    /// Arbitrary metadata.
    pub annotations: BTreeMap<String, String>,
}

/// An image index: manifests, usually one per platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// The manifests, in the order of the index.
    pub manifests: Vec<Descriptor>,
    /// Arbitrary metadata.
    pub annotations: BTreeMap<String, String>,
}

/// What a manifest document can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Manifest(Box<Manifest>),
    /// Several images.
    Index(Index),
}

/// A manifest document as it is in a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawManifest {
    /// Media type, digest and size of the bytes.
    pub descriptor: Descriptor,
    /// The bytes, whose digest has been verified.
    pub bytes: Bytes,
}

impl Descriptor {
    /// Describes content without platform or annotations.
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            platform: None,
            annotations: BTreeMap::new(),
        }
    }

    /// Describes the bytes at hand.
    pub fn of(media_type: impl Into<String>, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }
}

impl RawManifest {
    /// Parses the bytes according to the media type.
    ///
    /// # Errors
    ///
    /// The type is not one of the four that we know, or the document is not valid.
    pub fn parse(&self) -> Result<Document, Problem> {
        parse_document(&self.descriptor.media_type, &self.bytes)
    }
}

/// Parses an image manifest or index of the given media type, OCI's or Docker's.
///
/// # Errors
///
/// The type is unknown, the JSON does not follow the specification, a digest is not SHA-256,
/// or the document could be read as both a manifest and an index (CVE-2021-41190).
pub fn parse_document(media_type: &str, bytes: &[u8]) -> Result<Document, Problem> {
    let shape = Shape::read(bytes)?;
    if let Some(inner) = &shape.media_type
        && inner != media_type
    {
        return Err(Problem::Invalid(format!(
            "a document of type {:?} says that it is {:?}",
            shorten(media_type),
            shorten(inner)
        )));
    }
    match media_type {
        media_type::OCI_MANIFEST | media_type::DOCKER_MANIFEST => {
            if shape.manifests.is_some() {
                return Err(Problem::Invalid("a manifest with the `manifests` of an index".into()));
            }
            let wire: oci::ImageManifest = from_json(bytes)?;
            Ok(Document::Manifest(Box::new(Manifest {
                config: wire.config().try_into()?,
                layers: wire.layers().iter().map(Descriptor::try_from).collect::<Result<_, _>>()?,
                artifact_type: wire.artifact_type().as_ref().map(ToString::to_string),
                annotations: sorted(wire.annotations()),
            })))
        }
        media_type::OCI_INDEX | media_type::DOCKER_INDEX => {
            if shape.config.is_some() || shape.layers.is_some() {
                return Err(Problem::Invalid("an index with `config` or `layers`".into()));
            }
            let wire: oci::ImageIndex = from_json(bytes)?;
            let manifests = wire.manifests().iter().map(Descriptor::try_from);
            Ok(Document::Index(Index {
                manifests: manifests.collect::<Result<_, _>>()?,
                annotations: sorted(wire.annotations()),
            }))
        }
        other => Err(unsupported(other)),
    }
}

/// Finds the media type of a document that came under a type of `header` from a registry,
/// which may be missing or too general.
pub(crate) fn detect_media_type(header: Option<&str>, bytes: &[u8]) -> Result<String, Problem> {
    if let Some(header) = header
        && is_manifest(header)
    {
        return Ok(header.into());
    }
    let shape = Shape::read(bytes)?;
    match (shape.media_type, header) {
        (Some(inner), _) if is_manifest(&inner) => Ok(inner),
        (Some(other), _) => Err(unsupported(&other)),
        // A type of its own, such as Docker's schema 1.
        (None, Some(header)) if header.starts_with("application/vnd.") => Err(unsupported(header)),
        _ if shape.manifests.is_some() => Ok(media_type::OCI_INDEX.into()),
        _ if shape.config.is_some() && shape.layers.is_some() => {
            Ok(media_type::OCI_MANIFEST.into())
        }
        _ => Err(Problem::Invalid("neither an image manifest nor an image index".into())),
    }
}

/// Whether a media type is that of a manifest or an index.
pub(crate) fn is_manifest(media_type: &str) -> bool {
    use media_type::{DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
    [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_INDEX].contains(&media_type)
}

/// Chooses the entry of an index that suits `platform` best, the first one of equals.
///
/// Attestations (`unknown/unknown`) are passed over. An entry without a platform is taken
/// only where no entry with one suits.
///
/// # Errors
///
/// Nothing suits: the problem lists the platforms that there are.
pub fn select_manifest<'a>(
    index: &'a Index,
    platform: &Platform,
) -> Result<&'a Descriptor, Problem> {
    let images = || index.manifests.iter().filter(|entry| !is_attestation(entry));
    images()
        .filter_map(|entry| {
            let rank = match &entry.platform {
                Some(offered) => platform.match_rank(offered)?,
                None if is_manifest(&entry.media_type) => u32::MAX,
                None => return None,
            };
            Some((rank, entry))
        })
        .min_by_key(|(rank, _)| *rank)
        .map(|(_, entry)| entry)
        .ok_or_else(|| {
            let mut available: Vec<Platform> = Vec::new();
            for offered in images().filter_map(|entry| entry.platform.as_ref()) {
                let offered = offered.clone().normalized();
                if !available.contains(&offered) {
                    available.push(offered);
                }
            }
            Problem::NoPlatform { wanted: Box::new(platform.clone()), available }
        })
}

/// Whether an entry of an index is an attestation that BuildKit put beside an image.
pub fn is_attestation(entry: &Descriptor) -> bool {
    let unknown = |platform: &Platform| platform.os == "unknown";
    entry.platform.as_ref().is_some_and(unknown)
        || entry.annotations.get("vnd.docker.reference.type").map(String::as_str)
            == Some("attestation-manifest")
}

/// The fields by which a document's kind is recognised, whatever else is in it.
#[derive(Deserialize)]
struct Shape {
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
}

impl Shape {
    fn read(bytes: &[u8]) -> Result<Self, Problem> {
        from_json(bytes)
    }
}

fn from_json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Problem> {
    serde_json::from_slice(bytes).map_err(|error| Problem::Invalid(shorten(&error.to_string())))
}

fn unsupported(media_type: &str) -> Problem {
    Problem::Invalid(format!(
        "unsupported media type {:?}: expected an OCI or Docker schema 2 manifest or index",
        shorten(media_type)
    ))
}

fn sorted(
    annotations: &Option<std::collections::HashMap<String, String>>,
) -> BTreeMap<String, String> {
    annotations.iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect()
}

impl TryFrom<&oci::Descriptor> for Descriptor {
    type Error = Problem;

    fn try_from(wire: &oci::Descriptor) -> Result<Self, Problem> {
        let digest = wire.digest().to_string();
        let digest = digest.parse::<Digest>().map_err(|e| Problem::Invalid(e.to_string()))?;
        Ok(Self {
            media_type: wire.media_type().to_string(),
            digest,
            size: wire.size(),
            platform: wire.platform().as_ref().map(|platform| Platform {
                os: platform.os().to_string(),
                architecture: platform.architecture().to_string(),
                variant: platform.variant().clone().unwrap_or_default(),
                os_version: platform.os_version().clone().unwrap_or_default(),
                os_features: platform.os_features().clone().unwrap_or_default(),
            }),
            annotations: sorted(wire.annotations()),
        })
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn entry(n: u8, platform: &str) -> Descriptor {
        let mut entry = Descriptor::new(media_type::OCI_MANIFEST, Digest::from_bytes([n; 32]), 1);
        if !platform.is_empty() {
            let (os, rest) = platform.split_once('/').expect("os/architecture");
            let (architecture, variant) = rest.split_once('/').unwrap_or((rest, ""));
            entry.platform = Some(Platform {
                os: os.into(),
                architecture: architecture.into(),
                variant: variant.into(),
                ..Platform::default()
            });
        }
        entry
    }

    #[test]
    fn the_best_platform_is_selected() {
        let check = |entries: &[&str], want: &str, expected: &str| {
            let manifests: Vec<_> = (0..).zip(entries).map(|(n, text)| entry(n, text)).collect();
            let index = Index { manifests, annotations: BTreeMap::new() };
            let answer = match select_manifest(&index, &want.parse().expect("valid")) {
                Ok(found) => {
                    let at = index.manifests.iter().position(|entry| entry == found);
                    at.expect("from the index").to_string()
                }
                Err(problem) => problem.to_string(),
            };
            assert_eq!(answer, expected, "{entries:?} {want}");
        };
        let common = ["linux/arm64/v8", "linux/amd64", "unknown/unknown", "linux/arm/v6"];
        check(&common, "linux/amd64", "1");
        check(&common, "linux/arm64", "0");
        check(&common, "linux/arm/v7", "3");
        check(&["linux/arm/v5", "linux/arm/v7", "linux/arm/v6"], "linux/arm/v7", "1");
        check(&["linux/386", "linux/amd64"], "linux/amd64", "1");
        check(&["linux/386"], "linux/amd64", "0");
        check(&["", "linux/amd64"], "linux/amd64", "1");
        check(&["linux/arm64", ""], "linux/amd64", "1");
        check(&["wasip1/wasm"], "wasi/wasm", "0");
        check(&["linux/amd64", "linux/amd64"], "linux/amd64", "0");
        check(
            &common,
            "linux/s390x",
            "no image for platform linux/s390x, there is one for: linux/arm64, linux/amd64, \
             linux/arm/v6",
        );
        check(
            &[],
            "linux/amd64",
            "no image for platform linux/amd64, there is one for: no platform",
        );
    }

    fn check(media_type: &str, json: &str, expected: Expect) {
        let answer = match parse_document(media_type, json.as_bytes()) {
            Ok(Document::Manifest(manifest)) => {
                format!("manifest {} layers", manifest.layers.len())
            }
            Ok(Document::Index(index)) => format!("index {} manifests", index.manifests.len()),
            Err(problem) => problem.to_string(),
        };
        expected.assert_eq(&answer);
    }

    #[test]
    fn documents_are_checked() {
        let descriptor =
            format!(r#"{{"mediaType": "x/y", "digest": "{}", "size": 1}}"#, Digest::of(b"x"));
        let manifest =
            format!(r#"{{"schemaVersion": 2, "config": {descriptor}, "layers": [{descriptor}]}}"#);
        let index = format!(r#"{{"schemaVersion": 2, "manifests": [{descriptor}]}}"#);
        let both = format!(
            r#"{{"schemaVersion": 2, "config": {descriptor}, "layers": [], "manifests": []}}"#
        );
        let strange = index.replace("sha256:", "sha512:");
        let negative = index.replace("\"size\": 1", "\"size\": -1");
        check(media_type::OCI_MANIFEST, &manifest, expect!["manifest 1 layers"]);
        check(media_type::DOCKER_MANIFEST, &manifest, expect!["manifest 1 layers"]);
        check(media_type::OCI_INDEX, &index, expect!["index 1 manifests"]);
        check(media_type::DOCKER_INDEX, &index, expect!["index 1 manifests"]);
        check(media_type::OCI_INDEX, &both, expect!["invalid: an index with `config` or `layers`"]);
        check(
            media_type::OCI_MANIFEST,
            &both,
            expect!["invalid: a manifest with the `manifests` of an index"],
        );
        check(
            media_type::OCI_INDEX,
            &format!(r#"{{"mediaType": "{}"}}"#, media_type::DOCKER_INDEX),
            expect![[
                r#"invalid: a document of type "application/vnd.oci.image.index.v1+json" says that it is "application/vnd.docker.distribution.manifest.list.v2+json""#
            ]],
        );
        check(
            "application/vnd.docker.distribution.manifest.v1+prettyjws",
            "{}",
            expect![[
                r#"invalid: unsupported media type "application/vnd.docker.distribution.manifest.v1+prettyjws": expected an OCI or Docker schema 2 manifest or index"#
            ]],
        );
        for bad in ["", "{}", "[]", "null", &strange, &negative, &"[".repeat(10_000)] {
            assert!(parse_document(media_type::OCI_INDEX, bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn general_types_are_detected() {
        let check = |header: Option<&str>, json: &str, expected: &str| {
            let answer = detect_media_type(header, json.as_bytes());
            let answer = answer.unwrap_or_else(|problem| problem.to_string());
            assert!(answer.starts_with(expected), "{header:?} {json}: {answer}");
        };
        let typed = format!(r#"{{"mediaType": "{}"}}"#, media_type::DOCKER_INDEX);
        check(Some(media_type::DOCKER_MANIFEST), "", media_type::DOCKER_MANIFEST);
        check(Some("application/json"), &typed, media_type::DOCKER_INDEX);
        check(None, &typed, media_type::DOCKER_INDEX);
        check(None, r#"{"manifests": []}"#, media_type::OCI_INDEX);
        check(Some("text/plain"), r#"{"config": {}, "layers": []}"#, media_type::OCI_MANIFEST);
        check(None, "{}", "invalid: neither");
        check(Some("application/vnd.x"), r#"{"manifests": []}"#, "invalid: unsupported");
        check(None, r#"{"mediaType": "a/b"}"#, "invalid: unsupported");
    }
}
