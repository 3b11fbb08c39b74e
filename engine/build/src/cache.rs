//! The solver's cache records, kept in the store.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use cofferdam_solver::{Cache, Claim, Entry, Fate, Leaf, Past, Record};
use cofferdam_store::{About, Remembered, Snapshot, Store};
use cofferdam_types::Digest;

/// Results of the past that a vertex is compared with to explain a miss.
const MAX_PAST: usize = 64;
/// How often it is looked whether another process is done with a step: first soon, then less
/// often.
const FIRST_WAIT: Duration = Duration::from_millis(2);
const LONGEST_WAIT: Duration = Duration::from_millis(50);

/// Keeps records in a store. What cannot be read or written is logged, and costs time only.
pub(crate) struct StoreCache(pub(crate) Store);

fn loaded(record: cofferdam_store::Record) -> Record<Snapshot> {
    Record { value: record.snapshot, identity: record.identity, took: record.about.took }
}

#[async_trait]
impl Cache<Snapshot> for StoreCache {
    async fn lookup(&self, key: &Digest) -> Option<Record<Snapshot>> {
        log(self.0.record(key)).flatten().map(loaded)
    }

    async fn save(&self, entry: Entry<'_, Snapshot>) -> Record<Snapshot> {
        let known = log(self.0.record_by_identity(&entry.record.identity)).flatten();
        let record = known.map_or(entry.record, loaded);
        let leaves = entry.leaves.iter().map(|leaf| (leaf.name.clone(), leaf.value.clone()));
        let about = About {
            kind: entry.kind.to_owned(),
            name: entry.name.to_owned(),
            output: entry.output,
            op: Some(entry.op),
            leaves: leaves.collect(),
            inputs: entry.inputs.to_vec(),
            took: record.took,
        };
        let stored = cofferdam_store::Record {
            identity: record.identity,
            snapshot: record.value.clone(),
            about,
            data: String::new(),
        };
        log(self.0.save_record(entry.keys, &stored));
        record
    }

    async fn alias(&self, key: &Digest, identity: &Digest) {
        log(self.0.alias_record(key, identity));
    }

    async fn took(&self, keys: &[Digest]) -> Vec<Option<Duration>> {
        log(self.0.took(keys)).unwrap_or_else(|| vec![None; keys.len()])
    }

    async fn claim(&self, key: &Digest) -> Claim {
        let mut wait = FIRST_WAIT;
        loop {
            match self.0.try_claim(key) {
                Ok(Some(claim)) => return Box::new(claim),
                Ok(None) => {}
                Err(error) => {
                    // Without locks, a step may be run by two processes; no more than that.
                    tracing::warn!("cannot claim a step: {error}");
                    return Box::new(());
                }
            }
            tokio::time::sleep(wait).await;
            wait = LONGEST_WAIT.min(wait * 2);
        }
    }

    async fn fate(&self, key: &Digest) -> Option<Fate> {
        let evicted = log(self.0.remembered(key)).flatten()?.evicted?;
        let since = Duration::from_secs(u64::try_from(evicted).unwrap_or(0));
        Some(Fate::Evicted { at: SystemTime::UNIX_EPOCH + since })
    }

    async fn past(&self, name: &str) -> Vec<Past> {
        let past = |remembered: Remembered| {
            let About { kind, name, op, leaves, inputs, .. } = remembered.about;
            let leaves = leaves.into_iter().map(|(name, value)| Leaf { name, value });
            let identity = remembered.identity;
            Some(Past { name, kind, op: op?, leaves: leaves.collect(), inputs, identity })
        };
        let mut similar = log(self.0.similar(name, MAX_PAST)).unwrap_or_default();
        if similar.is_empty()
            && let Some(start) = stable_start(name)
        {
            similar = log(self.0.similar_start(start, MAX_PAST)).unwrap_or_default();
        }
        similar.into_iter().filter_map(past).collect()
    }

    async fn load(&self, identity: &Digest) -> Option<Snapshot> {
        log(self.0.peek(identity)).flatten()
    }
}

/// What stays of a step's name where something in it changed: of a base image all but the digest;
/// of other steps, whose names show what variables stand for, the place in the file.
fn stable_start(name: &str) -> Option<&str> {
    if let Some(at) = name.find("@sha256:") {
        return Some(&name[..=at]);
    }
    let (place, instruction) = name.strip_prefix('[')?.split_once("] ")?;
    let from = instruction.starts_with("FROM ");
    (place.contains('/') && !from).then(|| &name[..name.len() - instruction.len()])
}

fn log<T>(result: cofferdam_store::Result<T>) -> Option<T> {
    result.inspect_err(|error| tracing::warn!("cache record: {error}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_of_names() {
        for (name, start) in [
            ("[base 2/3] RUN make x=1", Some("[base 2/3] ")),
            ("[2/3] COPY [a] b", Some("[2/3] ")),
            ("[1/3] FROM r.example/a:1@sha256:00", Some("[1/3] FROM r.example/a:1@")),
            ("[1/3] FROM r.example/a:1", None),
            ("[internal] load build context", None),
            ("docker-image://a@sha256:00", Some("docker-image://a@")),
            ("echo [1/2] x", None),
        ] {
            assert_eq!(stable_start(name), start, "{name}");
        }
    }
}
