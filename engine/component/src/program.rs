//! WASI programs: steps on the platform `wasi/wasm`.
//!
//! Unlike a frontend or a file operation, a program is the user's own and does what it likes
//! within what it is given: some directories, arguments, an environment, real clocks and random
//! numbers, and the network only where that is granted. It may compute for as long as it wants if
//! nobody says otherwise; everything else has the limits of any component.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use wasmtime::component::{Linker, ResourceTable};
use wasmtime::{Store, UpdateDeadline};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::{FsPerms, I32Exit, WasiCtx, WasiCtxView, WasiView};

use crate::error::Error;
use crate::limits::{Limits, Meter};
use crate::preview1;
use crate::runtime::{Component, Runtime};
use crate::stdio::{LogStream, Output, Take};

/// The world that a program is of; modules of the first preview are made to fit it.
const WORLD: &str = "wasi:cli/command@0.2";
/// What the memory of a 32-bit program can have.
const MEMORY: usize = 4 << 30;

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
    /// For how long it may compute [for ever].
    pub compute_time: Option<Duration>,
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
        let component = self.load(name, &preview1::component(bytes).map_err(malformed)?)?;
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

impl Program {
    /// Runs the program to its end and gives its exit code. A component that ends with
    /// `wasi:cli/exit.exit`, or that returns, has no others than 0 and 1. Dropping the future stops it.
    ///
    /// # Errors
    /// What stopped it: it crashed or wanted too much memory; [`Error::Host`] when a directory
    /// cannot be opened.
    pub async fn run(&self, run: ProgramRun) -> Result<i32, Error> {
        let limits = Limits {
            memory_bytes: run.memory.unwrap_or(MEMORY),
            compute_time: run.compute_time.unwrap_or(Duration::MAX),
            ..self.component.runtime.limits().clone()
        };
        let mut table = ResourceTable::new();
        table.set_max_capacity(limits.handles);
        let state = State { table, wasi: context(run)?, meter: Meter::new(limits.clone()) };
        let mut store = Store::new(self.component.runtime.engine(), state);
        store.limiter(|state| &mut state.meter);
        store.set_hostcall_fuel(limits.call_bytes);
        store.set_max_component_handles(limits.handles);
        store.set_epoch_deadline(1);
        // Other tasks of this thread come in between, and the future can be dropped.
        store.epoch_deadline_callback(|mut store| {
            store.data_mut().meter.tick(UpdateDeadline::Yield(1))
        });
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
    let ProgramRun { args, env, cwd, preopens, network, output, .. } = run;
    let mut wasi = WasiCtx::builder();
    wasi.args(&args).envs(&env).initial_cwd(cwd);
    let printed = |stream| Output(Printed { output: output.clone(), stream });
    wasi.stdout(printed(LogStream::Stdout)).stderr(printed(LogStream::Stderr));
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

/// Takes what a program prints to one of its streams.
#[derive(Clone)]
struct Printed {
    output: ProgramOutput,
    stream: LogStream,
}

impl Take for Printed {
    fn take(&self, bytes: Bytes) {
        (self.output)(self.stream, bytes);
    }
}
