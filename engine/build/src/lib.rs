//! Puts the rooms together: one [`Engine::build`] takes a request and a session, runs the
//! frontend, solves its graph with the concrete ops, and exports the result.
//!
//! **Invariant:** it never knows the terminal, the environment or the home directory: everything
//! is passed in.

mod agent;
mod cache;
mod differences;
mod engine;
mod entitlement;
mod error;
mod exec;
mod export;
mod failed_step;
mod file;
mod gateway;
mod graph;
mod leaves;
mod logs;
mod missing;
mod mounts;
mod network;
mod platforms;
mod progress;
mod remote;
mod request;
mod resolver;
mod source;
mod state;
mod tier;
mod trees;
mod vertex;
mod wasi;

pub use cofferdam_component::{Limits, Warning};
pub use cofferdam_exec_linux::{
    CdiConfig, CdiProblem, Chosen as StepNetwork, Denied, Device, DeviceGrants, Entitlements,
    Input, Limits as StepLimits, NetworkConfig, NetworkKind, NetworkMode, ParseSubnetError,
    Streams, Subnet, Swap, TerminalEvent, TerminalSize, host_address,
};
pub use cofferdam_export::{
    Annotations, Compression, ImageOptions, LayoutFormat, LoadTargets, Loaded, Others, Place,
};
pub use cofferdam_solver::{Change, Event, EventKind, Miss, Outcome, Status, Stream};
pub use cofferdam_source::GitConfig;
pub use engine::{Config, Engine, Privilege};
pub use error::{Diagnostic, Error, Excerpt, Failure, INSTALL_QEMU, Kind, StepExit};
pub use failed_step::{Entry, FailedStep, Moment, OutputStream};
pub use platforms::{How, Means, Missing, Runnable, devices, platforms};
pub use progress::{BuildEvent, Sink};
pub use request::{
    Dangling, Destination, Export, Exported, FileOptions, FrontendChoice, ImageExport,
    LayoutDestination, Push, Request, Response, WasmArtifact,
};
pub use resolver::{DnsConfig, Resolver};
pub use state::{
    DiskUsage, Filter, Problem, Prune, Pruned, Repair, StateDirectory, Usage, Verified,
};
pub use tier::{Need, Tier};
