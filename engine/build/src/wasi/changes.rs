//! What a WASI step has changed in a directory, as a layer.
//!
//! Found by comparing each path's inode, size and time of change with what they were before.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cofferdam_exec_linux::User;
use cofferdam_store::{
    Attributes, Found, LayerBuilder, Node, NodeKind, SharedPackWriter, Store, Tree,
};

use super::directory::Put;
use crate::Error;

/// Permissions of what a program made.
const FILE_MODE: u32 = 0o644;
const DIRECTORY_MODE: u32 = 0o755;

/// What tells that a file was not touched.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    /// Nanoseconds since 1970; every change of a file's bytes, names or attributes moves it.
    changed: i128,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        let changed =
            i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec());
        Self { inode: metadata.ino(), size: metadata.size(), changed }
    }
}

/// All files of a directory, by path, at one time.
#[derive(Default)]
pub(super) struct Stamps(HashMap<Vec<u8>, Stamp>);

impl Stamps {
    pub(super) fn of(directory: &Path) -> Result<Self, Error> {
        fn walk(
            directory: &Path,
            path: &mut Vec<u8>,
            stamps: &mut HashMap<Vec<u8>, Stamp>,
        ) -> Result<(), Error> {
            for (name, metadata) in entries(directory)? {
                within(path, &name, |path| {
                    stamps.insert(path.clone(), Stamp::of(&metadata));
                    match metadata.is_dir() {
                        true => {
                            walk(&directory.join(std::ffi::OsStr::from_bytes(&name)), path, stamps)
                        }
                        false => Ok(()),
                    }
                })?;
            }
            Ok(())
        }
        let mut stamps = HashMap::new();
        let metadata =
            fs::symlink_metadata(directory).map_err(|error| io_error(directory, error))?;
        stamps.insert(Vec::new(), Stamp::of(&metadata));
        walk(directory, &mut Vec::new(), &mut stamps)?;
        Ok(Self(stamps))
    }
}

/// Calls with `path` extended by a name.
fn within<T>(path: &mut Vec<u8>, name: &[u8], call: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    let length = path.len();
    if length > 0 {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    let result = call(path);
    path.truncate(length);
    result
}

/// What is in a directory, sorted by name.
fn entries(directory: &Path) -> Result<Vec<(Vec<u8>, Metadata)>, Error> {
    let failed = |error| io_error(directory, error);
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        found.push((entry.file_name().into_vec(), entry.metadata().map_err(failed)?));
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(found)
}

fn io_error(path: &Path, source: io::Error) -> Error {
    cofferdam_export::Error::Io {
        action: "cannot read what the step left in",
        path: path.to_owned(),
        source,
    }
    .into()
}

/// Makes a layer of the differences between a directory and what it was.
pub(super) struct Changes<'a> {
    /// Takes the bytes of files.
    pack: SharedPackWriter,
    base: &'a Tree,
    before: &'a Stamps,
    put: &'a Put,
    /// The directories of `put` that the program has put something into.
    used: HashSet<&'a [u8]>,
    owner: &'a User,
    layer: LayerBuilder,
    /// Where the first name of each file is that changed and has several.
    links: HashMap<u64, Vec<u8>>,
}

impl<'a> Changes<'a> {
    pub(super) fn new(
        store: &Store,
        base: &'a Tree,
        before: &'a Stamps,
        put: &'a Put,
        owner: &'a User,
    ) -> Self {
        let (pack, layer) = (store.new_pack(), LayerBuilder::new(Some(base.clone())));
        let (used, links) = (HashSet::new(), HashMap::new());
        Self { pack, base, before, put, used, owner, layer, links }
    }

    /// Finds what is different in the directory.
    pub(super) fn gather(&mut self, directory: &Path) -> Result<(), Error> {
        let put = self.put;
        for path in put.parents.iter().rev() {
            let now = fs::symlink_metadata(directory.join(std::ffi::OsStr::from_bytes(path)));
            let below =
                |used: &&[u8]| used.starts_with(path) && used.get(path.len()) == Some(&b'/');
            if !now.is_ok_and(|now| self.untouched(path, &now)) || self.used.iter().any(below) {
                self.used.insert(path);
            }
        }
        let base = self.base.root();
        self.directory(directory, &mut Vec::new(), base.as_ref())
    }

    pub(super) fn finish(self) -> Node {
        self.layer.finish()
    }

    fn untouched(&self, path: &[u8], now: &Metadata) -> bool {
        self.before.0.get(path) == Some(&Stamp::of(now))
    }

    fn directory(
        &mut self,
        directory: &Path,
        path: &mut Vec<u8>,
        base: Option<&Found<'_>>,
    ) -> Result<(), Error> {
        let now = entries(directory)?;
        for child in base.map(Found::children).unwrap_or_default() {
            within(path, child.name, |path| {
                if self.put.files.contains(path) {
                    return Ok(());
                }
                // What was not written, because a file system cannot have it, is not gone.
                let there = now.binary_search_by(|(name, _)| name[..].cmp(child.name)).is_ok();
                match !there && self.before.0.contains_key(path) {
                    true => Ok(self.layer.remove(path)?),
                    false => Ok::<_, Error>(()),
                }
            })?;
        }
        for (name, metadata) in now {
            let below = base.and_then(|base| base.child(&name));
            let at = directory.join(std::ffi::OsStr::from_bytes(&name));
            within(path, &name, |path| self.entry(&at, path, &metadata, below.as_ref()))?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        at: &Path,
        path: &mut Vec<u8>,
        metadata: &Metadata,
        base: Option<&Found<'_>>,
    ) -> Result<(), Error> {
        if self.put.files.contains(path) {
            return Ok(());
        }
        let untouched = self.untouched(path, metadata);
        if metadata.is_dir() {
            let base = base.filter(|base| base.is_directory());
            if !untouched || self.used.contains(&path[..]) {
                let attributes = self.attributes(metadata, base, DIRECTORY_MODE);
                if base.is_none() {
                    self.layer.remove(path)?;
                }
                self.layer.put_directory(path, attributes)?;
            }
            return self.directory(at, path, base);
        }
        if untouched {
            return Ok(());
        }
        let base = base.filter(|base| !base.is_directory());
        let attributes = self.attributes(metadata, base, FILE_MODE);
        if metadata.is_symlink() {
            let target = fs::read_link(at).map_err(|error| io_error(at, error))?;
            let kind = NodeKind::Symlink(target.into_os_string().into_vec());
            let attributes = Attributes { mode: 0o777, ..attributes };
            return Ok(self.layer.put(path, Node { attributes, kind })?);
        }
        if metadata.nlink() > 1 {
            if let Some(first) = self.links.get(&metadata.ino()) {
                return Ok(self.layer.put_hard_link(path, first)?);
            }
            self.links.insert(metadata.ino(), path.clone());
        }
        let mut file = File::open(at).map_err(|error| io_error(at, error))?;
        let mut writer = self.pack.reserve(metadata.size())?;
        io::copy(&mut file, &mut writer).map_err(|error| io_error(at, error))?;
        let (content, size, digest) = writer.finish();
        Ok(self.layer.put_file(path, attributes, content, size, Some(digest))?)
    }

    /// The attributes of something that changed, or is new.
    fn attributes(&self, metadata: &Metadata, base: Option<&Found<'_>>, mode: u32) -> Attributes {
        let mtime = metadata.mtime().saturating_mul(1_000_000_000);
        let mtime = mtime.saturating_add(metadata.mtime_nsec());
        match base {
            Some(base) => Attributes { mtime, ..base.attributes().clone() },
            None => {
                let User { uid, gid, .. } = *self.owner;
                Attributes { mode, uid, gid, mtime, xattrs: Vec::new() }
            }
        }
    }
}
