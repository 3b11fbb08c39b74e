//! Image references, brought into their full form: `busybox` is
//! `docker.io/library/busybox:latest`.

use crate::error::Problem;

/// An image reference in full: with a registry, and a tag or a digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Registry and repository.
    pub name: String,
    /// The tag.
    pub tag: Option<String>,
    /// The digest.
    pub digest: Option<String>,
}

impl Reference {
    /// Reads a reference as people write it.
    ///
    /// # Errors
    /// When it is not one; the grammar is that of the distribution specification.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let invalid = |expected: &str| Problem::invalid("image reference", text, expected);
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        let (registry, path) = match name.split_once('/') {
            Some((first, path))
                if first.contains(['.', ':']) || first == "localhost" || has_upper(first) =>
            {
                (if first == "index.docker.io" { "docker.io" } else { first }, path)
            }
            _ => ("docker.io", name),
        };
        if !is_registry(registry) {
            return Err(invalid("a registry like `host[:port]`"));
        }
        if has_upper(path) {
            return Err(invalid("a name in lower case"));
        }
        if !path.split('/').all(is_component) {
            return Err(invalid("`[registry/]name[:tag][@digest]`"));
        }
        let valid_tag = |tag: &str| {
            (1..=128).contains(&tag.len())
                && !tag.starts_with(['.', '-'])
                && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        };
        if tag.is_some_and(|tag| !valid_tag(tag)) {
            return Err(invalid("a tag of letters, digits, `_`, `.` and `-`"));
        }
        let valid_digest = |digest: &str| {
            digest.split_once(':').is_some_and(|(algorithm, hex)| {
                algorithm.bytes().all(|b| b.is_ascii_alphanumeric())
                    && hex.len() >= 32
                    && hex.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase())
            })
        };
        if digest.is_some_and(|digest| !valid_digest(digest)) {
            return Err(invalid("a digest like `sha256:<64 hex digits>`"));
        }
        let library = if registry == "docker.io" && !path.contains('/') { "library/" } else { "" };
        let tag = match (tag, digest) {
            (None, None) => Some("latest"),
            (tag, _) => tag,
        };
        Ok(Self {
            name: format!("{registry}/{library}{path}"),
            tag: tag.map(str::to_owned),
            digest: digest.map(str::to_owned),
        })
    }
}

/// The name by which a named context replaces an image: as short as people write it, without the
/// tag `latest`, in lower case. A name that is no image reference stands for itself.
pub fn familiar(name: &str) -> String {
    let Ok(reference) = Reference::parse(name) else { return name.to_lowercase() };
    let full = reference.to_string();
    let short = full.strip_prefix("docker.io/").unwrap_or(&full);
    let short = short.strip_prefix("library/").unwrap_or(short);
    short.strip_suffix(":latest").unwrap_or(short).into()
}

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

fn has_upper(text: &str) -> bool {
    text.bytes().any(|b| b.is_ascii_uppercase())
}

/// A host name or an address, and perhaps a port.
fn is_registry(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let valid_host = match address {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.split('.').all(is_label),
    };
    valid_host && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

fn is_component(part: &str) -> bool {
    let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let separator =
        |part: &[u8]| matches!(part, b"." | b"_" | b"__") || part.iter().all(|&b| b == b'-');
    matches!((bytes.first(), bytes.last()), (Some(&a), Some(&z)) if inside(a) && inside(z))
        && bytes.iter().all(|&b| inside(b) || b"._-".contains(&b))
        && bytes.split(|&b| inside(b)).all(separator)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_forms_become_full() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, expected) in [
            ("busybox", "docker.io/library/busybox:latest".to_owned()),
            ("a/b:1", "docker.io/a/b:1".to_owned()),
            ("index.docker.io/a", "docker.io/library/a:latest".to_owned()),
            ("localhost/x", "localhost/x:latest".to_owned()),
            ("localhost:5000/x/y:v1", "localhost:5000/x/y:v1".to_owned()),
            ("ghcr.io/x/y", "ghcr.io/x/y:latest".to_owned()),
            (&format!("x@{digest}"), format!("docker.io/library/x@{digest}")),
            (&format!("x:1@{digest}"), format!("docker.io/library/x:1@{digest}")),
        ] {
            assert_eq!(Reference::parse(text).unwrap().to_string(), expected);
        }
        for (name, short) in [
            ("docker.io/library/a:latest", "a"),
            ("a:1", "a:1"),
            ("docker.io/a/b", "a/b"),
            ("localhost:5000/x", "localhost:5000/x"),
            ("Stage", "stage"),
        ] {
            assert_eq!(familiar(name), short);
        }
        for bad in [
            "", "A", "x:", "x:-a", "x@y", "a//b", "$X", "../x", "x y", "-x", "x/", "a_.b", "a..b",
            "a___b",
        ] {
            assert!(Reference::parse(bad).is_err(), "{bad}");
        }
    }
}
