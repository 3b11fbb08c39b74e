//! What a RUN costs beside its process: the difference between builds with many steps and with one,
//! on a base of 20 layers; by cofferdam's own sandbox, the same beside many dirty pages that are
//! nobody's business, and with `runc run` in the sandbox's place. And how steps that compute scale
//! to the cores.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use cofferdam_tests::{Cofferdam, Context, Registry};

use crate::{Options, measure};

/// Layers of the base: the image's own, and what COPY adds to it.
const LAYERS: usize = 20;
/// Steps whose cost is measured.
const STEPS: usize = 20;
/// What is dirty, in bytes: less than what makes the kernel write at once.
const DIRTY: usize = 1 << 30;
/// Steps that compute at once.
const AT_ONCE: usize = 8;
/// What they do: half a second on one core, about.
const COMPUTE: &str = "i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done";

/// In which surroundings steps are measured.
struct Way {
    name: &'static str,
    /// What `--oci-runtime` names.
    runtime: Option<&'static str>,
    /// Whether there are dirty pages of others.
    dirty: bool,
}

/// A context with `steps` RUN instructions that nothing else has in common with.
fn context(registry: &Registry, steps: usize, salt: &str) -> Result<Context> {
    let copies: String = (1..LAYERS).map(|at| format!("COPY file /layer-{at}\n")).collect();
    let runs: String = (0..steps).map(|at| format!("RUN : {salt}-{at}\n")).collect();
    let context = Context::new(&format!(
        "FROM {}/busybox AS base\n{copies}FROM base\n{runs}",
        registry.address()
    ))?;
    context.file("file", "x")?;
    Ok(context)
}

/// As many stages as run at once, and one that needs them all; or the same steps in one stage.
fn computing(registry: &Registry, at_once: bool, salt: &str) -> Result<Context> {
    let from = format!("FROM {}/busybox", registry.address());
    let step = |at: usize| format!("RUN {COMPUTE}; : {salt}-{at}\n");
    let text: String = match at_once {
        false => format!("{from}\n{}", (0..AT_ONCE).map(step).collect::<String>()),
        true => {
            let stages = (0..AT_ONCE).map(|at| format!("{from} AS s{at}\n{}", step(at)));
            let copies = (0..AT_ONCE).map(|at| format!("COPY --from=s{at} /etc/passwd /{at}\n"));
            format!("{}{from}\n{}", stages.collect::<String>(), copies.collect::<String>())
        }
    };
    Context::new(&text)
}

/// Seconds of a build.
fn build(cofferdam: &Cofferdam, context: &Context, runtime: Option<&str>) -> Result<f64> {
    let mut command = cofferdam.command();
    command.args(["build", "--progress", "plain", "--root"]);
    command.arg(cofferdam.root()).arg(context.path());
    if let Some(runtime) = runtime {
        command.args(["--oci-runtime", runtime]);
    }
    Ok(measure::run(&mut command, &[])?.seconds)
}

/// Leaves pages behind that are to be written some time.
fn soil(directory: &Path) -> Result<()> {
    Ok(fs::write(directory.join("dirty"), vec![1; DIRTY])?)
}

fn least_and_median(mut times: Vec<f64>) -> (f64, f64) {
    times.sort_by(f64::total_cmp);
    (times[0], times[times.len() / 2])
}

/// Measures.
///
/// # Errors
/// A build fails.
pub fn run(registry: &Registry, options: &Options) -> Result<()> {
    let cofferdam = Cofferdam::new()?;
    let place = tempfile::tempdir()?;
    let own = Way { name: "cofferdam's sandbox", runtime: None, dirty: false };
    let beside = Way { name: "the same, beside 1 GiB of dirty pages", dirty: true, ..own };
    let mut ways = vec![own, beside];
    if Command::new("runc").arg("--version").output().is_ok() {
        ways.push(Way { name: "`runc run`", runtime: Some("runc"), dirty: false });
    }
    let mut times = vec![Vec::new(); ways.len()];
    // The base, the components and the first network are there before.
    for round in 0..=options.rounds {
        for (number, way) in ways.iter().enumerate() {
            let mut took = [0.0; 2];
            for (which, steps) in [1, 1 + STEPS].into_iter().enumerate() {
                let context = context(registry, steps, &format!("{round}-{number}-{which}"))?;
                if way.dirty {
                    soil(place.path())?;
                }
                took[which] = build(&cofferdam, &context, way.runtime)?;
            }
            if round > 0 {
                times[number].push((took[1] - took[0]) / STEPS as f64 * 1e3);
            }
        }
    }
    println!("| each RUN of nothing on {LAYERS} layers, {} rounds | least, ms | median, ms |", {
        options.rounds
    });
    println!("| --- | --- | --- |");
    for (way, times) in ways.iter().zip(times) {
        let (least, median) = least_and_median(times);
        println!("| {} | {least:.1} | {median:.1} |", way.name);
    }

    let mut times = [Vec::new(), Vec::new()];
    for round in 0..options.rounds {
        for (times, at_once) in times.iter_mut().zip([false, true]) {
            let context = computing(registry, at_once, &format!("{round}-{at_once}"))?;
            times.push(build(&cofferdam, &context, None)?);
        }
    }
    let [(one_by_one, _), (at_once, _)] = times.map(least_and_median);
    let cores = std::thread::available_parallelism()?;
    println!("\n| {AT_ONCE} RUNs that compute, {cores} cores | least, s |");
    println!("| --- | --- |");
    println!("| one after the other | {one_by_one:.2} |");
    println!("| at once | {at_once:.2} ({:.2} of it) |", at_once / one_by_one);
    Ok(())
}
