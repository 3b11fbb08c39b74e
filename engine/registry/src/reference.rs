//! Image references: `[registry[:port]/]repository[:tag][@digest]`, normalised the way Docker does.
//!
//! Parsing is pure; what a reference points at is the [`Client`](crate::Client)'s business.
//! The grammar is that of the `reference` package of the distribution project
//! (<https://github.com/distribution/reference>), with one restriction: digests are SHA-256.

use std::fmt;
use std::str::FromStr;

use cofferdam_types::{Digest, ParseDigestError};

/// The registry that names without a registry belong to.
const DOCKER_HUB: &str = "docker.io";
/// The name of Docker Hub in old references and in credential stores.
const DOCKER_HUB_LEGACY: &str = "index.docker.io";
/// Where Docker Hub keeps names without a slash.
const OFFICIAL: &str = "library/";
/// The longest repository path that registries must accept.
const MAX_REPOSITORY: usize = 255;

/// A normalised image reference: registry, repository, and a tag or a digest or both.
///
/// [`Display`](fmt::Display) writes the full form, which parses to the same value;
/// [`Reference::familiar`] writes the short form that people use.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Says why a text is not a [`Reference`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("invalid image reference {text:?}: {reason}")]
pub struct ParseReferenceError {
    /// The offending text, shortened to 300 characters.
    pub text: String,
    /// What is wrong with it.
    pub reason: ReferenceProblem,
}

/// What can be wrong with a reference.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReferenceProblem {
    /// There is no repository.
    #[error("the repository name is empty")]
    Empty,
    /// A scheme such as `https://` comes first.
    #[error("a reference has no scheme: leave out `{0}://`")]
    Scheme(String),
    /// Docker takes 64 hex digits for an image id.
    #[error("64 hex digits are an image id, not a name")]
    Identifier,
    /// The repository has upper-case letters.
    #[error("the repository name must be lower case: {0:?}")]
    UpperCase(String),
    /// The repository has a part that the grammar does not allow.
    #[error(
        "the repository name has an invalid part {0:?}: expected lower-case letters and digits, \
         separated by `.`, `_`, `__` or dashes"
    )]
    Repository(String),
    /// The repository is too long.
    #[error("the repository name has {0} characters, at most 255 are allowed")]
    TooLong(usize),
    /// The registry is not `host` or `host:port`.
    #[error("the registry {0:?} is not a host name or address with an optional port")]
    Registry(String),
    /// The tag is not allowed by the grammar.
    #[error(
        "invalid tag {0:?}: expected 1 to 128 letters, digits, `_`, `.` and `-`, not starting \
         with `.` or `-`"
    )]
    Tag(String),
    /// The digest is not a SHA-256 digest.
    #[error(transparent)]
    Digest(ParseDigestError),
}

impl Reference {
    /// Parses and normalises a reference as a user writes it: `busybox` becomes
    /// `docker.io/library/busybox:latest`.
    ///
    /// # Errors
    ///
    /// Says which part is wrong and what was expected.
    pub fn parse(text: &str) -> Result<Self, ParseReferenceError> {
        parse(text).map_err(|reason| ParseReferenceError {
            text: text.chars().take(300).collect(),
            reason,
        })
    }

    /// The registry's host and port: `docker.io`, `127.0.0.1:5000`, `[::1]:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository's path in its registry: `library/busybox`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; `latest` where neither tag nor digest was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if the reference is pinned.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Registry and repository: `docker.io/library/busybox`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The same reference, pinned to `digest`; a tag stays for people to read.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self.clone() }
    }

    /// The same repository under another tag, without a digest.
    ///
    /// # Errors
    ///
    /// The tag does not follow the grammar.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ParseReferenceError> {
        let tag = check_tag(tag).map_err(|reason| ParseReferenceError {
            text: format!("{}:{}", self.name(), tag).chars().take(300).collect(),
            reason,
        })?;
        Ok(Self { tag: Some(tag), digest: None, ..self.clone() })
    }

    /// The short form that people use: `busybox:latest`, `someone/tool:1`, `quay.io/a/b:1`.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        let Some(path) = full.strip_prefix("docker.io/") else {
            return full;
        };
        match path.strip_prefix(OFFICIAL) {
            // `docker.io/library/a/b` would not come back from `a/b`.
            Some(official) if !official.contains('/') => official.into(),
            _ => path.into(),
        }
    }

    /// What manifest requests name: the digest if there is one, otherwise the tag.
    pub(crate) fn manifest_name(&self) -> String {
        match (self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".into(),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = ParseReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

fn parse(text: &str) -> Result<Reference, ReferenceProblem> {
    if text.is_empty() {
        return Err(ReferenceProblem::Empty);
    }
    if let Some((scheme, _)) = text.split_once("://") {
        return Err(ReferenceProblem::Scheme(scheme.into()));
    }
    if text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return Err(ReferenceProblem::Identifier);
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse().map_err(ReferenceProblem::Digest)?)),
        None => (text, None),
    };
    let (registry, remainder) = split_registry(rest);
    let (path, tag) = match remainder.split_once(':') {
        Some((path, tag)) => (path, Some(check_tag(tag)?)),
        None => (remainder, None),
    };
    check_registry(registry)?;
    let repository = if registry == DOCKER_HUB && !path.contains('/') && !path.is_empty() {
        format!("{OFFICIAL}{path}")
    } else {
        path.to_owned()
    };
    check_repository(&repository)?;
    let tag = tag.or_else(|| digest.is_none().then(|| "latest".to_owned()));
    Ok(Reference { registry: registry.to_owned(), repository, tag, digest })
}

/// Separates the registry from the rest: the first part is a registry if it could not be the
/// first part of a repository on Docker Hub.
fn split_registry(text: &str) -> (&str, &str) {
    match text.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (if first == DOCKER_HUB_LEGACY { DOCKER_HUB } else { first }, rest)
        }
        _ => (DOCKER_HUB, text),
    }
}

/// Whether a text can name a registry: `host[:port]`.
pub(crate) fn is_registry(text: &str) -> bool {
    check_registry(text).is_ok()
}

fn check_registry(registry: &str) -> Result<(), ReferenceProblem> {
    let error = || ReferenceProblem::Registry(registry.into());
    let (host, port) = if let Some(bracketed) = registry.strip_prefix('[') {
        let (address, port) = bracketed.split_once(']').ok_or_else(error)?;
        address.parse::<std::net::Ipv6Addr>().map_err(|_| error())?;
        (None, port.strip_prefix(':').or((!port.is_empty()).then_some("")))
    } else {
        match registry.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(registry), None),
        }
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let host_valid = host.is_none_or(|host| host.split('.').all(label));
    let port_valid = port
        .is_none_or(|port| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok());
    if host_valid && port_valid { Ok(()) } else { Err(error()) }
}

fn check_repository(repository: &str) -> Result<(), ReferenceProblem> {
    if repository.is_empty() {
        return Err(ReferenceProblem::Empty);
    }
    if repository.len() > MAX_REPOSITORY {
        return Err(ReferenceProblem::TooLong(repository.len()));
    }
    if repository.chars().any(char::is_uppercase) {
        return Err(ReferenceProblem::UpperCase(repository.into()));
    }
    match repository.split('/').find(|component| !is_path_component(component)) {
        Some(bad) => Err(ReferenceProblem::Repository(bad.into())),
        None => Ok(()),
    }
}

/// Letters and digits, separated by one `.`, one or two `_`, or any number of `-`.
fn is_path_component(component: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separators_valid =
        component.split(alphanumeric).filter(|separator| !separator.is_empty()).all(|separator| {
            matches!(separator, "." | "_" | "__") || separator.bytes().all(|b| b == b'-')
        });
    component.starts_with(alphanumeric) && component.ends_with(alphanumeric) && separators_valid
}

fn check_tag(tag: &str) -> Result<String, ReferenceProblem> {
    let valid = (1..=128).contains(&tag.len())
        && !tag.starts_with(['.', '-'])
        && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if valid {
        Ok(tag.to_owned())
    } else {
        Err(ReferenceProblem::Tag(tag.chars().take(140).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn references_normalise() {
        // what a user writes, full form, familiar form
        let table = [
            ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
            ("a/b", "docker.io/a/b:latest", "a/b:latest"),
            ("a/b/c:1", "docker.io/a/b/c:1", "a/b/c:1"),
            ("docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("index.docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("docker.io/library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
            ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
            ("localhost:5000/x", "localhost:5000/x:latest", "localhost:5000/x:latest"),
            ("127.0.0.1:5000/x/y:Z_1", "127.0.0.1:5000/x/y:Z_1", "127.0.0.1:5000/x/y:Z_1"),
            ("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest"),
            ("[fe80::1]/x", "[fe80::1]/x:latest", "[fe80::1]/x:latest"),
            ("quay.io/a/b", "quay.io/a/b:latest", "quay.io/a/b:latest"),
            ("Host/b", "Host/b:latest", "Host/b:latest"),
            ("host/b", "docker.io/host/b:latest", "host/b:latest"),
            ("host:80/b", "host:80/b:latest", "host:80/b:latest"),
            ("a__b--c.d_e", "docker.io/library/a__b--c.d_e:latest", "a__b--c.d_e:latest"),
        ];
        for (text, full, familiar) in table {
            let reference = Reference::parse(text).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(reference.to_string(), full, "{text}");
            assert_eq!(reference.familiar(), familiar, "{text}");
            assert_eq!(Reference::parse(full).as_ref(), Ok(&reference), "{text}");
            assert_eq!(Reference::parse(familiar).as_ref(), Ok(&reference), "{text}");
        }
    }

    #[test]
    fn digests_pin() {
        let pinned = Reference::parse(&format!("busybox@{DIGEST}")).expect("valid");
        assert_eq!(pinned.to_string(), format!("docker.io/library/busybox@{DIGEST}"));
        assert_eq!(pinned.tag(), None);
        let both = Reference::parse(&format!("busybox:1@{DIGEST}")).expect("valid");
        assert_eq!(both.familiar(), format!("busybox:1@{DIGEST}"));
        assert_eq!(both.manifest_name(), DIGEST);
        let tagged = Reference::parse("busybox:1").expect("valid");
        assert_eq!(tagged.with_digest(Digest::of(b"")), both);
        assert_eq!(both.with_tag("1").as_ref(), Ok(&tagged));
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let long = "a".repeat(256);
        let long_tag = format!("a:{}", "t".repeat(129));
        let id = "e".repeat(64);
        let table = [
            ("", "is empty"),
            ("localhost:5000/", "is empty"),
            ("/x", "invalid part"),
            ("x/", "invalid part"),
            ("a//b", "invalid part"),
            ("BusyBox", "must be lower case"),
            ("a/B", "must be lower case"),
            ("quay.io/B", "must be lower case"),
            ("https://quay.io/b", "leave out `https://`"),
            ("a..b", "invalid part"),
            ("a___b", "invalid part"),
            ("-a", "invalid part"),
            ("a-", "invalid part"),
            ("../a", "not a host name"),
            ("a/../b", "invalid part"),
            ("a b", "invalid part"),
            ("a:", "invalid tag"),
            ("a:-x", "invalid tag"),
            ("a:b:c", "invalid tag"),
            ("a:x/y", "not a host name"),
            (&long_tag, "invalid tag"),
            (&long, "has 264 characters"),
            (&id, "image id"),
            ("a@sha256:12", "invalid digest"),
            ("a@", "invalid digest"),
            ("host:99999/a", "not a host name"),
            ("-host.x/a", "not a host name"),
            ("[::1/a", "not a host name"),
            ("[zz]:1/a", "not a host name"),
            ("[::1]5/a", "not a host name"),
            ("user@host/a", "invalid digest"),
            ("a\n.b/c", "not a host name"),
        ];
        for (text, expected) in table {
            let error = Reference::parse(text).expect_err(text).to_string();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }
}
