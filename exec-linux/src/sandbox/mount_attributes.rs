//! The attributes of a mount, for fsmount(2) and mount_setattr(2), which rustix lacks.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::step::Restrictions;

/// `MOUNT_ATTR_RDONLY` of linux/mount.h.
pub const READ_ONLY: u64 = 1;
/// `MOUNT_ATTR_NOSUID`
pub const NO_SUID: u64 = 2;
/// `MOUNT_ATTR_NODEV`
pub const NO_DEV: u64 = 4;
/// `MOUNT_ATTR_NOEXEC`
pub const NO_EXEC: u64 = 8;

/// `MOUNT_ATTR_IDMAP`
const MAPPED: u64 = 0x0010_0000;

/// `struct mount_attr`
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Returns the attributes of restrictions.
pub fn of(readonly: bool, restrictions: Restrictions) -> u64 {
    let Restrictions { nosuid, nodev, noexec } = restrictions;
    [(readonly, READ_ONLY), (nosuid, NO_SUID), (nodev, NO_DEV), (noexec, NO_EXEC)]
        .into_iter()
        .filter(|(wanted, _)| *wanted)
        .fold(0, |all, (_, attribute)| all | attribute)
}

/// Adds attributes to a mount, given by a descriptor of its root.
pub fn set(mount: impl AsFd, attributes: u64) -> io::Result<()> {
    if attributes == 0 {
        return Ok(());
    }
    apply(mount, MountAttr { set: attributes, clear: 0, propagation: 0, user_namespace: 0 })
}

/// Clones the mount that `path` lies on, with `path` as its root, so that an id on disk is that id
/// of a user namespace. The clone is not attached.
pub fn clone_mapped(path: &Path, user_namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = open_tree(CWD, path, flags)?;
    let user_namespace = user_namespace.as_raw_fd() as u64;
    apply(&mount, MountAttr { set: MAPPED, clear: 0, propagation: 0, user_namespace })?;
    Ok(mount)
}

/// Clones a mount with all that are below it, which root of a user namespace may not separate.
pub fn clone_all(path: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    Ok(open_tree(CWD, path, flags)?)
}

/// Adds attributes to a mount and all that are below it.
pub fn set_all(mount: impl AsFd, attributes: u64) -> io::Result<()> {
    let attr = MountAttr { set: attributes, clear: 0, propagation: 0, user_namespace: 0 };
    apply_with(mount, attr, libc::AT_RECURSIVE)
}

fn apply(mount: impl AsFd, attr: MountAttr) -> io::Result<()> {
    apply_with(mount, attr, 0)
}

fn apply_with(mount: impl AsFd, attr: MountAttr, flags: i32) -> io::Result<()> {
    // SAFETY: the path is empty and NUL-terminated, and `attr` has the size that is said.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
