//! The concrete ops as vertices: what each one's key is, what it reads, and how it runs.

use std::sync::Arc;

use async_trait::async_trait;
use cofferdam_exec_linux::Granted;
use cofferdam_llb::{Op, OpKind};
use cofferdam_solver::{Change, Context, Edge, InputKey, Key, Leaf, Vertex, VertexError};
use cofferdam_source::Form;
use cofferdam_store::{Selection, Snapshot, Store, hash_tree};
use cofferdam_types::{Digest, Hasher};
use tokio::sync::OnceCell;

use crate::error::Shared;
use crate::graph::BuildContext;
use crate::source::ResolvedSource;
use crate::{Error, differences, exec, file, leaves, source};

/// One op of one build.
pub(crate) struct OpVertex {
    context: Arc<BuildContext>,
    vertex: Arc<cofferdam_llb::Vertex>,
    digest: Digest,
    inputs: Vec<Edge>,
    /// How a source keeps what it fetches.
    form: Form,
    /// What a step may have.
    granted: Option<Granted>,
    /// What a source turned out to be when its key was asked for.
    resolved: OnceCell<ResolvedSource>,
    /// What its result depends on of the machine's, once its key was asked for.
    emulator: OnceCell<Option<String>>,
}

/// How an op enters the cache: what counts of its definition, without the inputs, and what it
/// reads of each input. `None` is everything, by identity.
pub(crate) struct OpKey {
    pub(crate) normal: Op,
    pub(crate) reads: Vec<Option<Vec<Selection>>>,
}

impl OpVertex {
    pub(crate) fn new(
        context: Arc<BuildContext>,
        vertex: Arc<cofferdam_llb::Vertex>,
        digest: Digest,
        inputs: Vec<Edge>,
        form: Form,
        granted: Option<Granted>,
    ) -> Self {
        Self {
            context,
            vertex,
            digest,
            inputs,
            form,
            granted,
            resolved: OnceCell::new(),
            emulator: OnceCell::new(),
        }
    }

    /// The digest that the op has in LLB.
    pub(crate) fn op_digest(&self) -> Digest {
        self.vertex.digest
    }

    fn store(&self) -> &Store {
        &self.context.engine.store
    }

    /// Looks for a difference, which is no reason to fail.
    async fn compare(
        &self,
        work: impl FnOnce() -> Result<Option<Change>, Error> + Send + 'static,
    ) -> Option<Change> {
        let unknown = |error: &Error| tracing::warn!("what changed in a tree: {error}");
        blocking(work).await.inspect_err(unknown).ok().flatten()
    }

    async fn resolved(&self, progress: &Context) -> Result<&ResolvedSource, Error> {
        let OpKind::Source(op) = &self.vertex.op.kind else {
            return Err(Error::Internal("only a source is resolved".into()));
        };
        let platform = self.vertex.op.platform.as_ref();
        self.resolved
            .get_or_try_init(|| source::resolve(&self.context, op, platform, progress))
            .await
    }

    /// What emulates the programs of a step, with its version; nothing if they run by themselves.
    async fn emulator(&self) -> Result<Option<&str>, Error> {
        let find = || async {
            let (OpKind::Exec(_), Some(platform)) =
                (&self.vertex.op.kind, &self.vertex.op.platform)
            else {
                return Ok(None);
            };
            match exec::means(&self.context.engine, platform).await {
                Ok(means) => Ok(means.version()),
                // Running it says so, with the lines that it is about.
                Err(Error::Platform { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        };
        Ok(self.emulator.get_or_try_init(find).await?.as_deref())
    }

    async fn try_run(
        &self,
        inputs: Vec<Snapshot>,
        progress: &Context,
    ) -> Result<Vec<Snapshot>, Error> {
        let op = &self.vertex.op;
        match &op.kind {
            OpKind::Source(_) => {
                let resolved = self.resolved(progress).await?;
                Ok(vec![source::fetch(&self.context, resolved, self.form, progress).await?])
            }
            OpKind::Exec(_) => {
                let granted = self.granted.clone();
                let granted = granted.ok_or_else(|| {
                    Error::Internal("nobody decided what the step may have".into())
                })?;
                exec::run(&self.context, &self.vertex, granted, inputs, progress).await
            }
            OpKind::File(file) => file::run(&self.context, file.clone(), inputs).await,
            OpKind::Merge(merge) => {
                let chain = merge.inputs.iter().map(|input| &inputs[*input as usize]);
                Ok(vec![chain.fold(Snapshot::default(), |below, input| below.and(input))])
            }
            OpKind::Diff(diff) => {
                let side = |input: Option<u32>| match input {
                    Some(input) => inputs[input as usize].clone(),
                    None => Snapshot::default(),
                };
                let (lower, upper) = (side(diff.lower), side(diff.upper));
                match upper.above(&lower) {
                    Some(above) => Ok(vec![above]),
                    None => Err(Error::Unsupported(
                        "a diff of two results of which one is not built on the other".into(),
                    )),
                }
            }
            OpKind::Build(_) | OpKind::Passthrough(_) => {
                Err(Error::Unsupported(format!("the op `{}`", op.kind_name())))
            }
        }
    }
}

/// How an op that is no source enters the cache.
pub(crate) fn normalized(op: &Op) -> Result<OpKey, Error> {
    match &op.kind {
        OpKind::Exec(exec) => Ok(exec::key(op, exec)),
        OpKind::File(file) => Ok(file::key(op, file)),
        OpKind::Merge(_) | OpKind::Diff(_) => Ok(OpKey {
            // Inputs enter by their own keys; what is left is only how they are combined.
            normal: Op {
                inputs: Vec::new(),
                kind: op.kind.clone(),
                platform: None,
                constraints: None,
            },
            reads: op.inputs.iter().map(|_| None).collect(),
        }),
        OpKind::Source(_) => Err(Error::Internal("a source has a key of its own".into())),
        OpKind::Build(_) | OpKind::Passthrough(_) => {
            Err(Error::Unsupported(format!("the op `{}`", op.kind_name())))
        }
    }
}

/// Runs blocking work outside the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Error::Internal(format!("a task ended: {error}"))))
}

#[async_trait]
impl Vertex for OpVertex {
    type Output = Snapshot;

    fn digest(&self) -> Digest {
        self.digest
    }

    fn inputs(&self) -> &[Edge] {
        &self.inputs
    }

    fn name(&self) -> String {
        self.vertex.name().to_owned()
    }

    /// As BuildKit calls it in lists of what is stored.
    fn kind(&self) -> &str {
        match &self.vertex.op.kind {
            OpKind::Source(source) if source.identifier.starts_with("local://") => "source.local",
            _ => "regular",
        }
    }

    fn outputs(&self) -> u32 {
        self.vertex.op.output_count()
    }

    fn ignore_cache(&self) -> bool {
        self.vertex.metadata.ignore_cache
    }

    async fn key(&self, progress: &Context) -> Result<Key, VertexError> {
        let mut hasher = Hasher::new();
        hasher.field(self.vertex.op.kind_name());
        if let OpKind::Source(_) = self.vertex.op.kind {
            let resolved = self.resolved(progress).await.map_err(Shared::boxed)?;
            let (kind, digest) = resolved.key();
            hasher.field(kind);
            hasher.field(digest.as_bytes());
            return Ok(Key { digest: hasher.finish(), inputs: Vec::new() });
        }
        let key = normalized(&self.vertex.op).map_err(Shared::boxed)?;
        hasher.field(key.normal.encode());
        if let Some(emulator) = self.emulator().await.map_err(Shared::boxed)? {
            hasher.field(emulator);
        }
        let inputs = key.reads.iter().map(|reads| InputKey {
            selector: reads.as_ref().map(|selections| {
                let mut hasher = Hasher::new();
                for selection in selections {
                    hasher.field(&selection.path);
                    hasher.update([selection.wildcard.into(), selection.follow.into()]);
                }
                hasher.finish()
            }),
            by_content: reads.is_some(),
        });
        Ok(Key { digest: hasher.finish(), inputs: inputs.collect() })
    }

    fn leaves(&self) -> Vec<Leaf> {
        match &self.vertex.op.kind {
            OpKind::Source(_) => self.resolved.get().map(ResolvedSource::leaves),
            _ => normalized(&self.vertex.op).ok().map(|key| {
                let emulator = self.emulator.get().cloned().flatten();
                let emulator = emulator.map(|version| leaves::leaf("emulator", version));
                leaves::of(&key.normal).into_iter().chain(emulator).collect()
            }),
        }
        .unwrap_or_default()
    }

    async fn content_key(
        &self,
        input: usize,
        value: &Snapshot,
        _: &Context,
    ) -> Result<Digest, VertexError> {
        let mut key = normalized(&self.vertex.op).map_err(Shared::boxed)?;
        let selections = key.reads.swap_remove(input).unwrap_or_default();
        let (store, value) = (self.store().clone(), value.clone());
        blocking(move || Ok(hash_tree(&store.tree(&value)?, &selections)?))
            .await
            .map_err(Shared::boxed)
    }

    async fn compare_input(
        &self,
        input: usize,
        before: &Snapshot,
        after: &Snapshot,
    ) -> Option<Change> {
        let selections = normalized(&self.vertex.op).ok()?.reads.swap_remove(input)?;
        let (store, before, after) = (self.store().clone(), before.clone(), after.clone());
        self.compare(move || {
            Ok(differences::between(&store.tree(&before)?, &store.tree(&after)?, &selections))
        })
        .await
    }

    async fn compare_source(&self, before: &Snapshot) -> Option<Change> {
        let ResolvedSource::Local(scan) = self.resolved.get()? else { return None };
        let (store, before, scan) = (self.store().clone(), before.clone(), scan.clone());
        self.compare(move || Ok(differences::since(&store.tree(&before)?, &scan.root))).await
    }

    async fn run(
        &self,
        inputs: Vec<Snapshot>,
        progress: &Context,
    ) -> Result<Vec<Snapshot>, VertexError> {
        self.try_run(inputs, progress).await.map_err(Shared::boxed)
    }

    async fn identity(&self, output: &Snapshot) -> Option<Digest> {
        match &self.vertex.op.kind {
            OpKind::Exec(_) => return None,
            // Times are no part of a content digest. Where the op is about them, results that
            // differ in nothing else must not be taken for one another.
            OpKind::File(file) if file::sets_times(file) => return None,
            // So it is with the times that a commit or a server gives to files.
            OpKind::Source(_) if self.resolved.get().is_some_and(ResolvedSource::gives_times) => {
                return None;
            }
            _ => {}
        }
        let store = self.store().clone();
        let output = output.clone();
        let virtual_top = matches!(self.vertex.op.kind, OpKind::File(_));
        let digest = blocking(move || {
            let mut hasher = Hasher::new();
            for (index, layer) in output.layers().enumerate() {
                let known = store.layer_content(layer)?;
                let content = match known {
                    None if virtual_top && index + 1 == output.layers().len() => {
                        Some(store.hash_layer(layer)?)
                    }
                    known => known,
                };
                match content {
                    Some(content) => hasher.field(content.as_bytes()),
                    None => hasher.field(layer.to_string()),
                }
            }
            Ok(hasher.finish())
        });
        digest.await.inspect_err(|error| tracing::warn!("identity of a result: {error}")).ok()
    }
}
