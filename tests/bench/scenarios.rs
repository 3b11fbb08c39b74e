//! The scenarios: what is built, from which start, with which change before each round, and what
//! is known of BuildKit in each of them.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};

use anyhow::Result;
use cofferdam_tests::Context;

use crate::builders::Output;

/// One thing that is measured.
pub struct Scenario {
    /// What tables call it; a filter matches any part.
    pub name: &'static str,
    /// The Dockerfile; `ARG ROUND` in it gets the number of the round where `change` says so.
    pub dockerfile: fn() -> String,
    /// Fills the context.
    pub fill: fn(&Context) -> Result<()>,
    /// What is different in each round.
    pub change: Change,
    /// What the builder has when a round begins.
    pub start: Start,
    /// What becomes of the image.
    pub output: Output,
    /// Rounds at most: fewer where one takes long.
    pub rounds: usize,
    /// BuildKit v0.32.2 on such a machine, in seconds, measured earlier and not in the same run;
    /// of a range the lower end.
    pub recorded: Option<f64>,
    /// The ratio to BuildKit that is promised.
    pub target: Option<f64>,
}

/// What a builder has when a round begins.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// No images and no cache.
    Empty,
    /// A build of the same, done before.
    Built,
}

/// What is different in each round.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    Nothing,
    /// The build argument `ROUND`.
    Round,
    /// One of the 20,000 files.
    File,
}

impl Change {
    /// Makes the change of a round.
    ///
    /// # Errors
    /// The context cannot be written.
    pub fn make(self, context: &Context, scenario: &Scenario, round: usize) -> Result<()> {
        match self {
            Self::Nothing => {}
            Self::Round => {
                let dockerfile = (scenario.dockerfile)();
                let with_round = dockerfile.replace("ARG ROUND", &format!("ARG ROUND={round}"));
                context.file("Dockerfile", with_round)?;
            }
            Self::File => {
                context.file("files/7/7", format!("round {round}"))?;
                context.time("files/7/7", 1_700_000_001 + round as u64)?;
            }
        }
        Ok(())
    }
}

/// What most scenarios have in common.
const PLAIN: Scenario = Scenario {
    name: "",
    dockerfile: String::new,
    fill: nothing,
    change: Change::Nothing,
    start: Start::Built,
    output: Output::Nothing,
    rounds: usize::MAX,
    recorded: None,
    target: None,
};

/// The two whose difference is the price of a RUN.
pub const RUNS: [&str; 2] = ["1 RUN", "20 RUN"];

/// All of them.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "pull Debian and one RUN, from empty",
        dockerfile: || "ARG REGISTRY\nFROM ${REGISTRY}/debian\nRUN true\n".to_owned(),
        start: Start::Empty,
        recorded: Some(2.3),
        target: Some(0.4),
        ..PLAIN
    },
    Scenario {
        name: "pull Debian and COPY one file, from empty",
        dockerfile: || "ARG REGISTRY\nFROM ${REGISTRY}/debian\nCOPY Dockerfile /\n".to_owned(),
        start: Start::Empty,
        recorded: Some(2.3),
        target: Some(0.2),
        ..PLAIN
    },
    Scenario {
        name: "nothing changed, 10 steps",
        dockerfile: || runs(10),
        recorded: Some(0.06),
        target: Some(0.4),
        ..PLAIN
    },
    Scenario {
        name: "nothing changed, 10 steps, OCI archive",
        dockerfile: || runs(10),
        output: Output::Archive("gzip"),
        recorded: Some(0.10),
        ..PLAIN
    },
    Scenario {
        name: RUNS[0],
        dockerfile: || runs(1),
        change: Change::Round,
        recorded: Some(0.16),
        ..PLAIN
    },
    Scenario {
        name: RUNS[1],
        dockerfile: || runs(20),
        change: Change::Round,
        recorded: Some(1.65),
        ..PLAIN
    },
    Scenario {
        name: "8 independent stages of `sleep 1`",
        dockerfile: stages,
        change: Change::Round,
        recorded: Some(1.38),
        target: Some(0.8),
        ..PLAIN
    },
    Scenario {
        name: "20,000 files, first time",
        dockerfile: copy_files,
        fill: twenty_thousand,
        start: Start::Empty,
        recorded: Some(4.6),
        target: Some(0.25),
        ..PLAIN
    },
    Scenario {
        name: "20,000 files, nothing changed",
        dockerfile: copy_files,
        fill: twenty_thousand,
        recorded: Some(0.7),
        target: Some(0.2),
        ..PLAIN
    },
    Scenario {
        name: "20,000 files, one changed",
        dockerfile: copy_files,
        fill: twenty_thousand,
        change: Change::File,
        recorded: Some(1.8),
        target: Some(0.2),
        ..PLAIN
    },
    Scenario {
        name: "20,000 files, one changed, OCI archive, gzip",
        dockerfile: copy_files,
        fill: twenty_thousand,
        change: Change::File,
        output: Output::Archive("gzip"),
        recorded: Some(3.0),
        ..PLAIN
    },
    Scenario {
        name: "20,000 files between stages",
        dockerfile: copy_between,
        fill: twenty_thousand,
        change: Change::Round,
        recorded: Some(1.6),
        target: Some(0.1),
        ..PLAIN
    },
    Scenario {
        name: "20,000 files between stages, OCI archive, gzip",
        dockerfile: copy_between,
        fill: twenty_thousand,
        change: Change::Round,
        output: Output::Archive("gzip"),
        recorded: Some(3.5),
        target: Some(0.3),
        ..PLAIN
    },
    Scenario {
        name: "1 GiB file, first time",
        dockerfile: copy_big,
        fill: gibibyte,
        start: Start::Empty,
        rounds: 3,
        recorded: Some(6.3),
        target: Some(0.3),
        ..PLAIN
    },
    Scenario {
        name: "1 GiB file, first time, OCI archive, uncompressed",
        dockerfile: copy_big,
        fill: gibibyte,
        start: Start::Empty,
        output: Output::Archive("uncompressed"),
        rounds: 3,
        recorded: Some(12.1),
        ..PLAIN
    },
    Scenario {
        name: "1 GiB file, first time, OCI archive, gzip",
        dockerfile: copy_big,
        fill: gibibyte,
        start: Start::Empty,
        output: Output::Archive("gzip"),
        rounds: 3,
        recorded: Some(12.5),
        target: Some(0.35),
        ..PLAIN
    },
    Scenario {
        name: "1 GiB file, first time, OCI archive, zstd",
        dockerfile: copy_big,
        fill: gibibyte,
        start: Start::Empty,
        output: Output::Archive("zstd"),
        rounds: 3,
        recorded: Some(10.9),
        target: Some(0.3),
        ..PLAIN
    },
];

/// So many RUN of `true` in a row, each different from the others.
fn runs(count: usize) -> String {
    let mut dockerfile =
        "ARG REGISTRY\nFROM ${REGISTRY}/busybox\nARG ROUND\nRUN true 1 $ROUND\n".to_owned();
    for number in 2..=count {
        writeln!(dockerfile, "RUN true {number}").expect("a string takes everything");
    }
    dockerfile
}

fn stages() -> String {
    let mut dockerfile = "ARG REGISTRY\n".to_owned();
    let mut copies = "FROM scratch\n".to_owned();
    for number in 1..=8 {
        let stage = format!(
            "FROM ${{REGISTRY}}/busybox AS s{number}\nARG ROUND\n\
             RUN sleep 1 && echo $ROUND {number} > /out{number}\n"
        );
        dockerfile.push_str(&stage);
        writeln!(copies, "COPY --from=s{number} /out{number} /").expect("a string takes all");
    }
    dockerfile + &copies
}

fn copy_files() -> String {
    "FROM scratch\nCOPY files /files\n".to_owned()
}

fn copy_between() -> String {
    "FROM scratch AS one\nCOPY files /files\n\
     FROM scratch\nARG ROUND\nLABEL round=$ROUND\nCOPY --from=one /files /again/${ROUND}\n"
        .to_owned()
}

fn copy_big() -> String {
    "FROM scratch\nCOPY big /big\n".to_owned()
}

fn nothing(_: &Context) -> Result<()> {
    Ok(())
}

fn twenty_thousand(context: &Context) -> Result<()> {
    small_files(context, 20_000)
}

/// So many files of 1 to 4 KB in 200 directories.
///
/// # Errors
/// They cannot be written.
pub fn small_files(context: &Context, count: usize) -> Result<()> {
    let line = b"a line of a small file of no interest\n".repeat(110);
    for number in 0..count {
        let mut contents = number.to_string().into_bytes();
        contents.extend_from_slice(&line[..1024 + number % 3072]);
        context.file(&format!("files/{}/{number}", number % 200), contents)?;
    }
    Ok(())
}

/// One file of 1 GiB that does not compress.
fn gibibyte(context: &Context) -> Result<()> {
    let mut random = fs::File::open("/dev/urandom")?.take(1 << 30);
    let mut file = fs::File::create(context.path().join("big"))?;
    std::io::copy(&mut random, &mut file)?;
    Ok(file.flush()?)
}
