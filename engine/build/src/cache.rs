//! The solver's cache records, kept in the store.

use async_trait::async_trait;
use cofferdam_solver::{Cache, Entry, Record};
use cofferdam_store::{Snapshot, Store};
use cofferdam_types::Digest;

/// Keeps records in a store. What cannot be read or written is logged, and costs time only.
pub(crate) struct StoreCache(pub(crate) Store);

impl StoreCache {
    fn load(&self, record: cofferdam_store::Record) -> Option<Record<Snapshot>> {
        let value: Snapshot = serde_json::from_str(&record.value).ok()?;
        if self.0.contains(&value) {
            return Some(Record { value, identity: record.identity, took: None });
        }
        // Its layers were removed: the record is worth nothing any more.
        log(self.0.remove_record(&record.identity));
        None
    }
}

#[async_trait]
impl Cache<Snapshot> for StoreCache {
    async fn lookup(&self, key: &Digest) -> Option<Record<Snapshot>> {
        self.load(log(self.0.record(key))??)
    }

    async fn save(&self, entry: Entry<'_, Snapshot>) -> Record<Snapshot> {
        let known = log(self.0.record_by_identity(&entry.record.identity)).flatten();
        let record = known.and_then(|known| self.load(known)).unwrap_or(entry.record);
        let value = serde_json::to_string(&record.value).expect("a list of numbers is JSON");
        let stored = cofferdam_store::Record { identity: record.identity, value };
        log(self.0.save_record(entry.keys, &stored));
        record
    }

    async fn alias(&self, key: &Digest, identity: &Digest) {
        if let Some(Some(record)) = log(self.0.record_by_identity(identity)) {
            log(self.0.save_record(&[*key], &record));
        }
    }
}

fn log<T>(result: cofferdam_store::Result<T>) -> Option<T> {
    result.inspect_err(|error| tracing::warn!("cache record: {error}")).ok()
}
