//! Finds QEMU's user-mode emulators on this machine. Where they are is the machine's set-up and
//! comes from whoever configures the engine: nothing in an image or a build names one.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::architecture::{Architecture, HEADER};

/// The longest version that is kept.
const VERSION_MAX: usize = 200;
/// The most program headers that are looked at (`PN_XNUM` of elf(5) is far above).
const SEGMENTS_MAX: u16 = 128;

/// An emulator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The program.
    pub program: PathBuf,
    /// What it says its version is: `7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)`.
    pub version: String,
}

/// A file that is called like an emulator and cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// The file.
    pub program: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// The names that emulators of an architecture go by: Debian's and others' static ones, upstream's,
/// BuildKit's.
pub fn names(architecture: &Architecture) -> [String; 3] {
    let qemu = architecture.qemu;
    [format!("qemu-{qemu}-static"), format!("qemu-{qemu}"), format!("buildkit-qemu-{qemu}")]
}

/// Files that may be emulators of an architecture, the preferred one first.
pub fn candidates(
    architecture: &Architecture,
    directories: &[PathBuf],
) -> impl Iterator<Item = PathBuf> {
    let names = names(architecture);
    let paths = directories
        .iter()
        .flat_map(move |directory| names.clone().into_iter().map(|name| directory.join(name)));
    paths.filter(|path| path.is_file())
}

/// The first program that can be an emulator, by what kind of program it is.
pub fn program(
    architecture: &Architecture,
    directories: &[PathBuf],
) -> Result<PathBuf, Vec<Rejected>> {
    let mut rejected = Vec::new();
    for program in candidates(architecture, directories) {
        match check(&program) {
            Ok(()) => return Ok(program),
            Err(reason) => rejected.push(Rejected { program, reason }),
        }
    }
    Err(rejected)
}

/// Finds an emulator that starts, and asks it for its version.
pub fn find(architecture: &Architecture, directories: &[PathBuf]) -> Result<Found, Vec<Rejected>> {
    let program = program(architecture, directories)?;
    match version(&program) {
        Ok(version) => Ok(Found { program, version }),
        Err(reason) => Err(vec![Rejected { program, reason }]),
    }
}

/// An emulator is started within the step's root, where none of its libraries are.
fn check(program: &Path) -> Result<(), String> {
    let mut file = File::open(program).map_err(|error| error.to_string())?;
    let mut header = [0; 64];
    file.read_exact(&mut header).map_err(|_| "it is no program".to_owned())?;
    let own = Architecture::named(&cofferdam_types::Platform::host().architecture);
    if !own.is_some_and(|own| own.is_of(&header[..HEADER])) {
        return Err("it is no program of this machine".to_owned());
    }
    match has_interpreter(&file, &header) {
        Some(false) => Ok(()),
        Some(true) => Err("it is not statically linked".to_owned()),
        None => Err("its program headers cannot be read".to_owned()),
    }
}

/// Whether a program needs a dynamic linker; nothing if it is damaged. `header` is the one of a
/// program for 64 bits in this machine's byte order, as those of all machines are that an engine
/// runs on (elf(5)).
fn has_interpreter(file: &File, header: &[u8; 64]) -> Option<bool> {
    const PT_INTERP: u32 = 3;
    let long = |at: usize| Some(u64::from_ne_bytes(header[at..at + 8].try_into().ok()?));
    let short = |at: usize| Some(u16::from_ne_bytes(header[at..at + 2].try_into().ok()?));
    let (table, size, count) = (long(32)?, short(54)?, short(56)?);
    for index in 0..count.min(SEGMENTS_MAX) {
        let mut kind = [0; 4];
        let offset = table.checked_add(u64::from(index) * u64::from(size))?;
        file.read_exact_at(&mut kind, offset).ok()?;
        if u32::from_ne_bytes(kind) == PT_INTERP {
            return Some(true);
        }
    }
    Some(false)
}

fn version(program: &Path) -> Result<String, String> {
    let mut command = Command::new(program);
    command.arg("--version").env_clear().stdin(Stdio::null()).stderr(Stdio::null());
    let output = command.output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next().unwrap_or_default();
    // qemu-aarch64 version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)
    let version = line.split_once(" version ").map_or(line, |(_, version)| version).trim();
    let version: String = version.chars().filter(|c| !c.is_control()).take(VERSION_MAX).collect();
    match output.status.success() && !version.is_empty() {
        true => Ok(version),
        false => Err(format!("`--version` says nothing useful ({})", output.status)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn arm64() -> &'static Architecture {
        Architecture::named("arm64").expect("it is known")
    }

    /// A directory with an emulator that is a statically linked program, made by the C compiler.
    fn directory(main: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        let source = dir.path().join("emulator.c");
        fs::write(&source, format!("#include <stdio.h>\nint main(void) {{ {main} }}\n"))
            .expect("written");
        let mut command = Command::new("cc");
        command.args(["-static", "-o"]).arg(dir.path().join("qemu-aarch64-static")).arg(source);
        assert!(command.status().expect("cc runs").success());
        dir
    }

    #[test]
    fn the_first_that_can_be_used_is_taken() {
        let good = directory(r#"puts("qemu-aarch64 version 9.9 (Test)\nmore"); return 0;"#);
        let bad = tempfile::tempdir().expect("a directory");
        fs::copy("/bin/sh", bad.path().join("qemu-aarch64")).expect("copied");
        fs::write(bad.path().join("buildkit-qemu-aarch64"), "#!/bin/sh\n").expect("written");
        fs::create_dir(bad.path().join("qemu-aarch64-static")).expect("made");
        let found = find(arm64(), &[bad.path().to_owned(), good.path().to_owned()]);
        let found = found.expect("there is one");
        assert_eq!(found.program, good.path().join("qemu-aarch64-static"));
        assert_eq!(found.version, "9.9 (Test)");
        let rejected = find(arm64(), &[bad.path().to_owned()]).expect_err("there is none");
        let reasons: Vec<_> = rejected.iter().map(|one| one.reason.as_str()).collect();
        assert_eq!(reasons, ["it is not statically linked", "it is no program"]);
    }

    #[test]
    fn an_emulator_has_to_start() {
        let broken = directory("return 3;");
        let directories = [broken.path().to_owned()];
        let rejected = find(arm64(), &directories).expect_err("it fails");
        assert!(rejected[0].reason.contains("exit status: 3"), "{rejected:?}");
        let program = broken.path().join("qemu-aarch64-static");
        fs::set_permissions(program, fs::Permissions::from_mode(0o644)).expect("changed");
        let rejected = find(arm64(), &directories).expect_err("it cannot be executed");
        assert!(rejected[0].reason.contains("ermission denied"), "{rejected:?}");
        assert_eq!(find(arm64(), &[]), Err(Vec::new()));
    }
}
