//! The standard streams of a step, as the engine has them: what it reads comes from channels and
//! what it writes goes to one. The step never gets a descriptor that is not its own: with the
//! engine's terminal it could type what the user's shell reads next (TIOCSTI), and a file of the
//! user's it could reopen with other rights.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use bytes::{Bytes, BytesMut};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// The standard streams of a step.
#[derive(Debug)]
pub struct Streams {
    /// Where its standard input comes from.
    pub input: Input,
    /// Takes what it writes; a receiver that is gone only loses the output.
    pub output: mpsc::Sender<(Stream, Bytes)>,
}

impl Streams {
    /// What a step of a build has: it reads nothing.
    pub fn output_only(output: mpsc::Sender<(Stream, Bytes)>) -> Self {
        Self { input: Input::Empty, output }
    }
}

/// Where the standard input of a step comes from.
#[derive(Debug)]
pub enum Input {
    /// It is empty: `/dev/null`.
    Empty,
    /// A pipe; it ends when all senders are gone.
    Pipe(mpsc::Receiver<Bytes>),
    /// All three streams are a pseudo-terminal of the step's own, which is its controlling
    /// terminal; what it writes comes as [`Stream::Stdout`]. When all senders are gone nothing
    /// more is typed.
    Terminal {
        /// The size that it has first.
        size: TerminalSize,
        /// What happens to it.
        events: mpsc::Receiver<TerminalEvent>,
    },
}

/// Something that a user does to a terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TerminalEvent {
    /// Types; a byte like 3 (Ctrl-C) has the meaning that the step gave it.
    Typed(Bytes),
    /// Changes the size of the window.
    Resized(TerminalSize),
}

/// The size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Characters of a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

/// Which of its two output streams a step wrote to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What the helper has to make for an [`Input`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum InputKind {
    /// Nothing.
    Empty,
    /// A pipe.
    Pipe,
    /// A pseudo-terminal of this size.
    Terminal(TerminalSize),
}

impl Input {
    pub(crate) fn kind(&self) -> InputKind {
        match self {
            Self::Empty => InputKind::Empty,
            Self::Pipe(_) => InputKind::Pipe,
            Self::Terminal { size, .. } => InputKind::Terminal(*size),
        }
    }
}

/// Sets the size of a terminal; its foreground processes are told.
pub(crate) fn resize(terminal: &impl AsRawFd, size: TerminalSize) -> io::Result<()> {
    let size =
        libc::winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads a `winsize` (ioctl_tty(2)).
    match unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// How much of a step's output is read at once.
const CHUNK: usize = 64 * 1024;

/// Sends on what comes, until the end or an error, which for a pipe and a terminal is its end.
pub(crate) async fn pump(
    mut from: impl AsyncRead + Unpin,
    stream: Stream,
    output: &mpsc::Sender<(Stream, Bytes)>,
    cancel: &CancellationToken,
) {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(CHUNK);
        let read: io::Result<usize> = from.read_buf(&mut buffer).await;
        match read {
            Ok(1..) => pass_on(stream, buffer.split().freeze(), output, cancel).await,
            Ok(0) | Err(_) => return,
        }
    }
}

async fn pass_on(
    stream: Stream,
    bytes: Bytes,
    output: &mpsc::Sender<(Stream, Bytes)>,
    cancel: &CancellationToken,
) {
    tokio::select! {
        _ = output.send((stream, bytes)) => {}
        // Whoever cancelled may no longer take what is in the channel.
        () = cancel.cancelled() => {}
    }
}

/// The engine's end of a step's standard input.
pub(crate) enum Connection {
    /// The end of a pipe that is written to.
    Pipe(pipe::Sender, mpsc::Receiver<Bytes>),
    /// The pseudo-terminal's master.
    Terminal(AsyncFd<OwnedFd>, mpsc::Receiver<TerminalEvent>),
}

impl Connection {
    /// Connects an input with the descriptor that the helper sent for it.
    pub(crate) fn new(input: Input, descriptor: OwnedFd) -> io::Result<Option<Self>> {
        Ok(match input {
            Input::Empty => None,
            Input::Pipe(bytes) => Some(Self::Pipe(pipe::Sender::from_owned_fd(descriptor)?, bytes)),
            Input::Terminal { events, .. } => {
                fcntl_setfl(&descriptor, fcntl_getfl(&descriptor)? | OFlags::NONBLOCK)?;
                // SAFETY: the descriptor is owned, so it is open, and the same, until it is dropped.
                let terminal = unsafe { AsyncFd::register(descriptor) }?;
                Some(Self::Terminal(terminal, events))
            }
        })
    }

    /// Passes on what comes, until the step is gone and all that it had written is passed on.
    pub(crate) async fn run(
        self,
        output: &mpsc::Sender<(Stream, Bytes)>,
        cancel: &CancellationToken,
        gone: &CancellationToken,
    ) {
        match self {
            Self::Pipe(mut pipe, mut bytes) => {
                let feeding = async {
                    while let Some(bytes) = bytes.recv().await {
                        if pipe.write_all(&bytes).await.is_err() {
                            // The step wants no more.
                            break;
                        }
                    }
                };
                tokio::select! {
                    () = feeding => {}
                    () = gone.cancelled() => {}
                }
            }
            Self::Terminal(terminal, mut events) => {
                let typing = async {
                    while let Some(event) = events.recv().await {
                        // A terminal that is gone is for the reading side to notice.
                        _ = match event {
                            TerminalEvent::Typed(bytes) => type_all(&terminal, &bytes).await,
                            TerminalEvent::Resized(size) => resize(&terminal, size),
                        };
                    }
                    std::future::pending::<()>().await;
                };
                tokio::select! {
                    () = show(&terminal, output, cancel) => {}
                    () = typing => {}
                }
            }
        }
    }
}

async fn type_all(terminal: &AsyncFd<OwnedFd>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let write = |terminal: &OwnedFd| Ok(rustix::io::write(terminal, bytes)?);
        let written = terminal.async_io(Interest::WRITABLE, write).await?;
        bytes = &bytes[written..];
    }
    Ok(())
}

async fn show(
    terminal: &AsyncFd<OwnedFd>,
    output: &mpsc::Sender<(Stream, Bytes)>,
    cancel: &CancellationToken,
) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = |terminal: &OwnedFd| Ok(rustix::io::read(terminal, &mut buffer[..])?);
        match terminal.async_io(Interest::READABLE, read).await {
            Ok(count @ 1..) => {
                let bytes = Bytes::copy_from_slice(&buffer[..count]);
                pass_on(Stream::Stdout, bytes, output, cancel).await;
            }
            // EIO: nobody has the other side open any more (pty(7)).
            Ok(0) | Err(_) => return,
        }
    }
}
