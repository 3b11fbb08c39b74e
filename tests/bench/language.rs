//! How long the Dockerfile frontend takes for a long file: in the component, by the difference
//! between two runs of the program, and beside it the same library in this process. Both check
//! the file (`frontend.lint`), which parses it, lowers every stage and makes no ops.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use cofferdam_dockerfile::DockerfileFrontend;
use cofferdam_sdk::{Frontend as _, Platform, Request};
use cofferdam_tests::{Cofferdam, Context};

use crate::Options;
use crate::measure;
use crate::paper_host::PaperHost;

const STAGES: usize = 200;
const LINES_OF_A_STAGE: usize = 10;

/// 2,000 lines in 200 stages, in which no check finds anything.
fn dockerfile() -> String {
    let stage = |at: usize| {
        let before = at.saturating_sub(1);
        let copy = match at {
            0 => "COPY src/ /src/\n".to_owned(),
            _ => format!("COPY --from=stage{before} /out/{before} /in/\n"),
        };
        let lines = [
            format!("FROM scratch AS stage{at}\n"),
            format!("ARG VERSION=1.{at}\n"),
            format!("ENV PREFIX=/opt/{at} NAME=\"stage ${{VERSION:-none}}\"\n"),
            "WORKDIR /work\n".to_owned(),
            copy,
            "RUN --mount=type=cache,target=/cache,sharing=locked \\\n".to_owned(),
            "    make -C /src PREFIX=\"$PREFIX\" && \\\n".to_owned(),
            format!("    install -D out /out/{at}\n"),
            format!("LABEL org.example.stage=${{NAME#stage?}} org.example.number={at}\n"),
            "CMD [\"/out\", \"--serve\"]\n".to_owned(),
        ];
        assert_eq!(lines.len(), LINES_OF_A_STAGE);
        lines.concat()
    };
    (0..STAGES).map(stage).collect()
}

/// Measures.
///
/// # Errors
/// The program fails, or finds something.
pub fn run(options: &Options) -> Result<()> {
    let text = dockerfile();
    ensure!(text.lines().count() == STAGES * LINES_OF_A_STAGE);
    let (long, short) = (Context::new(&text)?, Context::new("FROM scratch AS stage0\n")?);
    let cofferdam = Cofferdam::new()?;
    let check = |context: &Context| {
        let mut command = cofferdam.command();
        command.args(["build", "--check", "--progress", "quiet"]).arg(context.path());
        measure::run(&mut command, &[])
    };
    // The first run compiles the component.
    let _ = check(&short)?;
    let rounds = options.rounds.max(10);
    let least = |values: &mut dyn Iterator<Item = Result<f64>>| -> Result<f64> {
        let found = values.collect::<Result<Vec<f64>>>()?;
        found.into_iter().min_by(f64::total_cmp).context("there is a round")
    };
    let long = least(&mut (0..rounds).map(|_| Ok(check(&long)?.processor)))?;
    let short = least(&mut (0..rounds).map(|_| Ok(check(&short)?.processor)))?;
    let native = least(&mut (0..rounds).map(|_| native(&text)))?;
    let component = long - short;
    println!(
        "| {} lines, {STAGES} stages: parsed, lowered, checked | seconds |\n| --- | --- |\n\
         | in the component (processor time of the program, less that for an empty file) | {component:.4} |\n\
         | the same library, native | {native:.4} |\n| ratio | {:.1} |",
        STAGES * LINES_OF_A_STAGE,
        component / native
    );
    Ok(())
}

/// Seconds for the same in this process.
fn native(text: &str) -> Result<f64> {
    let mut host = PaperHost::default();
    host.files.push(("dockerfile/Dockerfile".into(), text.to_owned()));
    let request = Request {
        options: Vec::new(),
        platforms: vec![Platform::new("linux", "amd64")],
        build_platform: Platform::new("linux", "amd64"),
        subrequest: "frontend.lint".into(),
    };
    let start = Instant::now();
    let result = DockerfileFrontend::build(&host, &request)?;
    let seconds = start.elapsed().as_secs_f64();
    let code = result.metadata.iter().find(|(key, _)| key == "result.statuscode");
    let found = host.warnings.borrow().len();
    ensure!(found == 0 && code.is_some_and(|(_, code)| code == b"0"), "the file is not clean");
    Ok(seconds)
}
