//! Layers and trees as tar archives.
//!
//! Entries come in the byte order of their names, parents before what they contain. A layer
//! has whiteouts in the form of the OCI image specification (`layer.md`); its root has no entry,
//! as in BuildKit. Sockets are left out: no tar can hold them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{self, Read, Write};

use cofferdam_store::{Attributes, Found, LinkGroup, Node, NodeKind, Regular, Store};

use crate::files::{FileTree, Times};
use crate::tar::{Kind, TarWriter};
use crate::{Error, Result};

/// What marks removed files in layers.
const WHITEOUT: &[u8] = b".wh.";
/// What marks directories that hide what is below them.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Writes trees as one tar, each below its prefix; an empty prefix puts it at the top.
///
/// # Errors
/// When a file cannot be read, or `out` does not take it.
pub fn write_tar(trees: &[(&str, &FileTree)], out: &mut dyn Write) -> Result<()> {
    let mut tar = TarWriter::new(out);
    for (prefix, FileTree { tree, times }) in trees {
        let mut path = prefix.trim_matches('/').as_bytes().to_vec();
        if !path.is_empty() {
            let attributes = Attributes { mode: 0o755, ..Attributes::default() };
            tar.header(&path, &attributes, Kind::Directory).map_err(Error::Output)?;
        }
        let Some(root) = tree.root() else { continue };
        let mut entries = Entries::new(tree.store(), &mut tar, times);
        entries.tree(&mut path, &root)?;
    }
    tar.finish().map_err(Error::Output)
}

/// Writes a layer as the tar of an image layer.
pub(crate) fn write_layer(
    store: &Store,
    root: &Node,
    latest: Option<i64>,
    out: &mut dyn Write,
) -> Result<()> {
    let (mut tar, times) = (TarWriter::new(out), Times::all(latest));
    Entries::new(store, &mut tar, &times).layer(&mut Vec::new(), root)?;
    tar.finish().map_err(Error::Output)
}

/// About how many bytes the tar of a layer has.
pub(crate) fn layer_size(root: &Node) -> u64 {
    let mut size = 1024;
    let walked = root.walk(&mut |_, node| {
        size += 512;
        if let NodeKind::Regular(regular) = &node.kind {
            size += regular.size.next_multiple_of(512);
        }
        Ok::<_, std::convert::Infallible>(())
    });
    let Ok(()) = walked;
    size
}

/// Whether an extended attribute belongs to the file system it was read from, not to the file.
pub(crate) fn is_local_xattr(name: &str) -> bool {
    matches!(name, "security.selinux" | "security.ima" | "security.evm")
        || name.starts_with("trusted.overlay.")
        || name.starts_with("user.overlay.")
}

struct Entries<'a, W> {
    store: &'a Store,
    tar: &'a mut TarWriter<W>,
    times: &'a Times,
    /// Where the first of each group of hard links is.
    links: HashMap<LinkGroup, Vec<u8>>,
    buffer: Vec<u8>,
}

impl<'a, W: Write> Entries<'a, W> {
    fn new(store: &'a Store, tar: &'a mut TarWriter<W>, times: &'a Times) -> Self {
        Self { store, tar, times, links: HashMap::new(), buffer: vec![0; 128 * 1024] }
    }

    fn layer(&mut self, path: &mut Vec<u8>, node: &Node) -> Result<()> {
        let Some(directory) = node.as_directory() else { return Ok(()) };
        if directory.opaque {
            self.marker(path, OPAQUE)?;
        }
        for (name, child) in &directory.children {
            if name.starts_with(WHITEOUT) {
                return Err(Error::Entry {
                    path: String::from_utf8_lossy(&[path, b"/".as_slice(), name].concat())
                        .trim_start_matches('/')
                        .into(),
                    reason: "in an image layer, `.wh.` at the beginning of a name marks a \
                             removed file"
                        .into(),
                });
            }
            if let NodeKind::Whiteout = child.kind {
                self.marker(path, &[WHITEOUT, name].concat())?;
                continue;
            }
            let length = push(path, name);
            self.node(path, &Found::of(child))?;
            self.layer(path, child)?;
            path.truncate(length);
        }
        Ok(())
    }

    fn tree(&mut self, path: &mut Vec<u8>, found: &Found<'_>) -> Result<()> {
        for child in found.children() {
            let length = push(path, child.name);
            self.node(path, &child.found)?;
            self.tree(path, &child.found)?;
            path.truncate(length);
        }
        Ok(())
    }

    /// An empty file with a meaning.
    fn marker(&mut self, directory: &mut Vec<u8>, name: &[u8]) -> Result<()> {
        let length = push(directory, name);
        let written = self.tar.header(directory, &Attributes::default(), Kind::Regular(0));
        directory.truncate(length);
        written.map_err(Error::Output)
    }

    fn node(&mut self, path: &[u8], found: &Found<'_>) -> Result<()> {
        let node = found.node();
        let mtime = self.times.of(node);
        let local = node.attributes.xattrs.iter().any(|(name, _)| is_local_xattr(name));
        let attributes = &*if local || mtime != node.attributes.mtime {
            let mut attributes = Attributes { mtime, ..node.attributes.clone() };
            attributes.xattrs.retain(|(name, _)| !is_local_xattr(name));
            Cow::Owned(attributes)
        } else {
            Cow::Borrowed(&node.attributes)
        };
        let kind = match &node.kind {
            NodeKind::Regular(regular) => {
                if let Some(group) = found.link_group() {
                    if let Some(first) = self.links.get(&group) {
                        let kind = Kind::HardLink(first);
                        return self.tar.header(path, attributes, kind).map_err(Error::Output);
                    }
                    self.links.insert(group, path.to_vec());
                }
                let kind = Kind::Regular(regular.size);
                self.tar.header(path, attributes, kind).map_err(Error::Output)?;
                return self.contents(path, regular);
            }
            NodeKind::Directory(_) => Kind::Directory,
            NodeKind::Symlink(target) => Kind::Symlink(target),
            NodeKind::CharacterDevice(major, minor) => Kind::CharacterDevice(*major, *minor),
            NodeKind::BlockDevice(major, minor) => Kind::BlockDevice(*major, *minor),
            NodeKind::Fifo => Kind::Fifo,
            NodeKind::Socket | NodeKind::Whiteout => return Ok(()),
        };
        self.tar.header(path, attributes, kind).map_err(Error::Output)
    }

    fn contents(&mut self, path: &[u8], regular: &Regular) -> Result<()> {
        if regular.size == 0 {
            return Ok(());
        }
        let mut file = self.store.open_content(regular)?;
        loop {
            // Ends only after all bytes that the header promised: a short file is an error.
            let count = match file.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    let path = String::from_utf8_lossy(path).into_owned();
                    return Err(Error::Entry { path, reason: error.to_string() });
                }
            };
            self.tar.write_all(&self.buffer[..count]).map_err(Error::Output)?;
        }
        self.tar.pad(regular.size).map_err(Error::Output)
    }
}

/// Adds a name to a path; gives the length to cut it back to.
fn push(path: &mut Vec<u8>, name: &[u8]) -> usize {
    let length = path.len();
    if length > 0 {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    length
}
