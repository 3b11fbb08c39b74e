//! Another wall for those who want one: the step is run by a program that keeps to the OCI runtime
//! specification (runc, crun, runsc), within the mount namespace of this helper.
//!
//! The helper mounts the root file system and everything that the step sees beside it, as always,
//! and describes the rest: namespaces, ids, capabilities, seccomp, masks and limits are the
//! runtime's to make. So is the cgroup, whose limits are in the description.

use std::borrow::Cow;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio as ProcessStdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::{Value, json};

use super::init::{self, MASKED_PROC, READ_ONLY_PROC, masked_sys};
use super::mounts::{self, BUNDLE, Mounted, Privilege};
use super::{Doing, Host, Namespaces, Result, connect, credentials, failure, onto, program};
use crate::seccomp::native_profile;
use crate::step::{Network, Security, Step, Swap};
use crate::user_namespace::{self, Ids};
use crate::wire::{FailureKind, Order, Report};

/// Runs the step by the runtime, and waits until all of it has gone.
pub fn run(
    order: &Order,
    runtime: &Path,
    namespaces: &Namespaces,
    mounted: &mut Mounted,
    socket: &UnixStream,
    host: &Host,
) -> Result<Report> {
    let step = &order.step;
    let ids = namespaces.ids();
    let user = namespaces.user.as_ref().map(AsFd::as_fd);
    let binds = mounts::build_bundle(order, user, mounted)?;
    let root = mounted.root.as_ref().expect("build_bundle mounted the root");
    // What lies on the runtime's own mounts is not there yet.
    if !["/proc", "/dev", "/sys"].iter().any(|own| Path::new(&step.cwd).starts_with(own)) {
        init::ensure_cwd(root, step, ids)?;
    }
    let environment = program::environment(step, || program::read_passwd(root));
    let network = namespaces
        .network
        .as_ref()
        .map(|network| format!("/proc/{}/fd/{}", std::process::id(), network.as_raw_fd()));
    let sys = rustix::fs::open("/sys", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .doing(|| "opening /sys".to_owned())?;
    let description = describe(order, ids, network, environment, &binds, &sys);
    let doing = || format!("describing the step in `{BUNDLE}/config.json`");
    let text = serde_json::to_vec(&description).map_err(io::Error::from).doing(doing)?;
    fs::write(Path::new(BUNDLE).join("config.json"), text).doing(doing)?;

    let dev = rustix::fs::open("/dev", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .doing(|| "opening /dev".to_owned())?;
    let stdio = connect(order, ids, &dev, socket)?;
    let container = Container { runtime, id: &order.id };
    let mut child = container
        .start(stdio.as_input().doing(|| "passing on the standard input".to_owned())?)
        .doing(|| format!("starting the OCI runtime `{}`", runtime.display()))?;
    // The step's streams must end with the step.
    drop(stdio);
    for standard in [1, 2] {
        onto(&host.null, standard).doing(|| "closing the step's output".to_owned())?;
    }
    let ended = container.wait(&mut child, socket);
    container.delete();
    let status = ended.doing(|| "waiting for the OCI runtime".to_owned())?;
    if let Some(reason) = container.failure() {
        let kind = match () {
            () if reason.contains("executable file not found") => FailureKind::NotFound,
            () if reason.contains("no such file or directory") => FailureKind::NotFound,
            () if reason.contains("permission denied") => FailureKind::NotExecutable,
            () => FailureKind::Setup,
        };
        let doing = format!("{}: {reason}", runtime.display());
        return Err(crate::wire::Failure { kind, doing, errno: None });
    }
    // Of a signal the runtime says what a shell would: 128 and its number.
    Ok(match (status.code(), status.signal()) {
        (Some(code), _) => Report::Code { code, oom: false },
        (None, signal) => Report::Signal { signal: signal.unwrap_or(libc::SIGKILL), oom: false },
    })
}

/// A container of the runtime's.
struct Container<'a> {
    runtime: &'a Path,
    id: &'a str,
}

impl Container<'_> {
    fn command(&self) -> Command {
        let mut command = Command::new(self.runtime);
        command.args(["--root", &in_bundle("state"), "--log", &in_bundle("log")]);
        command.args(["--log-format", "json"]).env_clear();
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        let own_file_ids = || {
            // What this helper changed about itself is not for the runtime: it makes files as the
            // step's root, and keeps capabilities when ids change.
            rustix::thread::set_capabilities_secure_bits(
                rustix::thread::CapabilitiesSecureBits::empty(),
            )?;
            // SAFETY: these calls only set ids, and cannot fail for a process with CAP_SETUID.
            unsafe {
                libc::syscall(libc::SYS_setfsuid, 0);
                libc::syscall(libc::SYS_setfsgid, 0);
            }
            Ok(())
        };
        // SAFETY: the closure makes system calls only, and this process has one thread.
        unsafe { command.pre_exec(own_file_ids) };
        command
    }

    fn start(&self, input: Option<OwnedFd>) -> io::Result<Child> {
        let mut command = self.command();
        command.args(["run", "--bundle", BUNDLE, self.id]);
        command.stdin(input.map_or_else(ProcessStdio::null, ProcessStdio::from));
        command.spawn()
    }

    /// Waits for the runtime's end; kills the container when the engine goes.
    fn wait(&self, child: &mut Child, socket: &UnixStream) -> io::Result<std::process::ExitStatus> {
        let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
        let hangup = PollFlags::IN | PollFlags::RDHUP;
        let mut waiting_for =
            vec![PollFd::new(&process, PollFlags::IN), PollFd::new(socket, hangup)];
        loop {
            match poll(&mut waiting_for, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if !waiting_for[0].revents().is_empty() {
                return child.wait();
            }
            if waiting_for.get(1).is_some_and(|engine| !engine.revents().is_empty()) {
                self.delete();
                _ = child.kill();
                waiting_for.pop();
            }
        }
    }

    /// Removes the container with all its processes. One that is gone already is as good.
    fn delete(&self) {
        let mut command = self.command();
        command.args(["delete", "--force", self.id]);
        _ = command.stdin(ProcessStdio::null()).stdout(ProcessStdio::null()).status();
    }

    /// What the runtime says it could not do.
    fn failure(&self) -> Option<String> {
        let log = fs::read_to_string(in_bundle("log")).ok()?;
        let entries = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let errors = entries.filter(|entry| entry["level"] == "error");
        let messages: Vec<String> =
            errors.filter_map(|entry| Some(entry["msg"].as_str()?.to_owned())).collect();
        // What deleting says comes after what starting said.
        messages.first().filter(|message| !message.contains("container does not exist")).cloned()
    }
}

fn in_bundle(name: &str) -> String {
    format!("{BUNDLE}/{name}")
}

/// The step in the words of the OCI runtime specification, version 1.0.
fn describe(
    order: &Order,
    ids: Ids,
    network: Option<String>,
    environment: Vec<String>,
    binds: &[(PathBuf, Cow<'_, str>)],
    sys: &OwnedFd,
) -> Value {
    let step = &order.step;
    let capabilities: Vec<String> = credentials::default_names();
    let held: &[String] = if step.user.uid == 0 { &capabilities } else { &[] };
    let mut namespaces: Vec<Value> =
        ["pid", "ipc", "uts", "mount", "cgroup"].map(|kind| json!({ "type": kind })).into();
    match (network, step.privileges.network) {
        (Some(path), _) => namespaces.push(json!({ "type": "network", "path": path })),
        (None, Network::None) => namespaces.push(json!({ "type": "network" })),
        (None, Network::Default | Network::Host) => {}
    }
    let mut linux = json!({
        "cgroupsPath": format!("/{}/{}", cgroup_parent(step), order.id),
        "resources": resources(step),
        "maskedPaths": masked(sys),
        "readonlyPaths": READ_ONLY_PROC.map(|path| format!("/proc/{path}")),
        "seccomp": native_profile(),
    });
    if ids == Ids::Mapped {
        namespaces.push(json!({ "type": "user" }));
        let map = json!([user_namespace::mapping()].map(|(inside, outside, size)| json!({
            "containerID": inside, "hostID": outside, "size": size,
        })));
        (linux["uidMappings"], linux["gidMappings"]) = (map.clone(), map);
    }
    linux["namespaces"] = Value::Array(namespaces);
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {
                "uid": step.user.uid, "gid": step.user.gid, "additionalGids": step.user.groups,
                "umask": 0o022,
            },
            "args": step.args,
            "env": environment,
            "cwd": step.cwd,
            "capabilities": {
                "bounding": capabilities, "effective": held, "permitted": held,
            },
            "rlimits": step.limits.rlimits.iter().map(|limit| json!({
                "type": format!("RLIMIT_{}", limit.name.to_uppercase()),
                "soft": limit.soft, "hard": limit.hard,
            })).collect::<Vec<_>>(),
            "noNewPrivileges": step.no_new_privileges,
        },
        "root": { "path": in_bundle("rootfs") },
        "hostname": step.hostname,
        "mounts": mounts_of(binds),
        "linux": linux,
    })
}

fn cgroup_parent(step: &Step) -> &str {
    match step.privileges.cgroup_parent.trim_matches('/') {
        "" => "cofferdam",
        parent => parent,
    }
}

fn masked(sys: &OwnedFd) -> Vec<String> {
    let proc = MASKED_PROC.iter().map(|path| format!("/proc/{path}"));
    proc.chain(masked_sys(sys).iter().map(|path| format!("/sys/{path}"))).collect()
}

fn mounts_of(binds: &[(PathBuf, Cow<'_, str>)]) -> Vec<Value> {
    let plain = ["nosuid", "noexec", "nodev"];
    let own = |destination: &str, kind: &str, options: &[&str]| json!({ "destination": destination, "type": kind, "source": kind, "options": options });
    let mut mounts = vec![
        own("/proc", "proc", &plain),
        own("/dev", "tmpfs", &["nosuid", "noexec", "mode=755", "size=65536k"]),
        own(
            "/dev/pts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
        ),
        own("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        own("/dev/mqueue", "mqueue", &plain),
    ];
    // The kernel lets a runtime make a /sys only of a network that its own user namespace owns.
    let bind = |destination: &str, source: &str| {
        json!({
            "destination": destination, "type": "bind", "source": source, "options": ["rbind"],
        })
    };
    mounts.push(bind("/sys", &in_bundle("sys")));
    mounts.extend(binds.iter().map(|(source, dest)| bind(dest, &source.to_string_lossy())));
    mounts
}

fn resources(step: &Step) -> Value {
    let limits = &step.limits;
    let devices = step.privileges.devices.nodes.iter().map(|node| {
        let kind = if node.block { "b" } else { "c" };
        let letters = [(node.read, "r"), (node.write, "w"), (true, "m")];
        let access: String =
            letters.iter().filter_map(|(may, letter)| may.then_some(*letter)).collect();
        json!({
            "allow": true, "type": kind, "major": node.major, "minor": node.minor,
            "access": access,
        })
    });
    let none = json!({ "allow": false, "access": "rwm" });
    let devices: Value = [none].into_iter().chain(devices).collect();
    let mut resources = json!({ "devices": devices });
    if let Some(bytes) = limits.memory {
        let swap: i64 = match limits.memory_and_swap {
            Some(Swap::Unlimited) => -1,
            Some(Swap::Total(total)) => total.cast_signed(),
            None => bytes.cast_signed(),
        };
        resources["memory"] = json!({ "limit": bytes, "swap": swap });
    }
    if let Some(count) = limits.pids {
        resources["pids"] = json!({ "limit": count });
    }
    let mut cpu = json!({});
    for (name, value) in [
        ("shares", limits.cpu_shares.map(Value::from)),
        ("quota", limits.cpu_quota.map(Value::from)),
        ("period", limits.cpu_period.map(Value::from)),
        ("cpus", limits.cpuset_cpus.clone().map(Value::from)),
        ("mems", limits.cpuset_mems.clone().map(Value::from)),
    ] {
        if let Some(value) = value {
            cpu[name] = value;
        }
    }
    resources["cpu"] = cpu;
    resources
}

/// Refuses what is not passed on to runtimes.
pub fn refuse(order: &Order, privilege: Privilege) -> Result<()> {
    let unsupported = |what: &str| {
        let reason = io::Error::new(io::ErrorKind::Unsupported, what.to_owned());
        Err(failure("running the step by an OCI runtime".to_owned(), reason))
    };
    if privilege == Privilege::Namespace {
        return unsupported("it is not supported without root");
    }
    if order.step.privileges.security == Security::Insecure {
        return unsupported("--security=insecure is not supported with it");
    }
    if matches!(order.input, crate::streams::InputKind::Terminal(_)) {
        return unsupported("a terminal is not supported with it");
    }
    Ok(())
}
