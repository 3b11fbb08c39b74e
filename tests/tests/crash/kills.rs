//! kill -9 at random points of mixed builds: what is there afterwards is whole, and the next
//! build gives the right image.
//!
//! `COFFERDAM_CRASH_ROUNDS` says how many rounds, `COFFERDAM_CRASH_SEED` with which seed; each
//! round prints its own. A round's seed decides what runs and how long, not what the kernel makes
//! of it, so that a failure may need some tries with the same seed.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cofferdam_tests::command::{command, run};
use cofferdam_tests::{Cofferdam, Layout, Running, bases};
use fastrand::Rng;
use tempfile::TempDir;

use crate::lab::{Lab, VARIANTS, verify_clean};
use crate::leftovers;

/// After so many rounds the store is looked at, and a new one begun.
pub const SEGMENT: u64 = 20;
/// Room for two projects or so: builds that respect it have to evict.
const LIMIT: &str = "24m";
/// Removes all that nobody uses.
const PRUNE: &[&str] = &["prune", "--all"];

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// How many rounds are asked for, or else are usual.
pub fn rounds(usual: u64) -> u64 {
    number("COFFERDAM_CRASH_ROUNDS").unwrap_or(usual)
}

/// The seed of the first round.
pub fn seed() -> u64 {
    number("COFFERDAM_CRASH_SEED").unwrap_or_else(|| fastrand::u64(..))
}

#[test]
fn killed_at_any_moment_the_store_stays_whole() -> Result<()> {
    let (rounds, seed) = (rounds(60), seed());
    eprintln!("{rounds} rounds from seed {seed}");
    let lab = Lab::new()?;
    let mut tally = Tally::default();
    for (number, first) in (0..rounds).step_by(SEGMENT as usize).enumerate() {
        let segment = first..rounds.min(first + SEGMENT);
        let seeds: Vec<u64> = segment.map(|round| seed.wrapping_add(round)).collect();
        let kind = Segment { evicts: number % 2 == 1, compiled: number % 3 != 0 };
        run_segment(&lab, kind, &seeds, &mut tally)
            .with_context(|| format!("rounds with the seeds {seeds:?}"))?;
    }
    eprintln!("{tally:?}");
    Ok(())
}

#[derive(Debug, Default)]
struct Tally {
    killed: usize,
    ended: usize,
    leftovers: Duration,
    rebuilds: Duration,
}

/// What some rounds have in common: they share a state directory.
#[derive(Clone, Copy)]
struct Segment {
    /// Whether anything is evicted or pruned; where nothing is, what was built stays built.
    evicts: bool,
    /// Whether the components are compiled already; where not, that is killed, too.
    compiled: bool,
}

fn run_segment(lab: &Lab, kind: Segment, seeds: &[u64], tally: &mut Tally) -> Result<()> {
    let cofferdam = if kind.compiled { lab.cofferdam()? } else { Cofferdam::new()? };
    let out = tempfile::tempdir()?;
    let (mut pids, mut built) = (Vec::new(), BTreeSet::new());
    for seed in seeds {
        let mut random = Rng::with_seed(*seed);
        let mut round = || -> Result<()> {
            let actors = start(lab, kind, &cofferdam, &out, &mut random)?;
            pids.extend(actors.iter().map(Actor::pid));
            // Short ones more often: the beginning of a build is where most happens at once.
            let longest = if random.bool() { 1.5 } else { 0.4 };
            std::thread::sleep(lab.typical.mul_f64(random.f64() * longest));
            for actor in actors {
                match actor.kill(lab)? {
                    End::Killed => tally.killed += 1,
                    End::Command => tally.ended += 1,
                    End::Built(project, variant) => {
                        tally.ended += 1;
                        built.insert((project, variant));
                    }
                }
            }
            Ok(())
        };
        round().with_context(|| format!("seed {seed}"))?;
    }
    let started = Instant::now();
    leftovers::wait_for_none(&pids, cofferdam.home())?;
    tally.leftovers += started.elapsed();
    let started = Instant::now();
    verify_clean(&cofferdam).context("after the kills")?;
    for (project, variant) in built.into_iter().filter(|_| !kind.evicts) {
        let outcome = lab.build(&cofferdam, project, variant).run()?;
        lab.check(&outcome, project, variant)?;
        ensure!(outcome.executed().is_empty(), "was built, and is lost:\n{}", outcome.report());
    }
    lab.rebuild_all(&cofferdam)?;
    verify_clean(&cofferdam).context("after the rebuild")?;
    tally.rebuilds += started.elapsed();
    Ok(())
}

/// Something that runs and will be killed.
enum Actor {
    Build { running: Box<Running>, project: usize, variant: u64, archive: Option<PathBuf> },
    Command(Child),
}

/// How it ended.
enum End {
    /// By us.
    Killed,
    /// A build, before that.
    Built(usize, u64),
    /// Another command, before that.
    Command,
}

fn start(
    lab: &Lab,
    kind: Segment,
    cofferdam: &Cofferdam,
    out: &TempDir,
    random: &mut Rng,
) -> Result<Vec<Actor>> {
    let mut actors = Vec::new();
    for index in 0..random.usize(1..=3) {
        actors.push(match random.u32(0..10) {
            // The first is always a build.
            0 if index > 0 && kind.evicts => start_command(cofferdam, PRUNE)?,
            1 if index > 0 => start_command(cofferdam, &["store", "verify"])?,
            2 if index > 0 => start_command(cofferdam, &["du"])?,
            _ => start_build(lab, kind, cofferdam, out, random)?,
        });
    }
    random.shuffle(&mut actors);
    Ok(actors)
}

fn start_command(cofferdam: &Cofferdam, arguments: &[&str]) -> Result<Actor> {
    let mut command = cofferdam.command();
    command.arg("--root").arg(cofferdam.root()).args(arguments);
    Ok(Actor::Command(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?))
}

fn start_build(
    lab: &Lab,
    kind: Segment,
    cofferdam: &Cofferdam,
    out: &TempDir,
    random: &mut Rng,
) -> Result<Actor> {
    let (project, variant) = (random.usize(0..lab.projects()), random.u64(0..VARIANTS));
    let mut build = lab.start(cofferdam, project, variant);
    if kind.evicts && random.u32(0..3) == 0 {
        build = build.arg("--no-cache");
    }
    if kind.evicts && random.u32(0..3) == 0 {
        build = build.option("--max-storage", LIMIT);
    }
    let path = out.path().join(format!("out-{}", random.u64(..)));
    let mut archive = None;
    let output = match random.u32(0..5) {
        0 => format!("type=local,dest={}", path.display()),
        1 => format!("type=tar,dest={}", path.display()),
        2 => {
            archive = Some(path.clone());
            format!("type=oci,dest={}", path.display())
        }
        3 => format!("type=registry,name={}", lab.registry.reference("made:latest")),
        _ => format!("type=image,name=made-{}", random.u32(0..3)),
    };
    let running = build.option("--output", output).spawn()?;
    Ok(Actor::Build { running: Box::new(running), project, variant, archive })
}

impl Actor {
    fn pid(&self) -> u32 {
        match self {
            Self::Build { running, .. } => running.pid(),
            Self::Command(child) => child.id(),
        }
    }

    /// Kills it. One that ended before must have done so well.
    fn kill(self, lab: &Lab) -> Result<End> {
        match self {
            Self::Build { mut running, project, variant, archive } => {
                running.crash()?;
                let outcome = running.finish()?;
                // What has its name is complete.
                if let Some(archive) = archive.filter(|archive| archive.exists()) {
                    let digest = archived(&archive)?;
                    ensure!(digest == lab.expected(project, variant)?, "archive of {digest}");
                }
                if outcome.code.is_none() {
                    return Ok(End::Killed);
                }
                lab.check(&outcome, project, variant)?;
                Ok(End::Built(project, variant))
            }
            Self::Command(mut child) => {
                child.kill()?;
                let code = child.wait()?.code();
                ensure!(matches!(code, None | Some(0)), "a command ended with {code:?}");
                Ok(if code.is_none() { End::Killed } else { End::Command })
            }
        }
    }
}

/// The digest of the image in an OCI archive, every blob of which is checked.
fn archived(archive: &std::path::Path) -> Result<String> {
    let directory = tempfile::tempdir()?;
    run(command("tar", ["-xf"]).arg(archive).arg("-C").arg(directory.path()))?;
    let layout = Layout::open(directory.path())?;
    let image = layout.image(&bases::oci_architecture()?)?;
    layout.layers(&image)?;
    Ok(image.digest)
}
