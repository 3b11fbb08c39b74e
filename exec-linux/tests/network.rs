//! What steps find of the network, in each mode.

#[path = "support/privileges.rs"]
mod privileges;
mod support;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use cofferdam_exec_linux::*;
use privileges::granted;
use support::Bench;

/// Answers everybody who connects with a word.
fn serve(address: Ipv4Addr, word: &'static str) -> SocketAddr {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            // Whoever has gone needs no answer.
            _ = (&client).write_all(word.as_bytes());
        }
    });
    address
}

fn this_host() -> Ipv4Addr {
    host_address().expect("this machine has an address")
}

/// What a step gets from an address of the host's and from its loopback.
fn fetch() -> String {
    let (public, private) =
        (serve(this_host(), "public\n"), serve(Ipv4Addr::LOCALHOST, "private\n"));
    let fetch = |seconds: u8, address: IpAddr, at: SocketAddr| {
        let nc = format!("busybox nc -w {seconds} {address} {}", at.port());
        format!("{nc} </dev/null 2>/dev/null || echo nothing\n")
    };
    // What answers may be slow on a busy machine.
    fetch(60, public.ip(), public)
        + &fetch(2, private.ip(), private)
        + &fetch(2, public.ip(), private)
}

fn with_mode(mode: NetworkMode, programs: Vec<PathBuf>) -> Bench {
    Bench::with_network(NetworkConfig { mode, programs, ..NetworkConfig::default() })
}

/// Where slirp4netns and pasta are (Debian packages slirp4netns and passt).
const PROGRAMS: &str = "/usr/bin";
const OWN: &str = "public\nnothing\nnothing\n";

#[tokio::test]
async fn a_step_reaches_the_host_but_not_its_loopback() {
    let bench = with_mode(NetworkMode::Nat, vec![]);
    assert_eq!(bench.run(bench.sh(&fetch())).await, OWN);
    assert_eq!(bench.changes(), "");
    let chosen = bench.runner.network().await.unwrap();
    assert!(matches!(chosen.kind, NetworkKind::Nat(_)), "{chosen:?}");
    // Without being told, where nothing is in the way.
    let bench = Bench::new();
    assert_eq!(bench.run(bench.sh(&fetch())).await, OWN);
}

#[tokio::test]
async fn slirp4netns_and_pasta_do_as_well() {
    let programs = vec![PathBuf::from(PROGRAMS)];
    for (mode, imitator, expected) in [
        (NetworkMode::Slirp4netns, Imitator::Slirp4netns, OWN),
        // The step has the host's address.
        (NetworkMode::Pasta, Imitator::Pasta, "nothing\nnothing\nnothing\n"),
    ] {
        let bench = with_mode(mode, programs.clone());
        assert_eq!(bench.run(bench.sh(&fetch())).await, expected, "{mode:?}");
        let chosen = bench.runner.network().await.unwrap();
        assert_eq!(chosen.kind, NetworkKind::Imitated(imitator));
    }
}

#[tokio::test]
async fn the_host_and_nothing_can_be_the_default() {
    let bench = with_mode(NetworkMode::Host, vec![]);
    assert_eq!(bench.run(bench.sh(&fetch())).await, "public\nprivate\nnothing\n");
    let bench = with_mode(NetworkMode::None, vec![]);
    for network in [Network::Default, Network::None] {
        let privileges = granted(network, Security::Sandbox);
        let step = Step { privileges, ..bench.sh("ls /sys/class/net; ip -o -4 addr | wc -l") };
        assert_eq!(bench.run(step).await, "lo\n1\n", "{network:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_had_is_an_error() {
    let bench = with_mode(NetworkMode::Pasta, vec!["/nonexistent".into()]);
    let output = bench.run(bench.sh("true")).await;
    assert_eq!(output, "error None: looking for the program `pasta`: entity not found\n");
    // One that talks and gives up.
    let program = bench.path("slirp4netns");
    std::fs::write(&program, "#!/bin/sh\necho starting\necho no tun >&2\necho bye >&2\n").unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, executable).unwrap();
    let other = with_mode(NetworkMode::Slirp4netns, vec![bench.path("")]);
    let output = other.run(other.sh("true")).await;
    assert!(output.starts_with("error None: connecting a step by `"), "{output}");
    assert!(output.ends_with("slirp4netns`: no tun; bye\n"), "{output}");
    // It is of no concern to who does not want it.
    let privileges = granted(Network::None, Security::Sandbox);
    let alone = Step { privileges, ..bench.sh("echo ran") };
    assert_eq!(bench.run(alone).await, "ran\n");
}

#[tokio::test]
async fn every_user_may_ping_and_bind_any_port() {
    let bench = with_mode(NetworkMode::Nat, vec![]);
    let ping = format!("ping -c 1 -w 5 {} >/dev/null && echo pinged", this_host());
    assert_eq!(bench.run(bench.sh(&ping)).await, "pinged\n");
    for user in [User::default(), User { uid: 1000, gid: 1000, groups: vec![] }] {
        let step = Step { user, ..bench.sh("probe ping; probe bind 80") };
        assert_eq!(bench.run(step).await, "0\n0\n");
    }
}

#[tokio::test]
async fn steps_at_once_have_addresses_of_their_own() {
    let bench = with_mode(NetworkMode::Nat, vec![]);
    let script = "ip -o -4 addr show eth0 | cut -d ' ' -f 7";
    let bench = &bench;
    let steps = (0..16).map(|number| async move {
        let mut step = bench.sh(script);
        let [upper, work] = ["u", "w"].map(|name| bench.path(&format!("{name}{number}")));
        std::fs::create_dir(&upper).unwrap();
        std::fs::create_dir(&work).unwrap();
        let lowers = vec![bench.path("image")];
        step.rootfs = Rootfs::Overlay(Overlay { lowers, writable: Some((upper, work)) });
        bench.run(step).await
    });
    let addresses = futures::future::join_all(steps).await;
    let different: BTreeSet<_> = addresses.iter().collect();
    assert_eq!(different.len(), 16, "{addresses:?}");
    assert!(addresses.iter().all(|address| address.ends_with("/32\n")), "{addresses:?}");
}

/// An engine that runs a step for a long time, once it has said what its address is.
struct Engine {
    process: Child,
    address: String,
    // The step's files.
    _bench: Bench,
}

impl Engine {
    fn start(network: &str) -> Self {
        let bench = Bench::new();
        let step = bench.sh("ip -o -4 addr show eth0 | cut -d ' ' -f 7; sleep 1000");
        let file = bench.path("step.json");
        std::fs::write(&file, serde_json::to_vec(&step).unwrap()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_exec-linux-run"));
        command.arg(file).env("EXEC_LINUX_STATE", bench.path("other-state"));
        command.env("EXEC_LINUX_NETWORK", network).env("PATH", PROGRAMS);
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut address = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Self { process, address: address.trim().to_owned(), _bench: bench }
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// What there is of it on the host: a route, rules, programs.
    fn traces(&self) -> Vec<String> {
        let mut found = Vec::new();
        // Programs give every step the same.
        if let Some(Ok(address)) = self.address.strip_suffix("/32").map(str::parse::<Ipv4Addr>) {
            let route = format!("\t{:08X}\t", u32::from_ne_bytes(address.octets()));
            let routes = std::fs::read_to_string("/proc/net/route").unwrap();
            found.extend(routes.lines().filter(|line| line.contains(&route)).map(str::to_owned));
        }
        let table = format!("cofferdam-{}-", self.process.id());
        found.extend(tables().contains(&table).then_some(table));
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let netns = format!("/proc/{}/fd/", self.process.id());
            // That of pasta does not say whose it is.
            if line.contains(&netns) || parent(&process.path()) == Some(self.process.id()) {
                found.push(line);
            }
        }
        found
    }
}

fn parent(process: &Path) -> Option<u32> {
    let status = std::fs::read_to_string(process.join("status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

/// All that nf_tables answers when it is asked for its tables: their names stand in it.
fn tables() -> String {
    use rustix::net::*;
    let netfilter = Some(netlink::NETFILTER);
    let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, netfilter).unwrap();
    // Length, NFT_MSG_GETTABLE of nf_tables, NLM_F_REQUEST | NLM_F_DUMP, and a `struct nfgenmsg`.
    let question = [20, 0, 0, 0, 1, 10, 1, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    send(&socket, &question, SendFlags::empty()).unwrap();
    let (mut answer, mut buffer) = (Vec::new(), [0; 1 << 16]);
    loop {
        let (length, _) = recv(&socket, &mut buffer[..], RecvFlags::empty()).unwrap();
        answer.extend(&buffer[..length]);
        // NLMSG_DONE is the type of the last message.
        if buffer[4] == 3 {
            return String::from_utf8_lossy(&answer).into_owned();
        }
    }
}

#[tokio::test]
async fn a_killed_engine_leaves_nothing() {
    for network in ["nat", "nat", "nat", "slirp4netns", "pasta"] {
        let mut engine = Engine::start(network);
        assert!(engine.traces().len() >= 2, "{network}: {:?}", engine.traces());
        engine.kill();
        let started = Instant::now();
        while !engine.traces().is_empty() {
            let late = started.elapsed() > Duration::from_secs(60);
            assert!(!late, "{network}: {:?}", engine.traces());
            thread::sleep(Duration::from_millis(5));
        }
    }
}
