//! Packs: files that hold the bytes of many files, because creating one file each is slow.
//!
//! A pack stays while a layer refers to it, or a [`crate::Keep`] that is older lives: whoever
//! writes one has a keep until the layer is committed.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cofferdam_types::{Digest, Hasher};
use rusqlite::params;

use crate::error::IoContext;
use crate::holds::Object;
use crate::{Content, PackId, Reservation, Result, Store, db};

/// Writes a pack from several threads at once.
#[derive(Debug)]
pub struct SharedPackWriter(Arc<Pack>);

/// A pack that somebody may still write to.
#[derive(Debug)]
struct Pack {
    store: Store,
    file: Mutex<Option<(PackId, Arc<File>)>>,
    end: AtomicU64,
    room: Reservation,
}

impl Drop for Pack {
    fn drop(&mut self) {
        let file = self.file.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some((id, _)) = file
            && let Err(error) = self.store.complete_pack(*id)
        {
            tracing::warn!("pack {id}: {error}");
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Store").field(&self.root()).finish()
    }
}

impl Store {
    /// Starts a pack. Its file is made with the first bytes that go into it.
    pub fn new_pack(&self) -> SharedPackWriter {
        SharedPackWriter(Arc::new(Pack {
            store: self.clone(),
            file: Mutex::default(),
            end: AtomicU64::new(0),
            room: self.reservation(),
        }))
    }

    fn create_pack(&self) -> Result<(PackId, Arc<File>)> {
        let mut holds = self.holds().lock();
        let mut connection = self.db();
        let transaction = db::begin(&mut connection)?;
        let id = PackId(db::next(&transaction)?);
        transaction.execute(
            "INSERT INTO packs (id, number, created, bytes, used) VALUES (?1, ?1, ?2, 0, ?1)",
            [id.0, db::now()],
        )?;
        self.touch_new(&transaction, &mut holds, Object::Pack(id))?;
        let path = self.pack_path(id);
        let mut options = File::options();
        let file = options.read(true).write(true).create_new(true).open(&path);
        let file = file.io("cannot create", &path)?;
        transaction.commit()?;
        Ok((id, Arc::new(file)))
    }

    /// Notes what a pack takes on the disk, now that it is complete.
    fn complete_pack(&self, id: PackId) -> Result<()> {
        let bytes = crate::disk_usage(&self.pack_path(id)).cast_signed();
        let mut connection = self.db();
        let transaction = db::begin(&mut connection)?;
        let number = db::next(&transaction)?;
        transaction.execute(
            "UPDATE packs SET bytes = ?2, number = ?3 WHERE id = ?1",
            params![id.0, bytes, number],
        )?;
        Ok(transaction.commit()?)
    }
}

impl SharedPackWriter {
    /// Reserves room for a file of `size` bytes.
    ///
    /// # Errors
    /// When the pack's file cannot be made, or there is no room.
    pub fn reserve(&self, size: u64) -> Result<PackWriter> {
        let pack = &self.0;
        let (id, file) = {
            let mut made = pack.file.lock().unwrap_or_else(PoisonError::into_inner);
            if made.is_none() {
                *made = Some(pack.store.create_pack()?);
            }
            made.clone().expect("made just above")
        };
        let start = pack.end.fetch_add(size, Ordering::Relaxed);
        pack.room.grow_to(start + size)?;
        let (pack, hasher) = (pack.clone(), Hasher::new());
        Ok(PackWriter { pack, id, file, start, written: 0, limit: Some(size), hasher })
    }

    /// Ends writing with one file of which it is not known how large it will be.
    ///
    /// # Errors
    /// When the pack's file cannot be made.
    pub fn into_stream(self) -> Result<PackWriter> {
        Ok(PackWriter { limit: None, ..self.reserve(0)? })
    }

    /// Puts bytes that are at hand.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn put(&self, data: &[u8]) -> Result<(Content, Digest)> {
        let mut writer = self.reserve(data.len() as u64)?;
        io::Write::write_all(&mut writer, data).io("cannot write", writer.path())?;
        let (content, _, digest) = writer.finish();
        Ok((content, digest))
    }
}

/// Writes the bytes of one file into a pack, and hashes them on the way.
#[derive(Debug)]
pub struct PackWriter {
    pack: Arc<Pack>,
    id: PackId,
    file: Arc<File>,
    start: u64,
    written: u64,
    /// How many bytes there may be, where that is known.
    limit: Option<u64>,
    hasher: Hasher,
}

impl PackWriter {
    /// Where the pack is.
    pub(crate) fn path(&self) -> PathBuf {
        self.pack.store.pack_path(self.id)
    }

    /// Where the first byte is.
    pub fn start(&self) -> Content {
        Content::Pack { pack: self.id, offset: self.start }
    }

    /// Where the bytes are, how many, and their digest.
    pub fn finish(self) -> (Content, u64, Digest) {
        (self.start(), self.written, self.hasher.finish())
    }
}

impl io::Write for PackWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let end = self.written + data.len() as u64;
        match self.limit {
            Some(limit) if end > limit => {
                return Err(io::Error::other("file grew while it was read"));
            }
            Some(_) => {}
            None => self.pack.room.grow_to(self.start + end).map_err(io::Error::other)?,
        }
        self.file.write_all_at(data, self.start + self.written)?;
        self.hasher.update(data);
        self.written = end;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
