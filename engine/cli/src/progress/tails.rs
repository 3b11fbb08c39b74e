//! Remembers the last lines that each step printed, for the live view and for the report of a
//! failure. Of a flood, only what is remembered is looked at.

use std::collections::{HashMap, VecDeque};
use std::time::SystemTime;

use cofferdam_build::{Event, EventKind, Outcome, Stream};
use cofferdam_types::Digest;

use super::text::{Colours, clean, seconds};

/// How many lines are remembered.
const LINES: usize = 20;
/// How much of a line is remembered.
const MAX_LINE: usize = 4 << 10;

/// The last lines of each step.
#[derive(Debug, Default)]
pub struct Tails(HashMap<Digest, Step>);

#[derive(Debug, Default)]
struct Step {
    name: String,
    started: Option<SystemTime>,
    begun: [Begun; 2],
    lines: VecDeque<(SystemTime, Vec<u8>)>,
    forgot: bool,
    failed: bool,
}

/// A line that is not complete.
#[derive(Debug, Default)]
struct Begun {
    bytes: Vec<u8>,
    /// A carriage return came: what follows is written over the line.
    returned: bool,
}

/// The end of what a step printed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tail {
    /// The lines, each with the seconds since the step began.
    pub lines: Vec<String>,
    /// Whether there were more before them.
    pub cut: bool,
}

impl Tails {
    /// Takes note of an event.
    pub fn add(&mut self, event: &Event) {
        let step = self.0.entry(event.vertex).or_default();
        match &event.kind {
            EventKind::Announced { name, .. } => step.name.clone_from(name),
            EventKind::Started => step.started = Some(event.at),
            EventKind::Log { stream, data } => {
                step.log(usize::from(*stream == Stream::Stderr), data, event.at);
            }
            EventKind::Status(_) | EventKind::Missed(_) => {}
            EventKind::Completed(outcome) => {
                for stream in 0..2 {
                    step.begun[stream].returned = false;
                    if !step.begun[stream].bytes.is_empty() {
                        step.keep(stream, event.at);
                    }
                }
                step.failed = matches!(outcome, Outcome::Failed(_));
            }
        }
    }

    /// The end of what the step of this name printed that failed.
    pub fn of_failed(&self, name: &str) -> Tail {
        let step = self.0.values().find(|step| step.failed && step.name == name);
        let Some(step) = step else { return Tail::default() };
        let line = |(at, bytes): &(SystemTime, Vec<u8>)| {
            format!("{:.3} {}", seconds(step.started, *at), readable(bytes))
        };
        Tail { lines: step.lines.iter().map(line).collect(), cut: step.forgot }
    }

    /// The last lines of a step that have something in them, at most `count`, and lines that are
    /// not complete yet.
    pub fn last(&self, vertex: &Digest, count: usize) -> Vec<String> {
        let Some(step) = self.0.get(vertex) else { return Vec::new() };
        let begun = step.begun.iter().rev().map(|begun| &begun.bytes);
        let bytes = begun.chain(step.lines.iter().rev().map(|(_, bytes)| bytes));
        let lines = bytes.map(|bytes| readable(bytes)).filter(|line| !line.trim().is_empty());
        let mut lines: Vec<_> = lines.take(count).collect();
        lines.reverse();
        lines
    }
}

fn readable(bytes: &[u8]) -> String {
    clean(&String::from_utf8_lossy(bytes), Colours::Remove)
}

impl Step {
    fn log(&mut self, stream: usize, data: &[u8], at: SystemTime) {
        // Lines that would be forgotten at once are not looked at.
        let ends = data.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
        let mut data = data;
        if let Some((end, _)) = ends.take(LINES + 1).nth(LINES) {
            self.begun[stream] = Begun::default();
            self.forgot = true;
            data = &data[end + 1..];
        }
        for piece in data.split_inclusive(|byte| *byte == b'\n') {
            let complete = piece.strip_suffix(b"\n");
            let mut text = complete.unwrap_or(piece);
            // The end of a line may be written as both.
            let returned = complete.is_none() && text.ends_with(b"\r");
            if let Some(before) = text.strip_suffix(b"\r") {
                text = before;
            }
            let begun = &mut self.begun[stream];
            if let Some(start) = text.iter().rposition(|byte| *byte == b'\r') {
                begun.bytes.clear();
                text = &text[start + 1..];
            } else if begun.returned && !text.is_empty() {
                begun.bytes.clear();
            }
            let room = MAX_LINE.saturating_sub(begun.bytes.len());
            begun.bytes.extend_from_slice(&text[..text.len().min(room)]);
            begun.returned = returned;
            if complete.is_some() {
                self.keep(stream, at);
            }
        }
    }

    fn keep(&mut self, stream: usize, at: SystemTime) {
        if self.lines.len() == LINES {
            self.lines.pop_front();
            self.forgot = true;
        }
        self.lines.push_back((at, std::mem::take(&mut self.begun[stream].bytes)));
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{announced, at, failed, log};
    use super::*;

    fn tail_of(pieces: &[&str]) -> Tails {
        let mut tails = Tails::default();
        let mut add = |kind| {
            tails.add(&Event { vertex: Digest::of("a"), at: at(0), kind });
        };
        add(announced("a"));
        add(EventKind::Started);
        pieces.iter().for_each(|piece| add(log(Stream::Stdout, piece)));
        tails
    }

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
        let Tail { lines, cut } = tails.of_failed("RUN x");
        assert_eq!((lines.len(), cut), (LINES, true));
        assert_eq!(
            [lines[0].as_str(), &lines[18], &lines[19]],
            ["0.500 line 12", "0.500 line 30", "1.500 not ended"]
        );
        assert_eq!(tails.of_failed("RUN y"), Tail::default());
    }

    #[test]
    fn lines_as_a_terminal_would_show_them() {
        let check = |pieces: &[&str], expected: &[&str]| {
            assert_eq!(tail_of(pieces).last(&Digest::of("a"), 3), expected, "{pieces:?}");
        };
        check(&["a\nb"], &["a", "b"]);
        check(&["a", "b\nc"], &["ab", "c"]);
        check(&["a\nb\nc\nd\n"], &["b", "c", "d"]);
        check(&["a\r\nb\n\n \n"], &["a", "b"]);
        check(&["10%\r20%\r30%"], &["30%"]);
        check(&["10%\r", "20%\r", "30%\r"], &["30%"]);
        check(&["100%\r", "\nb"], &["100%", "b"]);
        check(&["\x1b[31mred\x1b[2J\n"], &["red"]);
        let flood: String = (0..1000).map(|n| format!("{n}\n")).collect();
        check(&["begun ", &flood, "end"], &["998", "999", "end"]);
    }

    #[test]
    fn a_tail_is_cut_only_if_something_is_missing() {
        for (lines, cut) in [(LINES, false), (LINES + 1, true)] {
            let mut tails = tail_of(&["x\n".repeat(lines).as_str()]);
            let kind = EventKind::Completed(failed("exit code: 1"));
            tails.add(&Event { vertex: Digest::of("a"), at: at(0), kind });
            assert_eq!(tails.of_failed("a").cut, cut);
        }
    }
}
