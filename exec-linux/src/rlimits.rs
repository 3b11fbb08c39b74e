//! Limits of each process of a step (getrlimit(2)), under the names that Docker's `--ulimit` has.

use std::io;

use rustix::process::{Resource, setrlimit};

use crate::step::Rlimit;

/// The names, and what they mean.
const RESOURCES: [(&str, Resource); 16] = [
    ("as", Resource::As),
    ("core", Resource::Core),
    ("cpu", Resource::Cpu),
    ("data", Resource::Data),
    ("fsize", Resource::Fsize),
    ("locks", Resource::Locks),
    ("memlock", Resource::Memlock),
    ("msgqueue", Resource::Msgqueue),
    ("nice", Resource::Nice),
    ("nofile", Resource::Nofile),
    ("nproc", Resource::Nproc),
    ("rss", Resource::Rss),
    ("rtprio", Resource::Rtprio),
    ("rttime", Resource::Rttime),
    ("sigpending", Resource::Sigpending),
    ("stack", Resource::Stack),
];

/// Returns the resource of a name.
pub fn resource(name: &str) -> Option<Resource> {
    RESOURCES.iter().find(|(known, _)| *known == name).map(|(_, resource)| *resource)
}

/// Limits this process and those that it starts.
pub fn set(limit: &Rlimit) -> io::Result<()> {
    let unknown = || io::Error::new(io::ErrorKind::InvalidInput, "there is no such resource");
    let bound = |value: u64| Some(value).filter(|value| *value != u64::MAX);
    let limits = rustix::process::Rlimit { current: bound(limit.soft), maximum: bound(limit.hard) };
    Ok(setrlimit(resource(&limit.name).ok_or_else(unknown)?, limits)?)
}
