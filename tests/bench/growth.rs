//! How time and memory grow: a series of sizes for each thing that can be many or large, each
//! beside the floor that the machine sets. Prints a table for each and draws it.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use cofferdam_tests::{Cofferdam, Context, Registry};

use crate::builders::{Builder, Output};
use crate::machine::settle;
use crate::measure::{Cost, Costs};
use crate::plot::{Line, Panel, draw};
use crate::scenarios::small_files;
use crate::{Options, limits, measure};

/// Steps in a row: what overlayfs can stack is an image's limit, not a graph's.
const IN_A_ROW: usize = 50;
/// A size is not measured again once this much time went into it.
const ENOUGH: f64 = 8.0;

/// What each line of a series takes at one size, and the floor in seconds.
type Measured = Result<(Vec<Costs>, f64)>;

/// Something that can be many or large.
struct Series {
    name: &'static str,
    title: &'static str,
    /// What is counted.
    unit: &'static str,
    sizes: &'static [usize],
    lines: &'static [&'static str],
    floor: &'static str,
    measure: fn(&Bench<'_>, usize) -> Measured,
}

const SERIES: &[Series] = &[
    Series {
        name: "run-steps",
        title: "RUN steps (stages of 50 in a row)",
        unit: "RUN steps",
        sizes: &[10, 100, 1_000, 10_000],
        lines: &["first build", "nothing changed"],
        floor: "as many processes that do nothing",
        measure: |bench, size| bench.vertices(size, |number| format!("RUN true {number}\n")),
    },
    Series {
        name: "file-ops",
        title: "COPY steps (stages of 50 in a row)",
        unit: "COPY steps",
        sizes: &[10, 100, 1_000, 10_000],
        lines: &["first build", "nothing changed"],
        floor: "as many small files written and renamed",
        measure: |bench, size| bench.vertices(size, |number| format!("COPY small /{number}\n")),
    },
    Series {
        name: "files",
        title: "COPY of files of 1 to 4 KB",
        unit: "files",
        sizes: &[1_000, 10_000, 100_000],
        lines: &["first time", "nothing changed", "OCI archive, gzip"],
        floor: "read, hashed and written once",
        measure: |bench, size| bench.files(size),
    },
    Series {
        name: "size",
        title: "COPY of one file",
        unit: "MiB",
        sizes: &[1, 16, 128, 1_024],
        lines: &["first time", "OCI archive, zstd"],
        floor: "read, hashed and written once",
        measure: |bench, size| bench.size(size),
    },
    Series {
        name: "layers",
        title: "layers of 64 KiB",
        unit: "layers",
        sizes: &[1, 10, 100, 400],
        lines: &["build and export", "pull and COPY", "pull and RUN"],
        floor: "a request to the registry for each",
        measure: |bench, size| bench.layers(size),
    },
];

/// Measures the series that are asked for and draws them into `docs/plots`.
///
/// # Errors
/// A build fails, or a plot cannot be written.
pub fn run(registry: &Registry, options: &Options) -> Result<()> {
    let plots = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/plots");
    fs::create_dir_all(&plots)?;
    for series in SERIES.iter().filter(|series| options.wants(series.name)) {
        let bench = Bench { registry, rounds: options.rounds };
        println!("\n### {}\n", series.title);
        let names: Vec<String> =
            series.lines.iter().map(|name| format!("{name}, s | MiB")).collect();
        println!("| {} | {} | {}, s |", series.unit, names.join(" | "), series.floor);
        println!("|{}", "---|".repeat(2 + 2 * series.lines.len()));
        let mut points = Vec::new();
        for size in series.sizes.iter().copied().filter(|size| *size <= options.up_to) {
            let (costs, floor) = (series.measure)(&bench, size)?;
            let mut row = format!("| {size} |");
            for cost in &costs {
                write!(row, " {:.3} | {:.0} |", cost.least(), cost.mebibytes())?;
            }
            println!("{row} {floor:.3} |");
            points.push((size as f64, costs, floor));
        }
        let mut panels = [("seconds", Vec::new()), ("MiB, peak", Vec::new())];
        println!();
        for (index, name) in series.lines.iter().enumerate() {
            let time: Vec<_> =
                points.iter().map(|(x, costs, _)| (*x, costs[index].least())).collect();
            let memory =
                points.iter().map(|(x, costs, _)| (*x, costs[index].mebibytes())).collect();
            println!("- {name}: {}", exponents(&time));
            panels[0].1.push(Line { name: (*name).to_owned(), points: time, limit: false });
            panels[1].1.push(Line { name: (*name).to_owned(), points: memory, limit: false });
        }
        let floor = points.iter().map(|(size, _, floor)| (*size, *floor)).collect();
        panels[0].1.push(Line { name: series.floor.to_owned(), points: floor, limit: true });
        let panels = panels.map(|(what, lines)| Panel {
            title: format!("{}: {what}", series.title),
            across: series.unit.to_owned(),
            lines,
        });
        let path = plots.join(format!("{}.svg", series.name));
        fs::write(&path, draw(&panels))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// How a curve grows: the exponent of the power law that fits it best, and the one between its
/// last two points, where fixed costs no longer flatter it.
fn exponents(points: &[(f64, f64)]) -> String {
    let logs: Vec<(f64, f64)> = points.iter().map(|(x, y)| (x.ln(), y.ln())).collect();
    let count = logs.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| logs.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let covariance: f64 = logs.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    let variance: f64 = logs.iter().map(|point| (point.0 - x).powi(2)).sum();
    match logs.as_slice() {
        [.., before, last] => format!(
            "exponent {:.2}; between the last two sizes {:.2}",
            covariance / variance,
            (last.1 - before.1) / (last.0 - before.0)
        ),
        _ => "one size has no exponent".to_owned(),
    }
}

struct Bench<'r> {
    registry: &'r Registry,
    rounds: usize,
}

impl Bench<'_> {
    /// Repeats a measurement, up to the number of rounds or until enough time went into it.
    fn repeat(&self, mut once: impl FnMut() -> Result<Cost>) -> Result<Costs> {
        let (mut costs, mut total) = (Vec::new(), 0.0);
        while costs.len() < self.rounds && total < ENOUGH {
            let cost = once()?;
            total += cost.seconds;
            costs.push(cost);
        }
        Ok(Costs::new(costs))
    }

    /// From an empty state, each time.
    fn first(&self, context: &Context, output: Output) -> Result<Costs> {
        let mut builder = Builder::cofferdam()?;
        self.repeat(|| {
            builder.reset()?;
            settle(context.path())?;
            builder.build(self.registry, context.path(), output)
        })
    }

    /// Over and over with one state that has everything.
    fn again(&self, context: &Context, output: Output) -> Result<Costs> {
        let builder = Builder::cofferdam()?;
        builder.build(self.registry, context.path(), Output::Nothing)?;
        self.repeat(|| {
            settle(context.path())?;
            builder.build(self.registry, context.path(), output)
        })
    }

    /// A graph of so many steps: stages of some in a row, and one that needs them all.
    fn vertices(&self, size: usize, step: fn(usize) -> String) -> Measured {
        let mut dockerfile = "ARG REGISTRY\n".to_owned();
        let mut last = "FROM scratch\n".to_owned();
        for number in 0..size {
            if number % IN_A_ROW == 0 {
                let stage = number / IN_A_ROW;
                writeln!(dockerfile, "FROM ${{REGISTRY}}/busybox AS s{stage}")?;
                writeln!(last, "COPY --from=s{stage} /bin/busybox /{stage}")?;
            }
            dockerfile.push_str(&step(number));
        }
        let context = Context::new(&(dockerfile + &last))?;
        context.file("small", "small")?;
        let floor = match step(0).starts_with("RUN") {
            true => limits::processes(size)?,
            false => limits::commits(size)?,
        };
        let first = self.first(&context, Output::Nothing)?;
        Ok((vec![first, self.again(&context, Output::Nothing)?], floor))
    }

    fn files(&self, size: usize) -> Measured {
        let context = Context::new("FROM scratch\nCOPY files /files\n")?;
        small_files(&context, size)?;
        settle(context.path())?;
        let floor = limits::copy(context.path())?;
        Ok((
            vec![
                self.first(&context, Output::Nothing)?,
                self.again(&context, Output::Nothing)?,
                self.first(&context, Output::Archive("gzip"))?,
            ],
            floor,
        ))
    }

    fn size(&self, size: usize) -> Measured {
        let context = Context::new("FROM scratch\nCOPY big /big\n")?;
        let mut random = fs::File::open("/dev/urandom")?;
        let mut big = fs::File::create(context.path().join("big"))?;
        let mut mebibyte = vec![0; 1 << 20];
        for _ in 0..size {
            std::io::Read::read_exact(&mut random, &mut mebibyte)?;
            big.write_all(&mebibyte)?;
        }
        settle(context.path())?;
        let floor = limits::copy(context.path())?;
        Ok((
            vec![
                self.first(&context, Output::Nothing)?,
                self.first(&context, Output::Archive("zstd"))?,
            ],
            floor,
        ))
    }

    fn layers(&self, size: usize) -> Measured {
        let mut dockerfile = "ARG REGISTRY\nFROM ${REGISTRY}/busybox AS base\n".to_owned();
        // One layer is the base's own.
        for number in 1..size {
            writeln!(dockerfile, "COPY part{number} /")?;
        }
        let context = Context::new(&dockerfile)?;
        for number in 1..size {
            let mut part = number.to_string().into_bytes();
            part.resize(64 << 10, b'.');
            context.file(&format!("part{number}"), part)?;
        }
        let built = self.first(&context, Output::Archive("gzip"))?;
        let name = format!("layers-{size}");
        self.publish(&context, &name)?;
        let user = |step: &str| {
            Context::new(&format!("ARG REGISTRY\nFROM ${{REGISTRY}}/{name}\n{step}\n"))
        };
        let copied = self.first(&user("COPY Dockerfile /")?, Output::Nothing)?;
        let run = self.first(&user("RUN true")?, Output::Nothing)?;
        Ok((vec![built, copied, run], limits::requests(self.registry.address(), size)?))
    }

    /// Builds a context and has the image in the registry.
    fn publish(&self, context: &Context, name: &str) -> Result<()> {
        let cofferdam = Cofferdam::new()?;
        let mut command = cofferdam.command();
        command.arg("build").arg("--root").arg(cofferdam.root()).arg(context.path());
        command.arg("--build-arg").arg(format!("REGISTRY={}", self.registry.address()));
        command.args(["--push", "--tag", &self.registry.reference(&format!("{name}:latest"))]);
        measure::run(&mut command, &[])?;
        Ok(())
    }
}
