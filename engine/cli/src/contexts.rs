//! The values of `--build-context`: what the frontend is told, and what the session lends.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cofferdam_registry::Reference;
use cofferdam_session::Secret;
use cofferdam_types::Digest;
use percent_encoding::percent_decode_str;

use crate::error::Error;

/// Named contexts, collected.
#[derive(Debug, Default)]
pub struct NamedContexts {
    /// Options for the frontend.
    pub options: BTreeMap<String, String>,
    /// Directories to lend, by the name that the session lends them under.
    pub lent: BTreeMap<String, PathBuf>,
    /// Secrets to lend, by name: credentials that stood in URLs.
    pub secrets: BTreeMap<String, Secret>,
}

/// Something that is fetched.
pub struct Remote {
    /// Where from, without credentials.
    pub url: String,
    /// The credentials, under the names that sources look for.
    pub secrets: Vec<(String, Secret)>,
}

/// Reads what docker would fetch: a URL, `user@host:path`, or a repository at GitHub without its
/// scheme. `None` for anything else.
pub fn remote(text: &str) -> Option<Remote> {
    const GITHUB: &str = "github.com/";
    let plain = |url: String| Some(Remote { url, secrets: Vec::new() });
    if text.starts_with(GITHUB) {
        let end = text.find(['#', '?']).unwrap_or(text.len());
        let (place, rest) = text.split_at(end);
        let dot = if place.ends_with(".git") { "" } else { ".git" };
        return plain(format!("https://{place}{dot}{rest}"));
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        let (user, rest) = text.split_once('@')?;
        let is_scp = rest.contains(':') && !user.contains(['/', ':', '.']) && !user.is_empty();
        return if is_scp { plain(text.to_owned()) } else { None };
    };
    if !matches!(scheme, "http" | "https") {
        return matches!(scheme, "git" | "ssh").then(|| plain(text.to_owned()))?;
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let Some((user, place)) = authority.rsplit_once('@') else { return plain(text.to_owned()) };
    let decoded: Vec<u8> = percent_decode_str(user).collect();
    let pair = if decoded.contains(&b':') { decoded } else { [&decoded[..], b":"].concat() };
    let header = Secret::new(format!("Basic {}", STANDARD.encode(pair)).into_bytes());
    let host = place.rsplit_once(':').map_or(
        place,
        |(host, port)| {
            if port.contains(']') { place } else { host }
        },
    );
    let url = format!("{scheme}://{place}{}", &rest[authority.len()..]);
    let names = [format!("GIT_AUTH_HEADER.{host}"), format!("HTTP_AUTH_HEADER_{place}")];
    Some(Remote { url, secrets: names.into_iter().map(|name| (name, header.clone())).collect() })
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
        } else if let Some(remote) = remote(value).filter(|_| !Path::new(value).exists()) {
            self.secrets.extend(remote.secrets);
            remote.url
        } else if let Some((scheme, _)) = value.split_once("://") {
            let expected = "expected docker-image, oci-layout, http, https, git or ssh";
            return Err(invalid(format!("unknown kind `{scheme}`: {expected}")));
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
    fn remote_ones_lose_their_credentials() {
        check(
            &[
                "a=https://example.org/x.tar",
                "b=git@example.org:x",
                "c=https://me:s3cret@example.org:8443/x.git#main",
                "d=github.com/a/b#v1:sub",
                "e=ssh://git@example.org/x",
            ],
            expect![[r#"
                context:a=https://example.org/x.tar
                context:b=git@example.org:x
                context:c=https://example.org:8443/x.git#main
                context:d=https://github.com/a/b.git#v1:sub
                context:e=ssh://git@example.org/x
            "#]],
        );
        let remote = remote("https://me:s3cret@example.org:8443/x.git").expect("it is remote");
        let names: Vec<_> = remote.secrets.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["GIT_AUTH_HEADER.example.org", "HTTP_AUTH_HEADER_example.org:8443"]);
        // me:s3cret
        assert_eq!(remote.secrets[0].1.reveal(), b"Basic bWU6czNjcmV0");
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
                "x=ftp://example.org/x.tar",
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
                error: --build-context `x=ftp://example.org/x.tar`: unknown kind `ftp`: expected docker-image, oci-layout, http, https, git or ssh
                error: --build-context `x=/nonexistent`: cannot read the directory `/nonexistent`: No such file or directory (os error 2)
                error: --build-context `x=target:y`: `target:` is for bake files
                error: --build-context `x=input:y`: cannot read the directory `input:y`: No such file or directory (os error 2)
            "#]],
        );
    }
}
