//! Here-documents: the `<<NAME` words of a line, and the bodies that follow it.

/// A here-document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heredoc {
    /// The name that ends it.
    pub name: String,
    /// Whether variables in it are expanded: its name was not quoted.
    pub expand: bool,
    /// Whether leading tabs are stripped: it began with `<<-`.
    pub strip_tabs: bool,
    /// The body, with the line ends.
    pub body: String,
}

impl Heredoc {
    /// The body, without leading tabs if they are to be stripped.
    pub fn content(&self) -> String {
        if !self.strip_tabs {
            return self.body.clone();
        }
        self.body.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
    }
}

/// The here-documents that a line announces, still without bodies.
pub fn announced(line: &str, escape: char) -> Vec<Heredoc> {
    if !line.contains("<<") {
        return Vec::new();
    }
    words(line, escape).iter().filter_map(|word| parse_word(word)).collect()
}

/// Reads one word like `<<-"NAME"` or `3<<NAME`.
pub fn parse_word(word: &str) -> Option<Heredoc> {
    let rest = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")?;
    let (strip_tabs, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    if rest.is_empty() || rest.starts_with('<') {
        return None;
    }
    let mut name = String::new();
    let mut quote = None;
    let mut expand = true;
    let mut chars = rest.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, '\'' | '"') => {
                quote = Some(c);
                expand = false;
            }
            (Some(open), c) if c == open => quote = None,
            (None, '\\') => {
                name.extend(chars.next());
                expand = false;
            }
            (_, c) => name.push(c),
        }
    }
    let valid = quote.is_none() && !name.is_empty() && !name.contains(['<', '>']);
    valid.then_some(Heredoc { name, expand, strip_tabs, body: String::new() })
}

/// Splits a line into words at blanks; quotes and escapes stay in the words.
fn words(line: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match quote {
            None if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ => {}
        }
        word.push(c);
        if c == escape && quote != Some('\'') {
            word.extend(chars.next());
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: &[(&str, bool, bool)]) {
        let found: Vec<_> = announced(line, '\\')
            .into_iter()
            .map(|heredoc| (heredoc.name, heredoc.expand, heredoc.strip_tabs))
            .collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|(name, expand, tabs)| ((*name).to_owned(), *expand, *tabs))
            .collect();
        assert_eq!(found, expected, "{line}");
    }

    #[test]
    fn announcements() {
        check("<<EOF", &[("EOF", true, false)]);
        check("<<-\"QUOTED\" cat > /q", &[("QUOTED", false, true)]);
        check("<<A.txt <<'B.txt' /files/", &[("A.txt", true, false), ("B.txt", false, false)]);
        check("cat 3<<EOF >&3", &[("EOF", true, false)]);
        check("cat <<<EOF", &[]);
        check("echo '<<EOF'", &[]);
        check("echo \"a <<EOF\"", &[]);
        check("echo 1 << 2", &[]);
        check("echo $((1<<2))", &[]);
    }

    #[test]
    fn tabs_are_stripped() {
        let mut heredoc = parse_word("<<-E").unwrap();
        heredoc.body = "\ta\n\t\tb\n  c\n".into();
        assert_eq!(heredoc.content(), "a\nb\n  c\n");
    }
}
