//! Makes ops of descriptions by handles: edges and actions instead of numbers.
//!
//! The numbers follow BuildKit's Go client, because they are part of the digest: described
//! twice, by that client and by ours, a step is one vertex.
//! Nothing is checked here; [`Graph::insert`](crate::Graph::insert) does that.

use std::collections::{BTreeMap, HashMap};

use cofferdam_types::Platform;

use crate::{
    CdiDevice, ContentCache, DiffOp, Edge, ExecOp, FileAction, FileActionKind, FileOp, MergeOp,
    Meta, Mount, MountKind, NetMode, Op, OpKind, Owner, SecretEnv, SecurityMode, SourceOp,
};

/// A mount of an exec op.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountSpec {
    /// Where it is mounted; `/` is the root file system.
    pub dest: String,
    /// What is mounted; none is an empty directory.
    pub source: Option<Edge>,
    /// The path inside the source that is mounted; empty is its root.
    pub selector: String,
    /// Whether the process cannot write to it.
    pub readonly: bool,
    /// Whether the result is wanted. Read-only mounts and those that are not bind mounts have
    /// none in any case.
    pub wants_output: bool,
    /// What kind of mount it is.
    pub kind: MountKind,
    /// How the contents enter the cache key.
    pub content_cache: ContentCache,
}

impl MountSpec {
    /// A writable bind mount whose result is wanted.
    pub fn bind(dest: impl Into<String>, source: Option<Edge>) -> Self {
        Self {
            dest: dest.into(),
            source,
            selector: String::new(),
            readonly: false,
            wants_output: true,
            kind: MountKind::Bind,
            content_cache: ContentCache::Default,
        }
    }
}

/// A process, as an exec op needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecSpec {
    /// The process.
    pub meta: Meta,
    /// Its file systems, in any order.
    pub mounts: Vec<MountSpec>,
    /// The network that the process sees.
    pub network: NetMode,
    /// The privileges that the process has.
    pub security: SecurityMode,
    /// Environment variables whose values are secrets.
    pub secret_env: Vec<SecretEnv>,
    /// Devices.
    pub cdi_devices: Vec<CdiDevice>,
    /// The platform of the process.
    pub platform: Option<Platform>,
}

/// An exec op and where to find the results of its mounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exec {
    /// The op.
    pub op: Op,
    /// For each mount of the description, in its order, the op's output that holds the result.
    /// A read-only mount has none: its result is its source.
    pub outputs: Vec<Option<u32>>,
}

/// The inputs of an op, equal ones merged, in the order in which they were first named.
#[derive(Default)]
struct Inputs {
    edges: Vec<Edge>,
    indexes: HashMap<Edge, u32>,
}

impl Inputs {
    fn index(&mut self, edge: Option<Edge>) -> Option<u32> {
        let edge = edge?;
        let next = u32::try_from(self.edges.len()).expect("fewer inputs than 2^32");
        let index = *self.indexes.entry(edge).or_insert(next);
        if index == next {
            self.edges.push(edge);
        }
        Some(index)
    }
}

/// Whether ops of this kind differ between platforms; in all others, the client leaves the
/// platform out, so that their results are shared.
pub fn keeps_platform(kind: &OpKind) -> bool {
    match kind {
        OpKind::Exec(_) | OpKind::Build(_) => true,
        OpKind::Source(source) => ["docker-image", "oci-layout"].iter().any(|scheme| {
            let rest = source.identifier.strip_prefix(scheme);
            rest.is_some_and(|rest| rest.starts_with("://"))
        }),
        OpKind::File(_) | OpKind::Merge(_) | OpKind::Diff(_) | OpKind::Passthrough(_) => false,
    }
}

/// Makes an op as the client writes it: the platform only where it matters, and an empty list
/// of worker filters.
pub fn op(inputs: Vec<Edge>, kind: OpKind, platform: Option<Platform>) -> Op {
    let platform = platform.filter(|_| keeps_platform(&kind));
    Op { inputs, kind, platform, constraints: Some(Vec::new()) }
}

/// Makes a source op.
pub fn source(
    identifier: impl Into<String>,
    attrs: BTreeMap<String, String>,
    platform: Option<Platform>,
) -> Op {
    let source = SourceOp { identifier: identifier.into(), attrs };
    op(Vec::new(), OpKind::Source(source), platform)
}

/// Makes an exec op.
///
/// Mounts are sorted by destination, secrets and ssh agents come last in the order in which they
/// were described. Inputs and outputs are numbered in the order of the sorted mounts.
pub fn exec(spec: ExecSpec) -> Exec {
    let (mut sorted, last): (Vec<_>, Vec<_>) =
        spec.mounts.into_iter().enumerate().partition(|(_, mount)| {
            !matches!(mount.kind, MountKind::Secret(_) | MountKind::Ssh(_))
        });
    sorted.sort_by(|(_, a), (_, b)| a.dest.cmp(&b.dest));

    let mut inputs = Inputs::default();
    let mut outputs = vec![None; sorted.len() + last.len()];
    let mut next_output = 0;
    let mut mounts = Vec::with_capacity(outputs.len());
    for (position, mount) in sorted.into_iter().chain(last) {
        let output = match mount.kind {
            // The client does not set the field for these, and 0 is what protobuf makes of it.
            MountKind::Secret(_) | MountKind::Ssh(_) => Some(0),
            MountKind::Bind if mount.wants_output && !mount.readonly => {
                outputs[position] = Some(next_output);
                next_output += 1;
                outputs[position]
            }
            MountKind::Bind | MountKind::Cache(_) | MountKind::Tmpfs(_) => None,
        };
        mounts.push(Mount {
            input: inputs.index(mount.source),
            selector: mount.selector,
            dest: mount.dest,
            output,
            readonly: mount.readonly,
            kind: mount.kind,
            result_id: String::new(),
            content_cache: mount.content_cache,
        });
    }
    let exec = ExecOp {
        meta: spec.meta,
        mounts,
        network: spec.network,
        security: spec.security,
        secret_env: spec.secret_env,
        cdi_devices: spec.cdi_devices,
    };
    Exec { op: op(inputs.edges, OpKind::Exec(exec), spec.platform), outputs }
}

/// A tree that a file action works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tree {
    /// An empty tree.
    Scratch,
    /// An output of another op.
    Edge(Edge),
    /// The result of an earlier action in the same list.
    Action(u32),
}

/// An action of a file op.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileActionSpec {
    /// The tree that is edited.
    pub base: Tree,
    /// The tree that a copy takes from; of no use to other actions.
    pub secondary: Tree,
    /// Whether the result is an output of the op.
    pub is_output: bool,
    /// What is done. Owners by name are looked up in the base, whatever input they carry.
    pub kind: FileActionKind,
}

/// Makes a file op.
///
/// Inputs are numbered in the order of the actions, base before secondary; outputs in the order
/// of the actions.
pub fn file(actions: Vec<FileActionSpec>) -> Op {
    let mut inputs = Inputs::default();
    for action in &actions {
        for tree in [action.base, action.secondary] {
            if let Tree::Edge(edge) = tree {
                inputs.index(Some(edge));
            }
        }
    }
    let count = u32::try_from(inputs.edges.len()).expect("fewer inputs than 2^32");
    let mut index = |tree| match tree {
        Tree::Scratch => None,
        Tree::Edge(edge) => inputs.index(Some(edge)),
        Tree::Action(number) => Some(count.saturating_add(number)),
    };
    let mut next_output = 0..;
    let number = |FileActionSpec { base, secondary, is_output, mut kind }| {
        let input = index(base);
        let owner = kind.owner_mut();
        owner.into_iter().flat_map(Owner::names_mut).for_each(|named| named.input = input);
        FileAction {
            input,
            secondary_input: index(secondary),
            output: if is_output { next_output.next() } else { None },
            kind,
        }
    };
    let actions = actions.into_iter().map(number).collect();
    op(inputs.edges, OpKind::File(FileOp { actions }), None)
}

/// What is left of a merge or a diff once empty trees are taken out.
#[expect(clippy::large_enum_variant, reason = "taken apart as soon as it is made")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Folded {
    /// Nothing: an empty tree.
    Scratch,
    /// One tree as it is.
    Same(Edge),
    /// An op whose only output is the result.
    Op(Op),
}

/// Lays trees over each other, the last on top; none is an empty tree.
pub fn merge(trees: impl IntoIterator<Item = Option<Edge>>) -> Folded {
    let inputs: Vec<Edge> = trees.into_iter().flatten().collect();
    match inputs.as_slice() {
        [] => Folded::Scratch,
        [edge] => Folded::Same(*edge),
        // The client does not merge equal inputs here.
        _ => {
            let merge = MergeOp { inputs: (0..).take(inputs.len()).collect() };
            Folded::Op(op(inputs, OpKind::Merge(merge), None))
        }
    }
}

/// Finds what `upper` adds to and removes from `lower`; none is an empty tree.
pub fn diff(lower: Option<Edge>, upper: Option<Edge>) -> Folded {
    match (lower, upper) {
        (None, None) => Folded::Scratch,
        (None, Some(upper)) => Folded::Same(upper),
        // Against an empty tree, all that is left is that everything was removed.
        (Some(lower), upper) => {
            let diff = DiffOp { lower: Some(0), upper: upper.map(|_| 1) };
            let inputs = [lower].into_iter().chain(upper).collect();
            Folded::Op(op(inputs, OpKind::Diff(diff), None))
        }
    }
}
