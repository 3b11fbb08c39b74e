//! `cofferdam debug`: a shell in a step that failed.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cofferdam_tests::Context;
use cofferdam_tests::cofferdam::exit;
use cofferdam_tests::command::{command, run};
use expect_test::expect;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::World;
use crate::cancellation::processes;

/// A step that has all that a step can have, writes, and fails.
const FAILING: &str = "ARG REGISTRY\nFROM ${REGISTRY}/busybox AS tools\n\
    RUN mkdir /out && echo from another stage > /out/file && chmod 777 /out\n\
    FROM ${REGISTRY}/busybox\nENV GREETING='hello there'\nWORKDIR /home/builder\nUSER builder\n\
    RUN --mount=type=bind,from=tools,source=/out,target=/tools,rw \
        --mount=type=tmpfs,target=/scratch \
        echo written > /tmp/made; echo beside > /tools/beside; exit 7\n";

impl World {
    pub(crate) fn debug(&self, arguments: &[&str]) -> Command {
        let mut command = self.cofferdam.command();
        command.arg("debug").arg("--root").arg(self.cofferdam.root()).args(arguments);
        command
    }

    /// Runs `cofferdam debug` to its end, without an input.
    pub(crate) fn debugged(&self, arguments: &[&str]) -> Result<Debugged> {
        Ok(Debugged(self.debug(arguments).output()?))
    }

    /// Fails a build.
    fn fail(&self, dockerfile: &str) -> Result<cofferdam_tests::Outcome> {
        Ok(self.build(&Context::new(dockerfile)?).run()?.ended(exit::BUILD))
    }
}

pub(crate) struct Debugged(Output);

impl Debugged {
    pub(crate) fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.0.stdout).into_owned()
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).into_owned()
    }

    #[track_caller]
    pub(crate) fn ended(self, code: i32) -> Self {
        let said = format!("{}{}", self.stdout(), self.stderr());
        assert_eq!(self.0.status.code(), Some(code), "exit code; it said:\n{said}");
        self
    }

    #[track_caller]
    pub(crate) fn says(&self, parts: &[&str]) {
        let stderr = self.stderr();
        for part in parts {
            assert!(stderr.contains(part), "no {part:?} in:\n{stderr}");
        }
    }
}

#[test]
fn a_program_in_a_failed_step_has_all_that_the_step_had() -> Result<()> {
    let world = World::new()?;
    let root = world.cofferdam.root();
    let hint = format!("hint: open a shell in it: cofferdam debug --root {}", root.display());
    world.fail(FAILING)?.says(&["exit code: 7", &hint]);

    let script = "cat /tmp/made /tools/file /tools/beside; echo $GREETING; pwd; id -u; \
        grep -c ' /scratch tmpfs' /proc/mounts; ls /scratch; cat; echo to stderr >&2; exit 9";
    let mut child = world.debug(&["--", "sh", "-c", script]).stdin(Stdio::piped()).spawn()?;
    child.stdin.take().context("a pipe")?.write_all(b"typed\n")?;
    let ended = Debugged(child.wait_with_output()?).ended(9);
    expect![[r#"
        written
        from another stage
        beside
        hello there
        /home/builder
        1000
        1
        typed
    "#]]
    .assert_eq(&ended.stdout());
    // Before that it may say what the network lacks.
    assert!(ended.stderr().ends_with("to stderr\n"), "{}", ended.stderr());

    // Before it ran, nothing of what it wrote was there.
    let ended = world.debugged(&["--input", "--", "ls", "/tmp", "/tools"])?.ended(exit::OK);
    assert_eq!(ended.stdout(), "/tmp:\n\n/tools:\nfile\n");

    // What is changed is thrown away.
    let ended = world.debugged(&["--", "rm", "/tmp/made", "/tools/beside"])?;
    let _ = ended.ended(exit::OK);
    let _ = world.debugged(&["--", "cat", "/tmp/made", "/tools/beside"])?.ended(exit::OK);

    // A shell that reads its commands from a pipe; people are told what it is about.
    let mut child = world.debug(&[]).stdin(Stdio::piped()).spawn()?;
    child.stdin.take().context("a pipe")?.write_all(b"echo in $0\nexit 5\n")?;
    let ended = Debugged(child.wait_with_output()?).ended(5);
    assert_eq!(ended.stdout(), "in /bin/sh\n");
    ended.says(&["exit code: 7", "/bin/sh -c '", "echo written > /tmp/made", "thrown away"]);
    Ok(())
}

#[test]
fn failed_steps_are_listed_and_chosen_by_id() -> Result<()> {
    let world = World::new()?;
    let build = |number: u32| -> Result<()> {
        let context = Context::new(
            "ARG REGISTRY\nFROM ${REGISTRY}/busybox\nARG N\nRUN echo $N > /number; exit $N\n",
        )?;
        let _ = world.build(&context).build_arg("N", number).run()?.ended(exit::BUILD);
        Ok(())
    };
    (1..=3).try_for_each(build)?;
    let ids = || -> Result<Vec<String>> {
        let listed = world.debugged(&["--list"])?.ended(exit::OK).stdout();
        let words = listed.lines().skip(1).filter_map(|line| line.split_whitespace().next());
        Ok(words.map(str::to_owned).collect())
    };
    let listed = world.debugged(&["--list"])?.ended(exit::OK).stdout();
    assert!(listed.starts_with("ID            FAILED           RESULT                STEP\n"));
    assert!(listed.lines().nth(1).is_some_and(|line| line.contains("exit code: 3")), "{listed}");
    assert!(listed.contains("RUN echo 2 > /number; exit 2\n"), "{listed}");
    let known = ids()?;
    assert_eq!(known.len(), 3, "{known:?}");
    let number = |id: &str| -> Result<String> {
        Ok(world.debugged(&[id, "--", "cat", "/number"])?.ended(exit::OK).stdout())
    };
    assert_eq!(number(&known[2])?, "1\n");
    assert_eq!(number(&known[1][..8])?, "2\n");
    assert_eq!(world.debugged(&["--", "cat", "/number"])?.stdout(), "3\n");
    // The same step with the same inputs stays the same, and is the newest again.
    build(1)?;
    assert_eq!(ids()?, [&*known[2], &*known[0], &*known[1]]);
    world.debugged(&["ffffffffffff", "--", "true"])?.ended(exit::USER).says(&[
        "no failed step `ffffffffffff` is kept",
        "hint: list them: cofferdam debug --list",
    ]);
    // The newest few are kept.
    (4..=12).try_for_each(build)?;
    let newest = ids()?;
    assert_eq!(newest.len(), 10, "{newest:?}");
    assert!(!newest.contains(&known[1]));
    Ok(())
}

#[test]
fn what_cannot_be_entered_is_told() -> Result<()> {
    let world = World::new()?;
    let nothing = world.debugged(&[])?.ended(exit::USER);
    nothing.says(&["error: no failed step is kept in `", "hint: "]);
    let build = world.fail(
        "ARG REGISTRY\nFROM ${REGISTRY}/busybox AS busybox\nFROM scratch\n\
         COPY --from=busybox /bin/busybox /busybox\nRUN [\"/busybox\", \"false\"]\n",
    )?;
    build.says(&["hint: open a shell in it: cofferdam debug"]);
    let shellless = world.debugged(&[])?.ended(exit::USER);
    shellless.says(&["expected `/bin/bash` or `/bin/sh`", "cofferdam debug -- PROGRAM"]);
    let ended = world.debugged(&["--", "/busybox", "echo", "works"])?.ended(exit::OK);
    assert_eq!(ended.stdout(), "works\n");
    world.debugged(&["--", "missing"])?.ended(127).says(&["not found in $PATH: `missing`"]);
    // Also a step whose program was missing can be entered.
    let build = world.fail("ARG REGISTRY\nFROM ${REGISTRY}/busybox\nRUN [\"/no/program\"]\n")?;
    build.says(&["/no/program", "hint: open a shell in it: cofferdam debug"]);
    let _ = world.debugged(&["--", "sh", "-c", "test ! -e /no"])?.ended(exit::OK);
    Ok(())
}

#[test]
fn a_failed_step_gets_no_more_than_is_granted() -> Result<()> {
    let world = World::new()?;
    let context =
        Context::new("ARG REGISTRY\nFROM ${REGISTRY}/busybox\nRUN --security=insecure false\n")?;
    let build = world.build(&context).option("--allow", "security.insecure");
    let _ = build.run()?.ended(exit::BUILD);
    let script = ["--", "grep", "Seccomp:", "/proc/self/status"];
    world.debugged(&script)?.ended(exit::USER).says(&[
        "needs the entitlement `security.insecure`",
        "hint: grant it: --allow security.insecure",
    ]);
    let granted: Vec<&str> = ["--allow", "security.insecure"].into_iter().chain(script).collect();
    assert_eq!(world.debugged(&granted)?.ended(exit::OK).stdout(), "Seccomp:\t0\n");
    let _ = world.fail("ARG REGISTRY\nFROM ${REGISTRY}/busybox\nRUN false\n")?;
    assert_eq!(world.debugged(&granted)?.ended(exit::OK).stdout(), "Seccomp:\t2\n");
    Ok(())
}

/// Waits for something that is bound to happen.
fn until(what: &str, mut happened: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !happened()? {
        ensure!(start.elapsed() < Duration::from_secs(120), "{what} did not happen");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// A program that does not outlive the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn nothing_is_left_when_it_is_killed() -> Result<()> {
    let world = World::new()?;
    let _ = world.fail("ARG REGISTRY\nFROM ${REGISTRY}/busybox\nRUN false\n")?;
    let marker = format!("6{:07}", std::process::id());
    let script = format!("setsid sleep {marker} & sleep {marker}");
    let start = || -> Result<Ended> {
        // Its input stays open.
        let child = world.debug(&["--", "sh", "-c", &script]).stdin(Stdio::piped()).spawn()?;
        let child = Ended(child);
        let sleeping =
            || processes(&marker).iter().filter(|line| line.starts_with("sleep")).count();
        until("the start", || Ok(sleeping() >= 2))?;
        Ok(child)
    };
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let mut child = start()?;
        kill_process(Pid::from_child(&child.0), signal)?;
        assert_eq!(child.0.wait()?.code(), Some(exit::INTERRUPTED));
        assert_eq!(processes(&marker), Vec::<String>::new(), "{signal:?}");
    }
    drop(start()?);
    until("the end", || Ok(processes(&marker).is_empty()))?;
    assert_eq!(world.cofferdam.mounts(), Vec::<String>::new());
    // A reader that goes away ends it as well.
    let mut child = Ended(world.debug(&["--", "yes"]).spawn()?);
    drop(child.0.stdout.take());
    assert_eq!(child.0.wait()?.code(), Some(128 + 13));
    Ok(())
}

/// A shell in a real terminal.
struct Terminal {
    directory: TempDir,
}

impl Terminal {
    fn start(columns: u32, rows: u32) -> Result<Self> {
        let terminal = Self { directory: tempfile::tempdir()? };
        let (columns, rows) = (columns.to_string(), rows.to_string());
        terminal.tmux(&["new-session", "-d", "-x", &columns, "-y", &rows, "sh"])?;
        Ok(terminal)
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("tmux")
    }

    fn tmux(&self, arguments: &[&str]) -> Result<String> {
        let mut tmux = command("tmux", ["-f", "/dev/null", "-S"]);
        tmux.arg(self.socket()).args(arguments).env("LC_ALL", "C.UTF-8");
        run(&mut tmux)
    }

    /// Types a line.
    fn line(&self, text: &str) -> Result<()> {
        self.tmux(&["send-keys", "-l", text])?;
        self.keys(&["Enter"])
    }

    /// Presses keys, by tmux's names.
    fn keys(&self, keys: &[&str]) -> Result<()> {
        let arguments: Vec<&str> = ["send-keys"].iter().chain(keys).copied().collect();
        self.tmux(&arguments).map(drop)
    }

    /// Waits until a line of the screen is this.
    fn shows(&self, text: &str) -> Result<()> {
        let mut screen = String::new();
        let shown = until(text, || {
            screen = self.tmux(&["capture-pane", "-p", "-J"])?;
            Ok(screen.lines().any(|line| line.trim_end() == text))
        });
        shown.with_context(|| format!("no line {text:?} on the screen:\n{screen}"))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.tmux(&["kill-server"]);
    }
}

/// The process of `cofferdam debug` for a state directory.
fn debugger(root: &Path) -> Result<Pid> {
    let root = root.to_string_lossy().into_owned();
    let mut found = None;
    // On a busy machine one look at /proc may miss a process.
    until("cofferdam debug runs", || {
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Ok(pid) = name.parse::<i32>() else { continue };
            let arguments = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
            if arguments.ends_with(&format!("debug --root {root} ")) {
                found = Pid::from_raw(pid);
            }
        }
        Ok(found.is_some())
    })?;
    found.context("a process has a number")
}

#[test]
fn a_terminal_session() -> Result<()> {
    let world = World::new()?;
    let _ = world.fail(FAILING)?;
    let debug = world.debug(&[]);
    let words = [debug.get_program()].into_iter().chain(debug.get_args());
    let debug: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    let debug = debug.join(" ");

    let terminal = Terminal::start(90, 24)?;
    terminal.line("PS1='outside> '; before=$(stty -g); clear")?;
    terminal.line(&format!("{debug}; echo ended with $?"))?;
    terminal.shows("the files are as it left them; what you change is thrown away at the end")?;
    terminal.line("cat /tmp/made; tty; PS1='inside> '")?;
    terminal.shows("/dev/pts/0")?;
    terminal.line("stty size")?;
    terminal.shows("24 90")?;
    terminal.tmux(&["resize-window", "-x", "101", "-y", "31"])?;
    terminal.line("stty size")?;
    terminal.shows("31 101")?;
    // Ctrl-C and Ctrl-Z are the shell's affair in there.
    terminal.line("sh -c 'echo sleeping; sleep 1000'")?;
    terminal.shows("sleeping")?;
    terminal.keys(&["C-c"])?;
    terminal.line("echo still here: $?")?;
    terminal.shows("still here: 130")?;
    terminal.line("sh -c 'echo working; sleep 1000'")?;
    terminal.shows("working")?;
    terminal.keys(&["C-z"])?;
    terminal.line("kill -9 %1; wait; echo job is gone")?;
    terminal.shows("job is gone")?;
    terminal.line("exec sh -c 'exit 4'")?;
    terminal.shows("ended with 4")?;
    let restored = |number: &str| {
        terminal.line(&format!("test \"$before\" = \"$(stty -g)\" && echo as before {number}"))?;
        terminal.shows(&format!("as before {number}"))
    };
    restored("1")?;

    // Out of a program that ignores everything: from here, and by a signal.
    let again = |number: &str| {
        terminal.line(&format!("clear; {debug}; echo {number} ended with $?"))?;
        terminal
            .shows("the files are as it left them; what you change is thrown away at the end")?;
        let deaf = format!("trap '' INT TERM HUP; echo deaf {number}; while :; do sleep 1; done");
        terminal.line(&deaf)?;
        terminal.shows(&format!("deaf {number}"))
    };
    again("2")?;
    terminal.keys(&["C-c", "C-]", "C-]", "C-]"])?;
    terminal.shows("2 ended with 130")?;
    restored("2")?;
    again("3")?;
    kill_process(debugger(&world.cofferdam.root())?, Signal::TERM)?;
    terminal.shows("3 ended with 130")?;
    restored("3")?;
    Ok(())
}
