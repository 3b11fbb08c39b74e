//! Unpacks a layer of an image while it streams: every file is hashed on the way, and the digest
//! of the uncompressed archive is checked before the layer is committed.
//!
//! The layer is unpacked on its own: into an empty directory where a step will mount it, else
//! into a manifest that points into the archive, which is kept uncompressed in a pack. Why, and
//! what was rejected, is in `docs/design/lazy-layers.md`.

mod manifest;
mod place;

use std::io::{self, BufReader, Read, Write};
use std::sync::mpsc;

use cofferdam_archive::Tar;
use cofferdam_store::{HeldLayer, Node, Store};
use cofferdam_types::{Digest, Hasher};

use crate::{Error, Result};
use manifest::{Manifest, Problem};
use place::{InArchive, OnDisk, Place};

/// In which form a layer is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Its files in a directory, which a step can mount.
    Directory,
    /// Its archive, uncompressed. Quicker by the making of all files; they are made from it when
    /// a step mounts the layer after all.
    Archive,
}

/// An image layer that is in the store now.
#[derive(Debug)]
pub struct Unpacked {
    /// The layer.
    pub layer: HeldLayer,
    /// Digest of the uncompressed archive.
    pub diff_id: Digest,
    /// Directories that entries lie in and that have none of their own: what they are is up to
    /// the layers below.
    pub implied: Vec<Vec<u8>>,
}

/// Unpacks a tar, compressed with gzip, zstd or not at all, and commits it as a layer.
/// `name` is what errors call it.
///
/// # Errors
/// When the archive is malformed, its uncompressed digest is not `expected`, or the disk is full.
/// Then nothing of it is in the store.
pub fn unpack(
    store: &Store,
    name: &str,
    reader: impl Read + Send,
    expected: Option<&Digest>,
    form: Form,
) -> Result<Unpacked> {
    let wrong = |reason: String| Error::Layer { layer: name.to_owned(), reason };
    let plain =
        decompressed(reader).map_err(|error| wrong(format!("cannot read the archive: {error}")))?;
    let check = |diff_id: &Digest| match expected.filter(|expected| *expected != diff_id) {
        Some(expected) => {
            Err(wrong(format!("its uncompressed digest is {diff_id}, the image says {expected}")))
        }
        None => Ok(()),
    };
    // Hashing the whole goes to the core that has less to do beside it.
    match form {
        Form::Directory => {
            let dir = store.new_layer_dir()?;
            let mut hasher = Hasher::new();
            let place = OnDisk::new(&dir);
            let hash = |data: &[u8]| hasher.update(data);
            let (root, implied) = read_entries(plain, place, hash, |_| Ok(()), &wrong)?;
            let diff_id = hasher.finish();
            check(&diff_id)?;
            Ok(Unpacked { layer: store.commit_dir(dir, root)?, diff_id, implied })
        }
        Form::Archive => {
            let mut pack = store.new_pack().into_stream()?;
            let place = InArchive::new(pack.start());
            let keep = |data: &[u8]| pack.write_all(data);
            let (root, implied) = read_entries(plain, place, |_| {}, keep, &wrong)?;
            let (_, _, diff_id) = pack.finish();
            check(&diff_id)?;
            Ok(Unpacked { layer: store.commit_virtual(root)?, diff_id, implied })
        }
    }
}

/// Decompresses on one core and takes the entries on another. Each is shown all the bytes: one
/// side `on_read`, the other `on_taken`.
fn read_entries(
    plain: impl Read + Send,
    place: impl Place,
    on_read: impl FnMut(&[u8]) + Send,
    on_taken: impl FnMut(&[u8]) -> io::Result<()>,
    wrong: &impl Fn(String) -> Error,
) -> Result<(Node, Vec<Vec<u8>>)> {
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel(8);
        let producer = scope.spawn(move || decompress(plain, on_read, &sender));
        let chunks = Chunks { receiver, on_taken, chunk: Vec::new(), at: 0 };
        let taken = take_entries(chunks, place, wrong);
        let read = producer.join().expect("the producer does not panic");
        // An archive that cannot be read to its end also looks cut off: the cause goes first.
        read.map_err(|error| wrong(format!("cannot read the archive: {error}")))?;
        taken
    })
}

/// Takes the compression away that the first bytes tell of.
fn decompressed<'a>(mut reader: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut magic = Vec::new();
    reader.by_ref().take(4).read_to_end(&mut magic)?;
    let compressed =
        BufReader::with_capacity(128 * 1024, io::Cursor::new(magic.clone()).chain(reader));
    Ok(match magic.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(compressed)),
        // A frame, or a skippable frame in front of one.
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(compressed)?;
            // 128 MiB, what the zstd command allows too.
            decoder.window_log_max(27)?;
            Box::new(decoder)
        }
        _ => Box::new(compressed),
    })
}

/// Reads to the end and hands on; ends early when nobody listens any more.
fn decompress(
    mut reader: impl Read,
    mut on_read: impl FnMut(&[u8]),
    sender: &mpsc::SyncSender<Vec<u8>>,
) -> io::Result<()> {
    loop {
        let mut chunk = vec![0; 256 * 1024];
        let count = reader.read(&mut chunk)?;
        if count == 0 {
            return Ok(());
        }
        chunk.truncate(count);
        on_read(&chunk);
        if sender.send(chunk).is_err() {
            return Ok(());
        }
    }
}

fn take_entries<T: FnMut(&[u8]) -> io::Result<()>>(
    chunks: Chunks<T>,
    place: impl Place,
    wrong: &impl Fn(String) -> Error,
) -> Result<(Node, Vec<Vec<u8>>)> {
    let mut tar = Tar::new(chunks);
    let mut manifest = Manifest::new(place);
    while let Some(member) = tar.next().map_err(|error| wrong(error.to_string()))? {
        manifest.entry(&member, &mut tar).map_err(|problem| match problem {
            Problem::Error(error) => error,
            Problem::Archive(error) => wrong(error.to_string()),
            Problem::Entry(reason) => {
                let name = String::from_utf8_lossy(&member.path);
                wrong(format!("entry `{name}` at offset {}: {reason}", member.offset))
            }
        })?;
    }
    // What follows the end marker belongs to the archive too.
    let mut chunks = tar.into_inner();
    while chunks.next_chunk().map_err(|error| wrong(format!("cannot keep it: {error}")))? {}
    manifest.finish()
}

/// What the producer decompressed, as a reader.
struct Chunks<T> {
    receiver: mpsc::Receiver<Vec<u8>>,
    on_taken: T,
    chunk: Vec<u8>,
    at: usize,
}

impl<T: FnMut(&[u8]) -> io::Result<()>> Chunks<T> {
    /// Goes on to the next chunk; says whether there is one.
    fn next_chunk(&mut self) -> io::Result<bool> {
        let Ok(chunk) = self.receiver.recv() else { return Ok(false) };
        (self.on_taken)(&chunk)?;
        (self.chunk, self.at) = (chunk, 0);
        Ok(true)
    }
}

impl<T: FnMut(&[u8]) -> io::Result<()>> Read for Chunks<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.chunk.len() {
            if !self.next_chunk()? {
                return Ok(0);
            }
        }
        let count = buffer.len().min(self.chunk.len() - self.at);
        buffer[..count].copy_from_slice(&self.chunk[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}
