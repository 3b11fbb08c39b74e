//! The attributes of a mount, for fsmount(2) and mount_setattr(2), which rustix lacks.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use crate::step::Restrictions;

/// `MOUNT_ATTR_RDONLY` of linux/mount.h.
pub const READ_ONLY: u64 = 1;
/// `MOUNT_ATTR_NOSUID`
pub const NO_SUID: u64 = 2;
/// `MOUNT_ATTR_NODEV`
pub const NO_DEV: u64 = 4;
/// `MOUNT_ATTR_NOEXEC`
pub const NO_EXEC: u64 = 8;

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
    let attr = MountAttr { set: attributes, clear: 0, propagation: 0, user_namespace: 0 };
    // SAFETY: the path is empty and NUL-terminated, and `attr` has the size that is said.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
