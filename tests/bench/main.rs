//! Measures what `docs/performance.md` tells, with the built `cofferdam`.
//!
//! - `bench [FILTER...]`: the scenarios, and beside each, in alternating rounds, every other
//!   builder that this machine has (`buildctl` with a daemon that answers; `buildah`).
//! - `bench growth [FILTER...]`: how time and memory grow with vertices, files and layers; draws
//!   `docs/plots/*.svg`.
//!
//! - `bench language`: how long the Dockerfile frontend takes for 2,000 lines, in the component and
//!   native.
//! - `bench steps`: what a RUN costs beside its process, and with `runc run` in the sandbox's place.
//!
//! `--rounds N` says how often (5), `--up-to N` how far growth is followed. It prints tables and
//! never fails for being slow.

mod builders;
mod compare;
mod growth;
mod language;
mod limits;
mod machine;
mod measure;
#[path = "../../frontends-wasm/dockerfile/tests/support/paper_host.rs"]
mod paper_host;
mod plot;
mod scenarios;
mod steps;

use anyhow::{Context as _, Result, bail};
use cofferdam_tests::{Registry, bases};

/// What the command line asks for.
pub struct Options {
    /// Names of what is measured contain one of these; empty is everything.
    filters: Vec<String>,
    /// Rounds.
    pub rounds: usize,
    /// The largest size that is measured.
    pub up_to: usize,
}

impl Options {
    /// Whether the filters let a name pass.
    pub fn wants(&self, name: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| name.contains(filter.as_str()))
    }
}

fn main() -> Result<()> {
    let mut options = Options { filters: Vec::new(), rounds: 5, up_to: usize::MAX };
    let mut arguments = std::env::args().skip(1).peekable();
    let what = arguments.next_if(|first| ["growth", "language", "steps"].contains(&first.as_str()));
    while let Some(argument) = arguments.next() {
        let mut number = || -> Result<usize> {
            let text = arguments.next().with_context(|| format!("{argument} wants a number"))?;
            text.parse().with_context(|| format!("{argument}: `{text}` is no number"))
        };
        match argument.as_str() {
            "--rounds" => options.rounds = number()?.max(1),
            "--up-to" => options.up_to = number()?,
            option if option.starts_with('-') => bail!("unknown option `{option}`"),
            _ => options.filters.push(argument),
        }
    }
    if what.as_deref() == Some("language") {
        return language::run(&options);
    }
    let registry = Registry::start()?;
    registry.push(&bases::busybox()?, "busybox:latest")?;
    if what.as_deref() == Some("steps") {
        return steps::run(&registry, &options);
    }
    registry.push(&bases::debian()?, "debian:latest")?;
    match what {
        Some(_) => growth::run(&registry, &options),
        None => compare::run(&registry, &options),
    }
}
