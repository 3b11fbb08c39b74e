//! What a step gives and leaves: exit, output, environment, files. Real sandboxes, so root.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use cofferdam_exec_linux::*;
use expect_test::{Expect, expect};
use support::Bench;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

async fn check(script: &str, change: impl FnOnce(&mut Step), expected: Expect) {
    let bench = Bench::new();
    let mut step = bench.sh(script);
    change(&mut step);
    expected.assert_eq(&bench.run(step).await);
}

#[tokio::test]
async fn ends_and_streams() {
    check(
        "echo out; echo err >&2; exit 7",
        |_| (),
        expect![[r#"
        out
        err: err
        Code(7)
    "#]],
    )
    .await;
    check(
        "exec probe crash",
        |_| (),
        expect![[r#"
        Signal(11)
    "#]],
    )
    .await;
    check(
        "for i in 1 2 3; do echo $i; done",
        |_| (),
        expect![[r#"
        1
        2
        3
    "#]],
    )
    .await;
    // A process left behind holds the output open, and dies with pid 1.
    check(
        "probe daemon; echo done",
        |_| (),
        expect![[r#"
        done
    "#]],
    )
    .await;
    // Pid 1 ignores what it has no handler for, as under BuildKit.
    check(
        "kill -TERM $$; echo pid $$",
        |_| (),
        expect![[r#"
        pid 1
    "#]],
    )
    .await;
}

#[tokio::test]
async fn programs_that_cannot_run() {
    let missing = |step: &mut Step| step.args = vec!["nothing-here".into()];
    check(
        "",
        missing,
        expect![[r#"
        error Some(127): executable file not found in $PATH: `nothing-here`
    "#]],
    )
    .await;
    check(
        "",
        |s| s.args = vec!["/nothing/here".into()],
        expect![[r#"
        error Some(127): no such file or directory: `/nothing/here`
    "#]],
    )
    .await;
    check(
        "",
        |s| s.args = vec!["/etc/passwd".into()],
        expect![[r#"
        error Some(126): executing `/etc/passwd`: Permission denied (os error 13)
    "#]],
    )
    .await;
    check(
        "",
        |s| s.args = vec!["/etc".into()],
        expect![[r#"
        error Some(126): executing `/etc`: Permission denied (os error 13)
    "#]],
    )
    .await;
    let bench = Bench::new();
    let script = bench.path("image/bin/script");
    fs::write(&script, "#!/no/interpreter\n").unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    expect![[r#"
        error Some(126): executing `/bin/script`: its interpreter is missing: No such file or directory (os error 2)
    "#]]
    .assert_eq(&bench.run(bench.step(&["script"])).await);
}

#[tokio::test]
async fn memory_and_process_limits() {
    let limit = |step: &mut Step| step.limits.memory = Some(16 << 20);
    check(
        "exec probe eat",
        limit,
        expect![[r#"
        OutOfMemory
    "#]],
    )
    .await;
    check(
        "probe eat; exit $?",
        limit,
        expect![[r#"
        err: Killed
        OutOfMemory
    "#]],
    )
    .await;
    let few = |step: &mut Step| step.limits.pids = Some(2);
    check(
        "sleep 1000 & sleep 1000 & wait",
        few,
        expect![[r#"
        err: /bin/sh: can't fork: Resource temporarily unavailable
        Code(2)
    "#]],
    )
    .await;
}

#[tokio::test]
async fn environment_and_directory() {
    check(
        "env | grep -v SHLVL | sort; pwd",
        |_| (),
        expect![[r#"
        HOME=/root
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
        PWD=/
        /
    "#]],
    )
    .await;
    let app = |step: &mut Step| {
        step.env = vec!["PATH=/bin".into(), "A=b c".into()];
        step.cwd = "/srv/app".into();
        step.user = User { uid: 1000, gid: 1000, groups: vec![7] };
    };
    check(
        "env | grep -v SHLVL | sort; stat -c %u:%g . ..; id; umask",
        app,
        expect![[r#"
        A=b c
        HOME=/home/app
        PATH=/bin
        PWD=/srv/app
        1000:1000
        1000:1000
        uid=1000(app) gid=1000 groups=7
        0022
    "#]],
    )
    .await;
    check("", |s| s.cwd = "/proc/self/fd/3".into(), expect![[r#"
        error None: changing to the working directory `/proc/self/fd/3`: Too many levels of symbolic links (os error 40)
    "#]])
    .await;
    check(
        "",
        |s| s.cwd = "/etc/passwd".into(),
        expect![[r#"
        error None: changing to the working directory `/etc/passwd`: Not a directory (os error 20)
    "#]],
    )
    .await;
    check(
        "hostname; cat /etc/hosts /etc/resolv.conf",
        |s| s.hostname = "box".into(),
        expect![[r#"
        box
        127.0.0.1 localhost
        nameserver 192.0.2.1
    "#]],
    )
    .await;
}

#[tokio::test]
async fn the_upper_directory_holds_what_the_step_wrote() {
    let bench = Bench::new();
    assert_eq!(bench.run(bench.sh("echo x > /etc/hosts; cat /etc/hosts")).await, "x\n");
    expect![""].assert_eq(&bench.changes());
    let mut step = bench.sh("echo 1 > /new; echo 2 > /secret/dir/beside; ls /run/secret");
    step.mounts = vec![
        Mount::Tmpfs { dest: "/secret/dir/tmp".into(), size: None },
        Mount::File {
            dest: "/run/secret".into(),
            contents: b"s".to_vec(),
            mode: 0o400,
            uid: 0,
            gid: 0,
            readonly: true,
            restrictions: Restrictions { nosuid: true, nodev: true, noexec: true },
        },
    ];
    assert_eq!(bench.run(step).await, "/run/secret\n");
    expect![[r#"
        new f 0:0
        secret d 0:0
        secret/dir d 0:0
        secret/dir/beside f 0:0
    "#]]
    .assert_eq(&bench.changes());
    assert_eq!(names(&bench.path("state")), ["stage", "stubs"]);
    // A whiteout hides the stub layer: the stub is made in place and removed.
    fs::create_dir_all(bench.path("top/etc")).unwrap();
    let status = std::process::Command::new("mknod")
        .arg(bench.path("top/etc/hosts"))
        .args(["c", "0", "0"])
        .status();
    assert!(status.unwrap().success());
    fs::write(bench.path("image/etc/hosts"), "old").unwrap();
    let mut step = bench.sh("cat /etc/hosts");
    step.rootfs = Rootfs::Overlay(bench.overlay(vec![bench.path("image"), bench.path("top")]));
    assert_eq!(bench.run(step).await, "127.0.0.1 localhost\n");
    expect![[r#"
        etc d 0:0
    "#]]
    .assert_eq(&bench.changes());
    fs::remove_file(bench.path("image/etc/hosts")).unwrap();
    // A root that is bound is left as it was.
    let before = tree(&bench.path("image"));
    let mut step = bench.sh("ls -d /proc/1 /dev/null /a/b");
    step.rootfs = Rootfs::Bind { path: bench.path("image") };
    step.mounts = vec![Mount::Tmpfs { dest: "/a/b".into(), size: Some(4096) }];
    assert_eq!(bench.run(step).await, "/a/b\n/dev/null\n/proc/1\n");
    assert_eq!(tree(&bench.path("image")), before);
}

/// Names and modification times below a directory.
fn tree(path: &std::path::Path) -> String {
    let out = std::process::Command::new("find").arg(path).args(["-printf", "%P %T@\n"]).output();
    String::from_utf8(out.unwrap().stdout).unwrap()
}

fn names(path: &std::path::Path) -> Vec<String> {
    let entries = fs::read_dir(path).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn layers() {
    let bench = Bench::new();
    let mut lowers = vec![bench.path("image")];
    for number in 0..300 {
        let layer = bench.path(&format!("layer{number}"));
        fs::create_dir(&layer).unwrap();
        fs::write(layer.join("top"), number.to_string()).unwrap();
        fs::write(layer.join(format!("f{number}")), "").unwrap();
        lowers.push(layer);
    }
    let mut step = bench.sh("cat /top; echo; set -- /f*; echo $#");
    step.rootfs = Rootfs::Overlay(bench.overlay(lowers));
    assert_eq!(bench.run(step).await, "299\n300\n");

    // Scratch: nothing but what is mounted.
    let mut step = bench.step(&["/tools/busybox", "sh", "-c", "/tools/busybox ls /; > /made"]);
    step.rootfs = Rootfs::Overlay(bench.overlay(vec![]));
    step.mounts = vec![bind(BindSource::Path(bench.path("image")), Some("/bin"), "/tools", true)];
    assert_eq!(bench.run(step).await, "dev\netc\nproc\nsys\ntools\n");
    assert_eq!(bench.changes(), "made f 0:0\n");
}

fn bind(source: BindSource, selector: Option<&str>, dest: &str, readonly: bool) -> Mount {
    Mount::Bind {
        source,
        selector: selector.map(str::to_owned),
        dest: dest.into(),
        readonly,
        restrictions: Restrictions::default(),
    }
}

#[tokio::test]
async fn bind_mounts() {
    let bench = Bench::new();
    for name in ["a/sub", "b", "bu", "bw"] {
        fs::create_dir_all(bench.path(name)).unwrap();
    }
    fs::write(bench.path("a/sub/file"), "from a\n").unwrap();
    fs::write(bench.path("b/other"), "from b\n").unwrap();
    let layers = vec![bench.path("a"), bench.path("b")];
    let mut step = bench
        .sh("cat /ro/sub/file /rw/other /one /alone/other; (echo > /ro/x) 2>/dev/null || echo ro
         echo > /rw/x && echo rw; (echo > /alone/x) 2>/dev/null || echo ro");
    let overlay = |writable| BindSource::Overlay(Overlay { lowers: layers.clone(), writable });
    let alone = BindSource::Overlay(Overlay { lowers: vec![bench.path("b")], writable: None });
    step.mounts = vec![
        bind(overlay(None), None, "/ro", true),
        bind(overlay(Some((bench.path("bu"), bench.path("bw")))), None, "/rw", false),
        bind(BindSource::Path(bench.path("a")), Some("sub/file"), "/one", true),
        bind(alone, None, "/alone", false),
    ];
    expect![[r#"
        from a
        from b
        from a
        from b
        ro
        rw
        ro
    "#]]
    .assert_eq(&bench.run(step).await);
    assert_eq!(names(&bench.path("bu")), ["x"]);
    let mut step = bench.sh("");
    step.mounts = vec![bind(BindSource::Path(bench.path("a")), Some("none"), "/x", true)];
    expect![[r#"
        error None: opening `none` in the source of `/x`: No such file or directory (os error 2)
    "#]]
    .assert_eq(&bench.run(step).await);
}

/// All processes that can be seen, by command line.
fn processes() -> BTreeSet<String> {
    let entries = fs::read_dir("/proc").unwrap();
    entries
        .filter_map(|entry| {
            let path = entry.ok()?.path().join("cmdline");
            Some(String::from_utf8_lossy(&fs::read(path).ok()?).into_owned())
        })
        .collect()
}

#[tokio::test]
async fn killed_with_everything_it_started() {
    for cancelled in [true, false] {
        let bench = Bench::new();
        let mark = format!("{}{}", 7_000_000 + std::process::id(), u8::from(cancelled));
        let script = format!("sleep {mark} & probe daemon; echo up; sleep {mark}");
        let running = || processes().iter().any(|process| process.contains(&mark));
        let (sender, mut receiver) = mpsc::channel(1);
        let cancel = CancellationToken::new();
        let runner = bench.runner.clone();
        let (step, token) = (bench.sh(&script), cancel.clone());
        let task =
            tokio::spawn(
                async move { runner.run(step, Streams::output_only(sender), token).await },
            );
        assert_eq!(receiver.recv().await.unwrap().1, "up\n");
        assert!(running());
        if cancelled {
            cancel.cancel();
            assert!(matches!(task.await.unwrap(), Err(Error::Cancelled)));
            assert!(!running(), "all are gone when the error comes");
        } else {
            task.abort();
            while running() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

#[tokio::test]
async fn the_host_is_as_before() {
    let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap();
    let before = mounts();
    let bench = Bench::new();
    for script in ["true", "exit 3", "exec nothing"] {
        bench.run(bench.sh(script)).await;
    }
    let mut step = bench.sh("");
    step.mounts = vec![bind(BindSource::Path("/nowhere".into()), None, "/x", true)];
    assert!(bench.run(step).await.contains("opening `/nowhere`"));
    assert_eq!(mounts(), before);
    assert_eq!(names(&bench.path("state")), ["stage", "stubs"]);
    // Steps that mount at the same places share a layer of mount stubs.
    assert_eq!(names(&bench.path("state/stubs")).len(), 1);
}
