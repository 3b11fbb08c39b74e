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
        let (old, new) = (before.as_ref().map(aspects), after.as_ref().map(aspects));
        if depth >= patterns.len() && old != new {
            let name = match path.as_slice() {
                b"" => ".".into(),
                path => String::from_utf8_lossy(path),
            };
            let (before, after) =
                (words(old.as_ref(), new.as_ref()), words(new.as_ref(), old.as_ref()));
            return Some(Change { leaf: format!("file {name}"), before, after });
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

/// What counts of a node, aspect by aspect, in words; equal for nodes that count as equal.
fn aspects(found: &Found<'_>) -> Vec<String> {
    let node = found.node();
    let mut aspects = match &node.kind {
        NodeKind::Directory(_) => vec!["directory".to_owned()],
        NodeKind::Regular(regular) => {
            let content = match (&regular.digest, &regular.content) {
                (Some(digest), _) => digest.to_string(),
                // Without a digest, where the bytes are says whether they are the same.
                (None, Content::Layer { layer, path }) => {
                    format!("in layer {layer} at {}", String::from_utf8_lossy(path))
                }
                (None, Content::Pack { pack, offset }) => format!("in pack {pack} at {offset}"),
            };
            vec![format!("{} bytes", regular.size), content]
        }
        NodeKind::Symlink(target) => vec![format!("link to {}", String::from_utf8_lossy(target))],
        NodeKind::CharacterDevice(major, minor) => {
            vec![format!("character device {major}:{minor}")]
        }
        NodeKind::BlockDevice(major, minor) => vec![format!("block device {major}:{minor}")],
        NodeKind::Fifo => vec!["pipe".to_owned()],
        NodeKind::Socket => vec!["socket".to_owned()],
        NodeKind::Whiteout => vec!["removed".to_owned()],
    };
    let attributes = &node.attributes;
    aspects.push(format!("mode {:o}", attributes.mode));
    aspects.push(format!("owner {}:{}", attributes.uid, attributes.gid));
    let xattr = |(name, value): &(String, Vec<u8>)| format!("{name}={}", value.escape_ascii());
    aspects.extend(attributes.xattrs.iter().map(xattr));
    aspects
}

/// The aspects that the other node does not have, digests cut to what tells them apart.
fn words(aspects: Option<&Vec<String>>, other: Option<&Vec<String>>) -> Option<String> {
    let other = other.map_or(&[][..], Vec::as_slice);
    let own = aspects?.iter().filter(|aspect| !other.contains(aspect));
    let short = |aspect: &String| match aspect.strip_prefix("sha256:") {
        Some(digits) => format!("sha256:{}", digits.get(..12).unwrap_or(digits)),
        None => aspect.clone(),
    };
    Some(own.map(short).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use cofferdam_store::{LayerBuilder, Snapshot, Store};

    use super::*;

    /// A tree of files with these contents; `!` before a path makes it executable.
    fn tree(store: &Store, files: &[(&str, &str)]) -> Tree {
        let (mut builder, pack) = (LayerBuilder::new(None), store.new_pack());
        for (path, data) in files {
            let (mode, path) = match path.strip_prefix('!') {
                Some(path) => (0o755, path),
                None => (0o644, *path),
            };
            let attributes = cofferdam_store::Attributes { mode, ..Default::default() };
            if let Some((directory, _)) = path.rsplit_once('/') {
                let attributes = cofferdam_store::Attributes { mode: 0o755, ..Default::default() };
                builder.put_directory(directory.as_bytes(), attributes).expect("a directory");
            }
            let (content, digest) = pack.put(data.as_bytes()).expect("a pack");
            builder
                .put_file(path.as_bytes(), attributes, content, data.len() as u64, Some(digest))
                .expect("a file");
        }
        let layer = store.commit_virtual(builder.finish()).expect("a layer");
        store.tree(&Snapshot::default().with(layer)).expect("it is there")
    }

    #[test]
    fn the_first_file_that_differs() {
        let root = tempfile::tempdir().expect("a directory");
        let store = Store::open(root.path()).expect("a store");
        let before = tree(&store, &[("a/x", "1"), ("b.txt", "2"), ("c", "3")]);
        let check = |after: &[(&str, &str)], selection: Option<(&str, bool)>, expected: &str| {
            let selections: Vec<_> = selection
                .iter()
                .map(|(path, wildcard)| Selection {
                    path: path.as_bytes().to_vec(),
                    wildcard: *wildcard,
                    follow: false,
                })
                .collect();
            let change = between(&before, &tree(&store, after), &selections);
            let text = change.map(|Change { leaf, before, after }| {
                let side = |side: Option<String>| side.unwrap_or("none".into());
                format!("{leaf}: {} -> {}", side(before), side(after))
            });
            assert_eq!(text.as_deref().unwrap_or("nothing"), expected, "{selection:?}");
        };
        let same = [("a/x", "1"), ("b.txt", "2"), ("c", "3")];
        check(&same, None, "nothing");
        let other = [("a/x", "1"), ("b.txt", "two"), ("!c", "3")];
        let b = "file b.txt: 1 bytes, sha256:d4735e3a265e -> 3 bytes, sha256:3fc4ccfe7458";
        check(&other, None, b);
        check(&other, Some(("*.txt", true)), b);
        check(&other, Some(("[c-d]", true)), "file c: mode 644 -> mode 755");
        check(&other, Some(("c", false)), "file c: mode 644 -> mode 755");
        check(&other, Some(("a", false)), "nothing");
        let moved = [("a/y", "1"), ("b.txt", "2"), ("c", "3")];
        let gone = "1 bytes, sha256:6b86b273ff34, mode 644, owner 0:0";
        check(&moved, Some(("/a/", false)), &format!("file a/x: {gone} -> none"));
        check(&moved, Some(("a/y", false)), &format!("file a/y: none -> {gone}"));
        check(&moved, Some(("*/y", true)), &format!("file a/y: none -> {gone}"));
    }
}
