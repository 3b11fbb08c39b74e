//! Mount stubs: the empty files and directories that mount points need where the root file system
//! has none, and that must not be in the step's result.
//!
//! For an overlay they are a layer *below* all others. There they are seen only where the image
//! has nothing, they are never copied up, and the upper directory stays clean without anybody
//! cleaning it. The layer is never written to, so one serves all steps that mount at the same
//! places, for as long as the runner lives: to remove its directories after each step took longer
//! than all else (docs/design/exec-start-up.md).
//!
//! Where that does not do (a bind-mounted root; an image that hides the stub by a whiteout or a
//! symlink) they are made in place and noted, and removed afterwards if they are still empty, by
//! directory descriptor and inode so that nothing a step puts in their place is followed
//! (CVE-2024-23652), with their parents' times restored (spec 2.3-05).

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Stat, Timespec, Timestamps, UTIME_OMIT, fstat, statat, utimensat};

use super::paths::{self, Kind, OnCreate, Unnoted};

/// What every step needs a mount point for.
const ALWAYS: [(&str, Kind); 5] = [
    ("/dev", Kind::Directory),
    ("/proc", Kind::Directory),
    ("/sys", Kind::Directory),
    ("/etc/hosts", Kind::File),
    ("/etc/resolv.conf", Kind::File),
];

/// Returns the layer with the stubs that every step needs and those of `dests`, from the directory
/// `layers`. It is made first if no step has needed it yet, under the name `id`, which is nobody
/// else's.
pub fn layer(layers: &Path, id: &str, dests: &[(&str, Kind)]) -> io::Result<PathBuf> {
    // Two sets of one hash do no harm: what a layer lacks is made in place.
    let mut hasher = DefaultHasher::new();
    dests.hash(&mut hasher);
    let layer = layers.join(format!("{:016x}", hasher.finish()));
    if layer.exists() {
        return Ok(layer);
    }
    let new = layers.join(id);
    fs::create_dir(&new)?;
    // The layer's root is seen where an image has no layer with a root of its own.
    fs::set_permissions(&new, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let root = fs::File::open(&new)?;
    for &(dest, kind) in ALWAYS.iter().chain(dests) {
        // What lies in /dev is made in the step's own /dev. Two mounts may contradict each other
        // (a file, and something within it); the later one then fails when it is made.
        if !dest.starts_with("/dev/") {
            _ = paths::ensure(&root, dest, kind, &mut Unnoted);
        }
    }
    match fs::rename(&new, &layer) {
        // Another step was faster. A directory cannot replace one that is not empty.
        Err(_) if layer.exists() => fs::remove_dir_all(new)?,
        result => result?,
    }
    Ok(layer)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_made_once() {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let dests = [("/a/file", Kind::File), ("/dev/x", Kind::File)];
        let layers: Vec<_> = std::thread::scope(|scope| {
            let make = |id: usize| layer(dir.path(), &id.to_string(), &dests).expect("it is made");
            let makers: Vec<_> = (0..16).map(|id| scope.spawn(move || make(id))).collect();
            makers.into_iter().map(|maker| maker.join().expect("no panic")).collect()
        });
        assert!(layers.iter().all(|layer| *layer == layers[0]));
        assert_eq!(fs::read_dir(dir.path()).expect("it is there").count(), 1);
        assert!(layers[0].join("a/file").is_file() && layers[0].join("etc/hosts").is_file());
        assert!(!layers[0].join("dev/x").exists());
        let other = layer(dir.path(), "16", &[("/a/file", Kind::Directory)]).expect("it is made");
        assert!(other != layers[0] && other.join("a/file").is_dir());
    }
}
