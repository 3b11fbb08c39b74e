//! Manifests on the disk: a node tree with a checksum, so that a damaged one is not taken for
//! what a layer is.

use std::collections::BTreeSet;

use cofferdam_types::Digest;

use crate::{Content, LayerId, Node, NodeKind, PackId};

/// Bytes of the checksum at the end: the first half of a SHA-256.
const CHECKSUM: usize = 16;

pub(crate) fn encode(root: &Node) -> Result<Vec<u8>, String> {
    let mut bytes = postcard::to_stdvec(root).map_err(|error| error.to_string())?;
    let checksum = Digest::of(&bytes);
    bytes.extend_from_slice(&checksum.as_bytes()[..CHECKSUM]);
    Ok(bytes)
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Node, String> {
    let (body, checksum) = bytes
        .len()
        .checked_sub(CHECKSUM)
        .map(|length| bytes.split_at(length))
        .ok_or("it is too short")?;
    if Digest::of(body).as_bytes()[..CHECKSUM] != *checksum {
        return Err("its checksum is wrong".into());
    }
    postcard::from_bytes(body).map_err(|error| error.to_string())
}

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
