//! Runs the helper programs of the suites (skopeo, umoci, apt-get) and turns a failure into an
//! error that carries the whole command and what it printed.

use std::ffi::OsStr;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// Makes a command of a program and its arguments, with no standard input.
pub fn command<I, S>(program: &str, arguments: I) -> Command
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs a command to its end and returns its standard output.
///
/// # Errors
/// The program is missing, or ended with anything but exit code 0; the error has its output.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?} failed: {}\n{stdout}{stderr}", output.status);
    }
    Ok(stdout)
}
