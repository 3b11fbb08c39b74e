//! Trees: the union of a chain of layers, resolved in user space.
//!
//! Symlinks resolve inside the tree; no path from an image or a Dockerfile is ever resolved by
//! the kernel against the host.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::node::components;
use crate::{
    Attributes, Directory, Error, Layer, Name, Node, NodeKind, Regular, Result, Snapshot, Store,
};

/// How many symlinks a path may lead through.
const MAX_LINKS: u32 = 255;

/// A read-only view of a chain of layers.
#[derive(Clone)]
pub struct Tree {
    store: Store,
    layers: Vec<Arc<Layer>>,
    /// Keeps the layers in the store.
    _snapshot: Snapshot,
}

/// What a tree has at a path: the topmost node and, for a directory, what merges below it.
#[derive(Clone)]
pub struct Found<'a> {
    /// Topmost first, each with the number of its layer. Only directories have more than one.
    nodes: Vec<(u32, &'a Node)>,
}

/// Names of one file of a tree have the same: its layer, and the number of the group there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LinkGroup {
    /// The layer, counted from the bottom.
    pub layer: u32,
    /// [`Regular::link_group`].
    pub group: u64,
}

/// A name in a directory, with what it is.
pub struct Child<'a> {
    /// The name.
    pub name: &'a Name,
    /// What it is.
    pub found: Found<'a>,
}

impl Tree {
    pub(crate) fn new(store: Store, layers: Vec<Arc<Layer>>, snapshot: Snapshot) -> Self {
        Self { store, layers, _snapshot: snapshot }
    }

    /// The store that the layers are in.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The layers, the bottom one first.
    pub fn layers(&self) -> &[Arc<Layer>] {
        &self.layers
    }

    /// The root directory; `None` for scratch.
    pub fn root(&self) -> Option<Found<'_>> {
        Found::merge(roots(&self.layers))
    }

    /// Looks at a path without following any symlink; `None` when nothing is there.
    pub fn get(&self, path: &[u8]) -> Option<Found<'_>> {
        components(path).try_fold(self.root()?, |found, name| found.child(name))
    }

    /// Resolves a path inside the tree: every symlink in the middle is followed, the last
    /// component too if `follow` is set. `..` stops at the root. Returns the real path, without
    /// a slash at its beginning, and what is there.
    ///
    /// # Errors
    /// [`Error::NotFound`], or [`Error::InvalidPath`] when links go round in circles.
    pub fn resolve(&self, path: &[u8], follow: bool) -> Result<(Vec<u8>, Found<'_>)> {
        let not_found = || Error::NotFound(display(path));
        let root = self.root().ok_or_else(not_found)?;
        let mut stack: Vec<(Vec<u8>, Found<'_>)> = Vec::new();
        let mut todo: Vec<Vec<u8>> = components(path).map(<[u8]>::to_vec).collect();
        todo.reverse();
        let mut links = 0;
        while let Some(name) = todo.pop() {
            if name == b".." {
                stack.pop();
                continue;
            }
            let here = stack.last().map_or(&root, |(_, found)| found);
            let child = here.child(&name).ok_or_else(not_found)?;
            match &child.node().kind {
                NodeKind::Symlink(target) if follow || !todo.is_empty() => {
                    links += 1;
                    if links > MAX_LINKS {
                        let reason = "too many levels of symbolic links";
                        return Err(Error::InvalidPath { path: display(path), reason });
                    }
                    if target.starts_with(b"/") {
                        stack.clear();
                    }
                    let parts: Vec<_> = components(target).map(<[u8]>::to_vec).collect();
                    todo.extend(parts.into_iter().rev());
                }
                _ => stack.push((name, child)),
            }
        }
        let real: Vec<&[u8]> = stack.iter().map(|(name, _)| name.as_slice()).collect();
        let real = real.join(&b'/');
        Ok((real, stack.pop().map_or(root, |(_, found)| found)))
    }

    /// Opens a regular file, following symlinks.
    ///
    /// # Errors
    /// When the path is not there, is not a regular file, or cannot be read.
    pub fn open(&self, path: &[u8]) -> Result<OpenFile> {
        let (_, found) = self.resolve(path, true)?;
        let regular = found
            .regular()
            .ok_or_else(|| Error::WrongKind { path: display(path), expected: "regular file" })?;
        self.store.open_content(regular)
    }

    /// Reads a regular file of at most `limit` bytes, following symlinks.
    ///
    /// # Errors
    /// As [`Tree::open`], and when the file is larger.
    pub fn read(&self, path: &[u8], limit: u64) -> Result<Vec<u8>> {
        let mut file = self.open(path)?;
        if file.size() > limit {
            let reason = "file is too large";
            return Err(Error::InvalidPath { path: display(path), reason });
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|source| Error::Io {
            action: "cannot read",
            path: display(path).into(),
            source,
        })?;
        Ok(bytes)
    }
}

/// The roots of layers as [`Found::merge`] wants them.
pub(crate) fn roots(layers: &[Arc<Layer>]) -> impl Iterator<Item = (u32, &Node)> {
    let numbered = layers.iter().enumerate().rev();
    numbered.map(|(number, layer)| (u32::try_from(number).unwrap_or(u32::MAX), &layer.root))
}

impl<'a> Found<'a> {
    /// The same with all below it as one manifest. Hard links become files of their own.
    pub fn flatten(&self) -> Node {
        let Node { attributes, kind } = self.node();
        let kind = match kind {
            NodeKind::Directory(_) => NodeKind::Directory(Directory {
                opaque: false,
                children: self
                    .children()
                    .into_iter()
                    .map(|child| (child.name.clone(), child.found.flatten()))
                    .collect(),
            }),
            NodeKind::Regular(regular) => {
                NodeKind::Regular(Regular { link_group: None, ..regular.clone() })
            }
            other => other.clone(),
        };
        Node { attributes: attributes.clone(), kind }
    }

    /// Merges what several layers have at one path, given from the top down.
    pub(crate) fn merge(nodes: impl Iterator<Item = (u32, &'a Node)>) -> Option<Self> {
        let mut merged: Vec<(u32, &Node)> = Vec::new();
        for (layer, node) in nodes {
            match &node.kind {
                NodeKind::Directory(directory) => {
                    merged.push((layer, node));
                    if directory.opaque {
                        break;
                    }
                }
                _ if merged.is_empty() => {
                    merged.push((layer, node));
                    break;
                }
                _ => break,
            }
        }
        let (_, first) = merged.first()?;
        (!matches!(first.kind, NodeKind::Whiteout)).then_some(Self { nodes: merged })
    }

    /// A node of one layer alone, like that of a layer which is not committed yet.
    pub fn of(node: &'a Node) -> Self {
        Self { nodes: vec![(0, node)] }
    }

    /// The topmost node.
    pub fn node(&self) -> &'a Node {
        self.nodes[0].1
    }

    /// Owner, permissions, time.
    pub fn attributes(&self) -> &'a Attributes {
        &self.node().attributes
    }

    /// Whether this is a directory.
    pub fn is_directory(&self) -> bool {
        self.node().as_directory().is_some()
    }

    /// The regular file, if it is one.
    pub fn regular(&self) -> Option<&'a Regular> {
        match &self.node().kind {
            NodeKind::Regular(regular) => Some(regular),
            _ => None,
        }
    }

    /// Which other names of the tree mean the same file, if there are any.
    pub fn link_group(&self) -> Option<LinkGroup> {
        let group = self.regular()?.link_group?;
        Some(LinkGroup { layer: self.nodes[0].0, group })
    }

    /// What is in this directory under `name`.
    pub fn child(&self, name: &[u8]) -> Option<Found<'a>> {
        Found::merge(
            self.nodes.iter().filter_map(|(layer, node)| {
                Some((*layer, node.as_directory()?.children.get(name)?))
            }),
        )
    }

    /// Everything in this directory, in byte order of the names.
    pub fn children(&self) -> Vec<Child<'a>> {
        if let [(layer, node)] = self.nodes.as_slice() {
            let Some(directory) = node.as_directory() else { return Vec::new() };
            return directory
                .children
                .iter()
                .filter(|(_, node)| !matches!(node.kind, NodeKind::Whiteout))
                .map(|(name, node)| Child { name, found: Found { nodes: vec![(*layer, node)] } })
                .collect();
        }
        let mut merged: BTreeMap<&Name, Vec<(u32, &Node)>> = BTreeMap::new();
        for (layer, node) in &self.nodes {
            for (name, child) in node.as_directory().map(|d| &d.children).into_iter().flatten() {
                merged.entry(name).or_default().push((*layer, child));
            }
        }
        merged
            .into_iter()
            .filter_map(|(name, nodes)| {
                Some(Child { name, found: Found::merge(nodes.into_iter())? })
            })
            .collect()
    }
}

/// The bytes of one regular file, wherever they are.
pub struct OpenFile {
    file: Arc<File>,
    offset: u64,
    end: u64,
}

impl OpenFile {
    pub(crate) fn new(file: Arc<File>, offset: u64, size: u64) -> Self {
        Self { file, offset, end: offset + size }
    }

    /// How many bytes are left.
    pub fn size(&self) -> u64 {
        self.end - self.offset
    }

    /// Leaves out the next `count` bytes.
    pub fn skip(&mut self, count: u64) {
        self.offset = self.end.min(self.offset.saturating_add(count));
    }

    /// An error that names the file and what to do: whoever gets it knows neither.
    fn damaged(&self, kind: io::ErrorKind, reason: &str) -> io::Error {
        use std::os::fd::AsRawFd;
        let link = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let path = std::fs::read_link(link).unwrap_or_default();
        let text = format!(
            "`{}` is damaged: {reason}; to check and repair it: cofferdam store verify",
            path.display()
        );
        io::Error::new(kind, text)
    }

    /// The file that the bytes are in, and the offset where they start.
    pub fn file(&self) -> (&File, u64) {
        (&self.file, self.offset)
    }
}

impl Read for OpenFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = usize::try_from(self.size()).map_or(buffer.len(), |s| s.min(buffer.len()));
        if length == 0 {
            return Ok(0);
        }
        let count = match self.file.read_at(&mut buffer[..length], self.offset) {
            Ok(count) => count,
            Err(error) => return Err(self.damaged(error.kind(), &error.to_string())),
        };
        if count == 0 {
            return Err(self.damaged(io::ErrorKind::UnexpectedEof, "it is too short"));
        }
        self.offset += count as u64;
        Ok(count)
    }
}

/// A path for a message.
pub(crate) fn display(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path).trim_start_matches('/'))
}
