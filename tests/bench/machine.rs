//! Makes the machine ready for a measurement, so that a build pays for what it does and not for
//! what was done before it.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use anyhow::Result;
use rustix::fs::{MemfdFlags, memfd_create, sync};

/// What a build of a few small files needs at most: images, a sandbox, its own memory.
const SMALL: u64 = 512 << 20;

/// A context's bytes are written three times at most: as files, as a layer and into an archive.
/// Meanwhile as much again is taken back.
const COPIES: u64 = 8;

/// Waits until what was written before is on the disk, and has as much memory free at hand as a
/// build of this context may use, page cache and all.
///
/// A virtual machine whose hypervisor takes back what is free (free page reporting) waits for
/// each page that it touches again: a plain copy of 1 GiB took 0.5 s in memory that was in use
/// just before, and up to 3.9 s a few seconds later.
///
/// # Errors
/// The context cannot be read.
pub fn settle(context: &Path) -> Result<()> {
    sync();
    let mut bytes = SMALL;
    for file in files(context)? {
        bytes += COPIES * file.symlink_metadata()?.len();
    }
    // In a file, because what this process maps would count as memory of those that it starts.
    let mut memory = File::from(memfd_create("memory", MemfdFlags::CLOEXEC)?);
    io::copy(&mut io::repeat(1).take(bytes), &mut memory)?;
    Ok(())
}

/// Everything below a directory that is no directory.
///
/// # Errors
/// It cannot be read.
pub fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let (mut files, mut left) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let into = if entry.file_type()?.is_dir() { &mut left } else { &mut files };
            into.push(entry.path());
        }
    }
    Ok(files)
}
