//! What is known of the files of a local directory, so that unchanged files are not read again.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cofferdam_types::Digest;
use serde::{Deserialize, Serialize};

use crate::content::parallel;
use crate::error::IoContext;
use crate::holds::Object;
use crate::{Content, Error, PackId, Result, Store, sealed};

/// How old a change must be when a file is read for the file to be known by its times. Kernels
/// before 6.13, and some file systems, count time in ticks of up to 10 ms.
const TICK: Duration = Duration::from_millis(20);
/// After how many bytes that were read it is told how many there are.
const REPORTED: u64 = 16 << 20;

/// What tells that a file did not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatKey {
    dev: u64,
    ino: u64,
    size: u64,
    mtime: i64,
    ctime: i64,
}

impl StatKey {
    /// Whether the last change was before a time since 1970.
    fn is_older(&self, time: Duration) -> bool {
        i128::from(self.mtime.max(self.ctime)) < time.as_nanos().cast_signed()
    }

    /// Takes what is needed from a file's metadata.
    pub fn of(metadata: &fs::Metadata) -> Self {
        let nanos =
            |seconds: i64, nanos: i64| seconds.wrapping_mul(1_000_000_000).wrapping_add(nanos);
        Self {
            dev: metadata.dev(),
            ino: metadata.ino(),
            size: metadata.size(),
            mtime: nanos(metadata.mtime(), metadata.mtime_nsec()),
            ctime: nanos(metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// A file of a local directory whose bytes are in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalFile {
    /// When it was read.
    pub stat: StatKey,
    /// Where its bytes are now.
    pub content: Content,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of its bytes.
    pub digest: Digest,
}

/// The files of one local directory, by path.
#[derive(Debug)]
pub struct LocalIndex {
    store: Store,
    path: PathBuf,
    files: HashMap<Box<[u8]>, LocalFile>,
    changed: bool,
}

impl Store {
    /// What is known of the files of `directory`, which should be absolute. An index that is
    /// damaged counts as empty: it is only a cache. The caller has a [`crate::Keep`] until
    /// the files are part of a layer.
    ///
    /// # Errors
    /// When the database fails.
    pub fn local_index(&self, directory: &Path) -> Result<LocalIndex> {
        let name = Digest::of(directory.as_os_str().as_bytes()).hex();
        let path = self.root().join("local").join(name);
        let mut files: HashMap<Box<[u8]>, LocalFile> =
            fs::read(&path).ok().and_then(|bytes| sealed::decode(&bytes).ok()).unwrap_or_default();
        let packs: HashSet<PackId> = files.values().filter_map(LocalFile::pack).collect();
        let packs: Vec<Object> = packs.into_iter().map(Object::Pack).collect();
        let there = self.touch(&packs)?;
        let gone: HashSet<Object> =
            packs.into_iter().zip(there).filter(|(_, there)| !there).map(|(p, _)| p).collect();
        files.retain(|_, file| file.pack().is_some_and(|pack| !gone.contains(&Object::Pack(pack))));
        Ok(LocalIndex { store: self.clone(), path, files, changed: false })
    }
}

impl LocalFile {
    fn pack(&self) -> Option<PackId> {
        match &self.content {
            Content::Pack { pack, .. } => Some(*pack),
            Content::Layer { .. } => None,
        }
    }
}

impl LocalIndex {
    /// The files at these paths, from memory where they are unchanged, else read now, several at
    /// once. Each item is the path as the index knows it, where the file is, and its metadata.
    /// `progress` is told now and then how many bytes were read, of how many.
    ///
    /// # Errors
    /// When a file cannot be read or keeps changing.
    pub fn files(
        &mut self,
        wanted: &[(Box<[u8]>, PathBuf, fs::Metadata)],
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<Vec<LocalFile>> {
        let known = |(path, _, metadata): &(Box<[u8]>, PathBuf, fs::Metadata)| {
            self.files.get(path).filter(|file| file.stat == StatKey::of(metadata)).cloned()
        };
        let results: Vec<Mutex<Option<Result<LocalFile>>>> =
            wanted.iter().map(|file| Mutex::new(known(file).map(Ok))).collect();
        let missing: Vec<usize> = (0..wanted.len())
            .filter(|index| results[*index].lock().is_ok_and(|result| result.is_none()))
            .collect();
        let total = missing.iter().map(|index| wanted[*index].2.len()).sum();
        let (done, pack) = (AtomicU64::new(0), self.store.new_pack());
        let count = |bytes: u64| {
            let before = done.fetch_add(bytes, Ordering::Relaxed);
            if before / REPORTED != (before + bytes) / REPORTED {
                progress(before + bytes, total);
            }
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        parallel(missing.len(), |index| {
            let index = missing[index];
            let result = read(&pack, &wanted[index].1, &count);
            *results[index].lock().expect("nobody panics holding it") = Some(result);
        });
        let files = results
            .into_iter()
            .map(|result| {
                result
                    .into_inner()
                    .expect("nobody panics holding it")
                    .expect("every missing file was read")
            })
            .collect::<Result<Vec<_>>>()?;
        for index in missing {
            // One that was changed just now may change once more and look the same.
            if files[index].stat.is_older(now.saturating_sub(TICK)) {
                self.files.insert(wanted[index].0.clone(), files[index].clone());
                self.changed = true;
            }
        }
        Ok(files)
    }

    /// Writes the index, if anything changed.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self) -> Result<()> {
        if !self.changed {
            return Ok(());
        }
        let bytes = sealed::encode(&self.files)
            .map_err(|reason| Error::Damaged { path: self.path.clone(), reason })?;
        let tmp = self.store.tmp_dir();
        let mut file = tempfile::NamedTempFile::with_prefix_in("local-", tmp)
            .io("cannot create a file in", tmp)?;
        file.write_all(&bytes).io("cannot write", file.path())?;
        file.persist(&self.path).map_err(|error| error.error).io("cannot write", &self.path)?;
        Ok(())
    }
}

/// Reads a file into the pack; again if it changed meanwhile.
fn read(pack: &crate::SharedPackWriter, path: &Path, count: &impl Fn(u64)) -> Result<LocalFile> {
    for _ in 0..3 {
        let flags = rustix::fs::OFlags::RDONLY
            | rustix::fs::OFlags::NOFOLLOW
            | rustix::fs::OFlags::NONBLOCK
            | rustix::fs::OFlags::CLOEXEC;
        let file = File::from(
            rustix::fs::open(path, flags, rustix::fs::Mode::empty()).io("cannot open", path)?,
        );
        let before = StatKey::of(&file.metadata().io("cannot stat", path)?);
        let mut writer = pack.reserve(before.size)?;
        let copied = copy(&file, path, &mut writer, count);
        let after = StatKey::of(&file.metadata().io("cannot stat", path)?);
        if before == after {
            copied?;
            let (content, size, digest) = writer.finish();
            return Ok(LocalFile { stat: after, content, size, digest });
        }
    }
    Err(io::Error::other("it keeps changing while it is read")).io("cannot read", path)
}

fn copy(
    mut file: &File,
    path: &Path,
    writer: &mut crate::PackWriter,
    progress: &impl Fn(u64),
) -> Result<()> {
    thread_local! {
        static BUFFER: std::cell::RefCell<Vec<u8>> = std::cell::RefCell::new(vec![0; 256 * 1024]);
    }
    BUFFER.with_borrow_mut(|buffer| {
        loop {
            match file.read(buffer).io("cannot read", path)? {
                0 => return Ok(()),
                count => {
                    writer.write_all(&buffer[..count]).io("cannot write", writer.path())?;
                    progress(count as u64);
                }
            }
        }
    })
}
