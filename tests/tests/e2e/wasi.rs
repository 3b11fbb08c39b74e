//! Steps on `wasi/wasm`: WASI programs in Rust (a component) and C (a module), what they see and
//! leave, what they cannot reach, and how they end. The programs are in `tests/programs`.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;
use cofferdam_tests::cofferdam::exit;
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
    let part = "RUN --mount=type=cache,target=/cache,source=x [\"probe-c.wasm\"]\n";
    let refused = build(&world, &self::context(part)?).run()?.ended(exit::USER);
    refused.says(&["cache with a `source`", "wasi/wasm"]);
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
    let cases: [(&str, &[&str]); 8] = [
        ("[\"probe-c.wasm\", \"/data/kept\", \"/x\", \"7\"]", &["exit code: 1"]),
        ("[\"probe-rust.wasm\", \"exit\", \"1\"]", &["exit code: 1"]),
        ("[\"probe-rust.wasm\", \"panic\"]", &["as I was told", "crashed", "exit code: 134"]),
        ("[\"probe-rust.wasm\", \"memory\"]", &["48 MiB", "out of memory"]),
        ("[\"missing.wasm\"]", &["`missing.wasm` is not there", "without a shell"]),
        ("echo hello", &["`/bin/sh` is not there", "without a shell"]),
        ("[\"/data/kept\"]", &["`/data/kept` is no WebAssembly"]),
        ("--security=insecure [\"probe-c.wasm\"]", &["--security=insecure", "wasi/wasm"]),
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
    assert!(interrupted.elapsed() < Duration::from_secs(10), "{:?}", interrupted.elapsed());
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
