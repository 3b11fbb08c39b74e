//! Layers and chains of layers.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Node;

/// Names a layer in one state directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LayerId(pub(crate) i64);

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A committed layer with its manifest.
#[derive(Debug)]
pub struct Layer {
    /// Its name.
    pub id: LayerId,
    /// Its root directory.
    pub root: Node,
}

/// The result of an op: a chain of layers, the bottom one first. Empty is scratch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Snapshot(pub Arc<[LayerId]>);

impl Snapshot {
    /// This chain with one more layer on top.
    pub fn with(&self, layer: LayerId) -> Self {
        Self(self.0.iter().copied().chain([layer]).collect())
    }
}
