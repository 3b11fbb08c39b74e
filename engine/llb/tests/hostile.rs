//! What is refused: broken bytes, unknown values, graphs that cannot be. Errors say where, and
//! nothing panics.

use std::collections::BTreeMap;

use cofferdam_llb::build::{self, ExecSpec, FileActionSpec, MountSpec, Tree};
use cofferdam_llb::*;
use cofferdam_types::Digest;
use expect_test::{Expect, expect};
use proptest::prelude::*;

fn field(number: u32, contents: &[u8]) -> Vec<u8> {
    let mut out = varint(u64::from(number) << 3 | 2);
    out.extend(varint(contents.len() as u64));
    out.extend(contents);
    out
}

fn number(number: u32, value: i64) -> Vec<u8> {
    [varint(u64::from(number) << 3), varint(value as u64)].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

/// An exec op with a process and a root, and what is added to it.
fn exec(more: &[u8]) -> Vec<u8> {
    let meta = [field(1, b"true"), field(3, b"/")].concat();
    let root = [number(1, -1), field(3, b"/")].concat();
    field(2, &[field(1, &meta), field(2, &root), more.to_vec()].concat())
}

fn file(actions: &[Vec<u8>]) -> Vec<u8> {
    field(4, &actions.iter().flat_map(|action| field(2, action)).collect::<Vec<u8>>())
}

fn mkdir(input: i64, output: i64) -> Vec<u8> {
    [number(1, input), number(2, -1), number(3, output), field(6, &field(1, b"/d"))].concat()
}

fn check(bytes: &[u8], expected: Expect) {
    let error = Graph::new().insert_encoded(bytes.to_vec(), OpMetadata::default()).unwrap_err();
    expected.assert_eq(&error.to_string());
}

#[test]
fn the_examples_are_valid_until_broken() {
    for bytes in [exec(&[]), file(&[mkdir(-1, 0)]), file(&[mkdir(-1, -1), mkdir(0, 0)])] {
        let digest = Graph::new().insert_encoded(bytes.clone(), OpMetadata::default());
        assert_eq!(digest, Ok(Digest::of(bytes)));
    }
}

#[test]
fn malformed_ops_name_the_field() {
    check(&[], expect!["malformed op.Op: missing"]);
    check(&[0x0a], expect!["malformed op: the bytes end too early"]);
    check(&field(99, b""), expect!["malformed op: unknown field number 99"]);
    check(&number(2, 1), expect!["malformed op.exec: expected wire type 2, got 0"]);
    check(&[exec(&[]), exec(&[])].concat(), expect!["malformed op: given more than once"]);
    check(&exec(&field(3, b"")), expect!["malformed op.exec.network: expected wire type 0, got 2"]);
    check(&exec(&number(3, 99)), expect!["malformed op.exec.network: unknown value 99"]);
    check(&exec(&number(3, -1)), expect!["malformed op.exec.network: unknown value -1"]);
    check(&exec(&number(4, 99)), expect!["malformed op.exec.security: unknown value 99"]);
    check(&exec(&number(4, -1)), expect!["malformed op.exec.security: unknown value -1"]);
    check(&exec(&number(77, 1)), expect!["malformed op.exec: unknown field number 77"]);
    check(
        &exec(&field(2, &number(6, 99))),
        expect!["malformed op.exec.mounts[1].mountType: unknown value 99"],
    );
    check(
        &exec(&field(2, &number(6, 3))),
        expect!["malformed op.exec.mounts[1]: expected cacheOpt alone with a cache mount"],
    );
    check(
        &exec(&field(2, &field(20, b""))),
        expect!["malformed op.exec.mounts[1]: expected no options with a bind mount"],
    );
    check(
        &exec(&field(2, &number(1, -2))),
        expect!["malformed op.exec.mounts[1].input: number -2 is out of range"],
    );
    check(
        &exec(&field(2, &number(4, i64::MAX))),
        expect!["malformed op.exec.mounts[1].output: number 9223372036854775807 is out of range"],
    );
    check(
        &exec(&field(2, &number(5, 2))),
        expect!["malformed op.exec.mounts[1].readonly: number 2 is out of range"],
    );
    check(&field(2, &field(2, b"")), expect!["malformed op.exec.meta: missing"]);
    check(
        &field(2, &field(1, &field(1, b"\xff"))),
        expect!["malformed op.exec.meta.args[0]: not UTF-8"],
    );
    check(&file(&[number(3, 0)]), expect!["malformed op.file.actions[0].Action: missing"]);
    check(&field(7, b""), expect!["malformed op.diff.lower: missing"]);
    let edge = |digest: &[u8], index| field(1, &[field(1, digest), number(2, index)].concat());
    check(
        &edge(b"sha256:..", 0),
        expect![[
            r#"malformed op.inputs[0].digest: invalid digest "sha256:..": expected `sha256:` and 64 lower-case hex digits"#
        ]],
    );
    let digest = Digest::of(b"").to_string();
    check(
        &edge(digest.as_bytes(), -1),
        expect!["malformed op.inputs[0].index: number -1 is out of range"],
    );
    check(
        &edge(digest.as_bytes(), i64::MAX),
        expect!["malformed op.inputs[0].index: number 9223372036854775807 is out of range"],
    );
    let attr = field(2, &[field(1, b"a"), field(2, b"b")].concat());
    check(
        &field(3, &[attr.clone(), attr].concat()),
        expect![[r#"malformed op.source.attrs: key "a" is given more than once"#]],
    );
}

#[test]
fn invalid_ops_name_the_rule() {
    let meta = |meta: &[u8]| field(2, &[field(1, meta), field(2, &field(3, b"/"))].concat());
    check(&meta(&field(3, b"/")), expect!["invalid exec op: args are empty"]);
    check(&meta(&field(1, b"a")), expect!["invalid exec op: cwd is empty"]);
    check(
        &meta(&[field(1, b"a\0b"), field(3, b"/")].concat()),
        expect!["invalid exec op: args contains a NUL character"],
    );
    let host = field(6, &[field(1, b"h"), field(2, b"1.2.3.4\n::1 evil")].concat());
    check(
        &meta(&[field(1, b"a"), field(3, b"/"), host].concat()),
        expect![[
            r#"invalid exec op: extraHosts IP is "1.2.3.4\n::1 evil": expected an IP address"#
        ]],
    );
    check(
        &field(2, &field(1, &[field(1, b"a"), field(3, b"/")].concat())),
        expect![[r#"invalid exec op: no mount at "/": a process needs a root file system"#]],
    );
    check(
        &exec(&field(2, &field(3, b"/a"))),
        expect![[r#"invalid exec op: mount "/a": input is input 0 of 0"#]],
    );
    check(
        &exec(&field(2, &[number(1, -1), field(3, b"/a"), number(4, 7)].concat())),
        expect![[
            r#"invalid exec op: mount "/a": output is 7, expected 1: outputs are numbered in the order of the mounts"#
        ]],
    );
    check(
        &exec(&field(2, &[number(1, -1), field(3, b"/a"), number(4, 1), number(24, 1)].concat())),
        expect![[
            r#"invalid exec op: mount "/a": contentCache is on: expected a read-only mount, one without output or a selector"#
        ]],
    );
    check(&file(&[]), expect!["invalid file op: actions are empty"]);
    check(
        &file(&[mkdir(0, 0)]),
        expect![
            "invalid file op: action 0: input is 0: expected one of 0 inputs or 0 earlier actions"
        ],
    );
    check(
        &file(&[mkdir(-1, -1), mkdir(-1, 0)]),
        expect!["invalid file op: action 0: its result is neither used nor an output"],
    );
    check(
        &file(&[mkdir(-1, 1)]),
        expect!["invalid file op: outputs are [1]: expected 0, 1, 2, … each once"],
    );
    check(
        &file(&[mkdir(-1, 0), mkdir(-1, 0)]),
        expect!["invalid file op: outputs are [0, 0]: expected 0, 1, 2, … each once"],
    );
    check(
        &field(3, &field(1, b"file:///etc")),
        expect![[
            r#"invalid source op: identifier is "file:///etc": expected one of docker-image, docker-image+blob, oci-layout, oci-layout+blob, local, git, http, https"#
        ]],
    );
    check(&field(8, b""), expect!["invalid passthrough op: id is empty"]);
    check(
        &field(8, &[field(1, b"x"), field(2, &varint(3))].concat()),
        expect!["invalid passthrough op: an output is input 3 of 0"],
    );
    check(
        &field(6, &field(1, &number(1, 5))),
        expect!["invalid merge op: a member is input 5 of 0"],
    );
    let builder = field(2, &[field(1, b"x"), field(2, b"")].concat());
    check(
        &field(5, &[number(1, -1), builder].concat()),
        expect!["invalid build op: no input is named `buildkit.llb.definition`"],
    );
    check(
        &[field(10, &field(2, b"../linux")), exec(&[])].concat(),
        expect![[
            r#"invalid exec op: platform has "../linux": expected letters, digits, `-`, `_` and `.`"#
        ]],
    );
}

fn source(name: &str) -> Op {
    build::source(format!("local://{name}"), BTreeMap::new(), None)
}

fn load(def: Vec<Vec<u8>>, expected: Expect) {
    let error = Definition { def, ..Definition::default() }.load().unwrap_err();
    expected.assert_eq(&error.to_string());
}

#[test]
fn definitions_that_are_no_graph_are_refused() {
    let a = source("a");
    let op = a.encode();
    let mut graph = Graph::new();
    let vertex = graph.insert(a, OpMetadata::default()).unwrap();
    let whole = graph.to_definition(Edge { vertex, output: 0 }).unwrap();
    let terminal = whole.def[1].clone();
    assert_eq!(whole.load().map(|(graph, _)| graph.len()), Ok(1));
    assert_eq!(Definition::default().load().map(|(_, edge)| edge), Ok(None));

    load(
        vec![op.clone()],
        expect!["definition of 1 ops has no terminal op: expected one without a body, last"],
    );
    load(
        vec![terminal.clone()],
        expect!["definition of 1 ops has no terminal op: expected one without a body, last"],
    );
    load(
        vec![terminal.clone(), op.clone()],
        expect!["definition of 2 ops has no terminal op: expected one without a body, last"],
    );
    load(
        vec![op.clone(), op.clone(), terminal.clone()],
        expect![[
            r#"op sha256:f0d79f00478e3f47b256973fa06b1711ec8cd10768db1d07746c1a007c8fa5d3 is in the definition twice"#
        ]],
    );
    load(
        vec![source("b").encode(), terminal],
        expect![[
            r#"input 0 names sha256:f0d79f00478e3f47b256973fa06b1711ec8cd10768db1d07746c1a007c8fa5d3, which is not in the graph"#
        ]],
    );
    let other = [field(1, vertex.to_string().as_bytes()), number(2, 1)].concat();
    load(
        vec![op, field(1, &other)],
        expect![[
            r#"output 1 of sha256:f0d79f00478e3f47b256973fa06b1711ec8cd10768db1d07746c1a007c8fa5d3 is not in the graph"#
        ]],
    );
}

#[test]
fn inputs_have_to_be_there() {
    let mut graph = Graph::new();
    let vertex = Digest::of(b"nowhere");
    let edge = Edge { vertex, output: 0 };
    let build::Folded::Op(diff) = build::diff(Some(edge), None) else { panic!("not folded") };
    let missing = Error::MissingVertex { index: 0, vertex };
    assert_eq!(graph.insert(diff, OpMetadata::default()), Err(missing));

    let vertex = graph.insert(source("a"), OpMetadata::default()).unwrap();
    let edge = Edge { vertex, output: 1 };
    let build::Folded::Op(diff) = build::diff(Some(edge), None) else { panic!("not folded") };
    let missing = Error::MissingOutput { index: 0, vertex, output: 1, count: 1 };
    assert_eq!(graph.insert(diff, OpMetadata::default()), Err(missing));
    assert!(graph.to_definition(edge).is_err());
    assert!(graph.reachable(&edge).is_empty());
}

#[test]
fn unreachable_ops_are_not_loaded() {
    let mut graph = Graph::new();
    let vertex = graph.insert(source("a"), OpMetadata::default()).unwrap();
    let mut definition = graph.to_definition(Edge { vertex, output: 0 }).unwrap();
    definition.def.insert(0, source("b").encode());
    assert_eq!(definition.load().map(|(graph, _)| graph.len()), Ok(1));
}

#[test]
fn the_first_metadata_stays() {
    let mut graph = Graph::new();
    let named = |name: &str| OpMetadata {
        description: [("llb.customname".to_owned(), name.to_owned())].into(),
        ..OpMetadata::default()
    };
    let first = graph.insert(source("a"), named("first")).unwrap();
    assert_eq!(graph.insert(source("a"), named("second")), Ok(first));
    assert_eq!(graph.get(&first).map(|vertex| vertex.name()), Some("first"));
    let unknown = OpMetadata { caps: [("warp".into(), true)].into(), ..OpMetadata::default() };
    let refused = Err(Error::UnknownCapability("warp".into()));
    assert_eq!(graph.insert(source("b"), unknown), refused);
}

#[test]
fn deep_graphs_need_no_stack_and_their_names_stay_short() {
    let mut graph = Graph::new();
    let mut vertex = graph.insert(source("a"), OpMetadata::default()).unwrap();
    for _ in 0..20_000 {
        let edge = Some(Edge { vertex, output: 0 });
        let build::Folded::Op(op) = build::merge([edge, edge]) else { panic!("not folded") };
        vertex = graph.insert(op, OpMetadata::default()).unwrap();
    }
    assert!(graph.get(&vertex).unwrap().name().len() < 2 * limits::MAX_NAME_BYTES);
    let definition = graph.to_definition(Edge { vertex, output: 0 }).unwrap();
    let (loaded, _) = definition.load().unwrap();
    assert_eq!(loaded.len(), graph.len());
}

#[test]
fn nesting_is_limited() {
    let mut definition = Vec::new();
    for _ in 0..1000 {
        definition = field(3, &field(2, &field(3, &definition)));
    }
    let error = Definition::decode(&definition).unwrap_err().to_string();
    assert!(error.ends_with("nested too deeply"), "{error}");
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[a-zé/*]{1,9}"]
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(text(), 0..3)
}

fn edge() -> impl Strategy<Value = Edge> {
    (any::<[u8; 32]>(), 0..3u32)
        .prop_map(|(bytes, output)| Edge { vertex: Digest::from_bytes(bytes), output })
}

fn owner() -> impl Strategy<Value = Option<Owner>> {
    let user = || {
        let name = (text(), any::<Option<u32>>());
        prop::option::of(prop_oneof![
            any::<u32>().prop_map(UserSpec::Id),
            name.prop_map(|(name, input)| UserSpec::Name(NamedUser { name, input })),
        ])
    };
    prop::option::of((user(), user()).prop_map(|(user, group)| Owner { user, group }))
}

fn time() -> impl Strategy<Value = Option<i64>> {
    prop::option::of(any::<i64>().prop_filter("means none", |time| *time != -1))
}

fn mode() -> impl Strategy<Value = u32> {
    0..i32::MAX as u32
}

fn mount() -> impl Strategy<Value = MountSpec> {
    let secret = (text(), any::<u32>(), any::<u32>(), any::<u32>(), any::<bool>());
    let kind = prop_oneof![
        Just(MountKind::Bind),
        prop::option::of((0..1u64 << 60).prop_map(|size| TmpfsOpt { size }))
            .prop_map(MountKind::Tmpfs),
        text().prop_map(|id| MountKind::Cache(CacheOpt { id, sharing: CacheSharing::Locked })),
        secret.prop_map(|(id, uid, gid, mode, optional)| {
            MountKind::Secret(SecretOpt { id, uid, gid, mode, optional })
        }),
        text().prop_map(|id| {
            MountKind::Ssh(SshOpt { id, uid: 1, gid: 0, mode: 0o600, optional: true })
        }),
    ];
    (text(), prop::option::of(edge()), text(), any::<bool>(), any::<bool>(), kind).prop_map(
        |(dest, source, selector, readonly, wants_output, kind)| MountSpec {
            dest,
            source,
            selector,
            readonly,
            wants_output,
            kind,
            content_cache: ContentCache::Off,
        },
    )
}

fn exec_op() -> impl Strategy<Value = Op> {
    let codes = prop::collection::vec(any::<i32>(), 0..3);
    let meta = (texts(), texts(), text(), any::<bool>(), codes);
    let mounts = prop::collection::vec(mount(), 0..4);
    (meta, mounts, any::<bool>()).prop_map(|(meta, mounts, flag)| {
        let (args, env, cwd, remove_mount_stubs_recursive, valid_exit_codes) = meta;
        let proxy_env = flag.then(ProxyEnv::default);
        let meta = Meta {
            args,
            env,
            cwd,
            remove_mount_stubs_recursive,
            valid_exit_codes,
            proxy_env,
            ..Meta::default()
        };
        let spec = ExecSpec {
            meta,
            mounts,
            network: if flag { NetMode::None } else { NetMode::Sandbox },
            security: if flag { SecurityMode::Insecure } else { SecurityMode::Sandbox },
            secret_env: Vec::new(),
            cdi_devices: vec![CdiDevice { name: "v/c=d".into(), optional: flag }],
            platform: flag.then(cofferdam_types::Platform::host),
        };
        build::exec(spec).op
    })
}

fn file_op() -> impl Strategy<Value = Op> {
    let copy = (text(), text(), owner(), prop::option::of(mode()), time(), texts());
    let kind = prop_oneof![
        copy.prop_map(|(src, dest, owner, mode, timestamp, include_patterns)| {
            FileActionKind::Copy(FileActionCopy {
                src,
                dest,
                owner,
                mode,
                timestamp,
                include_patterns,
                ..FileActionCopy::default()
            })
        }),
        (text(), mode(), any::<Vec<u8>>(), owner(), time()).prop_map(
            |(path, mode, data, owner, timestamp)| {
                FileActionKind::Mkfile(FileActionMkfile { path, mode, data, owner, timestamp })
            }
        ),
        text().prop_map(|path| FileActionKind::Rm(FileActionRm {
            path,
            allow_not_found: true,
            allow_wildcard: false
        })),
    ];
    let tree = || {
        prop_oneof![
            Just(Tree::Scratch),
            edge().prop_map(Tree::Edge),
            (0..3u32).prop_map(Tree::Action)
        ]
    };
    let action = (tree(), tree(), any::<bool>(), kind);
    let action = action.prop_map(|(base, secondary, is_output, kind)| FileActionSpec {
        base,
        secondary,
        is_output,
        kind,
    });
    prop::collection::vec(action, 0..4).prop_map(build::file)
}

fn other_op() -> impl Strategy<Value = Op> {
    let edges = || prop::collection::vec(edge(), 0..4);
    prop_oneof![
        (text(), prop::collection::btree_map(text(), text(), 0..4))
            .prop_map(|(identifier, attrs)| build::source(identifier, attrs, None)),
        (edges(), any::<Option<u32>>(), any::<Option<u32>>()).prop_map(|(inputs, lower, upper)| {
            build::op(inputs, OpKind::Diff(DiffOp { lower, upper }), None)
        }),
        (edges(), any::<Vec<u32>>(), text()).prop_map(|(inputs, outputs, id)| {
            build::op(inputs, OpKind::Passthrough(PassthroughOp { id, outputs }), None)
        }),
        (any::<Option<u32>>(), prop::collection::btree_map(text(), any::<u32>(), 0..4)).prop_map(
            |(builder, inputs)| {
                let def = builder.map(|_| Definition::default());
                let build = BuildOp { builder, inputs, def, attrs: BTreeMap::new() };
                Op {
                    inputs: Vec::new(),
                    kind: OpKind::Build(build),
                    platform: None,
                    constraints: None,
                }
            }
        ),
    ]
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![exec_op(), file_op(), other_op()]
}

proptest! {
    #[test]
    fn decode_undoes_encode(op in any_op()) {
        prop_assert_eq!(Op::decode(&op.encode()), Ok(op));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in any::<Vec<u8>>()) {
        if let Ok(op) = Op::decode(&bytes) {
            let _ = op.validate();
        }
        if let Ok(definition) = Definition::decode(&bytes) {
            let _ = (definition.load(), to_json(&definition));
        }
    }

    #[test]
    fn mutated_ops_never_panic(
        op in any_op(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        end in any::<prop::sample::Index>(),
    ) {
        let mut bytes = op.encode();
        for (at, byte) in changes {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        bytes.truncate(end.index(bytes.len() + 1));
        if let Ok(op) = Op::decode(&bytes) {
            // Whatever is accepted has one canonical form, which means the same.
            prop_assert_eq!(Op::decode(&op.encode()), Ok(op.clone()));
            let _ = Graph::new().insert_encoded(bytes, OpMetadata::default());
        }
    }
}
