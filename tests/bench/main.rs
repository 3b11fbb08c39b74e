//! Measures the scenarios of `docs/performance.md` with the built `cofferdam`, and beside them
//! `buildctl` or `buildah` where one is on PATH: `cargo run --release -p cofferdam-tests --bin
//! bench [SCENARIO...]`. Prints medians; it never fails for being slow.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Result, bail};
use cofferdam_tests::{Cofferdam, Context, Registry, bases};

/// How often each scenario is measured.
const ROUNDS: usize = 5;

fn main() -> Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let bench = Bench { registry: Registry::start()?, rival: rival() };
    bench.registry.push(&bases::busybox()?, "busybox:latest")?;
    let rival = bench.rival.map_or("no other builder", Rival::name);
    println!(
        "{:<44} {:>10} {:>10} {:>8}",
        "scenario (median seconds)", "cofferdam", rival, "ratio"
    );
    for scenario in SCENARIOS {
        if wanted.is_empty() || wanted.iter().any(|name| scenario.name.contains(name.as_str())) {
            bench.run(scenario)?;
        }
    }
    Ok(())
}

struct Scenario {
    name: &'static str,
    dockerfile: &'static str,
    /// Fills the context.
    fill: fn(&Context) -> Result<()>,
    /// Done before each measured build; the number is different each time.
    change: fn(&Context, usize) -> Result<()>,
    /// Whether a build is done before the first measured one.
    warm: bool,
    /// Whether every measured build starts from an empty state directory.
    fresh: bool,
    /// Whether an OCI archive is written.
    export: bool,
}

const TWENTY_RUN: &str = "ARG REGISTRY\nFROM ${REGISTRY}/busybox\nARG ROUND\n\
    RUN true 1 $ROUND\nRUN true 2\nRUN true 3\nRUN true 4\nRUN true 5\nRUN true 6\nRUN true 7\n\
    RUN true 8\nRUN true 9\nRUN true 10\nRUN true 11\nRUN true 12\nRUN true 13\nRUN true 14\n\
    RUN true 15\nRUN true 16\nRUN true 17\nRUN true 18\nRUN true 19\nRUN true 20\n";
const COPY_FILES: &str = "FROM scratch\nCOPY files /files\n";
const COPY_BETWEEN: &str = "FROM scratch AS one\nCOPY files /files\n\
    FROM scratch\nARG ROUND\nLABEL round=$ROUND\nCOPY --from=one /files /again/${ROUND}\n";
const COPY_BIG: &str = "FROM scratch\nCOPY big /big\n";

const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "nothing changed, 20 RUN",
        dockerfile: TWENTY_RUN,
        fill: nothing,
        change: |_, _| Ok(()),
        warm: true,
        fresh: false,
        export: false,
    },
    Scenario {
        name: "20 RUN of true",
        dockerfile: TWENTY_RUN,
        fill: nothing,
        change: |context, round| replace_round(context, TWENTY_RUN, round),
        warm: true,
        fresh: false,
        export: false,
    },
    Scenario {
        name: "20000 small files, first time",
        dockerfile: COPY_FILES,
        fill: small_files,
        change: |_, _| Ok(()),
        warm: false,
        fresh: true,
        export: false,
    },
    Scenario {
        name: "20000 small files, nothing changed",
        dockerfile: COPY_FILES,
        fill: small_files,
        change: |_, _| Ok(()),
        warm: true,
        fresh: false,
        export: false,
    },
    Scenario {
        name: "20000 small files, one changed",
        dockerfile: COPY_FILES,
        fill: small_files,
        change: change_one,
        warm: true,
        fresh: false,
        export: false,
    },
    Scenario {
        name: "20000 small files, one changed, OCI archive",
        dockerfile: COPY_FILES,
        fill: small_files,
        change: change_one,
        warm: true,
        fresh: false,
        export: true,
    },
    Scenario {
        name: "20000 small files between stages",
        dockerfile: COPY_BETWEEN,
        fill: small_files,
        change: |context, round| replace_round(context, COPY_BETWEEN, round),
        warm: true,
        fresh: false,
        export: false,
    },
    Scenario {
        name: "20000 small files between stages, OCI archive",
        dockerfile: COPY_BETWEEN,
        fill: small_files,
        change: |context, round| replace_round(context, COPY_BETWEEN, round),
        warm: true,
        fresh: false,
        export: true,
    },
    Scenario {
        name: "one 1 GiB file, first time",
        dockerfile: COPY_BIG,
        fill: big_file,
        change: |_, _| Ok(()),
        warm: false,
        fresh: true,
        export: false,
    },
    Scenario {
        name: "one 1 GiB file, first time, OCI archive",
        dockerfile: COPY_BIG,
        fill: big_file,
        change: |_, _| Ok(()),
        warm: false,
        fresh: true,
        export: true,
    },
];

fn nothing(_: &Context) -> Result<()> {
    Ok(())
}

/// 20,000 files of 1 to 4 KB in 200 directories.
fn small_files(context: &Context) -> Result<()> {
    let line = b"a line of a small file of no interest\n".repeat(110);
    for number in 0..20_000_usize {
        let mut contents = number.to_string().into_bytes();
        contents.extend_from_slice(&line[..1024 + number % 3072]);
        context.file(&format!("files/{}/{number}", number % 200), contents)?;
    }
    Ok(())
}

fn change_one(context: &Context, round: usize) -> Result<()> {
    context.file("files/7/7", format!("round {round}"))?;
    context.time("files/7/7", 1_700_000_001 + round as u64)?;
    Ok(())
}

fn big_file(context: &Context) -> Result<()> {
    let mut random = fs::File::open("/dev/urandom")?.take(1 << 30);
    let mut file = fs::File::create(context.path().join("big"))?;
    std::io::copy(&mut random, &mut file)?;
    Ok(file.flush()?)
}

/// Writes the round into the Dockerfile, which changes the step that uses it.
fn replace_round(context: &Context, dockerfile: &str, round: usize) -> Result<()> {
    let with_round = dockerfile.replace("ARG ROUND", &format!("ARG ROUND={round}"));
    context.file("Dockerfile", with_round)?;
    Ok(())
}

#[derive(Clone, Copy)]
enum Rival {
    Buildctl,
    Buildah,
}

impl Rival {
    fn name(self) -> &'static str {
        match self {
            Self::Buildctl => "buildctl",
            Self::Buildah => "buildah",
        }
    }
}

/// The other builder to measure beside: BuildKit where its daemon answers, else buildah.
fn rival() -> Option<Rival> {
    let answers = |program: &str, argument: &str| {
        let mut command = Command::new(program);
        command.args(argument.split(' ')).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if answers("buildctl", "debug workers") {
        return Some(Rival::Buildctl);
    }
    answers("buildah", "version").then_some(Rival::Buildah)
}

/// Compiles the built-in components for a new state directory, as the first build on a machine
/// does: what is measured is a first build, not the first use of the program.
fn warm_up(cofferdam: &Cofferdam) -> Result<()> {
    let context = Context::new("FROM scratch\nCOPY Dockerfile /\n")?;
    let _ = cofferdam.build(context.path()).run()?.succeeded();
    Ok(())
}

struct Bench {
    registry: Registry,
    rival: Option<Rival>,
}

impl Bench {
    fn run(&self, scenario: &Scenario) -> Result<()> {
        let context = Context::new(scenario.dockerfile)?;
        (scenario.fill)(&context)?;
        let ours = self.measure(scenario, &context, None)?;
        let (theirs, ratio) = match self.rival {
            // buildah and a warm buildkitd keep one store: a first time cannot be repeated there.
            Some(rival) if !scenario.fresh => {
                let theirs = self.measure(scenario, &context, Some(rival))?;
                (format!("{theirs:.3}"), format!("{:.2}", ours / theirs))
            }
            _ => ("-".to_owned(), "-".to_owned()),
        };
        println!("{:<44} {ours:>10.3} {theirs:>10} {ratio:>8}", scenario.name);
        Ok(())
    }

    fn measure(&self, scenario: &Scenario, context: &Context, rival: Option<Rival>) -> Result<f64> {
        let mut cofferdam = Cofferdam::new()?;
        let output = tempfile::tempdir()?;
        if scenario.warm {
            self.build(scenario, &cofferdam, context.path(), output.path(), rival)?;
        }
        let mut seconds = Vec::new();
        for round in 1..=ROUNDS {
            // The two builders must not find each other's round done.
            (scenario.change)(context, round + if rival.is_some() { 1000 } else { 0 })?;
            if scenario.fresh {
                cofferdam = Cofferdam::new()?;
                warm_up(&cofferdam)?;
            }
            // What earlier rounds wrote and removed is not this round's to wait for.
            let _ = Command::new("sync").status()?;
            let start = Instant::now();
            self.build(scenario, &cofferdam, context.path(), output.path(), rival)?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        seconds.sort_by(f64::total_cmp);
        Ok(seconds[ROUNDS / 2])
    }

    fn build(
        &self,
        scenario: &Scenario,
        cofferdam: &Cofferdam,
        context: &Path,
        output: &Path,
        rival: Option<Rival>,
    ) -> Result<()> {
        let registry = format!("REGISTRY={}", self.registry.address());
        let archive = output.join("image.tar");
        let mut command = match rival {
            None => {
                let mut command = cofferdam.command();
                // Not `quiet`: it prints the digest of the image, which has to be made for that.
                command.args(["build", "--progress", "plain", "--build-arg", &registry, "--root"]);
                command.arg(cofferdam.root()).arg(context);
                if scenario.export {
                    command.arg("--output").arg(format!("type=oci,dest={}", archive.display()));
                }
                command
            }
            Some(Rival::Buildctl) => {
                let mut command = Command::new("buildctl");
                command.args(["build", "--progress", "plain", "--frontend", "dockerfile.v0"]);
                command.arg("--opt").arg(format!("build-arg:{registry}"));
                for name in ["context", "dockerfile"] {
                    command.arg("--local").arg(format!("{name}={}", context.display()));
                }
                if scenario.export {
                    command.arg("--output").arg(format!("type=oci,dest={}", archive.display()));
                }
                command
            }
            Some(Rival::Buildah) => {
                let mut command = Command::new("buildah");
                command.args(["build", "--layers", "--isolation", "chroot", "--tls-verify=false"]);
                command.args(["--build-arg", &registry, "--tag", "cofferdam-bench"]).arg(context);
                command
            }
        };
        let output = command.stdin(Stdio::null()).output()?;
        if !output.status.success() {
            bail!("{command:?} failed:\n{}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }
}
