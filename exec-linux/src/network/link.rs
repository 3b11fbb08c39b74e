//! Interfaces, addresses and routes, by rtnetlink(7): what there is on the host, and the pair of
//! virtual Ethernet interfaces by which a step reaches it.
//!
//! The two ends of a pair have the same hardware address and no address resolution (`NOARP`): a
//! frame then always goes to its own address, which is the other end's. So there are no
//! neighbours to learn, no gateway is needed, and all steps see the same hardware address.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::netlink::{Attributes, Batch, Refused, Socket, attribute, number};
use super::subnet::Subnet;

const ACK: i32 = libc::NLM_F_ACK;
const NEW: i32 = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;

const INFO_PEER: u16 = 1; // VETH_INFO_PEER, linux/veth.h
const INET_CONF: u16 = 1; // IFLA_INET_CONF, linux/if_link.h
const INET6_ADDR_GEN_MODE: u16 = 8; // IFLA_INET6_ADDR_GEN_MODE, the same
const ADDR_GEN_MODE_NONE: u8 = 1; // IN6_ADDR_GEN_MODE_NONE, the same
const CONF_FORWARDING: u16 = 1; // IPV4_DEVCONF_FORWARDING, linux/ip.h
const OPERATIONAL: u8 = 6; // IF_OPER_UP, linux/if.h
const ON_LINK: u32 = 4; // RTNH_F_ONLINK, linux/rtnetlink.h

/// Who made a route, for those to steps; a number that nobody else is known to use (rt_protos of
/// iproute2). It tells them from the host's own without looking for their interfaces, which may
/// have come or gone since those were listed.
const TO_STEPS: u8 = 207;

/// The size of `struct ifinfomsg`.
const LINK_HEADER: usize = 16;
/// The size of `struct rtmsg`.
const ROUTE_HEADER: usize = 12;

/// The hardware address of both ends, of the locally administered ones.
pub const HARDWARE_ADDRESS: [u8; 6] = [0x02, b'c', b'o', b'f', b'f', 0x00];

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its largest packet.
    pub mtu: u32,
    /// Whether it sends packets. The kernel makes a pair ready in the background, and drops what
    /// would be sent before.
    pub is_ready: bool,
}

/// A route to a range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The range.
    pub destination: Subnet,
    /// The number of the interface, if it leads through one.
    pub link: Option<u32>,
    /// Which one of several to the same range is taken: the least.
    pub metric: u32,
    /// Whether it leads to a step, of whichever engine.
    pub to_step: bool,
}

/// Lists the interfaces.
pub fn links(socket: &mut Socket) -> io::Result<Vec<Link>> {
    let mut batch = Batch::new();
    let start = link_header(0, 0, 0);
    batch.message("listing interfaces", libc::RTM_GETLINK, libc::NLM_F_DUMP, &start, |_| ());
    let mut found = Vec::new();
    socket.ask(batch, |kind, body| {
        if kind == libc::RTM_NEWLINK {
            found.extend(read_link(body));
        }
    })?;
    Ok(found)
}

/// Finds an interface by its name.
pub fn link(socket: &mut Socket, name: &str) -> io::Result<Link> {
    let mut batch = Batch::new();
    let start = link_header(0, 0, 0);
    // The acknowledgement ends the answer.
    batch.message("looking for an interface", libc::RTM_GETLINK, ACK, &start, |to| {
        to.text(libc::IFLA_IFNAME, name);
    });
    let mut found = None;
    socket.ask(batch, |kind, body| {
        if kind == libc::RTM_NEWLINK {
            found = read_link(body);
        }
    })?;
    found.ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn read_link(body: &[u8]) -> Option<Link> {
    let name = attribute(body, LINK_HEADER, libc::IFLA_IFNAME)?;
    let name = String::from_utf8_lossy(name.strip_suffix(b"\0").unwrap_or(name)).into_owned();
    let mtu = attribute(body, LINK_HEADER, libc::IFLA_MTU).and_then(number)?;
    let state = attribute(body, LINK_HEADER, libc::IFLA_OPERSTATE);
    let is_ready = state == Some(&[OPERATIONAL]);
    Some(Link { index: number(body.get(4..)?)?, name, mtu, is_ready })
}

/// Lists the IPv4 routes of all tables.
pub fn routes(socket: &mut Socket) -> io::Result<Vec<Route>> {
    let mut batch = Batch::new();
    let start = route_header(0, libc::RT_TABLE_UNSPEC, 0);
    batch.message("listing routes", libc::RTM_GETROUTE, libc::NLM_F_DUMP, &start, |_| ());
    let mut found = Vec::new();
    socket.ask(batch, |kind, body| {
        if kind == libc::RTM_NEWROUTE {
            found.extend(read_route(body));
        }
    })?;
    Ok(found)
}

fn read_route(body: &[u8]) -> Option<Route> {
    let length = *body.get(1)?;
    let get = |kind| attribute(body, ROUTE_HEADER, kind);
    let address = match get(libc::RTA_DST) {
        Some(address) => Ipv4Addr::from(*address.first_chunk::<4>()?),
        None => Ipv4Addr::UNSPECIFIED,
    };
    Some(Route {
        destination: Subnet::new(address, length),
        link: get(libc::RTA_OIF).and_then(number),
        metric: get(libc::RTA_PRIORITY).and_then(number).unwrap_or(0),
        to_step: *body.get(5)? == TO_STEPS,
    })
}

/// Makes a pair of interfaces: `name` here, and `inner` in another network namespace. Neither is
/// up.
///
/// # Errors
/// `EEXIST` if there is an interface `name`.
pub fn add_pair(
    host: &mut Socket,
    name: &str,
    inner: &str,
    namespace: BorrowedFd<'_>,
    mtu: u32,
) -> Result<(), Refused> {
    let mut batch = Batch::new();
    let start = link_header(0, libc::IFF_NOARP as u32, libc::IFF_NOARP as u32);
    let describe = |to: &mut Attributes<'_>, name: &str| {
        to.text(libc::IFLA_IFNAME, name);
        to.bytes(libc::IFLA_ADDRESS, &HARDWARE_ADDRESS);
        to.number(libc::IFLA_MTU, mtu);
        // Else there is a queue for every processor.
        to.number(libc::IFLA_NUM_TX_QUEUES, 1);
        to.number(libc::IFLA_NUM_RX_QUEUES, 1);
    };
    batch.message("making a pair of interfaces", libc::RTM_NEWLINK, NEW, &start, |to| {
        describe(to, name);
        to.nest(libc::IFLA_LINKINFO, |to| {
            to.text(libc::IFLA_INFO_KIND, "veth");
            to.nest(libc::IFLA_INFO_DATA, |to| {
                to.wrap(INFO_PEER, &start, |to| {
                    describe(to, inner);
                    to.number(libc::IFLA_NET_NS_FD, namespace.as_raw_fd() as u32);
                });
            });
        });
    });
    host.request(batch)
}

/// Removes an interface, and with it the other one of its pair.
pub fn remove(host: &mut Socket, link: u32) -> Result<(), Refused> {
    let mut batch = Batch::new();
    let start = link_header(link, 0, 0);
    batch.message("removing an interface", libc::RTM_DELLINK, ACK, &start, |_| ());
    host.request(batch)
}

/// Starts the host's end of a pair and routes the step's address to it. Packets that come from it
/// may be forwarded, whatever the host does with all others.
///
/// # Errors
/// `EEXIST` if there is a route to just that address.
pub fn start_outer(host: &mut Socket, link: u32, step: Ipv4Addr) -> Result<(), Refused> {
    let mut batch = Batch::new();
    set_family_options(&mut batch, link, |to| {
        to.nest(libc::AF_INET as u16, |to| {
            to.nest(INET_CONF, |to| to.number(CONF_FORWARDING, 1));
        });
    });
    no_ipv6_address(&mut batch, link);
    start(&mut batch, link);
    let mut route = route_header(32, libc::RT_TABLE_MAIN, libc::RT_SCOPE_LINK);
    route[5] = TO_STEPS;
    batch.message("routing to a step", libc::RTM_NEWROUTE, NEW, &route, |to| {
        to.bytes(libc::RTA_DST, &step.octets());
        to.number(libc::RTA_OIF, link);
    });
    request_without_ipv6(host, batch)
}

/// Starts the step's end of a pair, within its namespace: with the step's address, and everything
/// else reached by it, by way of `gateway` where one is to be seen.
pub fn start_inner(
    namespace: &mut Socket,
    link: u32,
    step: Ipv4Addr,
    gateway: Option<Ipv4Addr>,
) -> Result<(), Refused> {
    let mut batch = Batch::new();
    no_ipv6_address(&mut batch, link);
    let mut address = vec![libc::AF_INET as u8, 32, 0, libc::RT_SCOPE_UNIVERSE];
    address.extend(link.to_ne_bytes());
    batch.message("giving a step its address", libc::RTM_NEWADDR, NEW, &address, |to| {
        to.bytes(libc::IFA_LOCAL, &step.octets());
        to.bytes(libc::IFA_ADDRESS, &step.octets());
    });
    start(&mut batch, link);
    let scope = if gateway.is_some() { libc::RT_SCOPE_UNIVERSE } else { libc::RT_SCOPE_LINK };
    let mut route = route_header(0, libc::RT_TABLE_MAIN, scope);
    if gateway.is_some() {
        // No other route leads to it.
        route[8..12].copy_from_slice(&(ON_LINK).to_ne_bytes());
    }
    batch.message("routing a step's packets", libc::RTM_NEWROUTE, NEW, &route, |to| {
        to.number(libc::RTA_OIF, link);
        if let Some(gateway) = gateway {
            to.bytes(libc::RTA_GATEWAY, &gateway.octets());
        }
    });
    request_without_ipv6(namespace, batch)
}

/// Adds a route to a range of addresses.
#[cfg(test)]
pub fn add_route(socket: &mut Socket, destination: Subnet, link: u32) -> Result<(), Refused> {
    let length = destination.mask().count_ones() as u8;
    let route = route_header(length, libc::RT_TABLE_MAIN, libc::RT_SCOPE_LINK);
    let mut batch = Batch::new();
    batch.message("adding a route", libc::RTM_NEWROUTE, NEW, &route, |to| {
        to.bytes(libc::RTA_DST, &destination.address().octets());
        to.number(libc::RTA_OIF, link);
    });
    socket.request(batch)
}

/// Starts the loopback device of a network namespace.
pub fn start_loopback(namespace: &mut Socket) -> Result<(), Refused> {
    let mut batch = Batch::new();
    // The first device of every network namespace.
    start(&mut batch, 1);
    namespace.request(batch)
}

fn start(batch: &mut Batch, link: u32) {
    let up = libc::IFF_UP as u32;
    let header = link_header(link, up, up);
    batch.message("starting an interface", libc::RTM_NEWLINK, ACK, &header, |_| ());
}

/// What is said about IPv6, which a kernel may lack.
const IPV6: &str = "leaving out IPv6";

fn no_ipv6_address(batch: &mut Batch, link: u32) {
    let header = link_header(link, 0, 0);
    batch.message(IPV6, libc::RTM_NEWLINK, ACK, &header, |to| {
        to.nest(libc::IFLA_AF_SPEC, |to| {
            to.nest(libc::AF_INET6 as u16, |to| {
                to.bytes(INET6_ADDR_GEN_MODE, &[ADDR_GEN_MODE_NONE]);
            });
        });
    });
}

fn set_family_options(batch: &mut Batch, link: u32, options: impl FnOnce(&mut Attributes<'_>)) {
    let header = link_header(link, 0, 0);
    batch.message("setting an interface up", libc::RTM_NEWLINK, ACK, &header, |to| {
        to.nest(libc::IFLA_AF_SPEC, options);
    });
}

fn request_without_ipv6(socket: &mut Socket, batch: Batch) -> Result<(), Refused> {
    match socket.request(batch) {
        Err(refused) if refused.doing == IPV6 => Ok(()),
        result => result,
    }
}

/// `struct ifinfomsg`: family, device type, index, flags, and which flags are to change.
fn link_header(index: u32, flags: u32, change: u32) -> [u8; LINK_HEADER] {
    let mut header = [0; LINK_HEADER];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..].copy_from_slice(&change.to_ne_bytes());
    header
}

/// `struct rtmsg`: family, lengths of destination and source, type of service, table, protocol,
/// scope, type, flags.
fn route_header(length: u8, table: u8, scope: u8) -> [u8; ROUTE_HEADER] {
    let (family, protocol, kind) = (libc::AF_INET as u8, libc::RTPROT_STATIC, libc::RTN_UNICAST);
    [family, length, 0, 0, table, protocol, scope, kind, 0, 0, 0, 0]
}
