//! The `cofferdam` program: arguments, progress, exit codes.
//!
//! It alone reads the environment, the home directory and the terminal, and hands the engine
//! everything that it needs. How a build works is for the engine.
//!
//! **Invariant:** it knows nothing below the engine's surface.

mod allow;
mod args;
mod ask;
mod config;
mod contexts;
mod debug;
mod devices;
mod enter;
mod error;
mod lending;
mod output;
mod platforms;
mod progress;
mod raw_terminal;
mod report;
mod request;
mod root;
mod run;
mod storage;
mod tier;

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use cofferdam_build::{Privilege, Repair};
use tracing_subscriber::EnvFilter;

use args::{Cli, Command, Debug, DebugCommand, Dockerfile, Store};
use error::exit;
use progress::terminal;
use progress::text::Colours;
use report::Style;
use run::Setup;

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
    let Cli { root: flag, max_storage, config: file, qemu_dir, cdi_spec_dirs, command } = cli;
    let done = |()| exit::OK;
    let setup = || {
        let env = |name: &str| std::env::var_os(name);
        let is_root = rustix::process::geteuid().is_root();
        // Where it is, and whose, depends on who starts the program, which then may become another.
        let root = root::state_directory(flag.clone(), &env, is_root)?;
        root::check_owner(&root, rustix::process::geteuid().as_raw())?;
        let privilege = if is_root { Privilege::Root } else { root::become_root(&env) };
        let (file, qemu_dir) = (file.clone(), qemu_dir.clone());
        let cdi_spec_dirs = cdi_spec_dirs.clone();
        Ok(Setup { flag, root, max_storage, file, qemu_dir, cdi_spec_dirs, privilege })
    };
    let result = match command {
        Command::Build(args) => match setup() {
            Ok(setup) => return run::run(&args, setup, style).into(),
            Err(error) => Err(error),
        },
        Command::Dockerfile(Dockerfile::Explain { name, format }) => match setup() {
            Ok(setup) => return ask::explain(name, format, setup, style).into(),
            Err(error) => Err(error),
        },
        Command::Debug(Debug { command: Some(DebugCommand::DumpLlb { file }), .. }) => {
            debug::dump_llb(&file).map(done)
        }
        Command::Debug(args) => match setup() {
            Ok(setup) => return debug::run(&args, setup, style).into(),
            Err(error) => Err(error),
        },
        Command::Du(args) => setup().and_then(|setup| storage::du(&setup.root, &args)).map(done),
        Command::Prune(args) => {
            setup().and_then(|setup| storage::prune(&setup.root, &args)).map(done)
        }
        Command::Store(Store::Sync) => setup().and_then(|s| storage::sync(&s.root)).map(done),
        Command::Store(Store::Verify { dry_run }) => {
            let repair = if dry_run { Repair::Report } else { Repair::Drop };
            setup().and_then(|setup| storage::verify(&setup.root, repair))
        }
        Command::Platforms(args) => match setup() {
            Ok(setup) => return platforms::run(args.format, setup, style).into(),
            Err(error) => Err(error),
        },
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
