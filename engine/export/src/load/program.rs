//! containerd and podman through the programs that come with them: `ctr` and `podman`, which read
//! an archive from their standard input.
//!
//! containerd says which blobs it has, and takes an archive without them: it looks blobs up by
//! digest, wherever they came from. podman only says whether it has the image.

use std::collections::HashSet;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cofferdam_registry::Reference;
use cofferdam_store::Store;
use cofferdam_types::Digest;

use super::{Load, Loaded};
use crate::image::BuiltImage;
use crate::layout::{ImageLayout, LayoutFormat};
use crate::{Error, Progress, Result};

pub(super) struct Containerd {
    pub(super) ctr: PathBuf,
    pub(super) socket: PathBuf,
    pub(super) namespace: String,
}

pub(super) struct Podman {
    pub(super) program: PathBuf,
}

/// What a thread of its own needs to send an image.
struct Owned {
    store: Store,
    image: BuiltImage,
    names: Vec<Reference>,
    progress: Progress,
}

impl From<&Load<'_>> for Owned {
    fn from(load: &Load<'_>) -> Self {
        Self {
            store: load.store.clone(),
            image: load.image.clone(),
            names: load.names.to_vec(),
            progress: load.progress.clone(),
        }
    }
}

impl Containerd {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.ctr);
        command.arg("--address").arg(&self.socket).arg("--namespace").arg(&self.namespace);
        command.args(arguments);
        command
    }

    /// Whether containerd answers; if not, why.
    pub(super) async fn answers(&self) -> Result<(), String> {
        let command = self.command(&["--timeout", "10s", "version"]);
        blocking(move || said(command).map(drop)).await
    }

    pub(super) async fn load(&self, load: &Load<'_>) -> Result<Loaded> {
        let into = format!("containerd, namespace {}", self.namespace);
        let failed = |reason: String| Error::Load { into: into.clone(), reason };
        let (list, content) =
            (self.command(&["images", "ls"]), self.command(&["content", "ls", "-q"]));
        let list = blocking(move || said(list)).await.map_err(failed)?;
        let ours = load.image.descriptor.digest.to_string();
        let has = |name: &Reference| {
            list.lines().any(|line| {
                let mut words = line.split_whitespace();
                words.next() == Some(&name.to_string()) && words.any(|word| word == ours)
            })
        };
        if !load.names.is_empty() && load.names.iter().all(has) {
            return Ok(Loaded { into, sent: 0 });
        }
        let content = blocking(move || said(content)).await.map_err(failed)?;
        let there: HashSet<Digest> =
            content.lines().filter_map(|line| line.trim().parse().ok()).collect();
        // What describes the image is small, and an archive without it is none.
        let layers = load.image.manifests.iter().flat_map(|manifest| &manifest.layers);
        let layers = layers.map(|layer| layer.descriptor.digest);
        let without = layers.filter(|digest| there.contains(digest)).collect();
        let (owned, command) = (Owned::from(load), self.command(&["images", "import", "-"]));
        let sent = blocking(move || send(command, &owned, LayoutFormat::Oci, without)).await;
        Ok(Loaded { sent: sent.map_err(failed)?, into })
    }
}

impl Podman {
    pub(super) async fn load(&self, load: &Load<'_>) -> Result<Loaded> {
        let into = "podman".to_owned();
        let failed = |reason: String| Error::Load { into: into.clone(), reason };
        let config = load.image.manifests[0].config.digest.hex();
        let mut exists = Command::new(&self.program);
        exists.args(["image", "exists", &config]);
        let there = blocking(move || Ok(said(exists).is_ok())).await.map_err(failed)?;
        if there {
            if !load.names.is_empty() {
                let mut tag = Command::new(&self.program);
                tag.args(["tag", &config]).args(load.names.iter().map(ToString::to_string));
                blocking(move || said(tag)).await.map_err(failed)?;
            }
            return Ok(Loaded { into, sent: 0 });
        }
        let mut command = Command::new(&self.program);
        command.arg("load");
        let owned = Owned::from(load);
        let sent = blocking(move || send(command, &owned, LayoutFormat::Docker, HashSet::new()));
        Ok(Loaded { sent: sent.await.map_err(failed)?, into })
    }
}

/// Runs a program to its end; gives what it says, or why it failed.
fn said(mut command: Command) -> Result<String, String> {
    let name = name(&command);
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("cannot start {name}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{name}: {}: {}", output.status, tail(&output.stderr)))
}

/// Runs a program that reads an archive; gives the archive's size.
fn send(
    mut command: Command,
    load: &Owned,
    format: LayoutFormat,
    without: HashSet<Digest>,
) -> Result<u64, String> {
    let name = name(&command);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("cannot start {name}: {error}"))?;
    let mut stderr = child.stderr.take().expect("it is a pipe");
    let mut stdin = Counted {
        out: BufWriter::with_capacity(1 << 20, child.stdin.take().expect("it is a pipe")),
        count: 0,
        progress: &load.progress,
    };
    let (written, complaints) = std::thread::scope(|scope| {
        // Read at the same time, so that it never has to wait for us.
        let complaints = scope.spawn(move || {
            let mut text = Vec::new();
            // What cannot be read is not told.
            let _ = stderr.read_to_end(&mut text);
            text
        });
        let (store, image, names) = (&load.store, &load.image, &load.names[..]);
        let layout = ImageLayout { store, image, names, format, without };
        let written = layout.write_archive(&mut stdin).map(|()| stdin.count);
        if written.is_err() {
            // Half an archive must not look like a whole one.
            let _ = child.kill();
        }
        drop(stdin);
        (written, complaints.join().unwrap_or_default())
    });
    let status = child.wait().map_err(|error| format!("{name}: {error}"))?;
    match written {
        Ok(count) if status.success() => Ok(count),
        Ok(_) | Err(Error::Output(_)) => Err(format!("{name}: {status}: {}", tail(&complaints))),
        Err(error) => Err(error.to_string()),
    }
}

struct Counted<'a, W> {
    out: W,
    count: u64,
    progress: &'a Progress,
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        let count = self.out.write(data)?;
        let before = self.count;
        self.count += count as u64;
        if before >> 20 != self.count >> 20 {
            (self.progress)("sending the archive", self.count, 0);
        }
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

fn name(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    format!("`{name}`")
}

/// The end of what a program complained of, on one line.
fn tail(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(3)..].join("; ")
}

/// Runs on a thread where waiting is allowed.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?
}
