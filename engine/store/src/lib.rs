//! The store: blobs, layers, trees and cache records in one state directory.
//!
//! A **layer** is a set of edits on what lies below it, described by a [`Node`] tree (its
//! manifest). The bytes of its files lie in a directory of the layer's own (what a RUN left, an
//! unpacked image layer), in a *pack* (many small files in one), or in another layer: a COPY
//! makes a layer of references. A **tree** is the union of a chain of layers, resolved in user
//! space. Layers are immutable once committed, so there is nothing to race with.
//!
//! Which op asked for a layer, and where images come from, is not known here.

mod blobs;
mod builder;
mod claims;
mod content;
mod db;
mod descend;
mod dirs;
mod durability;
mod error;
mod filter;
mod holds;
mod layer;
mod layer_records;
mod limit;
mod local;
mod materialize;
mod named;
mod node;
mod packs;
mod records;
mod references;
mod removal;
mod scan;
mod scratch;
mod sealed;
mod seals;
mod space;
mod state;
mod tree;
mod usage;
mod verify;

pub use blobs::BlobWriter;
pub use builder::{AttributeChanges, LayerBuilder};
pub use claims::StoreClaim;
pub use content::{Selection, hash_tree};
pub use descend::disk_usage;
pub use dirs::{LayerDir, Watch};
pub use error::{Error, Result};
pub use filter::Filter;
pub use holds::Keep;
pub use layer::{HeldLayer, Layer, LayerId, Snapshot};
pub use layer_records::{LayerBlob, UnpackedLayer};
pub use limit::Reservation;
pub use local::{LocalFile, LocalIndex, StatKey};
pub use materialize::{make_device, mark_opaque, set_attributes};
pub use named::{DirId, DirRequest, NamedDir, Sharing};
pub use node::{Attributes, Content, Directory, Name, Node, NodeKind, PackId, Regular};
pub use packs::{PackWriter, SharedPackWriter};
pub use records::{About, ImageRecord, Record, Remembered};
pub use state::Store;
pub use tree::{Child, Found, LinkGroup, OpenFile, Tree};
pub use usage::{Prune, Pruned, Usage};
pub use verify::{Problem, Repair, Verified};
