//! The state directory as its owner sees it: what is in it, pruning, checking, and a limit that is
//! kept.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context as _, Result};
use cofferdam_tests::Context;

use crate::World;

/// Runs a command about the state directory; gives its exit code and what it said.
fn storage(world: &World, arguments: &[&str]) -> Result<(i32, String)> {
    let mut command = world.cofferdam.command();
    command.arg("--root").arg(world.cofferdam.root()).args(arguments);
    let output = command.output()?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.code().context("it was killed")?, String::from_utf8(text)?))
}

/// Bytes on the disk of everything in a directory.
fn on_disk(path: &Path) -> u64 {
    let Ok(metadata) = fs::symlink_metadata(path) else { return 0 };
    let below = fs::read_dir(path).into_iter().flatten().flatten();
    metadata.blocks() * 512 + below.map(|entry| on_disk(&entry.path())).sum::<u64>()
}

/// A Dockerfile whose build leaves so many MiB in the state directory.
fn large(mib: usize, name: &str) -> Result<Context> {
    Context::new(&format!(
        "ARG REGISTRY\nFROM ${{REGISTRY}}/busybox\n\
         RUN dd if=/dev/urandom of=/{name} bs=1M count={mib} 2>/dev/null\n"
    ))
}

#[test]
fn what_is_stored_is_listed_pruned_and_checked() -> Result<()> {
    let world = World::new()?;
    let context = large(3, "some")?;
    let build = || world.build(&context).option("-t", "kept:1").varies("random bytes").run();
    let _ = build()?.succeeded();

    let (code, list) = storage(&world, &["du"])?;
    assert_eq!(code, 0, "{list}");
    let step = list.lines().find(|line| line.contains("RUN dd")).context("the step")?;
    assert!(step.contains("3.16MB") || step.contains("3.15MB"), "{step}");
    let (_, json) = storage(&world, &["du", "--json", "--filter", "description~=RUN dd"])?;
    let step: serde_json::Value = serde_json::from_str(json.trim())?;
    assert_eq!((&step["inUse"], &step["heldBy"]), (&false.into(), &serde_json::json!([])));

    // What was built is forgotten, the image is kept.
    let (_, pruned) = storage(&world, &["prune"])?;
    assert!(pruned.contains("RUN dd") && pruned.contains("Total reclaimed space: "), "{pruned}");
    let (_, list) = storage(&world, &["du", "-v"])?;
    assert!(!list.contains("RUN dd") && list.contains("docker.io/library/kept:1"), "{list}");
    let again = build()?.succeeded();
    assert!(again.executed().iter().any(|name| name.contains("RUN dd")), "{}", again.report());

    let (code, checked) = storage(&world, &["store", "verify"])?;
    assert!(code == 0 && checked.contains("all right"), "{checked}");
    let (_, _) = storage(&world, &["prune", "--all"])?;
    let places = ["layers", "packs", "blobs/sha256"].map(|name| world.cofferdam.root().join(name));
    for place in places {
        assert_eq!(fs::read_dir(&place)?.count(), 0, "{}", place.display());
    }
    Ok(())
}

#[test]
fn pruning_takes_only_what_its_conditions_say() -> Result<()> {
    let world = World::new()?;
    let context = large(1, "some")?;
    let _ = world.build(&context).varies("random bytes").run()?.succeeded();
    for arguments in [
        &["prune", "--keep-duration", "1h"][..],
        &["prune", "--max-used-space", "10g"],
        &["prune", "--reserved-space", "10g"],
        &["prune", "--min-free-space", "1"],
        &["prune", "--filter", "description~=no such step"],
    ] {
        let (code, text) = storage(&world, arguments)?;
        assert_eq!((code, text.as_str()), (0, "Total reclaimed space: 0B\n"), "{arguments:?}");
    }
    let (code, text) = storage(&world, &["prune", "--filter", "size==1"])?;
    assert!(code == 2 && text.contains("unknown field `size`"), "{text}");
    let (_, text) = storage(&world, &["prune", "--filter", "description~=RUN dd"])?;
    assert!(text.contains("RUN dd") && !text.contains("FROM"), "{text}");
    Ok(())
}

#[test]
fn a_limit_is_kept_and_one_that_is_too_small_is_named() -> Result<()> {
    let world = World::new()?;
    let limit = 40 << 20;
    for number in 0..4 {
        let context = large(8, &format!("file{number}"))?;
        let build = world.build(&context).option("--max-storage", "40m").varies("random bytes");
        let _ = build.run()?.succeeded();
        let taken = on_disk(&world.cofferdam.root());
        assert!(taken <= limit, "{taken} bytes after build {number}");
    }
    let context = large(200, "too-large")?;
    let build = world.build(&context).option("--max-storage", "40m").varies("it fails");
    let failed = build.run()?.ended(4);
    failed.says(&["the storage limit of 40.0 MiB is reached", "hint: give it more room"]);
    assert!(on_disk(&world.cofferdam.root()) <= limit + (64 << 20));
    let context = large(1, "small")?;
    let build = world.build(&context).option("--max-storage", "40m").varies("random bytes");
    let _ = build.run()?.succeeded();
    let (code, checked) = storage(&world, &["store", "verify"])?;
    assert!(code == 0 && checked.contains("all right"), "{checked}");
    Ok(())
}

#[test]
fn damage_is_found_repaired_and_not_used() -> Result<()> {
    let world = World::new()?;
    let context = Context::new("FROM scratch\nCOPY f /f\n")?;
    context.file("f", "contents")?;
    let _ = world.build(&context).run()?.succeeded();
    // What puts all of it on the disk has the database open.
    world.cofferdam.settle()?;
    let packs = world.cofferdam.root().join("packs");
    let pack = fs::read_dir(&packs)?
        .flatten()
        .find(|entry| fs::read(entry.path()).is_ok_and(|bytes| bytes == b"contents"))
        .context("the pack with the file")?;
    fs::write(pack.path(), "Contents")?;
    let (code, found) = storage(&world, &["store", "verify", "--dry-run"])?;
    assert!(code == 4 && found.contains("nothing was changed"), "{found}");
    assert!(found.contains("`/f`: its contents do not have the digest"), "{found}");
    let (code, found) = storage(&world, &["store", "verify"])?;
    assert!(code == 4 && found.contains("what is damaged was dropped"), "{found}");
    let (code, found) = storage(&world, &["store", "verify"])?;
    assert!(code == 0, "{found}");
    let out = world.out.path().join("out");
    let build = world.build(&context).option("-o", &out).run()?;
    let _ = build.succeeded();
    assert_eq!(fs::read_to_string(out.join("f"))?, "contents");

    // A database that is none is told, and repairing starts over.
    world.cofferdam.settle()?;
    fs::write(world.cofferdam.root().join("state.db"), "this is no database at all".repeat(99))?;
    let failed = world.build(&context).varies("it fails").run()?.ended(4);
    failed.says(&["state.db", "is damaged", "hint: check and repair", "cofferdam store verify"]);
    let (code, found) = storage(&world, &["store", "verify"])?;
    assert!(code == 4 && found.contains("state.db: "), "{found}");
    let _ = world.build(&context).run()?.succeeded();
    let (code, found) = storage(&world, &["store", "verify"])?;
    assert!(code == 0, "{found}");
    Ok(())
}
