//! Puts into words why a step has to run.

use std::time::SystemTime;

use cofferdam_build::{Change, Miss};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// How much of a value is shown, in characters.
const MAX_VALUE: usize = 120;

/// The reason, in one line.
pub fn reason(miss: &Miss) -> String {
    match miss {
        Miss::NeverSeen => "never built before".to_owned(),
        Miss::Ignored => "told to ignore the cache".to_owned(),
        Miss::Changed(change) => changed(change),
        Miss::InputChanged { name, change, .. } => {
            let name = name.split_whitespace().collect::<Vec<_>>().join(" ");
            match change {
                Some(change) => format!("input `{name}` changed: {}", changed(change)),
                None => format!("input `{name}` changed"),
            }
        }
        Miss::Evicted { at } => format!("evicted from the cache at {}", time(*at)),
        Miss::Lost => "the cached result is gone or damaged".to_owned(),
    }
}

fn changed(change: &Change) -> String {
    let Change { leaf, before, after } = change;
    match (before, after) {
        (Some(before), Some(after)) => {
            format!("{leaf} changed: {} -> {}", quoted(before), quoted(after))
        }
        (None, Some(after)) => format!("{leaf} added: {}", quoted(after)),
        (Some(before), None) => format!("{leaf} removed: {}", quoted(before)),
        (None, None) => format!("{leaf} changed"),
    }
}

/// In quotes, on one line and not too long.
fn quoted(value: &str) -> String {
    match value.char_indices().nth(MAX_VALUE) {
        Some((end, _)) => format!("{:?}...", &value[..end]),
        None => format!("{value:?}"),
    }
}

fn time(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at);
    // To the second; what is beyond the years that RFC 3339 knows is shown in its own way.
    let at = at.replace_nanosecond(0).unwrap_or(at);
    at.format(&Rfc3339).unwrap_or_else(|_| at.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use cofferdam_types::Digest;
    use expect_test::expect;

    use super::*;

    #[test]
    fn reasons() {
        let change = |before: Option<&str>, after: Option<&str>| Change {
            leaf: "env FOO".into(),
            before: before.map(Into::into),
            after: after.map(Into::into),
        };
        let input = |change| Miss::InputChanged {
            vertex: Digest::of("a"),
            name: "[2/3] COPY\n. .".into(),
            change,
        };
        let reasons = [
            Miss::NeverSeen,
            Miss::Ignored,
            Miss::Changed(change(Some("a"), Some("b\n\u{1b}"))),
            Miss::Changed(change(None, Some(&"x".repeat(200)))),
            Miss::Changed(change(Some("a"), None)),
            input(None),
            input(Some(change(Some("a"), Some("b")))),
            Miss::Evicted { at: UNIX_EPOCH + Duration::from_millis(1_500) },
            Miss::Lost,
        ];
        let text: String = reasons.iter().map(|miss| reason(miss) + "\n").collect();
        expect![[r#"
            never built before
            told to ignore the cache
            env FOO changed: "a" -> "b\n\u{1b}"
            env FOO added: "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"...
            env FOO removed: "a"
            input `[2/3] COPY . .` changed
            input `[2/3] COPY . .` changed: env FOO changed: "a" -> "b"
            evicted from the cache at 1970-01-01T00:00:01Z
            the cached result is gone or damaged
        "#]]
        .assert_eq(&text);
    }
}
