//! A registry that misbehaves: an HTTP proxy before a real one that refuses, breaks off, stalls
//! or changes what is asked for, as it is told or at random, and is honest otherwise. It can also
//! ask for tokens, and take them back.
//!
//! Every answer closes its connection, so that one request is one decision.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use rustix::net::sockopt::set_socket_linger;

use crate::registry::Registry;

/// How long a stalled connection is held; clients in tests are less patient.
const STALL: Duration = Duration::from_secs(10);

/// How one exchange is spoilt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request is answered with this HTTP status and no more.
    Status(u16),
    /// The same, with this `Retry-After`.
    Later(u16, String),
    /// The tokens given out so far are good for nothing any more, beginning with this request's.
    Revoke,
    /// The request is passed on after this time.
    Delay(Duration),
    /// The request is passed on, and the connection reset in place of the answer.
    Unanswered,
    /// The request is passed on, and nothing comes in place of the answer.
    Silent,
    /// The connection is reset after this many bytes of the answer's body.
    Reset(u64),
    /// The connection is closed in good order after this many bytes of the answer's body.
    Truncate(u64),
    /// Nothing comes after this many bytes of the answer's body.
    Stall(u64),
    /// The byte at this offset of the answer's body is another one.
    WrongByte(u64),
    /// The request's `Range` is not passed on, so that the whole comes.
    NoRange,
    /// The connection is reset after this many bytes of the request's body.
    CutUpload(u64),
    /// Nothing more is taken after this many bytes of the request's body.
    StallUpload(u64),
    /// The byte at this offset of the request's body is another one.
    WrongUpload(u64),
}

#[derive(Default)]
struct Plan {
    rules: Vec<Rule>,
    chance: Option<Chance>,
    tokens: Option<Tokens>,
    requests: Vec<String>,
}

struct Rule {
    pattern: String,
    fault: Fault,
    remaining: usize,
}

/// Faults at random, always the same ones for the same seed and requests.
struct Chance {
    state: u64,
    percent: u64,
}

/// Which tokens are good: those that were given out since the last revocation.
struct Tokens {
    given: usize,
    good_from: usize,
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
                let exchange = Exchange { address, upstream, plan: Arc::clone(&shared) };
                // A client that went away is not this proxy's failure.
                thread::spawn(move || drop(exchange.serve(connection)));
            }
        });
        Ok(Self { address, plan })
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The image reference of a repository here.
    #[must_use]
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// Spoils the next `times` requests whose `METHOD PATH` contains every word of `pattern`:
    /// `GET /blobs/`, `PATCH`.
    pub fn spoil(&self, pattern: &str, fault: Fault, times: usize) {
        let pattern = pattern.to_owned();
        self.plan().rules.push(Rule { pattern, fault, remaining: times });
    }

    /// Spoils so many of a hundred requests, each in a way that `seed` decides.
    pub fn spoil_at_random(&self, seed: u64, percent: u64) {
        // Seeds that are close to each other are not to give the same beginnings.
        let state = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.plan().chance = Some(Chance { state, percent });
    }

    /// Asks for bearer tokens from now on, and gives them to anyone.
    pub fn ask_for_tokens(&self) {
        self.plan().tokens = Some(Tokens { given: 0, good_from: 1 });
    }

    /// Is honest again.
    pub fn heal(&self) {
        let mut plan = self.plan();
        plan.rules.clear();
        plan.chance = None;
    }

    /// How many of the faults that were asked for have not happened yet.
    #[must_use]
    pub fn left(&self) -> usize {
        self.plan().rules.iter().map(|rule| rule.remaining).sum()
    }

    /// The requests so far, as `METHOD PATH`.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.plan().requests.clone()
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Plan {
    fn decide(&mut self, request: &str) -> Option<Fault> {
        self.requests.push(request.to_owned());
        let fits = |rule: &&mut Rule| {
            rule.remaining > 0 && rule.pattern.split(' ').all(|word| request.contains(word))
        };
        if let Some(rule) = self.rules.iter_mut().find(fits) {
            rule.remaining -= 1;
            return Some(rule.fault.clone());
        }
        self.chance.as_mut()?.decide()
    }

    /// Whether the request may pass as far as tokens go.
    fn admits(&self, head: &str) -> bool {
        let Some(tokens) = &self.tokens else { return true };
        let shown = header(head, "authorization").and_then(|value| value.strip_prefix("Bearer t"));
        let shown: Option<usize> = shown.and_then(|number| number.parse().ok());
        shown.is_some_and(|number| number >= tokens.good_from)
    }
}

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state % limit
    }

    fn decide(&mut self) -> Option<Fault> {
        if self.below(100) >= self.percent {
            return None;
        }
        // Early, so that small answers are hit as well, or late.
        let size = [40, 2_000, 900_000][usize::try_from(self.below(3)).unwrap_or_default()];
        let at = self.below(size);
        Some(match self.below(16) {
            0 => Fault::Status(500),
            1 => Fault::Status(503),
            2 => Fault::Later(429, "0".into()),
            3 => Fault::Later(503, "Sun, 06 Nov 1994 08:49:37 GMT".into()),
            4 => Fault::Status(404),
            5 => Fault::Revoke,
            6 => Fault::Delay(Duration::from_millis(at % 50)),
            7 => Fault::Reset(at),
            8 => Fault::Truncate(at),
            9 => Fault::Stall(at),
            10 => Fault::WrongByte(at),
            11 => Fault::NoRange,
            12 => Fault::CutUpload(at),
            13 => Fault::Unanswered,
            14 => Fault::Silent,
            _ => Fault::WrongUpload(at),
        })
    }
}

/// What serves one connection.
struct Exchange {
    address: SocketAddr,
    upstream: SocketAddr,
    plan: Arc<Mutex<Plan>>,
}

impl Exchange {
    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        let Some(mut head) = read_head(&mut client)? else { return Ok(()) };
        let mut words = head.split(' ').map(str::to_owned);
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let request = format!("{method} {path}");
        let fault = self.plan().decide(&request);
        match &fault {
            Some(Fault::Status(status)) => return refuse(&mut client, *status, ""),
            Some(Fault::Later(status, when)) => {
                return refuse(&mut client, *status, &format!("Retry-After: {when}\r\n"));
            }
            Some(Fault::Delay(time)) => thread::sleep(*time),
            Some(Fault::NoRange) => head = without(&head, "range"),
            Some(Fault::Revoke) => {
                if let Some(tokens) = &mut self.plan().tokens {
                    tokens.good_from = tokens.given + 1;
                }
            }
            _ => {}
        }
        if path.starts_with("/token") {
            return self.give_token(&mut client);
        }
        if !self.plan().admits(&head) {
            let realm = format!("Bearer realm=\"http://{}/token\",service=\"tests\"", self.address);
            return refuse(&mut client, 401, &format!("WWW-Authenticate: {realm}\r\n"));
        }
        let mut server = TcpStream::connect(self.upstream)?;
        server.write_all(closing(&head).as_bytes())?;
        let length = header(&head, "content-length").and_then(|value| value.parse().ok());
        let length: u64 = length.unwrap_or_default();
        match fault {
            Some(Fault::CutUpload(at)) if at < length => {
                copy(&mut client, &mut server, at)?;
                return reset(&client);
            }
            Some(Fault::StallUpload(at)) if at < length => {
                copy(&mut client, &mut server, at)?;
                thread::sleep(STALL);
                return Ok(());
            }
            Some(Fault::WrongUpload(at)) if at < length => {
                copy(&mut client, &mut server, at)?;
                change_one(&mut client, &mut server)?;
                copy(&mut client, &mut server, length - at - 1)?;
            }
            _ => copy(&mut client, &mut server, length)?,
        }
        let answer = read_head(&mut server)?.unwrap_or_default();
        match fault {
            Some(Fault::Unanswered) => return reset(&client),
            Some(Fault::Silent) => {
                thread::sleep(STALL);
                return Ok(());
            }
            _ => {}
        }
        client.write_all(closing(&answer).as_bytes())?;
        match fault {
            Some(Fault::Truncate(at)) => copy(&mut server, &mut client, at)?,
            Some(Fault::Reset(at)) => {
                copy(&mut server, &mut client, at)?;
                return reset(&client);
            }
            Some(Fault::Stall(at)) => {
                copy(&mut server, &mut client, at)?;
                thread::sleep(STALL);
                return Ok(());
            }
            Some(Fault::WrongByte(at)) => {
                copy(&mut server, &mut client, at)?;
                change_one(&mut server, &mut client)?;
                io::copy(&mut server, &mut client)?;
            }
            _ => {
                io::copy(&mut server, &mut client)?;
            }
        }
        client.shutdown(Shutdown::Both)
    }

    fn give_token(&self, client: &mut TcpStream) -> io::Result<()> {
        let number = match &mut self.plan().tokens {
            Some(tokens) => {
                tokens.given += 1;
                tokens.given
            }
            None => 0,
        };
        let body = format!(r#"{{"token": "t{number}", "expires_in": 300}}"#);
        let length = body.len();
        write!(
            client,
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        )
    }
}

fn refuse(client: &mut TcpStream, status: u16, headers: &str) -> io::Result<()> {
    let body = r#"{"errors":[{"code":"DENIED","message":"refused by the test"}]}"#;
    write!(
        client,
        "HTTP/1.1 {status} Refused\r\nContent-Type: application/json\r\n{headers}\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    // A client that is still sending has to get the answer before the connection breaks.
    client.shutdown(Shutdown::Write)?;
    client.set_read_timeout(Some(Duration::from_secs(5)))?;
    io::copy(client, &mut io::sink())?;
    Ok(())
}

fn copy(from: &mut TcpStream, to: &mut TcpStream, count: u64) -> io::Result<()> {
    io::copy(&mut from.take(count), to)?;
    Ok(())
}

/// Passes on one byte as another one, if there is one.
fn change_one(from: &mut TcpStream, to: &mut TcpStream) -> io::Result<()> {
    let mut byte = [0];
    match from.read(&mut byte)? {
        0 => Ok(()),
        _ => to.write_all(&[byte[0] ^ 1]),
    }
}

/// Closing a socket that must not linger sends a reset instead of an end.
fn reset(client: &TcpStream) -> io::Result<()> {
    Ok(set_socket_linger(client, Some(Duration::ZERO))?)
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

/// The value of a header.
fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = head.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = pairs.find(|(found, _)| found.eq_ignore_ascii_case(name))?;
    Some(value.trim())
}

/// The same head without a header.
fn without(head: &str, name: &str) -> String {
    let lines = head.trim_end().lines();
    let kept = lines.filter(|line| {
        line.split_once(':').is_none_or(|(found, _)| !found.eq_ignore_ascii_case(name))
    });
    kept.map(|line| format!("{line}\r\n")).chain(["\r\n".to_owned()]).collect()
}

/// The same head, but for this one exchange only.
fn closing(head: &str) -> String {
    let head = without(head, "connection");
    format!("{}\r\nConnection: close\r\n\r\n", head.trim_end())
}
