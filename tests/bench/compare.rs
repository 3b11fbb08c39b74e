//! Runs the scenarios, ours and every other builder's in turn, and prints one table.

use anyhow::Result;
use cofferdam_tests::{Context, Registry};

use crate::Options;
use crate::builders::Builder;
use crate::machine::settle;
use crate::measure::Costs;
use crate::scenarios::{RUNS, SCENARIOS, Scenario, Start};

/// Measures the scenarios that are asked for.
///
/// # Errors
/// A build fails.
pub fn run(registry: &Registry, options: &Options) -> Result<()> {
    let peers: Vec<&str> = Builder::peers()?.iter().map(Builder::name).collect();
    println!(
        "Seconds are the least of {} rounds at most, with the median in brackets. Memory is the \
         peak of resident pages of the whole tree of processes, shared ones counted once.\n",
        options.rounds
    );
    let mut header = vec!["scenario".to_owned(), "cofferdam, s".into(), "processor, s".into()];
    header.push("memory, MiB".into());
    for peer in &peers {
        header.extend([format!("{peer}, s"), "MiB".into(), "ratio".into()]);
    }
    header.extend(["BuildKit as recorded, s".into(), "ratio".into(), "target".into()]);
    row(&header);
    row(&vec!["---".to_owned(); header.len()]);
    let mut of_runs = Vec::new();
    for scenario in SCENARIOS.iter().filter(|scenario| options.wants(scenario.name)) {
        let measured = measure(scenario, registry, options)?;
        let ours = &measured[0];
        let mut cells = vec![
            scenario.name.to_owned(),
            format!("{:.3} ({:.3})", ours.least(), ours.median()),
            format!("{:.3}", ours.processor()),
            format!("{:.0}", ours.mebibytes()),
        ];
        for theirs in &measured[1..] {
            cells.push(format!("{:.3} ({:.3})", theirs.least(), theirs.median()));
            cells.push(format!("{:.0}", theirs.mebibytes()));
            cells.push(format!("{:.2}", ours.least() / theirs.least()));
        }
        cells.extend(beside_recorded(ours.least(), scenario.recorded, scenario.target));
        row(&cells);
        if RUNS.contains(&scenario.name) {
            of_runs.push(measured);
        }
    }
    if let [one, twenty] = of_runs.as_slice() {
        let further: Vec<f64> = one
            .iter()
            .zip(twenty)
            .map(|(one, twenty)| further(one.least(), twenty.least()))
            .collect();
        let mut cells = vec!["each further RUN, by the difference".to_owned()];
        cells.extend([format!("{:.4}", further[0]), String::new(), String::new()]);
        for theirs in &further[1..] {
            cells.extend([format!("{theirs:.4}"), String::new()]);
            cells.push(format!("{:.2}", further[0] / theirs));
        }
        let recorded = SCENARIOS.iter().filter(|scenario| RUNS.contains(&scenario.name));
        let recorded: Vec<f64> = recorded.filter_map(|scenario| scenario.recorded).collect();
        let recorded = further_recorded(&recorded);
        cells.extend(beside_recorded(further[0], recorded, Some(0.15)));
        row(&cells);
    }
    Ok(())
}

fn row(cells: &[String]) {
    println!("| {} |", cells.join(" | "));
}

fn further(one: f64, twenty: f64) -> f64 {
    (twenty - one) / 19.0
}

fn further_recorded(recorded: &[f64]) -> Option<f64> {
    match recorded {
        [one, twenty] => Some(further(*one, *twenty)),
        _ => None,
    }
}

fn beside_recorded(ours: f64, recorded: Option<f64>, target: Option<f64>) -> [String; 3] {
    let text =
        |value: Option<f64>, digits| value.map_or(String::new(), |v| format!("{v:.digits$}"));
    [text(recorded, 2), text(recorded.map(|theirs| ours / theirs), 3), text(target, 2)]
}

/// What a scenario took: ours first, then the others in order.
fn measure(scenario: &Scenario, registry: &Registry, options: &Options) -> Result<Vec<Costs>> {
    let context = Context::new(&(scenario.dockerfile)())?;
    (scenario.fill)(&context)?;
    let mut builders = vec![Builder::cofferdam()?];
    builders.extend(Builder::peers()?);
    if scenario.start == Start::Built {
        for builder in &builders {
            builder.build(registry, context.path(), scenario.output)?;
        }
    }
    let mut costs = vec![Vec::new(); builders.len()];
    for round in 1..=options.rounds.min(scenario.rounds) {
        scenario.change.make(&context, scenario, round)?;
        for (builder, costs) in builders.iter_mut().zip(&mut costs) {
            if scenario.start == Start::Empty {
                builder.reset()?;
            }
            settle(context.path())?;
            costs.push(builder.build(registry, context.path(), scenario.output)?);
        }
    }
    Ok(costs.into_iter().map(Costs::new).collect())
}
