//! Drives the built `cofferdam` binary: each test with a state directory of its own, with
//! everything that the program printed kept for the assertions.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::command::{command, run};
use crate::progress::{self, Event, Step};
use crate::twice::Made;

/// Exit codes of the program, as `cofferdam build --help` documents them.
pub mod exit {
    /// The build succeeded.
    pub const OK: i32 = 0;
    /// A step of the build failed.
    pub const BUILD: i32 = 1;
    /// The request was wrong: a bad Dockerfile, a bad option.
    pub const USER: i32 = 2;
    /// A registry or the network failed.
    pub const NETWORK: i32 = 3;
    /// The configuration or the machine lacks something.
    pub const CONFIGURATION: i32 = 4;
    /// Interrupted by the user.
    pub const INTERRUPTED: i32 = 130;
}

/// The program with one state directory. Dropping it asserts that nothing is left mounted there.
pub struct Cofferdam {
    binary: PathBuf,
    home: TempDir,
    made: Arc<Made>,
    /// A program and its arguments that starts the program; mostly none.
    wrapper: Vec<String>,
}

/// Who runs the program, where it is not who runs the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// An ordinary user who has a range of subordinate ids.
    User,
    /// One who has none, no capability, and no way to gain any.
    Alone,
}

impl Cofferdam {
    /// Finds the binary and makes an empty state directory.
    ///
    /// The binary is `$COFFERDAM_BIN`, else the one that cargo built beside this test, else the
    /// one of the other common profile.
    ///
    /// # Errors
    /// There is no binary.
    pub fn new() -> Result<Self> {
        let (binary, home) = (find_binary()?, tempfile::tempdir()?);
        Ok(Self { binary, home, made: Arc::default(), wrapper: Vec::new() })
    }

    /// Has everything from here on done by somebody else, to whom the home directory then belongs.
    /// What they read has to be readable for everybody.
    ///
    /// # Errors
    /// The home directory cannot be given away.
    pub fn run_by(mut self, who: Who) -> Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/as-user.sh");
        self.wrapper = vec![script.to_string_lossy().into_owned()];
        if who == Who::Alone {
            self.wrapper.push("--alone".to_owned());
        }
        run(command("chown", ["-R", "64000:64000"]).arg(self.home.path()))?;
        Ok(self)
    }

    /// The directory that is the user's home, with the state directory in it.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// The same program with a copy of this one's state directory, in which what was compiled and
    /// cached need not be made again.
    ///
    /// # Errors
    /// The copy fails.
    pub fn copy(&self) -> Result<Self> {
        let copy = Self::new()?;
        if self.root().exists() {
            self.settle()?;
            run(command("cp", ["-a"]).arg(self.root()).arg(copy.root()))?;
        }
        Ok(copy)
    }

    /// Waits until nothing works on the state directory any more: a build leaves a process behind
    /// that puts what it made on the disk.
    ///
    /// # Errors
    /// It goes on for minutes.
    pub fn settle(&self) -> Result<()> {
        let root = self.root();
        let root = root.to_string_lossy();
        let mut quiet = 0;
        for _ in 0..2400 {
            let mut processes = std::fs::read_dir("/proc")?.flatten();
            let works = processes.any(|process| {
                let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
                String::from_utf8_lossy(&line).contains(&*root)
            });
            // A process that is just being started has no arguments for a moment.
            quiet = if works { 0 } else { quiet + 1 };
            if quiet == 2 {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(100));
        }
        bail!("a process works on `{root}` for minutes")
    }

    /// The state directory (`--root`).
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.home.path().join("state")
    }

    /// A `cofferdam` command with nothing of the user's environment but `PATH`.
    #[must_use]
    pub fn command(&self) -> Command {
        clean(wrapped(&self.wrapper, &self.binary), self.home.path())
    }

    /// Starts to describe a build of a context.
    #[must_use]
    pub fn build(&self, context: &Path) -> Build {
        let plan = Plan {
            wrapper: self.wrapper.clone(),
            binary: self.binary.clone(),
            home: self.home.path().to_owned(),
            context: context.to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
        };
        Build { plan, twice: Some(self.made.clone()) }
    }

    /// The mounts of this machine that lie below the state directory.
    #[must_use]
    pub fn mounts(&self) -> Vec<String> {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let root = self.home.path().to_string_lossy().into_owned();
        let points = table.lines().filter_map(|line| line.split(' ').nth(4));
        points.filter(|point| point.starts_with(&root)).map(str::to_owned).collect()
    }
}

impl Drop for Cofferdam {
    fn drop(&mut self) {
        let mounts = self.mounts();
        for mount in &mounts {
            // So that the temporary directory can go, whatever the verdict.
            let _ = rustix::mount::unmount(mount.as_str(), rustix::mount::UnmountFlags::DETACH);
        }
        if !thread::panicking() {
            assert!(mounts.is_empty(), "left mounted: {mounts:?}");
        }
    }
}

/// A program that another one starts.
fn wrapped(wrapper: &[String], binary: &Path) -> Command {
    let [program, arguments @ ..] = wrapper else { return Command::new(binary) };
    let mut command = Command::new(program);
    command.args(arguments).arg(binary);
    command
}

/// Gives a command a known environment, and pipes for what it prints.
fn clean(mut command: Command, home: &Path) -> Command {
    command.env_clear().env("NO_COLOR", "1").env("HOME", home);
    command.env("DOCKER_CONFIG", home.join("docker"));
    for name in ["PATH", "RUST_BACKTRACE", "LLVM_PROFILE_FILE"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Everything about a build that can be said before it is started.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// A program and its arguments that starts the program; mostly none.
    pub wrapper: Vec<String>,
    /// The program.
    pub binary: PathBuf,
    /// The user's home directory, with the state directory in it.
    pub home: PathBuf,
    /// The build context.
    pub context: PathBuf,
    /// Arguments beside the context, the state directory and the form of the progress.
    pub arguments: Vec<OsString>,
    /// Environment variables.
    pub environment: Vec<(String, OsString)>,
}

impl Plan {
    fn command(&self) -> Command {
        let mut command = clean(wrapped(&self.wrapper, &self.binary), &self.home);
        command.arg("build").arg("--root").arg(self.home.join("state"));
        command.arg("--progress").arg("json").arg(&self.context).args(&self.arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts the build.
    ///
    /// # Errors
    /// The binary cannot be started.
    pub(crate) fn start(&self) -> Result<Running> {
        let mut command = self.command();
        let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let (send, lines) = channel();
        let stderr = child.stderr.take().expect("standard error is a pipe");
        thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                // The receiver is gone when the test is: nobody to tell.
                let _ = send.send(String::from_utf8_lossy(&line).into_owned());
            }
        });
        let mut stdout = child.stdout.take().expect("standard output is a pipe");
        let stdout = thread::spawn(move || {
            let mut bytes = Vec::new();
            stdout.read_to_end(&mut bytes).map(|_| bytes)
        });
        let outcome =
            Outcome { code: None, stdout: Vec::new(), text: String::new(), events: vec![] };
        Ok(Running { child, lines, stdout: Some(stdout), outcome, twice: None })
    }
}

/// A build that is being described. When it succeeds, it is made twice more and has to give the
/// same image both times, unless [`Build::varies`] says why it cannot.
pub struct Build {
    plan: Plan,
    twice: Option<Arc<Made>>,
}

impl Build {
    /// Adds an argument as it is.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.plan.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds an option with its value.
    #[must_use]
    pub fn option(self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.arg(name).arg(value)
    }

    /// Adds `--build-arg NAME=VALUE`.
    #[must_use]
    pub fn build_arg(self, name: &str, value: impl std::fmt::Display) -> Self {
        self.option("--build-arg", format!("{name}={value}"))
    }

    /// Sets an environment variable of the program.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.plan.environment.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Says why this build is not made again to be compared: it gives another image each time,
    /// or what it is about would be disturbed.
    #[must_use]
    pub fn varies(mut self, reason: &str) -> Self {
        assert!(!reason.is_empty(), "a build varies for a reason");
        self.twice = None;
        self
    }

    /// Runs the build to its end.
    ///
    /// # Errors
    /// The binary cannot be started, or the same build elsewhere gives another image.
    pub fn run(self) -> Result<Outcome> {
        self.spawn()?.finish()
    }

    /// Starts the build.
    ///
    /// # Errors
    /// The binary cannot be started.
    pub fn spawn(self) -> Result<Running> {
        let mut running = self.plan.start()?;
        running.twice = self.twice.map(|made| (made, self.plan));
        Ok(running)
    }
}

/// A build that is under way. Dropping it kills the program, not what it started.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    stdout: Option<thread::JoinHandle<std::io::Result<Vec<u8>>>>,
    outcome: Outcome,
    twice: Option<(Arc<Made>, Plan)>,
}

impl Running {
    /// Waits until a step has printed this text, if none has yet.
    ///
    /// # Errors
    /// The program ended without; the error has what it said.
    pub fn wait_for_log(&mut self, text: &str) -> Result<()> {
        while !self.outcome.log().contains(text) {
            let Ok(line) = self.lines.recv() else {
                bail!("ended without printing {text:?}:\n{}", self.outcome.report());
            };
            self.outcome.record(&line);
        }
        Ok(())
    }

    /// What the steps have printed so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.outcome.log()
    }

    /// Waits until a step has begun whose name contains this text.
    ///
    /// # Errors
    /// The program ended without; the error has what it said.
    pub fn wait_for_step(&mut self, name: &str) -> Result<()> {
        let begun = |outcome: &Outcome| {
            let mut steps = outcome.steps().into_iter();
            steps.any(|step| step.name.contains(name) && step.started.is_some())
        };
        while !begun(&self.outcome) {
            let Ok(line) = self.lines.recv() else {
                bail!("ended without beginning {name:?}:\n{}", self.outcome.report());
            };
            self.outcome.record(&line);
        }
        Ok(())
    }

    /// Sends the program the signal of Ctrl-C.
    ///
    /// # Errors
    /// The program has ended.
    pub fn interrupt(&self) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), Signal::INT)?)
    }

    /// Kills the program outright, as a crash would.
    ///
    /// # Errors
    /// The program cannot be killed.
    pub fn crash(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the end of the program. A build that succeeded is made again and compared.
    ///
    /// # Errors
    /// The program cannot be waited for, or the same build elsewhere gives another image.
    pub fn finish(mut self) -> Result<Outcome> {
        let twice = self.twice.take();
        let outcome = self.finish_alone()?;
        if let Some((made, plan)) = twice.filter(|_| outcome.code == Some(exit::OK)) {
            made.check(&plan)?;
        }
        Ok(outcome)
    }

    /// Waits for the end of the program, and that is all.
    pub(crate) fn finish_alone(mut self) -> Result<Outcome> {
        while let Ok(line) = self.lines.recv() {
            self.outcome.record(&line);
        }
        self.outcome.code = self.child.wait()?.code();
        if let Some(Ok(read)) = self.stdout.take().map(thread::JoinHandle::join) {
            self.outcome.stdout = read?;
        }
        Ok(std::mem::take(&mut self.outcome))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a build ended and everything that it said.
#[derive(Default)]
pub struct Outcome {
    /// The exit code; nothing when a signal ended the program.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// The lines of standard error that are no progress events: messages for people.
    pub text: String,
    /// The progress events.
    pub events: Vec<Event>,
}

impl Outcome {
    fn record(&mut self, line: &str) {
        if let Ok(event) = serde_json::from_str(line) {
            self.events.push(event);
        } else {
            self.text.push_str(line);
            self.text.push('\n');
        }
    }

    /// The digest of the image that was built, where there is one.
    #[must_use]
    pub fn digest(&self) -> Option<String> {
        let result = self.events.iter().find_map(|event| match event {
            Event::Result { members } => Some(members),
            _ => None,
        });
        Some(result?.get("digest")?.as_str()?.to_owned())
    }

    /// Asserts that the build succeeded.
    #[must_use]
    #[track_caller]
    pub fn succeeded(self) -> Self {
        self.ended(exit::OK)
    }

    /// Asserts that the program ended with this exit code.
    #[must_use]
    #[track_caller]
    pub fn ended(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "exit code; the program said:\n{}", self.report());
        self
    }

    /// Asserts that the messages for people contain each of these.
    #[track_caller]
    pub fn says(&self, parts: &[&str]) {
        for part in parts {
            assert!(self.text.contains(part), "no {part:?} in what it said:\n{}", self.report());
        }
    }

    /// What the build warned of, in short.
    pub fn warnings(&self) -> impl Iterator<Item = &str> {
        self.events.iter().filter_map(|event| match event {
            Event::Warning { members } => members["message"].as_str(),
            _ => None,
        })
    }

    /// What became of each vertex.
    #[must_use]
    pub fn steps(&self) -> Vec<Step> {
        progress::steps(&self.events)
    }

    /// The step with exactly this name.
    ///
    /// # Errors
    /// There is no such step.
    pub fn step(&self, name: &str) -> Result<Step> {
        let mut steps = self.steps().into_iter();
        let found = steps.find(|step| step.name == name);
        found.with_context(|| format!("no step {name:?}:\n{}", self.report()))
    }

    /// The names of the steps that did work in this build, sorted. The frontend's own reads
    /// (`[internal] ...`, `[PLATFORM internal] ...`) and the export are not steps of the Dockerfile and are left out.
    #[must_use]
    pub fn executed(&self) -> Vec<String> {
        let steps = self.steps().into_iter().filter(Step::executed).map(|step| step.name);
        let mut names: Vec<String> =
            steps.filter(|name| name.starts_with('[') && !name.contains("internal] ")).collect();
        names.sort();
        names
    }

    /// Why steps ran, with `--why`: names and reasons.
    #[must_use]
    pub fn reasons(&self) -> Vec<(String, String)> {
        let names = self.events.iter().filter_map(|event| match event {
            Event::Vertex { digest, name, .. } => Some((digest, name)),
            _ => None,
        });
        let names: HashMap<_, _> = names.collect();
        let missed = self.events.iter().filter_map(|event| match event {
            Event::Missed { vertex, message } => Some((names[vertex].clone(), message.clone())),
            _ => None,
        });
        missed.collect()
    }

    /// What the steps printed: step by step, the standard output of each before its standard error.
    /// In what order the two streams of a step come is chance, as nothing orders two pipes.
    #[must_use]
    pub fn log(&self) -> String {
        let mut steps: Vec<(&str, [String; 2])> = Vec::new();
        for event in &self.events {
            let Event::Log { vertex, stream, data } = event else { continue };
            let known = steps.iter().position(|(step, _)| step == vertex);
            let index = known.unwrap_or_else(|| {
                steps.push((vertex, [String::new(), String::new()]));
                steps.len() - 1
            });
            steps[index].1[usize::from(*stream == 2)].push_str(data);
        }
        steps.into_iter().flat_map(|(_, streams)| streams).collect()
    }

    /// Everything there is to say about this build, for a failed assertion.
    #[must_use]
    pub fn report(&self) -> String {
        let steps: String = self
            .steps()
            .iter()
            .map(|step| match (&step.error, step.cached) {
                (Some(error), _) => format!("  {}: {error}\n", step.name),
                (None, true) => format!("  {} (cached)\n", step.name),
                (None, false) => format!("  {}\n", step.name),
            })
            .collect();
        format!("{}\nsteps:\n{steps}log:\n{}", self.text, self.log())
    }
}

fn find_binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("COFFERDAM_BIN").filter(|path| !path.is_empty()) {
        return Ok(PathBuf::from(path));
    }
    // TARGET/PROFILE/deps/TEST or TARGET/PROFILE/PROGRAM.
    let test = std::env::current_exe()?;
    let profile = test.ancestors().skip(1).find(|directory| !directory.ends_with("deps"));
    let profile = profile.context("the test lies in no directory")?;
    let target = profile.parent().context("the test lies in no target directory")?;
    let candidates = [profile.to_owned(), target.join("release"), target.join("debug")];
    let mut binaries = candidates.iter().map(|directory| directory.join("cofferdam"));
    binaries.find(|path| path.is_file()).context(
        "no cofferdam binary: build it with `cargo build -p cofferdam`, or set COFFERDAM_BIN",
    )
}

#[cfg(test)]
mod tests {
    use super::Outcome;

    #[test]
    fn the_log_does_not_depend_on_how_streams_interleave() {
        let log = |order: [(&str, u8, &str); 4]| {
            let mut outcome = Outcome::default();
            for (vertex, stream, data) in order {
                let line = serde_json::json!({
                    "type": "log", "vertex": vertex, "stream": stream, "data": data,
                });
                outcome.record(&line.to_string());
            }
            assert_eq!(outcome.text, "");
            outcome.log()
        };
        let (one, two) = (("a", 1, "one "), ("a", 1, "two "));
        let (wrong, other) = (("a", 2, "wrong"), ("b", 1, "other"));
        assert_eq!(log([one, two, wrong, other]), "one two wrongother");
        assert_eq!(log([one, wrong, other, two]), "one two wrongother");
    }
}
