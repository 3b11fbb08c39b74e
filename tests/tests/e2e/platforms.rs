//! Steps for other platforms than the machine's own, under QEMU, and what comes of several
//! platforms at once. The emulators are those of Debian's package qemu-user-static.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use anyhow::{Context as _, Result};
use cofferdam_tests::cofferdam::{Who, exit};
use cofferdam_tests::command::{command, run};
use cofferdam_tests::oci::digest_of;
use cofferdam_tests::tree::Kind;
use cofferdam_tests::{
    Build, Cofferdam, Context, Layout, Tree, bases, binfmt_handlers, needs_root, needs_steps,
    unpacked,
};
use serde_json::Value;

use crate::World;

/// What every image of these suites is for, and what its programs take the machine for.
const MACHINES: [(&str, &str); 6] = [
    ("linux/amd64", "x86_64"),
    ("linux/386", "i686"),
    ("linux/arm64", "aarch64"),
    ("linux/arm/v7", "armv7l"),
    ("linux/ppc64le", "ppc64le"),
    ("linux/s390x", "s390x"),
];

fn world() -> Result<World> {
    let world = World::new()?;
    world.registry.push(&bases::busybox_everywhere()?, "busybox:latest")?;
    Ok(world)
}

fn all() -> String {
    MACHINES.map(|(platform, _)| platform).join(",")
}

/// A step of one image for arm64.
fn arm64(world: &World, steps: &str) -> Result<Build> {
    let context = Context::new(&format!("ARG REGISTRY\nFROM ${{REGISTRY}}/busybox\n{steps}"))?;
    let kept = tempfile::tempdir_in(world.out.path())?.keep();
    run(command("cp", ["-a"]).arg(context.path().join("Dockerfile")).arg(&kept))?;
    let build = world.cofferdam.build(&kept).build_arg("REGISTRY", world.registry.address());
    Ok(build.option("--platform", "linux/arm64"))
}

fn index(layout: &Layout) -> Result<Value> {
    Ok(serde_json::from_slice(&layout.blob(&layout.descriptors()?[0])?)?)
}

/// The platforms of an image, as its index has them.
fn platforms(index: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let name = |manifest: &Value| {
        let platform = &manifest["platform"];
        let variant = text(&platform["variant"]);
        let variant = if variant.is_empty() { variant } else { format!("/{variant}") };
        format!("{}/{}{variant}", text(&platform["os"]), text(&platform["architecture"]))
    };
    index["manifests"].as_array().into_iter().flatten().map(name).collect()
}

fn variant(platform: &str) -> &str {
    platform.split('/').nth(2).unwrap_or_default()
}

#[track_caller]
fn assert_file(tree: &Tree, name: &str, contents: &str) {
    let entry = tree.entries.get(name).unwrap_or_else(|| panic!("{name} is not there"));
    let Kind::File { digest, .. } = &entry.kind else { panic!("{name} is no file") };
    assert_eq!(*digest, digest_of(contents.as_bytes()), "{name}: expected {contents:?}");
}

#[test]
fn steps_run_on_every_platform_and_the_host_is_as_before() -> Result<()> {
    let world = world()?;
    let context = Context::new(
        "ARG REGISTRY\nFROM ${REGISTRY}/busybox\nARG TARGETPLATFORM TARGETARCH TARGETVARIANT\n\
         RUN echo \"for $TARGETPLATFORM ($TARGETARCH, $TARGETVARIANT): $(/bin/uname -m)\" \
         | /bin/tee /machine\n\
         RUN printf 'b\\na\\nc\\n' | /bin/sort | /bin/head -n 1 | /bin/tr a x > /pipeline && \
         /bin/sh -c 'exit 7' || test $? = 7\n\
         COPY --chmod=755 script /script\nRUN [\"/script\", \"an argument\"]\n\
         USER builder\nRUN /bin/id -u > /tmp/id\n",
    )?;
    context.file("script", "#!/bin/sh\necho \"$0 $# $1\" > /said\n")?;
    let layout = world.out.path().join("layout");
    let before = binfmt_handlers()?;
    let mut building = world
        .build(&context)
        .option("--platform", all())
        .option("--output", format!("type=oci,tar=false,dest={}", layout.display()))
        .spawn()?;
    building.wait_for_log("s390x")?;
    assert_eq!(binfmt_handlers()?, before);
    let built = building.finish()?.succeeded();
    assert_eq!(binfmt_handlers()?, before);
    for (platform, machine) in MACHINES {
        let line = format!(": {machine}\n");
        assert!(built.log().contains(&line), "no {line:?}:\n{}", built.log());
        let name = format!("[{platform} 2/6] RUN echo");
        assert!(built.executed().iter().any(|step| step.starts_with(&name)), "{name}");
    }
    let layout = Layout::open(&layout)?;
    assert_eq!(platforms(&index(&layout)?), MACHINES.map(|(platform, _)| platform));
    for (platform, machine) in MACHINES {
        let arch = platform.split('/').nth(1).unwrap_or_default();
        let image = layout.image(arch)?;
        let expected = if platform == "linux/arm/v7" { "v7".into() } else { Value::Null };
        assert_eq!(image.config["variant"], expected);
        let tree = Tree::from_image(&layout, &image)?;
        let variant = if variant(platform).is_empty() { "" } else { "v7" };
        let line = format!("for {platform} ({arch}, {variant}): {machine}\n");
        assert_file(&tree, "machine", &line);
        assert_file(&tree, "pipeline", "x\n");
        assert_file(&tree, "said", "/script 1 an argument\n");
        assert_file(&tree, "tmp/id", "1000\n");
    }
    Ok(())
}

#[test]
fn nothing_of_the_emulator_is_in_the_step() -> Result<()> {
    let world = world()?;
    let built = arm64(
        &world,
        "RUN ! find / -xdev -iname '*qemu*' | grep . && echo no file\n\
         RUN grep -i qemu /proc/self/mountinfo /proc/mounts || echo no mount\n\
         RUN ls /proc/self/fd | wc -l\n\
         RUN for f in register status qemu-aarch64 arm64; do \
         echo x 2>/dev/null > /proc/sys/fs/binfmt_misc/$f && echo written; \
         cat /proc/sys/fs/binfmt_misc/$f 2>/dev/null && echo read; done; \
         mkdir /m; mount -t binfmt_misc none /m 2>&1; \
         mount -t binfmt_misc none /proc/sys/fs/binfmt_misc 2>&1; \
         unshare -Ur mount -t binfmt_misc none /m 2>&1; ls -A /m /proc/sys/fs/binfmt_misc; \
         echo looked\n",
    )?
    .run()?
    .succeeded();
    let log = built.log();
    assert!(log.contains("no file\n") && log.contains("no mount\n"), "{log}");
    assert!(
        log.contains("looked\n") && !log.contains("written") && !log.contains("read\n"),
        "{log}"
    );
    assert!(!log.contains("register\n"), "{log}");
    assert_eq!(log.matches("ermission denied").count() + log.matches("not permitted").count(), 3);
    Ok(())
}

#[test]
fn failures_are_told_as_of_native_steps() -> Result<()> {
    let world = world()?;
    let cases: [(&str, &[&str]); 4] = [
        ("RUN echo last words; /bin/sh -c 'exit 37'", &["exit code: 37", "last words"]),
        ("RUN [\"/no/such/program\"]", &["/no/such/program", "Dockerfile:3"]),
        ("RUN nosuchcommand", &["127", "Dockerfile:3"]),
        ("RUN /bin/sh -c 'kill -SEGV $$'; exit $?", &["139", "Dockerfile:3"]),
    ];
    for (step, says) in cases {
        let failed = arm64(&world, &format!("{step}\n"))?.run()?;
        failed.ended(exit::BUILD).says(says);
    }
    if needs_root("cgroups") {
        return Ok(());
    }
    let greedy = arm64(&world, "RUN tail /dev/zero\n")?.option("--memory", "64m").run()?;
    greedy.ended(exit::BUILD).says(&["out of memory", "Dockerfile:3"]);
    Ok(())
}

/// Bits and programs that change who a process is work as they do for the machine's own programs.
#[test]
fn set_user_id_programs_are_as_in_native_steps() -> Result<()> {
    let world = world()?;
    let context = Context::new(
        "ARG REGISTRY\nFROM ${REGISTRY}/busybox\n\
         RUN cp /bin/busybox /bin/busybox.setuid && chmod 4755 /bin/busybox.setuid && \
         sed -i s/^root:x:/root::/ /etc/passwd\n\
         USER builder\n\
         RUN /bin/id -u > /tmp/ids && /bin/busybox.setuid su root -c '/bin/id -u' >> /tmp/ids\n",
    )?;
    let out = world.out.path().join("out");
    let build = world.build(&context).option("--platform", "linux/amd64,linux/arm64,linux/s390x");
    let _ = build.option("--output", &out).run()?.succeeded();
    let ids = |platform: &str| fs::read_to_string(out.join(platform).join("tmp/ids"));
    for platform in ["linux_amd64", "linux_arm64", "linux_s390x"] {
        assert_eq!(ids(platform)?, "1000\n0\n", "{platform}");
    }
    Ok(())
}

/// What does not depend on the platform is done once, and the rest at the same time.
#[test]
fn platforms_share_what_they_can_and_do_not_wait_for_each_other() -> Result<()> {
    let world = world()?;
    let context = Context::new(
        "ARG REGISTRY\nFROM --platform=$BUILDPLATFORM ${REGISTRY}/busybox AS build\n\
         ARG BUILDPLATFORM\nCOPY f /f\n\
         RUN echo built on $BUILDPLATFORM && cat /proc/sys/kernel/random/uuid > /id\n\
         FROM ${REGISTRY}/busybox\nCOPY --from=build /id /f /\nARG TARGETARCH\n\
         RUN sleep 2; echo $TARGETARCH > /arch\n",
    )?;
    context.file("f", "f\n")?;
    let out = world.out.path().join("out");
    let build = || {
        let build = world.build(&context).option("--platform", "linux/amd64,linux/arm64,linux/386");
        build.varies("a random number is in it").option("--output", &out).run()
    };
    let built = build()?.succeeded();
    assert_eq!(built.log().matches("built on linux/amd64\n").count(), 1, "{}", built.log());
    let ran = |part: &str| -> Vec<String> {
        built.executed().into_iter().filter(|name| name.contains(part)).collect()
    };
    assert_eq!(ran("RUN echo built").len(), 1, "{}", built.report());
    assert_eq!(ran("COPY f /f").len(), 1, "{}", built.report());
    let sleeps = ["386", "amd64", "arm64"]
        .map(|arch| format!("[linux/{arch} stage-1 3/3] RUN sleep 2; echo {arch} > /arch"));
    assert_eq!(ran("RUN sleep"), sleeps);
    let sleeps = sleeps.map(|name| built.step(&name).expect("it ran"));
    assert!(sleeps[0].overlaps(&sleeps[1]) && sleeps[1].overlaps(&sleeps[2]));
    let read = |name: &str| fs::read_to_string(out.join(name));
    assert_eq!(read("linux_amd64/id")?, read("linux_arm64/id")?);
    assert_eq!(read("linux_amd64/id")?, read("linux_386/id")?);
    assert_eq!(read("linux_arm64/arch")?, "arm64\n");
    assert_eq!(build()?.succeeded().executed(), Vec::<String>::new());
    Ok(())
}

#[test]
fn one_index_in_every_output() -> Result<()> {
    let world = world()?;
    let context = Context::new(
        "ARG REGISTRY\nFROM ${REGISTRY}/busybox\nARG TARGETPLATFORM\n\
         RUN echo $TARGETPLATFORM > /platform\n",
    )?;
    // The same ones in other words, some twice.
    let asked = "linux/x86_64,arm64,linux/arm64/v8,linux/amd64,linux/arm";
    let expected = ["linux/amd64", "linux/arm64", "linux/arm/v7"];
    let build = || world.build(&context).option("--platform", asked);
    let (metadata, id) = (world.out.path().join("metadata"), world.out.path().join("id"));
    let reference = world.registry.reference("several:1");
    let pushed = build()
        .option("-t", &reference)
        .arg("--push")
        .option("--metadata-file", &metadata)
        .option("--iidfile", &id)
        .run()?
        .succeeded();
    let digest = world.registry.digest("several:1")?;
    assert_eq!(pushed.digest().as_deref(), Some(digest.as_str()));
    assert_eq!(fs::read_to_string(&id)?, digest);
    let metadata: Value = serde_json::from_slice(&fs::read(&metadata)?)?;
    assert_eq!(metadata["containerimage.digest"], digest.as_str());
    let index_type = "application/vnd.oci.image.index.v1+json";
    assert_eq!(metadata["containerimage.descriptor"]["mediaType"], index_type);
    assert_eq!(metadata["containerimage.config.digest"], Value::Null);
    let pulled = world.registry.pull("several:1", &world.out.path().join("pulled"))?;
    assert_eq!(platforms(&index(&pulled)?), expected);

    let archive = world.out.path().join("image.tar");
    let output = format!("type=oci,dest={}", archive.display());
    let archived = build().option("--output", output).run()?.succeeded();
    let directory = world.out.path().join("unpacked");
    fs::create_dir(&directory)?;
    run(command("tar", ["-xf"]).arg(&archive).arg("-C").arg(&directory))?;
    let layout = Layout::open(&directory)?;
    assert_eq!(layout.descriptors()?[0]["digest"].as_str(), archived.digest().as_deref());
    assert_eq!(platforms(&index(&layout)?), expected);
    for arch in ["amd64", "arm64", "arm"] {
        layout.layers(&layout.image(arch)?)?;
    }

    let local = world.out.path().join("local");
    let _ = build().option("--output", &local).run()?.succeeded();
    let tar = world.out.path().join("files.tar");
    let output = format!("type=tar,dest={}", tar.display());
    let _ = build().option("--output", output).run()?.succeeded();
    let tree = Tree::from_tar(&fs::read(&tar)?)?;
    for platform in expected {
        let name = format!("{}/platform", platform.replace('/', "_"));
        assert_eq!(fs::read_to_string(local.join(&name))?, format!("{platform}\n"));
        assert_file(&tree, &name, &format!("{platform}\n"));
    }
    let output = format!("type=local,dest={},platform-split=false", local.display());
    build().option("--output", output).run()?.ended(exit::USER).says(&["platform"]);
    let loaded = build().arg("--load").env("DOCKER_HOST", "unix:///nonexistent").run()?;
    loaded.ended(exit::USER).says(&["one platform", "type=oci"]);
    Ok(())
}

#[test]
fn linux_and_wasm_in_one_index() -> Result<()> {
    let world = world()?;
    let context = Context::new(
        "ARG REGISTRY TARGETOS\n\
         FROM --platform=$BUILDPLATFORM ${REGISTRY}/busybox AS data\n\
         RUN echo data for all > /data\n\
         FROM --platform=wasi/wasm scratch AS made\n\
         COPY --from=data /data /data\nCOPY --chmod=755 probe-c.wasm /\n\
         RUN [\"/probe-c.wasm\", \"/data\", \"/copy\", \"0\"]\n\
         FROM ${REGISTRY}/busybox AS for-linux\nCOPY --from=made /copy /copy\n\
         RUN /bin/uname -m > /machine\nENTRYPOINT [\"/bin/cat\", \"/copy\"]\n\
         FROM made AS for-wasi\n\
         ENTRYPOINT [\"/probe-c.wasm\", \"/copy\", \"/x\", \"0\"]\n\
         FROM for-${TARGETOS}\n",
    )?;
    context.copy("probe-c.wasm", &crate::frontends::guest("probe-c")?)?;
    let reference = world.registry.reference("mixed:1");
    let build = world.build(&context).option("--platform", "linux/amd64,linux/arm64,wasi/wasm");
    let built = build.option("-t", &reference).arg("--push").run()?.succeeded();
    let runs = built.executed().into_iter().filter(|name| name.contains("probe-c.wasm\", "));
    assert_eq!(runs.count(), 1, "{}", built.report());
    let layout = world.registry.pull("mixed:1", &world.out.path().join("layout"))?;
    assert_eq!(platforms(&index(&layout)?), ["linux/amd64", "linux/arm64", "wasi/wasm"]);
    assert_eq!(layout.check_schemas()?, "3 config 1 image-index 3 image-manifest");
    for (arch, machine) in [("amd64", "x86_64"), ("arm64", "aarch64")] {
        let image = layout.image(arch)?;
        assert_eq!(image.config["os"], "linux");
        assert_eq!(image.config["config"]["Entrypoint"], serde_json::json!(["/bin/cat", "/copy"]));
        let tree = Tree::from_image(&layout, &image)?;
        assert_file(&tree, "copy", "data for all\n");
        assert_file(&tree, "machine", &format!("{machine}\n"));
    }
    let image = layout.image("wasm")?;
    assert_eq!(image.config["os"], "wasi");
    let wasm = Tree::from_image(&layout, &image)?;
    assert_file(&wasm, "copy", "data for all\n");
    assert!(!wasm.entries.contains_key("bin"));
    if let Some(ran) = crate::wasi::run_with_wasmtime(&layout, &image)? {
        assert_eq!((ran.status.code(), &*ran.stdout), (Some(0), &b"13 bytes\n"[..]), "{ran:?}");
    }
    Ok(())
}

/// A directory with the machine's emulator under a version of its own: as after an update.
fn updated_emulator(world: &World) -> Result<PathBuf> {
    let directory = world.out.path().join("emulators");
    fs::create_dir_all(&directory)?;
    let program = directory.join("qemu-aarch64-static");
    fs::copy("/usr/bin/qemu-aarch64-static", &program)?;
    let said = run(&mut command("/usr/bin/qemu-aarch64-static", ["--version"]))?;
    let version = said.split(" version ").nth(1).and_then(|rest| rest.split([' ', '\n']).next());
    let version = version.context("it has a version")?;
    let other = version.replace(|c: char| c.is_ascii_digit(), "0");
    let mut bytes = fs::read(&program)?;
    let places: Vec<usize> = bytes
        .windows(version.len())
        .enumerate()
        .filter(|(_, window)| *window == version.as_bytes())
        .map(|(place, _)| place)
        .collect();
    for place in places {
        bytes[place..place + other.len()].copy_from_slice(other.as_bytes());
    }
    fs::write(&program, bytes)?;
    Ok(directory)
}

#[test]
fn another_emulator_is_another_step() -> Result<()> {
    let world = world()?;
    let context = Context::new(
        "ARG REGISTRY\nFROM --platform=$BUILDPLATFORM ${REGISTRY}/busybox AS own\n\
         RUN echo own > /own\nFROM ${REGISTRY}/busybox\nCOPY --from=own /own /own\n\
         RUN echo emulated > /emulated\n",
    )?;
    let build = |directory: Option<&Path>| {
        let mut build = world.build(&context).option("--platform", "linux/arm64").arg("--why");
        if let Some(directory) = directory {
            build = build.option("--qemu-dir", directory);
        }
        build.run()
    };
    let _ = build(None)?.succeeded();
    assert_eq!(build(None)?.succeeded().executed(), Vec::<String>::new());
    let updated = updated_emulator(&world)?;
    let again = build(Some(&updated))?.succeeded();
    assert_eq!(again.executed(), ["[stage-1 3/3] RUN echo emulated > /emulated"]);
    let reasons = again.reasons();
    let (_, reason) = reasons.iter().find(|(name, _)| name.contains("emulated")).context("why")?;
    assert!(reason.contains("emulator") && reason.contains("QEMU 0.0"), "{reason}");
    // Both are kept.
    assert_eq!(build(None)?.succeeded().executed(), Vec::<String>::new());
    assert_eq!(build(Some(&updated))?.succeeded().executed(), Vec::<String>::new());
    Ok(())
}

#[test]
fn a_missing_emulator_is_named_with_where_it_was_looked_for() -> Result<()> {
    let world = world()?;
    let nothing = world.out.path().join("nothing");
    fs::create_dir(&nothing)?;
    let place = nothing.display().to_string();
    let missing = |build: Build| build.option("--qemu-dir", &nothing).run();
    missing(arm64(&world, "RUN true\n")?)?.ended(exit::CONFIGURATION).says(&[
        "linux/arm64",
        "qemu-aarch64-static",
        &place,
        "apt-get install qemu-user-static",
        "--qemu-dir",
        "Dockerfile:3",
    ]);
    // A program with libraries cannot be started in a root that has not got them.
    fs::copy("/bin/sh", nothing.join("qemu-aarch64"))?;
    missing(arm64(&world, "RUN true\n")?)?
        .ended(exit::CONFIGURATION)
        .says(&["qemu-aarch64", "not statically linked"]);
    // It is known before anything runs.
    let context = Context::new("FROM scratch\nRUN [\"/x\"]\n")?;
    let tier = |platform: &str| -> Result<String> {
        let mut ask = world.cofferdam.command();
        ask.args(["build", "--print-tier", "--platform", platform, "--root"]);
        ask.arg(world.cofferdam.root()).arg("--qemu-dir").arg(&nothing).arg(context.path());
        Ok(String::from_utf8(ask.output()?.stdout)?)
    };
    let told = tier("linux/s390x")?;
    assert!(told.contains("it does not build here: a step for linux/s390x cannot run"), "{told}");
    assert!(tier("linux/386")?.contains("runs on the kernel\n\nit builds here"));
    // Without a step for it, no emulator is needed.
    let _ = missing(arm64(&world, "COPY Dockerfile /\n")?)?.succeeded();
    let unknown = world.cofferdam.build(&nothing);
    fs::write(nothing.join("Dockerfile"), "FROM scratch\nCOPY Dockerfile /\nRUN [\"/x\"]\n")?;
    let unknown = unknown.option("--platform", "linux/pdp11").run()?.ended(exit::CONFIGURATION);
    unknown.says(&["linux/pdp11", "neither this machine nor QEMU"]);
    let old = world.cofferdam.build(&nothing).option("--platform", "linux/amd64/v9").run()?;
    old.ended(exit::CONFIGURATION).says(&["linux/amd64/v9", "processor"]);
    Ok(())
}

/// A step that may do everything is in the host's user namespace, where nothing is registered: its
/// own program is emulated, and what it starts is not, which is told.
#[test]
fn without_a_registration_the_step_itself_is_emulated() -> Result<()> {
    if needs_root("the host's user namespace") {
        return Ok(());
    }
    let world = world()?;
    let before = binfmt_handlers()?;
    let insecure = |step: &str| {
        let build = arm64(&world, &format!("RUN --security=insecure {step}\n"))?;
        build.option("--allow", "security.insecure").run()
    };
    let built = insecure("echo it is emulated; read line < /etc/passwd; echo $line > /line")?;
    let built = built.succeeded();
    assert!(built.log().contains("it is emulated\n"), "{}", built.log());
    assert!(built.log().contains("what this program starts is not emulated"));
    let failed = insecure("[\"/bin/sh\", \"-c\", \"/bin/env true\"]")?.ended(exit::BUILD);
    assert!(failed.log().contains("not emulated"), "{}", failed.report());
    let argument = insecure("[\"/bin/busybox\", \"echo\", \"-n\", \"two words\"]")?.succeeded();
    assert!(argument.log().contains("two words"), "{}", argument.log());
    assert_eq!(binfmt_handlers()?, before);
    Ok(())
}

/// An ordinary user has a binfmt_misc as well: that of the user namespace of the build.
#[test]
fn a_user_runs_steps_of_other_platforms() -> Result<()> {
    if needs_root("other users") {
        return Ok(());
    }
    let world = world()?;
    let before = binfmt_handlers()?;
    let user = Cofferdam::new()?.run_by(Who::User)?;
    let context = Context::new(
        "ARG REGISTRY\nFROM ${REGISTRY}/busybox\nRUN /bin/sh -c '/bin/uname -m | /bin/cat'\n",
    )?;
    context.mode("", 0o755)?;
    let build = user.build(context.path()).build_arg("REGISTRY", world.registry.address());
    let build = build.option("--platform", "linux/amd64,linux/arm64,linux/s390x");
    let log = build.varies("the build of another user").run()?.succeeded().log();
    for machine in ["x86_64\n", "aarch64\n", "s390x\n"] {
        assert!(log.contains(machine), "{log}");
    }
    assert!(!log.contains("not emulated"), "{log}");
    assert_eq!(binfmt_handlers()?, before);
    Ok(())
}

#[test]
fn the_platforms_of_this_machine_are_listed() -> Result<()> {
    let world = World::new()?;
    let list = |arguments: &[&str]| -> Result<Output> {
        let mut command = world.cofferdam.command();
        command.arg("--root").arg(world.cofferdam.root()).arg("platforms");
        Ok(command.args(arguments).output()?)
    };
    let text = String::from_utf8(list(&[])?.stdout)?;
    assert!(text.contains("linux/amd64") && text.contains("natively"), "{text}");
    let json: Value = serde_json::from_slice(&list(&["--format", "json"])?.stdout)?;
    let of = |name: &str| -> Result<Value> {
        let all = json["platforms"].as_array().context("a list")?;
        let found = all.iter().find(|one| one["platform"] == name);
        Ok(found.with_context(|| format!("{name} is there"))?.clone())
    };
    assert_eq!(of("linux/amd64")?["how"], "native");
    assert_eq!(of("linux/386")?["how"], "native");
    assert_eq!(of("wasi/wasm")?["how"], "wasmtime");
    let arm64 = of("linux/arm64")?;
    assert_eq!(arm64["how"], "qemu");
    assert_eq!(arm64["program"], "/usr/bin/qemu-aarch64-static");
    assert!(arm64["version"].as_str().is_some_and(|version| !version.is_empty()));
    // What is around steps depends on who asks.
    let steps = &json["linux-steps"];
    if needs_steps() {
        let why = steps["missing"].as_str().context("why there are none")?;
        assert!(text.contains(&format!("No steps on Linux can be run here: {why}\n")), "{text}");
    } else if needs_root("a user namespace and a network of steps' own") {
        assert_eq!(steps["user-namespace"]["kind"], "user");
        assert!(text.contains("for lack of a better one: "), "{text}");
    } else {
        assert_eq!(steps["user-namespace"]["kind"], "own");
        assert_eq!(steps["network"]["kind"], "nat");
        let subnet = steps["network"]["subnet"].as_str().context("a subnet")?;
        assert!(text.contains(&format!("addresses of {subnet} behind the host's\n")), "{text}");
    }
    let nothing = list(&["--qemu-dir", "/nonexistent"])?;
    let text = String::from_utf8(nothing.stdout)?;
    assert!(text.contains("linux/arm64") && text.contains("no qemu-aarch64-static"), "{text}");
    assert!(text.contains("apt-get install qemu-user-static"), "{text}");
    Ok(())
}

/// The programs of a whole distribution: a dynamic linker, shells, Perl.
#[test]
fn debians_of_every_architecture_run() -> Result<()> {
    let world = World::new()?;
    for (debian, oci) in bases::ARCHITECTURES.into_iter().filter(|(debian, _)| *debian != "i386") {
        let name = format!("debian-{debian}:latest");
        world.registry.push(&unpacked::debian(debian, oci)?, &name)?;
        let context = Context::new(
            "ARG REGISTRY NAME\nFROM ${REGISTRY}/${NAME}\nSHELL [\"/bin/bash\", \"-ec\"]\n\
             RUN dpkg --print-architecture && perl -e 'print \"perl \", 6 * 7, \"\\n\"' && \
             ls -l /usr/bin/dpkg | wc -l && seq 3 | xargs -n 1 -P 3 sh -c 'sleep 0; echo $0' | \
             sort | tr '\\n' ' '\n",
        )?;
        let build = world.build(&context).build_arg("NAME", &name);
        let build = build.option("--platform", format!("linux/{oci}"));
        let log = build.varies("it is emulated, which takes long").run()?.succeeded().log();
        assert!(log.contains(&format!("{debian}\n")), "{debian}: {log}");
        assert!(log.contains("perl 42\n1\n1 2 3 "), "{debian}: {log}");
    }
    Ok(())
}

/// Installing packages under an emulator: maintainer scripts, triggers, users, and what users of
/// other builders met crashes in.
#[test]
fn packages_are_installed_in_an_emulated_stage() -> Result<()> {
    let world = World::new()?;
    world.registry.push(&unpacked::debian("arm64", "arm64")?, "debian:latest")?;
    let context = Context::new(
        "ARG REGISTRY\nFROM ${REGISTRY}/debian\nRUN dpkg --configure -a\n\
         RUN --mount=type=bind,source=repository,target=/repository \
         echo 'deb [trusted=yes] file:/repository ./' > /etc/apt/sources.list && \
         apt-get update && apt-get install -y --no-install-recommends less bzip2 && \
         echo works | bzip2 | bunzip2 && dpkg --audit && readlink -f /usr/bin/pager\n",
    )?;
    unpacked::repository("arm64", &["less", "bzip2"], &context.path().join("repository"))?;
    let build = world.build(&context).option("--platform", "linux/arm64");
    let log = build.varies("it is emulated, which takes long").run()?.succeeded().log();
    assert!(log.contains("Setting up libc-bin"), "{log}");
    assert!(log.contains("Setting up less"), "{log}");
    assert!(log.contains("works\n") && log.contains("/usr/bin/less\n"), "{log}");
    Ok(())
}
