//! The command `cofferdam build`: opens the engine, runs the build, and ends it on signals.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;

use cofferdam_build::{Config, Engine, Limits, Privilege, Resolver, Response};
use cofferdam_registry::ClientConfig;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::args::{Build, MaxStorage, ProgressMode};
use crate::ask;
use crate::config::{self, Settings};
use crate::debug::quote;
use crate::error::{Error, exit, exit_code};
use crate::lending::{KeyAgent, start_agents};
use crate::progress::{Display, Seen, View, terminal};
use crate::report::{self, Style};
use crate::request::{Prepared, Surroundings, prepare};
use crate::{raw_terminal, root, storage, tier};

/// Ops that may run at once, however few processors there are: steps wait for the network, for
/// the disk, for each other's servers, and stages that do not need each other should not queue.
const MIN_PARALLELISM: usize = 32;
/// The stack of a thread, of which only what is used takes memory. Trees are walked by functions
/// that call themselves, and an image can have as many directories in one another as the longest
/// path can name: 2048.
const STACK: usize = 32 << 20;

/// What the flags of all commands say, and who the program is.
pub struct Setup {
    /// `--root`
    pub flag: Option<PathBuf>,
    /// The state directory.
    pub root: PathBuf,
    /// `--max-storage`
    pub max_storage: Option<MaxStorage>,
    /// `--config`
    pub file: Option<PathBuf>,
    /// `--qemu-dir`
    pub qemu_dir: Option<PathBuf>,
    /// `--cdi-spec-dir`
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// What the program may do on the machine.
    pub privilege: Privilege,
}

/// Runs the command and gives its exit code.
pub fn run(args: &Build, setup: Setup, style: Style) -> u8 {
    let enter = enter_hint(setup.flag.as_deref());
    match ready(args, setup) {
        Ok((config, prepared, _agents)) => {
            block_on(drive(args, config, prepared, &enter, style), style)
        }
        Err(error) => tell_error(&error, style),
    }
}

/// How to enter a step that failed in the state directory that was given.
fn enter_hint(root: Option<&Path>) -> String {
    let root = root.map(|root| format!(" --root {}", quote(&root.to_string_lossy())));
    format!("open a shell in it: cofferdam debug{}", root.unwrap_or_default())
}

/// Tells an error and gives its exit code.
pub fn tell_error(error: &Error, style: Style) -> u8 {
    tell(&report::error(error, style));
    exit_code(error.kind())
}

/// Writes to standard error; if nobody reads it, there is nobody to tell.
pub fn tell(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Reads the command line and the machine.
fn ready(args: &Build, setup: Setup) -> Result<(Config, Prepared, Vec<KeyAgent>), Error> {
    let surroundings = Surroundings {
        env: &|name| std::env::var_os(name),
        stdin: &mut io::stdin(),
        stdout_is_terminal: io::stdout().is_terminal(),
    };
    let mut prepared = prepare(args, surroundings)?;
    let mut config = configure(setup, &args.insecure_registries)?;
    config.oci_runtime = args.oci_runtime.as_deref().map(find_program).transpose()?;
    for host in &prepared.insecure {
        let host = config.registries.hosts.entry(host.clone()).or_default();
        (host.http, host.insecure) = (Some(true), true);
    }
    let (session, agents) = start_agents(prepared.session, &prepared.keys)?;
    prepared.session = session;
    Ok((config, prepared, agents))
}

/// Finds a program that a flag names, as a shell would.
fn find_program(name: &Path) -> Result<PathBuf, Error> {
    let search = std::env::var_os("PATH").unwrap_or_default();
    let candidates: Vec<PathBuf> = match name.components().count() {
        1 => std::env::split_paths(&search).map(|directory| directory.join(name)).collect(),
        _ => vec![name.to_owned()],
    };
    let found = candidates.iter().find_map(|path| path.canonicalize().ok().filter(|p| p.is_file()));
    found.ok_or_else(|| {
        let message = format!("the OCI runtime `{}` is not there", name.display());
        Error::Configuration(message)
    })
}

/// How the engine is set up on this machine.
///
/// # Errors
/// When the machine lacks something, or the user's set-up cannot be read.
pub fn configure(setup: Setup, insecure_registries: &[String]) -> Result<Config, Error> {
    let Setup { flag: _, root, max_storage, file, qemu_dir, cdi_spec_dirs, privilege } = setup;
    let env = |name: &str| -> Option<OsString> { std::env::var_os(name) };
    let credentials = Arc::new(root::credentials(&env)?);
    let registries = ClientConfig { credentials, ..ClientConfig::default() };
    let settings = Settings { registries, ..Settings::default() };
    let Settings { mut registries, dns, mut network, qemu_dir: configured, cdi } =
        config::apply(file.as_deref(), &env, settings)?;
    for host in insecure_registries {
        registries.hosts.entry(host.clone()).or_default().http = Some(true);
    }
    let search = env("PATH").unwrap_or_default();
    network.programs = std::env::split_paths(&search).filter(|path| path.is_absolute()).collect();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(Config {
        max_storage: root::max_storage(max_storage, &env, &root)?,
        root,
        registries,
        git: root::git(&env),
        parallelism: cores.max(MIN_PARALLELISM),
        resolver: Resolver {
            config: dns,
            host: root::resolv_conf(Path::new("/etc/resolv.conf"))?,
            upstream: root::resolv_conf(Path::new("/run/systemd/resolve/resolv.conf"))?,
        },
        network,
        privilege,
        cdi: config::spec_dirs(cdi, cdi_spec_dirs),
        qemu_directories: root::qemu_directories(qemu_dir.or(configured), &env),
        limits: Limits::default(),
        oci_runtime: None,
    })
}

/// Runs a command's work, and gives its exit code.
pub fn block_on(work: impl Future<Output = Result<u8, Error>>, style: Style) -> u8 {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.enable_all().thread_stack_size(STACK);
    let runtime = match runtime.build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let error = Error::Configuration(format!("cannot start threads: {error}"));
            return tell_error(&error, style);
        }
    };
    let code = match catch_unwind(AssertUnwindSafe(|| runtime.block_on(work))) {
        Ok(Ok(code)) => code,
        Ok(Err(error)) => tell_error(&error, style),
        Err(_) => {
            // The panic's message is on standard error already.
            tell(&style.error("this is a defect in cofferdam"));
            tell(&style.hints(&["report it with the message above".to_owned()]));
            exit::INTERNAL
        }
    };
    // What may still run is work that the store forgets if it is not completed. Its threads end with
    // this process: to end them now would detach them while they do, and glibc may then read the
    // stack of one that has gone (sourceware bug 19951), which ended builds that had succeeded.
    std::mem::forget(runtime);
    code
}

async fn drive(
    args: &Build,
    config: Config,
    prepared: Prepared,
    enter: &str,
    style: Style,
) -> Result<u8, Error> {
    let Prepared { request, session, cache_only, temporary: _temporary, .. } = prepared;
    if args.print_tier {
        return tier::print(config, request, session, style).await;
    }
    let interrupted = listen()?;
    let root = config.root.clone();
    let engine = Engine::open(config)?;
    let view = view(args.progress());
    let display = Display::start(view, style.colours, io::stderr());
    let result = {
        let build = pin!(engine.build(request, Arc::new(session), display.sink()));
        tokio::select! {
            result = build => Some(result),
            // Sent before the task ends, or the program does.
            _ = interrupted => None,
        }
        // Dropping the build cancels what still runs of it.
    };
    engine.shutdown().await;
    let seen = display.finish(result.as_ref().and_then(|result| result.as_ref().ok()));
    if engine.needs_sync().unwrap_or(false)
        && let Err(error) = storage::sync_later(&root)
    {
        tell(&style.warning(&format!("cannot start `cofferdam store sync`: {error}")));
    }
    match result {
        Some(Ok(response)) => {
            tell_seen(&seen, style);
            if let Some(call) = args.call() {
                return ask::answer(&response, call.format);
            }
            if matches!(view, View::Terminal | View::Plain) {
                let columns = (view == View::Terminal).then(|| terminal::Size::current().columns);
                tell(&report::summary(&seen.summary, &response.exported, columns));
                tell(&report::logs(&response));
            }
            succeed(args, &response, cache_only, style)?;
            Ok(exit::OK)
        }
        Some(Err(mut failure)) => {
            if failure.error.can_be_entered() {
                failure.hints.push(enter.to_owned());
            }
            tell_seen(&seen, style);
            tell(&report::failure(&failure, &seen.tails, style));
            Ok(exit_code(failure.error.kind()))
        }
        None => {
            tell(&style.error("interrupted"));
            Ok(exit::INTERRUPTED)
        }
    }
}

/// How progress is shown where standard error goes.
fn view(mode: ProgressMode) -> View {
    // A terminal that can do no more than a printer gets lines.
    let draws = || {
        let term = std::env::var_os("TERM");
        io::stderr().is_terminal() && term.is_some_and(|term| !term.is_empty() && term != "dumb")
    };
    match mode {
        ProgressMode::Auto | ProgressMode::Tty if draws() => View::Terminal,
        ProgressMode::Auto | ProgressMode::Tty | ProgressMode::Plain => View::Plain,
        ProgressMode::Json => View::Json,
        ProgressMode::Quiet => View::Nothing,
    }
}

/// Tells what is worth telling however the build ended.
fn tell_seen(seen: &Seen, style: Style) {
    for (warning, excerpts) in &seen.warnings {
        tell(&report::warning(warning, excerpts, style));
    }
    if seen.left_out > 0 {
        tell(&style.warning(
            "some output of the steps is not shown: it came faster than it could be written",
        ));
    }
}

fn succeed(args: &Build, response: &Response, cache_only: bool, style: Style) -> Result<(), Error> {
    let write = |action, path: &Path, text: String| {
        std::fs::write(path, text).map_err(|source| {
            let path = path.to_owned();
            Error::File { action, path, source }
        })
    };
    let id = response.exported.iter().find_map(|export| export.config.or(export.digest));
    if let (Some(path), Some(id)) = (&args.iidfile, id) {
        write("write the image ID to", path, id.to_string())?;
    }
    if let Some(path) = &args.metadata_file {
        write("write the metadata to", path, report::metadata(response))?;
    }
    match args.progress() {
        ProgressMode::Quiet => {
            if let Some(id) = id {
                writeln!(io::stdout(), "{id}").map_err(|source| Error::File {
                    action: "write the image ID to",
                    path: "/dev/stdout".into(),
                    source,
                })?;
            }
            return Ok(());
        }
        ProgressMode::Json => {}
        ProgressMode::Auto | ProgressMode::Tty | ProgressMode::Plain => {
            tell(&report::images(response));
        }
    }
    if cache_only {
        tell(&style.warning("no output was asked for: the result stays in the build cache only"));
        tell(&style.hints(&["name it with --tag, or say where to with --output".to_owned()]));
    }
    Ok(())
}

/// Listens for the signals that end a command: tells of the first, and ends the program at the
/// second, whatever it is doing, because the user does not want to wait for the cleaning up.
///
/// # Errors
/// When signals cannot be listened for.
pub fn listen() -> Result<oneshot::Receiver<()>, Error> {
    let listen = |kind| {
        signal(kind)
            .map_err(|error| Error::Configuration(format!("cannot listen for signals: {error}")))
    };
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hang_up = listen(SignalKind::hangup())?;
    let mut next = async move || {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hang_up.recv() => {}
        }
    };
    let (tell, told) = oneshot::channel();
    tokio::spawn(async move {
        next().await;
        // The work may be over already.
        let _ = tell.send(());
        next().await;
        terminal::give_back();
        raw_terminal::restore();
        std::process::exit(exit::INTERRUPTED.into());
    });
    Ok(told)
}
