//! Whether the values of a step can be carried out. Every way to start a process goes through
//! [`crate::Runner::run`], which asks this first. What a step may have is decided in
//! [`crate::Entitlements::grant`].

use crate::emulation::Execution;
use crate::rlimits;
use crate::step::{Limits, Mount, Rootfs, Step, Swap};

/// A value of a step that cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {value:?} is not allowed: {why}")]
pub struct Invalid {
    /// Which part of the step.
    pub field: &'static str,
    /// Its value.
    pub value: String,
    /// What was expected.
    pub why: &'static str,
}

/// A step that was checked. Only [`check`] makes one, and only this can be started.
#[derive(Debug)]
pub struct Checked(pub(crate) Step);

/// The longest host name of Linux (`__NEW_UTS_LEN`, uname(2)).
const HOSTNAME_MAX: usize = 64;
/// The most layers that overlayfs stacks (`OVL_MAX_STACK`).
pub(crate) const LOWERS_MAX: usize = 500;

/// Checks a step.
///
/// # Errors
/// Says which value is not allowed.
pub fn check(step: Step) -> Result<Checked, Invalid> {
    let parent = step.privileges.cgroup_parent.as_str();
    let parts = || parent.trim_matches('/').split('/');
    let invalid_part = |part| matches!(part, "" | "." | "..");
    if !parent.is_empty() && (parts().any(invalid_part) || parent.contains('\0')) {
        return Err(invalid("cgroup parent", parent, "it must be a path without `..`"));
    }
    limits(&step.limits)?;
    if let Rootfs::Overlay(overlay) = &step.rootfs {
        if overlay.writable.is_none() {
            return Err(invalid("root file system", "overlay", "it needs an upper directory"));
        }
        if overlay.lowers.len() > LOWERS_MAX {
            let count = format!("{} layers", overlay.lowers.len());
            return Err(invalid("root file system", &count, "overlayfs stacks 500 at most"));
        }
    }
    match step.args.first() {
        None => return Err(invalid("arguments", "", "the program to run is missing")),
        Some(program) if program.is_empty() => {
            return Err(invalid("arguments", "", "the program's name is empty"));
        }
        Some(_) => {}
    }
    if let Execution::Emulated(emulator) = &step.execution
        && !emulator.program.is_absolute()
    {
        let program = emulator.program.display().to_string();
        return Err(invalid("emulator", &program, "it must be absolute"));
    }
    if !step.cwd.starts_with('/') {
        return Err(invalid("working directory", &step.cwd, "it must be absolute"));
    }
    if step.hostname.is_empty() || step.hostname.len() > HOSTNAME_MAX {
        return Err(invalid("host name", &step.hostname, "it must have 1 to 64 bytes"));
    }
    let ids = [step.user.uid, step.user.gid];
    if ids.iter().chain(&step.user.groups).any(|&id| id == u32::MAX) {
        return Err(invalid("user", "4294967295", "it means \"unchanged\" to the kernel"));
    }
    let texts = step.args.iter().map(|a| ("argument", a)).chain(
        step.env
            .iter()
            .map(|e| ("environment entry", e))
            .chain([("working directory", &step.cwd), ("host name", &step.hostname)]),
    );
    for (field, text) in texts {
        if text.contains('\0') {
            // What a variable is set to may be a secret.
            let text = if field == "environment entry" { name_of(text) } else { text };
            return Err(invalid(field, text, "it contains a NUL byte"));
        }
    }
    step.mounts.iter().try_for_each(mount)?;
    Ok(Checked(step))
}

fn limits(limits: &Limits) -> Result<(), Invalid> {
    let range = |field, value: Option<u64>, range: std::ops::RangeInclusive<u64>, why| match value {
        Some(value) if !range.contains(&value) => Err(invalid(field, &value.to_string(), why)),
        _ => Ok(()),
    };
    let shares = "expected 2 to 262144";
    range("cpu shares", limits.cpu_shares, 2..=262_144, shares)?;
    let period = "expected 1000 to 1000000 microseconds";
    range("cpu period", limits.cpu_period, 1000..=1_000_000, period)?;
    let quota = "expected at least 1000 microseconds";
    range("cpu quota", limits.cpu_quota, 1000..=u64::MAX, quota)?;
    for (field, list) in
        [("processors", &limits.cpuset_cpus), ("memory nodes", &limits.cpuset_mems)]
    {
        let list = list.as_deref().unwrap_or("0");
        if list.is_empty() || list.bytes().any(|b| !b.is_ascii_digit() && b != b'-' && b != b',') {
            return Err(invalid(field, list, "expected a list like `0-2,5`"));
        }
    }
    match (limits.memory_and_swap, limits.memory) {
        (Some(Swap::Total(total)), Some(memory)) if total < memory => {
            let why = "it is less than the memory limit, which it includes";
            return Err(invalid("memory and swap", &total.to_string(), why));
        }
        (Some(_), None) => {
            return Err(invalid("memory and swap", "", "it needs a memory limit"));
        }
        _ => {}
    }
    for limit in &limits.rlimits {
        if rlimits::resource(&limit.name).is_none() {
            return Err(invalid("ulimit", &limit.name, "there is no such resource"));
        }
        if limit.soft > limit.hard {
            return Err(invalid("ulimit", &limit.name, "its soft limit exceeds its hard limit"));
        }
    }
    Ok(())
}

/// The name of a variable in `NAME=value`.
fn name_of(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(name, _)| name)
}

/// Checks where something is mounted.
pub(crate) fn mount(mount: &Mount) -> Result<(), Invalid> {
    let dest = mount.dest();
    let refuse = |why| Err(invalid("mount point", dest, why));
    if !dest.starts_with('/') {
        return refuse("it must be absolute");
    }
    if dest.contains('\0') {
        return refuse("it contains a NUL byte");
    }
    let mut parts = dest.split('/').filter(|part| !part.is_empty() && *part != ".");
    match parts.next() {
        None => refuse("the root is given by the root file system"),
        // Nothing may stand in for the files by which a process looks at itself; runc refuses
        // the same.
        Some("proc") => refuse("it lies within /proc"),
        _ if dest.split('/').any(|part| part == "..") => refuse("it contains `..`"),
        _ => Ok(()),
    }
}

fn invalid(field: &'static str, value: &str, why: &'static str) -> Invalid {
    Invalid { field, value: value.to_owned(), why }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cdi::DeviceRegistry;
    use crate::entitlement::{Entitlements, Granted, Privileges};
    use crate::step::{Limits, Overlay, User};

    fn step() -> Step {
        Step {
            rootfs: Rootfs::Overlay(Overlay {
                lowers: vec![],
                writable: Some(("/u".into(), "/w".into())),
            }),
            mounts: vec![],
            args: vec!["true".into()],
            env: vec![],
            cwd: "/".into(),
            user: User::default(),
            hostname: "h".into(),
            privileges: Granted::default(),
            execution: Execution::Native,
            no_new_privileges: true,
            hosts: None,
            resolv_conf: None,
            limits: Limits::default(),
        }
    }

    fn answer(change: impl FnOnce(&mut Step)) -> String {
        let mut step = step();
        change(&mut step);
        match check(step) {
            Ok(_) => "yes".to_owned(),
            Err(invalid) => invalid.to_string(),
        }
    }

    fn tmpfs(dest: &str) -> Vec<Mount> {
        vec![Mount::Tmpfs { dest: dest.into(), size: None }]
    }

    #[test]
    fn values_that_cannot_be_carried_out_are_refused() {
        let below = |parent: &str| {
            let cgroup_parent = parent.to_owned();
            let entitlements =
                Entitlements { cgroup_parent: cgroup_parent.clone(), ..Entitlements::default() };
            let asked = Privileges { cgroup_parent, ..Privileges::default() };
            entitlements.grant(asked, &DeviceRegistry::default())
        };
        assert_eq!(answer(|_| ()), "yes");
        assert_eq!(answer(|s| s.privileges = below("a/b").expect("it is granted")), "yes");
        let cases: [(&str, String); 11] = [
            ("`..`", answer(|s| s.privileges = below("../a").expect("it is granted"))),
            ("absolute", answer(|s| s.cwd = "x".into())),
            ("missing", answer(|s| s.args.clear())),
            ("\"A\" is not allowed: it contains a NUL", answer(|s| s.env = vec!["A=s\0".into()])),
            ("64", answer(|s| s.hostname = "x".repeat(65))),
            ("unchanged", answer(|s| s.user.groups = vec![u32::MAX])),
            ("/proc", answer(|s| s.mounts = tmpfs("//proc/self/attr"))),
            ("root is given", answer(|s| s.mounts = tmpfs("/./"))),
            ("`..`", answer(|s| s.mounts = tmpfs("/a/../proc"))),
            ("absolute", answer(|s| s.mounts = tmpfs("a"))),
            (
                "500",
                answer(|s| {
                    s.rootfs = Rootfs::Overlay(Overlay {
                        lowers: vec!["/l".into(); 501],
                        writable: Some(("/u".into(), "/w".into())),
                    });
                }),
            ),
        ];
        for (expected, got) in cases {
            assert!(got.contains(expected), "{got:?} should contain {expected:?}");
        }
    }
}
