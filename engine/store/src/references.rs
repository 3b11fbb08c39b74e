//! What manifests of layers refer to.

use std::collections::BTreeSet;

use crate::{Content, LayerId, Node, NodeKind, PackId};

/// Where the contents of a layer's files are, besides its own directory.
#[derive(Default)]
pub(crate) struct References {
    pub(crate) layers: BTreeSet<LayerId>,
    pub(crate) packs: BTreeSet<PackId>,
}

impl References {
    pub(crate) fn of(own: LayerId, root: &Node) -> Self {
        let mut references = Self::default();
        let mut visit = |_: &[u8], node: &Node| {
            if let NodeKind::Regular(regular) = &node.kind {
                match &regular.content {
                    Content::Layer { layer, .. } if *layer != own => {
                        references.layers.insert(*layer);
                    }
                    Content::Layer { .. } => {}
                    Content::Pack { pack, .. } => {
                        references.packs.insert(*pack);
                    }
                }
            }
            Ok::<_, std::convert::Infallible>(())
        };
        match root.walk(&mut visit) {
            Ok(()) => references,
        }
    }
}
