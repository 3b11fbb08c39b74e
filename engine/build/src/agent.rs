//! What a step gets of the client's ssh agent: a socket of its own, behind which only the listing
//! of keys and signing are passed on. The protocol is draft-ietf-sshm-ssh-agent.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

/// The name of the socket in its directory.
const SOCKET: &str = "agent";
/// Larger messages end a connection; OpenSSH's own limit.
const MAX_MESSAGE: u32 = 256 << 10;
const REQUEST_IDENTITIES: u8 = 11;
const SIGN_REQUEST: u8 = 13;
/// A whole answer: its length and `SSH_AGENT_FAILURE`.
const FAILURE: [u8; 5] = [0, 0, 0, 1, 5];

/// A socket that stands for an agent; gone when dropped.
#[derive(Debug)]
pub(crate) struct AgentSocket {
    directory: TempDir,
    listening: JoinHandle<()>,
}

/// Who may connect.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mode: u32,
}

impl Drop for AgentSocket {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl AgentSocket {
    /// Listens in a new directory below `parent` on behalf of the agent at `agent`, which has to
    /// be there.
    pub(crate) async fn new(parent: &Path, agent: &Path, access: Access) -> io::Result<Self> {
        // Whoever needs it finds out now, and not when it is too late to say so.
        UnixStream::connect(agent).await?;
        let directory = tempfile::Builder::new().prefix("agent-").tempdir_in(parent)?;
        let path = directory.path().join(SOCKET);
        // The address of a socket is short; the path of a state directory need not be.
        let opened = fs::File::open(directory.path())?;
        let short = format!("/proc/self/fd/{}/{SOCKET}", opened.as_raw_fd());
        let listener = UnixListener::bind(short)?;
        chown(&path, Some(access.uid), Some(access.gid))?;
        fs::set_permissions(&path, Permissions::from_mode(access.mode & 0o777))?;
        let listening = tokio::spawn(listen(listener, agent.to_owned()));
        Ok(Self { directory, listening })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join(SOCKET)
    }
}

async fn listen(listener: UnixListener, agent: PathBuf) {
    let mut connections = tokio::task::JoinSet::new();
    // When this ends, the connections do too.
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let agent = agent.clone();
        connections.spawn(async move {
            if let Err(error) = serve(stream, &agent).await {
                tracing::debug!("a connection to the ssh agent: {error}");
            }
        });
    }
}

/// Answers one connection until its end.
async fn serve(mut step: UnixStream, agent: &Path) -> io::Result<()> {
    let mut connection = None;
    while let Some(request) = read(&mut step).await? {
        if !matches!(request.get(4), Some(&(REQUEST_IDENTITIES | SIGN_REQUEST))) {
            step.write_all(&FAILURE).await?;
            continue;
        }
        let agent = match &mut connection {
            Some(agent) => agent,
            None => connection.insert(UnixStream::connect(agent).await?),
        };
        agent.write_all(&request).await?;
        let Some(answer) = read(agent).await? else { return Ok(()) };
        step.write_all(&answer).await?;
    }
    Ok(())
}

/// Reads a message with its length; `None` at the end.
async fn read(stream: &mut UnixStream) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    };
    let size = u32::from_be_bytes(length);
    if size > MAX_MESSAGE {
        return Err(io::Error::other("the message is too long"));
    }
    let mut message = length.to_vec();
    message.resize(4 + size as usize, 0);
    stream.read_exact(&mut message[4..]).await?;
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An agent that answers every message with its kind.
    async fn echo(listener: UnixListener) {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                while let Ok(Some(message)) = read(&mut stream).await {
                    let answer = [0, 0, 0, 2, 99, message[4]];
                    stream.write_all(&answer).await.expect("the proxy reads");
                }
            });
        }
    }

    #[tokio::test]
    async fn only_listing_and_signing_are_passed_on() {
        let dir = tempfile::tempdir().expect("a directory");
        // Longer than the address of a socket can be.
        let deep = dir.path().join("d".repeat(120));
        fs::create_dir(&deep).expect("a directory");
        let agent = dir.path().join("a");
        tokio::spawn(echo(UnixListener::bind(&agent).expect("a socket")));
        let access = Access { uid: 0, gid: 0, mode: 0o600 };
        let socket = AgentSocket::new(&deep, &agent, access).await.expect("the agent is there");
        let opened = fs::File::open(socket.directory.path()).expect("a directory");
        let short = format!("/proc/self/fd/{}/{SOCKET}", opened.as_raw_fd());
        let mut step = UnixStream::connect(&short).await.expect("it listens");
        for (kind, passed) in [(11, true), (13, true), (1, false), (17, false), (22, false)] {
            step.write_all(&[0, 0, 0, 2, kind, 7]).await.expect("it reads");
            let answer = read(&mut step).await.expect("it answers").expect("not the end");
            let expected: &[u8] = if passed { &[0, 0, 0, 2, 99, kind] } else { &FAILURE };
            assert_eq!(answer, expected, "{kind}");
        }
        // An empty message has no kind.
        step.write_all(&[0; 4]).await.expect("it reads");
        assert_eq!(read(&mut step).await.expect("it answers"), Some(FAILURE.to_vec()));
        step.write_all(&u32::MAX.to_be_bytes()).await.expect("it reads");
        assert_eq!(read(&mut step).await.expect("it is closed in order"), None);
        let path = socket.path();
        drop(socket);
        assert!(!path.exists());
        fs::remove_file(&agent).expect("it is there");
        AgentSocket::new(&deep, &agent, access).await.expect_err("no agent is there");
    }
}
