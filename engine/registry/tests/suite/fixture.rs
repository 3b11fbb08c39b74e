//! Fixtures: Debian's `docker-registry` on a loopback port, and a proxy that does harm.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cofferdam_registry::{Client, ClientConfig, Descriptor, Reference, RetryPolicy, media_type};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// A running registry with storage of its own; ends with the value.
pub struct Registry {
    process: Child,
    pub address: SocketAddr,
    _port: TcpSocket,
    _dir: TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Registry {
    pub async fn start() -> Self {
        Self::start_with(|_| String::new()).await
    }

    /// Lets in the user `demo` with the password `correct horse` only.
    pub async fn start_with_password() -> Self {
        Self::start_with(|dir| {
            let line = "demo:$2y$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2\n";
            std::fs::write(dir.join("htpasswd"), line).expect("written");
            format!("auth:\n  htpasswd:\n    realm: test\n    path: {}/htpasswd\n", dir.display())
        })
        .await
    }

    async fn start_with(extra: impl FnOnce(&Path) -> String) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (port, address) = reserve();
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: {address}\n{}",
            dir.path().join("data").display(),
            extra(dir.path())
        );
        let path = dir.path().join("config.yml");
        std::fs::write(&path, config).expect("written");
        let process = Command::new("/usr/bin/docker-registry")
            .arg("serve")
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Debian's docker-registry is installed");
        let mut registry = Self { process, address, _port: port, _dir: dir };
        while TcpStream::connect(address).await.is_err() {
            let ended = registry.process.try_wait().expect("our child");
            assert!(ended.is_none(), "the registry ended: {ended:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        registry
    }

    pub fn reference(&self, rest: &str) -> Reference {
        reference(self.address, rest)
    }
}

/// A port of loopback at which nobody listens as long as the socket lives, but for a server that
/// is told to, and sets SO_REUSEADDR (as programs in Go do).
pub fn reserve() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("an option that there is");
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a port");
    let address = socket.local_addr().expect("bound");
    (socket, address)
}

pub fn reference(address: SocketAddr, rest: &str) -> Reference {
    Reference::parse(&format!("{address}/{rest}")).expect("a valid reference")
}

/// A client that does not wait long between its attempts.
pub fn client() -> Client {
    Client::new(quick())
}

pub fn quick() -> ClientConfig {
    let retry = RetryPolicy { first_pause: Duration::from_millis(5), ..RetryPolicy::default() };
    // A registry on a busy disk answers late. That is no fault to be tested.
    ClientConfig { retry, mirror_timeout: Duration::from_secs(30), ..ClientConfig::default() }
}

/// The same, and impatient where one of these faults is that nothing comes.
pub fn quick_for<'f>(faults: impl IntoIterator<Item = &'f Harm>) -> ClientConfig {
    let mut config = quick();
    if faults.into_iter().any(|harm| matches!(harm, Harm::Stall | Harm::StallAfter(_))) {
        config.stall_timeout = Duration::from_secs(2);
        config.mirror_timeout = Duration::from_secs(1);
    }
    config
}

/// Bytes that do not repeat soon.
pub fn noise(length: usize) -> Bytes {
    let mut state = 0x9e37_79b9_u32;
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// Pushes an image of one layer; gives the manifest's descriptor.
pub async fn push_image(
    client: &Client,
    reference: &Reference,
    architecture: &str,
    layer: &Bytes,
) -> Descriptor {
    let config = Bytes::from(format!(r#"{{"os": "linux", "architecture": "{architecture}"}}"#));
    let config_type = "application/vnd.oci.image.config.v1+json";
    let layer_type = "application/vnd.oci.image.layer.v1.tar";
    let mut described = Vec::new();
    for (media_type, bytes) in [(config_type, &config), (layer_type, layer)] {
        let descriptor = Descriptor::of(media_type, bytes);
        client.push_blob(reference, &descriptor, bytes, None).await.expect("pushed");
        described.push(json(&descriptor));
    }
    let manifest = Bytes::from(format!(
        r#"{{"schemaVersion": 2, "mediaType": "{}", "config": {}, "layers": [{}]}}"#,
        media_type::OCI_MANIFEST,
        described[0],
        described[1]
    ));
    let descriptor = Descriptor::of(media_type::OCI_MANIFEST, &manifest);
    client.push_manifest(reference, media_type::OCI_MANIFEST, manifest).await.expect("pushed");
    descriptor
}

pub fn json(descriptor: &Descriptor) -> String {
    let Descriptor { media_type, digest, size, .. } = descriptor;
    format!(r#"{{"mediaType": "{media_type}", "digest": "{digest}", "size": {size}}}"#)
}

/// What the proxy does to one request whose line has the fault's text in it.
#[derive(Clone, Debug)]
pub enum Harm {
    /// Answers this instead of the registry, and closes.
    Answer(String),
    /// Passes on the head and this many bytes of the body, then resets the connection.
    ResetAfter(usize),
    /// Passes on the head without the length and this many bytes of the body, then closes.
    CloseAfter(usize),
    /// Turns over a bit of the body's byte at this offset.
    Flip(usize),
    /// Passes on the head without the length, and this after the body.
    Append(&'static [u8]),
    /// Takes out the named header line of the request, so that the whole body comes.
    Without(&'static str),
    /// Passes on the request, and resets the connection in place of the answer.
    Unanswered,
    /// Passes on the request, and nothing back.
    Stall,
    /// Passes on the head and this many bytes of the body, then nothing more.
    StallAfter(usize),
    /// Passes on this many bytes of the request's body, then resets both connections.
    CutUpload(usize),
    /// Changes the request's body at this offset.
    FlipUpload(usize),
}

/// The harm of an answer without a body.
pub fn answer(status: &str, headers: &str) -> Harm {
    Harm::Answer(format!(
        "HTTP/1.1 {status}\r\n{headers}connection: close\r\ncontent-length: 0\r\n\r\n"
    ))
}

/// A proxy in front of a registry. Each fault is used once, by the first request that fits.
pub struct Proxy {
    pub address: SocketAddr,
    faults: Arc<Mutex<VecDeque<(String, Harm)>>>,
    requests: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    pub async fn start(upstream: SocketAddr, faults: &[(&str, Harm)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let faults = faults.iter().map(|(text, harm)| ((*text).to_owned(), harm.clone()));
        let faults = Arc::new(Mutex::new(faults.collect::<VecDeque<_>>()));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (f, r) = (faults.clone(), requests.clone());
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (faults, requests) = (f.clone(), r.clone());
                // A connection that breaks is what this is for.
                tokio::spawn(
                    async move { drop(serve(client, upstream, &faults, &requests).await) },
                );
            }
        });
        Self { address, faults, requests, task }
    }

    pub fn reference(&self, rest: &str) -> Reference {
        reference(self.address, rest)
    }

    /// The requests so far: method, what the path ends with, and the range.
    pub fn requests(&self, filter: &str) -> Vec<String> {
        let requests = self.requests.lock().expect("not poisoned");
        requests.iter().filter(|line| line.contains(filter)).cloned().collect()
    }

    /// Fails the test if a fault was never used.
    pub fn assert_spent(&self) {
        let left = self.faults.lock().expect("not poisoned");
        assert!(left.is_empty(), "unused faults: {left:?}");
    }
}

/// Serves one request of a connection and closes it.
async fn serve(
    mut client: TcpStream,
    upstream: SocketAddr,
    faults: &Mutex<VecDeque<(String, Harm)>>,
    requests: &Mutex<Vec<String>>,
) -> io::Result<()> {
    let (head, rest) = read_head(&mut client).await?;
    let line = head.lines().next().unwrap_or_default().to_owned();
    let range = head.lines().find(|line| line.to_lowercase().starts_with("range:"));
    let entry = format!("{line} {}", range.unwrap_or_default());
    requests.lock().expect("not poisoned").push(entry.trim().to_owned());
    let harm = {
        let mut faults = faults.lock().expect("not poisoned");
        let at = faults.iter().position(|(text, _)| line.contains(text.as_str()));
        at.and_then(|at| faults.remove(at)).map(|(_, harm)| harm)
    };
    if let Some(Harm::Answer(answer)) = &harm {
        client.write_all(answer.as_bytes()).await?;
        return client.shutdown().await;
    }
    if let Some(Harm::ResetAfter(_) | Harm::Unanswered) = &harm {
        client.set_zero_linger()?;
    }
    let mut server = TcpStream::connect(upstream).await?;
    let without = match &harm {
        Some(Harm::Without(header)) => header,
        _ => "connection",
    };
    server.write_all(edit_head(&head, &["connection", without]).as_bytes()).await?;
    server.write_all(&rest).await?;
    if let Some(Harm::CutUpload(length)) = harm {
        let left = (length - rest.len()) as u64;
        tokio::io::copy(&mut (&mut client).take(left), &mut server).await?;
        client.set_zero_linger()?;
        return server.shutdown().await;
    }
    if let Some(Harm::FlipUpload(at)) = harm {
        let left = (at - rest.len()) as u64;
        tokio::io::copy(&mut (&mut client).take(left), &mut server).await?;
        let byte = client.read_u8().await?;
        server.write_u8(byte ^ 1).await?;
    }
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let upload = tokio::spawn(async move {
        // Ends when either side has enough.
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
    });
    let (head, body_start) = read_head(&mut from_server).await?;
    let mut body = body_start;
    from_server.read_to_end(&mut body).await?;
    if let Some(Harm::Stall) = harm {
        // Until the test is over.
        std::future::pending::<()>().await;
    }
    if let Some(Harm::Unanswered) = harm {
        upload.abort();
        // Waits until the task's half of the connection is gone.
        let _ = upload.await;
        return Ok(());
    }
    let mut removed = vec!["connection"];
    if matches!(harm, Some(Harm::CloseAfter(_) | Harm::Append(_))) {
        removed.push("content-length");
    }
    match harm {
        Some(Harm::ResetAfter(length) | Harm::CloseAfter(length) | Harm::StallAfter(length)) => {
            body.truncate(length)
        }
        Some(Harm::Flip(at)) => body[at] ^= 1,
        Some(Harm::Append(more)) => body.extend_from_slice(more),
        _ => {}
    }
    to_client.write_all(edit_head(&head, &removed).as_bytes()).await?;
    to_client.write_all(&body).await?;
    to_client.flush().await?;
    if let Some(Harm::StallAfter(_)) = harm {
        // Until the test is over.
        std::future::pending::<()>().await;
    }
    if let Some(Harm::ResetAfter(_)) = harm {
        // What was sent has to arrive before the reset throws away what is left.
        while unsent(to_client.as_ref())? > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        upload.abort();
        // Waits until the task's half of the connection is gone.
        let _ = upload.await;
        return Ok(());
    }
    to_client.shutdown().await
}

/// How many bytes the other side has not acknowledged.
fn unsent(stream: &TcpStream) -> io::Result<libc::c_int> {
    let mut bytes = 0;
    // SAFETY: TIOCOUTQ writes an int (tcp(7)).
    match unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(bytes),
    }
}

pub async fn read_head(
    stream: &mut (impl tokio::io::AsyncRead + Unpin),
) -> io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            let head = String::from_utf8(bytes).map_err(io::Error::other)?;
            return Ok((head, rest));
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// The head without some headers, and with the connection to be closed.
fn edit_head(head: &str, removed: &[&str]) -> String {
    let mut lines: Vec<&str> = head.trim_end().lines().collect();
    lines.retain(|line| {
        let name = line.split(':').next().unwrap_or_default().to_lowercase();
        !removed.contains(&name.as_str())
    });
    format!("{}\r\nconnection: close\r\n\r\n", lines.join("\r\n"))
}
