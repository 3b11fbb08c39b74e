//! The repository of this machine that a URL is fetched into: a cache, which is thrown away when
//! it is damaged.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cofferdam_store::{Store, Watch};

use super::GitTree;
use super::command::Git;
use crate::{Error, Result};

/// How often it is looked at how much a fetch has written.
const WATCH_INTERVAL: Duration = Duration::from_millis(250);
/// What stands for all of the history where there must be a number.
const ALL: &str = "--depth=2147483647";

/// Ends, with an error, when what is fetched does not fit into the storage limit.
pub(super) async fn beyond_limit(store: &Store, watch: Watch) -> Error {
    if store.limit().is_none() {
        return std::future::pending().await;
    }
    let watch = Arc::new(watch);
    loop {
        tokio::time::sleep(WATCH_INTERVAL).await;
        let watch = watch.clone();
        // It may have to wait for room.
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || watch.check()).await {
            return error.into();
        }
    }
}

/// Sees to it that the repository has the commit.
pub(super) async fn bring(git: &Git<'_>, repository: &Path, found: &GitTree) -> Result<()> {
    const ACTION: &str = "fetch the commit";
    if !repository.join("HEAD").exists() {
        git.run(
            "make a repository",
            ["init", "-q", "--bare", "--template=", format(&found.commit)],
        )
        .await?;
    }
    // Of a git that was killed: nobody else is at it now.
    for left in ["shallow.lock", "packed-refs.lock", "HEAD.lock", "config.lock"] {
        _ = std::fs::remove_file(repository.join(left));
    }
    let kept = kept(&found.commit);
    let commit = format!("{}^{{commit}}", found.commit);
    if git.run(ACTION, ["rev-parse", "--verify", "-q", &format!("{kept}^{{commit}}")]).await.is_ok()
    {
        return Ok(());
    }
    let options = ["fetch", "-q", "--force", "--no-tags", "--no-write-fetch-head"];
    let url = found.url();
    let mut attempts = vec![("--depth=1", vec![format!("{}:{kept}", found.commit)])];
    if let Some(name) = &found.name {
        // Where only what has a name can be asked for.
        attempts.push(("--depth=1", vec![format!("{name}:refs/cofferdam/named")]));
    }
    let all =
        ["+refs/heads/*:refs/cofferdam/all/heads/*", "+refs/tags/*:refs/cofferdam/all/tags/*"];
    attempts.push((ALL, all.map(str::to_owned).into()));
    let mut first = None;
    for (depth, specs) in attempts {
        let arguments = options.iter().copied().chain([depth, "--", url]);
        let specs = specs.iter().map(String::as_str);
        let fetched = git.run(ACTION, arguments.chain(specs)).await;
        let there = git.run(ACTION, ["cat-file", "-e", &commit]).await.is_ok();
        match fetched {
            _ if there => {
                git.run(ACTION, ["update-ref", "--", &kept, &found.commit]).await?;
                return Ok(());
            }
            Ok(_) => {}
            Err(error) => drop(first.get_or_insert(error)),
        }
    }
    let name = found.name.as_ref().map(|name| format!(" of {name}")).unwrap_or_default();
    Err(first.unwrap_or_else(|| found.wrong(format!("it has no commit {}{name}", found.commit))))
}

/// What keeps a commit in the repository.
pub(super) fn kept(commit: &str) -> String {
    format!("refs/cofferdam/commits/{commit}")
}

/// The option for a repository that can have the commit.
pub(super) fn format(commit: &str) -> &'static str {
    match commit.len() {
        64 => "--object-format=sha256",
        _ => "--object-format=sha1",
    }
}

/// Whether all that git has there is what its names say. Reads everything.
pub(super) async fn is_sound(git: &Git<'_>) -> bool {
    let check = ["fsck", "--full", "--strict", "--no-dangling", "--no-progress"];
    git.run("check the repository", check).await.is_ok()
}
