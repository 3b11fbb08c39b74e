//! The solver's surface: one [`Solver`] per engine, one [`Job`] per build.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use cofferdam_types::Digest;
use futures::future::try_join_all;

use crate::active::{Active, Shared};
use crate::progress::Feed;
use crate::{Cache, Edge, Graph, Record, Sink, SolveError, Vertex, graph, lock};

/// Solves graphs for any number of builds at a time, and shares work between them.
///
/// Cheap to clone; clones are the same solver.
pub struct Solver<V: Vertex>(Arc<Shared<V>>);

impl<V: Vertex> Clone for Solver<V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<V: Vertex> Solver<V> {
    /// Makes a solver that runs at most `parallelism` vertices at a time, and at least one.
    pub fn new(cache: Arc<dyn Cache<V::Output>>, parallelism: usize) -> Self {
        Self(Shared::new(cache, parallelism))
    }

    /// How many vertices are held, because a job that reached them is open.
    pub fn active(&self) -> usize {
        self.0.active()
    }

    /// Opens a job: everything that one build solves, one edge after the other or at once.
    ///
    /// `sink` is told of every vertex that the job reaches.
    pub fn job(&self, sink: Sink) -> Job<V> {
        self.open(Feed::new(sink, false))
    }

    /// Opens a job that is also told why vertices have to run ([`crate::EventKind::Missed`]),
    /// which takes some searching in the cache.
    pub fn job_with_reasons(&self, sink: Sink) -> Job<V> {
        self.open(Feed::new(sink, true))
    }

    fn open(&self, feed: Arc<Feed>) -> Job<V> {
        Job { shared: self.0.clone(), feed, reached: Mutex::default() }
    }
}

/// What one build solves.
///
/// What the job has reached stays known until the job is dropped: a vertex runs at most once
/// per job, even if it ignores the cache or nothing is cached, and results are held. Errors
/// are not: another solve tries again.
pub struct Job<V: Vertex> {
    shared: Arc<Shared<V>>,
    feed: Arc<Feed>,
    /// By id; these keep alive what they depend on.
    reached: Mutex<HashMap<Digest, Arc<Active<V>>>>,
}

impl<V: Vertex> Drop for Job<V> {
    fn drop(&mut self) {
        self.feed.close();
    }
}

impl<V: Vertex> Job<V> {
    /// Produces the result of `edge`, from the cache or by running what is missing.
    ///
    /// Dropping the future cancels what nobody else waits for. Must be called within a Tokio
    /// runtime.
    ///
    /// # Errors
    ///
    /// The first error of a vertex that is needed for `edge`, or what is wrong with the graph.
    pub async fn solve(
        &self,
        graph: &(impl Graph<V> + ?Sized),
        edge: Edge,
    ) -> Result<Record<V::Output>, Arc<SolveError>> {
        let order = graph::order(graph, edge).map_err(Arc::new)?;
        let solve = self.shared.solves.fetch_add(1, Ordering::SeqCst) + 1;
        let actives = self.shared.activate(order);
        for active in &actives {
            active.follow(&self.feed);
        }
        let wanted = actives.last().expect("the order ends with the wanted vertex").clone();
        lock(&self.reached).insert(wanted.id(), wanted.clone());

        try_join_all(actives.iter().map(|active| active.resolve_key(solve)))
            .await
            .map_err(|failure| failure.error)?;
        for active in &actives {
            active.definition();
        }
        drop(actives);
        wanted.produce(edge.output, solve).await.map_err(|failure| failure.error)
    }
}
