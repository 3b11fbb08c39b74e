//! Keeps two vertices with the same content key from running at the same time.
//!
//! Vertices with different digests can turn out to be the same work, like a file operation
//! that two platforms have in common. The first one claims the key; the others wait, and then
//! find the result in the cache.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex};

use cofferdam_types::Digest;
use tokio::sync::watch;

use crate::lock;

/// The keys that somebody is at work on.
#[derive(Clone, Default)]
pub(crate) struct Claims(Arc<Mutex<HashMap<Digest, watch::Receiver<()>>>>);

/// A claim on a key, given up when dropped.
pub(crate) struct Claim {
    claims: Claims,
    key: Digest,
    _ends_with_claim: watch::Sender<()>,
}

impl Claims {
    /// Claims `key`, after whoever has claimed it before.
    pub(crate) async fn claim(&self, key: Digest) -> Claim {
        loop {
            let mut other = match lock(&self.0).entry(key) {
                Entry::Occupied(other) => other.get().clone(),
                Entry::Vacant(place) => {
                    let (sender, receiver) = watch::channel(());
                    place.insert(receiver);
                    return Claim { claims: self.clone(), key, _ends_with_claim: sender };
                }
            };
            // Nothing is ever sent: this returns when the sender is dropped.
            while other.changed().await.is_ok() {}
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Before the sender goes, so that who is woken finds the place empty.
        lock(&self.claims.0).remove(&self.key);
    }
}
