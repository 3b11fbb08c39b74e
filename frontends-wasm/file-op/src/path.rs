//! Paths inside a tree: cleaning, and resolving of symlinks without ever leaving the root.
//!
//! Paths here are absolute strings without `.`, `..` or empty components, unless said otherwise.

use crate::error::Error;
use crate::tree::{Attributes, Entry, EntryKind, Layer, Tree};

/// As many symlinks as one resolution may go through.
const MAX_LINKS: u32 = 255;

/// Makes a path absolute and clean, by the letter alone; `..` stops at the root.
pub(crate) fn clean(path: &str) -> String {
    let mut out = String::with_capacity(path.len() + 1);
    for component in path.split('/') {
        match component {
            "" | "." => {}
            ".." => out.truncate(out.rfind('/').unwrap_or(0)),
            _ => {
                out.push('/');
                out.push_str(component);
            }
        }
    }
    if out.is_empty() {
        out.push('/');
    }
    out
}

/// Appends a relative path (or a name) to a clean path.
pub(crate) fn join(directory: &str, name: &str) -> String {
    if name.is_empty() {
        directory.to_owned()
    } else if directory == "/" {
        format!("/{name}")
    } else {
        format!("{directory}/{name}")
    }
}

/// Splits a clean path into its parent and its base name; of the root both are the root.
pub(crate) fn split(path: &str) -> (&str, &str) {
    match path.rfind('/') {
        Some(0) if path.len() == 1 => ("/", "/"),
        Some(0) => ("/", &path[1..]),
        Some(at) => (&path[..at], &path[at + 1..]),
        None => ("/", path),
    }
}

/// Whether a clean path is `ancestor` or below it.
pub(crate) fn is_within(path: &str, ancestor: &str) -> bool {
    ancestor == "/"
        || path.strip_prefix(ancestor).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What to do with a symlink at the end of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Last {
    Follow,
    Keep,
}

/// Where a path leads.
#[derive(Debug)]
pub(crate) struct Resolved {
    /// The path without symlinks (but for the last component, if that was kept).
    pub path: String,
    /// What is there.
    pub entry: Option<Entry>,
}

/// Resolves `path` in the tree. Absolute link targets start at the root, `..` stops there. What
/// does not exist is taken by the letter, so the result is where something can be made.
pub(crate) fn resolve<T: Tree>(tree: &T, path: &str, last: Last) -> Result<Resolved, Error> {
    resolve_below(tree, "/", path, last)
}

/// Resolves `path` as if `base` (clean and resolved) were the root. A `..` in a link that leads
/// above `base` is an error unless `base` is the root, where it stops as in any Linux system.
pub(crate) fn resolve_below<T: Tree>(
    tree: &T,
    base: &str,
    path: &str,
    last: Last,
) -> Result<Resolved, Error> {
    let mut links = 0;
    let mut done = base.to_owned();
    // What is at `done`, where that is known already.
    let mut entry = None;
    let mut missing = false;
    let mut pending = components(path);
    while let Some(component) = pending.pop() {
        if component == ".." {
            if done != base {
                let parent = split(&done).0.len();
                done.truncate(parent);
            } else if base != "/" {
                return Err(Error::LinkEscapes(path.to_owned()));
            }
            // Above something that is missing there may be things again.
            (missing, entry) = (false, None);
            continue;
        }
        let here = join(&done, &component);
        if missing {
            done = here;
            continue;
        }
        entry = stat(tree, &here)?;
        match &entry {
            None => missing = true,
            Some(Entry { kind: EntryKind::Symlink(target), .. })
                if !pending.is_empty() || last == Last::Follow =>
            {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Error::TooManyLinks(path.to_owned()));
                }
                if target.starts_with('/') {
                    base.clone_into(&mut done);
                }
                pending.extend(components(target));
                entry = None;
                continue;
            }
            Some(found) if !pending.is_empty() && !found.is_directory() => {
                return Err(Error::NotDirectory(here));
            }
            Some(_) => {}
        }
        done = here;
    }
    if entry.is_none() && !missing {
        entry = stat(tree, &done)?;
    }
    Ok(Resolved { path: done, entry })
}

/// Components in reverse order, without `.` and empty ones.
fn components(path: &str) -> Vec<String> {
    path.rsplit('/').filter(|part| !part.is_empty() && *part != ".").map(str::to_owned).collect()
}

/// Looks at a path. The root of an empty tree may have no entry of its own, and is a directory
/// nevertheless.
pub(crate) fn stat<T: Tree>(tree: &T, path: &str) -> Result<Option<Entry>, Error> {
    let entry = tree.stat(path)?;
    Ok(match entry {
        None if path == "/" => Some(Entry {
            kind: EntryKind::Directory,
            attributes: Attributes { mode: 0o755, ..Attributes::default() },
        }),
        other => other,
    })
}

/// Makes the resolved path and its missing parents directories with these attributes; those that
/// exist stay as they are.
pub(crate) fn make_directories<L: Layer>(
    layer: &L,
    view: &L::Tree,
    target: &Resolved,
    attributes: &Attributes,
) -> Result<(), Error> {
    match &target.entry {
        Some(entry) if entry.is_directory() => return Ok(()),
        Some(_) => return Err(Error::NotDirectory(target.path.clone())),
        None => {}
    }
    let ends = target.path.match_indices('/').map(|(at, _)| at).skip(1);
    let mut missing = false;
    for end in ends.chain([target.path.len()]) {
        let directory = &target.path[..end];
        if !missing {
            match stat(view, directory)? {
                Some(entry) if entry.is_directory() => continue,
                Some(_) => return Err(Error::NotDirectory(directory.to_owned())),
                None => missing = true,
            }
        }
        layer.put_directory(directory, attributes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clean_goes_by_the_letter_and_stops_at_the_root() {
        for (path, expected) in [
            ("", "/"),
            (".", "/"),
            ("/", "/"),
            ("a", "/a"),
            ("/a//b/./c/", "/a/b/c"),
            ("../../a", "/a"),
            ("/a/../../b", "/b"),
            ("/a/b/..", "/a"),
            ("/...", "/..."),
        ] {
            assert_eq!(clean(path), expected, "{path:?}");
        }
    }

    #[test]
    fn splits_and_joins() {
        for (path, parent, base) in [("/", "/", "/"), ("/a", "/", "a"), ("/a/b", "/a", "b")] {
            assert_eq!(split(path), (parent, base), "{path:?}");
        }
        assert_eq!(join("/", "a"), "/a");
        assert_eq!(join("/a", "b/c"), "/a/b/c");
        assert_eq!(join("/a", ""), "/a");
        assert!(is_within("/a/b", "/a") && is_within("/a", "/a") && is_within("/a", "/"));
        assert!(!is_within("/ab", "/a"));
    }
}
