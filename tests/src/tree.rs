//! File trees as lists of entries, so that an image can be compared with what it should be.
//!
//! A tree comes out of an image's layers (applied in memory, independent of the engine and of
//! umoci) or out of a directory on disk; both give the same entries for the same image.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use rustix::fs::{lgetxattr, llistxattr};

use crate::oci::{Image, Layout, digest_of};

/// What an entry is, with what only that kind has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Its length in bytes.
        size: u64,
        /// The digest of its contents.
        digest: String,
        /// The first of the names of this file, where it has several.
        linked: Option<String>,
    },
    /// A symbolic link and its target.
    Symlink(String),
    /// A named pipe.
    Fifo,
    /// A character or block device.
    Device(char, u64),
}

/// One entry of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Permission bits with set-id and sticky bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time in seconds since 1970.
    pub mtime: i64,
    /// Extended attributes.
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

/// A file tree: entries by path, without leading slash; the root itself is not an entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// The entries.
    pub entries: BTreeMap<String, Entry>,
}

impl Tree {
    /// Applies the layers of an image as the OCI image specification says (`layer.md`).
    ///
    /// # Errors
    /// A layer is not readable, or links to what is not there.
    pub fn from_image(layout: &Layout, image: &Image) -> Result<Self> {
        let mut building = Building::default();
        for archive in layout.layers(image)? {
            building.apply(&archive)?;
        }
        Ok(building.finish())
    }

    /// Applies a single tar archive to nothing.
    ///
    /// # Errors
    /// The archive is not readable.
    pub fn from_tar(archive: &[u8]) -> Result<Self> {
        let mut building = Building::default();
        building.apply(archive)?;
        Ok(building.finish())
    }

    /// Reads a directory on disk.
    ///
    /// # Errors
    /// An entry cannot be read.
    pub fn from_directory(root: &Path) -> Result<Self> {
        let mut building = Building::default();
        let mut inodes = BTreeMap::new();
        let mut open = vec![root.to_owned()];
        while let Some(directory) = open.pop() {
            for found in fs::read_dir(&directory)? {
                let path = found?.path();
                let entry = read_entry(&path)?;
                if entry.kind == Kind::Directory {
                    open.push(path.clone());
                }
                let inode = path.symlink_metadata()?.ino();
                let fresh = building.next();
                let file = *inodes.entry(inode).or_insert(fresh);
                let name = path.strip_prefix(root)?.to_str().context("path is not UTF-8")?;
                building.entries.insert(name.to_owned(), (entry, file));
            }
        }
        Ok(building.finish())
    }

    /// The tree below one directory, with paths relative to it.
    #[must_use]
    pub fn below(&self, directory: &str) -> Self {
        let prefix = format!("{directory}/");
        let relative = |(path, entry): (&String, &Entry)| {
            Some((path.strip_prefix(&prefix)?.to_owned(), entry.clone()))
        };
        Self { entries: self.entries.iter().filter_map(relative).collect() }
    }

    /// One line per entry, for comparison with a literal. Times at or after `now` are written as
    /// `now`, so that what a build made is told from what it preserved.
    #[must_use]
    pub fn listing(&self, now: i64) -> String {
        let mut out = String::new();
        for (path, entry) in &self.entries {
            let time = match entry.mtime {
                time if time >= now => "now".to_owned(),
                time => time.to_string(),
            };
            let Entry { mode, uid, gid, .. } = entry;
            let (kind, detail) = match &entry.kind {
                Kind::Directory => ('d', String::new()),
                Kind::File { size, linked: None, .. } => ('-', format!(" {size} bytes")),
                Kind::File { size, linked: Some(first), .. } => {
                    ('-', format!(" {size} bytes linked as {first}"))
                }
                Kind::Symlink(target) => ('l', format!(" -> {target}")),
                Kind::Fifo => ('p', String::new()),
                Kind::Device(kind, number) => (*kind, format!(" {number:#x}")),
            };
            let xattrs: String = entry
                .xattrs
                .iter()
                .map(|(name, value)| format!(" {name}={}", String::from_utf8_lossy(value)))
                .collect();
            out.push_str(&format!("{kind}{mode:04o} {uid}:{gid} {time} {path}{detail}{xattrs}\n"));
        }
        out
    }

    /// What differs between two trees, one line per entry, `-` what only self has.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let paths: BTreeSet<&String> = self.entries.keys().chain(other.entries.keys()).collect();
        let mut out = Vec::new();
        for path in paths {
            let (ours, theirs) = (self.entries.get(path), other.entries.get(path));
            if ours != theirs {
                out.extend(ours.map(|entry| format!("- {path}: {entry:?}")));
                out.extend(theirs.map(|entry| format!("+ {path}: {entry:?}")));
            }
        }
        out
    }
}

/// A tree under construction: each name with the number of the file that it names.
#[derive(Default)]
struct Building {
    entries: BTreeMap<String, (Entry, usize)>,
    files: usize,
}

impl Building {
    fn next(&mut self) -> usize {
        self.files += 1;
        self.files
    }

    fn apply(&mut self, archive: &[u8]) -> Result<()> {
        let mut reader = tar::Archive::new(archive);
        // Whiteouts hide what lower layers have, never what this one brings, in any order.
        let mut brought = BTreeSet::new();
        for entry in reader.entries()? {
            let mut entry = entry?;
            let path = String::from_utf8(entry.path_bytes().into_owned())?;
            let path = path.trim_start_matches("./").trim_matches('/').to_owned();
            if path.is_empty() || path == "." {
                continue;
            }
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
            if name == ".wh..wh..opq" {
                let parent = parent.to_owned();
                self.remove_below(&parent, &brought);
                continue;
            }
            if let Some(hidden) = name.strip_prefix(".wh.") {
                let hidden = format!("{parent}/{hidden}").trim_start_matches('/').to_owned();
                self.remove_below(&hidden, &brought);
                self.entries.remove(&hidden);
                continue;
            }
            let (new, file) = if entry.header().entry_type().is_hard_link() {
                let target = entry.link_name()?.context("hard link without a target")?;
                let target = target.to_string_lossy();
                let target = target.trim_start_matches("./").trim_start_matches('/');
                let found = self.entries.get(target);
                found
                    .with_context(|| format!("{path} links to {target}, which is not there"))?
                    .clone()
            } else {
                (archived_entry(&mut entry)?, self.next())
            };
            if new.kind != Kind::Directory {
                self.remove_below(&path, &BTreeSet::new());
            }
            brought.insert(path.clone());
            self.entries.insert(path, (new, file));
        }
        Ok(())
    }

    fn remove_below(&mut self, directory: &str, except: &BTreeSet<String>) {
        let prefix = if directory.is_empty() { String::new() } else { format!("{directory}/") };
        self.entries.retain(|path, _| !path.starts_with(&prefix) || except.contains(path));
    }

    fn finish(self) -> Tree {
        let mut names: BTreeMap<usize, Vec<&String>> = BTreeMap::new();
        for (path, (_, file)) in &self.entries {
            names.entry(*file).or_default().push(path);
        }
        let entries = self.entries.iter().map(|(path, (entry, file))| {
            let mut entry = entry.clone();
            if let (Kind::File { linked, .. }, [first, _, ..]) = (&mut entry.kind, &names[file][..])
            {
                *linked = Some((*first).clone());
            }
            (path.clone(), entry)
        });
        Tree { entries: entries.collect() }
    }
}

fn archived_entry(entry: &mut tar::Entry<'_, &[u8]>) -> Result<Entry> {
    let mut xattrs = BTreeMap::new();
    let mut mtime = i64::try_from(entry.header().mtime()?)?;
    for extension in entry.pax_extensions()?.into_iter().flatten() {
        let extension = extension?;
        let key = extension.key()?;
        if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
            xattrs.insert(name.to_owned(), extension.value_bytes().to_vec());
        } else if key == "mtime" {
            let seconds = extension.value()?.split('.').next().unwrap_or_default();
            mtime = seconds.parse().with_context(|| format!("bad mtime {seconds}"))?;
        }
    }
    let header = entry.header().clone();
    let device = || -> Result<u64> {
        let major = header.device_major()?.unwrap_or(0);
        Ok(rustix::fs::makedev(major, header.device_minor()?.unwrap_or(0)))
    };
    let kind = match header.entry_type() {
        tar::EntryType::Directory => Kind::Directory,
        tar::EntryType::Regular | tar::EntryType::Continuous => {
            let mut contents = Vec::new();
            entry.read_to_end(&mut contents)?;
            let size = contents.len() as u64;
            Kind::File { size, digest: digest_of(&contents), linked: None }
        }
        tar::EntryType::Symlink => {
            let target = entry.link_name_bytes().context("symbolic link without a target")?;
            Kind::Symlink(String::from_utf8(target.into_owned())?)
        }
        tar::EntryType::Fifo => Kind::Fifo,
        tar::EntryType::Char => Kind::Device('c', device()?),
        tar::EntryType::Block => Kind::Device('b', device()?),
        other => bail!("unexpected tar entry type {other:?}"),
    };
    Ok(Entry {
        kind,
        mode: header.mode()? & 0o7777,
        uid: u32::try_from(header.uid()?)?,
        gid: u32::try_from(header.gid()?)?,
        mtime,
        xattrs,
    })
}

fn read_entry(path: &Path) -> Result<Entry> {
    let metadata = path.symlink_metadata()?;
    let file_type = metadata.file_type();
    let kind = if file_type.is_dir() {
        Kind::Directory
    } else if file_type.is_file() {
        Kind::File { size: metadata.len(), digest: digest_of(&fs::read(path)?), linked: None }
    } else if file_type.is_symlink() {
        let target = fs::read_link(path)?;
        Kind::Symlink(String::from_utf8(target.as_os_str().as_bytes().to_vec())?)
    } else if file_type.is_fifo() {
        Kind::Fifo
    } else if file_type.is_char_device() {
        Kind::Device('c', metadata.rdev())
    } else if file_type.is_block_device() {
        Kind::Device('b', metadata.rdev())
    } else {
        bail!("{} is of an unexpected type", path.display());
    };
    Ok(Entry {
        kind,
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        mtime: metadata.mtime(),
        xattrs: read_xattrs(path)?,
    })
}

fn read_xattrs(path: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut names = vec![0; 64 << 10];
    let length = llistxattr(path, &mut names[..])?;
    let mut out = BTreeMap::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let name = std::str::from_utf8(name)?;
        let mut value = vec![0; 64 << 10];
        let length = lgetxattr(path, name, &mut value[..])?;
        value.truncate(length);
        out.insert(name.to_owned(), value);
    }
    Ok(out)
}

/// Writes tar archives for fixtures. Every entry has the same modification time.
pub struct TarWriter {
    builder: tar::Builder<Vec<u8>>,
    owner: (u64, u64),
    attribute: Option<(String, Vec<u8>)>,
}

/// The modification time of every entry that a [`TarWriter`] writes.
pub const FIXTURE_TIME: u64 = 1_700_000_000;

impl TarWriter {
    /// Starts an empty archive, with entries owned by root.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "an archive is started, not defaulted")]
    pub fn new() -> Self {
        Self { builder: tar::Builder::new(Vec::new()), owner: (0, 0), attribute: None }
    }

    /// Sets the owner of the entries that follow.
    pub fn owner(&mut self, uid: u64, gid: u64) -> &mut Self {
        self.owner = (uid, gid);
        self
    }

    /// Gives the next entry an extended attribute.
    pub fn attribute(&mut self, name: &str, value: &[u8]) -> &mut Self {
        self.attribute = Some((format!("SCHILY.xattr.{name}"), value.to_vec()));
        self
    }

    /// Adds a directory.
    ///
    /// # Errors
    /// The path does not fit into a tar header.
    pub fn directory(&mut self, path: &str, mode: u32) -> Result<&mut Self> {
        self.append(path, tar::EntryType::Directory, mode, None, b"")
    }

    /// Adds a regular file.
    ///
    /// # Errors
    /// The path does not fit into a tar header.
    pub fn file(&mut self, path: &str, mode: u32, contents: &[u8]) -> Result<&mut Self> {
        self.append(path, tar::EntryType::Regular, mode, None, contents)
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// A path does not fit into a tar header.
    pub fn symlink(&mut self, path: &str, target: &str) -> Result<&mut Self> {
        self.append(path, tar::EntryType::Symlink, 0o777, Some(target), b"")
    }

    /// Adds another name of an earlier file.
    ///
    /// # Errors
    /// A path does not fit into a tar header.
    pub fn hard_link(&mut self, path: &str, target: &str) -> Result<&mut Self> {
        self.append(path, tar::EntryType::Link, 0o644, Some(target), b"")
    }

    /// Adds a named pipe.
    ///
    /// # Errors
    /// The path does not fit into a tar header.
    pub fn fifo(&mut self, path: &str, mode: u32) -> Result<&mut Self> {
        self.append(path, tar::EntryType::Fifo, mode, None, b"")
    }

    /// Ends the archive and returns its bytes.
    ///
    /// # Errors
    /// The archive cannot be ended.
    pub fn finish(self) -> Result<Vec<u8>> {
        Ok(self.builder.into_inner()?)
    }

    fn append(
        &mut self,
        path: &str,
        kind: tar::EntryType,
        mode: u32,
        target: Option<&str>,
        contents: &[u8],
    ) -> Result<&mut Self> {
        if let Some((name, value)) = self.attribute.take() {
            self.builder.append_pax_extensions([(name.as_str(), value.as_slice())])?;
        }
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(self.owner.0);
        header.set_gid(self.owner.1);
        header.set_mtime(FIXTURE_TIME);
        header.set_size(contents.len() as u64);
        match target {
            // `append_link` rewrites targets such as `/../x`; the header takes them as they are.
            Some(target) => {
                header.set_path(path)?;
                header.set_link_name_literal(target)?;
                header.set_cksum();
                self.builder.append(&header, contents)?;
            }
            None => self.builder.append_data(&mut header, path, contents)?,
        }
        Ok(self)
    }
}
