//! A step's user namespace: who the step is on the host, and that nothing about its files shows it.

#[path = "support/privileges.rs"]
mod privileges;
mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use cofferdam_exec_linux::*;
use expect_test::{Expect, expect};
use privileges::granted;
use support::Bench;

async fn check(script: &str, change: impl FnOnce(&mut Step), expected: Expect) {
    let bench = Bench::new();
    let mut step = bench.sh(script);
    change(&mut step);
    expected.assert_eq(&bench.run(step).await);
}

fn app(step: &mut Step) {
    step.user = User { uid: 1000, gid: 1000, groups: vec![7] };
    step.no_new_privileges = false;
}

/// The `security.capability` of a file, as the host sees it.
fn capability(path: &Path) -> Vec<u8> {
    let mut value = vec![0; 64];
    let length = rustix::fs::lgetxattr(path, "security.capability", &mut value[..]).unwrap();
    value.truncate(length);
    value
}

/// `cap_net_raw=ep` as a `struct vfs_cap_data` of version 2.
const NET_RAW: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[tokio::test]
async fn root_is_nobody_on_the_host() {
    let bench = Bench::new();
    bench.runner.user_namespace().expect("root of this machine can make user namespaces");
    let map = bench.run(bench.sh("cat /proc/self/uid_map /proc/self/gid_map")).await;
    let words: Vec<&str> = map.split_whitespace().collect();
    assert_eq!(words, ["0", "2147483648", "2147483646", "0", "2147483648", "2147483646"]);
    // What belongs to the host's root is nobody's here, and no capability is over it.
    let script = "id -u; stat -c %u:%g /proc/sys /sys
        hostname other; chown 0 /proc/sys; kill -0 1 && echo own";
    expect![[r#"
        0
        65534:65534
        65534:65534
        own
        err: hostname: sethostname: Operation not permitted
        err: chown: /proc/sys: Read-only file system
    "#]]
    .assert_eq(&bench.run(bench.sh(script)).await);
}

#[tokio::test]
async fn an_insecure_step_is_the_hosts_root() {
    let insecure = |step: &mut Step| {
        step.privileges = granted(Network::Default, Security::Insecure);
        step.mounts = vec![Mount::Tmpfs { dest: "/t".into(), size: None }];
    };
    let script = "set -- $(cat /proc/self/uid_map); echo $*; stat -c %u:%g /t /dev/pts /proc/sys
        mknod /null c 1 3 && echo made; touch /file";
    check(
        script,
        insecure,
        expect![[r#"
            0 0 4294967295
            0:0
            0:0
            0:0
            made
        "#]],
    )
    .await;
}

#[tokio::test]
async fn files_keep_the_ids_that_the_step_gave_them() {
    let bench = Bench::new();
    fs::write(bench.path("image/home/app/copied"), "up").unwrap();
    let mut step = bench.sh(
        "touch /plain && touch /nobody /huge && chown 65534:65534 /nobody && chown 2000000:7 /huge \
         && mkdir -m 2750 /dir && mkfifo /dir/fifo && ln -s x /dir/soft && ln /plain /dir/hard \
         && echo more >> /home/app/copied && rm /etc/passwd; stat -c '%n %u:%g' /plain /nobody /huge",
    );
    step.cwd = "/work/below".into();
    expect![[r#"
        /plain 0:0
        /nobody 65534:65534
        /huge 2000000:7
    "#]]
    .assert_eq(&bench.run(step).await);
    expect![[r#"
        dir d 0:0
        dir/fifo p 0:0
        dir/hard f 0:0
        dir/soft l 0:0
        etc d 0:0
        etc/passwd c 0:0
        home d 0:0
        home/app d 0:0
        home/app/copied f 0:0
        huge f 2000000:7
        nobody f 65534:65534
        plain f 0:0
        work d 0:0
        work/below d 0:0
    "#]]
    .assert_eq(&bench.changes());
    let mut step = bench.sh("id -u; touch here && stat -c %u:%g . here; touch /etc/x");
    step.cwd = "/home/made".into();
    app(&mut step);
    expect![[r#"
        1000
        1000:1000
        1000:1000
        err: touch: /etc/x: Permission denied
        Code(1)
    "#]]
    .assert_eq(&bench.run(step).await);
    expect![[r#"
        home d 0:0
        home/made d 1000:1000
        home/made/here f 1000:1000
    "#]]
    .assert_eq(&bench.changes());
}

#[tokio::test]
async fn mounts_belong_to_whom_they_should() {
    let bench = Bench::new();
    let cache = bench.path("cache");
    fs::create_dir(&cache).unwrap();
    fs::write(cache.join("file"), "").unwrap();
    std::os::unix::fs::chown(cache.join("file"), Some(1000), Some(7)).unwrap();
    let bind = |source, dest: &str, readonly| Mount::Bind {
        source,
        selector: None,
        dest: dest.into(),
        readonly,
        restrictions: Restrictions::default(),
    };
    let image = bench.path("image");
    let read_only = Overlay { lowers: vec![image.clone(), cache.clone()], writable: None };
    let single = Overlay { lowers: vec![cache.clone()], writable: None };
    let mut step = bench.sh(
        "stat -c '%n %u:%g %a' /cache /cache/file /both/bin/sh /one/file /t /secret /etc/hosts \
         /dev /dev/null /dev/pts /dev/pts/ptmx /dev/shm /dev/mqueue
         echo x > /cache/new; chown 9:9 /cache/new; cat /secret; echo to > /dev/stderr",
    );
    step.mounts = vec![
        bind(BindSource::Path(cache.clone()), "/cache", false),
        bind(BindSource::Overlay(read_only), "/both", true),
        bind(BindSource::Overlay(single), "/one", true),
        Mount::Tmpfs { dest: "/t".into(), size: None },
        Mount::File {
            dest: "/secret".into(),
            contents: b"s\n".to_vec(),
            mode: 0o400,
            uid: 1000,
            gid: 7,
            readonly: true,
            restrictions: Restrictions::default(),
        },
    ];
    expect![[r#"
        /cache 0:0 755
        /cache/file 1000:7 644
        /both/bin/sh 0:0 777
        /one/file 1000:7 644
        /t 0:0 1777
        /secret 1000:7 400
        /etc/hosts 0:0 644
        /dev 0:0 755
        /dev/null 0:0 666
        /dev/pts 0:0 755
        /dev/pts/ptmx 0:0 666
        /dev/shm 0:0 1777
        /dev/mqueue 0:0 1777
        s
        err: to
    "#]]
    .assert_eq(&bench.run(step).await);
    let made = fs::metadata(cache.join("new")).unwrap();
    assert_eq!((made.uid(), made.gid()), (9, 9));
    assert_eq!(bench.changes(), "");
}

#[tokio::test]
async fn file_capabilities_work_and_look_like_the_images_own() {
    let bench = Bench::new();
    let given = bench.path("image/bin/busybox-given");
    fs::copy(bench.path("image/bin/busybox"), &given).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::lsetxattr(&given, "security.capability", &NET_RAW, flags).unwrap();
    let effective = "grep CapEff /proc/self/status";
    let mut step =
        bench.sh(&format!("/bin/busybox-given {effective}; grep CapEff /proc/self/status"));
    app(&mut step);
    expect![[r#"
        CapEff:	0000000000002000
        CapEff:	0000000000000000
    "#]]
    .assert_eq(&bench.run(step).await);

    let script = "cp /bin/busybox /bin/busybox-own && probe setcap /bin/busybox-own; probe getcap /bin/busybox-own
        probe getcap /bin/busybox-given; touch -c /bin/busybox-given; probe getcap /bin/busybox-given";
    expect![[r#"
        0
        20 bytes, 0x2000001 0x2000
        20 bytes, 0x2000001 0x2000
        20 bytes, 0x2000001 0x2000
    "#]]
    .assert_eq(&bench.run(bench.sh(script)).await);
    // Written in the namespace; copied up by the kernel.
    for name in ["busybox-own", "busybox-given"] {
        assert_eq!(capability(&bench.path("upper/bin").join(name)), NET_RAW, "{name}");
    }
    // And works in the next step, as a layer.
    fs::rename(bench.path("upper"), bench.path("layer")).unwrap();
    let mut step = bench.sh(&format!("/bin/busybox-own {effective}"));
    let lowers = vec![bench.path("image"), bench.path("layer")];
    step.rootfs = Rootfs::Overlay(bench.overlay(lowers));
    app(&mut step);
    expect![[r#"
        CapEff:	0000000000002000
    "#]]
    .assert_eq(&bench.run(step).await);
}

#[tokio::test]
async fn set_user_id_programs_work_where_they_may() {
    let bench = Bench::new();
    let program = bench.path("image/bin/suid");
    fs::copy(bench.path("image/bin/probe"), &program).unwrap();
    fs::set_permissions(&program, PermissionsExt::from_mode(0o6755)).unwrap();
    let mut step = bench.sh("suid ids");
    app(&mut step);
    assert_eq!(bench.run(step).await, "1000 0 1000 0\n");
    let mut step = bench.sh("suid ids");
    app(&mut step);
    step.no_new_privileges = true;
    assert_eq!(bench.run(step).await, "1000 1000 1000 1000\n");
}

#[tokio::test]
async fn device_nodes_can_be_made_but_not_used() {
    let bench = Bench::new();
    let mut step =
        bench.sh("mknod /null c 1 3 && echo x > /null && stat -c '%n %F %a %u:%g %t:%T' /null
        umask 077; cd /home/app && mknod relative b 254 0; probe open relative r
        mkdir /jail && cp /bin/busybox /jail/ && chroot /jail /busybox mknod -m 640 /inside c 5 1
        stat -c '%n %F %a %t:%T' relative /jail/inside
        mknod /no/such c 1 3; mknod /null c 1 3; mknod /proc/x c 1 3; mknod /bound/x c 1 3
        ln -s ../../.. /jail/up; chroot /jail /busybox mknod /up/still_inside c 1 3; ls /jail");
    step.mounts = vec![Mount::Bind {
        source: BindSource::Path(bench.path("image/tmp")),
        selector: None,
        dest: "/bound".into(),
        readonly: true,
        restrictions: Restrictions::default(),
    }];
    expect![[r#"
        /null character special file 644 0:0 1:3
        1
        relative block special file 600 fe:0
        /jail/inside character special file 640 5:1
        busybox
        inside
        still_inside
        up
        err: mknod: /no/such: No such file or directory
        err: mknod: /null: File exists
        err: mknod: /proc/x: No such file or directory
        err: mknod: /bound/x: Read-only file system
    "#]]
    .assert_eq(&bench.run(step).await);
    // Who may not make one is refused, and the monitor outlives it.
    std::os::unix::fs::chown(bench.path("image/home/app"), Some(1000), Some(1000)).unwrap();
    let mut step = bench.sh("mknod /home/app/x c 1 3; mkfifo /home/app/y && echo fifo");
    app(&mut step);
    expect![[r#"
        fifo
        err: mknod: /home/app/x: Operation not permitted
    "#]]
    .assert_eq(&bench.run(step).await);
}

#[tokio::test]
async fn a_network_of_its_own_is_the_steps_to_use() {
    let script = "probe bind 80; ping -c 1 -w 5 127.0.0.1 | grep -c '1 packets received'";
    check(
        script,
        |step| step.privileges = granted(Network::None, Security::Sandbox),
        expect![[r#"
            0
            1
        "#]],
    )
    .await;
}

/// A mount that goes when the test ends.
struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "it can be unmounted");
    }
}

#[tokio::test]
async fn where_ids_cannot_be_mapped_steps_run_without() {
    let mut bench = Bench::new();
    let plain = bench.path("plain");
    fs::create_dir(&plain).unwrap();
    let mounted = Command::new("mount").args(["-t", "ramfs", "none"]).arg(&plain).status();
    assert!(mounted.unwrap().success());
    let _mounted = Mounted(plain.clone());
    bench.runner = Runner::new(Config {
        program: Some(env!("CARGO_BIN_EXE_exec-linux-run").into()),
        oci_runtime: None,
        cgroup_parent: "cofferdam-test".to_owned(),
        state_dir: plain.join("state"),
        network: NetworkConfig::default(),
        emulators: Emulators::default(),
    })
    .unwrap();
    let why = bench.runner.user_namespace().expect_err("ramfs knows no mapped ids");
    // Which is what a build warns of.
    assert!(matches!(why, NoUserNamespace::Refused(why) if why.contains("mapped ids")), "{why}");
    let script = "set -- $(cat /proc/self/uid_map); echo $*; mknod /null c 1 3 && echo made";
    expect![[r#"
        0 0 4294967295
        made
    "#]]
    .assert_eq(&bench.run(bench.sh(script)).await);
    bench.runner.idle().await;
}
