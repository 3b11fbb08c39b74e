//! OCI image layouts: images in a directory (OCI image specification, `image-layout.md`).

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cofferdam_registry::{Descriptor, Document, MAX_MANIFEST_SIZE, RawManifest, parse_document};
use cofferdam_types::Digest;

use crate::error::IoContext;
use crate::{Error, Result};

/// The annotation that gives an entry of `index.json` its tag.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A directory with images.
#[derive(Clone, Debug)]
pub struct Layout {
    directory: PathBuf,
}

impl Layout {
    /// Opens a layout.
    ///
    /// # Errors
    /// When the directory is none.
    pub fn open(directory: &Path) -> Result<Self> {
        let path = directory.join("oci-layout");
        let text = fs::read_to_string(&path).io("not an OCI layout, cannot read", &path)?;
        let version = serde_json::from_str::<serde_json::Value>(&text)
            .ok()
            .and_then(|json| Some(json.get("imageLayoutVersion")?.as_str()?.to_owned()));
        match version.as_deref() {
            Some("1.0.0") => Ok(Self { directory: directory.to_owned() }),
            version => Err(Error::Layout {
                path: directory.to_owned(),
                reason: format!("version 1.0.0 expected, found {}", version.unwrap_or("none")),
            }),
        }
    }

    /// What `index.json` has under a digest or else a tag; without both, the only entry, or the
    /// index itself if there are several (one for each platform).
    ///
    /// # Errors
    /// When there is no such entry.
    pub fn find(&self, tag: Option<&str>, digest: Option<&Digest>) -> Result<RawManifest> {
        let path = self.directory.join("index.json");
        let bytes = fs::read(&path).io("cannot read", &path)?;
        let wrong = |reason: String| Error::Layout { path: self.directory.clone(), reason };
        let document = parse_document(OCI_INDEX, &bytes)
            .map_err(|problem| wrong(format!("index.json: {problem}")))?;
        let Document::Index(index) = document else {
            return Err(wrong("index.json is not an index".into()));
        };
        let tag_of = |entry: &Descriptor| entry.annotations.get(REF_NAME).cloned();
        if let Some(entry) = index.manifests.iter().find(|entry| Some(&entry.digest) == digest) {
            return self.manifest(entry);
        }
        let entry = match tag {
            None if index.manifests.len() == 1 => &index.manifests[0],
            None => {
                let descriptor = Descriptor::of(OCI_INDEX, &bytes);
                return Ok(RawManifest { descriptor, bytes: bytes.into() });
            }
            Some(tag) => index
                .manifests
                .iter()
                .find(|entry| {
                    tag_of(entry).is_some_and(|name| {
                        name == tag || name.rsplit(':').next().is_some_and(|last| last == tag)
                    })
                })
                .ok_or_else(|| {
                    let tags: Vec<_> = index.manifests.iter().filter_map(tag_of).collect();
                    match tags.as_slice() {
                        [] => wrong(format!("no image `{tag}`: its images have no names")),
                        tags => wrong(format!("no image `{tag}`; there are: {}", tags.join(", "))),
                    }
                })?,
        };
        self.manifest(entry)
    }

    /// Reads a manifest or index, which must have the digest that the descriptor says.
    ///
    /// # Errors
    /// When it is missing, too large or not what it should be.
    pub fn manifest(&self, descriptor: &Descriptor) -> Result<RawManifest> {
        let bytes = self.small_blob(descriptor)?;
        Ok(RawManifest { descriptor: descriptor.clone(), bytes })
    }

    /// Reads a blob that has to fit into memory; its digest is checked.
    ///
    /// # Errors
    /// When it is missing, too large or not what it should be.
    pub fn small_blob(&self, descriptor: &Descriptor) -> Result<Bytes> {
        let path = self.blob_path(&descriptor.digest);
        let mut bytes = Vec::new();
        let file = File::open(&path).io("cannot open", &path)?;
        file.take(MAX_MANIFEST_SIZE + 1).read_to_end(&mut bytes).io("cannot read", &path)?;
        let actual = Digest::of(&bytes);
        if actual != descriptor.digest {
            return Err(Error::Layout {
                path,
                reason: format!("expected {}, its digest is {actual}", descriptor.digest),
            });
        }
        Ok(bytes.into())
    }

    /// Where a blob is.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.directory.join("blobs/sha256").join(digest.hex())
    }
}
