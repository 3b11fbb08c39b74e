//! A registry that misbehaves: an HTTP proxy before a real one that refuses, breaks off or
//! changes what is asked for, as often as it is told, and is honest otherwise.
//!
//! Every answer closes its connection, so that one request is one decision.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::Result;
use rustix::net::sockopt::set_socket_linger;

use crate::registry::Registry;

/// How an answer is spoilt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request is answered with this HTTP status and no more.
    Status(u16),
    /// The connection is reset after this many bytes of the body.
    Reset(u64),
    /// The connection is closed in good order after this many bytes of the body.
    Truncate(u64),
    /// The first byte of the body is another one.
    WrongBytes,
}

#[derive(Default)]
struct Plan {
    rules: Vec<Rule>,
    requests: Vec<String>,
}

struct Rule {
    path: String,
    fault: Fault,
    remaining: usize,
}

/// The proxy. It ends with the process: its threads wait for connections that no longer come.
pub struct FaultyRegistry {
    address: SocketAddr,
    plan: Arc<Mutex<Plan>>,
}

impl FaultyRegistry {
    /// Starts a proxy before a registry, honest until told otherwise.
    ///
    /// # Errors
    /// No port is free.
    pub fn start(upstream: &Registry) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let plan = Arc::new(Mutex::new(Plan::default()));
        let (shared, upstream) = (Arc::clone(&plan), upstream.address());
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let plan = Arc::clone(&shared);
                // A client that went away is not this proxy's failure.
                thread::spawn(move || drop(serve(connection, upstream, &plan)));
            }
        });
        Ok(Self { address, plan })
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Spoils the next `times` answers to GET requests whose path contains `path`.
    pub fn spoil(&self, path: &str, fault: Fault, times: usize) {
        self.plan().rules.push(Rule { path: path.to_owned(), fault, remaining: times });
    }

    /// Is honest again.
    pub fn heal(&self) {
        self.plan().rules.clear();
    }

    /// The requests so far, as `METHOD PATH`.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.plan().requests.clone()
    }

    fn plan(&self) -> std::sync::MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Plan {
    fn decide(&mut self, request_line: &str) -> Option<Fault> {
        let mut words = request_line.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        self.requests.push(format!("{method} {path}"));
        let mut rules = self.rules.iter_mut();
        let rule = rules.find(|r| method == "GET" && r.remaining > 0 && path.contains(&r.path))?;
        rule.remaining -= 1;
        Some(rule.fault)
    }
}

fn serve(mut client: TcpStream, upstream: SocketAddr, plan: &Mutex<Plan>) -> io::Result<()> {
    let Some(head) = read_head(&mut client)? else { return Ok(()) };
    let line = head.lines().next().unwrap_or_default();
    let fault = plan.lock().unwrap_or_else(PoisonError::into_inner).decide(line);
    if let Some(Fault::Status(status)) = fault {
        let body = r#"{"errors":[{"code":"DENIED","message":"refused by the test"}]}"#;
        return write!(
            client,
            "HTTP/1.1 {status} Refused\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
    }
    let mut server = TcpStream::connect(upstream)?;
    server.write_all(closing(&head).as_bytes())?;
    if !line.starts_with("GET ") && !line.starts_with("HEAD ") {
        // Ends when the client closes or this connection is shut down below. Requests without a
        // body get no such thread: its copy of the socket would turn a reset into nothing.
        let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
        thread::spawn(move || io::copy(&mut from, &mut to));
    }
    let answer = read_head(&mut server)?.unwrap_or_default();
    client.write_all(closing(&answer).as_bytes())?;
    match fault {
        None | Some(Fault::Status(_)) => {
            io::copy(&mut server, &mut client)?;
        }
        Some(Fault::Truncate(bytes)) => {
            io::copy(&mut server.take(bytes), &mut client)?;
        }
        Some(Fault::Reset(bytes)) => {
            io::copy(&mut server.take(bytes), &mut client)?;
            // Closing a socket that must not linger sends a reset instead of an end.
            set_socket_linger(&client, Some(std::time::Duration::ZERO))?;
            return Ok(());
        }
        Some(Fault::WrongBytes) => {
            let mut first = [0];
            if server.read(&mut first)? == 1 {
                client.write_all(&[first[0] ^ 1])?;
            }
            io::copy(&mut server, &mut client)?;
        }
    }
    client.shutdown(Shutdown::Both)
}

/// Reads up to the empty line that ends a message head; nothing when there is none.
fn read_head(stream: &mut TcpStream) -> io::Result<Option<String>> {
    let mut head = Vec::new();
    let mut byte = [0];
    // Byte by byte, so that nothing of the body is taken.
    while !head.ends_with(b"\r\n\r\n") {
        // A client that tries TLS first waits for an answer: what is no HTTP gets none.
        if stream.read(&mut byte)? == 0 || (head.is_empty() && !byte[0].is_ascii_uppercase()) {
            return Ok(None);
        }
        head.push(byte[0]);
    }
    Ok(Some(String::from_utf8_lossy(&head).into_owned()))
}

/// The same head, but for this one exchange only.
fn closing(head: &str) -> String {
    let kept = head.trim_end().lines();
    let mut out: String = kept
        .filter(|line| !line.to_ascii_lowercase().starts_with("connection:"))
        .map(|line| format!("{line}\r\n"))
        .collect();
    out.push_str("Connection: close\r\n\r\n");
    out
}
