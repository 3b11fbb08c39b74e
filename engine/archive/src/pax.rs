//! PAX extended headers: records of the form `length key=value\n` (IEEE Std 1003.1, pax).

use std::collections::HashSet;

/// What the records of one extended header say about the next entry.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Pax {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    /// Nanoseconds since 1970.
    pub mtime: Option<i128>,
    /// Sorted by name.
    pub xattrs: Vec<(String, Vec<u8>)>,
}

const XATTR: &str = "SCHILY.xattr.";

/// Attributes in which overlayfs keeps its own state; those of an archive must not become it.
const OVERLAY: [&str; 2] = ["trusted.overlay.", "user.overlay."];

/// Keys that change the entry that they are for.
const MEANINGFUL: [&str; 10] =
    ["path", "linkpath", "size", "uid", "gid", "uname", "gname", "mtime", "atime", "ctime"];

/// Reads the records for one entry.
///
/// # Errors
/// Says what is wrong: anything malformed, or a key that comes twice.
pub(crate) fn parse(data: &[u8]) -> Result<Pax, String> {
    let mut pax = Pax::default();
    for (key, value) in records(data)? {
        let xattr = key.strip_prefix(XATTR);
        if value.is_empty() && MEANINGFUL.contains(&key.as_str()) {
            // It takes back what an earlier header said (POSIX), or says "nothing" (GNU tar).
            return Err(format!("{key:?} of an extended header is empty"));
        }
        match key.as_str() {
            "path" => pax.path = Some(text(&key, value)?),
            "linkpath" => pax.link = Some(text(&key, value)?),
            "size" => pax.size = Some(decimal(&key, value)?),
            "uid" => pax.uid = Some(decimal(&key, value)?),
            "gid" => pax.gid = Some(decimal(&key, value)?),
            "mtime" => pax.mtime = Some(time(&key, value)?),
            "atime" | "ctime" => {
                time(&key, value)?;
            }
            "SCHILY.realsize" => return Err("sparse files are not supported".to_owned()),
            _ if key.starts_with("GNU.sparse.") => {
                return Err("sparse files are not supported".to_owned());
            }
            _ => {
                if let Some(name) = xattr
                    && !OVERLAY.iter().any(|prefix| name.starts_with(prefix))
                {
                    if name.is_empty() {
                        return Err("extended attribute without a name".to_owned());
                    }
                    pax.xattrs.push((name.to_owned(), value.to_vec()));
                }
            }
        }
    }
    pax.xattrs.sort_unstable();
    Ok(pax)
}

/// Checks a global header. Readers differ in whether it applies to later entries, so one that
/// would change them is refused; `comment`, which `git archive` writes, does no harm.
///
/// # Errors
/// Says what is wrong.
pub(crate) fn check_global(data: &[u8]) -> Result<(), String> {
    for (key, _) in records(data)? {
        if MEANINGFUL.contains(&key.as_str())
            || key.starts_with("GNU.")
            || key.starts_with("SCHILY.")
        {
            return Err(format!("global extended header with {key:?} is not supported"));
        }
    }
    Ok(())
}

fn records(mut data: &[u8]) -> Result<Vec<(String, &[u8])>, String> {
    let malformed = || "malformed extended header".to_owned();
    let mut records = Vec::new();
    let mut seen = HashSet::new();
    while !data.is_empty() {
        let space = data.iter().take(20).position(|byte| *byte == b' ').ok_or_else(malformed)?;
        let length = number(&data[..space]).ok_or_else(malformed)?;
        let length = usize::try_from(length).map_err(|_| malformed())?;
        let record = data.get(space + 1..length).ok_or_else(malformed)?;
        let record = record.strip_suffix(b"\n").ok_or_else(malformed)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(malformed)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        let key = std::str::from_utf8(key).map_err(|_| malformed())?;
        if key.is_empty() || key.contains('\0') {
            return Err(malformed());
        }
        if !seen.insert(key) {
            return Err(format!("{key:?} comes twice in an extended header"));
        }
        records.push((key.to_owned(), value));
        data = &data[length..];
    }
    Ok(records)
}

fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn decimal(key: &str, value: &[u8]) -> Result<u64, String> {
    number(value).ok_or_else(|| format!("{key:?} of an extended header is not a number"))
}

fn text(key: &str, value: &[u8]) -> Result<Vec<u8>, String> {
    if value.contains(&0) {
        return Err(format!("{key:?} of an extended header contains NUL"));
    }
    Ok(value.to_vec())
}

/// Seconds with an optional sign and fraction, in nanoseconds; what is finer is dropped.
fn time(key: &str, value: &[u8]) -> Result<i128, String> {
    let parse = || {
        let (negative, value) = match value.strip_prefix(b"-") {
            Some(rest) => (true, rest),
            None => (false, value),
        };
        let (seconds, fraction) = match value.iter().position(|byte| *byte == b'.') {
            Some(point) => (&value[..point], &value[point + 1..]),
            None => (value, &b"0"[..]),
        };
        if !fraction.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let mut nanoseconds = 0;
        for at in 0..9 {
            nanoseconds = nanoseconds * 10 + i128::from(fraction.get(at).map_or(0, |d| d - b'0'));
        }
        let time = i128::from(number(seconds)?) * 1_000_000_000 + nanoseconds;
        Some(if negative { -time } else { time })
    };
    parse().ok_or_else(|| format!("{key:?} of an extended header is not a time"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let cases: &[(&[u8], Option<i128>)] = &[
            (b"0", Some(0)),
            (b"1.5", Some(1_500_000_000)),
            (b"1.", Some(1_000_000_000)),
            (b"1.0000000019", Some(1_000_000_001)),
            (b"-1.5", Some(-1_500_000_000)),
            (b"", None),
            (b".5", None),
            (b"1.5.5", None),
            (b"+1", None),
            (b"1e3", None),
            (b"99999999999999999999999", None),
        ];
        for (value, expected) in cases {
            assert_eq!(time("mtime", value).ok(), *expected, "{value:?}");
        }
    }

    #[test]
    fn malformed_records_are_errors() {
        for data in [
            &b"8 path=a\n"[..],
            b"11 path=a\n",
            b"0 path=a\n",
            b"+9 path=a\n",
            b"9 path=ab",
            b"path=a\n",
            b"7 path\n",
            b"6 =ab\n",
            b"9 path=a\n9 path=b\n",
            b"9 path=\0\n",
            b"8 path=\n",
            b"11 size=-1\n",
            b"12 size=0x1\n",
            b"31 GNU.sparse.realsize=1000000\n",
            b"9 path=a\nx",
            b"99999999999999999999 path=a\n",
        ] {
            assert!(parse(data).is_err(), "{:?}", String::from_utf8_lossy(data));
        }
        assert_eq!(parse(b"9 path=a\n").unwrap().path.as_deref(), Some(&b"a"[..]));
        assert_eq!(parse(b"9 path=\xff\n").unwrap().path.as_deref(), Some(&b"\xff"[..]));
        assert_eq!(parse(b"12 comment=\n").unwrap(), Pax::default());
        // For an attribute, empty is a value.
        let empty = parse(b"24 SCHILY.xattr.user.k=\n").unwrap();
        assert_eq!(empty.xattrs, [("user.k".to_owned(), Vec::new())]);
    }
}
