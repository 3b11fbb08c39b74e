//! The patterns of `${name#pattern}` and its relatives: `*` is any text, `?` any character, a
//! backslash makes the next character literal. Matching takes no backtracking: between stars,
//! each piece is looked for once.

/// A pattern as the pieces between its stars.
pub struct Pattern {
    pieces: Vec<Vec<Unit>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    Any,
    Literal(char),
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// When it ends in a lone backslash.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = vec![Vec::new()];
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            let unit = match c {
                '*' => {
                    pieces.push(Vec::new());
                    continue;
                }
                '?' => Unit::Any,
                '\\' => Unit::Literal(chars.next().ok_or("the pattern ends in a lone `\\`")?),
                c => Unit::Literal(c),
            };
            pieces.last_mut().expect("there is always a last piece").push(unit);
        }
        Ok(Self { pieces })
    }

    /// Removes the shortest or longest match at the beginning of `value`.
    pub fn trim_start(&self, value: &str, longest: bool) -> String {
        let chars: Vec<char> = value.chars().collect();
        match self.match_at(&chars, 0, longest) {
            Some(end) => chars[end..].iter().collect(),
            None => value.into(),
        }
    }

    /// Removes the shortest or longest match at the end of `value`.
    pub fn trim_end(&self, value: &str, longest: bool) -> String {
        let chars: Vec<char> = value.chars().rev().collect();
        let reversed = self.pieces.iter().rev();
        let reversed =
            Self { pieces: reversed.map(|p| p.iter().rev().copied().collect()).collect() };
        match reversed.match_at(&chars, 0, longest) {
            Some(end) => chars[end..].iter().rev().collect(),
            None => value.into(),
        }
    }

    /// The most matches that there can be.
    pub fn most_matches(&self, value: &str, all: bool) -> usize {
        let shortest: usize = self.pieces.iter().map(Vec::len).sum();
        if all { value.len() / shortest.max(1) } else { 1 }
    }

    /// Replaces the first match, or all, by `replacement`.
    pub fn replace(&self, value: &str, replacement: &str, all: bool) -> String {
        let chars: Vec<char> = value.chars().collect();
        let mut result = String::new();
        let mut at = 0;
        while at < chars.len() {
            // If the pieces after the first do not fit behind its first place, they fit behind
            // no later one either.
            let found = find(&chars, at, &self.pieces[0]);
            let Some((start, end)) =
                found.and_then(|start| Some((start, self.match_at(&chars, start, true)?)))
            else {
                break;
            };
            if end == start {
                break;
            }
            result.extend(&chars[at..start]);
            result.push_str(replacement);
            at = end;
            if !all {
                break;
            }
        }
        result.extend(&chars[at..]);
        result
    }

    /// Where a match that starts at `start` ends.
    fn match_at(&self, chars: &[char], start: usize, longest: bool) -> Option<usize> {
        let (first, rest) = self.pieces.split_first()?;
        if !fits(chars, start, first) {
            return None;
        }
        let mut end = start + first.len();
        let Some((last, middle)) = rest.split_last() else { return Some(end) };
        for piece in middle {
            end = find(chars, end, piece)? + piece.len();
        }
        let place = match longest {
            false => find(chars, end, last)?,
            true => (end..=chars.len().checked_sub(last.len())?)
                .rev()
                .find(|&place| fits(chars, place, last))?,
        };
        Some(place + last.len())
    }
}

fn fits(chars: &[char], at: usize, piece: &[Unit]) -> bool {
    let Some(part) = chars.get(at..at + piece.len()) else { return false };
    piece.iter().zip(part).all(|(unit, c)| *unit == Unit::Any || *unit == Unit::Literal(*c))
}

fn find(chars: &[char], from: usize, piece: &[Unit]) -> Option<usize> {
    (from..=chars.len().checked_sub(piece.len())?).find(|&place| fits(chars, place, piece))
}
