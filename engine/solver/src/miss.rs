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
    pub(crate) name: &'a str,
    pub(crate) kind: &'a str,
    pub(crate) op: Digest,
    pub(crate) leaves: &'a [Leaf],
    pub(crate) inputs: &'a [Digest],
}

/// How a vertex differs from the result of the past that is most like it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Difference<'a> {
    /// There is nothing to compare with.
    NothingLike,
    /// In this leaf first; the result of then may say more.
    Leaf(Change, &'a Past),
    /// In the input with this index, whose digest was this one.
    Input(usize, Digest),
    /// Nowhere: there was a record with this very key.
    Nothing,
}

impl Present<'_> {
    /// Compares with the past, latest first.
    pub(crate) fn compare<'a>(&self, past: &'a [Past]) -> Difference<'a> {
        // Steps of the same name may be in several builds and stages: the nearest says most.
        let of_kind = past.iter().filter(|past| {
            past.kind == self.kind && (past.name == self.name || past.inputs == self.inputs)
        });
        let nearest = of_kind
            .map(|past| (changes(&past.leaves, self.leaves), past))
            .min_by_key(|(changes, past)| (changes.len(), self.inputs_differ(past)));
        let Some((changes, nearest)) = nearest else {
            return Difference::NothingLike;
        };
        if let Some(change) = changes.into_iter().next() {
            return Difference::Leaf(change, nearest);
        }
        if nearest.op != self.op {
            let text = |op: Digest| Some(op.to_string());
            let (before, after) = (text(nearest.op), text(self.op));
            let change = Change { leaf: "definition".into(), before, after };
            return Difference::Leaf(change, nearest);
        }
        let changed = nearest.inputs.iter().zip(self.inputs).position(|(a, b)| a != b);
        match changed {
            Some(input) => Difference::Input(input, nearest.inputs[input]),
            None => Difference::Nothing,
        }
    }

    fn inputs_differ(&self, past: &Past) -> usize {
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
    if changes.is_empty()
        && let Some((a, b)) = before.iter().zip(after).find(|(a, b)| a != b)
    {
        let text = |leaf: &Leaf| Some(leaf.name.clone());
        changes.push(Change { leaf: "order".into(), before: text(a), after: text(b) });
    }
    changes
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn leaves(text: &str) -> Vec<Leaf> {
        let leaf = |text: &str| {
            let (name, value) = text.split_once('=').expect("name and value");
            Leaf { name: name.into(), value: value.into() }
        };
        text.split_whitespace().map(leaf).collect()
    }

    fn check(before: &str, after: &str, expected: Expect) {
        let changes = changes(&leaves(before), &leaves(after));
        let text = |change: &Change| {
            let Change { leaf, before, after } = change;
            let side = |side: &Option<String>| side.clone().unwrap_or("none".into());
            format!("{leaf}: {} -> {}\n", side(before), side(after))
        };
        expected.assert_eq(&changes.iter().map(text).collect::<String>());
    }

    #[test]
    fn leaves_are_compared_by_name() {
        check("a=1 b=2", "a=1 b=2", expect![""]);
        check(
            "a=1 b=2",
            "a=1 b=3",
            expect![[r#"
            b: 2 -> 3
        "#]],
        );
        check(
            "a=1",
            "b=2",
            expect![[r#"
            b: none -> 2
            a: 1 -> none
        "#]],
        );
        check(
            "a=1 a=2 a=3",
            "a=1 a=4",
            expect![[r#"
            a: 2 -> 4
            a: 3 -> none
        "#]],
        );
        check(
            "a=1 b=2",
            "b=2 a=1",
            expect![[r#"
            order: a -> b
        "#]],
        );
    }

    #[test]
    fn the_nearest_past_is_compared_with() {
        let op = |text: &str| Digest::of(text);
        let past = |kind: &str, leaf: &str, input: &str| Past {
            name: "step".into(),
            kind: kind.into(),
            op: op(leaf),
            leaves: leaves(leaf),
            inputs: vec![op(input)],
            identity: op("result"),
        };
        let check = |present: &str, input: &str, past: &[Past], expected: &Difference<'_>| {
            let present = Present {
                name: "step",
                kind: "exec",
                op: op(present),
                leaves: &leaves(present),
                inputs: &[op(input)],
            };
            assert_eq!(present.compare(past), *expected);
        };
        let known = [
            past("file", "a=1 b=1", "x"),
            past("exec", "a=2 b=2", "x"),
            past("exec", "a=1 b=2", "y"),
            past("exec", "a=1 b=2", "x"),
        ];
        check("a=1 b=1", "x", &known[..1], &Difference::NothingLike);
        let change = |leaf: &str, before: &str, after: &str| Change {
            leaf: leaf.into(),
            before: Some(before.into()),
            after: Some(after.into()),
        };
        // With the same inputs, rather than the latest.
        check("a=1 b=1", "x", &known, &Difference::Leaf(change("b", "2", "1"), &known[3]));
        check("a=1 b=2", "z", &known, &Difference::Input(0, op("y")));
        check("a=1 b=2", "x", &known, &Difference::Nothing);
        let mut other = past("exec", "a=1 b=2", "x");
        other.op = op("older version");
        let change = change("definition", &other.op.to_string(), &op("a=1 b=2").to_string());
        let other = [other];
        check("a=1 b=2", "x", &other, &Difference::Leaf(change, &other[0]));
        // Under another name, only if it stands on the same.
        let mut renamed = [past("exec", "a=1 b=2", "x")];
        renamed[0].name = "step with another variable".into();
        let change = Change { leaf: "a".into(), before: Some("1".into()), after: Some("3".into()) };
        check("a=3 b=2", "x", &renamed, &Difference::Leaf(change, &renamed[0]));
        check("a=3 b=2", "y", &renamed, &Difference::NothingLike);
    }
}
