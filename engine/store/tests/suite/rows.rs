//! Rows of the database in which a byte is another one: none is believed.

use std::fs;
use std::path::Path;

use cofferdam_store::{
    About, Error, LayerBlob, LayerId, Record, Result, Snapshot, Store, UnpackedLayer,
};
use cofferdam_types::Digest;

use crate::support::Place;

/// What ends up in images of what a store tells, of each of two things.
fn told(store: &Store, layers: [LayerId; 2]) -> Result<Vec<Option<String>>> {
    fn show<T: std::fmt::Debug>(told: Result<Option<T>>) -> Result<Option<String>> {
        Ok(told?.map(|told| format!("{told:?}")))
    }
    let mut all = Vec::new();
    for (number, layer) in layers.into_iter().enumerate() {
        let name = |kind: &str| Digest::of(format!("{kind} {number}"));
        let what = |record: Record| (record.identity, record.snapshot, record.data);
        all.push(show(store.record(&name("key")).map(|record| record.map(what)))?);
        all.push(show(store.record_by_identity(&name("identity")).map(|record| record.map(what)))?);
        all.push(show(store.unpacked_layer(&name("diff")))?);
        all.push(show(store.layer_blob(layer, "original"))?);
        all.push(show(store.layer_content(layer))?);
    }
    Ok(all)
}

/// A state directory that tells something of two layers.
fn telling() -> (tempfile::TempDir, [LayerId; 2]) {
    let place = Place::new();
    let store = &place.store;
    let mut chain = Snapshot::default();
    let layers = [0, 1].map(|number| {
        let held = store.commit_virtual(place.manifest("f = f")).expect("a layer");
        chain = chain.with(held.clone());
        let name = |kind: &str| Digest::of(format!("{kind} {number}"));
        let record = Record {
            identity: name("identity"),
            snapshot: chain.clone(),
            about: About::default(),
            data: format!("data {number}"),
        };
        store.save_record(&[name("key")], &record).expect("a database");
        let blob = LayerBlob {
            diff_id: name("diff"),
            digest: store.put_blob(format!("blob {number}").as_bytes()).expect("writable"),
            size: 6,
            media_type: "type".into(),
            origin: "registry/repository".into(),
        };
        store.save_layer_blob(held.id(), "original", &blob).expect("a database");
        let unpacked = UnpackedLayer { layer: held.clone(), implied: vec![b"usr".to_vec()] };
        store.save_unpacked_layer(&name("diff"), &unpacked).expect("a database");
        store.save_layer_content(held.id(), &name("content")).expect("a database");
        held.id()
    });
    (place.dir, layers)
}

/// Puts a state directory in the place of another.
fn copy(from: &Path, to: &Path) {
    _ = fs::remove_dir_all(to);
    let status = std::process::Command::new("cp").arg("-a").args([from, to]).status();
    assert!(status.is_ok_and(|status| status.success()), "cp works");
}

/// How many layers and blobs there are.
fn count(root: &Path) -> usize {
    let entries = |name: &str| fs::read_dir(root.join(name)).map_or(0, Iterator::count);
    entries("layers") + entries("blobs/sha256")
}

#[test]
fn a_damaged_row_is_never_believed() {
    let (pristine, layers) = telling();
    let place = tempfile::tempdir().expect("a directory");
    let root = place.path().join("state");
    copy(pristine.path(), &root);
    let sound = told(&Store::open(&root).expect("it is sound"), layers).expect("it is sound");
    assert!(sound.iter().all(Option::is_some), "{sound:?}");
    let database = fs::read(pristine.path().join("state.db")).expect("it is there");
    let mut noticed = 0;
    copy(pristine.path(), &root);
    // Behind the first page, that of the schema; not each byte, for opening takes milliseconds.
    for at in (4096..database.len()).filter(|at| database[*at] != 0).step_by(5) {
        let mut damaged = database.clone();
        damaged[at] ^= 1;
        fs::write(root.join("state.db"), &damaged).expect("writable");
        match Store::open(&root).and_then(|store| told(&store, layers)) {
            Ok(now) if now == sound => {}
            Ok(now) => {
                noticed += 1;
                for (now, sound) in now.iter().zip(&sound) {
                    assert!(now.is_none() || now == sound, "byte {at}: {now:?}, not {sound:?}");
                }
            }
            Err(Error::Database(_) | Error::Damaged { .. } | Error::NoLayer(_)) => noticed += 1,
            Err(error) => panic!("byte {at}: {error}"),
        }
        for log in ["state.db-wal", "state.db-shm"] {
            _ = fs::remove_file(root.join(log));
        }
        if count(&root) != count(pristine.path()) {
            copy(pristine.path(), &root);
        }
    }
    assert!(noticed > 50, "only {noticed} damaged bytes were noticed");
}
