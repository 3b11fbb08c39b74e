//! `.dockerignore` files: reads their patterns, and says what one pattern does. Leaving files out
//! is done by whoever reads the context.

use cofferdam_patterns::Matcher;

use crate::error::Problem;

/// A line of an ignore file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The line, counted from 1.
    pub line: u32,
    /// What stands there.
    pub written: String,
    /// The pattern, cleaned.
    pub pattern: String,
}

/// The rules of an ignore file, cleaned: no comments, blanks, leading slashes, `.` or `..`.
pub fn rules(text: &str) -> Vec<Rule> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = text.lines().zip(1..).filter(|(line, _)| !line.starts_with('#'));
    let rule = |(line, number): (&str, u32)| {
        let written = line.trim().to_owned();
        Some(Rule { line: number, pattern: pattern(&written)?, written })
    };
    lines.filter_map(rule).collect()
}

/// The patterns of an ignore file.
pub fn parse(text: &str) -> Vec<String> {
    rules(text).into_iter().map(|rule| rule.pattern).collect()
}

/// What decides which paths a list of patterns leaves out.
///
/// # Errors
/// When a pattern is malformed.
pub fn matcher(patterns: &[String]) -> Result<Matcher, Problem> {
    let expected = |error: cofferdam_patterns::Error| {
        Problem::invalid("ignore pattern", error.pattern, format!("another: {}", error.reason))
    };
    Matcher::new(patterns).map_err(expected)
}

fn pattern(line: &str) -> Option<String> {
    let (negation, rest) = match line.strip_prefix('!') {
        Some(rest) => ("!", rest.trim()),
        None => ("", line),
    };
    if rest.is_empty() {
        return None;
    }
    let clean = crate::path::clean(rest);
    let clean = if clean.len() > 1 { clean.trim_start_matches('/') } else { &clean };
    Some(format!("{negation}{clean}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_cleaned() {
        let text =
            "\u{feff}# comment\n\n  *.o \n/build/\r\n! keep.o\n!/a//b/../c\n**/tmp\n #not\n!\n";
        assert_eq!(parse(text), ["*.o", "build", "!keep.o", "!a/c", "**/tmp", "#not"]);
        let second = &rules(text)[1];
        assert_eq!((second.line, second.written.as_str()), (4, "/build/"));
    }
}
