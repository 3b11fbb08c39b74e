//! Cache records as a trait, and how an edge's cache keys are hashed.
//!
//! Keeping the records, loading results and forgetting old ones is up to whoever implements
//! [`Cache`].

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use cofferdam_types::{Digest, Hasher};

use crate::{InputKey, Leaf};

/// A result and what identifies it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<O> {
    /// The result, loaded.
    pub value: O,
    /// The digest of its content, or another digest that only equal results share.
    pub identity: Digest,
    /// How long the vertex took when it ran, where that is known.
    pub took: Option<Duration>,
}

/// What [`Cache::save`] is asked to remember.
#[derive(Clone, Debug)]
pub struct Entry<'a, O> {
    /// The keys that lead to the record from now on: by definition, and by content for a
    /// vertex that has inputs.
    pub keys: &'a [Digest],
    /// The result.
    pub record: Record<O>,
    /// The digest of the vertex that made it.
    pub vertex: Digest,
    /// The name of the vertex that made it.
    pub name: &'a str,
    /// The kind of the vertex that made it.
    pub kind: &'a str,
    /// Which of the vertex's outputs it is.
    pub output: u32,
    /// The digest of the vertex's own key.
    pub op: Digest,
    /// What went into the vertex's own key.
    pub leaves: &'a [Leaf],
    /// What each input contributed to the content key.
    pub inputs: &'a [Digest],
}

/// A result of the past, and what it was made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    /// The name of the vertex that made it.
    pub name: String,
    /// The kind of the vertex that made it.
    pub kind: String,
    /// The digest of the vertex's own key.
    pub op: Digest,
    /// What went into the vertex's own key.
    pub leaves: Vec<Leaf>,
    /// What each input contributed to the content key.
    pub inputs: Vec<Digest>,
    /// What identifies the result.
    pub identity: Digest,
}

/// What became of a record that is not there any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It made room for others.
    Evicted {
        /// When.
        at: SystemTime,
    },
    /// Its result is gone or damaged.
    Lost,
}

/// Keeps others from working on a key until it is dropped.
pub type Claim = Box<dyn Send + Sync>;

/// Remembers results under keys.
///
/// No method can fail: a cache that is damaged or out of space costs time, never a build. The
/// implementation logs what goes wrong.
#[async_trait]
pub trait Cache<O>: Send + Sync + 'static {
    /// Loads the record that `key` leads to.
    ///
    /// A record whose result can no longer be loaded is no record.
    async fn lookup(&self, key: &Digest) -> Option<Record<O>>;

    /// Makes `entry.keys` lead to `entry.record`, wherever they led before.
    ///
    /// If there is a record with this identity that can still be loaded, the keys lead to
    /// that one instead. Returns the record that they lead to.
    async fn save(&self, entry: Entry<'_, O>) -> Record<O>
    where
        O: 'async_trait;

    /// Makes `key` lead to the record with `identity`, wherever it led before.
    async fn alias(&self, key: &Digest, identity: &Digest);

    /// How long it took to make what each of `keys` leads to, as far as that is known.
    async fn took(&self, keys: &[Digest]) -> Vec<Option<Duration>> {
        vec![None; keys.len()]
    }

    /// Keeps other solvers that use the same cache, in other processes, from working on `key`.
    ///
    /// Waits while one of them does; the solver looks `key` up again afterwards. Dropping the
    /// future gives the wait up. Within a solver, a key is claimed by one vertex at a time.
    async fn claim(&self, _key: &Digest) -> Claim {
        Box::new(())
    }

    /// What became of the record that `key` led to, if there was one and it is not there any
    /// more.
    async fn fate(&self, _key: &Digest) -> Option<Fate> {
        None
    }

    /// The latest results of vertices with this name, latest first; not necessarily all. Where
    /// there are none, those of vertices whose names are like it may be as good: they are compared
    /// with if their inputs are the same.
    ///
    /// Asked to explain why a vertex has to run, and only when somebody wants to know.
    async fn past(&self, _name: &str) -> Vec<Past> {
        Vec::new()
    }

    /// Loads a result of the past, if it is still there.
    async fn load(&self, _identity: &Digest) -> Option<O>
    where
        O: 'async_trait,
    {
        None
    }
}

/// Remembers nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoCache;

#[async_trait]
impl<O: Send + 'static> Cache<O> for NoCache {
    async fn lookup(&self, _key: &Digest) -> Option<Record<O>> {
        None
    }

    async fn save(&self, entry: Entry<'_, O>) -> Record<O>
    where
        O: 'async_trait,
    {
        entry.record
    }

    async fn alias(&self, _key: &Digest, _identity: &Digest) {}
}

// The keys are in people's caches: changing how they are hashed means running everything
// once more, so a change gets a new version in the prefix.

/// The definition key of a vertex, from its own key and its inputs' definition keys.
pub(crate) fn definition_key<'a>(
    op: &Digest,
    inputs: impl Iterator<Item = (&'a InputKey, Digest)>,
) -> Digest {
    let mut hasher = Hasher::new();
    hasher.field("cofferdam.key.definition.v1");
    hasher.field(op.as_bytes());
    for (input, definition) in inputs {
        selector(&mut hasher, input);
        hasher.field(definition.as_bytes());
    }
    hasher.finish()
}

/// The content key of a vertex, from its own key and what its inputs are.
pub(crate) fn content_key<'a>(
    op: &Digest,
    inputs: impl Iterator<Item = (&'a InputKey, Digest)>,
) -> Digest {
    let mut hasher = Hasher::new();
    hasher.field("cofferdam.key.content.v1");
    hasher.field(op.as_bytes());
    for (input, digest) in inputs {
        if input.by_content {
            // What the vertex reads is hashed whatever path it was found under.
            hasher.field("content");
        } else {
            hasher.field("identity");
            selector(&mut hasher, input);
        }
        hasher.field(digest.as_bytes());
    }
    hasher.finish()
}

/// The key of one output of a vertex.
pub(crate) fn output_key(vertex: &Digest, output: u32) -> Digest {
    let mut hasher = Hasher::new();
    hasher.field("cofferdam.key.output.v1");
    hasher.field(vertex.as_bytes());
    hasher.field(output.to_le_bytes());
    hasher.finish()
}

fn selector(hasher: &mut Hasher, input: &InputKey) {
    match &input.selector {
        Some(selector) => hasher.field(selector.as_bytes()),
        None => hasher.field(""),
    }
}
