//! What this machine's processor executes by itself.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use cofferdam_types::Platform;
use rustix::fs::{MemfdFlags, memfd_create};

/// How programs of a platform run without an emulator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Native {
    /// As this program does.
    Yes,
    /// In the processor's 32-bit mode.
    In32Bits,
    /// Not at all.
    No,
    /// The architecture is the same, but this processor lacks what the variant needs.
    TooOld,
}

/// How programs of a platform run here without an emulator.
pub fn native(platform: &Platform) -> Native {
    let host = Platform::host();
    if platform.os != host.os {
        return Native::No;
    }
    match (host.architecture.as_str(), platform.architecture.as_str()) {
        ("amd64", "amd64") if !has_level(&platform.variant) => Native::TooOld,
        (own, wanted) if own == wanted => Native::Yes,
        ("amd64", "386") if runs_32_bits(&EXIT_386) => Native::In32Bits,
        ("arm64", "arm") if runs_32_bits(&EXIT_ARM) => Native::In32Bits,
        _ => Native::No,
    }
}

/// The levels of x86-64 above the first that this processor has.
pub fn levels() -> impl Iterator<Item = &'static str> {
    ["v2", "v3", "v4"].into_iter().filter(|level| has_level(level))
}

/// Whether the processor has a level of x86-64 (System V ABI, AMD64 supplement, section 3.1.1).
#[cfg(target_arch = "x86_64")]
fn has_level(variant: &str) -> bool {
    use std::arch::is_x86_feature_detected as has;
    let v2 = || {
        has!("cmpxchg16b")
            && has!("popcnt")
            && has!("sse3")
            && has!("sse4.1")
            && has!("sse4.2")
            && has!("ssse3")
    };
    let v3 = || {
        v2() && has!("avx")
            && has!("avx2")
            && has!("bmi1")
            && has!("bmi2")
            && has!("f16c")
            && has!("fma")
            && has!("lzcnt")
            && has!("movbe")
    };
    let v4 = || {
        v3() && has!("avx512f")
            && has!("avx512bw")
            && has!("avx512cd")
            && has!("avx512dq")
            && has!("avx512vl")
    };
    match variant {
        "" | "v1" => true,
        "v2" => v2(),
        "v3" => v3(),
        "v4" => v4(),
        _ => false,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn has_level(_variant: &str) -> bool {
    false
}

/// Whether the kernel and the processor run a 32-bit program: kernels can be built and processors
/// made without. Found out once, by running one.
fn runs_32_bits(program: &[u8]) -> bool {
    static RUNS: OnceLock<bool> = OnceLock::new();
    *RUNS.get_or_init(|| exits_well(program).unwrap_or(false))
}

fn exits_well(program: &[u8]) -> io::Result<bool> {
    let mut written = File::from(memfd_create("cofferdam-probe", MemfdFlags::CLOEXEC)?);
    written.write_all(program)?;
    written.set_permissions(Permissions::from_mode(0o500))?;
    // By this process's name: the child's descriptor is closed when the program starts.
    let path = |file: &File| format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    // What is open for writing cannot be started.
    let file = File::open(path(&written))?;
    drop(written);
    let mut command = Command::new(path(&file));
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    loop {
        match command.status() {
            // Another thread has just started a process, which has what was open until it begins.
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                std::thread::yield_now();
            }
            status => return Ok(status?.code() == Some(EXIT)),
        }
    }
}

/// The exit code of the programs below.
const EXIT: i32 = 37;

/// `mov eax, 1; mov ebx, 37; int 0x80` as a program for i386.
const EXIT_386: [u8; 96] =
    program_32(3, 0, [0xb8, 1, 0, 0, 0, 0xbb, EXIT as u8, 0, 0, 0, 0xcd, 0x80]);
/// `mov r0, #37; mov r7, #1; svc 0` as a program for arm (EABI 5).
const EXIT_ARM: [u8; 96] =
    program_32(40, 0x0500_0000, [EXIT as u8, 0, 0xa0, 0xe3, 1, 0x70, 0xa0, 0xe3, 0, 0, 0, 0xef]);

/// A program of one segment (elf(5)).
const fn program_32(machine: u8, flags: u32, code: [u8; 12]) -> [u8; 96] {
    /// Where the segment is loaded, and where the code begins in it.
    const ADDRESS: u32 = 0x0040_0000;
    const START: u32 = 84;
    let mut file = [0; 96];
    let words: [(usize, u32); 17] = [
        (0, u32::from_le_bytes([0x7f, b'E', b'L', b'F'])),
        // 32 bits, little-endian, version 1.
        (4, u32::from_le_bytes([1, 1, 1, 0])),
        // A program for the machine.
        (16, u32::from_le_bytes([2, 0, machine, 0])),
        (20, 1),
        // Where it starts; where the headers of segments are.
        (24, ADDRESS + START),
        (28, 52),
        (36, flags),
        // Sizes of the header and of a segment's; one segment.
        (40, u32::from_le_bytes([52, 0, 32, 0])),
        (44, 1),
        // The segment: loaded from the beginning of the file, readable and executable.
        (52, 1),
        (56, 0),
        (60, ADDRESS),
        (64, ADDRESS),
        (68, 96),
        (72, 96),
        (76, 5),
        (80, 0x1000),
    ];
    let mut word = 0;
    while word < words.len() {
        let (offset, bytes) = (words[word].0, words[word].1.to_le_bytes());
        let mut byte = 0;
        while byte < 4 {
            file[offset + byte] = bytes[byte];
            byte += 1;
        }
        word += 1;
    }
    let mut byte = 0;
    while byte < code.len() {
        file[START as usize + byte] = code[byte];
        byte += 1;
    }
    file
}

#[cfg(test)]
mod tests {
    use super::super::architecture::Architecture;
    use super::*;

    fn of(platform: &str) -> Native {
        native(&platform.parse().expect("a platform"))
    }

    #[test]
    fn this_machine_runs_its_own_programs() {
        let host = Platform::host();
        assert_eq!(native(&host), Native::Yes);
        assert_eq!(of("windows/amd64"), Native::No);
        assert_eq!(of("linux/s390x"), Native::No);
        assert_eq!(of("wasi/wasm"), Native::No);
        if host.architecture == "amd64" {
            assert_eq!(of("linux/amd64/v99"), Native::TooOld);
            let flags = std::fs::read_to_string("/proc/cpuinfo").expect("it is readable");
            let has = |flag| flags.split_whitespace().any(|known| known == flag);
            assert_eq!(of("linux/amd64/v4") == Native::Yes, has("avx512vl") && has("avx512dq"));
            assert_eq!(of("linux/386"), Native::In32Bits, "IA-32 is on in common kernels");
        }
    }

    #[test]
    fn the_probes_are_programs_of_their_architecture() {
        for (program, name) in [(EXIT_386, "386"), (EXIT_ARM, "arm")] {
            assert_eq!(Architecture::of_program(&program).map(|found| found.name), Some(name));
        }
        assert!(!exits_well(b"\x7fELF and nothing else").unwrap_or(false));
    }
}
