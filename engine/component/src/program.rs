//! WASI programs: steps on the platform `wasi/wasm`.
//!
//! Unlike a frontend or a file operation, a program is the user's own and does what it likes
//! within what it is given: some directories, arguments, an environment, real clocks and random
//! numbers, and the network only where that is granted. It may compute for as long as it wants;
//! its memory is limited. Modules of the first preview of WASI are made
//! components by the adapter of Wasmtime's project, so that there is one way to run a program.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use wasmtime::component::{Linker, ResourceTable};
use wasmtime::{Store, UpdateDeadline};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};
use wasmtime_wasi::{FsPerms, I32Exit, WasiCtx, WasiCtxView, WasiView};

use crate::error::Error;
use crate::limits::{Limits, Meter};
use crate::runtime::{Component, Runtime};
use crate::wasi::LogStream;

/// The world that a program is of; the adapter makes modules of the first preview fit it.
const WORLD: &str = "wasi:cli/command@0.2";
/// What the memory of a 32-bit program can have.
const MEMORY: usize = 4 << 30;
/// How a binary begins that is a module; a component has another version.
const MODULE: &[u8] = b"\0asm\x01\0\0\0";

/// A program that runs once and ends. Cheap to clone.
#[derive(Clone)]
pub struct Program {
    component: Component,
    pre: CommandPre<State>,
}

/// A directory that a program sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preopen {
    /// The path that the program knows it by.
    pub guest: String,
    /// The directory. No path or symlink leads out of it.
    pub host: PathBuf,
    /// Whether it can only be read.
    pub readonly: bool,
}

/// How a program is run.
pub struct ProgramRun {
    /// The arguments; the first is the program's name.
    pub args: Vec<String>,
    /// The environment.
    pub env: Vec<(String, String)>,
    /// The working directory, as far as the program's language has one.
    pub cwd: String,
    /// All that it sees of the file system.
    pub preopens: Vec<Preopen>,
    /// Whether it may use the network as this process can.
    pub network: bool,
    /// The most bytes that its memories may have together [4 GiB, what one can have].
    pub memory: Option<usize>,
    /// Takes what it prints.
    pub output: ProgramOutput,
}

/// Takes what a program prints.
pub type ProgramOutput = Arc<dyn Fn(LogStream, Bytes) + Send + Sync>;

struct State {
    table: ResourceTable,
    wasi: WasiCtx,
    meter: Meter,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl Runtime {
    /// Compiles a program, a component or a module, or finds it compiled. `name` is for messages.
    /// Call this where blocking is right.
    ///
    /// # Errors
    /// [`Error::Malformed`] when it is no WebAssembly or no program, [`Error::WrongWorld`] when it
    /// needs more than WASI has, [`Error::ComponentTooLarge`].
    pub fn load_program(&self, name: &str, bytes: &[u8]) -> Result<Program, Error> {
        let malformed = |reason| Error::Malformed { component: name.to_owned(), reason };
        let bytes = match bytes.starts_with(MODULE) {
            true => Cow::Owned(adapt(bytes).map_err(malformed)?),
            false => Cow::Borrowed(bytes),
        };
        let component = self.load(name, &bytes)?;
        let wrong = |error: wasmtime::Error| Error::WrongWorld {
            component: name.to_owned(),
            world: WORLD,
            reason: format!("{error:#}"),
        };
        let mut linker = Linker::new(self.engine());
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).map_err(wrong)?;
        let pre = linker.instantiate_pre(&component.code).map_err(wrong)?;
        let pre = CommandPre::new(pre).map_err(wrong)?;
        Ok(Program { component, pre })
    }
}

/// Makes a module of WASI's first preview a component.
fn adapt(module: &[u8]) -> Result<Vec<u8>, String> {
    let adapter = wasi_preview1_component_adapter_provider::WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER;
    let name = wasi_preview1_component_adapter_provider::WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME;
    let encode = || {
        wit_component::ComponentEncoder::default()
            .module(module)?
            .adapter(name, adapter)?
            .validate(true)
            .encode()
    };
    encode().map_err(|error| format!("{error:#}"))
}

impl Program {
    /// Runs the program to its end and gives its exit code, which of most programs is 1 when it
    /// is not 0: WASI 0.2 has no others. Dropping the future stops it.
    ///
    /// # Errors
    /// What stopped it: it crashed or wanted too much memory; [`Error::Host`] when a directory
    /// cannot be opened.
    pub async fn run(&self, run: ProgramRun) -> Result<i32, Error> {
        let limits = Limits {
            memory_bytes: run.memory.unwrap_or(MEMORY),
            ..self.component.runtime.limits().clone()
        };
        let state = State {
            table: ResourceTable::new(),
            wasi: context(run)?,
            meter: Meter::new(limits.clone()),
        };
        let mut store = Store::new(self.component.runtime.engine(), state);
        store.limiter(|state| &mut state.meter);
        store.set_hostcall_fuel(limits.call_bytes);
        store.set_epoch_deadline(1);
        // Other tasks of this thread come in between, and the future can be dropped.
        store.epoch_deadline_callback(|_| Ok(UpdateDeadline::Yield(1)));
        let result = async {
            let command = self.pre.instantiate_async(&mut store).await?;
            command.wasi_cli_run().call_run(&mut store).await
        };
        match result.await {
            Ok(Ok(())) => Ok(0),
            Ok(Err(())) => Ok(1),
            Err(error) => match error.downcast_ref::<I32Exit>() {
                Some(I32Exit(code)) => Ok(*code),
                None => Err(self.component.classify(&error, &limits)),
            },
        }
    }
}

fn context(run: ProgramRun) -> Result<WasiCtx, Error> {
    let ProgramRun { args, env, cwd, preopens, network, memory: _, output } = run;
    let mut wasi = WasiCtx::builder();
    wasi.args(&args).envs(&env).initial_cwd(cwd);
    wasi.stdout(Output { output: output.clone(), stream: LogStream::Stdout });
    wasi.stderr(Output { output, stream: LogStream::Stderr });
    if network {
        wasi.inherit_network().allow_ip_name_lookup(true).allow_tcp(true).allow_udp(true);
    }
    for Preopen { guest, host, readonly } in preopens {
        let permissions = if readonly { FsPerms::ReadOnly } else { FsPerms::ReadWrite };
        wasi.preopened_dir(&host, guest, permissions).map_err(|error| {
            Error::Host(format!("cannot open the directory `{}`: {error}", host.display()))
        })?;
    }
    Ok(wasi.build())
}

/// One of a program's two output streams.
#[derive(Clone)]
struct Output {
    output: ProgramOutput,
    stream: LogStream,
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        // Only WASI 0.3 asks for this form, and it is not linked.
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        (self.output)(self.stream, bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(64 << 10)
    }
}
