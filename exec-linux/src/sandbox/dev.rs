//! The step's own /dev: a file system in memory with the devices that Docker gives, so that
//! nothing that an image has there is ever looked at.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, Uid, chownat, fstat, makedev, mkdirat, mknodat, symlinkat,
    unlinkat,
};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::device_filter::Rule;
use super::mount_attributes::{NO_DEV, NO_EXEC, NO_SUID};
use super::mounts::{attach, new_file_system};
use super::paths::{self, Kind, Unnoted};
use super::{Doing, Result, failure};
use crate::cdi::Node;
use crate::entitlement::Given;
use crate::step::{Security, User};
use crate::user_namespace::Ids;

/// Name, major and minor number of the character devices that every step gets.
const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// What an insecure step gets besides (spec 2.3-11).
const INSECURE_DEVICES: [(&str, u32, u32); 6] = [
    ("kmsg", 1, 11),
    ("cuse", 10, 203),
    ("fuse", 10, 229),
    ("kvm", 10, 232),
    ("net/tun", 10, 200),
    ("loop-control", 10, 237),
];
const INSECURE_LOOP_DEVICES: u32 = 8;
const LOOP_MAJOR: u32 = 7;

/// The group of terminals (`tty`) in every distribution.
const TERMINALS: u32 = 5;

const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
    ("core", "/proc/kcore"),
];

impl Node {
    /// What the step may do with it, for the device filter.
    pub fn rule(&self) -> Rule {
        let Self { block, major, minor, read, write, .. } = *self;
        Rule { block, major, minor, read, write }
    }
}

/// Makes a node of the machine's in a directory, in place of what is there.
pub fn add_node(dev: &OwnedFd, name: &str, node: &Node, user: &User, ids: Ids) -> Result<()> {
    let make = || {
        let (directory, file) = match name.rsplit_once('/') {
            None => (dev.try_clone()?, name),
            Some((directory, file)) => {
                (paths::ensure(dev, directory, Kind::Directory, &mut Unnoted)?, file)
            }
        };
        let kind = if node.block { FileType::BlockDevice } else { FileType::CharacterDevice };
        let make = || {
            let mode = Mode::from_raw_mode(node.mode);
            mknodat(&directory, file, kind, mode, makedev(node.major, node.minor))
        };
        match make() {
            Err(Errno::EXIST) => {
                unlinkat(&directory, file, AtFlags::empty())?;
                make()?;
            }
            made => made?,
        }
        let uid = Uid::from_raw(ids.host(node.uid.unwrap_or(user.uid))?);
        let gid = Gid::from_raw(ids.host(node.gid.unwrap_or(user.gid))?);
        Ok::<_, io::Error>(chownat(
            &directory,
            file,
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        )?)
    };
    make().doing(|| format!("making the device `/dev/{}`", node.name))
}

/// Refuses devices that a step may have for one purpose only, where nothing keeps it from others.
pub fn refuse_restricted(nodes: &[Node]) -> Result<()> {
    match nodes.iter().find(|node| !(node.read && node.write)) {
        None => Ok(()),
        Some(node) => {
            let reason = "it is to be read only or written only, and here nothing enforces that: \
                          it takes root and unified cgroups";
            Err(failure(
                format!("giving the device `/dev/{}`", node.name),
                io::Error::new(io::ErrorKind::Unsupported, reason),
            ))
        }
    }
}

/// Whether everybody, or the user who is this namespace's root, may open a device of the host's.
fn is_usable(device: &OwnedFd, node: &Node) -> io::Result<bool> {
    let found = fstat(device)?;
    let bits = if found.st_uid == 0 { found.st_mode >> 6 } else { found.st_mode };
    Ok((!node.read || bits & 4 != 0) && (!node.write || bits & 2 != 0))
}

/// Devices of the host, to be mounted where none can be made.
pub struct HostDevices(Vec<(String, OwnedFd)>);

impl HostDevices {
    /// Takes those that a step gets, as long as the host's /dev can be seen. The usual ones have to
    /// be there.
    pub fn take(given: &Given) -> Result<Self> {
        let security = given.security;
        let take_path = |path: &Path| -> io::Result<OwnedFd> {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            Ok(open_tree(CWD, path, flags)?)
        };
        let take = |name: &str| -> io::Result<(String, OwnedFd)> {
            Ok((name.to_owned(), take_path(&Path::new("/dev").join(name))?))
        };
        let usual = DEVICES.iter().map(|(name, ..)| {
            take(name).doing(|| format!("taking the host's device `/dev/{name}`"))
        });
        let mut devices = usual.collect::<Result<Vec<_>>>()?;
        if security == Security::Insecure {
            let others = INSECURE_DEVICES.iter().filter(|(name, ..)| !name.contains('/'));
            devices.extend(others.filter_map(|(name, ..)| take(name).ok()));
        }
        for node in &given.devices.nodes {
            let device = take_path(&node.host).and_then(|device| match is_usable(&device, node)? {
                true => Ok(device),
                false => {
                    let reason = "its permissions are for others than you, and for groups, which \
                                  steps without root are not in";
                    Err(io::Error::new(io::ErrorKind::PermissionDenied, reason))
                }
            });
            let device =
                device.doing(|| format!("taking the host's device `{}`", node.host.display()))?;
            devices.push((node.name.clone(), device));
        }
        Ok(Self(devices))
    }

    /// Mounts them in a step's /dev, which must be attached.
    pub fn mount(self, dev: &OwnedFd) -> Result<()> {
        for (name, device) in self.0 {
            paths::ensure(dev, &name, Kind::File, &mut Unnoted)
                .and_then(|target| attach(device, target))
                .doing(|| format!("mounting the device `/dev/{name}`"))?;
        }
        Ok(())
    }
}

/// Makes /dev, not attached yet, with device nodes. Its mode must be 0755: package scripts fail on
/// others.
pub fn make(security: Security) -> io::Result<OwnedFd> {
    let dev = make_without_nodes()?;
    let node = |name: &str, kind, mode, major, minor| {
        mknodat(&dev, name, kind, Mode::from_raw_mode(mode), makedev(major, minor))
    };
    for (name, major, minor) in DEVICES {
        node(name, FileType::CharacterDevice, 0o666, major, minor)?;
    }
    if security == Security::Insecure {
        mkdirat(&dev, "net", Mode::from_raw_mode(0o755))?;
        for (name, major, minor) in INSECURE_DEVICES {
            node(name, FileType::CharacterDevice, 0o600, major, minor)?;
        }
        for minor in 0..INSECURE_LOOP_DEVICES {
            node(&format!("loop{minor}"), FileType::BlockDevice, 0o600, LOOP_MAJOR, minor)?;
        }
    }
    Ok(dev)
}

/// The same without.
pub fn make_without_nodes() -> io::Result<OwnedFd> {
    let options = [("mode", "0755"), ("size", "65536k")];
    let dev = new_file_system("tmpfs", &options, NO_SUID | NO_EXEC)?;
    for directory in ["pts", "shm", "mqueue"] {
        mkdirat(&dev, directory, Mode::from_raw_mode(0o755))?;
    }
    for (name, target) in LINKS {
        symlinkat(target, &dev, name)?;
    }
    Ok(dev)
}

/// Mounts what lies in /dev. The ipc namespace must be the step's.
pub fn mount_children(dev: &OwnedFd, ids: Ids) -> Result<()> {
    let plain = NO_SUID | NO_EXEC;
    let terminals = ids.host(TERMINALS).doing(|| "mounting /dev/pts".to_owned())?.to_string();
    let pts = [("ptmxmode", "0666"), ("mode", "0620"), ("gid", &terminals)];
    let shm = [("mode", "1777"), ("size", "65536k")];
    for (name, kind, options, attributes) in [
        ("pts", "devpts", &pts[..], plain),
        ("shm", "tmpfs", &shm[..], plain | NO_DEV),
        ("mqueue", "mqueue", &[][..], plain | NO_DEV),
    ] {
        new_file_system(kind, options, attributes)
            .and_then(|mount| {
                give_to_root(&mount, ids)?;
                attach(mount, paths::resolve(dev, name)?)
            })
            .doing(|| format!("mounting /dev/{name}"))?;
    }
    Ok(())
}

/// Gives the root directory of a file system to the step's root; some of the kernel's belong to the
/// host's, whoever mounts them.
fn give_to_root(mount: &OwnedFd, ids: Ids) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(ids.host(0)?), Gid::from_raw(ids.host(0)?));
    Ok(chownat(mount, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?)
}
