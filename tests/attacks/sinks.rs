//! The set of hostile archives, given to every place that takes archives. Nothing of the host may
//! be written, removed, shown or linked into a result, and the engine lives on.

use std::fs;
use std::path::Path;

use anyhow::Result;
use cofferdam_tests::command::command;
use cofferdam_tests::{Context, Docker};

use crate::hostile::{self, Archive, Header};
use crate::{Canary, SECRET, World, lives_on, with_options, works};

/// What a step looks at: everything, so that all is written out for the kernel to mount.
const LOOK: &str = "ls -lR / > /dev/null 2>&1; cat /h /i /to/secret /one/secret 2>/dev/null; \
                    test -e /etc/passwd || echo HIDDEN";

/// Checks what an archive did.
#[track_caller]
fn check(canary: &Canary, out: &Path) -> Result<()> {
    canary.is_intact()?;
    if out.exists() {
        let found = command("grep", ["-rlaF", SECRET]).arg(out).output()?;
        if !found.stdout.is_empty() {
            let found = String::from_utf8_lossy(&found.stdout).into_owned();
            works(format!("a file of the host is in the result: {found}"));
        }
        fs::remove_dir_all(out)?;
    }
    Ok(())
}

/// `ADD x.tar`: an archive that is unpacked into a stage writes through links, `..` and hard links
/// to wherever they lead on the machine that builds.
#[test]
fn cve_2026_33056_rustsec_2018_0002_archives_of_add() -> Result<()> {
    let world = World::new()?;
    let canary = Canary::new()?;
    let out = world.images.path().join("out");
    for (name, archive) in hostile::set(&canary) {
        for place in ["/", "/etc/deep/"] {
            let context = Context::new(&format!("FROM busybox\nADD x.tar {place}\nRUN {LOOK}\n"))?;
            context.file("x.tar", &archive)?;
            let outcome = world.build(&context)?.option("--output", &out).run()?;
            lives_on(&outcome);
            eprintln!("{name}: {:?}", outcome.code);
            check(&canary, &out)?;
            if name == "overlay's own attributes" && outcome.log().contains("HIDDEN") {
                works("an archive's attributes are overlayfs's");
            }
        }
    }
    Ok(())
}

/// The same archives as layers of a base image: one that a step mounts, and one that files are
/// copied from, of an image that is exported in every form.
#[test]
fn rustsec_2021_0080_hostile_layers_of_images() -> Result<()> {
    let world = World::new()?;
    let canary = Canary::new()?;
    let docker = Docker::start()?;
    let out = world.images.path().join("out");
    for (at, (name, archive)) in hostile::set(&canary).into_iter().enumerate() {
        let image = format!("evil{at}");
        let base = world.image(&image, serde_json::json!({}), &[archive])?;
        let stepped = format!("FROM {image}\nRUN {LOOK}\n");
        let copied = format!("FROM {image} AS base\nFROM busybox\nCOPY --from=base / /copied/\n");
        let loaded = format!("FROM {image}\nLABEL loaded=yes\n");
        let local = out.display().to_string();
        for (dockerfile, output) in [
            (&stepped, ["--output", &local]),
            (&copied, ["--output", &local]),
            (&loaded, ["--tag", "evil:1"]),
        ] {
            let context = Context::new(dockerfile)?;
            let build = with_options(world.build(&context)?, "--build-context", &[&base]);
            let mut build = build.arg(output[0]).arg(output[1]);
            if output[0] == "--tag" {
                build = build.arg("--load").env("DOCKER_HOST", docker.host());
            }
            let outcome = build.run()?;
            lives_on(&outcome);
            eprintln!("{name}: {:?}", outcome.code);
            check(&canary, &out)?;
            if name == "overlay's own attributes" && outcome.log().contains("HIDDEN") {
                works("a layer's attributes are overlayfs's");
            }
        }
        fs::remove_dir_all(world.images.path().join(&image))?;
    }
    Ok(())
}

/// kaniko unpacked a context over its own programs: an entry that climbs, or a copy whose source
/// climbs, replaces what the builder runs next. Here the archives come on standard input, aimed at
/// the canary, at the state directory and at the program itself.
#[test]
fn cve_2026_28406_context_archives_overwrite_the_builder() -> Result<()> {
    let world = World::new()?;
    let canary = Canary::new()?;
    let dockerfile = format!("FROM busybox\nCOPY . /x/\nRUN {LOOK}\n");
    let mut start = Archive::new();
    start.file("Dockerfile", dockerfile.as_bytes());
    let start = start.finish();
    let start = &start[..start.len() - 1024];
    let out = world.images.path().join("out");
    let dest = format!("type=local,dest={}", out.display());
    // The state directory has a canary of its own, where a file of the engine could be.
    let _ = world.run("FROM busybox\nRUN true\n", &[])?.succeeded();
    let state = world.cofferdam.root();
    fs::write(state.join("own"), SECRET)?;
    let program = world.cofferdam.command().get_program().to_owned();
    let before = fs::read(&program)?;
    let aimed = |target: &Path| {
        let climbing =
            format!("{}{}", "../".repeat(24), target.to_string_lossy().trim_matches('/'));
        let absolute = target.to_string_lossy().into_owned();
        let mut archives = Vec::new();
        for name in [&climbing, &absolute, &format!("a/{climbing}")] {
            let mut archive = Archive::new();
            let mode = 0o755;
            archive.entry(Header { name: name.as_bytes(), mode, ..Header::default() }, b"planted");
            archives.push(("aimed at the engine", archive.finish()));
        }
        let directory = target.parent().unwrap_or(target).to_string_lossy().into_owned();
        let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut archive = Archive::new();
        archive.symlink("to", &directory).file(&format!("to/{name}"), b"planted");
        archives.push(("aimed at the engine by a link", archive.finish()));
        archives
    };
    let mut all = hostile::set(&canary);
    all.extend(aimed(&state.join("own")));
    all.extend(aimed(Path::new(&program)));
    for (name, archive) in all {
        if archive.starts_with(&[0x1f, 0x8b]) || archive.starts_with(&[0x28, 0xb5]) {
            continue;
        }
        let output = world.build_input(&["-o", &dest, "-"], &[start, &archive].concat())?;
        eprintln!("{name}: {:?}", output.status.code());
        check(&canary, &out)?;
        if fs::read(state.join("own"))? != SECRET.as_bytes() || fs::read(&program)? != before {
            works(format!("{name}: a file of the engine is overwritten"));
        }
    }
    // A copy whose source climbs out of the stage.
    for source in ["/../../../../..", "../../..", "/x/../../../.."] {
        let target = state.join("own");
        let copy = format!(
            "FROM busybox AS base\nFROM busybox\nCOPY --from=base {source}{}  /copied\n",
            target.display()
        );
        let _ = world.run(&copy, &[])?;
    }
    Ok(())
}
