//! The commands of `cofferdam debug`: which failed step is meant, and what is told of it. How a
//! program in it is connected is the business of `enter`.

use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use cofferdam_build::{Config, Engine, Entry, FailedStep, Moment};
use cofferdam_llb::{Definition, to_json};
use cofferdam_session::LocalSession;

use crate::allow;
use crate::args::Debug;
use crate::enter::enter;
use crate::error::{Error, exit};
use crate::lending::{lend, start_agents};
use crate::progress::text::{Colours, clean, clean_lines};
use crate::report::Style;
use crate::{raw_terminal, run};

/// Runs `cofferdam debug` without a further command, and gives its exit code.
pub fn run(args: &Debug, setup: run::Setup, style: Style) -> u8 {
    match run::configure(setup, &[]) {
        Ok(config) => run::block_on(debug(args, config, style), style),
        Err(error) => run::tell_error(&error, style),
    }
}

async fn debug(args: &Debug, config: Config, style: Style) -> Result<u8, Error> {
    let root = config.root.clone();
    let engine = Engine::open(config)?;
    let steps = engine.failed_steps().await?;
    if args.list {
        print(&list(&steps, SystemTime::now()))?;
        return Ok(exit::OK);
    }
    let step = choose(&steps, args.id.as_deref(), &root)?;
    let env = |name: &str| std::env::var_os(name);
    let (session, keys) = lend(LocalSession::default(), &args.lend, &env)?;
    let (session, _agents) = start_agents(session, &keys)?;
    let is_terminal = raw_terminal::is_there();
    if is_terminal || args.program.is_empty() {
        run::tell(&introduce(step, args.input, SystemTime::now()));
    }
    let entry = Entry {
        args: args.program.clone(),
        env: Vec::new(),
        moment: if args.input { Moment::Start } else { Moment::Failure },
        entitlements: allow::entitlements(&args.allow),
    };
    let result = enter(&engine, step, entry, &session, is_terminal).await;
    // The step is gone before this program is, with all its processes.
    engine.shutdown().await;
    match result {
        // As with docker's `run`: the exit code of a shell that finds no such program.
        Err(Error::Engine(error)) if let Some(code) = error.shell_exit_code() => {
            run::tell_error(&Error::Engine(error), style);
            Ok(code as u8)
        }
        other => other,
    }
}

/// The step with this id, or the one that failed last.
fn choose<'a>(
    steps: &'a [FailedStep],
    id: Option<&str>,
    root: &Path,
) -> Result<&'a FailedStep, Error> {
    let Some(id) = id else {
        return steps.first().ok_or_else(|| {
            let root = root.display();
            Error::usage(format!("no failed step is kept in `{root}`"))
                .hint("a step is kept when it fails in `cofferdam build`; use the same --root")
        });
    };
    let mut found = steps.iter().filter(|step| !id.is_empty() && step.id.starts_with(id));
    match (found.next(), found.next()) {
        (Some(step), None) => Ok(step),
        (Some(_), Some(_)) => {
            Err(Error::usage(format!("`{id}` is the beginning of several failed steps' ids"))
                .hint("list them: cofferdam debug --list"))
        }
        (None, _) => Err(Error::usage(format!("no failed step `{id}` is kept"))
            .hint("list them: cofferdam debug --list")),
    }
}

/// The steps as a table.
fn list(steps: &[FailedStep], now: SystemTime) -> String {
    let mut text = format!("{:12}  {:15}  {:20}  STEP\n", "ID", "FAILED", "RESULT");
    for step in steps {
        let (when, exit) = (ago(step.failed, now), step.exit.to_string());
        let _ = writeln!(text, "{:12}  {when:15}  {exit:20}  {}", step.id, name(step));
    }
    text
}

/// What the user is told before a program runs in a step.
fn introduce(step: &FailedStep, input: bool, now: SystemTime) -> String {
    let command: Vec<_> = step.args.iter().map(|argument| quote(argument)).collect();
    let moment = match input {
        true => "the files are as they were before it ran",
        false => "the files are as it left them",
    };
    format!(
        "step `{}` failed {}: {}; its command:\n\n    {}\n\n{moment}; \
         what you change is thrown away at the end\n",
        name(step),
        ago(step.failed, now),
        step.exit,
        clean_lines(&command.join(" ")),
    )
}

/// A step's name on one line.
fn name(step: &FailedStep) -> String {
    clean(&step.name.split_whitespace().collect::<Vec<_>>().join(" "), Colours::Remove)
}

/// How long ago something was, roughly.
fn ago(then: SystemTime, now: SystemTime) -> String {
    // A clock that was set back makes it now.
    let seconds = now.duration_since(then).unwrap_or(Duration::ZERO).as_secs();
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86400 => (seconds / 3600, "hour"),
        _ => (seconds / 86400, "day"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}

/// An argument as one would type it in a shell.
pub fn quote(argument: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@%+=:,./-_".contains(c);
    match !argument.is_empty() && argument.chars().all(plain) {
        true => argument.to_owned(),
        false => format!("'{}'", argument.replace('\'', "'\\''")),
    }
}

fn print(text: &str) -> Result<(), Error> {
    match io::stdout().write_all(text.as_bytes()) {
        // As with `| head`: the reader has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|source| Error::File {
            action: "write to",
            path: "/dev/stdout".into(),
            source,
        }),
    }
}

/// `cofferdam debug dump-llb`: a definition as JSON on standard output.
///
/// # Errors
/// When the file cannot be read or is no definition.
pub fn dump_llb(file: &Path) -> Result<(), Error> {
    let mut bytes = Vec::new();
    let read = match file == Path::new("-") {
        true => io::stdin().read_to_end(&mut bytes).map(drop),
        false => std::fs::read(file).map(|read| bytes = read),
    };
    let of_file = |action, source| Error::File { action, path: file.to_owned(), source };
    read.map_err(|source| of_file("read the definition", source))?;
    let text = show(&bytes)
        .map_err(|source| Error::Definition { name: file.display().to_string(), source })?;
    print(&text)
}

fn show(bytes: &[u8]) -> Result<String, cofferdam_llb::Error> {
    let json = to_json(&Definition::decode(bytes)?)?;
    Ok(format!("{json:#}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_quoted_as_for_a_shell() {
        let quoted = ["/bin/sh", "-c", "echo \"it's\"", "", "a b"].map(quote).join(" ");
        assert_eq!(quoted, r#"/bin/sh -c 'echo "it'\''s"' '' 'a b'"#);
    }

    #[test]
    fn times_are_told_roughly() {
        let check = |seconds: u64| {
            ago(SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
        };
        assert_eq!(
            [0, 1, 119, 7200, 90_000].map(check),
            ["0 seconds ago", "1 second ago", "1 minute ago", "2 hours ago", "1 day ago"]
        );
        let future = SystemTime::UNIX_EPOCH + Duration::from_secs(9);
        assert_eq!(ago(future, SystemTime::UNIX_EPOCH), "0 seconds ago");
    }

    #[test]
    fn definitions_become_json() {
        assert_eq!(show(b"").expect("an empty definition is one"), "[]\n");
        // Field 1 of pb.Definition: one op, an empty message.
        let text = show(&[0x0a, 0x00]).expect("an op");
        assert!(text.starts_with("[\n  {\n    \"digest\": \"sha256:e3b0c442"), "{text}");
        assert!(show(b"\xff\xff").is_err());
    }
}
