//! Sources of ADD that are elsewhere: downloads and git repositories.

use crate::command::Copy;
use crate::error::Problem;
use crate::git::GitReference;
use crate::path;

/// A source that is not a path.
pub(crate) struct Remote {
    /// As it stands in the file.
    pub text: String,
    /// Identifier of the source op.
    pub identifier: String,
    /// Attributes of the source op.
    pub attributes: Vec<(String, String)>,
    /// What to copy out of the source's tree.
    pub path: String,
    /// Whether it may be an archive.
    pub unpackable: bool,
}

/// Reads a source; `None` when it is a path.
pub(crate) fn parse(
    text: &str,
    copy: &Copy,
    checksum: Option<&str>,
) -> Result<Option<Remote>, Problem> {
    if let Some(remote) = git(text, copy, checksum)? {
        return Ok(Some(remote));
    }
    if !is_http(text) {
        return Ok(None);
    }
    let name = file_name(text);
    let mut attributes = vec![("http.filename".to_owned(), name.clone())];
    if let Some(checksum) = checksum {
        // As in BuildKit, whatever else digests may be written in.
        let hex = checksum.strip_prefix("sha256:").unwrap_or_default();
        if hex.len() != 64 || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            let expected = match checksum.split_once(':') {
                Some((algorithm, _)) if algorithm != "sha256" => {
                    "`sha256:` and 64 hex digits, the only algorithm there is for downloads"
                }
                _ => "`sha256:` and 64 hex digits in lower case",
            };
            return Err(Problem::invalid("--checksum", checksum, expected));
        }
        attributes.push(("http.checksum".into(), checksum.into()));
    }
    Ok(Some(Remote {
        text: text.into(),
        identifier: text.into(),
        attributes,
        path: format!("/{name}"),
        unpackable: true,
    }))
}

/// Whether a source is a download.
pub(crate) fn is_http(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

/// The name of what an address leads to: the last part of its path.
fn file_name(address: &str) -> String {
    let place = address.split_once("://").map_or("", |(_, rest)| rest);
    let place = place.split(['?', '#']).next().unwrap_or_default();
    let path = place.split_once('/').map_or("", |(_, path)| path);
    let path = percent_encoding::percent_decode_str(path).decode_utf8_lossy();
    match path::base(&path) {
        "" | "." | ".." => "__unnamed__".into(),
        name => name.into(),
    }
}

fn git(text: &str, copy: &Copy, checksum: Option<&str>) -> Result<Option<Remote>, Problem> {
    let Some(mut reference) = GitReference::parse(text)? else { return Ok(None) };
    match (copy.keep_git_dir, reference.keep_git_dir) {
        (Some(flag), Some(query)) if flag != query => {
            let expected = format!("`keep-git-dir={flag}`, as the flag says");
            return Err(Problem::invalid("git source", text, expected));
        }
        (flag, query) => reference.keep_git_dir = query.or(flag),
    }
    if let Some(checksum) = checksum {
        if !reference.checksum.is_empty() && reference.checksum != checksum {
            let expected = format!("the checksum `{checksum}`, as the flag says");
            return Err(Problem::invalid("git source", text, expected));
        }
        reference.checksum = checksum.into();
    }
    Ok(Some(Remote {
        text: text.into(),
        identifier: reference.identifier(),
        attributes: reference.attributes(),
        path: "/".into(),
        unpackable: false,
    }))
}

#[cfg(test)]
mod tests {
    use super::file_name;

    #[test]
    fn downloads_are_named_after_their_path() {
        for (address, name) in [
            ("https://h.example/a/b.tar.gz?x=/y#z", "b.tar.gz"),
            ("https://h.example/a%20b", "a b"),
            ("https://h.example/a/", "a"),
            ("https://h.example/", "__unnamed__"),
            ("https://h.example", "__unnamed__"),
            ("https://h.example/a/%2e%2e", "__unnamed__"),
        ] {
            assert_eq!(file_name(address), name, "{address}");
        }
    }
}
