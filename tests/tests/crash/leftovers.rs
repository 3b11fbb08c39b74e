//! What a program that was killed may leave behind for a moment and must not leave for longer:
//! processes, mounts, cgroups, networks.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use cofferdam_tests::network::traces;

/// How long the helpers may take to see that they are alone, and the disk to have everything.
/// Generous: the machine is busy.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// Waits until nothing is left of these processes of the program, which used a state directory.
pub fn wait_for_none(pids: &[u32], home: &Path) -> Result<()> {
    let started = Instant::now();
    let mut clean = 0;
    loop {
        let found = find(pids, home);
        // A process that is just being started has no arguments for a moment.
        clean = if found.is_empty() { clean + 1 } else { 0 };
        if clean == 2 {
            return Ok(());
        }
        if started.elapsed() > PATIENCE {
            bail!("left behind:\n{}", found.join("\n"));
        }
        std::thread::sleep(Duration::from_millis(30));
    }
}

fn find(pids: &[u32], home: &Path) -> Vec<String> {
    let mut found = cgroups(pids);
    let networks = pids.iter().map(|pid| traces(*pid, &[]));
    found.extend(networks.flat_map(|traces| {
        traces.unwrap_or_else(|error| vec![format!("cannot look at networks: {error}")])
    }));
    let home = home.to_string_lossy();
    // Mounts of the test's own are seen by everybody.
    let point = |line: &str| line.split(' ').nth(4).unwrap_or_default().to_owned();
    let own = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let own: HashSet<String> = own.lines().map(point).collect();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // In whatever mount namespace: the helper of a step has its own.
        let mounts = fs::read_to_string(entry.path().join("mountinfo")).unwrap_or_default();
        let strange = |line: &&str| line.contains(home.as_ref()) && !own.contains(&point(line));
        let mount = mounts.lines().find(strange);
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if mount.is_some() || line.contains(home.as_ref()) {
            found.push(format!("process {pid}: {line} {}", mount.unwrap_or_default()));
        }
    }
    found
}

/// The cgroups of steps, which are named after the process that ran them.
fn cgroups(pids: &[u32]) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let name = entry.file_name().to_string_lossy().into_owned();
            let of = |pid: &u32| name.starts_with(&format!("{pid}-"));
            if directory.ends_with("cofferdam") && pids.iter().any(of) {
                found.push(format!("cgroup {}", entry.path().display()));
            }
            open.push(entry.path());
        }
    }
    found
}
