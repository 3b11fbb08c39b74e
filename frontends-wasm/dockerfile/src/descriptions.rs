//! Comments that describe what is defined below them: `# NAME what it is for`, directly above an
//! ARG or a FROM.

use std::collections::BTreeMap;

use crate::error::Lines;
use crate::locate::SourceText;
use crate::parse::Dockerfile;

/// The comments of a file, by what they stand above.
#[derive(Clone, Debug)]
pub struct Descriptions<'a> {
    source: SourceText<'a>,
    /// The first line in front of an instruction that belongs to it, by its own first line.
    free: BTreeMap<u32, u32>,
}

/// A comment without its `#`, and its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Comment<'a> {
    /// Where it stands.
    pub line: u32,
    /// What it says.
    pub text: &'a str,
}

impl Dockerfile {
    /// The comments of this file, whose text is `text`.
    pub fn descriptions<'a>(&self, text: &'a str) -> Descriptions<'a> {
        // What stands in front of an instruction belongs to it, up to the one before.
        let ends = self.instructions.iter().map(|instruction| instruction.lines.end + 1);
        let ends = std::iter::once(1).chain(ends);
        let starts = self.instructions.iter().map(|instruction| instruction.lines.start);
        Descriptions { source: SourceText::new(text), free: starts.zip(ends).collect() }
    }
}

impl<'a> Descriptions<'a> {
    /// The comments directly above an instruction, from the top.
    pub fn above(&self, lines: Lines) -> Vec<Comment<'a>> {
        let free = self.free.get(&lines.start).copied().unwrap_or(lines.start);
        let comment = |line: u32| {
            let text = self.source.line(line).trim().strip_prefix('#')?.trim();
            Some(Comment { line, text })
        };
        let mut comments: Vec<_> = (free..lines.start).rev().map_while(comment).collect();
        comments.reverse();
        comments
    }

    /// What the comment above an instruction says about a name that it defines.
    pub fn of(&self, lines: Lines, name: &str) -> Option<&'a str> {
        let Comment { text, .. } = *self.above(lines).last()?;
        let (first, rest) = text.split_once(char::is_whitespace)?;
        first.eq_ignore_ascii_case(name).then(|| rest.trim_start())
    }
}
