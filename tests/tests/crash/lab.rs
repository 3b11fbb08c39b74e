//! What the suites build, and what each build gives when nothing disturbs it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use cofferdam_tests::cofferdam::exit;
use cofferdam_tests::command::{command, run};
use cofferdam_tests::tree::TarWriter;
use cofferdam_tests::{Build, Cofferdam, Context, Outcome, Registry, bases};
use tempfile::TempDir;

/// How many images there are of each project.
pub const VARIANTS: u64 = 4;

/// After the files of the contexts, and long ago.
pub const EPOCH: &str = "1710000000";

/// A bit of everything: steps that follow one another, stages beside one another, files, an
/// archive, links, whiteouts.
const MIXED: &str = "\
ARG REGISTRY
FROM ${REGISTRY}/busybox AS base
ARG VARIANT
RUN echo $VARIANT > /variant && mkdir -p /d/e && seq $VARIANT 5000 > /d/e/seq && ln /variant /d/link
FROM base AS left
COPY files/ /files/
RUN rm /files/1 && cat /files/2 /variant > /files/three
FROM base AS right
ADD archive.tar /unpacked/
RUN chmod 700 /unpacked && rm /etc/group
FROM scratch
COPY --from=left /files /files
COPY --from=right /unpacked /unpacked
COPY --from=base /d /d
";

/// A chain of steps on a base of several layers.
const CHAIN: &str = "\
ARG REGISTRY
FROM ${REGISTRY}/busybox AS tools
FROM ${REGISTRY}/layered AS base
COPY --from=tools /bin /bin
ARG VARIANT
RUN echo $VARIANT > /one
RUN cat /one /one > /two && rm -r /opaque
COPY files /copied
RUN mkdir /opaque && cat /two /copied/3 > /opaque/three
";

/// No step at all: only what the engine does itself.
const FILES: &str = "\
ARG VARIANT
FROM scratch AS all
COPY . /all/
FROM scratch
COPY --from=all /all/files /some
ADD --chown=1:2 archive.tar /unpacked/
COPY <<END /variant
$VARIANT
END
";

/// A registry, contexts, and the digests that their images should have.
pub struct Lab {
    /// The registry with the base images.
    pub registry: Registry,
    contexts: Vec<Context>,
    expected: Mutex<HashMap<(usize, u64), String>>,
    quiet: Cofferdam,
    /// How long a build takes from nothing.
    pub typical: Duration,
    _layered: TempDir,
}

impl Lab {
    /// Fills a registry and makes the contexts.
    pub fn new() -> Result<Self> {
        let registry = Registry::start()?;
        registry.push(&bases::busybox()?, "busybox:latest")?;
        let directory = tempfile::tempdir()?;
        registry.push(&bases::layered(&directory.path().join("layered"))?, "layered:latest")?;
        let contexts = [MIXED, CHAIN, FILES].map(context).into_iter().collect::<Result<_>>()?;
        let (expected, quiet) = (Mutex::default(), Cofferdam::new()?);
        let typical = Duration::ZERO;
        let mut lab = Self { registry, contexts, expected, quiet, typical, _layered: directory };
        // Compiles the components, which is not typical.
        lab.expected(2, 0)?;
        let started = Instant::now();
        lab.expected(0, 0)?;
        lab.typical = started.elapsed();
        Ok(lab)
    }

    /// How many projects there are.
    pub fn projects(&self) -> usize {
        self.contexts.len()
    }

    /// An empty state directory, but for the compiled components: to compile them takes longer
    /// than all else.
    pub fn cofferdam(&self) -> Result<Cofferdam> {
        let cofferdam = Cofferdam::new()?;
        self.lend_compiled(&cofferdam.root())?;
        Ok(cofferdam)
    }

    /// Puts the compiled components into a state directory.
    pub fn lend_compiled(&self, root: &Path) -> Result<()> {
        lend_compiled(&self.quiet, root)
    }

    /// A build of a project to an image.
    pub fn build(&self, cofferdam: &Cofferdam, project: usize, variant: u64) -> Build {
        self.start(cofferdam, project, variant).option("--output", "type=image")
    }

    /// A build of a project that has no output yet.
    pub fn start(&self, cofferdam: &Cofferdam, project: usize, variant: u64) -> Build {
        cofferdam
            .build(self.contexts[project].path())
            .varies("made many times over, and compared each time")
            .env("SOURCE_DATE_EPOCH", EPOCH)
            .build_arg("REGISTRY", self.registry.address())
            .build_arg("VARIANT", variant)
    }

    /// Asserts that a build succeeded and gave the right image.
    pub fn check(&self, outcome: &Outcome, project: usize, variant: u64) -> Result<()> {
        if outcome.code != Some(exit::OK) {
            bail!(
                "project {project}/{variant} ended with {:?}:\n{}",
                outcome.code,
                outcome.report()
            );
        }
        let Some(digest) = outcome.digest() else { return Ok(()) };
        let expected = self.expected(project, variant)?;
        ensure!(
            digest == expected,
            "project {project}/{variant} gave {digest}, expected {expected}:\n{}",
            outcome.report()
        );
        Ok(())
    }

    /// Builds every variant of every project and checks each.
    pub fn rebuild_all(&self, cofferdam: &Cofferdam) -> Result<()> {
        for project in 0..self.projects() {
            for variant in 0..VARIANTS {
                let outcome = self.build(cofferdam, project, variant).run()?;
                self.check(&outcome, project, variant)?;
            }
        }
        Ok(())
    }

    /// The right digest of an image: that of a build which nothing disturbs.
    pub fn expected(&self, project: usize, variant: u64) -> Result<String> {
        let mut known = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(digest) = known.get(&(project, variant)) {
            return Ok(digest.clone());
        }
        let outcome = self.build(&self.quiet, project, variant).run()?.succeeded();
        let digest = outcome.digest().context("a build reported no digest")?;
        known.insert((project, variant), digest.clone());
        Ok(digest)
    }
}

fn context(dockerfile: &str) -> Result<Context> {
    let context = Context::new(dockerfile)?;
    for number in 0..40 {
        context.file(&format!("files/{number}"), format!("file {number}\n").repeat(number * 40))?;
    }
    context.link("files/link", "1")?.hard_link("files/same", "files/2")?;
    let mut archive = TarWriter::new();
    archive.owner(3, 4).directory("d", 0o1777)?.file("d/f", 0o640, &[7; 30_000])?;
    archive.hard_link("d/g", "d/f")?.symlink("d/l", "f")?;
    context.file("archive.tar", archive.finish()?)?;
    context.time("files", cofferdam_tests::tree::FIXTURE_TIME)?;
    Ok(context)
}

/// Copies the compiled components of one state directory to another.
pub fn lend_compiled(from: &Cofferdam, root: &Path) -> Result<()> {
    std::fs::create_dir_all(root)?;
    run(command("cp", ["-a"]).arg(from.root().join("compiled")).arg(root))?;
    Ok(())
}

/// Runs `cofferdam store verify` and gives its exit code and all it said.
pub fn verify(cofferdam: &Cofferdam) -> Result<(Option<i32>, String)> {
    say(cofferdam, &["store", "verify"])
}

/// Asserts that `cofferdam store verify` finds nothing wrong.
pub fn verify_clean(cofferdam: &Cofferdam) -> Result<()> {
    let (code, said) = verify(cofferdam)?;
    ensure!(code == Some(exit::OK), "store verify ended with {code:?}:\n{said}");
    Ok(())
}

/// Runs a command of the program and gives its exit code and all it said.
pub fn say(cofferdam: &Cofferdam, arguments: &[&str]) -> Result<(Option<i32>, String)> {
    let mut command = cofferdam.command();
    let output = command.arg("--root").arg(cofferdam.root()).args(arguments).output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
}
