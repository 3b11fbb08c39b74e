//! Steps on `wasi/wasm`: WASI programs in Rust (a component) and C (a module), what they see and
//! leave, what they cannot reach, and how they end. The programs are in `tests/programs`.

use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use cofferdam_tests::cofferdam::exit;
use cofferdam_tests::oci::Image;
use cofferdam_tests::{Build, Context, Layout, exported_owner};

use crate::World;
use crate::frontends::guest;

/// A stage with the programs in it, and data for them.
const STAGE: &str = "FROM scratch AS stage\nENV PATH=/bin GREETING=hello\n\
                     COPY --chmod=755 probe-rust.wasm probe-c.wasm /bin/\n\
                     COPY --chown=7:8 --chmod=640 data /data\n";

fn context(steps: &str) -> Result<Context> {
    let context = Context::new(&format!("{STAGE}{steps}"))?;
    for name in ["probe-rust", "probe-c"] {
        context.copy(&format!("{name}.wasm"), &guest(name)?)?;
    }
    for name in ["changed", "directory/kept", "kept", "kind", "moved", "removed", "tree/a/b"] {
        context.file(&format!("data/{name}"), format!("{name}\n"))?;
    }
    symlink("/etc", context.path().join("data/absolute"))?;
    symlink("../../../../../../../../etc", context.path().join("data/relative"))?;
    Ok(context)
}

fn build(world: &World, context: &Context) -> Build {
    world.build(context).option("--platform", "wasi/wasm")
}

/// Builds into a directory.
fn local(world: &World, context: &Context, name: &str) -> Result<(PathBuf, String)> {
    let out = world.out.path().join(name);
    let build = build(world, context).option("--output", &out);
    let log = build.varies("the times of what a step wrote").run()?.succeeded().log();
    Ok((out, log))
}

/// Runs an image's program, as its config says, with the `wasmtime` command: that of `$WASMTIME`, or
/// on PATH. Says so where there is none.
pub(crate) fn run_with_wasmtime(layout: &Layout, image: &Image) -> Result<Option<Output>> {
    let root = tempfile::tempdir()?;
    for layer in layout.layers(image)? {
        tar::Archive::new(layer.as_slice()).unpack(root.path())?;
    }
    let config = &image.config["config"];
    let texts = |key: &str| -> Vec<String> {
        let list = config[key].as_array().into_iter().flatten();
        list.map(|text| text.as_str().unwrap_or_default().to_owned()).collect()
    };
    let args = [texts("Entrypoint"), texts("Cmd")].concat();
    let program = std::env::var_os("WASMTIME").unwrap_or_else(|| "wasmtime".into());
    let mut run = Command::new(&program);
    run.arg("run").arg("--dir").arg(format!("{}::/", root.path().display()));
    for variable in texts("Env") {
        run.arg("--env").arg(variable);
    }
    let found = root.path().join(args[0].trim_start_matches('/'));
    match run.arg(found).args(&args[1..]).stdin(Stdio::null()).output() {
        Ok(output) => Ok(Some(output)),
        // The second is said where PATH has a directory that this user may not look into.
        Err(error)
            if [ErrorKind::NotFound, ErrorKind::PermissionDenied].contains(&error.kind()) =>
        {
            eprintln!(
                "not tested with the `wasmtime` command, since there is none on PATH or in \
                 $WASMTIME (cargo install wasmtime-cli)"
            );
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("cannot start {program:?}")),
    }
}

fn listing(directory: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

#[test]
fn a_program_works_on_the_stage_and_leaves_a_layer() -> Result<()> {
    let world = World::new()?;
    let context = context("USER 7:8\nRUN [\"probe-rust.wasm\", \"work\", \"a b\", \"\"]\n")?;
    let (out, log) = local(&world, &context, "out")?;
    let said = "arguments [\"a b\", \"\"]\nGREETING Some(\"hello\")\n";
    assert!(log.contains(said), "{log}");
    assert!(log.contains("data [\"absolute\", \"changed\", \"directory\","), "{log}");
    assert_eq!(
        listing(&out.join("data"))?,
        ["absolute", "changed", "directory", "kept", "kind", "relative"]
    );
    assert_eq!(listing(&out.join("data/directory"))?, ["kept", "moved"]);
    assert_eq!(fs::read(out.join("data/kind/inside"))?, b"x");
    assert_eq!(fs::read(out.join("data/changed"))?, b"changed\n");
    let look = |name: &str| -> Result<((u32, u32), u32)> {
        let metadata = fs::symlink_metadata(out.join(name))?;
        Ok(((metadata.uid(), metadata.gid()), metadata.permissions().mode() & 0o7777))
    };
    // What was there keeps its owner and permissions, what is new belongs to the step's user.
    assert_eq!(look("data/changed")?, (exported_owner(7, 8), 0o640));
    assert_eq!(look("data/kept")?, (exported_owner(7, 8), 0o640));
    assert_eq!(look("made/deep/file")?, (exported_owner(7, 8), 0o644));
    assert_eq!(look("made")?, (exported_owner(7, 8), 0o755));
    assert_eq!(look("bin/probe-c.wasm")?, (exported_owner(0, 0), 0o755));
    let inode = |name: &str| -> Result<u64> { Ok(fs::metadata(out.join(name))?.ino()) };
    assert_eq!(inode("made/link")?, inode("made/deep/file")?);

    // The layer has what changed, and nothing else.
    let reference = world.registry.reference("worked:1");
    let pushed = build(&world, &context).option("-t", &reference).arg("--push");
    let pushed = pushed.varies("the times of what a step wrote").run()?.succeeded();
    assert_eq!(pushed.executed().iter().filter(|step| step.contains("RUN")).count(), 0);
    let layout = world.registry.pull("worked:1", &world.out.path().join("layout"))?;
    let image = layout.image("wasm")?;
    assert_eq!(image.config["os"], "wasi");
    assert_eq!(image.config["architecture"], "wasm");
    let layers = layout.layers(&image)?;
    let mut names = Vec::new();
    for entry in tar::Archive::new(layers.last().expect("there are layers").as_slice()).entries()? {
        names.push(String::from_utf8(entry?.path_bytes().into_owned())?);
    }
    names.sort();
    assert_eq!(
        names,
        [
            "data/",
            "data/.wh.moved",
            "data/.wh.removed",
            "data/.wh.tree",
            "data/changed",
            "data/directory/",
            "data/directory/moved",
            "data/kind/",
            "data/kind/.wh..wh..opq",
            "data/kind/inside",
            "made/",
            "made/deep/",
            "made/deep/file",
            "made/link",
        ]
    );
    Ok(())
}

#[test]
fn a_module_of_the_first_preview_runs_and_linux_stages_take_what_it_made() -> Result<()> {
    let world = World::new()?;
    let context = context(
        "RUN [\"/bin/probe-c.wasm\", \"/data/kept\", \"/copy\", \"0\"]\n\
         FROM --platform=linux/amd64 scratch\nCOPY --from=stage /copy /made-by-wasm\n",
    )?;
    let (out, log) = local(&world, &context, "out")?;
    assert!(log.contains("5 bytes\n"), "{log}");
    assert_eq!(fs::read(out.join("made-by-wasm"))?, b"kept\n");
    let again = build(&world, &context).run()?.succeeded();
    assert_eq!(again.executed().iter().filter(|step| step.contains("RUN")).count(), 0);
    Ok(())
}

#[test]
fn a_mount_is_a_directory_of_its_own() -> Result<()> {
    let world = World::new()?;
    let context = context(
        "RUN --mount=type=bind,source=data,target=/bound,rw \
         [\"probe-c.wasm\", \"/bound/kept\", \"/bound/new\", \"0\"]\n\
         RUN --mount=type=bind,source=data/directory,target=/bound \
         [\"probe-c.wasm\", \"/bound/kept\", \"/from-bound\", \"0\"]\n",
    )?;
    let (out, _) = local(&world, &context, "out")?;
    assert_eq!(fs::read(out.join("from-bound"))?, b"directory/kept\n");
    assert!(!out.join("bound/new").exists());
    let secret = self::context(
        "RUN --mount=type=secret,id=s,env=GREETING [\"probe-rust.wasm\", \"work\"]\n",
    )?;
    let told = build(&world, &secret).env("S", "whisper").option("--secret", "id=s,env=S");
    let log = told.varies("the times of what a step wrote").run()?.succeeded().log();
    assert!(log.contains("GREETING Some(\"whisper\")"), "{log}");
    let readonly = "RUN --mount=type=bind,source=data,target=/bound \
                    [\"probe-c.wasm\", \"/bound/kept\", \"/bound/new\", \"0\"]\n";
    let readonly = self::context(readonly)?;
    let refused = build(&world, &readonly).run()?.ended(exit::BUILD);
    assert!(refused.log().contains("probe-c: "), "{}", refused.report());
    Ok(())
}

/// A cache mount is one directory for the steps of all platforms, and in no image.
#[test]
fn caches_are_shared_with_steps_on_linux() -> Result<()> {
    let world = World::new()?;
    let cache = "--mount=type=cache,target=/cache";
    let context = context(&format!(
        "RUN {cache} [\"probe-c.wasm\", \"/data/kept\", \"/cache/made\", \"0\"]\n\
         RUN {cache} [\"probe-c.wasm\", \"/cache/made\", \"/taken\", \"0\"]\n\
         FROM --platform=$BUILDPLATFORM ${{REGISTRY}}/busybox AS linux\n\
         COPY --from=stage /taken /taken\n\
         RUN {cache} cp /cache/made /seen && echo linux > /cache/other\n\
         FROM stage\nCOPY --from=linux /seen /seen\n\
         RUN {cache},readonly [\"probe-c.wasm\", \"/cache/other\", \"/other\", \"0\"]\n",
    ))?;
    let dockerfile = fs::read_to_string(context.path().join("Dockerfile"))?;
    context.file("Dockerfile", format!("ARG REGISTRY\n{dockerfile}"))?;
    let (out, _) = local(&world, &context, "out")?;
    assert_eq!(fs::read(out.join("seen"))?, b"kept\n");
    assert_eq!(fs::read(out.join("other"))?, b"linux\n");
    assert_eq!(listing(&out)?.iter().filter(|name| *name == "cache").count(), 0);
    Ok(())
}

/// Of a cache with a `source` only that directory is seen; a link in the cache leads nowhere else.
#[test]
fn a_part_of_a_cache() -> Result<()> {
    let world = World::new()?;
    let part = |source: &str| format!("--mount=type=cache,id=c,source={source},target=/part");
    let context = context(&format!(
        "FROM --platform=$BUILDPLATFORM ${{REGISTRY}}/busybox AS linux\n\
         RUN --mount=type=cache,id=c,target=/c mkdir -p /c/deep/in && echo in > /c/deep/in/file && \
         echo top > /c/hostname && ln -s / /c/out && echo > /ready\n\
         FROM stage\nCOPY --from=linux /ready /\n\
         RUN {} [\"probe-c.wasm\", \"/part/file\", \"/got\", \"0\"]\n\
         RUN {} [\"probe-c.wasm\", \"/part/hostname\", \"/top\", \"0\"]\n",
        part("deep/in"),
        part("out"),
    ))?;
    let dockerfile = fs::read_to_string(context.path().join("Dockerfile"))?;
    let with = |steps: &str| {
        context.file("Dockerfile", format!("ARG REGISTRY\n{dockerfile}{steps}")).map(drop)
    };
    with("")?;
    let (out, _) = local(&world, &context, "out")?;
    assert_eq!(fs::read(out.join("got"))?, b"in\n");
    assert_eq!(fs::read(out.join("top"))?, b"top\n");
    with("RUN --mount=type=cache,id=c,source=missing,target=/x [\"probe-c.wasm\"]\n")?;
    let failed = build(&world, &context).run()?.ended(exit::USER);
    failed.says(&["cache mount at `/x`", "`/missing`"]);
    Ok(())
}

/// Secrets, and bind mounts of one file: there for the step, and in no layer.
#[test]
fn files_that_are_mounted() -> Result<()> {
    let world = World::new()?;
    let secret = "--mount=type=secret,id=s";
    let context = context(&format!(
        "RUN {secret} [\"probe-c.wasm\", \"/run/secrets/s\", \"/copied\", \"0\"]\n\
         RUN {secret},target=/data/kept [\"probe-c.wasm\", \"/data/kept\", \"/masked\", \"0\"]\n\
         RUN {secret},target=/made/for/it [\"probe-c.wasm\", \"/data/kept\", \"/made/x\", \"0\"]\n\
         RUN --mount=type=bind,source=data/directory/kept,target=/data/directory/one,rw \
         [\"probe-c.wasm\", \"/data/kept\", \"/data/directory/one\", \"0\"]\n\
         RUN --mount=type=bind,source=data/directory,target=/data/directory \
         {secret},target=/data/directory/one \
         [\"probe-c.wasm\", \"/data/directory/one\", \"/nested\", \"0\"]\n\
         RUN --mount=type=secret,id=none [\"probe-c.wasm\", \"/data/kept\", \"/end\", \"0\"]\n",
    ))?;
    let out = world.out.path().join("out");
    let told = |context: &Context| {
        let build = build(&world, context).env("S", "whisper\n").option("--secret", "id=s,env=S");
        build.option("--output", &out).varies("the times of what a step wrote").run()
    };
    let _ = told(&context)?.succeeded();
    let copies = ["copied", "masked", "nested"].map(|name| fs::read_to_string(out.join(name)));
    assert_eq!(copies.map(Result::unwrap), ["whisper\n"; 3]);
    assert_eq!(fs::read(out.join("data/kept"))?, b"kept\n");
    assert_eq!(listing(&out.join("data/directory"))?, ["kept"]);
    assert_eq!(listing(&out.join("made"))?, ["x"]);
    assert_eq!(listing(&out)?, ["bin", "copied", "data", "end", "made", "masked", "nested"]);
    for (steps, says) in [
        (format!("RUN {secret},target=/data [\"probe-c.wasm\"]\n"), "mount at `/data`"),
        (
            format!("RUN --mount=type=cache,target=/c {secret},target=/c/x [\"probe-c.wasm\"]\n"),
            "a file (`/c/x`) within a mount of type `cache`",
        ),
    ] {
        told(&self::context(&steps)?)?.ended(exit::USER).says(&[says]);
    }
    Ok(())
}

/// What a program may use, and what it is told of limits that it has not.
#[test]
fn limits_and_the_environment() -> Result<()> {
    let world = World::new()?;
    let looping = context("RUN [\"probe-rust.wasm\", \"loop\"]\n")?;
    let limited = build(&world, &looping)
        .option("--ulimit", "cpu=1")
        .option("--ulimit", "nofile=10:10")
        .option("--cpu-quota", "50000")
        .run()?
        .ended(exit::BUILD);
    let text = limited.report();
    assert!(text.contains("killed by signal 24"), "{text}");
    assert_eq!(
        limited.warnings().collect::<Vec<_>>(),
        ["without effect on steps for wasi/wasm: --cpu-quota, --ulimit nofile"]
    );
    let proxied = context("RUN [\"probe-rust.wasm\", \"variable\", \"http_proxy\"]\n")?;
    let proxied = build(&world, &proxied).build_arg("HTTP_PROXY", "http://proxy.example:1");
    let log = proxied.run()?.succeeded().log();
    assert!(log.contains("Some(\"http://proxy.example:1\")"), "{log}");
    Ok(())
}

#[test]
fn a_program_does_not_get_out() -> Result<()> {
    let world = World::new()?;
    let server = TcpListener::bind("127.0.0.1:0")?;
    let address = server.local_addr()?;
    let step = |flag: &str| {
        context(&format!("ENV SERVER={address}\nRUN {flag} [\"probe-rust.wasm\", \"escape\"]\n"))
    };
    let (isolated, networked) = (step("")?, step("--network=host")?);
    let log = build(&world, &isolated).run()?.succeeded().log();
    let tries: Vec<&str> = log.lines().filter(|line| line.contains(": ")).collect();
    assert_eq!(tries.len(), 14, "{log}");
    assert!(tries.iter().all(|line| line.ends_with(": no")), "{log}");

    let denied = build(&world, &networked).run()?.ended(exit::USER);
    denied.says(&["network.host", "--allow network.host"]);
    let granted = build(&world, &networked).option("--allow", "network.host");
    let log = granted.run()?.succeeded().log();
    assert!(log.contains("connect: yes") && !log.contains("/hostname: yes"), "{log}");
    Ok(())
}

#[test]
fn programs_that_end_badly() -> Result<()> {
    let world = World::new()?;
    let cases: [(&str, &[&str]); 12] = [
        ("[\"probe-c.wasm\", \"/data/kept\", \"/x\", \"1\"]", &["exit code: 1\n"]),
        ("[\"probe-c.wasm\", \"/data/kept\", \"/x\", \"7\"]", &["exit code: 7\n"]),
        // As the status of any process, a byte.
        ("[\"probe-c.wasm\", \"/data/kept\", \"/x\", \"300\"]", &["exit code: 44\n"]),
        ("[\"probe-rust.wasm\", \"exit\", \"1\"]", &["exit code: 1"]),
        ("[\"probe-rust.wasm\", \"panic\"]", &["as I was told", "crashed", "exit code: 134"]),
        ("[\"probe-rust.wasm\", \"memory\"]", &["48 MiB", "out of memory"]),
        (
            "--mount=type=tmpfs,target=/t,size=1m [\"probe-rust.wasm\", \"fill\", \"/t/x\", \"2\"]",
            &["more than 1048576 bytes in the tmpfs at `/t`"],
        ),
        ("[\"missing.wasm\"]", &["`missing.wasm` is not there", "without a shell"]),
        ("echo hello", &["`/bin/sh` is not there", "without a shell"]),
        ("[\"/data/kept\"]", &["`/data/kept` is no WebAssembly"]),
        ("--security=insecure [\"probe-c.wasm\"]", &["--security=insecure", "wasi/wasm"]),
        (
            "--mount=type=ssh [\"probe-c.wasm\"]",
            &["`ssh` (at `/run/buildkit/ssh_agent.0`)", "wasi/wasm"],
        ),
    ];
    for (step, says) in cases {
        let context = context(&format!("RUN {step}\n"))?;
        let build = build(&world, &context).option("--memory", "64m");
        let failed = build.option("--allow", "security.insecure").run()?;
        assert!(matches!(failed.code, Some(exit::BUILD | exit::USER)), "{}", failed.report());
        let report = failed.report();
        assert!(says.iter().all(|text| report.contains(text)), "{step}: {says:?}\n{report}");
    }
    // Bytes that only begin like WebAssembly.
    let context = context("COPY broken /broken.wasm\nRUN [\"/broken.wasm\"]\n")?;
    context.file("broken", b"\0asm\x0d\0\x01\0 and then nonsense")?;
    build(&world, &context).run()?.ended(exit::USER).says(&["/broken.wasm", "is not valid"]);
    Ok(())
}

#[test]
fn an_interrupt_ends_a_program_that_computes() -> Result<()> {
    let world = World::new()?;
    let context = context("RUN [\"probe-rust.wasm\", \"loop\"]\n")?;
    let mut running = build(&world, &context).spawn()?;
    running.wait_for_log("looping")?;
    let interrupted = Instant::now();
    running.interrupt()?;
    let ended = running.finish()?;
    assert_eq!(ended.code, Some(exit::INTERRUPTED), "{}", ended.report());
    assert!(interrupted.elapsed() < Duration::from_secs(60), "{:?}", interrupted.elapsed());
    Ok(())
}

/// Programs in Rust and in C as final images, under every spelling of the platform.
#[test]
fn images_run_with_the_wasmtime_command() -> Result<()> {
    let world = World::new()?;
    let cases = [
        (
            "wasi/wasm",
            "[\"/bin/probe-rust.wasm\", \"variable\", \"GREETING\"]",
            0,
            "Some(\"hello\")\n",
        ),
        ("wasip2/wasm", "[\"/bin/probe-rust.wasm\", \"exit\", \"1\"]", 1, ""),
        ("wasip1/wasm", "[\"/bin/probe-c.wasm\", \"/made\", \"/again\", \"0\"]", 0, "5 bytes\n"),
        ("wasi/wasm32", "[\"/bin/probe-c.wasm\", \"/data/kind\", \"/x\", \"7\"]", 7, "5 bytes\n"),
        ("wasm", "[\"/bin/probe-c.wasm\"]", 2, ""),
    ];
    for (number, (platform, entrypoint, code, prints)) in cases.into_iter().enumerate() {
        let context = context(&format!(
            "RUN [\"probe-c.wasm\", \"/data/kept\", \"/made\", \"0\"]\nENTRYPOINT {entrypoint}\n"
        ))?;
        let name = format!("image:{number}");
        let build = world.build(&context).option("--platform", platform).arg("--push");
        let build = build.option("-t", world.registry.reference(&name));
        let _ = build.varies("the times of what a step wrote").run()?.succeeded();
        let layout = world.registry.pull(&name, &world.out.path().join(number.to_string()))?;
        assert_eq!(layout.check_schemas()?, "1 config 1 image-manifest");
        let image = layout.image("wasm")?;
        assert_eq!(image.config["os"], "wasi", "{platform}");
        let Some(ran) = run_with_wasmtime(&layout, &image)? else { continue };
        let said = String::from_utf8_lossy(&ran.stdout);
        assert_eq!((ran.status.code(), &*said), (Some(code), prints), "{entrypoint}: {ran:?}");
    }
    Ok(())
}

#[test]
fn a_program_leaves_as_a_wasm_artifact() -> Result<()> {
    let world = World::new()?;
    let context = context("ENTRYPOINT [\"/bin/probe-rust.wasm\"]\n")?;
    let artifact = |attributes: &str| -> Result<(serde_json::Value, serde_json::Value, Vec<u8>)> {
        let path = tempfile::tempdir_in(world.out.path())?.keep();
        let output = format!("type=wasm-artifact,tar=false,dest={}{attributes}", path.display());
        let _ = build(&world, &context).option("--output", output).run()?.succeeded();
        let layout = Layout::open(&path)?;
        let found = layout.descriptors()?;
        let manifest: serde_json::Value = serde_json::from_slice(&layout.blob(&found[0])?)?;
        let config = serde_json::from_slice(&layout.blob(&manifest["config"])?)?;
        assert_eq!(manifest["layers"].as_array().map(Vec::len), Some(1));
        let layer = layout.blob(&manifest["layers"][0])?;
        Ok((manifest, config, layer))
    };
    let (manifest, config, layer) = artifact(",annotation.org.example.key=value")?;
    assert_eq!(manifest["mediaType"], "application/vnd.oci.image.manifest.v1+json");
    assert_eq!(manifest["config"]["mediaType"], "application/vnd.wasm.config.v0+json");
    assert_eq!(manifest["layers"][0]["mediaType"], "application/wasm");
    let title = &manifest["layers"][0]["annotations"]["org.opencontainers.image.title"];
    assert_eq!(title, "probe-rust.wasm");
    assert_eq!(manifest["annotations"]["org.example.key"], "value");
    assert_eq!(layer, fs::read(guest("probe-rust")?)?);
    assert_eq!((&config["architecture"], &config["os"]), (&"wasm".into(), &"wasip2".into()));
    assert_eq!(config["layerDigests"][0], manifest["layers"][0]["digest"]);
    let names = |key: &str| config["component"][key].to_string();
    assert!(names("exports").contains("wasi:cli/run@0.2."), "{config}");
    assert!(names("imports").contains("wasi:filesystem/types@0.2."), "{config}");

    let (manifest, config, layer) = artifact(",file=/bin/probe-c.wasm")?;
    assert_eq!(layer, fs::read(guest("probe-c")?)?);
    assert_eq!((&config["os"], &config["component"]), (&"wasip1".into(), &serde_json::Value::Null));
    let reference = world.registry.reference("program:1");
    let output = format!("type=wasm-artifact,name={reference},push=true,file=/bin/probe-c.wasm");
    let pushed = build(&world, &context).option("--output", output).run()?.succeeded();
    assert_eq!(pushed.digest().as_deref(), Some(world.registry.digest("program:1")?.as_str()));
    assert_eq!(manifest["layers"][0]["digest"], config["layerDigests"][0]);
    // A client that copies whatever there is.
    let copied = world.registry.pull("program:1", &world.out.path().join("copied"))?;
    assert_eq!(copied.check_schemas()?, "1 image-manifest");
    let descriptor = &copied.descriptors()?[0];
    assert_eq!(descriptor["mediaType"], "application/vnd.oci.image.manifest.v1+json");
    assert_eq!(descriptor["digest"], world.registry.digest("program:1")?.as_str());
    let copied_manifest: serde_json::Value = serde_json::from_slice(&copied.blob(descriptor)?)?;
    assert_eq!(copied.blob(&copied_manifest["layers"][0])?, fs::read(guest("probe-c")?)?);
    // As `oras pull` has it: the manifest by its tag, and the one layer by its digest.
    let (media_type, bytes) = world.registry.fetch("/v2/program/manifests/1")?;
    assert_eq!(media_type, "application/vnd.oci.image.manifest.v1+json");
    let fetched: serde_json::Value = serde_json::from_slice(&bytes)?;
    assert_eq!(fetched["layers"][0]["mediaType"], "application/wasm");
    assert_eq!(fetched["config"]["mediaType"], "application/vnd.wasm.config.v0+json");
    let digest = fetched["layers"][0]["digest"].as_str().unwrap_or_default();
    let (_, program) = world.registry.fetch(&format!("/v2/program/blobs/{digest}"))?;
    assert_eq!(program, fs::read(guest("probe-c")?)?);

    for (attributes, says) in [
        ("file=/data/kept", "`/data/kept`: is no WebAssembly"),
        ("file=/missing.wasm", "missing.wasm"),
        ("file=/data", "`/data` is not a file"),
    ] {
        let output = format!("type=wasm-artifact,dest=/dev/null,{attributes}");
        let failed = build(&world, &context).option("--output", output).run()?;
        assert_eq!(failed.code, Some(exit::USER), "{}", failed.report());
        failed.says(&[says]);
    }
    let several = self::context("")?;
    let failed = build(&world, &several).option("--output", "type=wasm-artifact,dest=/dev/null");
    failed.run()?.ended(exit::USER).says(&["/bin/probe-c.wasm, /bin/probe-rust.wasm", "file=PATH"]);
    Ok(())
}
