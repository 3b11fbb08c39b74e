//! Named directories: who gets which, what a new one has in it, and when one goes.

use std::os::unix::fs::MetadataExt;

use cofferdam_store::{DirRequest, Filter, NamedDir, Prune, Sharing, Store};
use cofferdam_types::Digest;

use crate::support::Place;

fn request(name: &str, sharing: Sharing) -> DirRequest {
    DirRequest {
        name: Digest::of(name),
        kind: "exec.cachemount".into(),
        description: format!("cache {name}"),
        sharing,
        start: None,
    }
}

fn take(store: &Store, sharing: Sharing) -> Option<NamedDir> {
    store.try_named_dir(&request("a", sharing)).expect("a directory or none")
}

/// Which of the directories a use got: what was written there by the one who made it.
fn mark(dir: &NamedDir) -> String {
    std::fs::read_to_string(dir.fs().join("mark")).unwrap_or_default()
}

fn set_mark(dir: &NamedDir, text: &str) {
    std::fs::write(dir.fs().join("mark"), text).expect("the directory can be written to");
}

#[test]
fn who_gets_which() {
    let place = Place::new();
    // Another process: a store of its own over the same directory.
    let other = Store::open(place.dir.path()).expect("two processes may use it");
    let first = take(&place.store, Sharing::Shared).expect("a new one");
    set_mark(&first, "1");
    let second = take(&other, Sharing::Shared).expect("the same");
    assert_eq!(mark(&second), "1");
    assert!(take(&other, Sharing::Locked).is_none(), "others have it");
    let own = take(&other, Sharing::Private).expect("another");
    assert_eq!(mark(&own), "");
    set_mark(&own, "2");
    drop(first);
    assert!(take(&place.store, Sharing::Locked).is_none(), "one still has it");
    drop(second);
    let locked = take(&place.store, Sharing::Locked).expect("nobody has it");
    assert_eq!(mark(&locked), "1");
    assert!(take(&other, Sharing::Locked).is_none());
    drop(own);
    assert_eq!(mark(&take(&place.store, Sharing::Private).expect("the other one")), "2");
    drop(locked);
    assert_eq!(mark(&take(&other, Sharing::Locked).expect("it was given back")), "1");
}

#[test]
fn a_process_that_is_gone_has_none() {
    let place = Place::new();
    let other = Store::open(place.dir.path()).expect("two processes may use it");
    let held = take(&other, Sharing::Locked).expect("a new one");
    assert!(take(&place.store, Sharing::Locked).is_none());
    // As a kill would: the lock on its scratch directory goes, its row stays.
    std::mem::forget(held);
    let lock = place.dir.path().join("tmp/session-1/lock");
    std::fs::remove_file(lock).expect("the second process has this directory");
    assert!(take(&place.store, Sharing::Locked).is_some());
}

#[test]
fn a_new_one_starts_with_a_copy() {
    let place = Place::new();
    let start = place.chain(&["d/ [711 5:6]\nd/f = text [600 7:8]", "l -> d/f"]);
    let tree = place.store.tree(&start).expect("the layers are there");
    let root = tree.root().expect("a directory").flatten();
    let request = DirRequest { start: Some(root), ..request("a", Sharing::Shared) };
    let dir = place.store.try_named_dir(&request).expect("it is made").expect("it is free");
    std::fs::write(dir.fs().join("d/f"), "changed").expect("it can be written to");
    assert_eq!(tree.read(b"d/f", 100).expect("a file"), b"text");
    let found = std::fs::metadata(dir.fs().join("d/f")).expect("a file");
    assert_eq!((found.mode() & 0o7777, found.uid(), found.gid()), (0o600, 7, 8));
    assert_eq!(
        std::fs::read_link(dir.fs().join("l")).expect("a link"),
        std::path::Path::new("d/f")
    );
    drop(dir);
    // It is there already: what it would start with makes no difference.
    let dir = take(&place.store, Sharing::Shared).expect("the same");
    assert_eq!(std::fs::read(dir.fs().join("d/f")).expect("a file"), b"changed");
}

#[test]
fn forgetting_a_name() {
    let place = Place::new();
    let used = take(&place.store, Sharing::Shared).expect("a new one");
    set_mark(&used, "old");
    place.store.forget_named_dirs(&Digest::of("a")).expect("the database works");
    let new = take(&place.store, Sharing::Shared).expect("a new one");
    assert_eq!((mark(&used).as_str(), mark(&new).as_str()), ("old", ""));
    let path = used.fs();
    drop(used);
    assert!(!path.exists(), "nobody can find it any more");
    let path = new.fs();
    drop(new);
    assert!(path.exists());
    place.store.forget_named_dirs(&Digest::of("a")).expect("the database works");
    assert!(!path.exists());
}

#[test]
fn it_is_listed_pruned_and_makes_way() {
    let place = Place::new();
    let dir = take(&place.store, Sharing::Shared).expect("a new one");
    std::fs::write(dir.fs().join("big"), vec![1; 1 << 20]).expect("it can be written to");
    let filters = || vec!["type==exec.cachemount".parse::<Filter>().expect("a filter")];
    let prune = || Prune { filters: filters(), ..Prune::default() };
    assert_eq!(place.store.prune(&prune()).expect("it works").removed, []);
    drop(dir);
    let usages = place.store.usages().expect("it works");
    let usage = usages.iter().find(|usage| usage.kind == "exec.cachemount").expect("it is there");
    assert!(usage.bytes > 1 << 20 && usage.description == "cache a" && !usage.in_use());
    assert_eq!(place.store.usage().expect("it works"), usage.bytes);
    assert_eq!(place.store.prune(&prune()).expect("it works").removed.len(), 1);
    assert_eq!(place.store.usage().expect("it works"), 0);

    let small = Store::open_with_limit(place.dir.path(), Some(16 << 20)).expect("it opens");
    let dir = take(&small, Sharing::Shared).expect("a new one");
    let (path, watch) = (dir.fs(), dir.watch());
    std::fs::write(path.join("big"), vec![1; 6 << 20]).expect("it can be written to");
    watch.check().expect("there is room");
    std::fs::write(path.join("bigger"), vec![1; 20 << 20]).expect("it can be written to");
    watch.check().expect_err("there is no room for that");
    std::fs::remove_file(path.join("bigger")).expect("it is there");
    drop((watch, dir));
    small.reservation().grow_to(13 << 20).expect("the directory makes way");
    assert!(!path.exists());
}

#[test]
fn verify_knows_them() {
    let place = Place::new();
    let path = take(&place.store, Sharing::Shared).expect("a new one").fs();
    let verify = |repair| place.store.verify(repair).expect("it works").problems;
    assert_eq!(verify(cofferdam_store::Repair::Report), []);
    std::fs::remove_dir(path).expect("it is empty");
    assert_eq!(verify(cofferdam_store::Repair::Drop).len(), 1);
    assert_eq!(verify(cofferdam_store::Repair::Drop), []);
    // And without having verified, a new one is made.
    let path = take(&place.store, Sharing::Shared).expect("a new one").fs();
    std::fs::remove_dir(path).expect("it is empty");
    assert!(take(&place.store, Sharing::Locked).is_some());
}
