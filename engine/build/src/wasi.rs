//! Exec ops on `wasi/wasm`: a WASI program of the stage's own, run by Wasmtime in this process.
//!
//! It needs no namespace, no mount and no privilege. The stage's tree is written into a directory
//! of the state directory, which is all that the program sees, and what it changed there becomes a
//! layer. Owners and permissions mean nothing to WASI: files that it changed keep theirs, new ones
//! belong to the step's user.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use cofferdam_component::{LogStream, Preopen, Program, ProgramRun};
use cofferdam_exec_linux::User;
use cofferdam_export::{FileTree, Others, Owners, write_directory};
use cofferdam_llb::{ExecOp, Mount, MountKind, NetMode, SecurityMode, Vertex};
use cofferdam_solver::{Context, Stream};
use cofferdam_store::{
    Attributes, Found, LayerBuilder, LayerDir, Node, NodeKind, SharedPackWriter, Snapshot, Store,
    Tree,
};

use crate::error::StepExit;
use crate::exec::{self, Bind, beyond_limit, user};
use crate::graph::BuildContext;
use crate::mounts::Lent;
use crate::vertex::blocking;
use crate::{Error, mounts};

/// The exit code of a program that crashed: what a shell says of an aborted process.
const CRASHED: i32 = 134;
/// Permissions of what a program made.
const FILE_MODE: u32 = 0o644;
const DIRECTORY_MODE: u32 = 0o755;

/// Runs the program, and commits what it left in each writable mount.
pub(crate) async fn run(
    context: &BuildContext,
    vertex: &Vertex,
    exec: &ExecOp,
    inputs: &[Snapshot],
    progress: &Context,
) -> Result<Vec<Snapshot>, Error> {
    let command = exec.meta.args.join(" ");
    check(context, exec, &command)?;
    let engine = context.engine.clone();
    let (store, description, shown) = (engine.store.clone(), exec.clone(), inputs.to_vec());
    let text = command.clone();
    let (program, directories, owner) = blocking(move || {
        let tree = root(&store, &description, &shown)?;
        let owner = user(&tree, &description.meta.user)?;
        let failed = |reason| Error::Program { command: text.clone(), reason };
        let (name, bytes) = find(&tree, &description, engine.program_bytes()).map_err(failed)?;
        let program = engine.load_program(&name, &bytes)?;
        let is_cache = |mount: &&Mount| matches!(mount.kind, MountKind::Cache(_));
        let directories = description.mounts.iter().filter(|mount| !is_cache(mount)).map(|mount| {
            let shown = mount.input.map(|input| shown[input as usize].clone());
            Directory::prepare(&store, mount, shown.unwrap_or_default())
        });
        Ok((program, directories.collect::<Result<Vec<_>, Error>>()?, owner))
    })
    .await?;
    let secrets = mounts::secret_variables(&*context.session, exec)?;
    let caches = exec::caches(context, vertex, exec, &exec::shown(exec, inputs)).await?;
    let store = &context.engine.store;
    // Held until the program has ended.
    let (lent, taken) = mounts::take(store, &*context.session, exec, caches).await?;
    let caches = exec.mounts.iter().zip(lent).filter_map(|(mount, lent)| match lent {
        Lent::Path(host) => {
            Some(Preopen { guest: mount.dest.clone(), host, readonly: mount.readonly })
        }
        Lent::Nothing | Lent::Secret(_) => None,
    });
    let preopens = directories.iter().map(Directory::preopen).chain(caches).collect();
    let step = start(context, exec, secrets, &program, preopens, progress);
    let written = directories.iter().filter_map(|directory| directory.bind.written.as_ref());
    let watches = written.map(LayerDir::watch).chain(taken.watches()).collect();
    let exit = tokio::select! {
        ended = step => ended?,
        error = beyond_limit(&context.engine.store, watches) => return Err(error),
    };
    let valid = &exec.meta.valid_exit_codes;
    let good = match exit {
        StepExit::Code(0) if valid.is_empty() => true,
        StepExit::Code(code) => valid.contains(&code),
        StepExit::Signal(_) | StepExit::OutOfMemory => false,
    };
    if !good {
        return Err(Error::Step { command, exit, kept: false });
    }
    let store = context.engine.store.clone();
    blocking(move || {
        let outputs = directories.into_iter().filter(|directory| directory.bind.is_output);
        outputs.map(|directory| directory.commit(&store, &owner)).collect()
    })
    .await
}

/// Refuses what a program cannot have.
fn check(context: &BuildContext, exec: &ExecOp, command: &str) -> Result<(), Error> {
    let unsupported = |what: String| Err(Error::Unsupported(format!("{what} on wasi/wasm")));
    for mount in &exec.mounts {
        let kind = match mount.kind {
            MountKind::Bind | MountKind::Tmpfs(_) => continue,
            // What is a part of it depends on links that steps have made.
            MountKind::Cache(_) if mounts::selector(mount).is_some() => "cache with a `source`",
            MountKind::Cache(_) => continue,
            MountKind::Secret(_) => "secret",
            MountKind::Ssh(_) => "ssh",
        };
        return unsupported(format!("a mount of type `{kind}` (at `{}`)", mount.dest));
    }
    if exec.security == SecurityMode::Insecure {
        return unsupported("`--security=insecure`".into());
    }
    if exec.network == NetMode::Host && !context.request.entitlements.network_host {
        let command = command.to_owned();
        return Err(Error::Denied { command, entitlement: "network.host" });
    }
    Ok(())
}

/// The stage's tree.
fn root(store: &Store, exec: &ExecOp, shown: &[Snapshot]) -> Result<Tree, Error> {
    let root = exec.mounts.iter().find(|mount| mount.dest == "/");
    let root = root.ok_or_else(|| Error::Internal("an exec op has a mount at `/`".into()))?;
    let shown = root.input.map(|input| shown[input as usize].clone());
    Ok(store.tree(&shown.unwrap_or_default())?)
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

/// Runs the program to its end.
async fn start(
    context: &BuildContext,
    exec: &ExecOp,
    secrets: Vec<String>,
    program: &Program,
    preopens: Vec<Preopen>,
    progress: &Context,
) -> Result<StepExit, Error> {
    let mut env = exec.meta.env.clone();
    mounts::add_variables(&mut env, secrets);
    let env = env.iter().filter_map(|entry| entry.split_once('='));
    let told = progress.clone();
    let memory = context
        .request
        .step_limits
        .memory
        .map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    let run = ProgramRun {
        args: exec.meta.args.clone(),
        env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        cwd: exec.meta.cwd.clone(),
        preopens,
        network: exec.network == NetMode::Host,
        memory,
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
        Err(error @ cofferdam_component::Error::Host(_)) => Err(error.into()),
        Err(error) => {
            progress.log(Stream::Stderr, format!("{error}\n"));
            Ok(StepExit::Code(CRASHED))
        }
    }
}

/// A directory that stands for a mount.
struct Directory {
    mount: Mount,
    bind: Bind,
    base: Tree,
    before: Stamps,
}

impl Directory {
    fn prepare(store: &Store, mount: &Mount, shown: Snapshot) -> Result<Self, Error> {
        let files = FileTree::new(store, &shown, None)?;
        let written = store.new_step_dir()?;
        written.reserve(files.size())?;
        // Owners and permissions mean nothing to the program.
        write_directory(&files, Others::Keep, Owners::Worker, &written.fs())?;
        let before = Stamps::of(&written.fs())?;
        let base = store.tree(&shown)?;
        let is_output = mount.is_output();
        let bind = Bind { shown, written: Some(written), is_output };
        let mut directory = Self { mount: mount.clone(), bind, base, before };
        directory.select()?;
        Ok(directory)
    }

    /// Finds the directory in the tree that the mount shows.
    fn select(&mut self) -> Result<(), Error> {
        let selector = self.mount.selector.trim_matches('/');
        if selector.is_empty() {
            return Ok(());
        }
        let (path, found) = self.base.resolve(selector.as_bytes(), true)?;
        if !found.is_directory() {
            let what = format!("a mount of a file (`{}`) on wasi/wasm", self.mount.selector);
            return Err(Error::Unsupported(what));
        }
        self.mount.selector = String::from_utf8(path)
            .map_err(|_| Error::Invalid(format!("mount source `{selector}`: not UTF-8")))?;
        Ok(())
    }

    fn preopen(&self) -> Preopen {
        let written = self.bind.written.as_ref().expect("`prepare` put it there");
        Preopen {
            guest: self.mount.dest.clone(),
            host: written.fs().join(self.mount.selector.trim_matches('/')),
            readonly: self.mount.readonly,
        }
    }

    /// Makes a layer of what is different now.
    fn commit(self, store: &Store, owner: &User) -> Result<Snapshot, Error> {
        let written = self.bind.written.as_ref().expect("`prepare` put it there");
        // Until the layer refers to the files' bytes.
        let _keep = store.keep();
        let mut changes = Changes {
            pack: store.new_pack(),
            before: &self.before,
            owner,
            layer: LayerBuilder::new(Some(self.base.clone())),
            links: HashMap::new(),
        };
        changes.directory(&written.fs(), &mut Vec::new(), self.base.root().as_ref())?;
        let layer = store.commit_virtual(changes.layer.finish())?;
        Ok(self.bind.shown.with(layer))
    }
}

/// What tells that a file was not touched.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    /// Nanoseconds since 1970; every change of a file's bytes, names or attributes moves it.
    changed: i128,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        let changed =
            i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec());
        Self { inode: metadata.ino(), size: metadata.size(), changed }
    }
}

/// All files of a directory, by path, at one time.
struct Stamps(HashMap<Vec<u8>, Stamp>);

impl Stamps {
    fn of(directory: &Path) -> Result<Self, Error> {
        fn walk(
            directory: &Path,
            path: &mut Vec<u8>,
            stamps: &mut HashMap<Vec<u8>, Stamp>,
        ) -> Result<(), Error> {
            for (name, metadata) in entries(directory)? {
                within(path, &name, |path| {
                    stamps.insert(path.clone(), Stamp::of(&metadata));
                    match metadata.is_dir() {
                        true => {
                            walk(&directory.join(std::ffi::OsStr::from_bytes(&name)), path, stamps)
                        }
                        false => Ok(()),
                    }
                })?;
            }
            Ok(())
        }
        let mut stamps = HashMap::new();
        let metadata =
            fs::symlink_metadata(directory).map_err(|error| io_error(directory, error))?;
        stamps.insert(Vec::new(), Stamp::of(&metadata));
        walk(directory, &mut Vec::new(), &mut stamps)?;
        Ok(Self(stamps))
    }
}

/// Calls with `path` extended by a name.
fn within<T>(path: &mut Vec<u8>, name: &[u8], call: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    let length = path.len();
    if length > 0 {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    let result = call(path);
    path.truncate(length);
    result
}

/// What is in a directory, sorted by name.
fn entries(directory: &Path) -> Result<Vec<(Vec<u8>, Metadata)>, Error> {
    let failed = |error| io_error(directory, error);
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        found.push((entry.file_name().into_vec(), entry.metadata().map_err(failed)?));
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(found)
}

fn io_error(path: &Path, source: io::Error) -> Error {
    cofferdam_export::Error::Io {
        action: "cannot read what the step left in",
        path: path.to_owned(),
        source,
    }
    .into()
}

/// Makes a layer of the differences between a directory and what it was.
struct Changes<'a> {
    /// Takes the bytes of files.
    pack: SharedPackWriter,
    before: &'a Stamps,
    owner: &'a User,
    layer: LayerBuilder,
    /// Where the first name of each file is that changed and has several.
    links: HashMap<u64, Vec<u8>>,
}

impl Changes<'_> {
    fn directory(
        &mut self,
        directory: &Path,
        path: &mut Vec<u8>,
        base: Option<&Found<'_>>,
    ) -> Result<(), Error> {
        let now = entries(directory)?;
        for child in base.map(Found::children).unwrap_or_default() {
            within(path, child.name, |path| {
                // What was not written, because a file system cannot have it, is not gone.
                let there = now.binary_search_by(|(name, _)| name[..].cmp(child.name)).is_ok();
                match !there && self.before.0.contains_key(path) {
                    true => Ok(self.layer.remove(path)?),
                    false => Ok::<_, Error>(()),
                }
            })?;
        }
        for (name, metadata) in now {
            let below = base.and_then(|base| base.child(&name));
            let at = directory.join(std::ffi::OsStr::from_bytes(&name));
            within(path, &name, |path| self.entry(&at, path, &metadata, below.as_ref()))?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        at: &Path,
        path: &mut Vec<u8>,
        metadata: &Metadata,
        base: Option<&Found<'_>>,
    ) -> Result<(), Error> {
        let untouched = self.before.0.get(path) == Some(&Stamp::of(metadata));
        if metadata.is_dir() {
            let base = base.filter(|base| base.is_directory());
            if !untouched {
                let attributes = self.attributes(metadata, base, DIRECTORY_MODE);
                if base.is_none() {
                    self.layer.remove(path)?;
                }
                self.layer.put_directory(path, attributes)?;
            }
            return self.directory(at, path, base);
        }
        if untouched {
            return Ok(());
        }
        let base = base.filter(|base| !base.is_directory());
        let attributes = self.attributes(metadata, base, FILE_MODE);
        if metadata.is_symlink() {
            let target = fs::read_link(at).map_err(|error| io_error(at, error))?;
            let kind = NodeKind::Symlink(target.into_os_string().into_vec());
            let attributes = Attributes { mode: 0o777, ..attributes };
            return Ok(self.layer.put(path, Node { attributes, kind })?);
        }
        if metadata.nlink() > 1 {
            if let Some(first) = self.links.get(&metadata.ino()) {
                return Ok(self.layer.put_hard_link(path, first)?);
            }
            self.links.insert(metadata.ino(), path.clone());
        }
        let mut file = File::open(at).map_err(|error| io_error(at, error))?;
        let mut writer = self.pack.reserve(metadata.size())?;
        io::copy(&mut file, &mut writer).map_err(|error| io_error(at, error))?;
        let (content, size, digest) = writer.finish();
        Ok(self.layer.put_file(path, attributes, content, size, Some(digest))?)
    }

    /// The attributes of something that changed, or is new.
    fn attributes(&self, metadata: &Metadata, base: Option<&Found<'_>>, mode: u32) -> Attributes {
        let mtime = metadata.mtime().saturating_mul(1_000_000_000);
        let mtime = mtime.saturating_add(metadata.mtime_nsec());
        match base {
            Some(base) => Attributes { mtime, ..base.attributes().clone() },
            None => {
                let User { uid, gid, .. } = *self.owner;
                Attributes { mode, uid, gid, mtime, xattrs: Vec::new() }
            }
        }
    }
}
