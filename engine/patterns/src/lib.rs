//! Patterns: Go's `filepath.Match` for wildcards in a source path, and the rules of
//! `.dockerignore` (moby/patternmatcher) for include and exclude patterns.
//!
//! A pattern is compiled once into tokens and matched by running all alternatives side by side,
//! so that the time is bounded by pattern length × path length whatever the pattern says.
//!
//! Pure text: host and guests share it, so that an ignore file and a COPY read a pattern alike.

/// Why a pattern cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid pattern `{pattern}`: {reason}")]
pub struct Error {
    /// The pattern.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// One step of a compiled pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// This character.
    Literal(char),
    /// `?`: any character but `/`.
    One,
    /// `*`: any characters but `/`.
    Star,
    /// `[…]`: whether negated, and the ranges.
    Class(bool, Vec<(char, char)>),
    /// `**` before something: nothing, or what the next token, always [`Token::Parents`], takes.
    MaybeParents,
    /// Anything that ends with `/`.
    Parents,
    /// `**` at the end: anything.
    Anything,
}

/// Whether a component of a path is a pattern.
pub fn has_wildcard(text: &str) -> bool {
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                chars.next();
            }
            '*' | '?' | '[' => return true,
            _ => {}
        }
    }
    false
}

/// Removes the backslashes that protect characters from being wildcards.
pub fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        out.push(if c == '\\' { chars.next().unwrap_or(c) } else { c });
    }
    out
}

/// A pattern for one component of a path, as Go's `filepath.Match` reads it.
#[derive(Debug, Clone)]
pub struct Glob(Vec<Token>);

impl Glob {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// For a class or an escape that does not end.
    pub fn new(pattern: &str) -> Result<Self, Error> {
        compile(pattern, Stars::Single).map(Self)
    }

    /// Whether a name matches as a whole.
    pub fn matches(&self, name: &str) -> bool {
        run(&self.0, name)
    }
}

/// Makes a path relative to its root, without empty components, `.` and `..`.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

/// Whether `**` means something other than `*`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stars {
    Single,
    Double,
}

fn compile(pattern: &str, stars: Stars) -> Result<Vec<Token>, Error> {
    let fail = |reason| Error { pattern: pattern.to_owned(), reason };
    let mut tokens = Vec::new();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        let token = match c {
            '*' if stars == Stars::Double && chars.next_if_eq(&'*').is_some() => {
                chars.next_if_eq(&'/');
                if chars.peek().is_none() {
                    Token::Anything
                } else {
                    tokens.push(Token::MaybeParents);
                    Token::Parents
                }
            }
            '*' => Token::Star,
            '?' => Token::One,
            '\\' => Token::Literal(chars.next().ok_or_else(|| fail("it ends with a backslash"))?),
            '[' => {
                let negated = chars.next_if_eq(&'^').is_some();
                let mut ranges = Vec::new();
                loop {
                    if !ranges.is_empty() && chars.next_if_eq(&']').is_some() {
                        break;
                    }
                    let mut bound = || match chars.next() {
                        None => Err(fail("a class does not end")),
                        Some('-' | ']') => Err(fail("a class has an empty range")),
                        Some('\\') => chars.next().ok_or_else(|| fail("a class does not end")),
                        Some(c) => Ok(c),
                    };
                    let low = bound()?;
                    let high = if chars.next_if_eq(&'-').is_some() {
                        match chars.next() {
                            None => return Err(fail("a class does not end")),
                            Some('-' | ']') => return Err(fail("a class has an empty range")),
                            Some('\\') => {
                                chars.next().ok_or_else(|| fail("a class does not end"))?
                            }
                            Some(c) => c,
                        }
                    } else {
                        low
                    };
                    ranges.push((low, high));
                }
                Token::Class(negated, ranges)
            }
            c => Token::Literal(c),
        };
        tokens.push(token);
    }
    Ok(tokens)
}

/// Runs the tokens over the text as a non-deterministic automaton.
fn run(tokens: &[Token], text: &str) -> bool {
    let mut states = vec![false; tokens.len() + 1];
    let mut next = states.clone();
    states[0] = true;
    pass_empty(tokens, &mut states);
    for c in text.chars() {
        next.fill(false);
        for (at, token) in tokens.iter().enumerate().filter(|(at, _)| states[*at]) {
            match token {
                Token::Literal(literal) => next[at + 1] |= *literal == c,
                Token::One => next[at + 1] |= c != '/',
                Token::Star => next[at] |= c != '/',
                Token::Class(negated, ranges) => {
                    let within = ranges.iter().any(|(low, high)| (*low..=*high).contains(&c));
                    next[at + 1] |= within != *negated;
                }
                Token::MaybeParents => {}
                Token::Parents => {
                    next[at] = true;
                    next[at + 1] |= c == '/';
                }
                Token::Anything => next[at] = true,
            }
        }
        std::mem::swap(&mut states, &mut next);
        pass_empty(tokens, &mut states);
        if !states.contains(&true) {
            return false;
        }
    }
    states[tokens.len()]
}

/// Goes on over the tokens that may stand for nothing.
fn pass_empty(tokens: &[Token], states: &mut [bool]) {
    for (at, token) in tokens.iter().enumerate() {
        if !states[at] {
            continue;
        }
        match token {
            Token::Star | Token::Anything => states[at + 1] = true,
            Token::MaybeParents => {
                states[at + 1] = true;
                states[at + 2] = true;
            }
            _ => {}
        }
    }
}

/// How one pattern of a [`Matcher`] is compared.
#[derive(Debug, Clone)]
enum Shape {
    Exact(String),
    Prefix(String),
    /// A leading `**` and what follows it.
    Suffix(String),
    Tokens(Vec<Token>),
}

#[derive(Debug, Clone)]
struct Rule {
    /// Whether the pattern began with `!`.
    exception: bool,
    shape: Shape,
    /// The leading components without wildcards.
    literal: Vec<String>,
}

impl Rule {
    fn new(pattern: &str, exception: bool) -> Result<Self, Error> {
        let tokens = compile(pattern, Stars::Double)?;
        let plain = |text: &str| !text.contains(['*', '?', '[', '\\']);
        let shape = if let Some(rest) = pattern.strip_prefix("**").filter(|rest| plain(rest)) {
            Shape::Suffix(rest.to_owned())
        } else if let Some(rest) = pattern.strip_suffix("**").filter(|rest| plain(rest)) {
            Shape::Prefix(rest.to_owned())
        } else if plain(pattern) {
            Shape::Exact(pattern.to_owned())
        } else {
            Shape::Tokens(tokens)
        };
        let literal = pattern.split('/').take_while(|part| plain(part)).map(str::to_owned);
        Ok(Self { exception, shape, literal: literal.collect() })
    }

    fn matches(&self, path: &str) -> bool {
        match &self.shape {
            Shape::Exact(text) => path == text,
            Shape::Prefix(text) => path.starts_with(text),
            Shape::Suffix(text) => {
                path.ends_with(text) || text.strip_prefix('/').is_some_and(|rest| path == rest)
            }
            Shape::Tokens(tokens) => run(tokens, path),
        }
    }

    /// Whether something below the directory `path` could match, judged by the literal part.
    fn may_match_below(&self, path: &str) -> bool {
        path.split('/').zip(&self.literal).all(|(have, want)| have == want)
    }
}

/// What each pattern said about a directory; its children go on from there.
#[derive(Debug, Clone, Default)]
pub struct ParentMatch(Vec<bool>);

/// A list of patterns of which the last that applies decides; `!` makes an exception.
#[derive(Debug, Clone)]
pub struct Matcher {
    rules: Vec<Rule>,
    exceptions: bool,
}

impl Matcher {
    /// Compiles patterns; blank ones are skipped.
    ///
    /// # Errors
    /// When a pattern is malformed.
    pub fn new(patterns: &[String]) -> Result<Self, Error> {
        let mut rules = Vec::with_capacity(patterns.len());
        for text in patterns.iter().map(|pattern| pattern.trim()).filter(|text| !text.is_empty()) {
            let (exception, body) = match text.strip_prefix('!') {
                Some(body) => (true, body),
                None => (false, text),
            };
            if body.is_empty() {
                let reason = "nothing follows `!`";
                return Err(Error { pattern: text.to_owned(), reason });
            }
            // Patterns are relative; a slash at the start is the root that they are relative to.
            rules.push(Rule::new(&clean(body), exception)?);
        }
        Ok(Self { exceptions: rules.iter().any(|rule| rule.exception), rules })
    }

    /// Whether the relative `path` matches, and what its children need to know. `parent` is what
    /// came back for its directory.
    pub fn matches(&self, path: &str, parent: &ParentMatch) -> (bool, ParentMatch) {
        let mut matched = false;
        let mut own = vec![false; self.rules.len()];
        for (at, rule) in self.rules.iter().enumerate() {
            let inherited = parent.0.get(at).copied().unwrap_or(false);
            // A rule that could not change the verdict is not tried.
            if !inherited && (rule.exception != matched || !rule.matches(path)) {
                continue;
            }
            own[at] = true;
            matched = !rule.exception;
        }
        (matched, ParentMatch(own))
    }

    /// Whether the relative `path` matches, by itself or because it is below a directory that
    /// does, and the number of the pattern that decided, among those that are not blank.
    pub fn decide(&self, path: &str) -> (bool, Option<usize>) {
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        let mut result = (false, ParentMatch::default());
        for end in ends.filter(|end| *end > 0) {
            result = self.matches(&path[..end], &result.1);
        }
        let (matched, ParentMatch(own)) = result;
        (matched, own.iter().rposition(|own| *own))
    }

    /// Whether all below a directory that matches is sure to match.
    pub fn covers_below(&self) -> bool {
        !self.exceptions
    }

    /// Whether an exception could take something below the directory `path` back.
    pub fn may_except_below(&self, path: &str) -> bool {
        self.rules.iter().any(|rule| rule.exception && rule.may_match_below(path))
    }

    /// Whether something below the directory `path` could match, given what it said itself.
    pub fn may_match_below(&self, path: &str, own: &ParentMatch) -> bool {
        let positive = |(at, rule): (usize, &Rule)| {
            !rule.exception && (own.0.get(at) == Some(&true) || rule.may_match_below(path))
        };
        self.rules.iter().enumerate().any(positive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_that_decides_is_known() {
        let patterns = ["*.log", "build", "!build/keep", "!x.log"].map(str::to_owned);
        let matcher = Matcher::new(&patterns).unwrap();
        for (path, expected) in [
            ("a.log", (true, Some(0))),
            ("build/a/b", (true, Some(1))),
            ("build/keep/c", (false, Some(2))),
            ("x.log", (false, Some(3))),
            ("other", (false, None)),
            ("", (false, None)),
        ] {
            assert_eq!(matcher.decide(path), expected, "{path}");
        }
    }

    #[test]
    fn globs_match_one_component() {
        for (pattern, name, expected) in [
            ("*", "a", true),
            ("*", "", true),
            ("*.go", "a.go", true),
            ("*.go", "a.gox", false),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "aXbY", false),
            ("?", "ä", true),
            ("?", "", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[^a-c]x", "dx", true),
            ("[a\\]]", "]", true),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("**", "a", true),
            ("[!a]", "!", true),
            ("]", "]", true),
        ] {
            assert_eq!(Glob::new(pattern).unwrap().matches(name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn malformed_patterns_are_errors() {
        for pattern in ["[", "[a", "[]", "[a-]", "[-a]", "a\\", "[a-\\", "[^]"] {
            assert!(Glob::new(pattern).is_err(), "{pattern}");
            assert!(Matcher::new(&[pattern.to_owned()]).is_err(), "{pattern}");
        }
        assert!(Matcher::new(&["!".to_owned()]).is_err());
    }

    #[test]
    fn a_hostile_pattern_takes_no_exponential_time() {
        let glob = Glob::new(&"*a".repeat(200)).unwrap();
        assert!(!glob.matches(&"a".repeat(4000).replace("aaaa", "aaab")));
    }

    /// Walks the path from its first component, as a copy does.
    fn check(patterns: &[&str], path: &str) -> bool {
        let patterns: Vec<String> = patterns.iter().map(|&text| text.to_owned()).collect();
        let matcher = Matcher::new(&patterns).unwrap();
        let mut parent = ParentMatch::default();
        let mut matched = false;
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        for end in ends {
            (matched, parent) = matcher.matches(&path[..end], &parent);
        }
        matched
    }

    #[test]
    fn matchers_follow_dockerignore() {
        let cases: &[(&[&str], &str, bool)] = &[
            (&["a"], "a", true),
            (&["a"], "a/b/c", true),
            (&["a"], "b/a", false),
            (&["/a"], "a", true),
            (&["./a/"], "a", true),
            (&["  a  ", ""], "a", true),
            (&["*"], "a/b", true),
            (&["*/b"], "a/b", true),
            (&["*/b"], "a/c/b", false),
            (&["**"], "a/b", true),
            (&["**/b"], "b", true),
            (&["**/b"], "a/c/b", true),
            (&["**/b"], "a/xb", false),
            (&["**b"], "a/xb", true),
            (&["a/**"], "a", false),
            (&["a/**"], "a/b/c", true),
            (&["a/**/c"], "a/c", true),
            (&["a/**/c"], "a/x/y/c", true),
            (&["a/**/c"], "a/xc", false),
            (&["a**c"], "ac", true),
            (&["a**c"], "axc", false),
            (&["a**c"], "ax/c", true),
            (&["**/*.go"], "a/b.go", true),
            (&["**/*.go"], "b.go", true),
            (&["**/a/**"], "x/a/b", true),
            (&["*.md", "!README.md"], "README.md", false),
            (&["*.md", "!README.md"], "other.md", true),
            (&["*.md", "!README*.md", "README-secret.md"], "README-secret.md", true),
            (&["a", "!a/b"], "a/b", false),
            (&["a", "!a/b"], "a/b/c", false),
            (&["a", "!a/b", "a/b/c"], "a/b/c", true),
            (&["!a", "a"], "a", true),
            (&["a[b-d]e"], "ace", true),
            (&["a.b"], "axb", false),
            (&["\\*a"], "*a", true),
            (&["\\*a"], "ba", false),
        ];
        for (patterns, path, expected) in cases {
            assert_eq!(check(patterns, path), *expected, "{patterns:?} {path}");
        }
    }

    #[test]
    fn knows_where_nothing_can_match() {
        let matcher = |text: &str| Matcher::new(&[text.to_owned()]).unwrap();
        let none = ParentMatch::default();
        for (pattern, directory, expected) in [
            ("a/b/*.txt", "a", true),
            ("a/b/*.txt", "a/b", true),
            ("a/b/*.txt", "a/c", false),
            ("a/b/*.txt", "x", false),
            ("**/x", "a", true),
            ("*/x", "a", true),
        ] {
            let found = matcher(pattern).may_match_below(directory, &none);
            assert_eq!(found, expected, "{pattern} {directory}");
        }
    }
}
