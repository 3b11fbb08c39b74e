//! What can go wrong between us and a registry, with the registry and object it happened to.
//!
//! Messages never hold URLs: upload locations and redirects carry signatures and tokens in
//! their query. How an error ends a build is for the caller to decide, from [`Error::kind`].

use std::error::Error as StdError;
use std::fmt::Write as _;
use std::time::Duration;

use cofferdam_types::{Digest, Platform};

/// The longest text from a registry that is repeated in a message.
const MAX_MESSAGE: usize = 300;

/// A failed operation on one object of one registry.
#[derive(Debug, thiserror::Error)]
#[error("registry {registry}: {object}: {problem}{}{}", tried(*attempts), passed_over(mirrors))]
pub struct Error {
    /// The registry's host and port.
    pub registry: String,
    /// What the operation was about: `manifest library/busybox:latest`,
    /// `blob library/busybox@sha256:…`.
    pub object: String,
    /// What went wrong with it the last time; it is part of the message.
    pub problem: Box<Problem>,
    /// How often it was tried.
    pub attempts: u32,
    /// The mirrors that were asked before, and what was wrong with each.
    pub mirrors: Vec<String>,
}

/// What went wrong, without saying with which object.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// No answer came: name resolution, connection, TLS, or a connection that broke.
    #[error("connection failed: {0}")]
    Connection(String),
    /// There is no TLS to be had with the certificates of this machine or of the configuration.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
    /// It shows a certificate that nobody vouches for whom we trust.
    #[error("its certificate is not trusted: {0}")]
    Certificate(String),
    /// The connection stands, but nothing comes or goes.
    #[error("nothing moved for {} seconds", .0.as_secs_f32())]
    Stalled(Duration),
    /// The registry answered with an error status.
    #[error("the registry answered {code}{}{}", suffix(message), wish(*retry_after))]
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
    /// The server that gives tokens for the registry did not.
    #[error("its token server: {0}")]
    Token(Box<Problem>),
    /// The registry no longer knows an upload that it had begun.
    #[error("the registry lost the upload")]
    UploadLost,
    /// What came to the registry is not what was sent.
    #[error("the registry received other bytes than were sent")]
    Garbled,
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
        let (registry, object) = (registry.into(), object.to_string());
        Self { registry, object, problem: Box::new(problem), attempts: 1, mirrors: Vec::new() }
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
            Self::Connection(_)
            | Self::Certificate(_)
            | Self::Stalled(_)
            | Self::Short { .. }
            | Self::UploadLost => ErrorKind::Network,
            Self::Token(problem) => problem.kind(),
            Self::Status { .. } if self.is_transient() => ErrorKind::Network,
            Self::Status { .. } => ErrorKind::Rejected,
            Self::NotFound => ErrorKind::NotFound,
            Self::NoPlatform { .. } => ErrorKind::NoPlatform,
            Self::Unauthorized(_) => ErrorKind::Unauthorized,
            Self::WrongDigest { .. }
            | Self::Long { .. }
            | Self::Garbled
            | Self::TooLarge { .. }
            | Self::Invalid(_) => ErrorKind::WrongContents,
            Self::Source(_) | Self::Credentials(_) | Self::Tls(_) => ErrorKind::Local,
        }
    }

    /// Whether the same request may succeed if it is made again soon.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Connection(_) | Self::Stalled(_) | Self::Short { .. } | Self::UploadLost => true,
            Self::Token(problem) => problem.is_transient(),
            // 501 and 505 are about the request itself.
            Self::Status { code, .. } => {
                matches!(code, 408 | 425 | 429) || (*code >= 500 && !matches!(code, 501 | 505))
            }
            _ => false,
        }
    }

    /// Whether there were bytes, but not the right ones.
    pub(crate) fn is_wrong_bytes(&self) -> bool {
        matches!(self, Self::WrongDigest { .. } | Self::Long { .. } | Self::Garbled)
    }

    /// How long the other side asks us to wait.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            Self::Token(problem) => problem.retry_after(),
            _ => None,
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
        // The HTTP client's own sentence only says that something failed, and has the URL in it;
        // the next one names a part of the client.
        let cause = error.source().map(|cause| match cause.source() {
            Some(inner) if cause.to_string().starts_with("client error") => chain(inner),
            _ => chain(cause),
        });
        let text = cause.unwrap_or_else(|| chain(&error.without_url()));
        match text.split_once("invalid peer certificate: ") {
            Some((_, reason)) => Self::Certificate(reason.into()),
            None => Self::Connection(text),
        }
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

fn wish(retry_after: Option<Duration>) -> String {
    let wish = |wait: Duration| format!(" (asks to wait {} seconds)", wait.as_secs());
    retry_after.filter(|wait| !wait.is_zero()).map(wish).unwrap_or_default()
}

fn tried(attempts: u32) -> String {
    if attempts > 1 { format!(" (tried {attempts} times)") } else { String::new() }
}

fn passed_over(mirrors: &[String]) -> String {
    mirrors.iter().map(|mirror| format!("; mirror {mirror}")).collect()
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
