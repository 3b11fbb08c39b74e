//! The cgroups of a step: a leaf of the unified hierarchy, by which all its processes can be
//! killed and its devices restricted, and limits where they were asked for. A controller that v2
//! does not have (hybrid hosts) is looked for in the v1 hierarchies.
//!
//! A host without usable cgroups still runs steps: the pid namespace kills as surely.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{Access, AtFlags, Mode, OFlags, access, mkdirat, openat, unlinkat};
use serde::{Deserialize, Serialize};

use crate::step::{Limits, Swap};

/// How long cgroups may be busy on a busy machine, when no process is in them any more. What is left
/// then, a later engine removes.
const REMOVE_TIME: Duration = Duration::from_secs(5);

/// What limits resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Controller {
    Memory,
    Pids,
    Cpu,
    Cpuset,
}

impl Controller {
    const ALL: [Self; 4] = [Self::Memory, Self::Pids, Self::Cpu, Self::Cpuset];

    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
            Self::Cpuset => "cpuset",
        }
    }
}

/// Where on this host leaves can be made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hierarchies {
    unified: Option<PathBuf>,
    /// What the unified hierarchy passes on to the leaves.
    unified_controllers: Vec<Controller>,
    v1: Vec<(Controller, PathBuf)>,
}

impl Hierarchies {
    /// Finds the hierarchies and makes a directory `name` in each for the leaves to come: below
    /// the engine's own cgroup or, where a v2 cgroup with processes in it cannot pass controllers
    /// on, below the mount's root.
    pub fn discover(name: &str) -> Self {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let found = Self::find(|controller| vec![own_cgroup(&own, controller), "/"], name);
        found
            .unified
            .iter()
            .chain(found.v1.iter().map(|(_, parent)| parent))
            .for_each(|p| sweep(p));
        found
    }

    /// The same, with a cgroup of the user's as the parent of the leaves: a path from the root of
    /// the hierarchies, which is made where it does not exist.
    pub fn below(parent: &str) -> Self {
        Self::find(|_| vec!["/"], parent.trim_matches('/'))
    }

    /// The same, in the first of the bases that has what is looked for; the bases depend on the
    /// v1 controller, which is empty for v2.
    fn find<'a>(bases: impl Fn(&str) -> Vec<&'a str>, name: &str) -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mut found = Self::default();
        for (point, kind, options) in mounts.lines().filter_map(mount) {
            let point = Path::new(point);
            if kind == "cgroup2" && found.unified.is_none() {
                found.find_unified(point, &bases(""), name);
            } else if kind == "cgroup" {
                let controllers = Controller::ALL.into_iter().filter(|controller| {
                    options.split(',').any(|option| option == controller.name())
                });
                for controller in controllers {
                    let known = found.v1.iter().any(|(known, _)| *known == controller);
                    let base = bases(controller.name())[0];
                    if let Some(parent) = (!known).then(|| make_parent(point, base, name)).flatten()
                    {
                        found.v1.push((controller, parent));
                    }
                }
            }
        }
        found
    }

    fn find_unified(&mut self, point: &Path, bases: &[&str], name: &str) {
        for base in bases {
            let Some(parent) = make_parent(point, base, name) else { continue };
            let mut above: Vec<_> = parent.ancestors().take_while(|dir| *dir != point).collect();
            above.push(point);
            // Every directory on the way passes them on, but those that the host's own tree has
            // set up already are not ours to change.
            let ours = Path::new(name).components().count() + 1;
            for directory in above.into_iter().take(ours).rev() {
                for controller in Controller::ALL {
                    // Refused where the controller is not there or the cgroup has processes.
                    let pass_on = format!("+{}", controller.name());
                    _ = fs::write(directory.join("cgroup.subtree_control"), pass_on);
                }
            }
            let passed_on =
                fs::read_to_string(parent.join("cgroup.subtree_control")).unwrap_or_default();
            let has = |controller: &Controller| {
                passed_on.split_whitespace().any(|name| name == controller.name())
            };
            let controllers: Vec<_> = Controller::ALL.into_iter().filter(has).collect();
            if self.unified.is_none() || controllers.len() > self.unified_controllers.len() {
                self.unified_controllers = controllers;
                self.unified = Some(parent);
            }
            if self.unified_controllers.len() == Controller::ALL.len() {
                return;
            }
        }
    }
}

fn make_parent(point: &Path, base: &str, name: &str) -> Option<PathBuf> {
    let mut parent = point.join(base.trim_start_matches('/'));
    for part in Path::new(name) {
        parent.push(part);
        match fs::create_dir(&parent) {
            Ok(()) => inherit_cpuset(&parent),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(_) => return None,
        }
    }
    // Another user's engine may have made it.
    access(&parent, Access::WRITE_OK | Access::EXEC_OK).is_ok().then_some(parent)
}

/// Gives a new v1 cgroup the processors and memory nodes of the one above: it has none at first,
/// and no process can enter it then.
fn inherit_cpuset(directory: &Path) {
    let Some(above) = directory.parent() else { return };
    for file in ["cpuset.cpus", "cpuset.mems"] {
        // Not a cpuset, or a v2 one, which inherits by itself and keeps the file empty.
        let Ok(own) = fs::read_to_string(directory.join(file)) else { return };
        if own.trim().is_empty()
            && let Ok(inherited) = fs::read(above.join(file))
        {
            _ = fs::write(directory.join(file), inherited);
        }
    }
}

/// The process that leaves are made for, which their names begin with.
#[derive(Debug, PartialEq, Eq)]
pub struct Engine {
    process: u32,
    /// The inode of its pid namespace: the number says nothing in another one.
    namespace: u64,
}

impl Engine {
    /// The process that calls this.
    pub fn this() -> Self {
        let namespace = fs::metadata("/proc/self/ns/pid").map_or(0, |metadata| metadata.ino());
        Self { process: std::process::id(), namespace }
    }

    /// What the names of its leaves begin with. No earlier process with its number had the same.
    pub fn prefix(&self) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        format!("{}-{:x}-{:x}", self.process, self.namespace, now.as_nanos())
    }

    /// Whose leaf has this name.
    fn of(leaf: &str) -> Option<Self> {
        let mut parts = leaf.split('-');
        let process = parts.next()?.parse().ok()?;
        Some(Self { process, namespace: u64::from_str_radix(parts.next()?, 16).ok()? })
    }

    /// Whether it is known that there is no such process any more.
    fn is_gone(&self) -> bool {
        self.namespace == Self::this().namespace
            && !Path::new("/proc").join(self.process.to_string()).exists()
    }
}

/// Removes the leaves of engines that are gone, of which nobody else will.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.filter_map(Result::ok) {
        if entry.file_name().to_str().and_then(Engine::of).is_some_and(|engine| engine.is_gone()) {
            // A leaf with processes stays: a helper is still there, and removes it.
            _ = fs::remove_dir(entry.path());
        }
    }
}

/// Mount point, type and the file system's options of a line of mountinfo (proc_pid_mountinfo(5)).
fn mount(line: &str) -> Option<(&str, &str, &str)> {
    let (before, after) = line.split_once(" - ")?;
    let mut after = after.split(' ');
    Some((before.split(' ').nth(4)?, after.next()?, after.nth(1)?))
}

/// The path of /proc/self/cgroup for a v1 controller, or for v2 if it is empty.
fn own_cgroup<'a>(own: &'a str, controller: &str) -> &'a str {
    own.lines()
        .filter_map(|line| line.split_once(':')?.1.split_once(':'))
        .find(|(controllers, _)| controllers.split(',').any(|c| c == controller))
        .map_or("/", |(_, path)| path)
}

/// The cgroups of one step, as descriptors: they work whatever is mounted where.
#[derive(Debug, Default)]
pub struct Leaf {
    hosts: Hierarchies,
    name: String,
    directories: Vec<Directory>,
    /// Which of `directories` is the unified one.
    unified: Option<usize>,
    /// Which of `directories` counts memory.
    memory: Option<usize>,
}

#[derive(Debug)]
struct Directory {
    /// The parent's path.
    path: PathBuf,
    parent: OwnedFd,
    leaf: OwnedFd,
}

impl Leaf {
    /// Makes the cgroup that any step has, where there is one to be had.
    pub fn new(hosts: Hierarchies, name: &str) -> Self {
        let mut leaf = Self { name: name.to_owned(), ..Self::default() };
        leaf.unified = hosts.unified.as_deref().and_then(|parent| leaf.make(parent).ok());
        leaf.hosts = hosts;
        leaf
    }

    /// Sets a step's limits.
    ///
    /// # Errors
    /// If one was asked for that cannot be set; says which.
    pub fn limit(&mut self, limits: &Limits) -> Result<(), (String, io::Error)> {
        for limit in wanted(limits) {
            self.set(limit.controller, &limit.values)
                .map_err(|error| (format!("limiting {limit}"), error))?;
        }
        Ok(())
    }

    /// Sets a limit in whichever hierarchy has the controller.
    fn set(&mut self, controller: Controller, values: &[Value]) -> io::Result<()> {
        let on_v2 = self.hosts.unified_controllers.contains(&controller);
        let v1 = self.hosts.v1.iter().find(|(v1, _)| *v1 == controller);
        let (index, v2) = match (self.unified, v1.map(|(_, parent)| parent.clone())) {
            (Some(index), _) if on_v2 => (index, true),
            (_, Some(parent)) => (self.make(&parent)?, false),
            _ => return Err(no_controller(controller)),
        };
        if controller == Controller::Memory {
            self.memory = Some(index);
        }
        for value in values {
            let (file, text) = if v2 { &value.v2 } else { &value.v1 };
            match self.write(index, file, text) {
                Err(_) if value.may_fail => {}
                written => written?,
            }
        }
        Ok(())
    }

    /// Makes the leaf in a hierarchy, or returns the one that is there: v1 controllers may share a
    /// hierarchy.
    fn make(&mut self, parent: &Path) -> io::Result<usize> {
        if let Some(made) = self.directories.iter().position(|made| made.path == parent) {
            return Ok(made);
        }
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let path = parent.to_owned();
        let parent = rustix::fs::open(parent, flags, Mode::empty())?;
        mkdirat(&parent, &self.name, Mode::from_raw_mode(0o755))?;
        let leaf = openat(&parent, &self.name, flags, Mode::empty())?;
        inherit_cpuset(&path.join(&self.name));
        self.directories.push(Directory { path, parent, leaf });
        Ok(self.directories.len() - 1)
    }

    fn write(&self, index: usize, file: &str, text: &str) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = openat(&self.directories[index].leaf, file, flags, Mode::empty())?;
        rustix::io::write(&file, text.as_bytes())?;
        Ok(())
    }

    fn read(&self, index: usize, file: &str) -> io::Result<String> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = openat(&self.directories[index].leaf, file, flags, Mode::empty())?;
        io::read_to_string(fs::File::from(file))
    }

    /// Returns the unified cgroup, if there is one.
    pub fn unified(&self) -> Option<BorrowedFd<'_>> {
        self.unified.map(|index| self.directories[index].leaf.as_fd())
    }

    /// Moves the calling process into all cgroups but the unified one.
    pub fn enter_v1(&self) -> io::Result<()> {
        (0..self.directories.len())
            .filter(|index| Some(*index) != self.unified)
            .try_for_each(|index| self.write(index, "cgroup.procs", "0"))
    }

    /// Moves the calling process into the unified cgroup, where clone could not do it.
    pub fn enter_unified(&self) -> io::Result<()> {
        self.unified.map_or(Ok(()), |index| self.write(index, "cgroup.procs", "0"))
    }

    /// Kills every process in the unified cgroup.
    pub fn kill(&self) {
        if let Some(index) = self.unified {
            // Kernels before 5.14 have no such file; the pid namespace is killed anyway.
            _ = self.write(index, "cgroup.kill", "1");
        }
    }

    /// Returns whether the kernel killed a process for want of memory.
    pub fn out_of_memory(&self) -> bool {
        let Some(index) = self.memory else { return false };
        let file = if Some(index) == self.unified { "memory.events" } else { "memory.oom_control" };
        self.read(index, file).is_ok_and(|text| {
            text.lines()
                .any(|line| line.strip_prefix("oom_kill ").is_some_and(|count| count.trim() != "0"))
        })
    }

    /// Removes the cgroups, which must have no processes any more.
    pub fn remove(&mut self) {
        let started = Instant::now();
        for directory in self.directories.drain(..) {
            let remove = || unlinkat(&directory.parent, &self.name, AtFlags::REMOVEDIR);
            // Busy for a moment after the last process has gone.
            while remove() == Err(rustix::io::Errno::BUSY) && started.elapsed() < REMOVE_TIME {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        (self.unified, self.memory) = (None, None);
    }
}

fn no_controller(controller: Controller) -> io::Error {
    let message =
        format!("there is no cgroup controller `{}` that this process may use", controller.name());
    io::Error::new(io::ErrorKind::Unsupported, message)
}

/// A limit, as it is set.
struct Limit {
    controller: Controller,
    /// What is limited to what.
    title: String,
    values: Vec<Value>,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.title)
    }
}

/// Which file gets which text.
struct Value {
    v2: (&'static str, String),
    v1: (&'static str, String),
    /// Whether it is only tidy to set it.
    may_fail: bool,
}

impl Value {
    fn new(v2: (&'static str, String), v1: (&'static str, String)) -> Self {
        Self { v2, v1, may_fail: false }
    }
}

/// What CFS calls a tenth of a second, in microseconds.
const CPU_PERIOD: u64 = 100_000;

fn wanted(limits: &Limits) -> Vec<Limit> {
    let mut wanted = Vec::new();
    let mut add = |controller, title: String, values| {
        wanted.push(Limit { controller, title, values });
    };
    if let Some(bytes) = limits.memory {
        let (v2_swap, v1_total) = match limits.memory_and_swap {
            Some(Swap::Unlimited) => ("max".to_owned(), "-1".to_owned()),
            Some(Swap::Total(total)) => ((total - bytes).to_string(), total.to_string()),
            None => ("0".to_owned(), bytes.to_string()),
        };
        let swap = Value {
            // Absent where the kernel has no swap accounting.
            may_fail: limits.memory_and_swap.is_none(),
            ..Value::new(("memory.swap.max", v2_swap), ("memory.memsw.limit_in_bytes", v1_total))
        };
        let text = bytes.to_string();
        let memory = Value::new(("memory.max", text.clone()), ("memory.limit_in_bytes", text));
        add(Controller::Memory, format!("memory to {bytes} bytes"), vec![memory, swap]);
    }
    if let Some(count) = limits.pids {
        let text = count.to_string();
        let value = Value::new(("pids.max", text.clone()), ("pids.max", text));
        add(Controller::Pids, format!("processes to {count}"), vec![value]);
    }
    if let Some(shares) = limits.cpu_shares {
        // From 2..=262144 to 1..=10000, as runc has it.
        let weight = 1 + (shares.saturating_sub(2) * 9999) / 262_142;
        let value =
            Value::new(("cpu.weight", weight.to_string()), ("cpu.shares", shares.to_string()));
        add(Controller::Cpu, format!("the processor by {shares} shares"), vec![value]);
    }
    if limits.cpu_quota.is_some() || limits.cpu_period.is_some() {
        let period = limits.cpu_period.unwrap_or(CPU_PERIOD);
        let (v2, v1) = match limits.cpu_quota {
            Some(quota) => (quota.to_string(), quota.to_string()),
            None => ("max".to_owned(), "-1".to_owned()),
        };
        let both = format!("{v2} {period}");
        let values = vec![
            Value::new(("cpu.max", both.clone()), ("cpu.cfs_period_us", period.to_string())),
            Value::new(("cpu.max", both), ("cpu.cfs_quota_us", v1)),
        ];
        add(Controller::Cpu, format!("the processor to {v2} of {period} microseconds"), values);
    }
    for (what, file, list) in [
        ("processors", "cpuset.cpus", &limits.cpuset_cpus),
        ("memory nodes", "cpuset.mems", &limits.cpuset_mems),
    ] {
        if let Some(list) = list {
            let value = Value::new((file, list.clone()), (file, list.clone()));
            add(Controller::Cpuset, format!("{what} to {list}"), vec![value]);
        }
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_understood() {
        let own = "4:memory:/a/b\n2:cpu,cpuacct:/c\n0::/d\n";
        assert_eq!(own_cgroup(own, "memory"), "/a/b");
        assert_eq!(own_cgroup(own, "cpuacct"), "/c");
        assert_eq!(own_cgroup(own, ""), "/d");
        assert_eq!(own_cgroup(own, "pids"), "/");
        let line = "36 35 98:0 / /sys/fs/cgroup/x rw,noatime shared:1 - cgroup cgroup rw,memory";
        assert_eq!(mount(line), Some(("/sys/fs/cgroup/x", "cgroup", "rw,memory")));
        assert_eq!(mount("nonsense"), None);
    }

    #[test]
    fn limits_are_what_the_kernel_says_afterwards() {
        let hosts = Hierarchies::discover("cofferdam-cgroup-test");
        let limits = Limits {
            memory: Some(64 << 20),
            memory_and_swap: Some(Swap::Unlimited),
            pids: Some(77),
            cpu_shares: Some(512),
            cpu_quota: Some(50_000),
            cpu_period: Some(200_000),
            cpuset_cpus: Some("0".into()),
            ..Limits::default()
        };
        let name = format!("{}-limits", std::process::id());
        let mut leaf = Leaf::new(hosts.clone(), &name);
        leaf.limit(&limits).expect("root can limit");
        let has = |file: &str| {
            let read = |index| leaf.read(index, file).ok();
            (0..leaf.directories.len()).find_map(read).map(|text| text.trim().to_owned())
        };
        for (v2, expected_v2, v1, expected_v1) in [
            ("memory.max", "67108864", "memory.limit_in_bytes", "67108864"),
            ("pids.max", "77", "pids.max", "77"),
            ("cpu.weight", "20", "cpu.shares", "512"),
            ("cpu.max", "50000 200000", "cpu.cfs_quota_us", "50000"),
            ("cpu.max", "50000 200000", "cpu.cfs_period_us", "200000"),
            ("cpuset.cpus", "0", "cpuset.cpus", "0"),
        ] {
            match has(v2) {
                Some(value) if v1 != v2 => assert_eq!(value, expected_v2, "{v2}"),
                _ => assert_eq!(has(v1).as_deref(), Some(expected_v1), "{v1}"),
            }
        }
        leaf.remove();
        for (_, parent) in &hosts.v1 {
            assert!(!parent.join(&name).exists(), "{}", parent.display());
        }
    }

    #[test]
    fn leaves_of_engines_that_are_gone_are_swept() {
        let name = "cofferdam-sweep-test";
        let hosts = Hierarchies::discover(name);
        let parent = hosts.unified.clone().or(hosts.v1.first().map(|v1| v1.1.clone()));
        let parent = parent.expect("root has a hierarchy");
        let this = Engine::this();
        assert_eq!(Engine::of(&format!("{}-0", this.prefix())), Some(Engine::this()));
        // No process has a number above the limit.
        let process = 4_194_305;
        let gone = Engine { process, namespace: this.namespace };
        let elsewhere = Engine { process, namespace: this.namespace + 1 };
        let [gone, elsewhere, own] =
            [gone, elsewhere, this].map(|engine| parent.join(format!("{}-0", engine.prefix())));
        for leaf in [&gone, &elsewhere, &own] {
            fs::create_dir_all(leaf).unwrap();
        }
        Hierarchies::discover(name);
        assert!(!gone.exists(), "it is left");
        for leaf in [elsewhere, own] {
            assert!(leaf.exists(), "it was not ours to remove");
            fs::remove_dir(leaf).unwrap();
        }
    }
}
