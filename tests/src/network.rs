//! What a suite looks at of this machine's network, and a name server for steps.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

/// The address that this machine has to the outside.
///
/// # Errors
/// It has none.
pub fn host_address() -> Result<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // An address of RFC 5737; nothing is sent.
    socket.connect((Ipv4Addr::new(198, 51, 100, 1), 9))?;
    match socket.local_addr()?.ip() {
        std::net::IpAddr::V4(address) => Ok(address),
        address => bail!("{address} is not of IPv4"),
    }
}

/// What there is on this machine of the networks that an engine made: rules with the engine's
/// process in their name, and routes to these addresses of its steps.
///
/// # Errors
/// The kernel does not tell.
pub fn traces(engine: u32, steps: &[Ipv4Addr]) -> Result<Vec<String>> {
    let table = format!("cofferdam-{engine}-");
    let mut found: Vec<String> = tables()?.contains(&table).then_some(table).into_iter().collect();
    let routes = fs::read_to_string("/proc/net/route")?;
    for step in steps {
        let destination = format!("\t{:08X}\t", u32::from_ne_bytes(step.octets()));
        let routes = routes.lines().filter(|line| line.contains(&destination));
        found.extend(routes.map(str::to_owned));
    }
    Ok(found)
}

/// Starts the loopback device of this network namespace.
///
/// # Errors
/// When only root may, or the kernel will not.
pub fn start_loopback() -> Result<()> {
    let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    // Length, RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK; a `struct ifinfomsg` of interface 1 that sets
    // IFF_UP.
    let mut request = [0_u8; 32];
    (request[0], request[4], request[6]) = (32, 16, 5);
    (request[20], request[24], request[28]) = (1, 1, 1);
    send(&socket, &request, SendFlags::empty())?;
    let mut answer = [0; 64];
    let (length, _) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
    // NLMSG_ERROR, with no error in it.
    if length < 20 || answer[4] != 2 || answer[16..20] != [0; 4] {
        bail!("the loopback device does not start: {:?}", &answer[..length]);
    }
    Ok(())
}

/// All that nf_tables answers when it is asked for its tables: their names stand in it.
///
/// # Errors
/// When only root may ask.
pub fn tables() -> Result<String> {
    let netfilter = Some(netlink::NETFILTER);
    let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, netfilter)?;
    // Length, NFT_MSG_GETTABLE of nf_tables, NLM_F_REQUEST | NLM_F_DUMP, and a `struct nfgenmsg`.
    let question = [20, 0, 0, 0, 1, 10, 1, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    send(&socket, &question, SendFlags::empty())?;
    let (mut answer, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
    loop {
        let (length, _) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        answer.extend(&buffer[..length]);
        match buffer[4] {
            // NLMSG_ERROR
            2 => bail!("nf_tables are not shown to this user"),
            // NLMSG_DONE is the type of the last message.
            3 => return Ok(String::from_utf8_lossy(&answer).into_owned()),
            _ => {}
        }
    }
}

/// A name server on port 53 of an address of this machine; it ends with the program.
///
/// # Errors
/// Another one is there, and stays.
pub fn name_server(
    address: Ipv4Addr,
    names: impl IntoIterator<Item = (&'static str, Ipv4Addr)>,
) -> Result<()> {
    let names: BTreeMap<&str, Ipv4Addr> = names.into_iter().collect();
    let socket = (0..600).find_map(|_| {
        let socket = UdpSocket::bind((address, 53)).ok();
        // A suite that runs beside this one lets go of it in the end.
        socket.or_else(|| {
            thread::sleep(Duration::from_millis(100));
            None
        })
    });
    let socket = socket.with_context(|| format!("port 53 of {address} is taken"))?;
    thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut question) {
            if let Some(answer) = answer(&question[..length], &names) {
                // Whoever has gone needs no answer.
                _ = socket.send_to(&answer, client);
            }
        }
    });
    Ok(())
}

/// An answer of RFC 1035 to one question: to A with the address, to anything else with nothing.
fn answer(question: &[u8], names: &BTreeMap<&str, Ipv4Addr>) -> Option<Vec<u8>> {
    let (mut name, mut at) = (Vec::new(), 12);
    while *question.get(at)? != 0 {
        let end = at + 1 + usize::from(question[at]);
        name.push(String::from_utf8_lossy(question.get(at + 1..end)?).into_owned());
        at = end;
    }
    let kind = question.get(at + 1..at + 3)?;
    let address = names.get(name.join(".").as_str());
    let known = address.filter(|_| kind == [0, 1]);
    let code = if address.is_some() { 0 } else { 3 };
    let mut answer = question[..2].to_vec();
    answer.extend([0x81, 0x80 | code, 0, 1, 0, u8::from(known.is_some()), 0, 0, 0, 0]);
    answer.extend(question.get(12..at + 5)?);
    if let Some(address) = known {
        // The name is that of the question; a minute.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}
