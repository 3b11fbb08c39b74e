//! What a client is told while a build runs.

use std::sync::Arc;
use std::time::SystemTime;

use cofferdam_component::{SourceRange, Warning};
use cofferdam_llb::SourceInfo;
use cofferdam_solver::{Event, EventKind, Outcome, SolveError, Status};
use cofferdam_types::Digest;

use crate::error::Shared;
use crate::{Error, Excerpt};

/// Takes events. Called from many threads; must return quickly.
pub type Sink = Arc<dyn Fn(BuildEvent) + Send + Sync>;

/// Something that happened.
#[derive(Clone, Debug)]
pub enum BuildEvent {
    /// To a vertex of the graph, or to a phase of the build that is shown like one.
    Vertex(Event),
    /// The frontend has a warning.
    Warning {
        /// The warning.
        warning: Warning,
        /// The lines that it is about.
        excerpts: Vec<Excerpt>,
    },
}

/// Tells of something that is about no line of a source.
pub(crate) fn warn(sink: &Sink, short: &str) {
    let (detail, url, locations) = (Vec::new(), String::new(), Vec::new());
    let warning = Warning { short: short.to_owned(), detail, url, locations };
    sink(BuildEvent::Warning { warning, excerpts: Vec::new() });
}

/// A phase of the build outside the graph, shown like a vertex: completed when it is dropped.
pub(crate) struct Phase {
    sink: Sink,
    vertex: Digest,
    ended: bool,
}

impl Phase {
    pub(crate) fn start(sink: &Sink, name: &str) -> Self {
        let phase =
            Self { sink: sink.clone(), vertex: Digest::of(format!("phase {name}")), ended: false };
        phase.emit(EventKind::Announced { name: name.to_owned(), inputs: Vec::new() });
        phase.emit(EventKind::Started);
        phase
    }

    /// Reports how far parts are, from wherever the work is done.
    pub(crate) fn reporter(&self) -> cofferdam_export::Progress {
        let (sink, vertex) = (self.sink.clone(), self.vertex);
        Arc::new(move |id, current, total| {
            let kind = EventKind::Status(status(id, current, total));
            sink(BuildEvent::Vertex(Event { vertex, at: SystemTime::now(), kind }));
        })
    }

    /// Ends the phase with what came of it.
    pub(crate) fn end<T>(mut self, result: Result<T, Error>) -> Result<T, Error> {
        self.ended = true;
        match result {
            Ok(value) => {
                self.emit(EventKind::Completed(Outcome::Done));
                Ok(value)
            }
            Err(error) => {
                let shown = SolveError::Vertex {
                    vertex: self.vertex,
                    name: String::new(),
                    source: Arc::new(Shared(Arc::new(Error::Invalid(error.to_string())))),
                };
                self.emit(EventKind::Completed(Outcome::Failed(Arc::new(shown))));
                Err(error)
            }
        }
    }

    fn emit(&self, kind: EventKind) {
        let event = Event { vertex: self.vertex, at: SystemTime::now(), kind };
        (self.sink)(BuildEvent::Vertex(event));
    }
}

impl Drop for Phase {
    fn drop(&mut self) {
        if !self.ended {
            self.emit(EventKind::Completed(Outcome::Canceled));
        }
    }
}

/// How far a part is.
pub(crate) fn status(id: &str, current: u64, total: u64) -> Status {
    Status {
        id: id.to_owned(),
        name: id.to_owned(),
        current,
        total,
        started: None,
        completed: (total > 0 && current >= total).then(SystemTime::now),
    }
}

/// The lines that locations point at.
pub(crate) fn excerpts(files: &[SourceInfo], places: &[SourceRange]) -> Vec<Excerpt> {
    let excerpt =
        |place: &SourceRange| Some(Excerpt::of(files.get(place.source as usize)?, *place));
    places.iter().filter_map(excerpt).collect()
}
