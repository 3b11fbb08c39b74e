//! Shows what a build does while it runs, on standard error. Events come from many threads and
//! are written by one, so that a slow terminal does not hold up the build.

mod json;
mod live;
mod plain;
mod steps;
mod summary;
mod tails;
pub mod terminal;
pub mod text;
mod transfers;
mod why;

use std::error::Error;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use cofferdam_build::{BuildEvent, EventKind, Excerpt, Response, Sink, Warning};

pub use summary::Summary;
pub use tails::{Tail, Tails};
use text::Colours;

use json::Json;
use live::Live;
use plain::Plain;
use steps::Steps;
use terminal::{Screen, Size};

/// Output of steps that waits to be written; beyond it some is left out.
const MAX_QUEUED: usize = 64 << 20;
/// How often a terminal is drawn on at most.
const FRAME: Duration = Duration::from_millis(100);

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Drawn on a terminal again and again.
    Terminal,
    /// Line by line.
    Plain,
    /// One JSON object per line.
    Json,
    /// Not at all.
    Nothing,
}

/// Shows the progress of one build.
pub struct Display {
    sender: Sender<Message>,
    queued: Arc<AtomicUsize>,
    writer: Option<JoinHandle<Seen>>,
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
    /// The build in numbers.
    pub summary: Summary,
}

enum Message {
    Event(BuildEvent),
    LeftOut,
    Result(Response),
    End,
}

impl Display {
    /// Starts to write to `out`; if that is to be drawn on, it is the terminal on standard error.
    pub fn start(view: View, colours: Colours, out: impl Write + Send + 'static) -> Self {
        let (sender, receiver) = channel();
        let queued = Arc::new(AtomicUsize::new(0));
        let count = queued.clone();
        let writer = Writer::new(Renderer::new(view, colours), out);
        let writer = std::thread::spawn(move || writer.run(&receiver, &count));
        Self { sender, queued, writer: Some(writer) }
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
    pub fn finish(mut self, result: Option<&Response>) -> Seen {
        if let Some(result) = result {
            // Fails only if the writer panicked, which joining it tells.
            let _ = self.sender.send(Message::Result(result.clone()));
        }
        self.end()
    }

    fn end(&mut self) -> Seen {
        let _ = self.sender.send(Message::End);
        let writer = self.writer.take();
        writer.and_then(|writer| writer.join().ok()).unwrap_or_default()
    }
}

impl Drop for Display {
    /// The terminal is given back also when the build panicked.
    fn drop(&mut self) {
        self.end();
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
struct Writer<W> {
    renderer: Renderer,
    out: W,
    began: Instant,
    steps: Steps,
    seen: Seen,
}

impl<W: Write> Writer<W> {
    fn new(renderer: Renderer, out: W) -> Self {
        let (steps, seen) = (Steps::default(), Seen::default());
        Self { renderer, out, began: Instant::now(), steps, seen }
    }

    fn run(mut self, receiver: &Receiver<Message>, queued: &AtomicUsize) -> Seen {
        let mut next_frame = self.began + FRAME;
        loop {
            let message = if matches!(self.renderer, Renderer::Terminal { .. }) {
                let now = Instant::now();
                if now >= next_frame {
                    self.draw();
                    next_frame = Instant::now() + FRAME;
                }
                receiver.recv_timeout(next_frame.saturating_duration_since(now))
            } else {
                receiver.recv().map_err(RecvTimeoutError::from)
            };
            match message {
                Ok(Message::Event(event)) => {
                    queued.fetch_sub(log_size(&event), Ordering::Relaxed);
                    self.event(event);
                }
                Ok(Message::LeftOut) => self.seen.left_out += 1,
                Ok(Message::Result(response)) => {
                    if let Renderer::Json(json) = &mut self.renderer {
                        let line = json.result(&response);
                        self.write(&line);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Message::End) | Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.seen.summary = Summary::new(&self.steps, self.began.elapsed());
        if let Renderer::Terminal { live, screen } = &mut self.renderer {
            let size = Size::current();
            let rest = live.rest(&mut self.steps, size.columns);
            terminal::show(&mut self.out, &screen.draw(&rest, &[], size), false);
        }
        let _ = self.out.flush();
        self.seen
    }

    fn event(&mut self, event: BuildEvent) {
        if let BuildEvent::Vertex(event) = &event {
            self.seen.tails.add(event);
            self.steps.add(event);
        }
        match (&mut self.renderer, event) {
            (Renderer::Terminal { live, .. }, BuildEvent::Vertex(event)) => {
                live.add(&event, &self.steps);
            }
            (Renderer::Plain(plain), BuildEvent::Vertex(event)) => {
                let text = plain.render(&event);
                self.write(&text);
            }
            (
                Renderer::Terminal { .. } | Renderer::Plain(_),
                BuildEvent::Warning { warning, excerpts },
            ) => self.seen.warnings.push((warning, excerpts)),
            (Renderer::Json(json), event) => {
                let text = json.render(&event);
                self.write(&text);
            }
            (Renderer::Nothing, _) => {}
        }
    }

    fn draw(&mut self) {
        let Renderer::Terminal { live, screen } = &mut self.renderer else { return };
        let (now, size) = (SystemTime::now(), Size::current());
        let lasting = live.lasting(&mut self.steps, now, size.columns);
        let rows = live.rows(&self.steps, &self.seen.tails, now, size);
        terminal::show(&mut self.out, &screen.draw(&lasting, &rows, size), true);
    }

    fn write(&mut self, text: &str) {
        // Nobody reads standard error any more: the build goes on.
        let _ = self.out.write_all(text.as_bytes());
    }
}

#[derive(Debug)]
enum Renderer {
    Terminal { live: Live, screen: Screen },
    Plain(Plain),
    Json(Json),
    Nothing,
}

impl Renderer {
    fn new(view: View, colours: Colours) -> Self {
        match view {
            View::Terminal => {
                Self::Terminal { live: Live::new(SystemTime::now()), screen: Screen::new(colours) }
            }
            View::Plain => Self::Plain(Plain::new(colours)),
            View::Json => Self::Json(Json::default()),
            View::Nothing => Self::Nothing,
        }
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

    /// What is written and seen in one view.
    fn run(view: View) -> (String, Seen) {
        let buffer = Buffer::default();
        let display = Display::start(view, Colours::Remove, buffer.clone());
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
    fn each_view_shows_what_it_should() {
        let (text, seen) = run(View::Terminal);
        assert!(text.contains("#1 RUN x") && text.ends_with("\x1b[?25h\x1b[?2026l"), "{text:?}");
        assert_eq!((seen.warnings.len(), seen.summary.run), (1, 1));
        let (text, seen) = run(View::Plain);
        assert_eq!(text, "#1 RUN x\n#1 0.000 said\n#1 DONE 0.0s\n");
        assert_eq!((seen.warnings.len(), seen.left_out), (1, 0));
        let (text, seen) = run(View::Json);
        assert_eq!(text.lines().count(), 6, "{text}");
        assert!(text.ends_with("\n") && text.contains("\"result\""), "{text}");
        assert_eq!(seen.warnings.len(), 0, "the warning was shown");
        let (text, seen) = run(View::Nothing);
        assert_eq!((text.as_str(), seen.warnings.len()), ("", 0));
    }

    #[test]
    fn output_that_nobody_reads_does_not_fill_the_memory() {
        let (sender, receiver) = channel();
        let display = Display { sender, queued: Arc::default(), writer: None };
        let sink = display.sink();
        let piece = "x".repeat(1 << 20);
        for _ in 0..70 {
            let kind = log(Stream::Stdout, &piece);
            sink(BuildEvent::Vertex(Event { vertex: Digest::of("x"), at: at(0), kind }));
        }
        drop((display, sink));
        let queued = AtomicUsize::new(MAX_QUEUED * 2);
        let seen = Writer::new(Renderer::Nothing, std::io::sink()).run(&receiver, &queued);
        assert_eq!(seen.left_out, 5);
    }
}
