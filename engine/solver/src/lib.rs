//! Decides what has to run, in which order, once.
//!
//! The solver is given a graph of vertices and an edge that somebody wants. It asks the
//! cache whether the edge is known, runs what is missing, and records the results. What a
//! vertex does, what a result is, and where records are kept come in through the traits
//! [`Vertex`], [`Graph`] and [`Cache`]; this crate does no IO of its own and knows nothing of
//! the operating system, wasm, OCI or LLB's concrete ops.
//!
//! # Keys
//!
//! Every edge has up to two keys.
//!
//! - The **definition key** hashes the vertex's own [`Key`], the output index, and for each
//!   input its selector and definition key. It needs no result, so it is looked up first: a
//!   hit means that nothing below is loaded or run. It is a pure function of the graph, and
//!   still hits when the records of intermediate results have been pruned.
//! - The **content key** hashes the vertex's own key, the output index, and for each input
//!   what its result *is*: the content that the vertex reads of it, or the result's
//!   identity. It is looked up when the definition key missed and the inputs have been
//!   produced (each of which may be a hit in turn). A hit makes the definition key an alias.
//!
//! The **identity** of a result is a digest of its content where [`Vertex::identity`] gives
//! one, otherwise the content key that it was first stored under (a run that ignores the
//! cache gets an identity of its own instead, since its result may be a different one).
//! Results with equal identities are one record, so that keys learned by definition and by
//! content lead to the same place.
//!
//! # Sharing
//!
//! A [`Solver`] is made once per engine. Each build opens a [`Job`] and solves edges in it.
//! Vertices with the same digest are shared between all jobs that are open at the time: the
//! key is computed once, the vertex runs once, and every job sees its progress. A vertex that
//! ignores the cache, and what depends on it, is shared only with others that ask for the
//! same. Work that nobody waits for any more is dropped.

mod active;
mod cache;
mod claims;
mod error;
mod flight;
mod graph;
mod miss;
mod progress;
mod solver;
#[cfg(test)]
mod tests;

pub use cache::{Cache, Claim, Entry, Fate, NoCache, Past, Record};
pub use error::{SolveError, VertexError};
pub use graph::{Edge, Graph, InputKey, Key, Leaf, Vertex};
pub use miss::{Change, Miss};
pub use progress::{Context, Event, EventKind, Outcome, Sink, Status, Stream};
pub use solver::{Job, Solver};

/// Locks, also after a panic in a sink: none of our critical sections leaves its data half
/// changed.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
