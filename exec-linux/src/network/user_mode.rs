//! The network of steps where this process has no say over the host's: a program beside each step
//! that takes its packets and does on the host, as an ordinary user may, what they ask for.
//!
//! slirp4netns and pasta are known. Both would let a step reach services on the host's loopback;
//! they are told not to.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

use super::link;
use super::namespace::Fresh;
use crate::error::Error;

/// The name of the step's interface.
const INTERFACE: &str = "eth0";
/// How long a program may take to get ready on a busy machine.
const START_TIME: Duration = Duration::from_secs(10);

/// A program that imitates the outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Imitator {
    /// <https://github.com/rootless-containers/slirp4netns>
    Slirp4netns,
    /// <https://passt.top>
    Pasta,
}

impl Imitator {
    /// Returns the program's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Slirp4netns => "slirp4netns",
            Self::Pasta => "pasta",
        }
    }

    /// Finds the program in directories.
    ///
    /// # Errors
    /// When it is in none.
    pub fn find(self, directories: &[PathBuf]) -> Result<PathBuf, Error> {
        let mut candidates = directories.iter().map(|directory| directory.join(self.name()));
        candidates.find(|program| program.is_file()).ok_or_else(|| {
            let doing = format!("looking for the program `{}`", self.name());
            Error::network(doing)(io::ErrorKind::NotFound.into())
        })
    }

    /// Returns a name server that a step can ask even if those of the host are on its loopback.
    pub fn name_server(self) -> Option<Ipv4Addr> {
        match self {
            Self::Slirp4netns => Some(Ipv4Addr::new(10, 0, 2, 3)),
            Self::Pasta => None,
        }
    }

    /// Connects a network namespace, for as long as the program runs.
    ///
    /// # Errors
    /// When the program ends early; with what it says.
    pub fn connect(self, program: &Path, fresh: &mut Fresh) -> Result<Attached, Error> {
        let failed = || Error::network(format!("connecting a step by `{}`", program.display()));
        let mut command = Command::new(program);
        // In memory, for a pipe that nobody reads would stop the program.
        let said = memfd_create("said", MemfdFlags::CLOEXEC).map_err(|e| failed()(e.into()))?;
        let stderr = said.try_clone().map_err(failed())?;
        command.env_clear().process_group(0).stdout(Stdio::null()).stderr(stderr);
        let namespace = fresh.namespace.as_fd();
        let (attached, ready) = match self {
            Self::Slirp4netns => {
                let (ours, theirs) =
                    pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed()(e.into()))?;
                let child = slirp4netns(command, namespace, &theirs).map_err(failed())?;
                drop(theirs);
                (Attached(child), wait_for_word(ours))
            }
            Self::Pasta => {
                let mut child = pasta(command, namespace).map_err(failed())?;
                let ready = wait_for_route(&mut child, fresh);
                (Attached(child), ready)
            }
        };
        let Err(error) = ready else { return Ok(attached) };
        drop(attached);
        let said = one_line(said.into()).unwrap_or_default();
        Err(failed()(if said.is_empty() { error } else { io::Error::other(said) }))
    }
}

/// The program that connects a step. It ends with this value, and with this process.
#[derive(Debug)]
pub struct Attached(Child);

impl Drop for Attached {
    fn drop(&mut self) {
        // It may have ended.
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

fn one_line(mut file: File) -> io::Result<String> {
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    Ok(text.trim().lines().collect::<Vec<_>>().join("; "))
}

/// Starts slirp4netns, which says by `ready` that it is.
fn slirp4netns(
    mut command: Command,
    namespace: BorrowedFd<'_>,
    ready: &OwnedFd,
) -> io::Result<Child> {
    // It ends when its standard input does, which is with us.
    command.stdin(Stdio::piped());
    command.args(["--configure", "--mtu=65520", "--disable-host-loopback", "--enable-sandbox"]);
    command.args(["--enable-seccomp", "--exit-fd=0", "--netns-type=path"]);
    command.arg(format!("--ready-fd={}", ready.as_raw_fd()));
    // It opens the namespace while we have it.
    let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
    command.args([&path, INTERFACE]);
    let ready = ready.as_raw_fd();
    // SAFETY: makes a system call and nothing else; the descriptor is open, in the child too.
    unsafe {
        command.pre_exec(move || Ok(fcntl_setfd(BorrowedFd::borrow_raw(ready), FdFlags::empty())?));
    }
    command.spawn()
}

fn wait_for_word(ready: OwnedFd) -> io::Result<()> {
    let time = Timespec { tv_sec: START_TIME.as_secs() as i64, tv_nsec: 0 };
    if poll(&mut [PollFd::new(&ready, PollFlags::IN)], Some(&time))? == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    match File::from(ready).read(&mut [0])? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

fn pasta(mut command: Command, namespace: BorrowedFd<'_>) -> io::Result<Child> {
    // Its standard input is the namespace: of the capabilities that it would need to open it by
    // way of our process, it keeps none.
    command.stdin(namespace.try_clone_to_owned()?);
    command.args(["--netns", "/proc/self/fd/0", "--no-netns-quit", "--foreground", "--quiet"]);
    command.args(["--config-net", "--ipv4-only", "--no-map-gw", "--ns-ifname", INTERFACE]);
    // No port of the step is one of the host's, nor the other way round.
    command.args(["--tcp-ports", "none", "--udp-ports", "none"]);
    command.args(["--tcp-ns", "none", "--udp-ns", "none"]);
    if rustix::process::geteuid().is_root() {
        // Else it becomes somebody who may not enter the namespace.
        command.args(["--runas", "0"]);
    }
    let ours = getpid();
    // It has nothing to tell it of our end, so the kernel does.
    // SAFETY: makes system calls and nothing else.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // We may have ended before.
            if getppid() == Some(ours) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
        });
    }
    command.spawn()
}

/// Waits until the step's packets have somewhere to go, the last thing that pasta sets up.
fn wait_for_route(child: &mut Child, fresh: &mut Fresh) -> io::Result<()> {
    let started = Instant::now();
    while started.elapsed() < START_TIME {
        if child.try_wait()?.is_some() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if link::routes(&mut fresh.links)?.iter().any(|route| route.destination.is_everything()) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Err(io::ErrorKind::TimedOut.into())
}
