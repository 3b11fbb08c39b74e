//! Reads an overlayfs upper directory into a manifest.

use std::collections::HashMap;
use std::ffi::{CStr, OsStr};
use std::fs::{self, Metadata};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{lgetxattr, llistxattr};

use crate::error::IoContext;
use crate::{Attributes, Content, Directory, LayerDir, LayerId, Node, NodeKind, Regular, Result};

/// Extended attributes that overlayfs uses for itself.
const OVERLAY: [&str; 2] = ["trusted.overlay.", "user.overlay."];

impl LayerDir {
    /// The manifest of what is in the directory now.
    ///
    /// # Errors
    /// When something in it cannot be read.
    pub fn scan(&self) -> Result<Node> {
        let root = self.fs();
        let mut scan = Scan { layer: self.id(), links: HashMap::new(), buffer: vec![0; 65536] };
        let metadata = fs::symlink_metadata(&root).io("cannot stat", &root)?;
        scan.node(&root, &mut Vec::new(), &metadata)
    }
}

type Xattrs = Vec<(String, Vec<u8>)>;

struct Scan {
    layer: LayerId,
    links: HashMap<u64, u64>,
    buffer: Vec<u8>,
}

impl Scan {
    fn node(&mut self, path: &Path, inside: &mut Vec<u8>, metadata: &Metadata) -> Result<Node> {
        use rustix::fs::{FileType, major, minor};
        let (xattrs, opaque) = self.xattrs(path)?;
        let attributes = Attributes {
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            mtime: metadata
                .mtime()
                .saturating_mul(1_000_000_000)
                .saturating_add(metadata.mtime_nsec()),
            xattrs,
        };
        let device = metadata.rdev();
        let kind = match FileType::from_raw_mode(metadata.mode()) {
            FileType::Directory => {
                let mut directory = Directory { opaque, ..Directory::default() };
                for entry in fs::read_dir(path).io("cannot list", path)? {
                    let entry = entry.io("cannot list", path)?;
                    let name = entry.file_name();
                    let child = path.join(&name);
                    let metadata = fs::symlink_metadata(&child).io("cannot stat", &child)?;
                    let length = inside.len();
                    if length > 0 {
                        inside.push(b'/');
                    }
                    inside.extend_from_slice(name.as_bytes());
                    let node = self.node(&child, inside, &metadata)?;
                    inside.truncate(length);
                    directory.children.insert(name.into_vec().into(), node);
                }
                NodeKind::Directory(directory)
            }
            FileType::RegularFile => {
                let link_group = (metadata.nlink() > 1).then(|| {
                    let next = self.links.len() as u64 + 1;
                    *self.links.entry(metadata.ino()).or_insert(next)
                });
                NodeKind::Regular(Regular {
                    size: metadata.size(),
                    content: Content::Layer { layer: self.layer, path: inside.as_slice().into() },
                    digest: None,
                    link_group,
                })
            }
            FileType::Symlink => {
                let target = fs::read_link(path).io("cannot read the link", path)?;
                NodeKind::Symlink(target.into_os_string().into_vec())
            }
            FileType::CharacterDevice if device == 0 => return Ok(Node::whiteout()),
            FileType::CharacterDevice => NodeKind::CharacterDevice(major(device), minor(device)),
            FileType::BlockDevice => NodeKind::BlockDevice(major(device), minor(device)),
            FileType::Fifo => NodeKind::Fifo,
            _ => NodeKind::Socket,
        };
        Ok(Node { attributes, kind })
    }

    /// Extended attributes without overlayfs's own, and whether the directory is opaque.
    fn xattrs(&mut self, path: &Path) -> Result<(Xattrs, bool)> {
        let length =
            llistxattr(path, &mut self.buffer[..]).io("cannot list attributes of", path)?;
        if length == 0 {
            return Ok((Vec::new(), false));
        }
        let names = self.buffer[..length].to_vec();
        let (mut xattrs, mut opaque) = (Vec::new(), false);
        for name in names.split_inclusive(|byte| *byte == 0) {
            let name = CStr::from_bytes_with_nul(name).expect("the kernel ends each name with NUL");
            let length = lgetxattr(path, name, &mut self.buffer[..])
                .io("cannot read an attribute of", path)?;
            let value = self.buffer[..length].to_vec();
            let name = OsStr::from_bytes(name.to_bytes()).to_string_lossy();
            if let Some(own) = OVERLAY.iter().find_map(|prefix| name.strip_prefix(prefix)) {
                opaque |= own == "opaque" && value == b"y";
            } else {
                xattrs.push((name.into_owned(), value));
            }
        }
        xattrs.sort();
        Ok((xattrs, opaque))
    }
}
