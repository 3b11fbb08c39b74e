//! Exec ops on `wasi/wasm`: a WASI program of the stage's own, run by Wasmtime in this process.
//!
//! It needs no namespace, no mount and no privilege. The stage's tree is written into a directory
//! of the state directory, which is all that the program sees, and what it changed there becomes a
//! layer. Owners and permissions mean nothing to WASI: files that it changed keep theirs, new ones
//! belong to the step's user.

mod changes;
mod directory;
mod limits;

use std::io::{Cursor, Read};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cofferdam_component::{LogStream, Preopen, Program, ProgramRun};
use cofferdam_exec_linux::{Granted, Network, Security};
use cofferdam_llb::{ExecOp, Mount, MountKind, Vertex};
use cofferdam_solver::{Context, Stream};
use cofferdam_store::{LayerDir, Snapshot, Store, Tree};
use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};
use rustix::io::Errno;

use self::directory::{Directory, holds, single_file};
use self::limits::{Allowed, beyond_size, check_sizes};
use crate::error::StepExit;
use crate::exec::{self, beyond_limit, user};
use crate::graph::BuildContext;
use crate::mounts::Lent;
use crate::vertex::blocking;
use crate::{Error, mounts};

/// The exit code of a program that crashed: what a shell says of an aborted process.
const CRASHED: i32 = 134;
/// The signal that ends a process which has used its time (signal(7)).
const SIGXCPU: i32 = 24;

/// Runs the program, and commits what it left in each writable mount.
pub(crate) async fn run(
    context: &BuildContext,
    vertex: &Vertex,
    exec: &ExecOp,
    granted: &Granted,
    inputs: &[Snapshot],
    progress: &Context,
) -> Result<Vec<Snapshot>, Error> {
    let command = exec.meta.args.join(" ");
    check(exec, granted)?;
    let allowed = Allowed::of(&context.request.step_limits, vertex, exec);
    allowed.warn(context);
    let shown = exec::shown(exec, inputs);
    let engine = context.engine.clone();
    let (store, description, roots) = (engine.store.clone(), exec.clone(), shown.clone());
    let text = command.clone();
    let (program, owner) = blocking(move || {
        let tree = root(&store, &description, &roots)?;
        let owner = user(&tree, &description.meta.user)?;
        let failed = |reason| Error::Program { command: text, reason };
        let (name, bytes) = find(&tree, &description, engine.program_bytes()).map_err(failed)?;
        Ok((engine.load_program(&name, &bytes)?, owner))
    })
    .await?;
    let secrets = mounts::secret_variables(&*context.session, exec)?;
    let caches = exec::caches(context, vertex, exec, &shown).await?;
    let store = &context.engine.store;
    // Held until the program has ended.
    let (lent, taken) = mounts::take(store, &*context.session, exec, caches).await?;
    let (own, description) = (store.clone(), exec.clone());
    let Files { directories, caches, selected: _selected } =
        blocking(move || files(&own, &description, &shown, lent)).await?;
    let preopens = directories.iter().map(Directory::preopen).chain(caches).collect();
    let sizes = limits::sizes(&directories);
    let step = start(exec, granted, &allowed, secrets, &program, preopens, progress);
    let written = directories.iter().map(|directory| &directory.written);
    let watches = written.map(LayerDir::watch).chain(taken.watches()).collect();
    let exit = tokio::select! {
        ended = step => ended?,
        error = beyond_limit(store, watches) => return Err(error),
        error = beyond_size(&command, &sizes) => return Err(error),
    };
    // What was written since it was last looked at counts, too.
    check_sizes(&command, &sizes)?;
    let valid = &exec.meta.valid_exit_codes;
    let good = match exit {
        StepExit::Code(0) if valid.is_empty() => true,
        StepExit::Code(code) => valid.contains(&code),
        StepExit::Signal(_) | StepExit::OutOfMemory => false,
    };
    if !good {
        return Err(Error::Step { command, exit, kept: false });
    }
    let store = store.clone();
    blocking(move || {
        let outputs = directories.into_iter().filter(|directory| directory.mount.is_output());
        outputs.map(|directory| directory.commit(&store, &owner)).collect()
    })
    .await
}

/// Refuses what a program cannot have.
fn check(exec: &ExecOp, granted: &Granted) -> Result<(), Error> {
    let unsupported = |what: String| Err(Error::Unsupported(format!("{what} on wasi/wasm")));
    // Which a socket is reached through, and WASI has none of that kind.
    if let Some(agent) = exec.mounts.iter().find(|mount| matches!(mount.kind, MountKind::Ssh(_))) {
        return unsupported(format!("a mount of type `ssh` (at `{}`)", agent.dest));
    }
    // One that is optional and not there is none.
    let given = |name: &String| !granted.missing_devices.contains(name);
    if let Some(device) = exec.cdi_devices.iter().find(|device| given(&device.name)) {
        return unsupported(format!("the device `{}`", device.name));
    }
    if granted.security == Security::Insecure {
        return unsupported("`--security=insecure`".into());
    }
    Ok(())
}

/// The stage's tree.
fn root(store: &Store, exec: &ExecOp, shown: &[Snapshot]) -> Result<Tree, Error> {
    let root = exec.mounts.iter().zip(shown).find(|(mount, _)| mount.dest == "/");
    let (_, root) = root.ok_or_else(|| Error::Internal("an exec op has a mount at `/`".into()))?;
    Ok(store.tree(root)?)
}

/// Finds the program as execvp(3) would; gives its path and its bytes, or why not.
fn find(tree: &Tree, exec: &ExecOp, limit: usize) -> Result<(String, Vec<u8>), String> {
    const HINT: &str = "a step on wasi/wasm runs a WASI program of the stage, without a shell: \
                        RUN [\"/program.wasm\", \"argument\"]";
    let wanted = exec.meta.args.first().filter(|name| !name.is_empty());
    let wanted = wanted.ok_or("the program to run is missing")?;
    let path = exec.meta.env.iter().find_map(|entry| entry.strip_prefix("PATH="));
    let candidates: Vec<String> = match (wanted.starts_with('/'), wanted.contains('/')) {
        (true, _) => vec![wanted.clone()],
        (false, true) => vec![format!("{}/{wanted}", exec.meta.cwd)],
        (false, false) => {
            let directories = path.unwrap_or("/usr/local/bin:/usr/bin:/bin").split(':');
            directories.map(|directory| format!("{directory}/{wanted}")).collect()
        }
    };
    for candidate in candidates {
        match tree.read(candidate.as_bytes(), limit as u64) {
            Ok(bytes) if bytes.starts_with(b"\0asm") => return Ok((candidate, bytes)),
            Ok(_) => return Err(format!("`{candidate}` is no WebAssembly: {HINT}")),
            Err(cofferdam_store::Error::NotFound(_)) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Err(format!("`{wanted}` is not there: {HINT}"))
}

/// What a program sees of the file system.
struct Files {
    /// Directories of its own, in the order of the mounts that they stand for.
    directories: Vec<Directory>,
    caches: Vec<Preopen>,
    /// What keeps the paths of `caches` that go through descriptors alive.
    selected: Vec<OwnedFd>,
}

/// Writes out what the mounts show.
fn files(
    store: &Store,
    exec: &ExecOp,
    shown: &[Snapshot],
    lent: Vec<Lent>,
) -> Result<Files, Error> {
    let mut files = Files { directories: Vec::new(), caches: Vec::new(), selected: Vec::new() };
    let mut single: Vec<(&Mount, Box<dyn Read>)> = Vec::new();
    for ((mount, shown), lent) in exec.mounts.iter().zip(shown).zip(lent) {
        match (&mount.kind, lent) {
            (MountKind::Bind | MountKind::Tmpfs(_), _) => match single_file(store, mount, shown)? {
                Some(_) if mount.is_output() => {
                    let what = format!("a result that is a file (`{}`) on wasi/wasm", mount.dest);
                    return Err(Error::Unsupported(what));
                }
                Some(file) => single.push((mount, Box::new(file))),
                None => {
                    let directory = Directory::prepare(store, mount, shown.clone())?;
                    files.directories.push(directory);
                }
            },
            (MountKind::Cache(_), Lent::Path(path)) => {
                let host = match mounts::selector(mount) {
                    None => path,
                    Some(part) => {
                        let part = select(&path, &part, mount)?;
                        let host = PathBuf::from(format!("/proc/self/fd/{}", part.as_raw_fd()));
                        files.selected.push(part);
                        host
                    }
                };
                let (guest, readonly) = (mount.dest.clone(), mount.readonly);
                files.caches.push(Preopen { guest, host, readonly });
            }
            (MountKind::Secret(_), Lent::Secret(secret)) => {
                single.push((mount, Box::new(Cursor::new(secret.reveal().to_vec()))));
            }
            // The step may do without.
            (MountKind::Cache(_) | MountKind::Secret(_) | MountKind::Ssh(_), _) => {}
        }
    }
    for (mount, mut contents) in single {
        let nearest = |path: &str| path.trim_end_matches('/').len();
        let holds = |path: &str| holds(path, &mount.dest);
        let cache = files.caches.iter().filter(|cache| holds(&cache.guest));
        let cache = cache.map(|cache| nearest(&cache.guest)).max();
        let directories = files.directories.iter_mut();
        let within = directories.filter(|directory| holds(&directory.mount.dest));
        let within = within.max_by_key(|directory| nearest(&directory.mount.dest));
        match within {
            // Other steps would see it.
            Some(within) if cache.is_none_or(|cache| cache < nearest(&within.mount.dest)) => {
                within.put(&mount.dest, &mut contents)?;
            }
            _ => {
                let what = format!("a file (`{}`) within a mount of type `cache`", mount.dest);
                return Err(Error::Unsupported(format!("{what} on wasi/wasm")));
            }
        }
    }
    files.directories.iter_mut().try_for_each(Directory::remember)?;
    Ok(files)
}

/// Opens a part of a cache's directory, in which other steps may write meanwhile: no link leads
/// out of it.
fn select(cache: &Path, part: &str, mount: &Mount) -> Result<OwnedFd, Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let rules = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let opened = open(cache, flags, Mode::empty()).and_then(|cache| {
        loop {
            match openat2(&cache, part, flags, Mode::empty(), rules) {
                // Something was renamed meanwhile, so that the kernel cannot tell of a `..`.
                Err(Errno::AGAIN | Errno::INTR) => {}
                result => return result,
            }
        }
    });
    opened.map_err(|error| {
        let reason = format!("cannot open `{part}` in it as a directory: {error}");
        Error::Invalid(format!("cache mount at `{}`: {reason}", mount.dest))
    })
}

/// Runs the program to its end.
async fn start(
    exec: &ExecOp,
    granted: &Granted,
    allowed: &Allowed,
    secrets: Vec<String>,
    program: &Program,
    preopens: Vec<Preopen>,
    progress: &Context,
) -> Result<StepExit, Error> {
    let mut env = exec::environment(&exec.meta);
    mounts::add_variables(&mut env, secrets);
    let env = env.iter().filter_map(|entry| entry.split_once('='));
    let told = progress.clone();
    let run = ProgramRun {
        args: exec.meta.args.clone(),
        env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        cwd: exec.meta.cwd.clone(),
        preopens,
        network: granted.network == Network::Host,
        memory: allowed.memory,
        compute_time: allowed.compute_time,
        output: Arc::new(move |stream, bytes| {
            let stream = match stream {
                LogStream::Stdout => Stream::Stdout,
                LogStream::Stderr => Stream::Stderr,
            };
            told.log(stream, bytes);
        }),
    };
    match program.run(run).await {
        Ok(code) => Ok(StepExit::Code(code)),
        Err(cofferdam_component::Error::OutOfMemory { .. }) => Ok(StepExit::OutOfMemory),
        Err(cofferdam_component::Error::OutOfTime { .. }) => Ok(StepExit::Signal(SIGXCPU)),
        Err(error @ cofferdam_component::Error::Host(_)) => Err(error.into()),
        Err(error) => {
            progress.log(Stream::Stderr, format!("{error}\n"));
            Ok(StepExit::Code(CRASHED))
        }
    }
}
