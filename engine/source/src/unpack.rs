//! Unpacks a layer of an image while it streams: every file is hashed on the way, and the digest
//! of the uncompressed archive is checked before the layer is committed.
//!
//! The layer is unpacked on its own into an empty directory. The manifest that grows beside it
//! knows which of its parents are real directories, so no entry is ever written through a
//! symlink. Whiteouts take overlayfs's form.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use cofferdam_archive::{Member, MemberKind, Tar, clean_path};
use cofferdam_store::{
    Attributes, Content, Directory, HeldLayer, LayerDir, Node, NodeKind, Regular, Store,
    set_attributes,
};
use cofferdam_types::{Digest, Hasher};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, lsetxattr, makedev, mknodat};

use crate::error::IoContext;
use crate::{Error, Result};

/// The longest file name that Linux takes.
const MAX_NAME: usize = 255;

/// An image layer that is in the store now.
#[derive(Debug)]
pub struct Unpacked {
    /// The layer.
    pub layer: HeldLayer,
    /// Digest of the uncompressed archive.
    pub diff_id: Digest,
    /// Directories that entries lie in and that have none of their own: what they are is up to
    /// the layers below.
    pub implied: Vec<Vec<u8>>,
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
    let unreadable = |error: io::Error| wrong(format!("cannot read the archive: {error}"));
    let plain = decompressed(reader).map_err(unreadable)?;
    let dir = store.new_layer_dir()?;
    let ((root, implied), diff_id) = std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel(8);
        // Decompressing and hashing on one core, writing files on the other.
        let producer = scope.spawn(move || decompress(plain, &sender));
        let written = write_entries(&dir, receiver, &wrong);
        let diff_id = producer.join().expect("the producer does not panic");
        // An archive that cannot be read to its end also looks cut off: the cause goes first.
        let diff_id = diff_id.map_err(unreadable)?;
        Ok::<_, Error>((written?, diff_id))
    })?;
    if let Some(expected) = expected.filter(|expected| **expected != diff_id) {
        return Err(wrong(format!(
            "its uncompressed digest is {diff_id}, the image says {expected}"
        )));
    }
    let layer = store.commit_dir(dir, root)?;
    Ok(Unpacked { layer, diff_id, implied })
}

/// Takes the compression away that the first bytes tell of.
fn decompressed<'a>(mut reader: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut magic = Vec::new();
    reader.by_ref().take(4).read_to_end(&mut magic)?;
    let compressed =
        BufReader::with_capacity(128 * 1024, io::Cursor::new(magic.clone()).chain(reader));
    Ok(match magic.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(compressed)),
        // A frame, or a skippable frame in front of one.
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(compressed)?;
            // 128 MiB, what the zstd command allows too.
            decoder.window_log_max(27)?;
            Box::new(decoder)
        }
        _ => Box::new(compressed),
    })
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
) -> Result<(Node, Vec<Vec<u8>>)> {
    let mut tar = Tar::new(Chunks { receiver, chunk: Vec::new(), at: 0 });
    let mut writer = Writer::new(dir);
    while let Some(member) = tar.next().map_err(|error| wrong(error.to_string()))? {
        writer.entry(&member, &mut tar).map_err(|problem| match problem {
            Problem::Error(error) => error,
            Problem::Archive(error) => wrong(error.to_string()),
            Problem::Entry(reason) => {
                let name = String::from_utf8_lossy(&member.path);
                wrong(format!("entry `{name}` at offset {}: {reason}", member.offset))
            }
        })?;
    }
    // What follows the end marker belongs to the digest too: let the producer finish.
    let mut chunks = tar.into_inner();
    while chunks.next_chunk() {}
    writer.finish()
}

/// What the producer decompressed, as a reader.
struct Chunks {
    receiver: mpsc::Receiver<Vec<u8>>,
    chunk: Vec<u8>,
    at: usize,
}

impl Chunks {
    /// Goes on to the next chunk; says whether there is one.
    fn next_chunk(&mut self) -> bool {
        let Ok(chunk) = self.receiver.recv() else { return false };
        (self.chunk, self.at) = (chunk, 0);
        true
    }
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.chunk.len() && !self.next_chunk() {
            return Ok(0);
        }
        let count = buffer.len().min(self.chunk.len() - self.at);
        buffer[..count].copy_from_slice(&self.chunk[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

/// Why an entry cannot be unpacked.
enum Problem {
    /// An error of our own.
    Error(Error),
    /// The archive is damaged inside the entry.
    Archive(cofferdam_archive::Error),
    /// The entry says something that it must not.
    Entry(String),
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
    /// How many groups of hard links there are.
    link_groups: u64,
    /// Directories without an entry of their own so far.
    implied: BTreeSet<Vec<u8>>,
    buffer: Vec<u8>,
}

impl Writer {
    fn new(dir: &LayerDir) -> Self {
        Self {
            fs: dir.fs(),
            layer: dir.id(),
            root: Node::empty_root(),
            link_groups: 0,
            implied: BTreeSet::new(),
            buffer: vec![0; 128 * 1024],
        }
    }

    fn entry<R: Read>(&mut self, member: &Member, tar: &mut Tar<R>) -> Result<(), Problem> {
        let names: Vec<&[u8]> =
            member.path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
        if names.iter().any(|name| name.len() > MAX_NAME) {
            return Err(Problem::Entry(format!("expected names of at most {MAX_NAME} bytes")));
        }
        let attributes = Attributes {
            mode: member.mode,
            uid: member.uid,
            gid: member.gid,
            mtime: member.mtime,
            xattrs: member.xattrs.clone(),
        };
        let Some((name, parents)) = names.split_last() else {
            if member.kind != MemberKind::Directory {
                return Err(Problem::Entry("expected a directory as the root".to_owned()));
            }
            self.root.attributes = attributes;
            return Ok(());
        };
        if let Some(hidden) = name.strip_prefix(b".wh.") {
            return self.whiteout(parents, hidden);
        }
        let target = self.fs.join(OsStr::from_bytes(&member.path));
        let kind = match &member.kind {
            MemberKind::Directory => {
                self.implied.remove(&member.path);
                let parent = self.parent(parents)?;
                if let Some(node) = parent.children.get_mut(*name)
                    && node.as_directory().is_some()
                {
                    node.attributes = attributes;
                    return Ok(());
                }
                // What was here hid what lower layers have, and still does.
                let opaque = self.clear(parents, name)?;
                fs::create_dir(&target).io("cannot create", &target)?;
                NodeKind::Directory(Directory { opaque, ..Directory::default() })
            }
            MemberKind::Regular => {
                self.clear(parents, name)?;
                self.regular(&target, member, tar)?
            }
            MemberKind::HardLink(existing) => {
                let existing = clean_path(existing).map_err(Problem::Entry)?;
                let rest = existing.strip_prefix(member.path.as_slice());
                if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/")) {
                    return Err(Problem::Entry("is a hard link to what it replaces".to_owned()));
                }
                let node = self.hard_link(&existing, &member.path)?;
                self.clear(parents, name)?;
                let source = self.fs.join(OsStr::from_bytes(&existing));
                fs::hard_link(&source, &target).io("cannot link", &target)?;
                self.parent(parents)?.children.insert((*name).into(), node);
                return Ok(());
            }
            MemberKind::Symlink(to) => {
                self.clear(parents, name)?;
                std::os::unix::fs::symlink(OsStr::from_bytes(to), &target)
                    .io("cannot create the link", &target)?;
                NodeKind::Symlink(to.clone())
            }
            MemberKind::CharacterDevice(major, minor) => {
                self.clear(parents, name)?;
                special(&target, FileType::CharacterDevice, makedev(*major, *minor))?;
                NodeKind::CharacterDevice(*major, *minor)
            }
            MemberKind::BlockDevice(major, minor) => {
                self.clear(parents, name)?;
                special(&target, FileType::BlockDevice, makedev(*major, *minor))?;
                NodeKind::BlockDevice(*major, *minor)
            }
            MemberKind::Fifo => {
                self.clear(parents, name)?;
                special(&target, FileType::Fifo, 0)?;
                NodeKind::Fifo
            }
        };
        let node = Node { attributes, kind };
        if node.as_directory().is_none() {
            set_attributes(&target, &node).map_err(Error::from)?;
        }
        self.parent(parents)?.children.insert((*name).into(), node);
        Ok(())
    }

    fn regular<R: Read>(
        &mut self,
        target: &Path,
        member: &Member,
        tar: &mut Tar<R>,
    ) -> Result<NodeKind, Problem> {
        let mut file = File::create_new(target).io("cannot create", target)?;
        let mut hasher = Hasher::new();
        loop {
            let count = tar.read(&mut self.buffer).map_err(Problem::Archive)?;
            if count == 0 {
                break;
            }
            let data = &self.buffer[..count];
            hasher.update(data);
            file.write_all(data).io("cannot write", target)?;
        }
        Ok(NodeKind::Regular(Regular {
            size: member.size,
            content: Content::Layer { layer: self.layer, path: member.path.as_slice().into() },
            digest: Some(hasher.finish()),
            link_group: None,
        }))
    }

    /// The node of a file that gets another name, `path`.
    fn hard_link(&mut self, existing: &[u8], path: &[u8]) -> Result<Node, Problem> {
        let wrong = || {
            let name = String::from_utf8_lossy(existing);
            Problem::Entry(format!("is a hard link to `{name}`, which is no file of this layer"))
        };
        let node = get_mut(&mut self.root, existing).ok_or_else(wrong)?;
        let regular = match &mut node.kind {
            NodeKind::Regular(regular) => regular,
            NodeKind::Directory(_) | NodeKind::Whiteout => return Err(wrong()),
            // Hard links to symlinks and devices are allowed; they share nothing worth tracking.
            _ => return Ok(node.clone()),
        };
        regular.link_group.get_or_insert_with(|| {
            self.link_groups += 1;
            self.link_groups
        });
        let mut node = node.clone();
        if let NodeKind::Regular(regular) = &mut node.kind {
            // Its own name: the other one may be replaced by a later entry.
            regular.content = Content::Layer { layer: self.layer, path: path.into() };
        }
        Ok(node)
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
            return Err(Problem::Entry("is a whiteout of nothing".to_owned()));
        }
        let parent = self.parent(parents)?;
        match parent.children.get_mut(hidden) {
            // A whiteout is about lower layers only, whatever the order of the entries is (OCI
            // image specification, "Whiteouts"). What is no directory hides them anyway.
            Some(node) => {
                if let Some(directory) = node.as_directory_mut() {
                    directory.opaque = true;
                }
            }
            None => {
                parent.children.insert(hidden.into(), Node::whiteout());
                let target = self.on_disk(parents, hidden);
                mknodat(CWD, &target, FileType::CharacterDevice, Mode::empty(), 0)
                    .io("cannot create", &target)?;
            }
        }
        Ok(())
    }

    fn on_disk(&self, parents: &[&[u8]], name: &[u8]) -> PathBuf {
        let mut path = self.fs.clone();
        path.extend(parents.iter().chain([&name]).map(|name| OsStr::from_bytes(name)));
        path
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
                    let inside = path.strip_prefix(&self.fs).expect("starts with it above");
                    self.implied.insert(inside.as_os_str().as_bytes().to_vec());
                    let attributes = Attributes { mode: 0o755, ..Attributes::default() };
                    entry.insert(Node::directory(attributes))
                }
            };
            directory = node.as_directory_mut().ok_or_else(|| {
                let name = String::from_utf8_lossy(name);
                Problem::Entry(format!("is below `{name}`, which is no directory"))
            })?;
        }
        Ok(directory)
    }

    /// Removes what an earlier entry put at a path; says whether there was something.
    fn clear(&mut self, parents: &[&[u8]], name: &[u8]) -> Result<bool, Problem> {
        let removed = self.parent(parents)?.children.remove(name);
        let Some(removed) = removed else { return Ok(false) };
        let target = self.on_disk(parents, name);
        match removed.kind {
            NodeKind::Directory(_) => fs::remove_dir_all(&target),
            _ => fs::remove_file(&target),
        }
        .io("cannot remove", &target)?;
        Ok(true)
    }

    /// Sets the attributes of directories, whose times change while they are filled.
    fn finish(mut self) -> Result<(Node, Vec<Vec<u8>>)> {
        let mut links = HashMap::new();
        count_links(&self.root, &mut links);
        finish_directory(&self.fs, &mut self.root, &links)?;
        let Self { root, implied, .. } = self;
        // Later entries may have replaced a directory.
        let still =
            |path: &Vec<u8>| root.get(path).is_some_and(|node| node.as_directory().is_some());
        let implied = implied.into_iter().filter(still).collect();
        Ok((root, implied))
    }
}

/// How many names each group of hard links has.
fn count_links(node: &Node, links: &mut HashMap<u64, u64>) {
    match &node.kind {
        NodeKind::Directory(directory) => {
            directory.children.values().for_each(|child| count_links(child, links));
        }
        NodeKind::Regular(Regular { link_group: Some(group), .. }) => {
            *links.entry(*group).or_default() += 1;
        }
        _ => {}
    }
}

fn finish_directory(path: &Path, node: &mut Node, links: &HashMap<u64, u64>) -> Result<()> {
    match &mut node.kind {
        NodeKind::Directory(directory) => {
            for (name, child) in &mut directory.children {
                finish_directory(&path.join(OsStr::from_bytes(name)), child, links)?;
            }
            if directory.opaque {
                lsetxattr(path, "trusted.overlay.opaque", b"y", XattrFlags::empty())
                    .io("cannot mark as opaque", path)?;
            }
            Ok(set_attributes(path, node)?)
        }
        NodeKind::Regular(regular) => {
            // The other names were replaced by later entries.
            regular.link_group = regular.link_group.filter(|group| links[group] > 1);
            Ok(())
        }
        _ => Ok(()),
    }
}

fn special(path: &Path, file_type: FileType, device: u64) -> Result<()> {
    mknodat(CWD, path, file_type, Mode::from_raw_mode(0o600), device).io("cannot create", path)
}

fn get_mut<'a>(root: &'a mut Node, path: &[u8]) -> Option<&'a mut Node> {
    path.split(|byte| *byte == b'/')
        .try_fold(root, |node, name| node.as_directory_mut()?.children.get_mut(name))
}
