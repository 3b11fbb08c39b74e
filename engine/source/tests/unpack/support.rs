//! Archives, right and wrong, and trees as text.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use cofferdam_source::{Form, Unpacked, unpack};
use cofferdam_store::{Node, NodeKind, Store};
use cofferdam_types::Digest;
use tempfile::TempDir;

/// One header and its contents.
pub struct Item {
    pub records: Vec<(&'static str, &'static [u8])>,
    pub flag: u8,
    pub name: Vec<u8>,
    pub link: Vec<u8>,
    pub mode: u32,
    pub uid: Vec<u8>,
    pub magic: &'static [u8; 8],
    pub device: (u32, u32),
    pub data: Vec<u8>,
}

pub fn item(flag: char, name: impl AsRef<[u8]>) -> Item {
    Item {
        records: Vec::new(),
        flag: flag as u8,
        name: name.as_ref().to_vec(),
        link: Vec::new(),
        mode: if flag == '5' { 0o755 } else { 0o644 },
        uid: b"0000000\0".to_vec(),
        magic: b"ustar\x0000",
        device: (0, 0),
        data: Vec::new(),
    }
}

pub fn file(name: impl AsRef<[u8]>, data: &str) -> Item {
    Item { data: data.into(), ..item('0', name) }
}

pub fn dir(name: &str) -> Item {
    item('5', name)
}

pub fn symlink(name: &str, target: &str) -> Item {
    Item { link: target.into(), mode: 0o777, ..item('2', name) }
}

pub fn hard_link(name: &str, existing: &str) -> Item {
    Item { link: existing.into(), ..item('1', name) }
}

pub fn device(flag: char, name: &str, major: u32, minor: u32) -> Item {
    Item { device: (major, minor), ..item(flag, name) }
}

/// A header of its own: GNU's long names, PAX's extended headers.
pub fn extension(flag: char, data: impl Into<Vec<u8>>) -> Item {
    Item { data: data.into(), ..item(flag, "extension") }
}

pub fn with(records: &[(&'static str, &'static [u8])], item: Item) -> Item {
    Item { records: records.to_vec(), ..item }
}

/// PAX records: `length key=value\n`, where the length counts itself.
pub fn records(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let length = (rest..).find(|n| *n == rest + n.to_string().len()).expect("there is one");
        out.extend_from_slice(format!("{length} {key}=").as_bytes());
        out.extend_from_slice(value);
        out.push(b'\n');
    }
    out
}

impl Item {
    fn write(&self, out: &mut Vec<u8>) {
        if !self.records.is_empty() {
            extension('x', records(&self.records)).write(out);
        }
        let mut block = [0; 512];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.name);
        put(100, format!("{:07o}\0", self.mode).as_bytes());
        put(108, &self.uid);
        put(116, b"0000000\0");
        put(124, format!("{:011o}\0", self.data.len()).as_bytes());
        put(136, b"00000000007\0");
        put(148, b"        ");
        put(156, &[self.flag]);
        put(157, &self.link);
        put(257, self.magic);
        put(329, format!("{:07o}\0", self.device.0).as_bytes());
        put(337, format!("{:07o}\0", self.device.1).as_bytes());
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        out.extend_from_slice(&block);
        out.extend_from_slice(&self.data);
        out.resize(out.len().next_multiple_of(512), 0);
    }
}

pub fn tar(items: &[Item]) -> Vec<u8> {
    let mut out = Vec::new();
    items.iter().for_each(|item| item.write(&mut out));
    out.resize(out.len() + 1024, 0);
    out
}

pub fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).expect("memory takes all");
    encoder.finish().expect("memory takes all")
}

pub fn store() -> (TempDir, Store) {
    let dir = tempfile::tempdir().expect("a directory for the test");
    let store = Store::open(dir.path()).expect("an empty state directory can be opened");
    (dir, store)
}

/// Unpacks what is expected to be right, in both forms, which have to be the same layer.
#[track_caller]
pub fn shown(data: &[u8]) -> String {
    let [directory, archive] = [Form::Directory, Form::Archive].map(|form| shown_as(data, form));
    assert_eq!(directory, archive, "the two forms");
    directory
}

/// Unpacks to one form, and checks that the directory is what the manifest says.
#[track_caller]
fn shown_as(data: &[u8], form: Form) -> String {
    let (_dir, store) = store();
    let Unpacked { layer, .. } = unpack(&store, "layer", data, None, form).expect("a valid layer");
    let committed = store.layer(layer.id()).expect("it is there");
    let manifest = show(&committed.root);
    let on_disk = store.new_layer_dir().expect("a directory");
    fs::remove_dir(on_disk.fs()).expect("it is empty");
    fs::rename(store.layer_dir(layer.id()).expect("the layer's files"), on_disk.fs())
        .expect("moves");
    assert_eq!(manifest, show(&on_disk.scan().expect("a readable directory")), "scan");
    // Where the manifest says that the contents are, they are.
    fs::rename(on_disk.fs(), store.root().join(format!("layers/{}/fs", layer.id())))
        .expect("moves");
    committed
        .root
        .walk(&mut |path, node| {
            if let NodeKind::Regular(regular) = &node.kind {
                let mut file = store.open_content(regular)?;
                let mut hasher = cofferdam_types::Hasher::new();
                std::io::copy(&mut file, &mut hasher).expect("readable contents");
                assert_eq!(Some(hasher.finish()), regular.digest, "{}", path.escape_ascii());
            }
            Ok::<_, cofferdam_store::Error>(())
        })
        .expect("contents");
    manifest
}

/// The error, after which there must be nothing left.
#[track_caller]
pub fn refused(data: &[u8], expected: Option<&Digest>) -> String {
    let [directory, archive] = [Form::Directory, Form::Archive].map(|form| {
        let (_dir, store) = store();
        let first = tar(&[file("kept", "K")]);
        unpack(&store, "first", first.as_slice(), None, form).expect("a valid layer");
        let before = names(store.root());
        let refused = unpack(&store, "layer", data, expected, form);
        assert_eq!(before, names(store.root()), "what is left behind");
        refused.expect_err("it has to be refused").to_string()
    });
    assert_eq!(directory, archive, "the two forms");
    directory
}

/// All that is in the state directory but the database's own files.
fn names(root: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).expect("readable") {
            let path = entry.expect("readable").path();
            // What the store's janitor is about to remove in the background.
            if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"removed-"))
            {
                continue;
            }
            if path.symlink_metadata().expect("it is there").is_dir() {
                todo.push(path.clone());
            }
            names.push(path.display().to_string());
        }
    }
    // A pack that no layer refers to is for the store's garbage collection.
    names.retain(|name| !name.contains("state.db") && !name.contains("/packs/"));
    names.sort();
    names
}

/// A layer as text, one line per entry. Hard links show `#n`.
pub fn show(root: &Node) -> String {
    let mut groups = BTreeMap::new();
    let mut out = String::new();
    root.walk(&mut |path, node| {
        let a = &node.attributes;
        let path = format!("/{}", path.escape_ascii());
        let (kind, more) = match &node.kind {
            NodeKind::Whiteout => {
                out += &format!("{path} whiteout\n");
                return Ok::<_, ()>(());
            }
            NodeKind::Directory(d) => ("dir", if d.opaque { " opaque" } else { "" }.to_owned()),
            NodeKind::Regular(regular) => {
                let next = groups.len() + 1;
                let group = regular.link_group.map(|group| groups.entry(group).or_insert(next));
                let group = group.map(|number| format!(" #{number}")).unwrap_or_default();
                ("file", format!(" {} bytes{group}", regular.size))
            }
            NodeKind::Symlink(target) => ("link", format!(" -> {}", target.escape_ascii())),
            NodeKind::CharacterDevice(major, minor) => ("char", format!(" {major}:{minor}")),
            NodeKind::BlockDevice(major, minor) => ("block", format!(" {major}:{minor}")),
            NodeKind::Fifo => ("fifo", String::new()),
            NodeKind::Socket => ("socket", String::new()),
        };
        out += &format!("{path} {kind} {:o} {}:{} @{}{more}", a.mode, a.uid, a.gid, a.mtime);
        for (name, value) in &a.xattrs {
            out += &format!(" {name}={}", value.escape_ascii());
        }
        out.push('\n');
        Ok(())
    })
    .expect("showing does not fail");
    out
}
