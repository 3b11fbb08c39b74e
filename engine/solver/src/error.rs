//! Why a solve failed: the vertex at fault, and its own error, which can be downcast.

use std::error::Error;
use std::sync::Arc;

use cofferdam_types::Digest;

/// What a vertex's methods fail with; `?` converts any error into it.
pub type VertexError = Box<dyn Error + Send + Sync>;

/// Says why a solve failed.
///
/// Shared by everybody who waited for the same vertex.
#[derive(Debug, thiserror::Error)]
pub enum SolveError {
    /// A vertex failed.
    #[error("vertex `{name}` ({vertex}) failed")]
    Vertex {
        /// The vertex's digest.
        vertex: Digest,
        /// The vertex's name for people.
        name: String,
        /// What the vertex returned; see [`SolveError::downcast_ref`].
        source: Arc<dyn Error + Send + Sync>,
    },
    /// A vertex panicked, which is a defect in the engine.
    #[error("vertex `{name}` ({vertex}) panicked: {message}")]
    Panicked {
        /// The vertex's digest.
        vertex: Digest,
        /// The vertex's name for people.
        name: String,
        /// The panic's message.
        message: String,
    },
    /// A vertex broke the contract of [`crate::Vertex`], which is a defect in the engine.
    #[error("vertex `{name}` ({vertex}) has {actual} {what}, expected {expected}")]
    Count {
        /// The vertex's digest.
        vertex: Digest,
        /// The vertex's name for people.
        name: String,
        /// What was counted.
        what: &'static str,
        /// How many there should be.
        expected: usize,
        /// How many there are.
        actual: usize,
    },
    /// The graph does not contain a vertex that an edge names.
    #[error("vertex {vertex} is not in the graph")]
    MissingVertex {
        /// The digest that the edge names.
        vertex: Digest,
    },
    /// An edge names an output that its vertex does not have.
    #[error("vertex `{name}` ({vertex}) has {outputs} outputs, and no output {output}")]
    MissingOutput {
        /// The vertex's digest.
        vertex: Digest,
        /// The vertex's name for people.
        name: String,
        /// The output that the edge names, counted from 0.
        output: u32,
        /// How many outputs the vertex has.
        outputs: u32,
    },
    /// A vertex depends on itself.
    #[error("vertex `{name}` ({vertex}) depends on itself")]
    Cycle {
        /// The vertex's digest.
        vertex: Digest,
        /// The vertex's name for people.
        name: String,
    },
    /// The work was lost without a result: its runtime shut down, or the cache panicked.
    #[error("work on vertex `{name}` ({vertex}) ended without a result")]
    Lost {
        /// The vertex's digest.
        vertex: Digest,
        /// The vertex's name for people.
        name: String,
    },
}

impl SolveError {
    /// The vertex's own error, if the solve failed because of one and it is an `E`.
    ///
    /// Following [`Error::source`] instead would stop at the `Arc` around it.
    pub fn downcast_ref<E: Error + 'static>(&self) -> Option<&E> {
        match self {
            Self::Vertex { source, .. } => source.downcast_ref(),
            _ => None,
        }
    }

    /// The digest of the vertex at fault.
    pub fn vertex(&self) -> Digest {
        match self {
            Self::Vertex { vertex, .. }
            | Self::Panicked { vertex, .. }
            | Self::Count { vertex, .. }
            | Self::MissingVertex { vertex }
            | Self::MissingOutput { vertex, .. }
            | Self::Cycle { vertex, .. }
            | Self::Lost { vertex, .. } => *vertex,
        }
    }
}
