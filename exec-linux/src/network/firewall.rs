//! What may pass between the steps of all engines and the rest of the world, as rules of
//! nf_tables.
//!
//! The tables belong to the socket that made them (`NFT_TABLE_F_OWNER`, Linux 5.12): whatever ends
//! this process, they go with it, and until then nobody else can change them. They are told apart
//! by name, so that every engine has its own; each guards the steps of all, which it knows by the
//! names of their interfaces.
//!
//! Packets from a step are forwarded and masqueraded. The answers do not need the host to
//! forward what comes from outside: they are sent on from here (`dup`), as if the host itself
//! answered, and the original ends. So no setting of the host has to be changed, and nothing that
//! others forbid to be forwarded to an unknown interface stands in the way.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};

use super::netlink::{Attributes, Batch, Refused, Socket, attribute, attributes};
use super::subnet::Subnet;

/// How the names of the host's ends of steps' interfaces begin.
pub const INTERFACES: &str = "cofferdam";

/// An address of RFC 5737 and the port `discard`, to see what becomes of forwarded packets. What
/// is sent there does not leave the host.
pub const PROBE: (Ipv4Addr, u16) = (Ipv4Addr::new(198, 51, 100, 99), 9);

/// The chains that count what is sent to [`PROBE`]: when it comes from a step, and behind all that
/// may stand in its way. Every engine counts the probes of all, and none is dropped before all
/// have counted it.
const SENT: &str = "probes-sent";
const FORWARDED: &str = "probes-forwarded";

/// How many packets to [`PROBE`] came from steps since the rules were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probes {
    /// All of them.
    pub sent: u64,
    /// Those that got through.
    pub forwarded: u64,
}

/// Our rules, which last as long as this value, and what [`Firewall::keep`] gave.
#[derive(Debug)]
pub struct Firewall {
    socket: Socket,
    table: String,
}

impl Firewall {
    /// Makes the rules, for steps with addresses of a subnet. `name` is of this engine alone.
    ///
    /// # Errors
    /// When the kernel lacks something, or this process is not root on the host.
    pub fn new(name: &str, steps: Subnet) -> Result<Self, Refused> {
        let mut socket = Socket::netfilter()?;
        match socket.request(no_ipv6(name)) {
            Err(_) if !std::path::Path::new("/proc/thread-self/net/if_inet6").exists() => {}
            result => result?,
        }
        socket.request(rules(name, steps))?;
        Ok(Self { socket, table: name.to_owned() })
    }

    /// Returns a descriptor that keeps the rules.
    pub fn keep(&self) -> io::Result<OwnedFd> {
        self.socket.as_fd().try_clone_to_owned()
    }

    /// Returns how many packets to [`PROBE`] were seen.
    pub fn probes(&mut self) -> io::Result<Probes> {
        Ok(Probes { sent: self.counted(SENT)?, forwarded: self.counted(FORWARDED)? })
    }

    fn counted(&mut self, chain: &str) -> io::Result<u64> {
        let mut batch = Batch::new();
        let header = header(libc::NFPROTO_IPV4, 0);
        let (kind, flags) = (message(libc::NFT_MSG_GETRULE), libc::NLM_F_DUMP);
        batch.message("reading a counter", kind, flags, &header, |to| {
            to.text(rule::TABLE, &self.table);
            to.text(rule::CHAIN, chain);
        });
        let mut packets = 0;
        self.socket.ask(batch, |_, body| packets += count(body).unwrap_or(0))?;
        Ok(packets)
    }
}

/// Reads the packets that the counter of a rule has counted.
fn count(body: &[u8]) -> Option<u64> {
    let expressions = attribute(body, HEADER, rule::EXPRESSIONS)?;
    let counter = attributes(expressions, 0).find_map(|(_, expression)| {
        let is_counter = attribute(expression, 0, expression::NAME) == Some(b"counter\0");
        is_counter.then(|| attribute(expression, 0, expression::DATA)).flatten()
    });
    let packets = attribute(counter?, 0, counter::PACKETS)?;
    packets.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

/// Drops everything that is forwarded, until the socket is closed.
#[cfg(test)]
pub fn drop_forwarded(table: &str) -> Result<Socket, Refused> {
    let mut rules = Rules::new(libc::NFPROTO_IPV4, table);
    rules.chain("forward", "filter", libc::NF_INET_FORWARD, libc::NF_IP_PRI_FILTER);
    rules.rule("forward", |rule| rule.drop());
    let mut socket = Socket::netfilter()?;
    socket.request(rules.finish())?;
    Ok(socket)
}

/// Lists the names of all tables.
#[cfg(test)]
pub fn tables() -> io::Result<Vec<String>> {
    let mut batch = Batch::new();
    let (kind, flags) = (message(libc::NFT_MSG_GETTABLE), libc::NLM_F_DUMP);
    batch.message("listing tables", kind, flags, &header(libc::AF_UNSPEC, 0), |_| ());
    let mut names = Vec::new();
    Socket::netfilter()?.ask(batch, |_, body| {
        let name = attribute(body, HEADER, table::NAME).unwrap_or_default();
        names.push(String::from_utf8_lossy(name).into_owned());
    })?;
    Ok(names)
}

/// Nothing of IPv6 goes between steps and anybody.
fn no_ipv6(table: &str) -> Batch {
    let mut rules = Rules::new(libc::NFPROTO_IPV6, table);
    rules.chain("from-steps", "filter", libc::NF_INET_PRE_ROUTING, libc::NF_IP_PRI_RAW);
    rules.rule("from-steps", |rule| rule.comes_from_step().drop());
    rules.chain("to-steps", "filter", libc::NF_INET_LOCAL_OUT, libc::NF_IP_PRI_RAW);
    rules.rule("to-steps", |rule| rule.goes_to_step().drop());
    rules.chain("forward", "filter", libc::NF_INET_FORWARD, libc::NF_IP_PRI_RAW);
    rules.rule("forward", |rule| rule.goes_to_step().drop());
    rules.finish()
}

fn rules(table: &str, steps: Subnet) -> Batch {
    let mut rules = Rules::new(libc::NFPROTO_IPV4, table);

    rules.chain("from-steps", "filter", libc::NF_INET_PRE_ROUTING, libc::NF_IP_PRI_RAW);
    // A step may forge packets. It speaks for no address but its own,
    rules.rule("from-steps", |rule| rule.comes_from_step().strange_source().drop());
    // not to the host's loopback, which some hosts route (CVE-2020-8558),
    rules.rule("from-steps", |rule| {
        rule.comes_from_step().destination_in(Subnet::new(Ipv4Addr::LOCALHOST, 8)).drop()
    });
    // not to everybody (multicast and broadcast),
    rules.rule("from-steps", |rule| {
        rule.comes_from_step().destination_in(Subnet::new(Ipv4Addr::new(224, 0, 0, 0), 3)).drop()
    });
    // and not to another step.
    rules.rule("from-steps", |rule| rule.comes_from_step().destination_is_step().drop());

    // After the translation of addresses. An answer to a step, and only an answer.
    let after_translation = libc::NF_IP_PRI_NAT_DST + 50;
    rules.chain("answers", "filter", libc::NF_INET_PRE_ROUTING, after_translation);
    rules.rule("answers", |rule| {
        rule.destination_in(steps).destination_is_step().answers().send_to_destination().drop()
    });

    // Whatever else the host forwards, it is not for steps.
    rules.chain("forward", "filter", libc::NF_INET_FORWARD, libc::NF_IP_PRI_FILTER);
    rules.rule("forward", |rule| rule.goes_to_step().drop());

    rules.chain(SENT, "filter", libc::NF_INET_PRE_ROUTING, libc::NF_IP_PRI_RAW - 1);
    rules.rule(SENT, |rule| rule.comes_from_step().probes().count());
    // Behind all that others have to say about forwarding.
    rules.chain(FORWARDED, "filter", libc::NF_INET_POST_ROUTING, libc::NF_IP_PRI_FILTER);
    rules.rule(FORWARDED, |rule| rule.comes_from_step().probes().count());
    rules.chain("probes-end", "filter", libc::NF_INET_POST_ROUTING, libc::NF_IP_PRI_FILTER + 1);
    rules.rule("probes-end", |rule| rule.comes_from_step().probes().drop());

    rules.chain("masquerade", "nat", libc::NF_INET_POST_ROUTING, libc::NF_IP_PRI_NAT_SRC);
    rules.rule("masquerade", |rule| rule.comes_from_step().masquerade());
    rules.finish()
}

/// A table in the making.
struct Rules<'t> {
    batch: Batch,
    family: i32,
    table: &'t str,
}

impl<'t> Rules<'t> {
    fn new(family: i32, table: &'t str) -> Self {
        let mut batch = Batch::transaction();
        let subsystem = header(libc::AF_UNSPEC, libc::NFNL_SUBSYS_NFTABLES as u16);
        let begin = libc::NFNL_MSG_BATCH_BEGIN as u16;
        batch.message("beginning a transaction of nf_tables", begin, 0, &subsystem, |_| ());
        let mut rules = Self { batch, family, table };
        rules.message("making a table of nf_tables", libc::NFT_MSG_NEWTABLE, 0, |to| {
            to.text(table::NAME, table);
            to.network_number(table::FLAGS, table::FLAG_OWNER);
        });
        rules
    }

    fn message(
        &mut self,
        doing: &'static str,
        kind: i32,
        flags: i32,
        attributes: impl FnOnce(&mut Attributes<'_>),
    ) {
        let flags = flags | libc::NLM_F_CREATE;
        self.batch.message(doing, message(kind), flags, &header(self.family, 0), attributes);
    }

    fn chain(&mut self, name: &str, kind: &str, hook: i32, priority: i32) {
        let table = self.table;
        self.message("making a chain of nf_tables", libc::NFT_MSG_NEWCHAIN, 0, |to| {
            to.text(chain::TABLE, table);
            to.text(chain::NAME, name);
            to.text(chain::TYPE, kind);
            to.nest(chain::HOOK, |to| {
                to.network_number(hook::NUMBER, hook as u32);
                to.network_number(hook::PRIORITY, priority as u32);
            });
        });
    }

    fn rule(
        &mut self,
        chain: &str,
        expressions: impl for<'a, 'b> FnOnce(Rule<'a, 'b>) -> Rule<'a, 'b>,
    ) {
        let table = self.table;
        // In the order in which they are written.
        let flags = libc::NLM_F_APPEND;
        self.message("making a rule of nf_tables", libc::NFT_MSG_NEWRULE, flags, |to| {
            to.text(rule::TABLE, table);
            to.text(rule::CHAIN, chain);
            to.nest(rule::EXPRESSIONS, |to| {
                expressions(Rule(to));
            });
        });
    }

    fn finish(mut self) -> Batch {
        let subsystem = header(libc::AF_UNSPEC, libc::NFNL_SUBSYS_NFTABLES as u16);
        let end = libc::NFNL_MSG_BATCH_END as u16;
        let doing = "committing rules of nf_tables";
        self.batch.message(doing, end, libc::NLM_F_ACK, &subsystem, |_| ());
        self.batch
    }
}

/// A rule in the making: each expression is a condition for those after it, or does something.
struct Rule<'a, 'b>(&'a mut Attributes<'b>);

/// The register of 16 bytes that all conditions use.
const REGISTER: u32 = libc::NFT_REG_1 as u32;

impl Rule<'_, '_> {
    fn expression(self, name: &str, data: impl FnOnce(&mut Attributes<'_>)) -> Self {
        self.0.nest(LIST_ELEMENT, |to| {
            to.text(expression::NAME, name);
            to.nest(expression::DATA, data);
        });
        self
    }

    fn compare(self, operator: i32, value: &[u8]) -> Self {
        self.expression("cmp", |to| {
            to.network_number(compare::SOURCE, REGISTER);
            to.network_number(compare::OPERATOR, operator as u32);
            to.nest(compare::DATA, |to| to.bytes(data::VALUE, value));
        })
    }

    fn masked(self, mask: &[u8; 4]) -> Self {
        self.expression("bitwise", |to| {
            to.network_number(bitwise::SOURCE, REGISTER);
            to.network_number(bitwise::DESTINATION, REGISTER);
            to.network_number(bitwise::LENGTH, 4);
            to.nest(bitwise::MASK, |to| to.bytes(data::VALUE, mask));
            to.nest(bitwise::XOR, |to| to.bytes(data::VALUE, &[0; 4]));
        })
    }

    fn meta(self, key: i32) -> Self {
        self.expression("meta", |to| {
            to.network_number(meta::KEY, key as u32);
            to.network_number(meta::DESTINATION, REGISTER);
        })
    }

    fn payload(self, base: i32, offset: u32, length: u32) -> Self {
        self.expression("payload", |to| {
            to.network_number(payload::DESTINATION, REGISTER);
            to.network_number(payload::BASE, base as u32);
            to.network_number(payload::OFFSET, offset);
            to.network_number(payload::LENGTH, length);
        })
    }

    fn route(self, result: u32, flags: u32) -> Self {
        self.expression("fib", |to| {
            to.network_number(fib::DESTINATION, REGISTER);
            to.network_number(fib::RESULT, result);
            to.network_number(fib::FLAGS, flags);
        })
    }

    fn destination(self) -> Self {
        self.payload(libc::NFT_PAYLOAD_NETWORK_HEADER, 16, 4)
    }

    fn names_step(self) -> Self {
        self.compare(libc::NFT_CMP_EQ, INTERFACES.as_bytes())
    }

    fn comes_from_step(self) -> Self {
        self.meta(libc::NFT_META_IIFNAME).names_step()
    }

    fn goes_to_step(self) -> Self {
        self.meta(libc::NFT_META_OIFNAME).names_step()
    }

    /// The way back to the source is not the interface that the packet came from.
    fn strange_source(self) -> Self {
        self.route(fib::RESULT_INTERFACE, fib::FLAG_SOURCE | fib::FLAG_INCOMING)
            .compare(libc::NFT_CMP_EQ, &[0; 4])
    }

    fn destination_in(self, subnet: Subnet) -> Self {
        self.destination()
            .masked(&subnet.mask().to_be_bytes())
            .compare(libc::NFT_CMP_EQ, &subnet.address().octets())
    }

    fn destination_is_step(self) -> Self {
        self.route(fib::RESULT_INTERFACE_NAME, fib::FLAG_DESTINATION).names_step()
    }

    fn answers(self) -> Self {
        self.expression("ct", |to| {
            to.network_number(tracking::KEY, libc::NFT_CT_STATE as u32);
            to.network_number(tracking::DESTINATION, REGISTER);
        })
        .masked(&(tracking::ESTABLISHED | tracking::RELATED).to_ne_bytes())
        .compare(libc::NFT_CMP_NEQ, &[0; 4])
    }

    fn probes(self) -> Self {
        let (address, port) = PROBE;
        self.destination_in(Subnet::new(address, 32))
            .meta(libc::NFT_META_L4PROTO)
            .compare(libc::NFT_CMP_EQ, &[libc::IPPROTO_UDP as u8])
            .payload(libc::NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2)
            .compare(libc::NFT_CMP_EQ, &port.to_be_bytes())
    }

    fn count(self) -> Self {
        self.expression("counter", |_| ())
    }

    fn masquerade(self) -> Self {
        self.expression("masq", |_| ())
    }

    fn send_to_destination(self) -> Self {
        self.destination().expression("dup", |to| to.network_number(dup::ADDRESS, REGISTER))
    }

    fn drop(self) -> Self {
        self.expression("immediate", |to| {
            to.network_number(immediate::DESTINATION, libc::NFT_REG_VERDICT as u32);
            to.nest(immediate::DATA, |to| {
                to.nest(data::VERDICT, |to| to.network_number(verdict::CODE, libc::NF_DROP as u32));
            });
        })
    }
}

/// The size of `struct nfgenmsg`.
const HEADER: usize = 4;

/// `struct nfgenmsg`: family, version, and a number.
fn header(family: i32, number: u16) -> [u8; HEADER] {
    let [high, low] = number.to_be_bytes();
    [family as u8, libc::NFNETLINK_V0 as u8, high, low]
}

fn message(kind: i32) -> u16 {
    ((libc::NFNL_SUBSYS_NFTABLES << 8) | kind) as u16
}

// Numbers of linux/netfilter/nf_tables.h, of which libc has few.

const LIST_ELEMENT: u16 = 1;

mod table {
    pub const NAME: u16 = 1;
    pub const FLAGS: u16 = 2;
    pub const FLAG_OWNER: u32 = 2;
}

mod chain {
    pub const TABLE: u16 = 1;
    pub const NAME: u16 = 3;
    pub const HOOK: u16 = 4;
    pub const TYPE: u16 = 7;
}

mod hook {
    pub const NUMBER: u16 = 1;
    pub const PRIORITY: u16 = 2;
}

mod rule {
    pub const TABLE: u16 = 1;
    pub const CHAIN: u16 = 2;
    pub const EXPRESSIONS: u16 = 4;
}

mod expression {
    pub const NAME: u16 = 1;
    pub const DATA: u16 = 2;
}

mod data {
    pub const VALUE: u16 = 1;
    pub const VERDICT: u16 = 2;
}

mod verdict {
    pub const CODE: u16 = 1;
}

mod immediate {
    pub const DESTINATION: u16 = 1;
    pub const DATA: u16 = 2;
}

mod compare {
    pub const SOURCE: u16 = 1;
    pub const OPERATOR: u16 = 2;
    pub const DATA: u16 = 3;
}

mod bitwise {
    pub const SOURCE: u16 = 1;
    pub const DESTINATION: u16 = 2;
    pub const LENGTH: u16 = 3;
    pub const MASK: u16 = 4;
    pub const XOR: u16 = 5;
}

mod meta {
    pub const DESTINATION: u16 = 1;
    pub const KEY: u16 = 2;
}

mod payload {
    pub const DESTINATION: u16 = 1;
    pub const BASE: u16 = 2;
    pub const OFFSET: u16 = 3;
    pub const LENGTH: u16 = 4;
}

mod fib {
    pub const DESTINATION: u16 = 1;
    pub const RESULT: u16 = 2;
    pub const FLAGS: u16 = 3;
    pub const RESULT_INTERFACE: u32 = 1;
    pub const RESULT_INTERFACE_NAME: u32 = 2;
    pub const FLAG_SOURCE: u32 = 1;
    pub const FLAG_DESTINATION: u32 = 2;
    pub const FLAG_INCOMING: u32 = 8;
}

/// Connection tracking; the states are bits by `enum ip_conntrack_info`.
mod tracking {
    pub const DESTINATION: u16 = 1;
    pub const KEY: u16 = 2;
    pub const ESTABLISHED: u32 = 1 << 1;
    pub const RELATED: u32 = 1 << 2;
}

mod counter {
    pub const PACKETS: u16 = 2;
}

mod dup {
    pub const ADDRESS: u16 = 1;
}
