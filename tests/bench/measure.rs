//! Runs one command and says what it took: time, processor time, and the peak memory of all its
//! processes. What is run, and beside what, is for the caller.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// How often memory is looked at while a command runs.
const SAMPLE: Duration = Duration::from_millis(20);

/// What one run took.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// From start to end, in seconds.
    pub seconds: f64,
    /// Processor time of the process and of its children, user and system, in seconds.
    pub processor: f64,
    /// Peak resident memory in bytes: the larger of what the kernel says of the largest single
    /// process (`ru_maxrss`), and the largest sum over the tree of processes that was seen, in
    /// which a page that several processes share counts once (proportional set size).
    pub memory: u64,
}

impl Cost {
    /// What it takes to do one after the other.
    pub fn and_then(self, other: Self) -> Self {
        Self {
            seconds: self.seconds + other.seconds,
            processor: self.processor + other.processor,
            memory: self.memory.max(other.memory),
        }
    }
}

/// Runs a command to its end. `beside` are processes that work for it without being its children:
/// a daemon.
///
/// # Errors
/// The command cannot be started, or fails; the error has its output.
pub fn run(command: &mut Command, beside: &[u32]) -> Result<Cost> {
    // Into files: a pipe that nobody reads blocks, and reading it takes a core from the build.
    let (said, told) = (tempfile::tempfile()?, tempfile::tempfile()?);
    command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(told.try_clone()?);
    let start = Instant::now();
    let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
    let ended = AtomicBool::new(false);
    let roots: Vec<u32> = beside.iter().copied().chain([child.id()]).collect();
    let (status, usage, seconds, seen) = std::thread::scope(|scope| {
        let sampler = scope.spawn(|| sample(&roots, &ended));
        let waited = wait(child.id());
        let seconds = start.elapsed().as_secs_f64();
        ended.store(true, Ordering::Relaxed);
        let seen = sampler.join().expect("the sampler does not panic");
        waited.map(|(status, usage)| (status, usage, seconds, seen))
    })
    .context("cannot wait for a command")?;
    if status != 0 {
        let text = [said, told].map(|mut file| {
            use io::{Read as _, Seek as _};
            let mut text = String::new();
            // What it said is an extra.
            let _ = file.rewind().and_then(|()| file.read_to_string(&mut text));
            text
        });
        bail!("{command:?} failed:\n{}", text.concat());
    }
    let time = |value: libc::timeval| value.tv_sec as f64 + value.tv_usec as f64 / 1e6;
    Ok(Cost {
        seconds,
        processor: time(usage.ru_utime) + time(usage.ru_stime),
        memory: seen.max(usage.ru_maxrss.cast_unsigned() * 1024),
    })
}

/// Waits for a child; its exit status as the kernel gives it, and what it used.
fn wait(pid: u32) -> io::Result<(i32, libc::rusage)> {
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::uninit();
    loop {
        // SAFETY: both pointers are to live memory of the right types; the process is a child
        // of ours that nobody else waits for.
        let result =
            unsafe { libc::wait4(pid.cast_signed(), &raw mut status, 0, usage.as_mut_ptr()) };
        if result >= 0 {
            // SAFETY: wait4 has filled it, because it succeeded.
            return Ok((status, unsafe { usage.assume_init() }));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// The largest sum of resident memory over these processes and all below them, until `ended`.
fn sample(roots: &[u32], ended: &AtomicBool) -> u64 {
    let mut peak = 0;
    while !ended.load(Ordering::Relaxed) {
        let (mut seen, mut left, mut sum) = (HashSet::new(), roots.to_vec(), 0);
        while let Some(pid) = left.pop() {
            if seen.insert(pid) {
                sum += resident(pid);
                children(pid, &mut left);
            }
        }
        peak = peak.max(sum);
        std::thread::sleep(SAMPLE);
    }
    peak
}

/// Resident bytes of a process, its share of shared ones; zero when it has ended. Format:
/// proc(5), `smaps_rollup`.
fn resident(pid: u32) -> u64 {
    let Ok(text) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) else { return 0 };
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}

/// The children of a process that have memory of their own.
fn children(pid: u32, into: &mut Vec<u32>) {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return };
    for task in tasks.flatten() {
        let Ok(text) = fs::read_to_string(task.path().join("children")) else { continue };
        let children = text.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok());
        into.extend(children.filter(|child| !same_memory(pid, *child)));
    }
}

/// Whether two processes have one address space: a child between vfork(2) and execve(2), whose
/// proportional set size is all of its parent's once more.
fn same_memory(one: u32, other: u32) -> bool {
    // kcmp(2): zero when both are the same.
    const KCMP_VM: libc::c_long = 1;
    // SAFETY: kcmp takes numbers only.
    unsafe { libc::syscall(libc::SYS_kcmp, one, other, KCMP_VM, 0, 0) == 0 }
}

/// The processes with this name.
pub fn processes(name: &str) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == name)
    })
    .collect()
}

/// What several runs of the same took.
pub struct Costs(Vec<Cost>);

impl Costs {
    /// Of at least one run.
    pub fn new(mut runs: Vec<Cost>) -> Self {
        assert!(!runs.is_empty(), "something was measured");
        runs.sort_by(|one, other| one.seconds.total_cmp(&other.seconds));
        Self(runs)
    }

    /// The quickest run: what else the machine does only ever adds time.
    pub fn least(&self) -> f64 {
        self.0[0].seconds
    }

    /// The median.
    pub fn median(&self) -> f64 {
        self.0[self.0.len() / 2].seconds
    }

    /// The least processor time.
    pub fn processor(&self) -> f64 {
        self.0.iter().map(|cost| cost.processor).fold(f64::INFINITY, f64::min)
    }

    /// The largest peak of memory, in MiB.
    pub fn mebibytes(&self) -> f64 {
        self.0.iter().map(|cost| cost.memory).max().unwrap_or(0) as f64 / f64::from(1 << 20)
    }
}
