//! Sources of ADD that are elsewhere: downloads and git repositories.

use crate::command::Copy;
use crate::error::Problem;
use crate::path;

/// A source that is not a path.
pub(super) struct Remote {
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
pub(super) fn parse(
    text: &str,
    copy: &Copy,
    checksum: Option<&str>,
) -> Result<Option<Remote>, Problem> {
    if let Some(remote) = git(text, copy, checksum)? {
        return Ok(Some(remote));
    }
    if !text.starts_with("http://") && !text.starts_with("https://") {
        return Ok(None);
    }
    let place = text.split_once("://").map_or("", |(_, rest)| rest);
    let place = place.split(['?', '#']).next().unwrap_or_default();
    let name = match place.split_once('/').map_or("", |(_, path)| path::base(path)) {
        "" | "." | ".." => "__unnamed__",
        name => name,
    };
    let mut attributes = vec![("http.filename".to_owned(), name.to_owned())];
    if let Some(checksum) = checksum {
        let hex = checksum.strip_prefix("sha256:").unwrap_or_default();
        if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            let expected = "`sha256:` and 64 hex digits";
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

fn git(text: &str, copy: &Copy, checksum: Option<&str>) -> Result<Option<Remote>, Problem> {
    let (address, fragment) = match text.split_once('#') {
        Some((address, fragment)) => (address, Some(fragment)),
        None => (text, None),
    };
    let scheme = address.split_once("://");
    let (place, ssh) = match scheme {
        Some(("http" | "https", rest))
            if rest.split('?').next().unwrap_or(rest).ends_with(".git") =>
        {
            (rest.to_owned(), false)
        }
        Some(("git", rest)) => (rest.to_owned(), false),
        Some(("ssh", rest)) => (rest.split_once('@').map_or(rest, |(_, rest)| rest).into(), true),
        Some(_) => return Ok(None),
        None => match address.strip_prefix("git@").and_then(|rest| rest.split_once(':')) {
            Some((host, path)) => (format!("{host}/{path}"), true),
            None => return Ok(None),
        },
    };
    if address.contains('?') {
        return Err(Problem::Unsupported(format!("the query of the git source `{text}`")));
    }
    let fragment = fragment.filter(|fragment| !fragment.is_empty());
    let identifier = match fragment {
        Some(fragment) => format!("git://{place}#{fragment}"),
        None => format!("git://{place}"),
    };
    let mut attributes = vec![("git.fullurl".to_owned(), address.to_owned())];
    if ssh {
        attributes.push(("git.mountsshsock".into(), "default".into()));
    } else if address.starts_with("http") {
        attributes.push(("git.authheadersecret".into(), "GIT_AUTH_HEADER".into()));
        attributes.push(("git.authtokensecret".into(), "GIT_AUTH_TOKEN".into()));
    }
    if copy.keep_git_dir == Some(true) {
        attributes.push(("git.keepgitdir".into(), "true".into()));
    }
    if let Some(checksum) = checksum {
        attributes.push(("git.checksum".into(), checksum.into()));
    }
    Ok(Some(Remote {
        text: text.into(),
        identifier,
        attributes,
        path: "/".into(),
        unpackable: false,
    }))
}
