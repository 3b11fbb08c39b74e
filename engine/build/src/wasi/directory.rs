//! A directory of the state directory that stands for a mount of a WASI step: written out before
//! the program starts, looked through when it has ended.
//!
//! WASI shows programs directories only. A mount of a single file is therefore put into the
//! directory that it would cover a part of, and is left out of what the step has changed there.

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use cofferdam_component::Preopen;
use cofferdam_exec_linux::User;
use cofferdam_export::{FileTree, Others, Owners, write_directory};
use cofferdam_llb::{Mount, MountKind};
use cofferdam_store::{LayerDir, OpenFile, Snapshot, Store, Tree};

use super::changes::{Changes, Stamps};
use crate::Error;

/// Nobody but this process's user reads a file that was put there.
const MODE: u32 = 0o600;

/// A directory that stands for a mount.
pub(super) struct Directory {
    pub(super) mount: Mount,
    pub(super) written: LayerDir,
    shown: Snapshot,
    base: Tree,
    /// Where the mount begins in the directory.
    start: String,
    put: Put,
    before: Stamps,
}

/// What is in a directory for a step alone, by path.
#[derive(Default)]
pub(super) struct Put {
    /// Files, of which nothing becomes part of the layer.
    pub(super) files: HashSet<Vec<u8>>,
    /// The directories that they needed, outer ones first: part of the layer if something else is
    /// in them.
    pub(super) parents: Vec<Vec<u8>>,
}

impl Directory {
    /// Writes out what a mount shows, which is a directory.
    pub(super) fn prepare(store: &Store, mount: &Mount, shown: Snapshot) -> Result<Self, Error> {
        let files = FileTree::new(store, &shown, None)?;
        let written = store.new_step_dir()?;
        written.reserve(files.size())?;
        // Owners and permissions mean nothing to the program.
        write_directory(&files, Others::Keep, Owners::Worker, &written.fs())?;
        let base = store.tree(&shown)?;
        let start = match mount.selector.trim_matches('/') {
            "" => String::new(),
            selector => utf8(base.resolve(selector.as_bytes(), true)?.0, mount)?,
        };
        let (mount, put, before) = (mount.clone(), Put::default(), Stamps::default());
        Ok(Self { mount, written, shown, base, start, put, before })
    }

    pub(super) fn preopen(&self) -> Preopen {
        Preopen {
            guest: self.mount.dest.clone(),
            host: self.written.fs().join(&self.start),
            readonly: self.mount.readonly,
        }
    }

    /// Puts a file at a path of the program's, in the place of one that is there.
    pub(super) fn put(&mut self, path: &str, contents: &mut dyn Read) -> Result<(), Error> {
        let failed = |at: &Path, source: io::Error| {
            Error::Invalid(format!("mount at `{path}`: cannot make `{}`: {source}", at.display()))
        };
        let rest = below(&self.mount.dest, path).unwrap_or_default().trim_matches('/');
        let (parents, name) = rest.rsplit_once('/').unwrap_or(("", rest));
        if name.is_empty() || rest.split('/').any(|part| part == "..") {
            return Err(Error::Invalid(format!("mount at `{path}`: expected the path of a file")));
        }
        // Nothing but this function writes here yet, so that what was looked at stays so.
        let mut here = self.start.clone().into_bytes();
        for parent in parents.split('/').filter(|part| !matches!(*part, "" | ".")) {
            here = match self.base.resolve(&join(&here, parent), true) {
                Ok((found, _)) => found,
                Err(_) => join(&here, parent),
            };
            let at = self.at(&here);
            match fs::symlink_metadata(&at) {
                Ok(found) if found.is_dir() => {}
                Ok(_) => return Err(failed(&at, io::ErrorKind::NotADirectory.into())),
                Err(_) => {
                    fs::create_dir(&at).map_err(|error| failed(&at, error))?;
                    self.put.parents.push(here.clone());
                }
            }
        }
        let file = match self.base.resolve(&join(&here, name), true) {
            Ok((found, _)) => found,
            Err(_) => join(&here, name),
        };
        let at = self.at(&file);
        if fs::symlink_metadata(&at).is_ok() {
            fs::remove_file(&at).map_err(|error| failed(&at, error))?;
        }
        let mut options = OpenOptions::new();
        let opened = options.write(true).create_new(true).mode(MODE).open(&at);
        let copied = opened.and_then(|mut to| io::copy(contents, &mut to));
        self.put.files.insert(file);
        copied.map(drop).map_err(|error| failed(&at, error))
    }

    /// Where a path of the directory is on the host.
    fn at(&self, path: &[u8]) -> PathBuf {
        self.written.fs().join(std::ffi::OsStr::from_bytes(path))
    }

    /// Notes what is there now: what is different in the end, the program has changed.
    pub(super) fn remember(&mut self) -> Result<(), Error> {
        self.before = Stamps::of(&self.written.fs())?;
        Ok(())
    }

    /// Makes a layer of what the program has changed.
    pub(super) fn commit(self, store: &Store, owner: &User) -> Result<Snapshot, Error> {
        // Until the layer refers to the files' bytes.
        let _keep = store.keep();
        let mut changes = Changes::new(store, &self.base, &self.before, &self.put, owner);
        changes.gather(&self.written.fs())?;
        let layer = store.commit_virtual(changes.finish())?;
        Ok(self.shown.with(layer))
    }
}

/// The file that a mount shows, if it is one.
pub(super) fn single_file(
    store: &Store,
    mount: &Mount,
    shown: &Snapshot,
) -> Result<Option<OpenFile>, Error> {
    let selector = mount.selector.trim_matches('/');
    if mount.kind != MountKind::Bind || selector.is_empty() {
        return Ok(None);
    }
    let tree = store.tree(shown)?;
    if tree.resolve(selector.as_bytes(), true)?.1.is_directory() {
        return Ok(None);
    }
    Ok(Some(tree.open(selector.as_bytes())?))
}

/// Whether a path is below a directory, or is the directory.
pub(super) fn holds(directory: &str, path: &str) -> bool {
    below(directory, path).is_some()
}

/// The rest of a path that is below a directory, or is the directory.
fn below<'a>(directory: &str, path: &'a str) -> Option<&'a str> {
    let rest = path.strip_prefix(directory.trim_end_matches('/'))?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

fn join(directory: &[u8], name: &str) -> Vec<u8> {
    match directory.is_empty() {
        true => name.into(),
        false => [directory, b"/", name.as_bytes()].concat(),
    }
}

fn utf8(path: Vec<u8>, mount: &Mount) -> Result<String, Error> {
    let wrong = |_| Error::Invalid(format!("mount source `{}`: not UTF-8", mount.selector));
    String::from_utf8(path).map_err(wrong)
}
