//! Many builds at once, from many processes, on one state directory.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use cofferdam_tests::{Build, Cofferdam, Context, Registry, bases};

use crate::lab::{EPOCH, lend_compiled, verify_clean};

const BUILDS: u64 = 50;
/// What each build adds, besides the base image: more than all together may take.
const GROWTH: u64 = 4 << 20;
const LIMIT: u64 = 96 << 20;

/// A step that makes a file of four megabytes, one that copies it, and a copy that does not.
const DOCKERFILE: &str = "\
ARG REGISTRY
FROM ${REGISTRY}/busybox AS made
ARG NUMBER
RUN yes \"build number $NUMBER\" | head -c 4194304 > /large
RUN wc -c < /large > /size
FROM scratch
COPY --from=made /large /size /out/
COPY file /file
";

/// What is on the disk below a directory, counted by nobody but this test.
fn disk_usage(directory: &Path) -> u64 {
    let (mut total, mut seen, mut open) = (0, HashSet::new(), vec![directory.to_owned()]);
    while let Some(directory) = open.pop() {
        // Files come and go meanwhile.
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.path().symlink_metadata() else { continue };
            if seen.insert(metadata.ino()) {
                total += metadata.blocks() * 512;
            }
            if metadata.is_dir() {
                open.push(entry.path());
            }
        }
    }
    total
}

struct World {
    registry: Registry,
    context: Context,
}

impl World {
    fn new(dockerfile: &str) -> Result<Self> {
        let registry = Registry::start()?;
        registry.push(&bases::busybox()?, "busybox:latest")?;
        let context = Context::new(dockerfile)?;
        context.file("file", "file")?;
        Ok(Self { registry, context })
    }

    fn build(&self, cofferdam: &Cofferdam, number: u64) -> Build {
        cofferdam
            .build(self.context.path())
            .varies("made many times over, and compared each time")
            .env("SOURCE_DATE_EPOCH", EPOCH)
            .build_arg("REGISTRY", self.registry.address())
            .build_arg("NUMBER", number)
            .option("--output", "type=image")
    }
}

#[test]
fn fifty_builds_at_once_are_right_and_respect_the_limit() -> Result<()> {
    let world = World::new(DOCKERFILE)?;
    // What each number should give, from a build that is alone; ten of them, to save time.
    let quiet = Cofferdam::new()?;
    let numbers = BUILDS / 5;
    let expected: Vec<_> = (0..numbers)
        .map(|number| Ok(world.build(&quiet, number).run()?.succeeded().digest()))
        .collect::<Result<_>>()?;

    let cofferdam = Cofferdam::new()?;
    lend_compiled(&quiet, &cofferdam.root())?;
    let limit = LIMIT.to_string();
    let done = AtomicBool::new(false);
    let (outcomes, most) = std::thread::scope(|scope| -> Result<_> {
        let watcher = scope.spawn(|| {
            let mut most = 0;
            while !done.load(Ordering::Relaxed) {
                most = most.max(disk_usage(&cofferdam.root()));
                std::thread::sleep(Duration::from_millis(10));
            }
            most
        });
        let start =
            |number| world.build(&cofferdam, number).option("--max-storage", &limit).spawn();
        let running: Result<Vec<_>> = (0..BUILDS).map(start).collect();
        let outcomes: Result<Vec<_>> = running?.into_iter().map(|build| build.finish()).collect();
        done.store(true, Ordering::Relaxed);
        Ok((outcomes?, watcher.join().expect("the watcher does not panic")))
    })?;
    eprintln!("at most {most} bytes of {LIMIT}");
    for (number, outcome) in outcomes.into_iter().enumerate() {
        let outcome = outcome.succeeded();
        if let Some(expected) = expected.get(number) {
            ensure!(outcome.digest() == *expected, "build {number}:\n{}", outcome.report());
        }
    }
    ensure!(most > LIMIT / 2, "the limit was never near: {most} of {LIMIT}");
    ensure!(most <= LIMIT + GROWTH, "{most} bytes on the disk, {LIMIT} allowed");
    verify_clean(&cofferdam)
}

#[test]
fn a_step_that_several_processes_want_runs_once() -> Result<()> {
    let world = World::new(
        "ARG REGISTRY\nFROM ${REGISTRY}/busybox\nARG NUMBER\n\
         RUN sleep 1; cat /proc/sys/kernel/random/uuid > /id\nRUN cat /id\n",
    )?;
    let cofferdam = Cofferdam::new()?;
    let running: Result<Vec<_>> = (0..6).map(|_| world.build(&cofferdam, 0).spawn()).collect();
    let outcomes: Result<Vec<_>> = running?.into_iter().map(|build| build.finish()).collect();
    let outcomes: Vec<_> = outcomes?.into_iter().map(|outcome| outcome.succeeded()).collect();
    let ran = |name: &str| {
        let executed = outcomes.iter().flat_map(|outcome| outcome.executed());
        executed.filter(|step| step.contains(name)).count()
    };
    assert_eq!((ran("sleep 1"), ran("RUN cat /id")), (1, 1));
    let digests: HashSet<_> = outcomes.iter().map(|outcome| outcome.digest()).collect();
    assert_eq!(digests.len(), 1, "one random number, so one image");
    Ok(())
}

#[test]
fn a_step_whose_process_was_killed_is_run_by_the_one_that_waits() -> Result<()> {
    let world = World::new(
        "ARG REGISTRY\nFROM ${REGISTRY}/busybox\nARG NUMBER\nRUN echo begun; sleep 5; echo ended\n",
    )?;
    let cofferdam = Cofferdam::new()?;
    let mut first = world.build(&cofferdam, 0).spawn()?;
    first.wait_for_log("begun")?;
    let second = world.build(&cofferdam, 0).spawn()?;
    std::thread::sleep(Duration::from_millis(500));
    first.crash()?;
    let outcome = second.finish()?.succeeded();
    assert!(outcome.log().contains("ended"), "{}", outcome.report());
    Ok(())
}
