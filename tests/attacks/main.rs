//! Published attacks on image builders and container runtimes, held against the built binary.
//!
//! Each test is named after an advisory and fails, saying "the attack works", when the attack
//! does. `weak/` has patches that make an engine on which each of them works, and
//! `weak.sh` (`make attacks-weak`) shows that the tests notice. `docs/attacks.md` has the table of
//! advisories, tests and weaknesses; `table` keeps it complete.
//!
//! They need root and the packages that `scripts/setup.sh` installs. Races run for a while that
//! `COFFERDAM_ATTACK_ROUNDS` multiplies.

mod differential;
mod entitlements;
mod file_ops;
mod hostile;
mod llb;
mod mounts;
mod races;
mod sandbox;
mod sinks;
mod table;
mod unpacking;
mod users;

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::{fs, thread};

use anyhow::{Context as _, Result};
use cofferdam_tests::cofferdam::exit;
use cofferdam_tests::command::{command, run};
use cofferdam_tests::oci::Compression;
use cofferdam_tests::{Build, Cofferdam, Context, Layout, Outcome, Tree, bases};
use tempfile::TempDir;

/// What the host's canaries say: nothing else anywhere has these bytes.
const SECRET: &str = "canary-4f1d-of-the-host";

/// Says that an attack has worked. `weak.sh` looks for the first words.
#[track_caller]
fn works(what: impl std::fmt::Display) -> ! {
    panic!("the attack works: {what}")
}

/// How many times longer than usual races run.
fn rounds() -> usize {
    let set = std::env::var("COFFERDAM_ATTACK_ROUNDS").ok();
    set.and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// The component of the hostile frontends that has this name.
fn guest(name: &str) -> Result<PathBuf> {
    let directory = std::env::var_os("COFFERDAM_TEST_GUESTS")
        .context("COFFERDAM_TEST_GUESTS names no directory: run `make test`")?;
    let path = Path::new(&directory).join(format!("{name}.wasm"));
    anyhow::ensure!(path.is_file(), "there is no {}: run `make test`", path.display());
    Ok(path)
}

/// A program of `programs/`, compiled with these flags for the machine's own kernel.
fn program(name: &str, flags: &[&str]) -> Result<Vec<u8>> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("attacks/programs/{name}.c"));
    let directory = tempfile::tempdir()?;
    let program = directory.path().join(name);
    run(command("cc", ["-static", "-O1", "-o"]).arg(&program).args(flags).arg(source))?;
    Ok(fs::read(program)?)
}

/// The attacker that swaps names and makes deep directories.
fn attacker() -> Result<Vec<u8>> {
    program("attacker", &[])
}

/// A `cofferdam` with a state directory of its own, and a place for images.
struct World {
    cofferdam: Cofferdam,
    images: TempDir,
}

impl World {
    fn new() -> Result<Self> {
        Ok(Self { cofferdam: Cofferdam::new()?, images: tempfile::tempdir()? })
    }

    /// A build of this context, whose Dockerfile has `busybox` to start from.
    fn build(&self, context: &Context) -> Result<Build> {
        let busybox = format!("busybox=oci-layout://{}:latest", bases::busybox()?.path.display());
        let build = self.cofferdam.build(context.path()).option("--build-context", busybox);
        Ok(build.varies("what an attack leaves is looked at, not compared"))
    }

    /// Builds this Dockerfile, in a context with nothing else but the attacker.
    fn run(&self, dockerfile: &str, arguments: &[&str]) -> Result<Outcome> {
        let context = with_attacker(dockerfile)?;
        let build = self.build(&context)?;
        let outcome = arguments.iter().fold(build, |build, argument| build.arg(argument)).run()?;
        lives_on(&outcome);
        Ok(outcome)
    }

    /// An image of busybox's layers and these archives, as the value of `--build-context`.
    fn image(
        &self,
        name: &str,
        config: serde_json::Value,
        additions: &[Vec<u8>],
    ) -> Result<String> {
        let architecture = bases::oci_architecture()?;
        let busybox = bases::busybox()?;
        let image = busybox.image(&architecture)?;
        let directory = self.images.path().join(name);
        let layout = Layout::create(&directory)?;
        let archives = busybox.layers(&image)?;
        let mut layers = Vec::new();
        for archive in archives.iter().chain(additions) {
            layers.push(layout.add_layer(&archive[..], Compression::None)?);
        }
        let mut all = image.config["config"].clone();
        if let (Some(all), Some(more)) = (all.as_object_mut(), config.as_object()) {
            all.extend(more.clone());
        }
        let manifest = layout.add_image(&architecture, all, &layers)?;
        layout.tag("latest", &[manifest])?;
        Ok(format!("{name}=oci-layout://{}:latest", directory.display()))
    }

    /// Runs a command of the program with this standard input.
    fn command(&self, arguments: &[&str], stdin: &[u8]) -> Result<Output> {
        let mut command = self.cofferdam.command();
        command.arg(arguments[0]).arg("--root").arg(self.cofferdam.root()).args(&arguments[1..]);
        with_input(&mut command, stdin)
    }

    /// Builds what comes on standard input.
    fn build_input(&self, arguments: &[&str], stdin: &[u8]) -> Result<Output> {
        let busybox = format!("busybox=oci-layout://{}:latest", bases::busybox()?.path.display());
        let all = ["build", "--progress", "plain", "--build-context", &busybox];
        let output = self.command(&[&all, arguments].concat(), stdin)?;
        let said = String::from_utf8_lossy(&output.stderr);
        check_end(output.status.code(), &said);
        Ok(output)
    }
}

/// Runs a command to its end; it need not read all of its input.
fn with_input(command: &mut Command, stdin: &[u8]) -> Result<Output> {
    let mut child = command.stdin(Stdio::piped()).spawn()?;
    let mut pipe = child.stdin.take().context("it is piped")?;
    let bytes = stdin.to_vec();
    let writer = thread::spawn(move || std::io::Write::write_all(&mut pipe, &bytes));
    let output = child.wait_with_output()?;
    let _ = writer.join();
    Ok(output)
}

/// A context with this Dockerfile and the program `attacker`.
fn with_attacker(dockerfile: &str) -> Result<Context> {
    let context = Context::new(dockerfile)?;
    if dockerfile.contains("attacker") {
        context.file("attacker", attacker()?)?.mode("attacker", 0o755)?;
    }
    Ok(context)
}

/// Whatever a build is given, the program ends by itself, and not by a bug.
#[track_caller]
fn lives_on(outcome: &Outcome) {
    check_end(outcome.code, &outcome.report());
}

#[track_caller]
fn check_end(code: Option<i32>, said: &str) {
    let known = [exit::OK, exit::BUILD, exit::USER, exit::NETWORK, exit::CONFIGURATION];
    let own_fault = ["internal error", "panicked", "this is a bug"];
    let fails = own_fault.iter().any(|text| said.contains(text));
    if fails || !code.is_some_and(|code| known.contains(&code)) {
        works(format!("the engine ends with {code:?}:\n{said}"));
    }
    if said.contains(SECRET) {
        works(format!("it shows what is the host's:\n{said}"));
    }
}

/// Files of the host that no step, image or archive may see or change. Anybody may write them, so
/// that nothing but the engine protects them.
struct Canary {
    directory: TempDir,
    before: Tree,
}

impl Canary {
    fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let root = directory.path();
        for name in ["stub", "x/stub", "x/y", "etc", "sub"] {
            fs::create_dir_all(root.join(name))?;
        }
        for name in ["secret", "null", "x/secret", "etc/passwd", "etc/hosts", "sub/secret"] {
            fs::write(root.join(name), SECRET)?;
        }
        fs::write(root.join("x/file"), "")?;
        run(command("chmod", ["-R", "a+rwX"]).arg(root))?;
        fs::set_permissions(root, fs::Permissions::from_mode(0o777))?;
        let before = Tree::from_directory(root)?;
        Ok(Self { directory, before })
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The path as text.
    fn text(&self) -> String {
        self.path().display().to_string()
    }

    /// As many `..` as lead from anywhere to the root, and the canary below it.
    fn climbing(&self) -> String {
        format!("{}{}", "../".repeat(24), self.text().trim_start_matches('/'))
    }

    /// Checks that nothing of it has changed.
    #[track_caller]
    fn is_intact(&self) -> Result<()> {
        let now = Tree::from_directory(self.path())?;
        let differences = self.before.differences(&now);
        if !differences.is_empty() {
            works(format!("files of the host are changed:\n{}", differences.join("\n")));
        }
        Ok(())
    }
}

/// Adds options of the same name.
fn with_options(build: Build, name: &str, values: &[impl AsRef<OsStr>]) -> Build {
    values.iter().fold(build, |build, value| build.option(name, value))
}

/// An engine so weak that this fails would make every other test fail for the wrong reason.
#[test]
fn control_an_ordinary_build_works() -> Result<()> {
    let world = World::new()?;
    let dockerfile = "FROM busybox\nWORKDIR /work\nCOPY attacker /bin/\n\
                      RUN --mount=type=cache,target=/c --mount=type=tmpfs,target=/t \
                      echo hello > made && cat made && ls / > /c/list\nRUN cat /work/made\n";
    let outcome = world.run(dockerfile, &[])?.succeeded();
    assert_eq!(outcome.log(), "hello\nhello\n");
    Ok(())
}
