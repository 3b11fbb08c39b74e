//! The store as its users see it. `support` has layers as text; the others hold the cases: the
//! union of layers, edits, layers on disk, content digests, what survives a restart, and
//! damaged rows of the database.

mod builder;
mod content;
mod disk;
mod limit;
mod named;
mod restart;
mod rows;
mod support;
mod tree;
