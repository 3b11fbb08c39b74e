//! The step's own /dev: a file system in memory with the devices that Docker gives, so that
//! nothing that an image has there is ever looked at.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, Uid, chownat, makedev, mkdirat, mknodat, symlinkat,
};
use rustix::mount::{OpenTreeFlags, open_tree};

use super::mount_attributes::{NO_DEV, NO_EXEC, NO_SUID};
use super::mounts::{attach, new_file_system};
use super::paths::{self, Kind};
use super::{Doing, Result};
use crate::step::Security;
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

/// Devices of the host, to be mounted where none can be made.
pub struct HostDevices(Vec<(String, OwnedFd)>);

impl HostDevices {
    /// Takes those that a step gets, as long as the host's /dev can be seen. The usual ones have to
    /// be there.
    pub fn take(security: Security) -> Result<Self> {
        let take = |name: &str| -> io::Result<(String, OwnedFd)> {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            Ok((name.to_owned(), open_tree(CWD, format!("/dev/{name}"), flags)?))
        };
        let usual = DEVICES.iter().map(|(name, ..)| {
            take(name).doing(|| format!("taking the host's device `/dev/{name}`"))
        });
        let mut devices = usual.collect::<Result<Vec<_>>>()?;
        if security == Security::Insecure {
            let others = INSECURE_DEVICES.iter().filter(|(name, ..)| !name.contains('/'));
            devices.extend(others.filter_map(|(name, ..)| take(name).ok()));
        }
        Ok(Self(devices))
    }

    /// Mounts them in a step's /dev, which must be attached.
    pub fn mount(self, dev: &OwnedFd) -> Result<()> {
        for (name, device) in self.0 {
            paths::create(dev, &name, Kind::File)
                .and_then(|()| attach(device, paths::resolve(dev, &name)?))
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
