//! From the entries of an archive to the manifest of a layer. Where the files go is for [`Place`].
//!
//! The manifest that grows knows which parents are real directories, so no entry is ever taken
//! for something below a symlink. Whiteouts take overlayfs's form.

use std::collections::btree_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::io::Read;

use cofferdam_archive::{Member, MemberKind, Tar, clean_path};
use cofferdam_store::{Attributes, Directory, Node, NodeKind, Regular};

use super::place::Place;
use crate::{Error, Result};

/// The longest file name that Linux takes.
const MAX_NAME: usize = 255;

/// Why an entry cannot be unpacked.
pub(super) enum Problem {
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

/// A layer in the making.
pub(super) struct Manifest<P> {
    place: P,
    root: Node,
    /// How many groups of hard links there are.
    link_groups: u64,
    /// Directories without an entry of their own so far.
    implied: BTreeSet<Vec<u8>>,
}

impl<P: Place> Manifest<P> {
    /// Starts without entries; what they have goes to `place`.
    pub(super) fn new(place: P) -> Self {
        Self { place, root: Node::empty_root(), link_groups: 0, implied: BTreeSet::new() }
    }

    /// Takes the entry that the archive is at.
    pub(super) fn entry<R: Read>(
        &mut self,
        member: &Member,
        tar: &mut Tar<R>,
    ) -> Result<(), Problem> {
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
                self.place.directory(&member.path)?;
                NodeKind::Directory(Directory { opaque, ..Directory::default() })
            }
            MemberKind::Regular => {
                self.clear(parents, name)?;
                let (content, digest) = self.place.regular(&member.path, tar)?;
                let (size, digest) = (member.size, Some(digest));
                NodeKind::Regular(Regular { size, content, digest, link_group: None })
            }
            MemberKind::HardLink(existing) => {
                let existing = clean_path(existing).map_err(Problem::Entry)?;
                let rest = existing.strip_prefix(member.path.as_slice());
                if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/")) {
                    return Err(Problem::Entry("is a hard link to what it replaces".to_owned()));
                }
                let node = self.hard_link(&existing, &member.path)?;
                self.clear(parents, name)?;
                self.place.hard_link(&existing, &member.path)?;
                self.parent(parents)?.children.insert((*name).into(), node);
                return Ok(());
            }
            MemberKind::Symlink(to) => NodeKind::Symlink(to.clone()),
            MemberKind::CharacterDevice(major, minor) => NodeKind::CharacterDevice(*major, *minor),
            MemberKind::BlockDevice(major, minor) => NodeKind::BlockDevice(*major, *minor),
            MemberKind::Fifo => NodeKind::Fifo,
        };
        if !matches!(kind, NodeKind::Directory(_) | NodeKind::Regular(_)) {
            self.clear(parents, name)?;
            self.place.special(&member.path, &kind)?;
        }
        let node = Node { attributes, kind };
        if node.as_directory().is_none() {
            self.place.attributes(&member.path, &node)?;
        }
        self.parent(parents)?.children.insert((*name).into(), node);
        Ok(())
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
            self.place.renamed(&mut regular.content, path);
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
                self.place.special(&joined(parents, hidden), &NodeKind::Whiteout)?;
            }
        }
        Ok(())
    }

    /// The directory that an entry goes into; missing ones are made.
    fn parent(&mut self, parents: &[&[u8]]) -> Result<&mut Directory, Problem> {
        let mut path = Vec::new();
        let mut directory =
            self.root.as_directory_mut().expect("the root of a layer is a directory");
        for name in parents {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            let node = match directory.children.entry((*name).into()) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => {
                    self.place.directory(&path)?;
                    self.implied.insert(path.clone());
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
        self.place.remove(&joined(parents, name), &removed.kind)?;
        Ok(true)
    }

    /// Ends the layer: its root, and the directories that no entry was about.
    pub(super) fn finish(mut self) -> Result<(Node, Vec<Vec<u8>>)> {
        let mut links = HashMap::new();
        count_links(&self.root, &mut links);
        forget_single(&mut self.root, &links);
        self.place.finish(&self.root)?;
        let Self { root, implied, .. } = self;
        // Later entries may have replaced a directory.
        let still =
            |path: &Vec<u8>| root.get(path).is_some_and(|node| node.as_directory().is_some());
        let implied = implied.into_iter().filter(still).collect();
        Ok((root, implied))
    }
}

fn joined(parents: &[&[u8]], name: &[u8]) -> Vec<u8> {
    let mut path = parents.join(&b'/');
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
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

/// Dissolves groups of which all but one name were replaced by later entries.
fn forget_single(node: &mut Node, links: &HashMap<u64, u64>) {
    match &mut node.kind {
        NodeKind::Directory(directory) => {
            directory.children.values_mut().for_each(|child| forget_single(child, links));
        }
        NodeKind::Regular(regular) => {
            regular.link_group = regular.link_group.filter(|group| links[group] > 1);
        }
        _ => {}
    }
}

fn get_mut<'a>(root: &'a mut Node, path: &[u8]) -> Option<&'a mut Node> {
    path.split(|byte| *byte == b'/')
        .try_fold(root, |node, name| node.as_directory_mut()?.children.get_mut(name))
}
