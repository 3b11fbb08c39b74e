//! Which file of a tree is the first that differs from an earlier one: what `--why` says of a COPY
//! and of the build context. Looks at what content digests look at, and at nothing else.

use cofferdam_patterns::Glob;
use cofferdam_solver::Change;
use cofferdam_store::{Content, Found, Node, NodeKind, Selection, Tree};

/// The first difference in the selected parts of two trees; everything is selected if there is no
/// selection.
pub(crate) fn between(before: &Tree, after: &Tree, selections: &[Selection]) -> Option<Change> {
    let all = [Selection { path: Vec::new(), wildcard: false, follow: true }];
    let selections = if selections.is_empty() { &all } else { selections };
    selections.iter().find_map(|selection| {
        let path = String::from_utf8_lossy(&selection.path).into_owned();
        if selection.wildcard {
            let parts = path.split('/').filter(|part| !part.is_empty());
            // What is malformed matches nothing, and was refused long before.
            let patterns: Vec<Glob> = parts.map(Glob::new).collect::<Result<_, _>>().ok()?;
            return first(before.root(), after.root(), Vec::new(), &patterns);
        }
        let part = |tree| Tree::resolve(tree, &selection.path, selection.follow).ok();
        let (before, after) = (part(before), part(after));
        let real = after.as_ref().or(before.as_ref())?.0.clone();
        first(before.map(|(_, found)| found), after.map(|(_, found)| found), real, &[])
    })
}

/// The first difference between a directory of an earlier scan and one that is not committed yet.
pub(crate) fn since(before: &Tree, after: &Node) -> Option<Change> {
    first(before.root(), Some(Found::of(after)), Vec::new(), &[])
}

/// Walks two trees side by side, in byte order of the names. The first components have to match
/// `patterns`, if there are any.
fn first(
    before: Option<Found<'_>>,
    after: Option<Found<'_>>,
    path: Vec<u8>,
    patterns: &[Glob],
) -> Option<Change> {
    // A stack of our own: the tree may be deeper than a thread's stack.
    let mut todo = vec![(before, after, path, 0)];
    while let Some((before, after, path, depth)) = todo.pop() {
        let (old, new) = (before.as_ref().map(describe), after.as_ref().map(describe));
        if depth >= patterns.len() && old != new {
            let name = match path.as_slice() {
                b"" => ".".into(),
                path => String::from_utf8_lossy(path),
            };
            return Some(Change { leaf: format!("file {name}"), before: old, after: new });
        }
        let (old, new) = (children(before.as_ref()), children(after.as_ref()));
        let mut pairs = Vec::new();
        let (mut old, mut new) = (old.into_iter().peekable(), new.into_iter().peekable());
        loop {
            let name = match (old.peek(), new.peek()) {
                (Some((a, _)), Some((b, _))) => (*a).min(*b),
                (Some((name, _)), None) | (None, Some((name, _))) => *name,
                (None, None) => break,
            };
            let old = old.next_if(|(other, _)| *other == name).map(|(_, found)| found);
            let new = new.next_if(|(other, _)| *other == name).map(|(_, found)| found);
            let wanted = patterns
                .get(depth)
                .is_none_or(|pattern| pattern.matches(&String::from_utf8_lossy(name)));
            if wanted {
                let mut path = path.clone();
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(name);
                pairs.push((old, new, path, depth + 1));
            }
        }
        todo.extend(pairs.into_iter().rev());
    }
    None
}

fn children<'a>(found: Option<&Found<'a>>) -> Vec<(&'a [u8], Found<'a>)> {
    let children = found.map(Found::children).unwrap_or_default();
    children.into_iter().map(|child| (&**child.name, child.found)).collect()
}

/// What counts of a node, in words; equal for nodes that count as equal.
fn describe(found: &Found<'_>) -> String {
    let node = found.node();
    let mut text = match &node.kind {
        NodeKind::Directory(_) => "directory".to_owned(),
        NodeKind::Regular(regular) => {
            let content = match (&regular.digest, &regular.content) {
                (Some(digest), _) => digest.to_string(),
                // Without a digest, where the bytes are says whether they are the same.
                (None, Content::Layer { layer, path }) => {
                    format!("{layer}:{}", String::from_utf8_lossy(path))
                }
                (None, Content::Pack { pack, offset }) => format!("{pack}:{offset}"),
            };
            format!("{} bytes, {content}", regular.size)
        }
        NodeKind::Symlink(target) => format!("link to {}", String::from_utf8_lossy(target)),
        NodeKind::CharacterDevice(major, minor) => format!("character device {major}:{minor}"),
        NodeKind::BlockDevice(major, minor) => format!("block device {major}:{minor}"),
        NodeKind::Fifo => "pipe".to_owned(),
        NodeKind::Socket => "socket".to_owned(),
        NodeKind::Whiteout => "removed".to_owned(),
    };
    let attributes = &node.attributes;
    text += &format!(", mode {:o}, owner {}:{}", attributes.mode, attributes.uid, attributes.gid);
    for (name, value) in &attributes.xattrs {
        text += &format!(", {name}={}", value.escape_ascii());
    }
    text
}
