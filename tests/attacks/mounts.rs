//! Mounts of a step: where their sources lead, what is left of their mount points, what is written
//! through them.

use anyhow::Result;
use cofferdam_tests::cofferdam::exit;
use cofferdam_tests::{Context, Tree};

use crate::{Canary, World, works};

/// Mount points need a file or directory to be mounted on, which is removed afterwards. If that
/// is done by name, a step that has put a link to a directory of the host in the place of a parent
/// has files of the host removed: the canary's empty file and directories of the same names.
#[test]
fn cve_2024_23652_mount_stubs_are_removed_through_a_link() -> Result<()> {
    let world = World::new()?;
    let canary = Canary::new()?;
    let path = canary.text();
    // `/a` is a link to nothing in the image, so the mount points and what they lie in are made in
    // the step's own layer, where the step can move them.
    let ready = "FROM busybox\nCOPY Dockerfile /\nRUN ln -s real /a\n";
    let replaced = [
        ("/a/x/stub", "mv /real /moved"),
        ("/a/x/y", "mv /real/x /moved"),
        ("/a/stub", "mv /real /moved"),
    ];
    for (target, aside) in replaced {
        let back = aside.trim_start_matches("mv ").split(' ').next().unwrap_or_default();
        let to = if back == "/real/x" { format!("{path}/x") } else { path.clone() };
        for mount in ["type=tmpfs", "type=cache,id=stub"] {
            let dockerfile = format!(
                "{ready}RUN --mount={mount},target={target} {aside} && ln -s {to} {back} && echo replaced\n"
            );
            let outcome = world.run(&dockerfile, &[])?.succeeded();
            assert!(outcome.log().contains("replaced"), "{}", outcome.report());
            canary.is_intact()?;
        }
    }
    let dockerfile = format!(
        "{ready}RUN --mount=type=bind,source=Dockerfile,target=/a/x/file \
         mv /real /moved && ln -s {path} /real && echo replaced\n"
    );
    let outcome = world.run(&dockerfile, &[])?.succeeded();
    assert!(outcome.log().contains("replaced"), "{}", outcome.report());
    canary.is_intact()
}

/// A bind mount's source in another stage is a symlink to `/`. Followed on the host, the step has
/// the host's whole file system mounted, and reads and writes the canary in it.
#[test]
fn cve_2024_1753_bind_source_is_a_link_to_the_root() -> Result<()> {
    let world = World::new()?;
    let canary = Canary::new()?;
    let path = canary.text();
    let links = [
        ("/", "rootdir", ""),
        ("../../../../../../../../../../..", "rootdir", ""),
        ("/proc/1/root", "rootdir", ""),
        ("/proc/self/cwd/../../../../../../..", "rootdir", ""),
        (&path, "rootdir", &path),
        ("/", "rootdir/tmp", "/tmp"),
        ("/", "rootdir/../rootdir", ""),
    ];
    for (target, source, prefix) in links {
        let inside = path.strip_prefix(prefix).unwrap_or(&path);
        for options in ["type=bind,rw", "type=bind", "type=cache,id=breakout"] {
            let dockerfile = format!(
                "FROM busybox AS base\nRUN ln -s {target} /rootdir\nFROM busybox\n\
                 RUN --mount={options},from=base,source=/{source},target=/host \
                 cat /host{inside}/secret; echo planted > /host{inside}/planted; \
                 echo changed > /host{inside}/secret; echo done\n"
            );
            // That there is no such source is as good as finding it in the stage.
            world.run(&dockerfile, &[])?;
            canary.is_intact()?;
        }
    }
    Ok(())
}

/// Options that mount programs know and that change how a mount spreads or what it allows. One
/// that is handed on unchecked would be carried out; here each is refused, and nothing runs.
#[test]
fn cve_2024_9407_mount_options_outside_the_list() -> Result<()> {
    let world = World::new()?;
    let options = [
        "bind-propagation=shared",
        "bind-propagation=rshared",
        "bind-propagation=private,exec",
        "propagation=shared",
        "rshared",
        "relabel=shared",
        "z",
        "U",
        "suid",
        "dev",
        "exec",
        "o=bind",
        "notmpcopyup",
        "tmpfs-mode=1777",
        "idmap",
        "type=devpts",
        "type=proc",
        "type=sysfs",
        "type=overlay",
        "type=glob",
        "type=volume",
        "type=cache,sharing=everybody",
        "type=cache,sharing=99",
        "type=tmpfs,size=-1",
        "type=tmpfs,size=1m;mode=0",
        "type=tmpfs,uid=0",
        "type=cache,mode=9",
        "type=cache,uid=-1",
        "readonly=maybe",
    ];
    for option in options {
        let dockerfile = format!("FROM busybox\nRUN --mount={option},target=/m echo it ran\n");
        let outcome = world.run(&dockerfile, &[])?;
        if outcome.code != Some(exit::USER) || outcome.log().contains("it ran") {
            works(format!("`{option}` is not refused:\n{}", outcome.report()));
        }
    }
    Ok(())
}

/// The id of a cache names a directory; with `..` or a slash in it, it would name one outside of
/// where caches are. The same for the path within the cache.
#[test]
fn cve_2024_9675_cache_ids_and_sources_are_paths() -> Result<()> {
    let world = World::new()?;
    let canary = Canary::new()?;
    let (path, climbing) = (canary.text(), canary.climbing());
    for id in [&*path, &*climbing, "..", "../..", ".", "", "a/../../..", "-x", "%2e%2e"] {
        let dockerfile = format!(
            "FROM busybox\nRUN --mount=type=cache,id={id},target=/c : {id}; \
             cat /c/secret 2>/dev/null; echo planted > /c/planted; echo x > /c/secret; ls -A /c | tr '\\n' ' '\n"
        );
        let outcome = world.run(&dockerfile, &[])?;
        canary.is_intact()?;
        let log = outcome.log();
        if outcome.code == Some(exit::OK) && !log.ends_with("planted secret ") {
            works(format!("the cache `{id}` has something of somebody else's: {log}"));
        }
    }
    for source in [&*path, &*climbing, "..", "../../..", "a/../../../.."] {
        let dockerfile = format!(
            "FROM busybox\nRUN --mount=type=cache,id=own,target=/c mkdir -p /c/a\n\
             RUN --mount=type=cache,id=own,source={source},target=/c : {source}; \
             cat /c/secret; echo planted > /c/planted\n"
        );
        world.run(&dockerfile, &[])?;
        canary.is_intact()?;
    }
    Ok(())
}

/// What a step writes into a bind mount stays in that mount. Written through, it would be in the
/// user's context, in the stage that was mounted, or lie about in temporary directories.
#[test]
fn cve_2025_4953_writes_to_a_bind_mount_leak_out() -> Result<()> {
    let world = World::new()?;
    let scratch = tempfile::tempdir()?;
    let write = "echo changed > /m/f; echo planted > /m/planted; rm -r /m/d; chmod 777 /m";
    let look = "cat /m/f; ls /m; ls /m/d";
    let context = Context::new(&format!(
        "FROM busybox AS stage\nRUN mkdir -p /s/d && echo original > /s/f && touch /s/d/g\n\
         FROM busybox\n\
         RUN --mount=target=/m,rw {write}\n\
         RUN --mount=target=/m,rw {look}\n\
         RUN --mount=from=stage,source=/s,target=/m,rw {write}\n\
         RUN --mount=from=stage,source=/s,target=/m,rw {look}; : stage\n"
    ))?;
    context.file("f", "original\n")?.file("d/g", "")?;
    let before = Tree::from_directory(context.path())?;
    let outcome = world.build(&context)?.env("TMPDIR", scratch.path()).run()?;
    let differences = before.differences(&Tree::from_directory(context.path())?);
    if !differences.is_empty() {
        works(format!("the context is changed:\n{}", differences.join("\n")));
    }
    if outcome.log() != "original\nDockerfile\nd\nf\ng\noriginal\nd\nf\ng\n" {
        works(format!("a step sees what another wrote:\n{}", outcome.report()));
    }
    let _ = outcome.succeeded();
    world.cofferdam.settle()?;
    let left = Tree::from_directory(scratch.path())?;
    if !left.entries.is_empty() {
        works(format!("left in $TMPDIR: {:?}", left.entries.keys()));
    }
    Ok(())
}
