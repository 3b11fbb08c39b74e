//! Opens what lies on the host for a step's mounts. Where the step has a user namespace of its
//! own, it is opened through mounts with mapped ids: an id on disk is that id of the step's.
//!
//! Nearly all that a step mounts lies below one directory (the store), and one such mount of it
//! serves all: each costs a grace period of the kernel when it goes.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::thread::{CapabilitiesSecureBits, set_capabilities_secure_bits};

use super::mount_attributes::clone_mapped;
use super::mounts::attach;
use super::{Doing, Result};
use crate::user_namespace::{HOST_ROOT, Ids};

/// What opens files of the host.
pub struct HostFiles<'a> {
    /// A directory that mounts are attached to: older kernels only take such for an overlay.
    stage: OwnedFd,
    user_namespace: Option<BorrowedFd<'a>>,
    /// A directory, and a mount of it with mapped ids.
    common: Option<(PathBuf, OwnedFd)>,
}

impl<'a> HostFiles<'a> {
    /// For mounts below which `paths` lie, and any others.
    ///
    /// From here on this process makes files as the step's root, where that is another.
    pub fn new<'p>(
        stage: &Path,
        user_namespace: Option<BorrowedFd<'a>>,
        paths: impl Iterator<Item = &'p Path>,
    ) -> Result<Self> {
        let mut files = Self {
            stage: open_plain(stage).doing(|| format!("opening `{}`", stage.display()))?,
            user_namespace,
            common: None,
        };
        if let Some(user_namespace) = user_namespace {
            // Ids of files change below without the capabilities that go with them.
            set_capabilities_secure_bits(CapabilitiesSecureBits::NO_SETUID_FIXUP)
                .doing(|| "keeping capabilities".to_owned())?;
            act_as(HOST_ROOT, HOST_ROOT).doing(|| "acting as the step's root".to_owned())?;
            files.common = common_directory(paths)
                .and_then(|path| Some((path.clone(), files.mapped(&path, user_namespace).ok()?)));
        }
        Ok(files)
    }

    /// The directory that sources are attached to.
    pub fn stage(&self) -> &OwnedFd {
        &self.stage
    }

    /// Whose ids the step's are.
    pub fn ids(&self) -> Ids {
        if self.user_namespace.is_some() { Ids::Mapped } else { Ids::Host }
    }

    /// Opens a path, for mounting it.
    pub fn open(&self, path: &Path) -> Result<OwnedFd> {
        let opened = match (self.user_namespace, &self.common) {
            (None, _) => open_plain(path),
            (Some(user_namespace), Some((directory, mount))) => {
                below(directory, mount, path).or_else(|_| self.mapped(path, user_namespace))
            }
            (Some(user_namespace), None) => self.mapped(path, user_namespace),
        };
        opened.doing(|| format!("opening `{}`", path.display()))
    }

    /// The same for what may lie on a file system without mapped ids; then it has the ids it has.
    pub fn open_anything(&self, path: &Path) -> Result<OwnedFd> {
        self.open(path)
            .or_else(|_| open_plain(path).doing(|| format!("opening `{}`", path.display())))
    }

    /// Does something as the host's root.
    pub fn as_host_root<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let switch = |id| match self.ids() {
            Ids::Host => Ok(()),
            Ids::Mapped => act_as(id, id).doing(|| format!("acting as user {id}")),
        };
        switch(0)?;
        let result = act();
        switch(HOST_ROOT)?;
        result
    }

    fn mapped(&self, path: &Path, user_namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        let mount = clone_mapped(path, user_namespace)?;
        attach(&mount, &self.stage)?;
        Ok(mount)
    }
}

/// The path by which this process finds what is open.
pub fn by_descriptor(file: impl AsFd) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()).into()
}

fn open_plain(path: &Path) -> io::Result<OwnedFd> {
    Ok(openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

/// Opens a path through the mount of a directory that it lies in; an error where another mount is
/// on the way.
fn below(directory: &Path, mount: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let rest = path.strip_prefix(directory).map_err(io::Error::other)?;
    let rest = if rest.as_os_str().is_empty() { Path::new(".") } else { rest };
    let rules = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(mount, rest, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), rules)?)
}

/// The deepest directory that all paths lie below.
fn common_directory<'p>(mut paths: impl Iterator<Item = &'p Path>) -> Option<PathBuf> {
    let first = paths.next()?.parent()?;
    let common = paths.fold(first, |common, path| {
        let holds = |directory: &&Path| path.starts_with(directory);
        common.ancestors().find(holds).unwrap_or(Path::new("/"))
    });
    Some(common.to_owned())
}

/// Makes this process access and make files as a user and a group.
pub fn act_as(uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: these change credentials of this process, which has one thread, and read no memory.
    let now = unsafe {
        libc::setfsgid(gid);
        libc::setfsuid(uid);
        // They do not say whether they worked; an invalid id asks what there is.
        (libc::setfsuid(u32::MAX), libc::setfsgid(u32::MAX))
    };
    match (now.0.cast_unsigned(), now.1.cast_unsigned()) == (uid, gid) {
        true => Ok(()),
        false => Err(io::Error::from_raw_os_error(libc::EPERM)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_common_directory_holds_all() {
        let check = |paths: &[&str], expected: Option<&str>| {
            let found = common_directory(paths.iter().map(Path::new));
            assert_eq!(found.as_deref(), expected.map(Path::new), "{paths:?}");
        };
        check(&[], None);
        check(&["/a/b/c"], Some("/a/b"));
        check(&["/a/b/c", "/a/b/c/d", "/a/bc"], Some("/a"));
        check(&["/a/b", "/c"], Some("/"));
        check(&["/a/b/c", "/a/b"], Some("/a/b"));
    }
}
