//! Ops: what a vertex does, and from which inputs.
//!
//! [`Op::decode`] checks that bytes are an op; whether the op makes sense on its own is
//! [`Op::validate`]'s business (`validate.rs`), whether its inputs exist is the graph's.

use std::collections::BTreeMap;

use cofferdam_types::{Digest, Platform};

use crate::codec::{
    At, Check, Checked, DigestText, Each, Index, MapOf, Maybe, Nested, Packed, Text,
};
use crate::message::{Message, message, one_of, table};
use crate::wire::Reader;
use crate::{Definition, Error, ExecOp, FileOp, Problem, limits};

message! {
    /// One output of a vertex.
    #[derive(Copy, Hash, PartialOrd, Ord)]
    pub struct Edge, Refuse {
        /// The vertex.
        pub vertex: Digest = 1 => DigestText, "digest";
        /// The number of its output.
        pub output: u32 = 2 => At, "index";
    }
}

/// One step of a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// What the step works on; the op's body refers to them by position.
    pub inputs: Vec<Edge>,
    /// What the step does.
    pub kind: OpKind,
    /// The platform it is for; only where the result depends on it.
    pub platform: Option<Platform>,
    /// Filters for workers. BuildKit's client always writes an empty list, which has another
    /// digest than none.
    pub constraints: Option<Vec<String>>,
}

one_of! {
    /// What an [`Op`] does.
    #[expect(clippy::large_enum_variant, reason = "most ops are exec ops, and each lives in an Arc")]
    pub enum OpKind, "Op" {
        /// Runs a process.
        Exec(ExecOp) = 2 => Nested<ExecOp>, "exec";
        /// Fetches something from outside.
        Source(SourceOp) = 3 => Nested<SourceOp>, "source";
        /// Edits trees.
        File(FileOp) = 4 => Nested<FileOp>, "file";
        /// Builds a definition that an input contains.
        Build(BuildOp) = 5 => Nested<BuildOp>, "build";
        /// Lays trees over each other.
        Merge(MergeOp) = 6 => Nested<MergeOp>, "merge";
        /// Finds what one tree adds to and removes from another.
        Diff(DiffOp) = 7 => Nested<DiffOp>, "diff";
        /// Hands on inputs under a name.
        Passthrough(PassthroughOp) = 8 => Nested<PassthroughOp>, "passthrough";
    }
}

message! {
    /// Fetches something from outside.
    pub struct SourceOp, Refuse {
        /// `scheme://what`, like `docker-image://docker.io/library/alpine:3.20`.
        pub identifier: String = 1 => Text, "identifier";
        /// Settings; which ones depends on the scheme.
        pub attrs: BTreeMap<String, String> = 2 => MapOf<Text, Text>, "attrs";
    }
}

message! {
    /// Builds a definition that an input contains.
    pub struct BuildOp, Refuse {
        /// Who builds it; none is the engine itself, and the only one that is valid.
        pub builder: Option<u32> = 1 => Index, "builder";
        /// Inputs by name; `buildkit.llb.definition` is the one with the definition.
        pub inputs: BTreeMap<String, u32> = 2 => MapOf<Text, Checked<InputWire, u32>>, "inputs";
        /// Unused by BuildKit.
        pub def: Option<Definition> = 3 => Maybe<Nested<Definition>>, "def";
        /// Settings; `llbbuild.filename` is the file in the input.
        pub attrs: BTreeMap<String, String> = 4 => MapOf<Text, Text>, "attrs";
    }
}

message! {
    /// Lays trees over each other, the last on top.
    pub struct MergeOp, Refuse {
        /// The positions of the trees among the inputs, lowest first.
        pub inputs: Vec<u32> = 1 => Each<Checked<InputWire, u32>>, "inputs";
    }
}

message! {
    /// Finds what `upper` adds to and removes from `lower`.
    pub struct DiffOp, Refuse {
        /// The position of the lower tree among the inputs; none is an empty one.
        pub lower: Option<u32> = 1 => Checked<SideWire, Option<u32>>, "lower";
        /// The position of the upper tree among the inputs; none is an empty one.
        pub upper: Option<u32> = 2 => Checked<SideWire, Option<u32>>, "upper";
    }
}

message! {
    /// Hands on inputs under a name.
    pub struct PassthroughOp, Refuse {
        /// The name; never empty in a valid op.
        pub id: String = 1 => Text, "id";
        /// For each output the position of the input that it is.
        pub outputs: Vec<u32> = 2 => Packed<At>, "outputs";
    }
}

message! {
    /// A message around the position of an input.
    pub(crate) struct InputWire, Refuse {
        input: u32 = 1 => At, "input";
    }
}

impl Check<InputWire> for u32 {
    fn check(wire: InputWire) -> Result<Self, Error> {
        Ok(wire.input)
    }

    fn wire(&self) -> InputWire {
        InputWire { input: *self }
    }
}

message! {
    /// A message around the position of an input, or −1.
    pub(crate) struct SideWire, Refuse {
        input: Option<u32> = 1 => Index, "input";
    }
}

impl Check<SideWire> for Option<u32> {
    fn check(wire: SideWire) -> Result<Self, Error> {
        Ok(wire.input)
    }

    fn wire(&self) -> SideWire {
        SideWire { input: *self }
    }
}

table! {
    Platform, Refuse {
        architecture = 1 => Text, "Architecture";
        os = 2 => Text, "OS";
        variant = 3 => Text, "Variant";
        os_version = 4 => Text, "OSVersion";
        os_features = 5 => Each<Text>, "OSFeatures";
    }
}

message! {
    /// A message around worker filters.
    pub(crate) struct ConstraintsWire, Refuse {
        filter: Vec<String> = 1 => Each<Text>, "filter";
    }
}

impl Check<ConstraintsWire> for Vec<String> {
    fn check(wire: ConstraintsWire) -> Result<Self, Error> {
        Ok(wire.filter)
    }

    fn wire(&self) -> ConstraintsWire {
        ConstraintsWire { filter: self.clone() }
    }
}

message! {
    /// An op on the wire, where the last one of a definition has no body.
    pub(crate) struct OpWire, Refuse {
        pub(crate) inputs: Vec<Edge> = 1 => Each<Nested<Edge>>, "inputs";
        pub(crate) platform: Option<Platform> = 10 => Maybe<Nested<Platform>>, "platform";
        pub(crate) constraints: Option<Vec<String>>
            = 11 => Maybe<Checked<ConstraintsWire, Vec<String>>>, "constraints";
    } oneof {
        pub(crate) kind: Option<OpKind>
    }
}

impl OpWire {
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let (size, limit) = (bytes.len(), limits::MAX_OP_BYTES);
        if size > limit {
            return Err(Error::TooLarge { what: "bytes of one op", size, limit });
        }
        Self::read(Reader::new(bytes)).map_err(|error| error.within("op"))
    }

    /// The op that ends a definition: no body, one input.
    pub(crate) fn terminal(edge: Edge) -> Self {
        Self { inputs: vec![edge], platform: None, constraints: None, kind: None }
    }
}

impl Op {
    /// Reads a `pb.Op`.
    ///
    /// # Errors
    ///
    /// If the bytes are no `pb.Op`, or hold a field, an enum value or a combination of options
    /// that this engine does not know; the error names the field.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let OpWire { inputs, platform, constraints, kind } = OpWire::decode(bytes)?;
        let kind = kind.ok_or(Problem::Missing).map_err(|p| Error::from(p).within("op.Op"))?;
        Ok(Self { inputs, kind, platform, constraints })
    }

    /// Writes a `pb.Op`, byte for byte as BuildKit's client does.
    pub fn encode(&self) -> Vec<u8> {
        self.wire().to_bytes()
    }

    /// The op as Go's `encoding/json` shows it: every field that is written, under its name.
    pub fn to_json(&self) -> serde_json::Value {
        self.wire().json()
    }

    pub(crate) fn wire(&self) -> OpWire {
        OpWire {
            inputs: self.inputs.clone(),
            platform: self.platform.clone(),
            constraints: self.constraints.clone(),
            kind: Some(self.kind.clone()),
        }
    }

    /// How many outputs the op has.
    pub fn output_count(&self) -> u32 {
        let count = match &self.kind {
            OpKind::Exec(exec) => exec.output_mounts().count(),
            OpKind::File(file) => file.actions.iter().filter(|a| a.output.is_some()).count(),
            OpKind::Passthrough(passthrough) => passthrough.outputs.len(),
            OpKind::Source(_) | OpKind::Build(_) | OpKind::Merge(_) | OpKind::Diff(_) => 1,
        };
        // Lists are limited to far less in every op that was decoded.
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// The op's name for people, as BuildKit's progress shows it.
    ///
    /// `input_name` names the input at a position; merge and diff mention their inputs.
    pub fn name(&self, input_name: impl Fn(usize) -> String) -> String {
        let name = match &self.kind {
            OpKind::Source(source) => return source.identifier.clone(),
            OpKind::Exec(exec) => return exec.meta.args.join(" "),
            OpKind::File(file) => {
                let names: Vec<String> = file.actions.iter().map(|a| a.kind.name()).collect();
                return names.join(", ");
            }
            OpKind::Build(_) => return "build".into(),
            OpKind::Passthrough(passthrough) => return format!("passthrough {}", passthrough.id),
            OpKind::Merge(merge) => {
                let mut names = String::new();
                for input in &merge.inputs {
                    if names.len() > limits::MAX_NAME_BYTES {
                        break;
                    }
                    if !names.is_empty() {
                        names.push_str(", ");
                    }
                    names.push_str(&input_name(*input as usize));
                }
                format!("merge ({names})")
            }
            OpKind::Diff(diff) => {
                let side = |side: Option<u32>| match side {
                    Some(input) => format!("({})", input_name(input as usize)),
                    None => "scratch".into(),
                };
                format!("diff {} -> {}", side(diff.lower), side(diff.upper))
            }
        };
        // Names of names of names double with every op; nobody reads that far.
        match name.char_indices().find(|(at, _)| *at >= limits::MAX_NAME_BYTES) {
            Some((end, _)) => format!("{}…", &name[..end]),
            None => name,
        }
    }

    /// The kind's name: `exec`, `source`, `file`, `build`, `merge`, `diff` or `passthrough`.
    pub fn kind_name(&self) -> &'static str {
        match self.kind {
            OpKind::Exec(_) => "exec",
            OpKind::Source(_) => "source",
            OpKind::File(_) => "file",
            OpKind::Build(_) => "build",
            OpKind::Merge(_) => "merge",
            OpKind::Diff(_) => "diff",
            OpKind::Passthrough(_) => "passthrough",
        }
    }
}
