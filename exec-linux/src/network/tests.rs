//! What passes between steps, the host and the outside. Each test is on a host of its own: a
//! network namespace with an uplink to another one, which is the outside. So nothing here touches
//! the machine, and settings and firewalls of hosts can be tried.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use super::firewall::{self, INTERFACES};
use super::link;
use super::namespace::{self, Fresh};
use super::nat::{Nat, choose_subnet};
use super::netlink::Socket;
use super::subnet::Subnet;

const HOST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);

/// A host with an uplink, for the thread that it is made in.
struct Host {
    links: Socket,
    outside: Fresh,
}

impl Host {
    fn new() -> Self {
        // SAFETY: this thread shares its network namespace with nobody who could be surprised.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.expect("tests are root");
        let mut links = Socket::route().expect("a socket can be opened");
        link::start_loopback(&mut links).expect("there is one");
        let mut outside = namespace::make(None).expect("one can be made");
        link::add_pair(&mut links, "up0", "out0", outside.namespace.as_fd(), 1400).expect("made");
        for (socket, name, address) in
            [(&mut links, "up0", HOST), (&mut outside.links, "out0", OUTSIDE)]
        {
            let index = link::link(socket, name).expect("it was made").index;
            link::start_inner(socket, index, address, None).expect("it can be started");
        }
        Self { links, outside }
    }

    fn step(&self, nat: &mut Nat) -> Step {
        let mut fresh = namespace::make(None).expect("one can be made");
        nat.connect(&mut fresh).expect("there are addresses");
        let address = within(&fresh, || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("bound");
            socket.connect((OUTSIDE, 1)).expect("there is a route");
            socket.local_addr().expect("it is bound").ip()
        });
        let IpAddr::V4(address) = address else { panic!("{address} is of IPv4") };
        Step { fresh, address }
    }

    /// The host's ends of steps' interfaces.
    fn interfaces(&mut self) -> Vec<link::Link> {
        let mut links = link::links(&mut self.links).expect("listed");
        links.retain(|link| link.name.starts_with(INTERFACES));
        links
    }
}

struct Step {
    fresh: Fresh,
    address: Ipv4Addr,
}

/// Runs a test on a thread of its own, so that the network namespace is that test's alone.
fn on_a_host(test: fn(Host)) {
    let ended = thread::spawn(move || test(Host::new())).join();
    if let Err(panic) = ended {
        std::panic::resume_unwind(panic);
    }
}

/// Does something within a network namespace; sockets that are made there stay there.
fn within<T: Send>(fresh: &Fresh, work: impl FnOnce() -> T + Send) -> T {
    let enter = || {
        let kind = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(fresh.namespace.as_fd(), kind).expect("tests are root");
        work()
    };
    thread::scope(|scope| scope.spawn(enter).join().expect("no panic"))
}

fn nat(subnet: &str) -> Nat {
    Nat::new(Some(subnet.parse().expect("a subnet")), &[]).expect("it can be had on this kernel")
}

fn connects(from: &Fresh, to: Ipv4Addr, port: u16) -> bool {
    connects_within(Duration::from_secs(60), from, to, port)
}

/// The same, for what should not be: every time it is right, this takes as long as it waits.
fn is_let_in(from: &Fresh, to: Ipv4Addr, port: u16) -> bool {
    connects_within(Duration::from_secs(3), from, to, port)
}

fn connects_within(time: Duration, from: &Fresh, to: Ipv4Addr, port: u16) -> bool {
    let to = SocketAddr::from((to, port));
    within(from, || TcpStream::connect_timeout(&to, time).is_ok())
}

fn set(name: &str, value: &str) {
    fs::write(format!("/proc/sys/net/ipv4/{name}"), value).expect("it can be set");
}

fn setting(name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).expect("it can be read");
    text.trim().to_owned()
}

#[test]
fn answers_come_back_though_the_host_forwards_nothing() {
    on_a_host(|host| {
        const SIZE: usize = 8 << 20;
        let mut nat = nat("10.9.0.0/24");
        let step = host.step(&mut nat);
        nat.probe(&step.fresh).expect("nothing is in the way");
        let server = within(&host.outside, || TcpListener::bind((OUTSIDE, 80)).expect("bound"));
        let serve = thread::spawn(move || {
            let (mut client, peer) = server.accept().expect("somebody comes");
            let mut sent = vec![0; SIZE];
            client.read_exact(&mut sent).expect("it is sent");
            client.write_all(&sent).expect("it is received");
            peer.ip()
        });
        let sent: Vec<u8> = (0..SIZE).map(|i| (i * 7 + i / 251) as u8).collect();
        let mut received = vec![0; SIZE];
        within(&step.fresh, || {
            let mut server = TcpStream::connect((OUTSIDE, 80)).expect("it can be reached");
            server.write_all(&sent).expect("it is received");
            server.read_exact(&mut received).expect("it is sent");
        });
        assert!(sent == received);
        assert_eq!(serve.join().expect("no panic"), HOST, "the outside sees the host");
        for name in ["ip_forward", "conf/up0/forwarding", "conf/all/forwarding"] {
            assert_eq!(setting(name), "0", "{name}");
        }
    });
}

#[test]
fn steps_reach_the_host_and_not_each_other() {
    on_a_host(|host| {
        let mut nat = nat("10.9.0.0/24");
        let (one, other) = (host.step(&mut nat), host.step(&mut nat));
        let _public = TcpListener::bind((HOST, 80)).expect("bound");
        let _private = TcpListener::bind((Ipv4Addr::LOCALHOST, 81)).expect("bound");
        let listen = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80)).expect("bound");
        let _of_other = within(&other.fresh, listen);
        assert!(connects(&one.fresh, HOST, 80));
        assert!(!is_let_in(&one.fresh, HOST, 81));
        assert!(!is_let_in(&one.fresh, Ipv4Addr::LOCALHOST, 81));
        assert!(!is_let_in(&one.fresh, other.address, 80));
        // It is the rules that keep them apart.
        drop(nat);
        assert!(connects(&one.fresh, other.address, 80));
    });
}

#[test]
fn another_engine_keeps_its_steps_apart_from_ours() {
    on_a_host(|host| {
        let (mut ours, mut theirs) = (nat("10.9.0.0/24"), nat("10.10.0.0/24"));
        let (one, other) = (host.step(&mut ours), host.step(&mut theirs));
        let listen = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80)).expect("bound");
        let _of_other = within(&other.fresh, listen);
        assert!(!is_let_in(&one.fresh, other.address, 80));
        drop(ours);
        assert!(!is_let_in(&one.fresh, other.address, 80));
    });
}

#[test]
fn the_outside_opens_no_connections_to_steps() {
    on_a_host(|host| {
        // Other software has made the host a router.
        set("ip_forward", "1");
        let mut nat = nat("10.9.0.0/24");
        let step = host.step(&mut nat);
        let listen = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80)).expect("bound");
        let _server = within(&step.fresh, listen);
        assert!(!is_let_in(&host.outside, step.address, 80));
        drop(nat);
        assert!(connects(&host.outside, step.address, 80));
    });
}

/// Sends a datagram in a frame that is made up here, as CAP_NET_RAW permits.
fn forge(from: &Fresh, source: IpAddr, destination: IpAddr, port: u16, payload: &[u8]) {
    let octets = |address| match address {
        IpAddr::V4(address) => Ipv4Addr::octets(&address).to_vec(),
        IpAddr::V6(address) => Ipv6Addr::octets(&address).to_vec(),
    };
    let (source, destination) = (octets(source), octets(destination));
    let length = (8 + payload.len()) as u16;
    let mut datagram = vec![0, 9];
    datagram.extend(port.to_be_bytes());
    datagram.extend(length.to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    let pseudo = [&source[..], &destination, &[0, 17], &length.to_be_bytes(), &datagram].concat();
    datagram[6..8].copy_from_slice(&checksum(&pseudo).to_be_bytes());
    let mut frame = [&link::HARDWARE_ADDRESS[..], &link::HARDWARE_ADDRESS].concat();
    let ethernet_type: u16 = if source.len() == 4 { 0x0800 } else { 0x86dd };
    frame.extend(ethernet_type.to_be_bytes());
    if source.len() == 4 {
        let mut header = vec![0x45, 0];
        header.extend((20 + length).to_be_bytes());
        header.extend([0, 0, 0, 0, 64, 17, 0, 0]);
        header.extend([source, destination].concat());
        let sum = checksum(&header).to_be_bytes();
        header[10..12].copy_from_slice(&sum);
        frame.extend(header);
    } else {
        frame.extend([0x60, 0, 0, 0]);
        frame.extend(length.to_be_bytes());
        frame.extend([17, 64]);
        frame.extend([source, destination].concat());
    }
    frame.extend(datagram);
    within(from, || {
        // SAFETY: `address` is a valid structure of the size that is said, and `frame` has its length.
        unsafe {
            let socket = libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0);
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_ifindex = libc::if_nametoindex(c"eth0".as_ptr()) as i32;
            let sent = libc::sendto(
                socket,
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const address).cast(),
                size_of_val(&address) as u32,
            );
            assert_eq!(sent, frame.len() as isize, "{}", std::io::Error::last_os_error());
            libc::close(socket);
        }
    });
}

fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| [pair[0], pair.get(1).copied().unwrap_or(0)]);
    let mut sum: u32 = words.map(|word| u32::from(u16::from_be_bytes(word))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// What comes to a socket first.
fn first(socket: &UdpSocket) -> String {
    let mut buffer = [0; 64];
    socket.set_read_timeout(Some(Duration::from_secs(60))).expect("it can be set");
    let length = socket.recv(&mut buffer).expect("something comes");
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

#[test]
fn forged_sources_are_dropped() {
    on_a_host(|host| {
        let mut nat = nat("10.9.0.0/24");
        let (one, other) = (host.step(&mut nat), host.step(&mut nat));
        let here = UdpSocket::bind((HOST, 7)).expect("bound");
        let there = within(&host.outside, || UdpSocket::bind((OUTSIDE, 7)).expect("bound"));
        for (address, socket) in [(HOST, &here), (OUTSIDE, &there)] {
            for forged in [other.address, OUTSIDE, HOST, Ipv4Addr::new(8, 8, 8, 8)] {
                forge(&one.fresh, forged.into(), address.into(), 7, forged.to_string().as_bytes());
            }
            forge(&one.fresh, one.address.into(), address.into(), 7, b"honest");
            assert_eq!(first(socket), "honest");
        }
        drop(nat);
        forge(&one.fresh, other.address.into(), HOST.into(), 7, b"without rules");
        assert_eq!(first(&here), "without rules");
    });
}

#[test]
fn cve_2020_8558_the_loopback_stays_unreachable_where_it_is_routed() {
    on_a_host(|mut host| {
        let mut nat = nat("10.9.0.0/24");
        let step = host.step(&mut nat);
        let name = host.interfaces().remove(0).name;
        set(&format!("conf/{name}/route_localnet"), "1");
        let private = UdpSocket::bind((Ipv4Addr::LOCALHOST, 7)).expect("bound");
        let forge = |payload| {
            forge(&step.fresh, step.address.into(), Ipv4Addr::LOCALHOST.into(), 7, payload);
        };
        forge(b"attack");
        drop(nat);
        forge(b"without rules");
        assert_eq!(first(&private), "without rules");
    });
}

#[test]
fn nothing_of_ipv6_passes() {
    on_a_host(|host| {
        let mut nat = nat("10.9.0.0/24");
        let step = host.step(&mut nat);
        let addresses = within(&step.fresh, || {
            fs::read_to_string("/proc/thread-self/net/if_inet6").expect("the kernel has IPv6")
        });
        assert!(addresses.lines().all(|line| line.ends_with(" lo")), "{addresses}");
        // All nodes of a link: what one need not know the host for.
        let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        let listener = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 7)).expect("bound");
        let source = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9);
        let forge = |payload| forge(&step.fresh, source.into(), all.into(), 7, payload);
        forge(b"attack");
        drop(nat);
        forge(b"without rules");
        assert_eq!(first(&listener), "without rules");
    });
}

#[test]
fn a_firewall_that_drops_what_is_forwarded_is_found_out() {
    on_a_host(|host| {
        // As Docker does.
        let docker = firewall::drop_forwarded("docker").expect("it can be made");
        let mut nat = nat("10.9.0.0/24");
        let step = host.step(&mut nat);
        let error = nat.probe(&step.fresh).expect_err("it is in the way").to_string();
        assert!(error.contains("a firewall of the host drops them"), "{error}");
        drop(docker);
        nat.probe(&step.fresh).expect("nothing is in the way any more");
    });
}

#[test]
fn engines_share_the_addresses() {
    on_a_host(|host| {
        let mut engines = [nat("10.9.0.16/28"), nat("10.9.0.16/28")];
        let mut steps: Vec<Step> = Vec::new();
        for index in 0..16 {
            steps.push(host.step(&mut engines[index % 2]));
        }
        let mut addresses: Vec<_> = steps.iter().map(|step| step.address.octets()[3]).collect();
        addresses.sort_unstable();
        assert_eq!(addresses, (16..32).collect::<Vec<u8>>());
        let mut fresh = namespace::make(None).expect("one can be made");
        let error = engines[0].connect(&mut fresh).expect_err("all are taken").to_string();
        assert!(error.starts_with("finding a free address in 10.9.0.16/28: "), "{error}");
    });
}

#[test]
fn engines_share_the_addresses_that_their_subnets_have_in_common() {
    on_a_host(|host| {
        // Half of the one's addresses are left to the other, and those names that the one has not taken.
        let (mut small, mut large) = (nat("10.9.0.16/28"), nat("10.9.0.0/27"));
        let mut steps: Vec<Step> = (0..8).map(|_| host.step(&mut small)).collect();
        steps.extend((0..15).map(|_| host.step(&mut large)));
        let addresses: BTreeSet<_> = steps.iter().map(|step| step.address).collect();
        assert_eq!(addresses.len(), steps.len(), "{addresses:?}");
    });
}

#[test]
fn a_step_that_comes_while_the_host_is_looked_at_is_no_obstacle() {
    on_a_host(|mut host| {
        let links = link::links(&mut host.links).expect("listed");
        let mut other = nat("10.9.0.0/24");
        let step = host.step(&mut other);
        let routes = link::routes(&mut host.links).expect("listed");
        let routed = Subnet::new(step.address, 32);
        assert!(routes.iter().any(|route| route.destination == routed));
        let subnet: Subnet = "10.9.0.0/24".parse().expect("a subnet");
        let chosen = choose_subnet(Some(subnet), &[], &routes, &links);
        assert_eq!(chosen.expect("nothing of the host's overlaps"), subnet);
    });
}

#[test]
fn engines_that_start_together_see_their_own_probes() {
    on_a_host(|host| {
        // Each makes its rules before any looks whether packets are forwarded.
        let mut engines = ["10.9.0.0/24", "10.9.0.0/24", "10.10.0.0/24"].map(nat);
        for nat in &mut engines {
            let step = host.step(nat);
            nat.probe(&step.fresh).expect("nothing is in the way");
        }
    });
}

#[test]
fn subnets_keep_out_of_the_hosts_way() {
    on_a_host(|mut host| {
        let chosen = |avoid: &[Ipv4Addr]| match Nat::new(None, avoid) {
            Ok(nat) => nat.surroundings().subnet.to_string(),
            Err(error) => error.to_string(),
        };
        assert_eq!(chosen(&[]), "10.199.0.0/16");
        assert_eq!(chosen(&[Ipv4Addr::new(10, 199, 1, 1)]), "172.27.0.0/16");
        let uplink = link::link(&mut host.links, "up0").expect("it was made").index;
        let route = |host: &mut Host, destination: &str| {
            let destination: Subnet = destination.parse().expect("a subnet");
            link::add_route(&mut host.links, destination, uplink).expect("it can be added");
        };
        route(&mut host, "10.0.0.0/8");
        route(&mut host, "172.27.9.0/24");
        assert_eq!(chosen(&[]), "192.168.199.0/24");
        // Another engine's steps are no obstacle, or none could have the same subnet.
        let mut other = nat("192.168.199.0/24");
        let _step = host.step(&mut other);
        assert_eq!(chosen(&[]), "192.168.199.0/24");
        let error = Nat::new(Some("10.1.0.0/16".parse().expect("a subnet")), &[]);
        assert_eq!(
            error.expect_err("they overlap").to_string(),
            "choosing a subnet for steps: 10.1.0.0/16 overlaps with the host's route to 10.0.0.0/8 \
             by `up0`"
        );
    });
}

#[test]
fn nothing_is_left() {
    on_a_host(|mut host| {
        let mut nat = nat("10.9.0.0/24");
        let steps = [host.step(&mut nat), host.step(&mut nat)];
        assert_eq!(host.interfaces().len(), 2);
        assert_eq!(firewall::tables().expect("listed").len(), 2);
        let kept = nat.rules().expect("there are descriptors");
        drop((nat, steps));
        assert_eq!(firewall::tables().expect("listed").len(), 2, "they were kept");
        drop(kept);
        assert_eq!(firewall::tables().expect("listed"), [""; 0]);
        // The kernel removes namespaces in the background.
        let started = Instant::now();
        while !host.interfaces().is_empty() {
            assert!(started.elapsed() < Duration::from_secs(60), "interfaces stay");
            thread::sleep(Duration::from_millis(5));
        }
        let routes = link::routes(&mut host.links).expect("listed");
        let steps: Subnet = "10.9.0.0/24".parse().expect("a subnet");
        assert!(
            !routes.iter().any(|r| !r.destination.is_everything() && r.destination.overlaps(steps))
        );
    });
}

#[test]
fn every_user_may_ping_and_bind() {
    let fresh = namespace::make(None).expect("one can be made");
    within(&fresh, || {
        assert_eq!(setting("ip_unprivileged_port_start"), "0");
        assert_eq!(setting("ping_group_range"), "0\t2147483645");
        TcpListener::bind((Ipv4Addr::LOCALHOST, 80)).expect("the loopback is up");
    });
}
