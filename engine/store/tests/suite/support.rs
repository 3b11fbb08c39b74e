//! Layers as text, one line per entry:
//!
//! ```text
//! d/              a directory; `d/!` is opaque
//! d/f = text      a regular file
//! d/l -> target   a symlink
//! d/x whiteout    also `fifo`, `char 1:3`, `block 8:0`
//! ```
//!
//! with `[mode uid:gid @mtime name=value #link-group]` behind it, each part optional.

use std::io::Read;

use cofferdam_store::{
    Attributes, Directory, Found, Node, NodeKind, Regular, Snapshot, Store, Tree,
};
use tempfile::TempDir;

pub struct Place {
    pub store: Store,
    pub dir: TempDir,
}

impl Place {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let store = Store::open(dir.path()).expect("an empty state directory can be opened");
        Self { store, dir }
    }

    /// The manifest that a text describes. The bytes of its files go into a pack.
    pub fn manifest(&self, text: &str) -> Node {
        let pack = self.store.new_pack();
        let mut root = Node::empty_root();
        for line in text.lines().map(str::trim_start).filter(|line| !line.is_empty()) {
            let (line, options) = line.split_once(" [").unwrap_or((line, ""));
            let numbers = |text: &str| {
                let (a, b) = text.split_once(':').expect("two numbers");
                (a.parse().expect("a number"), b.parse().expect("a number"))
            };
            let (path, mut kind) = if let Some((path, data)) = line.split_once(" = ") {
                let (content, digest) = pack.put(data.as_bytes()).expect("packs take all");
                let digest = Some(digest);
                let size = data.len() as u64;
                (path, NodeKind::Regular(Regular { size, content, digest, link_group: None }))
            } else if let Some((path, target)) = line.split_once(" -> ") {
                (path, NodeKind::Symlink(target.into()))
            } else if let Some(path) = line.strip_suffix(" whiteout") {
                (path, NodeKind::Whiteout)
            } else if let Some(path) = line.strip_suffix(" fifo") {
                (path, NodeKind::Fifo)
            } else if let Some((path, device)) = line.split_once(" char ") {
                let (major, minor) = numbers(device);
                (path, NodeKind::CharacterDevice(major, minor))
            } else if let Some((path, device)) = line.split_once(" block ") {
                let (major, minor) = numbers(device);
                (path, NodeKind::BlockDevice(major, minor))
            } else if let Some(path) = line.strip_suffix("/!") {
                (path, NodeKind::Directory(Directory { opaque: true, ..Directory::default() }))
            } else {
                let path = line.strip_suffix('/').unwrap_or_else(|| panic!("not an entry: {line}"));
                (path, NodeKind::Directory(Directory::default()))
            };
            let mut attributes = Attributes { mode: default_mode(&kind), ..Attributes::default() };
            for option in options.trim_end_matches(']').split_whitespace() {
                if let Some(time) = option.strip_prefix('@') {
                    attributes.mtime = time.parse().expect("a number");
                } else if let Some(number) = option.strip_prefix('#') {
                    let NodeKind::Regular(regular) = &mut kind else { panic!("no file: {line}") };
                    regular.link_group = Some(number.parse().expect("a number"));
                } else if let Some((name, value)) = option.split_once('=') {
                    attributes.xattrs.push((name.to_owned(), value.into()));
                } else if option.contains(':') {
                    (attributes.uid, attributes.gid) = numbers(option);
                } else {
                    attributes.mode = u32::from_str_radix(option, 8).expect("octal digits");
                }
            }
            insert(&mut root, path, Node { attributes, kind });
        }
        root
    }

    /// A chain of layers, the bottom one first.
    pub fn chain(&self, layers: &[&str]) -> Snapshot {
        layers.iter().fold(Snapshot::default(), |chain, text| {
            chain.with(self.store.commit_virtual(self.manifest(text)).expect("a layer"))
        })
    }

    pub fn tree(&self, layers: &[&str]) -> Tree {
        self.store.tree(&self.chain(layers)).expect("all layers are there")
    }
}

fn insert(root: &mut Node, path: &str, node: Node) {
    if path.is_empty() {
        *root = node;
        return;
    }
    let mut names: Vec<&str> = path.split('/').collect();
    let name = names.pop().expect("a path has a last name");
    let directory = names.iter().fold(root, |at, name| {
        let directory = at.as_directory_mut().expect("a directory");
        let implied = Attributes { mode: 0o755, ..Attributes::default() };
        directory.children.entry(name.as_bytes().into()).or_insert(Node::directory(implied))
    });
    let directory = directory.as_directory_mut().expect("a directory");
    directory.children.insert(name.as_bytes().into(), node);
}

fn default_mode(kind: &NodeKind) -> u32 {
    match kind {
        NodeKind::Directory(_) => 0o755,
        NodeKind::Symlink(_) => 0o777,
        NodeKind::Whiteout => 0,
        _ => 0o644,
    }
}

/// A tree as text: what is seen, with the bytes.
pub fn show_tree(tree: &Tree) -> String {
    let mut out = String::new();
    if let Some(root) = tree.root() {
        show(tree.store(), &root, &mut String::new(), &mut out);
    }
    out
}

/// The same for one directory and what is below it.
pub fn show_found(store: &Store, found: &Found<'_>) -> String {
    let mut out = String::new();
    show(store, found, &mut String::new(), &mut out);
    out
}

fn show(store: &Store, found: &Found<'_>, path: &mut String, out: &mut String) {
    line(store, found.node(), path, out);
    for child in found.children() {
        let length = path.len();
        if length > 0 {
            path.push('/');
        }
        *path += &String::from_utf8_lossy(child.name);
        show(store, &child.found, path, out);
        path.truncate(length);
    }
}

/// A manifest as text: what one layer says, with the bytes.
pub fn show_node(store: &Store, root: &Node) -> String {
    let mut out = String::new();
    root.walk(&mut |path, node| {
        line(store, node, &String::from_utf8_lossy(path), &mut out);
        Ok::<_, ()>(())
    })
    .expect("showing does not fail");
    out
}

fn line(store: &Store, node: &Node, path: &str, out: &mut String) {
    let mut options = Vec::new();
    match &node.kind {
        NodeKind::Directory(d) => *out += &format!("{path}/{}", if d.opaque { "!" } else { "" }),
        NodeKind::Regular(regular) => {
            let mut text = String::new();
            let mut file = store.open_content(regular).expect("contents are there");
            file.read_to_string(&mut text).expect("readable text");
            *out += &format!("{path} = {text}");
            options.extend(regular.link_group.map(|group| format!("#{group}")));
        }
        NodeKind::Symlink(target) => {
            *out += &format!("{path} -> {}", String::from_utf8_lossy(target));
        }
        NodeKind::CharacterDevice(major, minor) => *out += &format!("{path} char {major}:{minor}"),
        NodeKind::BlockDevice(major, minor) => *out += &format!("{path} block {major}:{minor}"),
        NodeKind::Fifo => *out += &format!("{path} fifo"),
        NodeKind::Socket => *out += &format!("{path} socket"),
        NodeKind::Whiteout => *out += &format!("{path} whiteout"),
    }
    let a = &node.attributes;
    if a.mode != default_mode(&node.kind) {
        options.insert(0, format!("{:o}", a.mode));
    }
    if (a.uid, a.gid) != (0, 0) {
        options.push(format!("{}:{}", a.uid, a.gid));
    }
    if a.mtime != 0 {
        options.push(format!("@{}", a.mtime));
    }
    options.extend(a.xattrs.iter().map(|(name, v)| format!("{name}={}", v.escape_ascii())));
    if !options.is_empty() {
        *out += &format!(" [{}]", options.join(" "));
    }
    out.push('\n');
}
