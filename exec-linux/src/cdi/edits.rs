//! What a device changes about a step: variables, nodes, mounts and groups. From the words of a
//! specification to values that the sandbox can carry out.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::spec::{self, ContainerEdits};
use crate::step::{BindSource, Mount, Restrictions, Step};

/// What every step has in its /dev, which no device may stand in for.
const OWN: [&str; 16] = [
    "null", "zero", "full", "random", "urandom", "tty", "console", "pts", "ptmx", "shm", "mqueue",
    "fd", "stdin", "stdout", "stderr", "core",
];
/// Permissions of a node of which nothing is said, as runc makes it. Who may use the device is the
/// entitlement's affair.
const MODE: u32 = 0o666;

/// Changes of a step, of one device or of several.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edits {
    /// `NAME=value`; they go before the step's own of that name.
    pub env: Vec<String>,
    /// Nodes in the step's /dev.
    pub nodes: Vec<Node>,
    /// Files and directories of the machine.
    pub mounts: Vec<Mount>,
    /// Further groups of the process.
    pub groups: Vec<u32>,
}

/// A device node that a step gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its path below the step's /dev.
    pub name: String,
    /// Where it is on the host.
    pub host: PathBuf,
    /// Whether it is a block device; else it is a character device.
    pub block: bool,
    /// Its major number.
    pub major: u32,
    /// Its minor number.
    pub minor: u32,
    /// Its permission bits.
    pub mode: u32,
    /// Its owner; the step's user if nothing is said.
    pub uid: Option<u32>,
    /// Its group; the step's if nothing is said.
    pub gid: Option<u32>,
    /// Whether the step may open it for reading.
    pub read: bool,
    /// Whether the step may open it for writing.
    pub write: bool,
}

impl Edits {
    /// Reads what a specification says, which stands at `place` in it; what is wrong with it comes
    /// with the field.
    pub fn read(edits: &ContainerEdits, place: &str) -> Result<Self, String> {
        let mut all = Self::default();
        for (index, entry) in edits.env.iter().flatten().enumerate() {
            let name = entry.split_once('=').map_or("", |(name, _)| name);
            if name.is_empty() || entry.contains('\0') {
                return Err(format!("{place}.env[{index}]: expected NAME=value"));
            }
            all.env.push(entry.clone());
        }
        for (index, node) in edits.device_nodes.iter().flatten().enumerate() {
            let node = Node::read(node);
            let wrong = |(field, why)| format!("{place}.deviceNodes[{index}].{field}: {why}");
            all.nodes.push(node.map_err(wrong)?);
        }
        for (index, mount) in edits.mounts.iter().flatten().enumerate() {
            let mount = read_mount(mount);
            let wrong = |(field, why)| format!("{place}.mounts[{index}].{field}: {why}");
            all.mounts.push(mount.map_err(wrong)?);
        }
        if let Some(index) = edits.additional_gids.iter().flatten().position(|&id| id == u32::MAX) {
            return Err(format!("{place}.additionalGids[{index}]: no group has this number"));
        }
        // The specification says that 0 is passed over.
        all.groups = edits.additional_gids.iter().flatten().copied().filter(|&id| id > 0).collect();
        Ok(all)
    }

    /// Names the field that asks for what is not done here, if there is one.
    pub fn unsupported(edits: &ContainerEdits, place: &str) -> Option<String> {
        if let Some(hook) = edits.hooks.iter().flatten().next() {
            let spec::Hook { hook_name, path, .. } = hook;
            return Some(format!(
                "{place}.hooks[0]: the hook {hook_name} `{path}` is not run: a build starts no \
                 program of the host"
            ));
        }
        if edits.net_devices.iter().flatten().next().is_some() {
            return Some(format!(
                "{place}.netDevices[0]: the host's network interfaces are not moved into steps"
            ));
        }
        let rdt = edits.intel_rdt.is_some();
        rdt.then(|| format!("{place}.intelRdt: classes of resctrl are not supported"))
    }

    /// Adds those of another device. What both ask for is there once.
    pub fn extend(&mut self, other: Self) {
        fn merge<T: PartialEq>(all: &mut Vec<T>, more: Vec<T>) {
            for one in more {
                if !all.contains(&one) {
                    all.push(one);
                }
            }
        }
        merge(&mut self.env, other.env);
        merge(&mut self.nodes, other.nodes);
        merge(&mut self.mounts, other.mounts);
        merge(&mut self.groups, other.groups);
    }

    /// Finds out on this machine what the specification left open.
    pub fn complete(mut self) -> Result<Self, String> {
        self.nodes.iter_mut().try_for_each(Node::complete)?;
        Ok(self)
    }

    /// Changes a step; its nodes are made with its /dev.
    pub fn apply(&self, step: &mut Step) {
        for entry in &self.env {
            let name = |entry: &str| entry.split_once('=').map(|(name, _)| name.to_owned());
            step.env.retain(|own| name(own) != name(entry));
            step.env.push(entry.clone());
        }
        step.mounts.extend(self.mounts.iter().cloned());
        for group in &self.groups {
            if !step.user.groups.contains(group) {
                step.user.groups.push(*group);
            }
        }
    }
}

impl Node {
    fn read(node: &spec::DeviceNode) -> Result<Self, (&'static str, String)> {
        let wrong = |field, why: &str| Err((field, why.to_owned()));
        let name = node.path.strip_prefix("/dev/").unwrap_or("");
        let mut parts = name.split('/');
        if parts.any(|part| matches!(part, "" | "." | "..")) || name.contains('\0') {
            return wrong("path", "expected a path below /dev, without `..`");
        }
        let first = name.split('/').next().unwrap_or(name);
        if OWN.contains(&first) {
            return wrong("path", "every step has that already");
        }
        let host = node.host_path.as_deref().unwrap_or(&node.path);
        if !host.starts_with('/') || host.contains('\0') {
            return wrong("hostPath", "expected an absolute path");
        }
        let block = match node.kind.as_deref() {
            // Known once it is looked at.
            None | Some("") => false,
            Some("c" | "u") => false,
            Some("b") => true,
            Some(_) => return wrong("type", "expected `c`, `u` or `b`"),
        };
        let permissions = node.permissions.as_deref().filter(|text| !text.is_empty());
        let permissions = permissions.unwrap_or("rwm");
        if permissions.bytes().any(|letter| !b"rwm".contains(&letter)) {
            return wrong("permissions", "expected letters of `rwm`");
        }
        let number = |field, value: i64, bits: u32| match u32::try_from(value) {
            Ok(value) if value < 1 << bits => Ok(value),
            _ => Err((field, format!("expected a number of {bits} bits"))),
        };
        // As wide as the kernel has them (MINORBITS).
        let major = number("major", node.major.unwrap_or(0), 12)?;
        let minor = number("minor", node.minor.unwrap_or(0), 20)?;
        let mode = node.file_mode.unwrap_or(MODE);
        if mode & !0o777 != 0 {
            return wrong("fileMode", "expected permission bits");
        }
        for (field, id) in [("uid", node.uid), ("gid", node.gid)] {
            if id == Some(u32::MAX) {
                return wrong(field, "nobody has this number");
            }
        }
        Ok(Self {
            name: name.to_owned(),
            host: host.into(),
            block,
            major,
            minor,
            mode,
            uid: node.uid,
            gid: node.gid,
            read: permissions.contains('r'),
            write: permissions.contains('w'),
        })
    }

    /// Takes the numbers of the host's device, unless the specification gave them.
    fn complete(&mut self) -> Result<(), String> {
        if self.major != 0 {
            return Ok(());
        }
        let path = self.host.display();
        let found = fs::metadata(&self.host).map_err(|error| format!("`{path}`: {error}"))?;
        let kind = found.file_type();
        if !kind.is_block_device() && !kind.is_char_device() {
            return Err(format!("`{path}` is not a device"));
        }
        self.block = kind.is_block_device();
        (self.major, self.minor) =
            (rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev()));
        Ok(())
    }
}

fn read_mount(mount: &spec::Mount) -> Result<Mount, (&'static str, String)> {
    let wrong = |field, why: String| Err((field, why));
    if !mount.host_path.starts_with('/') || mount.host_path.contains('\0') {
        return wrong("hostPath", "expected an absolute path".to_owned());
    }
    match mount.kind.as_deref() {
        None | Some("" | "bind" | "none") => {}
        Some(other) => return wrong("type", format!("`{other}` is not supported, only `bind` is")),
    }
    let mut readonly = true;
    let mut restrictions = Restrictions { nosuid: true, nodev: true, noexec: false };
    for option in mount.options.iter().flatten() {
        match option.as_str() {
            "ro" => readonly = true,
            "rw" => readonly = false,
            "suid" => restrictions.nosuid = false,
            "nosuid" => restrictions.nosuid = true,
            "dev" => restrictions.nodev = false,
            "nodev" => restrictions.nodev = true,
            "exec" => restrictions.noexec = false,
            "noexec" => restrictions.noexec = true,
            // Nothing is propagated in either direction, and what is mounted below is not shown.
            "bind" | "rbind" | "private" | "rprivate" | "slave" | "rslave" => {}
            other => return wrong("options", format!("`{other}` is not supported")),
        }
    }
    let mount = Mount::Bind {
        source: BindSource::Host(mount.host_path.clone().into()),
        selector: None,
        dest: mount.container_path.clone(),
        readonly,
        restrictions,
    };
    match crate::check::mount(&mount) {
        Ok(()) => Ok(mount),
        Err(invalid) => wrong("containerPath", invalid.why.to_owned()),
    }
}
