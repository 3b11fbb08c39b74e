//! Blobs: manifests, configs and compressed layers, by digest.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;

use cofferdam_types::{Digest, Hasher};
use rusqlite::params;
use tempfile::NamedTempFile;

use crate::error::IoContext;
use crate::holds::Object;
use crate::{Error, Reservation, Result, Store, db};

/// Writes a blob and hashes it on the way. What is dropped without a commit leaves nothing.
#[derive(Debug)]
pub struct BlobWriter {
    file: NamedTempFile,
    hasher: Hasher,
    size: u64,
    room: Reservation,
    store: Store,
}

impl Write for BlobWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.append(data).map_err(io::Error::other)?;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl BlobWriter {
    /// Writes bytes; unlike [`Write`], says what is wrong with the store.
    ///
    /// # Errors
    /// When there is no room, or the file cannot be written.
    pub fn append(&mut self, data: &[u8]) -> Result<()> {
        self.room.grow_to(self.size + data.len() as u64)?;
        self.file.write_all(data).io("cannot write", self.file.path())?;
        self.hasher.update(data);
        self.size += data.len() as u64;
        Ok(())
    }

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
        let bytes = crate::disk_usage(self.file.path()).cast_signed();
        let mut holds = self.store.holds().lock();
        let mut connection = self.store.db();
        let transaction = db::begin(&mut connection)?;
        let number = db::next(&transaction)?;
        transaction.execute(
            "INSERT INTO blobs (digest, number, created, size, bytes, used)
             VALUES (?1, ?2, ?3, ?4, ?5, ?2)
             ON CONFLICT (digest) DO UPDATE SET number = ?2, bytes = ?5, used = ?2",
            params![actual.as_bytes(), number, db::now(), self.size.cast_signed(), bytes],
        )?;
        self.store.touch_new(&transaction, &mut holds, Object::Blob(actual))?;
        self.file.persist(&target).map_err(|error| error.error).io("cannot write", &target)?;
        transaction.commit()?;
        Ok((actual, self.size))
    }
}

impl Store {
    /// Where the blob is, if it is there.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root().join("blobs/sha256").join(digest.hex())
    }

    /// Whether the blob is there. It then stays for whoever has a [`crate::Keep`].
    ///
    /// # Errors
    /// When the database fails.
    pub fn has_blob(&self, digest: &Digest) -> Result<bool> {
        let blob = Object::Blob(*digest);
        let known = self.touch(&[blob])? == [true];
        if known && !self.is_complete(&blob) {
            self.lose(blob)?;
            return Ok(false);
        }
        Ok(known)
    }

    /// Starts writing a blob.
    ///
    /// # Errors
    /// When no file can be made.
    pub fn new_blob(&self) -> Result<BlobWriter> {
        let tmp = self.tmp_dir();
        let file =
            NamedTempFile::with_prefix_in("blob-", tmp).io("cannot create a file in", tmp)?;
        let room = self.reservation();
        Ok(BlobWriter { file, hasher: Hasher::new(), size: 0, room, store: self.clone() })
    }

    /// Stores bytes that are at hand.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn put_blob(&self, data: &[u8]) -> Result<Digest> {
        let digest = Digest::of(data);
        if self.has_blob(&digest)? {
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

    /// Reads a small blob as a whole; `None` if it is not there or is damaged.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read_blob(&self, digest: &Digest) -> Result<Option<Vec<u8>>> {
        if !self.has_blob(digest)? {
            return Ok(None);
        }
        let path = self.blob_path(digest);
        match fs::read(&path) {
            Ok(bytes) if Digest::of(&bytes) == *digest => Ok(Some(bytes)),
            Ok(_) => self.lose(Object::Blob(*digest)).map(|()| None),
            Err(error) => Err(error).io("cannot read", &path),
        }
    }
}
