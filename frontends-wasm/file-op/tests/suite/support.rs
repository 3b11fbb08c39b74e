//! A tree in memory, with a text notation, that keeps to the contract to the letter.
//!
//! One line per entry: `/dir/`, `/file = contents`, `/link -> target`, `/pipe fifo`, `/s socket`,
//! `/n char 1:3`, `/n block 8:0`; then, in brackets, what differs from the defaults (mode 755 for
//! directories, 777 for symlinks, 644 otherwise; owner 0:0; time 0): `[600 1:2 @9 user.k=v #1]`.
//! Entries with the same `#` are hard links of each other. Missing parents are made.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::rc::Rc;

use cofferdam_file_op::{
    Action, ActionInput, ActionKind, AttributeChanges, Attributes, Copy, Entry, EntryKind, Fault,
    Layer, NamedEntry, Reader, Tree, Writer, apply,
};

/// The time of things without a timestamp of their own.
pub const NOW: i64 = 1000;

#[derive(Clone)]
struct Node {
    kind: EntryKind,
    attributes: Attributes,
    data: Rc<Vec<u8>>,
    group: Option<u64>,
}

/// How often each function of the host was called, and the largest piece of data.
#[derive(Default)]
pub struct Calls {
    pub stat: Cell<usize>,
    pub list: Cell<usize>,
    pub open: Cell<usize>,
    pub put: Cell<usize>,
    pub largest_write: Cell<usize>,
}

fn count(cell: &Cell<usize>) {
    cell.set(cell.get() + 1);
}

type Nodes = BTreeMap<String, Node>;

/// A tree, or the view of a layer: clones see each other's edits.
#[derive(Clone)]
pub struct Memory {
    nodes: Rc<RefCell<Nodes>>,
    pub calls: Rc<Calls>,
}

pub struct MemoryLayer {
    tree: Memory,
}

fn parent(path: &str) -> &str {
    match path.rfind('/') {
        Some(0) | None => "/",
        Some(at) => &path[..at],
    }
}

fn default_mode(kind: &EntryKind) -> u32 {
    match kind {
        EntryKind::Directory => 0o755,
        EntryKind::Symlink(_) => 0o777,
        _ => 0o644,
    }
}

impl Memory {
    pub fn empty() -> Self {
        let root = Node {
            kind: EntryKind::Directory,
            attributes: Attributes { mode: 0o755, ..Attributes::default() },
            data: Rc::default(),
            group: None,
        };
        let nodes = BTreeMap::from([("/".to_owned(), root)]);
        Self { nodes: Rc::new(RefCell::new(nodes)), calls: Rc::default() }
    }

    pub fn parse(text: &str) -> Self {
        let tree = Self::empty();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (line, options) = match line.split_once(" [") {
                Some((line, options)) => (line, options.trim_end_matches(']')),
                None => (line, ""),
            };
            let numbers = |text: &str| {
                let (a, b) = text.split_once(':').expect("two numbers");
                (a.parse().expect("a number"), b.parse().expect("a number"))
            };
            let mut data = Vec::new();
            let (path, kind) = if let Some((path, text)) = line.split_once(" = ") {
                data = text.as_bytes().to_vec();
                (path, EntryKind::Regular(data.len() as u64))
            } else if let Some((path, target)) = line.split_once(" -> ") {
                (path, EntryKind::Symlink(target.to_owned()))
            } else if let Some(path) = line.strip_suffix(" fifo") {
                (path, EntryKind::Fifo)
            } else if let Some(path) = line.strip_suffix(" socket") {
                (path, EntryKind::Socket)
            } else if let Some((path, device)) = line.split_once(" char ") {
                let (major, minor) = numbers(device);
                (path, EntryKind::CharacterDevice(major, minor))
            } else if let Some((path, device)) = line.split_once(" block ") {
                let (major, minor) = numbers(device);
                (path, EntryKind::BlockDevice(major, minor))
            } else if let Some(path) = line.strip_suffix('/') {
                (path, EntryKind::Directory)
            } else {
                panic!("not an entry: {line}")
            };
            let mut attributes = Attributes { mode: default_mode(&kind), ..Attributes::default() };
            let mut group = None;
            for option in options.split_whitespace() {
                if let Some(number) = option.strip_prefix('#') {
                    group = Some(number.parse().expect("a number"));
                } else if let Some(time) = option.strip_prefix('@') {
                    attributes.mtime = time.parse().expect("a number");
                } else if let Some((name, value)) = option.split_once('=') {
                    attributes.xattrs.push((name.to_owned(), value.as_bytes().to_vec()));
                } else if option.contains(':') {
                    (attributes.uid, attributes.gid) = numbers(option);
                } else {
                    attributes.mode = u32::from_str_radix(option, 8).expect("octal digits");
                }
            }
            tree.make_parents(path);
            let node = Node { kind, attributes, data: Rc::new(data), group };
            tree.nodes.borrow_mut().insert(path.to_owned(), node);
        }
        tree
    }

    fn make_parents(&self, path: &str) {
        for (at, _) in path.match_indices('/').skip(1) {
            let directory = Node {
                kind: EntryKind::Directory,
                attributes: Attributes { mode: 0o755, ..Attributes::default() },
                data: Rc::default(),
                group: None,
            };
            self.nodes.borrow_mut().entry(path[..at].to_owned()).or_insert(directory);
        }
    }

    /// Adds a file with any contents.
    pub fn with_file(self, path: &str, data: Vec<u8>) -> Self {
        self.make_parents(path);
        let node = Node {
            kind: EntryKind::Regular(data.len() as u64),
            attributes: Attributes { mode: 0o644, ..Attributes::default() },
            data: Rc::new(data),
            group: None,
        };
        self.nodes.borrow_mut().insert(path.to_owned(), node);
        self
    }

    pub fn print(&self) -> String {
        let nodes = self.nodes.borrow();
        let mut out = String::new();
        let mut groups = HashMap::new();
        for node in nodes.values() {
            if let Some(group) = node.group {
                *groups.entry(group).or_insert(0) += 1;
            }
        }
        groups.retain(|_, count| *count > 1);
        let mut numbers: HashMap<u64, usize> = HashMap::new();
        for (path, node) in nodes.iter().skip(1) {
            match &node.kind {
                EntryKind::Directory => write!(out, "{path}/"),
                EntryKind::Regular(size) if *size > 60 => write!(out, "{path} = ({size} bytes)"),
                EntryKind::Regular(_) => write!(out, "{path} = {}", node.data.escape_ascii()),
                EntryKind::Symlink(target) => write!(out, "{path} -> {target}"),
                EntryKind::CharacterDevice(a, b) => write!(out, "{path} char {a}:{b}"),
                EntryKind::BlockDevice(a, b) => write!(out, "{path} block {a}:{b}"),
                EntryKind::Fifo => write!(out, "{path} fifo"),
                EntryKind::Socket => write!(out, "{path} socket"),
            }
            .expect("strings take all");
            let Attributes { mode, uid, gid, mtime, xattrs } = &node.attributes;
            let mut options = Vec::new();
            if *mode != default_mode(&node.kind) {
                options.push(format!("{mode:o}"));
            }
            if (*uid, *gid) != (0, 0) {
                options.push(format!("{uid}:{gid}"));
            }
            if *mtime != 0 {
                options.push(format!("@{mtime}"));
            }
            for (name, value) in xattrs {
                options.push(format!("{name}={}", value.escape_ascii()));
            }
            if let Some(group) = node.group.filter(|group| groups.contains_key(group)) {
                let next = numbers.len() + 1;
                options.push(format!("#{}", numbers.entry(group).or_insert(next)));
            }
            if !options.is_empty() {
                write!(out, " [{}]", options.join(" ")).expect("strings take all");
            }
            out.push('\n');
        }
        out
    }

    /// A path's parents must be directories, all of them: symlinks are the guest's to follow.
    fn check_path(&self, path: &str) -> Result<bool, Fault> {
        let clean = path == "/"
            || path.starts_with('/')
                && path[1..].split('/').all(|part| !matches!(part, "" | "." | ".."));
        assert!(clean && !path.contains('\0'), "the guest sent the path {path:?}");
        // From the end on: what is in the tree has directories above it.
        for (at, _) in path.rmatch_indices('/').filter(|(at, _)| *at > 0) {
            match self.nodes.borrow().get(&path[..at]) {
                None => {}
                Some(node) if node.kind == EntryKind::Directory => {
                    return Ok(path.rfind('/') == Some(at));
                }
                Some(_) => return Err(Fault::WrongKind(path[..at].to_owned())),
            }
        }
        Ok(path.rfind('/') == Some(0))
    }

    fn get(&self, path: &str) -> Result<Node, Fault> {
        self.check_path(path)?;
        let node = self.nodes.borrow().get(path).cloned();
        node.ok_or_else(|| Fault::NotFound(path.to_owned()))
    }

    fn put(&self, path: &str, node: Node) -> Result<(), Fault> {
        count(&self.calls.put);
        if path == "/" || !self.check_path(path)? {
            return Err(Fault::NotFound(parent(path).to_owned()));
        }
        let mut nodes = self.nodes.borrow_mut();
        let merges = node.kind == EntryKind::Directory
            && nodes.get(path).is_some_and(|old| old.kind == EntryKind::Directory);
        if !merges {
            let below = format!("{path}/");
            let inside = nodes.range(below.clone()..).take_while(|(at, _)| at.starts_with(&below));
            for at in inside.map(|(at, _)| at.clone()).collect::<Vec<_>>() {
                nodes.remove(&at);
            }
        }
        nodes.insert(path.to_owned(), node);
        Ok(())
    }

    fn fresh_group(&self) -> u64 {
        self.nodes.borrow().values().filter_map(|node| node.group).max().unwrap_or(0) + 1
    }
}

pub struct MemoryReader {
    data: Rc<Vec<u8>>,
    at: usize,
}

impl Tree for Memory {
    type Reader = MemoryReader;

    fn stat(&self, path: &str) -> Result<Option<Entry>, Fault> {
        count(&self.calls.stat);
        match self.get(path) {
            Ok(Node { kind, attributes, .. }) => Ok(Some(Entry { kind, attributes })),
            Err(Fault::NotFound(_)) => Ok(None),
            Err(other) => Err(other),
        }
    }

    fn list(&self, path: &str) -> Result<Vec<NamedEntry>, Fault> {
        count(&self.calls.list);
        if self.get(path)?.kind != EntryKind::Directory {
            return Err(Fault::WrongKind(path.to_owned()));
        }
        let below = if path == "/" { "/".to_owned() } else { format!("{path}/") };
        let nodes = self.nodes.borrow();
        let mut entries = Vec::new();
        let mut from = below.clone();
        while let Some((at, node)) = nodes.range(from.clone()..).next()
            && let Some(name) = at.strip_prefix(&below)
        {
            if let Some((child, _)) = name.split_once('/') {
                // Over all that is below the child: `0` comes after `/`.
                from = format!("{below}{child}0");
                continue;
            }
            from = format!("{at}\0");
            if !name.is_empty() {
                entries.push(NamedEntry {
                    name: name.to_owned(),
                    entry: Entry { kind: node.kind.clone(), attributes: node.attributes.clone() },
                    link_group: node.group,
                });
            }
        }
        Ok(entries)
    }

    fn open(&self, path: &str) -> Result<Self::Reader, Fault> {
        count(&self.calls.open);
        let node = self.get(path)?;
        match node.kind {
            EntryKind::Regular(_) => Ok(MemoryReader { data: node.data, at: 0 }),
            _ => Err(Fault::WrongKind(path.to_owned())),
        }
    }
}

impl Reader for MemoryReader {
    fn read(&mut self, max: u32) -> Result<Vec<u8>, Fault> {
        // Small and odd pieces: nobody promised more.
        let end = self.data.len().min(self.at + (max as usize).min(100_003));
        let part = self.data[self.at..end].to_vec();
        self.at = end;
        Ok(part)
    }
}

pub struct MemoryWriter {
    tree: Memory,
    path: String,
    attributes: Attributes,
    data: Vec<u8>,
}

impl Writer for MemoryWriter {
    fn write(&mut self, data: &[u8]) -> Result<(), Fault> {
        let largest = &self.tree.calls.largest_write;
        largest.set(largest.get().max(data.len()));
        self.data.extend_from_slice(data);
        Ok(())
    }

    fn finish(self) -> Result<(), Fault> {
        MemoryLayer { tree: self.tree }.put_regular(&self.path, self.data.into(), &self.attributes)
    }
}

impl MemoryLayer {
    fn put_regular(&self, path: &str, data: Rc<Vec<u8>>, a: &Attributes) -> Result<(), Fault> {
        let kind = EntryKind::Regular(data.len() as u64);
        self.tree.put(path, Node { kind, attributes: a.clone(), data, group: None })
    }
}

impl Layer for MemoryLayer {
    type Tree = Memory;
    type Writer = MemoryWriter;

    fn new(base: Option<&Self::Tree>) -> Self {
        let tree = Memory::empty();
        if let Some(base) = base {
            base.nodes.borrow().clone_into(&mut tree.nodes.borrow_mut());
        }
        Self { tree }
    }

    fn view(&self) -> Self::Tree {
        self.tree.clone()
    }

    fn fork(&self) -> Self {
        Self::new(Some(&self.tree))
    }

    fn put_file(
        &self,
        path: &str,
        source: &Self::Tree,
        source_path: &str,
        attributes: &Attributes,
    ) -> Result<(), Fault> {
        let node = source.get(source_path)?;
        if !matches!(node.kind, EntryKind::Regular(_)) {
            return Err(Fault::WrongKind(source_path.to_owned()));
        }
        self.put_regular(path, node.data, attributes)
    }

    fn put_contents(
        &self,
        path: &str,
        source: &Self::Tree,
        source_path: &str,
        changes: &AttributeChanges,
    ) -> Result<(), Fault> {
        for (tree, directory) in [(source, source_path), (&self.tree, path)] {
            if tree.get(directory)?.kind != EntryKind::Directory {
                return Err(Fault::WrongKind(directory.to_owned()));
            }
        }
        if !self.tree.list(path)?.is_empty() {
            return Err(Fault::WrongKind(path.to_owned()));
        }
        let below = format!("{}/", source_path.trim_end_matches('/'));
        let nodes = source.nodes.borrow().clone();
        let under = |at: &str| at.strip_prefix(&below).filter(|rest| !rest.is_empty()).is_some();
        if nodes.keys().any(|at| under(at) && at[below.len()..].split('/').count() > 2048) {
            let message = "directories are nested too deep, expected at most 2048 levels";
            return Err(Fault::Invalid(message.to_owned()));
        }
        let names = |group| nodes.iter().filter(|(at, n)| under(at) && n.group == group).count();
        let mut groups = HashMap::new();
        for (at, node) in nodes.iter().filter(|(at, _)| under(at)) {
            let mut node = node.clone();
            node.group = node
                .group
                .filter(|_| names(node.group) > 1)
                .map(|group| *groups.entry(group).or_insert_with(|| self.tree.fresh_group()));
            let attributes = &mut node.attributes;
            attributes.uid = changes.uid.unwrap_or(attributes.uid);
            attributes.gid = changes.gid.unwrap_or(attributes.gid);
            attributes.mtime = changes.mtime.unwrap_or(attributes.mtime);
            let to = format!("{}/{}", path.trim_end_matches('/'), &at[below.len()..]);
            self.tree.put(&to, node)?;
        }
        Ok(())
    }

    fn put_bytes(&self, path: &str, data: &[u8], attributes: &Attributes) -> Result<(), Fault> {
        assert!(data.len() <= 1 << 20, "large contents have to be streamed");
        self.put_regular(path, Rc::new(data.to_vec()), attributes)
    }

    fn put_stream(&self, path: &str, attributes: &Attributes) -> Result<Self::Writer, Fault> {
        let (tree, attributes) = (self.tree.clone(), attributes.clone());
        Ok(MemoryWriter { tree, path: path.to_owned(), attributes, data: Vec::new() })
    }

    fn put_directory(&self, path: &str, attributes: &Attributes) -> Result<(), Fault> {
        let kind = EntryKind::Directory;
        let attributes = attributes.clone();
        self.tree.put(path, Node { kind, attributes, data: Rc::default(), group: None })
    }

    fn put_special(&self, path: &str, kind: &EntryKind, a: &Attributes) -> Result<(), Fault> {
        let special = !matches!(kind, EntryKind::Regular(_) | EntryKind::Directory);
        assert!(special, "put_special of {kind:?}");
        let (kind, attributes) = (kind.clone(), a.clone());
        self.tree.put(path, Node { kind, attributes, data: Rc::default(), group: None })
    }

    fn put_hard_link(&self, path: &str, existing: &str) -> Result<(), Fault> {
        let mut node = self.tree.get(existing)?;
        if !matches!(node.kind, EntryKind::Regular(_)) {
            return Err(Fault::WrongKind(existing.to_owned()));
        }
        if node.group.is_none() {
            node.group = Some(self.tree.fresh_group());
            self.tree.nodes.borrow_mut().insert(existing.to_owned(), node.clone());
        }
        self.tree.put(path, node)
    }

    fn remove(&self, path: &str) -> Result<(), Fault> {
        self.tree.get(path)?;
        let below = format!("{path}/");
        self.tree.nodes.borrow_mut().retain(|at, _| at != path && !at.starts_with(&below));
        Ok(())
    }
}

/// A copy with the options of a Dockerfile's COPY, from input 1.
pub fn copy(src: &str, dest: &str) -> Copy {
    Copy {
        from: ActionInput::Input(1),
        src: src.to_owned(),
        dest: dest.to_owned(),
        owner: None,
        mode: None,
        mode_string: String::new(),
        follow_symlink: true,
        dir_copy_contents: true,
        attempt_unpack: false,
        create_dest_path: true,
        allow_wildcard: true,
        allow_empty_wildcard: true,
        timestamp: None,
        include_patterns: Vec::new(),
        exclude_patterns: Vec::new(),
        always_replace_existing: false,
        required_paths: Vec::new(),
    }
}

/// Applies one action to input 0; what comes out is the tree, or the error.
pub fn run(kind: ActionKind, inputs: &[Memory]) -> String {
    let action = Action { input: ActionInput::Input(0), kind, output: Some(0) };
    match apply::<MemoryLayer>(&[action], inputs, NOW) {
        Ok(layers) => layers[0].view().print(),
        Err(failed) => {
            let kind = if failed.error.is_not_found() { "not found" } else { "error" };
            format!("{kind}: {}\n", failed.error)
        }
    }
}
