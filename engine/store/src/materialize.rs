//! Writes a virtual layer to disk, for the kernel to mount: by hard link where a file with the
//! same attributes exists, else by copying inside the kernel.

use std::collections::HashMap;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rusqlite::params;
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, chownat, lgetxattr,
    llistxattr, lsetxattr, makedev, mknodat, utimensat,
};

use rustix::io::Errno;

use crate::error::IoContext;
use crate::{
    Attributes, Content, Error, LayerId, Node, NodeKind, Regular, Reservation, Result, Store, db,
};

impl Store {
    /// The directory with the files of a layer, in overlayfs's form; written out first if the
    /// layer is virtual.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn layer_dir(&self, id: LayerId) -> Result<PathBuf> {
        let target = self.layer_path(id).join("fs");
        if target.exists() {
            return Ok(target);
        }
        let layer = self.layer(id)?;
        let tmp = self.tmp_dir();
        let dir = tempfile::Builder::new()
            .prefix(&format!("fs-{id}-"))
            .tempdir_in(tmp)
            .io("cannot create a directory in", tmp)?;
        let root = dir.path().join("fs");
        let room = self.reservation();
        let mut writer = Writer {
            store: self,
            links: HashMap::new(),
            files: Files::Linked,
            room: &room,
            copied: 0,
        };
        writer.write(&root, &layer.root)?;
        match self.commit_written(id, &root, &target) {
            Ok(()) => Ok(target),
            // Another thread or process was faster; both wrote the same.
            Err(_) if target.exists() => Ok(target),
            Err(error) => Err(error),
        }
    }

    /// Writes a tree to a directory that will be changed: no file is shared with a layer.
    pub(crate) fn write_copy(&self, path: &Path, root: &Node, room: &Reservation) -> Result<()> {
        let links = HashMap::new();
        let mut writer = Writer { store: self, links, files: Files::Copied, room, copied: 0 };
        writer.write(path, root)
    }

    fn commit_written(&self, id: LayerId, from: &Path, to: &Path) -> Result<()> {
        let bytes = crate::disk_usage(from).cast_signed();
        let mut connection = self.db();
        let transaction = db::begin(&mut connection)?;
        let number = db::next(&transaction)?;
        transaction.execute(
            "UPDATE layers SET bytes = bytes + ?2, written = ?3 WHERE id = ?1",
            params![id.0, bytes, number],
        )?;
        fs::rename(from, to).io("cannot move a layer to", to)?;
        Ok(transaction.commit()?)
    }
}

/// Whether files that lie in a directory already are shared with it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Files {
    Linked,
    Copied,
}

struct Writer<'a> {
    store: &'a Store,
    links: HashMap<u64, PathBuf>,
    files: Files,
    room: &'a Reservation,
    /// Bytes that were copied, or are about to be.
    copied: u64,
}

impl Writer<'_> {
    fn write(&mut self, path: &Path, node: &Node) -> Result<()> {
        let mode = Mode::from_raw_mode(node.attributes.mode);
        let special =
            |kind, device| mknodat(CWD, path, kind, mode, device).io("cannot create", path);
        match &node.kind {
            NodeKind::Directory(directory) => {
                fs::DirBuilder::new().mode(0o700).create(path).io("cannot create", path)?;
                for (name, child) in &directory.children {
                    self.write(&path.join(std::ffi::OsStr::from_bytes(name)), child)?;
                }
                if directory.opaque {
                    mark_opaque(path)?;
                }
            }
            NodeKind::Regular(regular) => {
                if let Some(first) = regular.link_group.and_then(|group| self.links.get(&group)) {
                    return fs::hard_link(first, path).io("cannot link", path);
                }
                if let Some(group) = regular.link_group {
                    self.links.insert(group, path.to_owned());
                }
                if self.files == Files::Linked
                    && self.link_existing(path, regular, &node.attributes)?
                {
                    return Ok(());
                }
                self.copy(path, regular)?;
            }
            NodeKind::Symlink(target) => {
                std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(target), path)
                    .io("cannot create the link", path)?;
            }
            NodeKind::Whiteout => return special(FileType::CharacterDevice, 0),
            NodeKind::CharacterDevice(major, minor) => {
                make_device(path, FileType::CharacterDevice, *major, *minor)?;
            }
            NodeKind::BlockDevice(major, minor) => {
                make_device(path, FileType::BlockDevice, *major, *minor)?;
            }
            NodeKind::Fifo => special(FileType::Fifo, 0)?,
            NodeKind::Socket => special(FileType::Socket, 0)?,
        }
        set_attributes(path, node)
    }

    /// Links to a file of another layer if it has the right attributes: layers never change,
    /// so the same inode can be part of both.
    fn link_existing(
        &self,
        path: &Path,
        regular: &Regular,
        attributes: &Attributes,
    ) -> Result<bool> {
        let Content::Layer { layer, path: inside } = &regular.content else { return Ok(false) };
        let source = self.store.content_path(*layer, inside);
        let metadata = fs::symlink_metadata(&source).io("cannot stat", &source)?;
        let same = metadata.mode() & 0o7777 == attributes.mode
            && metadata.uid() == attributes.uid
            && metadata.gid() == attributes.gid
            && metadata.mtime() == attributes.mtime.div_euclid(1_000_000_000)
            && metadata.mtime_nsec() == attributes.mtime.rem_euclid(1_000_000_000)
            && same_xattrs(&source, attributes);
        // Two files of one layer that are not linked there must not become one inode.
        Ok(same && metadata.nlink() == 1 && fs::hard_link(&source, path).is_ok())
    }

    fn copy(&mut self, path: &Path, regular: &Regular) -> Result<()> {
        self.copied += regular.size;
        self.room.grow_to(self.copied)?;
        let mut source = self.store.open_content(regular)?;
        let target = File::create_new(path).io("cannot create", path)?;
        let (file, mut offset) = source.file();
        let mut left = regular.size;
        while left > 0 {
            let length = usize::try_from(left).unwrap_or(usize::MAX);
            match rustix::fs::copy_file_range(file, Some(&mut offset), &target, None, length) {
                Ok(0) => {
                    let path = path.to_owned();
                    let reason = "its stored contents are too short".to_owned();
                    return Err(Error::Damaged { path, reason });
                }
                Ok(count) => left -= count as u64,
                Err(_) if left == regular.size => {
                    let mut target = &target;
                    io::copy(&mut source, &mut target).io("cannot write", path)?;
                    return Ok(());
                }
                Err(error) => return Err(error).io("cannot write", path),
            }
        }
        Ok(())
    }
}

fn same_xattrs(path: &Path, attributes: &Attributes) -> bool {
    let mut names = [0; 4096];
    match llistxattr(path, &mut names) {
        Ok(0) => attributes.xattrs.is_empty(),
        Ok(length) => {
            let count = names[..length].iter().filter(|byte| **byte == 0).count();
            count == attributes.xattrs.len()
                && attributes.xattrs.iter().all(|(name, value)| {
                    let mut buffer = [0; 4096];
                    lgetxattr(path, name.as_str(), &mut buffer)
                        .is_ok_and(|length| buffer[..length] == value[..])
                })
        }
        Err(_) => false,
    }
}

/// Makes an empty directory, like the root of scratch. It belongs to this process's user, who is
/// root where anybody but this program looks at it.
pub(crate) fn write_empty(path: &Path) -> Result<()> {
    fs::create_dir(path).io("cannot create", path)?;
    fs::set_permissions(path, Permissions::from_mode(0o755)).io("cannot chmod", path)?;
    set_mtime(path, 0)
}

/// Makes a device node, or an empty file in its place where this process may not make any (in a
/// user namespace, as an ordinary user): the node of the manifest is what is exported.
///
/// # Errors
/// When neither can be made.
pub fn make_device(path: &Path, kind: FileType, major: u32, minor: u32) -> Result<()> {
    match mknodat(CWD, path, kind, Mode::RUSR | Mode::WUSR, makedev(major, minor)) {
        Err(Errno::PERM) => File::create_new(path).map(drop).io("cannot create", path),
        made => made.io("cannot create", path),
    }
}

/// Marks a directory as one that hides what layers below have in its place: with the attribute
/// that an overlay takes its notes from, which for an ordinary user is another one.
///
/// # Errors
/// When neither can be set.
pub fn mark_opaque(path: &Path) -> Result<()> {
    let mark = |name| lsetxattr(path, name, b"y", XattrFlags::empty());
    match mark("trusted.overlay.opaque") {
        Err(Errno::PERM) => mark("user.overlay.opaque"),
        marked => marked,
    }
    .io("cannot mark as opaque", path)
}

/// Sets owner, extended attributes, permissions and time of a path, in the order in which they do
/// not undo each other. A symlink is not followed.
///
/// # Errors
/// When one of them cannot be set.
pub fn set_attributes(path: &Path, node: &Node) -> Result<()> {
    let Attributes { mode, uid, gid, mtime, xattrs } = &node.attributes;
    chownat(
        CWD,
        path,
        Some(Uid::from_raw(*uid)),
        Some(Gid::from_raw(*gid)),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .map_err(|error| match error {
        // What the kernel says of an id that a user namespace does not have.
        Errno::INVAL => io::Error::other(format!(
            "its owner {uid}:{gid} is beyond the ids that this user has (/etc/subuid, /etc/subgid)"
        )),
        error => error.into(),
    })
    .io("cannot change the owner of", path)?;
    for (name, value) in xattrs {
        match lsetxattr(path, name.as_str(), value, XattrFlags::empty()) {
            // Only the machine's root may set these, and only it takes notice of them.
            Err(Errno::PERM) if name.starts_with("trusted.") || name.starts_with("security.") => {}
            set => set.io("cannot set an attribute of", path)?,
        }
    }
    if !matches!(node.kind, NodeKind::Symlink(_)) {
        // After chown, which clears the setuid bit.
        fs::set_permissions(path, Permissions::from_mode(*mode)).io("cannot chmod", path)?;
    }
    set_mtime(path, *mtime)
}

/// Sets the modification time (nanoseconds since 1970) of a path, not following a symlink.
fn set_mtime(path: &Path, mtime: i64) -> Result<()> {
    let time = Timespec {
        tv_sec: mtime.div_euclid(1_000_000_000),
        tv_nsec: mtime.rem_euclid(1_000_000_000),
    };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).io("cannot set the time of", path)
}
