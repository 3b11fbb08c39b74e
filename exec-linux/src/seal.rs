//! The helper's program, made so that a step cannot write to it.
//!
//! A step that is started as `#!/proc/self/exe` runs the engine's own binary for a moment and can
//! open it through `/proc/self/exe`, past all namespaces (CVE-2019-5736). So the helper is started
//! from a read-only mount of the binary that is attached nowhere, or else from a sealed copy in
//! memory: `/proc/self/exe` then leads to something that nobody can write to.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::sandbox::mount_attributes;

/// A program that can be started but not written to.
#[derive(Debug)]
pub struct SealedProgram(OwnedFd);

impl SealedProgram {
    /// Seals a program.
    pub fn new(program: &Path) -> io::Result<Self> {
        Self::read_only_mount(program).or_else(|_| Self::copy_in_memory(program))
    }

    /// Returns the path by which this process and its children can start it.
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }

    fn read_only_mount(program: &Path) -> io::Result<Self> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let mount = open_tree(CWD, program, flags)?;
        mount_attributes::set(&mount, mount_attributes::READ_ONLY)?;
        Ok(Self(mount))
    }

    fn copy_in_memory(program: &Path) -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut copy = File::from(memfd_create("cofferdam-sandbox", flags)?);
        io::copy(&mut File::open(program)?, &mut copy)?;
        let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
        fcntl_add_seals(&copy, seals)?;
        // A descriptor that is open for writing makes exec fail with ETXTBSY.
        let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
        Ok(Self(File::open(path)?.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_run_and_refuse_to_be_written() {
        let program = Path::new("/bin/true");
        for sealed in [
            SealedProgram::read_only_mount(program).expect("root can clone a mount"),
            SealedProgram::copy_in_memory(program).expect("/bin/true can be read"),
        ] {
            let status = std::process::Command::new(sealed.path()).status().expect("it starts");
            assert!(status.success());
            let written = File::options().write(true).open(sealed.path());
            let wrote = written.and_then(|mut file| io::Write::write_all(&mut file, b"x"));
            assert!(wrote.is_err());
        }
    }
}
