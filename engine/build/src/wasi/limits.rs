//! What a WASI step may use. The engine keeps to these limits itself, since no control group and no
//! resource limit of a process is about a part of its own; those that it cannot keep to it names.

use std::path::PathBuf;
use std::time::Duration;

use cofferdam_exec_linux::Limits;
use cofferdam_llb::{ExecOp, MountKind, NetMode, Vertex};
use cofferdam_store::disk_usage;

use super::directory::Directory;
use crate::exec::WATCH_INTERVAL;
use crate::graph::BuildContext;
use crate::vertex::blocking;
use crate::{Error, exec};

/// What a program may use.
pub(super) struct Allowed {
    pub(super) memory: Option<usize>,
    pub(super) compute_time: Option<Duration>,
    /// The options that mean nothing to it.
    without_effect: Vec<String>,
}

impl Allowed {
    pub(super) fn of(user: &Limits, vertex: &Vertex, exec: &ExecOp) -> Self {
        let limits = exec::limits(user, vertex.metadata.linux_resources.as_ref());
        let hosts = exec.network == NetMode::Host && !exec.meta.extra_hosts.is_empty();
        let options = [
            ("--memory-swap", limits.memory_and_swap.is_some()),
            ("--cpu-shares", limits.cpu_shares.is_some()),
            ("--cpu-quota", limits.cpu_quota.is_some()),
            ("--cpuset-cpus", limits.cpuset_cpus.is_some()),
            ("--cpuset-mems", limits.cpuset_mems.is_some()),
            ("--cgroup-parent", !exec.meta.cgroup_parent.is_empty()),
            ("--add-host", hosts),
        ];
        let given = options.iter().filter(|(_, is_given)| *is_given);
        let mut without_effect: Vec<_> = given.map(|(name, _)| (*name).to_owned()).collect();
        let mut compute_time = None;
        for limit in &exec.meta.ulimits {
            match limit.name.to_lowercase().as_str() {
                // Negative is no limit.
                "cpu" => compute_time = u64::try_from(limit.soft).ok().map(Duration::from_secs),
                name => without_effect.push(format!("--ulimit {name}")),
            }
        }
        let memory = limits.memory.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        Self { memory, compute_time, without_effect }
    }

    /// Says which limits there are not.
    pub(super) fn warn(&self, context: &BuildContext) {
        if !self.without_effect.is_empty() {
            let options = self.without_effect.join(", ");
            context.warn_once(&format!("without effect on steps for wasi/wasm: {options}"));
        }
    }
}

/// A directory that may grow by so much.
#[derive(Clone)]
pub(super) struct Sized {
    path: PathBuf,
    /// What the program calls it.
    dest: String,
    size: u64,
    before: u64,
}

/// The directories that stand for a tmpfs of a certain size.
pub(super) fn sizes(directories: &[Directory]) -> Vec<Sized> {
    let sized = directories.iter().filter_map(|directory| match &directory.mount.kind {
        MountKind::Tmpfs(Some(options)) if options.size > 0 => {
            let (path, dest) = (directory.written.fs(), directory.mount.dest.clone());
            let before = disk_usage(&path);
            Some(Sized { path, dest, size: options.size, before })
        }
        _ => None,
    });
    sized.collect()
}

/// Looks whether one of them has more in it than it may.
pub(super) fn check_sizes(command: &str, sizes: &[Sized]) -> Result<(), Error> {
    let full = sizes.iter().find(|directory| {
        disk_usage(&directory.path).saturating_sub(directory.before) > directory.size
    });
    let Some(Sized { dest, size, .. }) = full else { return Ok(()) };
    let reason = format!("more than {size} bytes in the tmpfs at `{dest}`");
    Err(Error::Program { command: command.to_owned(), reason })
}

/// Ends, with an error, when one of them has more in it than it may.
pub(super) async fn beyond_size(command: &str, sizes: &[Sized]) -> Error {
    if sizes.is_empty() {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(WATCH_INTERVAL).await;
        let (command, sizes) = (command.to_owned(), sizes.to_vec());
        if let Err(error) = blocking(move || check_sizes(&command, &sizes)).await {
            return error;
        }
    }
}
