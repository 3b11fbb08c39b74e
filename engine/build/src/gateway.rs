//! What a frontend asks while it works, answered by the engine.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use cofferdam_component::{
    FileKind, FileStat, FrontendHost, HostError, LogStream, ResolveMode, ResolvedImage, Snapshot,
    SourceRange, Subgraph, TreePath, Warning,
};
use cofferdam_llb::{Edge, Graph, Source};
use cofferdam_patterns::Glob;
use cofferdam_solver::Job;
use cofferdam_store::{Found, NodeKind, Tree};
use cofferdam_types::{Digest, Platform};

use crate::entitlement;
use crate::graph::{BuildContext, OpGraph};
use crate::progress::{BuildEvent, Phase, Sink, excerpts};
use crate::vertex::{OpVertex, blocking};
use crate::{Error, Excerpt, Failure, missing, source};

/// Serves one run of a frontend.
pub(crate) struct Gateway {
    pub(crate) context: Arc<BuildContext>,
    pub(crate) job: Arc<Job<OpVertex>>,
    pub(crate) sink: Sink,
    /// Why a solve failed; the frontend only hears a line of it.
    pub(crate) failure: Mutex<Option<Failure>>,
}

impl Gateway {
    /// The failure of a step that the frontend asked for, if there was one.
    pub(crate) fn take_failure(&self) -> Option<Failure> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Tells the frontend in a line what the client is told in full.
    fn failed(&self, failure: Failure) -> HostError {
        let line = failure.to_string();
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
        HostError::BuildFailed(line)
    }
}

#[async_trait]
impl FrontendHost for Gateway {
    async fn resolve_image(
        &self,
        reference: &str,
        platform: Option<Platform>,
        _mode: ResolveMode,
        log_name: &str,
    ) -> Result<ResolvedImage, HostError> {
        let phase = Phase::start(&self.sink, log_name);
        let platform = platform.unwrap_or_else(Platform::host).normalized();
        let resolved = async {
            let origin = source::origin(&self.context, reference)?;
            Ok(self.context.engine.images.resolve(&origin, &platform).await?)
        };
        match phase.end(resolved.await) {
            Ok(image) => Ok(ResolvedImage {
                reference: reference.split('@').next().unwrap_or(reference).to_owned(),
                digest: image.root,
                config: image.config.to_vec(),
            }),
            Err(error) => {
                let missing = matches!(
                    &error,
                    Error::Source(cofferdam_source::Error::Registry(registry))
                        if registry.kind() == cofferdam_registry::ErrorKind::NotFound
                );
                Err(match self.failed(error.into()) {
                    HostError::BuildFailed(line) if missing => HostError::NotFound(line),
                    other => other,
                })
            }
        }
    }

    async fn solve(
        &self,
        graph: &Graph,
        source: &Source,
        edge: Edge,
    ) -> Result<Arc<dyn Snapshot>, HostError> {
        match self.context.solve(&self.job, graph, source, edge).await {
            Ok(snapshot) => {
                let tree = self.context.engine.store.tree(&snapshot);
                let tree = tree.map_err(|error| HostError::Stop(error.to_string()))?;
                Ok(Arc::new(Built(tree)))
            }
            Err(failure) => Err(self.failed(failure)),
        }
    }

    async fn named_input(&self, name: &str) -> Result<Option<Subgraph>, HostError> {
        Err(HostError::NotFound(format!("the request has no input `{name}`")))
    }

    async fn call_frontend(
        &self,
        source: &str,
        _options: BTreeMap<String, String>,
    ) -> Result<Option<Subgraph>, HostError> {
        Err(HostError::Unsupported(format!("calling the frontend `{source}` is not supported yet")))
    }

    fn warn(&self, warning: Warning, source: &Source) {
        let excerpts = excerpts(&source.infos, &warning.locations);
        (self.sink)(BuildEvent::Warning { warning, excerpts });
    }

    fn log(&self, _stream: LogStream, line: &str) {
        tracing::info!(target: "frontend", "{line}");
    }
}

impl BuildContext {
    /// Builds one edge of a graph.
    pub(crate) async fn solve(
        self: &Arc<Self>,
        job: &Job<OpVertex>,
        graph: &Graph,
        source: &Source,
        edge: Edge,
    ) -> Result<cofferdam_store::Snapshot, Failure> {
        // Also where a result is known, or another build is at it.
        let vertices = graph.reachable(&edge);
        let devices = entitlement::devices(&self.engine.cdi, entitlement::steps(&vertices)).await?;
        let entitlements = &self.request.entitlements;
        let granted = entitlement::grant_all(entitlements, &devices, source, &vertices);
        let granted = granted.map_err(|failure| *failure)?;
        let ops = OpGraph::new(self, graph, edge, granted)?;
        match job.solve(&ops.vertices, ops.edge).await {
            Ok(record) => Ok(record.value),
            Err(error) => {
                let (cause, step) = crate::error::from_solver(&error);
                let op = ops.vertices.get(&error.vertex());
                let excerpts = op.map(|op| op_excerpts(source, &op.op_digest()));
                let mut hints = cause.hints();
                if let (Error::File { .. }, Some(op)) = (&*cause, op) {
                    hints.extend(missing::hints(self, graph, &op.op_digest()).await);
                }
                Err(Failure {
                    error: cause,
                    step,
                    excerpts: excerpts.unwrap_or_default(),
                    hints,
                    log: None,
                    others: Vec::new(),
                })
            }
        }
    }
}

/// The lines that an op comes from.
pub(crate) fn op_excerpts(source: &Source, op: &Digest) -> Vec<Excerpt> {
    let line = |position: Option<cofferdam_llb::Position>| {
        position.and_then(|at| u32::try_from(at.line).ok()).unwrap_or(1)
    };
    let locations = source.locations.get(op).into_iter();
    let places = locations.flat_map(|locations| &locations.locations).flat_map(|location| {
        let source = u32::try_from(location.source_index).unwrap_or(u32::MAX);
        location.ranges.iter().map(move |range| {
            let start_line = line(range.start);
            let end_line = line(range.end).max(start_line);
            SourceRange { source, start_line, end_line, ..SourceRange::default() }
        })
    });
    excerpts(&source.infos, &places.collect::<Vec<_>>())
}

/// A tree that was built for a frontend.
struct Built(Tree);

#[async_trait]
impl Snapshot for Built {
    async fn read_file(
        &self,
        path: &TreePath,
        offset: u64,
        max: u32,
    ) -> Result<Vec<u8>, HostError> {
        let (tree, path) = (self.0.clone(), path.clone());
        blocking(move || {
            use std::io::Read;
            let mut file = tree.open(path.as_bytes())?;
            file.skip(offset);
            let mut bytes = Vec::new();
            file.take(max.into())
                .read_to_end(&mut bytes)
                .map_err(|error| Error::Internal(format!("cannot read `{path}`: {error}")))?;
            Ok(bytes)
        })
        .await
        .map_err(|error| host_error(&error))
    }

    async fn read_dir(&self, path: &TreePath, pattern: &str) -> Result<Vec<FileStat>, HostError> {
        let glob = Glob::new(pattern).map_err(|error| HostError::Invalid(error.to_string()))?;
        let (_, found) =
            self.0.resolve(path.as_bytes(), true).map_err(|e| host_error(&e.into()))?;
        if !found.is_directory() {
            return Err(HostError::Invalid(format!("`{path}` is not a directory")));
        }
        let wanted =
            |name: &[u8]| pattern.is_empty() || glob.matches(&String::from_utf8_lossy(name));
        Ok(found
            .children()
            .into_iter()
            .filter(|child| wanted(child.name))
            .map(|child| stat(child.name, &child.found))
            .collect())
    }

    async fn stat_file(&self, path: &TreePath) -> Result<FileStat, HostError> {
        let (real, found) =
            self.0.resolve(path.as_bytes(), false).map_err(|error| host_error(&error.into()))?;
        let name = real.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        Ok(stat(name, &found))
    }
}

fn host_error(error: &Error) -> HostError {
    match error {
        Error::Store(cofferdam_store::Error::NotFound(_)) => HostError::NotFound(error.to_string()),
        Error::Store(
            cofferdam_store::Error::WrongKind { .. } | cofferdam_store::Error::InvalidPath { .. },
        ) => HostError::Invalid(error.to_string()),
        other => HostError::Stop(other.to_string()),
    }
}

fn stat(name: &[u8], found: &Found<'_>) -> FileStat {
    let node = found.node();
    let (kind, size, link_target) = match &node.kind {
        NodeKind::Directory(_) => (FileKind::Directory, 0, None),
        NodeKind::Regular(regular) => (FileKind::Regular, regular.size, None),
        NodeKind::Symlink(target) => (FileKind::Symlink, 0, Some(target.clone())),
        NodeKind::CharacterDevice(..) => (FileKind::CharacterDevice, 0, None),
        NodeKind::BlockDevice(..) => (FileKind::BlockDevice, 0, None),
        NodeKind::Fifo => (FileKind::Fifo, 0, None),
        // A tree never shows a whiteout.
        NodeKind::Socket | NodeKind::Whiteout => (FileKind::Socket, 0, None),
    };
    let cofferdam_store::Attributes { mode, uid, gid, mtime, .. } = node.attributes;
    FileStat { name: name.to_vec(), kind, mode, uid, gid, size, mtime, link_target }
}
