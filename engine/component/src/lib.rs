//! The Wasmtime host: sets the engine up, loads components, and runs frontends and file
//! operations in instances that hold no authority but what is handed to them here.
//!
//! - [`Runtime`] is Wasmtime with its limits and its cache of compiled code.
//! - [`Frontend`] turns a [`Request`] into a graph; it asks a [`FrontendHost`].
//! - [`FileOps`] applies the actions of a file op to [`Tree`]s and makes [`Layer`]s.
//! - [`Program`] is a WASI program of the user's own, the process of a step on `wasi/wasm`.
//!
//! Each run gets a fresh instance, so that what a component did is a function of its bytes, the
//! request, and the host's answers. A component that imports anything but its world and the
//! harmless part of WASI is refused by the name of the import; one that loops, eats memory or
//! crashes gives an [`Error`], and nothing else notices.
//!
//! **Invariant:** this crate knows nothing of BuildKit's gRPC, of registries or of the store:
//! what it needs of them are the traits that it defines.

mod code_cache;
mod error;
mod file_op;
mod frontend;
mod limits;
mod path;
mod preview1;
mod program;
mod runtime;
mod stdio;
mod wasi;

pub use error::{Error, Frames};
pub use file_op::{
    AttributeChanges, Attributes, Entry, EntryKind, FileOps, FileWriter, Layer, LayerFactory,
    NamedEntry, Tree, TreeError,
};
pub use frontend::{
    BuildError, BuildResult, Description, FileKind, FileStat, Frontend, FrontendHost, HostError,
    PlatformResult, Problem, Request, ResolveMode, ResolvedImage, Snapshot, SourceRange, Subgraph,
    Warning,
};
pub use limits::Limits;
pub use path::{InvalidPath, TreePath, decode_name, encode_name};
pub use program::{Preopen, Program, ProgramOutput, ProgramRun};
pub use runtime::{Component, Runtime};
pub use stdio::LogStream;
