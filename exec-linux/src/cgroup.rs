//! The cgroups of a step: a leaf of the unified hierarchy, by which all its processes can be
//! killed and its devices restricted, and limits where they were asked for. Where v2 has no
//! memory or pids controller (hybrid hosts), a leaf of the v1 hierarchy takes its place.
//!
//! A host without usable cgroups still runs steps: the pid namespace kills as surely.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, openat, unlinkat};
use serde::{Deserialize, Serialize};

use crate::step::Limits;

/// Where on this host leaves can be made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hierarchies {
    unified: Option<PathBuf>,
    unified_memory: bool,
    unified_pids: bool,
    memory_v1: Option<PathBuf>,
    pids_v1: Option<PathBuf>,
}

impl Hierarchies {
    /// Finds the hierarchies and makes a directory `name` in each for the leaves to come: below
    /// the engine's own cgroup or, where a v2 cgroup with processes in it cannot pass controllers
    /// on, below the mount's root.
    pub fn discover(name: &str) -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mut found = Self::default();
        for (point, kind, options) in mounts.lines().filter_map(mount) {
            let point = Path::new(point);
            let is = |controller| kind == "cgroup" && options.split(',').any(|o| o == controller);
            let parent = |controller| make_parent(point, own_cgroup(&own, controller), name);
            if kind == "cgroup2" && found.unified.is_none() {
                found.discover_unified(point, own_cgroup(&own, ""), name);
            } else if is("memory") && found.memory_v1.is_none() {
                found.memory_v1 = parent("memory");
            } else if is("pids") && found.pids_v1.is_none() {
                found.pids_v1 = parent("pids");
            }
        }
        found
    }

    fn discover_unified(&mut self, point: &Path, own: &str, name: &str) {
        for base in [own, "/"] {
            let Some(parent) = make_parent(point, base, name) else { continue };
            for controller in ["+memory", "+pids"] {
                // Refused where the controller is not there or the cgroup has processes.
                for directory in [parent.parent().unwrap_or(point), &parent] {
                    _ = fs::write(directory.join("cgroup.subtree_control"), controller);
                }
            }
            let passed_on =
                fs::read_to_string(parent.join("cgroup.subtree_control")).unwrap_or_default();
            let has = |controller| passed_on.split_whitespace().any(|c| c == controller);
            let controllers = (has("memory"), has("pids"));
            if self.unified.is_none() || controllers == (true, true) {
                (self.unified_memory, self.unified_pids) = controllers;
                self.unified = Some(parent);
            }
            if controllers == (true, true) || own == "/" {
                return;
            }
        }
    }
}

fn make_parent(point: &Path, base: &str, name: &str) -> Option<PathBuf> {
    let parent = point.join(base.trim_start_matches('/')).join(name);
    match fs::create_dir(&parent) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => None,
        _ => Some(parent),
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
    name: String,
    directories: Vec<Directory>,
    /// Which of `directories` is the unified one.
    unified: Option<usize>,
    /// Which of `directories` counts memory.
    memory: Option<usize>,
}

#[derive(Debug)]
struct Directory {
    parent: OwnedFd,
    leaf: OwnedFd,
}

impl Leaf {
    /// Makes the cgroups of a step and sets its limits.
    ///
    /// # Errors
    /// If a limit was asked for that cannot be set; says which.
    pub fn new(
        hosts: &Hierarchies,
        name: &str,
        limits: Limits,
    ) -> Result<Self, (String, io::Error)> {
        let mut leaf = Self { name: name.to_owned(), ..Self::default() };
        match leaf.set_up(hosts, limits) {
            Ok(()) => Ok(leaf),
            Err(error) => {
                leaf.remove();
                Err(error)
            }
        }
    }

    fn set_up(&mut self, hosts: &Hierarchies, limits: Limits) -> Result<(), (String, io::Error)> {
        if let Some(parent) = &hosts.unified {
            self.unified = self.make(parent).ok();
        }
        let unified = self.unified;
        if let Some(bytes) = limits.memory {
            let doing = |error| (format!("limiting memory to {bytes} bytes"), error);
            let index = match (unified, &hosts.memory_v1) {
                (Some(index), _) if hosts.unified_memory => {
                    self.write(index, "memory.max", &bytes.to_string()).map_err(doing)?;
                    // Absent where the kernel has no swap accounting.
                    _ = self.write(index, "memory.swap.max", "0");
                    index
                }
                (_, Some(parent)) => {
                    let index = self.make(parent).map_err(doing)?;
                    self.write(index, "memory.limit_in_bytes", &bytes.to_string())
                        .map_err(doing)?;
                    _ = self.write(index, "memory.memsw.limit_in_bytes", &bytes.to_string());
                    index
                }
                _ => return Err(doing(no_controller())),
            };
            self.memory = Some(index);
        }
        if let Some(count) = limits.pids {
            let doing = |error| (format!("limiting processes to {count}"), error);
            let index = match (unified, &hosts.pids_v1) {
                (Some(index), _) if hosts.unified_pids => index,
                (_, Some(parent)) => self.make(parent).map_err(doing)?,
                _ => return Err(doing(no_controller())),
            };
            self.write(index, "pids.max", &count.to_string()).map_err(doing)?;
        }
        Ok(())
    }

    fn make(&mut self, parent: &Path) -> io::Result<usize> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let parent = rustix::fs::open(parent, flags, Mode::empty())?;
        mkdirat(&parent, &self.name, Mode::from_raw_mode(0o755))?;
        let leaf = openat(&parent, &self.name, flags, Mode::empty())?;
        self.directories.push(Directory { parent, leaf });
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
        for directory in self.directories.drain(..) {
            for _ in 0..50 {
                // Busy for a moment after the last process has gone.
                match unlinkat(&directory.parent, &self.name, AtFlags::REMOVEDIR) {
                    Err(rustix::io::Errno::BUSY) => {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    _ => break,
                }
            }
        }
        (self.unified, self.memory) = (None, None);
    }
}

fn no_controller() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "this host offers no such cgroup controller")
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
}
