//! Remembers the last lines that each step printed, for the report of a failure.

use std::collections::{HashMap, VecDeque};
use std::time::SystemTime;

use cofferdam_build::{Event, EventKind, Outcome, Stream};
use cofferdam_types::Digest;

use super::text::{Colours, LineBuffer, clean, seconds};

/// How many lines are remembered.
const LINES: usize = 20;

/// The last lines of each step.
#[derive(Debug, Default)]
pub struct Tails(HashMap<Digest, Step>);

#[derive(Debug, Default)]
struct Step {
    name: String,
    started: Option<SystemTime>,
    buffers: [LineBuffer; 2],
    lines: VecDeque<String>,
    failed: bool,
}

impl Tails {
    /// Takes note of an event.
    pub fn add(&mut self, event: &Event) {
        let step = self.0.entry(event.vertex).or_default();
        match &event.kind {
            EventKind::Announced { name, .. } => step.name.clone_from(name),
            EventKind::Started => step.started = Some(event.at),
            EventKind::Log { stream, data } => {
                let stream = usize::from(*stream == Stream::Stderr);
                for line in step.buffers[stream].push(data) {
                    step.keep(&line, event.at);
                }
            }
            EventKind::Status(_) | EventKind::Missed(_) => {}
            EventKind::Completed(outcome) => {
                for stream in 0..2 {
                    if let Some(line) = step.buffers[stream].flush() {
                        step.keep(&line, event.at);
                    }
                }
                step.failed = matches!(outcome, Outcome::Failed(_));
            }
        }
    }

    /// The last lines of the step of this name that failed.
    pub fn of_failed(&self, name: &str) -> Vec<&str> {
        let step = self.0.values().find(|step| step.failed && step.name == name);
        step.map(|step| step.lines.iter().map(String::as_str).collect()).unwrap_or_default()
    }
}

impl Step {
    fn keep(&mut self, line: &str, at: SystemTime) {
        if self.lines.len() == LINES {
            self.lines.pop_front();
        }
        let line = clean(line, Colours::Remove);
        self.lines.push_back(format!("{:.3} {line}", seconds(self.started, at)));
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{announced, at, failed, log};
    use super::*;

    #[test]
    fn the_last_lines_of_what_failed() {
        let mut tails = Tails::default();
        let mut add = |vertex: &str, millis, kind| {
            tails.add(&Event { vertex: Digest::of(vertex), at: at(millis), kind });
        };
        add("ok", 0, announced("RUN x"));
        add("ok", 0, log(Stream::Stdout, "fine\n"));
        add("ok", 0, EventKind::Completed(Outcome::Done));
        add("bad", 0, announced("RUN x"));
        add("bad", 0, EventKind::Started);
        let text: String = (1..=30).map(|n| format!("line {n}\n")).collect();
        add("bad", 500, log(Stream::Stderr, &text));
        add("bad", 500, log(Stream::Stdout, "not ended"));
        add("bad", 1500, EventKind::Completed(failed("exit code: 1")));
        let lines = tails.of_failed("RUN x");
        assert_eq!(lines.len(), LINES);
        assert_eq!(
            (lines[0], lines[18], lines[19]),
            ("0.500 line 12", "0.500 line 30", "1.500 not ended")
        );
        assert!(tails.of_failed("RUN y").is_empty());
    }
}
