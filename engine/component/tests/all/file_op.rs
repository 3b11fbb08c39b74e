//! The real file-op component over trees in memory.

use std::any::Any;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};

use cofferdam_component::{
    AttributeChanges, Attributes, Entry, EntryKind, Error, FileOps, FileWriter, Frontend, Layer,
    LayerFactory, NamedEntry, Tree, TreeError, TreePath,
};
use cofferdam_llb::{
    FileAction, FileActionCopy, FileActionKind, FileActionMkdir, FileActionMkfile, FileActionRm,
    FileActionSymlink, FileOp,
};
use expect_test::{Expect, expect};

use crate::common::load;

/// Path → entry and contents; the root is always there.
type Files = BTreeMap<Vec<u8>, (Entry, Vec<u8>)>;

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Files>>);

fn entry(kind: EntryKind, mode: u32) -> Entry {
    Entry { kind, attributes: Attributes { mode, ..Attributes::default() } }
}

impl Memory {
    fn with(self, path: &[u8], kind: EntryKind, data: &[u8]) -> Self {
        self.put(path, entry(kind, 0o755), data);
        self
    }

    fn file(self, path: &[u8], data: &[u8]) -> Self {
        self.put(path, entry(EntryKind::Regular(data.len() as u64), 0o644), data);
        self
    }

    fn put(&self, path: &[u8], entry: Entry, data: &[u8]) {
        self.0.lock().unwrap().insert(path.to_vec(), (entry, data.to_vec()));
    }

    fn get(&self, path: &TreePath) -> Result<(Entry, Vec<u8>), TreeError> {
        if path.as_bytes() == b"/" {
            return Ok((entry(EntryKind::Directory, 0o755), Vec::new()));
        }
        let files = self.0.lock().unwrap();
        files.get(path.as_bytes()).cloned().ok_or_else(|| TreeError::NotFound(path.to_string()))
    }

    fn show(&self) -> String {
        let files = self.0.lock().unwrap();
        let line = |(path, (entry, data)): (&Vec<u8>, &(Entry, Vec<u8>))| {
            let Attributes { mode, uid, gid, mtime, .. } = entry.attributes;
            let (path, data) = (path.escape_ascii(), data.escape_ascii());
            let kind = match &entry.kind {
                EntryKind::Symlink(target) => format!("-> {}", target.escape_ascii()),
                EntryKind::Directory => "/".into(),
                _ => format!("{data:?}", data = data.to_string()),
            };
            format!("{path} {mode:o} {uid}:{gid} @{mtime} {kind}\n")
        };
        files.iter().map(line).collect()
    }
}

impl Tree for Memory {
    fn stat(&self, path: &TreePath) -> Result<Option<Entry>, TreeError> {
        Ok(self.get(path).ok().map(|(entry, _)| entry))
    }

    fn list(&self, path: &TreePath) -> Result<Vec<NamedEntry>, TreeError> {
        self.get(path)?;
        let mut prefix = path.as_bytes().to_vec();
        if prefix != b"/" {
            prefix.push(b'/');
        }
        let files = self.0.lock().unwrap();
        let child = |(path, (entry, _)): (&Vec<u8>, &(Entry, Vec<u8>))| {
            let name = path.strip_prefix(&prefix[..]).filter(|name| !name.contains(&b'/'))?;
            Some(NamedEntry { name: name.to_vec(), entry: entry.clone(), link_group: None })
        };
        Ok(files.iter().filter_map(child).collect())
    }

    fn read_link(&self, path: &TreePath) -> Result<Vec<u8>, TreeError> {
        match self.get(path)?.0.kind {
            EntryKind::Symlink(target) => Ok(target),
            _ => Err(TreeError::WrongKind(path.to_string())),
        }
    }

    fn open(&self, path: &TreePath) -> Result<Box<dyn Read + Send>, TreeError> {
        Ok(Box::new(io::Cursor::new(self.get(path)?.1)))
    }
}

impl Layer for Memory {
    fn view(&self) -> Result<Arc<dyn Tree>, TreeError> {
        Ok(Arc::new(self.clone()))
    }

    fn fork(&self) -> Result<Box<dyn Layer>, TreeError> {
        Ok(Box::new(Memory(Arc::new(Mutex::new(self.0.lock().unwrap().clone())))))
    }

    fn put_file(
        &mut self,
        path: &TreePath,
        source: &Arc<dyn Tree>,
        source_path: &TreePath,
        attributes: Attributes,
    ) -> Result<(), TreeError> {
        let source: &dyn Any = &**source;
        let source = source.downcast_ref::<Memory>().expect("all trees here are in memory");
        let (entry, data) = source.get(source_path)?;
        self.put(path.as_bytes(), Entry { attributes, ..entry }, &data);
        Ok(())
    }

    fn put_contents(
        &mut self,
        path: &TreePath,
        source: &Arc<dyn Tree>,
        source_path: &TreePath,
        changes: AttributeChanges,
    ) -> Result<(), TreeError> {
        let source: &dyn Any = &**source;
        let source = source.downcast_ref::<Memory>().expect("all trees here are in memory");
        let below = |path: &[u8]| [path.strip_suffix(b"/").unwrap_or(path), b"/"].concat();
        let (from, to) = (below(source_path.as_bytes()), below(path.as_bytes()));
        let nodes = source.0.lock().unwrap().clone();
        for (at, (mut entry, data)) in nodes {
            let Some(rest) = at.strip_prefix(from.as_slice()).filter(|r| !r.is_empty()) else {
                continue;
            };
            let attributes = &mut entry.attributes;
            attributes.uid = changes.uid.unwrap_or(attributes.uid);
            attributes.gid = changes.gid.unwrap_or(attributes.gid);
            attributes.mtime = changes.mtime.unwrap_or(attributes.mtime);
            self.put(&[to.as_slice(), rest].concat(), entry, &data);
        }
        Ok(())
    }

    fn put_bytes(
        &mut self,
        path: &TreePath,
        data: &[u8],
        attributes: Attributes,
    ) -> Result<(), TreeError> {
        let kind = EntryKind::Regular(data.len() as u64);
        self.put(path.as_bytes(), Entry { kind, attributes }, data);
        Ok(())
    }

    fn put_stream(
        &mut self,
        path: &TreePath,
        attributes: Attributes,
    ) -> Result<Box<dyn FileWriter>, TreeError> {
        Ok(Box::new(Stream { layer: self.clone(), path: path.clone(), attributes, data: vec![] }))
    }

    fn put_directory(&mut self, path: &TreePath, attributes: Attributes) -> Result<(), TreeError> {
        if path.as_bytes() != b"/" {
            self.put(path.as_bytes(), Entry { kind: EntryKind::Directory, attributes }, b"");
        }
        Ok(())
    }

    fn put_special(
        &mut self,
        path: &TreePath,
        kind: EntryKind,
        attributes: Attributes,
    ) -> Result<(), TreeError> {
        self.put(path.as_bytes(), Entry { kind, attributes }, b"");
        Ok(())
    }

    fn put_hard_link(&mut self, path: &TreePath, existing: &TreePath) -> Result<(), TreeError> {
        let (entry, data) = self.get(existing)?;
        self.put(path.as_bytes(), entry, &data);
        Ok(())
    }

    fn remove(&mut self, path: &TreePath) -> Result<(), TreeError> {
        let gone = path.as_bytes();
        self.0.lock().unwrap().retain(|path, _| {
            path.strip_prefix(gone).is_none_or(|rest| !rest.is_empty() && rest[0] != b'/')
        });
        Ok(())
    }
}

struct Stream {
    layer: Memory,
    path: TreePath,
    attributes: Attributes,
    data: Vec<u8>,
}

impl Write for Stream {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.data.write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl FileWriter for Stream {
    fn finish(mut self: Box<Self>) -> Result<(), TreeError> {
        self.layer.put_bytes(&self.path, &self.data, self.attributes.clone())
    }
}

struct Factory;

impl LayerFactory for Factory {
    fn new_layer(&self, base: Option<&Arc<dyn Tree>>) -> Result<Box<dyn Layer>, TreeError> {
        let Some(base) = base else { return Ok(Box::new(Memory::default())) };
        let base: &dyn Any = &**base;
        base.downcast_ref::<Memory>().expect("all trees here are in memory").fork()
    }
}

fn run(actions: Vec<FileAction>, inputs: &[Memory]) -> Result<Vec<Memory>, Error> {
    let ops = FileOps::new(load("file-op")).expect("the guest does file operations");
    let inputs = inputs.iter().map(|tree| Arc::new(tree.clone()) as Arc<dyn Tree>).collect();
    let layers = ops.apply(&FileOp { actions }, inputs, 42, Arc::new(Factory))?;
    let concrete = |layer: Box<dyn Layer>| *(layer as Box<dyn Any>).downcast().unwrap();
    Ok(layers.into_iter().map(concrete).collect())
}

fn check(actions: Vec<FileAction>, inputs: &[Memory], expected: Expect) {
    let answer = match run(actions, inputs) {
        Ok(layers) => layers.iter().map(Memory::show).collect::<Vec<_>>().join("--\n"),
        Err(error) => error.to_string(),
    };
    expected.assert_eq(&answer);
}

fn action(input: Option<u32>, output: Option<u32>, kind: FileActionKind) -> FileAction {
    FileAction { input, secondary_input: None, output, kind }
}

fn copy(from: u32, src: &str, dest: &str) -> FileAction {
    let copy = FileActionCopy { src: src.into(), dest: dest.into(), ..Default::default() };
    FileAction { secondary_input: Some(from), ..action(None, Some(0), FileActionKind::Copy(copy)) }
}

#[test]
fn actions_build_on_each_other() {
    let mkfile = FileActionKind::Mkfile(FileActionMkfile {
        path: "/a".into(),
        mode: 0o600,
        data: b"text".to_vec(),
        ..Default::default()
    });
    let mkdir = FileActionKind::Mkdir(FileActionMkdir {
        path: "/d/e".into(),
        mode: 0o750,
        make_parents: true,
        timestamp: Some(7),
        ..Default::default()
    });
    let symlink = FileActionKind::Symlink(FileActionSymlink {
        oldpath: "../a".into(),
        newpath: "/d/l".into(),
        ..Default::default()
    });
    let rm = FileActionKind::Rm(FileActionRm { path: "/old".into(), ..Default::default() });
    let base = Memory::default().with(b"/old", EntryKind::Directory, b"").file(b"/old/x", b"1");
    let actions = vec![
        action(Some(0), Some(0), mkfile),
        action(Some(1), None, mkdir),
        action(Some(2), None, symlink),
        action(Some(3), Some(1), rm),
    ];
    check(
        actions,
        &[base],
        expect![[r#"
        /a 600 0:0 @42 "text"
        /old 755 0:0 @0 /
        /old/x 644 0:0 @0 "1"
        --
        /a 600 0:0 @42 "text"
        /d 750 0:0 @7 /
        /d/e 750 0:0 @7 /
        /d/l 777 0:0 @42 -> ../a
    "#]],
    );
}

#[test]
fn copies_keep_names_that_are_not_text() {
    let source = Memory::default()
        .with(b"/dir", EntryKind::Directory, b"")
        .file(b"/dir/gr\xfcn", b"1")
        .file("/dir/grün".as_bytes(), b"2")
        .with(b"/dir/link", EntryKind::Symlink(b"gr\xfcn".to_vec()), b"");
    check(
        vec![copy(0, "/dir", "/new")],
        &[source],
        expect![[r#"
        /new 755 0:0 @0 /
        /new/gr\xc3\xbcn 644 0:0 @0 "2"
        /new/gr\xfcn 644 0:0 @0 "1"
        /new/link 755 0:0 @0 -> gr\xfcn
    "#]],
    );
}

#[test]
fn what_does_not_exist_is_said_with_the_action() {
    let error = run(vec![copy(0, "/missing", "/new")], &[Memory::default()]).err().unwrap();
    let Error::FileAction { action: 0, not_found: true, message } = &error else {
        panic!("{error}")
    };
    assert!(message.contains("/missing"), "{message}");
}

#[test]
fn results_of_later_actions_are_refused() {
    let rm = FileActionKind::Rm(FileActionRm { path: "/x".into(), ..Default::default() });
    check(
        vec![action(Some(1), Some(0), rm)],
        &[Memory::default()],
        expect!["file action 0: uses the result of action 0, which is not an earlier one"],
    );
}

#[test]
fn twenty_thousand_files() {
    let mut source = Memory::default().with(b"/d", EntryKind::Directory, b"");
    for number in 0..20_000 {
        source = source.file(format!("/d/{number:05}").as_bytes(), b"x");
    }
    let layers = run(vec![copy(0, "/d", "/e")], &[source]).unwrap();
    assert_eq!(layers[0].0.lock().unwrap().len(), 20_001);
}

#[test]
fn kinds_of_components_are_told_apart() {
    let error = Frontend::new(load("file-op")).err().unwrap();
    expect![
        "component `file-op` imports `cofferdam:file-op/types@0.1.0`, which frontends are not given"
    ]
    .assert_eq(&error.to_string());
    let error = FileOps::new(load("attack-probe")).err().unwrap();
    expect!["component `attack-probe` imports `cofferdam:llb/types@0.1.0`, which file operations are not given"].assert_eq(&error.to_string());
}
