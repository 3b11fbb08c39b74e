//! What can go wrong with a component, before and while it runs.
//!
//! Every message names the component. What a component *answers* (a build error in a
//! Dockerfile, a file action that failed) is here too, with its parts kept apart, so that
//! whoever shows it can add the source lines.

use std::fmt;
use std::time::Duration;

use crate::frontend::BuildError;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bytes are not a component.
    #[error("component `{component}` is not valid: {reason}")]
    Malformed {
        /// Name of the component.
        component: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The component is larger than components may be.
    #[error("component `{component}` has {size} bytes, and {limit} are allowed")]
    ComponentTooLarge {
        /// Name of the component.
        component: String,
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The component wants something that its kind is not given.
    #[error("component `{component}` imports `{import}`, which {kind} are not given")]
    ForbiddenImport {
        /// Name of the component.
        component: String,
        /// Name of the import.
        import: String,
        /// `frontends` or `file operations`.
        kind: &'static str,
    },
    /// The component has the right imports and does not fit the world all the same.
    #[error("component `{component}` does not fit the world `{world}`: {reason}")]
    WrongWorld {
        /// Name of the component.
        component: String,
        /// The world.
        world: &'static str,
        /// What does not fit.
        reason: String,
    },
    /// The component computed for too long. Time that it spent waiting for the host is not
    /// counted.
    #[error("component `{component}` was stopped: it used more than {limit:?} of computing time")]
    OutOfTime {
        /// Name of the component.
        component: String,
        /// The limit.
        limit: Duration,
    },
    /// The component wanted more memory than it may have.
    #[error(
        "component `{component}` was stopped: it wanted {wanted} bytes of memory, and {limit} are allowed"
    )]
    OutOfMemory {
        /// Name of the component.
        component: String,
        /// What all its memories would have had together, in bytes.
        wanted: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The component wanted a larger table than it may have.
    #[error(
        "component `{component}` was stopped: it wanted a table of {wanted} elements, and {limit} are allowed"
    )]
    TableTooLarge {
        /// Name of the component.
        component: String,
        /// What all its tables would have had together.
        wanted: usize,
        /// The limit.
        limit: usize,
    },
    /// The component called itself too deeply.
    #[error("component `{component}` was stopped: its stack overflowed")]
    StackOverflow {
        /// Name of the component.
        component: String,
        /// The innermost frames.
        frames: Frames,
    },
    /// One call handed over more data than the host takes.
    #[error("component `{component}` was stopped: one call handed over more than {limit} bytes")]
    CallTooLarge {
        /// Name of the component.
        component: String,
        /// The limit in bytes.
        limit: usize,
    },
    /// The component keeps, made or said more of something than it may.
    #[error("component `{component}` was stopped: more than {limit} {what}")]
    TooMany {
        /// Name of the component.
        component: String,
        /// What there was too much of.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// The component crashed.
    #[error("component `{component}` crashed: {reason}{frames}")]
    Trapped {
        /// Name of the component.
        component: String,
        /// The kind of trap.
        reason: String,
        /// The innermost frames.
        frames: Frames,
    },
    /// The component ended its process instead of returning.
    #[error("component `{component}` exited with code {code} instead of returning a result")]
    Exited {
        /// Name of the component.
        component: String,
        /// The code.
        code: i32,
    },
    /// The component returned something that is not a result.
    #[error("component `{component}` returned an invalid result: {reason}")]
    InvalidResult {
        /// Name of the component.
        component: String,
        /// What is wrong.
        reason: String,
    },
    /// The frontend understood the request, and says that it cannot be built.
    #[error("{0}")]
    Build(BuildError),
    /// The file operation could not be done.
    #[error("file action {action}: {message}")]
    FileAction {
        /// Number of the action in its op, from 0.
        action: usize,
        /// What is wrong.
        message: String,
        /// Whether something that was named does not exist.
        not_found: bool,
    },
    /// The host that the component runs for gave up, or could not go on.
    #[error("{0}")]
    Host(String),
    /// Wasmtime could not be set up.
    #[error("cannot set up the component engine: {0}")]
    Engine(String),
}

/// The innermost frames of a component's stack when it stopped, as far as names are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frames(pub Vec<String>);

impl fmt::Display for Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|frame| write!(f, "\n  in {frame}"))
    }
}

/// How many frames of a backtrace are kept: the cause is in the innermost ones.
const MAX_FRAMES: usize = 8;

/// Why the host stops a guest; travels through Wasmtime as the error of a host call.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Stop {
    #[error("out of time")]
    Time(Duration),
    #[error("out of memory")]
    Memory { wanted: usize, limit: usize },
    #[error("table too large")]
    Table { wanted: usize, limit: usize },
    #[error("too many {what}")]
    TooMany { what: &'static str, limit: usize },
    #[error("{0}")]
    Host(String),
    #[error("{0} is not offered to components")]
    NotOffered(&'static str),
}

/// Says what a failed call into a component means.
pub(crate) fn classify(component: &str, error: &wasmtime::Error, call_limit: usize) -> Error {
    let component = component.to_owned();
    let frames = frames(error);
    if let Some(stop) = error.downcast_ref::<Stop>() {
        return match stop.clone() {
            Stop::Time(limit) => Error::OutOfTime { component, limit },
            Stop::Memory { wanted, limit } => Error::OutOfMemory { component, wanted, limit },
            Stop::Table { wanted, limit } => Error::TableTooLarge { component, wanted, limit },
            Stop::TooMany { what, limit } => Error::TooMany { component, what, limit },
            Stop::Host(message) => Error::Host(message),
            stop @ Stop::NotOffered(_) => {
                Error::Trapped { component, reason: stop.to_string(), frames }
            }
        };
    }
    if let Some(exit) = error.downcast_ref::<wasmtime_wasi::I32Exit>() {
        return Error::Exited { component, code: exit.0 };
    }
    match error.downcast_ref::<wasmtime::Trap>() {
        Some(wasmtime::Trap::StackOverflow) => Error::StackOverflow { component, frames },
        Some(trap) => Error::Trapped { component, reason: trap.to_string(), frames },
        None => {
            let reason = error.root_cause().to_string();
            // Wasmtime has no type for this one; `attacks.rs` notices when its words change.
            if reason.contains("fuel allocated for hostcalls") {
                return Error::CallTooLarge { component, limit: call_limit };
            }
            Error::Trapped { component, reason, frames }
        }
    }
}

fn frames(error: &wasmtime::Error) -> Frames {
    let Some(backtrace) = error.downcast_ref::<wasmtime::WasmBacktrace>() else {
        return Frames::default();
    };
    let name = |frame: &wasmtime::FrameInfo| match frame.func_name() {
        Some(name) => name.chars().take(200).collect(),
        None => format!("function {}", frame.func_index()),
    };
    let mut frames: Vec<String> = backtrace.frames().iter().take(MAX_FRAMES).map(name).collect();
    if let more @ 1.. = backtrace.frames().len().saturating_sub(MAX_FRAMES) {
        frames.push(format!("… and {more} more"));
    }
    Frames(frames)
}
