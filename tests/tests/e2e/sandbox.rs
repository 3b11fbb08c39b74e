//! What a RUN step finds around it, and how its end is reported.

use anyhow::Result;
use cofferdam_tests::cofferdam::exit;
use cofferdam_tests::{Context, needs_root};

use crate::World;

#[test]
fn a_step_has_dockers_default_authority_and_no_more() -> Result<()> {
    let world = World::new()?;
    let context = Context::new(
        "ARG REGISTRY\nFROM ${REGISTRY}/busybox\n\
         RUN grep -E '^(CapEff|CapInh|CapAmb|NoNewPrivs|Seccomp):' /proc/self/status\n\
         RUN echo fds: $(ls /proc/self/fd | grep -v -E '^[0-3]$')\n\
         RUN for f in /proc/sysrq-trigger /proc/sys/kernel/core_pattern; do \
             (: >> $f) 2>/dev/null && echo wrote $f; done; echo writes done\n\
         RUN test -z \"$(cat /proc/kcore /proc/keys 2>/dev/null)\" && echo masked\n\
         RUN for d in null zero full random urandom tty; do test -c /dev/$d || echo lacks $d; done; \
             echo x > /dev/null && echo devices done\n\
         RUN unshare -m true 2>/dev/null && echo unshared; mount -t tmpfs x /tmp 2>/dev/null \
             && echo mounted; echo namespaces done\n",
    )?;
    let build = world.build(&context).run()?.succeeded();
    let log = build.log();
    let squeezed: String = log.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in [
        "CapInh: 0000000000000000",
        "CapEff: 00000000a80425fb",
        "CapAmb: 0000000000000000",
        // BuildKit's too: images call `sudo`.
        "NoNewPrivs: 0",
        "Seccomp: 2",
        "writes done",
        "masked",
        "devices done",
        "namespaces done",
    ] {
        assert!(squeezed.contains(part), "no {part:?} in:\n{log}");
    }
    for part in ["wrote ", "lacks ", "unshared", "mounted"] {
        assert!(!log.contains(part), "{part:?} in:\n{log}");
    }
    assert!(log.lines().any(|line| line.trim() == "fds:"), "descriptors are left open:\n{log}");
    Ok(())
}

#[test]
fn the_user_directory_and_environment_are_the_dockerfiles() -> Result<()> {
    let world = World::new()?;
    let context = Context::new(
        "ARG REGISTRY\nFROM ${REGISTRY}/busybox\nENV A=1\nWORKDIR /home/builder\nUSER builder\n\
         ARG B=2\nRUN echo user $(id -u):$(id -g) in $PWD home $HOME with $A$B\n\
         RUN [\"/bin/echo\", \"exec form $A\"]\n",
    )?;
    let build = world.build(&context).env("A", "leaked").run()?.succeeded();
    let log = build.log();
    assert!(log.contains("user 1000:1001 in /home/builder home /home/builder with 12"), "{log}");
    assert!(log.contains("exec form $A"), "the exec form expanded a variable:\n{log}");
    Ok(())
}

#[test]
fn network_none_has_only_loopback() -> Result<()> {
    let world = World::new()?;
    let context = Context::new(
        "ARG REGISTRY\nFROM ${REGISTRY}/busybox\n\
         RUN --network=none echo interfaces: $(ls /sys/class/net)\n",
    )?;
    let build = world.build(&context).run()?.succeeded();
    assert!(build.log().contains("interfaces: lo\n"), "{}", build.log());
    Ok(())
}

#[test]
fn what_the_sandbox_lends_does_not_stay_in_the_image() -> Result<()> {
    let world = World::new()?;
    let context = Context::new(
        "ARG REGISTRY\nFROM ${REGISTRY}/busybox\n\
         RUN test -s /etc/hosts && test -e /etc/resolv.conf && test -e /proc/self && echo > /made\n",
    )?;
    let (tree, _) = world.image(&context, "clean:latest")?;
    assert!(tree.entries.contains_key("made"));
    for name in ["etc/hosts", "etc/resolv.conf", "dev/null", "proc/self", "sys/kernel"] {
        assert!(!tree.entries.contains_key(name), "{name} stayed in the image");
    }
    Ok(())
}

#[test]
fn exit_codes_signals_and_missing_programs_are_told_apart() -> Result<()> {
    let world = World::new()?;
    let cases: [(&str, &[&str]); 5] = [
        ("RUN echo last words; exit 37", &["37", "last words", "Dockerfile:3"]),
        // The step is process 1 of its namespace and ignores what it sends itself; a child does
        // not, and the kernel's own signal does for both.
        ("RUN sh -c 'kill -SEGV $$'; exit $?", &["139", "Dockerfile:3"]),
        ("RUN ulimit -t 1; while :; do :; done", &["signal", "Dockerfile:3"]),
        ("RUN [\"/no/such/program\"]", &["/no/such/program", "Dockerfile:3"]),
        ("RUN nosuchcommand", &["127", "Dockerfile:3"]),
    ];
    for (line, says) in cases {
        let context = Context::new(&format!("ARG REGISTRY\nFROM ${{REGISTRY}}/busybox\n{line}\n"))?;
        world.build(&context).run()?.ended(exit::BUILD).says(says);
    }
    let context = Context::new("ARG REGISTRY\nFROM ${REGISTRY}/busybox\nRUN true\n")?;
    let _ = world.build(&context).run()?.succeeded();
    Ok(())
}

#[test]
fn a_step_that_wants_too_much_memory_is_told_apart() -> Result<()> {
    if needs_root("cgroups") {
        return Ok(());
    }
    let world = World::new()?;
    let context = Context::new("ARG REGISTRY\nFROM ${REGISTRY}/busybox\nRUN tail /dev/zero\n")?;
    let build = world.build(&context).option("--memory", "32m");
    build.run()?.ended(exit::BUILD).says(&["out of memory", "Dockerfile:3"]);
    Ok(())
}
