//! How large a graph from outside may be.
//!
//! The largest graphs seen in practice have a few thousand ops and a few megabytes; these
//! limits leave room, and keep a hostile client from filling the memory of a shared daemon.

/// Bytes of one encoded op; a `mkfile` carries its contents.
pub const MAX_OP_BYTES: usize = 16 << 20;
/// Bytes of one encoded definition.
pub const MAX_DEFINITION_BYTES: usize = 256 << 20;
/// Bytes of all ops in one graph.
pub const MAX_GRAPH_BYTES: usize = 256 << 20;
/// Ops in one definition or one graph.
pub const MAX_OPS: usize = 50_000;
/// Members of any list or map inside an op or its metadata.
pub const MAX_ITEMS: usize = 65_536;
/// Messages inside messages.
pub const MAX_DEPTH: u32 = 24;
/// Bytes of a vertex name made up from the names of its inputs.
pub const MAX_NAME_BYTES: usize = 4096;
