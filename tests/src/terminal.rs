//! A real terminal: a pane of a tmux server of its own, with a shell in it. Tests type, look at
//! what is on the screen, and change its size.

use std::cell::Cell;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

/// How long something may take to be seen. The machine may be busy.
const PATIENCE: Duration = Duration::from_secs(240);

/// A terminal. Dropping it ends what runs in it.
pub struct Terminal {
    socket: String,
    home: TempDir,
    /// Commands that were run: each one's exit code is told from the others'.
    commands: Cell<u32>,
}

impl Terminal {
    /// Starts a shell with the prompt `$ ` in a terminal of this size.
    ///
    /// # Errors
    /// There is no tmux.
    pub fn start(columns: u16, rows: u16) -> Result<Self> {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let socket = format!("cofferdam-{}-{number}", std::process::id());
        let terminal = Self { socket, home: tempfile::tempdir()?, commands: Cell::new(0) };
        let config = terminal.home.path().join("tmux.conf");
        std::fs::write(
            &config,
            "set -g status off\nset -g history-limit 100000\n\
             set -g default-terminal screen-256color\n",
        )?;
        let (columns, rows) = (columns.to_string(), rows.to_string());
        terminal.tmux(&[
            "-u",
            "-f",
            &config.to_string_lossy(),
            "new-session",
            "-d",
            "-x",
            &columns,
            "-y",
            &rows,
            "env PS1='$ ' bash --norc --noprofile -i",
        ])?;
        terminal.wait("a prompt", |screen| screen.last().is_some_and(|line| line == "$"))?;
        Ok(terminal)
    }

    /// Types a command that is run with nothing of this test's environment but what it says, and
    /// has its exit code printed.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn run(&self, command: &Command) -> Result<()> {
        let script = self.home.path().join("run.sh");
        let mut line = r#"exec env -i "TERM=$TERM""#.to_owned();
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                line +=
                    &format!(" {}={}", name.to_string_lossy(), quoted(&value.to_string_lossy()));
            }
        }
        for word in [command.get_program()].into_iter().chain(command.get_args()) {
            line += &format!(" {}", quoted(&word.to_string_lossy()));
        }
        std::fs::write(&script, line)?;
        let script = script.to_string_lossy().into_owned();
        self.commands.set(self.commands.get() + 1);
        let number = self.commands.get();
        self.type_in(&format!("clear; sh {script}; echo exit code of {number}: $?"))
    }

    /// Types a line.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn type_in(&self, line: &str) -> Result<()> {
        self.tmux(&["send-keys", "-l", line])?;
        self.press("Enter")
    }

    /// Presses a key, by tmux's name of it.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn press(&self, key: &str) -> Result<()> {
        self.tmux(&["send-keys", key]).map(|_| ())
    }

    /// Changes the size.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        let (columns, rows) = (columns.to_string(), rows.to_string());
        self.tmux(&["resize-window", "-x", &columns, "-y", &rows]).map(|_| ())
    }

    /// The lines of the screen, without empty ones below the last.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn screen(&self) -> Result<Vec<String>> {
        self.capture(&[])
    }

    /// The lines that scrolled out of the screen, and those of the screen.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn everything(&self) -> Result<Vec<String>> {
        self.capture(&["-S", "-"])
    }

    /// Whether a line of the screen is continued on the next one.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn has_wrapped_lines(&self) -> Result<bool> {
        // In one go: the screen may change between two.
        let both = self.tmux(&[
            "capture-pane",
            "-p",
            ";",
            "display",
            "-p",
            "--",
            "----",
            ";",
            "capture-pane",
            "-p",
            "-J",
        ])?;
        let (apart, joined) = both.split_once("----\n").context("tmux gave one screen")?;
        Ok(apart.trim_end().lines().count() != joined.trim_end().lines().count())
    }

    /// Whether the cursor can be seen.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn shows_cursor(&self) -> Result<bool> {
        Ok(self.tmux(&["display-message", "-p", "#{cursor_flag}"])?.trim() == "1")
    }

    /// Waits until the screen is as it should be, and gives it.
    ///
    /// # Errors
    /// It is not after a very long time.
    pub fn wait(&self, what: &str, is_right: impl Fn(&[String]) -> bool) -> Result<Vec<String>> {
        let began = Instant::now();
        loop {
            let screen = self.screen()?;
            if is_right(&screen) {
                return Ok(screen);
            }
            if began.elapsed() > PATIENCE {
                bail!("never seen: {what}; the screen:\n{}", screen.join("\n"));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until the command that was run has ended, and gives its exit code.
    ///
    /// # Errors
    /// It does not.
    pub fn exit_code(&self) -> Result<i32> {
        let label = format!("exit code of {}: ", self.commands.get());
        let code = |screen: &[String]| {
            let line = screen.iter().rev().find_map(|line| line.strip_prefix(&label));
            line.and_then(|code| code.trim().parse().ok())
        };
        let screen = self.wait("the exit code", |screen| code(screen).is_some())?;
        code(&screen).context("it was there")
    }

    fn capture(&self, arguments: &[&str]) -> Result<Vec<String>> {
        let text = self.tmux(&[&["capture-pane", "-p"], arguments].concat())?;
        Ok(text.trim_end().lines().map(|line| line.trim_end().to_owned()).collect())
    }

    fn tmux(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command(arguments).output().context("cannot start tmux")?;
        let Output { status, stdout, stderr } = output;
        if !status.success() {
            bail!("tmux {arguments:?}: {status}: {}", String::from_utf8_lossy(&stderr));
        }
        Ok(String::from_utf8_lossy(&stdout).into_owned())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command.arg("-L").arg(&self.socket).args(arguments).env_remove("TMUX");
        command.env("TMUX_TMPDIR", self.home.path()).env("LC_ALL", "C.UTF-8");
        command.stdin(Stdio::null());
        command
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may never have come up.
        let _ = self.command(&["kill-server"]).output();
    }
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}
