//! `.dockerignore` files: reads their patterns. Matching is left to whoever reads the context.

/// The patterns of an ignore file, cleaned: no comments, blanks, leading slashes, `.` or `..`.
pub fn parse(text: &str) -> Vec<String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| pattern(line.trim())).collect()
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
    }
}
