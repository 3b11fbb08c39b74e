//! Cuts a Dockerfile into logical lines: joins continued lines, drops comments, and collects
//! here-documents. What a line means is left to `parse`.

use crate::directives::without_bom;
use crate::error::{Lines, Located, Problem};
use crate::heredoc::{Heredoc, announced};

/// The longest line that is accepted, in bytes.
const LONGEST_LINE: usize = 65535;

/// One instruction's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogicalLine {
    /// Where it stands, with its here-documents.
    pub lines: Lines,
    /// The text, continuations joined, blanks around it removed.
    pub text: String,
    /// The here-documents that follow it.
    pub heredocs: Vec<Heredoc>,
    /// The first empty line inside it, if there is one.
    pub blank: Option<u32>,
}

/// Cuts `source`. `takes_heredocs` says whether an instruction's text may announce some. Where a
/// line is too long or a here-document does not end, that is told, and the rest is not cut.
pub fn split(
    source: &str,
    escape: char,
    takes_heredocs: impl Fn(&str) -> bool,
) -> (Vec<LogicalLine>, Option<Located>) {
    let mut found = Vec::new();
    let problem = cut(source, escape, takes_heredocs, &mut found).err();
    (found, problem.map(|problem| *problem))
}

fn cut(
    source: &str,
    escape: char,
    takes_heredocs: impl Fn(&str) -> bool,
    found: &mut Vec<LogicalLine>,
) -> Result<(), Box<Located>> {
    let mut physical = without_bom(source).split_inclusive('\n').zip(1u32..);
    while let Some((line, number)) = physical.next() {
        let mut lines = Lines { start: number, end: number };
        check_length(line, lines)?;
        if is_comment(line) {
            continue;
        }
        let mut text = String::new();
        let mut blank = None;
        let mut continued = append(&mut text, line.trim_start(), escape);
        while continued {
            let Some((line, number)) = physical.next() else { break };
            check_length(line, Lines { start: number, end: number })?;
            lines.end = number;
            if is_comment(line) {
                continue;
            }
            if line.trim().is_empty() {
                blank.get_or_insert(number);
                continue;
            }
            continued = append(&mut text, line, escape);
        }
        let text = text.trim().to_owned();
        if text.is_empty() {
            continue;
        }
        let mut heredocs = Vec::new();
        if takes_heredocs(&text) {
            heredocs = announced(&text, escape);
        }
        for heredoc in &mut heredocs {
            lines.end = read_body(heredoc, &mut physical, lines)?;
        }
        found.push(LogicalLine { lines, text, heredocs, blank });
    }
    Ok(())
}

fn check_length(line: &str, lines: Lines) -> Result<(), Box<Located>> {
    if line.len() <= LONGEST_LINE {
        return Ok(());
    }
    let message = format!("the line has {} bytes: at most {LONGEST_LINE} are read", line.len());
    Err(Box::new(Problem::Syntax(message).at(lines)))
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

/// Appends a physical line without its end; says whether the next line continues it.
fn append(text: &mut String, line: &str, escape: char) -> bool {
    let line = line.trim_end_matches(['\r', '\n']);
    let body = line.trim_end_matches([' ', '\t']);
    match body.strip_suffix(escape) {
        // Two escape characters are one escaped one, and do not continue the line.
        Some(body) if !body.ends_with(escape) => {
            text.push_str(body);
            true
        }
        _ => {
            text.push_str(line);
            false
        }
    }
}

/// Reads the body of a here-document; returns the number of the line that ends it.
fn read_body<'a>(
    heredoc: &mut Heredoc,
    physical: &mut impl Iterator<Item = (&'a str, u32)>,
    lines: Lines,
) -> Result<u32, Box<Located>> {
    for (line, number) in physical {
        let mut end = line.trim_end_matches(['\r', '\n']);
        if heredoc.strip_tabs {
            end = end.trim_start_matches('\t');
        }
        if end == heredoc.name {
            return Ok(number);
        }
        heredoc.body.push_str(line);
    }
    let name = &heredoc.name;
    let message = format!("the here-document `{name}` has no end: expected a line `{name}`");
    Err(Box::new(Problem::Syntax(message).at(lines)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(source: &str, escape: char, expected: Expect) {
        let mut text = String::new();
        let (lines, problem) = split(source, escape, |text| text.starts_with("RUN"));
        for line in lines {
            text += &format!("{}-{}: {:?}", line.lines.start, line.lines.end, line.text);
            for heredoc in line.heredocs {
                text += &format!(" {}={:?}", heredoc.name, heredoc.body);
            }
            text.push('\n');
        }
        if let Some(error) = problem {
            text += &format!("{:?}: {}\n", error.lines, error.problem);
        }
        expected.assert_eq(&text);
    }

    #[test]
    fn continuations_and_comments() {
        check(
            "# top\n\nRUN a \\\n  # inside\n  && b \\  \n\n  && c\n  FROM x  \n",
            '\\',
            expect![[r#"
                3-7: "RUN a   && b   && c"
                8-8: "FROM x"
            "#]],
        );
        check(
            "RUN a\\\\\nRUN b \\",
            '\\',
            expect![[r#"
            1-1: "RUN a\\\\"
            2-2: "RUN b"
        "#]],
        );
        check(
            "RUN a `\r\n  b\r\nENV P=C:\\x\r\n",
            '`',
            expect![[r#"
            1-2: "RUN a   b"
            3-3: "ENV P=C:\\x"
        "#]],
        );
    }

    #[test]
    fn heredocs() {
        check(
            "RUN <<A <<-B\n# kept\nA\n\tb\n\tB\nENV x=<<A\n",
            '\\',
            expect![[r##"
            1-5: "RUN <<A <<-B" A="# kept\n" B="\tb\n"
            6-6: "ENV x=<<A"
        "##]],
        );
        check(
            "\nRUN <<A\nx\n",
            '\\',
            expect![[r#"
            Some(Lines { start: 2, end: 2 }): the here-document `A` has no end: expected a line `A`
        "#]],
        );
    }

    #[test]
    fn too_long() {
        check(
            &"x".repeat(65536),
            '\\',
            expect![[r#"
            Some(Lines { start: 1, end: 1 }): the line has 65536 bytes: at most 65535 are read
        "#]],
        );
    }
}
