//! Names within a repository, checked before git gets to see them: references, commits, paths.

/// What remains of a path below a directory.
pub(super) fn below<'a>(path: &'a [u8], directory: &[u8]) -> Option<&'a [u8]> {
    match directory {
        [] => Some(path),
        directory => match path.strip_prefix(directory)? {
            [] => Some(&[]),
            rest => rest.strip_prefix(b"/"),
        },
    }
}

/// A path within a repository without what means nothing.
pub(super) fn clean(path: &str) -> Result<Vec<u8>, String> {
    let names: Vec<&str> = path.split('/').filter(|name| !matches!(*name, "" | ".")).collect();
    let wrong = names.iter().any(|name| *name == ".." || name.contains('\0'));
    match wrong || names.iter().any(|name| name.eq_ignore_ascii_case(".git")) {
        true => Err(format!("`{}` is no directory of a commit", path.escape_debug())),
        false => Ok(names.join("/").into_bytes()),
    }
}

/// The full name of an object.
pub(super) fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether git would take it for a reference, and for nothing else (git-check-ref-format(1)).
pub(super) fn is_reference(text: &str) -> bool {
    let forbidden = |c: char| c.is_control() || " ~^:?*[\\".contains(c);
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
    text.is_empty()
        || !(text.starts_with('-')
            || text.len() > 1024
            || text == "@"
            || text.ends_with('.')
            || text.contains("..")
            || text.contains("@{")
            || text.contains(forbidden))
            && text.split('/').all(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_no_options_and_no_patterns() {
        for text in ["", "main", "v1.0", "feature/x-y", "refs/heads/a", "pull/7/head", "HEAD"] {
            assert!(is_reference(text), "{text}");
        }
        for text in [
            "-x",
            "--upload-pack=touch",
            "a b",
            "a..b",
            "a:b",
            "*",
            "a^{}",
            "a~1",
            "@{1}",
            "@",
            "a.lock",
            "/a",
            "a//b",
            ".a",
            "a.",
            "a\nb",
        ] {
            assert!(!is_reference(text), "{text}");
        }
    }

    #[test]
    fn directories_stay_inside() {
        assert_eq!(clean("/a/./b/"), Ok(b"a/b".to_vec()));
        assert_eq!(clean(""), Ok(Vec::new()));
        for path in ["..", "a/../../b", ".git", "a/.GIT/hooks"] {
            assert!(clean(path).is_err(), "{path}");
        }
        assert_eq!(below(b"a/b/c", b"a/b"), Some(&b"c"[..]));
        assert_eq!(below(b"a/bc", b"a/b"), None);
        assert_eq!(below(b"a/b", b"a/b"), Some(&b""[..]));
    }
}
