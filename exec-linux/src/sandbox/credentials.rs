//! What the step's process may do: capabilities, ids, no_new_privs, the seccomp filter. The order
//! matters: each line needs what a later one takes away.

use std::io;

use rustix::fs::{Gid, Uid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
    set_keep_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

use super::{Doing, Result};
use crate::step::{Security, Step};

/// Docker's default capabilities (moby/daemon/pkg/oci/caps/defaults.go).
const DEFAULT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::AUDIT_WRITE);

/// The names of the default capabilities, as the OCI runtime specification has them.
pub fn default_names() -> Vec<String> {
    DEFAULT.iter_names().map(|(name, _)| format!("CAP_{name}")).collect()
}

/// Applies the step's confinement to this process.
///
/// `before_filter` is called as soon as seccomp filters can be installed.
pub fn restrict(
    step: &Step,
    filter: Option<&[u8]>,
    devices_guarded: bool,
    before_filter: impl FnOnce(),
) -> Result<()> {
    let insecure = step.privileges.security == Security::Insecure;
    let own = rustix::thread::capabilities(None)
        .doing(|| "reading own capabilities".to_owned())?
        .permitted;
    let mut allowed = if insecure { own } else { DEFAULT & own };
    if !devices_guarded {
        // Nothing else keeps a step from making and using a node of the host's disk.
        allowed -= CapabilitySet::MKNOD;
    }
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if insecure || allowed.contains(capability) {
            continue;
        }
        match remove_capability_from_bounding_set(capability) {
            // A number that this kernel does not have.
            Err(rustix::io::Errno::INVAL) => break,
            result => result.doing(|| format!("dropping capability {number}"))?,
        }
    }
    if !insecure && step.no_new_privileges {
        set_no_new_privs(true).doing(|| "setting no_new_privs".to_owned())?;
    }
    before_filter();
    if let Some(filter) = filter {
        install(filter, 0).doing(|| "installing the seccomp filter".to_owned())?;
    }
    set_ids(step, insecure)?;
    let (kept, inherited) = match (insecure, step.user.uid) {
        (true, _) => (allowed, allowed),
        (false, 0) => (allowed, CapabilitySet::empty()),
        (false, _) => (CapabilitySet::empty(), CapabilitySet::empty()),
    };
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: inherited };
    set_capabilities(None, sets).doing(|| "setting capabilities".to_owned())?;
    clear_ambient_capability_set().doing(|| "clearing ambient capabilities".to_owned())?;
    for capability in inherited.iter() {
        configure_capability_in_ambient_set(capability, true)
            .doing(|| "setting ambient capabilities".to_owned())?;
    }
    Ok(())
}

fn set_ids(step: &Step, keep_capabilities: bool) -> Result<()> {
    let user = &step.user;
    let doing = || format!("becoming user {}:{}", user.uid, user.gid);
    set_keep_capabilities(keep_capabilities).doing(doing)?;
    let groups: Vec<Gid> = user.groups.iter().copied().map(Gid::from_raw).collect();
    set_thread_groups(&groups).doing(|| "setting supplementary groups".to_owned())?;
    let gid = Gid::from_raw(user.gid);
    set_thread_res_gid(gid, gid, gid).doing(doing)?;
    let uid = Uid::from_raw(user.uid);
    set_thread_res_uid(uid, uid, uid).doing(doing)
}

/// Installs a filter, given as the bytes of its `sock_filter`s. Returns what the kernel gives for
/// the flags.
pub fn install(filter: &[u8], flags: libc::c_ulong) -> io::Result<i32> {
    // A copy, since bytes need not be aligned as the kernel's structure is.
    let instructions: Vec<libc::sock_filter> = filter
        .chunks_exact(size_of::<libc::sock_filter>())
        .map(|bytes| libc::sock_filter {
            code: u16::from_ne_bytes([bytes[0], bytes[1]]),
            jt: bytes[2],
            jf: bytes[3],
            k: u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        })
        .collect();
    let program = libc::sock_fprog {
        len: u16::try_from(instructions.len()).map_err(io::Error::other)?,
        filter: instructions.as_ptr().cast_mut(),
    };
    // SAFETY: `program` points to `len` instructions that live until the call returns, and which
    // the kernel only reads.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}
