//! Builds a layer in memory: edits on top of a tree.

use cofferdam_types::Digest;

use crate::node::components;
use crate::tree::{Found, display};
use crate::{Attributes, Content, Directory, Error, Node, NodeKind, Regular, Result, Tree};

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
        let layers = self.base.iter().flat_map(|base| base.layers().iter().rev());
        Found::merge([&self.root].into_iter().chain(layers.map(|layer| &layer.root)))
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
