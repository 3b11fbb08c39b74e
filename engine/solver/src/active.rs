//! A vertex that open jobs have reached: what is known of it, and how its results are come by.
//!
//! The order of things for one vertex is here; which vertices are reached is decided in
//! [`crate::Job::solve`], and that everything happens once in [`crate::flight`].

use std::collections::HashMap;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Instant, SystemTime};

use cofferdam_types::{Digest, Hasher};
use futures::FutureExt;
use futures::future::{BoxFuture, try_join_all};
use tokio::sync::Semaphore;

use crate::cache::{content_key, definition_key, output_key};
use crate::claims::{self, Claims};
use crate::flight::{Failure, Flight};
use crate::miss::{Difference, Present};
use crate::progress::{Feed, Progress, Work};
use crate::{
    Cache, Change, Claim, Entry, EventKind, Fate, Key, Miss, Outcome, Record, SolveError, Vertex,
    VertexError, lock,
};

/// What all vertices of a solver have in common.
pub(crate) struct Shared<V: Vertex> {
    pub(crate) cache: Arc<dyn Cache<V::Output>>,
    pub(crate) permits: Semaphore,
    /// The number of the latest solve.
    pub(crate) solves: AtomicU64,
    /// The vertices that open jobs have reached, by [`Active::id`].
    table: Mutex<HashMap<Digest, Weak<Active<V>>>>,
    claims: Claims,
}

/// A vertex that at least one open job has reached.
pub(crate) struct Active<V: Vertex> {
    shared: Arc<Shared<V>>,
    /// The vertex's digest; another one if it or something below it ignores the cache.
    id: Digest,
    digest: Digest,
    vertex: Arc<V>,
    /// One for each of the vertex's inputs. Keeps what is below alive.
    inputs: Vec<(Arc<Active<V>>, u32)>,
    lookup: Lookup,
    progress: Arc<Progress>,
    /// Whether somebody has begun to say that the vertex is cached.
    told_cached: AtomicBool,
    key: Flight<Arc<Key>>,
    definition: OnceLock<Digest>,
    ready: Flight<Arc<Ready<V::Output>>>,
    executed: Flight<Arc<Vec<Record<V::Output>>>>,
    /// By output, as far as they have been asked for.
    results: Mutex<HashMap<u32, Flight<Record<V::Output>>>>,
}

/// What a vertex's result may be looked up by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lookup {
    Always,
    /// Something below ignores the cache: what the inputs are is known when they have run.
    ByContent,
    /// The vertex itself ignores the cache.
    Never,
}

/// Keeps equal vertices from running: those of other solvers, and those of this one.
struct Claimed {
    _elsewhere: Claim,
    _here: claims::Claim,
}

/// A vertex's inputs, produced and hashed.
struct Ready<O> {
    values: Vec<O>,
    digests: Vec<Digest>,
    /// The content key, without an output; the definition key where there are no inputs.
    key: Digest,
}

impl<V: Vertex> Shared<V> {
    pub(crate) fn new(cache: Arc<dyn Cache<V::Output>>, parallelism: usize) -> Arc<Self> {
        Arc::new(Self {
            cache,
            permits: Semaphore::new(parallelism.clamp(1, Semaphore::MAX_PERMITS)),
            solves: AtomicU64::new(0),
            table: Mutex::default(),
            claims: Claims::default(),
        })
    }

    pub(crate) fn active(&self) -> usize {
        lock(&self.table).len()
    }

    /// Finds or makes the active vertices for `order`, which has inputs before consumers.
    pub(crate) fn activate(self: &Arc<Self>, order: Vec<(Digest, Arc<V>)>) -> Vec<Arc<Active<V>>> {
        let mut by_digest: HashMap<Digest, Arc<Active<V>>> = HashMap::with_capacity(order.len());
        let mut table = lock(&self.table);
        let activate = |(digest, vertex): (Digest, Arc<V>)| {
            let inputs: Vec<_> = vertex
                .inputs()
                .iter()
                .map(|edge| (by_digest[&edge.vertex].clone(), edge.output))
                .collect();
            let lookup = if vertex.ignore_cache() {
                Lookup::Never
            } else if inputs.iter().any(|(input, _)| input.lookup != Lookup::Always) {
                Lookup::ByContent
            } else {
                Lookup::Always
            };
            let id = active_id(digest, lookup, inputs.iter().map(|(input, _)| input.id));
            let place = table.entry(id).or_default();
            let active = place.upgrade().unwrap_or_else(|| {
                let active = Arc::new(Active {
                    shared: self.clone(),
                    id,
                    digest,
                    vertex,
                    inputs,
                    lookup,
                    progress: Progress::new(digest),
                    told_cached: AtomicBool::new(false),
                    key: Flight::default(),
                    definition: OnceLock::new(),
                    ready: Flight::default(),
                    executed: Flight::default(),
                    results: Mutex::default(),
                });
                *place = Arc::downgrade(&active);
                active
            });
            by_digest.insert(digest, active.clone());
            active
        };
        order.into_iter().map(activate).collect()
    }
}

/// Two solves share a vertex if they agree on what below it is to be run anew.
fn active_id(digest: Digest, lookup: Lookup, inputs: impl Iterator<Item = Digest>) -> Digest {
    if lookup == Lookup::Always {
        return digest;
    }
    let mut hasher = Hasher::new();
    hasher.field("cofferdam.ignore-cache");
    hasher.field(digest.as_bytes());
    hasher.field([u8::from(lookup == Lookup::Never)]);
    for input in inputs {
        hasher.field(input.as_bytes());
    }
    hasher.finish()
}

impl<V: Vertex> Active<V> {
    pub(crate) fn id(&self) -> Digest {
        self.id
    }

    /// Sends the vertex's events to `feed` for as long as it lives.
    pub(crate) fn follow(&self, feed: &Arc<Feed>) {
        self.progress.follow(feed, || EventKind::Announced {
            name: self.vertex.name(),
            inputs: self.vertex.inputs().iter().map(|edge| edge.vertex).collect(),
        });
    }

    /// Makes sure that the vertex's own key is known.
    pub(crate) async fn resolve_key(self: &Arc<Self>, solve: u64) -> Result<(), Failure> {
        let start = || {
            let this = self.clone();
            async move {
                let work = Work::quiet(&this.progress);
                let key = this.call(&work, this.vertex.key(work.context())).await?;
                this.count(&work, "inputs in its key", this.inputs.len(), key.inputs.len())?;
                work.finish(Outcome::Done);
                Ok(Arc::new(key))
            }
        };
        self.key.get(solve, start).await.unwrap_or_else(|| Err(self.lost()))?;
        Ok(())
    }

    /// The definition key, without an output.
    ///
    /// Goes one step down only: it is asked for in topological order, as soon as all keys are
    /// known and before anything is produced.
    pub(crate) fn definition(&self) -> Digest {
        *self.definition.get_or_init(|| {
            let key = self.known_key();
            let inputs = key
                .inputs
                .iter()
                .zip(&self.inputs)
                .map(|(how, (input, output))| (how, output_key(&input.definition(), *output)));
            definition_key(&key.digest, inputs)
        })
    }

    fn known_key(&self) -> Arc<Key> {
        self.key.done().expect("keys are resolved before anything is produced")
    }

    /// The result for one output, from the cache or by running.
    ///
    /// Boxed, since producing a vertex produces its inputs.
    pub(crate) fn produce<'a>(
        self: &'a Arc<Self>,
        output: u32,
        solve: u64,
    ) -> BoxFuture<'a, Result<Record<V::Output>, Failure>> {
        let flight = lock(&self.results).entry(output).or_default().clone();
        async move {
            flight
                .get(solve, || self.clone().look_up_or_execute(output, solve))
                .await
                .unwrap_or_else(|| Err(self.lost()))
        }
        .boxed()
    }

    async fn look_up_or_execute(
        self: Arc<Self>,
        output: u32,
        solve: u64,
    ) -> Result<Record<V::Output>, Failure> {
        let cache = &self.shared.cache;
        let by_definition = output_key(&self.definition(), output);
        if self.lookup == Lookup::Always
            && let Some(record) = cache.lookup(&by_definition).await
        {
            self.tell_cached(&record).await;
            return Ok(record);
        }

        let ready = self.get_ready(solve).await?;
        let claimed = match self.lookup {
            Lookup::Never => None,
            Lookup::Always | Lookup::ByContent => {
                match self.claim_or_look_up(&ready, output).await {
                    Ok(claimed) => Some(claimed),
                    Err(record) => return Ok(record),
                }
            }
        };
        // The run holds the claim, and no matter who waits for it: it lasts until the run ends.
        let start = || self.clone().execute(ready, output, claimed);
        let executed = self.executed.get(solve, start).await.unwrap_or_else(|| Err(self.lost()))?;
        Ok(executed[output as usize].clone())
    }

    /// Claims the content key of a vertex that has to run, or finds that it need not.
    ///
    /// Under a claim there is nobody who makes the same: it has been looked up since.
    async fn claim_or_look_up(
        &self,
        ready: &Ready<V::Output>,
        output: u32,
    ) -> Result<Claimed, Record<V::Output>> {
        let here = self.shared.claims.claim(ready.key).await;
        if self.executed.done().is_none() {
            if let Some(record) = self.look_up_ready(ready, output).await {
                return Err(record);
            }
            let elsewhere = self.shared.cache.claim(&ready.key).await;
            return match self.look_up_ready(ready, output).await {
                Some(record) => Err(record),
                None => Ok(Claimed { _elsewhere: elsewhere, _here: here }),
            };
        }
        Ok(Claimed { _elsewhere: Box::new(()), _here: here })
    }

    /// Looks for a result now that the inputs are known.
    async fn look_up_ready(
        &self,
        ready: &Ready<V::Output>,
        output: u32,
    ) -> Option<Record<V::Output>> {
        let by_content = output_key(&ready.key, output);
        let record = self.shared.cache.lookup(&by_content).await?;
        let by_definition = output_key(&self.definition(), output);
        if by_definition != by_content {
            self.shared.cache.alias(&by_definition, &record.identity).await;
        }
        self.tell_cached(&record).await;
        Some(record)
    }

    async fn get_ready(self: &Arc<Self>, solve: u64) -> Result<Arc<Ready<V::Output>>, Failure> {
        let start = || self.clone().make_ready(solve);
        self.ready.get(solve, start).await.unwrap_or_else(|| Err(self.lost()))
    }

    async fn make_ready(self: Arc<Self>, solve: u64) -> Result<Arc<Ready<V::Output>>, Failure> {
        let inputs = self.inputs.iter().map(|(input, output)| input.produce(*output, solve));
        let records = try_join_all(inputs).await?;

        let key = self.known_key();
        let work = Work::quiet(&self.progress);
        let digests = records.iter().zip(&key.inputs).enumerate().map(|(i, (record, how))| {
            let (this, work) = (&self, &work);
            async move {
                if !how.by_content {
                    return Ok(record.identity);
                }
                this.call(work, this.vertex.content_key(i, &record.value, work.context())).await
            }
        });
        let digests = try_join_all(digests).await?;
        work.finish(Outcome::Done);

        let ready_key = if digests.is_empty() {
            self.definition()
        } else {
            content_key(&key.digest, key.inputs.iter().zip(digests.iter().copied()))
        };
        let values = records.into_iter().map(|record| record.value).collect();
        Ok(Arc::new(Ready { values, digests, key: ready_key }))
    }

    async fn execute(
        self: Arc<Self>,
        ready: Arc<Ready<V::Output>>,
        output: u32,
        _claimed: Option<Claimed>,
    ) -> Result<Arc<Vec<Record<V::Output>>>, Failure> {
        if self.progress.wants_reasons() {
            let miss = self.explain(&ready, output).await;
            self.progress.missed(miss);
        }
        let permit = match self.vertex.takes_permit() {
            true => self.shared.permits.acquire().await.ok(),
            false => None,
        };
        let work = Work::started(&self.progress);
        let began = Instant::now();
        let run = self.vertex.run(ready.values.clone(), work.context());
        let values = self.call(&work, run).await?;
        let took = Some(began.elapsed());
        drop(permit);
        self.count(&work, "results", self.vertex.outputs() as usize, values.len())?;

        let (op, leaves, name) =
            (self.known_key().digest, self.vertex.leaves(), self.vertex.name());
        let mut records = Vec::with_capacity(values.len());
        for (output, value) in (0..).zip(values) {
            let by_definition = output_key(&self.definition(), output);
            let by_content = output_key(&ready.key, output);
            let identity = match self.vertex.identity(&value).await {
                Some(identity) => identity,
                None if self.lookup == Lookup::Never => unique(by_content),
                None => by_content,
            };
            let keys = [by_definition, by_content];
            let entry = Entry {
                keys: if by_definition == by_content { &keys[..1] } else { &keys },
                record: Record { value, identity, took },
                vertex: self.digest,
                name: &name,
                kind: self.vertex.kind(),
                output,
                op,
                leaves: &leaves,
                inputs: &ready.digests,
            };
            records.push(self.shared.cache.save(entry).await);
        }
        work.finish(Outcome::Done);
        Ok(Arc::new(records))
    }

    /// Why the cache has nothing for an output of the vertex.
    async fn explain(&self, ready: &Ready<V::Output>, output: u32) -> Miss {
        if self.lookup == Lookup::Never {
            return Miss::Ignored;
        }
        let cache = &self.shared.cache;
        let keys = [output_key(&self.definition(), output), output_key(&ready.key, output)];
        for key in &keys {
            match cache.fate(key).await {
                Some(Fate::Evicted { at }) => return Miss::Evicted { at },
                Some(Fate::Lost) => return Miss::Lost,
                None => {}
            }
        }
        let name = self.vertex.name();
        let past = cache.past(&name).await;
        let present = Present {
            name: &name,
            kind: self.vertex.kind(),
            op: self.known_key().digest,
            leaves: &self.vertex.leaves(),
            inputs: &ready.digests,
        };
        match present.compare(&past) {
            Difference::NothingLike => Miss::NeverSeen,
            Difference::Leaf(change, past) => {
                let closer = match self.inputs.is_empty() {
                    true => match cache.load(&past.identity).await {
                        Some(before) => self.vertex.compare_source(&before).await,
                        None => None,
                    },
                    false => None,
                };
                Miss::Changed(closer.unwrap_or(change))
            }
            Difference::Input(index, before) => {
                let (input, _) = &self.inputs[index];
                let (vertex, name) = (input.digest, input.vertex.name());
                let change = self.compare_input(ready, index, before).await;
                Miss::InputChanged { vertex, name, change }
            }
            Difference::Nothing => Miss::Lost,
        }
    }

    /// What differs between an input and its earlier result of which the vertex read `before`.
    async fn compare_input(
        &self,
        ready: &Ready<V::Output>,
        index: usize,
        before: Digest,
    ) -> Option<Change> {
        if !self.known_key().inputs[index].by_content {
            return None;
        }
        let (cache, work) = (&self.shared.cache, Work::quiet(&self.progress));
        for past in cache.past(&self.inputs[index].0.vertex.name()).await {
            let Some(value) = cache.load(&past.identity).await else { continue };
            let read = self.vertex.content_key(index, &value, work.context()).await;
            if read.is_ok_and(|read| read == before) {
                return self.vertex.compare_input(index, &value, &ready.values[index]).await;
            }
        }
        None
    }

    /// Says that this vertex is cached, and so is everything below that is not heard of
    /// otherwise. Inputs come before what reads them.
    async fn tell_cached(&self, record: &Record<V::Output>) {
        let below = self.silent_below();
        let keys: Vec<_> = below
            .iter()
            .map(|(active, output)| output_key(&active.definition(), *output))
            .collect();
        let took = match keys.as_slice() {
            [] => Vec::new(),
            keys => self.shared.cache.took(keys).await,
        };
        for ((active, _), took) in below.iter().zip(took) {
            active.progress.cached_unless_touched(took);
        }
        self.progress.cached(record.took);
    }

    /// What is below that nothing was heard of yet, each vertex once for all who ask, in
    /// topological order.
    fn silent_below(&self) -> Vec<(&Arc<Self>, u32)> {
        let mut order = Vec::new();
        // A stack of our own: the graph may be deeper than a thread's stack.
        let mut path = vec![self.inputs.iter()];
        let mut open = Vec::new();
        while let Some(inputs) = path.last_mut() {
            let Some((input, output)) = inputs.next() else {
                path.pop();
                order.extend(open.pop());
                continue;
            };
            if !input.progress.touched() && !input.told_cached.swap(true, Ordering::Relaxed) {
                path.push(input.inputs.iter());
                open.push((input, *output));
            }
        }
        order
    }

    /// Awaits one of the vertex's methods, and says what went wrong.
    async fn call<T>(
        &self,
        work: &Work,
        method: impl Future<Output = Result<T, VertexError>>,
    ) -> Result<T, Failure> {
        let (vertex, name) = (self.digest, || self.vertex.name());
        let error = match AssertUnwindSafe(method).catch_unwind().await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => SolveError::Vertex { vertex, name: name(), source: error.into() },
            Err(panic) => {
                let message = panic
                    .downcast_ref::<&str>()
                    .map(|text| (*text).to_owned())
                    .or_else(|| panic.downcast_ref::<String>().cloned())
                    .unwrap_or_else(|| "no message".into());
                SolveError::Panicked { vertex, name: name(), message }
            }
        };
        Err(self.fail(work, error))
    }

    fn count(
        &self,
        work: &Work,
        what: &'static str,
        expected: usize,
        actual: usize,
    ) -> Result<(), Failure> {
        if expected == actual {
            return Ok(());
        }
        let (vertex, name) = (self.digest, self.vertex.name());
        Err(self.fail(work, SolveError::Count { vertex, name, what, expected, actual }))
    }

    fn fail(&self, work: &Work, error: SolveError) -> Failure {
        let failure = self.failure(error);
        work.finish(Outcome::Failed(failure.error.clone()));
        failure
    }

    fn lost(&self) -> Failure {
        self.failure(SolveError::Lost { vertex: self.digest, name: self.vertex.name() })
    }

    fn failure(&self, error: SolveError) -> Failure {
        let solve = self.shared.solves.load(Ordering::SeqCst);
        Failure { error: Arc::new(error), solve }
    }
}

impl<V: Vertex> Drop for Active<V> {
    fn drop(&mut self) {
        // One after the other: left to itself, the drop of a chain would recurse.
        let mut below: Vec<_> = self.inputs.drain(..).map(|(input, _)| input).collect();
        while let Some(input) = below.pop() {
            if let Some(mut last) = Arc::into_inner(input) {
                below.extend(last.inputs.drain(..).map(|(input, _)| input));
            }
        }
        let mut table = lock(&self.shared.table);
        // A successor may have taken the place already.
        if table.get(&self.id).is_some_and(|active| active.strong_count() == 0) {
            table.remove(&self.id);
        }
    }
}

/// An identity for a result that may differ from what `key` stood for before.
fn unique(key: Digest) -> Digest {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let mut hasher = Hasher::new();
    hasher.field("cofferdam.identity.unique");
    hasher.field(key.as_bytes());
    // The standard library seeds its hash maps with random numbers, which keeps processes
    // apart that start in the same instant.
    hasher.field(RandomState::new().hash_one(0).to_le_bytes());
    hasher.field(COUNTER.fetch_add(1, Ordering::Relaxed).to_le_bytes());
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    hasher.field(since.as_nanos().to_le_bytes());
    hasher.finish()
}
