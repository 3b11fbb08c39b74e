//! Builds a layer in memory: edits on top of a tree.

use std::collections::{BTreeMap, HashMap, HashSet};

use cofferdam_types::Digest;

use crate::node::components;
use crate::tree::{Found, LinkGroup, display, roots};
use crate::{Attributes, Content, Directory, Error, Name, Node, NodeKind, Regular, Result, Tree};

/// A path of 4096 bytes, the longest that Linux takes, can name no deeper directory.
const MAX_DEPTH: usize = 2048;

/// What is changed of everything that is copied.
#[derive(Clone, Debug, Default)]
pub struct AttributeChanges {
    /// The new owner.
    pub uid: Option<u32>,
    /// The new group.
    pub gid: Option<u32>,
    /// The new modification time, in nanoseconds since 1970.
    pub mtime: Option<i64>,
}

/// Copies what is below a directory.
struct Contents<'a> {
    changes: &'a AttributeChanges,
    /// The groups of hard links so far: the new number, and how many names there are.
    groups: HashMap<LinkGroup, (u64, usize)>,
    next_group: u64,
}

impl Contents<'_> {
    /// Copies; `None` if the source nests too deep.
    fn children(&mut self, source: &Found<'_>, depth: usize) -> Option<BTreeMap<Name, Node>> {
        if depth >= MAX_DEPTH {
            return None;
        }
        let children = source.children().into_iter();
        children.map(|child| Some((child.name.clone(), self.node(&child.found, depth)?))).collect()
    }

    fn node(&mut self, source: &Found<'_>, depth: usize) -> Option<Node> {
        let Node { attributes, kind } = source.node();
        let kind = match kind {
            NodeKind::Directory(_) => {
                let children = self.children(source, depth + 1)?;
                NodeKind::Directory(Directory { opaque: false, children })
            }
            NodeKind::Regular(regular) => {
                let link_group = source.link_group().map(|group| {
                    let (number, names) = self.groups.entry(group).or_insert_with(|| {
                        self.next_group += 1;
                        (self.next_group - 1, 0)
                    });
                    *names += 1;
                    *number
                });
                NodeKind::Regular(Regular { link_group, ..regular.clone() })
            }
            other => other.clone(),
        };
        let attributes = Attributes {
            uid: self.changes.uid.unwrap_or(attributes.uid),
            gid: self.changes.gid.unwrap_or(attributes.gid),
            mtime: self.changes.mtime.unwrap_or(attributes.mtime),
            ..attributes.clone()
        };
        Some(Node { attributes, kind })
    }

    /// A file whose other names were not copied is nobody's hard link.
    fn forget_single(&self, children: &mut BTreeMap<Name, Node>) {
        let single = |(number, names): &(u64, usize)| (*names == 1).then_some(*number);
        let single: HashSet<u64> = self.groups.values().filter_map(single).collect();
        if single.is_empty() {
            return;
        }
        fn forget(children: &mut BTreeMap<Name, Node>, single: &HashSet<u64>) {
            for child in children.values_mut() {
                match &mut child.kind {
                    NodeKind::Directory(directory) => forget(&mut directory.children, single),
                    NodeKind::Regular(regular) => {
                        regular.link_group.take_if(|group| single.contains(group));
                    }
                    _ => {}
                }
            }
        }
        forget(children, &single);
    }
}

/// Edits on top of a base tree, visible at once through [`LayerBuilder::get`].
#[derive(Clone)]
pub struct LayerBuilder {
    base: Option<Tree>,
    root: Node,
    next_link_group: u64,
}

impl LayerBuilder {
    /// Starts without edits on `base`; `None` is scratch.
    pub fn new(base: Option<Tree>) -> Self {
        let root = match base.as_ref().and_then(Tree::root) {
            Some(found) => Node::directory(found.attributes().clone()),
            None => Node::empty_root(),
        };
        Self { base, root, next_link_group: 1 }
    }

    /// The edits so far.
    pub fn root(&self) -> &Node {
        &self.root
    }

    /// Ends editing.
    pub fn finish(self) -> Node {
        self.root
    }

    /// The root of the base with the edits made so far.
    pub fn view(&self) -> Found<'_> {
        let below = self.base.as_ref().map_or(&[][..], Tree::layers);
        let own = (u32::try_from(below.len()).unwrap_or(u32::MAX), &self.root);
        Found::merge([own].into_iter().chain(roots(below)))
            .expect("the root of a layer is a directory")
    }

    /// Looks at a path of the view without following any symlink.
    pub fn get(&self, path: &[u8]) -> Option<Found<'_>> {
        components(path).try_fold(self.view(), |found, name| found.child(name))
    }

    /// Puts a node that is not a directory.
    ///
    /// # Errors
    /// When the parent directory does not exist, or the path is the root.
    pub fn put(&mut self, path: &[u8], node: Node) -> Result<()> {
        let (parent, name) = self.parent(path)?;
        parent.children.insert(name.into(), node);
        Ok(())
    }

    /// Puts a regular file whose bytes are in a pack or another layer.
    ///
    /// # Errors
    /// As [`LayerBuilder::put`].
    pub fn put_file(
        &mut self,
        path: &[u8],
        attributes: Attributes,
        content: Content,
        size: u64,
        digest: Option<Digest>,
    ) -> Result<()> {
        let regular = Regular { size, content, digest, link_group: None };
        self.put(path, Node { attributes, kind: NodeKind::Regular(regular) })
    }

    /// Makes a directory, or changes the attributes of the one that is there.
    ///
    /// # Errors
    /// When the parent directory does not exist.
    pub fn put_directory(&mut self, path: &[u8], attributes: Attributes) -> Result<()> {
        if components(path).next().is_none() {
            self.root.attributes = attributes;
            return Ok(());
        }
        let (parent, name) = self.parent(path)?;
        match parent.children.get_mut(name) {
            Some(node) if node.as_directory().is_some() => node.attributes = attributes,
            Some(_) => {
                // What the base has here was removed or replaced by this layer before.
                let directory = Directory { opaque: true, ..Directory::default() };
                let kind = NodeKind::Directory(directory);
                parent.children.insert(name.into(), Node { attributes, kind });
            }
            None => {
                parent.children.insert(name.into(), Node::directory(attributes));
            }
        }
        Ok(())
    }

    /// Makes `path` another name of the regular file `existing`.
    ///
    /// # Errors
    /// When `existing` is not a regular file of the view, or the parent of `path` is missing.
    pub fn put_hard_link(&mut self, path: &[u8], existing: &[u8]) -> Result<()> {
        let found = self.get(existing).ok_or_else(|| Error::NotFound(display(existing)))?;
        let mut node = found.node().clone();
        let own = self.root.get(existing).is_some();
        let NodeKind::Regular(regular) = &mut node.kind else {
            return Err(Error::WrongKind { path: display(existing), expected: "regular file" });
        };
        if !own || regular.link_group.is_none() {
            regular.link_group = Some(self.next_link_group);
            self.next_link_group += 1;
            self.put(existing, node.clone())?;
        }
        self.put(path, node)
    }

    /// Puts everything that the directory `source` has in it into the directory `path`, which
    /// must be empty. Hard links among it stay hard links of each other.
    ///
    /// # Errors
    /// When one of both is no directory, or `path` is not empty, or `source` nests too deep.
    pub fn put_contents(
        &mut self,
        path: &[u8],
        source: &Found<'_>,
        changes: &AttributeChanges,
    ) -> Result<()> {
        let wrong = |expected| Error::WrongKind { path: display(path), expected };
        let target = self.get(path).ok_or_else(|| Error::NotFound(display(path)))?;
        if !target.is_directory() || !target.children().is_empty() {
            return Err(wrong("empty directory"));
        }
        let attributes = target.attributes().clone();
        let mut copy =
            Contents { changes, groups: HashMap::new(), next_group: self.next_link_group };
        let Some(mut children) = copy.children(source, 0) else {
            let reason = "directories are nested too deep, expected at most 2048 levels";
            return Err(Error::InvalidPath { path: display(path), reason });
        };
        copy.forget_single(&mut children);
        self.next_link_group = copy.next_group;
        // The directory is this layer's then.
        self.put_directory(path, attributes)?;
        let into = components(path)
            .try_fold(&mut self.root, |node, name| node.as_directory_mut()?.children.get_mut(name))
            .and_then(Node::as_directory_mut)
            .ok_or_else(|| wrong("directory"))?;
        for (name, mut child) in children {
            // What is there is the mark of something that was removed, and stays removed.
            if into.children.contains_key(&name)
                && let Some(directory) = child.as_directory_mut()
            {
                directory.opaque = true;
            }
            into.children.insert(name, child);
        }
        Ok(())
    }

    /// Removes a path with all below it. Removing what is not there does nothing.
    ///
    /// # Errors
    /// When the path is the root.
    pub fn remove(&mut self, path: &[u8]) -> Result<()> {
        if self.get(path).is_none() {
            return Ok(());
        }
        let in_base = self.base.as_ref().is_some_and(|base| base.get(path).is_some());
        let (parent, name) = self.parent(path)?;
        if in_base {
            parent.children.insert(name.into(), Node::whiteout());
        } else {
            parent.children.remove(name);
        }
        Ok(())
    }

    /// The directory of this layer that `path` goes into; directories that only the base has
    /// are copied up with their attributes.
    fn parent<'n>(&mut self, path: &'n [u8]) -> Result<(&mut Directory, &'n [u8])> {
        let names: Vec<&[u8]> = components(path).collect();
        if names.contains(&b"..".as_slice()) {
            return Err(Error::InvalidPath { path: display(path), reason: "contains `..`" });
        }
        let Some((name, parents)) = names.split_last() else {
            return Err(Error::InvalidPath { path: display(path), reason: "is the root" });
        };
        let Self { base, root, .. } = self;
        let mut below = base.as_ref().and_then(Tree::root);
        let mut directory = root.as_directory_mut().expect("the root of a layer is a directory");
        for parent in parents {
            below = below.filter(|_| !directory.opaque).and_then(|found| found.child(parent));
            let node = match directory.children.entry((*parent).into()) {
                std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::btree_map::Entry::Vacant(entry) => match &below {
                    Some(found) if found.is_directory() => {
                        entry.insert(Node::directory(found.attributes().clone()))
                    }
                    _ => return Err(Error::NotFound(format!("{} (parent)", display(path)))),
                },
            };
            directory = node.as_directory_mut().ok_or_else(|| Error::WrongKind {
                path: display(path),
                expected: "path below directories only",
            })?;
        }
        Ok((directory, name))
    }
}
