//! The helper process: everything that happens between the engine's order and the step's program.
//!
//! This file is its monitor: it makes the namespaces, starts pid 1 (`init`), waits, and cleans up.
//! The process is single-threaded and was started for this one step, so what it changes about
//! itself is nobody else's. It goes into the step's mount namespace to build it, and leaves it
//! again by `setns` when the step has ended: with that the namespace and all mounts in it vanish.

mod credentials;
mod dev;
mod device_filter;
mod device_nodes;
mod host_files;
mod init;
pub mod mount_attributes;
mod mounts;
mod oci;
mod paths;
mod program;
mod stdio;
mod stubs;

use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::exit;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal, umask};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::cdi::Node;
use crate::cgroup::Leaf;
use crate::emulation::{Execution, binfmt};
use crate::entitlement::Granted;
use crate::rootless;
use crate::step::{Network, Security, Step};
use crate::user_namespace::{self, Ids};
use crate::wire::{
    Failure, FailureKind, Lent, Message, Order, Preparation, Report, Task, read_with, receive,
    receive_plain, send, send_with,
};

use device_nodes::Listener;
use mounts::{Mounted, Privilege};
pub use mounts::{STAGE, STUB_LAYERS};
use stdio::{Stdio, onto};

/// The `argv[0]` by which the program knows that it is to be the helper.
pub const HELPER_ARGV0: &str = "cofferdam-sandbox";

/// Becomes the sandbox helper, and never returns, if this process was started as one; otherwise
/// does nothing. Must be called first thing in `main`, before there is a second thread.
pub fn sandbox_entry() {
    let Some(name) = std::env::args_os().next() else { return };
    if name == HELPER_ARGV0 {
        helper()
    }
    if name == user_namespace::ARGV0 {
        user_namespace::hold()
    }
    if name == binfmt::ARGV0 {
        binfmt::helper(take_socket())
    }
}

/// What the helper's functions give: an error is a report to the engine.
type Result<T> = std::result::Result<T, Failure>;

/// Says what was being done when the kernel refused something.
trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| failure(what(), error.into()))
    }
}

fn failure(mut doing: String, error: io::Error) -> Failure {
    let errno = error.raw_os_error();
    if errno.is_none() {
        doing = format!("{doing}: {error}");
    }
    Failure { kind: FailureKind::Setup, doing, errno }
}

fn helper() -> ! {
    // Nobody reads a panic's text here, and the step's process must not unwind into `main`.
    std::panic::set_hook(Box::new(|panic| {
        _ = writeln!(io::stderr(), "cofferdam: internal error in the sandbox: {panic}");
        exit(70);
    }));
    let Ok(socket) = take_socket() else { exit(70) };
    // What needs no order is done before there is one: a step finds its helper waiting.
    let device_filter = device_filter::load([]).ok();
    // Without a word the engine is gone, and nothing is made for it.
    let Ok(Preparation { id, hierarchies }) = receive_plain(&socket) else { exit(0) };
    let mut cgroup = Leaf::new(hierarchies, &id);
    let report = match receive::<Task>(&socket) {
        Ok((Task::Close, _slow)) => {
            cgroup.remove();
            // The engine must not be the last to have it.
            _ = io::copy(&mut &socket, &mut io::sink());
            exit(0)
        }
        Ok((Task::Step(mut order), descriptors)) => {
            order.step.privileges = Granted::received(std::mem::take(&mut order.privileges));
            let lent = Namespaces::new(&order.lent, descriptors);
            if let Some(elsewhere) = &order.hierarchies {
                cgroup.remove();
                cgroup = Leaf::new(elsewhere.clone(), &id);
            }
            let ended = monitor(&order, &lent, &socket, device_filter, &mut cgroup);
            cgroup.kill();
            let ended = ended.map(|report| add_memory_verdict(report, &cgroup));
            ended.unwrap_or_else(Report::Failed)
        }
        Err(error) => Report::Failed(failure("reading the order".to_owned(), error)),
    };
    cgroup.remove();
    // An engine that is gone does not read it.
    _ = send(&socket, &Message::Ended(report));
    exit(0)
}

/// Takes the socket from descriptor 0, which becomes /dev/null.
fn take_socket() -> io::Result<UnixStream> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    onto(&openat(CWD, "/dev/null", flags, Mode::empty())?, 0)?;
    Ok(socket.into())
}

/// The namespaces that the engine lends.
#[derive(Debug, Default)]
struct Namespaces {
    user: Option<OwnedFd>,
    network: Option<OwnedFd>,
}

impl Namespaces {
    fn new(lent: &[Lent], descriptors: Vec<OwnedFd>) -> Self {
        let mut namespaces = Self::default();
        for (lent, descriptor) in lent.iter().zip(descriptors) {
            match lent {
                Lent::UserNamespace => namespaces.user = Some(descriptor),
                Lent::NetworkNamespace => namespaces.network = Some(descriptor),
            }
        }
        namespaces
    }

    /// Whose ids the step's are on the host.
    fn ids(&self) -> Ids {
        Ids::of(self.user.as_ref().map(AsFd::as_fd))
    }
}

/// What of the host is needed when nothing of it can be seen any more.
struct Host {
    null: OwnedFd,
    proc: OwnedFd,
    /// Its mount namespace.
    mounts: OwnedFd,
    privilege: Privilege,
    /// The program of the step's emulator, if the kernel does not start it.
    emulator: Option<OwnedFd>,
}

impl Host {
    fn open(step: &Step) -> Result<Self> {
        fn open(path: impl AsRef<Path>, flags: OFlags) -> Result<OwnedFd> {
            let path = path.as_ref();
            openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty())
                .doing(|| format!("opening the host's `{}`", path.display()))
        }
        Ok(Self {
            null: open("/dev/null", OFlags::RDWR)?,
            proc: open("/proc", OFlags::PATH | OFlags::DIRECTORY)?,
            mounts: open("/proc/self/ns/mnt", OFlags::RDONLY)?,
            privilege: match rootless::in_initial_namespace() {
                true => Privilege::Machine,
                false => Privilege::Namespace,
            },
            emulator: match &step.execution {
                Execution::Emulated(emulator) => Some(open(&emulator.program, OFlags::PATH)?),
                _ => None,
            },
        })
    }
}

fn monitor(
    order: &Order,
    namespaces: &Namespaces,
    socket: &UnixStream,
    device_filter: Option<OwnedFd>,
    cgroup: &mut Leaf,
) -> Result<Report> {
    let step = &order.step;
    umask(Mode::empty());
    std::env::set_current_dir("/").doing(|| "changing to the host's root".to_owned())?;
    let host = Host::open(step)?;

    if order.oci_runtime.is_some() {
        oci::refuse(order, host.privilege)?;
    }
    let devices = &step.privileges.devices.nodes;
    let device_filter = match devices.as_slice() {
        [] => device_filter,
        devices => device_filter::load(devices.iter().map(Node::rule)).ok(),
    };
    let devices_guarded = match (step.privileges.security, cgroup.unified(), device_filter) {
        (Security::Insecure, ..) => true,
        // The kernel lets nobody make one.
        _ if host.privilege == Privilege::Namespace => true,
        (Security::Sandbox, Some(unified), Some(filter)) => {
            device_filter::attach(&filter, unified).is_ok()
        }
        (Security::Sandbox, ..) => false,
    };
    let filtered = devices_guarded && host.privilege == Privilege::Machine;
    if !filtered && order.oci_runtime.is_none() {
        dev::refuse_restricted(devices)?;
    }
    enter_namespaces(namespaces, step.privileges.network)?;
    rustix::system::sethostname(step.hostname.as_bytes())
        .doing(|| format!("setting the host name `{}`", step.hostname))?;
    let mut mounted = Mounted::default();
    let user = namespaces.user.as_ref().map(AsFd::as_fd);
    let ended = match &order.oci_runtime {
        Some(runtime) => oci::run(order, runtime, namespaces, &mut mounted, socket, &host),
        None => (|| {
            cgroup.limit(&step.limits).map_err(|(doing, error)| failure(doing, error))?;
            mounts::build(order, host.privilege, user, devices_guarded, &mut mounted)?;
            run(order, namespaces, &mounted, cgroup, devices_guarded, socket, &host)
        })(),
    };
    // Back to the host, even from half-built mounts: only then can stubs be removed.
    let left = move_into_link_name_space(host.mounts.as_fd(), Some(LinkNameSpaceType::Mount));
    mounted.stubs.remove();
    let report = ended?;
    left.doing(|| "leaving the step's mount namespace".to_owned())?;
    Ok(report)
}

fn add_memory_verdict(report: Report, cgroup: &Leaf) -> Report {
    match report {
        Report::Code { code, .. } => Report::Code { code, oom: cgroup.out_of_memory() },
        Report::Signal { signal, .. } => Report::Signal { signal, oom: cgroup.out_of_memory() },
        failed @ Report::Failed(_) => failed,
    }
}

/// Enters new namespaces of all kinds but pid (which only a child can), cgroup (which pid 1
/// enters once it is in its cgroup) and user (which pid 1 enters last, so that it owns no other).
fn enter_namespaces(namespaces: &Namespaces, network: Network) -> Result<()> {
    let flags = UnshareFlags::NEWNS | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    // SAFETY: the process has one thread, and no descriptor table is shared by these flags.
    unsafe { rustix::thread::unshare_unsafe(flags) }
        .doing(|| "entering new namespaces".to_owned())?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).doing(|| "making mounts private".to_owned())?;
    match (&namespaces.network, network) {
        (Some(lent), _) => {
            move_into_link_name_space(lent.as_fd(), Some(LinkNameSpaceType::Network))
                .doing(|| "entering the step's network".to_owned())
        }
        // The engine lends one wherever it offers another than the host's.
        (None, Network::Default | Network::Host) => Ok(()),
        (None, Network::None) => Err(failure(
            "entering the step's network".to_owned(),
            io::Error::other("the engine lent none"),
        )),
    }
}

/// Starts pid 1 and waits until it has gone, and with it every process of the step.
fn run(
    order: &Order,
    namespaces: &Namespaces,
    mounted: &Mounted,
    cgroup: &Leaf,
    devices_guarded: bool,
    socket: &UnixStream,
    host: &Host,
) -> Result<Report> {
    let monitor = pidfd_open(rustix::process::getpid(), PidfdFlags::empty())
        .doing(|| "opening the helper's own process".to_owned())?;
    let dev = mounted.dev.as_ref().expect("build mounted /dev");
    let stdio = connect(order, namespaces.ids(), dev, socket)?;
    // A step with the host's own root makes device nodes itself.
    let (node_calls, theirs) = match (&namespaces.user, devices_guarded) {
        (Some(_), true) => UnixStream::pair().map(|(ours, theirs)| (Some(ours), Some(theirs))),
        _ => Ok((None, None)),
    }
    .doing(|| "making a socket".to_owned())?;
    let child = match clone_init(cgroup.unified()).doing(|| "starting pid 1".to_owned())? {
        Cloned::Parent(child) => child,
        Cloned::Child { in_cgroup } => init::run(init::Context {
            order,
            user_namespace: namespaces.user.as_ref().map(AsFd::as_fd),
            ids: namespaces.ids(),
            mounted,
            cgroup,
            in_cgroup,
            devices_guarded,
            socket,
            monitor,
            stdio,
            node_calls: theirs,
            emulator: host.emulator.as_ref(),
        }),
    };
    // The step's streams must end with the step.
    drop((stdio, theirs));
    for standard in [1, 2] {
        onto(&host.null, standard).doing(|| "closing the step's output".to_owned())?;
    }
    wait(&child, socket, cgroup, node_calls, &host.proc)?;
    let options = rustix::process::WaitIdOptions::EXITED;
    let status = rustix::process::waitid(rustix::process::WaitId::PidFd(child.as_fd()), options)
        .doing(|| "waiting for the step".to_owned())?
        .expect("waitid without NOHANG gives a status");
    Ok(match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Report::Code { code, oom: false },
        (None, signal) => Report::Signal { signal: signal.unwrap_or(libc::SIGKILL), oom: false },
    })
}

/// Waits until pid 1 has gone, killing it when the engine goes, and makes device nodes meanwhile.
fn wait(
    child: &OwnedFd,
    socket: &UnixStream,
    cgroup: &Leaf,
    mut node_calls: Option<UnixStream>,
    proc: &OwnedFd,
) -> Result<()> {
    let (mut engine, mut listener) = (Some(socket), None::<Listener>);
    loop {
        let hangup = PollFlags::IN | PollFlags::RDHUP;
        let mut waiting_for = vec![PollFd::new(child, PollFlags::IN)];
        // The engine says nothing more; whatever comes is its end.
        waiting_for.extend(engine.map(|socket| PollFd::new(socket, hangup)));
        let nodes = waiting_for.len();
        // First the listener is awaited, then what it hears.
        waiting_for.extend(node_calls.as_ref().map(|socket| PollFd::new(socket, PollFlags::IN)));
        waiting_for.extend(listener.as_ref().map(|calls| PollFd::new(calls, PollFlags::IN)));
        match poll(&mut waiting_for, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).doing(|| "waiting for the step".to_owned()),
        }
        let happened =
            |index: usize| waiting_for.get(index).map_or(PollFlags::empty(), PollFd::revents);
        if !happened(0).is_empty() {
            return Ok(());
        }
        let (engine_says, node_says) = (happened(1), happened(nodes));
        drop(waiting_for);
        if engine.is_some() && !engine_says.is_empty() {
            cgroup.kill();
            // Gone already is as good.
            _ = pidfd_send_signal(child, Signal::KILL);
            engine = None;
        }
        if let Some(socket) = node_calls.take_if(|_| !node_says.is_empty()) {
            let mut received = read_with(&socket, &mut Vec::new()).ok();
            let calls = received.as_mut().and_then(|received| received.descriptors.pop());
            listener = calls.zip(proc.try_clone().ok()).map(|(c, p)| Listener::new(c, p));
        } else if node_says.contains(PollFlags::IN)
            && let Some(listener) = &listener
        {
            listener.answer();
        } else if !node_says.is_empty() {
            // No process is left that could call.
            listener = None;
        }
    }
}

/// Makes the step's standard input and sends the other end to the engine.
fn connect(order: &Order, ids: Ids, dev: &OwnedFd, socket: &UnixStream) -> Result<Stdio> {
    let (stdio, theirs) = Stdio::make(order.input, dev, &order.step.user, ids)
        .doing(|| "making the standard input".to_owned())?;
    if let Some(theirs) = theirs {
        send_with(socket, &Message::Connected, theirs)
            .doing(|| "handing over the standard input".to_owned())?;
    }
    Ok(stdio)
}

/// On which side of the clone this process is.
enum Cloned {
    /// The monitor, with the child's pidfd.
    Parent(OwnedFd),
    /// Pid 1 of a new pid namespace.
    Child {
        /// Whether it was born in the unified cgroup. To move a process later takes 10 to 20 ms,
        /// for the kernel waits until no process of the host is being forked.
        in_cgroup: bool,
    },
}

/// Clones this process as pid 1 of a new pid namespace, in the given cgroup if that is possible.
fn clone_init(cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    match clone(cgroup) {
        Err(_) if cgroup.is_some() => clone(None),
        result => result,
    }
}

/// `CLONE_INTO_CGROUP` of linux/sched.h; libc's constant is too narrow for it.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

fn clone(cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    let mut pidfd: RawFd = -1;
    // SAFETY: all-zero bytes are a valid `clone_args`.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = (libc::CLONE_NEWPID | libc::CLONE_PIDFD) as u64;
    args.pidfd = &raw mut pidfd as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: memory is not shared (no CLONE_VM), so this is fork(2), and the process has one
    // thread, so the child may go on using its copy of everything. `args` is as long as is said,
    // and `pidfd` outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    match result {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Cloned::Child { in_cgroup: cgroup.is_some() }),
        // SAFETY: the kernel has just made the descriptor for us.
        _ => Ok(Cloned::Parent(unsafe { OwnedFd::from_raw_fd(pidfd) })),
    }
}
