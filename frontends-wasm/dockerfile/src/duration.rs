//! Times as Go writes them: `1h30m`, `5s`, `1.5ms`.

const UNITS: [(&str, f64); 8] = [
    ("ns", 1.0),
    ("us", 1e3),
    ("µs", 1e3),
    ("μs", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 60e9),
    ("h", 3600e9),
];

/// Reads a time; nanoseconds. `None` when it is none, negative or too long.
pub fn parse(text: &str) -> Option<i64> {
    if text == "0" {
        return Some(0);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut total = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == &rest[..end])?;
        total += number * unit;
        rest = &rest[end..];
    }
    (total < i64::MAX as f64).then_some(total.round() as i64)
}

/// Writes a time: `1m0s`, `5s`, `1.5ms`, `0s`.
pub fn format(nanoseconds: i64) -> String {
    let decimal = |unit: i64, name: &str| {
        let digits = unit.ilog10() as usize;
        let (whole, part) = (nanoseconds / unit, nanoseconds % unit);
        let part = format!(".{part:0digits$}");
        format!("{whole}{}{name}", part.trim_end_matches('0').trim_end_matches('.'))
    };
    match nanoseconds {
        0 => "0s".into(),
        1..1_000 => format!("{nanoseconds}ns"),
        1_000..1_000_000 => decimal(1_000, "µs"),
        1_000_000..1_000_000_000 => decimal(1_000_000, "ms"),
        1_000_000_000..60_000_000_000 => decimal(1_000_000_000, "s"),
        _ => {
            let minutes = nanoseconds / 60_000_000_000;
            let seconds = match nanoseconds % 60_000_000_000 {
                rest if rest < 1_000_000_000 && rest > 0 => {
                    let part = format!("{rest:09}");
                    format!("0.{}s", part.trim_end_matches('0'))
                }
                rest => format(rest),
            };
            match minutes {
                minutes if minutes < 60 => format!("{minutes}m{seconds}"),
                minutes => format!("{}h{}m{seconds}", minutes / 60, minutes % 60),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_they_are_read() {
        for (text, nanoseconds, written) in [
            ("5s", 5_000_000_000, "5s"),
            ("1m", 60_000_000_000, "1m0s"),
            ("1h30m", 5_400_000_000_000, "1h30m0s"),
            ("1.5ms", 1_500_000, "1.5ms"),
            ("90s", 90_000_000_000, "1m30s"),
            ("1m500ms", 60_500_000_000, "1m0.5s"),
            ("0", 0, "0s"),
        ] {
            assert_eq!(parse(text), Some(nanoseconds), "{text}");
            assert_eq!(format(nanoseconds), written);
        }
        for bad in ["", "5", "s", "-1s", "1x", "1..2s", "99999999999h"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
