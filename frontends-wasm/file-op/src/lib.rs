//! The file ops of a build: copy, mkdir, mkfile, rm, symlink and the unpacking of archives.
//!
//! Everything here is a pure function over two traits, [`Tree`] (read only) and [`Layer`] (edits),
//! that mirror the resources of `cofferdam:file-op`; no path ever reaches a real file system. The
//! semantics are those of BuildKit's file op. Built for wasm, the module `guest` connects the traits
//! to the host's resources. Storing bytes, hashing and checking limits is left to the host.

mod action;
mod apply;
mod archive;
mod copy;
mod edit;
mod error;
#[cfg(target_arch = "wasm32")]
mod guest;
mod mode;
mod owner;
mod path;
mod tree;

pub use action::{
    Action, ActionInput, ActionKind, Copy, MakeDirectory, MakeFile, MakeSymlink, Ownership,
    Principal, Remove,
};
pub use apply::{ActionError, apply};
pub use error::Error;
pub use tree::{
    AttributeChanges, Attributes, Entry, EntryKind, Fault, Layer, NamedEntry, Reader, Tree, Writer,
};
