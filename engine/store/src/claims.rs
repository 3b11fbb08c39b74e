//! Claims: a process tells the others that it is at work on something, so that the same step is
//! not run by two of them.
//!
//! A claim is a lock on one byte of a file whose position comes from the key. The kernel gives
//! it back when the process ends, however it ends (`F_OFD_SETLK`, fcntl(2)).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use cofferdam_types::Digest;

use crate::error::IoContext;
use crate::{Result, Store};

/// What stands for the right to go beyond the storage limit.
const FIRST: &str = "beyond the storage limit";

pub(crate) struct ClaimFile(File);

impl ClaimFile {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let mut options = File::options();
        let file = options.create(true).truncate(false).read(true).write(true).open(path);
        Ok(Self(file.io("cannot open", path)?))
    }

    /// Lets this process be the one that goes first, unless another is. It stays so until it
    /// steps back or ends.
    pub(crate) fn go_first(&self) -> Result<bool> {
        match self.set(&Digest::of(FIRST), libc::F_WRLCK) {
            Ok(()) => Ok(true),
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EACCES) => Ok(false),
                _ => Err(error).io("cannot lock", "claims"),
            },
        }
    }

    /// Lets another process go first.
    pub(crate) fn step_back(&self) {
        // Not to have been first is no error.
        _ = self.set(&Digest::of(FIRST), libc::F_UNLCK);
    }

    /// Locks or unlocks the byte of a key, if nobody else has it.
    fn set(&self, key: &Digest, kind: libc::c_int) -> io::Result<()> {
        let mut position = [0; 8];
        position.copy_from_slice(&key.as_bytes()[..8]);
        // The sign bit is not for positions; the length must fit behind it, too.
        let position = i64::from_le_bytes(position) & (i64::MAX >> 1);
        let lock = libc::flock {
            l_type: kind as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: position,
            l_len: 1,
            l_pid: 0,
        };
        // SAFETY: the descriptor is open for as long as `self`, and the kernel only reads `lock`,
        // which lives until the call returns.
        let result = unsafe { libc::fcntl(self.0.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// A claim on a key; given back when dropped.
pub struct StoreClaim {
    store: Store,
    key: Digest,
}

impl Drop for StoreClaim {
    fn drop(&mut self) {
        if let Err(error) = self.store.claims().set(&self.key, libc::F_UNLCK) {
            tracing::warn!("cannot give a claim back: {error}");
        }
    }
}

impl Store {
    /// Claims a key, unless another process has claimed it. Within one process the caller sees
    /// to it that a key is claimed once.
    ///
    /// # Errors
    /// When the file system does not support locks.
    pub fn try_claim(&self, key: &Digest) -> Result<Option<StoreClaim>> {
        match self.claims().set(key, libc::F_WRLCK) {
            Ok(()) => Ok(Some(StoreClaim { store: self.clone(), key: *key })),
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EACCES) => Ok(None),
                _ => Err(error).io("cannot lock", self.root().join("tmp/claims")),
            },
        }
    }
}
