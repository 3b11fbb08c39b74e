//! Shows what a build does while it runs, on standard error. Events come from many threads and
//! are written by one, so that a slow terminal does not hold up the build.

mod json;
mod plain;
mod tails;
pub mod text;
mod why;

use std::error::Error;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use cofferdam_build::{BuildEvent, EventKind, Excerpt, Response, Sink, Warning};

pub use tails::Tails;
use text::Colours;

use crate::args::ProgressMode;
use json::Json;
use plain::Plain;

/// Output of steps that waits to be written; beyond it some is left out.
const MAX_QUEUED: usize = 64 << 20;

/// Shows the progress of one build.
pub struct Display {
    sender: Sender<Message>,
    queued: Arc<AtomicUsize>,
    writer: JoinHandle<Seen>,
}

/// What the report at the end needs of what was seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// The last lines of each step.
    pub tails: Tails,
    /// Warnings that were not shown yet.
    pub warnings: Vec<(Warning, Vec<Excerpt>)>,
    /// Pieces of output that are not shown because they came faster than they could be written.
    pub left_out: usize,
}

enum Message {
    Event(BuildEvent),
    LeftOut,
    Result(Response),
    End,
}

impl Display {
    /// Starts to write to `out`.
    pub fn start(mode: ProgressMode, colours: Colours, out: impl Write + Send + 'static) -> Self {
        let (sender, receiver) = channel();
        let queued = Arc::new(AtomicUsize::new(0));
        let renderer = Renderer::new(mode, colours);
        let count = queued.clone();
        let writer = std::thread::spawn(move || write(&receiver, renderer, &count, out));
        Self { sender, queued, writer }
    }

    /// Where the engine's events go.
    pub fn sink(&self) -> Sink {
        let (sender, queued) = (self.sender.clone(), self.queued.clone());
        Arc::new(move |event| {
            let size = log_size(&event);
            let message = if size > 0 && queued.load(Ordering::Relaxed) > MAX_QUEUED {
                Message::LeftOut
            } else {
                queued.fetch_add(size, Ordering::Relaxed);
                Message::Event(event)
            };
            // After the end nobody listens, and nothing is missed.
            let _ = sender.send(message);
        })
    }

    /// Writes what is left, and the result if there is one.
    pub fn finish(self, result: Option<&Response>) -> Seen {
        let result = result.map(|result| Message::Result(result.clone()));
        for message in result.into_iter().chain([Message::End]) {
            // Fails only if the writer panicked, which joining it tells.
            let _ = self.sender.send(message);
        }
        self.writer.join().unwrap_or_default()
    }
}

fn log_size(event: &BuildEvent) -> usize {
    match event {
        BuildEvent::Vertex(event) => match &event.kind {
            EventKind::Log { data, .. } => data.len(),
            _ => 0,
        },
        BuildEvent::Warning { .. } => 0,
    }
}

/// The writing thread.
fn write(
    receiver: &Receiver<Message>,
    mut renderer: Renderer,
    queued: &AtomicUsize,
    mut out: impl Write,
) -> Seen {
    let mut seen = Seen::default();
    for message in receiver {
        let text = match message {
            Message::Event(event) => {
                queued.fetch_sub(log_size(&event), Ordering::Relaxed);
                if let BuildEvent::Vertex(event) = &event {
                    seen.tails.add(event);
                }
                let text = renderer.event(&event);
                if let BuildEvent::Warning { warning, excerpts } = event
                    && renderer.leaves_warnings()
                {
                    seen.warnings.push((warning, excerpts));
                }
                text
            }
            Message::LeftOut => {
                seen.left_out += 1;
                continue;
            }
            Message::Result(response) => renderer.result(&response),
            Message::End => break,
        };
        // Nobody reads standard error any more: the build goes on.
        let _ = out.write_all(text.as_bytes());
    }
    let _ = out.flush();
    seen
}

#[derive(Debug)]
enum Renderer {
    Plain(Plain),
    Json(Json),
    Quiet,
}

impl Renderer {
    fn new(mode: ProgressMode, colours: Colours) -> Self {
        match mode {
            // Terminals get the same as everybody else for now.
            ProgressMode::Auto | ProgressMode::Tty | ProgressMode::Plain => {
                Self::Plain(Plain::new(colours))
            }
            ProgressMode::Json => Self::Json(Json::default()),
            ProgressMode::Quiet => Self::Quiet,
        }
    }

    fn event(&mut self, event: &BuildEvent) -> String {
        match (self, event) {
            (Self::Plain(plain), BuildEvent::Vertex(event)) => plain.render(event),
            (Self::Json(json), event) => json.render(event),
            (Self::Plain(_), BuildEvent::Warning { .. }) | (Self::Quiet, _) => String::new(),
        }
    }

    fn result(&mut self, response: &Response) -> String {
        match self {
            Self::Json(json) => json.result(response),
            Self::Plain(_) | Self::Quiet => String::new(),
        }
    }

    /// Whether warnings are left to the report at the end.
    fn leaves_warnings(&self) -> bool {
        matches!(self, Self::Plain(_))
    }
}

/// What a failed vertex itself said: the solver's own message around it names the vertex, which
/// is shown anyway.
fn failure_message(error: &dyn Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

#[cfg(test)]
pub use testing::failed_step;

#[cfg(test)]
mod testing {
    //! Events for tests.

    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use bytes::Bytes;
    use cofferdam_build::{Event, EventKind, Outcome, Status, Stream};
    use cofferdam_solver::SolveError;
    use cofferdam_types::Digest;

    /// A time that many milliseconds after 2026-11-22T05:00:00Z.
    pub fn at(millis: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_323_600) + Duration::from_millis(millis)
    }

    pub fn announced(name: &str) -> EventKind {
        EventKind::Announced { name: name.to_owned(), inputs: Vec::new() }
    }

    pub fn log(stream: Stream, text: &str) -> EventKind {
        EventKind::Log { stream, data: Bytes::copy_from_slice(text.as_bytes()) }
    }

    pub fn status(id: &str, current: u64, total: u64) -> EventKind {
        EventKind::Status(Status {
            id: id.to_owned(),
            name: id.to_owned(),
            current,
            total,
            ..Status::default()
        })
    }

    pub fn failed(message: &str) -> Outcome {
        Outcome::Failed(Arc::new(SolveError::Vertex {
            vertex: Digest::of("failed"),
            name: "failed".into(),
            source: Arc::new(std::io::Error::other(message.to_owned())),
        }))
    }

    /// All events of a step that prints something and fails.
    pub fn failed_step(name: &str, output: &str) -> Vec<Event> {
        let kinds = [
            announced(name),
            EventKind::Started,
            log(Stream::Stdout, output),
            EventKind::Completed(failed("exit code: 1")),
        ];
        let event = |kind| Event { vertex: Digest::of(name), at: at(0), kind };
        kinds.map(event).into()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use cofferdam_build::{Event, Outcome, Stream};
    use cofferdam_types::Digest;

    use super::testing::{announced, at, log};
    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("not poisoned").write(data)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn warning() -> BuildEvent {
        let warning = Warning {
            short: "careful".into(),
            detail: Vec::new(),
            url: String::new(),
            locations: Vec::new(),
        };
        BuildEvent::Warning { warning, excerpts: Vec::new() }
    }

    /// What is written and seen in one mode.
    fn run(mode: ProgressMode) -> (String, Seen) {
        let buffer = Buffer::default();
        let display = Display::start(mode, Colours::Remove, buffer.clone());
        let sink = display.sink();
        for kind in [
            announced("RUN x"),
            EventKind::Started,
            log(Stream::Stdout, "said\n"),
            EventKind::Completed(Outcome::Done),
        ] {
            sink(BuildEvent::Vertex(Event { vertex: Digest::of("x"), at: at(0), kind }));
        }
        sink(warning());
        let seen = display.finish(Some(&Response::default()));
        // The engine may keep the sink for longer.
        sink(warning());
        let text = buffer.0.lock().expect("not poisoned").clone();
        (String::from_utf8(text).expect("UTF-8"), seen)
    }

    #[test]
    fn each_mode_shows_what_it_should() {
        let (text, seen) = run(ProgressMode::Plain);
        assert_eq!(text, "#1 RUN x\n#1 0.000 said\n#1 DONE 0.0s\n");
        assert_eq!((seen.warnings.len(), seen.left_out), (1, 0));
        let (text, seen) = run(ProgressMode::Json);
        assert_eq!(text.lines().count(), 6, "{text}");
        assert!(text.ends_with("\n") && text.contains("\"result\""), "{text}");
        assert_eq!(seen.warnings.len(), 0, "the warning was shown");
        let (text, seen) = run(ProgressMode::Quiet);
        assert_eq!((text.as_str(), seen.warnings.len()), ("", 0));
    }

    #[test]
    fn output_that_nobody_reads_does_not_fill_the_memory() {
        let (sender, receiver) = channel();
        let writer = std::thread::spawn(Seen::default);
        let display = Display { sender, queued: Arc::default(), writer };
        let sink = display.sink();
        let piece = "x".repeat(1 << 20);
        for _ in 0..70 {
            let kind = log(Stream::Stdout, &piece);
            sink(BuildEvent::Vertex(Event { vertex: Digest::of("x"), at: at(0), kind }));
        }
        drop((display, sink));
        let queued = AtomicUsize::new(MAX_QUEUED * 2);
        let seen = write(&receiver, Renderer::Quiet, &queued, std::io::sink());
        assert_eq!(seen.left_out, 5);
    }
}
