//! Content digests of trees: what BuildKit calls content hash.
//!
//! As there, names below the hashed path, permissions, owners, extended attributes, links,
//! devices and bytes count, modification times do not. The digest of a file is built from the
//! digest of its bytes, so that a file whose bytes are known is not read again. Digests never
//! leave the state directory, so they need not be equal to BuildKit's.

use std::sync::atomic::{AtomicUsize, Ordering};

use cofferdam_patterns::{Glob, has_wildcard};
use cofferdam_types::{Digest, Hasher};

use crate::error::IoContext;
use crate::tree::Found;
use crate::{Attributes, Content, LayerId, Node, NodeKind, Regular, Result, Store, Tree};

/// A part of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Path inside the tree; may be a pattern if `wildcard` is set.
    pub path: Vec<u8>,
    /// Whether components may be patterns.
    pub wildcard: bool,
    /// Whether a symlink at the end is followed.
    pub follow: bool,
}

/// Hashes files, asking the store for digests that are known.
struct Hashing<'a> {
    store: &'a Store,
}

/// Digests the selected parts of a tree, in order. A path that does not exist counts as such.
/// Where a part lies does not count, only its own name where a pattern found it: a copy of a file
/// that was moved is the same copy.
///
/// # Errors
/// When a file cannot be read.
pub fn hash_tree(tree: &Tree, selections: &[Selection]) -> Result<Digest> {
    let hashing = Hashing { store: tree.store() };
    let mut hasher = Hasher::new();
    for selection in selections {
        let parts = select(tree, selection);
        hasher.update((parts.len() as u64).to_le_bytes());
        for (path, found) in parts {
            let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
            hasher.field(if selection.wildcard { name } else { b"" });
            hasher.update(hashing.found(&found)?.as_bytes());
        }
    }
    Ok(hasher.finish())
}

/// Everything that a selection means. Patterns are matched component by component; what comes
/// before the first pattern resolves symlinks.
fn select<'a>(tree: &'a Tree, selection: &Selection) -> Vec<(Vec<u8>, Found<'a>)> {
    let parts: Vec<&[u8]> = crate::node::components(&selection.path).collect();
    let is_pattern = |part: &&[u8]| has_wildcard(&String::from_utf8_lossy(part));
    let Some(first) = parts.iter().position(is_pattern).filter(|_| selection.wildcard) else {
        return tree.resolve(&selection.path, selection.follow).into_iter().collect();
    };
    let Ok(start) = tree.resolve(&parts[..first].join(&b'/'), true) else { return Vec::new() };
    let mut matches = vec![start];
    for part in &parts[first..] {
        // A malformed pattern matches nothing here; the copy itself reports it.
        let Ok(glob) = Glob::new(&String::from_utf8_lossy(part)) else { return Vec::new() };
        let mut next = Vec::new();
        for (path, found) in matches {
            for child in found.children() {
                if glob.matches(&String::from_utf8_lossy(child.name)) {
                    let mut path = path.clone();
                    path.push(b'/');
                    path.extend_from_slice(child.name);
                    next.push((path, child.found));
                }
            }
        }
        matches = next;
    }
    if !selection.follow {
        return matches;
    }
    // A symlink that matched is followed, and keeps the name that was matched.
    let follow = |(path, found): (Vec<u8>, Found<'a>)| match tree.resolve(&path, true) {
        Ok((_, target)) => (path, target),
        Err(_) => (path, found),
    };
    matches.into_iter().map(follow).collect()
}

impl Hashing<'_> {
    fn found(&self, found: &Found<'_>) -> Result<Digest> {
        let mut hasher = Hasher::new();
        header(&mut hasher, found.node());
        match &found.node().kind {
            NodeKind::Regular(regular) => {
                hasher.update(self.file(regular)?.as_bytes());
            }
            NodeKind::Directory(_) => {
                for child in found.children() {
                    hasher.field(child.name);
                    hasher.update(self.found(&child.found)?.as_bytes());
                }
            }
            _ => {}
        }
        Ok(hasher.finish())
    }

    fn file(&self, regular: &Regular) -> Result<Digest> {
        match (&regular.digest, &regular.content) {
            (Some(digest), _) => Ok(*digest),
            (None, Content::Layer { layer, path }) => {
                if let Some(digest) = self.store.file_digest(*layer, path)? {
                    return Ok(digest);
                }
                let digest = self.read(regular)?;
                self.store.save_file_digests(&[(*layer, path.clone(), digest)])?;
                Ok(digest)
            }
            (None, Content::Pack { .. }) => self.read(regular),
        }
    }

    fn read(&self, regular: &Regular) -> Result<Digest> {
        let mut hasher = Hasher::new();
        let mut file = self.store.open_content(regular)?;
        std::io::copy(&mut file, &mut hasher).io("cannot read a file of", self.store.root())?;
        Ok(hasher.finish())
    }
}

impl Store {
    /// The content digest of one layer alone, as a set of edits. Computed once.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn hash_layer(&self, id: LayerId) -> Result<Digest> {
        if let Some(digest) = self.layer_content(id)? {
            return Ok(digest);
        }
        let digest = self.hash_edits(&self.layer(id)?.root)?;
        self.save_layer_content(id, &digest)?;
        Ok(digest)
    }

    /// The content digest of a set of edits that may not be committed yet.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn hash_edits(&self, root: &Node) -> Result<Digest> {
        let hashing = Hashing { store: self };
        let mut hasher = Hasher::new();
        root.walk(&mut |path, node| {
            hasher.field(path);
            header(&mut hasher, node);
            match &node.kind {
                NodeKind::Regular(regular) => hasher.update(hashing.file(regular)?.as_bytes()),
                NodeKind::Directory(directory) => hasher.update([u8::from(directory.opaque)]),
                _ => {}
            }
            Ok::<_, crate::Error>(())
        })?;
        Ok(hasher.finish())
    }
}

fn header(hasher: &mut Hasher, node: &Node) {
    let Attributes { mode, uid, gid, mtime: _, xattrs } = &node.attributes;
    let (kind, a, b): (u8, u64, u64) = match &node.kind {
        NodeKind::Directory(_) => (b'd', 0, 0),
        NodeKind::Regular(regular) => (b'f', regular.size, 0),
        NodeKind::Symlink(_) => (b'l', 0, 0),
        NodeKind::CharacterDevice(major, minor) => (b'c', (*major).into(), (*minor).into()),
        NodeKind::BlockDevice(major, minor) => (b'b', (*major).into(), (*minor).into()),
        NodeKind::Fifo => (b'p', 0, 0),
        NodeKind::Socket => (b's', 0, 0),
        NodeKind::Whiteout => (b'w', 0, 0),
    };
    hasher.update([kind]);
    for number in [a, b, (*mode).into(), (*uid).into(), (*gid).into(), xattrs.len() as u64] {
        hasher.update(number.to_le_bytes());
    }
    for (name, value) in xattrs {
        hasher.field(name);
        hasher.field(value);
    }
    if let NodeKind::Symlink(target) = &node.kind {
        hasher.field(target);
    }
}

/// Runs `work` for every index below `count` on all cores.
pub(crate) fn parallel(count: usize, work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores.min(count) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        break;
                    }
                    work(index);
                }
            });
        }
    });
}
