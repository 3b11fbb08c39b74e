//! Hints for a copy that did not find its source in a directory of the client: an ignore file
//! leaves it out, or something there has nearly that name.

use std::path::{Path, PathBuf};

use cofferdam_llb::{ActionInput, FileActionKind, Graph, Op, OpKind, SourceOp};
use cofferdam_patterns::{Matcher, has_wildcard};
use cofferdam_types::Digest;

use crate::file::clean;
use crate::graph::BuildContext;
use crate::vertex::blocking;

/// How many entries of directories are looked at.
const MOST_ENTRIES: usize = 20_000;

/// What to say about the copies of the op that failed.
pub(crate) async fn hints(context: &BuildContext, graph: &Graph, failed: &Digest) -> Vec<String> {
    let Some(vertex) = graph.get(failed) else { return Vec::new() };
    let copies: Vec<(PathBuf, Vec<String>, String)> = copied(&vertex.op, graph)
        .filter_map(|(source, path)| {
            let name = source.identifier.strip_prefix("local://")?;
            let ignored = source.attrs.get("local.excludepatterns");
            let ignored = ignored.and_then(|list| serde_json::from_str(list).ok());
            Some((context.session.directory(name).ok()?, ignored.unwrap_or_default(), path))
        })
        .collect();
    let look = blocking(move || {
        let hint =
            |(root, ignored, path): (PathBuf, Vec<String>, String)| hint(&root, &ignored, &path);
        Ok(copies.into_iter().filter_map(hint).collect())
    });
    look.await.unwrap_or_default()
}

/// The sources that an op copies from, with the paths in them that must be there.
fn copied<'a>(op: &'a Op, graph: &'a Graph) -> impl Iterator<Item = (&'a SourceOp, String)> {
    let OpKind::File(file) = &op.kind else { return None.into_iter().flatten() };
    let copies = file.actions.iter().filter_map(|action| {
        let FileActionKind::Copy(copy) = &action.kind else { return None };
        let input = ActionInput::of(action.secondary_input?, op.inputs.len());
        let ActionInput::Input(input) = input else { return None };
        let from = graph.get(&op.inputs.get(input as usize)?.vertex)?;
        let OpKind::Source(source) = &from.op.kind else { return None };
        let required = match copy.required_paths.first() {
            Some(path) => format!("{}/{path}", copy.src),
            None => copy.src.clone(),
        };
        Some((source, clean(&required)))
    });
    Some(copies).into_iter().flatten()
}

/// What to say about one path.
fn hint(root: &Path, ignored: &[String], path: &str) -> Option<String> {
    if path.is_empty() || has_wildcard(path) {
        return None;
    }
    let (parent, name) = deepest(root, path);
    let there = parent == path;
    if there {
        let left_out = Matcher::new(ignored).is_ok_and(|matcher| matcher.decide(path).0);
        return left_out.then(|| {
            format!(
                "an ignore file leaves `{path}` out: cofferdam build --explain-ignore {path} says \
                 which rule"
            )
        });
    }
    let near = similar(root, &parent, name?).map(|near| {
        // With one name put right, the rest may be there.
        let rest = path.strip_prefix(parent.as_str()).unwrap_or(path).trim_start_matches('/');
        let rest = rest.split_once('/').map(|(_, rest)| format!("{near}/{rest}"));
        let whole = rest.filter(|whole| deepest(root, whole).1.is_none());
        whole.unwrap_or(near)
    });
    let near = near.or_else(|| elsewhere(root, path))?;
    Some(format!("did you mean `{near}`?"))
}

/// How much of a path is there, and the name that is not. Links are not followed: where they
/// lead is not known to be the client's.
fn deepest<'a>(root: &Path, path: &'a str) -> (String, Option<&'a str>) {
    let mut parent = String::new();
    for name in path.split('/') {
        let next = if parent.is_empty() { name.to_owned() } else { format!("{parent}/{name}") };
        if root.join(&next).symlink_metadata().is_err() {
            return (parent, Some(name));
        }
        parent = next;
    }
    (parent, None)
}

/// What in a directory has nearly that name.
fn similar(root: &Path, parent: &str, name: &str) -> Option<String> {
    let limit = (name.chars().count() / 3).max(1);
    let names = names(&root.join(parent)).into_iter();
    let distances = names.map(|found| {
        let lower = strsim::osa_distance(&found.to_lowercase(), &name.to_lowercase());
        (lower, found)
    });
    let (_, found) = distances.filter(|(distance, _)| *distance <= limit).min()?;
    Some(if parent.is_empty() { found } else { format!("{parent}/{found}") })
}

/// A file of the same name in another directory.
fn elsewhere(root: &Path, path: &str) -> Option<String> {
    let name = path.rsplit('/').next()?;
    let mut open = vec![String::new()];
    let mut looked = 0;
    while let Some(parent) = open.pop() {
        for found in names(&root.join(&parent)) {
            looked += 1;
            if looked > MOST_ENTRIES {
                return None;
            }
            let path = if parent.is_empty() { found.clone() } else { format!("{parent}/{found}") };
            if found == name {
                return Some(path);
            }
            if root.join(&path).symlink_metadata().is_ok_and(|found| found.is_dir()) {
                open.push(path);
            }
        }
    }
    None
}

/// The names in a directory, sorted; none where it is a link or cannot be read.
fn names(directory: &Path) -> Vec<String> {
    let is_directory = directory.symlink_metadata().is_ok_and(|found| found.is_dir());
    let entries = is_directory.then(|| directory.read_dir().ok()).flatten();
    let entries = entries.into_iter().flatten().take(MOST_ENTRIES).flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_for_what_is_missing() {
        let root = tempfile::tempdir().expect("a temporary directory");
        for file in ["src/main.c", "src/deep/util.h", "a.log", "README.md"] {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().expect("it has one")).expect("made");
            std::fs::write(path, "").expect("written");
        }
        std::os::unix::fs::symlink("/etc", root.path().join("link")).expect("linked");
        let ignored = ["*.log".to_owned()];
        for (path, expected) in [
            ("src/mian.c", Some("did you mean `src/main.c`?")),
            ("readme.md", Some("did you mean `README.md`?")),
            ("include/util.h", Some("did you mean `src/deep/util.h`?")),
            ("scr/main.c", Some("did you mean `src/main.c`?")),
            ("nothing/like/it", None),
            ("link/passwdd", None),
            ("src/main.c", None),
            ("*.h", None),
            ("", None),
        ] {
            assert_eq!(hint(root.path(), &ignored, path).as_deref(), expected, "{path}");
        }
        let left_out = hint(root.path(), &ignored, "a.log").expect("a hint");
        assert!(left_out.contains("--explain-ignore a.log"), "{left_out}");
    }
}
