//! Paths inside trees: checked when they come from a guest, and lossless both ways.
//!
//! File names are bytes and WIT strings are Unicode, so a byte that is not part of valid UTF-8
//! is written as one character of a private-use block (`U+F0080` to `U+F00FF`), and so is every
//! byte of a character of that block itself. Guests pass such names on without knowing.

use std::borrow::Cow;
use std::fmt;

/// The character that stands for the byte 0.
const ESCAPE: u32 = 0xF0000;
/// Longest path, as Linux has it.
const MAX_PATH: usize = 4096;
/// Longest file name, as Linux has it.
const MAX_NAME: usize = 255;

/// A path inside a tree: absolute, with no `.`, `..`, empty component or NUL; the root is `/`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TreePath(Box<[u8]>);

/// Says why a string is not a [`TreePath`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid path `{path}`: {reason}")]
pub struct InvalidPath {
    /// The path, shortened.
    pub path: String,
    /// What is wrong.
    pub reason: &'static str,
}

impl TreePath {
    /// The root.
    pub fn root() -> Self {
        Self(b"/".as_slice().into())
    }

    /// Checks a path; `.`, doubled slashes and a slash at the end are dropped, `..` is refused.
    ///
    /// # Errors
    /// When the path is relative, too long, or has a `..` or a NUL.
    pub fn parse(text: &str) -> Result<Self, InvalidPath> {
        let error = |reason| InvalidPath { path: text.chars().take(200).collect(), reason };
        if !text.starts_with('/') {
            return Err(error("expected an absolute path"));
        }
        Self::clean(&decode_name(text), |_| Err("`..` is not allowed")).map_err(error)
    }

    /// Checks a path that is meant from the root on, and resolves `..` without looking at the
    /// tree, as BuildKit's gateway does.
    ///
    /// # Errors
    /// When the path is too long or has a NUL.
    pub fn resolve(text: &str) -> Result<Self, InvalidPath> {
        let parent = |path: &mut Vec<u8>| {
            path.truncate(path.iter().rposition(|byte| *byte == b'/').unwrap_or(0));
            Ok(())
        };
        Self::clean(&decode_name(text), parent)
            .map_err(|reason| InvalidPath { path: text.chars().take(200).collect(), reason })
    }

    fn clean(
        bytes: &[u8],
        parent: impl Fn(&mut Vec<u8>) -> Result<(), &'static str>,
    ) -> Result<Self, &'static str> {
        let mut path = Vec::with_capacity(bytes.len() + 1);
        for name in bytes.split(|byte| *byte == b'/') {
            match name {
                b"" | b"." => {}
                b".." => parent(&mut path)?,
                name if name.len() > MAX_NAME => return Err("a name has more than 255 bytes"),
                name => {
                    path.push(b'/');
                    path.extend_from_slice(name);
                }
            }
        }
        if path.len() > MAX_PATH {
            return Err("the path has more than 4096 bytes");
        }
        if path.contains(&0) {
            return Err("a NUL is not allowed");
        }
        if path.is_empty() {
            path.push(b'/');
        }
        Ok(Self(path.into()))
    }

    /// The bytes, with the slash at the beginning.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The names on the way to the path; none for the root.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/').filter(|name| !name.is_empty())
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&String::from_utf8_lossy(&self.0), f)
    }
}

fn is_escape(character: char) -> bool {
    (ESCAPE + 0x80..=ESCAPE + 0xFF).contains(&u32::from(character))
}

/// Writes a file name, or what a symlink says, as a guest sees it.
pub fn encode_name(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains(is_escape) => return Cow::Borrowed(text),
        _ => {}
    }
    let escape = |byte: u8| {
        char::from_u32(ESCAPE + u32::from(byte)).expect("the private-use block has no gaps")
    };
    let mut out = String::with_capacity(bytes.len() + 16);
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if is_escape(character) {
                out.extend(character.encode_utf8(&mut [0; 4]).bytes().map(escape));
            } else {
                out.push(character);
            }
        }
        out.extend(chunk.invalid().iter().copied().map(escape));
    }
    Cow::Owned(out)
}

/// The reverse of [`encode_name`].
pub fn decode_name(text: &str) -> Cow<'_, [u8]> {
    if !text.contains(is_escape) {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut out = Vec::with_capacity(text.len());
    for character in text.chars() {
        if is_escape(character) {
            out.push((u32::from(character) - ESCAPE) as u8);
        } else {
            out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<String, &'static str> {
        TreePath::parse(text).map(|path| path.to_string()).map_err(|error| error.reason)
    }

    #[test]
    fn paths_of_a_guest() {
        assert_eq!(parse("/"), Ok("/".into()));
        assert_eq!(parse("//a/./b/"), Ok("/a/b".into()));
        assert_eq!(parse("a"), Err("expected an absolute path"));
        assert_eq!(parse(""), Err("expected an absolute path"));
        assert_eq!(parse("/a/../b"), Err("`..` is not allowed"));
        assert_eq!(parse("/.."), Err("`..` is not allowed"));
        assert_eq!(parse("/a\0b"), Err("a NUL is not allowed"));
        assert_eq!(parse(&format!("/{}", "x".repeat(256))), Err("a name has more than 255 bytes"));
        assert_eq!(parse(&"/xxx".repeat(1025)), Err("the path has more than 4096 bytes"));
    }

    #[test]
    fn paths_to_read() {
        for (text, expected) in
            [("", "/"), ("a/../b", "/b"), ("../../etc", "/etc"), ("/a/b/..", "/a"), ("..", "/")]
        {
            assert_eq!(TreePath::resolve(text).map(|path| path.to_string()), Ok(expected.into()));
        }
    }

    #[test]
    fn any_name_survives() {
        let names: [&[u8]; 6] = [
            b"plain",
            "gr\u{fc}n".as_bytes(),
            b"gr\xfcn",
            b"\xff\xfe\x80",
            "\u{F00FC}".as_bytes(),
            b"half \xf3\xb0\x82",
        ];
        let mut seen = std::collections::HashSet::new();
        for name in names {
            let text = encode_name(name);
            assert_eq!(decode_name(&text), name);
            assert!(seen.insert(text.into_owned()));
        }
    }
}
