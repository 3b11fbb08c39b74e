//! Why the cache had nothing: compares a vertex that has to run with what the cache remembers of
//! results like it.
//!
//! What is remembered, and for how long, is up to whoever implements [`crate::Cache`].

use std::collections::HashMap;
use std::time::SystemTime;

use cofferdam_types::Digest;

use crate::{Leaf, Past};

/// Says why the cache had nothing for a vertex that has to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Miss {
    /// No vertex of this name and kind was ever recorded.
    NeverSeen,
    /// The vertex is told to run even if its result is known.
    Ignored,
    /// The vertex's own definition changed, or what a source stands for.
    Changed(Change),
    /// The definition is what it was; an input is another one.
    InputChanged {
        /// The input's digest, which is one of the vertex's announced inputs.
        vertex: Digest,
        /// The input's name for people.
        name: String,
        /// The first thing that differs in what the vertex reads of the input, where that is
        /// known.
        change: Option<Change>,
    },
    /// The result was there, and made room for others.
    Evicted {
        /// When.
        at: SystemTime,
    },
    /// There is a record of the result, and the result itself is gone or damaged.
    Lost,
}

/// The first difference between two keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What differs, like `env PATH` or `file src/main.rs`.
    pub leaf: String,
    /// What it was; `None` if it was not there.
    pub before: Option<String>,
    /// What it is; `None` if it is no longer there.
    pub after: Option<String>,
}

/// What enters the keys of a vertex that has to run.
pub(crate) struct Present<'a> {
    pub(crate) kind: &'a str,
    pub(crate) op: Digest,
    pub(crate) leaves: &'a [Leaf],
    pub(crate) inputs: &'a [Digest],
}

/// How a vertex differs from the result of the past that is most like it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Difference {
    /// There is nothing to compare with.
    NothingLike,
    Leaf(Change),
    /// The input with this index; its digest was this one.
    Input(usize, Digest),
    /// None: there was a record with this very key.
    Nothing,
}

impl Present<'_> {
    /// Compares with the past, latest first.
    pub(crate) fn compare<O>(&self, past: &[Past<O>]) -> Difference {
        // Steps of the same name may be in several builds and stages: the nearest says most.
        let nearest = past.iter().filter(|past| past.kind == self.kind).min_by_key(|past| {
            (changes(&past.leaves, self.leaves).len(), self.inputs_differ(past))
        });
        let Some(nearest) = nearest else { return Difference::NothingLike };
        if let Some(change) = changes(&nearest.leaves, self.leaves).into_iter().next() {
            return Difference::Leaf(change);
        }
        if nearest.op != self.op {
            let text = |op: Digest| Some(op.to_string());
            let (before, after) = (text(nearest.op), text(self.op));
            return Difference::Leaf(Change { leaf: "definition".into(), before, after });
        }
        let changed = nearest.inputs.iter().zip(self.inputs).position(|(a, b)| a != b);
        match changed {
            Some(input) => Difference::Input(input, nearest.inputs[input]),
            None => Difference::Nothing,
        }
    }

    fn inputs_differ<O>(&self, past: &Past<O>) -> usize {
        past.inputs.iter().zip(self.inputs).filter(|(a, b)| a != b).count()
    }
}

/// What differs, in the order of the leaves; what is gone comes last.
fn changes(before: &[Leaf], after: &[Leaf]) -> Vec<Change> {
    // A name may be there several times: the nth is compared with the nth.
    let mut old: HashMap<&str, Vec<&Leaf>> = HashMap::new();
    for leaf in before.iter().rev() {
        old.entry(&leaf.name).or_default().push(leaf);
    }
    let mut changes = Vec::new();
    for leaf in after {
        let before = old.get_mut(leaf.name.as_str()).and_then(Vec::pop);
        if before.is_none_or(|before| before.value != leaf.value) {
            changes.push(Change {
                leaf: leaf.name.clone(),
                before: before.map(|before| before.value.clone()),
                after: Some(leaf.value.clone()),
            });
        }
    }
    for leaf in before {
        let left = old.get_mut(leaf.name.as_str());
        if let Some(leaf) = left.and_then(Vec::pop) {
            let (leaf, before) = (leaf.name.clone(), Some(leaf.value.clone()));
            changes.push(Change { leaf, before, after: None });
        }
    }
    changes
}
