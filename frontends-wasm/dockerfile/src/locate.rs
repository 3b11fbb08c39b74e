//! Finds the columns of a problem: parser and lowering know its lines and the text that it is
//! about, as the user wrote it; where in the lines that stands is looked up when somebody is
//! told. What is right costs nothing.

use cofferdam_sdk::SourceRange;

use crate::error::Lines;

/// A source file with its lines counted.
#[derive(Clone, Debug)]
pub struct SourceText<'a> {
    lines: Vec<&'a str>,
}

/// A part of one line, in characters counted from 1, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The line.
    pub line: u32,
    /// First column.
    pub start: u32,
    /// Last column.
    pub end: u32,
}

impl<'a> SourceText<'a> {
    /// Counts the lines of a file.
    pub fn new(text: &'a str) -> Self {
        Self { lines: text.lines().collect() }
    }

    /// How many lines there are.
    pub fn count(&self) -> u32 {
        u32::try_from(self.lines.len()).unwrap_or(u32::MAX)
    }

    /// A line; empty when there is none with that number.
    pub fn line(&self, number: u32) -> &'a str {
        let index = (number as usize).checked_sub(1);
        index.and_then(|index| self.lines.get(index)).copied().unwrap_or_default()
    }

    /// Where in `lines` one of `texts` stands; the first that is found counts, and of its places
    /// the first where it is a word.
    pub fn find<'t>(
        &self,
        lines: Lines,
        texts: impl IntoIterator<Item = &'t str>,
    ) -> Option<Place> {
        let last = lines.end.min(self.count());
        texts.into_iter().find_map(|text| {
            let places = (lines.start..=last).flat_map(|number| {
                self.line(number).match_indices(text).map(move |(at, _)| (number, at))
            });
            let mut first = None;
            for (number, at) in places.filter(|_| !text.is_empty()) {
                let line = self.line(number);
                let place = Place::new(number, line, at, text.len());
                if is_word(line, at, text.len()) {
                    return Some(place);
                }
                first.get_or_insert(place);
            }
            first
        })
    }

    /// The first word of an instruction.
    pub fn first_word(&self, lines: Lines) -> Option<Place> {
        let line = self.line(lines.start);
        let at = line.find(|c: char| !c.is_whitespace())?;
        let word = line[at..].split_whitespace().next()?;
        Some(Place::new(lines.start, line, at, word.len()))
    }
}

impl Place {
    fn new(line: u32, text: &str, at: usize, length: usize) -> Self {
        let start = text[..at].chars().count() + 1;
        let end = start + text[at..at + length].chars().count().saturating_sub(1);
        let column = |column| u32::try_from(column).unwrap_or(u32::MAX);
        Self { line, start: column(start), end: column(end) }
    }

    /// The place in a source file with a number.
    pub fn range(self, source: u32) -> SourceRange {
        let Self { line, start, end } = self;
        let whole = SourceRange::lines(source, line, line);
        SourceRange { start_column: start, end_column: end, ..whole }
    }
}

/// Whether what stands there does not go on before or behind it.
fn is_word(line: &str, at: usize, length: usize) -> bool {
    let goes_on = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    let (before, behind) = (&line[..at], &line[at + length..]);
    let (first, last) = (line[at..].chars().next(), line[..at + length].chars().next_back());
    let joined = |inner: Option<char>, outer: Option<char>| {
        inner.is_some_and(goes_on) && outer.is_some_and(goes_on)
    };
    !joined(first, before.chars().next_back()) && !joined(last, behind.chars().next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_preferred_and_columns_are_characters() {
        let text = SourceText::new("COPY --fromage=x --from=ä \\\n  ä é\n");
        let lines = Lines { start: 1, end: 2 };
        let at = |text: &[&str]| {
            let place = SourceText::new("COPY --fromage=x --from=ä \\\n  ä é\n");
            place.find(lines, text.iter().copied()).map(|p| (p.line, p.start, p.end))
        };
        assert_eq!(at(&["--from"]), Some((1, 18, 23)));
        assert_eq!(at(&["--fro"]), Some((1, 6, 10)));
        assert_eq!(at(&["", "nowhere", "é"]), Some((2, 5, 5)));
        assert_eq!(at(&["nowhere"]), None);
        let word = text.first_word(Lines { start: 2, end: 9 });
        assert_eq!(word, Some(Place { line: 2, start: 3, end: 3 }));
        assert_eq!(text.first_word(Lines { start: 9, end: 9 }), None);
    }
}
