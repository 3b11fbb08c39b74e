//! How images leave: formats, compression, names and times as the attributes of `--output` say,
//! and into a Docker daemon.

use std::fs;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use cofferdam_tests::cofferdam::exit;
use cofferdam_tests::command::{command, run};
use cofferdam_tests::{Context, Docker, Layout, Tree, bases};
use serde_json::Value;

use crate::World;

const DOCKERFILE: &str = "ARG REGISTRY\nFROM ${REGISTRY}/busybox\nRUN echo ran > /ran\nCOPY f /f\n";

fn sample() -> Result<(World, Context)> {
    let context = Context::new(DOCKERFILE)?;
    context.file("f", "contents of f\n".repeat(1000))?;
    Ok((World::new()?, context))
}

/// The manifest of the image that `--output type=oci,tar=false` with these attributes writes.
fn manifest(world: &World, context: &Context, attributes: &str) -> Result<(Layout, Value)> {
    let path = tempfile::tempdir_in(world.out.path())?.keep();
    let output = format!("type=oci,tar=false,dest={}{attributes}", path.display());
    let _ = world.build(context).option("--output", output).run()?.succeeded();
    let layout = Layout::open(&path)?;
    let image = layout.image(&bases::oci_architecture()?)?;
    // Every layer is what its diff id says.
    layout.layers(&image)?;
    Ok((layout, image.manifest))
}

fn layers(manifest: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let layers = manifest["layers"].as_array().into_iter().flatten();
    let kind = |layer: &Value| text(&layer["mediaType"]).rsplit('.').next().map(str::to_owned);
    layers.map(|layer| (text(&layer["digest"]), kind(layer).unwrap_or_default())).collect()
}

#[test]
fn base_layers_are_compressed_anew_only_when_forced() -> Result<()> {
    let (world, context) = sample()?;
    let (_, gzip) = manifest(&world, &context, "")?;
    let (_, zstd) = manifest(&world, &context, ",compression=zstd")?;
    let (_, forced) = manifest(&world, &context, ",compression=zstd,force-compression=true")?;
    let base = world.registry.pull("busybox:latest", &world.out.path().join("base"))?;
    let base = layers(&base.image(&bases::oci_architecture()?)?.manifest);
    for image in [&gzip, &zstd] {
        assert_eq!(layers(image)[..base.len()], base);
    }
    let kinds = |image: &Value| layers(image).into_iter().map(|(_, kind)| kind).collect::<Vec<_>>();
    assert_eq!(kinds(&gzip), ["tar+gzip"; 3]);
    assert_eq!(kinds(&zstd), ["tar+gzip", "tar+zstd", "tar+zstd"]);
    assert_eq!(kinds(&forced), ["tar+zstd"; 3]);
    let (_, plain) = manifest(&world, &context, ",compression=uncompressed")?;
    assert_eq!(kinds(&plain), ["tar+gzip", "tar", "tar"]);
    Ok(())
}

#[test]
fn docker_archives_can_be_read() -> Result<()> {
    let (world, context) = sample()?;
    let archive = world.out.path().join("docker.tar");
    let output = format!("type=docker,name=demo:1,dest={}", archive.display());
    let _ = world.build(&context).option("--output", output).run()?.succeeded();
    let to = world.out.path().join("converted");
    run(command("skopeo", ["--insecure-policy", "copy", "--quiet"])
        .arg(format!("docker-archive:{}:demo:1", archive.display()))
        .arg(format!("oci:{}:1", to.display())))?;
    let layout = Layout::open(&to)?;
    let tree = Tree::from_image(&layout, &layout.image(&bases::oci_architecture()?)?)?;
    assert!(tree.entries.contains_key("ran") && tree.entries.contains_key("f"));

    let scratch = Context::new("FROM scratch\nCOPY f /f\n")?;
    scratch.file("f", "f")?;
    let outcome = world
        .build(&scratch)
        .option("--platform", "linux/amd64,linux/arm64")
        .option("--output", format!("type=docker,dest={}", archive.display()))
        .run()?
        .ended(exit::USER);
    outcome.says(&["one platform", "type=oci"]);
    Ok(())
}

#[test]
fn annotations_and_metadata() -> Result<()> {
    let (world, context) = sample()?;
    let (metadata, id) = (world.out.path().join("metadata"), world.out.path().join("id"));
    let reference = world.registry.reference("noted:1");
    let output = format!("type=image,name={reference},push=true,annotation.org.example.Key=a=b");
    let _ = world
        .build(&context)
        .option("--output", output)
        .option("--annotation", "manifest-descriptor:org.example.place=descriptor")
        .option("--metadata-file", &metadata)
        .option("--iidfile", &id)
        .run()?
        .succeeded();
    let layout = world.registry.pull("noted:1", &world.out.path().join("pulled"))?;
    let image = layout.image(&bases::oci_architecture()?)?;
    assert_eq!(image.manifest["annotations"]["org.example.Key"], "a=b");
    let metadata: Value = serde_json::from_slice(&fs::read(metadata)?)?;
    assert_eq!(metadata["containerimage.digest"], image.digest.as_str());
    assert_eq!(metadata["containerimage.config.digest"], image.manifest["config"]["digest"]);
    assert_eq!(metadata["image.name"], reference.as_str());
    let descriptor = &metadata["containerimage.descriptor"];
    assert_eq!(descriptor["digest"], image.digest.as_str());
    assert_eq!(descriptor["annotations"]["org.example.place"], "descriptor");
    assert_eq!(fs::read_to_string(id)?, image.manifest["config"]["digest"].as_str().unwrap_or(""));
    Ok(())
}

#[test]
fn a_push_by_digest_names_nothing() -> Result<()> {
    let (world, context) = sample()?;
    let name = world.registry.reference("nameless");
    let metadata = world.out.path().join("metadata");
    let output =
        format!("type=image,name={name},push=true,push-by-digest=true,name-canonical=true");
    let build = world.build(&context).option("--output", output);
    let _ = build.option("--metadata-file", &metadata).run()?.succeeded();
    assert!(world.registry.digest("nameless:latest").is_err());
    let metadata: Value = serde_json::from_slice(&fs::read(metadata)?)?;
    let digest = metadata["containerimage.digest"].as_str().context("a digest")?;
    let reference = format!("nameless@{digest}");
    world.registry.pull(&reference, &world.out.path().join("pulled"))?;
    let output = format!("type=image,name={name}:1,push=true,push-by-digest=true");
    let refused = world.build(&context).option("--output", output).run()?.ended(exit::USER);
    refused.says(&["nameless:1", "has a tag"]);
    Ok(())
}

/// What this build wrote is not younger than `SOURCE_DATE_EPOCH`, in every format; what the base
/// has stays as it is.
#[test]
fn times_obey_the_epoch() -> Result<()> {
    let (world, context) = sample()?;
    let epoch = SystemTime::UNIX_EPOCH + Duration::from_secs(86_400);
    let build = |output: String| {
        world.build(&context).env("SOURCE_DATE_EPOCH", "86400").option("--output", output).run()
    };
    let local = world.out.path().join("local");
    let _ = build(format!("type=local,dest={}", local.display()))?.succeeded();
    for name in ["ran", "f"] {
        assert_eq!(fs::metadata(local.join(name))?.modified()?, epoch, "{name}");
    }
    assert!(fs::metadata(local.join("bin/busybox"))?.modified()? > epoch);
    let archive = world.out.path().join("files.tar");
    let _ = build(format!("type=tar,dest={}", archive.display()))?.succeeded();
    let mut reader = tar::Archive::new(fs::File::open(&archive)?);
    for entry in reader.entries()? {
        let entry = entry?;
        let (name, time) = (entry.path()?.display().to_string(), entry.header().mtime()?);
        match name.as_str() {
            "ran" | "f" => assert_eq!(time, 86_400, "{name}"),
            "bin/busybox" => assert!(time > 86_400, "{name}"),
            _ => {}
        }
    }
    let _ = build(format!("type=local,dest={},rewrite-timestamp=false", local.display()))?;
    assert!(fs::metadata(local.join("ran"))?.modified()? > epoch);
    // What was copied has the time since the frontend said so.
    assert_eq!(fs::metadata(local.join("f"))?.modified()?, epoch);
    Ok(())
}

/// As with BuildKit: an index, and directories of platforms, though there is one platform only.
#[test]
fn an_index_for_a_single_platform() -> Result<()> {
    let (world, context) = sample()?;
    let out = world.out.path();
    for (name, argument, is_index) in [
        ("plain", "BUILDKIT_MULTI_PLATFORM=", false),
        ("off", "BUILDKIT_MULTI_PLATFORM=0", false),
        ("on", "BUILDKIT_MULTI_PLATFORM=1", true),
    ] {
        let (oci, local) = (out.join(format!("{name}.oci")), out.join(format!("{name}.local")));
        let build = |output: String| {
            world.build(&context).option("--build-arg", argument).option("--output", output).run()
        };
        let _ = build(format!("type=oci,tar=false,dest={}", oci.display()))?.succeeded();
        let index: Value = serde_json::from_slice(&fs::read(oci.join("index.json"))?)?;
        let kind = index["manifests"][0]["mediaType"].as_str().unwrap_or_default();
        let expected = if is_index { "image.index" } else { "image.manifest" };
        assert!(kind.contains(expected), "{name}: {kind}");
        let _ = build(format!("type=local,dest={}", local.display()))?.succeeded();
        let platform = format!("linux_{}", bases::oci_architecture()?);
        assert_eq!(local.join(&platform).join("ran").exists(), is_index, "{name}");
        assert_eq!(local.join("ran").exists(), !is_index, "{name}");
        let outcome = build(format!("type=docker,dest={}", out.join("docker.tar").display()))?;
        match is_index {
            true => outcome.ended(exit::USER).says(&["no index", "type=oci"]),
            false => drop(outcome.succeeded()),
        }
    }
    Ok(())
}

#[test]
fn docker_is_sent_what_it_lacks() -> Result<()> {
    let (world, context) = sample()?;
    let docker = Docker::start()?;
    let load = |tag: &str| {
        let build = world.build(&context).env("DOCKER_HOST", docker.host());
        build.option("-t", tag).arg("--load").run()
    };
    let _ = load("demo:1")?.succeeded();
    let _ = load("demo:1")?.succeeded();
    let _ = load("demo:2")?.succeeded();
    assert_eq!(docker.state().loaded.len(), 1, "it has the image already");
    let first = docker.state().tags["demo:1"].clone();
    assert_eq!(docker.state().tags["demo:2"], first);

    context.file("f", "other contents\n".repeat(1000))?;
    let _ = load("demo:3")?.succeeded();
    let sizes = docker.state().loaded.clone();
    assert_ne!(docker.state().tags["demo:3"], first);
    // The base and the RUN are not in it.
    assert!(sizes[1] < 40_000 && sizes[0] > 10 * sizes[1], "{sizes:?}");
    Ok(())
}

#[test]
fn a_load_into_nothing_says_what_was_tried() -> Result<()> {
    let (world, context) = sample()?;
    let build = world.build(&context).arg("--load").env("DOCKER_HOST", "unix:///nonexistent");
    build.run()?.ended(exit::CONFIGURATION).says(&["unix:///nonexistent", "No such file"]);
    let build = world.build(&context).arg("--load").env("DOCKER_HOST", "ssh://somewhere");
    build.run()?.ended(exit::CONFIGURATION).says(&["ssh://somewhere", "unix://PATH"]);
    Ok(())
}

#[test]
fn a_misspelt_attribute_is_named_with_what_is_meant() -> Result<()> {
    let (world, context) = sample()?;
    let build = world.build(&context).option("--output", "type=image,compresion=zstd");
    build.run()?.ended(exit::USER).says(&["compresion", "is `compression` meant"]);
    Ok(())
}

/// How many files are unpacked in a state directory.
fn unpacked(world: &World) -> Result<usize> {
    fn count(directory: &std::path::Path) -> Result<usize> {
        let mut files = 0;
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            files += match entry.file_type()?.is_dir() {
                true => count(&entry.path())?,
                false => 1,
            };
        }
        Ok(files)
    }
    world.cofferdam.settle()?;
    count(&world.cofferdam.root().join("layers"))
}

#[test]
fn a_base_is_unpacked_when_a_step_mounts_it() -> Result<()> {
    let world = World::new()?;
    let copied = Context::new("ARG REGISTRY\nFROM ${REGISTRY}/busybox\nCOPY Dockerfile /\n")?;
    let first = world.build(&copied).run()?.succeeded();
    assert!(unpacked(&world)? < 50, "{} files are unpacked", unpacked(&world)?);
    let run = Context::new("ARG REGISTRY\nFROM ${REGISTRY}/busybox\nRUN true\n")?;
    let _ = world.build(&run).run()?.succeeded();
    assert!(unpacked(&world)? > 100, "{} files are unpacked", unpacked(&world)?);
    let again = world.build(&copied).run()?.succeeded();
    assert_eq!(first.digest(), again.digest());
    Ok(())
}

#[test]
fn a_state_directory_may_be_named_by_a_relative_path() -> Result<()> {
    let world = World::new()?;
    let context = Context::new("ARG REGISTRY\nFROM ${REGISTRY}/busybox\nRUN echo it works\n")?;
    let mut build = world.cofferdam.command();
    build.current_dir(world.out.path()).args(["build", "--root", "state", "--build-arg"]);
    build.arg(format!("REGISTRY={}", world.registry.address())).arg(context.path());
    let built = build.output()?;
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    assert!(world.out.path().join("state/state.db").is_file());
    Ok(())
}
