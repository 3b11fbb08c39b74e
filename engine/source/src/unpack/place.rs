//! Where the entries of a layer go while it is unpacked: into a directory, or nowhere because the
//! archive itself is kept.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use cofferdam_archive::Tar;
use cofferdam_store::{
    Content, LayerDir, LayerId, Node, NodeKind, make_device, mark_opaque, set_attributes,
};
use cofferdam_types::{Digest, Hasher};
use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::manifest::Problem;
use crate::Result;
use crate::error::IoContext as _;

/// Takes entries whose parents are there and real directories, and whose path is free.
pub(super) trait Place {
    /// Makes a directory.
    fn directory(&mut self, path: &[u8]) -> Result<()>;

    /// Takes the contents of the regular file that the archive is at.
    fn regular<R: Read>(
        &mut self,
        path: &[u8],
        tar: &mut Tar<R>,
    ) -> Result<(Content, Digest), Problem>;

    /// Makes another name of a file.
    fn hard_link(&mut self, existing: &[u8], path: &[u8]) -> Result<()>;

    /// Makes a symlink, device, pipe or whiteout.
    fn special(&mut self, path: &[u8], kind: &NodeKind) -> Result<()>;

    /// Sets the attributes of what is no directory.
    fn attributes(&mut self, path: &[u8], node: &Node) -> Result<()>;

    /// Changes where the bytes of a file are to where they are under another name of it: the
    /// first one may be replaced by a later entry.
    fn renamed(&self, content: &mut Content, path: &[u8]);

    /// Removes what an earlier entry made.
    fn remove(&mut self, path: &[u8], kind: &NodeKind) -> Result<()>;

    /// Is told the whole layer at the end.
    fn finish(&mut self, root: &Node) -> Result<()>;
}

/// Into the directory of a layer, in overlayfs's form.
pub(super) struct OnDisk<'a> {
    dir: &'a LayerDir,
    fs: PathBuf,
    layer: LayerId,
    buffer: Vec<u8>,
    /// Bytes of all files so far: nobody knows beforehand what an archive will become.
    written: u64,
}

impl<'a> OnDisk<'a> {
    pub(super) fn new(dir: &'a LayerDir) -> Self {
        Self { dir, fs: dir.fs(), layer: dir.id(), buffer: vec![0; 128 * 1024], written: 0 }
    }

    fn at(&self, path: &[u8]) -> PathBuf {
        self.fs.join(OsStr::from_bytes(path))
    }

    fn content(&self, path: &[u8]) -> Content {
        Content::Layer { layer: self.layer, path: path.into() }
    }
}

impl Place for OnDisk<'_> {
    fn directory(&mut self, path: &[u8]) -> Result<()> {
        let target = self.at(path);
        fs::create_dir(&target).io("cannot create", &target)
    }

    fn regular<R: Read>(
        &mut self,
        path: &[u8],
        tar: &mut Tar<R>,
    ) -> Result<(Content, Digest), Problem> {
        let target = self.at(path);
        let mut file = File::create_new(&target).io("cannot create", &target)?;
        let digest = contents(tar, &mut self.buffer, |data| {
            self.written += data.len() as u64;
            self.dir.reserve(self.written)?;
            file.write_all(data).io("cannot write", &target)
        })?;
        Ok((self.content(path), digest))
    }

    fn hard_link(&mut self, existing: &[u8], path: &[u8]) -> Result<()> {
        let target = self.at(path);
        fs::hard_link(self.at(existing), &target).io("cannot link", &target)
    }

    fn special(&mut self, path: &[u8], kind: &NodeKind) -> Result<()> {
        let target = self.at(path);
        let make = |file_type, mode| {
            mknodat(CWD, &target, file_type, Mode::from_raw_mode(mode), 0)
                .io("cannot create", &target)
        };
        match kind {
            NodeKind::Symlink(to) => std::os::unix::fs::symlink(OsStr::from_bytes(to), &target)
                .io("cannot create the link", &target),
            NodeKind::CharacterDevice(major, minor) => {
                Ok(make_device(&target, FileType::CharacterDevice, *major, *minor)?)
            }
            NodeKind::BlockDevice(major, minor) => {
                Ok(make_device(&target, FileType::BlockDevice, *major, *minor)?)
            }
            NodeKind::Fifo => make(FileType::Fifo, 0o600),
            NodeKind::Socket => make(FileType::Socket, 0o600),
            NodeKind::Whiteout => make(FileType::CharacterDevice, 0),
            // These two have calls of their own.
            NodeKind::Directory(_) | NodeKind::Regular(_) => Ok(()),
        }
    }

    fn attributes(&mut self, path: &[u8], node: &Node) -> Result<()> {
        Ok(set_attributes(&self.at(path), node)?)
    }

    fn renamed(&self, content: &mut Content, path: &[u8]) {
        *content = self.content(path);
    }

    fn remove(&mut self, path: &[u8], kind: &NodeKind) -> Result<()> {
        let target = self.at(path);
        match kind {
            NodeKind::Directory(_) => fs::remove_dir_all(&target),
            _ => fs::remove_file(&target),
        }
        .io("cannot remove", &target)
    }

    /// Sets the attributes of directories, whose times change while they are filled.
    fn finish(&mut self, root: &Node) -> Result<()> {
        finish_directory(&self.fs, root)
    }
}

fn finish_directory(path: &Path, node: &Node) -> Result<()> {
    let Some(directory) = node.as_directory() else { return Ok(()) };
    for (name, child) in &directory.children {
        finish_directory(&path.join(OsStr::from_bytes(name)), child)?;
    }
    if directory.opaque {
        mark_opaque(path)?;
    }
    Ok(set_attributes(path, node)?)
}

/// Nowhere: the archive is kept as it is, and the bytes of a file are where they are in it.
pub(super) struct InArchive {
    /// Where the archive begins.
    start: Content,
    buffer: Vec<u8>,
}

impl InArchive {
    pub(super) fn new(start: Content) -> Self {
        Self { start, buffer: vec![0; 128 * 1024] }
    }
}

impl Place for InArchive {
    fn directory(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn regular<R: Read>(
        &mut self,
        _: &[u8],
        tar: &mut Tar<R>,
    ) -> Result<(Content, Digest), Problem> {
        let mut content = self.start.clone();
        if let Content::Pack { offset, .. } = &mut content {
            *offset += tar.offset();
        }
        Ok((content, contents(tar, &mut self.buffer, |_| Ok(()))?))
    }

    fn hard_link(&mut self, _: &[u8], _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn special(&mut self, _: &[u8], _: &NodeKind) -> Result<()> {
        Ok(())
    }

    fn attributes(&mut self, _: &[u8], _: &Node) -> Result<()> {
        Ok(())
    }

    fn renamed(&self, _: &mut Content, _: &[u8]) {}

    fn remove(&mut self, _: &[u8], _: &NodeKind) -> Result<()> {
        Ok(())
    }

    fn finish(&mut self, _: &Node) -> Result<()> {
        Ok(())
    }
}

/// Reads the contents of an entry, and hashes them on the way.
fn contents<R: Read>(
    tar: &mut Tar<R>,
    buffer: &mut [u8],
    mut take: impl FnMut(&[u8]) -> Result<()>,
) -> Result<Digest, Problem> {
    let mut hasher = Hasher::new();
    loop {
        let count = tar.read(buffer).map_err(Problem::Archive)?;
        if count == 0 {
            return Ok(hasher.finish());
        }
        hasher.update(&buffer[..count]);
        take(&buffer[..count])?;
    }
}
