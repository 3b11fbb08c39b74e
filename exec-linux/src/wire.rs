//! What the engine and the helper say to each other over their socket: frames of a length and a
//! postcard value, with descriptors beside them. The engine sends a [`Preparation`], when there is
//! a step one [`Task`], and then nothing; its end of the socket going away means "kill the step".
//! The helper side sends [`Message`]s.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::cgroup::Hierarchies;
use crate::entitlement::Given;
use crate::step::Step;
use crate::streams::InputKind;

/// What the helper needs to know to make things ahead, before there is a step.
#[derive(Debug, Serialize, Deserialize)]
pub struct Preparation {
    /// As in the [`Order`] to come.
    pub id: String,
    /// Where the cgroups of a step are made that does not say where.
    pub hierarchies: Hierarchies,
}

/// What the helper is told then, once.
#[derive(Debug, Serialize, Deserialize)]
pub enum Task {
    /// To run a step.
    Step(Box<Order>),
    /// There is no step: to end after the engine. What comes with this takes long to close.
    Close,
}

/// What the helper has to do for a step.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    /// Unique among the steps of this host; names the cgroup and the scratch directory.
    pub id: String,
    /// The checked step, without its privileges.
    pub step: Step,
    /// Its privileges.
    pub privileges: Given,
    /// A directory that the helper may use for this engine.
    pub state_dir: PathBuf,
    /// Where the cgroups are to be made, if not where they are ahead of the step.
    pub hierarchies: Option<Hierarchies>,
    /// The compiled seccomp filter: `struct sock_filter`s in memory order.
    pub filter: Vec<u8>,
    /// The OCI runtime that runs the step; the helper itself does if there is none.
    pub oci_runtime: Option<PathBuf>,
    /// What the step reads.
    pub input: InputKind,
    /// The descriptors that come with the order, in this order; each kind at most once.
    pub lent: Vec<Lent>,
}

/// A descriptor of the engine's that a step gets the use of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lent {
    /// The user namespace that the step runs in; without it the step runs in the engine's.
    UserNamespace,
    /// The network namespace that the step runs in.
    NetworkNamespace,
}

/// The most descriptors that come with one frame.
const DESCRIPTORS_MAX: usize = 8;

/// What the helper's side says.
#[derive(Debug, Serialize, Deserialize)]
pub enum Message {
    /// With this comes the descriptor of the other end of the step's standard input: of the pipe,
    /// or of the pseudo-terminal.
    Connected,
    /// The step has ended.
    Ended(Report),
}

/// What became of a step.
#[derive(Debug, Serialize, Deserialize)]
pub enum Report {
    /// The step's program was not started.
    Failed(Failure),
    /// The step ended with an exit code.
    Code {
        /// The exit code.
        code: i32,
        /// Whether the kernel killed a process of the step for want of memory.
        oom: bool,
    },
    /// The step was killed by a signal.
    Signal {
        /// The signal's number.
        signal: i32,
        /// As above.
        oom: bool,
    },
}

/// Which kind of error a failure becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// The sandbox could not be built.
    Setup,
    /// The program is not there.
    NotFound,
    /// The program cannot be executed.
    NotExecutable,
}

/// A failure before the step's program ran.
#[derive(Debug, Serialize, Deserialize)]
pub struct Failure {
    /// Which kind.
    pub kind: FailureKind,
    /// What was being done, naming the object.
    pub doing: String,
    /// The error number, if the kernel gave one.
    pub errno: Option<i32>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.doing)?;
        match self.errno {
            None => Ok(()),
            Some(errno) => write!(f, ": {}", io::Error::from_raw_os_error(errno)),
        }
    }
}

/// Encodes a frame.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let body = postcard::to_stdvec(value).expect("plain data always encodes");
    let length = u32::try_from(body.len()).expect("a step is smaller than 4 GiB");
    let mut frame = length.to_le_bytes().to_vec();
    frame.extend(body);
    frame
}

/// Writes a frame.
pub fn send<T: Serialize>(mut to: impl Write, value: &T) -> io::Result<()> {
    to.write_all(&encode(value))
}

/// Reads a frame that comes without descriptors, and nothing of what follows it.
pub fn receive_plain<T: DeserializeOwned>(mut from: impl Read) -> io::Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let mut body = vec![0; u32::from_le_bytes(length) as usize];
    from.read_exact(&mut body)?;
    postcard::from_bytes(&body).map_err(io::Error::other)
}

/// Reads the last frame, with the descriptors that come with it.
pub fn receive<T: DeserializeOwned>(from: impl AsFd) -> io::Result<(T, Vec<OwnedFd>)> {
    let (mut bytes, mut descriptors) = (Vec::new(), Vec::new());
    loop {
        let received = read_with(&from, &mut bytes)?;
        descriptors.extend(received.descriptors);
        if let Some(value) = take(&mut bytes) {
            return Ok((value?, descriptors));
        }
        if received.length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Writes a frame, and a descriptor with it.
pub fn send_with<T: Serialize>(
    mut to: impl Write + AsFd,
    value: &T,
    descriptor: impl AsFd,
) -> io::Result<()> {
    let frame = encode(value);
    let sent = write_with(&to, &frame, &[descriptor.as_fd()])?;
    to.write_all(&frame[sent..])
}

/// Writes the beginning of a frame with its descriptors, and tells how much of it.
pub fn write_with(
    to: impl AsFd,
    frame: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        let pushed = ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
        assert!(pushed, "there is space for it");
    }
    Ok(sendmsg(to, &[IoSlice::new(frame)], &mut ancillary, SendFlags::NOSIGNAL)?)
}

/// What one read of a socket gave.
pub struct Received {
    /// How many bytes; 0 is the end.
    pub length: usize,
    /// The descriptors that came with them.
    pub descriptors: Vec<OwnedFd>,
}

/// Reads what there is, up to a frame with descriptors, and appends it to `bytes`.
pub fn read_with(from: impl AsFd, bytes: &mut Vec<u8>) -> io::Result<Received> {
    let mut chunk = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut into = [IoSliceMut::new(&mut chunk)];
    let length = recvmsg(from, &mut into, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?.bytes;
    let mut received = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            received.extend(descriptors);
        }
    }
    bytes.extend_from_slice(&chunk[..length]);
    Ok(Received { length, descriptors: received })
}

/// Takes the first frame off what was read so far, if it is complete.
pub fn take<T: DeserializeOwned>(bytes: &mut Vec<u8>) -> Option<io::Result<T>> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length) as usize;
    let value = postcard::from_bytes(rest.get(..length)?).map_err(io::Error::other);
    bytes.drain(..4 + length);
    Some(value)
}
