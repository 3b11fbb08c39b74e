//! Layers on disk: written out for the kernel to mount, and read back.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use cofferdam_store::{Attributes, Content, HeldLayer, LayerBuilder, LayerDir, NodeKind, Store};
use expect_test::expect;
use rustix::fs::{XattrFlags, lgetxattr, lsetxattr};

use crate::support::{Place, show_node};

/// Reads the files of a layer as if a step had left them.
fn scanned(store: &Store, layer: &HeldLayer) -> String {
    let dir = store.new_layer_dir().expect("a directory");
    fs::remove_dir(dir.fs()).expect("it is empty");
    fs::rename(store.layer_dir(layer.id()).expect("the files"), dir.fs()).expect("it moves");
    let root = dir.scan().expect("a readable directory");
    let layer = store.commit_dir(dir, root).expect("a layer");
    show_node(store, &store.layer(layer.id()).expect("it is there").root)
}

const EVERYTHING: &str = "/ [711 1:2 @9]
    d/ [2775 3:4 @1000000000123456789 user.k=v]
    d/setuid = s [4755 #1 5:6 @1]
    d/link = s [4755 #1 5:6 @1]
    empty = 
    attributes = a [600 0:0 @2 security.x=1 user.a=x user.b=]
    long-ago = l [@-1500000000]
    l -> ../../etc/passwd [7:8 @3]
    null char 1:3 [666]
    sda block 8:0 [660 0:6]
    pipe fifo [622]
    gone whiteout
    o/!
    o/f = f
    o/sub whiteout";

#[test]
fn what_is_written_is_what_is_read() {
    let place = Place::new();
    let layer = place.store.commit_virtual(place.manifest(EVERYTHING)).expect("a layer");
    let manifest =
        show_node(&place.store, &place.store.layer(layer.id()).expect("it is there").root);
    let fs = place.store.layer_dir(layer.id()).expect("the files");
    assert_eq!(fs, place.store.layer_dir(layer.id()).expect("the files"), "once is enough");
    let gone = fs.join("gone").symlink_metadata().expect("the whiteout");
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    let mut value = [0; 8];
    let length = lgetxattr(fs.join("o"), "trusted.overlay.opaque", &mut value).expect("opaque");
    assert_eq!(&value[..length], b"y");
    assert_eq!(ino(&fs.join("d/setuid")), ino(&fs.join("d/link")));
    assert_eq!(scanned(&place.store, &layer), manifest);
    expect![[r#"
        / [711 1:2 @9]
        attributes = a [600 @2 security.x=1 user.a=x user.b=]
        d/ [2775 3:4 @1000000000123456789 user.k=v]
        d/link = s [4755 #1 5:6 @1]
        d/setuid = s [4755 #1 5:6 @1]
        empty = 
        gone whiteout
        l -> ../../etc/passwd [7:8 @3]
        long-ago = l [@-1500000000]
        null char 1:3 [666]
        o/!
        o/f = f
        o/sub whiteout
        pipe fifo [622]
        sda block 8:0 [660 0:6]
    "#]]
    .assert_eq(&manifest);
}

fn ino(path: &Path) -> u64 {
    path.symlink_metadata().expect("it is there").ino()
}

/// A layer as a step leaves it.
fn on_disk(store: &Store, fill: impl FnOnce(&LayerDir)) -> HeldLayer {
    let dir = store.new_layer_dir().expect("a directory");
    fill(&dir);
    let root = dir.scan().expect("a readable directory");
    store.commit_dir(dir, root).expect("a layer")
}

#[test]
fn contents_of_other_layers_are_linked_if_all_attributes_are_equal() {
    let Place { store, dir: _dir } = Place::new();
    let source = on_disk(&store, |dir| {
        fs::write(dir.fs().join("f"), "contents").expect("writable");
        lsetxattr(dir.fs().join("f"), "user.k", b"v", XattrFlags::empty()).expect("attributes");
    });
    let source_root = store.layer(source.id()).expect("it is there");
    let node = source_root.root.get(b"f").expect("it was scanned").clone();
    let NodeKind::Regular(regular) = &node.kind else { panic!("a regular file") };
    let same = &node.attributes;
    let with = |change: fn(&mut Attributes)| {
        let mut attributes = same.clone();
        change(&mut attributes);
        attributes
    };
    let original = store.layer_dir(source.id()).expect("the files").join("f");
    for (title, attributes, linked) in [
        ("mode", with(|a| a.mode = 0o4711), false),
        ("owner", with(|a| a.uid = 7), false),
        ("group", with(|a| a.gid = 7), false),
        ("nanosecond", with(|a| a.mtime += 1), false),
        ("attribute value", with(|a| a.xattrs[0].1 = b"w".to_vec()), false),
        ("attribute name", with(|a| a.xattrs[0].0 = "user.l".to_owned()), false),
        ("fewer attributes", with(|a| a.xattrs.clear()), false),
        ("more attributes", with(|a| a.xattrs.push(("user.l".to_owned(), vec![]))), false),
        ("nothing", same.clone(), true),
    ] {
        let mut builder = LayerBuilder::new(None);
        let content = regular.content.clone();
        builder.put_file(b"x", attributes, content.clone(), regular.size, None).expect("an edit");
        builder.put_file(b"y", same.clone(), content, regular.size, None).expect("an edit");
        let layer = store.commit_virtual(builder.finish()).expect("a layer");
        let fs = store.layer_dir(layer.id()).expect("the files");
        assert_eq!(fs::read(fs.join("x")).expect("readable"), b"contents", "{title}");
        assert_eq!(ino(&fs.join("x")) == ino(&original), linked, "{title}");
        // Copies of one file must not become one file.
        assert_ne!(ino(&fs.join("x")), ino(&fs.join("y")), "{title}");
        // The next round starts with an original that nobody shares.
        fs::remove_dir_all(fs).expect("removable");
        assert_eq!(original.symlink_metadata().expect("it is there").nlink(), 1, "{title}");
    }
}

#[test]
fn a_step_left_files() {
    let Place { store, dir: _dir } = Place::new();
    let layer = on_disk(&store, |dir| {
        let fs = dir.fs();
        fs::create_dir(fs.join("d")).expect("writable");
        fs::write(fs.join("d/a"), "a").expect("writable");
        fs::hard_link(fs.join("d/a"), fs.join("b")).expect("writable");
        fs::write(fs.join("c"), "c").expect("writable");
        std::os::unix::fs::symlink("d", fs.join("l")).expect("writable");
        for name in ["trusted.overlay.opaque", "trusted.overlay.impure", "user.k"] {
            lsetxattr(fs.join("d"), name, b"y", XattrFlags::empty()).expect("attributes");
        }
        fs::write(dir.work().join("left over"), "").expect("writable");
    });
    let mut shown = Vec::new();
    for line in show_node(&store, &store.layer(layer.id()).expect("it is there").root).lines() {
        let parts = line.split(' ').map(|part| part.trim_matches(['[', ']']));
        shown.push(parts.filter(|part| !part.contains('@')).collect::<Vec<_>>().join(" "));
    }
    expect![[r#"
        /
        b = a #1
        c = c
        d/! user.k=y
        d/a = a #1
        l -> d"#]]
    .assert_eq(&shown.join("\n"));
    let place = store.layer_dir(layer.id()).expect("the files");
    let beside: Vec<_> = fs::read_dir(place.parent().expect("the layer's directory"))
        .expect("readable")
        .map(|entry| entry.expect("readable").file_name())
        .collect();
    assert!(beside.len() == 2 && !beside.contains(&"work".into()), "{beside:?}");
}

#[test]
fn a_dropped_layer_leaves_nothing() {
    let Place { store, dir: _dir } = Place::new();
    let count = |path: &Path| fs::read_dir(path).expect("readable").count();
    let before = count(store.tmp_dir());
    let dir = store.new_layer_dir().expect("a directory");
    fs::write(dir.fs().join("f"), "f").expect("writable");
    assert_eq!(count(store.tmp_dir()), before + 1);
    drop(dir);
    assert_eq!(count(store.tmp_dir()), before);
    assert_eq!(count(&store.root().join("layers")), 0);
}

#[test]
fn contents_that_are_not_there() {
    let place = Place::new();
    let mut root = place.manifest("f = f");
    let NodeKind::Regular(regular) = &mut root
        .as_directory_mut()
        .expect("a directory")
        .children
        .values_mut()
        .next()
        .expect("f")
        .kind
    else {
        panic!("a regular file")
    };
    regular.content = Content::nowhere();
    let error = place.store.commit_virtual(root).expect_err("there is no such pack");
    assert_eq!(error.to_string(), "pack -1 is not in the store");
    assert_eq!(fs::read_dir(place.dir.path().join("layers")).expect("readable").count(), 0);
    // What was half written is gone.
    assert_eq!(fs::read_dir(place.store.tmp_dir()).expect("readable").count(), 1, "only the lock");
}

#[test]
fn a_directory_made_ahead_is_the_next_steps() {
    let place = Place::new();
    let made = || {
        let tmp = fs::read_dir(place.store.tmp_dir()).expect("it is there").flatten();
        tmp.filter(|entry| entry.path().join("work").is_dir()).count()
    };
    for _ in 0..2 {
        place.store.prepare_step_dir().expect("a directory");
        assert_eq!(made(), 1, "one is enough");
    }
    let first = place.store.new_step_dir().expect("a directory");
    assert_eq!(made(), 1, "it was there");
    let second = place.store.new_step_dir().expect("a directory");
    assert_ne!(first.fs(), second.fs());
    for dir in [&first, &second] {
        let mode = fs::metadata(dir.fs()).expect("it is there").mode();
        assert_eq!(
            (mode & 0o7777, fs::read_dir(dir.work()).expect("readable").count()),
            (0o755, 0)
        );
    }
}
