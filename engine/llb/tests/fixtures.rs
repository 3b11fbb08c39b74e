//! Definitions that BuildKit itself made: same bytes, same digests, same JSON, and the same
//! ops when they are described by handles.
//!
//! `LLB_FIXTURES` names directories with `NAME.llb.pb` and `NAME.ops.json`, separated by colons.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cofferdam_llb::build::{self, ExecSpec, FileActionSpec, Folded, MountSpec, Tree};
use cofferdam_llb::{
    ActionInput, Definition, Edge, ExecOp, FileOp, Graph, MountKind, Op, OpKind, OpMetadata,
    to_json,
};
use cofferdam_types::Digest;
use proptest::prelude::*;
use serde_json::Value;

struct Fixture {
    path: PathBuf,
    bytes: Vec<u8>,
    definition: Definition,
    ops: Value,
}

fn fixtures() -> Vec<Fixture> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    // A checkout without what is shared beside it has a copy.
    let default = [root.join("../shared/fixtures/llb"), root.join("tests/fixtures/llb")]
        .into_iter()
        .find(|directory| directory.exists())
        .expect("the repository has fixtures");
    let directories = std::env::var_os("LLB_FIXTURES").unwrap_or(default.into_os_string());
    let mut all = Vec::new();
    for directory in std::env::split_paths(&directories) {
        let entries = std::fs::read_dir(&directory)
            .unwrap_or_else(|error| panic!("fixtures in {}: {error}", directory.display()));
        let before = all.len();
        for entry in entries {
            let path = entry.expect("the directory can be read").path();
            if !path.to_string_lossy().ends_with(".llb.pb") {
                continue;
            }
            let bytes = std::fs::read(&path).expect("the fixture can be read");
            let definition = Definition::decode(&bytes)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let ops = path.to_string_lossy().replace(".llb.pb", ".ops.json");
            let ops = std::fs::read(ops).expect("every definition has its JSON");
            let ops = serde_json::from_slice(&ops).expect("the JSON is valid");
            all.push(Fixture { path, bytes, definition, ops });
        }
        assert!(all.len() > before, "no fixtures in {}", directory.display());
    }
    all
}

/// Every op but the terminal one of every fixture.
fn ops() -> impl Iterator<Item = (PathBuf, Vec<u8>)> {
    fixtures().into_iter().flat_map(|mut fixture| {
        fixture.definition.def.pop();
        fixture.definition.def.into_iter().map(move |bytes| (fixture.path.clone(), bytes))
    })
}

/// The fields of a message: tag, length or number, contents.
fn fields(mut rest: &[u8]) -> Vec<(u64, Vec<u8>)> {
    fn varint(rest: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = rest[0];
            *rest = &rest[1..];
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return value;
            }
        }
    }
    let mut all = Vec::new();
    while !rest.is_empty() {
        let tag = varint(&mut rest);
        let start = rest;
        let length = varint(&mut rest) as usize;
        let header = start.len() - rest.len();
        let end = if tag & 7 == 2 { header + length } else { header };
        all.push((tag, start[..end].to_vec()));
        rest = &start[end..];
    }
    all
}

/// Sorts the entries of the maps in a message. BuildKit's client writes the maps of metadata
/// and source maps in Go's random order.
fn sort_maps(bytes: &[u8], maps: &dyn Fn(u64, &[u8]) -> Vec<u8>) -> Vec<u8> {
    let mut all = fields(bytes);
    for (tag, contents) in &mut all {
        *contents = maps(*tag >> 3, contents);
    }
    all.sort_by(|(a_tag, a), (b_tag, b)| {
        // Entries start with their key, whose length is the same for all digests; only for
        // texts the length has to be skipped.
        let key = |entry: &[u8]| fields(body(entry)).first().map(|(_, key)| body(key).to_vec());
        a_tag.cmp(b_tag).then_with(|| match *a_tag >> 3 {
            _ if *a_tag & 7 != 2 => std::cmp::Ordering::Equal,
            _ => key(a).cmp(&key(b)),
        })
    });
    all.into_iter().flat_map(|(tag, contents)| [vec![tag as u8], contents].concat()).collect()
}

fn body(contents: &[u8]) -> &[u8] {
    let header = contents.iter().position(|byte| *byte < 0x80).expect("a length") + 1;
    &contents[header..]
}

fn with_length(body: Vec<u8>) -> Vec<u8> {
    let (mut out, mut length) = (Vec::new(), body.len());
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    [out, body].concat()
}

fn canonical(definition: &[u8]) -> Vec<u8> {
    let same = |_: u64, contents: &[u8]| contents.to_vec();
    let metadata = |number: u64, contents: &[u8]| match number {
        2 => with_length(sort_maps(body(contents), &same)),
        _ => contents.to_vec(),
    };
    let mut all = fields(definition);
    for (tag, contents) in &mut all {
        match *tag >> 3 {
            2 => *contents = with_length(sort_maps(body(contents), &metadata)),
            3 => {
                let (mut locations, infos): (Vec<_>, Vec<_>) =
                    fields(body(contents)).into_iter().partition(|(tag, _)| *tag >> 3 == 1);
                locations.sort();
                let source = locations.into_iter().chain(infos);
                let source = source.flat_map(|(tag, field)| [vec![tag as u8], field].concat());
                *contents = with_length(source.collect());
            }
            _ => {}
        }
    }
    let key = |entry: &[u8]| body(entry)[..73].to_vec();
    all.sort_by(|(a_tag, a), (b_tag, b)| {
        let by_key = || if *a_tag >> 3 == 2 { key(a).cmp(&key(b)) } else { a_tag.cmp(b_tag) };
        a_tag.cmp(b_tag).then_with(by_key)
    });
    all.into_iter().flat_map(|(tag, contents)| [vec![tag as u8], contents].concat()).collect()
}

#[test]
fn definitions_round_trip() {
    for Fixture { path, bytes, definition, .. } in fixtures() {
        let encoded = definition.encode();
        assert_eq!(Definition::decode(&encoded).as_ref(), Ok(&definition), "{}", path.display());
        assert!(encoded == canonical(&bytes), "{}: other bytes", path.display());
        assert_eq!(encoded, canonical(&encoded), "{}: not canonical", path.display());
    }
}

#[test]
fn ops_round_trip_byte_for_byte() {
    for (path, bytes) in ops() {
        let op = Op::decode(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(op.encode(), bytes, "{}: {op:?}", path.display());
        assert_eq!(op.validate(), Ok(()), "{}: {op:?}", path.display());
    }
}

#[test]
fn json_is_what_go_prints() {
    for Fixture { path, definition, ops, .. } in fixtures() {
        let shown = to_json(&definition).expect("the ops are valid");
        for (shown, expected) in shown.as_array().into_iter().zip(ops.as_array()) {
            assert_eq!(shown, expected, "{}", path.display());
        }
        assert_eq!(shown, ops, "{}", path.display());
    }
}

#[test]
fn graphs_come_back_as_the_same_ops_in_the_same_order() {
    for Fixture { path, definition, ops, .. } in fixtures() {
        let (graph, edge) =
            definition.load().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let edge = edge.expect("no fixture is empty");
        assert_eq!(graph.len() + 1, definition.def.len(), "{}", path.display());
        for op in &ops.as_array().expect("a list")[..graph.len()] {
            let digest = op["digest"].as_str().and_then(|text| text.parse().ok());
            let vertex = digest.and_then(|digest: Digest| graph.get(&digest));
            assert!(vertex.is_some(), "{}: {op}", path.display());
        }
        let again = graph.to_definition(edge).expect("the edge is in the graph");
        let digests = |def: &[Vec<u8>]| def.iter().map(Digest::of).collect::<Vec<_>>();
        assert_eq!(digests(&again.def), digests(&definition.def), "{}", path.display());
        assert_eq!(again.metadata, definition.metadata, "{}", path.display());
    }
}

#[test]
fn every_vertex_has_a_name() {
    for Fixture { path, definition, .. } in fixtures() {
        let (graph, edge) = definition.load().expect("checked elsewhere");
        for vertex in graph.reachable(&edge.expect("no fixture is empty")) {
            let name = vertex.metadata.description.get("llb.customname");
            assert!(!vertex.name().is_empty(), "{}: {:?}", path.display(), vertex.op);
            assert!(name.is_none_or(|name| name == vertex.name()), "{}", path.display());
        }
    }
}

#[test]
fn handles_make_the_same_ops() {
    let mut rebuilt = BTreeMap::new();
    for (path, bytes) in ops() {
        let op = Op::decode(&bytes).expect("checked elsewhere");
        let same = match op.kind.clone() {
            OpKind::Exec(exec) => exec_from_handles(&op, exec),
            OpKind::File(file) => file_from_handles(&op, file),
            OpKind::Merge(merge) => {
                let trees = merge.inputs.iter().map(|input| Some(op.inputs[*input as usize]));
                let Folded::Op(merged) = build::merge(trees) else { panic!("{op:?}") };
                merged
            }
            OpKind::Source(source) => {
                let platform = op.platform.clone().unwrap_or_default();
                build::source(source.identifier, source.attrs, Some(platform))
            }
            other => panic!("a fixture with an op that this test does not rebuild: {other:?}"),
        };
        assert_eq!(same, op, "{}", path.display());
        assert_eq!(Digest::of(same.encode()), Digest::of(&bytes), "{}", path.display());
        *rebuilt.entry(op.kind_name()).or_insert(0) += 1;
    }
    let kinds: Vec<_> = rebuilt.keys().copied().collect();
    assert!(["exec", "file", "merge", "source"].iter().all(|kind| kinds.contains(kind)));
}

fn exec_from_handles(op: &Op, exec: ExecOp) -> Op {
    let edge = |input: Option<u32>| input.map(|input| op.inputs[input as usize]);
    let mut mounts: Vec<MountSpec> = exec
        .mounts
        .iter()
        .map(|mount| MountSpec {
            dest: mount.dest.clone(),
            source: edge(mount.input),
            selector: mount.selector.clone(),
            readonly: mount.readonly,
            wants_output: mount.output.is_some(),
            kind: mount.kind.clone(),
            content_cache: mount.content_cache,
        })
        .collect();
    // The order of the description must not matter, but among secrets and agents.
    mounts.sort_by_key(|mount| {
        let stays = matches!(mount.kind, MountKind::Secret(_) | MountKind::Ssh(_));
        (!stays, std::cmp::Reverse(if stays { String::new() } else { mount.dest.clone() }))
    });
    let expected: Vec<Option<u32>> = mounts
        .iter()
        .map(|spec| {
            let mount = exec.mounts.iter().find(|mount| mount.dest == spec.dest);
            mount.filter(|mount| mount.is_output()).and_then(|mount| mount.output)
        })
        .collect();
    let built = build::exec(ExecSpec {
        meta: exec.meta,
        mounts,
        network: exec.network,
        security: exec.security,
        secret_env: exec.secret_env,
        cdi_devices: exec.cdi_devices,
        platform: op.platform.clone(),
    });
    assert_eq!(built.outputs, expected);
    built.op
}

fn file_from_handles(op: &Op, file: FileOp) -> Op {
    let tree = |index: Option<u32>| match index.map(|i| ActionInput::of(i, op.inputs.len())) {
        None => Tree::Scratch,
        Some(ActionInput::Input(input)) => Tree::Edge(op.inputs[input as usize]),
        Some(ActionInput::Action(action)) => Tree::Action(action),
    };
    let actions = file.actions.into_iter().map(|action| FileActionSpec {
        base: tree(action.input),
        secondary: tree(action.secondary_input),
        is_output: action.output.is_some(),
        kind: action.kind,
    });
    build::file(actions.collect())
}

#[test]
fn merges_and_diffs_of_nothing_fold() {
    let edge = |output| Edge { vertex: Digest::of(b"x"), output };
    assert_eq!(build::merge([None, None]), Folded::Scratch);
    assert_eq!(build::merge([None, Some(edge(1))]), Folded::Same(edge(1)));
    assert_eq!(build::diff(None, None), Folded::Scratch);
    assert_eq!(build::diff(None, Some(edge(1))), Folded::Same(edge(1)));
    let Folded::Op(removal) = build::diff(Some(edge(1)), None) else {
        panic!("all that was removed is a result of its own");
    };
    assert_eq!(removal.inputs, [edge(1)]);
    assert_eq!(removal.name(|_| "a".into()), "diff (a) -> scratch");
    let Folded::Op(twice) = build::merge([Some(edge(1)), None, Some(edge(1))]) else {
        panic!("two trees are merged even if they are the same");
    };
    assert_eq!(twice.inputs, [edge(1), edge(1)]);
    assert_eq!(twice.name(|_| "a".into()), "merge (a, a)");
}

fn mutate(bytes: &mut [u8], changes: &[(prop::sample::Index, u8)]) {
    for (at, byte) in changes {
        bytes[at.index(bytes.len())] = *byte;
    }
}

/// Changes bytes of every op and every definition of every fixture, in a few hundred ways.
#[test]
fn mutated_fixtures_never_panic() {
    let fixtures = fixtures();
    let ops: Vec<Vec<u8>> = ops().map(|(_, bytes)| bytes).collect();
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6);
    proptest!(|(changes in changes, which in any::<prop::sample::Index>())| {
        let mut bytes = which.get(&ops).clone();
        mutate(&mut bytes, &changes);
        if let Ok(op) = Op::decode(&bytes) {
            prop_assert_eq!(Op::decode(&op.encode()), Ok(op.clone()));
            let _ = Graph::new().insert_encoded(bytes, OpMetadata::default());
        }

        let mut bytes = which.get(&fixtures).bytes.clone();
        mutate(&mut bytes, &changes);
        if let Ok(definition) = Definition::decode(&bytes) {
            let _ = (definition.load(), to_json(&definition));
        }
    });
}
