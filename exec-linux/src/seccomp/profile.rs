//! Docker's default seccomp profile as tables: which calls are allowed on which architecture, and
//! the rules on arguments. The list of calls is in `profile.txt`, which names its source.

/// What the filter answers for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The call is carried out.
    Allow,
    /// The call fails with this error number.
    Errno(u16),
    /// The calling thread is killed: the call is of an architecture that the profile lacks
    /// (libseccomp's default for those).
    Kill,
    /// It depends on an argument; refused with EPERM where the rule does not hold.
    Argument(&'static ArgumentRule),
}

/// EPERM: what a call gets that the profile does not list.
pub const REFUSED: Verdict = Verdict::Errno(1);
/// ENOSYS: what a call gets that is newer than the profile, so that programs fall back to an older
/// call instead of failing. runc does this for Docker.
pub const UNKNOWN: Verdict = Verdict::Errno(38);

/// A condition on one argument, all of whose upper 32 bits must be zero or, for
/// [`Test::NoneOf`], are not looked at.
#[derive(Debug, PartialEq, Eq)]
pub struct ArgumentRule {
    /// Which argument, from 0.
    pub index: u8,
    /// The condition.
    pub test: Test,
}

/// A condition on a value.
#[derive(Debug, PartialEq, Eq)]
pub enum Test {
    /// It lies in one of these ranges (both ends included), which are sorted.
    OneOf(&'static [(u32, u32)]),
    /// None of these bits is set.
    NoneOf(u32),
}

/// The address families of socket(2) that Linux still has, without AF_ALG (the kernel's crypto
/// interface, an attack surface nobody needs in a build) and AF_VSOCK (which reaches the
/// hypervisor across network namespaces).
static SOCKET: ArgumentRule = ArgumentRule {
    index: 0,
    test: Test::OneOf(&[
        (0, 11),
        (13, 18),
        (21, 22),
        (24, 24),
        (26, 33),
        (35, 36),
        (39, 39),
        (41, 45),
    ]),
};

/// PER_LINUX, PER_LINUX32, UNAME26, both of the latter, and the query.
static PERSONALITY: ArgumentRule = ArgumentRule {
    index: 0,
    test: Test::OneOf(&[
        (0, 0),
        (8, 8),
        (0x2_0000, 0x2_0000),
        (0x2_0008, 0x2_0008),
        (0xffff_ffff, 0xffff_ffff),
    ]),
};

/// No new namespaces: CLONE_NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET, NEWCGROUP.
static CLONE: ArgumentRule = ArgumentRule { index: 0, test: Test::NoneOf(0x7e02_0000) };

/// A machine's native architecture, which decides what other architectures it can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Native {
    /// Runs x86_64, i386 and x32.
    X86_64,
    /// Runs aarch64 and arm.
    Aarch64,
}

impl Native {
    /// Returns the architecture that this program was built for.
    pub fn of_this_machine() -> Option<Self> {
        if cfg!(all(target_arch = "x86_64", target_pointer_width = "64")) {
            Some(Self::X86_64)
        } else if cfg!(target_arch = "aarch64") {
            Some(Self::Aarch64)
        } else {
            None
        }
    }
}

/// The rules for one `AUDIT_ARCH_*` value.
#[derive(Debug)]
pub struct ArchRules {
    /// `AUDIT_ARCH_*` of linux/audit.h.
    pub audit_arch: u32,
    /// Where each answer begins; it holds up to the next start. The first start is 0.
    pub intervals: Vec<(u32, Verdict)>,
}

/// The blocks of numbers in which calls are given out: ordinary ones, arm's private ones, x32's.
/// Above the highest known call of its block a number is [`UNKNOWN`].
const BLOCKS: [(u32, u32); 3] = [(0, 0xeffff), (0xf_0000, 0x3fff_ffff), (0x4000_0000, 0xffff_ffff)];

/// Returns the rules for all architectures of a machine, the native one first.
pub fn rules(native: Native) -> Vec<ArchRules> {
    // Columns of the table. x86_64 and x32 share an AUDIT_ARCH; x32 numbers carry bit 30.
    let arches: &[(u32, &[usize])] = match native {
        Native::X86_64 => &[(0xc000_003e, &[2, 4]), (0x4000_0003, &[3])],
        Native::Aarch64 => &[(0xc000_00b7, &[5]), (0x4000_0028, &[6])],
    };
    arches
        .iter()
        .map(|&(audit_arch, columns)| ArchRules { audit_arch, intervals: intervals(columns) })
        .collect()
}

/// Returns the listed calls of some columns: number, name, answer.
pub fn listed(columns: &[usize]) -> Vec<(u32, &'static str, Verdict)> {
    let mut calls = Vec::new();
    for line in include_str!("profile.txt").lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&'static str> = line.split_ascii_whitespace().collect();
        let verdict = match fields[1] {
            "allow" => Verdict::Allow,
            "nosys" => UNKNOWN,
            "socket" => Verdict::Argument(&SOCKET),
            "personality" => Verdict::Argument(&PERSONALITY),
            "clone" => Verdict::Argument(&CLONE),
            rule => unreachable!("profile.txt is part of this crate and has no rule {rule}"),
        };
        for number in columns.iter().map(|&column| fields[column]).filter(|n| *n != "-") {
            let number = number.parse().expect("profile.txt has only numbers and dashes");
            calls.push((number, fields[0], verdict));
        }
    }
    calls.sort_by_key(|call| call.0);
    calls
}

fn intervals(columns: &[usize]) -> Vec<(u32, Verdict)> {
    let calls = listed(columns);
    let mut intervals: Vec<(u32, Verdict)> = Vec::new();
    let mut push = |start, verdict| {
        if intervals.last().is_none_or(|last: &(u32, Verdict)| last.1 != verdict) {
            intervals.push((start, verdict));
        }
    };
    for (first, last) in BLOCKS {
        let mut next = first;
        for &(number, _, verdict) in calls.iter().filter(|c| (first..=last).contains(&c.0)) {
            if number > next {
                push(next, REFUSED);
            }
            push(number, verdict);
            next = number + 1;
        }
        push(next, UNKNOWN);
    }
    intervals
}
