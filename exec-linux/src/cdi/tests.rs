//! The reader against files that are right, wrong and hostile.

use std::fs;
use std::os::unix::fs::symlink;

use expect_test::expect;
use tempfile::TempDir;

use super::*;

/// A directory with files, by name.
fn directory(files: &[(&str, &str)]) -> TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for (name, text) in files {
        fs::write(directory.path().join(name), text).expect("written");
    }
    directory
}

fn registry(directories: &[&TempDir]) -> DeviceRegistry {
    let spec_dirs = directories.iter().map(|directory| directory.path().to_owned()).collect();
    DeviceRegistry::read(&CdiConfig { spec_dirs, ..CdiConfig::default() })
}

/// What there is: devices with their changes, and what is wrong.
fn show(registry: &DeviceRegistry, directories: &[&TempDir]) -> String {
    let mut text = String::new();
    for device in registry.devices() {
        text += &format!("{}: ", device.name);
        text += &match registry.edits(&device.name) {
            Ok(Edits { env, nodes, mounts, groups }) => {
                let mut text = format!("{env:?} {groups:?}\n");
                nodes.iter().for_each(|node| text += &format!("  {node:?}\n"));
                mounts.iter().for_each(|mount| text += &format!("  {mount:?}\n"));
                text
            }
            Err(why) => format!("{why}\n"),
        };
    }
    for problem in &registry.problems {
        text += &format!("{problem}\n");
    }
    for (index, directory) in directories.iter().enumerate() {
        text = text.replace(&directory.path().display().to_string(), &format!("DIR{index}"));
    }
    text
}

/// What is wrong with a file of one device whose changes are these, in JSON.
fn wrong(edits: &str) -> String {
    let text = format!(
        r#"{{"cdiVersion": "1.0.0", "kind": "v.com/c", "devices": [{{"name": "d",
        "containerEdits": {edits}}}]}}"#
    );
    let directory = directory(&[("f.json", &text)]);
    show(&registry(&[&directory]), &[&directory]).replace("DIR0/f.json: ", "")
}

#[test]
fn what_a_file_says_of_all_its_devices_comes_before_each() {
    let directory = directory(&[(
        "vendor.yaml",
        r#"
cdiVersion: "0.7.0"
kind: vendor.com/class
annotations: {org.mobyproject.buildkit.device.class: fast}
containerEdits:
  env: [ALL=1]
  mounts:
  - {hostPath: /opt/lib, containerPath: /usr/lib/vendor, options: [ro, nosuid, nodev, rbind, rprivate]}
devices:
- name: "0"
  containerEdits:
    env: [ONE=a=b]
    additionalGids: [0, 44]
    deviceNodes:
    - {path: /dev/vendor/zero, hostPath: /dev/zero, permissions: r, fileMode: 0640, uid: 7, gid: 8}
    - {path: /dev/disk, type: b, major: 7, minor: 3}
    mounts:
    - {hostPath: /var/run/sock, containerPath: /sock, options: [rw, exec], type: bind}
- name: all
  annotations: {org.mobyproject.buildkit.device.class: slow}
  containerEdits: {env: [TWO=]}
"#,
    )]);
    let registry = registry(&[&directory]);
    expect![[r#"
        vendor.com/class=0: ["ALL=1", "ONE=a=b"] [44]
          Node { name: "vendor/zero", host: "/dev/zero", block: false, major: 1, minor: 5, mode: 416, uid: Some(7), gid: Some(8), read: true, write: false }
          Node { name: "disk", host: "/dev/disk", block: true, major: 7, minor: 3, mode: 438, uid: None, gid: None, read: true, write: true }
          Bind { source: Host("/opt/lib"), selector: None, dest: "/usr/lib/vendor", readonly: true, restrictions: Restrictions { nosuid: true, nodev: true, noexec: false } }
          Bind { source: Host("/var/run/sock"), selector: None, dest: "/sock", readonly: false, restrictions: Restrictions { nosuid: true, nodev: true, noexec: false } }
        vendor.com/class=all: ["ALL=1", "TWO="] []
          Bind { source: Host("/opt/lib"), selector: None, dest: "/usr/lib/vendor", readonly: true, restrictions: Restrictions { nosuid: true, nodev: true, noexec: false } }
    "#]]
    .assert_eq(&show(&registry, &[&directory]));
    // By its name, the first of a kind, all, and by the class of an annotation.
    for (request, found) in [
        ("vendor.com/class=all", &["vendor.com/class=all"][..]),
        ("vendor.com/class", &["vendor.com/class=0"]),
        ("vendor.com/class=", &["vendor.com/class=0"]),
        ("vendor.com/class=*", &["vendor.com/class=0", "vendor.com/class=all"]),
        ("vendor.com/class=fast", &["vendor.com/class=0"]),
        ("vendor.com/class=slow", &["vendor.com/class=all"]),
        ("vendor.com/class=1", &[]),
        ("vendor.com/clas", &[]),
    ] {
        assert_eq!(registry.find(request), Ok(found.to_vec()), "{request}");
    }
    for bad in ["", "class", "/dev/kmsg", "vendor.com/class=../x", "vendor.com/class=a b"] {
        assert!(registry.find(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn a_later_directory_counts_and_two_files_of_one_are_in_conflict() {
    let file = |env: &str| {
        format!(
            r#"{{"cdiVersion": "0.6.0", "kind": "v.com/c", "devices":
            [{{"name": "d", "containerEdits": {{"env": ["A={env}"]}}}}]}}"#
        )
    };
    let low = directory(&[("a.json", &file("low")), ("b.json", &file("rival"))]);
    let high = directory(&[("z.json", &file("high"))]);
    expect![[r#"
        v.com/c=d: ["A=high"] []
    "#]]
    .assert_eq(&show(&registry(&[&low, &high]), &[&low, &high]));
    expect![[r#"
        v.com/c=d: both DIR1/a.json and DIR1/b.json describe it
    "#]]
    .assert_eq(&show(&registry(&[&high, &low]), &[&high, &low]));
}

#[test]
fn what_is_wrong_is_told_with_the_file_and_the_field() {
    let spec = |version: &str, kind: &str, devices: &str| {
        format!(r#"{{"cdiVersion": "{version}", "kind": "{kind}", "devices": {devices}}}"#)
    };
    let one = r#"[{"name": "d", "containerEdits": {}}]"#;
    let two = r#"[{"name": "d", "containerEdits": {}}, {"name": "d", "containerEdits": {}}]"#;
    let directory = directory(&[
        ("a.json", "{"),
        ("b.json", &spec("2.0.0", "v.com/c", one)),
        ("c.json", &spec("0.6.0", "v.com", one)),
        ("d.json", &spec("0.6.0", "v.com/c", "[]")),
        ("e.json", &spec("0.6.0", "v.com/c", two)),
        ("f.json", &spec("0.6.0", "v.com/c", r#"[{"name": "../d", "containerEdits": {}}]"#)),
        ("g.json", &spec("0.6.0", "v.com/c", r#"[{"name": "d"}]"#)),
        ("h.yaml", "cdiVersion: 0.6.0\nkind: v.com/c\nkind: v.com/c\ndevices: []\n"),
        ("i.yaml", "cdiVersion: 0.6.0\nkind: v.com/c\ndevice: []\n"),
        ("j.txt", "no description"),
        ("k.yaml", ""),
    ]);
    fs::create_dir(directory.path().join("l.json")).expect("made");
    symlink("nowhere", directory.path().join("m.json")).expect("made");
    fs::write(directory.path().join("n.json"), vec![b' '; (4 << 20) + 1]).expect("written");
    fs::write(directory.path().join("o.yaml"), [0xff, 0xfe, 0, 1]).expect("written");
    expect![[r#"
        DIR0/a.json: EOF while parsing an object at line 1 column 1
        DIR0/b.json: cdiVersion: `2.0.0` is not one of 0.3.0, 0.4.0, 0.5.0, 0.6.0, 0.7.0, 0.8.0, 1.0.0, 1.1.0
        DIR0/c.json: kind: `v.com`: expected `vendor/class`, each of letters, digits, `_`, `-` and `.`, beginning with a letter and ending with a letter or a digit
        DIR0/d.json: devices: there is none
        DIR0/e.json: devices[1].name: `d`: the file has two of that name
        DIR0/f.json: devices[0].name: `../d`: expected letters, digits, `_`, `-`, `.` and `:`, beginning and ending with a letter or a digit
        DIR0/g.json: missing field `containerEdits` at line 1 column 68
        DIR0/h.yaml: duplicate mapping key: kind, set DuplicateKeyPolicy in Options if acceptable at line 3, column 1
        DIR0/i.yaml: unknown field `device`, expected one of cdiVersion, kind, annotations, devices, containerEdits at line 3, column 1
        DIR0/k.yaml: unexpected end of input at line 1, column 1
        DIR0/l.json: it is not a regular file
        DIR0/m.json: No such file or directory (os error 2)
        DIR0/n.json: it is larger than 4 MiB
        DIR0/o.yaml: stream did not contain valid UTF-8
    "#]].assert_eq(&show(&registry(&[&directory]), &[&directory]));
}

#[test]
fn changes_that_cannot_be_made_are_refused_by_field() {
    let mut text = String::new();
    for edits in [
        r#"{"env": ["A"]}"#,
        r#"{"env": ["=x"]}"#,
        r#"{"environment": []}"#,
        r#"{"additionalGids": [-1]}"#,
        r#"{"additionalGids": [4294967295]}"#,
        r#"{"deviceNodes": [{"path": "/etc/x"}]}"#,
        r#"{"deviceNodes": [{"path": "/dev/../etc/x"}]}"#,
        r#"{"deviceNodes": [{"path": "/dev/null", "hostPath": "/dev/sda"}]}"#,
        r#"{"deviceNodes": [{"path": "/dev/fd/3"}]}"#,
        r#"{"deviceNodes": [{"path": "/dev/a", "hostPath": "zero"}]}"#,
        r#"{"deviceNodes": [{"path": "/dev/a", "type": "p"}]}"#,
        r#"{"deviceNodes": [{"path": "/dev/a", "permissions": "rx"}]}"#,
        r#"{"deviceNodes": [{"path": "/dev/a", "major": -1}]}"#,
        r#"{"deviceNodes": [{"path": "/dev/a", "major": 1, "minor": 1048576}]}"#,
        r#"{"deviceNodes": [{"path": "/dev/a", "fileMode": 2559}]}"#,
        r#"{"deviceNodes": [{"path": "/dev/a", "uid": 4294967295}]}"#,
        r#"{"deviceNodes": [{"path": "/dev/no-such-device"}]}"#,
        r#"{"deviceNodes": [{"path": "/dev/a", "hostPath": "/etc"}]}"#,
        r#"{"mounts": [{"hostPath": "lib", "containerPath": "/lib"}]}"#,
        r#"{"mounts": [{"hostPath": "/lib", "containerPath": "lib"}]}"#,
        r#"{"mounts": [{"hostPath": "/lib", "containerPath": "/a/../../etc"}]}"#,
        r#"{"mounts": [{"hostPath": "/lib", "containerPath": "/proc/sys"}]}"#,
        r#"{"mounts": [{"hostPath": "/lib", "containerPath": "/"}]}"#,
        r#"{"mounts": [{"hostPath": "/lib", "containerPath": "/l", "options": ["rshared"]}]}"#,
        r#"{"mounts": [{"hostPath": "/lib", "containerPath": "/l", "type": "overlay"}]}"#,
        r#"{"hooks": [{"hookName": "createContainer", "path": "/usr/bin/hook", "args": ["x"]}]}"#,
        r#"{"netDevices": [{"hostInterfaceName": "eth0", "name": "eth1"}]}"#,
        r#"{"intelRdt": {"closID": "x"}}"#,
    ] {
        text += &wrong(edits);
    }
    expect![[r#"
        devices[0].containerEdits.env[0]: expected NAME=value
        devices[0].containerEdits.env[0]: expected NAME=value
        unknown field `environment`, expected one of `env`, `deviceNodes`, `netDevices`, `hooks`, `mounts`, `intelRdt`, `additionalGids` at line 2 column 40
        invalid value: integer `-1`, expected u32 at line 2 column 48
        devices[0].containerEdits.additionalGids[0]: no group has this number
        devices[0].containerEdits.deviceNodes[0].path: expected a path below /dev, without `..`
        devices[0].containerEdits.deviceNodes[0].path: expected a path below /dev, without `..`
        devices[0].containerEdits.deviceNodes[0].path: every step has that already
        devices[0].containerEdits.deviceNodes[0].path: every step has that already
        devices[0].containerEdits.deviceNodes[0].hostPath: expected an absolute path
        devices[0].containerEdits.deviceNodes[0].type: expected `c`, `u` or `b`
        devices[0].containerEdits.deviceNodes[0].permissions: expected letters of `rwm`
        devices[0].containerEdits.deviceNodes[0].major: expected a number of 12 bits
        devices[0].containerEdits.deviceNodes[0].minor: expected a number of 20 bits
        devices[0].containerEdits.deviceNodes[0].fileMode: expected permission bits
        devices[0].containerEdits.deviceNodes[0].uid: nobody has this number
        v.com/c=d: `/dev/no-such-device`: No such file or directory (os error 2)
        v.com/c=d: `/etc` is not a device
        devices[0].containerEdits.mounts[0].hostPath: expected an absolute path
        devices[0].containerEdits.mounts[0].containerPath: it must be absolute
        devices[0].containerEdits.mounts[0].containerPath: it contains `..`
        devices[0].containerEdits.mounts[0].containerPath: it lies within /proc
        devices[0].containerEdits.mounts[0].containerPath: the root is given by the root file system
        devices[0].containerEdits.mounts[0].options: `rshared` is not supported
        devices[0].containerEdits.mounts[0].type: `overlay` is not supported, only `bind` is
        v.com/c=d: devices[0].containerEdits.hooks[0]: the hook createContainer `/usr/bin/hook` is not run: a build starts no program of the host
        v.com/c=d: devices[0].containerEdits.netDevices[0]: the host's network interfaces are not moved into steps
        v.com/c=d: devices[0].containerEdits.intelRdt: classes of resctrl are not supported
    "#]].assert_eq(&text);
}

/// Documents that multiply, nest without end, or are pipes and devices, end soon and with a word.
#[test]
fn hostile_files_end_soon() {
    let mut bomb = "a: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let items = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb += &format!("b{level}: &a{level} [{items}]\n");
    }
    bomb += "cdiVersion: 0.6.0\nkind: v.com/c\ndevices: *a11\n";
    let aliases = format!(
        "cdiVersion: 0.6.0\nkind: v.com/c\nannotations: &a {{x: y}}\ndevices: [{}]\n",
        "*a, ".repeat(100_000)
    );
    let deep = format!("cdiVersion: {}\n", "[".repeat(100_000));
    let deep_json = format!(r#"{{"annotations": {}"#, r#"{"a":"#.repeat(100_000));
    let directory = directory(&[
        ("a.yaml", &bomb),
        ("b.yaml", &aliases),
        ("c.yaml", &deep),
        ("d.json", &deep_json),
        ("e.yaml", "cdiVersion: !!binary AAAA\nkind: *nothing\n"),
    ]);
    let pipe = directory.path().join("f.json");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo runs").success());
    symlink("/dev/zero", directory.path().join("g.json")).expect("made");
    symlink("h.json", directory.path().join("h.json")).expect("made");
    let registry = registry(&[&directory]);
    assert_eq!(registry.devices().count(), 0);
    let names: Vec<_> = registry.problems.iter().map(|problem| problem.path.file_name()).collect();
    assert_eq!(names.len(), 8, "{:#?}", registry.problems);
    for problem in &registry.problems {
        assert!(problem.why.len() < 1000, "{problem}");
    }
}

#[test]
fn what_is_missing_says_what_there_is() {
    let text = r#"{"cdiVersion": "0.6.0", "kind": "v.com/c", "devices":
        [{"name": "d", "containerEdits": {}}]}"#;
    let directory = directory(&[("a.json", text), ("b.json", "no JSON")]);
    let found = registry(&[&directory]).unknown();
    let found = found.replace(&directory.path().display().to_string(), "DIR");
    expect!["no description of it was found; there is `v.com/c=d`; DIR/b.json: expected ident at line 1 column 2"].assert_eq(&found);
    assert_eq!(registry(&[]).unknown(), "no description of it was found, nor of any other device");
    let config = CdiConfig {
        disabled: true,
        spec_dirs: vec![directory.path().to_owned()],
        ..CdiConfig::default()
    };
    let disabled = DeviceRegistry::read(&config);
    assert_eq!(disabled.devices().count(), 0);
    assert!(disabled.unknown().contains("switched off"));
}
