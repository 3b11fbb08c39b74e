//! Answers for people: tables, and lines of a source file.

use std::fmt::Write as _;

use cofferdam_sdk::SourceRange;
use serde_json::{Value, json};

use crate::locate::SourceText;

/// Lines before and after those that an excerpt is about.
const CONTEXT: u32 = 2;
/// The most lines that an excerpt marks.
const MOST_LINES: u32 = 20;

/// A table with a heading.
pub(super) fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let heading: Vec<String> = heading.iter().map(|text| (*text).to_owned()).collect();
    let all = || std::iter::once(&heading).chain(rows);
    let width = |column: usize| all().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let mut text = String::new();
    for row in all() {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}   ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Lines of a file as BuildKit shows them, with carets below what is meant.
pub(super) fn excerpt(source: &SourceText<'_>, file: &str, range: SourceRange) -> String {
    const RULE: &str = "--------------------\n";
    let SourceRange { start_line, end_line, start_column, end_column, .. } = range;
    let mut text = format!("{file}:{start_line}");
    if start_column > 0 {
        let _ = write!(text, ":{start_column}");
    }
    text.push('\n');
    text.push_str(RULE);
    let last = end_line.min(start_line.saturating_add(MOST_LINES));
    let from = start_line.saturating_sub(CONTEXT).max(1);
    for number in from..=last.saturating_add(CONTEXT).min(source.count()) {
        let line = source.line(number);
        let marked = (start_line..=last).contains(&number);
        let mark = if marked { ">>>" } else { "   " };
        text.push_str(format!(" {number:3} | {mark} {line}").trim_end());
        text.push('\n');
        if number == start_line && start_column > 0 {
            let before = line.chars().take(start_column as usize - 1);
            let blanks: String = before.map(|c| if c == '\t' { c } else { ' ' }).collect();
            let width = end_column.saturating_sub(start_column) as usize + 1;
            let _ = writeln!(text, "     |     {blanks}{}", "^".repeat(width));
        }
    }
    text + RULE
}

/// A place as BuildKit writes it in JSON.
pub(super) fn location(range: SourceRange) -> Value {
    let position = |line: u32, column: u32| match column {
        0 => json!({"line": line}),
        column => json!({"line": line, "character": column}),
    };
    let SourceRange { source, start_line, end_line, start_column, end_column } = range;
    json!({
        "sourceIndex": source,
        "ranges": [{
            "start": position(start_line, start_column),
            "end": position(end_line, end_column),
        }],
    })
}

/// The source files that locations point into, as BuildKit writes them in JSON.
pub(super) fn sources(name: &str, text: &str) -> Value {
    json!([{"filename": name, "language": "Dockerfile", "data": base64(text.as_bytes())}])
}

/// Base64 (RFC 4648, section 4).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut group = [0; 3];
        group[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        for digit in 0..4 {
            match digit <= chunk.len() {
                true => text.push(DIGITS[(bits >> (18 - 6 * digit)) as usize & 63].into()),
                false => text.push('='),
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (text, expected) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(text.as_bytes()), expected);
        }
    }

    #[test]
    fn tables_line_up() {
        let rows = [vec!["a".to_owned(), "long".into()], vec!["bbbb".into(), String::new()]];
        assert_eq!(table(&["X", "Y"], &rows), "X      Y\na      long\nbbbb\n");
    }
}
