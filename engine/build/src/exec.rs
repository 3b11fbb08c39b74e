//! Exec ops: from LLB's description to a step of `exec-linux`, and from what it left to layers.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cofferdam_exec_linux::{
    BindSource, Execution, Exit, Granted, Limits, Means, Mount as StepMount, NoUserNamespace,
    Overlay, Restrictions, Rlimit, Rootfs, Runner, Step, Stream as StepStream, Streams, Swap, User,
    lookup_user,
};
use cofferdam_llb::{
    CacheSharing, ExecOp, LinuxResources, Meta, Mount, MountKind, Op, OpKind, Ulimit, Vertex,
};
use cofferdam_solver::{Context, Stream};
use cofferdam_store::{Layer, LayerDir, Selection, Snapshot, Store, Tree, Watch};
use cofferdam_types::{Digest, Platform};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::engine::Shared;
use crate::error::StepExit;
use crate::failed_step::{self, Failed};
use crate::graph::BuildContext;
use crate::mounts::{self, CacheDir, Lent, Taken};
use crate::vertex::{OpKey, blocking};
use crate::{Error, network, wasi};

/// The host name that BuildKit gives steps.
const HOSTNAME: &str = "buildkitsandbox";
/// How often it is looked at how much a step has written, where there is a limit.
pub(crate) const WATCH_INTERVAL: Duration = Duration::from_millis(250);
/// What files and sockets of the host may not be used for.
const NO_PRIVILEGES: Restrictions = Restrictions { nosuid: true, nodev: true, noexec: false };
/// Larger user databases are refused (GHSA-72x6-4j93-7w86).
const MAX_USER_DATABASE: u64 = 10 << 20;

/// The key: everything that the process can see, without what BuildKit leaves out.
pub(crate) fn key(op: &Op, exec: &ExecOp) -> OpKey {
    let reads: Vec<_> = (0..op.inputs.len()).map(|input| reads(exec, input)).collect();
    let mut normal = exec.clone();
    normal.meta.proxy_env = None;
    for host in &mut normal.meta.extra_hosts {
        host.ip.clear();
    }
    for mount in &mut normal.mounts {
        // Which directory it is says nothing about what the step makes; but BuildKit's usual ones
        // count, so that another namespace for them is another step.
        if let MountKind::Cache(cache) = &mut mount.kind {
            let below = cache.id.split_once('/').map(|(_, below)| below);
            let usual = cache.id == mount.dest || below == Some(mount.dest.as_str());
            if !(usual && cache.sharing == CacheSharing::Shared) {
                (cache.id, cache.sharing) = (String::new(), CacheSharing::Shared);
            }
        }
        // Where in an input the mount begins enters by what is found there, if anything does.
        if mount.input.is_some_and(|input| reads[input as usize].is_some()) {
            mount.selector.clear();
        }
    }
    let platform = op.platform.clone().map(Platform::normalized);
    let kind = OpKind::Exec(normal);
    OpKey { normal: Op { inputs: Vec::new(), kind, platform, constraints: None }, reads }
}

/// What the step reads of an input, if it can only read: then the paths say it all.
fn reads(exec: &ExecOp, input: usize) -> Option<Vec<Selection>> {
    let mounts =
        || exec.mounts.iter().filter(move |mount| mount.input == u32::try_from(input).ok());
    let readable = mounts().all(|mount| {
        let files = matches!(mount.kind, MountKind::Bind | MountKind::Cache(_));
        files && mount.dest != "/" && !mount.is_output()
    });
    readable.then(|| {
        mounts()
            .map(|mount| Selection {
                path: mount.selector.as_bytes().to_vec(),
                wildcard: false,
                follow: true,
            })
            .collect()
    })
}

/// Runs the process, and commits what it left in each writable mount.
pub(crate) async fn run(
    context: &BuildContext,
    vertex: &Vertex,
    granted: Granted,
    inputs: Vec<Snapshot>,
    progress: &Context,
) -> Result<Vec<Snapshot>, Error> {
    let (op, name) = (&vertex.op, vertex.name());
    let OpKind::Exec(exec) = &op.kind else {
        return Err(Error::Internal("only an exec op runs a process".into()));
    };
    if op.platform.as_ref().is_some_and(Platform::is_wasm) {
        return wasi::run(context, vertex, exec, &granted, &inputs, progress).await;
    }
    for device in &granted.missing_devices {
        progress.log(Stream::Stderr, format!("cofferdam: there is no device `{device}`\n"));
    }
    let engine = &context.engine;
    engine.check_steps()?;
    let execution = execution(engine, op).await?;
    let surroundings = Surroundings {
        limits: limits(&context.request.step_limits, vertex.metadata.linux_resources.as_ref()),
        granted,
        execution,
        no_new_privileges: context.request.no_new_privileges,
    };
    let shown = shown(exec, &inputs);
    let caches = caches(context, vertex, exec, &shown).await?;
    let cache_names: Vec<Digest> = caches.iter().map(|cache| cache.name).collect();
    let session = &*context.session;
    let (lent, taken) = mounts::take(&engine.store, session, exec, caches).await?;
    let secrets = mounts::secret_variables(session, exec)?;
    let limits = surroundings.limits.clone();
    let (store, description) = (engine.store.clone(), exec.clone());
    let runner = engine.runner().await?;
    if let Some(lacking) = lacks_user_namespace(runner) {
        context.warn_once(&lacking);
    }
    // The first step's network is got ready meanwhile.
    let (prepared, found) = tokio::join!(
        blocking(move || prepare(&store, &description, &shown, lent, surroundings)),
        network::find(engine, exec.network)
    );
    let ((mut step, binds), found) = (prepared?, found?);
    step.resolv_conf = found.resolv_conf;
    if let Some(lacking) = found.lacking {
        context.warn_once(&lacking);
    }
    mounts::add_variables(&mut step.env, secrets);
    let command = exec.meta.args.join(" ");
    let (sender, mut receiver) = mpsc::channel::<(StepStream, Bytes)>(64);
    // Dropping this future, when nobody waits for the step any more, kills it.
    let watches = watches(&binds, &taken);
    let streams = Streams::output_only(sender);
    let running = runner.run_holding(step, streams, CancellationToken::new(), taken);
    let logging = async {
        while let Some((stream, data)) = receiver.recv().await {
            let stream = match stream {
                StepStream::Stdout => Stream::Stdout,
                StepStream::Stderr => Stream::Stderr,
            };
            progress.log(stream, data);
        }
    };
    let store = engine.store.clone();
    // If it cannot be made, the next step tries again and says why.
    let ahead = blocking(move || Ok(store.prepare_step_dir()?));
    let finished = async { tokio::join!(running, logging, ahead) };
    let ended = tokio::select! {
        (ended, (), _) = finished => ended,
        error = beyond_limit(&engine.store, watches) => return Err(error),
    };
    let valid = &exec.meta.valid_exit_codes;
    let failed = match &ended {
        Ok(Exit::Code(0)) if valid.is_empty() => None,
        Ok(Exit::Code(code)) if valid.contains(code) => None,
        Ok(exit) => Some(StepExit::from(*exit)),
        // A shell would have said as much by its exit code.
        Err(error) => error.shell_exit_code().map(StepExit::Code),
    };
    if let Some(exit) = failed {
        let failed = Failed { op: op.clone(), name: name.to_owned(), exit, limits, cache_names };
        let kept = failed_step::keep(&engine.store, failed, binds).await;
        return Err(match ended {
            Ok(_) => Error::Step { command, exit, kept },
            Err(source) => Error::Sandbox { command, source, kept },
        });
    }
    ended.map_err(|source| Error::Sandbox { command, source, kept: false })?;
    let store = engine.store.clone();
    blocking(move || {
        let outputs = binds.into_iter().filter(|bind| bind.is_output);
        outputs.map(|bind| bind.commit(&store)).collect()
    })
    .await
}

/// What the user should know, if a step's root is the machine's.
pub(crate) fn lacks_user_namespace(runner: &Runner) -> Option<String> {
    match runner.user_namespace() {
        Err(why @ NoUserNamespace::Refused(_)) => {
            Some(format!("steps have no user namespace of their own: {why}"))
        }
        Ok(_) | Err(NoUserNamespace::Nested) => None,
    }
}

/// What the mounts of a step show at first.
pub(crate) fn shown(exec: &ExecOp, inputs: &[Snapshot]) -> Vec<Snapshot> {
    let of_mount = |mount: &Mount| match mount.input {
        Some(input) => inputs[input as usize].clone(),
        None => Snapshot::default(),
    };
    exec.mounts.iter().map(of_mount).collect()
}

/// The caches that a step mounts: new ones if it wants none of what was cached.
pub(crate) async fn caches(
    context: &BuildContext,
    vertex: &Vertex,
    exec: &ExecOp,
    shown: &[Snapshot],
) -> Result<Vec<CacheDir>, Error> {
    let store = context.engine.store.clone();
    let (exec, shown, title) = (exec.clone(), shown.to_vec(), vertex.name().to_owned());
    let caches = blocking(move || mounts::caches(&store, &exec, &shown, &title)).await?;
    if vertex.metadata.ignore_cache {
        renew(context, caches.iter().map(|cache| cache.name).collect()).await?;
    }
    Ok(caches)
}

/// Takes the caches' directories away for those who come after, once in a build: its later steps
/// find what its earlier ones left.
async fn renew(context: &BuildContext, names: Vec<Digest>) -> Result<(), Error> {
    let mut renewed = context.renewed.lock().unwrap_or_else(PoisonError::into_inner);
    // Under the lock, which another step of the build waits for that would use the old ones.
    for name in names {
        if renewed.insert(name) {
            context.engine.store.forget_named_dirs(&name)?;
        }
    }
    Ok(())
}

/// For looking at how much a step writes.
pub(crate) fn watches(binds: &[Bind], taken: &Taken) -> Arc<[Watch]> {
    let written = binds.iter().filter_map(|bind| bind.written.as_ref());
    written.map(LayerDir::watch).chain(taken.watches()).collect()
}

/// Ends, with an error, when what the step writes does not fit into the storage limit.
pub(crate) async fn beyond_limit(store: &Store, watches: Arc<[Watch]>) -> Error {
    if store.limit().is_none() {
        return std::future::pending().await;
    }
    let mut interval = WATCH_INTERVAL;
    loop {
        tokio::time::sleep(interval).await;
        let started = Instant::now();
        let watches = watches.clone();
        let check = blocking(move || Ok(watches.iter().try_for_each(Watch::check)?));
        if let Err(error) = check.await {
            return error;
        }
        // Looking at large caches takes long: it is not what the machine should be busy with.
        interval = WATCH_INTERVAL.max(started.elapsed() * 20);
    }
}

/// What a step gets that its op does not say.
pub(crate) struct Surroundings {
    /// Without those that the op has, of each process.
    pub(crate) limits: Limits,
    pub(crate) granted: Granted,
    pub(crate) execution: Execution,
    pub(crate) no_new_privileges: bool,
}

/// A bind mount of a step.
pub(crate) struct Bind {
    /// What it showed at first.
    pub(crate) shown: Snapshot,
    /// What the step wrote, if it could: on top of that.
    pub(crate) written: Option<LayerDir>,
    /// Whether what it shows in the end is an output of the op.
    pub(crate) is_output: bool,
}

impl Bind {
    /// Commits what the step wrote; what the mount shows with it.
    pub(crate) fn commit(self, store: &Store) -> Result<Snapshot, Error> {
        let Some(dir) = self.written else { return Ok(self.shown) };
        let root = dir.scan()?;
        Ok(self.shown.with(store.commit_dir(dir, root)?))
    }
}

/// Makes the step, for mounts that show these snapshots, and its bind mounts in the op's order.
pub(crate) fn prepare(
    store: &Store,
    exec: &ExecOp,
    shown: &[Snapshot],
    lent: Vec<Lent>,
    surroundings: Surroundings,
) -> Result<(Step, Vec<Bind>), Error> {
    let mut binds = Vec::new();
    let (mut rootfs, mut mounts) = (None, Vec::new());
    for ((mount, shown), lent) in exec.mounts.iter().zip(shown).zip(lent) {
        let dest = mount.dest.clone();
        let overlay = match (&mount.kind, lent) {
            (MountKind::Bind, _) => {
                let (overlay, written) = overlay(store, mount, shown)?;
                let is_output = mount.is_output();
                binds.push(Bind { shown: shown.clone(), written, is_output });
                overlay
            }
            (MountKind::Tmpfs(options), _) => {
                let size = options.as_ref().map(|options| options.size).filter(|size| *size > 0);
                mounts.push(StepMount::Tmpfs { dest, size });
                continue;
            }
            (MountKind::Secret(options), Lent::Secret(secret)) => {
                mounts.push(StepMount::File {
                    dest,
                    contents: secret.reveal().to_vec(),
                    mode: options.mode,
                    uid: options.uid,
                    gid: options.gid,
                    readonly: true,
                    restrictions: Restrictions {
                        noexec: options.mode & 0o111 == 0,
                        ..NO_PRIVILEGES
                    },
                });
                continue;
            }
            (MountKind::Cache(_), Lent::Path(path)) => {
                mounts.push(StepMount::Bind {
                    source: BindSource::Path(path),
                    selector: mounts::selector(mount),
                    dest,
                    readonly: mount.readonly,
                    restrictions: Restrictions::default(),
                });
                continue;
            }
            (MountKind::Ssh(_), Lent::Path(path)) => {
                mounts.push(StepMount::Bind {
                    source: BindSource::Path(path),
                    selector: None,
                    dest,
                    readonly: true,
                    restrictions: Restrictions { noexec: true, ..NO_PRIVILEGES },
                });
                continue;
            }
            // The step may do without.
            (MountKind::Cache(_) | MountKind::Secret(_) | MountKind::Ssh(_), _) => continue,
        };
        if mount.dest == "/" {
            rootfs = Some((Rootfs::Overlay(overlay), shown));
        } else {
            mounts.push(StepMount::Bind {
                source: BindSource::Overlay(overlay),
                selector: Some(mount.selector.clone()).filter(|path| !path.is_empty()),
                dest,
                readonly: mount.readonly,
                restrictions: Restrictions::default(),
            });
        }
    }
    let (rootfs, root) =
        rootfs.ok_or_else(|| Error::Internal("an exec op has a mount at `/`".into()))?;
    let meta = &exec.meta;
    let hostname = if meta.hostname.is_empty() { HOSTNAME } else { &meta.hostname };
    let mut hosts = format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost\n");
    for host in &meta.extra_hosts {
        hosts += &format!("{}\t{}\n", host.ip, host.host);
    }
    let step = Step {
        rootfs,
        mounts,
        args: meta.args.clone(),
        env: environment(meta),
        cwd: meta.cwd.clone(),
        user: user(&store.tree(root)?, &meta.user)?,
        hostname: hostname.to_owned(),
        privileges: surroundings.granted,
        execution: surroundings.execution,
        no_new_privileges: surroundings.no_new_privileges,
        hosts: Some(hosts),
        resolv_conf: None,
        limits: Limits {
            rlimits: meta.ulimits.iter().map(rlimit).collect(),
            ..surroundings.limits
        },
    };
    Ok((step, binds))
}

/// The variables of a step.
pub(crate) fn environment(meta: &Meta) -> Vec<String> {
    let mut env = meta.env.clone();
    if let Some(proxy) = &meta.proxy_env {
        for (name, value) in [
            ("HTTP_PROXY", &proxy.http_proxy),
            ("HTTPS_PROXY", &proxy.https_proxy),
            ("FTP_PROXY", &proxy.ftp_proxy),
            ("NO_PROXY", &proxy.no_proxy),
            ("ALL_PROXY", &proxy.all_proxy),
        ] {
            if !value.is_empty() {
                env.push(format!("{name}={value}"));
                env.push(format!("{}={value}", name.to_lowercase()));
            }
        }
    }
    env
}

/// A limit of each process. Negative is none.
fn rlimit(limit: &Ulimit) -> Rlimit {
    let bound = |value: i64| u64::try_from(value).unwrap_or(u64::MAX);
    Rlimit { name: limit.name.to_lowercase(), soft: bound(limit.soft), hard: bound(limit.hard) }
}

/// What a step may use: what the user says, else what the frontend asks for.
pub(crate) fn limits(user: &Limits, frontend: Option<&LinuxResources>) -> Limits {
    let Some(frontend) = frontend else { return user.clone() };
    let number = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);
    let list = |list: &String| Some(list.clone()).filter(|list| !list.is_empty());
    let (memory, memory_and_swap) = match user.memory {
        Some(memory) => (Some(memory), user.memory_and_swap),
        None => {
            let swap = match frontend.memory_swap {
                -1 => Some(Swap::Unlimited),
                total => number(total).map(Swap::Total),
            };
            (number(frontend.memory), swap)
        }
    };
    Limits {
        memory,
        memory_and_swap,
        pids: user.pids,
        cpu_shares: user.cpu_shares.or(number(frontend.cpu_shares)),
        cpu_quota: user.cpu_quota.or(number(frontend.cpu_quota)),
        cpu_period: user.cpu_period.or(number(frontend.cpu_period)),
        cpuset_cpus: user.cpuset_cpus.clone().or(list(&frontend.cpuset_cpus)),
        cpuset_mems: user.cpuset_mems.clone().or(list(&frontend.cpuset_mems)),
        rlimits: Vec::new(),
    }
}

/// The layers of a mount as directories, and where what the step writes goes.
fn overlay(
    store: &Store,
    mount: &Mount,
    below: &Snapshot,
) -> Result<(Overlay, Option<LayerDir>), Error> {
    // The kernel refuses a directory that is there twice, and images have equal layers (several
    // RUNs that change nothing). The topmost one says all that the lower ones say.
    let mut seen = HashSet::new();
    let mut layers: Vec<_> = below.layers().rev().filter(|id| seen.insert(*id)).collect();
    layers.reverse();
    let layers = layers.into_iter().map(|id| store.layer(id)).collect::<Result<Vec<_>, _>>()?;
    // The kernel does not look for the mark of an opaque directory at the root.
    let opaque = |layer: &Arc<Layer>| layer.root.as_directory().is_some_and(|root| root.opaque);
    let bottom = layers.iter().rposition(opaque).unwrap_or(0);
    let lowers =
        layers[bottom..].iter().map(|layer| store.layer_dir(layer.id)).collect::<Result<_, _>>()?;
    if mount.readonly {
        return Ok((Overlay { lowers, writable: None }, None));
    }
    let dir = store.new_step_dir()?;
    if let Some(root) = store.tree(below)?.root() {
        dir.start_from(root.attributes())?;
    }
    let writable = Some((dir.fs(), dir.work()));
    Ok((Overlay { lowers, writable }, Some(dir)))
}

pub(crate) fn user(root: &Tree, spec: &str) -> Result<User, Error> {
    let read = |path: &[u8]| match root.read(path, MAX_USER_DATABASE) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(cofferdam_store::Error::NotFound(_) | cofferdam_store::Error::WrongKind { .. }) => {
            Ok(String::new())
        }
        Err(error) => Err(error),
    };
    lookup_user(spec, &read(b"/etc/passwd")?, &read(b"/etc/group")?)
        .map_err(|error| Error::Invalid(error.to_string()))
}

/// How the programs of a step can run on this machine.
pub(crate) async fn means(engine: &Arc<Shared>, platform: &Platform) -> Result<Means, Error> {
    let platform = platform.clone().normalized();
    let found = match engine.emulators.known_means(&platform) {
        Some(known) => known,
        None => {
            let (engine, platform) = (engine.clone(), platform.clone());
            blocking(move || Ok(engine.emulators.means(&platform))).await?
        }
    };
    found.map_err(|missing| Error::Platform {
        platform: platform.to_string(),
        missing: Box::new(missing),
    })
}

/// How the programs of a step are executed.
pub(crate) async fn execution(engine: &Arc<Shared>, op: &Op) -> Result<Execution, Error> {
    match &op.platform {
        None => Ok(Execution::Native),
        Some(platform) => Ok(means(engine, platform).await?.execution(platform)),
    }
}
