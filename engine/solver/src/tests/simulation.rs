//! Random worlds in virtual time: builds in several processes that share a cache, cancellations,
//! failures, panics and evictions at any moment, against an evaluation from scratch.
//!
//! One thread and a paused clock make every case repeatable; `PROPTEST_CASES` asks for more of
//! them. A build that hangs is seen at once, since time then jumps to the deadline.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use cofferdam_types::{Digest, Hasher};
use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use tokio::runtime::Builder;
use tokio::time::{sleep, timeout};

use super::read_part;
use crate::claims::Claims;
use crate::{
    Cache, Claim, Context, Edge, Entry, Event, EventKind, Fate, InputKey, Key, Leaf, Miss, Past,
    Record, Solver, Vertex, VertexError, lock,
};

/// More than all work of a case takes together.
const DEADLINE: Duration = Duration::from_secs(3600);
const PROCESSES: usize = 3;

/// A vertex, with inputs as numbers that are taken modulo the vertices before it.
#[derive(Clone, Debug)]
struct Plan {
    /// Does the same as this earlier vertex, under another digest.
    twin: Option<usize>,
    inputs: Vec<usize>,
    by_content: bool,
    identity: bool,
    more_outputs: u32,
    key_millis: u64,
    run_millis: u64,
}

/// What changes between builds, and the builds that follow.
#[derive(Clone, Debug)]
struct Round {
    changes: Vec<Change>,
    evictions: Vec<Eviction>,
    builds: Vec<Build>,
}

#[derive(Clone, Debug)]
enum Change {
    /// A source gets new content, with a part that is read and one that is not.
    Source { source: usize, read: u8, unread: u8 },
    /// A vertex works, fails or panics from now on.
    Health { vertex: usize, health: Health },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Works,
    Fails,
    Panics,
}

/// Records are lost: all whose value's length leaves this remainder.
#[derive(Clone, Debug)]
struct Eviction {
    at: u64,
    remainder: usize,
    /// They are not evicted but damaged.
    damage: bool,
}

#[derive(Clone, Debug)]
struct Build {
    process: usize,
    wanted: Vec<usize>,
    ignore_cache: Option<usize>,
    starts: u64,
    /// After how long it is cancelled.
    patience: Option<u64>,
    reasons: bool,
}

fn plan() -> impl Strategy<Value = Plan> {
    let kind = (weighted(0.2, any::<usize>()), any::<bool>(), any::<bool>(), 0..2u32);
    (kind, vec(any::<usize>(), 0..4), 0..3u64, 0..6u64).prop_map(
        |((twin, by_content, identity, more_outputs), inputs, key_millis, run_millis)| Plan {
            twin,
            inputs,
            by_content,
            identity,
            more_outputs,
            key_millis,
            run_millis,
        },
    )
}

fn round() -> impl Strategy<Value = Round> {
    let health =
        prop_oneof![3 => Just(Health::Works), 1 => Just(Health::Fails), 1 => Just(Health::Panics)];
    let change = prop_oneof![
        3 => (any::<usize>(), 0..3u8, 0..3u8)
            .prop_map(|(source, read, unread)| Change::Source { source, read, unread }),
        1 => (any::<usize>(), health)
            .prop_map(|(vertex, health)| Change::Health { vertex, health }),
    ];
    let eviction = (0..20u64, 0..4usize, any::<bool>())
        .prop_map(|(at, remainder, damage)| Eviction { at, remainder, damage });
    let build = (
        0..PROCESSES,
        vec(any::<usize>(), 1..3),
        weighted(0.15, any::<usize>()),
        0..10u64,
        weighted(0.3, 0..20u64),
        any::<bool>(),
    )
        .prop_map(|(process, wanted, ignore_cache, starts, patience, reasons)| Build {
            process,
            wanted,
            ignore_cache,
            starts,
            patience,
            reasons,
        });
    (vec(change, 0..3), vec(eviction, 0..2), vec(build, 1..5))
        .prop_map(|(changes, evictions, builds)| Round { changes, evictions, builds })
}

/// What a vertex is, without the world that it is in.
#[derive(Debug)]
struct Spec {
    name: String,
    digest: Digest,
    inputs: Vec<Edge>,
    plan: Plan,
}

fn specs(plans: &[Plan]) -> Vec<Arc<Spec>> {
    let mut specs: Vec<Arc<Spec>> = Vec::new();
    for (i, plan) in plans.iter().enumerate() {
        let twin = plan.twin.filter(|_| i > 0).map(|twin| specs[twin % i].clone());
        let mut numbers = if i == 0 { vec![] } else { plan.inputs.clone() };
        if let Some(twin) = &twin {
            // As many as the other has; the same ones where there are too few.
            let count = twin.inputs.len();
            if numbers.len() < count || count == 0 {
                numbers.clear();
            }
            numbers.truncate(count);
        }
        let mut inputs: Vec<Edge> = numbers
            .iter()
            .map(|number| {
                let input = &specs[number % i];
                let output = (number / i) as u32 % (1 + input.plan.more_outputs);
                Edge { vertex: input.digest, output }
            })
            .collect();
        let (name, plan) = match &twin {
            Some(twin) => {
                if inputs.is_empty() {
                    inputs.clone_from(&twin.inputs);
                }
                let times = Plan { inputs: vec![], twin: None, ..plan.clone() };
                let plan = Plan {
                    key_millis: times.key_millis,
                    run_millis: times.run_millis,
                    ..twin.plan.clone()
                };
                (twin.name.clone(), plan)
            }
            None => (format!("v{i}"), plan.clone()),
        };
        let mut hasher = Hasher::new();
        hasher.field(i.to_le_bytes());
        hasher.field(&name);
        for edge in &inputs {
            hasher.field(edge.vertex.as_bytes());
            hasher.field(edge.output.to_le_bytes());
        }
        specs.push(Arc::new(Spec { name, digest: hasher.finish(), inputs, plan }));
    }
    specs
}

/// What all processes share.
struct World {
    specs: Vec<Arc<Spec>>,
    sources: Mutex<HashMap<String, String>>,
    health: Mutex<HashMap<String, Health>>,
    running: AtomicUsize,
    /// Counts everything that happens.
    clock: AtomicU64,
    /// What each build that is under way needs, by process.
    needed: Mutex<Vec<(usize, Arc<HashSet<Digest>>)>>,
    /// When each vertex began to run last, by process.
    complaints: Mutex<Vec<String>>,
    store: Mutex<Store>,
    claims: Claims,
}

/// The records, as all processes see them.
#[derive(Default)]
struct Store {
    keys: HashMap<Digest, Digest>,
    values: HashMap<Digest, String>,
    evicted: HashSet<Digest>,
    damaged: HashSet<Digest>,
    /// Latest last.
    past: Vec<(String, Past)>,
    /// When a process last found nothing under a key.
    missed: HashMap<(usize, Digest), u64>,
    /// When the key was last saved by somebody who did not ignore the cache.
    saved: HashMap<Digest, u64>,
}

impl World {
    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    fn complain(&self, text: String) {
        lock(&self.complaints).push(text);
    }

    fn health(&self, name: &str) -> Health {
        lock(&self.health).get(name).copied().unwrap_or(Health::Works)
    }

    /// The value of one output, given the inputs' values.
    fn value(&self, spec: &Spec, inputs: &[String], output: u32) -> String {
        if spec.inputs.is_empty() {
            let content = lock(&self.sources).get(&spec.name).cloned().unwrap_or_default();
            return if output == 0 { content } else { format!("{content}.{output}") };
        }
        let read = |input: &String| match spec.plan.by_content {
            true => read_part(input).to_owned(),
            false => input.clone(),
        };
        let inputs: Vec<_> = inputs.iter().map(read).collect();
        format!("{}.{output}({})", spec.name, inputs.join(","))
    }

    /// The value of every edge, and whether something that it needs does not work.
    fn evaluate(&self) -> BTreeMap<Edge, (String, bool)> {
        let mut values = BTreeMap::<Edge, (String, bool)>::new();
        for spec in &self.specs {
            let inputs: Vec<_> = spec.inputs.iter().map(|edge| values[edge].0.clone()).collect();
            let broken = self.health(&spec.name) != Health::Works
                || spec.inputs.iter().any(|edge| values[edge].1);
            for output in 0..=spec.plan.more_outputs {
                let value = self.value(spec, &inputs, output);
                values.insert(Edge { vertex: spec.digest, output }, (value, broken));
            }
        }
        values
    }

    /// What is needed for the edges.
    fn below(&self, edges: &[Edge]) -> HashSet<Digest> {
        let mut needed: HashSet<Digest> = edges.iter().map(|edge| edge.vertex).collect();
        for spec in self.specs.iter().rev() {
            if needed.contains(&spec.digest) {
                needed.extend(spec.inputs.iter().map(|edge| edge.vertex));
            }
        }
        needed
    }
}

/// A vertex in one process.
struct Node {
    world: Arc<World>,
    spec: Arc<Spec>,
    process: usize,
    ignore_cache: bool,
}

/// Counts a run, also one that is dropped before it ends.
struct Running<'a>(&'a AtomicUsize);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[derive(Debug, thiserror::Error)]
#[error("told to fail")]
struct ToldToFail;

#[async_trait]
impl Vertex for Node {
    type Output = String;

    fn digest(&self) -> Digest {
        self.spec.digest
    }

    fn inputs(&self) -> &[Edge] {
        &self.spec.inputs
    }

    /// Tells the cache who ignores it.
    fn name(&self) -> String {
        format!("{}{}", self.spec.name, if self.ignore_cache { "!" } else { "" })
    }

    fn outputs(&self) -> u32 {
        1 + self.spec.plan.more_outputs
    }

    fn ignore_cache(&self) -> bool {
        self.ignore_cache
    }

    async fn key(&self, _: &Context) -> Result<Key, VertexError> {
        sleep(Duration::from_millis(self.spec.plan.key_millis)).await;
        let mut hasher = Hasher::new();
        hasher.field(&self.spec.name);
        if self.spec.inputs.is_empty() {
            hasher.field(self.world.value(&self.spec, &[], 0));
        }
        let by_content = self.spec.plan.by_content;
        let inputs = vec![InputKey { selector: None, by_content }; self.spec.inputs.len()];
        Ok(Key { digest: hasher.finish(), inputs })
    }

    fn leaves(&self) -> Vec<Leaf> {
        let value = match self.spec.inputs.is_empty() {
            true => self.world.value(&self.spec, &[], 0),
            false => String::new(),
        };
        vec![Leaf { name: "content".into(), value }]
    }

    async fn content_key(
        &self,
        _: usize,
        value: &String,
        _: &Context,
    ) -> Result<Digest, VertexError> {
        sleep(Duration::from_millis(self.spec.plan.key_millis)).await;
        Ok(Digest::of(read_part(value)))
    }

    async fn run(&self, inputs: Vec<String>, _: &Context) -> Result<Vec<String>, VertexError> {
        let world = &self.world;
        world.running.fetch_add(1, Ordering::SeqCst);
        let _running = Running(&world.running);
        let mut unwanted = 0;
        for _ in 0..self.spec.plan.run_millis {
            sleep(Duration::from_millis(1)).await;
            let wanted = lock(&world.needed).iter().any(|(process, needed)| {
                *process == self.process && needed.contains(&self.spec.digest)
            });
            // In the instant in which it is given up, it may still get its turn.
            unwanted += usize::from(!wanted);
            if unwanted > 1 {
                world.complain(format!("{} runs for nobody", self.spec.name));
            }
        }
        match world.health(&self.spec.name) {
            Health::Works => {}
            Health::Fails => return Err(ToldToFail.into()),
            Health::Panics => std::panic::resume_unwind(Box::new("told to panic")),
        }
        Ok((0..self.outputs()).map(|output| world.value(&self.spec, &inputs, output)).collect())
    }

    async fn identity(&self, output: &String) -> Option<Digest> {
        self.spec.plan.identity.then(|| Digest::of(output))
    }
}

/// The cache as one process sees it.
struct Shared {
    world: Arc<World>,
    process: usize,
}

impl Shared {
    /// Takes now no time, now a little.
    async fn dawdle(&self) {
        match self.world.tick() % 5 {
            0 => sleep(Duration::from_millis(1)).await,
            1 => tokio::task::yield_now().await,
            _ => {}
        }
    }
}

#[async_trait]
impl Cache<String> for Shared {
    async fn lookup(&self, key: &Digest) -> Option<Record<String>> {
        self.dawdle().await;
        let now = self.world.tick();
        let found = {
            let mut store = lock(&self.world.store);
            let identity = store.keys.get(key).copied();
            let value = identity.and_then(|identity| store.values.get(&identity).cloned());
            if value.is_none() {
                store.missed.insert((self.process, *key), now);
            }
            identity.zip(value)
        };
        self.dawdle().await;
        found.map(|(identity, value)| Record { value, identity, took: None })
    }

    async fn save(&self, entry: Entry<'_, String>) -> Record<String>
    where
        String: 'async_trait,
    {
        self.dawdle().await;
        let now = self.world.tick();
        let mut store = lock(&self.world.store);
        let spec = self.world.specs.iter().find(|spec| spec.digest == entry.vertex);
        let key = *entry.keys.last().expect("there is always a key");
        if !entry.name.ends_with('!') {
            let missed = store.missed.remove(&(self.process, key));
            let saved = store.saved.insert(key, now);
            // The first of several outputs is looked for on behalf of all.
            let only = spec.is_some_and(|spec| spec.plan.more_outputs == 0);
            if only && missed.is_none_or(|missed| saved.is_some_and(|saved| saved > missed)) {
                self.world.complain(format!("{} ran though it was known", entry.name));
            }
        }
        let Record { value, identity, took } = entry.record;
        for key in entry.keys {
            store.keys.insert(*key, identity);
            store.evicted.remove(key);
            store.damaged.remove(key);
        }
        let value = store.values.entry(identity).or_insert(value).clone();
        let past = Past {
            name: entry.name.into(),
            kind: entry.kind.into(),
            op: entry.op,
            leaves: entry.leaves.into(),
            inputs: entry.inputs.into(),
            identity,
        };
        store.past.push((entry.name.into(), past));
        Record { value, identity, took }
    }

    async fn alias(&self, key: &Digest, identity: &Digest) {
        self.dawdle().await;
        lock(&self.world.store).keys.insert(*key, *identity);
    }

    async fn claim(&self, key: &Digest) -> Claim {
        self.dawdle().await;
        Box::new(self.world.claims.claim(*key).await)
    }

    async fn fate(&self, key: &Digest) -> Option<Fate> {
        self.dawdle().await;
        let store = lock(&self.world.store);
        if store.evicted.contains(key) {
            return Some(Fate::Evicted { at: SystemTime::UNIX_EPOCH });
        }
        store.damaged.contains(key).then_some(Fate::Lost)
    }

    async fn load(&self, identity: &Digest) -> Option<String>
    where
        String: 'async_trait,
    {
        self.dawdle().await;
        lock(&self.world.store).values.get(identity).cloned()
    }

    async fn past(&self, name: &str) -> Vec<Past> {
        self.dawdle().await;
        let store = lock(&self.world.store);
        let of_name = store.past.iter().rev().filter(|(other, _)| other == name);
        of_name.map(|(_, past)| past.clone()).take(4).collect()
    }
}

impl World {
    fn evict(&self, eviction: &Eviction) {
        let mut store = lock(&self.store);
        let Store { keys, values, evicted, damaged, .. } = &mut *store;
        values.retain(|_, value| value.len() % 4 != eviction.remainder);
        let gone = keys.iter().filter(|(_, identity)| !values.contains_key(identity));
        let gone: Vec<Digest> = gone.map(|(key, _)| *key).collect();
        for key in gone {
            keys.remove(&key);
            if eviction.damage {
                damaged.insert(key)
            } else {
                evicted.insert(key)
            };
        }
    }

    async fn build(
        self: &Arc<Self>,
        solver: &Solver<Node>,
        build: &Build,
        known: &HashSet<String>,
    ) {
        sleep(Duration::from_millis(build.starts)).await;
        let expected = self.evaluate();
        let edges: Vec<Edge> = expected.keys().copied().collect();
        let wanted: Vec<Edge> = build.wanted.iter().map(|n| edges[n % edges.len()]).collect();
        let ignored = build.ignore_cache.map(|number| number % self.specs.len());
        let node = |(i, spec): (usize, &Arc<Spec>)| {
            let (world, spec, process) = (self.clone(), spec.clone(), build.process);
            let node = Node { world, spec, process, ignore_cache: ignored == Some(i) };
            (node.spec.digest, Arc::new(node))
        };
        let graph: HashMap<Digest, Arc<Node>> = self.specs.iter().enumerate().map(node).collect();

        let needed = Arc::new(self.below(&wanted));
        lock(&self.needed).push((build.process, needed.clone()));
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = told.clone();
        let sink = Arc::new(move |event: Event| lock(&tell).push(event));
        let job = match build.reasons {
            true => solver.job_with_reasons(sink),
            false => solver.job(sink),
        };
        let solves = wanted.iter().map(|edge| {
            let (job, graph, expected) = (&job, &graph, &expected);
            async move {
                match job.solve(graph, *edge).await {
                    Ok(record) if record.value == expected[edge].0 => {}
                    Ok(record) => {
                        self.complain(format!("{} instead of {}", record.value, expected[edge].0))
                    }
                    Err(_) if expected[edge].1 => {}
                    Err(error) => self.complain(format!("{error:?}")),
                }
            }
        });
        let patience = build.patience.map_or(DEADLINE, Duration::from_millis);
        let result = timeout(patience, futures::future::join_all(solves)).await;
        if result.is_err() && build.patience.is_none() {
            self.complain("a build hangs".into());
        }
        drop(job);
        let mut all = lock(&self.needed);
        let place = all.iter().position(|(_, other)| Arc::ptr_eq(other, &needed));
        all.swap_remove(place.expect("it was put there"));
        drop(all);
        self.check_events(&lock(&told), build.reasons, known);
    }

    /// Announced first and after the inputs; started and completed in turns; reasons just before
    /// the start, for those who want them. `known` are the names that the cache knew before the round.
    fn check_events(&self, events: &[Event], reasons: bool, known: &HashSet<String>) {
        let mut working: HashMap<Digest, bool> = HashMap::new();
        let mut names: HashMap<Digest, &str> = HashMap::new();
        for event in events {
            let before = working.get(&event.vertex).copied();
            let fine = match &event.kind {
                EventKind::Announced { name, inputs } => {
                    working.insert(event.vertex, false);
                    names.insert(event.vertex, name);
                    before.is_none() && inputs.iter().all(|input| working.contains_key(input))
                }
                EventKind::Started => {
                    working.insert(event.vertex, true);
                    before == Some(false)
                }
                EventKind::Completed(_) => {
                    working.insert(event.vertex, false);
                    before == Some(true)
                }
                EventKind::Missed(miss) => {
                    let sensible = match miss {
                        Miss::NeverSeen => !known.contains(names[&event.vertex]),
                        Miss::Changed(change) => change.before != change.after,
                        Miss::InputChanged { vertex, .. } => working.contains_key(vertex),
                        _ => true,
                    };
                    reasons && before == Some(false) && sensible
                }
                EventKind::Log { .. } | EventKind::Status(_) => before == Some(true),
            };
            if !fine {
                let kinds = events.iter().filter(|other| other.vertex == event.vertex);
                let kinds: Vec<_> = kinds.map(|other| &other.kind).collect();
                self.complain(format!("{:?} out of place in {kinds:?}", event.kind));
            }
        }
    }
}

async fn simulate(plans: &[Plan], rounds: &[Round]) -> Vec<String> {
    let world = Arc::new(World {
        specs: specs(plans),
        sources: Mutex::default(),
        health: Mutex::default(),
        running: AtomicUsize::new(0),
        clock: AtomicU64::new(0),
        needed: Mutex::default(),
        complaints: Mutex::default(),
        store: Mutex::default(),
        claims: Claims::default(),
    });
    let mut sources: Vec<&str> = Vec::new();
    for spec in world.specs.iter().filter(|spec| spec.inputs.is_empty()) {
        if !sources.contains(&spec.name.as_str()) {
            sources.push(&spec.name);
        }
        lock(&world.sources).insert(spec.name.clone(), "0#0".into());
    }
    let solvers: Vec<Solver<Node>> = (0..PROCESSES)
        .map(|process| Solver::new(Arc::new(Shared { world: world.clone(), process }), 2))
        .collect();
    for round in rounds {
        for change in &round.changes {
            match change {
                Change::Source { source, read, unread } => {
                    let name = sources[source % sources.len()].to_owned();
                    lock(&world.sources).insert(name, format!("{read}#{unread}"));
                }
                Change::Health { vertex, health } => {
                    let name = world.specs[vertex % world.specs.len()].name.clone();
                    lock(&world.health).insert(name, *health);
                }
            }
        }
        let known = lock(&world.store).past.iter().map(|(name, _)| name.clone()).collect();
        let builds =
            round.builds.iter().map(|build| world.build(&solvers[build.process], build, &known));
        let evictions = round.evictions.iter().map(|eviction| async {
            sleep(Duration::from_millis(eviction.at)).await;
            world.evict(eviction);
        });
        futures::future::join(
            futures::future::join_all(builds),
            futures::future::join_all(evictions),
        )
        .await;
        // What was cancelled comes to its end, and nothing is kept.
        sleep(Duration::from_millis(1)).await;
        let held: usize = solvers.iter().map(Solver::active).sum();
        let running = world.running.load(Ordering::SeqCst);
        if running > 0 || held > 0 {
            world.complain(format!("{running} vertices run and {held} are held after all builds"));
        }
    }
    std::mem::take(&mut *lock(&world.complaints))
}

#[test]
fn builds_in_several_processes_agree_with_an_evaluation_from_scratch() {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime of one thread");
    let config = ProptestConfig::default();
    let cases = config.cases * 8;
    let strategy = (vec(plan(), 1..12), vec(round(), 1..6));
    proptest!(ProptestConfig { cases, ..config }, |((plans, rounds) in strategy)| {
        let complaints = runtime.block_on(simulate(&plans, &rounds));
        prop_assert!(complaints.is_empty(), "{}", complaints[0]);
    });
}
