//! Builds by ordinary users, with and without a user namespace, and what a build says it needs.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Output;

use anyhow::{Context as _, Result};
use cofferdam_tests::cofferdam::{Who, exit};
use cofferdam_tests::network::host_address;
use cofferdam_tests::{Cofferdam, Context, Web, WebAnswer, needs_root};
use expect_test::expect;

use crate::World;

/// A step of each kind of file, and what only root of something can do.
const RUNS: &str = "ARG REGISTRY\nFROM ${REGISTRY}/busybox AS base\n\
    COPY --chown=7:8 --chmod=640 file /copied\n\
    RUN mkdir -m 2750 /new && echo x > /new/file && chown 8:9 /new/file && ln /new/file /new/link \
        && ln -s file /new/soft && mkfifo /new/pipe && rm /etc/group && chown 65534 /copied\n\
    USER builder\nWORKDIR /home/builder/work\nRUN id -u > who && touch -d @1700000000 who\n\
    USER 0\nRUN rm -rf /home && mkdir /home && cat /proc/self/uid_map > /dev/null\n\
    FROM ${REGISTRY}/busybox\nCOPY --from=base /new /new\n\
    RUN --mount=type=bind,from=base,source=/new,target=/in --mount=type=cache,target=/cache \
        --mount=type=tmpfs,target=/t cp /in/file /cache/file && cp /cache/file /t/x && cp /t/x /out\n";

/// Says what it reaches of URLs that should lead somewhere, and of those that should not.
const FETCH: &str = "ARG PUBLIC\nARG PRIVATE\n\
    RUN fetch() { for url; do wget -q -O - $url 2>/dev/null || echo nothing; done; }; \
        echo public $(fetch $PUBLIC) private $(fetch $PRIVATE) links $(ls /sys/class/net)\n";

/// Builds it with times that do not change, and gives the image's digest.
fn digest(world: &World, cofferdam: &Cofferdam, context: &Context) -> Result<String> {
    let build = cofferdam.build(context.path());
    let build = build.build_arg("REGISTRY", world.registry.address());
    let build = build.build_arg("SOURCE_DATE_EPOCH", 1_700_000_000);
    let build = build.option("-o", "type=image,name=result,rewrite-timestamp=true");
    let outcome = build.varies("it is compared with another user's").run()?.succeeded();
    outcome.digest().context("there is no digest")
}

fn readable(dockerfile: &str) -> Result<Context> {
    let context = Context::new(dockerfile)?;
    context.mode("", 0o755)?;
    context.file("file", "contents")?;
    Ok(context)
}

fn text(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{out}{err}")
}

/// Whom the files below a path belong to; nothing may work on them meanwhile.
fn owners_below(path: &Path) -> Result<Vec<u32>> {
    let mut owners = vec![path.symlink_metadata()?.uid()];
    if path.symlink_metadata()?.is_dir() {
        for entry in path.read_dir()? {
            owners.extend(owners_below(&entry?.path())?);
        }
    }
    owners.sort_unstable();
    owners.dedup();
    Ok(owners)
}

#[test]
fn a_user_gets_what_root_gets() -> Result<()> {
    if needs_root("other users") {
        return Ok(());
    }
    let world = World::new()?;
    let context = readable(RUNS)?;
    let user = Cofferdam::new()?.run_by(Who::User)?;
    assert_eq!(digest(&world, &world.cofferdam, &context)?, digest(&world, &user, &context)?);
    // Files of the image are the user's other ids', and only the user's.
    user.settle()?;
    let owners = owners_below(&user.root())?;
    assert!(owners.contains(&64_000) && owners.contains(&200_007), "{owners:?}");
    assert!(owners.iter().all(|id| *id == 64_000 || (200_000..265_536).contains(id)), "{owners:?}");
    // What is written for the user is the user's.
    let out = user.home().join("out");
    let build = user.build(context.path()).build_arg("REGISTRY", world.registry.address());
    let build = build.option("-o", out.to_str().context("it is UTF-8")?);
    let _ = build.varies("the owners of files differ").run()?.succeeded();
    assert_eq!(owners_below(&out)?, [64_000]);
    // And the program can remove all of it.
    let mut prune = user.command();
    let pruned = prune.args(["prune", "--all", "--root"]).arg(user.root()).output()?;
    assert!(pruned.status.success(), "{}", text(&pruned));
    let left = user.command().args(["du", "--root"]).arg(user.root()).output()?;
    assert!(text(&left).contains("In use: 0B\nCan be removed: 0B"), "{}", text(&left));
    Ok(())
}

#[test]
fn a_users_steps_have_networks_of_their_own() -> Result<()> {
    if needs_root("other users") {
        return Ok(());
    }
    let world = World::new()?;
    let context = readable(&format!("ARG REGISTRY\nFROM ${{REGISTRY}}/busybox\n{FETCH}"))?;
    let (address, user) = (host_address()?, Cofferdam::new()?.run_by(Who::User)?);
    let public = Web::start_on(address, |_| WebAnswer::body("public\n"))?;
    let private = Web::start(|_| WebAnswer::body("private\n"))?;
    let port = private.address().port();
    // By slirp4netns's name for the loopback, too, which is a stranger elsewhere.
    let (own, given) = (format!("{} http://{address}:{port}", private.url("/")), "http://10.0.2.2");
    let given = format!("{own} {given}:{port}");
    for (mode, urls, expected) in [
        ("auto", &given, "public public private nothing nothing nothing links eth0 lo"),
        ("slirp4netns", &given, "public public private nothing nothing nothing links eth0 lo"),
        // The host's address is the step's.
        ("pasta", &own, "public nothing private nothing nothing links eth0 lo"),
    ] {
        let config = context.path().join(format!("{mode}.toml"));
        fs::write(&config, format!("[network]\nmode = \"{mode}\"\n"))?;
        fs::set_permissions(&config, Permissions::from_mode(0o644))?;
        let build = user.build(context.path()).build_arg("REGISTRY", world.registry.address());
        let build = build.build_arg("PUBLIC", public.url("/")).build_arg("PRIVATE", urls);
        let build = build.option("--config", config).arg("--no-cache");
        let outcome = build.varies("it depends on the network").run()?.succeeded();
        assert_eq!(outcome.log().trim(), expected, "{mode}");
        let mut warnings = outcome.warnings();
        assert!(!warnings.any(|text| text.starts_with("steps ")), "{}", outcome.report());
    }
    Ok(())
}

#[test]
fn without_run_no_privilege_is_needed() -> Result<()> {
    if needs_root("other users") {
        return Ok(());
    }
    let world = World::new()?;
    let context = readable(
        "ARG REGISTRY\nFROM ${REGISTRY}/busybox AS base\nCOPY --chown=7:8 file /a/\n\
         FROM ${REGISTRY}/busybox\nADD --chmod=640 file /b/\nCOPY --from=base / /all/\nUSER 5\n\
         WORKDIR /made\nENV A=1\nCMD [\"sh\"]\n",
    )?;
    let alone = Cofferdam::new()?.run_by(Who::Alone)?;
    assert_eq!(digest(&world, &world.cofferdam, &context)?, digest(&world, &alone, &context)?);
    alone.settle()?;
    assert_eq!(owners_below(&alone.root())?, [64_000]);
    // With a RUN it says what is missing, before anything is pulled for it.
    let context = readable("ARG REGISTRY\nFROM ${REGISTRY}/busybox\nRUN echo ran\n")?;
    let build = alone.build(context.path()).build_arg("REGISTRY", world.registry.address());
    let outcome = build.run()?.ended(exit::CONFIGURATION);
    let missing = "/etc/subuid gives user `cofferdam-test` no range of ids";
    outcome.says(&["a RUN cannot be run here", missing, "--print-tier"]);
    Ok(())
}

#[test]
fn a_build_says_what_it_needs() -> Result<()> {
    if needs_root("other users") {
        return Ok(());
    }
    let world = World::new()?;
    let ask = |cofferdam: &Cofferdam, dockerfile: &str| -> Result<String> {
        let context = readable(dockerfile)?;
        let mut command = cofferdam.command();
        command.args(["build", "--print-tier", "--root"]).arg(cofferdam.root());
        let registry = format!("REGISTRY={}", world.registry.address());
        let output = command.args(["--build-arg", &registry]).arg(context.path()).output()?;
        assert!(output.status.success(), "{}", text(&output));
        Ok(text(&output))
    };
    let from = "# syntax=docker/dockerfile:1-labs\nARG REGISTRY\nFROM ${REGISTRY}/busybox\n";
    expect![[r#"
        wasm

        no RUN: WebAssembly does all of it

        it builds here, and wherever the program starts
    "#]]
    .assert_eq(&ask(&world.cofferdam, &format!("{from}COPY file /\n"))?);
    let runs = format!("{from}RUN false\nRUN --security=insecure true\nRUN --network=host true\n");
    expect![[r#"
        root

        Dockerfile:4: [2/4] RUN false
            user namespace: its program runs on the kernel
        Dockerfile:5: [3/4] RUN --security=insecure true
            root: `--security=insecure` gives it the machine's devices and all privileges
        Dockerfile:6: [4/4] RUN --network=host true
            user namespace: its program runs on the kernel, in the host's network

        it builds here: you are root
    "#]]
    .assert_eq(&ask(&world.cofferdam, &runs)?);
    let alone = Cofferdam::new()?.run_by(Who::Alone)?;
    let answer = ask(&alone, &format!("{from}RUN true\n"))?;
    assert!(answer.starts_with("user namespace\n"), "{answer}");
    assert!(answer.contains("it does not build here: /etc/subuid gives user"), "{answer}");
    let user = Cofferdam::new()?.run_by(Who::User)?;
    let answer = ask(&user, &format!("{from}RUN true\n"))?;
    assert!(answer.ends_with("it builds here: you can have a user namespace\n"), "{answer}");
    Ok(())
}

#[test]
fn a_step_of_roots_is_nobody_on_the_host() -> Result<()> {
    if needs_root("other users") {
        return Ok(());
    }
    let world = World::new()?;
    let context = Context::new(
        "ARG REGISTRY\nFROM ${REGISTRY}/busybox\n\
         RUN echo map $(cat /proc/self/uid_map); touch /file && exit 7\n",
    )?;
    let outcome = world.build(&context).run()?.ended(exit::BUILD);
    assert!(outcome.log().contains("map 0 2147483648 2147483646"), "{}", outcome.log());
    let shell = world.debugged(&["--", "sh", "-c", "echo $(cat /proc/self/uid_map; ls -ln /file)"]);
    let said = shell?.stdout();
    assert!(said.starts_with("0 2147483648 2147483646 -rw-r--r-- 1 0 0"), "{said}");
    Ok(())
}
