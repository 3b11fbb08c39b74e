//! The standard streams within the sandbox. Output goes to the helper's own pipes, unless the step
//! has a terminal: that is one of its own `/dev/pts`, so that nothing it does to it reaches the
//! user's.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use rustix::fs::{Gid, Mode, OFlags, Uid, fchown, openat};
use rustix::process::setsid;

use crate::step::User;
use crate::streams::{InputKind, TerminalSize, resize};
use crate::user_namespace::Ids;

/// The step's end of its standard input.
#[derive(Debug)]
pub enum Stdio {
    /// It reads nothing.
    Null,
    /// A pipe.
    Pipe(OwnedFd),
    /// A pseudo-terminal, for all three streams.
    Terminal(OwnedFd),
}

impl Stdio {
    /// Makes both ends; the second is the engine's.
    pub fn make(
        kind: InputKind,
        dev: &OwnedFd,
        user: &User,
        ids: Ids,
    ) -> io::Result<(Self, Option<OwnedFd>)> {
        match kind {
            InputKind::Empty => Ok((Self::Null, None)),
            InputKind::Pipe => {
                let (ours, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
                Ok((Self::Pipe(ours), Some(theirs)))
            }
            InputKind::Terminal(size) => {
                let (ours, theirs) = open_terminal(dev, size)?;
                // Its group is the one that devpts gives.
                fchown(&ours, Some(Uid::from_raw(ids.host(user.uid)?)), None)?;
                Ok((Self::Terminal(ours), Some(theirs)))
            }
        }
    }

    /// The input for another program to be started with.
    pub fn as_input(&self) -> io::Result<Option<OwnedFd>> {
        match self {
            Self::Null => Ok(None),
            Self::Pipe(end) | Self::Terminal(end) => end.try_clone().map(Some),
        }
    }

    /// Makes it the standard streams of this process, which starts a session of its own.
    pub fn connect(&self, null: impl AsFd, user: &User, ids: Ids) -> io::Result<()> {
        match self {
            Self::Null => onto(null, 0)?,
            Self::Pipe(pipe) => onto(pipe, 0)?,
            Self::Terminal(terminal) => (0..=2).try_for_each(|stream| onto(terminal, stream))?,
        }
        setsid()?;
        match self {
            Self::Terminal(terminal) => take_control(terminal),
            Self::Null | Self::Pipe(_) => own_pipes(matches!(self, Self::Pipe(_)), user, ids),
        }
    }
}

/// Opens a new pseudo-terminal: the step's end and the other one.
fn open_terminal(dev: &OwnedFd, size: TerminalSize) -> io::Result<(OwnedFd, OwnedFd)> {
    // By the mount at /dev/pts: that is where the step's end gets its name from.
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let theirs = openat(dev, "pts/ptmx", flags, Mode::empty())?;
    let unlocked: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads an int (ioctl_tty(2)).
    if unsafe { libc::ioctl(theirs.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) } == -1 {
        return Err(io::Error::last_os_error());
    }
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes flags and returns a descriptor (ioctl_tty(2)).
    let ours = unsafe { libc::ioctl(theirs.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    if ours == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made the descriptor for us.
    let ours = unsafe { OwnedFd::from_raw_fd(ours) };
    resize(&theirs, size)?;
    Ok((ours, theirs))
}

/// Makes a terminal the controlling one of this process's session, which has none.
fn take_control(terminal: &OwnedFd) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes a number (ioctl_tty(2)); 0 steals from nobody.
    match unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Lets the step's user open its streams by name (`/dev/stderr`), as runc does.
fn own_pipes(input: bool, user: &User, ids: Ids) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(ids.host(user.uid)?), Gid::from_raw(ids.host(user.gid)?));
    let own = |stream: &dyn AsFd| fchown(stream.as_fd(), Some(uid), Some(gid));
    if input {
        own(&io::stdin())?;
    }
    own(&io::stdout())?;
    Ok(own(&io::stderr())?)
}

/// Makes one of the standard descriptors a copy of another descriptor.
pub fn onto(file: impl AsFd, target: RawFd) -> io::Result<()> {
    // SAFETY: both are valid descriptors of this single-threaded process, and 0, 1 and 2 belong
    // to nobody who could be surprised.
    match unsafe { libc::dup2(file.as_fd().as_raw_fd(), target) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
