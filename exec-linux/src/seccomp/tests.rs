//! Runs the compiled filter in an interpreter, against the table and against libseccomp's compile
//! of the same rules.

use std::ffi::{CString, c_char, c_int, c_void};
use std::io::Read;
use std::os::fd::AsRawFd;

use super::compile::*;
use super::profile::*;

/// Interprets a filter as net/core/filter.c does. Returns the action and the steps taken.
fn run(program: &[Instruction], arch: u32, number: u32, args: [u64; 6]) -> (u32, usize) {
    let load = |offset: u32| match offset {
        0 => number,
        4 => arch,
        16.. => {
            let argument = args[(offset as usize - 16) / 8];
            if offset.is_multiple_of(8) { argument as u32 } else { (argument >> 32) as u32 }
        }
        _ => panic!("the filters do not look at offset {offset}"),
    };
    let (mut accumulator, mut scratch, mut at) = (0, [0u32; 16], 0);
    for steps in 1.. {
        let Instruction { code, jt, jf, k } = program[at];
        at += 1;
        let jump = |condition| usize::from(if condition { jt } else { jf });
        match code {
            LOAD => accumulator = load(k),
            JUMP => at += k as usize,
            JUMP_EQUAL => at += jump(accumulator == k),
            JUMP_NOT_BELOW => at += jump(accumulator >= k),
            JUMP_ANY_BIT => at += jump(accumulator & k != 0),
            0x25 => at += jump(accumulator > k),
            0x54 => accumulator &= k,
            0x02 => scratch[k as usize] = accumulator,
            0x60 => accumulator = scratch[k as usize],
            RETURN => return (k, steps),
            _ => panic!("operation {code:#x} is not interpreted"),
        }
    }
    unreachable!("filters end")
}

const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;

/// The architectures with their `AUDIT_ARCH_*`, column of the table, and highest numbers to try.
const ARCHES: [(Native, u32, usize, u32, u32); 6] = [
    (Native::X86_64, 0xc000_003e, 2, 0, 1100),
    (Native::X86_64, 0x4000_0003, 3, 0, 1100),
    (Native::X86_64, 0xc000_003e, 4, 0x4000_0000, 0x4000_0000 + 1100),
    (Native::Aarch64, 0xc000_00b7, 5, 0, 1100),
    (Native::Aarch64, 0x4000_0028, 6, 0, 1100),
    (Native::Aarch64, 0x4000_0028, 6, 0xf_0000, 0xf_0010),
];

fn samples() -> Vec<u64> {
    let mut samples: Vec<u64> = (0..64).map(|bit| 1 << bit).collect();
    samples.extend(0..60);
    samples.extend([0x2_0008, 0x2_0009, 0xffff_ffff, 0x1_0000_0008, u64::MAX, 0x0120_0011]);
    samples
}

fn expected(verdict: Verdict, argument: u64) -> u32 {
    match verdict {
        Verdict::Allow => ALLOW,
        Verdict::Errno(errno) => 0x0005_0000 | u32::from(errno),
        Verdict::Kill => 0,
        Verdict::Argument(rule) => {
            assert_eq!(rule.index, 0);
            let holds = match rule.test {
                Test::OneOf(ranges) => {
                    ranges.iter().any(|&(a, b)| (u64::from(a)..=u64::from(b)).contains(&argument))
                }
                Test::NoneOf(bits) => argument as u32 & bits == 0,
            };
            if holds { ALLOW } else { EPERM }
        }
    }
}

#[test]
fn every_number_gets_the_answer_of_the_table() {
    for (native, arch, column, first, last) in ARCHES {
        let program = filter(native);
        let calls = listed(&[column]);
        for number in first..=last {
            let call = calls.iter().find(|call| call.0 == number);
            let block_end = if number >= 0xf_0000 { u32::MAX } else { 0xf_0000 };
            let newest = calls.iter().map(|call| call.0).filter(|n| *n < block_end).max();
            let verdict = match call {
                Some(call) => call.2,
                None if Some(number) > newest => UNKNOWN,
                None => REFUSED,
            };
            let arguments = if call.is_some() { samples() } else { vec![0] };
            for argument in arguments {
                let (got, steps) = run(&program, arch, number, [argument, 0, 0, 0, 0, 0]);
                assert_eq!(
                    got,
                    expected(verdict, argument),
                    "{call:?} {number} of {arch:#x}, argument {argument:#x}"
                );
                assert!(steps < 40, "a search of {steps} steps is not binary");
            }
        }
    }
}

#[test]
fn calls_that_escape_are_refused() {
    let program = filter(Native::X86_64);
    let answer = |number, argument| run(&program, 0xc000_003e, number, [argument, 0, 0, 0, 0, 0]).0;
    for (name, number, argument, expected) in [
        ("read", 0, 0, ALLOW),
        ("clone of a thread", 56, 0x003d_0f00, ALLOW),
        ("clone with CLONE_NEWUSER", 56, 0x1000_0000, EPERM),
        ("clone3", 435, 0, ENOSYS),
        ("mount", 165, 0, EPERM),
        ("umount2", 166, 0, EPERM),
        ("unshare", 272, 0, EPERM),
        ("setns", 308, 0, EPERM),
        ("keyctl", 250, 0, EPERM),
        ("add_key", 248, 0, EPERM),
        ("bpf", 321, 0, EPERM),
        ("io_uring_setup", 425, 0, EPERM),
        ("open_by_handle_at", 304, 0, EPERM),
        ("kexec_load", 246, 0, EPERM),
        ("fsopen", 430, 0, EPERM),
        ("userfaultfd", 323, 0, EPERM),
        ("ptrace", 101, 0, ALLOW),
        ("chroot", 161, 0, ALLOW),
        ("socket of AF_INET", 41, 2, ALLOW),
        ("socket of AF_ALG", 41, 38, EPERM),
        ("socket of AF_VSOCK", 41, 40, EPERM),
        ("socket of a huge family", 41, 1 << 32 | 2, EPERM),
        ("personality ADDR_NO_RANDOMIZE", 135, 0x0004_0000, EPERM),
        ("a call of the future", 600, 0, ENOSYS),
        ("number -1", 0xffff_ffff, 0, ENOSYS),
    ] {
        assert_eq!(answer(number, argument), expected, "{name}");
    }
    // An architecture that x86_64 machines do not run.
    assert_eq!(run(&program, 0xc000_00b7, 0, [0; 6]).0, 0);
}

#[test]
fn the_filter_is_small() {
    for native in [Native::X86_64, Native::Aarch64] {
        let length = filter(native).len();
        assert!((100..700).contains(&length), "{native:?}: {length} instructions");
    }
}

/// `struct scmp_arg_cmp` of seccomp.h.
#[repr(C)]
struct Comparison {
    index: u32,
    operator: c_int,
    first: u64,
    second: u64,
}

/// `enum scmp_compare` of seccomp.h.
const LESS: c_int = 2;
const EQUAL: c_int = 4;
const MASKED: c_int = 7;

/// The calls newer than libseccomp 2.5.4, by the number that all architectures share.
const NEWER: [&str; 16] = [
    "cachestat",
    "fchmodat2",
    "futex_requeue",
    "futex_wait",
    "futex_wake",
    "getxattrat",
    "listmount",
    "listxattrat",
    "map_shadow_stack",
    "mseal",
    "removexattrat",
    "setxattrat",
    "statmount",
    "uretprobe",
    "set_mempolicy_home_node",
    "riscv_hwprobe",
];

/// Compiles the table with libseccomp for one architecture, by the calls' *names*, so that this
/// also checks the numbers.
fn libseccomp(token: u32, column: usize) -> Vec<Instruction> {
    // SAFETY: the library's name is NUL-terminated; loading it runs only its constructors.
    let library = unsafe { libc::dlopen(c"libseccomp.so.2".as_ptr(), libc::RTLD_NOW) };
    assert!(!library.is_null(), "this test needs the package libseccomp2");
    let symbol = |name: &std::ffi::CStr| {
        // SAFETY: `library` is a handle that is never closed.
        let symbol = unsafe { libc::dlsym(library, name.as_ptr()) };
        assert!(!symbol.is_null(), "libseccomp has no {name:?}");
        symbol
    };
    // SAFETY: these are the prototypes of seccomp.h of libseccomp 2.5.
    let (init, arch_add, arch_remove, resolve, add, export) = unsafe {
        type P = *mut c_void;
        (
            std::mem::transmute::<P, extern "C" fn(u32) -> P>(symbol(c"seccomp_init")),
            std::mem::transmute::<P, extern "C" fn(P, u32) -> c_int>(symbol(c"seccomp_arch_add")),
            std::mem::transmute::<P, extern "C" fn(P, u32) -> c_int>(symbol(
                c"seccomp_arch_remove",
            )),
            std::mem::transmute::<P, extern "C" fn(u32, *const c_char) -> c_int>(symbol(
                c"seccomp_syscall_resolve_name_arch",
            )),
            std::mem::transmute::<P, extern "C" fn(P, u32, c_int, u32, *const Comparison) -> c_int>(
                symbol(c"seccomp_rule_add_array"),
            ),
            std::mem::transmute::<P, extern "C" fn(P, c_int) -> c_int>(symbol(
                c"seccomp_export_bpf",
            )),
        )
    };
    let context = init(EPERM);
    assert_eq!(arch_remove(context, 0), 0);
    assert_eq!(arch_add(context, token), 0);
    for (_, name, verdict) in listed(&[column]) {
        let c_name = CString::new(name).expect("names have no NUL");
        // Rules are given in the native architecture's numbers (0 stands for it), and translated.
        let number = resolve(0, c_name.as_ptr());
        if number == -1 {
            assert!(NEWER.contains(&name), "libseccomp does not know {name}");
            continue;
        }
        let allow = |operator, first, second| {
            let comparison = Comparison { index: 0, operator, first, second };
            assert_eq!(add(context, ALLOW, number, 1, &comparison), 0, "{name}");
        };
        match verdict {
            Verdict::Argument(rule) => match rule.test {
                Test::NoneOf(bits) => allow(MASKED, u64::from(bits), 0),
                Test::OneOf(ranges) => {
                    for &(first, last) in ranges {
                        if first == 0 && last > 0 {
                            allow(LESS, u64::from(last) + 1, 0);
                        } else {
                            (first..=last).for_each(|value| allow(EQUAL, u64::from(value), 0));
                        }
                    }
                }
            },
            Verdict::Allow => {
                assert_eq!(
                    add(context, ALLOW, number, 0, std::ptr::null()),
                    0,
                    "{name} {number} {token:#x}"
                );
            }
            UNKNOWN => {
                assert_eq!(add(context, ENOSYS, number, 0, std::ptr::null()), 0, "{name}");
            }
            other => panic!("the table has no {other:?}"),
        }
    }
    let mut file = tempfile::tempfile().expect("a temporary file");
    assert_eq!(export(context, file.as_raw_fd()), 0);
    std::io::Seek::rewind(&mut file).expect("a file seeks");
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).expect("a file reads");
    bytes
        .chunks_exact(8)
        .map(|b| Instruction {
            code: u16::from_ne_bytes([b[0], b[1]]),
            jt: b[2],
            jf: b[3],
            k: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
        })
        .collect()
}

#[test]
fn libseccomp_gives_the_same_answers() {
    let tokens = [0xc000_003e, 0x4000_0003, 0x4000_003e, 0xc000_00b7, 0x4000_0028, 0x4000_0028];
    for ((native, arch, column, first, last), token) in ARCHES.into_iter().zip(tokens) {
        let ours = filter(native);
        // For 32-bit architectures, x32 too, libseccomp does not look at the upper half.
        let wide = [2, 5].contains(&column);
        let theirs = libseccomp(token, column);
        let newer: Vec<u32> =
            listed(&[column]).iter().filter(|c| NEWER.contains(&c.1)).map(|c| c.0).collect();
        for number in (first..=last).filter(|number| !newer.contains(number)) {
            for argument in samples().into_iter().filter(|&a| wide || a <= u64::from(u32::MAX)) {
                let args = [argument, 0, 0, 0, 0, 0];
                let (our, their) =
                    (run(&ours, arch, number, args).0, run(&theirs, arch, number, args).0);
                // What we call unknown is newer than the table; libseccomp just refuses it.
                let same = our == their || (our == ENOSYS && their == EPERM && number != 435);
                assert!(same, "{number} of {token:#x}, {argument:#x}: {our:#x}, {their:#x}");
            }
        }
    }
}
