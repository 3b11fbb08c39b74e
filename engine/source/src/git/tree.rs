//! From a commit to a manifest: git lists the paths and gives the bytes, which go into a pack as
//! they are. No work tree is made, so no name, link, filter or attribute of the repository ever
//! means anything to this machine.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::Stdio;

use cofferdam_store::{Attributes, Directory, Node, NodeKind, Regular, SharedPackWriter};
use cofferdam_types::Hasher;
use sha1::{Digest as _, Sha1};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use super::command::Git;
use crate::http::{writing, written};
use crate::{Error, Result};

/// The longest target of a symlink (`PATH_MAX`).
const MAX_LINK: u64 = 4096;
/// The most that is read of `.gitmodules` or a commit.
const MAX_TEXT: u64 = 4 << 20;

/// A path of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    /// Its object.
    pub(super) object: String,
    /// Relative to the top.
    pub(super) path: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Program,
    Link,
    /// A commit of another repository.
    Submodule,
}

/// All files, links and submodules of a commit.
pub(super) async fn list(git: &Git<'_>, commit: &str) -> Result<Vec<Entry>> {
    let arguments = ["ls-tree", "-r", "-z", "--full-tree", commit];
    let output = git.run("list the files of the commit", arguments).await?;
    let wrong = |what: &str| wrong(git, what.to_owned());
    let mut entries = Vec::new();
    for line in output.split(|byte| *byte == 0).filter(|line| !line.is_empty()) {
        let tab = line.iter().position(|byte| *byte == b'\t');
        let (head, path) = line.split_at(tab.ok_or_else(|| wrong("git lists no path"))?);
        let head = std::str::from_utf8(head).map_err(|_| wrong("git lists no mode"))?;
        let mut words = head.split(' ');
        let (mode, _, object) = (words.next(), words.next(), words.next().unwrap_or_default());
        let kind = match mode {
            Some("100755") => Kind::Program,
            Some(mode) if mode.starts_with("100") => Kind::File,
            Some("120000") => Kind::Link,
            Some("160000") => Kind::Submodule,
            _ => return Err(wrong("it has an object that is no file, link or submodule")),
        };
        let path = path[1..].to_vec();
        if path.split(|byte| *byte == b'/').any(is_forbidden) {
            let path = String::from_utf8_lossy(&path).escape_debug().to_string();
            return Err(wrong(&format!("it has the path `{path}`, which no commit may have")));
        }
        entries.push(Entry { kind, object: object.to_owned(), path });
    }
    Ok(entries)
}

/// Names that git itself refuses to check out.
fn is_forbidden(name: &[u8]) -> bool {
    matches!(name, b"" | b"." | b"..") || name.eq_ignore_ascii_case(b".git")
}

/// Reads small objects.
pub(super) async fn read(git: &Git<'_>, object: &str) -> Result<Vec<u8>> {
    let size = git.run("read an object", ["cat-file", "-s", object]).await?;
    let size = std::str::from_utf8(&size).ok().and_then(|size| size.trim().parse::<u64>().ok());
    if size.is_none_or(|size| size > MAX_TEXT) {
        return Err(wrong(git, format!("the object {object} is too large")));
    }
    git.run("read an object", ["cat-file", "-p", object]).await
}

/// Puts files and links into a manifest, with this time.
pub(super) async fn fill(
    git: &Git<'_>,
    pack: &SharedPackWriter,
    entries: &[Entry],
    mtime: i64,
    root: &mut Node,
) -> Result<()> {
    const ACTION: &str = "read the files of the commit";
    let mut wanted = String::new();
    for entry in entries {
        wanted += &entry.object;
        wanted.push('\n');
    }
    let mut running = git.start(ACTION, ["cat-file", "--batch", "--buffer"], Stdio::piped())?;
    let mut stdin = running.child.stdin.take().expect("it is piped");
    let stdout = running.child.stdout.take().expect("it is piped");
    let complaint = running.complaint();
    let ask = async move {
        // If git is gone, its end says so better.
        _ = stdin.write_all(wanted.as_bytes()).await;
    };
    let take = async {
        let mut from = BufReader::with_capacity(256 << 10, stdout);
        for entry in entries {
            let node = object(git, &mut from, pack, entry, mtime).await?;
            insert(root, &entry.path, node, mtime).map_err(|what| wrong(git, what))?;
        }
        Ok(())
    };
    let ((), taken, complaint) = tokio::join!(ask, take, complaint);
    let ended = running.end(git, ACTION, complaint).await;
    taken.and(ended)
}

async fn object(
    git: &Git<'_>,
    from: &mut (impl AsyncBufReadExt + Unpin),
    pack: &SharedPackWriter,
    entry: &Entry,
    mtime: i64,
) -> Result<Node> {
    let broken =
        |error: std::io::Error| git.failed("read the files of the commit", error.to_string());
    let mut head = String::new();
    from.read_line(&mut head).await.map_err(broken)?;
    let mut words = head.trim_end().split(' ');
    let size = match (words.next(), words.next(), words.next()) {
        (Some(object), Some("blob"), Some(size)) if object == entry.object => size.parse().ok(),
        _ => None,
    };
    let Some(size) = size else {
        return Err(wrong(git, format!("the object {} is missing", entry.object)));
    };
    let mut id = ObjectId::of_blob(&entry.object, size);
    let mut attributes = Attributes { mode: 0o644, mtime, ..Attributes::default() };
    let kind = if entry.kind == Kind::Link {
        attributes.mode = 0o777;
        if size > MAX_LINK {
            return Err(wrong(git, format!("the link {} is too long", entry.object)));
        }
        let mut target = Vec::new();
        (&mut *from).take(size).read_to_end(&mut target).await.map_err(broken)?;
        id.update(&target);
        NodeKind::Symlink(target)
    } else {
        if entry.kind == Kind::Program {
            attributes.mode = 0o755;
        }
        let mut writer = pack.reserve(size)?;
        let mut left = size;
        while left > 0 {
            let chunk = from.fill_buf().await.map_err(broken)?;
            let count = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            if count == 0 {
                return Err(wrong(git, format!("the object {} is cut off", entry.object)));
            }
            writing(|| writer.write_all(&chunk[..count])).map_err(written)?;
            id.update(&chunk[..count]);
            from.consume(count);
            left -= count as u64;
        }
        let (content, size, digest) = writer.finish();
        NodeKind::Regular(Regular { size, content, digest: Some(digest), link_group: None })
    };
    // Git itself does not look when it reads what it has.
    if id.finish() != entry.object {
        return Err(wrong(git, format!("the object {} is another one", entry.object)));
    }
    // A line feed ends each object.
    let mut end = [0];
    from.read_exact(&mut end).await.map_err(broken)?;
    Ok(Node { attributes, kind })
}

/// The name of an object, in the making (gitformat-loose(5), hash-function-transition(7)).
enum ObjectId {
    Sha1(Sha1),
    Sha256(Hasher),
}

impl ObjectId {
    /// That of a file with so many bytes, as long as another one.
    fn of_blob(like: &str, size: u64) -> Self {
        let mut id = match like.len() {
            64 => Self::Sha256(Hasher::new()),
            _ => Self::Sha1(Sha1::new()),
        };
        id.update(format!("blob {size}\0").as_bytes());
        id
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha1(hasher) => hasher.update(bytes),
            Self::Sha256(hasher) => hasher.update(bytes),
        }
    }

    fn finish(self) -> String {
        match self {
            Self::Sha1(hasher) => {
                hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
            }
            Self::Sha256(hasher) => hasher.finish().hex(),
        }
    }
}

/// Puts a node at a path, with the directories that lead there.
pub(super) fn insert(root: &mut Node, path: &[u8], node: Node, mtime: i64) -> Result<(), String> {
    let twice = || format!("it has `{}` twice", String::from_utf8_lossy(path).escape_debug());
    let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    let (name, parents) = names.split_last().expect("a path has a component");
    let mut directory = root.as_directory_mut().expect("a root is a directory");
    for parent in parents {
        let next = directory.children.entry((*parent).into()).or_insert_with(|| made(mtime));
        directory = next.as_directory_mut().ok_or_else(twice)?;
    }
    match directory.children.insert((*name).into(), node) {
        None => Ok(()),
        Some(_) => Err(twice()),
    }
}

/// A directory.
pub(super) fn made(mtime: i64) -> Node {
    Node {
        attributes: Attributes { mode: 0o755, mtime, ..Attributes::default() },
        kind: NodeKind::Directory(Directory { opaque: false, children: BTreeMap::new() }),
    }
}

fn wrong(git: &Git<'_>, reason: String) -> Error {
    Error::Git { url: git.remote.url().to_owned(), reason }
}
