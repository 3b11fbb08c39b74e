//! What the solver needs to know of a graph: vertices, edges, and a vertex's own cache key.
//!
//! Walking a graph into topological order is here too. What the vertices do is up to whoever
//! implements [`Vertex`].

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;

use async_trait::async_trait;
use cofferdam_types::Digest;

use crate::{Change, Context, SolveError, VertexError};

/// One output of a vertex.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Edge {
    /// The digest of the vertex.
    pub vertex: Digest,
    /// Which of the vertex's outputs, counted from 0.
    pub output: u32,
}

/// A vertex's own cache key: what its results depend on, apart from the inputs' content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The digest of the normalised definition; for a source, of what it resolved to.
    pub digest: Digest,
    /// How each input enters the key, one for each of [`Vertex::inputs`].
    pub inputs: Vec<InputKey>,
}

/// A piece of what a key depends on, like one environment variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// What it is.
    pub name: String,
    /// Its value, or a digest of it.
    pub value: String,
}

/// How one input enters a vertex's cache key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InputKey {
    /// Which part of the input the vertex reads, where it does not read all of it.
    pub selector: Option<Digest>,
    /// Whether [`Vertex::content_key`] can say what the vertex reads of this input.
    pub by_content: bool,
}

/// One vertex of a graph.
///
/// The digest covers the definition and the inputs' digests: within one [`crate::Solver`],
/// vertices with equal digests are taken to be the same piece of work, apart from
/// [`Vertex::ignore_cache`]. A source whose key depends on who asks (a directory of a client)
/// must have that in its digest.
///
/// The futures are dropped when nobody waits for them any more, which is how a vertex learns
/// that it is cancelled.
#[async_trait]
pub trait Vertex: Send + Sync + 'static {
    /// A result, such as a snapshot. Cheap to clone.
    type Output: Clone + Send + Sync + 'static;

    /// The digest that edges name this vertex by.
    fn digest(&self) -> Digest;

    /// What this vertex reads, in the order that `run` gets it.
    fn inputs(&self) -> &[Edge];

    /// A name for people.
    fn name(&self) -> String;

    /// What kind of work it is, like `exec`.
    fn kind(&self) -> &str {
        ""
    }

    /// How many outputs `run` returns.
    fn outputs(&self) -> u32 {
        1
    }

    /// Whether the vertex runs even if its result is known.
    ///
    /// The result is recorded, and found by later solves that do not ignore the cache.
    fn ignore_cache(&self) -> bool {
        false
    }

    /// Whether `run` counts against the solver's parallelism.
    ///
    /// A vertex whose `run` solves a graph of its own must say no: it would wait, holding a
    /// permit, for vertices that wait for a permit.
    fn takes_permit(&self) -> bool {
        true
    }

    /// This vertex's own key. A source resolves here what it stands for.
    ///
    /// Called once while any job that reached the vertex is open. No permit is held.
    async fn key(&self, context: &Context) -> Result<Key, VertexError>;

    /// What went into the key's digest, piece by piece, so that a miss can be explained: if two
    /// keys differ, a leaf should.
    ///
    /// Asked for when the vertex has to run, after its key.
    fn leaves(&self) -> Vec<Leaf> {
        Vec::new()
    }

    /// The digest of what this vertex reads of input `input`, whose result is `value`.
    ///
    /// Only called for inputs whose [`InputKey::by_content`] is set. No permit is held.
    async fn content_key(
        &self,
        input: usize,
        value: &Self::Output,
        context: &Context,
    ) -> Result<Digest, VertexError>;

    /// The first thing that differs between an earlier result of input `input` and the present
    /// one, in what this vertex reads of it.
    ///
    /// Asked as [`Vertex::leaves`] is, for inputs whose [`InputKey::by_content`] is set.
    async fn compare_input(
        &self,
        _input: usize,
        _before: &Self::Output,
        _after: &Self::Output,
    ) -> Option<Change> {
        None
    }

    /// The first thing that differs between an earlier result of this vertex, which has no
    /// inputs, and what it stands for now.
    ///
    /// Asked as [`Vertex::leaves`] is.
    async fn compare_source(&self, _before: &Self::Output) -> Option<Change> {
        None
    }

    /// Does the work: turns the inputs' results into one result for each output.
    async fn run(
        &self,
        inputs: Vec<Self::Output>,
        context: &Context,
    ) -> Result<Vec<Self::Output>, VertexError>;

    /// The digest of a result's content, where that is cheap to come by.
    async fn identity(&self, output: &Self::Output) -> Option<Digest>;
}

/// Finds a graph's vertices by digest.
pub trait Graph<V>: Sync {
    /// The vertex with this digest, if the graph has it.
    fn get(&self, vertex: &Digest) -> Option<Arc<V>>;
}

impl<V: Send + Sync, S: BuildHasher + Sync> Graph<V> for HashMap<Digest, Arc<V>, S> {
    fn get(&self, vertex: &Digest) -> Option<Arc<V>> {
        HashMap::get(self, vertex).cloned()
    }
}

/// Lists what `wanted` depends on, each vertex once and after its inputs.
///
/// # Errors
///
/// When an edge leads nowhere or in a circle.
pub(crate) fn order<V: Vertex>(
    graph: &(impl Graph<V> + ?Sized),
    wanted: Edge,
) -> Result<Vec<(Digest, Arc<V>)>, SolveError> {
    struct Visit<V> {
        vertex: Arc<V>,
        digest: Digest,
        next_input: usize,
    }
    /// How far a vertex is that has been reached: its inputs are being walked, or it has its
    /// place in the order.
    enum Mark {
        Open,
        Placed(usize),
    }

    let mut order: Vec<(Digest, Arc<V>)> = Vec::new();
    let mut marks = HashMap::from([(wanted.vertex, Mark::Open)]);
    // A stack of our own: a chain of vertices may be longer than a thread's stack is deep.
    let mut path =
        vec![Visit { vertex: find(graph, wanted)?, digest: wanted.vertex, next_input: 0 }];
    while let Some(visit) = path.last_mut() {
        let Some(&edge) = visit.vertex.inputs().get(visit.next_input) else {
            marks.insert(visit.digest, Mark::Placed(order.len()));
            order.extend(path.pop().map(|visit| (visit.digest, visit.vertex)));
            continue;
        };
        visit.next_input += 1;
        match marks.get(&edge.vertex) {
            Some(&Mark::Placed(place)) => check_output(&*order[place].1, edge)?,
            Some(Mark::Open) => {
                let name = find(graph, edge)?.name();
                return Err(SolveError::Cycle { vertex: edge.vertex, name });
            }
            None => {
                let vertex = find(graph, edge)?;
                path.push(Visit { vertex, digest: edge.vertex, next_input: 0 });
                marks.insert(edge.vertex, Mark::Open);
            }
        }
    }
    Ok(order)
}

fn find<V: Vertex>(graph: &(impl Graph<V> + ?Sized), edge: Edge) -> Result<Arc<V>, SolveError> {
    let missing = SolveError::MissingVertex { vertex: edge.vertex };
    let vertex = graph.get(&edge.vertex).ok_or(missing)?;
    check_output(&*vertex, edge)?;
    Ok(vertex)
}

fn check_output<V: Vertex>(vertex: &V, edge: Edge) -> Result<(), SolveError> {
    let outputs = vertex.outputs();
    if edge.output < outputs {
        return Ok(());
    }
    let name = vertex.name();
    Err(SolveError::MissingOutput { vertex: edge.vertex, name, output: edge.output, outputs })
}
