//! kill -9 at random moments while steps run: nothing is left of them after the next start, on the
//! machine or in the state directory, and what is built then is right.
//!
//! The test has a network namespace of its own, in which every interface, route and rule is its
//! engines'. Rounds and seed are those of `kills`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use cofferdam_tests::cofferdam::exit;
use cofferdam_tests::network::{start_loopback, tables};
use cofferdam_tests::{Build, Cofferdam, Context, Registry, bases, binfmt_handlers};
use fastrand::Rng;

use crate::kills::{SEGMENT, rounds, seed};
use crate::lab::{EPOCH, lend_compiled, verify_clean};
use crate::leftovers::{self, PATIENCE};
use crate::namespace::entered_offline;

/// What steps can have around them, at the same time: networks, a cache, memory file systems,
/// limits (by the flags of the build), an emulator, and processes that want to outlive them.
const DOCKERFILE: &str = "\
ARG REGISTRY
FROM ${REGISTRY}/busybox AS base
FROM base AS files
RUN --mount=type=cache,target=/cache echo up; mkdir -p /made /cache/deep/er; \
    for i in $(seq 20); do echo $i > /made/$i; echo $i > /cache/deep/er/$i; \
    ln -f /cache/deep/er/$i /cache/$i; sleep 0.02; done
RUN --mount=type=cache,target=/cache rm /made/7 && mv /made /moved && cat /cache/8 > /moved/eight
FROM base AS network
RUN echo up; ip addr show eth0 | grep -q 'inet ' && (nc -l -p 80 & sleep 0.3; kill $!); echo a > /a
RUN --network=none --mount=type=tmpfs,target=/t echo up; cp /bin/busybox /t/x; sleep 0.1; cat /a > /b
FROM base AS daemons
RUN echo up; for i in 1 2 3; do setsid sleep 1000 & done; (trap '' TERM HUP; sleep 1000) & \
    sleep 0.4; echo c > /c
FROM --platform=linux/arm64 ${REGISTRY}/busybox AS foreign
RUN echo up; /bin/sh -c '/bin/uname -m | /bin/cat' > /machine; sleep 0.2
FROM scratch
COPY --from=files /moved /moved
COPY --from=network /b /b
COPY --from=daemons /c /c
COPY --from=foreign /machine /machine
";

struct Site {
    registry: Registry,
    context: Context,
    /// What every build should give.
    digest: Option<String>,
    /// How long the steps take.
    typical: Duration,
    compiled: Cofferdam,
}

impl Site {
    fn new() -> Result<Self> {
        let registry = Registry::start()?;
        registry.push(&bases::busybox_everywhere()?, "busybox:latest")?;
        let (context, compiled) = (Context::new(DOCKERFILE)?, Cofferdam::new()?);
        let (digest, typical) = (None, Duration::ZERO);
        let mut site = Self { registry, context, digest, typical, compiled };
        site.digest = site.build(&site.compiled).run()?.succeeded().digest();
        ensure!(site.digest.is_some(), "a build reported no digest");
        let started = Instant::now();
        site.check(site.build(&site.compiled).arg("--no-cache"))?;
        site.typical = started.elapsed();
        Ok(site)
    }

    fn build(&self, cofferdam: &Cofferdam) -> Build {
        cofferdam
            .build(self.context.path())
            .varies("made many times over, and compared each time")
            .env("SOURCE_DATE_EPOCH", EPOCH)
            .build_arg("REGISTRY", self.registry.address())
            .option("--memory", "512m")
            .option("--cpu-shares", "512")
            .option("--ulimit", "nofile=2000")
            .option("--output", "type=image")
    }

    /// Runs a build, which has to give what it should, and gives its process.
    fn check(&self, build: Build) -> Result<u32> {
        let running = build.spawn()?;
        let process = running.pid();
        let outcome = running.finish()?;
        let right = outcome.code == Some(exit::OK) && outcome.digest() == self.digest;
        ensure!(right, "{:?}, {:?}:\n{}", outcome.code, outcome.digest(), outcome.report());
        Ok(process)
    }
}

#[test]
fn killed_in_a_step_nothing_is_left() -> Result<()> {
    if !entered_offline("steps::killed_in_a_step_nothing_is_left")? {
        return Ok(());
    }
    start_loopback()?;
    let (rounds, seed) = (rounds(5), seed());
    eprintln!("{rounds} rounds from seed {seed}");
    let (site, mut tally) = (Site::new()?, Tally::default());
    let before = wait_for(|found| found.iter().all(|trace| !trace.starts_with(LINK)))?;
    for first in (0..rounds).step_by(SEGMENT as usize) {
        let cofferdam = Cofferdam::new()?;
        lend_compiled(&site.compiled, &cofferdam.root())?;
        for round in first..rounds.min(first + SEGMENT) {
            let seed = seed.wrapping_add(round);
            run_round(&site, &cofferdam, &before, &mut Rng::with_seed(seed), &mut tally)
                .with_context(|| format!("seed {seed}"))?;
        }
        verify_clean(&cofferdam)?;
    }
    eprintln!("{tally:?}");
    let rare = tally.in_steps * 3 < rounds || tally.connected * 3 < rounds;
    ensure!(!rare, "too few were killed while a step ran: {tally:?}");
    Ok(())
}

#[derive(Debug, Default)]
struct Tally {
    rounds: u64,
    /// Rounds in which an engine was killed while a step of its ran.
    in_steps: u64,
    /// Engines that had ended before.
    ended: u64,
    /// Rounds in which there were interfaces of steps.
    connected: u64,
}

fn run_round(
    site: &Site,
    cofferdam: &Cofferdam,
    before: &BTreeSet<String>,
    random: &mut Rng,
    tally: &mut Tally,
) -> Result<()> {
    let start = |_| site.build(cofferdam).arg("--no-cache").spawn();
    let mut running = (0..random.usize(1..=2)).map(start).collect::<Result<Vec<_>>>()?;
    // Every other time, however busy the machine is, a step runs: it takes longer than this.
    if tally.rounds.is_multiple_of(2) {
        running[0].wait_for_log("up")?;
        thread::sleep(Duration::from_millis(random.u64(0..250)));
    } else {
        thread::sleep(site.typical.mul_f64(random.f64() * 0.8));
    }
    tally.rounds += 1;
    tally.connected += u64::from(links()?.iter().any(|link| link.starts_with(LINK)));
    let mut engines: Vec<u32> = running.iter().map(|engine| engine.pid()).collect();
    let mut in_step = false;
    for mut engine in running {
        engine.crash()?;
        let outcome = engine.finish()?;
        if outcome.code.is_some() {
            tally.ended += 1;
            continue;
        }
        in_step |= outcome.steps().into_iter().any(|step| {
            step.name.contains("] RUN") && step.started.is_some() && step.completed.is_none()
        });
    }
    tally.in_steps += u64::from(in_step);
    // The next start, which finds some steps done; sometimes it makes them again.
    let build = site.build(cofferdam);
    engines.push(site.check(if random.u32(0..3) == 0 {
        build.arg("--no-cache")
    } else {
        build
    })?);
    leftovers::wait_for_none(&engines, cofferdam.home())?;
    let found = wait_for(|found| found == before)?;
    ensure!(&found == before, "left on the machine: {:#?}", found.difference(before));
    nothing_uncommitted(cofferdam)
}

/// What there is on the machine, of all that an engine makes there for steps, once it is as it
/// should be, or patience has ended.
fn wait_for(right: impl Fn(&BTreeSet<String>) -> bool) -> Result<BTreeSet<String>> {
    let started = Instant::now();
    loop {
        let found = traces()?;
        if right(&found) || started.elapsed() > PATIENCE {
            return Ok(found);
        }
        // The kernel removes namespaces in the background.
        thread::sleep(Duration::from_millis(10));
    }
}

/// How interfaces of steps are called, in what [`links`] gives.
const LINK: &str = "link cofferdam";

fn links() -> Result<Vec<String>> {
    let table = fs::read_to_string("/proc/self/net/dev")?;
    let names = table.lines().filter_map(|line| Some(line.split_once(':')?.0));
    Ok(names.map(|name| format!("link {}", name.trim())).collect())
}

fn traces() -> Result<BTreeSet<String>> {
    let lines = |kind: &str, path: &str| -> Result<Vec<String>> {
        let text = fs::read_to_string(path).with_context(|| path.to_owned())?;
        Ok(text.lines().map(|line| format!("{kind} {line}")).collect())
    };
    let mut found: BTreeSet<String> = BTreeSet::new();
    found.extend(lines("mount", "/proc/self/mountinfo")?);
    found.extend(lines("route", "/proc/self/net/route")?);
    found.extend(links()?);
    found.insert(format!("rules {}", tables()?.matches("cofferdam").count()));
    found.extend(binfmt_handlers()?.into_iter().map(|handler| format!("handler {handler}")));
    Ok(found)
}

/// Nothing is left of what was not committed. Another start removes what the one before had no
/// time for.
fn nothing_uncommitted(cofferdam: &Cofferdam) -> Result<()> {
    let started = Instant::now();
    loop {
        cofferdam.settle()?;
        let left = uncommitted(&cofferdam.root().join("tmp"))?;
        if left.is_empty() {
            return Ok(());
        }
        if started.elapsed() > PATIENCE {
            bail!("left in the state directory: {left:#?}");
        }
        verify_clean(cofferdam)?;
    }
}

fn uncommitted(tmp: &Path) -> Result<Vec<String>> {
    let mut left = Vec::new();
    for session in fs::read_dir(tmp)? {
        let session = session?.path();
        if !session.is_dir() {
            continue;
        }
        let entries = fs::read_dir(&session)?.flatten().map(|entry| entry.path());
        let entries = entries.filter(|path| !path.ends_with("lock"));
        left.extend(entries.map(|path| path.display().to_string()));
    }
    Ok(left)
}
