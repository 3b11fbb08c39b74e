//! Pid 1 of the step, from its creation to the exec of the step's program. Nothing of the image
//! has run yet and nothing else runs in its namespaces, so there is nobody to race with, but
//! mounts it shares with other steps; all it touches it reaches by descriptors.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Uid, chownat};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Signal, fchdir, set_parent_process_death_signal, umask};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use super::mount_attributes::{self as attributes, NO_DEV, NO_EXEC, NO_SUID, READ_ONLY};
use super::mounts::{Mounted, attach, clone_attached, new_file_system};
use super::paths::{self, Kind, OnCreate};
use super::program::{self, Program};
use super::stdio::Stdio;
use super::{Doing, Result, credentials, device_nodes, failure};
use crate::cgroup::Leaf;
use crate::emulation::Execution;
use crate::rlimits;
use crate::step::{Rlimit, Security, Step, User};
use crate::user_namespace::Ids;
use crate::wire::{Message, Order, Report, send, write_with};

/// What pid 1 gets from the monitor.
pub struct Context<'a> {
    /// The order.
    pub order: &'a Order,
    /// The user namespace that it enters.
    pub user_namespace: Option<BorrowedFd<'a>>,
    /// Whose ids the step's are on the host.
    pub ids: Ids,
    /// The mount tree.
    pub mounted: &'a Mounted,
    /// The step's cgroups.
    pub cgroup: &'a Leaf,
    /// Whether this process is in the unified cgroup already.
    pub in_cgroup: bool,
    /// Whether the cgroup restricts devices.
    pub devices_guarded: bool,
    /// Where failures are reported.
    pub socket: &'a UnixStream,
    /// The pidfd of the monitor.
    pub monitor: OwnedFd,
    /// The step's standard streams.
    pub stdio: Stdio,
    /// Where the monitor waits for a listener that gets the calls which make device nodes.
    pub node_calls: Option<UnixStream>,
    /// The program of the step's emulator, if the kernel does not start it.
    pub emulator: Option<&'a OwnedFd>,
}

/// What of /proc and /sys a step cannot read, as in Docker (moby/daemon/pkg/oci/defaults.go).
pub const MASKED_PROC: [&str; 10] = [
    "acpi",
    "asound",
    "interrupts",
    "kcore",
    "keys",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
    "timer_stats",
];
const MASKED_SYS: [&str; 2] = ["firmware", "devices/virtual/powercap"];
/// Where each processor may have counters of its heat, which tell what others compute
/// (GHSA-6fw5-f8r9-fgfm).
const PROCESSORS: &str = "devices/system/cpu";
const HEAT: &str = "thermal_throttle";
/// What of /proc it cannot write.
pub const READ_ONLY_PROC: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];

/// The paths within a /sys that a step cannot read, whether they are there or not, but for those that
/// depend on the processors.
pub fn masked_sys(sys: &OwnedFd) -> Vec<String> {
    let fixed = MASKED_SYS.map(str::to_owned);
    // Where they cannot be listed, there are none.
    fixed.into_iter().chain(heat_counters(sys).unwrap_or_default()).collect()
}

fn heat_counters(sys: &OwnedFd) -> rustix::io::Result<Vec<String>> {
    let mut found = Vec::new();
    let processors = paths::open(sys, PROCESSORS, OFlags::RDONLY | OFlags::DIRECTORY)?;
    for entry in Dir::new(processors)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let number = name.strip_prefix("cpu").is_some_and(|rest| rest.parse::<u32>().is_ok());
        let path = format!("{PROCESSORS}/{name}/{HEAT}");
        if number && paths::resolve(sys, &path).is_ok() {
            found.push(path);
        }
    }
    Ok(found)
}

/// Turns into the step's program, or reports why that failed.
pub fn run(context: Context<'_>) -> ! {
    let Err(failed) = prepare_and_exec(&context);
    _ = send(context.socket, &Message::Ended(Report::Failed(failed)));
    // SAFETY: ends this process at once, without running what the monitor registered for its end.
    unsafe { libc::_exit(127) }
}

fn prepare_and_exec(context: &Context<'_>) -> Result<std::convert::Infallible> {
    let step = &context.order.step;
    let insecure = step.privileges.security == Security::Insecure;
    die_with_monitor(&context.monitor)?;
    if !context.in_cgroup {
        context.cgroup.enter_unified().doing(|| "entering the cgroup".to_owned())?;
    }
    context.cgroup.enter_v1().doing(|| "entering the cgroup".to_owned())?;
    // SAFETY: one thread, and this flag shares or unshares no descriptors.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWCGROUP) }
        .doing(|| "entering a new cgroup namespace".to_owned())?;
    mount_proc(context.mounted, insecure)?;
    for limit in &step.limits.rlimits {
        let Rlimit { name, soft, hard } = limit;
        rlimits::set(limit).doing(|| format!("setting the ulimit `{name}={soft}:{hard}`"))?;
    }

    let dev = context.mounted.dev.as_ref().expect("build mounted /dev");
    let root = context.mounted.root.as_ref().expect("build mounted the root");
    let null = rustix::fs::openat(dev, "null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .doing(|| "opening /dev/null".to_owned())?;
    context
        .stdio
        .connect(&null, &step.user, context.ids)
        .doing(|| "connecting the standard streams".to_owned())?;
    new_keyring();
    reset_signals();
    enter_cwd(root, step, context.ids)?;
    let program = Program::new(step, || program::read_passwd(root));
    if let Some(user_namespace) = context.user_namespace {
        // With all capabilities there, and none over anything that was made until now.
        move_into_link_name_space(user_namespace, Some(LinkNameSpaceType::User))
            .doing(|| "entering the user namespace".to_owned())?;
    }

    let filter = if insecure { None } else { Some(context.order.filter.as_slice()) };
    credentials::restrict(step, filter, context.devices_guarded, || {
        // Without it no device node can be made, which few images need.
        if let Some(monitor) = &context.node_calls
            && let Ok(listener) = device_nodes::listen()
        {
            _ = write_with(monitor, &[0], &[listener.as_fd()]);
        }
    })?;
    // The kernel forgets this when credentials change.
    die_with_monitor(&context.monitor)?;
    umask(Mode::from_raw_mode(0o022));
    close_on_exec().doing(|| "closing descriptors".to_owned())?;
    if step.execution == Execution::In32Bits {
        in_32_bits().doing(|| "changing to 32 bits".to_owned())?;
    }
    Err(program.exec(step, context.emulator))
}

/// Has the kernel kill this process, and with it the namespace, when the monitor dies.
fn die_with_monitor(monitor: &OwnedFd) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))
        .doing(|| "binding the step's life to the helper's".to_owned())?;
    // It may have died before.
    let mut dead = [PollFd::new(monitor, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    match poll(&mut dead, Some(&now)) {
        Ok(0) => Ok(()),
        Ok(_) => Err(failure("the sandbox helper died".to_owned(), io::ErrorKind::Other.into())),
        Err(error) => Err(error).doing(|| "looking for the helper".to_owned()),
    }
}

fn mount_proc(mounted: &Mounted, insecure: bool) -> Result<()> {
    // Only a process in the pid namespace can make its /proc.
    let plain = NO_SUID | NO_DEV | NO_EXEC;
    let proc = new_file_system("proc", &[], plain).doing(|| "making /proc".to_owned())?;
    if let Some(host) = &mounted.host_proc {
        let left = fchdir(host).and_then(|()| unmount(".", UnmountFlags::DETACH));
        left.doing(|| "unmounting the host's /proc".to_owned())?;
    }
    let target = mounted.proc_target.as_ref().expect("build made the mount point");
    attach(&proc, target).doing(|| "mounting /proc".to_owned())?;
    let sys = mounted.sys.as_ref().expect("build mounted /sys");
    let read_only = if insecure { 0 } else { READ_ONLY };
    // Where the kernel has no unified cgroups a step sees none.
    _ = new_file_system("cgroup2", &[], read_only | plain)
        .and_then(|cgroups| attach(cgroups, paths::resolve(sys, "fs/cgroup")?));
    if insecure {
        return Ok(());
    }
    for path in READ_ONLY_PROC {
        on_existing(&proc, path, |file| {
            let mount = clone_attached(&file)?;
            attributes::set(&mount, READ_ONLY)?;
            attach(mount, file)
        })
        .doing(|| format!("making /proc/{path} read-only"))?;
    }
    let dev = mounted.dev.as_ref().expect("build mounted /dev");
    let null = paths::resolve(dev, "null").doing(|| "opening /dev/null".to_owned())?;
    let empty = mounted.empty.as_ref().expect("build made it");
    let mut empty_attached = false;
    let sys_paths = masked_sys(sys);
    let proc_paths = MASKED_PROC.iter().map(|path| (&proc, *path));
    for (tree, path) in proc_paths.chain(sys_paths.iter().map(|path| (sys, path.as_str()))) {
        on_existing(tree, path, |file| {
            if paths::file_type(&file)? != FileType::Directory {
                let mask = clone_attached(&null)?;
                attributes::set(&mask, READ_ONLY)?;
                return attach(mask, file);
            }
            if empty_attached {
                return attach(clone_attached(empty)?, file);
            }
            empty_attached = true;
            attach(empty, file)
        })
        .doing(|| format!("masking {path}"))?;
    }
    Ok(())
}

/// Does something with a file of a kernel file system, if the kernel has it.
fn on_existing(
    tree: &OwnedFd,
    path: &str,
    change: impl FnOnce(OwnedFd) -> io::Result<()>,
) -> io::Result<()> {
    match paths::resolve(tree, path) {
        Err(rustix::io::Errno::NOENT) => Ok(()),
        file => change(file?),
    }
}

/// Gives the step a session keyring of its own, where the kernel has keyrings.
fn new_keyring() {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: no name is given, so no memory is read.
    unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0) };
}

/// Undoes what the engine, its own parents, or Rust's runtime (SIGPIPE) did to signals.
fn reset_signals() {
    /// The kernel's `sigset_t` has 64 bits (rt_sigprocmask(2)).
    const SET_SIZE: usize = 8;
    // The kernel's `struct sigaction`: handler (0 is SIG_DFL), flags, restorer, mask.
    let default = [0_u64; 4];
    let none = 0_u64;
    let null = std::ptr::null_mut::<u64>();
    for signal in 1..=64 {
        // By system call, since libc hides signals 32 and 33. KILL and STOP refuse, rightly.
        // SAFETY: `default` is as large as the structure, and default dispositions run no code.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), null, SET_SIZE);
        }
    }
    // SAFETY: `none` has the size that is said.
    unsafe {
        let set = libc::SIG_SETMASK;
        libc::syscall(libc::SYS_rt_sigprocmask, set, &raw const none, null, SET_SIZE);
    }
}

/// Creates directories that belong to the user and stay.
struct Owned {
    uid: Uid,
    gid: Gid,
}

impl Owned {
    fn new(user: &User, ids: Ids) -> io::Result<Self> {
        let (uid, gid) = (ids.host(user.uid)?, ids.host(user.gid)?);
        Ok(Self { uid: Uid::from_raw(uid), gid: Gid::from_raw(gid) })
    }
}

impl OnCreate for Owned {
    fn created(
        &mut self,
        directory: &OwnedFd,
        name: &str,
        _kind: Kind,
        create: &mut dyn FnMut() -> io::Result<()>,
    ) -> io::Result<()> {
        create()?;
        let (uid, gid) = (Some(self.uid), Some(self.gid));
        Ok(chownat(directory, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?)
    }
}

/// Opens the step's working directory, which is made if it is not there.
pub fn ensure_cwd(root: impl AsFd, step: &Step, ids: Ids) -> Result<OwnedFd> {
    let doing = || format!("changing to the working directory `{}`", step.cwd);
    let mut owned = Owned::new(&step.user, ids).doing(doing)?;
    paths::ensure(root, &step.cwd, Kind::Directory, &mut owned).doing(doing)
}

fn enter_cwd(root: impl AsFd, step: &Step, ids: Ids) -> Result<()> {
    let doing = || format!("changing to the working directory `{}`", step.cwd);
    fchdir(ensure_cwd(root, step, ids)?).doing(doing)?;
    // The kernel prefixes the name of a directory outside the root.
    let name = rustix::process::getcwd(Vec::new()).doing(doing)?;
    if name.as_bytes().starts_with(b"/") {
        return Ok(());
    }
    Err(failure(doing(), io::Error::other("it lies outside the step's root")))
}

/// Has the kernel say that the machine is a 32-bit one (personality(2), as `linux32` does).
fn in_32_bits() -> io::Result<()> {
    const PER_LINUX32: libc::c_ulong = 8;
    // SAFETY: it only sets a number.
    match unsafe { libc::personality(PER_LINUX32) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Marks all descriptors but the standard ones to be closed when the program starts; the socket is
/// needed until then.
fn close_on_exec() -> io::Result<()> {
    // SAFETY: this only sets a flag on descriptors.
    let result = unsafe { libc::close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as i32) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_heat_are_found() {
        let sys = tempfile::tempdir().expect("a temporary directory can be made");
        let make = |path: &str| {
            std::fs::create_dir_all(sys.path().join(path)).expect("it can be made");
        };
        let masked = || {
            let sys =
                rustix::fs::open(sys.path(), OFlags::PATH, Mode::empty()).expect("it is there");
            let mut masked = masked_sys(&sys);
            masked.sort();
            masked
        };
        assert_eq!(masked(), ["devices/virtual/powercap", "firmware"]);
        for path in
            ["cpu0/thermal_throttle", "cpu11/thermal_throttle", "cpu2", "cpufreq/thermal_throttle"]
        {
            make(&format!("devices/system/cpu/{path}"));
        }
        assert_eq!(
            masked(),
            [
                "devices/system/cpu/cpu0/thermal_throttle",
                "devices/system/cpu/cpu11/thermal_throttle",
                "devices/virtual/powercap",
                "firmware",
            ]
        );
    }
}
