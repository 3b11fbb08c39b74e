//! Paths within the step's root, resolved as if it were `/`, by descriptors: nothing an image
//! holds (symlinks, `..`, magic links) leads outside, and nothing is resolved twice.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat, openat2, readlinkat,
    unlinkat,
};
use rustix::io::Errno;

/// What a missing path is created as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A directory.
    Directory,
    /// An empty file.
    File,
}

/// Is told of what is about to be created: its directory, name and kind.
pub trait OnCreate {
    /// Creates, by calling `create`, and notes what is needed.
    fn created(
        &mut self,
        directory: &OwnedFd,
        name: &str,
        kind: Kind,
        create: &mut dyn FnMut() -> io::Result<()>,
    ) -> io::Result<()>;
}

/// Creates without noting anything.
pub struct Unnoted;

impl OnCreate for Unnoted {
    fn created(
        &mut self,
        _directory: &OwnedFd,
        _name: &str,
        _kind: Kind,
        create: &mut dyn FnMut() -> io::Result<()>,
    ) -> io::Result<()> {
        create()
    }
}

const PATH: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);
/// The most symlinks that are followed, as in the kernel (`MAXSYMLINKS`).
const LINKS_MAX: usize = 40;

/// Opens a path within `root` as an O_PATH descriptor, following symlinks but not magic links.
pub fn resolve(root: impl AsFd, path: &str) -> rustix::io::Result<OwnedFd> {
    open(root, path, PATH)
}

/// Opens a path within `root` with the given flags.
pub fn open(root: impl AsFd, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let rules = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        match openat2(root.as_fd(), path, flags | OFlags::CLOEXEC, Mode::empty(), rules) {
            // Something was renamed meanwhile and the kernel could not tell whether a `..` is safe.
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
}

/// Opens a path within `root`, creating what is missing of it: the last component as `kind`, those
/// before it as directories. What is there already must be of that kind.
pub fn ensure(
    root: impl AsFd,
    path: &str,
    kind: Kind,
    on_create: &mut dyn OnCreate,
) -> io::Result<OwnedFd> {
    let found = match resolve(root.as_fd(), path) {
        Err(Errno::NOENT) => walk(root.as_fd().try_clone_to_owned()?, path, kind, on_create)?,
        found => found?,
    };
    let is_directory = file_type(&found)? == FileType::Directory;
    match kind {
        Kind::Directory if !is_directory => Err(Errno::NOTDIR.into()),
        Kind::File if is_directory => Err(Errno::ISDIR.into()),
        _ => Ok(found),
    }
}

fn walk(
    root: OwnedFd,
    path: &str,
    kind: Kind,
    on_create: &mut dyn OnCreate,
) -> io::Result<OwnedFd> {
    // The directories from the root down; never empty. `..` goes back in it instead of asking the
    // kernel, so that a directory that is moved meanwhile cannot lead outside.
    let mut trail = vec![root];
    let mut todo: Vec<String> = components(path);
    let mut links = 0;
    while let Some(name) = todo.pop() {
        if name == ".." {
            if trail.len() > 1 {
                trail.pop();
            }
            continue;
        }
        let directory = trail.last().expect("the root stays");
        let entry = match openat(directory, &name, PATH | OFlags::NOFOLLOW, Mode::empty()) {
            Err(Errno::NOENT) => {
                let kind = if todo.is_empty() { kind } else { Kind::Directory };
                on_create
                    .created(directory, &name, kind, &mut || create(directory, &name, kind))?;
                openat(directory, &name, PATH | OFlags::NOFOLLOW, Mode::empty())?
            }
            entry => entry?,
        };
        match file_type(&entry)? {
            FileType::Symlink => {
                links += 1;
                if links > LINKS_MAX {
                    return Err(Errno::LOOP.into());
                }
                let target: CString = readlinkat(&entry, "", Vec::new())?;
                let target = target.to_str().map_err(io::Error::other)?;
                if target.starts_with('/') {
                    trail.truncate(1);
                }
                todo.extend(components(target));
            }
            FileType::Directory => trail.push(entry),
            _ if todo.is_empty() => return Ok(entry),
            _ => return Err(Errno::NOTDIR.into()),
        }
    }
    Ok(trail.pop().expect("the root stays"))
}

/// The components of a path, last first.
fn components(path: &str) -> Vec<String> {
    path.split('/').rev().filter(|c| !c.is_empty() && *c != ".").map(str::to_owned).collect()
}

/// Creates an entry that must not exist.
pub fn create(directory: impl AsFd, name: &str, kind: Kind) -> io::Result<()> {
    let made = match kind {
        Kind::Directory => mkdirat(directory, name, Mode::from_raw_mode(0o755)),
        Kind::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            openat(directory, name, flags | OFlags::WRONLY, Mode::from_raw_mode(0o644)).map(drop)
        }
    };
    Ok(made?)
}

/// Removes an entry of a directory.
pub fn remove(directory: impl AsFd, name: &OsStr, kind: Kind) -> io::Result<()> {
    let flags = if kind == Kind::Directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
    Ok(unlinkat(directory, name.as_bytes(), flags)?)
}

/// The type of what is open.
pub fn file_type(file: impl AsFd) -> io::Result<FileType> {
    Ok(FileType::from_raw_mode(fstat(file)?.st_mode))
}
