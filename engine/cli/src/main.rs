//! The `cofferdam` program: arguments, progress, exit codes.
//!
//! It alone reads the environment, the home directory and the terminal, and hands the engine
//! everything that it needs. How a build works is for the engine.
//!
//! **Invariant:** it knows nothing below the engine's surface.

mod args;
mod ask;
mod config;
mod contexts;
mod debug;
mod enter;
mod error;
mod lending;
mod output;
mod progress;
mod raw_terminal;
mod report;
mod request;
mod root;
mod run;
mod storage;

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use cofferdam_build::Repair;
use tracing_subscriber::EnvFilter;

use args::{Cli, Command, Debug, DebugCommand, Dockerfile, Store};
use error::exit;
use progress::terminal;
use progress::text::Colours;
use report::Style;

fn main() -> ExitCode {
    // Before anything else: this process may be the helper of a step.
    cofferdam_exec_linux::sandbox_entry();
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colours = match io::stderr().is_terminal() && !plain {
        true => Colours::Keep,
        false => Colours::Remove,
    };
    let style = Style { colours };
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error, style),
    };
    show_logs(colours);
    terminal::guard_panics();
    let Cli { root: flag, max_storage, config, command } = cli;
    let is_root = rustix::process::geteuid().is_root();
    let root = root::state_directory(flag.clone(), &|name| std::env::var_os(name), is_root);
    let done = |()| exit::OK;
    let result = match command {
        Command::Build(args) => return run::run(&args, flag, max_storage, config, style).into(),
        Command::Dockerfile(Dockerfile::Explain { name, format }) => {
            return ask::explain(name, format, flag, max_storage, config, style).into();
        }
        Command::Debug(Debug { command: Some(DebugCommand::DumpLlb { file }), .. }) => {
            debug::dump_llb(&file).map(done)
        }
        Command::Debug(args) => return debug::run(&args, flag, max_storage, config, style).into(),
        Command::Du(args) => root.and_then(|root| storage::du(&root, &args)).map(done),
        Command::Prune(args) => root.and_then(|root| storage::prune(&root, &args)).map(done),
        Command::Store(Store::Sync) => root.and_then(|root| storage::sync(&root)).map(done),
        Command::Store(Store::Verify { dry_run }) => {
            let repair = if dry_run { Repair::Report } else { Repair::Drop };
            root.and_then(|root| storage::verify(&root, repair))
        }
        Command::Version => {
            // A reader that went away has no use for it.
            let _ = writeln!(io::stdout(), "cofferdam {}", env!("CARGO_PKG_VERSION"));
            Ok(exit::OK)
        }
    };
    match result {
        Ok(code) => code.into(),
        Err(error) => run::tell_error(&error, style).into(),
    }
}

/// Tells what is wrong with the command line, or gives the help that was asked for.
fn refuse(error: &clap::Error, style: Style) -> ExitCode {
    if let Some(error) = args::not_yet(error) {
        return run::tell_error(&error, style).into();
    }
    // Nothing can be done if it cannot be printed.
    let _ = error.print();
    match error.use_stderr() {
        true => exit::USER.into(),
        false => exit::OK.into(),
    }
}

/// The engine's own log, for finding defects: `COFFERDAM_LOG=debug`.
fn show_logs(colours: Colours) {
    let filter = std::env::var("COFFERDAM_LOG").unwrap_or_default();
    let filter = if filter.is_empty() { "cofferdam=warn".to_owned() } else { filter };
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_ansi(colours == Colours::Keep)
        .with_writer(|| terminal::Messages)
        .init();
}
