//! What an op's key consists of, piece by piece and in words for people, so that `--why` can name
//! the first piece that changed. Made from the same normalised op that is hashed, field by field,
//! so that no field can be in the key and in no leaf.

use cofferdam_llb::Op;
use cofferdam_solver::Leaf;
use cofferdam_types::Digest;
use serde_json::Value;

/// Longer values are cut, and told apart by their digest.
const MAX_VALUE: usize = 512;

/// The leaves of a normalised op.
pub(crate) fn of(op: &Op) -> Vec<Leaf> {
    let mut leaves = Vec::new();
    flatten("", &op.to_json(), &mut leaves);
    leaves
}

/// A leaf, with a value that is not too long to keep.
pub(crate) fn leaf(name: impl Into<String>, value: impl Into<String>) -> Leaf {
    let mut value = value.into();
    if value.len() > MAX_VALUE {
        let digest = Digest::of(&value);
        value.truncate(value.floor_char_boundary(MAX_VALUE));
        value += &format!("... ({digest})");
    }
    Leaf { name: name.into(), value }
}

/// Goes down into a message; how deep messages nest is up to LLB, not to the client.
fn flatten(path: &str, value: &Value, leaves: &mut Vec<Leaf>) {
    match value {
        Value::Null => {}
        Value::Object(members) if !members.is_empty() => {
            for (name, member) in members {
                flatten(&below(path, name), member, leaves);
            }
        }
        Value::Array(items) if path == "env" => {
            leaves.extend(items.iter().filter_map(Value::as_str).map(variable));
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            for (position, item) in items.iter().enumerate() {
                // Mounts are known by where they are, everything else by its position.
                let label = match item.get("dest").and_then(Value::as_str) {
                    Some(dest) => dest.to_owned(),
                    None => (position + 1).to_string(),
                };
                flatten(&below(path, &label), item, leaves);
            }
        }
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(word).collect();
            leaves.push(leaf(path, items.join(" ")));
        }
        scalar => leaves.push(leaf(path, text(path, scalar))),
    }
}

/// The name of a member. Messages around messages add nothing that people want to read.
fn below(path: &str, name: &str) -> String {
    let name = match name {
        "Op" | "Action" | "User" | "exec" | "file" | "meta" => return path.to_owned(),
        "mounts" => "mount",
        "actions" => "action",
        "Architecture" => "architecture",
        "OS" => "os",
        "Variant" => "variant",
        "OSVersion" => "os version",
        "OSFeatures" => "os features",
        other => other,
    };
    match path {
        "" => name.to_owned(),
        path => format!("{path} {name}"),
    }
}

fn variable(text: &str) -> Leaf {
    match text.split_once('=') {
        Some((name, value)) => leaf(format!("env {name}"), value),
        None => leaf("env", text),
    }
}

/// A number as people know it.
fn text(path: &str, value: &Value) -> String {
    let number = value.as_u64();
    let names: &[&str] = match path {
        "network" => &["sandbox", "host", "none"],
        "security" => &["sandbox", "insecure"],
        _ => &[],
    };
    let name = number.and_then(|number| names.get(usize::try_from(number).ok()?));
    match (name, number, value) {
        (Some(name), ..) => (*name).to_owned(),
        (None, Some(mode), _) if path.ends_with(" mode") => format!("{mode:o}"),
        (None, _, Value::String(text)) => text.clone(),
        (None, ..) => value.to_string(),
    }
}

/// An item of a list, quoted as for a shell where it could be taken for several.
fn word(item: &Value) -> String {
    let Value::String(text) = item else { return item.to_string() };
    let plain = |c: char| c.is_ascii_alphanumeric() || "%+,-./:=@_".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.clone(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};
    use std::path::Path;

    use cofferdam_llb::{
        CacheOpt, CacheSharing, CdiDevice, ContentCache, Definition, Edge, ExecOp, FileAction,
        FileActionCopy, FileActionKind, FileActionMkdir, FileActionMkfile, FileActionRm,
        FileActionSymlink, FileOp, HostIp, Meta, Mount, MountKind, NamedUser, NetMode, OpKind,
        Owner, ProxyEnv, SecretEnv, SecretOpt, SecurityMode, SshOpt, TmpfsOpt, Ulimit, UserSpec,
    };
    use cofferdam_types::Platform;
    use expect_test::expect;

    use super::*;
    use crate::vertex::normalized;

    /// A process with everything that can be set.
    fn exec() -> Op {
        let mount = |input, dest: &str, kind| Mount {
            input,
            selector: "part".into(),
            dest: dest.into(),
            output: None,
            readonly: true,
            kind,
            result_id: String::new(),
            content_cache: ContentCache::Off,
        };
        let meta = Meta {
            args: vec!["/bin/sh".into(), "-c".into(), "echo 'a' b".into()],
            env: vec!["A=1".into(), "B=".into(), "C".into()],
            cwd: "/work".into(),
            user: "user".into(),
            proxy_env: Some(ProxyEnv::default()),
            extra_hosts: vec![HostIp { host: "host".into(), ip: "1.2.3.4".into() }],
            hostname: "name".into(),
            ulimits: vec![Ulimit { name: "nofile".into(), soft: 1, hard: 2 }],
            cgroup_parent: "parent".into(),
            remove_mount_stubs_recursive: true,
            valid_exit_codes: vec![3, 4],
        };
        let secret = SecretOpt { id: "s".into(), uid: 1, gid: 2, mode: 0o400, optional: true };
        let ssh = SshOpt { id: "s".into(), uid: 1, gid: 2, mode: 0o600, optional: true };
        let cache = CacheOpt { id: "c".into(), sharing: CacheSharing::Locked };
        let root = Mount { output: Some(0), ..mount(Some(0), "/", MountKind::Bind) };
        let kind = OpKind::Exec(ExecOp {
            meta,
            mounts: vec![
                Mount { selector: String::new(), readonly: false, ..root },
                mount(Some(1), "/bound", MountKind::Bind),
                mount(Some(1), "/cache", MountKind::Cache(cache)),
                mount(None, "/tmp", MountKind::Tmpfs(Some(TmpfsOpt { size: 9 }))),
                mount(None, "/secret", MountKind::Secret(secret)),
                mount(None, "/ssh", MountKind::Ssh(ssh)),
            ],
            network: NetMode::Host,
            security: SecurityMode::Insecure,
            secret_env: vec![SecretEnv { id: "t".into(), name: "T".into(), optional: true }],
            cdi_devices: vec![CdiDevice { name: "v/c=d".into(), optional: true }],
        });
        op(kind, 2)
    }

    /// All file actions with everything that can be set.
    fn file() -> Op {
        let name = UserSpec::Name(NamedUser { name: "user".into(), input: Some(1) });
        let owner = Some(Owner { user: Some(name), group: Some(UserSpec::Id(7)) });
        let timestamp = Some(1);
        let copy = FileActionCopy {
            src: "/src/*".into(),
            dest: "/dest".into(),
            owner: owner.clone(),
            mode: Some(0o755),
            follow_symlink: true,
            dir_copy_contents: true,
            attempt_unpack: true,
            create_dest_path: true,
            allow_wildcard: true,
            allow_empty_wildcard: true,
            timestamp,
            include_patterns: vec!["*.rs".into(), "a b".into()],
            exclude_patterns: vec!["x".into()],
            always_replace_existing_dest_paths: true,
            mode_str: "u=rw".into(),
            required_paths: vec!["y".into()],
        };
        let (path, data) = (String::from("/made"), b"data".to_vec());
        let mkfile = FileActionMkfile {
            path: path.clone(),
            mode: 0o644,
            data,
            owner: owner.clone(),
            timestamp,
        };
        let mkdir = FileActionMkdir {
            path: path.clone(),
            mode: 0o711,
            make_parents: true,
            owner: owner.clone(),
            timestamp,
        };
        let rm = FileActionRm { path, allow_not_found: true, allow_wildcard: true };
        let symlink =
            FileActionSymlink { oldpath: "old".into(), newpath: "/new".into(), owner, timestamp };
        let actions = [
            FileActionKind::Copy(copy),
            FileActionKind::Mkfile(mkfile),
            FileActionKind::Mkdir(mkdir),
            FileActionKind::Rm(rm),
            FileActionKind::Symlink(symlink),
        ];
        let action = |(position, kind): (u32, FileActionKind)| FileAction {
            input: Some(if position == 0 { 0 } else { position + 1 }),
            secondary_input: (position == 0).then_some(1),
            output: (position == 4).then_some(0),
            kind,
        };
        op(OpKind::File(FileOp { actions: (0..).zip(actions).map(action).collect() }), 2)
    }

    fn op(kind: OpKind, inputs: u32) -> Op {
        let edge = |input: u32| Edge { vertex: Digest::of(input.to_le_bytes()), output: 0 };
        let platform = Platform {
            os: "linux".into(),
            architecture: "arm".into(),
            variant: "v7".into(),
            os_version: "1".into(),
            os_features: vec!["f".into()],
        };
        let inputs = (0..inputs).map(edge).collect();
        Op { inputs, kind, platform: Some(platform), constraints: Some(vec!["c".into()]) }
    }

    fn show(op: &Op) -> String {
        let normal = normalized(op).expect("a supported op").normal;
        of(&normal).iter().map(|leaf| format!("{}: {}\n", leaf.name, leaf.value)).collect()
    }

    #[test]
    fn an_exec_op_in_words() {
        expect![[r#"
            cdiDevices 1 name: v/c=d
            cdiDevices 1 optional: true
            args: /bin/sh -c 'echo '\''a'\'' b'
            cgroupParent: parent
            cwd: /work
            env A: 1
            env B: 
            env: C
            extraHosts 1 Host: host
            hostname: name
            removeMountStubsRecursive: true
            ulimit 1 Hard: 2
            ulimit 1 Name: nofile
            ulimit 1 Soft: 1
            user: user
            validExitCodes: 3 4
            mount / contentCache: 2
            mount / dest: /
            mount /bound contentCache: 2
            mount /bound dest: /bound
            mount /bound input: 1
            mount /bound output: -1
            mount /bound readonly: true
            mount /cache cacheOpt: {}
            mount /cache contentCache: 2
            mount /cache dest: /cache
            mount /cache input: 1
            mount /cache mountType: 3
            mount /cache output: -1
            mount /cache readonly: true
            mount /tmp TmpfsOpt size: 9
            mount /tmp contentCache: 2
            mount /tmp dest: /tmp
            mount /tmp input: -1
            mount /tmp mountType: 4
            mount /tmp output: -1
            mount /tmp readonly: true
            mount /tmp selector: part
            mount /secret contentCache: 2
            mount /secret dest: /secret
            mount /secret input: -1
            mount /secret mountType: 1
            mount /secret output: -1
            mount /secret readonly: true
            mount /secret secretOpt ID: s
            mount /secret secretOpt gid: 2
            mount /secret secretOpt mode: 400
            mount /secret secretOpt optional: true
            mount /secret secretOpt uid: 1
            mount /secret selector: part
            mount /ssh SSHOpt ID: s
            mount /ssh SSHOpt gid: 2
            mount /ssh SSHOpt mode: 600
            mount /ssh SSHOpt optional: true
            mount /ssh SSHOpt uid: 1
            mount /ssh contentCache: 2
            mount /ssh dest: /ssh
            mount /ssh input: -1
            mount /ssh mountType: 2
            mount /ssh output: -1
            mount /ssh readonly: true
            mount /ssh selector: part
            network: host
            secretenv 1 ID: t
            secretenv 1 name: T
            secretenv 1 optional: true
            security: insecure
            platform architecture: arm
            platform os: linux
            platform os features: f
            platform os version: 1
            platform variant: v7
        "#]]
        .assert_eq(&show(&exec()));
    }

    #[test]
    fn a_file_op_in_words() {
        expect![[r#"
            action 1 copy allowEmptyWildcard: true
            action 1 copy allowWildcard: true
            action 1 copy alwaysReplaceExistingDestPaths: true
            action 1 copy attemptUnpackDockerCompatibility: true
            action 1 copy createDestPath: true
            action 1 copy dest: /dest
            action 1 copy dirCopyContents: true
            action 1 copy exclude_patterns: x
            action 1 copy followSymlink: true
            action 1 copy include_patterns: '*.rs' 'a b'
            action 1 copy mode: 755
            action 1 copy modeStr: u=rw
            action 1 copy owner group byId: 7
            action 1 copy owner user byName input: 1
            action 1 copy owner user byName name: user
            action 1 copy required_paths: y
            action 1 copy src: /src/*
            action 1 copy timestamp: 1
            action 1 input: 0
            action 1 output: -1
            action 1 secondaryInput: 1
            action 2 mkfile data: ZGF0YQ==
            action 2 mkfile mode: 644
            action 2 mkfile owner group byId: 7
            action 2 mkfile owner user byName input: 1
            action 2 mkfile owner user byName name: user
            action 2 mkfile path: /made
            action 2 mkfile timestamp: 1
            action 2 input: 2
            action 2 output: -1
            action 2 secondaryInput: -1
            action 3 mkdir makeParents: true
            action 3 mkdir mode: 711
            action 3 mkdir owner group byId: 7
            action 3 mkdir owner user byName input: 1
            action 3 mkdir owner user byName name: user
            action 3 mkdir path: /made
            action 3 mkdir timestamp: 1
            action 3 input: 3
            action 3 output: -1
            action 3 secondaryInput: -1
            action 4 rm allowNotFound: true
            action 4 rm allowWildcard: true
            action 4 rm path: /made
            action 4 input: 4
            action 4 output: -1
            action 4 secondaryInput: -1
            action 5 symlink newpath: /new
            action 5 symlink oldpath: old
            action 5 symlink owner group byId: 7
            action 5 symlink owner user byName input: 1
            action 5 symlink owner user byName name: user
            action 5 symlink timestamp: 1
            action 5 input: 5
            action 5 output: 0
            action 5 secondaryInput: -1
        "#]]
        .assert_eq(&show(&file()));
    }

    /// The ops of the fixtures and the ones above.
    fn ops() -> Vec<Op> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/llb");
        let mut ops = vec![exec(), file()];
        for entry in std::fs::read_dir(directory).expect("the repository has fixtures") {
            let path = entry.expect("the directory can be read").path();
            if path.extension().is_none_or(|extension| extension != "pb") {
                continue;
            }
            let bytes = std::fs::read(&path).expect("fixtures can be read");
            let definition = Definition::decode(&bytes).expect("fixtures are definitions");
            ops.extend(definition.def.iter().filter_map(|bytes| Op::decode(bytes).ok()));
        }
        ops
    }

    #[test]
    fn if_definitions_differ_a_leaf_differs() {
        // By the leaves: what is hashed.
        let mut known: HashMap<Vec<(String, String)>, Vec<u8>> = HashMap::new();
        let mut check = |op: &Op| {
            let Ok(key) = op.validate().map_err(drop).and_then(|()| normalized(op).map_err(drop))
            else {
                return;
            };
            let leaves = of(&key.normal).into_iter().map(|leaf| (leaf.name, leaf.value)).collect();
            let hashed = key.normal.encode();
            let before = known.entry(leaves).or_insert_with(|| hashed.clone());
            assert_eq!(*before, hashed, "{:#?}", key.normal);
        };
        let mut mutants = BTreeMap::new();
        for op in ops() {
            check(&op);
            let bytes = op.encode();
            for position in 0..bytes.len() {
                for change in [1, 2, 0x80] {
                    let mut bytes = bytes.clone();
                    bytes[position] ^= change;
                    if let Ok(op) = Op::decode(&bytes) {
                        *mutants.entry(op.kind_name()).or_insert(0) += 1;
                        check(&op);
                    }
                }
            }
        }
        for kind in ["exec", "file"] {
            assert!(mutants[kind] > 1000, "{mutants:?}");
        }
    }
}
