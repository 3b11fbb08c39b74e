//! Build contexts: temporary directories with files of known contents, modes and times.

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use tempfile::TempDir;

use crate::tree::FIXTURE_TIME;

/// A build context. Every file has mode 0644 and the time [`FIXTURE_TIME`] unless told otherwise.
pub struct Context {
    directory: TempDir,
}

impl Context {
    /// A context with this Dockerfile.
    ///
    /// # Errors
    /// The temporary directory cannot be written.
    pub fn new(dockerfile: &str) -> Result<Self> {
        let context = Self { directory: tempfile::tempdir()? };
        context.file("Dockerfile", dockerfile)?;
        Ok(context)
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Writes a file, and its directories where they are missing.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> Result<&Self> {
        let path = self.parent(name)?;
        fs::write(&path, contents)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
        self.time(name, FIXTURE_TIME)
    }

    /// Sets the permission bits of a file or directory.
    ///
    /// # Errors
    /// There is no such file.
    pub fn mode(&self, name: &str, mode: u32) -> Result<&Self> {
        fs::set_permissions(self.path().join(name), fs::Permissions::from_mode(mode))?;
        Ok(self)
    }

    /// Sets the modification time of a file or directory.
    ///
    /// # Errors
    /// There is no such file.
    pub fn time(&self, name: &str, seconds: u64) -> Result<&Self> {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let times = FileTimes::new().set_modified(time).set_accessed(time);
        File::open(self.path().join(name))?.set_times(times)?;
        Ok(self)
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// The link cannot be made.
    pub fn link(&self, name: &str, target: &str) -> Result<&Self> {
        let path = self.parent(name)?;
        symlink(target, &path)?;
        let time = Timespec { tv_sec: i64::try_from(FIXTURE_TIME)?, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(self)
    }

    /// Makes another name of a file.
    ///
    /// # Errors
    /// The link cannot be made.
    pub fn hard_link(&self, name: &str, target: &str) -> Result<&Self> {
        fs::hard_link(self.path().join(target), self.parent(name)?)?;
        Ok(self)
    }

    /// Copies a file from the machine.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn copy(&self, name: &str, from: &Path) -> Result<&Self> {
        self.file(name, fs::read(from)?)
    }

    fn parent(&self, name: &str) -> Result<PathBuf> {
        let path = self.path().join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        Ok(path)
    }
}
