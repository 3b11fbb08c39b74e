//! The parts of WASI 0.2 that the run time of a guest's language needs, made deterministic.
//!
//! No file system, environment, arguments or input; clocks that count calls; random numbers
//! that are the same in every run; stdout and stderr become log lines. Interfaces that are
//! not linked here are refused by name before a component runs.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cofferdam_types::Digest;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::cli::{WasiCli, WasiCliView};
use wasmtime_wasi::filesystem::{WasiFilesystem, WasiFilesystemView};
use wasmtime_wasi::p2::bindings::{cli, clocks, filesystem, random};
use wasmtime_wasi::p2::{DynPollable, pipe};
use wasmtime_wasi::random::{WasiRandom, WasiRandomView};
use wasmtime_wasi::{Deterministic, WasiCtx};

use crate::error::Stop;
use crate::runtime::State;
use crate::stdio::{LogStream, Output, Take};

/// The interfaces that `add_to_linker` links, in any 0.2 version.
pub(crate) const INTERFACES: &[&str] = &[
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
];

pub(crate) fn add_to_linker<H: Send + 'static>(
    linker: &mut Linker<State<H>>,
) -> wasmtime::Result<()> {
    let l = linker;
    wasmtime_wasi_io::add_to_linker_async(l)?;
    cli::environment::add_to_linker::<_, WasiCli>(l, State::cli)?;
    cli::exit::add_to_linker::<_, WasiCli>(l, State::cli)?;
    cli::stdin::add_to_linker::<_, WasiCli>(l, State::cli)?;
    cli::stdout::add_to_linker::<_, WasiCli>(l, State::cli)?;
    cli::stderr::add_to_linker::<_, WasiCli>(l, State::cli)?;
    cli::terminal_input::add_to_linker::<_, WasiCli>(l, State::cli)?;
    cli::terminal_output::add_to_linker::<_, WasiCli>(l, State::cli)?;
    cli::terminal_stdin::add_to_linker::<_, WasiCli>(l, State::cli)?;
    cli::terminal_stdout::add_to_linker::<_, WasiCli>(l, State::cli)?;
    cli::terminal_stderr::add_to_linker::<_, WasiCli>(l, State::cli)?;
    clocks::wall_clock::add_to_linker::<_, Clock>(l, |state| &mut state.clock)?;
    clocks::monotonic_clock::add_to_linker::<_, Clock>(l, |state| &mut state.clock)?;
    filesystem::preopens::add_to_linker::<_, WasiFilesystem>(l, State::filesystem)?;
    filesystem::types::add_to_linker::<_, WasiFilesystem>(l, State::filesystem)?;
    random::random::add_to_linker::<_, WasiRandom>(l, State::random)?;
    random::insecure::add_to_linker::<_, WasiRandom>(l, State::random)?;
    random::insecure_seed::add_to_linker::<_, WasiRandom>(l, State::random)?;
    Ok(())
}

impl<H: Send> wasmtime_wasi_io::IoView for State<H> {
    fn table(&mut self) -> &mut ResourceTable {
        &mut self.table
    }
}

/// Takes the log lines of a guest.
pub(crate) type LogSink = Arc<dyn Fn(LogStream, &str) + Send + Sync>;

/// Makes the WASI context of one run.
pub(crate) fn context(log: LogSink, log_bytes: usize) -> WasiCtx {
    let budget = Arc::new(Mutex::new(log_bytes));
    let stream = |stream| {
        let (budget, sink) = (budget.clone(), log.clone());
        Output(Log { lines: Arc::default(), budget, sink, stream })
    };
    // Long enough that a guest which throws away unsuitable numbers does not go round in circles.
    let numbers: Vec<u8> = (0..128u32)
        .flat_map(|block| {
            *Digest::of([b"cofferdam".as_slice(), &block.to_le_bytes()].concat()).as_bytes()
        })
        .collect();
    WasiCtx::builder()
        .stdin(pipe::MemoryInputPipe::new(Bytes::new()))
        .stdout(stream(LogStream::Stdout))
        .stderr(stream(LogStream::Stderr))
        .secure_random(Deterministic::new(numbers.clone()))
        .insecure_random(Deterministic::new(numbers))
        .insecure_random_seed(0)
        .max_random_size(1 << 20)
        .build()
}

/// Clocks that tell nothing: the wall clock stands at 1970, the monotonic clock counts how
/// often it was asked.
#[derive(Default)]
pub(crate) struct Clock {
    asked: u64,
}

impl HasData for Clock {
    type Data<'a> = &'a mut Clock;
}

impl clocks::wall_clock::Host for Clock {
    fn now(&mut self) -> wasmtime::Result<clocks::wall_clock::Datetime> {
        Ok(clocks::wall_clock::Datetime { seconds: 0, nanoseconds: 0 })
    }

    fn resolution(&mut self) -> wasmtime::Result<clocks::wall_clock::Datetime> {
        Ok(clocks::wall_clock::Datetime { seconds: 1, nanoseconds: 0 })
    }
}

impl clocks::monotonic_clock::Host for Clock {
    fn now(&mut self) -> wasmtime::Result<u64> {
        self.asked += 1;
        Ok(self.asked)
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        Ok(1)
    }

    fn subscribe_instant(&mut self, _when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        Err(Stop::NotOffered("waiting for a point in time").into())
    }

    fn subscribe_duration(&mut self, _how_long: u64) -> wasmtime::Result<Resource<DynPollable>> {
        Err(Stop::NotOffered("waiting for a point in time").into())
    }
}

/// Longest log line in bytes; longer ones are broken.
const MAX_LINE: usize = 8 << 10;

/// One of the two output streams. All handles of the guest share the unfinished line.
#[derive(Clone)]
struct Log {
    lines: Arc<Mutex<Vec<u8>>>,
    budget: Arc<Mutex<usize>>,
    sink: LogSink,
    stream: LogStream,
}

impl Log {
    fn write(&self, mut bytes: &[u8]) {
        {
            let mut budget = self.budget.lock().expect("no holder of this lock panics");
            if *budget == 0 {
                return;
            }
            bytes = &bytes[..bytes.len().min(*budget)];
            *budget -= bytes.len();
        }
        let mut line = self.lines.lock().expect("no holder of this lock panics");
        for byte in bytes {
            if *byte != b'\n' {
                line.push(*byte);
            }
            if *byte == b'\n' || line.len() >= MAX_LINE {
                self.emit(&mut line);
            }
        }
    }

    fn emit(&self, line: &mut Vec<u8>) {
        (self.sink)(self.stream, String::from_utf8_lossy(line).trim_end_matches('\r'));
        line.clear();
    }
}

impl Drop for Log {
    /// The last handle passes on what has no newline at its end.
    fn drop(&mut self) {
        if let Some(lines) = Arc::get_mut(&mut self.lines) {
            let mut line = std::mem::take(lines.get_mut().unwrap_or_else(|e| e.into_inner()));
            if !line.is_empty() {
                self.emit(&mut line);
            }
        }
    }
}

impl Take for Log {
    fn take(&self, bytes: Bytes) {
        self.write(&bytes);
    }
}
