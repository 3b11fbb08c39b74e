//! The values of `--build-context`: what the frontend is told, and what the session lends.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use cofferdam_registry::Reference;
use cofferdam_types::Digest;

use crate::error::Error;

/// Named contexts, collected.
#[derive(Debug, Default)]
pub struct NamedContexts {
    /// Options for the frontend.
    pub options: BTreeMap<String, String>,
    /// Directories to lend, by the name that the session lends them under.
    pub lent: BTreeMap<String, PathBuf>,
}

impl NamedContexts {
    /// Adds one `NAME=VALUE`. A later one of the same name replaces an earlier one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn add(&mut self, text: &str) -> Result<(), Error> {
        let invalid = |what: String| Error::usage(format!("--build-context `{text}`: {what}"));
        let (name, value) = text
            .split_once('=')
            .filter(|(name, value)| !name.is_empty() && !value.is_empty())
            .ok_or_else(|| invalid("expected NAME=VALUE".into()))?;
        let name = normalize(name);
        let told = if let Some(image) = value.strip_prefix("docker-image://") {
            let reference = Reference::parse(image).map_err(|error| invalid(error.to_string()))?;
            format!("docker-image://{reference}")
        } else if let Some(place) = value.strip_prefix("oci-layout://") {
            let layout = Layout::parse(place).map_err(invalid)?;
            check_directory(layout.path).map_err(invalid)?;
            let id = self.free_name(&sanitize(&name), "oci-layout:");
            self.lent.insert(format!("oci-layout:{id}"), layout.path.to_owned());
            format!("oci-layout://{id}{}", layout.suffix)
        } else if value.contains("://") || value.starts_with("git@") {
            return Err(invalid("Git and HTTP contexts are not supported yet".into())
                .hint("fetch it first and give its directory"));
        } else if value.starts_with("target:") {
            return Err(invalid("`target:` is for bake files".into()));
        } else {
            check_directory(Path::new(value))
                .map_err(|what| invalid(what).hint("for an image: docker-image://REFERENCE"))?;
            let id = self.free_name(&name, "");
            self.lent.insert(id.clone(), value.into());
            format!("local:{id}")
        };
        self.options.insert(format!("context:{name}"), told);
        Ok(())
    }

    /// A name under which nothing is lent yet.
    fn free_name(&self, name: &str, prefix: &str) -> String {
        let taken: BTreeSet<&str> =
            self.lent.keys().map(String::as_str).chain(["context", "dockerfile"]).collect();
        let numbered = (2..).map(|number| format!("{name}-{number}"));
        let mut names = std::iter::once(name.to_owned()).chain(numbered);
        names
            .find(|name| !taken.contains(format!("{prefix}{name}").as_str()))
            .expect("there are more numbers than names")
    }
}

/// The name by which the frontend looks it up: short, as buildx writes it, and in lower case.
fn normalize(name: &str) -> String {
    match Reference::parse(name) {
        Ok(reference) => {
            let familiar = reference.familiar();
            familiar.strip_suffix(":latest").unwrap_or(&familiar).to_owned()
        }
        Err(_) => name.to_lowercase(),
    }
}

/// A name with nothing in it that has a meaning in an identifier.
fn sanitize(name: &str) -> String {
    let allowed = |c: char| match c.to_ascii_lowercase() {
        c @ ('a'..='z' | '0'..='9') => c,
        _ => '-',
    };
    name.chars().map(allowed).collect()
}

/// `PATH[:TAG][@DIGEST]`
struct Layout<'a> {
    path: &'a Path,
    /// `[:TAG][@DIGEST]`
    suffix: &'a str,
}

impl<'a> Layout<'a> {
    fn parse(text: &'a str) -> Result<Self, String> {
        let (place, digest) = match text.rsplit_once('@') {
            Some((place, digest)) if digest.starts_with("sha256:") => (place, Some(digest)),
            _ => (text, None),
        };
        if let Some(digest) = digest {
            digest.parse::<Digest>().map_err(|error| error.to_string())?;
        }
        let path = match place.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => path,
            _ => place,
        };
        if path.is_empty() {
            return Err("expected oci-layout://PATH[:TAG][@DIGEST]".into());
        }
        Ok(Self { path: Path::new(path), suffix: &text[path.len()..] })
    }
}

fn check_directory(path: &Path) -> Result<(), String> {
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(format!("`{}` is not a directory", path.display())),
        Err(error) => Err(format!("cannot read the directory `{}`: {error}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    /// Shows the options and directories of contexts given one after the other.
    fn check(texts: &[&str], expected: Expect) {
        let mut contexts = NamedContexts::default();
        let mut shown = String::new();
        for text in texts {
            if let Err(error) = contexts.add(text) {
                shown += &format!("error: {error}\n");
            }
        }
        for (key, value) in &contexts.options {
            shown += &format!("{key}={value}\n");
        }
        for (name, path) in &contexts.lent {
            shown += &format!("lends {name}: {}\n", path.display());
        }
        expected.assert_eq(&shown);
    }

    #[test]
    fn images() {
        check(
            &[
                "base=docker-image://busybox",
                "docker.io/library/alpine:latest=docker-image://a/b:1",
            ],
            expect![[r#"
                context:alpine=docker-image://docker.io/a/b:1
                context:base=docker-image://docker.io/library/busybox:latest
            "#]],
        );
    }

    #[test]
    fn directories() {
        check(
            &["files=/tmp", "Upper=/tmp", "context=/tmp"],
            expect![[r#"
            context:context=local:context-2
            context:files=local:files
            context:upper=local:upper
            lends context-2: /tmp
            lends files: /tmp
            lends upper: /tmp
        "#]],
        );
    }

    #[test]
    fn layouts() {
        let digest = format!("sha256:{}", "a".repeat(64));
        check(
            &[
                "tools=oci-layout:///tmp:latest",
                "a.b=oci-layout:///tmp",
                "a-b=oci-layout:///tmp",
                &format!("pinned=oci-layout:///tmp:1@{digest}"),
                &format!("digest=oci-layout:///tmp@{digest}"),
            ],
            expect![[r#"
                context:a-b=oci-layout://a-b-2
                context:a.b=oci-layout://a-b
                context:digest=oci-layout://digest@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
                context:pinned=oci-layout://pinned:1@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
                context:tools=oci-layout://tools:latest
                lends oci-layout:a-b: /tmp
                lends oci-layout:a-b-2: /tmp
                lends oci-layout:digest: /tmp
                lends oci-layout:pinned: /tmp
                lends oci-layout:tools: /tmp
            "#]],
        );
    }

    #[test]
    fn wrong_contexts() {
        check(
            &[
                "x",
                "x=",
                "x=docker-image://Upper",
                "x=oci-layout://:tag",
                "x=oci-layout:///tmp@sha256:12",
                "x=https://example.org/x.tar",
                "x=git@example.org:x",
                "x=/nonexistent",
                "x=target:y",
                "x=input:y",
            ],
            expect![[r#"
                error: --build-context `x`: expected NAME=VALUE
                error: --build-context `x=`: expected NAME=VALUE
                error: --build-context `x=docker-image://Upper`: invalid image reference "Upper": the repository name must be lower case: "library/Upper"
                error: --build-context `x=oci-layout://:tag`: expected oci-layout://PATH[:TAG][@DIGEST]
                error: --build-context `x=oci-layout:///tmp@sha256:12`: invalid digest "sha256:12": expected `sha256:` and 64 lower-case hex digits
                error: --build-context `x=https://example.org/x.tar`: Git and HTTP contexts are not supported yet
                error: --build-context `x=git@example.org:x`: Git and HTTP contexts are not supported yet
                error: --build-context `x=/nonexistent`: cannot read the directory `/nonexistent`: No such file or directory (os error 2)
                error: --build-context `x=target:y`: `target:` is for bake files
                error: --build-context `x=input:y`: cannot read the directory `input:y`: No such file or directory (os error 2)
            "#]],
        );
    }
}
