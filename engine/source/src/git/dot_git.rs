//! The `.git` that comes along with the files: a repository that has the commit and says where it
//! is from. Those of submodules lie in it, as git itself puts them: in `modules`, under the names
//! that `.gitmodules` gives, and a file `.git` beside a submodule's files leads there.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

use cofferdam_store::{Attributes, LayerDir, Node, NodeKind, Regular, SharedPackWriter};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use super::command::Git;
use super::{GitAccess, GitSource, GitTree, Remote, format, kept};
use crate::http::{writing, written};
use crate::{Result, error::IoContext};

const ACTION: &str = "make its `.git`";

/// Where a repository's files are, and where what git keeps of it: paths from the top.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) files: Vec<u8>,
    pub(super) git_dir: Vec<u8>,
    /// How many repositories it lies in.
    pub(super) depth: usize,
}

/// A submodule whose `.git` comes along.
pub(super) struct KeptModule {
    pub(super) found: GitTree,
    pub(super) position: Position,
    /// What the repository that it lies in calls it, and where what git keeps of that one is.
    pub(super) name: Vec<u8>,
    pub(super) parent: Vec<u8>,
}

impl Position {
    /// That of the repository which was asked for.
    pub(super) fn top() -> Self {
        Self { files: Vec::new(), git_dir: b".git".to_vec(), depth: 0 }
    }

    /// That of a submodule.
    pub(super) fn below(&self, path: &[u8], name: &[u8]) -> Self {
        let files = match self.files.as_slice() {
            [] => path.to_vec(),
            files => [files, b"/", path].concat(),
        };
        let git_dir = [&self.git_dir, &b"/modules/"[..], name].concat();
        Self { files, git_dir, depth: self.depth + 1 }
    }

    /// The path to what git keeps, from the files.
    fn to_git_dir(&self) -> Vec<u8> {
        [up(&self.files), self.git_dir.clone()].concat()
    }

    /// The path to the files, from what git keeps.
    fn to_files(&self) -> Vec<u8> {
        [up(&self.git_dir), self.files.clone()].concat()
    }
}

/// From a path to the top.
fn up(path: &[u8]) -> Vec<u8> {
    b"../".repeat(path.split(|byte| *byte == b'/').count())
}

/// Whether a directory may be called so: git has refused the rest since CVE-2018-11235.
pub(super) fn is_module_name(name: &[u8]) -> bool {
    let part = |part: &[u8]| !matches!(part, b"" | b"." | b"..") && part.len() <= 255;
    !name.contains(&b'\\') && name.split(|byte| *byte == b'/').all(part)
}

/// The first of these names that would lie in the repository of another (CVE-2019-1387).
pub(super) fn nested<'a>(names: impl IntoIterator<Item = &'a [u8]>) -> Option<&'a [u8]> {
    let mut names: Vec<&[u8]> = names.into_iter().collect();
    names.sort_unstable();
    let within = |name: &&[u8]| {
        let above = (0..name.len()).filter(|at| name[*at] == b'/').map(|at| &name[..at]);
        above.into_iter().any(|above| names.binary_search(&above).is_ok())
    };
    let twice = names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0]);
    twice.or_else(|| names.iter().copied().find(within))
}

/// The file `.git` of a submodule.
pub(super) fn link(pack: &SharedPackWriter, position: &Position, mtime: i64) -> Result<Node> {
    let text = [b"gitdir: ", &position.to_git_dir()[..], b"\n"].concat();
    let mut writer = pack.reserve(text.len() as u64)?;
    writing(|| writer.write_all(&text)).map_err(written)?;
    let (content, size, digest) = writer.finish();
    let attributes = Attributes { mode: 0o644, mtime, ..Attributes::default() };
    let kind = NodeKind::Regular(Regular { size, content, digest: Some(digest), link_group: None });
    Ok(Node { attributes, kind })
}

impl GitSource {
    /// Makes a `.git` that has the commit and says where it is from, with those of submodules.
    pub(super) async fn git_dir(
        &self,
        found: &GitTree,
        modules: &[KeptModule],
        access: &dyn GitAccess,
        mtime: i64,
    ) -> Result<LayerDir> {
        let dir = self.store.new_layer_dir()?;
        self.clone_into(found, access, &dir.fs(), &Position::top()).await?;
        for module in modules {
            self.clone_into(&module.found, access, &dir.fs(), &module.position).await?;
            let setting = |key: &str| {
                OsString::from_vec([b"submodule.", &module.name[..], key.as_bytes()].concat())
            };
            let settings =
                [(setting(".active"), "true".into()), (setting(".url"), module.found.url().into())];
            let parent = dir.fs().join(OsStr::from_bytes(&module.parent));
            self.configure(&module.found.request.remote, &parent, settings).await?;
        }
        for module in modules {
            // Last, because git goes there for whatever else it does.
            let files = OsString::from_vec(module.position.to_files());
            let settings = [("core.worktree".into(), files)];
            let repository = dir.fs().join(OsStr::from_bytes(&module.position.git_dir));
            self.configure(&module.found.request.remote, &repository, settings).await?;
        }
        set_times(&dir.fs(), mtime)?;
        Ok(dir)
    }

    /// Writes settings to the `config` of a repository.
    async fn configure(
        &self,
        remote: &Remote,
        repository: &Path,
        settings: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<()> {
        let home = self.home()?;
        let git = Git {
            config: &self.config,
            remote,
            identity: &super::Identity::default(),
            home: home.path(),
            repository: Some(repository),
            source: None,
        };
        let file = repository.join("config").into_os_string();
        for (key, value) in settings {
            git.run(ACTION, ["config".into(), "--file".into(), file.clone(), key, value]).await?;
        }
        Ok(())
    }

    /// Makes one of them, below the directory `top`.
    async fn clone_into(
        &self,
        found: &GitTree,
        access: &dyn GitAccess,
        top: &Path,
        position: &Position,
    ) -> Result<()> {
        let repository = self.repository(found).await?;
        let bare = repository.dir.fs();
        let first = position.depth == 0;
        let identity = self.identity(&found.request, &found.request.remote, access, first)?;
        let target = top.join(OsStr::from_bytes(&position.git_dir));
        std::fs::create_dir_all(&target).io("cannot create", &target)?;
        let git = Git {
            config: &self.config,
            remote: &found.request.remote,
            identity: &identity,
            home: repository.home.path(),
            repository: Some(&target),
            source: Some(&bare),
        };
        let format = format(&found.commit);
        git.run(ACTION, ["init", "-q", "--template=", format]).await?;
        let kept = kept(&found.commit);
        let bare = bare.to_string_lossy();
        let fetch = ["fetch", "-q", "--no-tags", "--update-shallow", "--no-write-fetch-head", "--"];
        git.run(ACTION, fetch.iter().copied().chain([&*bare, &format!("{kept}:{kept}")])).await?;
        if let Some(name) = found.name.as_deref().filter(|name| name.starts_with("refs/")) {
            git.run(ACTION, ["update-ref", "--", name, &found.commit]).await?;
        }
        for arguments in [
            &["update-ref", "--no-deref", "--", "HEAD", &found.commit][..],
            &["update-ref", "-d", "--", &kept],
            &["read-tree", &found.commit],
            &["config", "core.bare", "false"],
            &["config", "remote.origin.url", found.url()],
            &["config", "remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*"],
        ] {
            git.run(ACTION, arguments).await?;
        }
        Ok(())
    }
}

/// Gives a directory with all in it one time, so that it is the same wherever it is made.
fn set_times(path: &Path, mtime: i64) -> Result<()> {
    let metadata = std::fs::symlink_metadata(path).io("cannot stat", path)?;
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path).io("cannot list", path)? {
            set_times(&entry.io("cannot list", path)?.path(), mtime)?;
        }
    }
    let time = Timespec { tv_sec: mtime / 1_000_000_000, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).io("cannot set the time of", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_what_git_keeps_lead_to_each_other() {
        let shown = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        let module = Position::top().below(b"vendor/lib", b"the lib");
        assert_eq!(shown(module.to_git_dir()), "../../.git/modules/the lib");
        assert_eq!(shown(module.to_files()), "../../../vendor/lib");
        let inner = module.below(b"in", b"a/b");
        assert_eq!(shown(inner.to_git_dir()), "../../../.git/modules/the lib/modules/a/b");
        assert_eq!(shown(inner.to_files()), "../../../../../../vendor/lib/in");
    }

    #[test]
    fn names_of_submodules_stay_in_their_place() {
        for name in [&b"a"[..], b"a/b", b"...", b"\xff"] {
            assert!(is_module_name(name), "{name:?}");
        }
        for name in [&b""[..], b"..", b"a/../b", b"/a", b"a//b", b"a/", b".\\..", &[b'a'; 256]] {
            assert!(!is_module_name(name), "{name:?}");
        }
        assert_eq!(nested([&b"a"[..], b"ab", b"b/a"]), None);
        assert_eq!(nested([&b"a/b/c"[..], b"ab", b"a"]), Some(&b"a/b/c"[..]));
        assert_eq!(nested([&b"x"[..], b"a", b"x"]), Some(&b"x"[..]));
    }
}
