//! Directories that the client lends: only the files that are needed are read, and of these only
//! the ones that changed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, Metadata};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use cofferdam_patterns::{Glob, Matcher, ParentMatch, has_wildcard};
use cofferdam_store::{Attributes, Keep, LocalFile, Name, Node, NodeKind, Regular, Store};
use cofferdam_types::Digest;
use rayon::iter::ParallelIterator as _;
use rayon::slice::ParallelSlice as _;

use crate::Result;
use crate::error::IoContext;

/// How many symlinks a followed path may lead through.
const MAX_LINKS: usize = 255;
/// Names of a directory that one core looks at before another could take some.
const NAMES_AT_ONCE: usize = 32;

/// Which files of a directory are needed. Patterns are those of `.dockerignore`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only what matches one of these, and what is below it. Empty: everything.
    pub include: Vec<String>,
    /// Nothing that these exclude.
    pub exclude: Vec<String>,
    /// Only these paths, what is below them, and what symlinks on the way lead to. Components
    /// may have wildcards. Empty: everything.
    pub follow: Vec<String>,
}

/// What a directory had when it was looked at. All bytes are in the store; the manifest is not
/// committed yet.
#[derive(Debug)]
pub struct LocalScan {
    /// The manifest.
    pub root: Node,
    /// Content digest: no modification times.
    pub digest: Digest,
    /// How many files were read, because they are new or changed.
    pub files: usize,
    /// Bytes of all files.
    pub bytes: u64,
    /// Keeps the packs with the bytes until the manifest is committed.
    _keep: Keep,
}

/// Looks at a directory. Owners are left out: files of a client belong to root, as in BuildKit.
/// Where there is much to read, `progress` is told how many bytes were, and how many there are.
///
/// # Errors
/// When the directory or a needed file cannot be read, or a pattern is malformed.
pub fn scan_directory(
    store: &Store,
    directory: &Path,
    filter: &Filter,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<LocalScan> {
    let keep = store.keep();
    let directory = fs::canonicalize(directory).io("cannot open", directory)?;
    let mut wanted = Wanted::default();
    if filter.follow.is_empty() {
        wanted.all = true;
    }
    for path in &filter.follow {
        follow(&directory, path, &mut wanted)?;
    }
    let walk = Walk {
        include: (!filter.include.is_empty()).then(|| Matcher::new(&filter.include)).transpose()?,
        exclude: Matcher::new(&filter.exclude)?,
    };
    let mut root = Node::empty_root();
    let state = (ParentMatch::default(), ParentMatch::default());
    let mut files = Vec::new();
    // What is known of the files is read while they are looked at.
    let (children, index) = std::thread::scope(|scope| {
        let index = scope.spawn(|| store.local_index(&directory));
        let children = walk.directory(&directory, "", &wanted, &state, true, &mut files);
        (children, index.join().expect("reading an index does not panic"))
    });
    if let Some(children) = children? {
        root.as_directory_mut().expect("made as a directory above").children = children;
    }
    let mut index = index?;
    let read = index.files(&files, progress)?;
    index.save()?;
    let bytes = read.iter().map(|file| file.size).sum();
    let mut fill = Fill { found: files.iter().zip(read), links: HashMap::new() };
    fill.node(&mut root);
    let digest = store.hash_edits(&root)?;
    Ok(LocalScan { root, digest, files: files.len(), bytes, _keep: keep })
}

/// A regular file that is needed: its path inside, where it is, and what `stat` said.
type Needed = (Box<[u8]>, PathBuf, Metadata);

/// Puts where the bytes are into the regular files, in the order in which the walk found them,
/// and which of them are hard links of one file.
struct Fill<I> {
    found: I,
    /// Numbers of groups, by device and inode.
    links: HashMap<(u64, u64), u64>,
}

impl<'a, I: Iterator<Item = (&'a Needed, LocalFile)>> Fill<I> {
    fn node(&mut self, node: &mut Node) {
        match &mut node.kind {
            NodeKind::Directory(directory) => {
                directory.children.values_mut().for_each(|child| self.node(child));
            }
            NodeKind::Regular(regular) => {
                let ((_, _, metadata), file) =
                    self.found.next().expect("one file was read for each regular node");
                regular.content = file.content;
                regular.size = file.size;
                regular.digest = Some(file.digest);
                regular.link_group = (metadata.nlink() > 1).then(|| {
                    let next = self.links.len() as u64 + 1;
                    *self.links.entry((metadata.dev(), metadata.ino())).or_insert(next)
                });
            }
            _ => {}
        }
    }
}

/// The paths that are needed, as a tree of names.
#[derive(Debug, Default)]
struct Wanted {
    /// This and all below it.
    all: bool,
    children: BTreeMap<Name, Wanted>,
}

impl Wanted {
    fn add(&mut self, path: &[Name]) {
        let end = path.iter().fold(self, |at, name| at.children.entry(name.clone()).or_default());
        end.all = true;
    }
}

/// Adds a path, and what symlinks in it lead to, to what is wanted.
fn follow(root: &Path, path: &str, wanted: &mut Wanted) -> Result<()> {
    let mut todo: Vec<(Vec<Name>, Vec<Name>, usize)> =
        vec![(Vec::new(), split(path.as_bytes()), 0)];
    let mut seen = HashSet::new();
    while let Some((done, rest, links)) = todo.pop() {
        if !seen.insert((done.clone(), rest.clone())) {
            continue;
        }
        let Some((name, rest)) = rest.split_first() else {
            wanted.add(&done);
            continue;
        };
        if &**name == b".." {
            let up = done[..done.len().saturating_sub(1)].to_vec();
            todo.push((up, rest.to_vec(), links));
            continue;
        }
        if name.windows(2).any(|pair| pair == b"**") {
            // It stands for any number of directories, as in `COPY --parents src/**/*.c`.
            wanted.add(&done);
            continue;
        }
        let here = on_disk(root, &done);
        let text = String::from_utf8_lossy(name);
        let names: Vec<Name> = if has_wildcard(&text) {
            let glob = Glob::new(&text)?;
            fs::read_dir(&here)
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.file_name().into_vec().into())
                .filter(|name: &Name| glob.matches(&String::from_utf8_lossy(name)))
                .collect()
        } else {
            vec![name.clone()]
        };
        for name in names {
            let mut child = done.clone();
            child.push(name);
            match fs::read_link(on_disk(root, &child)) {
                Ok(target) => {
                    if links >= MAX_LINKS {
                        return Err(std::io::Error::from_raw_os_error(
                            rustix::io::Errno::LOOP.raw_os_error(),
                        ))
                        .io("cannot follow", root.join(path));
                    }
                    wanted.add(&child);
                    let target = target.into_os_string().into_vec();
                    let start = if target.starts_with(b"/") { Vec::new() } else { done.clone() };
                    let path = split(&target).into_iter().chain(rest.iter().cloned()).collect();
                    todo.push((start, path, links + 1));
                }
                Err(_) => todo.push((child, rest.to_vec(), links)),
            }
        }
    }
    Ok(())
}

fn split(path: &[u8]) -> Vec<Name> {
    path.split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
        .map(Into::into)
        .collect()
}

fn on_disk(root: &Path, names: &[Name]) -> PathBuf {
    let mut path = root.to_owned();
    path.extend(names.iter().map(|name| std::ffi::OsStr::from_bytes(name)));
    path
}

/// What some names of a directory turned out to be, and the regular files among and below them.
type Part = (Vec<(Name, Node)>, Vec<Needed>);

/// What the include and exclude patterns said about a directory.
type State = (ParentMatch, ParentMatch);

struct Walk {
    include: Option<Matcher>,
    exclude: Matcher,
}

impl Walk {
    /// What is wanted of a directory; `None` when nothing is, and the directory itself was not
    /// asked for either. The regular files are added to `files` in the order of the manifest.
    fn directory(
        &self,
        path: &Path,
        inside: &str,
        wanted: &Wanted,
        state: &State,
        itself: bool,
        files: &mut Vec<Needed>,
    ) -> Result<Option<BTreeMap<Name, Node>>> {
        let mut names: Vec<Name> = if wanted.all {
            let entries = fs::read_dir(path).io("cannot list", path)?;
            entries
                .map(|entry| Ok(entry.io("cannot list", path)?.file_name().into_vec().into()))
                .collect::<Result<_>>()?
        } else {
            wanted.children.keys().cloned().collect()
        };
        // The order of the manifest: files are matched up with their nodes by it.
        names.sort();
        let everything = Wanted { all: true, children: BTreeMap::new() };
        let look = |names: &[Name]| {
            let (mut children, mut files) = (Vec::new(), Vec::new());
            for name in names {
                let below = if wanted.all { &everything } else { &wanted.children[name] };
                let child = path.join(std::ffi::OsStr::from_bytes(name));
                let text = String::from_utf8_lossy(name);
                let inside =
                    if inside.is_empty() { text.into() } else { format!("{inside}/{text}") };
                if let Some(node) = self.node(&child, &inside, below, state, &mut files)? {
                    children.push((name.clone(), node));
                }
            }
            Ok::<Part, crate::Error>((children, files))
        };
        // Many names are looked at on all cores.
        let parts: Vec<Part> = match names.len() {
            ..=NAMES_AT_ONCE => vec![look(&names)?],
            _ => names.par_chunks(NAMES_AT_ONCE).map(look).collect::<Result<_>>()?,
        };
        let mut children = BTreeMap::new();
        for (part, needed) in parts {
            children.extend(part);
            files.extend(needed);
        }
        Ok((itself || !children.is_empty()).then_some(children))
    }

    fn node(
        &self,
        path: &Path,
        inside: &str,
        wanted: &Wanted,
        (included, excluded): &State,
        files: &mut Vec<Needed>,
    ) -> Result<Option<Node>> {
        let metadata = match fs::symlink_metadata(path) {
            Ok(metadata) => metadata,
            // A path that a COPY names may not exist; one that was listed may be gone.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).io("cannot stat", path),
        };
        let (is_included, included) = match &self.include {
            Some(include) => include.matches(inside, included),
            None => (true, ParentMatch::default()),
        };
        let (is_excluded, excluded) = self.exclude.matches(inside, excluded);
        let itself = is_included && !is_excluded;
        let kind = metadata.file_type();
        if kind.is_dir() {
            let include_below = self
                .include
                .as_ref()
                .is_none_or(|include| is_included || include.may_match_below(inside, &included));
            if !include_below || is_excluded && !self.exclude.may_except_below(inside) {
                return Ok(None);
            }
            let state = (included, excluded);
            let Some(children) = self.directory(path, inside, wanted, &state, itself, files)?
            else {
                return Ok(None);
            };
            let mut node = Node::directory(attributes(path, &metadata));
            node.as_directory_mut().expect("made as a directory above").children = children;
            return Ok(Some(node));
        }
        if !itself || kind.is_socket() {
            return Ok(None);
        }
        let attributes = attributes(path, &metadata);
        let device = metadata.rdev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let kind = if kind.is_symlink() {
            let target = fs::read_link(path).io("cannot read the link", path)?;
            NodeKind::Symlink(target.into_os_string().into_vec())
        } else if kind.is_char_device() {
            NodeKind::CharacterDevice(major, minor)
        } else if kind.is_block_device() {
            NodeKind::BlockDevice(major, minor)
        } else if kind.is_fifo() {
            NodeKind::Fifo
        } else {
            files.push((inside.as_bytes().into(), path.to_owned(), metadata));
            // `Fill` replaces this once the bytes are in the store.
            let content = cofferdam_store::Content::nowhere();
            NodeKind::Regular(Regular { size: 0, content, digest: None, link_group: None })
        };
        Ok(Some(Node { attributes, kind }))
    }
}

fn attributes(path: &Path, metadata: &Metadata) -> Attributes {
    Attributes {
        mode: metadata.mode() & 0o7777,
        uid: 0,
        gid: 0,
        mtime: metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec()),
        xattrs: xattrs(path),
    }
}

/// The attributes that mean something in an image. Labels of the client's own security modules
/// do not.
fn xattrs(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut names = [0; 4096];
    let Ok(length) = rustix::fs::llistxattr(path, &mut names) else { return Vec::new() };
    let mut xattrs = Vec::new();
    for name in names[..length].split(|byte| *byte == 0) {
        let Ok(name) = std::str::from_utf8(name) else { continue };
        if name != "security.capability" && !name.starts_with("user.") {
            continue;
        }
        let mut value = [0; 4096];
        if let Ok(length) = rustix::fs::lgetxattr(path, name, &mut value) {
            xattrs.push((name.to_owned(), value[..length].to_vec()));
        }
    }
    xattrs.sort();
    xattrs
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    /// `link -> target` makes a symlink, `dir/` a directory, anything else a file with its own
    /// name as contents.
    fn check(files: &[&str], filter: &Filter, expected: Expect) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state")).unwrap();
        let root = dir.path().join("context");
        fs::create_dir(&root).unwrap();
        for file in files {
            let (path, target) =
                file.split_once(" -> ").map_or((*file, None), |(a, b)| (a, Some(b)));
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            match target {
                Some(target) => std::os::unix::fs::symlink(target, path).unwrap(),
                None if file.ends_with('/') => fs::create_dir_all(path).unwrap(),
                None => fs::write(path, file).unwrap(),
            }
        }
        let scan = scan_directory(&store, &root, filter, &|_, _| {}).unwrap();
        let mut listing = String::new();
        scan.root
            .walk(&mut |path, node| {
                let kind = match &node.kind {
                    NodeKind::Directory(_) => "/".to_owned(),
                    NodeKind::Symlink(to) => format!(" -> {}", String::from_utf8_lossy(to)),
                    NodeKind::Regular(regular) => {
                        let mut bytes = String::new();
                        let mut file = store.open_content(regular).unwrap();
                        std::io::Read::read_to_string(&mut file, &mut bytes).unwrap();
                        assert_eq!(bytes.as_bytes(), path);
                        String::new()
                    }
                    other => format!(" {other:?}"),
                };
                listing += &format!("{}{kind}\n", String::from_utf8_lossy(path));
                Ok::<_, ()>(())
            })
            .unwrap();
        expected.assert_eq(&listing);
    }

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn everything_by_default() {
        check(
            &["b", "a/x", "a-b", "empty/", "l -> a/x"],
            &Filter::default(),
            expect![[r"
                /
                a/
                a/x
                a-b
                b
                empty/
                l -> a/x
            "]],
        );
    }

    #[test]
    fn ignored_directories_keep_their_exceptions() {
        let filter =
            Filter { exclude: strings(&["out", "!out/keep", "*.md"]), ..Filter::default() };
        check(
            &["out/a", "out/keep/b", "out2/c", "d.md", "e"],
            &filter,
            expect![[r"
                /
                e
                out/
                out/keep/
                out/keep/b
                out2/
                out2/c
            "]],
        );
    }

    #[test]
    fn followed_paths_bring_their_links() {
        let filter =
            Filter { follow: strings(&["src/*.c", "conf", "missing"]), ..Filter::default() };
        check(
            &["src/a.c", "src/b.h", "conf -> /real/conf", "real/conf/x", "other"],
            &filter,
            expect![[r"
                /
                conf -> /real/conf
                real/
                real/conf/
                real/conf/x
                src/
                src/a.c
            "]],
        );
    }

    #[test]
    fn two_stars_follow_into_any_depth() {
        let filter = Filter { follow: strings(&["src/**/*.c"]), ..Filter::default() };
        check(
            &["src/a.c", "src/1/2/b.c", "other/c.c"],
            &filter,
            expect![[r"
                /
                src/
                src/1/
                src/1/2/
                src/1/2/b.c
                src/a.c
            "]],
        );
    }

    #[test]
    fn includes_and_follows_meet_excludes() {
        let filter = Filter {
            include: strings(&["src", "*.txt"]),
            exclude: strings(&["**/tmp"]),
            ..Filter::default()
        };
        check(
            &["src/tmp/a", "src/b", "c.txt", "d/e.txt", "f"],
            &filter,
            expect![[r"
                /
                c.txt
                src/
                src/b
            "]],
        );
    }

    #[test]
    fn an_unchanged_file_is_not_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state")).unwrap();
        let root = dir.path().join("context");
        fs::create_dir(&root).unwrap();
        fs::write(root.join("a"), "one").unwrap();
        fs::write(root.join("b"), "two").unwrap();
        // What was changed just now is read again to be on the safe side.
        std::thread::sleep(std::time::Duration::from_millis(50));
        let first = scan_directory(&store, &root, &Filter::default(), &|_, _| {}).unwrap();
        let second = scan_directory(&store, &root, &Filter::default(), &|_, _| {}).unwrap();
        // Equal including the place of the bytes: nothing was read into a new pack.
        assert_eq!(first.root, second.root);
        fs::write(root.join("a"), "1").unwrap();
        let third = scan_directory(&store, &root, &Filter::default(), &|_, _| {}).unwrap();
        assert_ne!(third.digest, second.digest);
        assert_eq!(third.root.get(b"b"), second.root.get(b"b"));
        assert_ne!(third.root.get(b"a"), second.root.get(b"a"));
    }
}
