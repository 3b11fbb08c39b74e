//! A tree of files on its way out without being an image, with the times that its files get.

use std::collections::{HashMap, HashSet};

use cofferdam_store::{Found, Node, NodeKind, Snapshot, Store, Tree};

use crate::{Error, Result};

/// Limits how young files may be.
#[derive(Debug, Default)]
pub(crate) struct Times {
    /// In seconds since 1970.
    latest: Option<i64>,
    /// Nodes whose times stay, by their address: the tree keeps its layers where they are.
    untouched: HashSet<usize>,
}

impl Times {
    /// The same limit for all.
    pub(crate) fn all(latest: Option<i64>) -> Self {
        Self { latest, untouched: HashSet::new() }
    }

    /// The modification time that a node gets, in nanoseconds since 1970.
    pub(crate) fn of(&self, node: &Node) -> i64 {
        let mtime = node.attributes.mtime;
        match self.latest {
            Some(latest) if !self.untouched.contains(&std::ptr::from_ref(node).addr()) => {
                mtime.min(latest.saturating_mul(1_000_000_000))
            }
            _ => mtime,
        }
    }
}

/// A tree of files that leaves the store.
pub struct FileTree {
    pub(crate) tree: Tree,
    pub(crate) times: Times,
}

impl FileTree {
    /// The files of a chain of layers. With `latest` (seconds since 1970), files of layers that
    /// no registry gave are not younger.
    ///
    /// # Errors
    /// When a layer cannot be read.
    pub fn new(store: &Store, snapshot: &Snapshot, latest: Option<i64>) -> Result<Self> {
        let tree = store.tree(snapshot)?;
        let mut times = Times::all(latest);
        for layer in tree.layers().iter().filter(|_| latest.is_some()) {
            if store.layer_blob(layer.id, "original")?.is_some() {
                let untouched = &mut times.untouched;
                let walked = layer.root.walk(&mut |_, node| {
                    untouched.insert(std::ptr::from_ref(node).addr());
                    Ok::<_, std::convert::Infallible>(())
                });
                let Ok(()) = walked;
            }
        }
        Ok(Self { tree, times })
    }

    /// Bytes of all regular files; each name of a file with several counts.
    pub fn size(&self) -> u64 {
        fn of(found: &Found<'_>) -> u64 {
            match &found.node().kind {
                NodeKind::Regular(regular) => regular.size,
                _ => found.children().iter().map(|child| of(&child.found)).sum(),
            }
        }
        self.tree.root().as_ref().map_or(0, of)
    }
}

/// Checks that trees can share a directory: only directories may be in several.
///
/// # Errors
/// Names the first file that is in more than one, with the trees' names.
pub fn check_disjoint(trees: &[(&str, &FileTree)]) -> Result<()> {
    let mut seen: HashMap<Vec<u8>, (&str, bool)> = HashMap::new();
    for (name, tree) in trees {
        let Some(root) = tree.tree.root() else { continue };
        visit(&mut Vec::new(), &root, &mut |path, directory| match seen
            .insert(path.to_vec(), (name, directory))
        {
            Some((other, was_directory)) if !(directory && was_directory) => {
                Err(Error::Options(format!(
                    "`/{}` is in the result for {other} and in that for {name}; with \
                     `platform-split=false` they share a directory",
                    String::from_utf8_lossy(path)
                )))
            }
            _ => Ok(()),
        })?;
    }
    Ok(())
}

fn visit(
    path: &mut Vec<u8>,
    found: &Found<'_>,
    each: &mut impl FnMut(&[u8], bool) -> Result<()>,
) -> Result<()> {
    for child in found.children() {
        let length = path.len();
        if length > 0 {
            path.push(b'/');
        }
        path.extend_from_slice(child.name);
        each(path, child.found.is_directory())?;
        visit(path, &child.found, each)?;
        path.truncate(length);
    }
    Ok(())
}
