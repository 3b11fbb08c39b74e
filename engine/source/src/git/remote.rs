//! Where a repository is: read strictly, so that nothing of a URL becomes an option of git or of
//! ssh, names a file of this machine, or shows a password.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;

use crate::{Error, Result};

/// A repository that git can be sent to.
#[derive(Clone, PartialEq, Eq)]
pub struct Remote {
    /// As git gets it; without credentials.
    url: String,
    host: String,
    protocol: Protocol,
    /// The `Authorization` header that the credentials in the URL stand for.
    authorization: Option<String>,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Remote").field(&self.url).finish()
    }
}

/// How git reaches a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http,
    Ssh,
    Git,
}

/// The protocols that git may use, also when a server sends it elsewhere.
pub(super) const ALLOWED: &str = "https:http:ssh:git";

impl Remote {
    /// Reads a URL with https, http, ssh or git, or `user@host:path`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |reason: &str| Error::Remote { url: shown(text), reason: reason.to_owned() };
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(wrong("it has spaces or control characters"));
        }
        let (protocol, scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => {
                let scheme = scheme.to_ascii_lowercase();
                let protocol = match scheme.as_str() {
                    "http" | "https" => Protocol::Http,
                    "ssh" => Protocol::Ssh,
                    "git" => Protocol::Git,
                    other => {
                        return Err(wrong(&format!(
                            "the protocol `{other}` is not allowed: expected https, http, ssh or git"
                        )));
                    }
                };
                (protocol, scheme, rest)
            }
            None => {
                return Self::scp(text).ok_or_else(|| {
                    wrong("expected a URL with https, http, ssh or git, or `user@host:path`")
                });
            }
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, place) = match authority.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, authority),
        };
        let (host, port) = split_port(place);
        if !is_host(host) || port.is_some_and(|port| port.parse::<u16>().is_err()) {
            return Err(wrong("it names no host"));
        }
        if path.is_empty() || path.starts_with('-') {
            return Err(wrong("it names no repository of the host"));
        }
        let mut authorization = None;
        let mut url = format!("{scheme}://{place}/{path}");
        match (protocol, user) {
            (_, None | Some("")) => {}
            (Protocol::Http, Some(user)) => {
                let decoded: Vec<u8> = percent_decode_str(user).collect();
                let pair =
                    if decoded.contains(&b':') { decoded } else { [&decoded[..], b":"].concat() };
                authorization = Some(format!("Basic {}", STANDARD.encode(pair)));
            }
            (Protocol::Ssh, Some(user)) => {
                // A password is of no use to ssh, which takes none from a URL.
                let user = user.split(':').next().unwrap_or_default();
                if !is_user(user) {
                    return Err(wrong("the name of its user is none"));
                }
                url = format!("{scheme}://{user}@{place}/{path}");
            }
            (Protocol::Git, Some(_)) => return Err(wrong("the protocol `git` knows no users")),
        }
        Ok(Self { url, host: host.to_owned(), protocol, authorization })
    }

    fn scp(text: &str) -> Option<Self> {
        let (user, rest) = text.split_once('@')?;
        let (host, path) = rest.split_once(':')?;
        let valid = is_user(user) && is_host(host) && !path.is_empty() && !path.starts_with('-');
        valid.then(|| Self {
            url: text.to_owned(),
            host: host.to_owned(),
            protocol: Protocol::Ssh,
            authorization: None,
        })
    }

    /// A repository that is named relative to this one, as in `.gitmodules`.
    pub(super) fn join(&self, text: &str) -> Result<Self> {
        if !text.starts_with("./") && !text.starts_with("../") {
            return Self::parse(text);
        }
        let wrong =
            || Error::Remote { url: shown(text), reason: "it leads out of its host".to_owned() };
        let (start, path) = match self.url.split_once("://") {
            Some((scheme, rest)) => {
                let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
                (format!("{scheme}://{authority}/"), path)
            }
            None => {
                let (place, path) = self.url.split_once(':').ok_or_else(wrong)?;
                (format!("{place}:"), path)
            }
        };
        let mut names: Vec<&str> = path.trim_end_matches('/').split('/').collect();
        for name in text.split('/') {
            match name {
                "" | "." => {}
                ".." => drop(names.pop().ok_or_else(wrong)?),
                name => names.push(name),
            }
        }
        let joined = Self::parse(&format!("{start}{}", names.join("/")))?;
        Ok(Self { authorization: self.authorization.clone(), ..joined })
    }

    /// The URL without credentials.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The host's name, without a port.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The `Authorization` header that the URL itself asked for.
    pub(super) fn authorization(&self) -> Option<&str> {
        self.authorization.as_deref()
    }

    /// Scheme, host and port: what git's settings for HTTP are bound to.
    pub(super) fn origin(&self) -> &str {
        let after = self.url.find("://").map_or(0, |at| at + 3);
        let end = self.url[after..].find('/').map_or(self.url.len(), |at| after + at);
        &self.url[..end]
    }
}

/// What was given, as it can be shown.
fn shown(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    let start = text.find("://").map_or(0, |at| at + 3);
    let end = text[start..].find('/').map_or(text.len(), |at| start + at);
    match text[start..end].rfind('@') {
        Some(at) if start > 0 => format!("{}{}", &text[..start], &text[start + at + 1..]),
        _ => text,
    }
}

/// Cuts off a port; an address in brackets may have colons.
fn split_port(place: &str) -> (&str, Option<&str>) {
    match place.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (place, None),
    }
}

fn is_host(host: &str) -> bool {
    let inside = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    if let Some(address) = inside {
        return address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    !host.is_empty() && !host.starts_with('-') && host.chars().all(allowed)
}

fn is_user(user: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._+".contains(c);
    !user.is_empty() && !user.starts_with('-') && user.chars().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> String {
        match Remote::parse(text) {
            Ok(remote) => format!("{} @{}", remote.url, remote.host),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn what_is_a_repository() {
        for (text, expected) in [
            ("https://h.example/a/b.git", "https://h.example/a/b.git @h.example"),
            ("HTTPS://h.example:8443/a", "https://h.example:8443/a @h.example"),
            ("https://u:s3cret@h.example/a", "https://h.example/a @h.example"),
            ("ssh://git@h.example:22/a", "ssh://git@h.example:22/a @h.example"),
            ("git@h.example:a/b.git", "git@h.example:a/b.git @h.example"),
            ("git://[::1]:9/a", "git://[::1]:9/a @[::1]"),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
        for text in [
            "file:///etc",
            "ext::sh -c touch%20/tmp/x",
            "ext::sh",
            "/srv/repository",
            "../x",
            "-upload-pack=x",
            "--upload-pack=touch x",
            "https://",
            "https://h",
            "https://-oProxyCommand=x/a",
            "ssh://-oProxyCommand=x/a",
            "ssh://-oProxyCommand=x@h/a",
            "git@-oProxyCommand=x:a",
            "git@h:-x",
            "https://h/-upload-pack",
            "https://h:99999/a",
            "git://u@h/a",
            "https://h/a\nb",
            "https://h/a b",
            "https://h%2f/a",
            "fd::17",
        ] {
            assert!(read(text).starts_with("git repository `"), "{text}: {}", read(text));
        }
        let error = read("ftp://me:s3cret@h/a");
        assert_eq!(
            error,
            "git repository `ftp://h/a`: the protocol `ftp` is not allowed: expected https, http, \
             ssh or git"
        );
    }

    #[test]
    fn credentials_become_a_header() {
        let remote = Remote::parse("https://me:a%40b@h:1/x.git").expect("a repository");
        // me:a@b
        assert_eq!(remote.authorization(), Some("Basic bWU6YUBi"));
        assert_eq!(remote.origin(), "https://h:1");
        assert!(!format!("{remote:?}").contains("a%40b"));
    }

    #[test]
    fn relative_ones() {
        let join = |from: &str, text: &str| {
            let from = Remote::parse(from).expect("a repository");
            from.join(text).map_or_else(|error| error.to_string(), |remote| remote.url)
        };
        assert_eq!(join("https://h/a/b.git", "../c.git"), "https://h/a/c.git");
        assert_eq!(join("https://h/a/b.git/", "./c.git"), "https://h/a/b.git/c.git");
        assert_eq!(join("git@h:a/b.git", "../../c"), "git@h:c");
        assert_eq!(join("https://h/a", "https://g/x"), "https://g/x");
        assert!(join("https://h/a", "../../../x").contains("leads out"));
        assert!(join("https://h/a", "file:///x").contains("not allowed"));
        assert!(join("https://h/a", "../").contains("names no repository"));
    }
}
