//! Blobs: manifests, configs and compressed layers, by digest.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;

use cofferdam_types::{Digest, Hasher};
use tempfile::NamedTempFile;

use crate::error::IoContext;
use crate::{Error, Result, Store};

/// Writes a blob and hashes it on the way. What is dropped without a commit leaves nothing.
#[derive(Debug)]
pub struct BlobWriter {
    file: NamedTempFile,
    hasher: Hasher,
    size: u64,
    store: Store,
}

impl Write for BlobWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let count = self.file.write(data)?;
        self.hasher.update(&data[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl BlobWriter {
    /// Moves the blob to its place.
    ///
    /// # Errors
    /// When it is not what `expected` says, or cannot be moved.
    pub fn commit(self, expected: Option<&Digest>) -> Result<(Digest, u64)> {
        let actual = self.hasher.finish();
        if let Some(expected) = expected.filter(|expected| **expected != actual) {
            return Err(Error::WrongDigest { expected: *expected, actual });
        }
        let target = self.store.blob_path(&actual);
        self.file.persist(&target).map_err(|error| error.error).io("cannot write", &target)?;
        Ok((actual, self.size))
    }
}

impl Store {
    /// Where the blob is, if it is there.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root().join("blobs/sha256").join(digest.hex())
    }

    /// Whether the blob is there.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.blob_path(digest).exists()
    }

    /// Starts writing a blob.
    ///
    /// # Errors
    /// When no file can be made.
    pub fn new_blob(&self) -> Result<BlobWriter> {
        let tmp = self.tmp_dir();
        let file =
            NamedTempFile::with_prefix_in("blob-", tmp).io("cannot create a file in", tmp)?;
        Ok(BlobWriter { file, hasher: Hasher::new(), size: 0, store: self.clone() })
    }

    /// Stores bytes that are at hand.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn put_blob(&self, data: &[u8]) -> Result<Digest> {
        let digest = Digest::of(data);
        if self.has_blob(&digest) {
            return Ok(digest);
        }
        let mut writer = self.new_blob()?;
        writer.write_all(data).io("cannot write a blob to", self.tmp_dir())?;
        Ok(writer.commit(Some(&digest))?.0)
    }

    /// Opens a blob.
    ///
    /// # Errors
    /// When it is not there.
    pub fn open_blob(&self, digest: &Digest) -> Result<File> {
        let path = self.blob_path(digest);
        File::open(&path).io("cannot open", &path)
    }

    /// Reads a small blob as a whole.
    ///
    /// # Errors
    /// When it is not there.
    pub fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = self.blob_path(digest);
        fs::read(&path).io("cannot read", &path)
    }
}
