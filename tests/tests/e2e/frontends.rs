//! Frontends that are not the built-in one, and hostile components: what runs, what is refused,
//! and that the program lives on. The components come from `frontends-wasm/build.sh`, by way of
//! the directory in `COFFERDAM_TEST_GUESTS`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use cofferdam_tests::cofferdam::exit;
use cofferdam_tests::{Context, Tree};

use crate::World;

/// Every component below the directory of guests.
fn guests() -> Result<Vec<PathBuf>> {
    let directory = std::env::var_os("COFFERDAM_TEST_GUESTS")
        .context("COFFERDAM_TEST_GUESTS names no directory: run `make test`")?;
    let mut found = Vec::new();
    let mut open = vec![PathBuf::from(directory)];
    while let Some(directory) = open.pop() {
        let entries = std::fs::read_dir(&directory)
            .with_context(|| format!("cannot read {}", directory.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "wasm") {
                found.push(path);
            }
        }
    }
    Ok(found)
}

/// The component of this name; cargo writes `_` where a crate has `-`.
pub(crate) fn guest(name: &str) -> Result<PathBuf> {
    let stem = |path: &Path| {
        path.file_stem().map(|stem| stem.to_string_lossy().replace('_', "-")).unwrap_or_default()
    };
    let guests = guests()?;
    match guests.iter().find(|path| stem(path) == name) {
        Some(path) => Ok(path.clone()),
        None => bail!("no component {name} among {guests:?}"),
    }
}

#[test]
fn a_declarative_frontend_builds_an_image() -> Result<()> {
    let world = World::new()?;
    let context = Context::new("not a Dockerfile at all")?;
    let image = format!(
        "[image]\nbase = \"{}\"\n\n[[step]]\ncopy = \"greeting\"\nto = \"/etc/greeting\"\n\n\
         [[step]]\nrun = \"cat /etc/greeting > /copied\"\n",
        world.registry.reference("busybox:latest")
    );
    context.file("image.toml", image)?.file("greeting", "hello from toml\n")?;
    let local = world.out.path().join("local");
    let build = world
        .cofferdam
        .build(context.path())
        .option("--frontend", guest("toml-image")?)
        .option("--file", context.path().join("image.toml"))
        .option("--output", format!("type=local,dest={}", local.display()));
    let _ = build.run()?.succeeded();
    assert_eq!(std::fs::read_to_string(local.join("copied"))?, "hello from toml\n");
    Ok(())
}

#[test]
fn a_frontend_in_c_builds_an_image() -> Result<()> {
    let world = World::new()?;
    let context = Context::new("FROM scratch\n")?;
    let local = world.out.path().join("local");
    let build = world
        .cofferdam
        .build(context.path())
        .option("--frontend", guest("minimal-c")?)
        .option("--output", format!("type=local,dest={}", local.display()));
    let _ = build.run()?.succeeded();
    assert!(!Tree::from_directory(&local)?.entries.is_empty(), "the image is empty");
    Ok(())
}

#[test]
fn a_runaway_component_is_ended_and_named_and_the_next_build_works() -> Result<()> {
    let world = World::new()?;
    let context = Context::new("ARG REGISTRY\nFROM ${REGISTRY}/busybox\nRUN echo works\n")?;
    let cases: [(&str, &[&str]); 4] = [
        ("attack-endless-loop", &["time"]),
        ("attack-memory-bomb", &["memory"]),
        ("attack-trap", &["unreachable"]),
        ("attack-stack-overflow", &["stack"]),
    ];
    for (name, says) in cases {
        let build = world.build(&context).option("--frontend", guest(name)?);
        let outcome = build.run()?;
        assert!(
            matches!(outcome.code, Some(exit::BUILD | exit::USER)),
            "{name} ended with {:?}:\n{}",
            outcome.code,
            outcome.report(),
        );
        let text = outcome.text.to_lowercase();
        for part in says {
            assert!(text.contains(part), "{name}: no {part:?} in:\n{}", outcome.report());
        }
        let _ = world.build(&context).run()?.succeeded();
    }
    Ok(())
}

#[test]
fn a_file_that_is_no_component_is_refused() -> Result<()> {
    let world = World::new()?;
    let context = Context::new("FROM scratch\n")?;
    let cases: [(&str, &[u8]); 3] = [
        ("text.wasm", b"not wasm"),
        ("module.wasm", b"\0asm\x01\0\0\0"),
        ("cut.wasm", b"\0asm\x0d\0\x01\0\x07\x7f"),
    ];
    for (name, bytes) in cases {
        let path = world.out.path().join(name);
        std::fs::write(&path, bytes)?;
        let build = world.build(&context).option("--frontend", &path);
        build.run()?.ended(exit::USER).says(&[name]);
    }
    Ok(())
}
