//! What can go wrong between us and a registry, with the registry and object it happened to.
//!
//! Messages never hold URLs: upload locations and redirects carry signatures and tokens in
//! their query. How an error ends a build is for the caller to decide, from [`Error::kind`].

use std::error::Error as StdError;
use std::fmt::Write as _;
use std::time::Duration;

use cofferdam_types::{Digest, Platform};
use oci_client::errors::OciDistributionError;

/// The longest text from a registry that is repeated in a message.
const MAX_MESSAGE: usize = 300;

/// A failed operation on one object of one registry.
#[derive(Debug, thiserror::Error)]
#[error("registry {registry}: {object}: {problem}")]
pub struct Error {
    /// The registry's host and port.
    pub registry: String,
    /// What the operation was about: `manifest library/busybox:latest`, `blob sha256:…`.
    pub object: String,
    /// What went wrong with it; it is part of the message.
    pub problem: Problem,
}

/// What went wrong, without saying with which object.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// No answer came: name resolution, connection, TLS, or a connection that broke.
    #[error("connection failed: {0}")]
    Connection(String),
    /// The registry answered with an error status.
    #[error("the registry answered {code}{}{message}", if message.is_empty() { "" } else { ": " })]
    Status {
        /// The HTTP status.
        code: u16,
        /// What the registry said, shortened.
        message: String,
        /// How long the registry asks us to wait.
        retry_after: Option<Duration>,
    },
    /// The registry does not have the object, or does not show it to this user.
    #[error("not found")]
    NotFound,
    /// The registry wants other credentials.
    #[error("access denied: {0}")]
    Unauthorized(String),
    /// The bytes are not the ones that the digest names.
    #[error("the contents have digest {actual}, expected {expected}")]
    WrongDigest {
        /// The digest that was asked for.
        expected: Digest,
        /// The digest of what came.
        actual: Digest,
    },
    /// Fewer bytes came than the descriptor says.
    #[error("expected {expected} bytes, connection ended after {received}{}", suffix(cause))]
    Short {
        /// The size in the descriptor.
        expected: u64,
        /// The bytes that came.
        received: u64,
        /// How the connection ended, if it was not in order.
        cause: String,
    },
    /// More bytes came than the descriptor says.
    #[error("expected {expected} bytes, more were sent")]
    Long {
        /// The size in the descriptor.
        expected: u64,
    },
    /// A manifest or config is larger than anyone should have to hold in memory.
    #[error("larger than the limit of {limit} bytes")]
    TooLarge {
        /// The most bytes that are accepted.
        limit: u64,
    },
    /// The answer does not follow the OCI specifications.
    #[error("invalid: {0}")]
    Invalid(String),
    /// An index has nothing for the wanted platform.
    #[error("no image for platform {wanted}, there is one for: {}", list(available))]
    NoPlatform {
        /// The platform asked for.
        wanted: Box<Platform>,
        /// The platforms of the index.
        available: Vec<Platform>,
    },
    /// The local contents of a blob to push could not be read.
    #[error("cannot read the contents to push: {0}")]
    Source(std::io::Error),
    /// The credentials could not be had.
    #[error("credentials: {0}")]
    Credentials(String),
}

/// Groups of problems that a user reacts to in the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Trying again later may help.
    Network,
    /// There is no such image, tag or blob.
    NotFound,
    /// There is such an image, but not for this platform.
    NoPlatform,
    /// Logging in may help.
    Unauthorized,
    /// The registry sent bytes that are not the ones asked for, or make no sense.
    WrongContents,
    /// The registry refused the request.
    Rejected,
    /// Something on this machine: a credential helper, a file to push.
    Local,
}

impl Error {
    pub(crate) fn new(registry: &str, object: impl ToString, problem: Problem) -> Self {
        Self { registry: registry.into(), object: object.to_string(), problem }
    }

    /// The group that the problem belongs to.
    pub fn kind(&self) -> ErrorKind {
        self.problem.kind()
    }
}

impl Problem {
    /// The group that the problem belongs to.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Connection(_) | Self::Short { .. } => ErrorKind::Network,
            Self::Status { .. } if self.is_transient() => ErrorKind::Network,
            Self::Status { .. } => ErrorKind::Rejected,
            Self::NotFound => ErrorKind::NotFound,
            Self::NoPlatform { .. } => ErrorKind::NoPlatform,
            Self::Unauthorized(_) => ErrorKind::Unauthorized,
            Self::WrongDigest { .. }
            | Self::Long { .. }
            | Self::TooLarge { .. }
            | Self::Invalid(_) => ErrorKind::WrongContents,
            Self::Source(_) | Self::Credentials(_) => ErrorKind::Local,
        }
    }

    /// Whether the same request may succeed if it is made again soon.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Connection(_) | Self::Short { .. } => true,
            // 501 and 505 are about the request itself.
            Self::Status { code, .. } => {
                matches!(code, 408 | 425 | 429) || (*code >= 500 && !matches!(code, 501 | 505))
            }
            _ => false,
        }
    }

    /// Reads an answer with an error status.
    pub(crate) fn from_status(code: u16, body: &str, retry_after: Option<Duration>) -> Self {
        let message = registry_message(body);
        match code {
            404 => Self::NotFound,
            401 | 403 => Self::Unauthorized(if message.is_empty() {
                "the registry wants valid credentials".into()
            } else {
                message
            }),
            _ => Self::Status { code, message, retry_after },
        }
    }
}

impl From<reqwest::Error> for Problem {
    fn from(error: reqwest::Error) -> Self {
        Self::Connection(chain(&error.without_url()))
    }
}

impl From<OciDistributionError> for Problem {
    fn from(error: OciDistributionError) -> Self {
        use OciDistributionError as E;
        use oci_client::errors::OciErrorCode as Code;
        match error {
            E::RequestError(error) => match error.status() {
                Some(status) => Self::from_status(status.as_u16(), "", None),
                None => error.into(),
            },
            E::ServerError { code, message, .. } => Self::from_status(code, &message, None),
            E::UnauthorizedError { .. } => Self::from_status(401, "", None),
            E::AuthenticationFailure(message) => Self::from_status(401, &message, None),
            E::RegistryError { envelope, .. } => {
                let message =
                    join(envelope.errors.iter().map(|e| (code_name(&e.code), &*e.message)));
                match envelope.errors.first().map(|e| &e.code) {
                    Some(Code::BlobUnknown | Code::ManifestUnknown | Code::NameUnknown) => {
                        Self::NotFound
                    }
                    Some(Code::Unauthorized | Code::Denied) => Self::Unauthorized(message),
                    Some(Code::Toomanyrequests) => {
                        Self::Status { code: 429, message, retry_after: None }
                    }
                    _ => Self::Status { code: 400, message, retry_after: None },
                }
            }
            E::IoError(error) => Self::Connection(chain(&error)),
            E::SpecViolationError(message) => Self::Invalid(shorten(&message)),
            other => Self::Invalid(shorten(&other.to_string())),
        }
    }
}

fn code_name(code: &oci_client::errors::OciErrorCode) -> String {
    // The name in the specification is the serialised form.
    match serde_json::to_value(code) {
        Ok(serde_json::Value::String(name)) => name,
        _ => "error".into(),
    }
}

/// The message of an error and its causes, without repeating what was said.
pub(crate) fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            // Writing to a string cannot fail.
            let _ = write!(text, ": {cause_text}");
        }
        next = cause.source();
    }
    shorten(&text)
}

/// The human part of a registry's error answer: the messages of the JSON envelope of the
/// distribution specification, or a line of text.
fn registry_message(body: &str) -> String {
    #[derive(serde::Deserialize)]
    struct Envelope {
        errors: Vec<Item>,
    }
    #[derive(serde::Deserialize)]
    struct Item {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    match serde_json::from_str::<Envelope>(body) {
        Ok(envelope) => join(envelope.errors.iter().map(|e| (e.code.clone(), &*e.message))),
        Err(_) if body.trim_start().starts_with('<') => String::new(),
        Err(_) => shorten(body.lines().next().unwrap_or_default()),
    }
}

fn join<'a>(errors: impl Iterator<Item = (String, &'a str)>) -> String {
    let errors: Vec<String> = errors
        .map(|(code, message)| match message {
            "" => code,
            message => format!("{message} ({code})"),
        })
        .collect();
    shorten(&errors.join("; "))
}

/// Cuts a text from outside and takes control characters out, so that it cannot play tricks
/// on a terminal.
pub(crate) fn shorten(text: &str) -> String {
    text.trim().chars().filter(|c| !c.is_control()).take(MAX_MESSAGE).collect()
}

fn suffix(cause: &str) -> String {
    if cause.is_empty() { String::new() } else { format!(": {cause}") }
}

fn list(platforms: &[Platform]) -> String {
    let platforms: Vec<String> = platforms.iter().map(Platform::to_string).collect();
    if platforms.is_empty() { "no platform".into() } else { shorten(&platforms.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_have_kinds() {
        let table = [
            (404, ErrorKind::NotFound),
            (401, ErrorKind::Unauthorized),
            (403, ErrorKind::Unauthorized),
            (400, ErrorKind::Rejected),
            (501, ErrorKind::Rejected),
            (429, ErrorKind::Network),
            (500, ErrorKind::Network),
            (503, ErrorKind::Network),
        ];
        for (code, kind) in table {
            assert_eq!(Problem::from_status(code, "", None).kind(), kind, "{code}");
        }
    }

    #[test]
    fn answers_become_messages() {
        let table = [
            (r#"{"errors":[{"code":"DENIED","message":"no"}]}"#, "no (DENIED)"),
            (r#"{"errors":[{"code":"A"},{"message":"b","code":"B"}]}"#, "A; b (B)"),
            ("<html>", ""),
            ("plain\nsecond", "plain"),
            ("\u{1b}[31mred", "[31mred"),
            ("", ""),
        ];
        for (body, expected) in table {
            assert_eq!(registry_message(body), expected, "{body}");
        }
    }
}
