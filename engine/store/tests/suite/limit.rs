//! The storage limit: what makes way, what stays, and that the books are right.

use std::fs;
use std::path::Path;

use cofferdam_store::{About, HeldLayer, Record, Snapshot, Store, disk_usage};
use cofferdam_types::Digest;

const MIB: usize = 1 << 20;

/// A layer with a directory of its own that has one file of this size.
fn layer(store: &Store, size: usize) -> cofferdam_store::Result<HeldLayer> {
    let dir = store.new_layer_dir()?;
    dir.reserve(size as u64)?;
    fs::write(dir.fs().join("f"), vec![7; size]).expect("writable");
    let root = dir.scan()?;
    store.commit_dir(dir, root)
}

fn save(store: &Store, name: &str, snapshot: &Snapshot) {
    let about = About { name: name.into(), ..About::default() };
    let identity = Digest::of(name);
    let record = Record { identity, snapshot: snapshot.clone(), about, data: String::new() };
    store.save_record(&[Digest::of(format!("key {name}"))], &record).expect("a database");
}

fn is_there(store: &Store, name: &str) -> bool {
    store.record(&Digest::of(format!("key {name}"))).expect("a database").is_some()
}

/// What layers, packs and blobs take, by looking at them.
fn really(root: &Path) -> u64 {
    ["layers", "packs", "blobs/sha256"].map(|name| disk_usage(&root.join(name))).iter().sum::<u64>()
}

/// What the directory for them takes itself.
fn frame(root: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    ["layers", "packs", "blobs/sha256"]
        .map(|name| fs::metadata(root.join(name)).expect("it is there").blocks() * 512)
        .iter()
        .sum()
}

#[test]
fn the_least_recently_used_goes_first_and_children_before_parents() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open_with_limit(dir.path(), Some(40 * MIB as u64)).expect("a store");
    let base = Snapshot::default().with(layer(&store, 8 * MIB).expect("room"));
    save(&store, "base", &base);
    for name in ["one", "two"] {
        save(&store, name, &base.with(layer(&store, 8 * MIB).expect("room")));
    }
    assert!(is_there(&store, "one"), "and is the latest used now");
    drop(base);
    for number in 0..2 {
        let next = Snapshot::default().with(layer(&store, 8 * MIB).expect("two makes way"));
        save(&store, &format!("new {number}"), &next);
        assert!(really(dir.path()) - frame(dir.path()) <= 40 * MIB as u64);
    }
    let there = ["base", "one", "two", "new 0", "new 1"].map(|name| is_there(&store, name));
    assert_eq!(there, [true, true, false, true, true]);
    let note = store.remembered(&Digest::of("key two")).expect("a database").expect("a note");
    assert!(note.evicted.is_some() && note.about.name == "two");
    assert_eq!(store.usage().expect("a database"), really(dir.path()) - frame(dir.path()));
}

#[test]
fn a_layer_that_was_never_recorded_goes_before_all_else() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open_with_limit(dir.path(), Some(24 * MIB as u64)).expect("a store");
    save(&store, "idle", &Snapshot::default().with(layer(&store, 5 * MIB).expect("room")));
    // A disk that is full between a layer and its record leaves this.
    let unrecorded = layer(&store, 10 * MIB).expect("room");
    drop(unrecorded);
    layer(&store, 10 * MIB).expect("what nothing refers to makes way");
    assert!(is_there(&store, "idle"));
    assert_eq!(store.usage().expect("a database"), really(dir.path()) - frame(dir.path()));
}

#[test]
fn what_is_in_use_stays_also_for_other_processes() {
    let dir = tempfile::tempdir().expect("a directory");
    let ours = Store::open_with_limit(dir.path(), Some(24 * MIB as u64)).expect("a store");
    // As far as the store knows, this is another process.
    let theirs = Store::open_with_limit(dir.path(), Some(24 * MIB as u64)).expect("a store");
    let used = Snapshot::default().with(layer(&theirs, 10 * MIB).expect("room"));
    save(&theirs, "used", &used);
    save(&ours, "idle", &Snapshot::default().with(layer(&ours, 5 * MIB).expect("room")));
    let next = layer(&ours, 10 * MIB).expect("the idle one makes way");
    assert!(is_there(&ours, "used") && !is_there(&ours, "idle"));
    drop(theirs);
    drop(used);
    // A process that is gone holds nothing. What we asked for just now is ours, though.
    drop(layer(&ours, 10 * MIB).expect("the used one makes way now"));
    assert!(!is_there(&ours, "used"));
    drop(next);
}

#[test]
fn more_than_the_limit_is_refused_with_numbers() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open_with_limit(dir.path(), Some(8 * MIB as u64)).expect("a store");
    let error = layer(&store, 9 * MIB).expect_err("it is too large");
    let text = error.to_string();
    assert!(text.starts_with("the storage limit of 8.0 MiB is reached: "), "{text}");
    assert!(text.contains("9.0 MiB more are needed"), "{text}");
    layer(&store, MIB).expect("what fits is still fine");
}

#[test]
fn blobs_and_packs_are_counted_and_make_way() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open_with_limit(dir.path(), Some(24 * MIB as u64)).expect("a store");
    let kept = {
        let _keep = store.keep();
        let first = store.put_blob(&vec![1; 6 * MIB]).expect("room");
        store.new_pack().put(&vec![2; 6 * MIB]).expect("room");
        assert_eq!(store.usage().expect("a database"), really(dir.path()) - frame(dir.path()));
        // Both are in use; there is no room for as much again.
        assert!(store.put_blob(&vec![3; 16 * MIB]).is_err());
        first
    };
    let second = store.put_blob(&vec![3; 16 * MIB]).expect("they make way");
    assert!(store.has_blob(&second).expect("a database"));
    assert!(!store.has_blob(&kept).expect("a database"));
    assert_eq!(store.usage().expect("a database"), really(dir.path()) - frame(dir.path()));
}
