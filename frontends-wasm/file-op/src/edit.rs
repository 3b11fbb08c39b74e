//! The actions that need one tree only: mkdir, mkfile, rm and symlink.

use crate::action::{MakeDirectory, MakeFile, MakeSymlink, Remove};
use crate::copy::expand;
use crate::error::Error;
use crate::owner::Owner;
use crate::path::{self, Last, Resolved, clean, join, make_directories, resolve, split};
use crate::tree::{Attributes, Entry, EntryKind, Layer, Tree};

/// The bits that mkdir and mkfile can set.
const PERMISSIONS: u32 = 0o777;

/// Makes a directory. One that is there stays as it is.
pub(crate) fn make_directory<L: Layer>(
    action: &MakeDirectory,
    layer: &L,
    view: &L::Tree,
    owner: Option<Owner>,
    now: i64,
) -> Result<(), Error> {
    let target = resolve(view, &clean(&action.path), Last::Follow)?;
    if !action.make_parents && target.entry.is_none() {
        require_directory(view, split(&target.path).0)?;
    }
    let attributes = attributes(action.mode, owner, action.timestamp, now);
    make_directories(layer, view, &target, &attributes)
}

/// Writes a file. One that is there keeps its permissions, and its owner unless one is given,
/// as it does when a program opens and truncates it.
pub(crate) fn make_file<L: Layer>(
    action: &MakeFile,
    layer: &L,
    view: &L::Tree,
    owner: Option<Owner>,
    now: i64,
) -> Result<(), Error> {
    let target = resolve(view, &clean(&action.path), Last::Follow)?;
    let mut new = attributes(action.mode, owner, action.timestamp, now);
    match target.entry {
        Some(Entry { kind: EntryKind::Regular(_), attributes: mut before }) => {
            // The kernel drops file capabilities at the first write.
            before.xattrs.retain(|(name, _)| name != "security.capability");
            new.mode = before.mode;
            new.xattrs = before.xattrs;
            if owner.is_none() {
                (new.uid, new.gid) = (before.uid, before.gid);
            }
        }
        Some(_) => return Err(Error::NotRegular(target.path)),
        None => require_directory(view, split(&target.path).0)?,
    }
    Ok(layer.put_bytes(&target.path, &action.data, &new)?)
}

/// Makes a symlink where nothing is yet.
pub(crate) fn make_symlink<L: Layer>(
    action: &MakeSymlink,
    layer: &L,
    view: &L::Tree,
    owner: Option<Owner>,
    now: i64,
) -> Result<(), Error> {
    let target = resolve(view, &clean(&action.newpath), Last::Keep)?;
    if target.entry.is_some() {
        return Err(Error::Exists(target.path));
    }
    require_directory(view, split(&target.path).0)?;
    let attributes = attributes(PERMISSIONS, owner, action.timestamp, now);
    Ok(layer.put_special(&target.path, &EntryKind::Symlink(action.oldpath.clone()), &attributes)?)
}

/// Removes a path, or all that match a pattern; a symlink at the end is removed, not followed.
pub(crate) fn remove<L: Layer>(action: &Remove, layer: &L, view: &L::Tree) -> Result<(), Error> {
    let paths = if action.allow_wildcard {
        expand(view, &action.path, Last::Keep)?
    } else {
        vec![clean(&action.path)]
    };
    for path in paths {
        if path == "/" {
            return Err(Error::IsRoot(action.path.clone()));
        }
        let (parent, name) = split(&path);
        let found = match resolve(view, parent, Last::Follow) {
            Ok(Resolved { path, entry: Some(entry) }) if entry.is_directory() => {
                let path = join(&path, name);
                path::stat(view, &path)?.map(|_| path)
            }
            Ok(_) | Err(Error::NotDirectory(_)) => None,
            Err(error) => return Err(error),
        };
        match found {
            Some(path) => layer.remove(&path)?,
            None if action.allow_not_found => {}
            None => return Err(Error::NotFound(path)),
        }
    }
    Ok(())
}

fn attributes(mode: u32, owner: Option<Owner>, timestamp: Option<i64>, now: i64) -> Attributes {
    let owner = owner.unwrap_or_default();
    Attributes {
        mode: mode & PERMISSIONS,
        uid: owner.uid,
        gid: owner.gid,
        mtime: timestamp.unwrap_or(now),
        xattrs: Vec::new(),
    }
}

fn require_directory<T: Tree>(view: &T, path: &str) -> Result<(), Error> {
    // Asked from the root on: below a path that is missing the host has nothing to look at.
    match resolve(view, path, Last::Follow)?.entry {
        Some(entry) if entry.is_directory() => Ok(()),
        Some(_) => Err(Error::NotDirectory(path.to_owned())),
        None => Err(Error::NotFound(path.to_owned())),
    }
}
