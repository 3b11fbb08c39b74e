//! Who we are to a registry: credentials, and the trait by which the caller supplies them.
//!
//! Where they come from is not known here: from a Docker configuration
//! ([`DockerConfig`](crate::DockerConfig)), from a client's session, or from nowhere.

use std::fmt;

use async_trait::async_trait;

/// A text that is not shown: its [`Debug`](fmt::Debug) form is fixed and it has no other.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

/// What a registry or its token server accepts as a proof of who we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// A user name and a password or access token.
    Basic {
        /// The user's name.
        username: String,
        /// The password or access token.
        password: Secret,
    },
    /// An OAuth2 refresh token, exchanged for a bearer token at the token server.
    IdentityToken(Secret),
    /// A bearer token, sent to the registry as it is.
    RegistryToken(Secret),
}

impl Credential {
    /// Reads the pair that credential helpers and BuildKit sessions hand over, in which an
    /// absent or special user name marks an identity token.
    pub fn from_pair(username: &str, secret: &str) -> Option<Self> {
        match (username, secret) {
            (_, "") => None,
            ("" | "<token>", token) => Some(Self::IdentityToken(Secret::new(token))),
            (username, password) => {
                Some(Self::Basic { username: username.into(), password: Secret::new(password) })
            }
        }
    }
}

/// Why credentials could not be had; the text must not hold a secret.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CredentialsError(pub String);

/// Supplies credentials for registries.
#[async_trait]
pub trait Credentials: Send + Sync {
    /// The credential for `registry` (`docker.io`, `127.0.0.1:5000`), or none if it is to be
    /// used anonymously.
    ///
    /// # Errors
    ///
    /// There may be a credential but it cannot be had, for instance because a credential
    /// helper fails. Going on anonymously would end in a misleading "access denied".
    async fn credential(&self, registry: &str) -> Result<Option<Credential>, CredentialsError>;
}

/// No credentials for anyone.
#[derive(Clone, Copy, Debug, Default)]
pub struct Anonymous;

#[async_trait]
impl Credentials for Anonymous {
    async fn credential(&self, _registry: &str) -> Result<Option<Credential>, CredentialsError> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        for credential in [
            Credential::from_pair("me", "hunter2"),
            Credential::from_pair("", "hunter2"),
            Some(Credential::RegistryToken(Secret::new("hunter2"))),
        ] {
            let text = format!("{credential:?}");
            assert!(text.contains("<redacted>") && !text.contains("hunter2"), "{text}");
        }
        assert_eq!(Credential::from_pair("me", ""), None);
    }
}
