//! Writes an image as an OCI layout (OCI image specification, `image-layout.md`), into an
//! archive or a directory; for Docker with the `manifest.json` that `docker load` reads.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use cofferdam_registry::{Descriptor, Reference};
use cofferdam_store::{Attributes, Store};
use cofferdam_types::Digest;
use serde::Serialize;

use crate::error::IoContext;
use crate::image::BuiltImage;
use crate::manifest::{Types, index};
use crate::tar::{Kind, TarWriter};
use crate::{Error, Result};

const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// Who is to read a layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayoutFormat {
    /// Whoever reads OCI layouts.
    Oci,
    /// `docker load` too, also that of old versions: an image of one platform.
    Docker,
}

/// An image on its way into a layout.
pub struct ImageLayout<'a> {
    /// Where the blobs are.
    pub store: &'a Store,
    /// The image.
    pub image: &'a BuiltImage,
    /// Each gives an entry in the index of the layout.
    pub names: &'a [Reference],
    /// Who is to read it.
    pub format: LayoutFormat,
    /// Blobs that the reader has already: they are named and left out.
    pub without: HashSet<Digest>,
}

impl ImageLayout<'_> {
    /// Writes a tar of the layout.
    ///
    /// What describes the image comes first, then the blobs in the order in which they are named;
    /// owners and times are 0, so that equal images are equal archives. Blobs go from file to
    /// file inside the kernel where `W` is a file.
    ///
    /// # Errors
    /// When a blob cannot be read, `out` does not take it, or the format cannot hold the image.
    pub fn write_archive<W: Write>(&self, out: &mut W) -> Result<()> {
        let file = Attributes { mode: 0o644, ..Attributes::default() };
        let directory = Attributes { mode: 0o755, ..Attributes::default() };
        let mut tar = TarWriter::new(out);
        for (name, contents) in self.documents()? {
            let size = contents.len() as u64;
            tar.header(name.as_bytes(), &file, Kind::Regular(size))
                .and_then(|()| tar.write_all(&contents))
                .and_then(|()| tar.pad(size))
                .map_err(Error::Output)?;
        }
        for name in ["blobs", "blobs/sha256"] {
            tar.header(name.as_bytes(), &directory, Kind::Directory).map_err(Error::Output)?;
        }
        for blob in self.blobs() {
            let mut source = self.store.open_blob(&blob.digest)?;
            let found = source.metadata().io("cannot stat", self.store.blob_path(&blob.digest))?;
            if found.len() != blob.size {
                return Err(wrong_size(blob, found.len()));
            }
            let path = blob_path(&blob.digest);
            tar.header(path.as_bytes(), &file, Kind::Regular(blob.size)).map_err(Error::Output)?;
            let copied = io::copy(&mut source, tar.inner()).map_err(Error::Output)?;
            if copied != blob.size {
                return Err(wrong_size(blob, copied));
            }
            tar.pad(blob.size).map_err(Error::Output)?;
        }
        tar.finish().map_err(Error::Output)
    }

    /// Writes the layout into a directory, which is made if it does not exist. Blobs that are
    /// there stay; `index.json` is replaced last, so that it never names what is missing.
    ///
    /// # Errors
    /// When a blob cannot be read, the directory cannot be written, or the format cannot hold the
    /// image.
    pub fn write_directory(&self, dir: &Path) -> Result<()> {
        let documents = self.documents()?;
        let blobs = dir.join("blobs/sha256");
        fs::create_dir_all(&blobs).io("cannot create", &blobs)?;
        for blob in self.blobs() {
            let target = blobs.join(blob.digest.hex());
            if target.symlink_metadata().is_ok_and(|there| there.len() == blob.size) {
                continue;
            }
            let mut source = self.store.open_blob(&blob.digest)?;
            replace(&blobs, &target, |file| {
                let copied = io::copy(&mut source, file).io("cannot write", &target)?;
                if copied == blob.size { Ok(()) } else { Err(wrong_size(blob, copied)) }
            })?;
        }
        for (name, contents) in documents.into_iter().rev() {
            let target = dir.join(name);
            replace(dir, &target, |file| file.write_all(&contents).io("cannot write", &target))?;
        }
        Ok(())
    }

    /// What describes the layout, the entry points first.
    fn documents(&self) -> Result<Vec<(&'static str, Vec<u8>)>> {
        let mut documents = vec![("index.json", self.index()), ("oci-layout", LAYOUT.to_vec())];
        if let LayoutFormat::Docker = self.format {
            documents.push(("manifest.json", self.docker_manifest()?));
        }
        Ok(documents)
    }

    /// Every blob of the image: what comes later is named by what came before.
    fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        let manifests = self.image.manifests.iter().map(|manifest| &manifest.descriptor);
        let root = self.image.has_index().then_some(&self.image.descriptor);
        let blobs = self.image.blobs().into_iter().map(|(descriptor, _)| descriptor);
        let all = root.into_iter().chain(manifests).chain(blobs);
        all.filter(|blob| !self.without.contains(&blob.digest))
    }

    /// The `index.json` of the layout: the image under each of its names.
    fn index(&self) -> Vec<u8> {
        let entry = |name: Option<&Reference>| {
            let mut entry = self.image.described();
            if let Some(name) = name {
                let annotations = &mut entry.annotations;
                annotations.insert("io.containerd.image.name".into(), name.to_string());
                if let Some(tag) = name.tag() {
                    annotations.insert("org.opencontainers.image.ref.name".into(), tag.into());
                }
            }
            entry
        };
        let entries: Vec<Descriptor> = if self.names.is_empty() {
            vec![entry(None)]
        } else {
            self.names.iter().map(|name| entry(Some(name))).collect()
        };
        index(Types::Oci, entries.iter(), &BTreeMap::new())
    }

    /// The `manifest.json` of `docker save` (Docker image specification 1.2).
    fn docker_manifest(&self) -> Result<Vec<u8>> {
        #[derive(Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct Entry {
            config: String,
            repo_tags: Vec<String>,
            layers: Vec<String>,
        }
        let manifest = single(self.image)?;
        let entry = Entry {
            config: blob_path(&manifest.config.digest),
            repo_tags: self
                .names
                .iter()
                .filter(|name| name.tag().is_some())
                .map(|name| name.familiar())
                .collect(),
            layers: manifest
                .layers
                .iter()
                .map(|layer| blob_path(&layer.descriptor.digest))
                .collect(),
        };
        Ok(serde_json::to_vec(&[entry]).expect("strings serialise"))
    }
}

/// The one manifest of an image for Docker's archives, which hold no more.
pub(crate) fn single(image: &BuiltImage) -> Result<&crate::BuiltManifest> {
    match image.manifests.as_slice() {
        [only] if !image.has_index() => Ok(only),
        manifests => Err(Error::Options(format!(
            "an archive for Docker holds an image of one platform, not an index of {}; \
             write an OCI archive (type `oci`), or build for one --platform",
            manifests.len()
        ))),
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Puts a file in place as a whole or not at all.
fn replace(dir: &Path, target: &Path, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mut file = tempfile::Builder::new()
        .prefix(".cofferdam-")
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(dir)
        .io("cannot create a file in", dir)?;
    write(file.as_file_mut())?;
    file.persist(target).map_err(|error| error.error).io("cannot write", target)?;
    Ok(())
}

fn wrong_size(blob: &Descriptor, found: u64) -> Error {
    let reason = format!("expected {} bytes, found {found}", blob.size);
    Error::Entry { path: blob_path(&blob.digest), reason }
}
