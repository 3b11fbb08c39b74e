//! Definitions: a graph on the wire, with metadata and source maps.
//!
//! Metadata and source maps are hints; they are no part of any digest, so unknown fields in
//! them are skipped rather than refused.

use std::collections::{BTreeMap, HashMap};

use cofferdam_types::Digest;
use serde_json::{Value as Json, json};

use crate::codec::{
    Blob, Check, Checked, DigestText, Each, Flag, Int32, Int64, MapOf, Maybe, Nested, Text,
};
use crate::message::{Message, message};
use crate::op::OpWire;
use crate::wire::Reader;
use crate::{Edge, Error, Graph, Op, caps, limits};

message! {
    /// A graph on the wire (`pb.Definition`).
    #[derive(Default)]
    pub struct Definition, Skip {
        /// Encoded ops; the last one has no body and its input is what to build.
        pub def: Vec<Vec<u8>> = 1 => Each<Blob>, "def";
        /// Hints for each op.
        pub metadata: BTreeMap<Digest, OpMetadata>
            = 2 => MapOf<DigestText, Nested<OpMetadata>>, "metadata";
        /// Where the ops come from in the user's files.
        pub source: Option<Source> = 3 => Maybe<Nested<Source>>, "Source";
    }
}

message! {
    /// Hints about an op, which are no part of its digest or of its cache key.
    #[derive(Default)]
    pub struct OpMetadata, Skip {
        /// Whether the op runs even if the cache has its result.
        pub ignore_cache: bool = 1 => Flag, "ignore_cache";
        /// Texts for people; `llb.customname` is shown in place of the op's name.
        pub description: BTreeMap<String, String> = 2 => MapOf<Text, Text>, "description";
        /// Whether the result is exported to a remote cache, if the client cares.
        pub export_cache: Option<bool>
            = 4 => Maybe<Checked<ExportCacheWire, bool>>, "export_cache";
        /// Capabilities that the op needs ([`caps`]).
        pub caps: BTreeMap<String, bool> = 5 => MapOf<Text, Flag>, "caps";
        /// The group under which progress shows the op.
        pub progress_group: Option<ProgressGroup>
            = 6 => Maybe<Nested<ProgressGroup>>, "progress_group";
        /// Limits for the process of an exec op.
        pub linux_resources: Option<LinuxResources>
            = 7 => Maybe<Nested<LinuxResources>>, "linux_resources";
    }
}

message! {
    /// A message around a boolean, so that none differs from no.
    pub(crate) struct ExportCacheWire, Skip {
        value: bool = 1 => Flag, "Value";
    }
}

impl Check<ExportCacheWire> for bool {
    fn check(wire: ExportCacheWire) -> Result<Self, Error> {
        Ok(wire.value)
    }

    fn wire(&self) -> ExportCacheWire {
        ExportCacheWire { value: *self }
    }
}

message! {
    /// A group of vertices that progress shows as one.
    #[derive(Default)]
    pub struct ProgressGroup, Skip {
        /// Identifies the group.
        pub id: String = 1 => Text, "id";
        /// The name that is shown.
        pub name: String = 2 => Text, "name";
        /// Whether the group is shown only if it has several members.
        pub weak: bool = 3 => Flag, "weak";
    }
}

message! {
    /// Limits of a cgroup; 0 and empty are no limit.
    #[derive(Default)]
    pub struct LinuxResources, Skip {
        /// Bytes.
        pub memory: i64 = 1 => Int64, "memory";
        /// Bytes of memory and swap together.
        pub memory_swap: i64 = 2 => Int64, "memorySwap";
        /// Relative weight.
        pub cpu_shares: i64 = 3 => Int64, "cpuShares";
        /// Microseconds.
        pub cpu_period: i64 = 4 => Int64, "cpuPeriod";
        /// Microseconds per period.
        pub cpu_quota: i64 = 5 => Int64, "cpuQuota";
        /// A list of processors, like `0-3`.
        pub cpuset_cpus: String = 6 => Text, "cpusetCpus";
        /// A list of memory nodes.
        pub cpuset_mems: String = 7 => Text, "cpusetMems";
    }
}

message! {
    /// Where ops come from in the user's files.
    #[derive(Default)]
    pub struct Source, Skip {
        /// The places of each op.
        pub locations: BTreeMap<Digest, Locations>
            = 1 => MapOf<DigestText, Nested<Locations>>, "locations";
        /// The files.
        pub infos: Vec<SourceInfo> = 2 => Each<Nested<SourceInfo>>, "infos";
    }
}

message! {
    /// The places of an op.
    #[derive(Default)]
    pub struct Locations, Skip {
        /// The places.
        pub locations: Vec<Location> = 1 => Each<Nested<Location>>, "locations";
    }
}

message! {
    /// A file that ops come from.
    #[derive(Default)]
    pub struct SourceInfo, Skip {
        /// Its name.
        pub filename: String = 1 => Text, "filename";
        /// Its contents.
        pub data: Vec<u8> = 2 => Blob, "data";
        /// The graph that it was read from.
        pub definition: Option<Definition> = 3 => Maybe<Nested<Definition>>, "definition";
        /// Its language, like `Dockerfile`.
        pub language: String = 4 => Text, "language";
    }
}

message! {
    /// A place in a file.
    #[derive(Default)]
    pub struct Location, Skip {
        /// The position of the file in [`Source::infos`].
        pub source_index: i32 = 1 => Int32, "sourceIndex";
        /// The ranges of lines.
        pub ranges: Vec<Range> = 2 => Each<Nested<Range>>, "ranges";
    }
}

message! {
    /// From one position to another.
    #[derive(Copy, Default)]
    pub struct Range, Skip {
        /// The first position.
        pub start: Option<Position> = 1 => Maybe<Nested<Position>>, "start";
        /// The last position.
        pub end: Option<Position> = 2 => Maybe<Nested<Position>>, "end";
    }
}

message! {
    /// A position in a file.
    #[derive(Copy, Default)]
    pub struct Position, Skip {
        /// The line, from 1.
        pub line: i32 = 1 => Int32, "line";
        /// The character in the line.
        pub character: i32 = 2 => Int32, "character";
    }
}

impl Definition {
    /// Reads a `pb.Definition`; the ops in it stay bytes until [`Self::load`].
    ///
    /// # Errors
    ///
    /// If the bytes are no `pb.Definition`, or too many.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let (size, limit) = (bytes.len(), limits::MAX_DEFINITION_BYTES);
        if size > limit {
            return Err(Error::TooLarge { what: "bytes of a definition", size, limit });
        }
        Self::read(Reader::new(bytes)).map_err(|error| error.within("definition"))
    }

    /// Writes a `pb.Definition`, maps sorted by key.
    ///
    /// BuildKit's client writes the maps of metadata in no particular order, so bytes that it
    /// made can come back in another order; the ops themselves never change.
    pub fn encode(&self) -> Vec<u8> {
        self.to_bytes()
    }

    /// Makes a graph of the ops that the terminal op reaches, and says which edge it asks for.
    ///
    /// No edge is the empty definition, which stands for an empty file system.
    ///
    /// # Errors
    ///
    /// If there is no terminal op, if an op is there twice, or if an op that is needed is
    /// missing or invalid.
    pub fn load(&self) -> Result<(Graph, Option<Edge>), Error> {
        let mut graph = Graph::new();
        let edge = self.load_into(&mut graph)?;
        Ok((graph, edge))
    }

    /// Adds the ops to a graph that may hold others; see [`Self::load`].
    ///
    /// # Errors
    ///
    /// As [`Self::load`]; ops that were added before the error stay in the graph.
    pub fn load_into(&self, graph: &mut Graph) -> Result<Option<Edge>, Error> {
        let Some((terminal, ops)) = self.def.split_last() else {
            return Ok(None);
        };
        let (size, limit) = (ops.len(), limits::MAX_OPS);
        if size > limit {
            return Err(Error::TooLarge { what: "ops of a definition", size, limit });
        }
        let edge = self.terminal(terminal)?;

        let mut by_digest = HashMap::with_capacity(ops.len());
        for bytes in ops {
            let digest = Digest::of(bytes);
            if by_digest.insert(digest, bytes.as_slice()).is_some() {
                return Err(Error::DuplicateOp(digest));
            }
        }
        Loader { definition: self, by_digest, states: HashMap::new() }.load(edge.vertex, graph)?;
        if !graph.has(&edge) {
            return Err(Error::UnknownEdge { vertex: edge.vertex, output: edge.output });
        }
        Ok(Some(edge))
    }

    fn terminal(&self, bytes: &[u8]) -> Result<Edge, Error> {
        let digest = Digest::of(bytes);
        let terminal = OpWire::decode(bytes).map_err(|error| error.of_op(digest))?;
        if let Some(metadata) = self.metadata.get(&digest) {
            caps::check(metadata).map_err(|error| error.of_op(digest))?;
        }
        match (terminal.kind, terminal.inputs.as_slice()) {
            (None, [edge]) if self.def.len() > 1 => Ok(*edge),
            _ => Err(Error::NoTerminal { ops: self.def.len() }),
        }
    }
}

/// Inserts ops, inputs first, with a stack of its own: a graph can be deeper than a thread's.
struct Loader<'a> {
    definition: &'a Definition,
    by_digest: HashMap<Digest, &'a [u8]>,
    states: HashMap<Digest, State>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Done,
}

struct Pending<'a> {
    digest: Digest,
    bytes: &'a [u8],
    op: Op,
    next_input: usize,
}

impl<'a> Loader<'a> {
    fn load(&mut self, root: Digest, graph: &mut Graph) -> Result<(), Error> {
        if graph.get(&root).is_some() {
            return Ok(());
        }
        let missing = Error::MissingVertex { index: 0, vertex: root };
        let mut stack = vec![self.open(root)?.ok_or(missing)?];
        while let Some(top) = stack.last_mut() {
            if let Some(input) = top.op.inputs.get(top.next_input) {
                let (index, vertex) = (top.next_input, input.vertex);
                top.next_input += 1;
                if graph.get(&vertex).is_some() {
                    continue;
                }
                let missing = Error::MissingVertex { index, vertex }.of_op(top.digest);
                stack.push(self.open(vertex)?.ok_or(missing)?);
            } else {
                let Pending { digest, bytes, op, .. } =
                    stack.pop().expect("the loop saw a last element");
                let metadata = self.definition.metadata.get(&digest).cloned().unwrap_or_default();
                graph
                    .insert_with_bytes(op, bytes.to_vec(), metadata)
                    .map_err(|error| error.of_op(digest))?;
                self.states.insert(digest, State::Done);
            }
        }
        Ok(())
    }

    fn open(&mut self, digest: Digest) -> Result<Option<Pending<'a>>, Error> {
        // Only whoever breaks SHA-256 gets here twice, but then the loop must still end.
        if self.states.insert(digest, State::Open) == Some(State::Open) {
            return Err(Error::Cycle(digest));
        }
        let Some(bytes) = self.by_digest.get(&digest).copied() else {
            return Ok(None);
        };
        let op = Op::decode(bytes).map_err(|error| error.of_op(digest))?;
        Ok(Some(Pending { digest, bytes, op, next_input: 0 }))
    }
}

/// Shows a definition's ops as JSON: a list of `{digest, op, size}` in the order of the ops,
/// each op in the shape that Go gives to `pb.Op`.
///
/// # Errors
///
/// If the bytes of one of the ops are no `pb.Op`.
pub fn to_json(definition: &Definition) -> Result<Json, Error> {
    let show = |bytes: &Vec<u8>| {
        let digest = Digest::of(bytes);
        let op = OpWire::decode(bytes).map_err(|error| error.of_op(digest))?;
        Ok(json!({"digest": digest.to_string(), "op": op.json(), "size": bytes.len()}))
    };
    definition.def.iter().map(show).collect()
}
