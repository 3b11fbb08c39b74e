//! Netlink, as far as rtnetlink(7) and nf_tables need it: batches of messages with nested
//! attributes, their acknowledgements, and dumps. What the messages mean is said by `link` and
//! `firewall`.
//!
//! All is in the host's byte order, but nf_tables' numbers, which are in the network's.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send,
    socket_with,
};

const ALIGNMENT: usize = 4;
/// `struct nlmsghdr`: length, type, flags, sequence number, sender.
const HEADER: usize = 16;
/// `struct nlattr`: length, type.
const ATTRIBUTE_HEADER: usize = 4;
/// More than the kernel puts into one answer.
const RECEIVE: usize = 64 << 10;

/// A netlink socket. It speaks for the network namespace that it was made in.
#[derive(Debug)]
pub struct Socket {
    socket: OwnedFd,
    sequence: u32,
}

/// The kernel refused a message of a batch.
#[derive(Debug)]
pub struct Refused {
    /// What the message was to do.
    pub doing: &'static str,
    /// What the kernel said.
    pub source: io::Error,
}

impl From<io::Error> for Refused {
    fn from(source: io::Error) -> Self {
        Self { doing: "speaking netlink", source }
    }
}

impl Socket {
    /// Opens a socket for rtnetlink in this thread's network namespace.
    pub fn route() -> io::Result<Self> {
        // It is protocol 0.
        Self::open(None)
    }

    /// Opens a socket for nf_tables in this thread's network namespace.
    pub fn netfilter() -> io::Result<Self> {
        Self::open(Some(netlink::NETFILTER))
    }

    fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
        Ok(socket_with(family, kind, SocketFlags::CLOEXEC, protocol)?.into())
    }

    /// Sends messages, and waits until the kernel has acted on all that are to be acknowledged.
    ///
    /// # Errors
    /// What was refused first. rtnetlink carries out the other messages nevertheless.
    pub fn request(&mut self, mut batch: Batch) -> Result<(), Refused> {
        let first = self.sequence;
        batch.number(first);
        self.sequence = first.wrapping_add(batch.messages.len() as u32);
        self.send(&batch.bytes)?;
        let mut missing = batch.messages.iter().filter(|message| message.acknowledged).count();
        let mut refused: Option<Refused> = None;
        let mut buffer = vec![0; RECEIVE];
        while missing > 0 {
            for reply in Replies(self.receive(&mut buffer)?) {
                let Some(errno) = reply.errno() else { continue };
                let index = reply.sequence.wrapping_sub(first) as usize;
                let Some(message) = batch.messages.get(index) else { continue };
                if errno != 0 && refused.is_none() {
                    let source = io::Error::from_raw_os_error(errno);
                    refused = Some(Refused { doing: message.doing, source });
                }
                // A batch of nf_tables ends with the first refusal, and says nothing more.
                if errno != 0 && batch.is_transaction {
                    missing = 0;
                } else if message.acknowledged {
                    missing = missing.saturating_sub(1);
                }
            }
        }
        if batch.is_transaction {
            self.discard();
        }
        refused.map_or(Ok(()), Err)
    }

    /// Sends one question, and hands each message of the answer to `each`.
    pub fn ask(&mut self, mut question: Batch, mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        let sequence = self.sequence;
        question.number(sequence);
        self.sequence = sequence.wrapping_add(1);
        self.send(&question.bytes)?;
        let mut buffer = vec![0; RECEIVE];
        loop {
            for reply in Replies(self.receive(&mut buffer)?) {
                if reply.sequence != sequence {
                    continue;
                }
                match reply.errno() {
                    Some(0) => return Ok(()),
                    Some(errno) => return Err(io::Error::from_raw_os_error(errno)),
                    None if reply.kind == libc::NLMSG_DONE as u16 => return Ok(()),
                    None => each(reply.kind, reply.body),
                }
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        send(&self.socket, bytes, SendFlags::empty())?;
        Ok(())
    }

    fn receive<'b>(&self, buffer: &'b mut [u8]) -> io::Result<&'b [u8]> {
        let (length, _) = recv(&self.socket, &mut *buffer, RecvFlags::empty())?;
        Ok(&buffer[..length])
    }

    /// Throws away what else the kernel said about a refused batch.
    fn discard(&self) {
        let mut buffer = vec![0; RECEIVE];
        while recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT).is_ok() {}
    }
}

impl From<OwnedFd> for Socket {
    fn from(socket: OwnedFd) -> Self {
        Self { socket, sequence: 1 }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Messages that are sent together.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    messages: Vec<Sent>,
    is_transaction: bool,
}

#[derive(Debug)]
struct Sent {
    doing: &'static str,
    start: usize,
    acknowledged: bool,
}

impl Batch {
    /// Messages that are carried out one by one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Messages that are all carried out or none.
    pub fn transaction() -> Self {
        Self { is_transaction: true, ..Self::default() }
    }

    /// Adds a message, which the kernel will acknowledge if `flags` ask for it: its type, the
    /// structure that it begins with, and its attributes.
    pub fn message(
        &mut self,
        doing: &'static str,
        kind: u16,
        flags: i32,
        start: &[u8],
        attributes: impl FnOnce(&mut Attributes<'_>),
    ) {
        let flags = (flags | libc::NLM_F_REQUEST) as u16;
        let begin = self.bytes.len();
        let acknowledged = flags & libc::NLM_F_ACK as u16 != 0;
        self.messages.push(Sent { doing, start: begin, acknowledged });
        let bytes = &mut self.bytes;
        bytes.extend([0; 4]);
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(start);
        align(bytes);
        attributes(&mut Attributes(bytes));
        let length = (bytes.len() - begin) as u32;
        bytes[begin..begin + 4].copy_from_slice(&length.to_ne_bytes());
    }

    fn number(&mut self, first: u32) {
        for (message, sequence) in self.messages.iter().zip((0..).map(|i| first.wrapping_add(i))) {
            let place = message.start + 8;
            self.bytes[place..place + 4].copy_from_slice(&sequence.to_ne_bytes());
        }
    }
}

fn align(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
}

/// Where attributes are written.
#[derive(Debug)]
pub struct Attributes<'b>(&'b mut Vec<u8>);

impl Attributes<'_> {
    /// Adds bytes.
    pub fn bytes(&mut self, kind: u16, value: &[u8]) {
        let length = (ATTRIBUTE_HEADER + value.len()) as u16;
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        align(self.0);
    }

    /// Adds a number in the host's byte order.
    pub fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    /// Adds a number in the network's byte order.
    pub fn network_number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// Adds a text.
    pub fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes);
    }

    /// Adds attributes within an attribute.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes<'_>)) {
        self.wrap(kind | libc::NLA_F_NESTED as u16, &[], fill);
    }

    /// Adds an attribute that holds a structure and attributes after it.
    pub fn wrap(&mut self, kind: u16, start: &[u8], fill: impl FnOnce(&mut Attributes<'_>)) {
        let begin = self.0.len();
        self.bytes(kind, start);
        fill(self);
        let length = (self.0.len() - begin) as u16;
        self.0[begin..begin + 2].copy_from_slice(&length.to_ne_bytes());
    }
}

/// The messages of one datagram of the kernel's.
struct Replies<'b>(&'b [u8]);

struct Reply<'b> {
    kind: u16,
    sequence: u32,
    body: &'b [u8],
}

impl Reply<'_> {
    /// The error number if the message is an acknowledgement; 0 is success.
    fn errno(&self) -> Option<i32> {
        let is_ack = self.kind == libc::NLMSG_ERROR as u16;
        is_ack
            .then(|| number(self.body).map_or(libc::EBADMSG, |errno| (errno as i32).wrapping_neg()))
    }
}

impl<'b> Iterator for Replies<'b> {
    type Item = Reply<'b>;

    fn next(&mut self) -> Option<Reply<'b>> {
        let length = number(self.0)? as usize;
        let message = self.0.get(..length).filter(|message| message.len() >= HEADER)?;
        self.0 = self.0.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        let kind = u16::from_ne_bytes([message[4], message[5]]);
        Some(Reply { kind, sequence: number(&message[8..])?, body: &message[HEADER..] })
    }
}

/// Reads the attributes that follow a structure of `start` bytes: type and value of each.
pub fn attributes(body: &[u8], start: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = body.get(start.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
    std::iter::from_fn(move || {
        let header = rest.get(..ATTRIBUTE_HEADER)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & libc::NLA_TYPE_MASK as u16;
        let value = rest.get(ATTRIBUTE_HEADER..length)?;
        rest = rest.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Returns the value of an attribute.
pub fn attribute(body: &[u8], start: usize, kind: u16) -> Option<&[u8]> {
    attributes(body, start).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// Reads a number in the host's byte order.
pub fn number(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_they_are_written() {
        let mut batch = Batch::new();
        batch.message("testing", 7, 0, &[1, 2, 3], |to| {
            to.text(1, "ab");
            to.nest(2, |to| {
                to.number(3, 5);
                to.network_number(4, 5);
            });
            to.bytes(5, &[9]);
        });
        batch.number(40);
        let reply = Replies(&batch.bytes).next().expect("there is a message");
        assert_eq!((reply.kind, reply.sequence), (7, 40));
        let read: Vec<_> = attributes(reply.body, 3).collect();
        assert_eq!(read[0], (1, &b"ab\0"[..]));
        assert_eq!((read[1].0, read[2]), (2, (5, &[9][..])));
        assert_eq!(attribute(read[1].1, 0, 3).and_then(number), Some(5));
        assert_eq!(attribute(read[1].1, 0, 4), Some(&[0, 0, 0, 5][..]));
        assert_eq!(read.len(), 3);
    }

    #[test]
    fn what_is_cut_off_ends_the_reading() {
        assert_eq!(attributes(&[8, 0, 1, 0, 1, 2], 0).count(), 0);
        assert_eq!(attributes(&[0, 0, 1, 0], 0).count(), 0);
        assert_eq!(Replies(&[200, 0, 0, 0, 1]).count(), 0);
        assert_eq!(Replies(&[4, 0, 0, 0]).count(), 0);
    }
}
