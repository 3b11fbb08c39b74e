//! What survives a restart, and what does not.

use std::fs;
use std::time::Duration;

use cofferdam_store::{
    About, HeldLayer, ImageRecord, LayerBlob, Record, Remembered, Snapshot, Store, UnpackedLayer,
};
use cofferdam_types::Digest;

use crate::support::{Place, show_tree};

fn digest(name: &str) -> Digest {
    Digest::of(name)
}

fn record(identity: &str, data: &str) -> Record {
    let about = About { kind: "regular".into(), name: "RUN x".into(), ..About::default() };
    let identity = digest(identity);
    Record { identity, snapshot: Snapshot::default(), about, data: data.to_owned() }
}

fn unpacked(layer: HeldLayer) -> UnpackedLayer {
    UnpackedLayer { layer, implied: vec![b"usr".to_vec()] }
}

#[test]
fn records() {
    let Place { store, dir: _dir } = Place::new();
    let value = |key: &str| store.record(&digest(key)).expect("a database").map(|r| r.data);
    let save = |keys: &[&str], record: &Record| {
        let keys: Vec<_> = keys.iter().map(|key| digest(key)).collect();
        store.save_record(&keys, record).expect("a database");
    };
    assert_eq!(value("key1"), None);
    save(&["key1", "key2"], &record("a", "first"));
    assert_eq!(store.record(&digest("key2")).expect("a database"), Some(record("a", "first")));
    assert_eq!(
        store.record_by_identity(&digest("a")).expect("a database"),
        Some(record("a", "first"))
    );
    // The same identity is replaced, whatever key it comes with.
    save(&["key3"], &record("a", "second"));
    assert_eq!(
        ["key1", "key2", "key3"].map(value),
        [const { Some("second") }; 3].map(|v| v.map(str::to_owned))
    );
    // A key can come to mean something else.
    save(&["key2"], &record("b", "other"));
    assert_eq!(value("key1").as_deref(), Some("second"));
    assert_eq!(value("key2").as_deref(), Some("other"));
    store.remove_record(&digest("a")).expect("a database");
    assert_eq!((value("key1"), value("key3")), (None, None));
    assert_eq!(value("key2").as_deref(), Some("other"));
    assert_eq!(store.record_by_identity(&digest("a")).expect("a database"), None);
    store.remove_record(&digest("never there")).expect("a database");
    save(&["key1"], &record("a", "again"));
    assert_eq!((value("key1").as_deref(), value("key3")), (Some("again"), Some("again".into())));
}

#[test]
fn reopening_keeps_everything_committed() {
    let place = Place::new();
    let lower = place.manifest("d/f = contents [4755 1:2 @7 user.k=v]\n l -> d");
    let held = place.store.commit_virtual(lower).expect("a layer");
    let upper = place.store.commit_virtual(place.manifest("d/g = g")).expect("a layer");
    let chain = Snapshot::default().with(held.clone()).with(upper);
    let shown = show_tree(&place.store.tree(&chain).expect("it is there"));
    let (layer, ids) = (held.id(), chain.layers().collect::<Vec<_>>());
    let with_layers = Record { snapshot: chain, ..record("a", "value") };
    let blob = place.store.put_blob(b"blob").expect("writable");
    let layer_blob = LayerBlob {
        diff_id: digest("diff"),
        digest: blob,
        size: u64::MAX / 2,
        media_type: "type".to_owned(),
        origin: "registry/repository".to_owned(),
    };
    let image =
        ImageRecord { digest: blob, media_type: "type".to_owned(), size: 4, blobs: vec![blob] };
    let dir = {
        let Place { store, dir } = place;
        store.save_record(&[digest("key")], &with_layers).expect("a database");
        store.save_layer_blob(layer, "original", &layer_blob).expect("a database");
        store.save_unpacked_layer(&digest("diff"), &unpacked(held.clone())).expect("a database");
        store.save_image("name", &image).expect("a database");
        dir
    };
    let store = Store::open(dir.path()).expect("a state directory");
    let chain = store.snapshot(&ids).expect("a database").expect("it is there");
    assert_eq!(show_tree(&store.tree(&chain).expect("it is there")), shown);
    assert_eq!(store.record(&digest("key")).expect("a database"), Some(with_layers));
    let known = store.unpacked_layer(&digest("diff")).expect("a database");
    assert_eq!(known, Some(unpacked(held)));
    assert_eq!(store.layer_blob(layer, "original").expect("a database"), Some(layer_blob));
    assert_eq!(store.layer_blob(layer, "zstd").expect("a database"), None);
    assert_eq!(store.image("name").expect("a database"), Some(image));
    assert_eq!(store.read_blob(&blob).expect("readable").as_deref(), Some(&b"blob"[..]));
    let next = store.commit_virtual(store.layer(layer).expect("it is there").root.clone());
    assert!(!ids.contains(&next.expect("a layer").id()), "ids are never used twice");
}

#[test]
fn what_is_remembered_of_results() {
    let place = Place::new();
    let (store, took) = (&place.store, Some(Duration::new(1, 500_000_007)));
    let mut known = record("a", "");
    known.about = About { name: "[1/2] RUN a".into(), took, ..known.about };
    store.save_record(&[digest("key1"), digest("alias")], &known).expect("a database");
    store.save_record(&[digest("key2")], &record("b", "")).expect("a database");
    let keys = ["alias", "never seen", "key2"].map(digest);
    assert_eq!(store.took(&keys).expect("a database"), [took, None, None]);

    let names = |similar: Vec<Remembered>| {
        similar.into_iter().map(|known| (known.about.name, known.identity)).collect::<Vec<_>>()
    };
    let first = ("[1/2] RUN a".to_owned(), digest("a"));
    let by_name = names(store.similar("[1/2] RUN a", 9).expect("a database"));
    assert_eq!(by_name, [first]);
    assert_eq!(names(store.similar_start("[1/2] ", 9).expect("a database")), by_name);
    assert_eq!(names(store.similar_start("[2/2] ", 9).expect("a database")), []);
    // What was used last comes first, and a look is no use.
    let latest = || names(store.similar_start("", 9).expect("a database")).remove(0).1;
    let _ = store.record(&digest("key1")).expect("a database");
    assert_eq!(latest(), digest("a"));
    assert!(store.peek(&digest("b")).expect("a database").is_some());
    assert_eq!(latest(), digest("a"));
    assert_eq!(store.peek(&digest("never there")).expect("a database"), None);
}

#[test]
fn records_of_what_is_gone() {
    let place = Place::new();
    let (store, chain) = (&place.store, place.chain(&["f = f"]));
    let layer = chain.top().expect("one layer");
    let blob = store.put_blob(b"blob").expect("writable");
    let layer_blob = LayerBlob {
        diff_id: digest("diff"),
        digest: blob,
        size: 4,
        media_type: String::new(),
        origin: String::new(),
    };
    store.save_layer_blob(layer, "gzip", &layer_blob).expect("a database");
    fs::remove_file(store.blob_path(&blob)).expect("removable");
    assert_eq!(store.layer_blob(layer, "gzip").expect("a database"), None);
    let stored = Record { snapshot: chain, ..record("a", "value") };
    store.save_record(&[digest("key")], &stored).expect("a database");
    drop(stored);
    let Place { store, dir } = place;
    drop(store);
    fs::remove_dir_all(dir.path().join("layers").join(layer.to_string())).expect("removable");
    let store = Store::open(dir.path()).expect("a state directory");
    assert_eq!(store.record(&digest("key")).expect("a database"), None);
    assert_eq!(store.snapshot(&[layer]).expect("a database"), None);
    let error = store.layer(layer).expect_err("the layer is gone");
    assert_eq!(error.to_string(), format!("layer {layer} is not in the store"));
    let remembered = store.remembered(&digest("key")).expect("a database").expect("a note");
    assert!(remembered.evicted.is_some());
}

#[test]
fn what_a_killed_process_left_is_removed_by_the_next_one() {
    let place = Place::new();
    let tmp = place.dir.path().join("tmp");
    // A killed process leaves its lock file; nobody holds the lock.
    let left = tmp.join("session-1");
    fs::create_dir_all(left.join("layer-1-x/fs")).expect("writable");
    fs::write(left.join("lock"), "").expect("writable");
    let second = Store::open(place.dir.path()).expect("a state directory");
    assert_eq!(second.tmp_dir(), left, "the directory is taken over");
    assert_ne!(place.store.tmp_dir(), left, "one that is in use is not");
    // The janitor works in the background.
    for _ in 0..1000 {
        if !left.join("layer-1-x").exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("it is still there");
}

#[test]
fn blobs() {
    let Place { store, dir: _dir } = Place::new();
    let mut writer = store.new_blob().expect("writable");
    std::io::Write::write_all(&mut writer, b"some").expect("writable");
    let error = writer.commit(Some(&digest("other"))).expect_err("it is another");
    assert_eq!(
        error.to_string(),
        format!("wrong contents: expected {}, got {}", digest("other"), digest("some"))
    );
    assert!(!store.has_blob(&digest("some")).expect("a database"));
    assert_eq!(fs::read_dir(store.tmp_dir()).expect("readable").count(), 1, "only the lock");
    let mut writer = store.new_blob().expect("writable");
    std::io::Write::write_all(&mut writer, b"some").expect("writable");
    assert_eq!(writer.commit(None).expect("writable"), (digest("some"), 4));
    assert_eq!(store.put_blob(b"some").expect("writable"), digest("some"));
    assert_eq!(store.read_blob(&digest("some")).expect("readable").as_deref(), Some(&b"some"[..]));
}

#[test]
fn a_newer_state_directory_is_refused() {
    let Place { store, dir } = Place::new();
    drop(store);
    let path = dir.path().join("state.db");
    let db = rusqlite::Connection::open(path).expect("a database");
    db.pragma_update(None, "user_version", 99).expect("writable");
    let error = Store::open(dir.path()).expect_err("it is refused").to_string();
    assert!(error.contains("has format 99, this version of cofferdam reads format"), "{error}");
}
