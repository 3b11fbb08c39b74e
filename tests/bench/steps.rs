//! What a RUN costs beside its process: the difference between builds with many steps and with one,
//! on a base of 20 layers; by cofferdam's own sandbox, and with `runc run` in its place.

use std::process::Command;

use anyhow::Result;
use cofferdam_tests::{Cofferdam, Context, Registry};

use crate::{Options, measure};

/// Layers of the base: the image's own, and what COPY adds to it.
const LAYERS: usize = 20;
/// Steps whose cost is measured.
const STEPS: usize = 20;

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

/// Measures.
///
/// # Errors
/// A build fails.
pub fn run(registry: &Registry, options: &Options) -> Result<()> {
    let cofferdam = Cofferdam::new()?;
    let mut ways = vec![("cofferdam's sandbox", None)];
    if Command::new("runc").arg("--version").output().is_ok() {
        ways.push(("runc run", Some("runc")));
    }
    let mut least = vec![[f64::INFINITY; 2]; ways.len()];
    // The base, the components and the first network are there before.
    for round in 0..=options.rounds {
        for (way, (_, runtime)) in ways.iter().enumerate() {
            for (which, steps) in [1, 1 + STEPS].into_iter().enumerate() {
                let context = context(registry, steps, &format!("{round}-{way}-{which}"))?;
                let mut command = cofferdam.command();
                command.args(["build", "--progress", "plain", "--root"]);
                command.arg(cofferdam.root()).arg(context.path());
                if let Some(runtime) = runtime {
                    command.args(["--oci-runtime", runtime]);
                }
                let seconds = measure::run(&mut command, &[])?.seconds;
                if round > 0 {
                    least[way][which] = least[way][which].min(seconds);
                }
            }
        }
    }
    println!("| each RUN of nothing on {LAYERS} layers, least of {} rounds | ms |", options.rounds);
    println!("| --- | --- |");
    for ((name, _), [one, many]) in ways.iter().zip(&least) {
        println!("| {name} | {:.1} |", (many - one) / STEPS as f64 * 1e3);
    }
    Ok(())
}
