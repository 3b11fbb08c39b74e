//! Every output holds the same image or the same files, and other programs can read it.

use std::fs;

use anyhow::{Context as _, Result};
use cofferdam_tests::command::{command, run};
use cofferdam_tests::tree::Kind;
use cofferdam_tests::{Context, Layout, Tree, bases, needs_steps};

use crate::World;

/// A world and a context whose image has something of everything.
fn sample() -> Result<(World, Context)> {
    let world = World::new()?;
    let context = Context::new(
        "ARG REGISTRY\nFROM ${REGISTRY}/busybox AS build\n\
         RUN mkdir -m 0751 /out && echo made > /out/file && chmod 0640 /out/file \
         && ln /out/file /out/link && ln -s file /out/soft\n\
         FROM scratch\nCOPY --from=build /out/ /out/\nCOPY f /f\nCMD [\"/f\"]\n",
    )?;
    context.file("f", "f")?;
    Ok((world, context))
}

/// Names, kinds and contents: what every output keeps, whoever unpacks it.
fn contents(tree: &Tree) -> Vec<(String, String)> {
    let described = |kind: &Kind| match kind {
        Kind::File { digest, .. } => digest.clone(),
        other => format!("{other:?}"),
    };
    tree.entries.iter().map(|(path, entry)| (path.clone(), described(&entry.kind))).collect()
}

#[test]
fn registry_oci_archive_local_directory_and_tar_agree() -> Result<()> {
    let (world, context) = sample()?;
    let (pushed, _) = world.image(&context, "sample:latest")?;
    let arch = bases::oci_architecture()?;

    let archive = world.out.path().join("image.tar");
    let option = format!("type=oci,dest={}", archive.display());
    let _ = world.build(&context).option("--output", option).run()?.succeeded();
    let directory = world.out.path().join("layout");
    fs::create_dir(&directory)?;
    run(command("tar", ["-xf"]).arg(&archive).arg("-C").arg(&directory))?;
    let layout = Layout::open(&directory)?;
    let exported = Tree::from_image(&layout, &layout.image(&arch)?)?;
    assert_eq!(pushed.differences(&exported), Vec::<String>::new());
    // skopeo reads the archive without help.
    let inspected = run(command("skopeo", ["inspect", "--config"])
        .arg(format!("oci-archive:{}", archive.display())))?;
    assert!(inspected.contains("/f"), "{inspected}");

    let tar = world.out.path().join("files.tar");
    let option = format!("type=tar,dest={}", tar.display());
    let _ = world.build(&context).option("--output", option).run()?.succeeded();
    let files = Tree::from_tar(&fs::read(&tar)?)?;
    assert_eq!(pushed.differences(&files), Vec::<String>::new());

    let local = world.out.path().join("local");
    let option = format!("type=local,dest={}", local.display());
    let _ = world.build(&context).option("--output", option).run()?.succeeded();
    assert_eq!(contents(&Tree::from_directory(&local)?), contents(&pushed));
    Ok(())
}

#[test]
fn a_repeated_build_gives_the_same_image() -> Result<()> {
    let (world, context) = sample()?;
    let _ = world.image(&context, "again:1")?;
    let _ = world.image(&context, "again:2")?;
    assert_eq!(world.registry.digest("again:1")?, world.registry.digest("again:2")?);
    Ok(())
}

#[test]
fn a_build_that_gives_another_image_each_time_is_noticed() -> Result<()> {
    if needs_steps() {
        return Ok(());
    }
    let world = World::new()?;
    let context = Context::new(
        "ARG REGISTRY\nFROM ${REGISTRY}/busybox\nRUN cat /proc/sys/kernel/random/uuid > /id\n",
    )?;
    let noticed = world.build(&context).run().err().context("two images passed for one")?;
    let noticed = noticed.to_string();
    assert!(noticed.contains("gave another image") && noticed.contains("+ id "), "{noticed}");
    Ok(())
}

#[test]
fn iidfile_and_result_name_the_image() -> Result<()> {
    let (world, context) = sample()?;
    let file = world.out.path().join("iid");
    let reference = world.registry.reference("named:latest");
    let output = format!("type=image,name={reference},push=true");
    let build = world.build(&context).option("--output", output).option("--iidfile", &file);
    let _ = build.run()?.succeeded();
    let id = fs::read_to_string(&file).context("no iidfile was written")?;
    let layout = world.registry.pull("named:latest", &world.out.path().join("pulled"))?;
    let image = layout.image(&bases::oci_architecture()?)?;
    let config = image.manifest["config"]["digest"].as_str().unwrap_or_default();
    let known =
        [image.digest.as_str(), config, &world.registry.digest("named:latest")?].map(str::to_owned);
    assert!(known.contains(&id.trim().to_owned()), "{id} is none of {known:?}");
    Ok(())
}

#[test]
fn a_local_export_overwrites_files_and_stays_below_its_directory() -> Result<()> {
    let (world, context) = sample()?;
    let local = world.out.path().join("local");
    let canary = world.out.path().join("canary");
    fs::write(&canary, "canary")?;
    fs::create_dir_all(&local)?;
    std::os::unix::fs::symlink(&canary, local.join("f"))?;
    let option = format!("type=local,dest={}", local.display());
    // Whether the link is replaced or refused, what it points to is not written.
    let _ = world.build(&context).option("--output", option).run()?;
    assert_eq!(fs::read_to_string(&canary)?, "canary");
    Ok(())
}

#[test]
fn named_contexts_come_from_images_layouts_and_directories() -> Result<()> {
    let world = World::new()?;
    let context = Context::new(
        "FROM tools AS build\nRUN echo from a layout > /made\n\
         FROM scratch\nCOPY --from=build /made /layout\nCOPY --from=image /etc/passwd /image\n\
         COPY --from=files inside /directory\n",
    )?;
    let files = Context::new("FROM scratch\n")?;
    files.file("inside", "i")?;
    let layout = bases::busybox()?;
    let tools = format!("tools=oci-layout://{}:latest", layout.path.display());
    let image = format!("image=docker-image://{}", world.registry.reference("busybox:latest"));
    let local = world.out.path().join("local");
    let build = world
        .build(&context)
        .option("--build-context", tools)
        .option("--build-context", image)
        .option("--build-context", format!("files={}", files.path().display()))
        .option("--output", format!("type=local,dest={}", local.display()));
    let _ = build.run()?.succeeded();
    assert_eq!(fs::read_to_string(local.join("layout"))?, "from a layout\n");
    assert!(fs::read_to_string(local.join("image"))?.starts_with("root:"));
    assert_eq!(fs::read_to_string(local.join("directory"))?, "i");
    Ok(())
}

#[test]
fn dockerignore_keeps_files_out_of_the_context() -> Result<()> {
    let world = World::new()?;
    let context = Context::new("FROM scratch\nCOPY . /all/\n")?;
    context.file(".dockerignore", "*.log\n!keep.log\nsecret/\n")?;
    context.file("a.txt", "a")?.file("a.log", "l")?.file("keep.log", "k")?.file("secret/s", "s")?;
    let (tree, _) = world.image(&context, "ignored:latest")?;
    let names: Vec<String> = tree.below("all").entries.into_keys().collect();
    assert_eq!(names, [".dockerignore", "Dockerfile", "a.txt", "keep.log"]);
    Ok(())
}
