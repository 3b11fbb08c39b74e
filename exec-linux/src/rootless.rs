//! Makes an ordinary user's process root of a user namespace of its own, in which it can unpack
//! layers, make mounts and run steps; with the ids that `/etc/subuid` and `/etc/subgid` give to
//! the user, by `newuidmap` and `newgidmap` (package uidmap).
//!
//! Everything is first tried by a child, whose namespace is then entered: who has once entered a
//! namespace without ids cannot go back.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use rustix::process::{getegid, geteuid};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// The inode number of the user namespace that all others descend from (`PROC_USER_INIT_INO` of
/// linux/proc_ns.h).
const INITIAL: u64 = 0xefff_fffd;

/// Why a user cannot have a user namespace that steps can run in.
#[derive(Debug, thiserror::Error)]
pub enum NoNamespace {
    /// The kernel refuses; in words.
    #[error("this machine refuses user namespaces to ordinary users: {0}")]
    Refused(String),
    /// The user has no subordinate ids.
    #[error(
        "{file} gives user `{user}` no range of ids (`usermod --add-{option} 100000-165535 {user}` as root does)"
    )]
    NoRange {
        /// `/etc/subuid` or `/etc/subgid`.
        file: &'static str,
        /// The user's name, or number if it has no name.
        user: String,
        /// What `usermod` calls them.
        option: &'static str,
    },
    /// A program is missing.
    #[error(
        "the program `{0}` is not installed (Debian and Ubuntu: package uidmap; Fedora: shadow-utils)"
    )]
    NoProgram(&'static str),
    /// A program did not do it.
    #[error("`{program}` failed: {why}")]
    NotMapped {
        /// `newuidmap` or `newgidmap`.
        program: &'static str,
        /// What it said.
        why: String,
    },
    /// Something else went wrong.
    #[error("making a user namespace: {0}")]
    Io(#[from] io::Error),
}

/// Whether this process is in the user namespace that the machine started with.
pub(crate) fn in_initial_namespace() -> bool {
    // Where it cannot be told, nothing is taken for granted.
    rustix::fs::stat("/proc/self/ns/user").is_ok_and(|namespace| namespace.st_ino == INITIAL)
}

/// Makes this process, which must have one thread and not be root, root of a new user namespace
/// with a mount namespace. Programs are looked for in the directories of `search`.
///
/// # Errors
/// Says what is missing; then nothing has changed.
pub fn enter(search: impl IntoIterator<Item = PathBuf>) -> Result<(), NoNamespace> {
    let search: Vec<PathBuf> = search.into_iter().collect();
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let name = user_name(uid);
    let mut maps = Vec::new();
    for (program, file, option, own) in
        [("newuidmap", "/etc/subuid", "subuids", uid), ("newgidmap", "/etc/subgid", "subgids", gid)]
    {
        let listed = ranges(&fs::read_to_string(file).unwrap_or_default(), &name, uid);
        if listed.is_empty() {
            return Err(NoNamespace::NoRange { file, user: name, option });
        }
        let found = search.iter().map(|directory| directory.join(program)).find(|p| p.is_file());
        let path = found.ok_or(NoNamespace::NoProgram(program))?;
        maps.push((program, path, arguments(own, &listed)));
    }
    let child = Trial::start()?;
    for (program, path, map) in maps {
        let output = Command::new(path).arg(child.id.to_string()).args(map).output()?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(NoNamespace::NotMapped { program, why });
        }
    }
    child.try_mount()?;
    let namespace = File::open(format!("/proc/{}/ns/user", child.id))?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::User))
        .map_err(io::Error::from)?;
    // SAFETY: one thread, and no descriptor table is shared by this flag.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.map_err(io::Error::from)?;
    Ok(())
}

/// The name of a user of this machine; the number, if it has none.
pub fn user_name(uid: u32) -> String {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    name_of(uid, &passwd).map_or_else(|| uid.to_string(), str::to_owned)
}

/// A child in a user namespace of its own.
struct Trial {
    id: i32,
    socket: UnixStream,
}

impl Trial {
    fn start() -> Result<Self, NoNamespace> {
        let (socket, theirs) = UnixStream::pair()?;
        // SAFETY: the process has one thread, so the child may go on using its copy of everything.
        let id = match unsafe { libc::fork() } {
            -1 => return Err(io::Error::last_os_error().into()),
            0 => {
                drop(socket);
                _ = trial(theirs);
                // SAFETY: ends this process at once, without what its parent registered.
                unsafe { libc::_exit(0) }
            }
            id => id,
        };
        let trial = Self { id, socket };
        match trial.answer()? {
            None => Ok(trial),
            Some(error) => Err(NoNamespace::Refused(refusal(error))),
        }
    }

    /// Has the child make a mount, now that it has ids.
    fn try_mount(&self) -> Result<(), NoNamespace> {
        (&self.socket).write_all(&[0])?;
        match self.answer()? {
            None => Ok(()),
            Some(error) => Err(NoNamespace::Refused(refusal(error))),
        }
    }

    fn answer(&self) -> io::Result<Option<io::Error>> {
        let mut errno = [0; 4];
        (&self.socket).read_exact(&mut errno)?;
        let errno = i32::from_ne_bytes(errno);
        Ok((errno != 0).then(|| io::Error::from_raw_os_error(errno)))
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        _ = self.socket.shutdown(std::net::Shutdown::Both);
        // SAFETY: no status is asked for.
        unsafe { libc::waitpid(self.id, std::ptr::null_mut(), 0) };
    }
}

/// What the child does.
fn trial(mut socket: UnixStream) -> io::Result<()> {
    let mut tell = |result: rustix::io::Result<()>| {
        let errno = result.map_or_else(rustix::io::Errno::raw_os_error, |()| 0);
        socket.write_all(&errno.to_ne_bytes())?;
        // The parent says when to go on; its end is the end.
        socket.read_exact(&mut [0])
    };
    // SAFETY: one thread, and these flags share no descriptors.
    tell(unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNS) })?;
    let mount = || {
        let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(&context)?;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).map(drop)
    };
    tell(mount())
}

/// Why the kernel refuses user namespaces, from its settings.
fn refusal(error: io::Error) -> String {
    let settings = [
        ("user/max_user_namespaces", "0"),
        ("kernel/unprivileged_userns_clone", "0"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1"),
    ];
    let set = |(path, value): &(&str, &str)| {
        let file = Path::new("/proc/sys").join(path);
        fs::read_to_string(file).is_ok_and(|found| found.trim() == *value)
    };
    match settings.iter().find(|setting| set(setting)) {
        Some((path, value)) => format!("sysctl {} is {value}", path.replace('/', ".")),
        None => error.to_string(),
    }
}

/// The name of a user id in the text of /etc/passwd.
fn name_of(uid: u32, passwd: &str) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    })
}

/// The ranges (first id, count) that a text like /etc/subuid gives a user, by name or number.
fn ranges(text: &str, name: &str, uid: u32) -> Vec<(u32, u32)> {
    let range = |line: &str| -> Option<(u32, u32)> {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let (first, count) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (owner == name || owner.parse() == Ok(uid)).then_some((first, count))
    };
    text.lines().filter_map(range).filter(|(_, count)| *count > 0).collect()
}

/// The arguments of `newuidmap` after the process: root is the user, what follows the ranges.
fn arguments(own: u32, ranges: &[(u32, u32)]) -> Vec<String> {
    let mut inside: u32 = 1;
    let mut arguments = vec![0, own, 1];
    for &(first, count) in ranges {
        let count = count.min(u32::MAX - 1 - inside);
        arguments.extend([inside, first, count]);
        inside += count;
    }
    arguments.iter().map(u32::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_the_users() {
        let text = "other:1:2\nme:100000:65536\n# no\n1000:5:0\n1000:300000:10\nme:x:1\n";
        assert_eq!(ranges(text, "me", 1000), [(100_000, 65_536), (300_000, 10)]);
        assert_eq!(ranges(text, "nobody", 7), []);
        let map = arguments(1000, &ranges(text, "me", 1000));
        assert_eq!(map.join(" "), "0 1000 1 1 100000 65536 65537 300000 10");
        assert_eq!(name_of(7, "a:x:6:\nbroken\nb:x:7:7::/:\n"), Some("b"));
        assert_eq!(name_of(8, "a:x:6:\n"), None);
    }
}
