//! The networks of steps: which one they get when they ask for none by name, and the network
//! namespaces they run in.
//!
//! Where this process is root on the host, a step gets an address of its own behind the host's
//! (`nat`); else a program that imitates the outside in user space, if there is one
//! (`user_mode`); else the host's network, and it is said why. [`Chosen`] tells what it came to.
//!
//! All is done on one thread, because netlink answers in order and a step's network is ready in
//! less than a millisecond. It is started for the first step that has a network of its own, and
//! while that one runs, it makes the next one's.

mod firewall;
mod link;
mod namespace;
mod nat;
mod netlink;
mod pool;
mod subnet;
#[cfg(test)]
mod tests;
mod user_mode;

use std::fmt;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use user_mode::Attached;

pub use nat::host_address;
pub use pool::Networks;
pub use subnet::{ParseSubnetError, Subnet};
pub use user_mode::Imitator;

/// How the network of steps is made that ask for none by name.
#[derive(Debug, Clone, Default)]
pub struct NetworkConfig {
    /// How it is to be made.
    pub mode: NetworkMode,
    /// Whence steps get their addresses; if it is not said, from one that is free on this host.
    pub subnet: Option<Subnet>,
    /// Addresses that steps must be able to reach, and so cannot have themselves: name servers.
    pub avoid: Vec<Ipv4Addr>,
    /// Where programs are looked for.
    pub programs: Vec<PathBuf>,
}

/// How the network of steps is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NetworkMode {
    /// The first of the others that can be had, in their order.
    #[default]
    Auto,
    /// An address of their own behind the host's.
    Nat,
    /// The program slirp4netns.
    Slirp4netns,
    /// The program pasta.
    Pasta,
    /// The host's network.
    Host,
    /// Nothing but a loopback device.
    None,
}

/// What the network of steps came to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// How it is made.
    pub kind: NetworkKind,
    /// Why nothing better could be had, where that was looked for.
    pub lacking: Vec<String>,
}

/// How the network of steps is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkKind {
    /// An address of their own, of this subnet, behind the host's.
    Nat(Subnet),
    /// What a program imitates.
    Imitated(Imitator),
    /// The host's network.
    Host,
    /// Nothing but a loopback device.
    None,
}

impl fmt::Display for NetworkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nat(subnet) => write!(f, "addresses of {subnet} behind the host's"),
            Self::Imitated(imitator) => write!(f, "the program {}", imitator.name()),
            Self::Host => f.write_str("the host's network"),
            Self::None => f.write_str("no network"),
        }
    }
}

/// A network namespace that is ready for a step, which needs it for as long as it runs.
#[derive(Debug)]
pub struct Namespace {
    descriptor: OwnedFd,
    /// What connects it to the outside, if that is a program.
    _attached: Option<Attached>,
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}
