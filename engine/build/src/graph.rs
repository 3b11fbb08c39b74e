//! Turns a graph of ops into the solver's vertices.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use cofferdam_exec_linux::Granted;
use cofferdam_llb::{Graph, OpKind, Vertex};
use cofferdam_solver::Edge;
use cofferdam_source::Form;
use cofferdam_types::{Digest, Hasher, Platform};

use crate::engine::Shared;
use crate::progress::warn;
use crate::vertex::OpVertex;
use crate::{Error, Request, Sink};

/// The solver's view of the ops below one edge.
pub(crate) struct OpGraph {
    pub(crate) vertices: HashMap<Digest, Arc<OpVertex>>,
    pub(crate) edge: Edge,
}

/// What the vertices of one build share.
pub(crate) struct BuildContext {
    pub(crate) engine: Arc<Shared>,
    pub(crate) session: Arc<dyn cofferdam_session::Session>,
    /// Tells this build from others of the same engine.
    pub(crate) id: u64,
    pub(crate) request: Request,
    /// Caches that steps of this build found anew, since it wants no cache.
    pub(crate) renewed: Mutex<HashSet<Digest>>,
    /// Where the user is told of things.
    pub(crate) sink: Sink,
    /// What the user was warned of on account of steps.
    pub(crate) warned: Mutex<HashSet<String>>,
}

impl BuildContext {
    /// Warns of something that several steps may have in common, once.
    pub(crate) fn warn_once(&self, short: &str) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.insert(short.to_owned()) {
            warn(&self.sink, short);
        }
    }
}

impl OpGraph {
    /// Takes what `edge` needs, with what each step of it was granted. Vertices that depend on a directory of the client get a digest
    /// of their own in every build: another client's directory is another directory.
    pub(crate) fn new(
        context: &Arc<BuildContext>,
        graph: &Graph,
        edge: cofferdam_llb::Edge,
        mut granted: HashMap<Digest, Granted>,
    ) -> Result<Self, Error> {
        let mut digests: HashMap<Digest, Digest> = HashMap::new();
        let mut vertices = HashMap::new();
        let order = graph.reachable(&edge);
        let mounted = mounted(&order);
        for vertex in order {
            let of_client = match &vertex.op.kind {
                OpKind::Source(source) => {
                    let of_client = ["local://", "oci-layout://", "http://buildkit-session/"];
                    of_client.iter().any(|start| source.identifier.starts_with(start))
                }
                _ => false,
            };
            let own = |input: &cofferdam_llb::Edge| digests[&input.vertex];
            let changed = vertex.op.inputs.iter().any(|input| own(input) != input.vertex);
            let digest = if of_client || changed {
                let mut hasher = Hasher::new();
                hasher.field(vertex.digest.as_bytes());
                hasher.field(context.id.to_le_bytes());
                hasher.finish()
            } else {
                vertex.digest
            };
            let inputs = vertex
                .op
                .inputs
                .iter()
                .map(|input| Edge { vertex: own(input), output: input.output })
                .collect();
            let form = match mounted.contains(&vertex.digest) {
                true => Form::Directory,
                false => Form::Archive,
            };
            let granted = granted.remove(&vertex.digest);
            let op = OpVertex::new(context.clone(), vertex.clone(), digest, inputs, form, granted);
            digests.insert(vertex.digest, digest);
            vertices.insert(digest, Arc::new(op));
        }
        let vertex = *digests
            .get(&edge.vertex)
            .ok_or_else(|| Error::Internal(format!("{} is not in the graph", edge.vertex)))?;
        Ok(Self { vertices, edge: Edge { vertex, output: edge.output } })
    }
}

/// The vertices of which a step mounts a result, or something that has its layers. `order` has
/// each vertex behind its inputs.
fn mounted(order: &[&Arc<Vertex>]) -> HashSet<Digest> {
    let mut mounted = HashSet::new();
    for vertex in order.iter().rev() {
        let inputs = &vertex.op.inputs;
        let passed_on = mounted.contains(&vertex.digest);
        let needed: Vec<&cofferdam_llb::Edge> = match &vertex.op.kind {
            // What WebAssembly runs gets files, not mounts.
            OpKind::Exec(_) if vertex.op.platform.as_ref().is_some_and(Platform::is_wasm) => {
                continue;
            }
            OpKind::Exec(_) => inputs.iter().collect(),
            OpKind::Merge(_) | OpKind::Diff(_) if passed_on => inputs.iter().collect(),
            // What a copy takes from is not below what it makes. Larger numbers are results of
            // earlier actions.
            OpKind::File(file) if passed_on => {
                let bases = file.actions.iter().filter_map(|action| action.input);
                bases.filter_map(|base| inputs.get(base as usize)).collect()
            }
            _ => continue,
        };
        mounted.extend(needed.into_iter().map(|input| input.vertex));
    }
    mounted
}
