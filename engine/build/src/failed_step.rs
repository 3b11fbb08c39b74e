//! Failed steps: what is kept of them, and how one is entered. They are records of the store, so
//! that they outlive the build and go when the space is needed; who asks, and with which
//! terminal, is the client's affair.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

pub use cofferdam_exec_linux::Stream as OutputStream;
use cofferdam_exec_linux::{Limits, Streams};
use cofferdam_llb::{ExecOp, Mount, MountKind, Op, OpKind};
use cofferdam_session::Session;
use cofferdam_store::{About, Record, Snapshot, Store};
use cofferdam_types::{Digest, Hasher};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::engine::Shared;
use crate::exec::{self, Bind, Surroundings};
use crate::vertex::blocking;
use crate::{Entitlements, Error, StepExit, entitlement, mounts, network};

/// What lists of what is stored call these records.
const KIND: &str = "failed";
/// So many are kept; the oldest goes for a new one.
const KEPT: usize = 10;
/// What is run when nothing else is asked for: the first that is there.
const SHELLS: [&str; 2] = ["/bin/bash", "/bin/sh"];

/// A step that failed and can be entered.
#[derive(Clone, Debug)]
pub struct FailedStep {
    /// Tells it from the others: hexadecimal digits. The same step that fails again with the same
    /// inputs has the same one.
    pub id: String,
    /// What people call the step.
    pub name: String,
    /// When it failed.
    pub failed: SystemTime,
    /// How it ended.
    pub exit: StepExit,
    /// Its command line.
    pub args: Vec<String>,
    identity: Digest,
    op: Op,
    limits: Limits,
    mounts: Vec<KeptMount>,
    cache_names: Vec<Digest>,
}

/// How a failed step is entered.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    /// The command line; if it is empty, a shell that the step has.
    pub args: Vec<String>,
    /// Environment variables (`NAME=value`) that the step gets if it has none of that name.
    pub env: Vec<String>,
    /// What its files are like.
    pub moment: Moment,
    /// What the user grants it: no less than building it needs.
    pub entitlements: Entitlements,
}

/// A moment in the life of a failed step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Moment {
    /// When it had failed, with all that it had written.
    #[default]
    Failure,
    /// Before it ran.
    Start,
}

/// What is to be kept of a step besides its files.
pub(crate) struct Failed {
    pub(crate) op: Op,
    pub(crate) name: String,
    pub(crate) exit: StepExit,
    pub(crate) limits: Limits,
    /// Names of the directories of its cache mounts.
    pub(crate) cache_names: Vec<Digest>,
}

/// What was at a bind mount.
#[derive(Clone, Debug)]
struct KeptMount {
    shown: Snapshot,
    /// The same with what the step wrote.
    left: Snapshot,
}

/// What a record has beside its layers, which are those of all mounts in turn.
#[derive(Serialize, Deserialize)]
struct Data {
    /// The op in LLB, in hexadecimal digits.
    op: String,
    exit: StepExit,
    /// Milliseconds since 1970.
    failed: u64,
    limits: Limits,
    /// For each bind mount, how many layers it showed, and with what the step wrote.
    layers: Vec<(usize, usize)>,
    /// Names of the directories of the cache mounts.
    #[serde(default)]
    caches: Vec<String>,
}

/// Keeps a failed step; tells whether that was possible. If it was not, the build is not worse
/// for it.
pub(crate) async fn keep(store: &Store, failed: Failed, binds: Vec<Bind>) -> bool {
    let store = store.clone();
    let kept = blocking(move || {
        save(&store, failed, binds)?;
        for old in all(&store)?.into_iter().skip(KEPT) {
            store.remove_record(&old.identity)?;
        }
        Ok(())
    });
    kept.await.inspect_err(|error| tracing::warn!("cannot keep the failed step: {error}")).is_ok()
}

fn save(store: &Store, failed: Failed, binds: Vec<Bind>) -> Result<(), Error> {
    let (mut all, mut layers) = (Snapshot::default(), Vec::new());
    let op = failed.op.encode();
    let mut hasher = Hasher::new();
    hasher.field(KIND);
    hasher.field(&op);
    for bind in binds {
        for layer in bind.shown.layers() {
            hasher.field(layer.to_string());
        }
        let shown = bind.shown.layers().len();
        let left = bind.commit(store)?;
        layers.push((shown, left.layers().len()));
        all = all.and(&left);
    }
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let data = Data {
        op: hex::encode(op),
        exit: failed.exit,
        failed: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
        limits: failed.limits,
        layers,
        caches: failed.cache_names.iter().map(ToString::to_string).collect(),
    };
    let record = Record {
        identity: hasher.finish(),
        snapshot: all,
        about: About { kind: KIND.into(), name: failed.name, ..About::default() },
        data: serde_json::to_string(&data).expect("strings and numbers are JSON"),
    };
    Ok(store.save_record(&[], &record)?)
}

/// All that are kept, the newest first.
pub(crate) fn all(store: &Store) -> Result<Vec<FailedStep>, Error> {
    let records = store.records_of_kind(KIND)?;
    let mut steps: Vec<_> =
        records.into_iter().filter_map(|(_, record)| FailedStep::read(record)).collect();
    steps.sort_by_key(|step| std::cmp::Reverse(step.failed));
    Ok(steps)
}

impl FailedStep {
    /// Reads a record; `None` if another version wrote it.
    fn read(record: Record) -> Option<Self> {
        let data: Data = serde_json::from_str(&record.data).ok()?;
        let op = Op::decode(&hex::decode(&data.op).ok()?).ok()?;
        let OpKind::Exec(exec) = &op.kind else { return None };
        let mut mounts = Vec::new();
        let mut rest = record.snapshot;
        for (shown, left) in data.layers {
            let (mount, others) = rest.split_at(left)?;
            mounts.push(KeptMount { shown: mount.split_at(shown)?.0, left: mount });
            rest = others;
        }
        let is_bind = |mount: &&Mount| mount.kind == MountKind::Bind;
        if exec.mounts.iter().filter(is_bind).count() != mounts.len() {
            return None;
        }
        Some(Self {
            id: record.identity.short(),
            identity: record.identity,
            name: record.about.name,
            failed: SystemTime::UNIX_EPOCH + Duration::from_millis(data.failed),
            exit: data.exit,
            args: exec.meta.args.clone(),
            limits: data.limits,
            mounts,
            cache_names: data.caches.iter().filter_map(|name| name.parse().ok()).collect(),
            op,
        })
    }
}

/// Runs a program in a failed step.
pub(crate) async fn enter(
    engine: &Arc<Shared>,
    failed: &FailedStep,
    entry: Entry,
    session: &dyn Session,
    streams: Streams,
) -> Result<StepExit, Error> {
    let OpKind::Exec(exec) = &failed.op.kind else {
        return Err(Error::Internal("only an exec op is kept".into()));
    };
    let mut exec = exec.clone();
    // Whose cgroup that is was the build's affair.
    exec.meta.cgroup_parent.clear();
    let devices = entitlement::devices(&engine.cdi, [&exec].into_iter()).await?;
    let surroundings = Surroundings {
        limits: failed.limits.clone(),
        granted: entitlement::grant(&entry.entitlements, &devices, &exec)?,
        execution: exec::execution(engine, &failed.op).await?,
        no_new_privileges: false,
    };
    let found = network::find(engine, exec.network).await?;
    let runner = engine.runner().await?;
    for lacking in [exec::lacks_user_namespace(runner), found.lacking].into_iter().flatten() {
        let text = format!("cofferdam: {lacking}\n");
        // Whoever does not listen does not miss it.
        _ = streams.output.send((OutputStream::Stderr, text.into())).await;
    }
    let store = engine.store.clone();
    let caches = mounts::known_caches(&exec, &failed.cache_names, &failed.name);
    let (lent, taken) = mounts::take(&store, session, &exec, caches).await?;
    let secrets = mounts::secret_variables(session, &exec)?;
    let kept = failed.mounts.clone();
    // What is written is removed with the mounts, when the program has ended.
    let (mut step, binds) = blocking(move || {
        let mut kept = kept.into_iter();
        let shown = exec.mounts.iter().map(|mount| match (&mount.kind, entry.moment) {
            (MountKind::Bind, Moment::Failure) => kept.next().map(|kept| kept.left),
            (MountKind::Bind, Moment::Start) => kept.next().map(|kept| kept.shown),
            _ => None,
        });
        let shown: Vec<Snapshot> = shown.map(Option::unwrap_or_default).collect();
        exec.meta.args = match entry.args {
            args if args.is_empty() => vec![shell(&store, &exec, &shown)?.to_owned()],
            args => args,
        };
        add_env(&mut exec.meta.env, entry.env);
        exec::prepare(&store, &exec, &shown, lent, surroundings)
    })
    .await?;
    step.resolv_conf = found.resolv_conf;
    mounts::add_variables(&mut step.env, secrets);
    let command = step.args.join(" ");
    let watches = exec::watches(&binds, &taken);
    let exit = tokio::select! {
        exit = runner.run_holding(step, streams, CancellationToken::new(), taken) => exit,
        error = exec::beyond_limit(&engine.store, watches) => return Err(error),
    };
    let exit = exit.map_err(|source| Error::Sandbox { command, source, kept: false })?;
    Ok(exit.into())
}

/// Adds the variables that are not there.
fn add_env(env: &mut Vec<String>, more: Vec<String>) {
    let name = |entry: &str| entry.split_once('=').unwrap_or((entry, "")).0.to_owned();
    for entry in more {
        if env.iter().all(|there| name(there) != name(&entry)) {
            env.push(entry);
        }
    }
}

/// The shell that the step can run.
fn shell(store: &Store, exec: &ExecOp, shown: &[Snapshot]) -> Result<&'static str, Error> {
    for path in SHELLS {
        // The mount that it lies in: the last of those whose mount point is the deepest.
        let inside = |mount: &Mount| match mount.dest.trim_matches('/') {
            "" => Some((0, path.to_owned())),
            dest => {
                let rest = path[1..].strip_prefix(dest)?.strip_prefix('/')?;
                Some((dest.len(), format!("{}/{rest}", mount.selector)))
            }
        };
        let mounts = exec.mounts.iter().zip(shown);
        let deepest = mounts
            .filter_map(|(mount, shown)| inside(mount).map(|found| (found, shown)))
            .max_by_key(|((depth, _), _)| *depth);
        let Some(((_, path_inside), shown)) = deepest else { continue };
        let tree = store.tree(shown)?;
        let Ok((_, found)) = tree.resolve(path_inside.as_bytes(), true) else { continue };
        if found.regular().is_some() && found.attributes().mode & 0o111 != 0 {
            return Ok(path);
        }
    }
    Err(Error::NoShell)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_step_sets_stays() {
        let mut env = vec!["TERM=dumb".to_owned(), "EMPTY=".to_owned()];
        add_env(&mut env, vec!["TERM=xterm".into(), "EMPTY=no".into(), "MORE=a=b".into()]);
        assert_eq!(env, ["TERM=dumb", "EMPTY=", "MORE=a=b"]);
    }
}
