//! Writes a tree into a directory of the host: real files with mode, time, extended attributes
//! and links, and with their owners if this process is root.
//!
//! The directory belongs to somebody and may hold anything, also what an earlier export of a
//! hostile image left there. So every step goes one name further from an open directory and
//! follows no link: a link that is in the way of a directory is replaced, and so is a file.
//! Files are put in place whole, by renaming.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use cofferdam_store::{Attributes, Found, LinkGroup, Node, NodeKind, Regular, Store};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chmodat,
    chownat, copy_file_range, linkat, makedev, mkdirat, mknodat, openat, renameat, setxattr,
    symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use crate::entries::is_local_xattr;
use crate::error::IoContext;
use crate::files::{FileTree, Times};
use crate::{Error, Result};

/// What happens to what else is in a directory that is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Others {
    /// It stays, except where it is in the way.
    #[default]
    Keep,
    /// It is deleted.
    Delete,
}

/// To whom files that are written belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owners {
    /// To whom they belong in the tree; only root can give files away.
    Kept,
    /// To who writes them.
    Writer,
    /// To who writes them, who may then read and change all of them, whatever their permissions.
    Worker,
}

/// Writes a tree into the directory `dest`, which is made if it does not exist. Scratch is an
/// empty directory. The attributes of `dest` itself stay as they are.
///
/// # Errors
/// When something cannot be read or written, or a directory that should stay is in the way of a
/// file.
pub fn write_directory(
    files: &FileTree,
    others: Others,
    owners: Owners,
    dest: &Path,
) -> Result<()> {
    let FileTree { tree, times } = files;
    fs::create_dir_all(dest).io("cannot create", dest)?;
    // The path of `dest` is the user's own: here links are followed.
    let root = open_root(dest)?;
    let Some(found) = tree.root() else {
        return match others {
            Others::Keep => Ok(()),
            Others::Delete => delete_others(dest, &[]),
        };
    };
    let mut writer = Writer {
        store: tree.store(),
        root: root.as_fd(),
        links: HashMap::new(),
        times,
        others,
        owners,
        // Random, so that the tree cannot have it.
        partial: format!(".cofferdam-{:016x}", RandomState::new().build_hasher().finish()),
    };
    writer.children(root.as_fd(), &mut Vec::new(), &found)
}

/// Deletes what is in the directory `dest` but what has one of these names.
///
/// # Errors
/// When something cannot be deleted.
pub fn delete_others(dest: &Path, names: &[&str]) -> Result<()> {
    let keep: HashSet<&[u8]> = names.iter().map(|name| name.as_bytes()).collect();
    delete_all_but(open_root(dest)?.as_fd(), &keep).io("cannot delete what else is in", dest)
}

fn open_root(dest: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, dest, flags, Mode::empty()).io("cannot open", dest)
}

/// Follows no link: one that leads out of the directory goes, what it leads to stays.
fn delete_all_but(directory: BorrowedFd<'_>, keep: &HashSet<&[u8]>) -> io::Result<()> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." && !keep.contains(name) {
            names.push(entry.file_name().to_owned());
        }
    }
    for name in names {
        match unlinkat(directory, &name, AtFlags::empty()) {
            Err(Errno::ISDIR) => delete_directory(directory, name.to_bytes())?,
            result => result?,
        }
    }
    Ok(())
}

fn delete_directory(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    let directory = open_directory(parent, name)?;
    delete_all_but(directory.as_fd(), &HashSet::new())?;
    Ok(unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}

struct Writer<'a> {
    store: &'a Store,
    root: BorrowedFd<'a>,
    /// Where the first of each group of hard links is.
    links: HashMap<LinkGroup, Vec<Vec<u8>>>,
    times: &'a Times,
    others: Others,
    owners: Owners,
    /// What files are called until they are complete.
    partial: String,
}

impl Writer<'_> {
    fn children(
        &mut self,
        directory: BorrowedFd<'_>,
        path: &mut Vec<Vec<u8>>,
        found: &Found<'_>,
    ) -> Result<()> {
        let children = found.children();
        if let Others::Delete = self.others {
            let keep = children.iter().map(|child| &child.name[..]).collect();
            delete_all_but(directory, &keep).map_err(|error| Error::Entry {
                path: String::from_utf8_lossy(&path.join(&b'/')).into_owned(),
                reason: format!("cannot delete what else is there: {error}"),
            })?;
        }
        for child in children {
            path.push(child.name.to_vec());
            self.child(directory, path, &child.found)?;
            path.pop();
        }
        Ok(())
    }

    fn child(
        &mut self,
        directory: BorrowedFd<'_>,
        path: &mut Vec<Vec<u8>>,
        found: &Found<'_>,
    ) -> Result<()> {
        let name = path.last().expect("a child has a name").clone();
        let failed = |path: &[Vec<u8>], reason: String| Error::Entry {
            path: String::from_utf8_lossy(&path.join(&b'/')).into_owned(),
            reason,
        };
        // The kernel would read these as paths.
        if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') {
            return Err(failed(path, "is not a file name".into()));
        }
        if found.is_directory() {
            let fd = self
                .directory(directory, &name)
                .map_err(|error| failed(path, error.to_string()))?;
            self.children(fd.as_fd(), path, found)?;
            return self
                .attributes(fd.as_fd(), found.node(), false)
                .map_err(|error| failed(path, error.to_string()));
        }
        if let NodeKind::Socket = found.node().kind {
            return Ok(());
        }
        self.file(directory, path, found)
            .and_then(|()| {
                let complete =
                    || renameat(directory, self.partial.as_str(), directory, name.as_slice());
                match complete() {
                    Err(Errno::ISDIR) if self.others == Others::Delete => {
                        delete_directory(directory, &name)?;
                        Ok(complete()?)
                    }
                    result => Ok(result?),
                }
            })
            .map_err(|error| {
                // Not there if making it is what failed.
                let _ = unlinkat(directory, self.partial.as_str(), AtFlags::empty());
                failed(path, error.to_string())
            })
    }

    /// Opens a directory, or makes it in the place of what is there.
    fn directory(&self, parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
        match open_directory(parent, name) {
            Ok(fd) => return Ok(fd),
            Err(Errno::NOENT) => {}
            // A symlink, or a file: only the name goes, never what it leads to.
            Err(Errno::LOOP | Errno::NOTDIR) => unlinkat(parent, name, AtFlags::empty())?,
            Err(error) => return Err(error.into()),
        }
        mkdirat(parent, name, Mode::RWXU)?;
        Ok(open_directory(parent, name)?)
    }

    /// Makes anything but a directory, under its name until it is complete.
    fn file(
        &mut self,
        directory: BorrowedFd<'_>,
        path: &[Vec<u8>],
        found: &Found<'_>,
    ) -> io::Result<()> {
        let name = self.partial.as_str();
        let special =
            |kind, device| Ok::<_, io::Error>(mknodat(directory, name, kind, Mode::RUSR, device)?);
        let mut symlink = false;
        match &found.node().kind {
            NodeKind::Regular(regular) => {
                if let Some(group) = found.link_group() {
                    if let Some(first) = self.links.get(&group) {
                        return link(self.root, first, directory, name);
                    }
                    self.links.insert(group, path.to_vec());
                }
                let flags = OFlags::WRONLY
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let file = openat(directory, name, flags, Mode::RUSR | Mode::WUSR)?;
                let file = File::from(file);
                copy(self.store, regular, &file)?;
                return self.attributes(file.as_fd(), found.node(), false);
            }
            NodeKind::Symlink(target) => {
                symlinkat(OsStr::from_bytes(target), directory, name)?;
                symlink = true;
            }
            NodeKind::CharacterDevice(major, minor) => {
                special(FileType::CharacterDevice, makedev(*major, *minor))?;
            }
            NodeKind::BlockDevice(major, minor) => {
                special(FileType::BlockDevice, makedev(*major, *minor))?;
            }
            NodeKind::Fifo => special(FileType::Fifo, 0)?,
            NodeKind::Directory(_) | NodeKind::Socket | NodeKind::Whiteout => {
                return Err(io::Error::other("cannot be written as a file"));
            }
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(directory, name, flags, Mode::empty())?;
        self.attributes(fd.as_fd(), found.node(), symlink)
    }

    /// Sets owner, extended attributes, mode and time, in an order in which they do not undo
    /// each other. Goes through the descriptor's entry in /proc, which leads to exactly the file
    /// that is open, of whichever kind it is.
    fn attributes(&self, fd: BorrowedFd<'_>, node: &Node, symlink: bool) -> io::Result<()> {
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let Attributes { mode, uid, gid, mtime: _, xattrs } = &node.attributes;
        if self.owners == Owners::Kept {
            let (owner, group) = (Uid::from_raw(*uid), Gid::from_raw(*gid));
            chownat(CWD, &path, Some(owner), Some(group), AtFlags::empty())?;
        }
        for (name, value) in xattrs.iter().filter(|(name, _)| !is_local_xattr(name)) {
            match setxattr(&path, name.as_str(), value, XattrFlags::empty()) {
                Ok(()) => {}
                // A file system or user that cannot have it: the files are still of use.
                Err(error @ (Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS)) => {
                    tracing::warn!("extended attribute `{name}` is not written: {error}");
                }
                Err(error) => return Err(error.into()),
            }
        }
        if !symlink {
            let accessible = match (self.owners, node.as_directory()) {
                (Owners::Worker, Some(_)) => 0o700,
                (Owners::Worker, None) => 0o600,
                (Owners::Kept | Owners::Writer, _) => 0,
            };
            chmodat(CWD, &path, Mode::from_raw_mode(mode | accessible), AtFlags::empty())?;
        }
        let mtime = self.times.of(node);
        let time = Timespec {
            tv_sec: mtime.div_euclid(1_000_000_000),
            tv_nsec: mtime.rem_euclid(1_000_000_000),
        };
        let times = Timestamps { last_access: time, last_modification: time };
        Ok(utimensat(CWD, &path, &times, AtFlags::empty())?)
    }
}

fn open_directory(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

/// Links the file at `first` below the root into `directory`, as `name`.
fn link(
    root: BorrowedFd<'_>,
    first: &[Vec<u8>],
    directory: BorrowedFd<'_>,
    name: &str,
) -> io::Result<()> {
    let (first, parents) = first.split_last().expect("a file has a name");
    let mut parent: Option<OwnedFd> = None;
    for component in parents {
        let here = parent.as_ref().map_or(root, AsFd::as_fd);
        parent = Some(open_directory(here, component)?);
    }
    let parent = parent.as_ref().map_or(root, AsFd::as_fd);
    Ok(linkat(parent, first.as_slice(), directory, name, AtFlags::empty())?)
}

/// Copies the contents of a file inside the kernel where that is possible.
fn copy(store: &Store, regular: &Regular, mut target: &File) -> io::Result<()> {
    if regular.size == 0 {
        return Ok(());
    }
    let mut source = store.open_content(regular).map_err(io::Error::other)?;
    let (file, mut offset) = source.file();
    let mut left = regular.size;
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(usize::MAX);
        match copy_file_range(file, Some(&mut offset), target, None, length) {
            Ok(0) => return Err(io::Error::other("its stored contents are too short")),
            Ok(count) => left -= count as u64,
            // Between file systems that cannot: by hand.
            Err(_) if left == regular.size => {
                io::copy(&mut source, &mut target)?;
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
