//! Expands words: quotes, escapes, `$name` and `${name…}` with all modifiers.

use std::cell::Cell;
use std::collections::BTreeMap;

use crate::error::Problem;
use crate::pattern::Pattern;

/// Where the values of variables come from.
pub trait Variables {
    /// The value of a variable, if it is set.
    fn get(&self, name: &str) -> Option<&str>;

    /// Is told of a variable that was used, not set, and for which the word had no other text.
    fn missed(&self, _name: &str) {}

    /// Is told how much work a value made; says whether there may be more.
    fn spend(&self, _work: usize) -> bool {
        true
    }
}

/// How much work the values of variables may make in all of a file: variables that double each
/// other would otherwise fill any memory, and patterns in long values take any time.
#[derive(Debug)]
pub struct Budget(Cell<usize>);

impl Default for Budget {
    fn default() -> Self {
        // Bytes that are copied, and comparisons of characters.
        Self(Cell::new(1 << 26))
    }
}

impl Budget {
    /// Takes from it; says whether there was enough.
    pub fn spend(&self, work: usize) -> bool {
        let left = self.0.get().checked_sub(work);
        self.0.set(left.unwrap_or(0));
        left.is_some()
    }
}

/// Variables that are used within a budget.
pub struct Within<'a> {
    /// The variables.
    pub variables: &'a dyn Variables,
    /// What there is for them.
    pub budget: &'a Budget,
}

impl Variables for Within<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name)
    }

    fn missed(&self, name: &str) {
        self.variables.missed(name);
    }

    fn spend(&self, work: usize) -> bool {
        self.budget.spend(work)
    }
}

impl Variables for BTreeMap<String, String> {
    fn get(&self, name: &str) -> Option<&str> {
        BTreeMap::get(self, name).map(String::as_str)
    }
}

/// How words are expanded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expander {
    /// The escape character.
    pub escape: char,
    /// Quotes and escapes stay as they are, and so do variables that are not set.
    /// For texts that are shown, not used.
    pub for_display: bool,
    /// Quotes are ordinary characters, as in here-documents.
    pub keep_quotes: bool,
}

/// How deep `${a:-${b:-…}}` may be nested.
const DEEPEST: usize = 100;

impl Expander {
    /// Expands as instructions do.
    pub fn new(escape: char) -> Self {
        Self { escape, for_display: false, keep_quotes: false }
    }

    /// Expands one word.
    ///
    /// # Errors
    /// When a quote or brace does not end, or a `${name:?}` says so.
    pub fn word(&self, word: &str, variables: &dyn Variables) -> Result<String, Problem> {
        let mut scanner = Scanner {
            expander: *self,
            variables,
            chars: word.chars().peekable(),
            raw_escapes: self.for_display,
            depth: 0,
        };
        scanner.until(None).map_err(|reason| Problem::Expansion { word: word.into(), reason })
    }

    /// Expands one word, and splits the result at blanks.
    ///
    /// # Errors
    /// As [`Expander::word`].
    pub fn words(&self, word: &str, variables: &dyn Variables) -> Result<Vec<String>, Problem> {
        Ok(self.word(word, variables)?.split_whitespace().map(str::to_owned).collect())
    }
}

struct Scanner<'a> {
    expander: Expander,
    variables: &'a dyn Variables,
    chars: std::iter::Peekable<std::str::Chars<'a>>,
    raw_escapes: bool,
    depth: usize,
}

type Step = Result<String, String>;

impl Scanner<'_> {
    fn until(&mut self, stop: Option<char>) -> Step {
        let mut result = String::new();
        while let Some(&c) = self.chars.peek() {
            if Some(c) == stop {
                self.chars.next();
                return Ok(result);
            }
            match c {
                '$' => result.push_str(&self.dollar()?),
                '\'' if !self.expander.keep_quotes => result.push_str(&self.single_quoted()?),
                '"' if !self.expander.keep_quotes => result.push_str(&self.double_quoted()?),
                c if c == self.expander.escape => {
                    self.chars.next();
                    if self.raw_escapes {
                        result.push(c);
                    }
                    result.extend(self.chars.next());
                }
                c => {
                    self.chars.next();
                    result.push(c);
                }
            }
        }
        match stop {
            Some(stop) => Err(format!("`{stop}` is missing")),
            None => Ok(result),
        }
    }

    fn single_quoted(&mut self) -> Step {
        let mut result = String::new();
        self.chars.next();
        if self.expander.for_display {
            result.push('\'');
        }
        loop {
            match self.chars.next() {
                Some('\'') => break,
                Some(c) => result.push(c),
                None => return Err("the single quote has no end".into()),
            }
        }
        if self.expander.for_display {
            result.push('\'');
        }
        Ok(result)
    }

    fn double_quoted(&mut self) -> Step {
        let mut result = String::new();
        self.chars.next();
        if self.expander.for_display {
            result.push('"');
        }
        loop {
            match self.chars.peek().copied() {
                None => return Err("the double quote has no end".into()),
                Some('"') => {
                    self.chars.next();
                    break;
                }
                Some('$') => result.push_str(&self.dollar()?),
                Some(c) if c == self.expander.escape => {
                    self.chars.next();
                    let next = self.chars.peek().copied();
                    let special = next.filter(|&next| next == '"' || next == '$' || next == c);
                    if special.is_none() || self.raw_escapes {
                        result.push(c);
                    }
                    if let Some(special) = special {
                        self.chars.next();
                        result.push(special);
                    }
                }
                Some(c) => {
                    self.chars.next();
                    result.push(c);
                }
            }
        }
        if self.expander.for_display {
            result.push('"');
        }
        Ok(result)
    }

    fn dollar(&mut self) -> Step {
        self.chars.next();
        if self.chars.peek() != Some(&'{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".into());
            }
            return Ok(match self.value(&name)? {
                Some(value) => value,
                None if self.expander.for_display => format!("${name}"),
                None => {
                    self.variables.missed(&name);
                    String::new()
                }
            });
        }
        self.chars.next();
        if self.depth == DEEPEST {
            return Err(format!("substitutions are nested more than {DEEPEST} deep"));
        }
        self.depth += 1;
        let result = self.braced();
        self.depth -= 1;
        result
    }

    /// A variable's value, paid for.
    fn value(&self, name: &str) -> Result<Option<String>, String> {
        let Some(value) = self.variables.get(name) else { return Ok(None) };
        self.spend(value.len())?;
        Ok(Some(value.to_owned()))
    }

    fn spend(&self, work: usize) -> Result<(), String> {
        match self.variables.spend(work) {
            true => Ok(()),
            false => Err("the values of variables in this file become too long".into()),
        }
    }

    /// Reads a pattern that a value is going to be matched with, paid for.
    fn pattern(&self, pattern: &str, value: &str) -> Result<Pattern, String> {
        self.spend(pattern.len().saturating_mul(value.len()) / 16)?;
        Pattern::parse(pattern)
    }

    fn braced(&mut self) -> Step {
        let name = self.name();
        let next = self.chars.next().ok_or("`}` is missing")?;
        if name.is_empty() {
            return Err("a variable's name is missing after `${`".into());
        }
        let value = self.value(&name)?;
        let unset_for_display = self.expander.for_display && value.is_none();
        match next {
            '}' if unset_for_display => Ok(format!("${{{name}}}")),
            '}' => Ok(value.unwrap_or_else(|| {
                self.variables.missed(&name);
                String::new()
            })),
            '/' => {
                let all = self.chars.next_if_eq(&'/').is_some();
                let pattern = self.raw_until('/')?;
                let replacement = self.until(Some('}'))?;
                if unset_for_display {
                    let slash = if all { "//" } else { "/" };
                    return Ok(format!("${{{name}{slash}{pattern}/{replacement}}}"));
                }
                let value = value.unwrap_or_default();
                let pattern = self.pattern(&pattern, &value)?;
                // Each character may be replaced.
                self.spend(replacement.len().saturating_mul(pattern.most_matches(&value, all)))?;
                Ok(pattern.replace(&value, &replacement, all))
            }
            '#' | '%' => {
                let longest = self.chars.next_if_eq(&next).is_some();
                let pattern = self.raw_until('}')?;
                if unset_for_display {
                    let doubled = if longest { String::from(next) } else { String::new() };
                    return Ok(format!("${{{name}{next}{doubled}{pattern}}}"));
                }
                let value = value.unwrap_or_default();
                let pattern = self.pattern(&pattern, &value)?;
                Ok(match next {
                    '#' => pattern.trim_start(&value, longest),
                    _ => pattern.trim_end(&value, longest),
                })
            }
            ':' | '-' | '+' | '?' => {
                let colon = next == ':';
                let modifier =
                    if colon { self.chars.next().ok_or("`}` is missing")? } else { next };
                if !matches!(modifier, '-' | '+' | '?') {
                    return Err(format!("unknown modifier `:{modifier}`"));
                }
                let word = self.until(Some('}'))?;
                if unset_for_display {
                    let colon = if colon { ":" } else { "" };
                    return Ok(format!("${{{name}{colon}{modifier}{word}}}"));
                }
                let usable = value.filter(|value| !colon || !value.is_empty());
                match (modifier, usable) {
                    ('-', usable) => Ok(usable.unwrap_or(word)),
                    ('+', Some(_)) => Ok(word),
                    ('+', None) => Ok(String::new()),
                    (_, Some(value)) => Ok(value),
                    (_, None) if !word.is_empty() => Err(format!("`{name}`: {word}")),
                    (_, None) if colon => Err(format!("`{name}` must be set and not empty")),
                    (_, None) => Err(format!("`{name}` must be set")),
                }
            }
            other => Err(format!("unknown modifier `{other}`")),
        }
    }

    /// Reads a pattern, in which escapes keep their meaning for the matcher.
    fn raw_until(&mut self, stop: char) -> Step {
        let before = std::mem::replace(&mut self.raw_escapes, true);
        let result = self.until(Some(stop));
        self.raw_escapes = before;
        result
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        let Some(&first) = self.chars.peek() else { return name };
        if first.is_ascii_digit() {
            while let Some(c) = self.chars.next_if(char::is_ascii_digit) {
                name.push(c);
            }
            return name;
        }
        if "@*#?-$!".contains(first) {
            self.chars.next();
            return first.into();
        }
        while let Some(c) = self.chars.next_if(|c| c.is_alphanumeric() || *c == '_') {
            name.push(c);
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables() -> BTreeMap<String, String> {
        [("v", "release-1.2.3.tar.gz"), ("e", ""), ("p", "a*b"), ("two", "x  y")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into()
    }

    fn check(escape: char, cases: &[(&str, &str)]) {
        for (word, expected) in cases {
            let result = match Expander::new(escape).word(word, &variables()) {
                Ok(value) => value,
                Err(error) => format!("error: {error}"),
            };
            assert_eq!(result, *expected, "{word}");
        }
    }

    #[test]
    fn modifiers() {
        check(
            '\\',
            &[
                ("$v", "release-1.2.3.tar.gz"),
                ("a${v}b", "arelease-1.2.3.tar.gzb"),
                ("${u:-w}|${u-w}|${e:-w}|${e-w}", "w|w|w|"),
                ("${v:+w}|${v+w}|${e:+w}|${e+w}|${u+w}", "w|w||w|"),
                ("${v:?x}", "release-1.2.3.tar.gz"),
                ("${e?x}", ""),
                ("${u:?gone}", "error: cannot expand `${u:?gone}`: `u`: gone"),
                ("${e:?}", "error: cannot expand `${e:?}`: `e` must be set and not empty"),
                ("${u?}", "error: cannot expand `${u?}`: `u` must be set"),
                ("${v%.*}|${v%%.*}", "release-1.2.3.tar|release-1"),
                ("${v#*-}|${v##*.}|${v#x}", "1.2.3.tar.gz|gz|release-1.2.3.tar.gz"),
                ("${v%.t?r.gz}|${v%%[.]*}", "release-1.2.3|release-1.2.3.tar.gz"),
                (
                    "${v/release/final}|${v/e?/X}|${v//e/}",
                    "final-1.2.3.tar.gz|rXease-1.2.3.tar.gz|rlas-1.2.3.tar.gz",
                ),
                (
                    "${v/./_}|${v//./_}|${v/1*3/N}",
                    "release-1_2.3.tar.gz|release-1_2_3_tar_gz|release-N.tar.gz",
                ),
                ("${p#a\\*}|${p#a?}|${p%\\**}", "b|b|a"),
                ("${u:-${v:+${e:-deep}}}", "deep"),
                ("${u:-a\\}b}", "a}b"),
                ("${v/-/\\/}", "release/1.2.3.tar.gz"),
            ],
        );
    }

    #[test]
    fn quotes_and_escapes() {
        check(
            '\\',
            &[
                ("'$v'", "$v"),
                ("\"$e$two\"", "x  y"),
                ("\\$v|\"\\$v\"|\"\\a\"|\\a", "$v|$v|\\a|a"),
                ("a\\ b'c d'", "a bc d"),
                ("$|$ |$.|$$|$1", "$|$ |$.||"),
                ("end\\", "end"),
            ],
        );
        check('`', &[("C:\\path`$v", "C:\\path$v"), ("\"`\"\"", "\"")]);
    }

    #[test]
    fn malformed() {
        check(
            '\\',
            &[
                ("'a", "error: cannot expand `'a`: the single quote has no end"),
                ("\"a", "error: cannot expand `\"a`: the double quote has no end"),
                ("${v", "error: cannot expand `${v`: `}` is missing"),
                ("${v:-a", "error: cannot expand `${v:-a`: `}` is missing"),
                ("${}", "error: cannot expand `${}`: a variable's name is missing after `${`"),
                ("${v:=x}", "error: cannot expand `${v:=x}`: unknown modifier `:=`"),
                ("${v^}", "error: cannot expand `${v^}`: unknown modifier `^`"),
            ],
        );
    }

    #[test]
    fn texts_for_display_keep_what_is_not_set() {
        let expander = Expander { for_display: true, ..Expander::new('\\') };
        let shown = expander.word("echo \"$e\" '$v' $u ${u:-$two} \\x ${p}", &variables()).unwrap();
        assert_eq!(shown, "echo \"\" '$v' $u ${u:-x  y} \\x a*b");
    }
}
