//! A step's own network namespace. It is made *within* the step's user namespace, so that the
//! step may do there what its capabilities say: bind to any port, send raw packets.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::wire;

/// Enters a new network namespace with nothing but a loopback device, within a user namespace or
/// else this process's own.
pub fn enter_new(user_namespace: Option<BorrowedFd<'_>>) -> io::Result<()> {
    match user_namespace {
        // SAFETY: one thread, and this flag shares or unshares no descriptors.
        None => unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?,
        Some(user_namespace) => {
            let made = make_within(user_namespace)?;
            move_into_link_name_space(made.as_fd(), Some(LinkNameSpaceType::Network))?;
        }
    }
    loopback_up()
}

/// Makes a network namespace within a user namespace: a child does, as nobody comes back from
/// there.
fn make_within(user_namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair()?;
    // SAFETY: one thread, so the child may go on using its copy of everything.
    let child = match unsafe { libc::fork() } {
        -1 => return Err(io::Error::last_os_error()),
        0 => {
            let made = (|| {
                move_into_link_name_space(user_namespace, Some(LinkNameSpaceType::User))?;
                // SAFETY: as above.
                unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
                openat(CWD, "/proc/self/ns/net", OFlags::CLOEXEC, Mode::empty())
            })();
            let errno = made.as_ref().map_or_else(|error| error.raw_os_error(), |_| 0);
            let descriptors: Vec<_> = made.iter().map(AsFd::as_fd).collect();
            _ = wire::write_with(&theirs, &errno.to_ne_bytes(), &descriptors);
            // SAFETY: ends this process at once, without running what its parent registered.
            unsafe { libc::_exit(0) }
        }
        child => child,
    };
    drop(theirs);
    let mut answer = Vec::new();
    let received = wire::read_with(&ours, &mut answer);
    // SAFETY: no status is asked for.
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    let mut received = received?;
    match (received.descriptors.pop(), <[u8; 4]>::try_from(answer)) {
        (Some(namespace), _) => Ok(namespace),
        (None, Ok(errno)) => Err(io::Error::from_raw_os_error(i32::from_ne_bytes(errno))),
        (None, Err(_)) => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn loopback_up() -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: all-zero bytes are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an `ifreq`, whose name is NUL-terminated (netdevice(7)).
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
