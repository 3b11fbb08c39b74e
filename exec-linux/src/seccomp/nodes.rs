//! A second, small filter for steps in a user namespace of their own, where the kernel refuses to
//! make device nodes: it hands the calls that would make one to the sandbox helper.

use super::compile::{ARCH, ARGS, Instruction, JUMP_EQUAL, LOAD, NUMBER, RETURN};
use super::profile::Native;

/// A system call that makes files of any type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MakeNode {
    /// `AUDIT_ARCH_*` of linux/audit.h.
    arch: u32,
    number: u32,
    /// Which argument is the mode: the path comes before it, the device after it.
    pub mode: usize,
}

impl MakeNode {
    /// Whether the path is preceded by the descriptor of a directory.
    pub fn has_directory(&self) -> bool {
        self.mode == 2
    }
}

/// `mknod` and `mknodat` of each architecture (linux: arch/*/entry/syscalls/*.tbl).
const X86_64: [MakeNode; 6] = [
    MakeNode { arch: 0xc000_003e, number: 133, mode: 1 },
    MakeNode { arch: 0xc000_003e, number: 259, mode: 2 },
    MakeNode { arch: 0x4000_0003, number: 14, mode: 1 },
    MakeNode { arch: 0x4000_0003, number: 297, mode: 2 },
    // x32
    MakeNode { arch: 0xc000_003e, number: 0x4000_0000 + 133, mode: 1 },
    MakeNode { arch: 0xc000_003e, number: 0x4000_0000 + 259, mode: 2 },
];
const AARCH64: [MakeNode; 3] = [
    MakeNode { arch: 0xc000_00b7, number: 33, mode: 2 },
    MakeNode { arch: 0x4000_0028, number: 14, mode: 1 },
    MakeNode { arch: 0x4000_0028, number: 324, mode: 2 },
];

fn calls(native: Native) -> &'static [MakeNode] {
    match native {
        Native::X86_64 => &X86_64,
        Native::Aarch64 => &AARCH64,
    }
}

/// Returns which of the calls that the filter hands over this is.
pub fn call(arch: u32, number: u32) -> Option<MakeNode> {
    let calls = calls(Native::of_this_machine()?).iter();
    calls.copied().find(|call| (call.arch, call.number) == (arch, number))
}

/// Returns the filter, as the bytes of its `sock_filter`s.
pub fn native_filter() -> Option<Vec<u8>> {
    let native = Native::of_this_machine()?;
    Some(filter(native).iter().flat_map(|instruction| instruction.to_bytes()).collect())
}

/// `BPF_ALU | BPF_AND | BPF_K`
const AND: u16 = 0x54;

/// Compiles the filter of a machine: for each call, ten instructions that decide or go on to the
/// next. The kernel notes by itself which calls are always allowed, and does not run it for them.
pub fn filter(native: Native) -> Vec<Instruction> {
    const LENGTH: u8 = 10;
    let allow = Instruction { code: RETURN, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW };
    let mut program = Vec::new();
    for call in calls(native) {
        let load = |k| Instruction { code: LOAD, jt: 0, jf: 0, k };
        // Skips as many instructions where it is not equal.
        let equal = |k, jt, jf| Instruction { code: JUMP_EQUAL, jt, jf, k };
        program.extend([
            load(ARCH),
            equal(call.arch, 0, LENGTH - 2),
            load(NUMBER),
            equal(call.number, 0, LENGTH - 4),
            load(ARGS + 8 * call.mode as u32),
            Instruction { code: AND, jt: 0, jf: 0, k: libc::S_IFMT },
            equal(libc::S_IFCHR, 1, 0),
            equal(libc::S_IFBLK, 0, 1),
            Instruction { code: RETURN, jt: 0, jf: 0, k: libc::SECCOMP_RET_USER_NOTIF },
            allow,
        ]);
    }
    program.push(allow);
    program
}
