//! Keeps everything that the steps of a build print, one file for each step that prints, in
//! `ROOT/logs/BUILD/NN-name.log`. Several processes may do so at once.
//!
//! A thread writes, so that a slow disk holds up no step. What comes faster than it can be
//! written for longer than memory should be spent on is left out, and the log says so. If logs
//! cannot be written at all, the user is warned once, and the build goes on.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use cofferdam_solver::{Event, EventKind, Outcome};
use cofferdam_types::Digest;
use time::OffsetDateTime;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use crate::progress::{BuildEvent, Sink, warn};

/// How long the end of a build waits for a disk to take what is left.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// The longest part of a step's name in the name of a file.
const MAX_NAME: usize = 60;
/// Holds the process back that wants to add or remove builds while another does.
const LOCK: &str = ".lock";

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Builds.
    pub(crate) builds: usize,
    /// Bytes on disk of all builds that have ended, and of one build.
    pub(crate) bytes: u64,
    /// Bytes of one log.
    pub(crate) log: u64,
    /// Bytes in memory that wait to be written.
    pub(crate) queue: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { builds: 50, bytes: 256 << 20, log: 64 << 20, queue: 32 << 20 }
    }
}

/// The logs of one build that is under way. Dropping it ends them.
pub(crate) struct Logs {
    queue: Arc<Queue>,
    sink: Sink,
    kept: Option<oneshot::Receiver<Kept>>,
}

/// What was written.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// The directory, if anything was printed and all of it is there.
    pub(crate) directory: Option<PathBuf>,
    /// The complete logs of steps that failed, by the steps' names.
    pub(crate) failed: HashMap<String, PathBuf>,
}

/// From the threads of the build to the one that writes.
struct Queue {
    sender: Sender<Message>,
    waiting: AtomicUsize,
    /// Bytes that there was no room for since the last note about it.
    left_out: Mutex<HashMap<Digest, u64>>,
    limit: usize,
}

enum Message {
    Event(Event),
    LeftOut(Digest),
    End,
}

impl Logs {
    /// Keeps in `directory` what comes to the sink that is returned; everything goes on to
    /// `sink`. `writers` counts those that still write.
    pub(crate) fn start(
        directory: PathBuf,
        limits: Limits,
        sink: Sink,
        writers: &TaskTracker,
    ) -> (Self, Sink) {
        let (sender, receiver) = channel();
        let queue = Arc::new(Queue {
            sender,
            waiting: AtomicUsize::new(0),
            left_out: Mutex::default(),
            limit: limits.queue,
        });
        let (tell, kept) = oneshot::channel();
        let (writing, from, token) = (sink.clone(), queue.clone(), writers.token());
        let writer = Writer { limits, sink: writing, ..Writer::new(directory) };
        std::thread::spawn(move || {
            // The build may have given up waiting.
            let _ = tell.send(writer.run(&receiver, &from));
            drop(token);
        });
        let (to, told) = (queue.clone(), sink.clone());
        let tee = Arc::new(move |event: BuildEvent| {
            if let BuildEvent::Vertex(event) = &event {
                to.add(event);
            }
            sink(event);
        });
        (Self { queue, sink: told, kept: Some(kept) }, tee)
    }

    /// Waits until everything is written, but not for ever; then a warning says so.
    pub(crate) async fn close(mut self) -> Kept {
        self.queue.end();
        let Some(kept) = self.kept.take() else { return Kept::default() };
        match tokio::time::timeout(PATIENCE, kept).await {
            Ok(Ok(kept)) => kept,
            Ok(Err(_)) | Err(_) => {
                warn(&self.sink, "the logs of the steps are not complete: the disk is too slow");
                Kept::default()
            }
        }
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        self.queue.end();
    }
}

impl Queue {
    fn add(&self, event: &Event) {
        let size = match &event.kind {
            EventKind::Log { data, .. } => data.len(),
            EventKind::Announced { .. } | EventKind::Started | EventKind::Completed(_) => 0,
            _ => return,
        };
        if size > 0 && self.waiting.load(Ordering::Relaxed) > self.limit {
            let mut left_out = self.left_out.lock().unwrap_or_else(PoisonError::into_inner);
            let first = !left_out.contains_key(&event.vertex);
            *left_out.entry(event.vertex).or_default() += size as u64;
            if first {
                self.send(Message::LeftOut(event.vertex));
            }
            return;
        }
        self.waiting.fetch_add(size, Ordering::Relaxed);
        self.send(Message::Event(event.clone()));
    }

    fn end(&self) {
        self.send(Message::End);
    }

    fn send(&self, message: Message) {
        // What comes after the end, nobody waits for.
        let _ = self.sender.send(message);
    }
}

/// The thread that writes.
struct Writer {
    root: PathBuf,
    limits: Limits,
    sink: Sink,
    /// Made when the first step prints; locked as long as it is written to.
    build: Option<Build>,
    steps: HashMap<Digest, Step>,
    numbered: usize,
    failed: HashMap<String, PathBuf>,
    broken: bool,
    incomplete: bool,
}

struct Build {
    directory: PathBuf,
    written: u64,
    _lock: File,
}

#[derive(Default)]
struct Step {
    name: String,
    started: Option<SystemTime>,
    log: Option<Log>,
}

/// A step's log.
struct Log {
    path: PathBuf,
    /// Closed while the step does not work.
    out: Option<BufWriter<File>>,
    size: u64,
    cut: u64,
    at_line_start: bool,
    complete: bool,
}

impl Writer {
    fn new(root: PathBuf) -> Self {
        Self {
            root,
            limits: Limits::default(),
            sink: Arc::new(|_| {}),
            build: None,
            steps: HashMap::new(),
            numbered: 0,
            failed: HashMap::new(),
            broken: false,
            incomplete: false,
        }
    }

    fn run(mut self, receiver: &Receiver<Message>, queue: &Queue) -> Kept {
        'all: while let Ok(message) = receiver.recv() {
            let mut next = Some(message);
            while let Some(message) = next {
                match message {
                    Message::Event(event) => {
                        let size = match &event.kind {
                            EventKind::Log { data, .. } => data.len(),
                            _ => 0,
                        };
                        self.attempt(|this| this.event(event));
                        queue.waiting.fetch_sub(size, Ordering::Relaxed);
                    }
                    Message::LeftOut(vertex) => {
                        let left_out = || queue.left_out.lock();
                        let mut left_out = left_out().unwrap_or_else(PoisonError::into_inner);
                        let bytes = left_out.remove(&vertex).unwrap_or_default();
                        drop(left_out);
                        self.attempt(|this| this.left_out(vertex, bytes));
                    }
                    Message::End => break 'all,
                }
                next = receiver.try_recv().ok();
            }
            // Nothing more for now: whoever reads a log should see what is there.
            self.attempt(Self::flush);
        }
        self.attempt(Self::flush);
        let directory = self.build.take().map(|build| build.directory);
        if directory.is_some() {
            // This build counts from now on.
            self.attempt(|this| {
                let _lock = lock(&this.root)?;
                prune(&this.root, this.limits);
                Ok(())
            });
        }
        Kept { directory: directory.filter(|_| !self.broken), failed: self.failed }
    }

    /// Does something, unless something went wrong already.
    fn attempt(&mut self, action: impl FnOnce(&mut Self) -> io::Result<()>) {
        if self.broken {
            return;
        }
        if let Err(error) = action(self) {
            self.broken = true;
            self.failed.clear();
            let at = self.build.as_ref().map_or(&self.root, |build| &build.directory);
            let at = at.display();
            let text = "the logs of the steps are not complete: cannot write below";
            warn(&self.sink, &format!("{text} `{at}`: {error}"));
        }
    }

    fn event(&mut self, event: Event) -> io::Result<()> {
        match event.kind {
            EventKind::Announced { name, .. } => {
                self.steps.entry(event.vertex).or_default().name = name;
            }
            EventKind::Started => {
                self.steps.entry(event.vertex).or_default().started = Some(event.at);
            }
            EventKind::Log { data, .. } => self.print(event.vertex, &data, event.at)?,
            EventKind::Completed(outcome) => self.end(event.vertex, &outcome, event.at)?,
            _ => {}
        }
        Ok(())
    }

    fn print(&mut self, vertex: Digest, data: &Bytes, at: SystemTime) -> io::Result<()> {
        let limits = self.limits;
        let Self { root, build, steps, numbered, .. } = self;
        let build = match build {
            Some(build) => build,
            None => build.insert(Build::create(root, limits)?),
        };
        let step = steps.entry(vertex).or_default();
        let log = match &mut step.log {
            Some(log) => log,
            None => {
                *numbered += 1;
                let path = build.directory.join(file_name(*numbered, &step.name));
                step.log.insert(Log::create(path, &step.name, at)?)
            }
        };
        let room = (limits.log - log.size).min(limits.bytes.saturating_sub(build.written));
        let kept = data.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        log.write(&data[..kept])?;
        log.size += kept as u64;
        log.cut += (data.len() - kept) as u64;
        build.written += kept as u64;
        Ok(())
    }

    fn left_out(&mut self, vertex: Digest, bytes: u64) -> io::Result<()> {
        if !std::mem::replace(&mut self.incomplete, true) {
            warn(
                &self.sink,
                "some output of the steps is missing in their logs: it came faster than it could \
                 be written",
            );
        }
        let log = self.steps.get_mut(&vertex).and_then(|step| step.log.as_mut());
        let Some(log) = log else { return Ok(()) };
        log.complete = false;
        log.note(&format!(
            "{bytes} bytes are missing here: they came faster than they could be written"
        ))
    }

    fn end(&mut self, vertex: Digest, outcome: &Outcome, at: SystemTime) -> io::Result<()> {
        let Some(step) = self.steps.get_mut(&vertex) else { return Ok(()) };
        let Some(log) = &mut step.log else { return Ok(()) };
        if log.cut > 0 {
            log.note(&format!("{} bytes are not kept: the log is too long", log.cut))?;
            log.complete = false;
        }
        let took = step.started.and_then(|started| at.duration_since(started).ok());
        let took = took.unwrap_or_default().as_secs_f64();
        log.note(&match outcome {
            Outcome::Failed(error) => {
                // What the step itself said: around it, the solver names the step.
                let said = std::error::Error::source(&**error).map(ToString::to_string);
                let said = said.unwrap_or_else(|| error.to_string());
                format!("failed after {took:.1}s: {said}")
            }
            Outcome::Canceled => format!("canceled after {took:.1}s"),
            _ => format!("done in {took:.1}s"),
        })?;
        if let Some(mut out) = log.out.take() {
            out.flush()?;
        }
        if matches!(outcome, Outcome::Failed(_)) {
            self.failed.insert(step.name.clone(), log.path.clone());
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let logs = self.steps.values_mut().filter_map(|step| step.log.as_mut());
        logs.filter_map(|log| log.out.as_mut()).try_for_each(Write::flush)
    }
}

impl Build {
    /// A directory of its own, named after the time. Old ones make room.
    fn create(root: &Path, limits: Limits) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        let _lock = lock(root)?;
        prune(root, limits);
        let now = OffsetDateTime::now_utc();
        let (date, time) = (now.date(), now.time());
        let stamp = format!(
            "{:04}{:02}{:02}T{:02}{:02}{:02}.{:03}Z-{}",
            date.year(),
            u8::from(date.month()),
            date.day(),
            time.hour(),
            time.minute(),
            time.second(),
            time.millisecond(),
            std::process::id()
        );
        let mut directory = root.join(&stamp);
        let mut again = 1;
        while let Err(error) = fs::create_dir(&directory) {
            if error.kind() != io::ErrorKind::AlreadyExists {
                return Err(error);
            }
            again += 1;
            directory = root.join(format!("{stamp}-{again}"));
        }
        let lock = File::open(&directory)?;
        lock.lock_shared()?;
        Ok(Self { directory, written: 0, _lock: lock })
    }
}

impl Log {
    fn create(path: PathBuf, name: &str, at: SystemTime) -> io::Result<Self> {
        let out = File::options().append(true).create_new(true).open(&path)?;
        let out = Some(BufWriter::with_capacity(64 << 10, out));
        let mut log = Self { path, out, size: 0, cut: 0, at_line_start: true, complete: true };
        let time = OffsetDateTime::from(at).replace_nanosecond(0).map_err(io::Error::other)?;
        let rfc3339 = &time::format_description::well_known::Rfc3339;
        log.note(name)?;
        log.note(&time.format(rfc3339).map_err(io::Error::other)?)?;
        Ok(log)
    }

    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        let out = match &mut self.out {
            Some(out) => out,
            None => {
                let file = File::options().append(true).open(&self.path)?;
                self.out.insert(BufWriter::with_capacity(64 << 10, file))
            }
        };
        if let Some(last) = data.last() {
            self.at_line_start = *last == b'\n';
        }
        out.write_all(data)
    }

    /// Writes a line that the step did not print.
    fn note(&mut self, text: &str) -> io::Result<()> {
        let break_line = if self.at_line_start { "" } else { "\n" };
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        self.write(format!("{break_line}# {text}\n").as_bytes())
    }
}

/// `NN-name.log`, of characters that mean nothing to anybody.
fn file_name(number: usize, step: &str) -> String {
    let mut name = format!("{number:02}");
    for word in step.split(|c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '_')) {
        if !word.is_empty() && name.len() < MAX_NAME {
            name.push('-');
            name.extend(word.chars().take(MAX_NAME));
        }
    }
    name.truncate(MAX_NAME);
    name + ".log"
}

/// Held by whoever adds or removes builds.
fn lock(root: &Path) -> io::Result<File> {
    let lock = File::options().create(true).append(true).open(root.join(LOCK))?;
    lock.lock()?;
    Ok(lock)
}

/// Removes what is beyond the limits, the oldest first. What is being written is kept; what
/// cannot be removed is left for the next time.
fn prune(root: &Path, limits: Limits) {
    let Ok(entries) = fs::read_dir(root) else { return };
    let builds = entries.flatten().filter(|entry| {
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        is_directory && !entry.file_name().as_encoded_bytes().starts_with(b".")
    });
    let mut builds: Vec<_> = builds.map(|entry| entry.path()).collect();
    builds.sort();
    let (mut count, mut bytes) = (0, 0);
    for build in builds.iter().rev() {
        count += 1;
        bytes += size_on_disk(build);
        // The newest is kept, however large it is: it is bounded by itself.
        if count > limits.builds || (bytes > limits.bytes && count > 1) {
            let idle = File::open(build).is_ok_and(|lock| lock.try_lock().is_ok());
            if idle {
                let _ = fs::remove_dir_all(build);
            }
        }
    }
}

fn size_on_disk(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    let sizes = entries.flatten().filter_map(|entry| entry.metadata().ok());
    sizes.map(|metadata| metadata.blocks() * 512).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    use cofferdam_solver::Stream;

    fn event(vertex: &str, kind: EventKind) -> BuildEvent {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_323_600);
        BuildEvent::Vertex(Event { vertex: Digest::of(vertex), at, kind })
    }

    fn printed(vertex: &str, text: &str) -> BuildEvent {
        let data = Bytes::copy_from_slice(text.as_bytes());
        event(vertex, EventKind::Log { stream: Stream::Stdout, data })
    }

    fn announced(name: &str) -> BuildEvent {
        event(name, EventKind::Announced { name: name.to_owned(), inputs: Vec::new() })
    }

    /// Runs a build that does this, and gives what was kept and which warnings there were.
    async fn keep(
        root: &Path,
        limits: Limits,
        events: impl IntoIterator<Item = BuildEvent>,
    ) -> (Kept, Vec<String>) {
        let warnings = Arc::new(Mutex::new(Vec::new()));
        let told = warnings.clone();
        let sink: Sink = Arc::new(move |event| {
            if let BuildEvent::Warning { warning, .. } = event {
                told.lock().expect("not poisoned").push(warning.short);
            }
        });
        let tracker = TaskTracker::new();
        let (logs, sink) = Logs::start(root.join("logs"), limits, sink, &tracker);
        events.into_iter().for_each(|event| sink(event));
        let kept = logs.close().await;
        tracker.close();
        tracker.wait().await;
        let warnings = warnings.lock().expect("not poisoned").clone();
        (kept, warnings)
    }

    fn files(directory: &Path) -> Vec<(String, String)> {
        let mut files: Vec<_> = fs::read_dir(directory)
            .expect("there are logs")
            .map(|entry| {
                let entry = entry.expect("readable");
                let text = fs::read_to_string(entry.path()).expect("readable");
                (entry.file_name().into_string().expect("UTF-8"), text)
            })
            .collect();
        files.sort();
        files
    }

    #[tokio::test]
    async fn what_steps_print_is_kept() {
        let root = tempfile::tempdir().expect("a directory");
        let failed = cofferdam_solver::SolveError::Vertex {
            vertex: Digest::of("x"),
            name: "b".into(),
            source: Arc::new(io::Error::other("exit code: 1")),
        };
        let done = EventKind::Completed(Outcome::Done);
        let (kept, warnings) = keep(
            root.path(),
            Limits::default(),
            [
                announced("[2/3] RUN ../../etc/passwd && x"),
                announced("b"),
                announced("silent"),
                event("b", EventKind::Started),
                printed("b", "one\n"),
                printed("[2/3] RUN ../../etc/passwd && x", "no end"),
                printed("b", "two\n"),
                event("b", EventKind::Completed(Outcome::Failed(Arc::new(failed)))),
                event("[2/3] RUN ../../etc/passwd && x", done.clone()),
                event("silent", done),
            ],
        )
        .await;
        let directory = kept.directory.expect("something was printed");
        let time = "# 2026-11-22T05:00:00Z";
        let expected = [
            (
                "01-b.log".to_owned(),
                format!("# b\n{time}\none\ntwo\n# failed after 0.0s: exit code: 1\n"),
            ),
            (
                "02-2-3-RUN-..-..-etc-passwd-x.log".to_owned(),
                format!("# [2/3] RUN ../../etc/passwd && x\n{time}\nno end\n# done in 0.0s\n"),
            ),
        ];
        assert_eq!(files(&directory), expected);
        assert_eq!(kept.failed, HashMap::from([("b".to_owned(), directory.join("01-b.log"))]));
        assert_eq!(warnings, Vec::<String>::new());
    }

    #[tokio::test]
    async fn where_nothing_is_printed_nothing_is_written() {
        let root = tempfile::tempdir().expect("a directory");
        let (kept, _) = keep(root.path(), Limits::default(), [announced("a")]).await;
        assert_eq!((kept.directory, root.path().join("logs").exists()), (None, false));
    }

    #[tokio::test]
    async fn long_logs_are_cut_and_say_so() {
        let root = tempfile::tempdir().expect("a directory");
        let limits = Limits { log: 10, bytes: 15, ..Limits::default() };
        let done = || EventKind::Completed(Outcome::Done);
        let (kept, _) = keep(
            root.path(),
            limits,
            [
                printed("a", "12345678"),
                printed("a", "90ab"),
                printed("a", "cd"),
                event("a", done()),
                printed("b", "1234567"),
                event("b", done()),
            ],
        )
        .await;
        let files = files(&kept.directory.expect("something was printed"));
        let ends = |n: usize, end: &str| assert!(files[n].1.ends_with(end), "{:?}", files[n]);
        ends(0, "\n1234567890\n# 4 bytes are not kept: the log is too long\n# done in 0.0s\n");
        ends(1, "\n12345\n# 2 bytes are not kept: the log is too long\n# done in 0.0s\n");
    }

    #[test]
    fn what_comes_too_fast_is_left_out_and_noted() {
        let (sender, receiver) = channel();
        let left_out = Mutex::default();
        let queue = Queue { sender, waiting: AtomicUsize::new(0), left_out, limit: 5 };
        for text in ["first\n", "12", "345", "6\n"] {
            let BuildEvent::Vertex(event) = printed("a", text) else { unreachable!("printed") };
            if text == "6\n" {
                queue.waiting.store(0, Ordering::Relaxed);
            } else if text == "12" {
                queue.waiting.store(6, Ordering::Relaxed);
            }
            queue.add(&event);
        }
        queue.end();
        let root = tempfile::tempdir().expect("a directory");
        let warnings = Arc::new(AtomicUsize::new(0));
        let told = warnings.clone();
        let sink: Sink = Arc::new(move |_| {
            told.fetch_add(1, Ordering::Relaxed);
        });
        let writer = Writer { sink, ..Writer::new(root.path().join("logs")) };
        let kept = writer.run(&receiver, &queue);
        let files = files(&kept.directory.expect("something was printed"));
        let missing = "# 5 bytes are missing here: they came faster than they could be written";
        assert!(files[0].1.ends_with(&format!("first\n{missing}\n6\n")), "{files:?}");
        assert_eq!(warnings.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn logs_that_cannot_be_written_are_warned_of_once() {
        let root = tempfile::tempdir().expect("a directory");
        fs::write(root.path().join("logs"), "in the way").expect("writable");
        let events = (0..9).map(|n| printed("a", &n.to_string()));
        let (kept, warnings) = keep(root.path(), Limits::default(), events).await;
        assert_eq!((kept.directory, warnings.len()), (None, 1), "{warnings:?}");
        assert!(warnings[0].contains("/logs`: "), "{warnings:?}");
    }

    #[tokio::test]
    async fn old_builds_make_room() {
        let root = tempfile::tempdir().expect("a directory");
        let logs = root.path().join("logs");
        let old = |name: &str, size: usize| {
            fs::create_dir_all(logs.join(name)).expect("writable");
            fs::write(logs.join(name).join("01-a.log"), vec![b'x'; size]).expect("writable");
        };
        old("20200101T000000.000Z-1", 1);
        old("20200102T000000.000Z-1", 1);
        old("20200103T000000.000Z-1", 1);
        let running = File::open(logs.join("20200101T000000.000Z-1")).expect("it is there");
        running.lock_shared().expect("nobody else has it");
        let left = || {
            let entries = fs::read_dir(&logs).expect("readable").flatten();
            let names = entries.map(|entry| entry.file_name().into_string().expect("UTF-8"));
            let mut names: Vec<_> = names.filter(|name| name.starts_with("2020")).collect();
            names.sort();
            names
        };
        let limits = Limits { builds: 2, ..Limits::default() };
        keep(root.path(), limits, [printed("a", "new")]).await;
        assert_eq!(left(), ["20200101T000000.000Z-1", "20200103T000000.000Z-1"]);
        drop(running);
        let limits = Limits { bytes: 64 << 10, ..Limits::default() };
        old("20200104T000000.000Z-1", 128 << 10);
        keep(root.path(), limits, [printed("a", "new")]).await;
        assert_eq!(left(), Vec::<String>::new());
    }
}
