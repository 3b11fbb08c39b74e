//! Bytes that came from anywhere, as lines that a terminal can be given.

use std::time::{Duration, SystemTime};

use unicode_segmentation::UnicodeSegmentation as _;
use unicode_width::UnicodeWidthStr as _;

/// The longest line that is kept together.
const MAX_LINE: usize = 64 << 10;

/// Collects one stream's bytes until a line is complete. A carriage return ends a line like a
/// line feed does; both together are one end.
#[derive(Debug, Default)]
pub struct LineBuffer {
    bytes: Vec<u8>,
    after_return: bool,
}

impl LineBuffer {
    /// Adds bytes and gives the lines that they complete, without their ends.
    pub fn push(&mut self, data: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for &byte in data {
            match byte {
                b'\n' if self.after_return => {}
                b'\n' | b'\r' => lines.push(self.take()),
                _ => self.bytes.push(byte),
            }
            self.after_return = byte == b'\r';
            if self.bytes.len() >= MAX_LINE {
                lines.push(self.take());
            }
        }
        lines
    }

    /// Gives the line that was begun.
    pub fn flush(&mut self) -> Option<String> {
        self.after_return = false;
        (!self.bytes.is_empty()).then(|| self.take())
    }

    fn take(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.bytes)).into_owned()
    }
}

/// What becomes of escape sequences that set colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colours {
    /// They stay, and end with the line.
    Keep,
    /// They are removed.
    Remove,
}

/// Removes what could do more to a terminal than write one line from left to right: control
/// characters other than tabs, characters that turn the direction or end a line, and escape
/// sequences (ECMA-48) other than colours where those are kept.
pub fn clean(line: &str, colours: Colours) -> String {
    let mut out = String::with_capacity(line.len());
    let mut coloured = false;
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        if c == '\x1b' {
            let length = escape_length(rest);
            let (sequence, after) = rest.split_at(length);
            if colours == Colours::Keep && is_colour(sequence) {
                out.push_str(sequence);
                coloured = true;
            }
            rest = after;
            continue;
        }
        if c == '\t' || !(c.is_control() || moves(c)) {
            out.push(c);
        }
        rest = &rest[c.len_utf8()..];
    }
    if coloured {
        out.push_str("\x1b[0m");
    }
    out
}

/// [`clean`] for texts of several lines, without colours.
pub fn clean_lines(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| clean(line, Colours::Remove)).collect();
    lines.join("\n")
}

/// Whether a character that is no control character changes where others are written.
fn moves(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The bytes of one grapheme beyond which it is no text: letters with any number of accents.
const MAX_GRAPHEME: usize = 64;

/// As much of a line without escape sequences as this many columns hold, with `…` where something
/// is missing, and how many columns that has. Tabs become spaces.
pub fn fit(line: &str, columns: usize) -> (String, usize) {
    const TAB: usize = 8;
    let (mut out, mut used) = (String::new(), 0);
    // Where to cut if there turns out to be too much, leaving a column for the mark.
    let mut cut = (0, 0);
    for grapheme in line.graphemes(true).filter(|grapheme| grapheme.len() <= MAX_GRAPHEME) {
        let width = match grapheme {
            "\t" => TAB - used % TAB,
            _ => grapheme.width(),
        };
        if used + width > columns {
            out.truncate(cut.0);
            if columns > 0 {
                out.push('…');
            }
            return (out, cut.1 + usize::from(columns > 0));
        }
        match grapheme {
            "\t" => out.extend(std::iter::repeat_n(' ', width)),
            _ => out.push_str(grapheme),
        }
        used += width;
        if used < columns {
            cut = (out.len(), used);
        }
    }
    (out, used)
}

/// A text on one line, without what could drive a terminal.
pub fn one_line(text: &str) -> String {
    clean(&text.split_whitespace().collect::<Vec<_>>().join(" "), Colours::Remove)
}

fn is_colour(sequence: &str) -> bool {
    let parameters = sequence.strip_prefix("\x1b[").and_then(|rest| rest.strip_suffix('m'));
    parameters.is_some_and(|list| list.bytes().all(|b| b.is_ascii_digit() || b";:".contains(&b)))
}

/// How many bytes the escape sequence at the start of `text` has.
fn escape_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let end = match bytes.get(1) {
        Some(b'[') => {
            let body = bytes[2..].iter().take_while(|b| (0x20..0x40).contains(*b)).count();
            // The final byte, if it is one.
            2 + body + usize::from(bytes.get(2 + body).is_some_and(|b| (0x40..0x7f).contains(b)))
        }
        // Strings, up to BEL or ESC \.
        Some(b']' | b'P' | b'X' | b'^' | b'_') => {
            let bell = text.find('\x07').map(|at| at + 1);
            let terminator = text[2..].find("\x1b\\").map(|at| at + 4);
            [bell, terminator].into_iter().flatten().min().unwrap_or(bytes.len())
        }
        Some(0x20..0x7f) => 2,
        _ => 1,
    };
    end.min(bytes.len())
}

/// Seconds from one time to another; none where the clock went backwards.
pub fn seconds(from: Option<SystemTime>, to: SystemTime) -> f64 {
    let elapsed = from.and_then(|from| to.duration_since(from).ok());
    elapsed.unwrap_or(Duration::ZERO).as_secs_f64()
}

/// A time for people: `1.5s`, `2m 05s`, `1h 02m`.
pub fn duration(duration: Duration) -> String {
    let (tenths, whole) = (duration.as_millis() / 100, duration.as_secs());
    match whole {
        0..60 => format!("{}.{}s", tenths / 10, tenths % 10),
        60..3600 => format!("{}m {:02}s", whole / 60, whole % 60),
        _ => format!("{}h {:02}m", whole / 3600, whole / 60 % 60),
    }
}

/// A number of bytes in decimal units, as Docker writes it.
pub fn size(bytes: u64) -> String {
    let units = [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    #[expect(clippy::cast_precision_loss, reason = "two decimals are shown")]
    let value = bytes as f64;
    match units.into_iter().find(|(unit, _)| value >= *unit) {
        Some((unit, name)) => format!("{:.2}{name}", value / unit),
        None => format!("{bytes}B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_put_together() {
        let check = |pieces: &[&[u8]], expected: &[&str]| {
            let mut buffer = LineBuffer::default();
            let mut lines: Vec<String> =
                pieces.iter().flat_map(|piece| buffer.push(piece)).collect();
            lines.extend(buffer.flush());
            assert_eq!(lines, expected, "{pieces:?}");
        };
        check(&[b"a\nb"], &["a", "b"]);
        check(&[b"a", b"b\n", b"c\n"], &["ab", "c"]);
        check(&[b"a\r\nb\rc\n\n"], &["a", "b", "c", ""]);
        check(&[b"a\r", b"\nb\n"], &["a", "b"]);
        check(&[b"\xc3", b"\xa4\n\xff\n"], &["ä", "\u{fffd}"]);
        let long = vec![b'x'; MAX_LINE + 1];
        let rest = "x".repeat(MAX_LINE);
        check(&[&long], &[&rest, "x"]);
    }

    #[test]
    fn only_colours_can_stay() {
        let check = |line: &str, kept: &str, removed: &str| {
            assert_eq!(clean(line, Colours::Keep), kept, "{line:?}");
            assert_eq!(clean(line, Colours::Remove), removed, "{line:?}");
        };
        check("plain\ttext ä", "plain\ttext ä", "plain\ttext ä");
        check("\x1b[1;31mred", "\x1b[1;31mred\x1b[0m", "red");
        check("\x1b[2Ja\x1b[Hb\x1b[?25lc", "abc", "abc");
        check("\x1b]0;title\x07a\x1b]8;;x\x1b\\b\x1bP1\x1b\\c", "abc", "abc");
        check("a\x08\x07\u{9b}31mb\x7f", "a31mb", "a31mb");
        check("a\x1b", "a", "a");
        check("a\x1b[", "a", "a");
        check("a\x1b[31", "a", "a");
        check("a\x1bä", "aä", "aä");
        check("a\x1b[31äb", "aäb", "aäb");
        check("a\x1b]endless", "a", "a");
    }

    #[test]
    fn lines_fit() {
        let check = |line: &str, columns, expected: &str| {
            let (text, used) = fit(line, columns);
            assert_eq!((text.as_str(), used), (expected, expected.width()), "{line:?} {columns}");
            assert!(used <= columns);
        };
        check("abc", 3, "abc");
        check("abcd", 3, "ab…");
        check("abcd", 1, "…");
        check("abcd", 0, "");
        check("a\tb", 20, "a       b");
        check("a\tb", 8, "a…");
        // Two columns each, and no half of one.
        check("日本語", 6, "日本語");
        check("日本語", 5, "日本…");
        check("日本語", 4, "日…");
        check("日本語", 1, "…");
        // A letter with its accent stays together; endless accents are left out.
        check("e\u{301}te\u{301}", 3, "e\u{301}te\u{301}");
        check("e\u{301}te\u{301}", 2, "e\u{301}…");
        check(&format!("a{}b", "\u{301}".repeat(100)), 2, "b");
    }

    #[test]
    fn directions_are_not_turned() {
        assert_eq!(clean("a\u{202e}b\u{2028}c\u{2066}d", Colours::Keep), "abcd");
    }

    #[test]
    fn durations() {
        let text = |millis| duration(Duration::from_millis(millis));
        assert_eq!([0, 99, 1590, 59_999].map(text), ["0.0s", "0.0s", "1.5s", "59.9s"]);
        assert_eq!([60_000, 3_599_999, 3_720_000].map(text), ["1m 00s", "59m 59s", "1h 02m"]);
    }

    #[test]
    fn sizes() {
        assert_eq!(
            [0, 999, 1000, 1_050_000, 3_000_000_000].map(size),
            ["0B", "999B", "1.00kB", "1.05MB", "3.00GB"]
        );
    }
}
