//! Sources: where trees come from. Images from registries and OCI layouts, and directories that
//! the client lends, become layers of the store.
//!
//! When a source is asked for, and what is done with it, is not known here.

mod error;
mod image;
mod layout;
mod local;
mod settle;
mod unpack;

pub use error::{Error, Result};
pub use image::{ImageSource, Origin, Progress, ResolvedImage};
pub use layout::Layout;
pub use local::{Filter, LocalScan, scan_directory};
pub use unpack::{Form, Unpacked, unpack};
