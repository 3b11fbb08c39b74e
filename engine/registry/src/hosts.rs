//! What a user may say about a registry: mirrors, plain HTTP, whom to trust. The keys are those
//! of BuildKit's `[registry."host"]`; reading them from a file is the caller's business.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::reference::is_registry;

/// The settings of one registry or mirror.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostConfig {
    /// Asked in this order before the registry itself, and for pulls only.
    pub mirrors: Vec<Mirror>,
    /// Whether it speaks HTTP without TLS. Where nothing is said, that is so for registries on
    /// loopback about whose certificates nothing is said either.
    pub http: Option<bool>,
    /// Accepts any certificate; with `http`, also goes on without TLS where there is none.
    pub insecure: bool,
    /// Certificates in PEM form that are trusted besides those of the system.
    pub ca: Vec<Vec<u8>>,
    /// A private key and its certificate in PEM form, to show who we are.
    pub identity: Option<Vec<u8>>,
}

/// A registry that has what another one has: `host[:port][/path]`. The path comes before the
/// name of each repository.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mirror {
    /// Host and port; its own settings are found under this name.
    pub host: String,
    /// What goes before the repositories' names; empty for nothing.
    pub path: String,
}

/// A mirror that is not written as `host[:port][/path]`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid mirror `{0}`: expected host[:port][/path], without a scheme")]
pub struct ParseMirrorError(String);

impl FromStr for Mirror {
    type Err = ParseMirrorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, path) = text.split_once('/').unwrap_or((text, ""));
        let path = path.trim_end_matches('/');
        let part = |part: &str| {
            let mut bytes = part.bytes();
            !matches!(part, "" | "." | "..")
                && bytes.all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        if is_registry(host) && (path.is_empty() || path.split('/').all(part)) {
            Ok(Self { host: host.into(), path: path.into() })
        } else {
            Err(ParseMirrorError(text.chars().take(300).collect()))
        }
    }
}

impl fmt::Display for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)?;
        if self.path.is_empty() { Ok(()) } else { write!(f, "/{}", self.path) }
    }
}

impl Mirror {
    /// The name that a repository has there.
    pub(crate) fn repository(&self, repository: &str) -> String {
        match self.path.as_str() {
            "" => repository.into(),
            path => format!("{path}/{repository}"),
        }
    }
}

/// How a registry is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
    /// TLS if it answers to that.
    Either,
}

impl HostConfig {
    pub(crate) fn scheme(&self, registry: &str) -> Scheme {
        let silent = self.ca.is_empty() && self.identity.is_none();
        match (self.http, self.insecure) {
            (Some(true), true) => Scheme::Either,
            (Some(true), false) => Scheme::Http,
            (Some(false), _) => Scheme::Https,
            (None, insecure) if is_loopback(registry) && silent => {
                if insecure {
                    Scheme::Either
                } else {
                    Scheme::Http
                }
            }
            (None, _) => Scheme::Https,
        }
    }
}

/// Whether a registry is on this machine, so that plain HTTP is safe.
pub(crate) fn is_loopback(registry: &str) -> bool {
    let bracketed = registry.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    if let Some((address, _)) = bracketed {
        return address.parse::<Ipv6Addr>().is_ok_and(|address| address.is_loopback());
    }
    let host = registry.split(':').next().unwrap_or(registry);
    host == "localhost" || host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_loopback() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:1", "127.9.9.9", "[::1]", "[::1]:5"]
        {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["docker.io", "localhost.x", "127.0.0.1.x:1", "10.0.0.1", "[::2]:5", "0.0.0.0"]
        {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn mirrors_are_hosts_with_a_path() {
        for (text, host, path) in [
            ("mirror.example", "mirror.example", ""),
            ("localhost:5000/", "localhost:5000", ""),
            ("[::1]:5000/a/b-c_d.e/", "[::1]:5000", "a/b-c_d.e"),
        ] {
            let mirror: Mirror = text.parse().expect(text);
            assert_eq!((mirror.host.as_str(), mirror.path.as_str()), (host, path));
            assert_eq!(mirror.to_string(), text.trim_end_matches('/'));
        }
        for text in ["", "https://mirror.example", "a b", "host/../x", "host/a?b", "host//a"] {
            let error = text.parse::<Mirror>().expect_err(text);
            assert!(error.to_string().contains("host[:port][/path]"), "{error}");
        }
    }

    #[test]
    fn schemes_follow_the_settings() {
        let table = [
            ("example.com", None, false, Scheme::Https),
            ("example.com", None, true, Scheme::Https),
            ("example.com", Some(true), false, Scheme::Http),
            ("example.com", Some(true), true, Scheme::Either),
            ("example.com", Some(false), true, Scheme::Https),
            ("localhost:5000", None, false, Scheme::Http),
            ("localhost:5000", None, true, Scheme::Either),
            ("localhost:5000", Some(false), false, Scheme::Https),
        ];
        for (registry, http, insecure, expected) in table {
            let config = HostConfig { http, insecure, ..HostConfig::default() };
            assert_eq!(config.scheme(registry), expected, "{registry} {http:?} {insecure}");
        }
        let trusted = HostConfig { ca: vec![Vec::new()], ..HostConfig::default() };
        assert_eq!(trusted.scheme("localhost:5000"), Scheme::Https);
    }
}
