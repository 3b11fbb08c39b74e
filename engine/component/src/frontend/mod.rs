//! Runs frontends: components that turn a build request into a graph.
//!
//! The graph grows in the instance's state while the frontend calls `graph`; questions of the
//! `gateway` go to a [`FrontendHost`], which the engine implements. Every string, list and
//! number of the guest becomes a checked type on the way.

mod convert;
mod gateway;
mod graph;
mod traits;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use cofferdam_llb::{Edge, Graph, Source, SourceInfo};
use cofferdam_types::Platform;
use wasmtime::component::HasSelf;

pub use self::traits::{
    FileKind, FileStat, FrontendHost, HostError, ResolveMode, ResolvedImage, Snapshot, Subgraph,
    Warning,
};
use crate::error::Error;
use crate::limits::Limits;
use crate::runtime::{Component, Kind, State, Tick};

pub(crate) mod bindings {
    //! What Wasmtime makes of the WIT.

    wasmtime::component::bindgen!({
        path: "../../wit/frontend",
        world: "cofferdam:frontend/frontend",
        imports: {
            "cofferdam:frontend/gateway.solve": async | trappable,
            "cofferdam:frontend/gateway.resolve-image": async | trappable,
            "cofferdam:frontend/gateway.named-input": async | trappable,
            "cofferdam:frontend/gateway.call-frontend": async | trappable,
            "cofferdam:frontend/gateway.[method]snapshot.read-file": async | trappable,
            "cofferdam:frontend/gateway.[method]snapshot.read-dir": async | trappable,
            "cofferdam:frontend/gateway.[method]snapshot.stat-file": async | trappable,
            default: trappable,
        },
        exports: { default: async },
        with: {
            "cofferdam:llb/graph.output": super::graph::OutputHandle,
            "cofferdam:frontend/gateway.snapshot": super::gateway::SnapshotHandle,
        },
    });
}

const KIND: Kind = Kind {
    plural: "frontends",
    world: "cofferdam:frontend/frontend@0.1.0",
    imports: &[
        "cofferdam:frontend/gateway@0.1.0",
        "cofferdam:frontend/types@0.1.0",
        "cofferdam:llb/graph@0.1.0",
        "cofferdam:llb/types@0.1.0",
    ],
};

/// A frontend. Cheap to clone.
#[derive(Clone)]
pub struct Frontend {
    component: Component,
    pre: bindings::FrontendPre<State<FrontendState>>,
    limits: Limits,
}

/// What one run of a frontend has made so far.
pub(crate) struct FrontendState {
    host: Arc<dyn FrontendHost>,
    graph: Graph,
    source: Source,
    /// Bytes of all registered source files.
    source_bytes: usize,
    /// Number of all locations of ops.
    locations: usize,
}

/// What to build.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The options of BuildKit's frontends: `filename`, `target`, `build-arg:NAME`, …
    pub options: BTreeMap<String, String>,
    /// Platforms to build for; at least one.
    pub platforms: Vec<Platform>,
    /// The platform of the machine that the build runs on.
    pub build_platform: Platform,
    /// A subrequest (`frontend.outline`, …) instead of a build; empty: build.
    pub subrequest: String,
}

/// What the frontend made of a request.
#[derive(Clone, Debug)]
pub struct BuildResult {
    /// The graph that all outputs are in.
    pub graph: Graph,
    /// The source files that the frontend registered, and which op comes from where.
    pub source: Source,
    /// One for each platform of the request, in its order; none for a subrequest.
    pub results: Vec<PlatformResult>,
    /// Further results by name (`result.json`, …).
    pub metadata: BTreeMap<String, Vec<u8>>,
}

/// The result for one platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlatformResult {
    /// The platform.
    pub platform: Platform,
    /// The tree, in the result's graph; `None` is an empty one.
    pub output: Option<Edge>,
    /// The image config, JSON in Docker's form; empty when there is none.
    pub config: Vec<u8>,
}

/// A place in a source file: lines, or a part of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceRange {
    /// Which of the registered files.
    pub source: u32,
    /// First line, counted from 1.
    pub start_line: u32,
    /// Last line, inclusive.
    pub end_line: u32,
    /// First column in the first line, in characters, counted from 1; 0: the whole lines.
    pub start_column: u32,
    /// Last column in the last line, inclusive; 0: to the end of the line.
    pub end_column: u32,
}

/// The frontend's own word on why there is no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildError {
    /// One line: what is wrong.
    pub message: String,
    /// Where.
    pub locations: Vec<SourceRange>,
    /// What to try next, one sentence each.
    pub hints: Vec<String>,
    /// What else is wrong.
    pub others: Vec<Problem>,
    /// The files that the locations point into.
    pub sources: Vec<SourceInfo>,
}

/// One more thing that is wrong, of those that the frontend tells at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// One line: what is wrong.
    pub message: String,
    /// Where.
    pub locations: Vec<SourceRange>,
    /// What to try next, one sentence each.
    pub hints: Vec<String>,
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// What a frontend says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// One paragraph on the language.
    pub summary: String,
    /// Options that it understands, with one line each.
    pub options: Vec<(String, String)>,
    /// Subrequests that it answers.
    pub subrequests: Vec<String>,
}

impl Frontend {
    /// Takes a component for what it is said to be.
    ///
    /// # Errors
    /// [`Error::ForbiddenImport`] or [`Error::WrongWorld`].
    pub fn new(component: Component) -> Result<Self, Error> {
        component.check_imports(&KIND)?;
        let wrong = |error: wasmtime::Error| component.wrong_world(&KIND, &error);
        let mut linker = component.linker().map_err(wrong)?;
        bindings::Frontend::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)
            .map_err(wrong)?;
        let pre = linker.instantiate_pre(&component.code).map_err(wrong)?;
        let pre = bindings::FrontendPre::new(pre).map_err(wrong)?;
        let limits = component.runtime.limits().clone();
        Ok(Self { component, pre, limits })
    }

    /// Sets other limits than the runtime's.
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// The component.
    pub fn component(&self) -> &Component {
        &self.component
    }

    /// Has the frontend build `request` in a fresh instance. Dropping the future ends the run.
    ///
    /// # Errors
    /// [`Error::Build`] when the frontend says that the request cannot be built, or what
    /// stopped the component.
    pub async fn build(
        &self,
        request: Request,
        host: Arc<dyn FrontendHost>,
    ) -> Result<BuildResult, Error> {
        let mut store = self.store(host);
        let platforms =
            if request.subrequest.is_empty() { request.platforms.clone() } else { Vec::new() };
        let request = request.into();
        let answer = async {
            let instance = self.pre.instantiate_async(&mut store).await?;
            instance.call_build(&mut store, &request).await
        }
        .await
        .map_err(|error| self.component.classify(&error, &self.limits))?;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                let sources = std::mem::take(&mut store.data_mut().host.source.infos);
                return Err(Error::Build(convert::build_error(error, sources)));
            }
        };
        let invalid =
            |reason| Error::InvalidResult { component: self.component.name().to_owned(), reason };
        let state = store.data_mut();
        let results =
            convert::results(answer.results, &platforms, &state.table).map_err(invalid)?;
        Ok(BuildResult {
            graph: std::mem::take(&mut state.host.graph),
            source: std::mem::take(&mut state.host.source),
            results,
            metadata: answer.metadata.into_iter().collect(),
        })
    }

    /// Asks the frontend what it is.
    ///
    /// # Errors
    /// What stopped the component.
    pub async fn describe(&self, host: Arc<dyn FrontendHost>) -> Result<Description, Error> {
        let mut store = self.store(host);
        let description = async {
            let instance = self.pre.instantiate_async(&mut store).await?;
            instance.call_describe(&mut store).await
        }
        .await
        .map_err(|error| self.component.classify(&error, &self.limits))?;
        Ok(description.into())
    }

    fn store(&self, host: Arc<dyn FrontendHost>) -> wasmtime::Store<State<FrontendState>> {
        let logger = host.clone();
        let log: crate::wasi::LogSink = Arc::new(move |stream, line| logger.log(stream, line));
        let state = FrontendState {
            host,
            graph: Graph::new(),
            source: Source::default(),
            source_bytes: 0,
            locations: 0,
        };
        self.component.store(state, &self.limits, log, Tick::Yield)
    }
}
