//! The user namespace of a runner's steps, where the engine is root: a step's root is nobody on
//! the host, whatever becomes of the other walls.
//!
//! All steps of a runner share one, so it is made once. Their ids are one contiguous range of the
//! host's, so wide that any id of an image is in it. Files keep the image's ids on disk: layers
//! are mounted with their ids mapped (`sandbox::host_files`). What else must belong to a step, or
//! be done in its name, asks [`host_id`].

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::thread::UnshareFlags;

use crate::rootless;
use crate::sandbox::mount_attributes;
use crate::seal::SealedProgram;

/// The `argv[0]` by which the program knows that it is to make a user namespace.
pub const ARGV0: &str = "cofferdam-user-namespace";

/// The id of the host that is root in the namespace. Ids of people, services, and the subordinate
/// ranges that distributions give out all lie below.
pub const HOST_ROOT: u32 = 1 << 31;

/// How many ids the namespace has. The last two 32-bit numbers are no ids: they mean "unchanged"
/// and, on some systems, nobody.
const COUNT: u32 = (1 << 31) - 2;

/// Why steps have no user namespace of their own.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NoUserNamespace {
    /// The engine is in one itself: who is root there is nobody outside.
    #[error("the engine itself is in a user namespace")]
    Nested,
    /// The machine does not allow it, so that a step's root is the machine's.
    #[error("{0}")]
    Refused(String),
}

/// A user namespace, kept by its descriptor: no process lives in it but steps.
#[derive(Debug)]
pub struct UserNamespace(OwnedFd);

impl UserNamespace {
    /// Makes one, and makes sure that the ids of files in `directory` can be mapped to it.
    ///
    /// # Errors
    /// When the machine does not allow it, or it is not needed.
    pub(crate) fn new(program: &SealedProgram, directory: &Path) -> Result<Self, NoUserNamespace> {
        if !rootless::in_initial_namespace() {
            return Err(NoUserNamespace::Nested);
        }
        let refused = NoUserNamespace::Refused;
        let made = Self::make(program)
            .map_err(|error| refused(format!("user namespaces cannot be made here: {error}")))?;
        mount_attributes::clone_mapped(directory, made.descriptor()).map_err(|error| {
            let directory = directory.display();
            refused(format!("`{directory}` cannot be mounted with mapped ids: {error}"))
        })?;
        Ok(made)
    }

    /// Returns the namespace's descriptor, for setns(2) and for mounts with mapped ids.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn make(program: &SealedProgram) -> io::Result<Self> {
        // The engine has many threads and much memory: it can neither unshare nor fork.
        let (mut ours, theirs) = UnixStream::pair()?;
        let mut command = Command::new(program.path());
        command.arg0(ARGV0).env_clear().process_group(0);
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        // What is left of it holds its end of the socket.
        drop(command);
        let id = child.id();
        let mut take = || {
            let mut answer = [0; 4];
            ours.read_exact(&mut answer)?;
            match i32::from_ne_bytes(answer) {
                0 => {}
                errno => return Err(io::Error::from_raw_os_error(errno)),
            }
            let namespace = File::open(format!("/proc/{id}/ns/user"))?;
            for map in ["uid_map", "gid_map"] {
                fs::write(format!("/proc/{id}/{map}"), format!("0 {HOST_ROOT} {COUNT}\n"))?;
            }
            Ok(Self(namespace.into()))
        };
        let taken = take();
        drop(ours);
        child.wait()?;
        taken
    }
}

/// Becomes the process that [`UserNamespace::make`] takes the namespace of: says whether it has
/// one, and waits until it is taken.
pub(crate) fn hold() -> ! {
    let held = (|| {
        let mut socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        // SAFETY: one thread, and this flag shares or unshares no descriptors.
        let made = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER) };
        let errno = made.map_or_else(rustix::io::Errno::raw_os_error, |()| 0);
        socket.write_all(&errno.to_ne_bytes())?;
        socket.read_to_end(&mut Vec::new())
    })();
    std::process::exit(i32::from(held.is_err()))
}

/// Whose ids a step's files, credentials and terminals have on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ids {
    /// The same numbers: the step has no user namespace of its own.
    Host,
    /// Those that [`host_id`] gives.
    Mapped,
}

impl Ids {
    /// Whose ids they are for a step with this user namespace, or none.
    pub fn of(namespace: Option<BorrowedFd<'_>>) -> Self {
        if namespace.is_some() { Self::Mapped } else { Self::Host }
    }

    /// Returns the host's number of an id that the step's files or processes have.
    ///
    /// # Errors
    /// When no file or process of a step can have it.
    pub fn host(self, id: u32) -> io::Result<u32> {
        match self {
            Self::Host => Ok(id),
            Self::Mapped => host_id(id).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL)),
        }
    }
}

/// The map, as (first id within, first id of the host, number of ids).
pub(crate) fn mapping() -> (u32, u32, u32) {
    (0, HOST_ROOT, COUNT)
}

/// Returns the host's number of an id within the namespace.
pub fn host_id(id: u32) -> Option<u32> {
    (id < COUNT).then(|| HOST_ROOT + id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_that_users_may_have_is_mapped() {
        assert_eq!(host_id(0), Some(2_147_483_648));
        assert_eq!(host_id(65_534), Some(2_147_549_182));
        assert_eq!(host_id(COUNT - 1), Some(u32::MAX - 2));
        assert_eq!(host_id(COUNT), None);
        assert_eq!(Ids::Host.host(u32::MAX - 1).expect("the host has it"), u32::MAX - 1);
    }
}
