//! Compiled code is kept, found again, and not trusted when it was changed.

use std::path::PathBuf;
use std::time::SystemTime;

use crate::common::guest;
use cofferdam_component::{Limits, Runtime};

struct Cache {
    directory: tempfile::TempDir,
    component: Vec<u8>,
}

impl Cache {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), component: guest("attack-trap") }
    }

    /// Loads the component as a new process would, and returns the file that was written or read.
    fn load(&self) -> PathBuf {
        let runtime = Runtime::new(Some(self.directory.path().into()), Limits::default()).unwrap();
        runtime.load("trap", &self.component).unwrap();
        let files: Vec<_> = std::fs::read_dir(self.directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert_eq!(files.len(), 1);
        files[0].clone()
    }
}

fn written(file: &PathBuf) -> SystemTime {
    std::fs::metadata(file).unwrap().modified().unwrap()
}

#[test]
fn second_load_finds_the_code() {
    let cache = Cache::new();
    let file = cache.load();
    let before = written(&file);
    assert_eq!(cache.load(), file);
    assert_eq!(written(&file), before);
}

#[test]
fn damaged_files_are_written_anew() {
    let cache = Cache::new();
    let file = cache.load();
    let good = std::fs::read(&file).unwrap();
    let mut flipped = good.clone();
    let middle = good.len() / 2;
    flipped[middle] ^= 1;
    for damaged in [&b""[..], b"foreign", &good[..good.len() - 1], &good[..40], &flipped] {
        std::fs::write(&file, damaged).unwrap();
        cache.load();
        assert_eq!(std::fs::read(&file).unwrap().len(), good.len());
        assert_ne!(std::fs::read(&file).unwrap(), damaged);
    }
}
