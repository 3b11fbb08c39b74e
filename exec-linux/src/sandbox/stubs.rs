//! Mount stubs: the empty files and directories that mount points need where the root file system
//! has none, and that must not be in the step's result.
//!
//! For an overlay they are a layer *below* all others. There they are seen only where the image
//! has nothing, they are never copied up, and the upper directory stays clean without anybody
//! cleaning it. Where that does not do (a bind-mounted root; an image that hides the stub by a
//! whiteout or a symlink) they are made in place and noted, and removed afterwards if they are
//! still empty, by directory descriptor and inode so that nothing a step puts in their place is
//! followed (CVE-2024-23652), with their parents' times restored (spec 2.3-05).

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Stat, Timespec, Timestamps, UTIME_OMIT, fstat, statat, utimensat};

use super::paths::{self, Kind, OnCreate};

/// What every step needs a mount point for.
const ALWAYS: [(&str, Kind); 5] = [
    ("/dev", Kind::Directory),
    ("/proc", Kind::Directory),
    ("/sys", Kind::Directory),
    ("/etc/hosts", Kind::File),
    ("/etc/resolv.conf", Kind::File),
];

/// A stub layer on disk; removed when dropped.
#[derive(Debug)]
pub struct StubLayer {
    /// The layer's directory.
    pub path: PathBuf,
    /// What was made, in order, with the directory that it was made in.
    made: Vec<(OwnedFd, OsString, Kind)>,
}

impl StubLayer {
    /// Makes a layer in `state_dir` with the stubs that every step needs and those of `dests`.
    pub fn new(state_dir: &Path, name: &str, dests: &[(&str, Kind)]) -> io::Result<Self> {
        let path = state_dir.join(name);
        fs::create_dir(&path)?;
        let state_dir: OwnedFd = fs::File::open(state_dir)?.into();
        let mut layer = Self { path, made: vec![(state_dir, name.into(), Kind::Directory)] };
        // The layer's root is seen where an image has no layer with a root of its own.
        fs::set_permissions(&layer.path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let root = fs::File::open(&layer.path)?;
        for &(dest, kind) in ALWAYS.iter().chain(dests) {
            // What lies in /dev is made in the step's own /dev. Two mounts may contradict each
            // other (a file, and something within it); the later one then fails when it is made.
            if !dest.starts_with("/dev/") {
                _ = paths::ensure(&root, dest, kind, &mut layer);
            }
        }
        Ok(layer)
    }
}

impl OnCreate for StubLayer {
    fn created(
        &mut self,
        directory: &OwnedFd,
        name: &str,
        kind: Kind,
        create: &mut dyn FnMut() -> io::Result<()>,
    ) -> io::Result<()> {
        create()?;
        self.made.push((directory.try_clone()?, name.into(), kind));
        Ok(())
    }
}

impl Drop for StubLayer {
    fn drop(&mut self) {
        for (directory, name, kind) in self.made.iter().rev() {
            // What cannot be removed is removed by the next runner.
            _ = paths::remove(directory, name, *kind);
        }
    }
}

/// Stubs that were made in place.
#[derive(Debug, Default)]
pub struct Stubs(Vec<Stub>);

#[derive(Debug)]
struct Stub {
    directory: OwnedFd,
    name: String,
    kind: Kind,
    made: Stat,
    /// The directory before and after the stub was made.
    before: Stat,
    after: Stat,
}

impl OnCreate for Stubs {
    fn created(
        &mut self,
        directory: &OwnedFd,
        name: &str,
        kind: Kind,
        create: &mut dyn FnMut() -> io::Result<()>,
    ) -> io::Result<()> {
        let before = fstat(directory)?;
        create()?;
        self.0.push(Stub {
            directory: directory.try_clone()?,
            name: name.to_owned(),
            kind,
            made: statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?,
            before,
            after: fstat(directory)?,
        });
        Ok(())
    }
}

impl Stubs {
    /// Removes those that are still there and empty. Everything is best effort: the step has
    /// ended, and its result is not wrong for having a stub more.
    pub fn remove(&mut self) {
        while let Some(stub) = self.0.pop() {
            _ = stub.remove();
        }
    }
}

impl Stub {
    fn remove(&self) -> io::Result<()> {
        let now = statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW)?;
        let same = (now.st_dev, now.st_ino) == (self.made.st_dev, self.made.st_ino);
        // A directory that is not empty refuses to be removed.
        if !same || (self.kind == Kind::File && now.st_size != 0) {
            return Ok(());
        }
        let directory = fstat(&self.directory)?;
        paths::remove(&self.directory, self.name.as_ref(), self.kind)?;
        // Where the step changed the directory itself, the time that it left stays.
        let time = if mtime(&directory) == mtime(&self.after) { &self.before } else { &directory };
        set_mtime(&self.directory, time)
    }
}

fn mtime(stat: &Stat) -> (libc::c_long, libc::c_ulong) {
    (stat.st_mtime, stat.st_mtime_nsec)
}

fn set_mtime(directory: impl AsFd, stat: &Stat) -> io::Result<()> {
    let (seconds, nanoseconds) = mtime(stat);
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds as _ },
    };
    Ok(utimensat(directory, "", &times, AtFlags::EMPTY_PATH)?)
}
