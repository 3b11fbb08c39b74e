//! A simulated world for the solver's tests: vertices that are strings, and a cache in memory.
//!
//! A vertex's value is its name applied to its inputs' values. What follows a `#` in a value
//! is what a reader by content does not look at, like a file that is not copied.

mod caching;
mod progress;
mod random;
mod scale;
mod sharing;
mod simulation;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use cofferdam_types::{Digest, Hasher};
use expect_test::Expect;
use tokio::sync::Semaphore;

use crate::{
    Cache, Context, Edge, Entry, Event, InputKey, Job, Key, Leaf, Record, Solver, Stream, Vertex,
    VertexError, lock,
};

/// What the vertices depend on and leave behind.
#[derive(Default)]
struct World {
    /// What each source holds, by name.
    sources: Mutex<HashMap<String, String>>,
    /// Vertices that fail, by name.
    failing: Mutex<HashSet<String>>,
    /// Vertices that need a permit from the test to go on, by name.
    gates: Mutex<HashMap<String, Arc<Semaphore>>>,
    log: Mutex<Vec<String>>,
    running: AtomicUsize,
    most_running: AtomicUsize,
}

/// How a vertex behaves.
#[derive(Clone, Debug, Default)]
struct Spec {
    name: String,
    inputs: Vec<Edge>,
    /// Reads its inputs by content.
    by_content: bool,
    /// Knows the content digest of its results.
    identity: bool,
    ignore_cache: bool,
    /// Outputs beyond the first.
    more_outputs: u32,
    /// How often `run` gives way to other tasks.
    yields: usize,
    /// Makes the digest differ from that of an otherwise equal vertex.
    label: &'static str,
}

struct Node {
    world: Arc<World>,
    spec: Spec,
    digest: Digest,
}

#[derive(Debug, thiserror::Error)]
#[error("`{0}` is told to fail")]
struct ToldToFail(String);

impl World {
    fn new() -> Arc<Self> {
        Arc::default()
    }

    fn source(&self, name: &str, content: &str) {
        lock(&self.sources).insert(name.into(), content.into());
    }

    fn gate(&self, name: &str) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        lock(&self.gates).insert(name.into(), gate.clone());
        gate
    }

    fn note(&self, what: &str, name: &str) {
        lock(&self.log).push(format!("{what} {name}"));
    }

    /// What happened since the last time, in order.
    fn take_log(&self) -> String {
        std::mem::take(&mut *lock(&self.log)).join("\n")
    }

    fn check(&self, expected: Expect) {
        expected.assert_eq(&self.take_log());
    }

    /// Waits until `line` is in the log.
    async fn wait_for(&self, line: &str) {
        while !lock(&self.log).iter().any(|other| other == line) {
            tokio::task::yield_now().await;
        }
    }
}

/// What a reader by content looks at.
fn read_part(value: &str) -> &str {
    value.split('#').next().unwrap_or_default()
}

impl Spec {
    fn digest(&self) -> Digest {
        let mut hasher = Hasher::new();
        hasher.field(&self.name);
        hasher.field(self.label);
        for edge in &self.inputs {
            hasher.field(edge.vertex.as_bytes());
            hasher.field(edge.output.to_le_bytes());
        }
        hasher.finish()
    }

    /// The value of one output, given the inputs' values.
    fn value(&self, world: &World, inputs: &[String], output: u32) -> String {
        if let Some(content) = lock(&world.sources).get(&self.name) {
            return content.clone();
        }
        let read = |input: &String| match self.by_content {
            true => read_part(input).to_owned(),
            false => input.clone(),
        };
        let inputs: Vec<_> = inputs.iter().map(read).collect();
        let output = if output == 0 { String::new() } else { format!(".{output}") };
        format!("{}{output}({})", self.name, inputs.join(","))
    }
}

/// Notes a run that is dropped before it ends.
struct Run<'a> {
    node: &'a Node,
    ended: bool,
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        self.node.world.running.fetch_sub(1, Ordering::SeqCst);
        if !self.ended {
            self.node.world.note("drop", &self.node.spec.name);
        }
    }
}

#[async_trait]
impl Vertex for Node {
    type Output = String;

    fn digest(&self) -> Digest {
        self.digest
    }

    fn inputs(&self) -> &[Edge] {
        &self.spec.inputs
    }

    fn name(&self) -> String {
        self.spec.name.clone()
    }

    fn outputs(&self) -> u32 {
        1 + self.spec.more_outputs
    }

    fn ignore_cache(&self) -> bool {
        self.spec.ignore_cache
    }

    async fn key(&self, context: &Context) -> Result<Key, VertexError> {
        let content = lock(&self.world.sources).get(&self.spec.name).cloned();
        if content.is_some() {
            self.world.note("resolve", &self.spec.name);
        }
        if self.spec.name.starts_with("chatty") {
            context.log(Stream::Stderr, "resolving");
        }
        if self.spec.name.starts_with("panic") {
            panic!("as told");
        }
        let content = content.unwrap_or_default();
        let mut hasher = Hasher::new();
        hasher.field(&self.spec.name);
        hasher.field(&content);
        Ok(Key {
            digest: hasher.finish(),
            inputs: vec![
                InputKey { selector: None, by_content: self.spec.by_content };
                self.spec.inputs.len()
            ],
        })
    }

    fn leaves(&self) -> Vec<Leaf> {
        let content = lock(&self.world.sources).get(&self.spec.name).cloned();
        vec![Leaf { name: self.spec.name.clone(), value: content.unwrap_or_default() }]
    }

    async fn content_key(
        &self,
        _input: usize,
        value: &String,
        _context: &Context,
    ) -> Result<Digest, VertexError> {
        Ok(Digest::of(read_part(value)))
    }

    async fn run(
        &self,
        inputs: Vec<String>,
        context: &Context,
    ) -> Result<Vec<String>, VertexError> {
        let running = self.world.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.world.most_running.fetch_max(running, Ordering::SeqCst);
        let mut run = Run { node: self, ended: false };
        self.world.note("run", &self.spec.name);
        context.log(Stream::Stdout, format!("running {}", self.spec.name));
        let gate = lock(&self.world.gates).get(&self.spec.name).cloned();
        if let Some(gate) = gate {
            gate.acquire().await?.forget();
        }
        for _ in 0..self.spec.yields {
            tokio::task::yield_now().await;
        }
        run.ended = true;
        if lock(&self.world.failing).contains(&self.spec.name) {
            self.world.note("fail", &self.spec.name);
            return Err(ToldToFail(self.spec.name.clone()).into());
        }
        let value = |output| self.spec.value(&self.world, &inputs, output);
        Ok((0..self.outputs()).map(value).collect())
    }

    async fn identity(&self, output: &String) -> Option<Digest> {
        self.spec.identity.then(|| Digest::of(output))
    }
}

/// A cache in memory.
#[derive(Default)]
struct Memory {
    records: Mutex<Records>,
    /// How often a key was asked about.
    asked: AtomicUsize,
}

#[derive(Default)]
struct Records {
    identities: HashMap<Digest, Digest>,
    values: HashMap<Digest, String>,
    took: HashMap<Digest, Option<Duration>>,
    aliases: usize,
}

#[async_trait]
impl Cache<String> for Memory {
    async fn lookup(&self, key: &Digest) -> Option<Record<String>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let records = lock(&self.records);
        let identity = *records.identities.get(key)?;
        let took = records.took.get(&identity).copied().flatten();
        Some(Record { value: records.values.get(&identity)?.clone(), identity, took })
    }

    async fn save(&self, entry: Entry<'_, String>) -> Record<String> {
        let mut records = lock(&self.records);
        let Record { value, identity, took } = entry.record;
        for key in entry.keys {
            records.identities.insert(*key, identity);
        }
        let value = records.values.entry(identity).or_insert(value).clone();
        records.took.insert(identity, took);
        Record { value, identity, took }
    }

    async fn alias(&self, key: &Digest, identity: &Digest) {
        let mut records = lock(&self.records);
        records.aliases += 1;
        records.identities.insert(*key, *identity);
    }

    async fn took(&self, keys: &[Digest]) -> Vec<Option<Duration>> {
        self.asked.fetch_add(keys.len(), Ordering::Relaxed);
        let records = lock(&self.records);
        let took = |key| records.took.get(records.identities.get(key)?).copied().flatten();
        keys.iter().map(took).collect()
    }
}

/// A graph under construction.
struct Graph {
    world: Arc<World>,
    nodes: HashMap<Digest, Arc<Node>>,
}

impl Graph {
    fn new(world: &Arc<World>) -> Self {
        Self { world: world.clone(), nodes: HashMap::new() }
    }

    fn add(&mut self, spec: Spec) -> Edge {
        let digest = spec.digest();
        let node = Node { world: self.world.clone(), spec, digest };
        self.nodes.insert(digest, Arc::new(node));
        Edge { vertex: digest, output: 0 }
    }

    /// Adds a vertex whose results are known by definition only.
    fn op(&mut self, name: &str, inputs: &[Edge]) -> Edge {
        self.add(Spec { name: name.into(), inputs: inputs.into(), ..Spec::default() })
    }

    /// Adds a vertex that reads by content and knows its results' content.
    fn copy(&mut self, name: &str, inputs: &[Edge]) -> Edge {
        self.add(Spec {
            name: name.into(),
            inputs: inputs.into(),
            by_content: true,
            identity: true,
            ..Spec::default()
        })
    }
}

fn solver(cache: &Arc<Memory>) -> Solver<Node> {
    Solver::new(cache.clone(), 4)
}

fn quiet(solver: &Solver<Node>) -> Job<Node> {
    solver.job(Arc::new(|_: Event| {}))
}

/// Solves in a job of its own.
async fn solve(cache: &Arc<Memory>, graph: &Graph, edge: Edge) -> String {
    quiet(&solver(cache)).solve(&graph.nodes, edge).await.expect("nothing fails here").value
}
