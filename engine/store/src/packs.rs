//! Packs: files that hold the bytes of many files, because creating one file each is slow.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use cofferdam_types::{Digest, Hasher};

use crate::error::IoContext;
use crate::{Content, PackId, Result, Store};

/// Writes a pack from several threads at once.
#[derive(Debug)]
pub struct SharedPackWriter {
    store: Store,
    pack: Mutex<Option<(PackId, Arc<File>)>>,
    end: AtomicU64,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Store").field(&self.root()).finish()
    }
}

impl Store {
    /// Starts a pack. Its file is made with the first bytes that go into it.
    pub fn new_pack(&self) -> SharedPackWriter {
        SharedPackWriter { store: self.clone(), pack: Mutex::default(), end: AtomicU64::new(0) }
    }
}

impl SharedPackWriter {
    /// Reserves room for a file of `size` bytes.
    ///
    /// # Errors
    /// When the pack's file cannot be made.
    pub fn reserve(&self, size: u64) -> Result<PackWriter> {
        let mut pack = self.pack.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (id, file) = match &*pack {
            Some((id, file)) => (*id, file.clone()),
            None => {
                let id = PackId(self.store.next_id()?);
                let path = self.store.pack_path(id);
                let file = File::options()
                    .read(true)
                    .write(true)
                    .create_new(true)
                    .open(&path)
                    .io("cannot create", &path)?;
                let file = Arc::new(file);
                *pack = Some((id, file.clone()));
                (id, file)
            }
        };
        let start = self.end.fetch_add(size, Ordering::Relaxed);
        Ok(PackWriter { id, file, start, written: 0, limit: size, hasher: Hasher::new() })
    }

    /// Puts bytes that are at hand.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn put(&self, data: &[u8]) -> Result<(Content, Digest)> {
        let mut writer = self.reserve(data.len() as u64)?;
        let path = self.store.pack_path(writer.id);
        io::Write::write_all(&mut writer, data).io("cannot write", &path)?;
        let (content, _, digest) = writer.finish();
        Ok((content, digest))
    }
}

/// Writes the bytes of one file into a pack, and hashes them on the way.
#[derive(Debug)]
pub struct PackWriter {
    id: PackId,
    file: Arc<File>,
    start: u64,
    written: u64,
    limit: u64,
    hasher: Hasher,
}

impl PackWriter {
    /// Where the bytes are, how many, and their digest.
    pub fn finish(self) -> (Content, u64, Digest) {
        let content = Content::Pack { pack: self.id, offset: self.start };
        (content, self.written, self.hasher.finish())
    }
}

impl io::Write for PackWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if data.len() as u64 > self.limit - self.written {
            return Err(io::Error::other("file grew while it was read"));
        }
        self.file.write_all_at(data, self.start + self.written)?;
        self.hasher.update(data);
        self.written += data.len() as u64;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
