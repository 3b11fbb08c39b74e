//! Fits an unpacked layer to the layers below it.
//!
//! A layer may have a file without an entry for the directory that it is in. What this directory
//! is, only the layers below say: its attributes are theirs, and where they have a symlink to a
//! directory, the file belongs where the symlink leads. The layer as unpacked knows nothing of
//! that, since several images can share it; where it matters, a layer of references is made.

use cofferdam_store::{Directory, HeldLayer, Node, Snapshot, Store, Tree, UnpackedLayer};
use cofferdam_types::{Digest, Hasher};

use crate::Result;

/// The layer itself, or what it becomes on top of `below`.
pub(crate) fn settle(
    store: &Store,
    below: &Snapshot,
    unpacked: &UnpackedLayer,
    diff_id: &Digest,
) -> Result<HeldLayer> {
    if below.is_empty() || unpacked.implied.is_empty() {
        return Ok(unpacked.layer.clone());
    }
    let lower = store.tree(below)?;
    let mut root = store.layer(unpacked.layer.id())?.root.clone();
    if !adjust(&mut root, &lower, &unpacked.implied) {
        return Ok(unpacked.layer.clone());
    }
    let mut hasher = Hasher::new();
    hasher.field("settled layer");
    for layer in below.layers() {
        hasher.field(layer.to_string());
    }
    hasher.field(diff_id.as_bytes());
    let key = hasher.finish();
    if let Some(known) = store.unpacked_layer(&key)? {
        return Ok(known.layer);
    }
    let layer = store.commit_virtual(root)?;
    if let Some(blob) = store.layer_blob(unpacked.layer.id(), "original")? {
        store.save_layer_blob(layer.id(), "original", &blob)?;
    }
    store.save_layer_content(layer.id(), &key)?;
    let settled = UnpackedLayer { layer: layer.clone(), implied: Vec::new() };
    store.save_unpacked_layer(&key, &settled)?;
    Ok(layer)
}

/// Gives implied directories what the lower layers have there; says whether anything changed.
fn adjust(root: &mut Node, lower: &Tree, implied: &[Vec<u8>]) -> bool {
    let mut changed = false;
    for path in implied {
        let Ok((real, found)) = lower.resolve(path, true) else { continue };
        if !found.is_directory() {
            continue;
        }
        if real == *path {
            if let Some(node) = get_mut(root, path)
                && node.attributes != *found.attributes()
            {
                node.attributes = found.attributes().clone();
                changed = true;
            }
        } else if let Some(node) = take(root, path) {
            // The path leads through a symlink: what is in the directory goes to its target.
            graft(root, lower, &real, node);
            changed = true;
        }
    }
    changed
}

fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty())
}

fn get_mut<'a>(root: &'a mut Node, path: &[u8]) -> Option<&'a mut Node> {
    names(path).try_fold(root, |node, name| node.as_directory_mut()?.children.get_mut(name))
}

fn take(root: &mut Node, path: &[u8]) -> Option<Node> {
    let names: Vec<&[u8]> = names(path).collect();
    let (name, parents) = names.split_last()?;
    let parent = parents
        .iter()
        .try_fold(root, |node, name| node.as_directory_mut()?.children.get_mut(*name))?;
    parent.as_directory_mut()?.children.remove(*name)
}

/// Puts what `node` has into the directory `path`, which the lower layers have.
fn graft(root: &mut Node, lower: &Tree, path: &[u8], node: Node) {
    let mut at = root;
    let mut inside = Vec::new();
    for name in names(path) {
        inside.push(b'/');
        inside.extend_from_slice(name);
        let Some(directory) = at.as_directory_mut() else { return };
        at = directory.children.entry(name.into()).or_insert_with(|| {
            let attributes = lower.get(&inside).map(|found| found.attributes().clone());
            Node::directory(attributes.unwrap_or_default())
        });
    }
    let children = node.as_directory().map(|directory| directory.children.clone());
    if let (Some(into), Some(children)) = (at.as_directory_mut(), children) {
        merge(into, Directory { opaque: false, children });
    }
}

/// Adds entries to a directory; where both have a directory, they become one.
fn merge(into: &mut Directory, from: Directory) {
    for (name, node) in from.children {
        match into.children.get_mut(&name) {
            Some(existing)
                if existing.as_directory().is_some() && node.as_directory().is_some() =>
            {
                let more = node.as_directory().cloned().unwrap_or_default();
                let existing = existing.as_directory_mut().expect("checked just above");
                merge(existing, more);
            }
            _ => {
                into.children.insert(name, node);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cofferdam_store::{Attributes, LayerBlob, LayerBuilder, NodeKind};

    fn attributes(mode: u32) -> Attributes {
        Attributes { mode, ..Attributes::default() }
    }

    #[test]
    fn implied_directories_are_what_the_base_has_there() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut base = LayerBuilder::new(None);
        base.put_directory(b"usr", attributes(0o750)).unwrap();
        base.put_directory(b"usr/lib", attributes(0o711)).unwrap();
        let link = NodeKind::Symlink(b"usr/lib".to_vec());
        base.put(b"lib", Node { attributes: attributes(0o777), kind: link }).unwrap();
        let below = Snapshot::default().with(store.commit_virtual(base.finish()).unwrap());

        let mut upper = LayerBuilder::new(None);
        for path in [b"usr".as_slice(), b"lib", b"lib/deep"] {
            upper.put_directory(path, attributes(0o755)).unwrap();
        }
        let (content, _) = store.new_pack().put(b"").unwrap();
        for path in [b"usr/a".as_slice(), b"lib/b", b"lib/deep/c"] {
            upper.put_file(path, attributes(0o644), content.clone(), 0, None).unwrap();
        }
        let layer = store.commit_virtual(upper.finish()).unwrap();
        let implied = vec![b"lib".to_vec(), b"lib/deep".to_vec(), b"usr".to_vec()];
        let unpacked = UnpackedLayer { layer: layer.clone(), implied };
        let diff_id = Digest::of("layer");
        // An image layer has the blob that it came in.
        let blob = LayerBlob {
            diff_id,
            digest: store.put_blob(b"blob").unwrap(),
            size: 4,
            media_type: "type".into(),
            origin: String::new(),
        };
        store.save_layer_blob(layer.id(), "original", &blob).unwrap();
        let settled = settle(&store, &below, &unpacked, &diff_id).unwrap();
        assert_ne!(settled, layer);
        assert_eq!(settle(&store, &below, &unpacked, &diff_id).unwrap(), settled, "made once");

        let tree = store.tree(&below.with(settled)).unwrap();
        let mode = |path: &[u8]| tree.get(path).map(|found| found.attributes().mode);
        assert_eq!(mode(b"usr"), Some(0o750));
        assert_eq!(mode(b"usr/lib"), Some(0o711));
        assert_eq!(mode(b"usr/lib/deep"), Some(0o755));
        assert_eq!(mode(b"lib"), Some(0o777), "the symlink is still there");
        for path in [b"usr/a".as_slice(), b"usr/lib/b", b"usr/lib/deep/c"] {
            assert!(tree.get(path).is_some(), "{}", String::from_utf8_lossy(path));
        }

        let nothing = Snapshot::default();
        assert_eq!(settle(&store, &nothing, &unpacked, &diff_id).unwrap(), layer);
    }
}
