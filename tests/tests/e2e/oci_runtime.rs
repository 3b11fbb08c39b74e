//! `--oci-runtime`: the same steps, run by Debian's runc. (Its crun 1.8 refuses hosts with both
//! versions of cgroups.)

use anyhow::Result;
use cofferdam_tests::cofferdam::exit;
use cofferdam_tests::{Context, needs_root};

use crate::World;

#[test]
fn a_build_gives_what_it_gives_without_one() -> Result<()> {
    if needs_root("an OCI runtime") {
        return Ok(());
    }
    let world = World::new()?;
    let context = Context::new(
        "ARG REGISTRY\nFROM ${REGISTRY}/busybox AS other\nRUN echo from the other stage > /given\n\
         FROM ${REGISTRY}/busybox\nENV GREETING=hello\nWORKDIR /made/here\nUSER builder\n\
         RUN echo $GREETING in $PWD of $(id -u):$(id -g) at home $HOME > /tmp/mine\n\
         USER root\n\
         RUN --mount=type=bind,from=other,target=/other --mount=type=tmpfs,target=/scratch \
         --mount=type=cache,target=/cache --mount=type=secret,id=s,required \
         cp /other/given /copied && echo x > /scratch/y && echo z > /cache/z \
         && cat /run/secrets/s > /dev/null && mkdir /d && chmod 2750 /d && chown 5:6 /d \
         && ln /copied /d/linked && rm /etc/group\n\
         RUN --network=none test $(ls /sys/class/net | wc -l) = 1\n",
    )?;
    context.file("secret", "confidential")?;
    let build = |runtime: Option<&str>| {
        let secret = format!("id=s,src={}", context.path().join("secret").display());
        let build = world.build(&context).option("--secret", secret).arg("--no-cache");
        let build = build.build_arg("SOURCE_DATE_EPOCH", 1_700_000_000).varies("built twice here");
        let build = build.option("--tag", world.registry.reference("same:latest"));
        match runtime {
            Some(runtime) => build.option("--oci-runtime", runtime),
            None => build,
        }
    };
    let own = build(None).run()?.succeeded();
    let theirs = build(Some("runc")).run()?.succeeded();
    assert!(own.digest().is_some());
    assert_eq!(own.digest(), theirs.digest());
    Ok(())
}

#[test]
fn a_step_is_confined_as_without_one() -> Result<()> {
    if needs_root("an OCI runtime") {
        return Ok(());
    }
    let world = World::new()?;
    let context = Context::new(
        "ARG REGISTRY\nFROM ${REGISTRY}/busybox\n\
         RUN grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status; cat /proc/self/uid_map; \
         hostname; ls /proc/self/fd | wc -l; cat /proc/kcore | wc -c; \
         mount -t tmpfs x /tmp 2>/dev/null || echo refused; ulimit -n; \
         cat /etc/resolv.conf | grep -c nameserver\n",
    )?;
    let build = world.build(&context).option("--oci-runtime", "/usr/sbin/runc");
    let build = build.option("--security-opt", "no-new-privileges").option("--ulimit", "nofile=77");
    let log = build.run()?.succeeded().log();
    let words: Vec<&str> = log.split_whitespace().collect();
    let log = words.join(" ");
    for part in [
        "CapEff: 00000000a80425fb CapBnd: 00000000a80425fb NoNewPrivs: 1 Seccomp: 2",
        "0 2147483648 2147483646 buildkitsandbox",
        "refused 77 1",
    ] {
        assert!(log.contains(part), "no {part:?} in: {log}");
    }
    Ok(())
}

#[test]
fn ends_of_steps_and_of_runtimes_are_told_apart() -> Result<()> {
    if needs_root("an OCI runtime") {
        return Ok(());
    }
    let world = World::new()?;
    let run = |instruction: &str, runtime: &str| {
        let context =
            Context::new(&format!("ARG REGISTRY\nFROM ${{REGISTRY}}/busybox\n{instruction}\n"))?;
        world.build(&context).option("--oci-runtime", runtime).run()
    };
    run("RUN exit 7", "runc")?.ended(exit::BUILD).says(&["exit code: 7"]);
    run("RUN [\"no-such-program\"]", "runc")?.ended(exit::BUILD).says(&["no-such-program"]);
    run("RUN true", "/bin/false")?.ended(exit::BUILD).says(&["exit code: 1"]);
    run("RUN true", "no-such-runtime")?
        .ended(exit::CONFIGURATION)
        .says(&["the OCI runtime `no-such-runtime` is not there"]);
    let insecure =
        Context::new("ARG REGISTRY\nFROM ${REGISTRY}/busybox\nRUN --security=insecure true\n")?;
    let build = world.build(&insecure).option("--oci-runtime", "runc");
    build
        .option("--allow", "security.insecure")
        .run()?
        .says(&["--security=insecure is not supported with it"]);
    Ok(())
}
