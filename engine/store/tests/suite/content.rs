//! Content digests: what counts, and what does not.

use std::fs;
use std::time::Duration;

use cofferdam_store::{LocalFile, Selection, Tree, hash_tree};
use cofferdam_types::Digest;

use crate::support::Place;

fn selection(path: &str, wildcard: bool, follow: bool) -> Selection {
    Selection { path: path.into(), wildcard, follow }
}

fn hash(tree: &Tree, path: &str) -> Digest {
    hash_tree(tree, &[selection(path, false, true)]).expect("readable files")
}

#[test]
fn what_counts() {
    let place = Place::new();
    let base = hash(&place.tree(&["d/f = text\n d/l -> f"]), "d");
    let cases = [
        (true, "mtime of a file", "d/f = text [@99]\n d/l -> f"),
        (true, "mtime of a directory", "d/ [@99]\n d/f = text\n d/l -> f"),
        (true, "what lies beside it", "d/f = text\n d/l -> f\n other = o"),
        (false, "contents", "d/f = texT\n d/l -> f"),
        (false, "size", "d/f = text2\n d/l -> f"),
        (false, "mode", "d/f = text [600]\n d/l -> f"),
        (false, "setuid", "d/f = text [4644]\n d/l -> f"),
        (false, "owner", "d/f = text [1:0]\n d/l -> f"),
        (false, "group", "d/f = text [0:1]\n d/l -> f"),
        (false, "attributes", "d/f = text [user.k=v]\n d/l -> f"),
        (false, "name", "d/g = text\n d/l -> f"),
        (false, "link", "d/f = text\n d/l -> g"),
        (false, "kind", "d/f = text\n d/l = f"),
        (false, "one more", "d/f = text\n d/l -> f\n d/x = "),
        (false, "one less", "d/f = text"),
        (false, "mode of the directory", "d/ [700]\n d/f = text\n d/l -> f"),
        (false, "device", "d/f = text\n d/l char 1:3"),
        (false, "nothing", "x = "),
    ];
    for (equal, title, text) in cases {
        assert_eq!(hash(&place.tree(&[text]), "d") == base, equal, "{title}");
    }
    let devices = ["d/x char 1:3", "d/x char 1:5", "d/x block 1:3", "d/x fifo"];
    let digests = devices.map(|text| hash(&place.tree(&[text]), "d"));
    let different: std::collections::HashSet<_> = digests.iter().collect();
    assert_eq!(different.len(), devices.len());
}

#[test]
fn layers_do_not_count() {
    let place = Place::new();
    let one = place.tree(&["d/a = a\n d/b = b"]);
    let many = place.tree(&["d/a = old\n d/gone = g", "d/gone whiteout\n d/b = b", "d/a = a"]);
    let opaque = place.tree(&["d/x = x", "d/!\n d/a = a\n d/b = b"]);
    assert_eq!(hash(&one, "d"), hash(&many, "d"));
    assert_eq!(hash(&one, "d"), hash(&opaque, "d"));
    assert_ne!(hash(&place.tree(&[]), "d"), hash(&place.tree(&["d/"]), "d"));
}

#[test]
fn where_it_lies_does_not_count() {
    let place = Place::new();
    let tree = place.tree(&["a/f = text\n b/g = text\n l -> a/f\n a/sub/f = text"]);
    for path in ["b/g", "l", "a/sub/f", "/a/../b/./g"] {
        assert_eq!(hash(&tree, "a/f"), hash(&tree, path), "{path}");
    }
    let link = hash_tree(&tree, &[selection("l", false, false)]).expect("readable files");
    assert_ne!(link, hash(&tree, "l"), "the link itself");
}

#[test]
fn names_that_a_pattern_found_count() {
    let place = Place::new();
    let hash = |text: &str, pattern: &str| {
        let tree = place.tree(&[text]);
        hash_tree(&tree, &[selection(pattern, true, true)]).expect("readable files")
    };
    let base = hash("d/a.c = text\n d/x.h = h", "d/*.c");
    assert_eq!(base, hash("d/a.c = text\n d/y.h = other", "d/*.c"), "what does not match");
    assert_eq!(base, hash("e/a.c = text", "e/*.c"), "where the directory lies");
    assert_eq!(base, hash("real/a.c = text\n d -> real", "d/*.c"), "through a link");
    assert_ne!(base, hash("d/b.c = text", "d/*.c"), "the name");
    assert_ne!(base, hash("d/a.c = text\n d/b.c = text", "d/*.c"), "one more");
    assert_ne!(base, hash("d/x = ", "d/*.c"), "no match");
    assert_eq!(hash("d/x = ", "d/*.c"), hash("other = ", "d/*.c"), "no match, no directory");
    assert_eq!(hash("d/x = ", "d/[*"), hash("d/[x = ", "d/[*"), "a malformed pattern");
    // Without a wildcard the name is just a name.
    let tree = place.tree(&["d/* = star\n d/x = x"]);
    let one = hash_tree(&tree, &[selection("d/*", false, true)]).expect("readable files");
    assert_eq!(
        one,
        hash_tree(&place.tree(&["f = star"]), &[selection("f", false, true)])
            .expect("readable files")
    );
}

#[test]
fn selections_count_in_order() {
    let place = Place::new();
    let tree = place.tree(&["a = a\n b = b"]);
    let hash = |paths: &[&str]| {
        let selections: Vec<_> = paths.iter().map(|path| selection(path, false, true)).collect();
        hash_tree(&tree, &selections).expect("readable files")
    };
    let different =
        [hash(&["a", "b"]), hash(&["b", "a"]), hash(&["a"]), hash(&["a", "a"]), hash(&[])];
    let set: std::collections::HashSet<_> = different.iter().collect();
    assert_eq!(set.len(), different.len());
}

/// Files that a step left have no digest yet: it is computed when asked for, and then known.
#[test]
fn files_on_disk_hash_like_those_in_packs() {
    let place = Place::new();
    let dir = place.store.new_layer_dir().expect("a directory");
    fs::write(dir.fs().join("f"), "text").expect("writable");
    let root = dir.scan().expect("readable");
    let attributes = root.get(b"f").expect("it is there").attributes.clone();
    let layer = place.store.commit_dir(dir, root).expect("a layer");
    let tree = place.store.tree(&cofferdam_store::Snapshot::default().with(layer.clone()));
    let tree = tree.expect("it is there");
    let digest = hash(&tree, "f");
    let other = place.tree(&[&format!("f = text [{:o}]", attributes.mode)]);
    assert_eq!(digest, hash(&other, "f"));
    let content = place.store.hash_layer(layer.id()).expect("readable");
    assert_eq!(place.store.layer_content(layer.id()).expect("a database"), Some(content));
    // Layers never change; that the digest is remembered shows only if one does.
    fs::write(place.store.layer_dir(layer.id()).expect("files").join("f"), "TEXT")
        .expect("writable");
    assert_eq!(digest, hash(&tree, "f"));
}

#[test]
fn edits_of_a_layer() {
    let place = Place::new();
    let hash = |text: &str| place.store.hash_edits(&place.manifest(text)).expect("readable");
    assert_eq!(hash("d/f = f [@1]"), hash("d/f = f [@2]"), "mtime");
    let texts = ["d/", "d/!", "d whiteout", "e/", "d/e/", "d/\n e/", "d = ", "d -> e", ""];
    let digests: std::collections::HashSet<_> = texts.iter().map(|text| hash(text)).collect();
    assert_eq!(digests.len(), texts.len());
}

#[test]
fn a_damaged_index_of_local_files_is_never_believed() {
    let place = Place::new();
    let context = tempfile::tempdir().expect("a directory");
    let wanted: Vec<_> = ["a", "b"]
        .map(|name| {
            let path = context.path().join(name);
            fs::write(&path, name.repeat(9)).expect("a file");
            // Long enough ago for the file to be known by its times.
            std::thread::sleep(Duration::from_millis(30));
            let metadata = path.metadata().expect("it is there");
            (name.as_bytes().into(), path, metadata)
        })
        .into();
    let _keep = place.store.keep();
    let look = || {
        let mut index = place.store.local_index(context.path()).expect("an index");
        let files = index.files(&wanted, &|_, _| {}).expect("readable files");
        (files, index)
    };
    let (found, index) = look();
    index.save().expect("it is written");
    assert_eq!(look().0, found, "they are known");
    let directory = place.store.root().join("local");
    let entry = fs::read_dir(&directory).expect("it is there").next().expect("one").expect("one");
    let (path, sound) = (entry.path(), fs::read(entry.path()).expect("an index"));
    let digests = |files: &[LocalFile]| files.iter().map(|file| file.digest).collect::<Vec<_>>();
    for at in 0..sound.len() {
        let mut damaged = sound.clone();
        damaged[at] ^= 0x40;
        fs::write(&path, &damaged).expect("it is there");
        let (files, _) = look();
        assert_eq!(digests(&files), digests(&found), "byte {at}");
        let again = files.iter().zip(&found).all(|(file, found)| file.content != found.content);
        assert!(again, "byte {at}: a damaged index was believed");
    }
}
