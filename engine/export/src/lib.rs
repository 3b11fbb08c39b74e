//! Exporters: chains of layers become images, wasm artifacts, OCI layouts, tar archives and
//! directories.
//!
//! An image is built once, as blobs of the store ([`build_image`]), and then goes wherever it is
//! wanted: to a registry ([`push`]), into an archive or a directory, or to another engine on this
//! machine ([`load`]). File trees go out without
//! being an image ([`write_tar`], [`write_directory`]). Everything is streamed from where the
//! contents lie, and the bytes depend on nothing but the layers, the configs and the options.
//!
//! How layers came to be is not known here, nor who asked for them.

mod annotations;
mod artifact;
mod compress;
mod config;
mod directory;
mod entries;
mod error;
mod files;
mod image;
mod layers;
mod layout;
mod load;
mod manifest;
mod push;
mod tar;

use std::sync::Arc;

pub use annotations::{Annotations, Place};
pub use artifact::build_artifact;
pub use compress::Compression;
pub use directory::{Others, Owners, delete_others, write_directory};
pub use entries::write_tar;
pub use error::{Error, Result};
pub use files::{FileTree, check_disjoint};
pub use image::{BuiltImage, BuiltLayer, BuiltManifest, ImageOptions, PlatformImage, build_image};
pub use layout::{ImageLayout, LayoutFormat};
pub use load::{LoadTargets, Loaded, load};
pub use push::push;

/// Is told how many bytes of what are done, and of how many: `(id, current, total)`. The total
/// is an estimate until the last call, in which both numbers are the same.
pub type Progress = Arc<dyn Fn(&str, u64, u64) + Send + Sync>;
