//! Writes an image as an OCI layout (OCI image specification, `image-layout.md`), into an
//! archive or a directory.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use cofferdam_registry::{Descriptor, Reference};
use cofferdam_store::{Attributes, Store};

use crate::error::IoContext;
use crate::image::BuiltImage;
use crate::manifest::{Types, index};
use crate::tar::{Kind, TarWriter};
use crate::{Error, Result};

const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// Writes an image as a tar of an OCI layout. Each name gives an entry in its index.
///
/// What describes the image comes first, then the blobs in the order in which they are named;
/// owners and times are 0, so that equal images are equal archives.
///
/// # Errors
/// When a blob cannot be read, or `out` does not take it.
pub fn write_oci_archive(
    store: &Store,
    image: &BuiltImage,
    names: &[Reference],
    out: &mut dyn Write,
) -> Result<()> {
    let file = Attributes { mode: 0o644, ..Attributes::default() };
    let directory = Attributes { mode: 0o755, ..Attributes::default() };
    let mut tar = TarWriter::new(out, None);
    for (name, contents) in [("oci-layout", LAYOUT), ("index.json", &entry_point(image, names))] {
        let size = contents.len() as u64;
        tar.header(name.as_bytes(), &file, Kind::Regular(size))
            .and_then(|()| tar.write_all(contents))
            .and_then(|()| tar.pad(size))
            .map_err(Error::Output)?;
    }
    for name in ["blobs", "blobs/sha256"] {
        tar.header(name.as_bytes(), &directory, Kind::Directory).map_err(Error::Output)?;
    }
    for blob in all_blobs(image) {
        let mut source = store.open_blob(&blob.digest)?;
        let found = source.metadata().io("cannot stat", store.blob_path(&blob.digest))?.len();
        if found != blob.size {
            return Err(wrong_size(blob, found));
        }
        let path = format!("blobs/sha256/{}", blob.digest.hex());
        tar.header(path.as_bytes(), &file, Kind::Regular(blob.size)).map_err(Error::Output)?;
        let copied = io::copy(&mut source, &mut tar).map_err(Error::Output)?;
        if copied != blob.size {
            return Err(wrong_size(blob, copied));
        }
        tar.pad(blob.size).map_err(Error::Output)?;
    }
    tar.finish().map_err(Error::Output)
}

/// Writes an image as an OCI layout into a directory, which is made if it does not exist. Blobs
/// that are there stay; `index.json` is replaced last, so that it never names what is missing.
///
/// # Errors
/// When a blob cannot be read or the directory cannot be written.
pub fn write_oci_directory(
    store: &Store,
    image: &BuiltImage,
    names: &[Reference],
    dir: &Path,
) -> Result<()> {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).io("cannot create", &blobs)?;
    for blob in all_blobs(image) {
        let target = blobs.join(blob.digest.hex());
        if target.symlink_metadata().is_ok_and(|there| there.len() == blob.size) {
            continue;
        }
        let mut source = store.open_blob(&blob.digest)?;
        replace(&blobs, &target, |file| {
            let copied = io::copy(&mut source, file).io("cannot write", &target)?;
            if copied == blob.size { Ok(()) } else { Err(wrong_size(blob, copied)) }
        })?;
    }
    for (name, contents) in [("oci-layout", LAYOUT), ("index.json", &entry_point(image, names))] {
        let target = dir.join(name);
        replace(dir, &target, |file| file.write_all(contents).io("cannot write", &target))?;
    }
    Ok(())
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
    Error::Entry { path: format!("blobs/sha256/{}", blob.digest.hex()), reason }
}

/// Every blob of an image: what comes later is named by what came before.
fn all_blobs(image: &BuiltImage) -> Vec<&Descriptor> {
    let manifests = image.manifests.iter().map(|manifest| &manifest.descriptor);
    let root = image.has_index().then_some(&image.descriptor);
    root.into_iter().chain(manifests).chain(image.blobs().into_iter().map(|(d, _)| d)).collect()
}

/// The `index.json` of the layout: the image under each of its names.
fn entry_point(image: &BuiltImage, names: &[Reference]) -> Vec<u8> {
    let entry = |name: Option<&Reference>| {
        let mut entry = image.descriptor.clone();
        let annotations = &mut entry.annotations;
        if let Some(created) = &image.created {
            annotations.insert("org.opencontainers.image.created".into(), created.clone());
        }
        if let Some(name) = name {
            annotations.insert("io.containerd.image.name".into(), name.to_string());
            if let Some(tag) = name.tag() {
                annotations.insert("org.opencontainers.image.ref.name".into(), tag.into());
            }
        }
        entry
    };
    let entries: Vec<Descriptor> = if names.is_empty() {
        vec![entry(None)]
    } else {
        names.iter().map(|name| entry(Some(name))).collect()
    };
    index(Types::Oci, entries.iter(), &std::collections::BTreeMap::new())
}
