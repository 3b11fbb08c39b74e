//! Loads an image into another engine on this machine: Docker, containerd or podman, whichever
//! answers first. What each is able to say of what it has already decides what is sent:
//!
//! - Docker with its own image store names the layers of its images, and a load may leave those
//!   out (`docker`); with containerd's store, it is all or nothing.
//! - containerd names its blobs (`program`).
//! - podman, and what speaks Docker's API without being Docker: all or nothing.
//!
//! Where these engines may be found is for the caller to say.

mod docker;
mod program;

use std::io::{self, Write};
use std::path::PathBuf;

use bytes::Bytes;
use cofferdam_registry::Reference;
use cofferdam_store::Store;
use tokio::sync::mpsc;

use crate::image::BuiltImage;
use crate::layout::single;
use crate::{Error, Progress, Result};

/// Where engines may be found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadTargets {
    /// The address that the user named for Docker (`unix://PATH` or `tcp://HOST:PORT`); nothing
    /// else is tried then.
    pub docker_host: Option<String>,
    /// Sockets on which Docker's API may be spoken, in the order in which they are tried.
    pub docker_sockets: Vec<PathBuf>,
    /// containerd's socket; `ctr` does the rest.
    pub containerd_socket: PathBuf,
    /// The namespace of containerd that images go to.
    pub containerd_namespace: String,
    /// Podman's sockets, which speak Docker's API.
    pub podman_sockets: Vec<PathBuf>,
    /// Directories with programs: `ctr`, `podman`.
    pub programs: Vec<PathBuf>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Who has the image now.
    pub into: String,
    /// Bytes that were sent; none if it was there.
    pub sent: u64,
}

/// An image to load.
pub(crate) struct Load<'a> {
    pub store: &'a Store,
    pub image: &'a BuiltImage,
    pub names: &'a [Reference],
    pub progress: &'a Progress,
}

/// Loads an image of one platform into the first engine that answers.
///
/// # Errors
/// When none answers, the one that does refuses it, or the image is for several platforms.
pub async fn load(
    store: &Store,
    image: &BuiltImage,
    names: &[Reference],
    targets: &LoadTargets,
    progress: &Progress,
) -> Result<Loaded> {
    single(image)?;
    let load = Load { store, image, names, progress };
    if let Some(host) = &targets.docker_host {
        let docker = docker::Docker::at(host)
            .map_err(|reason| Error::Load { into: host.clone(), reason })?;
        docker.ping().await.map_err(|reason| Error::Load { into: host.clone(), reason })?;
        return docker.load(&load).await;
    }
    let mut tried = Vec::new();
    if let Some(docker) = first_socket(&targets.docker_sockets, &mut tried).await {
        return docker.load(&load).await;
    }
    let socket = &targets.containerd_socket;
    match find(&targets.programs, "ctr") {
        _ if !socket.exists() => tried.push(format!("{}: not there", socket.display())),
        None => tried.push(format!("{}: no `ctr` to talk to it with", socket.display())),
        Some(ctr) => {
            let namespace = targets.containerd_namespace.clone();
            let containerd = program::Containerd { ctr, socket: socket.clone(), namespace };
            match containerd.answers().await {
                Ok(()) => return containerd.load(&load).await,
                Err(reason) => tried.push(format!("{}: {reason}", socket.display())),
            }
        }
    }
    if let Some(podman) = first_socket(&targets.podman_sockets, &mut tried).await {
        return podman.load(&load).await;
    }
    match find(&targets.programs, "podman") {
        Some(program) => program::Podman { program }.load(&load).await,
        None => {
            tried.push("`podman`: not on the PATH".into());
            Err(Error::NothingToLoadInto { tried: tried.join("; ") })
        }
    }
}

/// The first socket on which something answers; the others are said to have been tried.
async fn first_socket(sockets: &[PathBuf], tried: &mut Vec<String>) -> Option<docker::Docker> {
    for socket in sockets {
        let reason = if !socket.exists() {
            "not there".into()
        } else {
            match docker::Docker::at(&format!("unix://{}", socket.display())) {
                Err(reason) => reason,
                Ok(docker) => match docker.ping().await {
                    Ok(()) => return Some(docker),
                    Err(reason) => reason,
                },
            }
        };
        tried.push(format!("{}: {reason}", socket.display()));
    }
    None
}

fn find(directories: &[PathBuf], program: &str) -> Option<PathBuf> {
    directories.iter().map(|directory| directory.join(program)).find(|path| path.is_file())
}

/// Sends what is written in pieces to whoever takes it at the other end.
struct Pieces {
    sender: mpsc::Sender<io::Result<Bytes>>,
    piece: Vec<u8>,
}

/// Bytes that are sent at once.
const PIECE: usize = 256 << 10;

impl Pieces {
    fn new() -> (Self, mpsc::Receiver<io::Result<Bytes>>) {
        let (sender, receiver) = mpsc::channel(4);
        (Self { sender, piece: Vec::with_capacity(PIECE) }, receiver)
    }

    /// Makes the other end fail: half an archive must not look like a whole one.
    fn fail(self, error: &Error) {
        // Nobody listens any more: then they failed first.
        let _ = self.sender.blocking_send(Err(io::Error::other(error.to_string())));
    }
}

impl Write for Pieces {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let count = data.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&data[..count]);
        if self.piece.len() == PIECE {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        let closed = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.sender.blocking_send(Ok(piece.into())).map_err(closed)
    }
}
