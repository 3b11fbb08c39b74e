//! What a step has besides layers: cache directories, secrets, and sockets of ssh agents; taken
//! before it starts, and given back when its last process is gone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cofferdam_llb::{CacheOpt, CacheSharing, ExecOp, Mount, MountKind, SecretOpt, SshOpt};
use cofferdam_session::{Secret, Session};
use cofferdam_source::take_dir;
use cofferdam_store::{DirRequest, NamedDir, Sharing, Snapshot, Store, Watch};
use cofferdam_types::{Digest, Hasher};

use crate::Error;
use crate::agent::{Access, AgentSocket};

/// What lists of what is stored call a cache directory, as in BuildKit.
const CACHE: &str = "exec.cachemount";
/// The agent that is meant where none is named.
const DEFAULT_AGENT: &str = "default";

/// What a mount gets that neither its op nor an input says.
#[derive(Debug)]
pub(crate) enum Lent {
    /// Nothing: it needs nothing, or may do without.
    Nothing,
    /// A directory or socket of the host.
    Path(PathBuf),
    Secret(Secret),
}

/// A cache mount's directory.
#[derive(Clone, Debug)]
pub(crate) struct CacheDir {
    /// The name in the store.
    pub(crate) name: Digest,
    request: DirRequest,
}

/// What was taken for a step.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    dirs: Vec<NamedDir>,
    agents: Vec<AgentSocket>,
}

impl Taken {
    /// For looking at how the directories grow.
    pub(crate) fn watches(&self) -> impl Iterator<Item = Watch> {
        self.dirs.iter().map(NamedDir::watch)
    }
}

/// The directories of the cache mounts, in the order of the mounts. `step` is what people call it.
pub(crate) fn caches(
    store: &Store,
    exec: &ExecOp,
    shown: &[Snapshot],
    step: &str,
) -> Result<Vec<CacheDir>, Error> {
    let mut caches = Vec::new();
    for (mount, shown) in exec.mounts.iter().zip(shown) {
        let MountKind::Cache(options) = &mount.kind else { continue };
        // Ids are anybody's; they never become paths.
        let mut hasher = Hasher::new();
        hasher.field(CACHE);
        hasher.field(&options.id);
        let mut start = None;
        if mount.input.is_some() {
            hasher.field(&mount.selector);
            for layer in shown.layers() {
                hasher.field(store.hash_layer(layer)?.as_bytes());
            }
            let tree = store.tree(shown)?;
            let (_, found) = tree.resolve(mount.selector.as_bytes(), true)?;
            if !found.is_directory() {
                return Err(Error::Invalid(format!(
                    "cache mount at `{}`: `{}` is not a directory",
                    mount.dest, mount.selector
                )));
            }
            start = Some(found.flatten());
        }
        let name = hasher.finish();
        let description = format!("cached mount {} from {step}", mount.dest);
        let request = request(name, options, description);
        caches.push(CacheDir { name, request: DirRequest { start, ..request } });
    }
    Ok(caches)
}

/// The directories of the cache mounts under the names that they had.
pub(crate) fn known_caches(exec: &ExecOp, names: &[Digest], step: &str) -> Vec<CacheDir> {
    let options = exec.mounts.iter().filter_map(|mount| match &mount.kind {
        MountKind::Cache(options) => Some((&mount.dest, options)),
        _ => None,
    });
    let known = |((dest, options), name): ((&String, &CacheOpt), &Digest)| {
        let description = format!("cached mount {dest} from {step}");
        CacheDir { name: *name, request: request(*name, options, description) }
    };
    options.zip(names).map(known).collect()
}

fn request(name: Digest, options: &CacheOpt, description: String) -> DirRequest {
    let sharing = match options.sharing {
        CacheSharing::Shared => Sharing::Shared,
        CacheSharing::Private => Sharing::Private,
        CacheSharing::Locked => Sharing::Locked,
    };
    DirRequest { name, kind: CACHE.into(), description, sharing, start: None }
}

/// What a mount of a cache shows of its directory.
pub(crate) fn selector(mount: &Mount) -> Option<String> {
    // Where there is an input, what was selected of it is all that the directory has.
    Some(&mount.selector).filter(|path| !path.is_empty() && mount.input.is_none()).cloned()
}

/// Takes what the mounts of a step need, one [`Lent`] for each, waiting for directories that
/// others have.
pub(crate) async fn take(
    store: &Store,
    session: &dyn Session,
    exec: &ExecOp,
    caches: Vec<CacheDir>,
) -> Result<(Vec<Lent>, Taken), Error> {
    let mut taken = Taken::default();
    // What can fail at once comes before what has to be waited for.
    let mut lent = Vec::new();
    for mount in &exec.mounts {
        lent.push(match &mount.kind {
            MountKind::Secret(options) => secret(session, options, &mount.dest)?,
            MountKind::Ssh(options) => agent(store, session, options, &mut taken).await?,
            _ => Lent::Nothing,
        });
    }
    // Each name once, in an order that is the same for all steps: two that need the same ones
    // never wait for each other.
    let mut wanted: BTreeMap<Digest, DirRequest> = BTreeMap::new();
    let names: Vec<Digest> = caches.iter().map(|cache| cache.name).collect();
    for CacheDir { name, request } in caches {
        match wanted.get_mut(&name) {
            None => drop(wanted.insert(name, request)),
            Some(known) if request.sharing == Sharing::Locked => known.sharing = Sharing::Locked,
            Some(known) if known.sharing == Sharing::Shared => known.sharing = request.sharing,
            Some(_) => {}
        }
    }
    let mut places: BTreeMap<Digest, PathBuf> = BTreeMap::new();
    for (name, request) in wanted {
        let dir = take_dir(store, request).await?;
        places.insert(name, dir.fs());
        taken.dirs.push(dir);
    }
    let is_cache = |mount: &Mount| matches!(mount.kind, MountKind::Cache(_));
    let caches = exec.mounts.iter().zip(&mut lent).filter(|(mount, _)| is_cache(mount));
    for ((_, lent), name) in caches.zip(names) {
        *lent = Lent::Path(places[&name].clone());
    }
    Ok((lent, taken))
}

fn secret(session: &dyn Session, options: &SecretOpt, dest: &str) -> Result<Lent, Error> {
    match session.secret(&options.id)? {
        Some(secret) => Ok(Lent::Secret(secret)),
        None if options.optional => Ok(Lent::Nothing),
        None => Err(Error::NoSecret { id: options.id.clone(), place: format!("`{dest}`") }),
    }
}

/// Adds variables to an environment, in the place of those that have the same names.
pub(crate) fn add_variables(env: &mut Vec<String>, more: Vec<String>) {
    let name = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let names: Vec<String> = more.iter().map(|entry| name(entry)).collect();
    env.retain(|entry| !names.contains(&name(entry)));
    env.extend(more);
}

/// The variables that are secrets, as `NAME=value`.
pub(crate) fn secret_variables(session: &dyn Session, exec: &ExecOp) -> Result<Vec<String>, Error> {
    let mut variables = Vec::new();
    for variable in &exec.secret_env {
        let (id, name) = (&variable.id, &variable.name);
        let wrong = |what: &str| Error::Invalid(format!("secret `{id}` for `{name}`: {what}"));
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(wrong("expected the name of an environment variable"));
        }
        let secret = match session.secret(id)? {
            Some(secret) => secret,
            None if variable.optional => continue,
            None => {
                let place = format!("the environment variable `{name}`");
                return Err(Error::NoSecret { id: id.clone(), place });
            }
        };
        let text = std::str::from_utf8(secret.reveal()).ok().filter(|text| !text.contains('\0'));
        let text = text.ok_or_else(|| wrong("it is no text, which a variable has to be"))?;
        variables.push(format!("{name}={text}"));
    }
    Ok(variables)
}

async fn agent(
    store: &Store,
    session: &dyn Session,
    options: &SshOpt,
    taken: &mut Taken,
) -> Result<Lent, Error> {
    let id = match options.id.as_str() {
        "" => DEFAULT_AGENT,
        id => id,
    };
    let Some(agent) = session.agent(id) else {
        return match options.optional {
            true => Ok(Lent::Nothing),
            false => Err(Error::NoAgent { id: id.to_owned() }),
        };
    };
    let access = Access { uid: options.uid, gid: options.gid, mode: options.mode };
    let socket = agent_socket(store.tmp_dir(), id, &agent, access).await?;
    let path = socket.path();
    taken.agents.push(socket);
    Ok(Lent::Path(path))
}

/// A socket that stands for the agent at `agent`.
pub(crate) async fn agent_socket(
    parent: &Path,
    id: &str,
    agent: &Path,
    access: Access,
) -> Result<AgentSocket, Error> {
    AgentSocket::new(parent, agent, access).await.map_err(|source| {
        let (id, path) = (id.to_owned(), agent.to_owned());
        Error::Agent { id, path, source }
    })
}
