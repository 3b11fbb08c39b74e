//! A small web server for the suites, which answers as a test tells it to, notes what
//! it was asked, and can serve git repositories by `git http-backend`.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, Result};

/// What was asked.
#[derive(Clone, Debug, Default)]
pub struct WebRequest {
    /// `GET`, …
    pub method: String,
    /// The path, with a slash in front.
    pub path: String,
    /// What follows the question mark.
    pub query: String,
    /// Headers by lower-case name.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct WebAnswer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl WebAnswer {
    /// An answer without a body.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    /// A good answer with this body.
    #[must_use]
    pub fn body(body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..Self::status(200) }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

type Handler = dyn Fn(&WebRequest) -> WebAnswer + Send + Sync;

/// A server; it ends with the program.
pub struct Web {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<WebRequest>>>,
}

impl Web {
    /// Starts a server on loopback.
    ///
    /// # Errors
    /// There is no port.
    pub fn start(
        answer: impl Fn(&WebRequest) -> WebAnswer + Send + Sync + 'static,
    ) -> Result<Self> {
        Self::start_on(Ipv4Addr::LOCALHOST, answer)
    }

    /// Starts a server on an address of this machine.
    ///
    /// # Errors
    /// There is no port.
    pub fn start_on(
        address: Ipv4Addr,
        answer: impl Fn(&WebRequest) -> WebAnswer + Send + Sync + 'static,
    ) -> Result<Self> {
        let listener = TcpListener::bind((address, 0))?;
        let address = listener.local_addr()?;
        let asked: Arc<Mutex<Vec<WebRequest>>> = Arc::default();
        let (answer, notes): (Arc<Handler>, _) = (Arc::new(answer), asked.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, notes) = (answer.clone(), notes.clone());
                // A client that goes away is no concern of the test.
                thread::spawn(move || serve(stream, &*answer, &notes));
            }
        });
        Ok(Self { address, asked })
    }

    /// Serves the repositories in a directory under `/git/`; other paths are not found.
    ///
    /// # Errors
    /// There is no port.
    pub fn git(directory: &Path) -> Result<Self> {
        let directory = directory.to_owned();
        Self::start(move |request| backend(&directory, request).unwrap_or(WebAnswer::status(500)))
    }

    /// A URL of this server.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Host and port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What was asked since the last time.
    #[must_use]
    pub fn asked(&self) -> Vec<WebRequest> {
        std::mem::take(&mut *self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn serve(stream: TcpStream, answer: &Handler, notes: &Mutex<Vec<WebRequest>>) -> Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut request = WebRequest::default();
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    request.method = words.next().unwrap_or_default().to_owned();
    let target = words.next().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    (request.path, request.query) = (path.to_owned(), query.to_owned());
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        request.headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    if request.headers.get("transfer-encoding").is_some_and(|value| value == "chunked") {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size)?;
            let size = u64::from_str_radix(size.trim(), 16)?;
            reader.by_ref().take(size).read_to_end(&mut request.body)?;
            reader.read_line(&mut String::new())?;
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = request.headers.get("content-length") {
        reader.by_ref().take(length.parse()?).read_to_end(&mut request.body)?;
    }
    notes.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
    let WebAnswer { status, headers, body } = answer(&request);
    let mut text = format!("HTTP/1.1 {status} Status\r\nConnection: close\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    text += &format!("Content-Length: {}\r\n\r\n", body.len());
    let mut stream = stream;
    stream.write_all(text.as_bytes())?;
    if request.method != "HEAD" {
        stream.write_all(&body)?;
    }
    Ok(())
}

/// Has git answer (git-http-backend(1)).
fn backend(directory: &Path, request: &WebRequest) -> Result<WebAnswer> {
    let Some(path) = request.path.strip_prefix("/git") else { return Ok(WebAnswer::status(404)) };
    let mut command = Command::new("git");
    command.arg("http-backend").env_clear();
    command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    command.env("GIT_PROJECT_ROOT", directory).env("GIT_HTTP_EXPORT_ALL", "1");
    command.env("PATH_INFO", path).env("QUERY_STRING", &request.query);
    command.env("REQUEST_METHOD", &request.method).env("REMOTE_ADDR", "127.0.0.1");
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_COUNT", "1");
    command.env("GIT_CONFIG_KEY_0", "safe.directory").env("GIT_CONFIG_VALUE_0", "*");
    for (header, variable) in [
        ("content-type", "CONTENT_TYPE"),
        ("content-encoding", "HTTP_CONTENT_ENCODING"),
        ("git-protocol", "GIT_PROTOCOL"),
    ] {
        command.envs(request.headers.get(header).map(|value| (variable, value)));
    }
    command.env("CONTENT_LENGTH", request.body.len().to_string());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take().context("it is piped")?;
    let body = request.body.clone();
    let writer = thread::spawn(move || stdin.write_all(&body));
    let output = child.wait_with_output()?.stdout;
    let _ = writer.join();
    let end = output.windows(4).position(|window| window == b"\r\n\r\n").context("no headers")?;
    let mut answer = WebAnswer::body(&output[end + 4..]);
    for line in String::from_utf8_lossy(&output[..end]).lines() {
        match line.split_once(':') {
            Some(("Status", value)) => answer.status = value.trim()[..3].parse()?,
            Some((name, value)) => answer = answer.header(name, value.trim()),
            None => {}
        }
    }
    Ok(answer)
}
