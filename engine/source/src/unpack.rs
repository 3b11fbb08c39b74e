//! Unpacks a layer of an image while it streams: every file is hashed on the way, and the digest
//! of the uncompressed archive is checked before the layer is committed.
//!
//! The layer is unpacked on its own into an empty directory. The manifest that grows beside it
//! knows which of its parents are real directories, so no entry is ever written through a
//! symlink. Whiteouts take overlayfs's form.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use cofferdam_store::{
    Attributes, Content, Directory, Layer, LayerDir, Node, NodeKind, Regular, Store,
};
use cofferdam_types::{Digest, Hasher};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, chownat, lsetxattr,
    makedev, mknodat, utimensat,
};
use tar::{Archive, Entry, EntryType};

use crate::error::IoContext;
use crate::{Error, Result};

/// An image layer that is in the store now.
#[derive(Debug)]
pub struct Unpacked {
    /// The layer.
    pub layer: Arc<Layer>,
    /// Digest of the uncompressed archive.
    pub diff_id: Digest,
}

/// Unpacks a tar, compressed with gzip, zstd or not at all, and commits it as a layer.
/// `name` is what errors call it.
///
/// # Errors
/// When the archive is malformed, its uncompressed digest is not `expected`, or the disk is full.
/// Then nothing of it is in the store.
pub fn unpack(
    store: &Store,
    name: &str,
    reader: impl Read + Send,
    expected: Option<&Digest>,
) -> Result<Unpacked> {
    let wrong = |reason: String| Error::Layer { layer: name.to_owned(), reason };
    let mut reader = BufReader::with_capacity(128 * 1024, reader);
    let magic = reader.fill_buf().map_err(|error| wrong(error.to_string()))?;
    let plain: Box<dyn Read + Send + '_> = if magic.starts_with(&[0x1f, 0x8b]) {
        Box::new(flate2::bufread::MultiGzDecoder::new(&mut reader))
    } else if magic.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let mut decoder = zstd::stream::read::Decoder::with_buffer(&mut reader)
            .map_err(|error| wrong(error.to_string()))?;
        // 128 MiB, what the zstd command allows too.
        decoder.window_log_max(27).map_err(|error| wrong(error.to_string()))?;
        Box::new(decoder)
    } else {
        Box::new(&mut reader)
    };
    let dir = store.new_layer_dir()?;
    let (root, diff_id) = std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel(8);
        // Decompressing and hashing on one core, writing files on the other.
        let producer = scope.spawn(move || decompress(plain, &sender));
        let written = write_entries(&dir, receiver, &wrong);
        let diff_id = producer.join().expect("the producer does not panic");
        Ok::<_, Error>((written?, diff_id.map_err(|error| unreadable(&wrong, &error))?))
    })?;
    if let Some(expected) = expected.filter(|expected| **expected != diff_id) {
        return Err(wrong(format!(
            "its uncompressed digest is {diff_id}, the image says {expected}"
        )));
    }
    let layer = store.commit_dir(dir, root)?;
    Ok(Unpacked { layer, diff_id })
}

/// Reads to the end, hashes, and hands on; ends early when nobody listens any more.
fn decompress(mut reader: impl Read, sender: &mpsc::SyncSender<Vec<u8>>) -> io::Result<Digest> {
    let mut hasher = Hasher::new();
    loop {
        let mut chunk = vec![0; 256 * 1024];
        let count = reader.read(&mut chunk)?;
        if count == 0 {
            return Ok(hasher.finish());
        }
        chunk.truncate(count);
        hasher.update(&chunk);
        if sender.send(chunk).is_err() {
            return Ok(hasher.finish());
        }
    }
}

fn write_entries(
    dir: &LayerDir,
    receiver: mpsc::Receiver<Vec<u8>>,
    wrong: &impl Fn(String) -> Error,
) -> Result<Node> {
    let mut archive = Archive::new(Chunks { receiver, chunk: Vec::new(), at: 0 });
    let mut writer = Writer::new(dir);
    for entry in archive.entries().map_err(|error| unreadable(wrong, &error))? {
        let mut entry = entry.map_err(|error| unreadable(wrong, &error))?;
        let path = entry.path_bytes().into_owned();
        writer.entry(&path, &mut entry).map_err(|error| match error {
            Problem::Error(error) => error,
            Problem::Archive(reason) => {
                wrong(format!("entry `{}`: {reason}", String::from_utf8_lossy(&path)))
            }
        })?;
    }
    // What follows the end marker belongs to the digest too: let the producer finish.
    io::copy(&mut archive.into_inner(), &mut io::sink())
        .map_err(|error| unreadable(wrong, &error))?;
    writer.finish()
}

fn unreadable(wrong: &impl Fn(String) -> Error, error: &io::Error) -> Error {
    wrong(format!("cannot read the archive: {error}"))
}
/// What the producer decompressed, as a reader.
struct Chunks {
    receiver: mpsc::Receiver<Vec<u8>>,
    chunk: Vec<u8>,
    at: usize,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.chunk.len() {
            let Ok(chunk) = self.receiver.recv() else { return Ok(0) };
            (self.chunk, self.at) = (chunk, 0);
        }
        let count = buffer.len().min(self.chunk.len() - self.at);
        buffer[..count].copy_from_slice(&self.chunk[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

/// Either an error of our own, or something wrong with an entry.
enum Problem {
    Error(Error),
    Archive(String),
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

struct Writer {
    fs: PathBuf,
    layer: cofferdam_store::LayerId,
    root: Node,
    /// Regular files by path, for hard links.
    links: HashMap<Vec<u8>, u64>,
    buffer: Vec<u8>,
}

impl Writer {
    fn new(dir: &LayerDir) -> Self {
        Self {
            fs: dir.fs(),
            layer: dir.id(),
            root: Node::empty_root(),
            links: HashMap::new(),
            buffer: vec![0; 128 * 1024],
        }
    }

    fn entry<R: Read>(&mut self, path: &[u8], entry: &mut Entry<'_, R>) -> Result<(), Problem> {
        let names = split(path)?;
        let attributes = attributes(entry)?;
        let Some((name, parents)) = names.split_last() else {
            if entry.header().entry_type().is_dir() {
                self.root.attributes = attributes;
            }
            return Ok(());
        };
        if let Some(hidden) = name.strip_prefix(b".wh.") {
            return self.whiteout(parents, hidden);
        }
        let inside = names.join(&b'/');
        let target = self.fs.join(OsStr::from_bytes(&inside));
        self.parent(parents)?;
        let kind = match entry.header().entry_type() {
            EntryType::Directory => {
                let parent = self.parent(parents)?;
                if let Some(node) = parent.children.get_mut(*name)
                    && node.as_directory().is_some()
                {
                    node.attributes = attributes;
                    return Ok(());
                }
                self.clear(parents, name)?;
                fs::create_dir(&target).io("cannot create", &target)?;
                NodeKind::Directory(Directory::default())
            }
            EntryType::Regular | EntryType::Continuous => {
                self.clear(parents, name)?;
                self.regular(&target, &inside, entry)?
            }
            EntryType::Link => {
                let existing = link_name(entry)?;
                let existing = split(&existing)?.join(&b'/');
                let node = self.hard_link(&existing)?;
                self.clear(parents, name)?;
                let source = self.fs.join(OsStr::from_bytes(&existing));
                fs::hard_link(&source, &target).io("cannot link", &target)?;
                self.parent(parents)?.children.insert((*name).into(), node);
                return Ok(());
            }
            EntryType::Symlink => {
                let to = link_name(entry)?;
                self.clear(parents, name)?;
                std::os::unix::fs::symlink(OsStr::from_bytes(&to), &target)
                    .io("cannot create the link", &target)?;
                NodeKind::Symlink(to)
            }
            kind @ (EntryType::Char | EntryType::Block | EntryType::Fifo) => {
                let header = entry.header();
                let number = |value: io::Result<Option<u32>>| {
                    value.ok().flatten().ok_or_else(|| Problem::Archive("no device number".into()))
                };
                let (file_type, node, device) = match kind {
                    EntryType::Fifo => (FileType::Fifo, NodeKind::Fifo, 0),
                    _ => {
                        let major = number(header.device_major())?;
                        let minor = number(header.device_minor())?;
                        let device = makedev(major, minor);
                        if kind == EntryType::Char && device == 0 {
                            // On disk this would be a whiteout.
                            return Err(Problem::Archive("a character device 0, 0".into()));
                        }
                        match kind {
                            EntryType::Char => {
                                let node = NodeKind::CharacterDevice(major, minor);
                                (FileType::CharacterDevice, node, device)
                            }
                            _ => {
                                let node = NodeKind::BlockDevice(major, minor);
                                (FileType::BlockDevice, node, device)
                            }
                        }
                    }
                };
                self.clear(parents, name)?;
                mknodat(CWD, &target, file_type, Mode::from_raw_mode(0o600), device)
                    .io("cannot create", &target)?;
                node
            }
            EntryType::XGlobalHeader => return Ok(()),
            other => return Err(Problem::Archive(format!("unknown type {:?}", other.as_byte()))),
        };
        let node = Node { attributes, kind };
        if node.as_directory().is_none() {
            apply(&target, &node)?;
        }
        self.parent(parents)?.children.insert((*name).into(), node);
        Ok(())
    }

    fn regular<R: Read>(
        &mut self,
        target: &Path,
        inside: &[u8],
        entry: &mut Entry<'_, R>,
    ) -> Result<NodeKind, Problem> {
        let mut file = File::create_new(target).io("cannot create", target)?;
        let (mut hasher, mut size) = (Hasher::new(), 0);
        loop {
            let count = entry
                .read(&mut self.buffer)
                .map_err(|error| Problem::Archive(error.to_string()))?;
            if count == 0 {
                break;
            }
            let data = &self.buffer[..count];
            hasher.update(data);
            file.write_all(data).io("cannot write", target)?;
            size += count as u64;
        }
        if size != entry.size() {
            return Err(Problem::Archive(format!("{} bytes expected, {size} there", entry.size())));
        }
        Ok(NodeKind::Regular(Regular {
            size,
            content: Content::Layer { layer: self.layer, path: inside.into() },
            digest: Some(hasher.finish()),
            link_group: None,
        }))
    }

    /// The node of a file that gets another name.
    fn hard_link(&mut self, existing: &[u8]) -> Result<Node, Problem> {
        let next = self.links.len() as u64 + 1;
        let wrong = || {
            let name = String::from_utf8_lossy(existing);
            Problem::Archive(format!("is a hard link to `{name}`, which is no file of this layer"))
        };
        let node = get_mut(&mut self.root, existing).ok_or_else(wrong)?;
        let NodeKind::Regular(regular) = &mut node.kind else {
            // Hard links to symlinks and devices are allowed; they share nothing worth tracking.
            return match node.kind {
                NodeKind::Directory(_) | NodeKind::Whiteout => Err(wrong()),
                _ => Ok(node.clone()),
            };
        };
        let group = *regular.link_group.get_or_insert(next);
        self.links.insert(existing.to_vec(), group);
        Ok(node.clone())
    }

    fn whiteout(&mut self, parents: &[&[u8]], hidden: &[u8]) -> Result<(), Problem> {
        if hidden == b".wh..opq" {
            self.parent(parents)?.opaque = true;
            return Ok(());
        }
        if hidden.starts_with(b".wh.") {
            // Bookkeeping of aufs.
            return Ok(());
        }
        if hidden.is_empty() || hidden == b"." || hidden == b".." {
            return Err(Problem::Archive("a whiteout of nothing".into()));
        }
        self.clear(parents, hidden)?;
        let parent = self.parent(parents)?;
        parent.children.insert(hidden.into(), Node::whiteout());
        let mut target = self.fs.clone();
        target.extend(parents.iter().chain([&hidden]).map(|name| OsStr::from_bytes(name)));
        mknodat(CWD, &target, FileType::CharacterDevice, Mode::empty(), 0)
            .io("cannot create", &target)?;
        Ok(())
    }

    /// The directory that an entry goes into; missing ones are made.
    fn parent(&mut self, parents: &[&[u8]]) -> Result<&mut Directory, Problem> {
        let mut path = self.fs.clone();
        let mut directory =
            self.root.as_directory_mut().expect("the root of a layer is a directory");
        for name in parents {
            path.push(OsStr::from_bytes(name));
            let node = match directory.children.entry((*name).into()) {
                std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::btree_map::Entry::Vacant(entry) => {
                    fs::create_dir(&path).io("cannot create", &path)?;
                    let attributes = Attributes { mode: 0o755, ..Attributes::default() };
                    entry.insert(Node::directory(attributes))
                }
            };
            directory = node.as_directory_mut().ok_or_else(|| {
                let name = String::from_utf8_lossy(name);
                Problem::Archive(format!("is below `{name}`, which is no directory"))
            })?;
        }
        Ok(directory)
    }

    /// Removes what an earlier entry put at a path.
    fn clear(&mut self, parents: &[&[u8]], name: &[u8]) -> Result<(), Problem> {
        let removed = self.parent(parents)?.children.remove(name);
        let Some(removed) = removed else { return Ok(()) };
        let mut target = self.fs.clone();
        target.extend(parents.iter().chain([&name]).map(|name| OsStr::from_bytes(name)));
        let result = match removed.kind {
            NodeKind::Directory(_) => fs::remove_dir_all(&target),
            _ => fs::remove_file(&target),
        };
        Ok(result.io("cannot remove", &target)?)
    }

    /// Sets the attributes of directories, whose times change while they are filled.
    fn finish(self) -> Result<Node> {
        fn go(path: &Path, node: &Node) -> Result<()> {
            let Some(directory) = node.as_directory() else { return Ok(()) };
            for (name, child) in &directory.children {
                go(&path.join(OsStr::from_bytes(name)), child)?;
            }
            if directory.opaque {
                lsetxattr(path, "trusted.overlay.opaque", b"y", XattrFlags::empty())
                    .io("cannot mark as opaque", path)?;
            }
            apply(path, node)
        }
        go(&self.fs, &self.root)?;
        Ok(self.root)
    }
}

/// Sets owner, attributes, permissions and time, in the order in which they do not undo each
/// other.
fn apply(path: &Path, node: &Node) -> Result<()> {
    let Attributes { mode, uid, gid, mtime, xattrs } = &node.attributes;
    let (owner, group) = (Some(Uid::from_raw(*uid)), Some(Gid::from_raw(*gid)));
    chownat(CWD, path, owner, group, AtFlags::SYMLINK_NOFOLLOW)
        .io("cannot change the owner of", path)?;
    for (name, value) in xattrs {
        lsetxattr(path, name.as_str(), value, XattrFlags::empty())
            .io("cannot set an attribute of", path)?;
    }
    if !matches!(node.kind, NodeKind::Symlink(_)) {
        fs::set_permissions(path, Permissions::from_mode(*mode)).io("cannot chmod", path)?;
    }
    let time = Timespec {
        tv_sec: mtime.div_euclid(1_000_000_000),
        tv_nsec: mtime.rem_euclid(1_000_000_000),
    };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).io("cannot set the time of", path)
}

fn get_mut<'a>(root: &'a mut Node, path: &[u8]) -> Option<&'a mut Node> {
    path.split(|byte| *byte == b'/')
        .try_fold(root, |node, name| node.as_directory_mut()?.children.get_mut(name))
}

/// The components of an entry's name; the root has none.
fn split(path: &[u8]) -> Result<Vec<&[u8]>, Problem> {
    let names: Vec<&[u8]> =
        path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".").collect();
    if names.contains(&b"..".as_slice()) {
        return Err(Problem::Archive("its name contains `..`".into()));
    }
    if names.iter().any(|name| name.contains(&0) || name.len() > 255) {
        return Err(Problem::Archive("its name is not valid".into()));
    }
    Ok(names)
}

fn link_name<R: Read>(entry: &Entry<'_, R>) -> Result<Vec<u8>, Problem> {
    let name = entry.link_name_bytes().filter(|name| !name.is_empty() && !name.contains(&0));
    Ok(name.ok_or_else(|| Problem::Archive("a link without a target".into()))?.into_owned())
}

fn attributes<R: Read>(entry: &mut Entry<'_, R>) -> Result<Attributes, Problem> {
    let wrong = |error: io::Error| Problem::Archive(error.to_string());
    let header = entry.header();
    let id = |value: u64| {
        u32::try_from(value).map_err(|_| Problem::Archive(format!("owner {value} is too large")))
    };
    let mut attributes = Attributes {
        mode: header.mode().map_err(wrong)? & 0o7777,
        uid: id(header.uid().map_err(wrong)?)?,
        gid: id(header.gid().map_err(wrong)?)?,
        mtime: i64::try_from(header.mtime().map_err(wrong)?)
            .unwrap_or(i64::MAX)
            .saturating_mul(1_000_000_000),
        xattrs: Vec::new(),
    };
    let Some(extensions) = entry.pax_extensions().map_err(wrong)? else { return Ok(attributes) };
    for extension in extensions {
        let extension = extension.map_err(wrong)?;
        let key = extension.key().map_err(|_| Problem::Archive("a key is not UTF-8".into()))?;
        let value = extension.value_bytes();
        let number = || {
            std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| Problem::Archive(format!("`{key}` is not a number")))
        };
        match key {
            "uid" => attributes.uid = id(number()?)?,
            "gid" => attributes.gid = id(number()?)?,
            "mtime" => {
                attributes.mtime = pax_time(value)
                    .ok_or_else(|| Problem::Archive("`mtime` is not a time".into()))?;
            }
            _ => {
                if let Some(name) = key.strip_prefix("SCHILY.xattr.")
                    && !name.starts_with("trusted.overlay.")
                    && !name.starts_with("user.overlay.")
                {
                    attributes.xattrs.push((name.to_owned(), value.to_vec()));
                }
            }
        }
    }
    attributes.xattrs.sort();
    Ok(attributes)
}

/// Seconds with a fraction, as PAX writes times, in nanoseconds.
fn pax_time(value: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(value).ok()?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let negative = seconds.starts_with('-');
    let seconds: i64 = seconds.parse().ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanos: i64 = format!("{:0<9}", &fraction[..fraction.len().min(9)]).parse().ok()?;
    let nanos = if negative { -nanos } else { nanos };
    Some(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}
