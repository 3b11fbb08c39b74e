//! Git repositories: the commit that a reference means now, and its files as a layer.
//!
//! `remote` reads URLs, `names` references and paths; `command` runs the git program, `mirror` brings
//! commits here, `tree` makes manifests of them, `dot_git` what git keeps beside them. Where
//! credentials come from is the caller's affair. Why git never checks anything out is in
//! `docs/design/sources-and-mounts.md`.

mod command;
mod dot_git;
mod mirror;
mod names;
mod remote;
mod tree;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::Pin;

use cofferdam_store::{
    DirRequest, NamedDir, Node, NodeKind, SharedPackWriter, Sharing, Snapshot, Store,
};
use cofferdam_types::{Digest, Hasher};
use tempfile::TempDir;

pub use command::GitConfig;
use command::{Git, Identity};
use dot_git::{KeptModule, Position};
use mirror::{beyond_limit, bring, format, kept};
use names::{below, clean, is_commit, is_reference};
pub use remote::Remote;
use tree::{Entry, Kind};

use crate::error::IoContext;
use crate::{Error, Result, take_dir};

/// What lists of what is stored call a repository.
const KIND: &str = "source.git";
/// How deep submodules may lie within each other, and how many there may be.
const MAX_DEPTH: usize = 16;
const MAX_SUBMODULES: usize = 1000;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct GitRequest {
    /// The repository.
    pub remote: Remote,
    /// Branch, tag or commit; empty is what the repository shows first.
    pub reference: String,
    /// The directory of the repository that is wanted; empty is all of it.
    pub subdirectory: String,
    /// Whether the repository's own data come along, as `.git`.
    pub keep_git_dir: bool,
    /// Whether the repositories that it refers to come along.
    pub submodules: bool,
    /// How the commit's name begins, where that is known.
    pub checksum: Option<String>,
    /// The socket of an ssh agent.
    pub agent: Option<PathBuf>,
    /// Keys of ssh servers that are trusted; otherwise those of the configuration.
    pub known_hosts: Option<String>,
}

/// Knows who we are to servers.
pub trait GitAccess: Send + Sync {
    /// The `Authorization` header for a host; `first` for that of the request itself, not of a
    /// submodule.
    ///
    /// # Errors
    /// When it cannot be had; the message is for people.
    fn authorization(&self, host: &str, first: bool) -> Result<Option<String>, String>;
}

/// A commit that was found, with all that says what comes of it.
#[derive(Clone, Debug)]
pub struct GitTree {
    request: GitRequest,
    /// The commit's name.
    pub commit: String,
    /// The full name of the branch or tag, if it is one.
    pub name: Option<String>,
}

impl GitTree {
    /// What a cache key depends on.
    pub fn key(&self) -> Digest {
        let mut hasher = Hasher::new();
        hasher.field(&self.commit);
        hasher.field(&self.request.subdirectory);
        hasher.update([self.request.submodules.into(), self.keeps_git_dir().into()]);
        if self.keeps_git_dir() {
            // It says where it came from.
            hasher.field(self.request.remote.url());
            hasher.field(self.name.as_deref().unwrap_or_default());
        }
        hasher.finish()
    }

    /// As in BuildKit, a part of the files has no repository.
    fn keeps_git_dir(&self) -> bool {
        self.request.keep_git_dir && self.request.subdirectory.is_empty()
    }

    /// The URL without credentials.
    pub fn url(&self) -> &str {
        self.request.remote.url()
    }

    /// What the repository that the URL is fetched into is called in the store.
    fn repository_name(&self) -> Digest {
        let mut hasher = Hasher::new();
        hasher.field(KIND);
        hasher.field(self.url());
        // A repository has objects of one length.
        hasher.update([u8::from(self.commit.len() > 40)]);
        hasher.finish()
    }

    fn wrong(&self, reason: String) -> Error {
        Error::Git { url: self.url().to_owned(), reason }
    }
}

/// Fetches repositories.
#[derive(Clone, Debug)]
pub struct GitSource {
    store: Store,
    config: GitConfig,
}

/// A repository of this machine that others wait for, and what git needs beside it.
struct Repository {
    home: TempDir,
    dir: NamedDir,
}

/// A future of a recursion.
type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What the submodules of one request share.
struct Filling<'a> {
    source: &'a GitSource,
    access: &'a dyn GitAccess,
    pack: &'a SharedPackWriter,
    submodules: usize,
    /// Those whose `.git` comes along, each behind the one that it lies in.
    kept: Vec<KeptModule>,
}

/// What `.gitmodules` says of a submodule.
struct Module {
    name: Vec<u8>,
    url: String,
}

/// What a commit has without its submodules.
struct Own {
    root: Node,
    mtime: i64,
    submodules: Vec<Submodule>,
}

/// A commit of another repository within a commit.
struct Submodule {
    entry: Entry,
    /// Where it goes.
    path: Vec<u8>,
    /// What of it is wanted.
    within: Vec<u8>,
    /// `None` leaves an empty directory.
    module: Option<Module>,
}

impl GitSource {
    /// Fetches into this store.
    pub fn new(store: Store, config: GitConfig) -> Self {
        Self { store, config }
    }

    /// Finds out which commit is meant now, without fetching it.
    ///
    /// # Errors
    /// When the server does not answer, or has no such reference.
    pub async fn resolve(&self, request: GitRequest, access: &dyn GitAccess) -> Result<GitTree> {
        let wrong = |reason: String| Error::Git { url: request.remote.url().to_owned(), reason };
        let reference = request.reference.as_str();
        if !is_reference(reference) {
            let shown = reference.escape_debug();
            return Err(wrong(format!("`{shown}` is no name of a branch, tag or commit")));
        }
        clean(&request.subdirectory).map_err(wrong)?;
        let (commit, name) = match is_commit(reference) {
            true => (reference.to_ascii_lowercase(), None),
            false => self.ask(&request, access).await?,
        };
        if let Some(checksum) = request.checksum.as_deref().filter(|sum| !sum.is_empty()) {
            let is_hex = checksum.bytes().all(|byte| byte.is_ascii_hexdigit());
            if !is_hex || !commit.starts_with(&checksum.to_ascii_lowercase()) {
                let shown = checksum.escape_debug();
                let of = if reference.is_empty() { "its default branch" } else { reference };
                return Err(wrong(format!("commit {shown} expected for {of}, found {commit}")));
            }
        }
        Ok(GitTree { request, commit, name })
    }

    /// Asks the server what a name stands for.
    async fn ask(
        &self,
        request: &GitRequest,
        access: &dyn GitAccess,
    ) -> Result<(String, Option<String>)> {
        let wrong = |reason: String| Error::Git { url: request.remote.url().to_owned(), reason };
        let reference = request.reference.as_str();
        // In this order: a branch goes before a tag of that name.
        let names = match reference {
            "" => vec!["HEAD".to_owned()],
            full if full.starts_with("refs/") => vec![full.to_owned()],
            short => ["refs/heads/", "refs/tags/", "refs/"].map(|at| format!("{at}{short}")).into(),
        };
        let home = self.home()?;
        let identity = self.identity(request, &request.remote, access, true)?;
        let git = Git {
            config: &self.config,
            remote: &request.remote,
            identity: &identity,
            home: home.path(),
            repository: None,
            source: None,
        };
        let patterns = names.iter().flat_map(|name| [name.clone(), format!("{name}^{{}}")]);
        let arguments = ["ls-remote", "-q", "--", request.remote.url()].map(str::to_owned);
        let output =
            git.run("ask for its references", arguments.into_iter().chain(patterns)).await?;
        let output = String::from_utf8_lossy(&output);
        let found: BTreeMap<&str, &str> = output
            .lines()
            .filter_map(|line| line.split_once('\t'))
            .filter(|(object, _)| is_commit(object))
            .map(|(object, name)| (name, object))
            .collect();
        let found = names.into_iter().find_map(|name| {
            // What an annotated tag is about comes with this mark.
            let peeled = found.get(format!("{name}^{{}}").as_str());
            let object = peeled.or(found.get(name.as_str()))?;
            Some(((*object).to_owned(), Some(name)))
        });
        found.ok_or_else(|| match reference {
            "" => wrong("it has no commit".to_owned()),
            name => wrong(format!("it has no branch, tag or commit `{name}`")),
        })
    }

    /// The files of a commit as a layer, fetched if they are not there.
    ///
    /// # Errors
    /// When it cannot be fetched, or has what no repository should have.
    pub async fn fetch(&self, found: &GitTree, access: &dyn GitAccess) -> Result<Snapshot> {
        let _keep = self.store.keep();
        let pack = self.store.new_pack();
        let mut filling =
            Filling { source: self, access, pack: &pack, submodules: 0, kept: Vec::new() };
        let (root, mtime) = filling.tree(found, Position::top()).await?;
        let modules = filling.kept;
        let layer = self.store.commit_virtual(root)?;
        self.store.hash_layer(layer.id())?;
        let files = Snapshot::default().with(layer);
        if !found.keeps_git_dir() {
            return Ok(files);
        }
        let dir = self.git_dir(found, &modules, access, mtime).await?;
        let mut root = dir.scan()?;
        give_to_root(&mut root);
        let layer = self.store.commit_dir(dir, root)?;
        Ok(files.with(layer))
    }

    fn home(&self) -> Result<TempDir> {
        let tmp = self.store.tmp_dir();
        let home = tempfile::Builder::new().prefix("git-").tempdir_in(tmp);
        home.io("cannot create a directory in", tmp)
    }

    fn identity(
        &self,
        request: &GitRequest,
        remote: &Remote,
        access: &dyn GitAccess,
        first: bool,
    ) -> Result<Identity> {
        let own = remote.authorization().map(str::to_owned);
        let authorization = match (own, remote.protocol()) {
            (Some(own), _) => Some(own),
            (None, remote::Protocol::Http) => access
                .authorization(remote.host(), first)
                .map_err(|reason| Error::Git { url: remote.url().to_owned(), reason })?,
            (None, _) => None,
        };
        Ok(Identity {
            authorization,
            agent: request.agent.clone(),
            known_hosts: request.known_hosts.clone(),
        })
    }

    /// The repository that a URL is fetched into, when nobody else is at it.
    async fn repository(&self, found: &GitTree) -> Result<Repository> {
        let request = DirRequest {
            name: found.repository_name(),
            kind: KIND.into(),
            description: format!("git repository {}", found.url()),
            sharing: Sharing::Locked,
            start: None,
        };
        Ok(Repository { home: self.home()?, dir: take_dir(&self.store, request).await? })
    }
}

impl Filling<'_> {
    /// The files of a commit, and its time.
    fn tree<'a>(&'a mut self, found: &'a GitTree, at: Position) -> Later<'a, Result<(Node, i64)>> {
        Box::pin(self.tree_within(found, at))
    }

    async fn tree_within(&mut self, found: &GitTree, at: Position) -> Result<(Node, i64)> {
        let own = match self.own_files(found, at.depth).await {
            Err(_) if self.forgets_damaged(found, at.depth).await? => {
                self.own_files(found, at.depth).await?
            }
            own => own?,
        };
        let Own { mut root, mtime, submodules } = own;
        if found.keeps_git_dir() {
            check_names(found, submodules.iter().filter_map(|one| one.module.as_ref()))?;
        }
        for Submodule { entry, path, within, module } in submodules {
            let node = match &module {
                None => tree::made(mtime),
                Some(module) => self.submodule(found, &entry, module, &within, &at).await?,
            };
            match path.as_slice() {
                [] => root = node,
                path => tree::insert(&mut root, path, node, mtime)
                    .map_err(|reason| found.wrong(reason))?,
            }
        }
        // Also where all that is wanted is a submodule, which has times of its own.
        root.attributes.mtime = mtime;
        Ok((root, mtime))
    }

    /// Throws the repository away that the URL is fetched into, if it is damaged.
    async fn forgets_damaged(&self, found: &GitTree, depth: usize) -> Result<bool> {
        let (source, request) = (self.source, &found.request);
        let identity = source.identity(request, &request.remote, self.access, depth == 0)?;
        let repository = source.repository(found).await?;
        let git = Git {
            config: &source.config,
            remote: &request.remote,
            identity: &identity,
            home: repository.home.path(),
            repository: Some(&repository.dir.fs()),
            source: None,
        };
        if mirror::is_sound(&git).await {
            return Ok(false);
        }
        tracing::warn!("what was fetched of `{}` is damaged: fetched again", found.url());
        source.store.forget_named_dirs(&found.repository_name())?;
        Ok(true)
    }

    /// What the repository itself has.
    async fn own_files(&mut self, found: &GitTree, depth: usize) -> Result<Own> {
        let source = self.source;
        let request = &found.request;
        let identity = source.identity(request, &request.remote, self.access, depth == 0)?;
        let repository = source.repository(found).await?;
        let place = repository.dir.fs();
        let git = Git {
            config: &source.config,
            remote: &request.remote,
            identity: &identity,
            home: repository.home.path(),
            repository: Some(&place),
            source: None,
        };
        tokio::select! {
            brought = bring(&git, &place, found) => brought?,
            error = beyond_limit(&source.store, repository.dir.watch()) => return Err(error),
        }
        let commit = tree::read(&git, &format!("{}^{{commit}}", found.commit)).await?;
        let mtime = commit_time(&commit);
        let entries = tree::list(&git, &found.commit).await?;
        let mut modules = match request.submodules {
            true => modules(&git, &entries).await?,
            false => BTreeMap::new(),
        };
        let wanted = clean(&request.subdirectory).map_err(|reason| found.wrong(reason))?;
        let (mut files, mut submodules) = (Vec::new(), Vec::new());
        let mut is_there = wanted.is_empty();
        for entry in entries {
            let (path, within) = match (below(&entry.path, &wanted), below(&wanted, &entry.path)) {
                (Some([]), _) if !wanted.is_empty() && entry.kind != Kind::Submodule => {
                    return Err(found.wrong(format!("`{}` is no directory", request.subdirectory)));
                }
                (Some(path), _) => (path.to_vec(), &[][..]),
                // What is wanted lies in a submodule, or behind a link that nobody follows.
                (None, Some(within)) if entry.kind == Kind::Submodule => (Vec::new(), within),
                (None, Some(_)) => {
                    let path = String::from_utf8_lossy(&entry.path).into_owned();
                    return Err(found.wrong(format!("`{path}` is no directory")));
                }
                (None, None) => continue,
            };
            is_there = true;
            match entry.kind {
                Kind::Submodule => submodules.push((entry.clone(), path, within.to_vec())),
                _ => files.push(Entry { path, ..entry }),
            }
        }
        if !is_there {
            return Err(found.wrong(format!("it has no directory `{}`", request.subdirectory)));
        }
        let mut root = tree::made(mtime);
        tree::fill(&git, self.pack, &files, mtime, &mut root).await?;
        let submodules = submodules.into_iter().map(|(entry, path, within)| {
            let module = modules.remove(&entry.path);
            Submodule { entry, path, within, module }
        });
        Ok(Own { root, mtime, submodules: submodules.collect() })
    }

    /// The files of a submodule.
    async fn submodule(
        &mut self,
        of: &GitTree,
        entry: &Entry,
        module: &Module,
        within: &[u8],
        at: &Position,
    ) -> Result<Node> {
        let path = String::from_utf8_lossy(&entry.path).escape_debug().to_string();
        self.submodules += 1;
        if at.depth + 1 >= MAX_DEPTH || self.submodules > MAX_SUBMODULES {
            return Err(of.wrong(format!("its submodules lie too deep, or are too many: `{path}`")));
        }
        let remote = of
            .request
            .remote
            .join(&module.url)
            .map_err(|error| of.wrong(format!("its submodule `{path}`: {error}")))?;
        let request = GitRequest {
            remote,
            reference: entry.object.clone(),
            subdirectory: String::from_utf8_lossy(within).into_owned(),
            checksum: None,
            keep_git_dir: of.keeps_git_dir(),
            ..of.request.clone()
        };
        let found = GitTree { request, commit: entry.object.clone(), name: None };
        let position = at.below(&entry.path, &module.name);
        if found.keeps_git_dir() {
            self.kept.push(KeptModule {
                found: found.clone(),
                position: position.clone(),
                name: module.name.clone(),
                parent: at.git_dir.clone(),
            });
        }
        let (mut node, mtime) = self.tree(&found, position.clone()).await?;
        if found.keeps_git_dir() {
            let link = dot_git::link(self.pack, &position, mtime)?;
            tree::insert(&mut node, b".git", link, mtime).map_err(|reason| of.wrong(reason))?;
        }
        Ok(node)
    }
}

/// Refuses submodules whose repositories would lie elsewhere, or in each other.
fn check_names<'a>(of: &GitTree, modules: impl Iterator<Item = &'a Module>) -> Result<()> {
    let names: Vec<&[u8]> = modules.map(|module| module.name.as_slice()).collect();
    let wrong = |name: &[u8], what: &str| {
        let shown = String::from_utf8_lossy(name).escape_debug().to_string();
        of.wrong(format!("its submodule named `{shown}` {what}"))
    };
    if let Some(name) = names.iter().find(|name| !dot_git::is_module_name(name)) {
        return Err(wrong(name, "has a name that no directory may have"));
    }
    match dot_git::nested(names) {
        Some(name) => Err(wrong(name, "would lie in the repository of another")),
        None => Ok(()),
    }
}

/// The submodules by their paths, as `.gitmodules` has them.
async fn modules(git: &Git<'_>, entries: &[Entry]) -> Result<BTreeMap<Vec<u8>, Module>> {
    let is_list = |entry: &&Entry| entry.path == b".gitmodules";
    let wrong =
        |reason: &str| Error::Git { url: git.remote.url().to_owned(), reason: reason.to_owned() };
    let Some(list) = entries.iter().find(is_list) else { return Ok(BTreeMap::new()) };
    if !matches!(list.kind, Kind::File | Kind::Program) {
        return Err(wrong("its `.gitmodules` is no file"));
    }
    let blob = format!("--blob={}", list.object);
    let arguments = ["config", blob.as_str(), "--no-includes", "-z", "--list"];
    let output = git.run("read `.gitmodules`", arguments).await?;
    let mut found: BTreeMap<Vec<u8>, [Option<String>; 3]> = BTreeMap::new();
    for setting in output.split(|byte| *byte == 0) {
        let mut parts = setting.splitn(2, |byte| *byte == b'\n');
        let (key, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let Some(rest) = key.strip_prefix(b"submodule.") else { continue };
        let Some(dot) = rest.iter().rposition(|byte| *byte == b'.') else { continue };
        let at = match &rest[dot + 1..] {
            b"path" => 0,
            b"url" => 1,
            b"update" => 2,
            _ => continue,
        };
        let value = String::from_utf8(value.to_vec())
            .map_err(|_| wrong("its `.gitmodules` has a value that is not UTF-8"))?;
        found.entry(rest[..dot].to_vec()).or_default()[at] = Some(value);
    }
    let module = |(name, [path, url, update]): (Vec<u8>, [Option<String>; 3])| {
        let wanted = update.as_deref() != Some("none");
        Some((path?.into_bytes(), Module { name, url: url.filter(|_| wanted)? }))
    };
    Ok(found.into_iter().filter_map(module).collect())
}

/// When a commit was made, in nanoseconds since 1970.
fn commit_time(commit: &[u8]) -> i64 {
    let text = String::from_utf8_lossy(commit);
    let head = text.lines().take_while(|line| !line.is_empty());
    let line = head.filter_map(|line| line.strip_prefix("committer ")).next().unwrap_or_default();
    let seconds = line.rsplit(' ').nth(1).and_then(|seconds| seconds.parse::<i64>().ok());
    seconds.unwrap_or(0).max(0).checked_mul(1_000_000_000).unwrap_or(0)
}

/// The files of a repository are root's, whoever fetched it.
fn give_to_root(node: &mut Node) {
    (node.attributes.uid, node.attributes.gid) = (0, 0);
    if let NodeKind::Directory(directory) = &mut node.kind {
        directory.children.values_mut().for_each(give_to_root);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_commit() {
        let commit =
            b"tree 0\nauthor A <a> 5 +0000\ncommitter C D <c> 1700000000 +0200\n\ncommitter x 9 +0";
        assert_eq!(commit_time(commit), 1_700_000_000_000_000_000);
        assert_eq!(commit_time(b"tree 0\n\n"), 0);
    }
}
