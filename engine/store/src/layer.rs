//! Layers and chains of layers.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Node;
use crate::holds::Hold;

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

/// A layer that stays in the store for as long as this, or a clone of it, lives.
#[derive(Clone)]
pub struct HeldLayer {
    pub(crate) id: LayerId,
    pub(crate) _hold: Arc<Hold>,
}

impl HeldLayer {
    /// Its name.
    pub fn id(&self) -> LayerId {
        self.id
    }
}

impl fmt::Debug for HeldLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}

impl PartialEq for HeldLayer {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for HeldLayer {}

/// The result of an op: a chain of layers, the bottom one first. Empty is scratch. The layers
/// stay in the store for as long as the snapshot lives.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Snapshot(Arc<[HeldLayer]>);

impl Snapshot {
    /// The layers, the bottom one first.
    pub fn layers(&self) -> impl DoubleEndedIterator<Item = LayerId> + ExactSizeIterator {
        self.0.iter().map(|layer| layer.id)
    }

    /// Whether this is scratch.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The topmost layer.
    pub fn top(&self) -> Option<LayerId> {
        self.layers().next_back()
    }

    /// This chain with one more layer on top.
    pub fn with(&self, layer: HeldLayer) -> Self {
        self.0.iter().cloned().chain([layer]).collect()
    }

    /// This chain with all layers of another one on top.
    pub fn and(&self, above: &Self) -> Self {
        self.0.iter().chain(above.0.iter()).cloned().collect()
    }

    /// The first `count` layers and the others, if there are so many.
    pub fn split_at(&self, count: usize) -> Option<(Self, Self)> {
        let (below, above) = self.0.split_at_checked(count)?;
        Some((below.iter().cloned().collect(), above.iter().cloned().collect()))
    }

    /// What this chain has on top of `below`, if it begins with `below`.
    pub fn above(&self, below: &Self) -> Option<Self> {
        self.0.strip_prefix(&*below.0).map(|above| above.iter().cloned().collect())
    }
}

impl FromIterator<HeldLayer> for Snapshot {
    fn from_iter<T: IntoIterator<Item = HeldLayer>>(layers: T) -> Self {
        Self(layers.into_iter().collect())
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter()).finish()
    }
}
