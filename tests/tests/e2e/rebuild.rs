//! What runs, and when: exactly the steps that a change concerns, independent ones at once, each
//! once. Told from `--progress json`, by the names that a user reads.

use anyhow::Result;
use cofferdam_tests::tree::TarWriter;
use cofferdam_tests::{Context, Outcome, bases};

use crate::World;

const DOCKERFILE: &str = "\
ARG REGISTRY
FROM ${REGISTRY}/busybox AS base
WORKDIR /w
FROM base AS one
COPY a.txt .
RUN wc -w < a.txt > a.out
FROM base AS two
ARG FLAVOUR=plain
RUN echo $FLAVOUR > flavour
FROM base
COPY b.txt .
COPY --from=one /w/a.out .
COPY --from=two /w/flavour .
RUN cat a.out b.txt flavour > all
";

const FROM: &str = "[base 1/2] FROM REGISTRY/busybox:latest";
const WORKDIR: &str = "[base 2/2] WORKDIR /w";
const COPY_A: &str = "[one 1/2] COPY a.txt .";
const RUN_A: &str = "[one 2/2] RUN wc -w < a.txt > a.out";
// Names show what variables stand for, as in BuildKit.
const RUN_FLAVOUR: &str = "[two 1/1] RUN echo plain > flavour";
const RUN_SWEET: &str = "[two 1/1] RUN echo sweet > flavour";
const COPY_B: &str = "[stage-3 1/4] COPY b.txt .";
const FROM_ONE: &str = "[stage-3 2/4] COPY --from=one /w/a.out .";
const FROM_TWO: &str = "[stage-3 3/4] COPY --from=two /w/flavour .";
const RUN_ALL: &str = "[stage-3 4/4] RUN cat a.out b.txt flavour > all";
const EVERY: [&str; 9] =
    [FROM, WORKDIR, COPY_A, RUN_A, RUN_FLAVOUR, COPY_B, FROM_ONE, FROM_TWO, RUN_ALL];

/// A world in which the Dockerfile was built once, with everything executed.
fn built() -> Result<(World, Context)> {
    let world = World::new()?;
    let context = Context::new(DOCKERFILE)?;
    context.file("a.txt", "one two\n")?.file("b.txt", "b\n")?.file("unused.txt", "u\n")?;
    let first = world.build(&context).run()?.succeeded();
    assert_executed(&world, &first, &EVERY);
    Ok((world, context))
}

#[track_caller]
fn assert_executed(world: &World, outcome: &Outcome, expected: &[&str]) {
    let mut executed: Vec<String> =
        outcome.executed().iter().map(|name| world.stable(name)).collect();
    executed.sort();
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    assert_eq!(executed, expected, "{}", outcome.report());
}

#[test]
fn nothing_changed_executes_nothing() -> Result<()> {
    let (world, context) = built()?;
    let again = world.build(&context).run()?.succeeded();
    assert_executed(&world, &again, &[]);
    Ok(())
}

#[test]
fn a_new_time_or_an_unused_file_executes_nothing() -> Result<()> {
    let (world, context) = built()?;
    context.time("a.txt", 1_800_000_000)?.file("unused.txt", "changed\n")?;
    let again = world.build(&context).run()?.succeeded();
    assert_executed(&world, &again, &[]);
    Ok(())
}

#[test]
fn one_file_changed_executes_what_reads_it() -> Result<()> {
    let (world, context) = built()?;
    context.file("a.txt", "one two three\n")?;
    let again = world.build(&context).run()?.succeeded();
    assert_executed(&world, &again, &[COPY_A, RUN_A, FROM_ONE, FROM_TWO, RUN_ALL]);
    Ok(())
}

#[test]
fn a_step_that_gives_the_same_contents_ends_the_change() -> Result<()> {
    let (world, context) = built()?;
    // Other words, as many: `wc -w` writes the same file.
    context.file("a.txt", "three four\n")?;
    let again = world.build(&context).run()?.succeeded();
    assert_executed(&world, &again, &[COPY_A, RUN_A]);
    Ok(())
}

#[test]
fn one_argument_changed_executes_what_uses_it() -> Result<()> {
    let (world, context) = built()?;
    let again = world.build(&context).build_arg("FLAVOUR", "sweet").run()?.succeeded();
    assert_executed(&world, &again, &[RUN_SWEET, FROM_TWO, RUN_ALL]);
    let back = world.build(&context).run()?.succeeded();
    assert_executed(&world, &back, &[]);
    Ok(())
}

#[test]
fn a_changed_base_image_executes_everything() -> Result<()> {
    let (world, context) = built()?;
    let mut addition = TarWriter::new();
    addition.file("etc/updated", 0o644, b"updated")?;
    let updated = bases::updated(&bases::busybox()?, addition, &world.out.path().join("updated"))?;
    world.registry.push(&updated, "busybox:latest")?;
    let again = world.build(&context).run()?.succeeded();
    assert_executed(&world, &again, &EVERY);
    Ok(())
}

#[test]
fn no_cache_executes_every_step_again() -> Result<()> {
    let (world, context) = built()?;
    let again = world.build(&context).arg("--no-cache").run()?.succeeded();
    let executed: Vec<String> = again.executed().iter().map(|name| world.stable(name)).collect();
    for run in [RUN_A, RUN_FLAVOUR, RUN_ALL] {
        assert!(executed.iter().any(|name| name == run), "{run} did not run: {executed:?}");
    }
    Ok(())
}

#[test]
fn a_target_leaves_other_stages_alone() -> Result<()> {
    let world = World::new()?;
    let context = Context::new(DOCKERFILE)?;
    context.file("a.txt", "one two\n")?.file("b.txt", "b\n")?;
    let two = world.build(&context).option("--target", "two").run()?.succeeded();
    assert_executed(&world, &two, &[FROM, WORKDIR, RUN_FLAVOUR]);
    Ok(())
}

#[test]
fn independent_stages_overlap_in_time() -> Result<()> {
    let world = World::new()?;
    let context = Context::new(
        "ARG REGISTRY\nFROM ${REGISTRY}/busybox AS base\n\
         FROM base AS left\nRUN sleep 1; echo left > /left\n\
         FROM base AS right\nRUN sleep 1; echo right > /right\n\
         FROM scratch\nCOPY --from=left /left /\nCOPY --from=right /right /\n",
    )?;
    let build = world.build(&context).run()?.succeeded();
    let left = build.step("[left 1/1] RUN sleep 1; echo left > /left")?;
    let right = build.step("[right 1/1] RUN sleep 1; echo right > /right")?;
    assert!(left.overlaps(&right), "one after the other: {left:?} {right:?}");
    Ok(())
}

#[test]
fn a_step_that_two_stages_need_runs_once() -> Result<()> {
    let world = World::new()?;
    let context = Context::new(
        "ARG REGISTRY\nFROM ${REGISTRY}/busybox AS shared\n\
         RUN cat /proc/sys/kernel/random/uuid > /id\n\
         FROM scratch AS left\nCOPY --from=shared /id /left\n\
         FROM scratch AS right\nCOPY --from=shared /id /right\n\
         FROM scratch\nCOPY --from=left / /\nCOPY --from=right / /\n",
    )?;
    let local = world.out.path().join("local");
    let build = world.build(&context).varies("a step writes a random number");
    let build = build.option("--output", format!("type=local,dest={}", local.display()));
    let build = build.run()?.succeeded();
    let shared = build.step("[shared 2/2] RUN cat /proc/sys/kernel/random/uuid > /id")?;
    assert_eq!(shared.starts, 1);
    assert_eq!(std::fs::read(local.join("left"))?, std::fs::read(local.join("right"))?);
    Ok(())
}

#[test]
fn a_crash_loses_at_most_the_unfinished_step() -> Result<()> {
    let world = World::new()?;
    let context = Context::new(
        "ARG REGISTRY\nFROM ${REGISTRY}/busybox\n\
         RUN echo first > /first\nRUN test -e /skip || { echo at-second; sleep 60; }\n",
    )?;
    let mut build = world.build(&context).spawn()?;
    build.wait_for_log("at-second")?;
    build.crash()?;
    context.file(
        "Dockerfile",
        "ARG REGISTRY\nFROM ${REGISTRY}/busybox\nRUN echo first > /first\nRUN cat /first\n",
    )?;
    let again = world.build(&context).run()?.succeeded();
    assert_executed(&world, &again, &["[3/3] RUN cat /first"]);
    assert!(again.log().contains("first"));
    Ok(())
}

#[test]
fn a_bind_mount_of_the_base_is_known_by_its_source_path() -> Result<()> {
    let world = World::new()?;
    let dockerfile = |source: &str| {
        format!(
            "ARG REGISTRY\nFROM ${{REGISTRY}}/busybox AS base\nRUN mkdir /a /b && echo a > /a/f && echo b > /b/f\n\
             FROM base\nRUN --mount=type=bind,from=base,source=/{source},target=/m cat /m/f > /out\n"
        )
    };
    let local = world.out.path().join("local");
    for source in ["a", "b"] {
        let context = Context::new(&dockerfile(source))?;
        let output = format!("type=local,dest={}", local.display());
        let _ = world.build(&context).option("--output", output).run()?.succeeded();
        assert_eq!(std::fs::read_to_string(local.join("out"))?, format!("{source}\n"));
    }
    Ok(())
}

#[test]
fn a_link_that_a_pattern_matches_is_known_by_its_own_name() -> Result<()> {
    let world = World::new()?;
    let context = Context::new("FROM scratch\nCOPY bin/* /bin/\n")?;
    context.file("tools/py3", "python")?.link("bin/py", "../tools/py3")?;
    let build = |name: &str| -> Result<bool> {
        let local = world.out.path().join(name);
        let output = format!("type=local,dest={}", local.display());
        let _ = world.build(&context).option("--output", output).run()?.succeeded();
        Ok(local.join("bin").join(name).exists())
    };
    assert!(build("py")?);
    std::fs::rename(context.path().join("bin/py"), context.path().join("bin/python"))?;
    assert!(build("python")?, "the copy of the link under its old name was taken");
    Ok(())
}

#[test]
fn an_image_with_the_same_layer_twice_is_a_base_like_any_other() -> Result<()> {
    let world = World::new()?;
    let name = world.registry.reference("twice:latest");
    let context = Context::new("ARG REGISTRY\nFROM ${REGISTRY}/busybox\nRUN true\nRUN true\n")?;
    let build = world.build(&context).option("--tag", &name).arg("--push");
    let _ = build.run()?.succeeded();
    // From an empty store, in which equal layers become one.
    let fresh = World::new()?;
    let context = Context::new(&format!(
        "FROM {name}\nRUN --mount=type=bind,from={name},target=/m echo works && ls /m/bin/busybox\n"
    ))?;
    let _ = fresh.build(&context).run()?.succeeded();
    Ok(())
}
