//! The power goes off: what the kernel had not written to the disk is gone, and files of which it
//! had only written the names are empty. The state directory is on a disk of its own, which is
//! copied while builds run; the copy is what is left.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use cofferdam_tests::Cofferdam;
use fastrand::Rng;

use crate::lab::{Lab, VARIANTS, verify_clean};
use crate::leftovers;
use crate::namespace::{Boot, Disk, entered};

const MEGABYTES: u64 = 128;

/// How many rounds: a few, unless `COFFERDAM_CRASH_ROUNDS` asks for more.
fn rounds() -> u64 {
    let asked = std::env::var("COFFERDAM_CRASH_ROUNDS").ok().and_then(|text| text.parse().ok());
    asked.map_or(6, |rounds: u64| rounds / 10)
}

#[test]
fn what_was_not_on_the_disk_is_not_used() -> Result<()> {
    if !entered("power::what_was_not_on_the_disk_is_not_used")? {
        return Ok(());
    }
    let lab = Lab::new()?;
    let place = tempfile::tempdir()?;
    let mut boot = Boot::first(&place.path().join("boot"))?;
    let seed = std::env::var("COFFERDAM_CRASH_SEED").ok().and_then(|text| text.parse().ok());
    let mut random = Rng::with_seed(seed.unwrap_or_else(|| fastrand::u64(..)));
    for round in 0..rounds() {
        let seed = random.u64(..);
        eprintln!("round {round}: seed {seed}");
        lose_power(&lab, place.path(), &mut boot, &mut Rng::with_seed(seed))
            .with_context(|| format!("seed {seed}"))?;
    }
    Ok(())
}

#[test]
fn what_was_built_before_the_last_mark_stays_built() -> Result<()> {
    if !entered("power::what_was_built_before_the_last_mark_stays_built")? {
        return Ok(());
    }
    let lab = Lab::new()?;
    let place = tempfile::tempdir()?;
    let mut boot = Boot::first(&place.path().join("boot"))?;
    let (image, copy) = (place.path().join("disk"), place.path().join("copy"));
    let cofferdam = Cofferdam::new()?;
    let disk = Disk::make(&image, MEGABYTES, &cofferdam.root())?;
    lab.lend_compiled(&cofferdam.root())?;
    let outcome = lab.build(&cofferdam, 0, 0).run()?;
    lab.check(&outcome, 0, 0)?;
    // Who writes it to the disk goes on after the build has ended.
    leftovers::wait_for_none(&[], cofferdam.home())?;
    lab.build(&cofferdam, 1, 0).spawn()?.crash()?;
    disk.cut_off(&copy)?;
    drop(disk);
    boot.again()?;
    let _disk = Disk::mount(&copy, &cofferdam.root())?;
    let outcome = lab.build(&cofferdam, 0, 0).run()?;
    lab.check(&outcome, 0, 0)?;
    ensure!(outcome.executed().is_empty(), "was on the disk, and is lost:\n{}", outcome.report());
    verify_clean(&cofferdam)
}

fn lose_power(lab: &Lab, place: &Path, boot: &mut Boot, random: &mut Rng) -> Result<()> {
    let (image, copy) = (place.join("disk"), place.join("copy"));
    let cofferdam = Cofferdam::new()?;
    let mut disk = Disk::make(&image, MEGABYTES, &cofferdam.root())?;
    lab.lend_compiled(&cofferdam.root())?;
    sync(&cofferdam.root())?;
    // Several times over what is left of the last time.
    for _ in 0..3 {
        let mut builds = Vec::new();
        for _ in 0..random.usize(1..=2) {
            let (project, variant) = (random.usize(0..lab.projects()), random.u64(0..VARIANTS));
            builds.push(lab.build(&cofferdam, project, variant).spawn()?);
        }
        for _ in 0..random.usize(0..3) {
            std::thread::sleep(lab.typical.mul_f64(random.f64() * 0.5));
            unfair_writeback(&cofferdam.root(), random)?;
        }
        std::thread::sleep(lab.typical.mul_f64(random.f64()));
        disk.cut_off(&copy)?;
        for mut build in builds {
            build.crash()?;
        }
        drop(disk);
        fs::rename(&copy, &image)?;
        boot.again()?;
        disk = Disk::mount(&image, &cofferdam.root())?;
        if random.bool() {
            verify_clean(&cofferdam).context("after the power loss")?;
        }
        let (project, variant) = (random.usize(0..lab.projects()), random.u64(0..VARIANTS));
        let outcome = lab.build(&cofferdam, project, variant).run()?;
        lab.check(&outcome, project, variant)?;
        verify_clean(&cofferdam).context("after the build that followed")?;
    }
    lab.rebuild_all(&cofferdam)
}

/// Writes some files and not others, as a kernel may: what one of them says of the others is then
/// not so.
fn unfair_writeback(root: &Path, random: &mut Rng) -> Result<()> {
    let names = ["state.db", "state.db-wal", "layers", "packs", "blobs/sha256"];
    for name in names {
        if random.bool() {
            let path = root.join(name);
            let files: Vec<_> = match fs::read_dir(&path) {
                Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
                Err(_) => vec![path],
            };
            let chosen = files.into_iter().filter(|_| random.bool());
            // Files come and go: one that is gone needs no syncing.
            let _ = Command::new("sync").args(chosen).output()?;
        }
    }
    Ok(())
}

/// Writes everything to the disk.
fn sync(root: &Path) -> Result<()> {
    let status = Command::new("sync").arg("--file-system").arg(root).status()?;
    ensure!(status.success(), "cannot sync {}", root.display());
    Ok(())
}
