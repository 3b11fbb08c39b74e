//! Devices of the machine in steps: nodes that can be used for what they were given, and nothing
//! else. As root; with a loop device, since that needs no hardware.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use cofferdam_exec_linux::*;
use expect_test::{Expect, expect};
use support::Bench;

/// A loop device with a file behind it.
struct Loop {
    device: String,
    file: PathBuf,
}

impl Loop {
    fn new(bench: &Bench) -> Self {
        let file = bench.path("disk");
        fs::write(&file, [b"contents of the disk\n".as_slice(), &[0; 1 << 16]].concat()).unwrap();
        let output =
            Command::new("losetup").args(["--find", "--show"]).arg(&file).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        Self { device: String::from_utf8(output.stdout).unwrap().trim().to_owned(), file }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        _ = Command::new("losetup").arg("--detach").arg(&self.device).status();
    }
}

/// What a step is given that asks for devices, of a kind whose description is this.
fn given(bench: &Bench, description: &str, security: Security) -> Granted {
    let directory = bench.path("cdi");
    _ = fs::create_dir(&directory);
    let text = format!("cdiVersion: 0.7.0\nkind: v.com/c\n{description}");
    fs::write(directory.join("vendor.yaml"), text).unwrap();
    let config = CdiConfig { spec_dirs: vec![directory], ..CdiConfig::default() };
    let registry = DeviceRegistry::read(&config);
    assert_eq!(registry.problems, []);
    let devices = vec![DeviceRequest { name: "v.com/c=*".into(), optional: false }];
    let all = Entitlements {
        security_insecure: true,
        devices: DeviceGrants { all: true, ..DeviceGrants::default() },
        ..Entitlements::default()
    };
    all.grant(Privileges { security, devices, ..Privileges::default() }, &registry).unwrap()
}

async fn check(
    bench: &Bench,
    privileges: Granted,
    change: impl FnOnce(&mut Step),
    expected: Expect,
) {
    let mut step = bench.sh("true");
    step.privileges = privileges;
    change(&mut step);
    expected.assert_eq(&bench.run(step).await);
}

fn script(text: &str) -> impl FnOnce(&mut Step) {
    let text = text.to_owned();
    move |step| step.args[2] = text
}

#[tokio::test]
async fn a_device_can_be_used_as_it_was_given_and_leaves_nothing() {
    let bench = Bench::new();
    let disk = Loop::new(&bench);
    let description = |permissions: &str| {
        format!(
            "devices:\n- name: disk\n  containerEdits:\n    deviceNodes:\n    - \
             {{path: /dev/vendor/disk, hostPath: {}, permissions: {permissions}}}\n",
            disk.device
        )
    };
    let both = given(&bench, &description("rw"), Security::Sandbox);
    let use_it = "test -b /dev/vendor/disk && head -n 1 /dev/vendor/disk
        echo written > /dev/vendor/disk && echo wrote; sync /dev/vendor/disk; head -c 8 /dev/vendor/disk";
    check(
        &bench,
        both,
        script(use_it),
        expect![[r#"
            contents of the disk
            wrote
            written
        "#]],
    )
    .await;
    assert_eq!(bench.changes(), "");
    assert!(fs::read(&disk.file).unwrap().starts_with(b"written\n"));
    // One that may be read only, and one that may be written only.
    let try_both = "head -n 1 /dev/vendor/disk; (echo more > /dev/vendor/disk) && echo wrote";
    let read = given(&bench, &description("r"), Security::Sandbox);
    check(
        &bench,
        read,
        script(try_both),
        expect![[r#"
            written
            err: /bin/sh: can't create /dev/vendor/disk: Operation not permitted
            Code(1)
        "#]],
    )
    .await;
    let write = given(&bench, &description("w"), Security::Sandbox);
    check(
        &bench,
        write,
        script(try_both),
        expect![[r#"
            wrote
            err: head: /dev/vendor/disk: Operation not permitted
        "#]],
    )
    .await;
    // Who may do all may do that, too.
    let insecure = given(&bench, &description("r"), Security::Insecure);
    check(
        &bench,
        insecure,
        script("head -n 1 /dev/vendor/disk; ls -l /dev/vendor | grep -c ' 7, '"),
        expect![[r#"
            more
            1
        "#]],
    )
    .await;
    assert_eq!(bench.changes(), "");
}

/// One device is no other: neither by its number, nor as another kind, nor by a node of the step's.
#[tokio::test]
async fn other_devices_stay_closed() {
    let bench = Bench::new();
    let fuse = "devices:\n- name: fuse\n  containerEdits: {deviceNodes: [{path: /dev/fuse}]}\n";
    let privileges = given(&bench, fuse, Security::Sandbox);
    let attempts = "(: <> /dev/fuse) && echo fuse
        for node in 'c 10 200' 'c 10 228' 'c 10 232' 'c 1 11' 'b 10 229' 'b 7 0' 'c 229 10'; do
            mknod /n $node && { (: < /n) 2>/dev/null && echo opened $node; (: > /n) 2>/dev/null \
                && echo opened $node for writing; rm /n; }
        done
        mknod /same c 10 229 && (: < /same) && echo the same by another name";
    check(
        &bench,
        privileges.clone(),
        script(attempts),
        expect![[r#"
            fuse
            the same by another name
        "#]],
    )
    .await;
    // And without it that one is closed, too.
    let step = bench.sh("mknod /same c 10 229; (: < /same) && echo opened; ls /dev/fuse");
    expect![[r#"
        err: /bin/sh: can't open /same: Operation not permitted
        err: ls: /dev/fuse: No such file or directory
        Code(1)
    "#]]
    .assert_eq(&bench.run(step).await);
}

#[tokio::test]
async fn variables_mounts_and_groups_come_with_it() {
    let bench = Bench::new();
    fs::create_dir(bench.path("lib")).unwrap();
    fs::write(bench.path("lib/vendor.so"), "a library\n").unwrap();
    fs::write(bench.path("socket"), "a file\n").unwrap();
    fs::set_permissions(bench.path("socket"), fs::Permissions::from_mode(0o666)).unwrap();
    let description = format!(
        "containerEdits:\n  env: [VENDOR=yes, PATH=/vendor/bin:/bin]\ndevices:\n- name: d\n  \
         containerEdits:\n    additionalGids: [44]\n    \
         deviceNodes: [{{path: /dev/probe, hostPath: /dev/fuse, fileMode: 0640, uid: 7, gid: 44}}]\n    \
         mounts:\n    - {{hostPath: {lib}, containerPath: /usr/lib/vendor}}\n    \
         - {{hostPath: {file}, containerPath: /run/vendor, options: [rw]}}\n",
        lib = bench.path("lib").display(),
        file = bench.path("socket").display(),
    );
    let privileges = given(&bench, &description, Security::Sandbox);
    let look = "echo $VENDOR $PATH; id -G; ls -n /dev/probe | cut -c1-10
        cat /usr/lib/vendor/vendor.so; (echo x > /usr/lib/vendor/vendor.so) || true
        (echo x > /usr/lib/vendor/new) || true; cat /run/vendor && echo changed > /run/vendor
        (: < /dev/probe) && echo opened; (: > /dev/probe) || echo not for writing";
    check(
        &bench,
        privileges,
        |step| {
            step.args[2] = look.into();
            step.env = vec!["PATH=/bin".into(), "VENDOR=no".into()];
            step.user = User { uid: 1000, gid: 1000, groups: vec![1000] };
        },
        expect![[r#"
            yes /vendor/bin:/bin
            1000 44
            crw-r-----
            a library
            a file
            opened
            not for writing
            err: /bin/sh: can't create /usr/lib/vendor/vendor.so: Read-only file system
            err: /bin/sh: can't create /usr/lib/vendor/new: Read-only file system
            err: /bin/sh: can't create /dev/probe: Permission denied
        "#]],
    )
    .await;
    assert_eq!(fs::read_to_string(bench.path("socket")).unwrap(), "changed\n");
    assert_eq!(bench.changes(), "");
}
