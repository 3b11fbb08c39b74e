//! Paths as text, always with `/`: nothing here looks at a file system.

/// Removes empty, `.` and `..` parts; an empty result is `.`.
pub fn clean(path: &str) -> String {
    let absolute = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => match parts.last() {
                Some(&last) if last != ".." => {
                    parts.pop();
                }
                _ if absolute => {}
                _ => parts.push(part),
            },
            _ => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (absolute, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".into(),
        (false, false) => joined,
    }
}

/// Joins and cleans; an absolute `path` stands for itself.
pub fn join(directory: &str, path: &str) -> String {
    match path.starts_with('/') {
        true => clean(path),
        false => clean(&format!("{directory}/{path}")),
    }
}

/// The path inside a tree, cleaned and absolute; it cannot lead out.
pub fn inside(path: &str) -> String {
    clean(&format!("/{path}"))
}

/// The destination of a copy: absolute, cleaned, and a slash at the end stays.
pub fn destination(directory: &str, path: &str) -> String {
    let joined = join(directory, path);
    let is_directory = path.is_empty() || path == "." || path.ends_with('/');
    match () {
        () if joined == "/" => joined,
        () if is_directory => joined + "/",
        () if path.ends_with("/.") => joined + "/.",
        () => joined,
    }
}

/// The last part of a path; empty for `/`.
pub fn base(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        for (path, expected) in
            [("/a//b/../c/", "/a/c"), ("../a", "../a"), ("/..", "/"), ("", "."), ("a/..", ".")]
        {
            assert_eq!(clean(path), expected, "{path}");
        }
        for (directory, path, expected) in [
            ("/a/b", ".", "/a/b/"),
            ("/", ".", "/"),
            ("/", "x/", "/x/"),
            ("/a", "../x", "/x"),
            ("/a", "/dst/.", "/dst/."),
        ] {
            assert_eq!(destination(directory, path), expected, "{directory} {path}");
        }
        assert_eq!(inside("../../etc"), "/etc");
    }
}
