//! Removes directories of any depth. A step can make directories in one another far deeper than a
//! path can say; removing them by path fails, and removing them by a function that calls itself
//! takes a descriptor and a piece of the stack for each. What cannot be removed would fill the disk
//! for good.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A directory that is being emptied.
struct Level {
    name: CString,
    /// Directories in it that are still there.
    left: Vec<CString>,
}

/// Removes a file, or a directory with all below it. Links are removed, not followed.
///
/// # Errors
/// When something cannot be removed.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.is_dir() {
        return fs::remove_file(path);
    }
    let mut here = openat(CWD, path, DIRECTORY, Mode::empty())?;
    let mut stack = vec![Level { name: CString::default(), left: remove_files(here.as_fd())? }];
    // One descriptor is open at a time. Nobody moves anything here, so `..` leads back.
    while let Some(level) = stack.last_mut() {
        if let Some(name) = level.left.pop() {
            here = openat(&here, &name, DIRECTORY, Mode::empty())?;
            stack.push(Level { name, left: remove_files(here.as_fd())? });
            continue;
        }
        let Level { name, .. } = stack.pop().expect("it was looked at just above");
        if !stack.is_empty() {
            here = openat(&here, "..", DIRECTORY, Mode::empty())?;
            unlinkat(&here, &name, AtFlags::REMOVEDIR)?;
        }
    }
    fs::remove_dir(path)
}

/// Removes what is in a directory and is none itself; the names of the others.
fn remove_files(directory: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    let mut directories = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_owned();
        if matches!(name.as_bytes(), b"." | b"..") {
            continue;
        }
        match unlinkat(directory, &name, AtFlags::empty()) {
            Err(Errno::ISDIR) => directories.push(name),
            result => result?,
        }
    }
    Ok(directories)
}
