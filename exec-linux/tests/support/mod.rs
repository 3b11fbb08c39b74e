//! What the tests share: a small root file system (busybox and a probe), a step to change, and a
//! runner whose helper is the crate's `exec-linux-run`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use bytes::Bytes;
use cofferdam_exec_linux::*;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Programs that do not change between test runs.
static PROGRAMS: LazyLock<PathBuf> = LazyLock::new(|| {
    let programs = cache().join("exec-linux");
    make_once(&programs.join("busybox"), |new| {
        let script = "set -e; cd \"$0\"; apt-get download busybox-static >/dev/null 2>&1
            dpkg -x busybox-static_*.deb x; mv x/bin/busybox busybox || mv x/usr/bin/busybox busybox";
        if Path::new("/bin/busybox").exists() {
            fs::copy("/bin/busybox", new.join("busybox")).unwrap();
        } else {
            let status = Command::new("sh").args(["-c", script]).arg(new).status();
            assert!(status.unwrap().success(), "busybox-static can be had");
        }
    });
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/probe.c");
    let probe = programs.join(format!("probe.{}", std::process::id()));
    let status =
        Command::new("cc").args(["-static", "-O1", "-w", "-o"]).arg(&probe).arg(source).status();
    assert!(status.unwrap().success(), "cc makes static programs");
    fs::rename(probe, programs.join("probe")).unwrap();
    programs
});

/// Where tests keep what is expensive to get.
pub fn cache() -> PathBuf {
    PathBuf::from("/tmp/cofferdam-test-cache")
}

/// Has a program made in a new directory, under its own name, if it is not there. Of several
/// processes that need it, one makes it and the others wait.
pub fn make_once(program: &Path, make: impl FnOnce(&Path)) {
    let directory = program.parent().unwrap();
    fs::create_dir_all(directory).unwrap();
    let lock = fs::File::create(directory.join("lock")).unwrap();
    lock.lock().unwrap();
    if !program.exists() {
        let new = tempfile::tempdir_in(directory).unwrap();
        make(new.path());
        fs::rename(new.path().join(program.file_name().unwrap()), program).unwrap();
    }
}

/// A directory with an image, and room for what a step needs besides.
pub struct Bench {
    pub dir: tempfile::TempDir,
    pub runner: Runner,
}

impl Bench {
    pub fn new() -> Self {
        Self::with_network(NetworkConfig::default())
    }

    /// A bench whose steps get this network if they ask for none.
    pub fn with_network(network: NetworkConfig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        for name in ["bin", "etc", "tmp", "home/app"] {
            fs::create_dir_all(image.join(name)).unwrap();
        }
        for name in ["busybox", "probe"] {
            fs::copy(PROGRAMS.join(name), image.join("bin").join(name)).unwrap();
        }
        for name in "sh cat ls echo id mount umount unshare chroot hostname sleep ip stat mkdir \
             touch rm env test dd mknod chmod true pwd ps grep readlink chown kill \
             mkfifo ping cp cut ln"
            .split_whitespace()
        {
            symlink("busybox", image.join("bin").join(name)).unwrap();
        }
        let passwd = "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n";
        fs::write(image.join("etc/passwd"), passwd).unwrap();
        let runner = Runner::new(Config {
            program: Some(env!("CARGO_BIN_EXE_exec-linux-run").into()),
            oci_runtime: None,
            cgroup_parent: "cofferdam-test".to_owned(),
            state_dir: dir.path().join("state"),
            network,
            emulators: Emulators::new(["/usr/bin".into()]),
        })
        .unwrap();
        Self { dir, runner }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// An overlay with a new upper directory `upper`.
    pub fn overlay(&self, lowers: Vec<PathBuf>) -> Overlay {
        for name in ["upper", "work"] {
            _ = fs::remove_dir_all(self.path(name));
            fs::create_dir(self.path(name)).unwrap();
        }
        Overlay { lowers, writable: Some((self.path("upper"), self.path("work"))) }
    }

    /// A step that runs a shell script.
    pub fn sh(&self, script: &str) -> Step {
        self.step(&["/bin/sh", "-c", script])
    }

    pub fn step(&self, args: &[&str]) -> Step {
        Step {
            rootfs: Rootfs::Overlay(self.overlay(vec![self.path("image")])),
            mounts: vec![],
            args: args.iter().map(|a| a.to_string()).collect(),
            env: vec![],
            cwd: "/".into(),
            user: User::default(),
            hostname: "buildkitsandbox".into(),
            privileges: Granted::default(),
            execution: Execution::Native,
            no_new_privileges: true,
            hosts: Some("127.0.0.1 localhost\n".into()),
            resolv_conf: Some("nameserver 192.0.2.1\n".into()),
            limits: Limits::default(),
        }
    }

    /// Runs a step; gives its output, errors and all, and how it ended.
    pub async fn run(&self, step: Step) -> String {
        self.run_with(step, Input::Empty).await
    }

    /// The same with an input.
    pub async fn run_with(&self, step: Step, input: Input) -> String {
        let (sender, mut receiver) = mpsc::channel::<(Stream, Bytes)>(16);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let collect = async {
            while let Some((stream, bytes)) = receiver.recv().await {
                match stream {
                    Stream::Stdout => out.extend(bytes),
                    Stream::Stderr => err.extend(bytes),
                }
            }
        };
        let streams = Streams { input, output: sender };
        let running = self.runner.run(step, streams, CancellationToken::new());
        let (result, ()) = tokio::join!(running, collect);
        let mut text = String::from_utf8(out).unwrap();
        for line in String::from_utf8(err).unwrap().lines() {
            text += &format!("err: {line}\n");
        }
        match result {
            Ok(Exit::Code(0)) => {}
            Ok(exit) => text += &format!("{exit:?}\n"),
            Err(error) => text += &format!("error {:?}: {error}\n", error.shell_exit_code()),
        }
        text
    }

    /// What the last step left in its upper directory.
    pub fn changes(&self) -> String {
        let script = "cd \"$0\" && find . -mindepth 1 -printf '%P %y %U:%G\n' | sort";
        let out = Command::new("sh").args(["-c", script]).arg(self.path("upper")).output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    }
}
