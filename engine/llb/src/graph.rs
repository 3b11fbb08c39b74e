//! The graph: a hash-consed set of valid vertices.
//!
//! A vertex gets in only after its inputs, so there are no cycles and no dangling inputs.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use cofferdam_types::Digest;

use crate::message::Message;
use crate::op::OpWire;
use crate::{Definition, Edge, Error, Op, OpKind, OpMetadata, caps, limits};

/// How much of an input's name goes into the name of a merge or diff.
const INPUT_NAME_CHARS: usize = 256;

/// An op that was checked, with its identity.
#[derive(Debug)]
pub struct Vertex {
    /// The SHA-256 of [`Self::bytes`].
    pub digest: Digest,
    /// The op.
    pub op: Op,
    /// Hints, which are no part of the digest.
    pub metadata: OpMetadata,
    name: String,
    bytes: Vec<u8>,
}

/// The positions of an op's inputs in the order in which BuildKit's client walks them.
///
/// It walks the actions of a file op from the last to the first, the base before all.
fn client_order(op: &Op) -> Vec<usize> {
    let count = op.inputs.len();
    let mut order = Vec::with_capacity(count);
    if let OpKind::File(file) = &op.kind {
        let bases = file.actions.iter().filter_map(|action| action.input);
        let sources = file.actions.iter().rev().filter_map(|action| action.secondary_input);
        let mut seen = HashSet::new();
        let inputs = bases.chain(sources).map(|index| index as usize);
        order.extend(inputs.filter(|index| *index < count && seen.insert(*index)));
        order.extend((0..count).filter(|index| !seen.contains(index)));
    } else {
        order.extend(0..count);
    }
    order
}

impl Vertex {
    /// The encoded op, exactly as it came from the client.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The name for people: the client's, or one made from the op.
    pub fn name(&self) -> &str {
        self.metadata.description.get("llb.customname").unwrap_or(&self.name)
    }
}

/// A set of valid vertices, each there once, whose inputs are all in the set.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    vertices: HashMap<Digest, Arc<Vertex>>,
    size: usize,
}

impl Graph {
    /// Makes a graph without vertices.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many vertices there are.
    pub fn len(&self) -> usize {
        self.vertices.len()
    }

    /// Whether there are no vertices.
    pub fn is_empty(&self) -> bool {
        self.vertices.is_empty()
    }

    /// Adds a vertex, or finds the equal one that is there; the metadata of the first one stays.
    ///
    /// # Errors
    ///
    /// If the op is invalid, needs an unknown capability, or has an input that is not in the
    /// graph; or if the graph would be over its limits.
    pub fn insert(&mut self, op: Op, metadata: OpMetadata) -> Result<Digest, Error> {
        let bytes = op.encode();
        self.insert_with_bytes(op, bytes, metadata)
    }

    /// Adds a vertex by the bytes of its op, which are its identity even if this crate would
    /// write them differently.
    ///
    /// # Errors
    ///
    /// As [`Self::insert`], or if the bytes are no op.
    pub fn insert_encoded(
        &mut self,
        bytes: Vec<u8>,
        metadata: OpMetadata,
    ) -> Result<Digest, Error> {
        self.insert_with_bytes(Op::decode(&bytes)?, bytes, metadata)
    }

    pub(crate) fn insert_with_bytes(
        &mut self,
        op: Op,
        bytes: Vec<u8>,
        metadata: OpMetadata,
    ) -> Result<Digest, Error> {
        let digest = Digest::of(&bytes);
        if self.vertices.contains_key(&digest) {
            return Ok(digest);
        }
        for (what, size, limit) in [
            ("bytes of one op", bytes.len(), limits::MAX_OP_BYTES),
            ("inputs of one op", op.inputs.len(), limits::MAX_ITEMS),
            ("bytes of a graph", self.size + bytes.len(), limits::MAX_GRAPH_BYTES),
            ("ops of a graph", self.vertices.len() + 1, limits::MAX_OPS),
        ] {
            if size > limit {
                return Err(Error::TooLarge { what, size, limit });
            }
        }
        op.validate()?;
        caps::check(&metadata)?;
        for (index, edge) in op.inputs.iter().enumerate() {
            let Edge { vertex, output } = *edge;
            let input = self.get(&vertex).ok_or(Error::MissingVertex { index, vertex })?;
            let count = input.op.output_count();
            if output >= count {
                return Err(Error::MissingOutput { index, vertex, output, count });
            }
        }
        let name = op.name(|input| {
            let name = self.vertices[&op.inputs[input].vertex].name();
            name.chars().take(INPUT_NAME_CHARS).collect()
        });
        self.size += bytes.len();
        self.vertices.insert(digest, Arc::new(Vertex { digest, op, metadata, name, bytes }));
        Ok(digest)
    }

    /// Finds a vertex.
    pub fn get(&self, digest: &Digest) -> Option<&Arc<Vertex>> {
        self.vertices.get(digest)
    }

    /// Whether the edge's vertex is there and has that output.
    pub fn has(&self, edge: &Edge) -> bool {
        self.get(&edge.vertex).is_some_and(|vertex| edge.output < vertex.op.output_count())
    }

    /// The vertices that `edge` needs, each once, inputs before the vertices that use them,
    /// depth first; the edge's own vertex is last. Empty if the edge is not in the graph.
    pub fn reachable(&self, edge: &Edge) -> Vec<&Arc<Vertex>> {
        let mut order = Vec::new();
        let Some(root) = self.get(&edge.vertex).filter(|_| self.has(edge)) else {
            return order;
        };
        let mut seen = HashSet::from([root.digest]);
        let mut stack = vec![(root, client_order(&root.op).into_iter())];
        while let Some((vertex, inputs)) = stack.last_mut() {
            if let Some(input) = inputs.next() {
                let input = &self.vertices[&vertex.op.inputs[input].vertex];
                if seen.insert(input.digest) {
                    stack.push((input, client_order(&input.op).into_iter()));
                }
            } else {
                order.push(*vertex);
                stack.pop();
            }
        }
        order
    }

    /// Writes the vertices that `edge` needs as a definition, in the order of
    /// [`Self::reachable`] and with a terminal op, as BuildKit's client does.
    ///
    /// # Errors
    ///
    /// If the edge is not in the graph.
    pub fn to_definition(&self, edge: Edge) -> Result<Definition, Error> {
        if !self.has(&edge) {
            return Err(Error::UnknownEdge { vertex: edge.vertex, output: edge.output });
        }
        let mut definition = Definition::default();
        for vertex in self.reachable(&edge) {
            definition.def.push(vertex.bytes.clone());
            definition.metadata.insert(vertex.digest, vertex.metadata.clone());
        }
        let terminal = OpWire::terminal(edge).to_bytes();
        definition.metadata.insert(Digest::of(&terminal), caps::terminal_metadata());
        definition.def.push(terminal);
        Ok(definition)
    }
}
