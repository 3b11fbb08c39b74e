//! What a step finds around it: descriptors, devices, /proc, the engine's program, capabilities,
//! groups, and nothing of the engine's own.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};
use cofferdam_tests::Context;
use cofferdam_tests::cofferdam::exit;
use cofferdam_tests::tree::TarWriter;

use crate::entitlements::raw;
use crate::llb::{Chain, shell};
use crate::{Canary, World, program, with_input, with_options, works};

/// A descriptor of a directory of the host is open in the step, or is when its working directory is
/// entered: by `/proc/self/fd/N` the step is on the host, and by `..` at its root. If that works,
/// the canary is found from the working directory.
#[test]
fn cve_2024_21626_working_directory_in_proc_self_fd() -> Result<()> {
    let world = World::new()?;
    let canary = Canary::new()?;
    let climbing = canary.climbing();
    let look = format!(
        "echo in; cat {climbing}/secret; echo x > {climbing}/planted; ls -la /proc/self/fd"
    );
    // One try for each number, and for other names of the same.
    let mut tries = Vec::new();
    let mut names: Vec<String> = (0..256).map(|fd| format!("/proc/self/fd/{fd}")).collect();
    for fd in 3..12 {
        names.push(format!("/proc/1/fd/{fd}"));
        names.push(format!("/proc/self/task/1/fd/{fd}"));
        names.push(format!("/proc/thread-self/fd/{fd}"));
        names.push(format!("/dev/fd/{fd}"));
        names.push(format!("/proc/self/fd/{fd}/../../.."));
    }
    for name in ["cwd", "root", "cwd/../../..", "root/.."] {
        names.push(format!("/proc/self/{name}"));
        names.push(format!("/proc/1/{name}"));
    }
    for (at, name) in names.iter().enumerate() {
        tries.push(Chain::context().then(shell(&look, name, &[])).option(&at.to_string()));
    }
    for part in tries.chunks(64) {
        let tried = raw(&world, part)?;
        canary.is_intact()?;
        // A number that nothing has yet is one of the engine's own directories when the path is
        // walked; its link is followed by the letter, which does not leave the step's root.
        assert!(tried.built() < 8, "{:#?}", tried.answers);
    }

    // By a Dockerfile, which makes the directory before.
    for fd in [3, 7, 8, 9] {
        let dockerfile = format!("FROM busybox\nWORKDIR /proc/self/fd/{fd}\nRUN {look}\n");
        let _ = world.run(&dockerfile, &[])?;
        canary.is_intact()?;
    }

    // No descriptor is there but the standard ones and that of the listing.
    let list =
        "ls -l /proc/self/fd 2>/dev/null | sed -n 's/.*\\([0-9][0-9]*\\) -> \\(.*\\)/\\1 \\2/p'";
    let failing = format!("FROM busybox\nRUN {list}; exit 3\n");
    let outcome = world.run(&failing, &[])?.ended(exit::BUILD);
    let check = |log: &str| {
        let strange = |line: &&str| {
            let (fd, target) = line.split_once(' ').unwrap_or((line, ""));
            let standard = matches!(fd, "0" | "1" | "2")
                && (target == "/dev/null" || target.starts_with("pipe:"));
            !(standard || fd == "3" && target.contains("/fd"))
        };
        assert!(log.lines().count() >= 3, "no listing: {log}");
        if let Some(line) = log.lines().find(strange) {
            works(format!("the step has a descriptor of somebody else's: {line}"));
        }
    };
    check(&outcome.log());
    // The shell in that step.
    let debug = world.command(&["debug", "--", "sh", "-c", list], b"")?;
    let listed = String::from_utf8_lossy(&debug.stdout).into_owned();
    check(&listed);
    Ok(())
}

/// Where a runtime puts devices, masks and consoles, the image has links: to a file of the host
/// that would be overwritten, or to one of /proc that would be mounted where a mask belongs. If that
/// works, the canary has changed, or what is to be hidden can be read or written.
#[test]
fn cve_2025_31133_cve_2025_52565_cve_2026_41579_devices_are_links_in_the_image() -> Result<()> {
    let world = World::new()?;
    let canary = Canary::new()?;
    let path = canary.text();
    let look = "for f in /proc/sysrq-trigger /proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe \
        /sys/kernel/uevent_helper /proc/irq/default_smp_affinity; do \
        case $(stat -fc %T $f 2>/dev/null) in proc|sysfs) (: >> $f) 2>/dev/null && echo WRITABLE $f;; \
        esac; done; \
        for f in /proc/kcore /proc/keys /proc/timer_list /proc/interrupts /proc/sched_debug; do \
        test -n \"$(head -c 1 $f 2>/dev/null)\" && echo READABLE $f; done; \
        for d in /sys/firmware /proc/scsi /proc/acpi; do \
        test -z \"$(ls -A $d 2>/dev/null)\" || echo LISTED $d; done; \
        for d in null zero full random urandom tty ptmx; do test -c /dev/$d || echo LACKS $d; done; \
        echo x > /dev/null; test \"$(stat -fc %T /proc)\" = proc || echo NO PROC; echo done";
    let host = format!("{path}/null");
    let targets =
        ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", host.as_str(), "/etc/made"];
    let mut links: Vec<(&str, &str)> = Vec::new();
    for name in
        ["dev/null", "dev/console", "dev/ptmx", "dev/pts/0", "dev/fd", "dev/zero", "etc/hosts"]
    {
        links.extend(targets.map(|target| (name, target)));
    }
    for name in ["dev", "proc", "sys", "dev/pts", "dev/shm", "dev/mqueue", "etc"] {
        for target in [path.as_str(), "/", "../../..", "/proc", "/etc"] {
            links.push((name, target));
        }
    }
    // What may be missing on this machine is looked at once without links.
    let calm = world.run(&format!("FROM busybox\nRUN {look}\n"), &[])?.succeeded().log();
    if calm != "done\n" {
        works(format!("what is to be hidden is not:\n{calm}"));
    }
    for (at, (name, target)) in links.into_iter().enumerate() {
        let mut tar = TarWriter::new();
        tar.symlink(name, target)?;
        let image = format!("linked{at}");
        let base = world.image(&image, serde_json::json!({}), &[tar.finish()?])?;
        let context = Context::new(&format!("FROM {image}\nRUN {look}\n"))?;
        let build = with_options(world.build(&context)?, "--build-context", &[&base]);
        let outcome = build.run()?;
        crate::lives_on(&outcome);
        canary.is_intact()?;
        // To refuse the image is right, too; and a step that has no devices harms itself alone.
        let log = outcome.log();
        let open = ["WRITABLE", "READABLE", "LISTED"];
        if let Some(line) = log.lines().find(|line| open.iter().any(|word| line.starts_with(word)))
        {
            works(format!("/{name} -> {target}: {line}"));
        }
        fs::remove_dir_all(world.images.path().join(&image))?;
    }
    Ok(())
}

/// Making device nodes is a right that images need; opening the host's disk by one is none. If that
/// works, bytes of the disk, of memory or of the kernel's log are read. Where a node is made for
/// the step by somebody with more rights, a path that leads to the host must not be followed there.
#[test]
fn moby_default_devices_nodes_of_the_hosts_disk() -> Result<()> {
    let world = World::new()?;
    let canary = Canary::new()?;
    let (path, climbing) = (canary.text(), canary.climbing());
    let disk = std::os::unix::fs::MetadataExt::dev(&fs::metadata("/")?);
    let disk = format!("{} {}", rustix::fs::major(disk), rustix::fs::minor(disk));
    let nodes = [
        format!("b {disk}"),
        "b 7 0".to_owned(),
        "b 8 0".to_owned(),
        "c 1 1".to_owned(),
        "c 1 2".to_owned(),
        "c 1 4".to_owned(),
        "c 1 11".to_owned(),
        "c 4 0".to_owned(),
        "c 5 1".to_owned(),
        "c 10 1".to_owned(),
        "c 10 200".to_owned(),
        "c 10 229".to_owned(),
        "c 10 232".to_owned(),
        "c 10 237".to_owned(),
    ];
    let mut script = String::new();
    for (at, node) in nodes.iter().enumerate() {
        for place in ["/tmp", "/c", "/dev", "/m"] {
            script += &format!(
                "mknod {place}/n{at} {node} 2>/dev/null; \
                 (: < {place}/n{at}) 2>/dev/null && echo OPENED {node} in {place}; "
            );
        }
    }
    script += &format!(
        "mkdir -p /w; ln -s {path} /w/to; ln -s {climbing} /w/up; cd /w; \
         for t in to/planted up/planted {climbing}/planted {path}/planted /proc/1/root{path}/planted \
         /proc/1/cwd/{climbing}/planted /proc/self/root/../..{path}/planted; do \
         mknod $t c 1 3 2>/dev/null; mknod $t p 2>/dev/null; done; \
         mknod /w/null c 1 3 && echo x > /w/null && echo null works"
    );
    let mounts = "--mount=type=cache,target=/c --mount=type=tmpfs,target=/m";
    let outcome = world.run(&format!("FROM busybox\nRUN {mounts} {script}\n"), &[])?.succeeded();
    canary.is_intact()?;
    if let Some(line) = outcome.log().lines().find(|line| line.starts_with("OPENED")) {
        works(format!("a step has opened a device of the host: {line}"));
    }
    assert!(outcome.log().contains("null works"), "{}", outcome.report());
    // Nodes that come with an image, and with its archive.
    let mut layer = crate::hostile::Archive::new();
    for (at, node) in nodes.iter().enumerate() {
        let numbers: Vec<u32> = node[2..].split(' ').map(str::parse).collect::<Result<_, _>>()?;
        let flag = if node.starts_with('b') { b'4' } else { b'3' };
        layer.special(&format!("nodes/n{at}"), flag, (numbers[0], numbers[1]));
    }
    let archive = layer.finish();
    let base = world.image("nodes", serde_json::json!({}), std::slice::from_ref(&archive))?;
    let look = "for n in /nodes/*; do (: < $n) 2>/dev/null && echo OPENED $n; done; echo done";
    for start in ["FROM nodes\n", "FROM busybox\nADD x.tar /\n"] {
        let context = Context::new(&format!("{start}RUN {look}\n"))?;
        context.file("x.tar", &archive)?;
        let build = with_options(world.build(&context)?, "--build-context", &[&base]);
        let outcome = build.run()?;
        crate::lives_on(&outcome);
        if outcome.log().contains("OPENED") {
            works(format!("a step opens a device of an image: {}", outcome.log()));
        }
    }
    Ok(())
}

/// A step has the engine's own program started within the sandbox, in an image where the dynamic
/// loader is the attacker's, and opens `/proc/self/exe` for writing. That the program is busy only
/// puts the attack off; it has to be one that nobody can write to.
#[test]
fn cve_2019_5736_the_engines_program_is_overwritten() -> Result<()> {
    let world = World::new()?;
    let flags = ["-nostdlib", "-ffreestanding", "-fno-stack-protector", "-fno-builtin"];
    let loader = program("loader", &flags)?;
    let context = Context::new(
        "FROM busybox\nCOPY --chmod=755 loader /lib64/ld-linux-x86-64.so.2\n\
         COPY --chmod=755 loader /lib/ld-linux-aarch64.so.1\nCOPY --chmod=755 self /bin/self\n\
         COPY --chmod=755 attacker /bin/attacker\n\
         RUN [\"/bin/self\"]\n\
         RUN attacker open /proc/1/exe /proc/self/exe /proc/$PPID/exe\n\
         RUN cat /proc/$PPID/environ /proc/$PPID/cmdline; ls -l /proc/$PPID/exe; true\n",
    )?;
    context.file("loader", loader)?.file("self", "#!/proc/self/exe\n")?;
    context.file("attacker", crate::attacker()?)?;
    let program = world.cofferdam.command().get_program().to_owned();
    let before = (fs::read(&program)?, fs::metadata(&program)?.modified()?);
    let outcome = world.build(&context)?.run()?.succeeded();
    let after = (fs::read(&program)?, fs::metadata(&program)?.modified()?);
    if before != after {
        works("the engine's program is another one now");
    }
    let log = outcome.log();
    let answers: Vec<&str> = log.lines().filter_map(|line| line.strip_prefix("loader: ")).collect();
    assert_eq!(answers.len(), 2, "the loader did not run:\n{}", outcome.report());
    for answer in answers {
        // EPERM, EACCES, EROFS. That it is busy (026) is what the kernel says first of opening it.
        let refusals = ["001", "013", "030"];
        let busy = answer == "open 026";
        if !busy && !refusals.iter().any(|error| answer.ends_with(error)) {
            works(format!("the engine's program can be changed by a step: {answer}"));
        }
    }
    Ok(())
}

/// Capabilities that a process has beyond what it was given: inheritable ones, which a program file
/// turns into real ones, or those of the engine itself. All five sets of every kind of process are
/// what they should be.
#[test]
fn cve_2025_27612_cve_2022_27651_capabilities_in_all_five_sets() -> Result<()> {
    let world = World::new()?;
    let own = fs::read_to_string("/proc/self/status")?;
    let own = own.lines().find_map(|line| line.strip_prefix("CapPrm:\t")).context("own sets")?;
    // chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service, net_raw,
    // sys_chroot, mknod, audit_write, setfcap.
    const DOCKER: &str = "00000000a80425fb";
    const NONE: &str = "0000000000000000";
    let sets = |inherited: &str, permitted: &str, bounding: &str, ambient: &str| {
        format!("{inherited} {permitted} {permitted} {bounding} {ambient}")
    };
    let sandbox_root = sets(NONE, DOCKER, DOCKER, NONE);
    let sandbox_user = sets(NONE, NONE, DOCKER, NONE);
    let insecure = sets(own, own, own, own);
    let look = "grep ^Cap /proc/self/status | cut -f 2 | tr '\\n' ' '; echo";
    let cases = [
        ("", "", &sandbox_root),
        ("USER builder", "", &sandbox_user),
        ("USER 1234:5678", "", &sandbox_user),
        ("", "--security=sandbox", &sandbox_root),
        ("", "--security=insecure", &insecure),
        ("USER builder", "--security=insecure", &insecure),
        ("USER builder", "--network=none", &sandbox_user),
        ("", "--network=host", &sandbox_root),
        // A program that keeps what its file says.
        (
            "RUN mkdir /su && cp /bin/busybox /su && chmod 6755 /su/busybox\nUSER builder",
            "",
            &sandbox_user,
        ),
    ];
    let allow = ["--allow", "security.insecure", "--allow", "network.host"];
    for (before, flag, expected) in cases {
        let program = if before.contains("/su") { "/su/busybox sh -c" } else { "sh -c" };
        let line = format!("{program} \"{look}\"");
        let dockerfile = format!("FROM busybox\n{before}\nRUN {flag} {line}; exit 3\n");
        let outcome = world.run(&dockerfile, &allow)?.ended(exit::BUILD);
        let log = outcome.log();
        if log.trim_end() != *expected {
            works(format!("{before} {flag}: capabilities are {log}, not {expected}"));
        }
        let arguments = [&["debug"], &allow[..], &["--", "sh", "-c", look]].concat();
        let output = world.command(&arguments, b"")?;
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        if shown.trim_end() != *expected {
            works(format!(
                "{before} {flag}: capabilities in the shell are {shown}, not {expected}"
            ));
        }
    }
    Ok(())
}

/// Groups, variables and processes of the engine that a step inherits or can look at.
#[test]
fn cve_2021_3602_cve_2022_2990_environment_and_groups_of_the_engine() -> Result<()> {
    let world = World::new()?;
    let context = Context::new(
        "FROM busybox\nRUN echo groups $(id -G); env; cat /proc/*/environ | tr '\\0' '\\n'; ps -o args\n\
         USER builder\nRUN echo groups $(id -G); env\n\
         USER 4321\nRUN echo groups $(id -G); cat /proc/$PPID/environ /proc/1/environ | tr '\\0' '\\n'\n\
         USER builder:1001\nRUN echo groups $(id -G); kill -9 -1; echo still here\n",
    )?;
    let mut cofferdam = world.cofferdam.command();
    let busybox = cofferdam_tests::bases::busybox()?;
    let busybox = format!("busybox=oci-layout://{}:latest", busybox.path.display());
    cofferdam.arg("build").arg("--root").arg(world.cofferdam.root()).args(["--progress", "plain"]);
    cofferdam.args(["--build-context", &busybox]).arg(context.path());
    let mut command = Command::new("setpriv");
    command.args(["--groups", "4242,4243", "--"]).arg(cofferdam.get_program());
    command.args(cofferdam.get_args()).env_clear();
    for (name, value) in cofferdam.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command.env("ENGINES_OWN", "not-for-steps");
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let output = with_input(&mut command, b"")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    // What else the engine says may have such numbers in it: a time, a process.
    let steps: Vec<&str> = said.lines().filter(|line| line.starts_with('#')).collect();
    for own in ["not-for-steps", "ENGINES_OWN", "4242", "4243", "cofferdam build"] {
        if steps.iter().any(|line| line.contains(own)) {
            works(format!("a step sees {own} of the engine:\n{said}"));
        }
    }
    let groups: Vec<&str> =
        said.lines().filter_map(|line| line.split_once(" groups ")).map(|(_, g)| g).collect();
    let groups: Vec<&str> = groups.into_iter().filter(|text| !text.starts_with('$')).collect();
    if groups != ["0", "1001 50", "0", "1001"] {
        works(format!("the groups of steps are {groups:?}:\n{said}"));
    }
    Ok(())
}

/// A base image's ONBUILD copies files to where the builder keeps its own, or a step writes there.
/// There must be nothing of the engine in a step's root but what is said in the documents, and
/// nothing of it that a step can change.
#[test]
fn kaniko_pr_587_onbuild_copies_over_the_builder() -> Result<()> {
    let world = World::new()?;
    let look = "awk '{print $2, $3}' /proc/mounts | grep -vE '^/(proc|sys|dev)(/| )' | sort; \
                find / -xdev -newer /etc/passwd ! -name dev ! -name proc ! -name sys | sort; \
                ls -A / | tr '\\n' ' '";
    let mut later = TarWriter::new();
    later.file("etc/stamp", 0o644, b"")?;
    let config = serde_json::json!({"OnBuild": [
        "COPY planted /cofferdam", "COPY planted /usr/bin/cofferdam", "COPY planted /.cofferdam/run",
        "COPY planted /run/cofferdam/helper", "COPY planted /run/buildkit/helper",
        "COPY planted /var/lib/cofferdam/planted", "COPY planted /proc/self/exe",
        "COPY planted /dev/fd/0", "RUN rm -rf /run /var/lib/cofferdam /cofferdam /usr/bin/cofferdam",
    ]});
    let base = world.image("onbuild", config, &[later.finish()?])?;
    let context = Context::new(&format!("FROM onbuild\nRUN {look}\n"))?;
    context.file("planted", "#!/bin/sh\necho PLANTED\n")?.mode("planted", 0o755)?;
    let build = with_options(world.build(&context)?, "--build-context", &[base]);
    let outcome = build.run()?;
    crate::lives_on(&outcome);
    if outcome.report().contains("PLANTED") {
        works("the engine runs what an image has put there");
    }
    let plain = world.run(&format!("FROM busybox\nRUN {look}\n"), &[])?.succeeded();
    let mounts = plain.log();
    let strange: Vec<&str> = mounts
        .lines()
        .filter(|line| line.starts_with('/'))
        .filter(|line| {
            !matches!(*line, "/ overlay" | "/etc/hosts tmpfs" | "/etc/resolv.conf tmpfs")
                && !matches!(*line, "/" | "/etc" | "/etc/hosts" | "/etc/resolv.conf")
        })
        .collect();
    if !strange.is_empty() {
        works(format!("the step's root has what is not the image's: {strange:?}\n{mounts}"));
    }
    let root = mounts.lines().last().unwrap_or_default();
    let expected = "bin dev etc home proc root sys tmp usr var";
    if root.trim_end() != expected {
        works(format!("the step's root has {root}, the image {expected}"));
    }
    Ok(())
}

/// A list of what may be done with devices is taken for a list of what may not: runc let containers
/// use all others. Here a device that is described as one to be read is written to, and its
/// neighbours are opened.
#[test]
fn ghsa_g54h_m393_cpwq_device_rules_allow_what_they_do_not_say() -> Result<()> {
    let world = World::new()?;
    let disk = LoopDevice::new()?;
    let description = format!(
        "cdiVersion: 0.6.0\nkind: vendor.com/disk\ndevices:\n- name: a\n  containerEdits:\n    \
         deviceNodes: [{{path: /dev/given, hostPath: {}, permissions: r}}]\n",
        disk.path
    );
    fs::write(disk.directory.path().join("disk.yaml"), description)?;
    let dockerfile = "FROM busybox\nRUN --device=vendor.com/disk=a,required \
        head -c 8 /dev/given; (echo overwritten > /dev/given) 2>/dev/null && echo wrote; \
        for n in 'b 7 0' 'b 7 1' 'b 7 2' 'b 7 3' 'b 7 4' 'b 7 5' 'b 7 6' 'b 7 7' 'c 10 229'; do \
            mknod /n $n; (: > /n) 2>/dev/null && echo opened $n; \
            (: < /n) 2>/dev/null && echo reads $n; rm -f /n; done; true\n";
    let directory = disk.directory.path().to_str().expect("it is UTF-8");
    let arguments = ["--cdi-spec-dir", directory, "--allow", "device=vendor.com/disk=a"];
    let log = world.run(dockerfile, &arguments)?.succeeded().log();
    assert!(log.contains("contents"), "the device cannot be read:\n{log}");
    let written = !fs::read(disk.directory.path().join("disk"))?.starts_with(b"contents");
    // It is there by its number as well as by its name.
    let others = log.lines().filter(|line| line.contains("reads ")).count() > 1;
    if written || others || log.contains("wrote") || log.contains("opened") {
        works(format!("more can be done with devices than is described:\n{log}"));
    }
    Ok(())
}

/// A block device with a file of ours behind it.
struct LoopDevice {
    directory: tempfile::TempDir,
    path: String,
}

impl LoopDevice {
    fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("disk");
        fs::write(&file, [b"contents".as_slice(), &[0; 1 << 16]].concat())?;
        let mut losetup = Command::new("losetup");
        let output = losetup.args(["--find", "--show"]).arg(&file).output()?;
        anyhow::ensure!(output.status.success(), "losetup: {output:?}");
        let path = String::from_utf8(output.stdout)?.trim().to_owned();
        Ok(Self { directory, path })
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        _ = Command::new("losetup").arg("--detach").arg(&self.path).status();
    }
}

/// Labels and annotations of an image reach something that acts on them: a device, a hook, another
/// security mode. Whatever an image says there, its steps are as any other's.
#[test]
fn cve_2026_53488_labels_select_what_the_host_does() -> Result<()> {
    let world = World::new()?;
    let look = "grep -E '^(Cap|Seccomp:|NoNewPrivs|Groups)' /proc/self/status; ls /dev | tr '\\n' ' '; \
                awk '{print $2, $3}' /proc/mounts | sort; ls /sys/class/net | wc -l; id; env | sort";
    let calm = world.run(&format!("FROM busybox\nRUN {look}\n"), &[])?.succeeded().log();
    let labels = serde_json::json!({"Labels": {
        "security.insecure": "true", "network.host": "true", "cofferdam.security": "insecure",
        "security": "insecure", "network": "host", "privileged": "true", "io.cofferdam.privileged": "1",
        "moby.buildkit.cdi.device": "vendor.com/class=all", "cdi.k8s.io/vendor": "vendor.com/class=all",
        "org.mobyproject.buildkit.worker.security": "insecure",
        "run.oci.keep_original_groups": "1", "run.oci.hooks.stderr": "/dev/kmsg",
        "run.oci.seccomp_fail_unknown_syscall": "0", "run.oci.mount_context_type": "x",
        "io.kubernetes.cri-o.userns-mode": "host", "io.containerd.image.unpack": "/bin/sh",
        "io.podman.annotations.privileged": "TRUE", "io.podman.annotations.seccomp": "unconfined",
        "com.docker.security.seccomp": "unconfined", "devices": "all", "org.opencontainers.image.base.name": "/",
    }});
    let base = world.image("labelled", labels, &[])?;
    let context = Context::new(&format!("FROM labelled\nRUN : labelled; {look}\n"))?;
    let build = with_options(world.build(&context)?, "--build-context", &[base]);
    let outcome = build.run()?.succeeded();
    if outcome.log() != calm {
        works(format!("labels change what a step is:\n{}\nwithout:\n{calm}", outcome.log()));
    }
    Ok(())
}
