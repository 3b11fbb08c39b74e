//! Files of the state directory that are cut, emptied, changed or gone: a build gives the right
//! image or says what is wrong, and `cofferdam store verify` finds and mends all of it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use cofferdam_tests::Cofferdam;
use cofferdam_tests::cofferdam::exit;
use cofferdam_tests::command::{command, run};

use crate::lab::{Lab, verify, verify_clean};
use crate::leftovers;

/// What happens to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    Empty,
    Half,
    Flip,
    Gone,
    Directory,
}

const ALL: [Damage; 5] =
    [Damage::Empty, Damage::Half, Damage::Flip, Damage::Gone, Damage::Directory];

impl Damage {
    fn apply(self, path: &Path) -> Result<()> {
        let open = || File::options().read(true).write(true).open(path);
        let size = fs::symlink_metadata(path)?.len();
        match self {
            Self::Empty => open()?.set_len(0)?,
            Self::Half => open()?.set_len(size / 2)?,
            Self::Flip => {
                let (file, mut byte) = (open()?, [0]);
                file.read_exact_at(&mut byte, size / 2)?;
                file.write_all_at(&[byte[0] ^ 0x40], size / 2)?;
            }
            Self::Gone => fs::remove_file(path)?,
            Self::Directory => {
                fs::remove_file(path)?;
                fs::create_dir(path)?;
            }
        }
        Ok(())
    }
}

/// A state directory in which a project was built, to be damaged again and again.
struct Victim {
    lab: Lab,
    cofferdam: Cofferdam,
    pristine: PathBuf,
    _place: tempfile::TempDir,
}

/// Each of the lab's projects has its uses: this one has layers of every kind.
const PROJECT: usize = 0;

impl Victim {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let cofferdam = lab.cofferdam()?;
        let outcome = lab.build(&cofferdam, PROJECT, 0).run()?;
        lab.check(&outcome, PROJECT, 0)?;
        // Writes may be on their way to the disk still.
        leftovers::wait_for_none(&[], cofferdam.home())?;
        let place = tempfile::tempdir()?;
        let pristine = place.path().join("pristine");
        run(command("cp", ["-a"]).arg(cofferdam.root()).arg(&pristine))?;
        Ok(Self { lab, cofferdam, pristine, _place: place })
    }

    /// The state directory is again what it was after the build.
    fn heal(&self) -> Result<()> {
        leftovers::wait_for_none(&[], self.cofferdam.home())?;
        fs::remove_dir_all(self.cofferdam.root())?;
        run(command("cp", ["-a"]).arg(&self.pristine).arg(self.cofferdam.root()))?;
        Ok(())
    }

    /// The regular files below a directory of the pristine state, by path relative to the state.
    fn files(&self, below: &str) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        let mut open = vec![self.pristine.join(below)];
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(&directory)? {
                let entry = entry?;
                let metadata = entry.path().symlink_metadata()?;
                if metadata.is_dir() {
                    open.push(entry.path());
                } else if metadata.is_file() && metadata.len() > 0 {
                    found.push(entry.path().strip_prefix(&self.pristine)?.to_owned());
                }
            }
        }
        found.sort();
        ensure!(!found.is_empty(), "there are no files below {below}");
        Ok(found)
    }

    /// The next build after this damage, without anything in between: right, or a clear error.
    fn build(&self, file: &Path) -> Result<()> {
        let outcome = self.lab.build(&self.cofferdam, PROJECT, 0).run()?;
        if outcome.code == Some(exit::OK) {
            return self.lab.check(&outcome, PROJECT, 0);
        }
        let known = matches!(outcome.code, Some(exit::BUILD | exit::USER | exit::CONFIGURATION));
        let name = file.file_name().context("a file has a name")?.to_string_lossy();
        // The layer, where it is a file within one.
        let layer = file.components().nth(1).map(|part| part.as_os_str().to_string_lossy());
        let named = outcome.text.contains(name.as_ref())
            || layer.is_some_and(|layer| outcome.text.contains(layer.as_ref()));
        ensure!(
            known && named,
            "neither right nor clear:\n{:?} {}",
            outcome.code,
            outcome.report()
        );
        Ok(())
    }

    /// `store verify` says that something is wrong, and then it no longer is.
    fn mend(&self) -> Result<()> {
        let (code, said) = verify(&self.cofferdam)?;
        if said.trim().is_empty() || said.contains("panicked") {
            bail!("verify ended with {code:?} and said:\n{said}");
        }
        verify_clean(&self.cofferdam).with_context(|| format!("it had said:\n{said}"))?;
        let outcome = self.lab.build(&self.cofferdam, PROJECT, 0).run()?;
        self.lab
            .check(&outcome, PROJECT, 0)
            .with_context(|| format!("verify had said:\n{said}"))?;
        verify_clean(&self.cofferdam)
    }

    fn finds(&self) -> Result<()> {
        let (clean_code, clean) = {
            self.heal()?;
            verify(&self.cofferdam)?
        };
        ensure!(clean_code == Some(exit::OK), "verify of a sound store:\n{clean}");
        Ok(())
    }
}

/// Damages each of some files in each of some ways and looks what comes of it.
fn check(files: &dyn Fn(&Victim) -> Result<Vec<PathBuf>>, damages: &[Damage]) -> Result<()> {
    let victim = Victim::new()?;
    victim.finds()?;
    let mut failures = Vec::new();
    for file in files(&victim)? {
        for damage in damages {
            let attempt = |build: bool| -> Result<()> {
                victim.heal()?;
                damage.apply(&victim.cofferdam.root().join(&file))?;
                if build {
                    victim.build(&file)?;
                }
                victim.mend()
            };
            for build in [false, true] {
                // A byte of a file that is read without a digest shows only to who looks for it.
                if build && *damage == Damage::Flip {
                    continue;
                }
                if let Err(error) = attempt(build) {
                    let then = if build { "then built" } else { "then verified" };
                    failures.push(format!("{} {damage:?}, {then}: {error:#}", file.display()));
                }
            }
        }
    }
    ensure!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n\n"));
    Ok(())
}

#[test]
fn manifests_of_layers() -> Result<()> {
    let files = |victim: &Victim| -> Result<Vec<PathBuf>> {
        let mut files = victim.files("layers")?;
        files.retain(|file| file.components().count() == 3);
        Ok(files)
    };
    check(&files, &ALL)
}

#[test]
fn files_of_layers() -> Result<()> {
    let files = |victim: &Victim| -> Result<Vec<PathBuf>> {
        let mut files = victim.files("layers")?;
        files.retain(|file| file.components().count() > 3);
        Ok(files)
    };
    check(&files, &[Damage::Empty, Damage::Flip, Damage::Gone])
}

#[test]
fn packs() -> Result<()> {
    check(&|victim| victim.files("packs"), &ALL)
}

#[test]
fn blobs() -> Result<()> {
    check(&|victim| victim.files("blobs"), &ALL)
}

#[test]
fn what_is_only_there_to_save_time() -> Result<()> {
    let files = |victim: &Victim| -> Result<Vec<PathBuf>> {
        let mut files = victim.files("local")?;
        files.extend(victim.files("compiled")?);
        Ok(files)
    };
    check(&files, &[Damage::Empty, Damage::Half, Damage::Flip, Damage::Gone])
}

#[test]
fn the_database() -> Result<()> {
    // Closed in order, it has no -wal: that of a process that was killed has.
    let files = |_: &Victim| Ok(vec![PathBuf::from("state.db")]);
    check(&files, &[Damage::Empty, Damage::Half, Damage::Flip, Damage::Gone])
}

#[test]
fn a_flipped_byte_anywhere_in_the_database() -> Result<()> {
    const PLACES: u64 = 12;
    let victim = Victim::new()?;
    let database = victim.cofferdam.root().join("state.db");
    let size = fs::metadata(&database)?.len();
    for at in (0..PLACES).map(|place| size * (2 * place + 1) / (2 * PLACES)) {
        for build in [false, true] {
            let then = if build { "then built" } else { "then verified" };
            victim.heal()?;
            let (file, mut byte) = (File::options().read(true).write(true).open(&database)?, [0]);
            file.read_exact_at(&mut byte, at)?;
            file.write_all_at(&[byte[0] ^ 0x40], at)?;
            drop(file);
            if build {
                victim.build(Path::new("state database")).with_context(|| format!("byte {at}"))?;
            }
            victim.mend().with_context(|| format!("byte {at}, {then}"))?;
        }
    }
    Ok(())
}

#[test]
fn the_log_of_the_database_of_a_killed_process() -> Result<()> {
    let victim = Victim::new()?;
    let mut running = victim.lab.build(&victim.cofferdam, PROJECT, 1).spawn()?;
    let wal = victim.cofferdam.root().join("state.db-wal");
    while fs::metadata(&wal).map_or(0, |metadata| metadata.len()) < 50_000 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    running.crash()?;
    leftovers::wait_for_none(&[running.pid()], victim.cofferdam.home())?;
    let killed = victim.pristine.with_file_name("killed");
    run(command("cp", ["-a"]).arg(victim.cofferdam.root()).arg(&killed))?;
    let victim = Victim { pristine: killed, ..victim };
    for damage in [Damage::Empty, Damage::Half, Damage::Flip, Damage::Gone] {
        victim.heal()?;
        damage.apply(&wal)?;
        // What the log had and the database has not is as if it had never been.
        let outcome = victim.lab.build(&victim.cofferdam, PROJECT, 1).run()?;
        victim.lab.check(&outcome, PROJECT, 1).with_context(|| format!("{damage:?}"))?;
        verify_clean(&victim.cofferdam).with_context(|| format!("{damage:?}"))?;
        victim.lab.rebuild_all(&victim.cofferdam).with_context(|| format!("{damage:?}"))?;
    }
    Ok(())
}
