//! Sources: where trees come from. Images from registries and OCI layouts, and directories that
//! the client lends, downloads and git repositories become layers of the store.
//!
//! When a source is asked for, and what is done with it, is not known here.

mod dirs;
mod error;
mod git;
mod http;
mod image;
mod layout;
mod local;
mod settle;
mod unpack;

pub use dirs::take_dir;
pub use error::{Error, Result};
pub use git::{GitAccess, GitConfig, GitRequest, GitSource, GitTree, Remote};
pub use http::{FileOptions, HttpFile, HttpSource};
pub use image::{ImageSource, Origin, Progress, ResolvedImage};
pub use layout::Layout;
pub use local::{Filter, LocalScan, scan_directory};
pub use unpack::{Form, Unpacked, unpack};
