//! Downloads from servers that are no registries, over the same transport: its connections,
//! certificates, proxies, redirects and patience, and the same attempts.
//!
//! What is kept of a download, and when one is needed, is for the caller to decide.

use std::fmt;

use bytes::Bytes;
use reqwest::header::{
    AUTHORIZATION, CONTENT_DISPOSITION, ETAG, HeaderMap, HeaderName, HeaderValue,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED,
};
use reqwest::{Method, Response, StatusCode, Url};

use crate::client::Client;
use crate::error::Problem;
use crate::retry::Attempts;
use crate::transport::{Call, Transport, error_of, next_chunk};

/// What is asked for.
#[derive(Clone, Default)]
pub struct WebRequest {
    /// Where it is; `http` or `https`.
    pub url: String,
    /// The `Authorization` header. It goes to the URL's own host and to no other.
    pub authorization: Option<String>,
    /// Further headers.
    pub headers: Vec<(String, String)>,
    /// The `ETag` of what is there already.
    pub etag: Option<String>,
    /// The `Last-Modified` of what is there already.
    pub last_modified: Option<String>,
}

impl fmt::Debug for WebRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = without_secrets(&self.url);
        f.debug_struct("WebRequest").field("url", &url).finish_non_exhaustive()
    }
}

/// What a server says about what it sends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WebHead {
    /// Its version.
    pub etag: Option<String>,
    /// When it was changed, as the header has it.
    pub last_modified: Option<String>,
    /// The `Content-Disposition` header.
    pub disposition: Option<String>,
    /// How many bytes it has, where that is said.
    pub length: Option<u64>,
}

/// How a download ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WebAnswer {
    /// What is there already is what would come.
    Unchanged,
    /// It came as a whole.
    Complete(WebHead),
}

/// Takes the bytes.
pub trait WebSink: Send {
    /// Why it cannot.
    type Error: Send;

    /// The first byte comes next; what came before is of an attempt that failed.
    ///
    /// # Errors
    /// Ends the download.
    fn begin(&mut self, head: &WebHead) -> Result<(), Self::Error>;

    /// More bytes.
    ///
    /// # Errors
    /// Ends the download.
    fn write(&mut self, bytes: &[u8]) -> Result<(), Self::Error>;
}

/// A download that failed.
#[derive(Debug)]
pub enum WebError<E> {
    /// On the way.
    Web(Box<WebFailure>),
    /// Where the bytes go.
    Sink(E),
}

/// What went wrong on the way, and with which URL.
#[derive(Debug)]
pub struct WebFailure {
    /// The URL, without credentials.
    pub url: String,
    /// What went wrong the last time.
    pub problem: Problem,
}

impl fmt::Display for WebFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url, problem } = self;
        match problem {
            Problem::Status { code, .. } => write!(f, "`{url}`: the server answered {code}"),
            Problem::Unauthorized(_) => write!(f, "`{url}`: access denied"),
            other => write!(f, "`{url}`: {other}"),
        }
    }
}

impl std::error::Error for WebFailure {}

impl<E> From<Problem> for Fault<E> {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

/// What an attempt ended with.
enum Fault<E> {
    Problem(Problem),
    Sink(E),
}

/// A URL as it can be shown: without user, password and query, which may hold secrets.
pub fn without_secrets(url: &str) -> String {
    let Ok(mut parsed) = Url::parse(url) else { return "the URL".into() };
    // Only URLs that cannot have them refuse.
    _ = parsed.set_username("");
    _ = parsed.set_password(None);
    parsed.set_query(None);
    parsed.set_fragment(None);
    parsed.into()
}

impl Client {
    /// Downloads something, unless what is there already is the same.
    ///
    /// # Errors
    /// What went wrong the last time that it was tried, or what the sink says.
    pub async fn download<S: WebSink>(
        &self,
        request: &WebRequest,
        sink: &mut S,
    ) -> Result<WebAnswer, WebError<S::Error>> {
        let config = self.config();
        let mut attempts = Attempts::new(config.retry);
        loop {
            let problem = match self.attempt(request, sink).await {
                Ok(answer) => return Ok(answer),
                Err(Fault::Sink(error)) => return Err(WebError::Sink(error)),
                Err(Fault::Problem(problem)) => problem,
            };
            if !attempts.again(&problem).await {
                let url = without_secrets(&request.url);
                return Err(WebError::Web(Box::new(WebFailure { url, problem })));
            }
        }
    }

    async fn attempt<S: WebSink>(
        &self,
        request: &WebRequest,
        sink: &mut S,
    ) -> Result<WebAnswer, Fault<S::Error>> {
        let patience = self.config().stall_timeout;
        let call = call(request)?;
        let host = call.url.host_str().unwrap_or_default();
        let name = match call.url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let settings = self.config().hosts.get(&name).cloned().unwrap_or_default();
        let transport = Transport::new(self.pool(), settings);
        let mut response = transport.send(call, patience).await?;
        let head = head(&response);
        let same = head.etag.is_some() && head.etag == request.etag;
        if response.status() == StatusCode::NOT_MODIFIED || same && response.status().is_success() {
            return Ok(WebAnswer::Unchanged);
        }
        if !response.status().is_success() {
            return Err(error_of(response, patience).await.into());
        }
        sink.begin(&head).map_err(Fault::Sink)?;
        while let Some(chunk) = next_chunk(&mut response, patience).await? {
            sink.write(&chunk).map_err(Fault::Sink)?;
        }
        Ok(WebAnswer::Complete(head))
    }
}

fn call(request: &WebRequest) -> Result<Call, Problem> {
    let invalid = |what: &str| Problem::Invalid(what.to_owned());
    let mut url = Url::parse(&request.url).map_err(|error| invalid(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(invalid("expected a URL with `http` or `https`"));
    }
    url.set_fragment(None);
    let mut headers = HeaderMap::new();
    let mut set = |name: HeaderName, value: &str| -> Result<(), Problem> {
        let mut value = HeaderValue::from_str(value)
            .map_err(|_| invalid(&format!("the header `{name}` has bytes that it cannot have")))?;
        value.set_sensitive(name == AUTHORIZATION);
        headers.insert(name, value);
        Ok(())
    };
    for (name, value) in &request.headers {
        let name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| invalid(&format!("`{name}` is no header")))?;
        set(name, value)?;
    }
    let more = [
        (AUTHORIZATION, &request.authorization),
        (IF_NONE_MATCH, &request.etag),
        (IF_MODIFIED_SINCE, &request.last_modified),
    ];
    for (name, value) in more {
        if let Some(value) = value {
            set(name, value)?;
        }
    }
    Ok(Call { method: Method::GET, url, headers, body: Bytes::new() })
}

fn head(response: &Response) -> WebHead {
    let header = |name| {
        let value = response.headers().get(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    WebHead {
        etag: header(ETAG),
        last_modified: header(LAST_MODIFIED),
        disposition: header(CONTENT_DISPOSITION),
        length: response.content_length(),
    }
}

/// Reads a date as HTTP has it, in seconds since 1970.
pub fn http_date(text: &str) -> Option<i64> {
    let time = httpdate::parse_http_date(text).ok()?;
    let since = time.duration_since(std::time::SystemTime::UNIX_EPOCH).ok()?;
    i64::try_from(since.as_secs()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_shown_without_secrets() {
        for (url, shown) in [
            ("https://u:p@h.example/a?token=x#f", "https://h.example/a"),
            ("http://127.0.0.1:8080/", "http://127.0.0.1:8080/"),
            ("no url: secret", "the URL"),
        ] {
            assert_eq!(without_secrets(url), shown);
        }
    }

    #[test]
    fn only_web_urls_are_asked() {
        for url in ["file:///etc/passwd", "ftp://h/x", "x"] {
            let request = WebRequest { url: url.into(), ..WebRequest::default() };
            assert!(matches!(call(&request), Err(Problem::Invalid(_))), "{url}");
        }
    }
}
