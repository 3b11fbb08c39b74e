//! A directory for what is not committed, and a janitor that removes in the background.
//!
//! Removing a directory can take milliseconds (a file system with online discard waits for the
//! disk), so no build waits for it: what is left over is moved aside, and what the janitor has not
//! got to when the process ends, the next process removes. For the same reason the directory of a
//! process that is gone is taken over rather than removed and made anew. A process holds a lock
//! on its directory; whoever gets the lock, the directory is theirs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};

use rustix::fs::{FlockOperation, IFlags, flock, ioctl_getflags, ioctl_setflags};

use crate::Result;
use crate::descend::remove_tree;
use crate::error::IoContext;

/// The name of the lock file in a directory.
const LOCK: &str = "lock";

/// The directory of this process.
pub(crate) struct Scratch {
    path: PathBuf,
    /// Tells this process from all others that use the state directory now.
    number: i64,
    _lock: File,
    janitor: Mutex<mpsc::Sender<PathBuf>>,
    /// Makes names that no process used before.
    prefix: String,
    next: AtomicU64,
}

impl Scratch {
    /// Takes over a directory in `tmp` that nobody uses, or makes one.
    pub(crate) fn open(tmp: &Path) -> Result<Self> {
        let mut number = 0;
        let (path, lock) = loop {
            let path = tmp.join(format!("session-{number}"));
            fs::create_dir_all(&path).io("cannot create", &path)?;
            let lock_path = path.join(LOCK);
            let lock = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&lock_path)
                .io("cannot create", &lock_path)?;
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
                break (path, lock);
            }
            number += 1;
        };
        spread(&path);
        let (janitor, removed) = mpsc::channel();
        for left in left_in(&path).io("cannot list", &path)? {
            janitor.send(left).expect("the receiver is still here");
        }
        std::thread::spawn(move || removed.into_iter().for_each(|path| remove(&path)));
        let started = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |age| age.as_nanos());
        let scratch = Self {
            path,
            number,
            _lock: lock,
            janitor: Mutex::new(janitor),
            prefix: format!("{started:x}"),
            next: AtomicU64::new(0),
        };
        scratch.discard_abandoned();
        Ok(scratch)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn number(&self) -> i64 {
        self.number
    }

    /// Whether a process has the directory with this number.
    pub(crate) fn is_alive(&self, number: i64) -> bool {
        if number == self.number {
            return true;
        }
        let lock = self.path.with_file_name(format!("session-{number}")).join(LOCK);
        // Not there, or not ours to read: nobody has it locked that we have to take notice of.
        let Ok(lock) = File::open(lock) else { return false };
        flock(&lock, FlockOperation::NonBlockingLockShared).is_err()
    }

    /// Has removed what processes left that are gone, in directories that nobody has taken over.
    fn discard_abandoned(&self) {
        for (_, session) in self.others() {
            if left_in(&session).is_ok_and(|mut left| left.next().is_none()) {
                continue;
            }
            let Ok(lock) = File::open(session.join(LOCK)) else { continue };
            // Who starts meanwhile takes another directory.
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
                left_in(&session).into_iter().flatten().for_each(|left| self.discard(&left));
            }
        }
    }

    /// The directories of other processes, also of those that are gone.
    fn others(&self) -> impl Iterator<Item = (i64, PathBuf)> {
        let sessions = self.path.parent().and_then(|tmp| fs::read_dir(tmp).ok());
        let others = sessions.into_iter().flatten().flatten().filter_map(|entry| {
            let name = entry.file_name();
            let number = name.to_str()?.strip_prefix("session-")?.parse().ok()?;
            Some((number, entry.path()))
        });
        others.filter(|(number, _)| *number != self.number)
    }

    /// Whether any other process has a directory.
    pub(crate) fn others_alive(&self) -> bool {
        self.others().any(|(number, _)| self.is_alive(number))
    }

    /// A path in the directory that nothing has.
    pub(crate) fn fresh(&self, kind: &str) -> PathBuf {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.path.join(format!("{kind}-{}-{number}", self.prefix))
    }

    /// Has a path removed, soon: it is moved out of the way at once.
    pub(crate) fn discard(&self, path: &Path) {
        if let Some(aside) = self.set_aside(path) {
            let janitor = self.janitor.lock().unwrap_or_else(PoisonError::into_inner);
            // Without a janitor, the next process removes it.
            let _ = janitor.send(aside);
        }
    }

    /// Moves a path out of the way and tells where to; `None` if it was not there.
    pub(crate) fn set_aside(&self, path: &Path) -> Option<PathBuf> {
        let aside = self.fresh("removed");
        match fs::rename(path, &aside) {
            Ok(()) => return Some(aside),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!("cannot move `{}`: {error}", path.display()),
        }
        None
    }
}

/// What is left of a process in the directory that it had.
fn left_in(path: &Path) -> std::io::Result<impl Iterator<Item = PathBuf>> {
    let entries = fs::read_dir(path)?.flatten().filter(|entry| entry.file_name() != LOCK);
    Ok(entries.map(|entry| entry.path()))
}

/// Asks the file system to keep what is made in each directory of this one together, and apart
/// from the others' (ext4's attribute `T`). Otherwise a layer is made where another was removed,
/// and ext4 makes files many times slower for minutes where many were deleted. Layers are made
/// here and moved, so this is the directory that matters. Where it cannot be had, nothing is lost.
fn spread(path: &Path) {
    let Ok(directory) = File::open(path) else { return };
    if let Ok(flags) = ioctl_getflags(&directory)
        && !flags.contains(IFlags::TOPDIR)
    {
        let _ = ioctl_setflags(&directory, flags | IFlags::TOPDIR);
    }
}

/// Removes a path with all below it.
pub(crate) fn remove(path: &Path) {
    match remove_tree(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!("cannot remove `{}`: {error}", path.display());
        }
        _ => {}
    }
}
