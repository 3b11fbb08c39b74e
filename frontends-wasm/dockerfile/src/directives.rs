//! Parser directives: `# syntax=`, `# escape=`, `# check=` at the very top of a file, and the
//! byte order mark and `#!` line that may stand before them.

use crate::error::{Lines, Located, Problem};

/// What the directives of a file say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directives {
    /// Which frontend the file is for: the first word, and what follows it.
    pub syntax: Option<String>,
    /// The escape character: a backslash or a backquote.
    pub escape: char,
    /// Which checks are done.
    pub check: Option<String>,
    /// The line of that directive.
    pub check_line: u32,
}

impl Default for Directives {
    fn default() -> Self {
        Self { syntax: None, escape: '\\', check: None, check_line: 0 }
    }
}

/// Takes a byte order mark off the beginning of a file.
pub fn without_bom(source: &str) -> &str {
    source.strip_prefix('\u{feff}').unwrap_or(source)
}

/// Reads the directives; the section ends with the first line that is none.
///
/// # Errors
/// When a directive is given twice or has an invalid value.
pub fn parse(source: &str) -> Result<Directives, Box<Located>> {
    let mut directives = Directives::default();
    let mut seen: Vec<String> = Vec::new();
    for (index, line) in without_bom(source).lines().enumerate() {
        if index == 0 && line.starts_with("#!") {
            continue;
        }
        let Some((key, value)) = split(line) else { break };
        let number = u32::try_from(index + 1).unwrap_or(u32::MAX);
        let lines = Lines { start: number, end: number };
        if !matches!(key.as_str(), "syntax" | "escape" | "check") {
            break;
        }
        if seen.contains(&key) {
            let problem = Problem::Syntax(format!("the directive `{key}` is given twice"));
            return Err(Box::new(problem.at(lines)));
        }
        match key.as_str() {
            "syntax" => directives.syntax = Some(value.into()),
            "check" => {
                directives.check = Some(value.into());
                directives.check_line = number;
            }
            _ => {
                directives.escape = match value {
                    "\\" => '\\',
                    "`" => '`',
                    _ => {
                        let problem =
                            Problem::invalid("escape directive", value, "`\\` or a backquote");
                        return Err(Box::new(problem.at(lines)));
                    }
                }
            }
        }
        seen.push(key);
    }
    Ok(directives)
}

/// Splits `# key = value`; the key is made lower-case.
fn split(line: &str) -> Option<(String, &str)> {
    let (key, value) = line.trim_start().strip_prefix('#')?.split_once('=')?;
    let key = key.trim();
    let valid = key.starts_with(|c: char| c.is_ascii_alphabetic())
        && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    let value = value.trim();
    // Without a value it is an ordinary comment.
    (valid && !value.is_empty()).then(|| (key.to_ascii_lowercase(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: &str, syntax: Option<&str>, escape: char) {
        let directives = parse(source).unwrap();
        assert_eq!((directives.syntax.as_deref(), directives.escape), (syntax, escape), "{source}");
    }

    #[test]
    fn only_the_top_counts() {
        check("# syntax=docker/dockerfile:1\nFROM a", Some("docker/dockerfile:1"), '\\');
        check("#SYNTAX = a b\n# escape=`\n", Some("a b"), '`');
        check("\u{feff}#syntax=a\r\n#escape=`\r\n", Some("a"), '`');
        check("#!/usr/bin/env -S docker build\n# escape=`\n", None, '`');
        check("\n# escape=`\n", None, '\\');
        check("# a comment\n# escape=`\n", None, '\\');
        check("# unknown=1\n# escape=`\n", None, '\\');
        check("# escape=\n# escape=`\n", None, '\\');
        check("FROM a\n# escape=`\n", None, '\\');
    }

    #[test]
    fn wrong_directives_are_named() {
        let problem = parse("# escape=x\n").unwrap_err().problem.to_string();
        assert_eq!(problem, "invalid escape directive `x`: expected `\\` or a backquote");
        let problem = parse("# escape=`\n# escape=`\n").unwrap_err();
        assert_eq!(problem.problem.to_string(), "the directive `escape` is given twice");
        assert_eq!(problem.lines, Some(Lines { start: 2, end: 2 }));
    }
}
