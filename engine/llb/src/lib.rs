//! Low-level build definitions: ops, vertices, edges, and their bytes.
//!
//! A build is a graph of [`Op`]s. A [`Vertex`] is an op that was checked, with its bytes and
//! the SHA-256 of those bytes as its identity; an [`Edge`] names one output of a vertex. Bytes
//! and digests are those of BuildKit's `pb.Op`, so that graphs made by BuildKit's clients load
//! here and the other way round.
//!
//! - [`Graph`] is a hash-consed set of vertices: nothing invalid gets in, nothing twice.
//! - [`Definition`] is a graph on the wire (`pb.Definition`): decode, [`Definition::load`],
//!   [`Graph::to_definition`].
//! - [`build`] describes ops by handles, numbering inputs and outputs as BuildKit's client does,
//!   so that the same build has the same digests whoever describes it.
//!
//! **Invariant:** this crate does no IO, and knows nothing of async, wasm or OCI.

mod codec;
mod definition;
mod error;
mod exec;
mod file;
mod graph;
mod message;
mod op;
mod validate;
mod wire;

pub mod build;
pub mod caps;
pub mod limits;

pub use definition::{
    Definition, LinuxResources, Location, Locations, OpMetadata, Position, ProgressGroup, Range,
    Source, SourceInfo, to_json,
};
pub use error::{Error, Problem};
pub use exec::{
    CacheOpt, CacheSharing, CdiDevice, ContentCache, ExecOp, HostIp, Meta, Mount, MountKind,
    NetMode, ProxyEnv, SecretEnv, SecretOpt, SecurityMode, SshOpt, TmpfsOpt, Ulimit,
};
pub use file::{
    ActionInput, FileAction, FileActionCopy, FileActionKind, FileActionMkdir, FileActionMkfile,
    FileActionRm, FileActionSymlink, FileOp, NamedUser, Owner, UserSpec,
};
pub use graph::{Graph, Vertex};
pub use op::{BuildOp, DiffOp, Edge, MergeOp, Op, OpKind, PassthroughOp, SourceOp};
