//! Disks that are full or read-only, directories that are none, clocks that jump, files of other
//! users: an error that says what and where, and once the trouble is over the next build works.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use cofferdam_tests::cofferdam::exit;
use cofferdam_tests::{Cofferdam, Context, Outcome};

use crate::lab::{Lab, VARIANTS, say, verify_clean};
use crate::leftovers;
use crate::namespace::{Disk, entered};

/// Asserts that a build failed for want of something of the machine, and says these things.
fn failed_clearly(outcome: &Outcome, says: &[&str]) -> Result<()> {
    let known = matches!(outcome.code, Some(exit::BUILD | exit::USER | exit::CONFIGURATION));
    ensure!(known, "ended with {:?}:\n{}", outcome.code, outcome.report());
    let text = outcome.text.to_lowercase();
    for part in says {
        ensure!(text.contains(&part.to_lowercase()), "no {part:?} in:\n{}", outcome.report());
    }
    Ok(())
}

#[test]
fn a_disk_that_fills_up_anywhere() -> Result<()> {
    if !entered("trouble::a_disk_that_fills_up_anywhere")? {
        return Ok(());
    }
    let lab = Lab::new()?;
    let place = tempfile::tempdir()?;
    let cofferdam = Cofferdam::new()?;
    let disk = Disk::make(&place.path().join("disk"), 64, &cofferdam.root())?;
    lab.lend_compiled(&cofferdam.root())?;
    let (mut fails, mut works) = (0, 0);
    // A little more room each time, so that it ends at another place: in a pull, an unpacking, a
    // step, a copy, the database, a blob.
    for step in 0..24_u64 {
        let leave = (step * step * 16) << 10;
        let (project, variant) = (step as usize % lab.projects(), step % VARIANTS);
        let filler = disk.fill(leave)?;
        // The disk ends the builds, not the limit, which is a part of the disk.
        let mut build = lab.build(&cofferdam, project, variant).option("--max-storage", "none");
        if step % 2 == 0 {
            build = build.arg("--no-cache");
        }
        let outcome = build.run()?;
        fs::remove_file(filler)?;
        let check = || -> Result<bool> {
            if outcome.code == Some(exit::OK) {
                lab.check(&outcome, project, variant)?;
                return Ok(true);
            }
            failed_clearly(&outcome, &[])?;
            // In the words of the kernel, or of SQLite.
            let text = outcome.text.to_lowercase();
            let named = ["no space left", "is full"];
            ensure!(named.iter().any(|name| text.contains(name)), "{}", outcome.report());
            Ok(false)
        };
        match check().with_context(|| format!("with {leave} bytes"))? {
            true => works += 1,
            false => fails += 1,
        }
        verify_clean(&cofferdam).with_context(|| format!("after {leave} bytes"))?;
        let outcome = lab.build(&cofferdam, project, variant).run()?;
        lab.check(&outcome, project, variant).with_context(|| format!("after {leave} bytes"))?;
        if step % 5 == 4 {
            // From nothing again.
            clear(&cofferdam)?;
            lab.lend_compiled(&cofferdam.root())?;
        }
    }
    eprintln!("{fails} failed, {works} worked");
    ensure!(fails > 5 && works > 2, "the disk was not full at interesting places");
    Ok(())
}

/// Empties the state directory. What syncs after a build, and has the directory too, is given the
/// time to end.
fn clear(cofferdam: &Cofferdam) -> Result<()> {
    let remove = |path: &Path| match path.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
    for _ in 0..4800 {
        let left: Vec<_> = fs::read_dir(cofferdam.root())?.flatten().collect();
        if left.is_empty() {
            return Ok(());
        }
        if left.iter().any(|entry| remove(&entry.path()).is_err()) {
            thread::sleep(Duration::from_millis(50));
        }
    }
    bail!("`{}` does not become empty", cofferdam.root().display())
}

#[test]
fn what_does_not_fit_is_named() -> Result<()> {
    if !entered("trouble::what_does_not_fit_is_named")? {
        return Ok(());
    }
    let lab = Lab::new()?;
    let place = tempfile::tempdir()?;
    let cofferdam = Cofferdam::new()?;
    let _disk = Disk::make(&place.path().join("disk"), 48, &cofferdam.root())?;
    lab.lend_compiled(&cofferdam.root())?;
    let registry = lab.registry.address();
    let build = |context: &Context| {
        let build = cofferdam.build(context.path()).varies("it fails");
        build.build_arg("REGISTRY", registry).option("--max-storage", "none")
    };
    // A step: its own words, and where it is.
    let step = Context::new(
        "ARG REGISTRY\nFROM ${REGISTRY}/busybox\nRUN dd if=/dev/zero of=/large bs=1M\n",
    )?;
    let outcome = build(&step).run()?;
    failed_clearly(&outcome, &["Dockerfile:3", "no space left on device"])?;
    // Files of the context: the step that copies them.
    let copy = Context::new("FROM scratch\nCOPY large /\n")?;
    fs::File::create(copy.path().join("large"))?.set_len(100 << 20)?;
    failed_clearly(&build(&copy).run()?, &["no space left", "state"])?;
    // An archive to the same disk.
    let files = Context::new("FROM scratch\nCOPY large /\n")?;
    files.file("large", vec![7; 20 << 20])?;
    let dest = cofferdam.root().join("image.tar");
    let output = format!("type=oci,compression=uncompressed,dest={}", dest.display());
    failed_clearly(&build(&files).option("--output", output).run()?, &["no space left"])?;
    ensure!(!dest.exists(), "a piece of an archive is left");
    // With nothing changed but what the failed builds gave back, the next one works.
    let outcome = lab.build(&cofferdam, 0, 0).run()?;
    lab.check(&outcome, 0, 0)?;
    verify_clean(&cofferdam)
}

#[test]
fn a_disk_that_is_read_only() -> Result<()> {
    if !entered("trouble::a_disk_that_is_read_only")? {
        return Ok(());
    }
    let lab = Lab::new()?;
    let place = tempfile::tempdir()?;
    let cofferdam = Cofferdam::new()?;
    let disk = Disk::make(&place.path().join("disk"), 64, &cofferdam.root())?;
    for prepared in [false, true] {
        if prepared {
            let outcome = lab.build(&cofferdam, 0, 0).run()?;
            lab.check(&outcome, 0, 0)?;
        }
        // Writes may be on their way to the disk still.
        leftovers::wait_for_none(&[], cofferdam.home())?;
        disk.remount("ro")?;
        let outcome = lab.build(&cofferdam, 0, 0).run()?;
        let root = cofferdam.root();
        let says = ["read-only", root.to_str().context("a temporary path is UTF-8")?];
        failed_clearly(&outcome, &says).with_context(|| format!("prepared: {prepared}"))?;
        ensure!(outcome.code == Some(exit::CONFIGURATION), "{:?}", outcome.code);
        disk.remount("rw")?;
    }
    let outcome = lab.build(&cofferdam, 0, 0).run()?;
    lab.check(&outcome, 0, 0)?;
    ensure!(outcome.executed().is_empty(), "{:?}", outcome.executed());
    verify_clean(&cofferdam)
}

#[test]
fn files_where_directories_should_be() -> Result<()> {
    let lab = Lab::new()?;
    let names = ["", "layers", "packs", "blobs", "blobs/sha256", "local", "compiled", "tmp"];
    for name in names {
        let cofferdam = Cofferdam::new()?;
        let path = cofferdam.root().join(name);
        fs::create_dir_all(path.parent().context("has a parent")?)?;
        fs::write(cofferdam.home().join("file"), "a file")?;
        fs::rename(
            cofferdam.home().join("file"),
            cofferdam.root().join(name).components().collect::<PathBuf>(),
        )?;
        let outcome = lab.build(&cofferdam, 2, 0).run()?;
        let path: PathBuf = path.components().collect();
        failed_clearly(&outcome, &[path.to_str().context("UTF-8")?])
            .with_context(|| format!("a file at `{name}`"))?;
        ensure!(outcome.code == Some(exit::CONFIGURATION), "`{name}`: {:?}", outcome.code);
        fs::remove_file(&path)?;
        lab.lend_compiled(&cofferdam.root())?;
        let outcome = lab.build(&cofferdam, 2, 0).run()?;
        lab.check(&outcome, 2, 0)?;
    }
    Ok(())
}

#[test]
fn a_state_directory_of_somebody_else() -> Result<()> {
    let lab = Lab::new()?;
    let cofferdam = lab.cofferdam()?;
    let outcome = lab.build(&cofferdam, 2, 0).run()?;
    lab.check(&outcome, 2, 0)?;
    // Whoever it does not belong to is told so, and changes nothing.
    let context = Context::new("FROM scratch\nCOPY Dockerfile /\n")?;
    for path in [cofferdam.home(), context.path()] {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    }
    let binary = PathBuf::from(cofferdam.command().get_program());
    let readable = tempfile::tempdir()?;
    fs::set_permissions(readable.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let copy = readable.path().join("cofferdam");
    fs::copy(binary, &copy)?;
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(copy)
        .args(["build", "--root"])
        .arg(cofferdam.root())
        .arg(context.path())
        .env("HOME", "/nonexistent")
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(exit::CONFIGURATION), "{:?}: {said}", output.status);
    let root = cofferdam.root();
    let root = root.to_str().context("UTF-8")?;
    ensure!(said.contains(&format!("`{root}` belongs to root, not to nobody")), "{said}");
    verify_clean(&cofferdam)?;
    // Nor does root write into what is another's: that one could not remove it.
    std::os::unix::fs::chown(cofferdam.root(), Some(65_534), None)?;
    let outcome = lab.build(&cofferdam, 2, 0).run()?;
    failed_clearly(&outcome, &["belongs to nobody, not to root", "sudo -u nobody", "--root"])?;
    ensure!(outcome.code == Some(exit::CONFIGURATION), "{:?}", outcome.code);
    let (code, said) = say(&cofferdam, &["prune", "--all"])?;
    ensure!(code == Some(exit::CONFIGURATION) && said.contains("belongs to nobody"), "{said}");
    std::os::unix::fs::chown(cofferdam.root(), Some(0), None)?;
    verify_clean(&cofferdam)
}

/// The library that gives a program another time.
fn faketime() -> Result<PathBuf> {
    let places = fs::read_dir("/usr/lib")?.flatten().map(|entry| entry.path());
    let mut found = places.map(|place| place.join("faketime/libfaketimeMT.so.1"));
    found.find(|path| path.exists()).context("no libfaketime (Debian package faketime)")
}

#[test]
fn a_clock_that_jumps() -> Result<()> {
    let lab = Lab::new()?;
    let (cofferdam, library) = (lab.cofferdam()?, faketime()?);
    let build = |project: usize, variant: u64| {
        let build = lab.build(&cofferdam, project, variant).env("LD_PRELOAD", &library);
        // The time since the start does not jump.
        build.env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    };
    let at = |project, variant, time: &str| build(project, variant).env("FAKETIME", time).run();
    for (index, time) in ["+0", "+20y", "-1y", "-54y", "+0"].into_iter().enumerate() {
        let variant = index as u64 % VARIANTS;
        let outcome = at(0, variant, time)?;
        // What was made before the epoch that it is clamped to has other times.
        if time == "-54y" {
            let _ = outcome.succeeded();
            continue;
        }
        lab.check(&outcome, 0, variant).with_context(|| format!("at {time}"))?;
        // Nothing that was built at another time is built again, or has become too old.
        for other in ["-54y", "+30y"] {
            let outcome = at(0, variant, other)?;
            lab.check(&outcome, 0, variant)?;
            ensure!(outcome.executed().is_empty(), "{time}, {other}: {:?}", outcome.executed());
        }
    }
    verify_clean(&cofferdam)?;
    // While it runs, too.
    let file = cofferdam.home().join("time");
    fs::write(&file, "+0")?;
    let running =
        build(1, 0).env("FAKETIME_TIMESTAMP_FILE", &file).env("FAKETIME_NO_CACHE", "1").spawn()?;
    for time in ["+1d", "-1d", "+10y", "-1y", "+0"] {
        thread::sleep(Duration::from_millis(40));
        fs::write(&file, time)?;
    }
    let outcome = running.finish()?;
    lab.check(&outcome, 1, 0)?;
    verify_clean(&cofferdam)
}
