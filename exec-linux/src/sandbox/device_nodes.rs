//! Makes the device nodes that a step in a user namespace of its own asks for.
//!
//! There the kernel lets nobody make one, yet CAP_MKNOD is a default capability of Docker's, and
//! images make `/dev/null` for a chroot of theirs. So such calls come to the helper by a seccomp
//! listener (seccomp_unotify(2)), and a child of the helper repeats them as the process that made
//! them: in its root directory, with its ids for files, and no capability over files but its own.
//! Whatever the path means by the time it is looked up, it is looked up where that process itself
//! could have looked. What may be *opened* is the device filter's affair.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{Mode, OFlags, openat};
use rustix::process::{chroot, fchdir, umask};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use crate::seccomp::nodes::{self, MakeNode};

/// The longest path that the kernel takes, with its NUL.
const PATH_MAX: usize = libc::PATH_MAX as usize;
/// What a process may have over files.
const OVER_FILES: CapabilitySet = CapabilitySet::DAC_OVERRIDE
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID);

/// Where calls of a step's processes arrive.
#[derive(Debug)]
pub struct Listener {
    calls: OwnedFd,
    /// The host's /proc.
    proc: OwnedFd,
}

impl Listener {
    /// Takes what [`listen`] gave.
    pub fn new(calls: OwnedFd, proc: OwnedFd) -> Self {
        Self { calls, proc }
    }

    /// Answers one call, which must have arrived.
    pub fn answer(&self) {
        // SAFETY: all-zero bytes are valid for both, and required of the first.
        let (mut call, mut response): (libc::seccomp_notif, libc::seccomp_notif_resp) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        let calls = self.calls.as_raw_fd();
        // SAFETY: the structure is as large as the request says.
        let received = unsafe { libc::ioctl(calls, libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut call) };
        // Its process may be gone already.
        if received == -1 {
            return;
        }
        let result = self.make_node(&call);
        response.id = call.id;
        response.error =
            result.map_or_else(|error| -error.raw_os_error().unwrap_or(libc::EPERM), |()| 0);
        // SAFETY: as above. That the process is gone is no failure.
        unsafe { libc::ioctl(calls, libc::SECCOMP_IOCTL_NOTIF_SEND, &raw const response) };
    }

    fn make_node(&self, notification: &libc::seccomp_notif) -> io::Result<()> {
        let data = &notification.data;
        let denied = || io::Error::from_raw_os_error(libc::EPERM);
        let call = nodes::call(data.arch, data.nr.cast_unsigned()).ok_or_else(denied)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let process = openat(&self.proc, notification.pid.to_string(), flags, Mode::empty())?;
        let caller = Caller::new(&process, &call, &data.args)?;
        // All that was just opened was the caller's only if it still waits for its answer: else
        // its number may be another's.
        if !self.waits(notification.id) {
            return Err(denied());
        }
        if !caller.capabilities.contains(CapabilitySet::MKNOD) {
            return Err(denied());
        }
        let (mode, device) = (data.args[call.mode] as u32, data.args[call.mode + 1] as u32);
        // SAFETY: the helper has one thread, so the child may go on using its copy of everything.
        let child = match unsafe { libc::fork() } {
            -1 => return Err(io::Error::last_os_error()),
            0 => {
                let made = caller.make_node(mode, device);
                let errno = made.map_or_else(|e| e.raw_os_error().unwrap_or(libc::EPERM), |()| 0);
                // SAFETY: ends this process at once, without what its parent registered.
                unsafe { libc::_exit(errno) }
            }
            child => child,
        };
        let mut status = 0;
        // SAFETY: `status` outlives the call.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        // Error numbers are smaller than the range of exit codes.
        match (libc::WIFEXITED(status), libc::WEXITSTATUS(status)) {
            (true, 0) => Ok(()),
            (true, errno) => Err(io::Error::from_raw_os_error(errno)),
            (false, _) => Err(denied()),
        }
    }

    fn waits(&self, id: u64) -> bool {
        let calls = self.calls.as_raw_fd();
        // SAFETY: the request reads a number of this size.
        unsafe { libc::ioctl(calls, libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw const id) == 0 }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.calls.as_fd()
    }
}

/// The process that made a call, as it was then.
struct Caller {
    path: CString,
    root: OwnedFd,
    /// Where relative paths begin.
    directory: OwnedFd,
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    umask: u32,
    capabilities: CapabilitySet,
}

impl Caller {
    fn new(process: &OwnedFd, call: &MakeNode, args: &[u64; 6]) -> io::Result<Self> {
        let path = read_path(process, args[call.mode - 1])?;
        let open = |name: &str| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            openat(process, name, flags, Mode::empty())
        };
        let root = open("root")?;
        let directory = match args[0] as i32 {
            _ if path.as_bytes().starts_with(b"/") => root.try_clone()?,
            number if call.has_directory() && number != libc::AT_FDCWD => {
                // What is no directory the kernel tells by its own error.
                open(&format!("fd/{number}")).map_err(|error| match error {
                    rustix::io::Errno::NOENT => rustix::io::Errno::BADF,
                    error => error,
                })?
            }
            _ => open("cwd")?,
        };
        let mut status = String::new();
        let file = openat(process, "status", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        File::from(file).read_to_string(&mut status)?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(str::trim).ok_or_else(|| io::Error::from_raw_os_error(libc::EPERM))
        };
        let number = |text: &str, radix| u64::from_str_radix(text, radix).map_err(io::Error::other);
        // Real, effective, saved, and that for files.
        let for_files = |line: &str| number(line.split_whitespace().nth(3).unwrap_or(""), 10);
        let groups = field("Groups")?.split_whitespace().map(|group| Ok(number(group, 10)? as u32));
        Ok(Self {
            path,
            root,
            directory,
            uid: for_files(field("Uid")?)? as u32,
            gid: for_files(field("Gid")?)? as u32,
            groups: groups.collect::<io::Result<_>>()?,
            umask: number(field("Umask")?, 8)? as u32,
            capabilities: CapabilitySet::from_bits_retain(number(field("CapEff")?, 16)?),
        })
    }

    /// Turns this process into the caller, as far as files are concerned, and makes the node.
    fn make_node(&self, mode: u32, device: u32) -> io::Result<()> {
        fchdir(&self.root)?;
        chroot(".")?;
        umask(Mode::from_raw_mode(self.umask));
        let permitted = rustix::thread::capabilities(None)?.permitted;
        // SAFETY: `groups` has as many entries as is said. By system call, since it is enough to
        // change this thread.
        unsafe {
            if libc::syscall(libc::SYS_setgroups, self.groups.len(), self.groups.as_ptr()) == -1 {
                return Err(io::Error::last_os_error());
            }
        }
        super::host_files::act_as(self.uid, self.gid)?;
        let effective = (self.capabilities & OVER_FILES) | CapabilitySet::MKNOD;
        let inheritable = CapabilitySet::empty();
        set_capabilities(None, CapabilitySets { effective, permitted, inheritable })?;
        // SAFETY: the path is NUL-terminated. By system call, since libc encodes devices anew.
        let made = unsafe {
            let directory = self.directory.as_raw_fd();
            libc::syscall(libc::SYS_mknodat, directory, self.path.as_ptr(), mode, device)
        };
        if made == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// Reads a path of the caller's memory.
fn read_path(process: &OwnedFd, address: u64) -> io::Result<CString> {
    let fault = || io::Error::from_raw_os_error(libc::EFAULT);
    let memory = openat(process, "mem", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = vec![0; PATH_MAX];
    // Up to where its memory ends.
    let read = File::from(memory).read_at(&mut bytes, address).map_err(|_| fault())?;
    let end =
        bytes[..read].iter().position(|byte| *byte == 0).ok_or_else(|| match read == PATH_MAX {
            true => io::Error::from_raw_os_error(libc::ENAMETOOLONG),
            false => fault(),
        })?;
    bytes.truncate(end);
    Ok(CString::new(bytes).expect("it ends at the first NUL"))
}

/// Installs the filter that hands over such calls of this process and its children.
pub fn listen() -> io::Result<OwnedFd> {
    let filter = nodes::native_filter().ok_or(io::ErrorKind::Unsupported)?;
    let listener = super::credentials::install(&filter, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER)?;
    // SAFETY: with this flag the kernel has just made a descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(listener) })
}
