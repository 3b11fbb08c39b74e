//! Registers emulators in a user namespace.
//!
//! Since Linux 6.7 each user namespace can have a binfmt_misc of its own, which counts for the
//! processes in it in place of the host's. It is mounted nowhere: its descriptor, which the engine
//! keeps, holds it, so that whatever happens to the engine, nothing of it stays. Only a process in
//! the namespace, with a mount namespace that belongs to it, can make it; that is a helper which
//! ends at once.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags, openat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use serde::{Deserialize, Serialize};

use super::Emulators;
use super::architecture::Architecture;
use crate::wire;

/// The `argv[0]` by which the program knows that it is to register emulators.
pub const ARGV0: &str = "cofferdam-binfmt";

/// How handlers are registered (`Documentation/admin-guide/binfmt-misc.rst`): the emulator gets the
/// program's own `argv[0]` (P) and its descriptor, so that it needs not be readable (O); set-user-id
/// bits are those of the program (C); the emulator is opened now, by the host's path, and need not
/// be in any step's root (F).
const FLAGS: &str = "POCF";
/// Between the fields of a registration: nothing that a path has.
const SEPARATOR: char = '\u{1}';

/// An emulator to register.
#[derive(Debug, Serialize, Deserialize)]
struct Handler {
    name: String,
    magic: Vec<u8>,
    mask: Vec<u8>,
    program: PathBuf,
}

/// What became of it.
#[derive(Debug, Serialize, Deserialize)]
enum Reply {
    /// With this comes the descriptor of the mount. Why some could not be registered, by name.
    Registered(Vec<(String, String)>),
    /// Nothing is registered.
    Failed(String),
}

/// The emulators of a user namespace: registered when a step first needs one, and then for as long
/// as this lives.
#[derive(Debug)]
pub struct Registry {
    emulators: Emulators,
    registered: OnceLock<Result<Registered, String>>,
}

#[derive(Debug)]
struct Registered {
    _mount: OwnedFd,
    /// Why some are not, by architecture.
    refused: Vec<(String, String)>,
}

impl Registry {
    /// Registers nothing yet.
    pub fn new(emulators: Emulators) -> Self {
        Self { emulators, registered: OnceLock::new() }
    }

    /// Sees to it that the kernel starts the emulator of an architecture for all processes of a
    /// user namespace, which is always the same one: this process's own if none is given. `program` is the one that calls
    /// [`crate::sandbox_entry`]. The first call blocks for some milliseconds.
    ///
    /// # Errors
    /// Says why it cannot be.
    pub fn register(
        &self,
        architecture: &str,
        program: &Path,
        user_namespace: Option<BorrowedFd<'_>>,
    ) -> Result<(), String> {
        let registered = self.registered.get_or_init(|| {
            Registered::new(program, user_namespace, self.emulators.programs())
                .map_err(|error| format!("binfmt_misc cannot be used in a user namespace: {error}"))
        });
        let registered = registered.as_ref().map_err(Clone::clone)?;
        match registered.refused.iter().find(|(name, _)| name == architecture) {
            Some((_, reason)) => Err(format!("the emulator cannot be registered: {reason}")),
            None => Ok(()),
        }
    }
}

impl Registered {
    fn new(
        program: &Path,
        user_namespace: Option<BorrowedFd<'_>>,
        emulators: impl Iterator<Item = (&'static Architecture, PathBuf)>,
    ) -> io::Result<Self> {
        let handlers: Vec<Handler> = emulators.map(handler).collect();
        let (ours, theirs) = UnixStream::pair()?;
        let mut helper = Command::new(program)
            .arg0(ARGV0)
            .env_clear()
            .process_group(0)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let answer = (|| {
            match user_namespace {
                Some(other) => wire::send_with(&ours, &handlers, other)?,
                None => wire::send(&ours, &handlers)?,
            }
            wire::receive::<Reply>(&ours)
        })();
        drop(ours);
        helper.wait()?;
        let (reply, descriptors) = answer?;
        match (reply, descriptors.into_iter().next()) {
            (Reply::Registered(refused), Some(mount)) => Ok(Self { _mount: mount, refused }),
            (Reply::Registered(_), None) => Err(io::Error::other("no descriptor came")),
            (Reply::Failed(reason), _) => Err(io::Error::other(reason)),
        }
    }
}

fn handler((architecture, program): (&'static Architecture, PathBuf)) -> Handler {
    let (magic, mask) = architecture.magic();
    let name = architecture.name.to_owned();
    Handler { name, magic: magic.into(), mask: mask.into(), program }
}

/// The helper: registers what it is told to, and says what became of it.
pub fn helper(socket: io::Result<UnixStream>) -> ! {
    let told = socket.and_then(|socket| {
        let (handlers, lent) = wire::receive::<Vec<Handler>>(&socket)?;
        let user_namespace = lent.into_iter().next();
        match register(&handlers, user_namespace) {
            Ok((mount, refused)) => wire::send_with(&socket, &Reply::Registered(refused), mount),
            Err(error) => wire::send(&socket, &Reply::Failed(error.to_string())),
        }
    });
    // Nobody hears more when the engine is gone.
    std::process::exit(i32::from(told.is_err()))
}

fn register(
    handlers: &[Handler],
    user_namespace: Option<OwnedFd>,
) -> io::Result<(OwnedFd, Vec<(String, String)>)> {
    // By root of the host, whose directories may be closed to everybody else.
    let programs: Vec<io::Result<File>> =
        handlers.iter().map(|handler| File::open(&handler.program)).collect();
    if let Some(other) = user_namespace {
        move_into_link_name_space(other.as_fd(), Some(LinkNameSpaceType::User))?;
    }
    // SAFETY: the process has one thread, and no descriptor table is shared by this flag.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
    let context = fsopen("binfmt_misc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    let mut refused = Vec::new();
    for (handler, program) in handlers.iter().zip(programs) {
        let registered = program.and_then(|program| {
            // The name is what lists of processes show, and does unless a directory is closed.
            register_one(&mount, handler, &handler.program).or_else(|_| {
                let path = format!("/proc/self/fd/{}", program.as_raw_fd());
                register_one(&mount, handler, Path::new(&path))
            })
        });
        if let Err(error) = registered {
            refused.push((handler.name.clone(), error.to_string()));
        }
    }
    Ok((mount, refused))
}

fn register_one(mount: &OwnedFd, handler: &Handler, program: &Path) -> io::Result<()> {
    let program = program.to_str().filter(|path| !path.contains(SEPARATOR));
    let program = program.ok_or_else(|| io::Error::other("its path cannot be registered"))?;
    let escaped =
        |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("\\x{b:02x}")).collect() };
    let (magic, mask) = (escaped(&handler.magic), escaped(&handler.mask));
    let fields = ["", &handler.name, "M", "0", &magic, &mask, program, FLAGS];
    let line = fields.join(&SEPARATOR.to_string());
    let file = openat(mount, "register", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    // The kernel takes it in one write or not at all.
    File::from(file).write_all(line.as_bytes())
}
