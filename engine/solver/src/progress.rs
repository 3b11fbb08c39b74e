//! Progress events: what a vertex does, told to every job that wants the vertex.
//!
//! A job that joins late is told what happened so far. Showing progress to people is up to
//! whoever implements the [`Sink`].

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use cofferdam_types::Digest;

use crate::{Miss, SolveError, lock};

/// Takes a job's events.
///
/// Called while the vertex is locked, so it must return quickly and not call the solver.
pub type Sink = Arc<dyn Fn(Event) + Send + Sync>;

/// Something that happened to a vertex.
#[derive(Clone, Debug)]
pub struct Event {
    /// The vertex's digest.
    pub vertex: Digest,
    /// When it happened.
    pub at: SystemTime,
    /// What happened.
    pub kind: EventKind,
}

/// What happened to a vertex.
///
/// A vertex can be started and completed several times: its key may take work (a source that
/// resolves), and so may hashing its inputs, before it runs or turns out to be cached.
#[derive(Clone, Debug)]
pub enum EventKind {
    /// The vertex is part of a solve. Comes first, and after the inputs' announcements.
    Announced {
        /// The vertex's name for people.
        name: String,
        /// The vertices that it depends on.
        inputs: Vec<Digest>,
    },
    /// The vertex is about to run, because the cache had nothing; told to jobs that want reasons.
    Missed(Miss),
    /// Work began.
    Started,
    /// Work ended.
    Completed(Outcome),
    /// The vertex printed something.
    Log {
        /// Where it was printed to.
        stream: Stream,
        /// What was printed; not cut at line ends.
        data: Bytes,
    },
    /// A part of the work moved on.
    Status(Status),
}

/// How a vertex's work ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It was done.
    Done,
    /// There was none to do: the result, or that of something which depends on it, was known.
    Cached {
        /// How long it took when it was done, where that is known.
        took: Option<Duration>,
    },
    /// It failed.
    Failed(Arc<SolveError>),
    /// Nobody waited for it any more.
    Canceled,
}

/// Where a log line was printed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How far a part of a vertex's work is, like the download of one layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Tells the part from the vertex's other parts.
    pub id: String,
    /// What the part does, for people.
    pub name: String,
    /// How much is done, usually in bytes.
    pub current: u64,
    /// How much there is; 0 where that is unknown.
    pub total: u64,
    /// When the part began, if it has.
    pub started: Option<SystemTime>,
    /// When the part ended, if it has.
    pub completed: Option<SystemTime>,
}

/// What a vertex's method is given to report to whoever waits for it.
///
/// A clone may be kept by a helper task; what it reports after the method ended is dropped.
#[derive(Clone)]
pub struct Context(Arc<Step>);

struct Step {
    progress: Arc<Progress>,
    phase: Mutex<Phase>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Quiet,
    Started,
    Ended,
}

impl Context {
    /// Reports output of the vertex.
    pub fn log(&self, stream: Stream, data: impl Into<Bytes>) {
        self.report(EventKind::Log { stream, data: data.into() });
    }

    /// Reports how far a part of the vertex's work is.
    pub fn status(&self, status: Status) {
        self.report(EventKind::Status(status));
    }

    /// Resolving a key is often nothing to speak of: the first report says that work began.
    fn report(&self, kind: EventKind) {
        let mut phase = lock(&self.0.phase);
        match *phase {
            Phase::Quiet => self.0.progress.emit(EventKind::Started),
            Phase::Started => {}
            Phase::Ended => return,
        }
        *phase = Phase::Started;
        self.0.progress.emit(kind);
    }
}

/// One stretch of a vertex's work; canceled when dropped before it is finished.
pub(crate) struct Work(Context);

impl Work {
    /// Begins a stretch that shows only if something is reported, or if it fails.
    pub(crate) fn quiet(progress: &Arc<Progress>) -> Self {
        let phase = Mutex::new(Phase::Quiet);
        Self(Context(Arc::new(Step { progress: progress.clone(), phase })))
    }

    /// Begins a stretch that shows.
    pub(crate) fn started(progress: &Arc<Progress>) -> Self {
        progress.emit(EventKind::Started);
        let phase = Mutex::new(Phase::Started);
        Self(Context(Arc::new(Step { progress: progress.clone(), phase })))
    }

    pub(crate) fn context(&self) -> &Context {
        &self.0
    }

    pub(crate) fn finish(&self, outcome: Outcome) {
        let mut phase = lock(&self.0.0.phase);
        match (*phase, &outcome) {
            (Phase::Ended, _) | (Phase::Quiet, Outcome::Done | Outcome::Canceled) => {}
            (Phase::Quiet, _) => {
                self.0.0.progress.emit(EventKind::Started);
                self.0.0.progress.emit(EventKind::Completed(outcome));
            }
            (Phase::Started, _) => self.0.0.progress.emit(EventKind::Completed(outcome)),
        }
        *phase = Phase::Ended;
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.finish(Outcome::Canceled);
    }
}

/// Where a job wants its events to go. What it is told has begun, it is also told the end of.
pub(crate) struct Feed {
    sink: Sink,
    /// Whether the job wants to know why vertices have to run.
    reasons: bool,
    /// Vertices that began and have not ended; `None` once the job is over.
    running: Mutex<Option<Vec<Digest>>>,
}

impl Feed {
    pub(crate) fn new(sink: Sink, reasons: bool) -> Arc<Self> {
        Arc::new(Self { sink, reasons, running: Mutex::new(Some(Vec::new())) })
    }

    fn tell(&self, event: Event) {
        let mut running = lock(&self.running);
        let Some(running) = &mut *running else { return };
        match &event.kind {
            EventKind::Missed(_) if !self.reasons => return,
            EventKind::Started if !running.contains(&event.vertex) => running.push(event.vertex),
            EventKind::Completed(_) => running.retain(|vertex| *vertex != event.vertex),
            _ => {}
        }
        (self.sink)(event);
    }

    /// Ends the feed: for its job, what still runs is canceled.
    pub(crate) fn close(&self) {
        let mut running = lock(&self.running);
        for vertex in running.take().into_iter().flatten() {
            let kind = EventKind::Completed(Outcome::Canceled);
            (self.sink)(Event { vertex, at: SystemTime::now(), kind });
        }
    }
}

/// One vertex's history, and the jobs that follow it.
pub(crate) struct Progress {
    vertex: Digest,
    state: Mutex<History>,
}

#[derive(Default)]
struct History {
    feeds: Vec<Weak<Feed>>,
    missed: Option<Event>,
    started: Option<Event>,
    completed: Option<Event>,
    statuses: VecDeque<Event>,
    logs: VecDeque<Event>,
    log_size: usize,
}

/// How much of a vertex's output a late job is told, counting [`LOG_OVERHEAD`] per piece.
const MAX_LOG_SIZE: usize = 256 << 10;
const LOG_OVERHEAD: usize = 64;
/// Of how many parts of a vertex a late job is told.
const MAX_STATUSES: usize = 256;

impl Progress {
    pub(crate) fn new(vertex: Digest) -> Arc<Self> {
        Arc::new(Self { vertex, state: Mutex::default() })
    }

    /// Sends `feed` everything from now on, after the announcement and what it missed.
    pub(crate) fn follow(&self, feed: &Arc<Feed>, announcement: impl FnOnce() -> EventKind) {
        let mut state = lock(&self.state);
        state.feeds.retain(|other| other.strong_count() > 0);
        if state.feeds.iter().any(|other| other.as_ptr() == Arc::as_ptr(feed)) {
            return;
        }
        state.feeds.push(Arc::downgrade(feed));
        feed.tell(self.event(announcement()));
        let History { missed, started, statuses, logs, completed, .. } = &*state;
        for event in missed.iter().chain(started).chain(statuses).chain(logs).chain(completed) {
            feed.tell(event.clone());
        }
    }

    /// Whether there is news of the vertex.
    pub(crate) fn touched(&self) -> bool {
        lock(&self.state).started.is_some()
    }

    /// Says that the vertex is cached, unless there is other news of it.
    pub(crate) fn cached_unless_touched(&self, took: Option<Duration>) {
        let mut state = lock(&self.state);
        if state.started.is_none() {
            self.emit_cached(&mut state, took);
        }
    }

    /// Says that the vertex's result is taken from the cache, unless it is at work on another one.
    pub(crate) fn cached(&self, took: Option<Duration>) {
        let mut state = lock(&self.state);
        if state.started.is_none() || state.completed.is_some() {
            self.emit_cached(&mut state, took);
        }
    }

    fn emit_cached(&self, state: &mut History, took: Option<Duration>) {
        state.emit(self.event(EventKind::Started));
        state.emit(self.event(EventKind::Completed(Outcome::Cached { took })));
    }

    /// Whether a job wants to know why the vertex has to run.
    pub(crate) fn wants_reasons(&self) -> bool {
        let wants = |feed: &Weak<Feed>| feed.upgrade().is_some_and(|feed| feed.reasons);
        lock(&self.state).feeds.iter().any(wants)
    }

    /// Says why the vertex has to run.
    pub(crate) fn missed(&self, miss: Miss) {
        self.emit(EventKind::Missed(miss));
    }

    fn emit(&self, kind: EventKind) {
        lock(&self.state).emit(self.event(kind));
    }

    fn event(&self, kind: EventKind) -> Event {
        Event { vertex: self.vertex, at: SystemTime::now(), kind }
    }
}

impl History {
    fn emit(&mut self, event: Event) {
        for feed in &self.feeds {
            if let Some(feed) = feed.upgrade() {
                feed.tell(event.clone());
            }
        }
        self.remember(event);
    }

    fn remember(&mut self, event: Event) {
        match &event.kind {
            EventKind::Announced { .. } => {}
            EventKind::Missed(_) => self.missed = Some(event),
            EventKind::Started => {
                self.started = Some(event);
                self.completed = None;
            }
            EventKind::Completed(_) => self.completed = Some(event),
            EventKind::Log { data, .. } => {
                self.log_size += data.len() + LOG_OVERHEAD;
                self.logs.push_back(event);
                while self.log_size > MAX_LOG_SIZE {
                    let Some(Event { kind: EventKind::Log { data, .. }, .. }) =
                        self.logs.pop_front()
                    else {
                        break;
                    };
                    self.log_size -= data.len() + LOG_OVERHEAD;
                }
            }
            EventKind::Status(status) => {
                let same = |other: &Event| matches!(&other.kind, EventKind::Status(other) if other.id == status.id);
                if let Some(place) = self.statuses.iter().position(same) {
                    self.statuses[place] = event;
                    return;
                }
                self.statuses.push_back(event);
                if self.statuses.len() > MAX_STATUSES {
                    self.statuses.pop_front();
                }
            }
        }
    }
}
