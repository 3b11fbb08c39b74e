//! Layers with everything in them, and what a tree or directory looks like as text.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use cofferdam_export::{FileTree, PlatformImage, Progress};
use cofferdam_store::{Attributes, Found, LayerBuilder, Node, NodeKind, Snapshot, Store, Tree};
use cofferdam_types::{Digest, Platform};
use rustix::fs::{lgetxattr, llistxattr};
use tempfile::TempDir;

/// 2024-01-02, with a fraction of a second.
const TIME: i64 = 1_704_160_000_750_000_000;

/// A store in a directory of its own.
pub struct Fixture {
    pub store: Store,
    pub dir: TempDir,
}

pub fn attributes(mode: u32, uid: u32, gid: u32) -> Attributes {
    Attributes { mode, uid, gid, mtime: TIME, xattrs: Vec::new() }
}

pub fn silent() -> Progress {
    Arc::new(|_, _, _| {})
}

impl Fixture {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(&dir.path().join("state")).expect("a new store");
        Self { store, dir }
    }

    /// A layer on top of `base`; gives the chain with it.
    pub fn layer(&self, base: &Snapshot, edit: impl FnOnce(&mut Edit<'_>)) -> Snapshot {
        let tree = (!base.is_empty()).then(|| self.tree(base));
        let mut builder = LayerBuilder::new(tree);
        edit(&mut Edit { store: &self.store, builder: &mut builder });
        base.with(self.store.commit_virtual(builder.finish()).expect("written"))
    }

    pub fn tree(&self, snapshot: &Snapshot) -> Tree {
        self.store.tree(snapshot).expect("layers of this store")
    }

    pub fn files(&self, snapshot: &Snapshot, latest: Option<i64>) -> FileTree {
        FileTree::new(&self.store, snapshot, latest).expect("layers of this store")
    }

    /// Two layers with every kind of node, and edits of every kind.
    pub fn everything(&self) -> Snapshot {
        let long = format!("usr/{}/{}", "long-name".repeat(12), "z".repeat(200));
        let base = self.layer(&Snapshot::default(), |edit| {
            for path in ["bin", "usr", "usr/gone", "usr/old", "empty"] {
                edit.directory(path, attributes(0o755, 0, 0));
            }
            edit.directory("tmp", attributes(0o1777, 0, 0));
            edit.directory(long.rsplit_once('/').expect("a parent").0, attributes(0o700, 1, 2));
            edit.file("bin/su", attributes(0o4755, 0, 0), b"#!/bin/sh\n");
            edit.file("usr/gone/file", attributes(0o644, 0, 0), b"gone");
            edit.file("usr/old/file", attributes(0o644, 0, 0), b"old");
            edit.file("usr/old.txt", attributes(0o644, 0, 0), b"between the two in byte order");
            edit.file(&long, attributes(0o600, 3_000_000, 3_000_001), b"long");
            edit.file("ünïcödé", attributes(0o640, 1000, 1000), &[]);
            edit.file("big", attributes(0o644, 5, 6), &noise(3 << 20));
            let mut capable = attributes(0o755, 0, 0);
            capable.xattrs = vec![
                ("security.selinux".into(), b"label of this host".to_vec()),
                ("user.comment".into(), b"a\0b=\n".to_vec()),
            ];
            edit.file("bin/capable", capable, b"caps");
            edit.link("bin/linked", "bin/capable");
            edit.link("usr/linked", "bin/capable");
            edit.node("bin/sh", attributes(0o777, 7, 8), NodeKind::Symlink(b"../su".to_vec()));
            edit.node("null", attributes(0o666, 0, 0), NodeKind::CharacterDevice(1, 3));
            edit.node("loop0", attributes(0o660, 0, 6), NodeKind::BlockDevice(7, 0));
            edit.node("pipe", attributes(0o622, 0, 0), NodeKind::Fifo);
            edit.node("socket", attributes(0o755, 0, 0), NodeKind::Socket);
        });
        self.layer(&base, |edit| {
            edit.builder.remove(b"usr/gone").expect("there");
            edit.builder.remove(b"usr/old").expect("there");
            edit.directory("usr/old", attributes(0o711, 9, 9));
            edit.file("usr/old/new", attributes(0o644, 0, 0), b"new");
            edit.builder.remove(b"bin/sh").expect("there");
            edit.file("bin/sh", attributes(0o755, 0, 0), b"now a file");
            // Linked in this layer only: the numbers of link groups begin anew.
            edit.link("usr/second", "bin/sh");
        })
    }

    /// `everything` as a platform's image.
    pub fn image(&self, platform: &str) -> PlatformImage {
        PlatformImage {
            platform: platform.parse::<Platform>().expect("valid"),
            snapshot: self.everything(),
            config: br#"{"config": {"Cmd": ["sh"]}, "history": [{"created_by": "one"}]}"#.to_vec(),
        }
    }
}

pub struct Edit<'a> {
    store: &'a Store,
    pub builder: &'a mut LayerBuilder,
}

impl Edit<'_> {
    pub fn directory(&mut self, path: &str, attributes: Attributes) {
        self.builder.put_directory(path.as_bytes(), attributes).expect("a parent");
    }

    pub fn file(&mut self, path: &str, attributes: Attributes, data: &[u8]) {
        let (content, digest) = self.store.new_pack().put(data).expect("written");
        let size = data.len() as u64;
        let put = self.builder.put_file(path.as_bytes(), attributes, content, size, Some(digest));
        put.expect("a parent");
    }

    pub fn link(&mut self, path: &str, existing: &str) {
        self.builder.put_hard_link(path.as_bytes(), existing.as_bytes()).expect("a file");
    }

    pub fn node(&mut self, path: &str, attributes: Attributes, kind: NodeKind) {
        self.builder.put(path.as_bytes(), Node { attributes, kind }).expect("a parent");
    }
}

/// Bytes that do not compress.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// Runs a program that has to succeed.
pub fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("`{program}` must be installed: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    output
}

/// Times as precise as they come out.
#[derive(Clone, Copy)]
pub enum Times {
    Exact,
    Seconds,
}

/// One line per path: kind, mode, owner, time, and what else there is to say. Paths that are the
/// same file have the path of the first of them.
pub fn describe_tree(tree: &Tree, times: Times) -> BTreeMap<String, String> {
    fn go(tree: &Tree, found: &Found<'_>, path: &str, times: Times, out: &mut Described) {
        for child in found.children() {
            let path = format!("{path}/{}", String::from_utf8_lossy(child.name));
            let node = child.found.node();
            let more = match &node.kind {
                NodeKind::Directory(_) => "directory".into(),
                NodeKind::Regular(regular) => {
                    let name = String::from_utf8_lossy(child.name);
                    let link = match (regular.link_group, &*name) {
                        // Numbers of two layers that mean different files.
                        (Some(_), "sh" | "second") => "/bin/sh",
                        (Some(_), _) => "/bin/capable",
                        (None, _) => &path,
                    };
                    let mut file = tree.store().open_content(regular).expect("stored");
                    let mut bytes = Vec::new();
                    std::io::Read::read_to_end(&mut file, &mut bytes).expect("stored");
                    format!("file {link} {}", Digest::of(bytes).short())
                }
                NodeKind::Symlink(target) => {
                    format!("symlink {}", String::from_utf8_lossy(target))
                }
                NodeKind::CharacterDevice(major, minor) => format!("char {major},{minor}"),
                NodeKind::BlockDevice(major, minor) => format!("block {major},{minor}"),
                NodeKind::Fifo => "fifo".into(),
                NodeKind::Socket | NodeKind::Whiteout => continue,
            };
            let Attributes { mode, uid, gid, mtime, xattrs } = &node.attributes;
            let time = time(*mtime, times);
            let xattrs: Vec<_> =
                xattrs.iter().filter(|(name, _)| name != "security.selinux").collect();
            let line = format!("{more} {mode:o} {uid}:{gid} {time} {xattrs:?}");
            out.insert(path.clone(), line);
            go(tree, &child.found, &path, times, out);
        }
    }
    let mut out = Described::new();
    if let Some(root) = tree.root() {
        go(tree, &root, "", times, &mut out);
    }
    out
}

type Described = BTreeMap<String, String>;

fn time(nanos: i64, times: Times) -> i64 {
    match times {
        Times::Exact => nanos,
        Times::Seconds => nanos.div_euclid(1_000_000_000),
    }
}

/// The same of a directory on disk.
pub fn describe_directory(root: &Path, times: Times) -> BTreeMap<String, String> {
    fn go(dir: &Path, path: &str, times: Times, inodes: &mut Inodes, out: &mut Described) {
        let mut names: Vec<_> =
            fs::read_dir(dir).expect("listed").map(|entry| entry.expect("listed")).collect();
        names.sort_by_key(fs::DirEntry::file_name);
        for entry in names {
            let (at, name) = (entry.path(), entry.file_name());
            let path = format!("{path}/{}", String::from_utf8_lossy(name.as_bytes()));
            let meta = fs::symlink_metadata(&at).expect("there");
            let kind = meta.file_type();
            let device = meta.rdev();
            let device = format!("{},{}", rustix::fs::major(device), rustix::fs::minor(device));
            let more = if kind.is_dir() {
                "directory".into()
            } else if kind.is_symlink() {
                format!("symlink {}", fs::read_link(&at).expect("a link").display())
            } else if kind.is_char_device() {
                format!("char {device}")
            } else if kind.is_block_device() {
                format!("block {device}")
            } else if kind.is_fifo() {
                "fifo".into()
            } else {
                let link = inodes.entry(meta.ino()).or_insert_with(|| path.clone());
                format!("file {link} {}", Digest::of(fs::read(&at).expect("read")).short())
            };
            let (mode, uid, gid) = (meta.mode() & 0o7777, meta.uid(), meta.gid());
            let time = time(meta.mtime() * 1_000_000_000 + meta.mtime_nsec(), times);
            let line = format!("{more} {mode:o} {uid}:{gid} {time} {:?}", xattrs(&at));
            out.insert(path.clone(), line);
            if kind.is_dir() {
                go(&at, &path, times, inodes, out);
            }
        }
    }
    type Inodes = BTreeMap<u64, String>;
    let mut out = Described::new();
    go(root, "", times, &mut Inodes::new(), &mut out);
    out
}

fn xattrs(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut names = [0; 4096];
    let length = llistxattr(path, &mut names).expect("listed");
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let read = |name: &[u8]| {
        let name = String::from_utf8_lossy(name).into_owned();
        let mut value = [0; 4096];
        let length = lgetxattr(path, name.as_str(), &mut value).expect("read");
        (name, value[..length].to_vec())
    };
    names.map(read).collect()
}
