//! Makes network namespaces. The engine's own thread neither can be in the steps' user namespace,
//! for a process with threads cannot enter one, nor should it fork, being large. So a child that
//! shares the engine's memory and descriptors goes there, and leaves behind what it opened.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::link;
use super::netlink::Socket;
use crate::error::Error;

/// A new network namespace.
#[derive(Debug)]
pub struct Fresh {
    /// The namespace itself. It has nothing but the loopback device, which is up.
    pub namespace: OwnedFd,
    /// rtnetlink within it.
    pub links: Socket,
    /// A UDP socket within it.
    pub datagrams: OwnedFd,
}

/// Every user may ping, and bind any port: nobody else is there to be protected from it. The
/// second group range is for user namespaces that have few ids.
const SETTINGS: [(&CStr, [&CStr; 2]); 2] = [
    (c"/proc/sys/net/ipv4/ping_group_range", [c"0 2147483645", c"0 65535"]),
    (c"/proc/sys/net/ipv4/ip_unprivileged_port_start", [c"0", c"0"]),
];

/// Makes a network namespace that belongs to a user namespace; if none is given, to the caller's.
pub fn make(user_namespace: Option<BorrowedFd<'_>>) -> Result<Fresh, Error> {
    let failed = |doing: &str, source| Error::Network { doing: doing.to_owned(), source };
    let mut task = Task {
        user_namespace: user_namespace.map(|namespace| namespace.as_raw_fd()),
        opened: [-1; 3],
        failed: None,
    };
    let ended = run_child(&mut task);
    let [namespace, links, datagrams] = task.opened.map(|descriptor| {
        // SAFETY: the child opened it for us in the shared table, and has ended.
        (descriptor >= 0).then(|| unsafe { OwnedFd::from_raw_fd(descriptor) })
    });
    ended.map_err(|error| failed("starting a process that makes a network namespace", error))?;
    if let Some((doing, errno)) = task.failed {
        return Err(failed(doing, io::Error::from_raw_os_error(errno)));
    }
    let (Some(namespace), Some(links), Some(datagrams)) = (namespace, links, datagrams) else {
        let killed = io::Error::other("the process that makes it was killed");
        return Err(failed("making a network namespace", killed));
    };
    let mut links = Socket::from(links);
    link::start_loopback(&mut links)
        .map_err(|refused| failed("starting the loopback device", refused.source))?;
    Ok(Fresh { namespace, links, datagrams })
}

/// What the child is to do, and what came of it.
struct Task {
    user_namespace: Option<RawFd>,
    /// The namespace, and the sockets in it.
    opened: [RawFd; 3],
    failed: Option<(&'static str, i32)>,
}

/// Runs [`child`] to its end, in a process of its own that shares our memory and descriptors.
fn run_child(task: &mut Task) -> io::Result<()> {
    const STACK: usize = 64 << 10;
    let mut stack = vec![0_u128; STACK / size_of::<u128>()];
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_FILES;
    // The child has our signal handlers, which must not run in it.
    let blocked = BlockedSignals::new();
    // SAFETY: CLONE_VFORK keeps this thread waiting until the child has ended, so the stack and
    // the task outlive it and nobody else uses them meanwhile. The stack grows down from its end,
    // which is aligned. No thread-local storage is set up for the child, which shares this
    // thread's while that waits.
    let process = unsafe {
        let end = stack.as_mut_ptr().add(stack.len());
        libc::clone(child, end.cast(), flags, std::ptr::from_mut(task).cast())
    };
    let started = if process == -1 { Err(io::Error::last_os_error()) } else { Ok(()) };
    drop(blocked);
    started?;
    // It tells nobody of its end by a signal, so only `__WALL` sees it.
    // SAFETY: no status is asked for.
    while unsafe { libc::waitpid(process, std::ptr::null_mut(), libc::__WALL) } == -1 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(())
}

/// Blocks this thread's signals while it lives.
struct BlockedSignals(libc::sigset_t);

impl BlockedSignals {
    fn new() -> Self {
        // SAFETY: both sets are valid memory; `sigfillset` makes one of the zeroed one.
        unsafe {
            let (mut all, mut before) = (std::mem::zeroed(), std::mem::zeroed());
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
            Self(before)
        }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: the set was filled by the kernel.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut())
        };
    }
}

/// The child: enters the user namespace, makes the network namespace, and opens what is wanted of
/// it. Makes system calls and nothing else, since other threads of ours may hold any lock.
extern "C" fn child(task: *mut libc::c_void) -> libc::c_int {
    // SAFETY: it is the task of `run_child`, which waits until we have ended.
    let task = unsafe { &mut *task.cast::<Task>() };
    let mut attempt = |doing, result: libc::c_int| {
        if result == -1 {
            // SAFETY: errno is the waiting thread's.
            task.failed = Some((doing, unsafe { *libc::__errno_location() }));
        }
        result
    };
    // SAFETY: only descriptors and constants are handed over.
    unsafe {
        if let Some(user_namespace) = task.user_namespace
            && attempt(
                "entering the user namespace",
                libc::setns(user_namespace, libc::CLONE_NEWUSER),
            ) == -1
        {
            return 1;
        }
        if attempt("making a network namespace", libc::unshare(libc::CLONE_NEWNET)) == -1 {
            return 1;
        }
        for (path, values) in SETTINGS {
            // In a container /proc/sys is often read-only; then the kernel's defaults apply.
            let file = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
            if file != -1 {
                for value in values {
                    if libc::write(file, value.as_ptr().cast(), value.count_bytes()) != -1 {
                        break;
                    }
                }
                libc::close(file);
            }
        }
        let path = c"/proc/self/ns/net".as_ptr();
        let namespace = libc::open(path, libc::O_RDONLY | libc::O_CLOEXEC);
        task.opened[0] = attempt("opening a network namespace", namespace);
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        let links = libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE);
        task.opened[1] = attempt("opening a netlink socket", links);
        let datagrams = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        task.opened[2] = attempt("opening a socket", datagrams);
    }
    0
}
