//! A disk that is all but full: what has to be free before anything is begun.
//!
//! SQLite's index of its log is a file that all processes map. Where the file system has no block
//! for a page of it, touching the page kills the process (SIGBUS, mmap(2)), with no word of why.
//! It is touched when the database is opened, so it is enough to look before.

use std::fs;
use std::path::Path;

use crate::error::IoContext;
use crate::{Error, Result, scratch};

/// Bytes that have to be free. The index takes 32 KiB, and ext4 wants some for itself.
const NEEDED: u64 = 1 << 20;

/// Sees to it that the disk has room for the database. What is only there to save time makes way,
/// so that a full disk can still be pruned.
///
/// # Errors
/// When there is no room.
pub(crate) fn ensure(root: &Path) -> Result<()> {
    if free(root)? >= NEEDED {
        return Ok(());
    }
    for name in ["compiled", "local"] {
        let directory = root.join(name);
        let entries = fs::read_dir(&directory).io("cannot list", &directory)?;
        entries.flatten().for_each(|entry| scratch::remove(&entry.path()));
    }
    // Some file systems count blocks as free only when the disk knows.
    let directory = fs::File::open(root).io("cannot open", root)?;
    rustix::fs::syncfs(&directory).io("cannot sync the file system of", root)?;
    match free(root)? {
        free if free < NEEDED => Err(Error::DiskFull { path: root.to_owned(), free }),
        _ => Ok(()),
    }
}

/// Bytes that this user may still write.
fn free(root: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(root).io("cannot look at the file system of", root)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
