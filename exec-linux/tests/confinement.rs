//! What a step cannot do. Tests for published attacks carry their number from attacks.md.

#[path = "support/privileges.rs"]
mod privileges;
mod support;

use std::fs;
use std::os::unix::fs::symlink;

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

/// Not by way of the shell, which ignores a signal of its own accord.
fn status(step: &mut Step) {
    let pattern = "^(Cap|NoNewPrivs|Seccomp:|Groups|SigBlk|SigIgn)";
    step.args = ["grep", "-E", pattern, "/proc/self/status"].map(str::to_owned).to_vec();
}

#[tokio::test]
async fn b6_capabilities_are_as_declared() {
    check(
        "",
        status,
        expect![[r#"
        Groups:	 
        SigBlk:	0000000000000000
        SigIgn:	0000000000000000
        CapInh:	0000000000000000
        CapPrm:	00000000a80425fb
        CapEff:	00000000a80425fb
        CapBnd:	00000000a80425fb
        CapAmb:	0000000000000000
        NoNewPrivs:	1
        Seccomp:	2
    "#]],
    )
    .await;
    let app = |step: &mut Step| {
        step.user = User { uid: 1000, gid: 1000, groups: vec![7, 9] };
        step.no_new_privileges = false;
        status(step);
    };
    check(
        "",
        app,
        expect![[r#"
        Groups:	7 9 
        SigBlk:	0000000000000000
        SigIgn:	0000000000000000
        CapInh:	0000000000000000
        CapPrm:	0000000000000000
        CapEff:	0000000000000000
        CapBnd:	00000000a80425fb
        CapAmb:	0000000000000000
        NoNewPrivs:	0
        Seccomp:	2
    "#]],
    )
    .await;
}

#[tokio::test]
async fn insecure_has_all_privileges() {
    let script = "grep Seccomp: /proc/self/status; ls /dev/kmsg
        mkdir /m && mount -t tmpfs none /m && echo mounted";
    let insecure = |step: &mut Step| {
        step.privileges = granted(Network::Default, Security::Insecure);
    };
    check(
        script,
        insecure,
        expect![[r#"
        Seccomp:	0
        /dev/kmsg
        mounted
    "#]],
    )
    .await;
}

#[tokio::test]
async fn seccomp_refuses_what_docker_refuses() {
    // x86_64 numbers: mount, unshare, keyctl, bpf, io_uring_setup, open_by_handle_at, clone3,
    // socket(AF_VSOCK), socket(AF_INET), chroot("")
    if cfg!(not(target_arch = "x86_64")) {
        return;
    }
    let script = "for c in 165 '272 0x20000' '250 1' 321 425 304 435 '41 40 1' '41 2 1' 161; do
        echo $c: $(probe syscall $c); done";
    check(
        script,
        |_| (),
        expect![[r#"
        165: 1
        272 0x20000: 1
        250 1: 1
        321: 1
        425: 1
        304: 1
        435: 38
        41 40 1: 1
        41 2 1: 0
        161: 14
    "#]],
    )
    .await;
}

#[tokio::test]
async fn b1_no_descriptors_are_inherited() {
    check(
        "probe fds; ls /proc/self/fd | grep -c .; readlink /proc/self/fd/0",
        |_| (),
        expect![[r#"
        0 1 2 
        4
        /dev/null
    "#]],
    )
    .await;
}

#[tokio::test]
async fn proc_and_sys_are_masked() {
    let script =
        "probe open /proc/interrupts r; cat /proc/interrupts | wc -c; ls /sys/firmware | wc -l
        for f in /proc/sys/kernel/hostname /sys/kernel/mm/ksm/run; do
        probe open $f w; done; cat /proc/1/comm; set -- /proc/[0-9]*; test $# -lt 5 && echo few
        cat /proc/self/cgroup | grep -v :/$; probe open /proc/keys r; cat /proc/keys
        grep -E ' /(proc/(bus|fs|irq|sys|sysrq-trigger)|sys) ' /proc/mounts | cut -d, -f1 | cut -d' ' -f2,4";
    check(
        script,
        |_| (),
        expect![[r#"
            0
            0
            0
            13
            13
            sh
            few
            0
            /sys ro
            /proc/bus ro
            /proc/fs ro
            /proc/irq ro
            /proc/sys ro
        "#]],
    )
    .await;
}

#[tokio::test]
async fn devices() {
    let script = "stat -c '%n %a %F' /dev /dev/null /dev/shm /dev/pts/ptmx; cd /dev
        echo null zero full random urandom tty ptmx fd stdin stdout stderr mqueue pts shm | \
        while read l; do for n in $l; do test -e $n -o -L $n || echo no $n; done; done
        for n in null zero urandom; do dd if=/dev/$n of=/dev/null bs=1 count=1 2>/dev/null || echo $n; done
        mknod /tmp/null c 1 3 && echo > /tmp/null && echo usable
        mknod /tmp/disk b 254 0 && probe open /tmp/disk r; mknod /dev/mem c 1 1; probe open /dev/mem r
        touch /dev/shm/x && echo writable";
    check(
        script,
        |_| (),
        expect![[r#"
        /dev 755 directory
        /dev/null 666 character special file
        /dev/shm 1777 directory
        /dev/pts/ptmx 666 character special file
        usable
        1
        1
        writable
    "#]],
    )
    .await;
}

#[tokio::test]
async fn network_none_has_only_loopback() {
    check(
        "ls /sys/class/net; ip -o -4 addr",
        |s| s.privileges = granted(Network::None, Security::Sandbox),
        expect![[r#"
        lo
        1: lo    inet 127.0.0.1/8 scope host lo\       valid_lft forever preferred_lft forever
    "#]],
    )
    .await;
}

#[tokio::test]
async fn b2_symlinks_in_the_image_do_not_reach_the_host() {
    for name in ["dev", "proc", "sys", "etc"] {
        let bench = Bench::new();
        let canary = bench.path("canary");
        fs::create_dir(&canary).unwrap();
        fs::write(canary.join("null"), "untouched").unwrap();
        fs::write(canary.join("hosts"), "untouched").unwrap();
        let target = bench.path("image").join(name);
        _ = fs::remove_dir_all(&target);
        symlink(&canary, &target).unwrap();
        let step = bench.sh(&format!("echo x > /{name}/null; echo x > /{name}/hosts; echo ran"));
        let output = bench.run(step).await;
        assert!(output.contains("ran"), "{name}: {output}");
        let mut names: Vec<_> =
            fs::read_dir(&canary).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["hosts", "null"], "{name}");
        assert_eq!(fs::read_to_string(canary.join("null")).unwrap(), "untouched", "{name}");
        assert_eq!(fs::read_to_string(canary.join("hosts")).unwrap(), "untouched", "{name}");
    }
}

#[tokio::test]
async fn b4_mount_points_and_selectors_stay_inside() {
    let bench = Bench::new();
    let canary = bench.path("canary");
    fs::create_dir(&canary).unwrap();
    fs::create_dir(bench.path("source")).unwrap();
    symlink(&canary, bench.path("image/out")).unwrap();
    symlink("../../../../../../..", bench.path("image/up")).unwrap();
    symlink("/", bench.path("source/root")).unwrap();
    let mut step = bench.sh("ls /up/target; ls /whole; ls -d /out/made");
    step.mounts = vec![
        Mount::Tmpfs { dest: "/out/made".into(), size: None },
        Mount::Tmpfs { dest: "/up/target".into(), size: None },
        Mount::Bind {
            source: BindSource::Path(bench.path("source")),
            selector: Some("root/../../root".into()),
            dest: "/whole".into(),
            readonly: false,
            restrictions: Restrictions::default(),
        },
    ];
    expect![[r#"
        root
        /out/made
    "#]]
    .assert_eq(&bench.run(step).await);
    assert_eq!(fs::read_dir(&canary).unwrap().count(), 0);
    // A directory of the image that was copied up for a stub stays, as it was.
    assert_eq!(bench.changes(), "tmp d 0:0\n");
}

#[tokio::test]
async fn cve_2024_23652_stub_removal_follows_nothing() {
    let bench = Bench::new();
    let canary = bench.path("canary");
    fs::create_dir_all(canary.join("stub")).unwrap();
    // The root is bound, so that the stubs are made in place; the step puts links where they were.
    let script = format!(
        "rm -r /a 2>/dev/null; mkdir /b; cd /; busybox mv /a /c; busybox ln -s {} /a",
        canary.display()
    );
    let mut step = bench.sh(&script);
    step.rootfs = Rootfs::Bind { path: bench.path("image") };
    step.mounts = vec![Mount::Tmpfs { dest: "/a/stub".into(), size: None }];
    bench.run(step).await;
    assert!(canary.join("stub").is_dir());
}

#[tokio::test]
async fn cve_2019_5736_the_engine_program_cannot_be_written() {
    let bench = Bench::new();
    let program = env!("CARGO_BIN_EXE_exec-linux-run");
    let before = fs::metadata(program).unwrap().modified().unwrap();
    // The program is the engine's own, started within the sandbox with the image's loader, which
    // here is missing; the link must not be writable in the meantime either.
    let script = bench.path("image/bin/self");
    fs::write(&script, "#!/proc/self/exe\n").unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let output = bench.run(bench.step(&["/bin/self"])).await;
    assert!(output.contains("error Some(126)"), "{output}");
    assert_eq!(fs::metadata(program).unwrap().modified().unwrap(), before);
    // Nobody else of the engine is to be seen.
    let parents = bench.sh("cat /proc/$PPID/environ 2>&1; ls -l /proc/1/exe | grep -c busybox");
    expect![[r#"
        cat: can't open '/proc/0/environ': No such file or directory
        1
    "#]]
    .assert_eq(&bench.run(parents).await);
}

#[tokio::test]
async fn a10_a_strange_passwd_does_no_harm() {
    let bench = Bench::new();
    let passwd = bench.path("image/etc/passwd");
    fs::remove_file(&passwd).unwrap();
    let status = std::process::Command::new("mkfifo").arg(&passwd).status();
    assert!(status.unwrap().success());
    assert_eq!(bench.run(bench.sh("echo $HOME")).await, "/\n");
    fs::remove_file(&passwd).unwrap();
    fs::File::create(&passwd).unwrap().set_len(8 << 30).unwrap();
    assert_eq!(bench.run(bench.sh("echo $HOME")).await, "/\n");
}
