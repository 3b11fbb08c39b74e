//! What the engine and the helper say to each other over their socket: frames of a length and a
//! postcard value. The engine sends one [`Order`] and then nothing; its end of the socket going
//! away means "kill the step". The helper side sends [`Report`]s.

use std::io::{self, Read, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::cgroup::Hierarchies;
use crate::step::Step;

/// What the helper has to do.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    /// Unique among the steps of this host; names the cgroup and the scratch directory.
    pub id: String,
    /// The checked step.
    pub step: Step,
    /// A directory that the helper may use for this engine.
    pub state_dir: PathBuf,
    /// Where cgroups can be made.
    pub hierarchies: Hierarchies,
    /// The compiled seccomp filter: `struct sock_filter`s in memory order.
    pub filter: Vec<u8>,
}

/// What became of it.
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

/// Reads a frame.
pub fn receive<T: DeserializeOwned>(mut from: impl Read) -> io::Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let mut body = vec![0; u32::from_le_bytes(length) as usize];
    from.read_exact(&mut body)?;
    postcard::from_bytes(&body).map_err(io::Error::other)
}

/// Takes the first frame of what was read so far, if it is complete.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<io::Result<T>> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let body = rest.get(..u32::from_le_bytes(*length) as usize)?;
    Some(postcard::from_bytes(body).map_err(io::Error::other))
}
