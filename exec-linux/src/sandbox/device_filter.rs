//! Which devices a step may use: an eBPF program on its cgroup, with the rules that runc has for
//! Docker. A step may make any device node (CAP_MKNOD is a default capability) but only open the
//! harmless ones. Where it cannot be attached, `mounts` and `credentials` forbid nodes altogether.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// `struct bpf_insn`: operation, destination (low) and source register, offset, immediate value.
#[repr(C)]
#[derive(Clone, Copy)]
struct Instruction(u8, u8, i16, i32);

const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xb7;
const COPY: u8 = 0xbf;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_EQUAL: u8 = 0x15;
const JUMP_NOT_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

const DEVICE_BLOCK: i32 = 1;
const DEVICE_CHARACTER: i32 = 2;
const ACCESS_MAKE_NODE: i32 = 1;
const ACCESS_READ: i32 = 2;
const ACCESS_WRITE: i32 = 4;

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;

/// A device that a step may use besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Whether it is a block device; else it is a character device.
    pub block: bool,
    /// Its major number.
    pub major: u32,
    /// Its minor number.
    pub minor: u32,
    /// Whether it may be opened for reading.
    pub read: bool,
    /// Whether it may be opened for writing.
    pub write: bool,
}

impl Rule {
    /// Allows what the rule does, and goes on behind it with everything else.
    fn instructions(self) -> [Instruction; 8] {
        use Instruction as I;
        const NEXT: i16 = 8 - 1;
        let kind = if self.block { DEVICE_BLOCK } else { DEVICE_CHARACTER };
        let read = if self.read { ACCESS_READ } else { 0 };
        let write = if self.write { ACCESS_WRITE } else { 0 };
        [
            I(JUMP_NOT_EQUAL, 2, NEXT, kind),
            I(JUMP_NOT_EQUAL, 4, NEXT - 1, self.major.cast_signed()),
            I(JUMP_NOT_EQUAL, 5, NEXT - 2, self.minor.cast_signed()),
            I(COPY, 0x30, 0, 0),
            I(AND, 0, 0, !(ACCESS_MAKE_NODE | read | write)),
            I(JUMP_NOT_EQUAL, 0, NEXT - 5, 0),
            I(MOVE, 0, 0, 1),
            I(EXIT, 0, 0, 0),
        ]
    }
}

/// How many instructions of [`PROGRAM`] come before what it decides.
const LOADS: usize = 6;

/// The program. Its argument is a `struct bpf_cgroup_dev_ctx`: access in the upper and device type
/// in the lower half of the first word, then the major and the minor number.
const PROGRAM: [Instruction; 23] = {
    use Instruction as I;
    const ALLOW: i16 = 22 - 1;
    const DENY: i16 = 20 - 1;
    const fn jump(operation: u8, register: u8, to: i16, at: i16, value: i32) -> Instruction {
        I(operation, register, to - at, value)
    }
    [
        I(LOAD_WORD, 0x12, 0, 0),
        I(LOAD_WORD, 0x14, 4, 0),
        I(LOAD_WORD, 0x15, 8, 0),
        I(COPY, 0x23, 0, 0),
        I(SHIFT_RIGHT, 3, 0, 16),
        I(AND, 2, 0, 0xffff),
        jump(JUMP_EQUAL, 3, ALLOW, 7, ACCESS_MAKE_NODE),
        jump(JUMP_NOT_EQUAL, 2, DENY, 8, DEVICE_CHARACTER),
        // /dev/pts/*
        jump(JUMP_EQUAL, 4, ALLOW, 9, 136),
        jump(JUMP_EQUAL, 4, 16, 10, 5),
        jump(JUMP_NOT_EQUAL, 4, DENY, 11, 1),
        // null, zero, full, random, urandom
        jump(JUMP_EQUAL, 5, ALLOW, 12, 3),
        jump(JUMP_EQUAL, 5, ALLOW, 13, 5),
        jump(JUMP_EQUAL, 5, ALLOW, 14, 7),
        jump(JUMP_EQUAL, 5, ALLOW, 15, 8),
        jump(JUMP_EQUAL, 5, ALLOW, 16, 9),
        // tty, ptmx; for a major of 1 neither 0 nor 2 (mem's neighbours) may pass
        jump(JUMP_NOT_EQUAL, 4, DENY, 17, 5),
        jump(JUMP_EQUAL, 5, ALLOW, 18, 0),
        jump(JUMP_EQUAL, 5, ALLOW, 19, 2),
        I(MOVE, 0, 0, 0),
        I(EXIT, 0, 0, 0),
        I(MOVE, 0, 0, 1),
        I(EXIT, 0, 0, 0),
    ]
};

/// The beginning of `union bpf_attr` for BPF_PROG_LOAD.
#[repr(C)]
#[derive(Default)]
struct Load {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    /// log_level, log_size, log_buf, kern_version, prog_flags, prog_name, and so on
    rest: [u64; 8],
}

/// The same for BPF_PROG_ATTACH.
#[repr(C)]
#[derive(Default)]
struct Attach {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

/// Loads the program into the kernel, with rules for further devices.
pub fn load(rules: impl IntoIterator<Item = Rule>) -> io::Result<OwnedFd> {
    let (loads, decides) = PROGRAM.split_at(LOADS);
    let rules: Vec<Instruction> = rules.into_iter().flat_map(Rule::instructions).collect();
    let program = [loads, &rules, decides].concat();
    let load = Load {
        program_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        instruction_count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..Load::default()
    };
    // SAFETY: the attributes have the size that is said, and what they point to outlives the call.
    let program =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const load, size_of::<Load>()) };
    if program == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made the descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(program as i32) })
}

/// Restricts the devices of a unified cgroup by the loaded program.
pub fn attach(program: &OwnedFd, cgroup: impl AsFd) -> io::Result<()> {
    let attach = Attach {
        target: cgroup.as_fd().as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        flags: 0,
    };
    // SAFETY: the attributes have the size that is said; both descriptors are open.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &raw const attach, size_of::<Attach>())
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
