//! Progress line by line, in the manner of BuildKit's `--progress=plain`.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

use cofferdam_build::{Event, EventKind, Outcome, Status, Stream};
use cofferdam_types::Digest;

use super::failure_message;
use super::steps::End;
use super::text::{Colours, LineBuffer, clean, clean_lines, one_line, seconds, size};
use super::why::reason;

/// How often a vertex says how far its parts are.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// Writes events as lines.
#[derive(Debug)]
pub struct Plain {
    colours: Colours,
    vertices: HashMap<Digest, Vertex>,
    numbered: usize,
}

#[derive(Debug, Default)]
struct Vertex {
    name: String,
    /// Given when the first line is written.
    number: Option<usize>,
    /// When the present stretch of work began.
    started: Option<SystemTime>,
    lines: [LineBuffer; 2],
    last_status: Option<SystemTime>,
    complete_parts: HashSet<String>,
    /// How the last stretch ended that a line was written about.
    ended: Option<End>,
    /// Whether lines were written since then.
    has_news: bool,
}

impl Plain {
    /// Nothing was written yet.
    pub fn new(colours: Colours) -> Self {
        Self { colours, vertices: HashMap::new(), numbered: 0 }
    }

    /// The lines that an event is worth.
    pub fn render(&mut self, event: &Event) -> String {
        let Self { colours, vertices, numbered } = self;
        let vertex = vertices.entry(event.vertex).or_default();
        let mut page = Page { text: String::new(), numbered, colours: *colours };
        match &event.kind {
            EventKind::Announced { name, .. } => vertex.name.clone_from(name),
            EventKind::Missed(miss) => {
                let line = format!("why: {}", clean_lines(&reason(miss)));
                vertex.line(&mut page, &line);
            }
            EventKind::Started => {
                vertex.started = Some(event.at);
                vertex.last_status = Some(event.at);
                vertex.number(&mut page);
            }
            EventKind::Log { stream, data } => {
                let stream = usize::from(*stream == Stream::Stderr);
                for line in vertex.lines[stream].push(data) {
                    vertex.log(&mut page, &line, event.at);
                }
            }
            EventKind::Status(status) => vertex.status(&mut page, status, event.at),
            EventKind::Completed(outcome) => vertex.complete(&mut page, outcome, event.at),
        }
        page.text
    }
}

/// What is being written.
struct Page<'a> {
    text: String,
    numbered: &'a mut usize,
    colours: Colours,
}

impl Vertex {
    /// The vertex's number; its name is written when it gets one.
    fn number(&mut self, page: &mut Page<'_>) -> usize {
        if let Some(number) = self.number {
            return number;
        }
        *page.numbered += 1;
        let number = *page.numbered;
        self.number = Some(number);
        // A blank line sets the vertices apart.
        if number > 1 {
            page.text.push('\n');
        }
        page.text.push_str(&format!("#{number} {}\n", one_line(&self.name)));
        number
    }

    fn line(&mut self, page: &mut Page<'_>, line: &str) {
        let number = self.number(page);
        page.text.push_str(format!("#{number} {line}").trim_end());
        page.text.push('\n');
    }

    fn log(&mut self, page: &mut Page<'_>, line: &str, at: SystemTime) {
        let line = format!("{:.3} {}", seconds(self.started, at), clean(line, page.colours));
        self.line(page, &line);
        self.has_news = true;
    }

    fn status(&mut self, page: &mut Page<'_>, status: &Status, at: SystemTime) {
        let complete =
            status.completed.is_some() || (status.total > 0 && status.current >= status.total);
        if complete {
            if !self.complete_parts.insert(status.id.clone()) {
                return;
            }
        } else if self.last_status.is_some_and(|last| {
            at.duration_since(last).is_ok_and(|elapsed| elapsed < STATUS_INTERVAL)
        }) {
            return;
        } else {
            self.last_status = Some(at);
        }
        let mut line = clean(&status.name, Colours::Remove);
        if status.current > 0 || status.total > 0 {
            line += &format!(" {}", size(status.current));
        }
        if complete {
            line += " done";
        } else if status.total > 0 {
            line += &format!(" / {}", size(status.total));
        }
        self.line(page, &line);
        self.has_news = true;
    }

    fn complete(&mut self, page: &mut Page<'_>, outcome: &Outcome, at: SystemTime) {
        for stream in 0..2 {
            if let Some(line) = self.lines[stream].flush() {
                self.log(page, &line, at);
            }
        }
        let took = seconds(self.started, at);
        let (end, line) = match outcome {
            Outcome::Done => (End::Done, format!("DONE {took:.1}s")),
            Outcome::Cached { .. } => (End::Cached, "CACHED".to_owned()),
            Outcome::Failed(error) => {
                let message = clean_lines(&failure_message(&**error));
                (End::Failed(message.clone()), format!("ERROR: {message}"))
            }
            Outcome::Canceled => (End::Canceled, "CANCELED".to_owned()),
        };
        if end.is_news_after(self.ended.as_ref(), self.has_news) {
            self.line(page, &line);
            self.ended = Some(end);
        }
        self.has_news = false;
    }
}

#[cfg(test)]
mod tests {
    use cofferdam_build::EventKind::{Completed, Started};
    use cofferdam_build::Miss;
    use cofferdam_types::Digest;
    use expect_test::{Expect, expect};

    use super::super::testing::{announced, at, failed, log, status};
    use super::*;

    /// Feeds events: milliseconds, the vertex's name, what happened.
    fn check(events: &[(u64, &str, EventKind)], expected: Expect) {
        let mut plain = Plain::new(Colours::Remove);
        let mut text = String::new();
        for (millis, vertex, kind) in events {
            let vertex = Digest::of(vertex);
            text += &plain.render(&Event { vertex, at: at(*millis), kind: kind.clone() });
        }
        expected.assert_eq(&text);
    }

    #[test]
    fn steps_with_logs() {
        check(
            &[
                (0, "a", announced("[internal] load build definition from Dockerfile")),
                (0, "b", announced("[2/3] RUN a &&\n  b")),
                (0, "c", announced("[3/3] never started")),
                (0, "a", Started),
                (50, "a", status("transferring dockerfile:", 32, 32)),
                (100, "a", Completed(Outcome::Done)),
                (100, "b", Started),
                (223, "b", log(Stream::Stdout, "one\ntw")),
                (300, "b", log(Stream::Stderr, "\x1b[31mwarn\x1b[0m\r\n")),
                (400, "b", log(Stream::Stdout, "o\n10%\r20%")),
                (1300, "b", Completed(Outcome::Done)),
            ],
            expect![[r#"
                #1 [internal] load build definition from Dockerfile
                #1 transferring dockerfile: 32B done
                #1 DONE 0.1s

                #2 [2/3] RUN a && b
                #2 0.123 one
                #2 0.200 warn
                #2 0.300 two
                #2 0.300 10%
                #2 1.200 20%
                #2 DONE 1.2s
            "#]],
        );
    }

    #[test]
    fn ends() {
        check(
            &[
                (0, "a", announced("cached")),
                (0, "a", Started),
                (0, "a", Completed(Outcome::Cached { took: None })),
                (0, "b", announced("fails")),
                (0, "b", EventKind::Missed(Miss::Ignored)),
                (0, "b", Started),
                (0, "c", announced("beside it")),
                (0, "c", Started),
                (10, "b", Completed(failed("exit code: 1"))),
                (20, "c", Completed(Outcome::Canceled)),
            ],
            expect![[r#"
                #1 cached
                #1 CACHED

                #2 fails
                #2 why: told to ignore the cache

                #3 beside it
                #2 ERROR: exit code: 1
                #3 CANCELED
            "#]],
        );
    }

    #[test]
    fn several_stretches_are_told_once() {
        check(
            &[
                (0, "a", announced("context")),
                (0, "a", Started),
                (10, "a", status("transferring", 5, 5)),
                (100, "a", Completed(Outcome::Done)),
                (200, "a", Started),
                (300, "a", Completed(Outcome::Cached { took: None })),
                (0, "b", announced("image")),
                (0, "b", Started),
                (100, "b", Completed(Outcome::Done)),
                (200, "b", Started),
                (300, "b", Completed(Outcome::Done)),
                (300, "b", Started),
                (400, "b", status("layer", 5, 5)),
                (800, "b", Completed(Outcome::Done)),
                (0, "c", announced("cached, then done after all")),
                (0, "c", Started),
                (0, "c", Completed(Outcome::Cached { took: None })),
                (100, "c", Started),
                (300, "c", Completed(Outcome::Done)),
            ],
            expect![[r#"
                #1 context
                #1 transferring 5B done
                #1 DONE 0.1s

                #2 image
                #2 DONE 0.1s
                #2 layer 5B done
                #2 DONE 0.5s

                #3 cached, then done after all
                #3 CACHED
                #3 DONE 0.2s
            "#]],
        );
    }

    #[test]
    fn transfers_are_told_once_a_second() {
        let mut events = vec![(0, "a", announced("[1/1] FROM x")), (0, "a", Started)];
        events.extend((1..=30).map(|n| (100 * n, "a", status("sha256:1", n * 1000, 30_000))));
        events.push((3000, "a", status("sha256:1", 30_000, 30_000)));
        events.push((3000, "a", Completed(Outcome::Done)));
        check(
            &events,
            expect![[r#"
            #1 [1/1] FROM x
            #1 sha256:1 10.00kB / 30.00kB
            #1 sha256:1 20.00kB / 30.00kB
            #1 sha256:1 30.00kB done
            #1 DONE 3.0s
        "#]],
        );
    }

    #[test]
    fn names_and_errors_cannot_drive_the_terminal() {
        check(
            &[
                (0, "a", announced("\x1b[2J[1/1] RUN \x1b]0;x\x07y\u{9b}")),
                (0, "a", Started),
                (0, "a", Completed(failed("bad\x1b[2J\nworse\x07"))),
            ],
            expect![[r#"
                #1 [1/1] RUN y
                #1 ERROR: bad
                worse
            "#]],
        );
    }

    #[test]
    fn colours_stay_on_a_terminal() {
        let mut plain = Plain::new(Colours::Keep);
        let event = |kind| Event { vertex: Digest::of("a"), at: at(0), kind };
        plain.render(&event(announced("a")));
        plain.render(&event(Started));
        let text = plain.render(&event(log(Stream::Stdout, "\x1b[32mok\x1b[2J\n")));
        assert_eq!(text, "#1 0.000 \x1b[32mok\x1b[0m\n");
    }
}
