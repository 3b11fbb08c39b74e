//! Steps for other architectures, with Debian's emulators (package qemu-user-static) and its
//! busybox-static of those architectures.

#[path = "support/privileges.rs"]
mod privileges;
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cofferdam_exec_linux::*;
use cofferdam_types::Platform;
use privileges::granted;
use support::Bench;

/// A statically linked busybox of a Debian architecture, out of its package.
fn busybox(architecture: &str) -> PathBuf {
    let program = support::cache().join("busybox-static").join(architecture).join("busybox");
    support::make_once(&program, |new| {
        // An apt of its own, so that the machine's knows no other architecture than before.
        let script = r#"set -e; mkdir -p "$0/lists/partial" "$0/archives/partial"; cd "$0"
            set -- -o Dir::State::Lists="$0/lists" -o Dir::Cache="$0" -o APT::Sandbox::User=root \
                -o APT::Architecture="$1" -o APT::Architectures="$1" -o Acquire::Languages=none
            # A mirror may lack an index that is not needed.
            apt-get -q "$@" update || true
            apt-get -q "$@" download busybox-static
            dpkg-deb -x busybox-static_*.deb x; mv x/bin/busybox busybox || mv x/usr/bin/busybox busybox"#;
        let made = Command::new("bash").args(["-c", script]).arg(new).arg(architecture).output();
        let made = made.unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    });
    program
}

/// An image of a foreign busybox, and a step in it.
fn foreign(bench: &Bench, debian: &str, platform: &str, script: &str) -> Step {
    let bin = bench.path("image").join("bin");
    fs::copy(busybox(debian), bin.join("busybox")).unwrap();
    let platform: Platform = platform.parse().unwrap();
    let emulators = Emulators::new(["/usr/bin".into()]);
    let means = emulators.means(&platform).expect("qemu-user-static is installed");
    Step { execution: means.execution(&platform), ..bench.sh(script) }
}

/// The handlers in the binfmt_misc of this process's user namespace.
fn handlers() -> String {
    let script = "d=$(mktemp -d); mount -t binfmt_misc none $d && ls $d; umount $d; rmdir $d";
    let out = Command::new("unshare").args(["--mount", "sh", "-c", script]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

#[tokio::test]
async fn what_a_step_starts_is_emulated_too() {
    let before = handlers();
    for (debian, platform, machine) in [
        ("arm64", "linux/arm64", "aarch64"),
        ("armhf", "linux/arm/v7", "armv7l"),
        ("ppc64el", "linux/ppc64le", "ppc64le"),
        ("s390x", "linux/s390x", "s390x"),
        ("i386", "linux/386", "i686"),
    ] {
        let bench = Bench::new();
        let script = "/bin/busybox uname -m; /bin/env echo a b | /bin/cat; /script it works";
        let step = foreign(&bench, debian, platform, script);
        let path = bench.path("image").join("script");
        fs::write(&path, "#!/bin/sh\necho \"$0: $*\"\nexit 9\n").unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let expected = format!("{machine}\na b\n/script: it works\nCode(9)\n");
        assert_eq!(bench.run(step).await, expected);
        assert_eq!(handlers(), before, "the host has none of it while the runner lives");
    }
    assert_eq!(handlers(), before);
}

/// Programs of other architectures than the step's, and the machine's own, run as well: a step may
/// have tools of several.
#[tokio::test]
async fn architectures_mix() {
    let bench = Bench::new();
    let script = "/bin/busybox.s390x uname -m; /bin/busybox.own uname -m";
    let step = foreign(&bench, "arm64", "linux/arm64", script);
    let bin = bench.path("image").join("bin");
    fs::copy(busybox("s390x"), bin.join("busybox.s390x")).unwrap();
    fs::copy(support::cache().join("exec-linux/busybox"), bin.join("busybox.own")).unwrap();
    assert_eq!(bench.run(step).await, "s390x\nx86_64\n");
}

/// A user becomes root by a set-user-id program, where such bits count.
#[tokio::test]
async fn set_user_id_bits_are_the_programs() {
    let become_root = async |bench: &Bench, step: Step, no_new_privileges| {
        let image = bench.path("image");
        let program = image.join("bin/busybox.setuid");
        fs::copy(image.join("bin/busybox"), &program).unwrap();
        fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o4755))
            .unwrap();
        fs::write(image.join("etc/passwd"), "root::0:0::/root:/bin/sh\n").unwrap();
        let user = User { uid: 1000, gid: 1000, groups: vec![] };
        bench.run(Step { user, no_new_privileges, ..step }).await
    };
    let script = "/bin/id -u; /bin/busybox.setuid su root -c '/bin/id -u'";
    for (no_new_privileges, expected) in [(false, "1000\n0\n"), (true, "1000\nerr: su: ")] {
        let bench = Bench::new();
        let native = become_root(&bench, bench.sh(script), no_new_privileges).await;
        assert!(native.starts_with(expected), "{native}");
        let step = foreign(&bench, "arm64", "linux/arm64", script);
        assert_eq!(become_root(&bench, step, no_new_privileges).await, native);
    }
}

#[tokio::test]
async fn nothing_of_the_emulator_is_seen() {
    let bench = Bench::new();
    let script = "readlink /proc/self/exe; readlink /proc/1/exe; \
                  grep -ci -e qemu -e binfmt /proc/mounts; ls -A /proc/sys/fs/binfmt_misc; \
                  echo 1 > /proc/sys/fs/binfmt_misc/status; mount -t binfmt_misc none /tmp";
    let seen = bench.run(foreign(&bench, "arm64", "linux/arm64", script)).await;
    let lines: Vec<&str> = seen.lines().collect();
    assert_eq!(lines[0], "/bin/busybox", "{seen}");
    assert!(!lines[1].contains("image"), "{seen}");
    assert_eq!(lines[2], "0", "{seen}");
    assert!(lines[3].contains("status: ") && lines[4].contains("mount: "), "{seen}");
    assert_eq!(bench.changes(), "");
}

#[tokio::test]
async fn emulators_in_a_closed_directory_can_be_used() {
    let bench = Bench::new();
    let closed = bench.path("closed");
    fs::create_dir(&closed).unwrap();
    fs::copy("/usr/bin/qemu-aarch64-static", closed.join("qemu-aarch64")).unwrap();
    fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let mut bench = bench;
    let emulators = Emulators::new([closed.clone()]);
    bench.runner = Runner::new(Config {
        oci_runtime: None,
        program: Some(env!("CARGO_BIN_EXE_exec-linux-run").into()),
        cgroup_parent: "cofferdam-test".to_owned(),
        state_dir: bench.path("state"),
        network: NetworkConfig::default(),
        emulators,
    })
    .unwrap();
    let mut step = foreign(&bench, "arm64", "linux/arm64", "/bin/busybox uname -m");
    let Execution::Emulated(emulator) = &mut step.execution else { panic!("it is emulated") };
    emulator.program = closed.join("qemu-aarch64");
    assert_eq!(bench.run(step).await, "aarch64\n");
}

/// Where nothing can be registered, the step's own program is emulated, and it is told that what it
/// starts is not.
#[tokio::test]
async fn a_step_of_the_host_is_emulated_alone() {
    let bench = Bench::new();
    let script = "echo \"$0 $1\"; /bin/busybox true";
    let mut step = foreign(&bench, "arm64", "linux/arm64", script);
    step.privileges = granted(Network::Default, Security::Insecure);
    step.args.extend(["zero".to_owned(), "one word".to_owned()]);
    let said = bench.run(step).await;
    assert!(said.starts_with("zero one word\n"), "{said}");
    assert!(said.contains("what this program starts is not emulated"), "{said}");
    assert!(said.contains("ode(126)") || said.contains("ode(127)"), "{said}");
    // The machine's own programs need no emulator.
    let mut step = bench.step(&["/bin/probe", "fds"]);
    step.privileges = granted(Network::Default, Security::Insecure);
    step.execution = Execution::Emulated(Emulator {
        architecture: "arm64".into(),
        program: "/usr/bin/qemu-aarch64-static".into(),
    });
    assert!(bench.run(step).await.starts_with("0 1 2 \n"));
}

#[tokio::test]
async fn a_program_for_another_machine_is_told_from_a_broken_one() {
    let bench = Bench::new();
    let mut step = foreign(&bench, "arm64", "linux/arm64", "true");
    step.execution = Execution::Native;
    let expected = "error Some(126): executing `/bin/sh`, a program for arm64: \
                    Exec format error (os error 8)\n";
    assert_eq!(bench.run(step).await, expected);
    let relative = Execution::Emulated(Emulator {
        architecture: "arm64".into(),
        program: Path::new("bin/qemu").into(),
    });
    let step = Step { execution: relative, ..bench.sh("true") };
    let expected = "error None: emulator \"bin/qemu\" is not allowed: it must be absolute\n";
    assert_eq!(bench.run(step).await, expected);
}
