//! The manifest of a layer: a tree of nodes that say what the layer has at each path.

use std::collections::BTreeMap;
use std::fmt;

use cofferdam_types::Digest;
use serde::{Deserialize, Serialize};

use crate::LayerId;

/// A file name: one path component, any bytes but `/` and NUL.
pub type Name = Box<[u8]>;

/// What a layer has at one path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Owner, permissions, time. Meaningless for a whiteout.
    pub attributes: Attributes,
    /// What it is.
    pub kind: NodeKind,
}

/// Owner, permissions, time and extended attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// Permission bits with setuid, setgid and sticky (07777).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time in nanoseconds since 1970.
    pub mtime: i64,
    /// Extended attributes, sorted by name.
    pub xattrs: Vec<(String, Vec<u8>)>,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeKind {
    /// A directory.
    Directory(Directory),
    /// A regular file.
    Regular(Regular),
    /// A symbolic link, with what it says.
    Symlink(Vec<u8>),
    /// A character device, major and minor number.
    CharacterDevice(u32, u32),
    /// A block device, major and minor number.
    BlockDevice(u32, u32),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// Nothing: hides what lower layers have here.
    Whiteout,
}

/// A directory of a layer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// Hides what lower layers have in this directory.
    pub opaque: bool,
    /// What this layer has in it.
    pub children: BTreeMap<Name, Node>,
}

/// A regular file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Regular {
    /// Bytes.
    pub size: u64,
    /// Where the bytes are.
    pub content: Content,
    /// SHA-256 of the bytes, where it is known at no extra cost.
    pub digest: Option<Digest>,
    /// Files of one layer with the same number are hard links of one file.
    pub link_group: Option<u64>,
}

/// Where the bytes of a regular file are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// In the directory of a layer, at this path (without a slash at its beginning).
    Layer {
        /// The layer.
        layer: LayerId,
        /// The path.
        path: Box<[u8]>,
    },
    /// In a pack, from this offset on.
    Pack {
        /// The pack.
        pack: PackId,
        /// The offset in bytes.
        offset: u64,
    },
}

impl Content {
    /// Stands for the bytes of a file that is about to be read. Opening it fails.
    pub fn nowhere() -> Self {
        Self::Pack { pack: PackId(-1), offset: 0 }
    }
}

/// Names a pack: a file with the bytes of many files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PackId(pub(crate) i64);

impl fmt::Display for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Node {
    /// An empty directory.
    pub fn directory(attributes: Attributes) -> Self {
        Self { attributes, kind: NodeKind::Directory(Directory::default()) }
    }

    /// Hides a path of the layers below.
    pub fn whiteout() -> Self {
        Self { attributes: Attributes::default(), kind: NodeKind::Whiteout }
    }

    /// The root of a layer that changes nothing.
    pub fn empty_root() -> Self {
        Self::directory(Attributes { mode: 0o755, ..Attributes::default() })
    }

    /// The directory, if it is one.
    pub fn as_directory(&self) -> Option<&Directory> {
        match &self.kind {
            NodeKind::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    /// The directory, if it is one.
    pub fn as_directory_mut(&mut self) -> Option<&mut Directory> {
        match &mut self.kind {
            NodeKind::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    /// Looks a path up in this layer alone, without following symlinks.
    pub fn get(&self, path: &[u8]) -> Option<&Node> {
        components(path).try_fold(self, |node, name| node.as_directory()?.children.get(name))
    }

    /// Calls `visit` for this node and all below it: parents first, names in byte order.
    ///
    /// # Errors
    /// Stops at the first error of `visit`.
    pub fn walk<E>(&self, visit: &mut impl FnMut(&[u8], &Node) -> Result<(), E>) -> Result<(), E> {
        fn go<E>(
            node: &Node,
            path: &mut Vec<u8>,
            visit: &mut impl FnMut(&[u8], &Node) -> Result<(), E>,
        ) -> Result<(), E> {
            visit(path, node)?;
            if let NodeKind::Directory(directory) = &node.kind {
                for (name, child) in &directory.children {
                    let length = path.len();
                    if length > 0 {
                        path.push(b'/');
                    }
                    path.extend_from_slice(name);
                    go(child, path, visit)?;
                    path.truncate(length);
                }
            }
            Ok(())
        }
        go(self, &mut Vec::new(), visit)
    }
}

/// Splits a path into its components; empty ones and `.` are left out.
pub(crate) fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".")
}
