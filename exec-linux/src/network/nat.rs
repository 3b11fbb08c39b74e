//! The network of steps where this process is root on the host: a pair of virtual Ethernet
//! interfaces per step, each with one address that the host routes to it, and the host's own
//! address for whatever leaves it.
//!
//! There is no bridge, so that steps have no link in common, and nothing to be made or removed
//! with the first and the last of them. A pair goes with the step's network namespace, and its
//! address and route with it; the rules go with this process (`firewall`).

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::net::{SendFlags, sendto};

use super::firewall::{Firewall, INTERFACES, PROBE};
use super::link::{self, Link, Route};
use super::namespace::Fresh;
use super::netlink::{Refused, Socket};
use super::subnet::{CANDIDATES, Subnet};
use crate::error::Error;

/// The name of the step's end.
const INNER: &str = "eth0";
/// The largest packet where there is no route to the outside that says it.
const USUAL_MTU: u32 = 1500;
/// How often an address is tried that somebody else has.
const ATTEMPTS: u32 = 4096;
/// How long the kernel may take to get an interface ready on a busy machine.
const READY_TIME: Duration = Duration::from_secs(10);
/// How long a probe may take, from when it was seen to be sent to when it was forwarded. Both are
/// done in one go, so this is for the kernel's being interrupted in between.
const FORWARD_TIME: Duration = Duration::from_millis(20);
/// How many probes have to be missing for them not to be forwarded.
const PROBES: u64 = 8;

/// Connects network namespaces to the host's network.
#[derive(Debug)]
pub struct Nat {
    host: Socket,
    firewall: Firewall,
    surroundings: Surroundings,
    /// The number within the subnet of the address that is tried next.
    next: u32,
}

/// What was found on the host.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings {
    /// Whence steps get their addresses.
    pub subnet: Subnet,
    /// The largest packet on the way to the outside.
    pub mtu: u32,
    /// The host's address on that way.
    pub address: Option<Ipv4Addr>,
}

impl Nat {
    /// Makes the rules, with addresses of `subnet`, else of one that overlaps with no route of the
    /// host's, and has none of the addresses to avoid.
    ///
    /// # Errors
    /// What the machine lacks.
    pub fn new(subnet: Option<Subnet>, avoid: &[Ipv4Addr]) -> Result<Self, Error> {
        let mut host = Socket::route().map_err(Error::network("opening a netlink socket"))?;
        let surroundings = look_around(&mut host, subnet, avoid)?;
        if surroundings.address.is_none() && reaches_ipv6() {
            let source = io::Error::other("the host reaches it by IPv6 only, which steps have not");
            return Err(Error::Network { doing: "looking for the outside".to_owned(), source });
        }
        let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
        let process = std::process::id();
        let name = format!("{INTERFACES}-{process}-{:x}", since.as_nanos());
        let firewall = Firewall::new(&name, surroundings.subnet).map_err(refused)?;
        // So that engines that start together seldom try the same.
        let next = process.wrapping_mul(0x9e37_79b1) ^ since.subsec_nanos();
        Ok(Self { host, firewall, surroundings, next })
    }

    /// Returns what was found on the host.
    pub fn surroundings(&self) -> Surroundings {
        self.surroundings
    }

    /// Returns what keeps the rules: they last until this and we are dropped.
    pub fn rules(&self) -> io::Result<OwnedFd> {
        self.firewall.keep()
    }

    /// Connects a network namespace.
    ///
    /// # Errors
    /// When there are no addresses left, or the kernel refuses something.
    pub fn connect(&mut self, fresh: &mut Fresh) -> Result<(), Error> {
        for _ in 0..ATTEMPTS {
            if self.try_next(fresh)? {
                return Ok(());
            }
        }
        let source = io::Error::from(io::ErrorKind::AddrInUse);
        let doing = format!("finding a free address in {}", self.surroundings.subnet);
        Err(Error::Network { doing, source })
    }

    /// Tries one address, and tells whether nobody had it.
    fn try_next(&mut self, fresh: &mut Fresh) -> Result<bool, Error> {
        let Surroundings { subnet, mtu, address: gateway } = self.surroundings;
        let number = self.next & !subnet.mask();
        self.next = self.next.wrapping_add(1);
        let Some(address) = subnet.step_address(number) else { return Ok(false) };
        // The kernel gives a name once, so whoever has it has the address. Engines with different
        // subnets may be in each other's way here, which costs another attempt.
        let name = format!("{INTERFACES}{number:x}");
        let made = link::add_pair(&mut self.host, &name, INNER, fresh.namespace.as_fd(), mtu);
        if !is_free(made)? {
            return Ok(false);
        }
        let outer = find(&mut self.host, &name)?.index;
        let inner = find(&mut fresh.links, INNER)?.index;
        // If their subnets overlap, one address has different names.
        if !is_free(link::start_outer(&mut self.host, outer, address))? {
            link::remove(&mut self.host, outer).map_err(refused)?;
            return Ok(false);
        }
        link::start_inner(&mut fresh.links, inner, address, gateway).map_err(refused)?;
        // The inner end is ready, for it was started when the outer one was.
        let started = Instant::now();
        while !find(&mut self.host, &name)?.is_ready && started.elapsed() < READY_TIME {
            std::thread::sleep(Duration::from_micros(100));
        }
        Ok(true)
    }

    /// Sees whether what leaves a connected namespace is forwarded: another firewall of the host,
    /// as Docker has one, may forbid it, and then steps would wait for answers for ever.
    ///
    /// # Errors
    /// When it is not.
    pub fn probe(&mut self, fresh: &Fresh) -> Result<(), Error> {
        if self.surroundings.address.is_none() {
            // There is no way out that could be barred.
            return Ok(());
        }
        let doing = "seeing whether packets are forwarded";
        let failed = |why: &str| Error::Network {
            doing: doing.to_owned(),
            source: io::Error::other(why.to_owned()),
        };
        let started = Instant::now();
        loop {
            let to = std::net::SocketAddrV4::new(PROBE.0, PROBE.1);
            sendto(&fresh.datagrams, &[], SendFlags::DONTWAIT, &to)
                .map_err(|errno| Error::network(doing)(errno.into()))?;
            let sent = Instant::now();
            let mut probes = self.firewall.probes().map_err(Error::network(doing))?;
            while probes.forwarded == 0 && sent.elapsed() < FORWARD_TIME {
                std::thread::sleep(Duration::from_millis(1));
                probes = self.firewall.probes().map_err(Error::network(doing))?;
            }
            if probes.forwarded > 0 {
                return Ok(());
            }
            if probes.sent >= PROBES {
                return Err(failed(
                    "a firewall of the host drops them; it has to accept what comes in from \
                     interfaces `cofferdam*`",
                ));
            }
            if started.elapsed() > READY_TIME {
                return Err(failed("none comes out of a step's interface"));
            }
        }
    }
}

fn find(socket: &mut Socket, name: &str) -> Result<Link, Error> {
    link::link(socket, name).map_err(Error::network(format!("looking for `{name}`")))
}

/// Whether the kernel had nothing of the kind that was to be made.
fn is_free(made: Result<(), Refused>) -> Result<bool, Error> {
    match made {
        Ok(()) => Ok(true),
        Err(refused) if refused.source.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(other) => Err(refused(other)),
    }
}

fn refused(refused: Refused) -> Error {
    Error::Network { doing: refused.doing.to_owned(), source: refused.source }
}

fn look_around(
    host: &mut Socket,
    subnet: Option<Subnet>,
    avoid: &[Ipv4Addr],
) -> Result<Surroundings, Error> {
    let links = link::links(host).map_err(Error::network("listing interfaces"))?;
    let routes = link::routes(host).map_err(Error::network("listing routes"))?;
    let subnet = choose_subnet(subnet, avoid, &routes, &links)?;
    let outside = routes.iter().filter(|route| route.destination.is_everything());
    let outside =
        outside.min_by_key(|route| route.metric).and_then(|route| by_index(&links, route.link));
    Ok(Surroundings {
        subnet,
        mtu: outside.map_or(USUAL_MTU, |link| link.mtu),
        address: host_address(),
    })
}

fn by_index(links: &[Link], index: Option<u32>) -> Option<&Link> {
    links.iter().find(|link| Some(link.index) == index)
}

/// Chooses whence steps get their addresses.
pub(super) fn choose_subnet(
    subnet: Option<Subnet>,
    avoid: &[Ipv4Addr],
    routes: &[Route],
    links: &[Link],
) -> Result<Subnet, Error> {
    let obstacle = |subnet: Subnet| {
        let route = routes.iter().find(|route| {
            // Other engines' steps have one address each, the default route leads everywhere, and
            // every other goes before it.
            let destination = route.destination;
            !route.to_step && !destination.is_everything() && destination.overlaps(subnet)
        });
        let address = avoid.iter().find(|address| subnet.contains(**address));
        match (route, address) {
            (Some(route), _) => {
                let name = by_index(links, route.link).map_or("", |link| link.name.as_str());
                Some(format!("the host's route to {} by `{name}`", route.destination))
            }
            (None, Some(address)) => Some(format!("the name server {address}")),
            (None, None) => None,
        }
    };
    match subnet {
        Some(subnet) => match obstacle(subnet) {
            None => Ok(subnet),
            Some(obstacle) => Err(no_subnet(format!("{subnet} overlaps with {obstacle}"))),
        },
        None => CANDIDATES
            .into_iter()
            .find(|subnet| obstacle(*subnet).is_none())
            .ok_or_else(|| no_subnet("all usual ones overlap with the host's routes".to_owned())),
    }
}

/// Whether the host has a route to the outside by IPv6.
fn reaches_ipv6() -> bool {
    // An address of RFC 3849; nothing is sent.
    let outside = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9);
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0));
    socket.is_ok_and(|socket| socket.connect((outside, PROBE.1)).is_ok())
}

fn no_subnet(why: String) -> Error {
    Error::Network {
        doing: "choosing a subnet for steps".to_owned(),
        source: io::Error::other(why),
    }
}

/// The address that the host would use to the outside.
pub fn host_address() -> Option<Ipv4Addr> {
    // This sends nothing: it only looks up the route.
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(PROBE).ok()?;
    match socket.local_addr().ok()?.ip() {
        std::net::IpAddr::V4(address) if !address.is_loopback() => Some(address),
        _ => None,
    }
}
