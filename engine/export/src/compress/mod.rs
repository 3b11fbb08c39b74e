//! Compresses on all cores, into bytes that do not depend on how many there are.
//!
//! The input is cut into blocks of [`BLOCK`] bytes that are compressed independently. For gzip
//! they are joined to one member, as pigz does it: each ends with a sync flush (RFC 1951,
//! 3.2.4), and an empty last block closes the stream. Several members would be as valid
//! (RFC 1952, 2.2), but there are readers that stop after the first. What would not become
//! smaller (`noise`) is stored as it is. For zstd each block is a frame (RFC 8878, 3.1), which
//! every decoder takes.

mod encode;
mod noise;

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

use cofferdam_types::{Digest, Hasher};
use flate2::Crc;

use encode::{Block, Encoder};

/// Bytes that are compressed at once.
pub(crate) const BLOCK: usize = 1 << 20;

/// How new layers are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    Uncompressed,
    /// With gzip.
    Gzip {
        /// 0 to 9.
        level: u32,
    },
    /// With zstd.
    Zstd {
        /// 0 to 22.
        level: i32,
    },
}

impl Compression {
    /// gzip with its usual level.
    pub const GZIP: Self = Self::Gzip { level: 6 };
    /// zstd with its usual level.
    pub const ZSTD: Self = Self::Zstd { level: 3 };

    /// What the store knows blobs with this compression as.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Uncompressed => "uncompressed".into(),
            Self::GZIP => "gzip".into(),
            Self::ZSTD => "zstd".into(),
            Self::Gzip { level } => format!("gzip-{level}"),
            Self::Zstd { level } => format!("zstd-{level}"),
        }
    }

    /// The compression of a layer with this media type, with its usual level; `None` if the type
    /// is not known.
    pub(crate) fn of(media_type: &str) -> Option<Self> {
        match media_type.rsplit_once('.')?.1 {
            "tar" => Some(Self::Uncompressed),
            "gzip" | "tar+gzip" => Some(Self::GZIP),
            "zstd" | "tar+zstd" => Some(Self::ZSTD),
            _ => None,
        }
    }

    /// Whether a layer with this media type is compressed like this, at whichever level. What is
    /// not known is not to be compressed anew.
    pub(crate) fn made(self, media_type: &str) -> bool {
        Self::of(media_type)
            .is_none_or(|made| std::mem::discriminant(&made) == std::mem::discriminant(&self))
    }

    /// Whether the level exists.
    pub(crate) fn is_valid(self) -> bool {
        match self {
            Self::Uncompressed => true,
            Self::Gzip { level } => level <= 9,
            Self::Zstd { level } => (0..=22).contains(&level),
        }
    }
}

/// Writes what `produce` writes to `sink`, compressed on up to `cores` threads besides this one;
/// none at all for one. Gives the digest of the uncompressed bytes, except where they are what
/// the sink gets: then it is for the sink to say. Errors of the sink come from `failed`, and go
/// before those that they cause in `produce`.
pub(crate) fn compress<S: Write + Send, E>(
    compression: Compression,
    cores: usize,
    mut sink: S,
    failed: impl Fn(io::Error) -> E,
    produce: impl FnOnce(&mut dyn Write) -> Result<(), E>,
) -> Result<(S, Option<Digest>), E> {
    if let Compression::Gzip { .. } = compression {
        // No name, no time, unknown system: nothing that differs from build to build.
        sink.write_all(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff]).map_err(&failed)?;
    }
    let (mut sink, diff_id, crc) = if cores <= 1 {
        let encoder = Encoder::new(compression).map_err(&failed)?;
        let here = Here { encoder, sink, crc: Crc::new(), spare: None, failure: None };
        let mut blocks = Blocks::new(compression, here);
        let produced = produce(&mut blocks);
        let (here, finished) = blocks.finish();
        if let Some(error) = here.failure {
            return Err(failed(error));
        }
        produced?;
        (here.sink, finished.map_err(&failed)?, here.crc)
    } else {
        threaded(compression, cores, sink, &failed, produce)?
    };
    if let Compression::Gzip { .. } = compression {
        let trailer = [&[3, 0][..], &crc.sum().to_le_bytes(), &crc.amount().to_le_bytes()];
        sink.write_all(&trailer.concat()).map_err(&failed)?;
    }
    Ok((sink, diff_id))
}

/// Reads in this thread, compresses in `cores` more, and writes in one.
fn threaded<S: Write + Send, E>(
    compression: Compression,
    cores: usize,
    sink: S,
    failed: &impl Fn(io::Error) -> E,
    produce: impl FnOnce(&mut dyn Write) -> Result<(), E>,
) -> Result<(S, Option<Digest>, Crc), E> {
    let (jobs, todo) = sync_channel::<Job>(cores);
    let (order, done) = sync_channel(2 * cores);
    let (todo, spare) = (Mutex::new(todo), Mutex::default());
    std::thread::scope(|scope| {
        let (todo, spare) = (&todo, &spare);
        for _ in 0..cores {
            scope.spawn(move || work(compression, todo));
        }
        let collector = scope.spawn(move || collect(sink, &done, spare));
        let mut blocks = Blocks::new(compression, Threads { jobs, order, spare });
        let produced = produce(&mut blocks);
        let (line, finished) = blocks.finish();
        // Says that no more comes.
        drop(line);
        let collected = collector.join().expect("the collector does not panic");
        let (sink, crc) = collected.map_err(failed)?;
        produced?;
        Ok((sink, finished.map_err(failed)?, crc))
    })
}

/// Takes full blocks to where they are compressed.
trait Line {
    /// An empty block.
    fn spare(&mut self) -> Block;
    /// The next block.
    fn push(&mut self, block: Block) -> io::Result<()>;
}

/// Cuts what is written into blocks.
struct Blocks<L> {
    line: L,
    block: Block,
    sent: bool,
    /// `None` where nobody wants to know.
    hasher: Option<Hasher>,
}

impl<L: Line> Blocks<L> {
    fn new(compression: Compression, mut line: L) -> Self {
        let hasher = (compression != Compression::Uncompressed).then(Hasher::new);
        Self { block: line.spare(), line, sent: false, hasher }
    }

    fn send(&mut self) -> io::Result<()> {
        self.sent = true;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&self.block.source);
        }
        let next = self.line.spare();
        self.line.push(std::mem::replace(&mut self.block, next))
    }

    fn finish(mut self) -> (L, io::Result<Option<Digest>>) {
        // Of nothing, too, zstd makes a frame.
        let sent = match self.block.source.is_empty() && self.sent {
            true => Ok(()),
            false => self.send(),
        };
        (self.line, sent.map(|()| self.hasher.map(Hasher::finish)))
    }
}

impl<L: Line> Write for Blocks<L> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let source = &mut self.block.source;
        let count = data.len().min(BLOCK - source.len());
        source.extend_from_slice(&data[..count]);
        if source.len() == BLOCK {
            self.send()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Compresses where it is called.
struct Here<S> {
    encoder: Encoder,
    sink: S,
    crc: Crc,
    spare: Option<Block>,
    /// Why the sink did not take it; what `produce` makes of that is of no interest.
    failure: Option<io::Error>,
}

impl<S: Write> Line for Here<S> {
    fn spare(&mut self) -> Block {
        self.spare.take().unwrap_or_default()
    }

    fn push(&mut self, mut block: Block) -> io::Result<()> {
        let written = self.encoder.encode(&mut block).and_then(|()| block.write_to(&mut self.sink));
        if let Err(error) = written {
            let kind = error.kind();
            self.failure.get_or_insert(error);
            return Err(kind.into());
        }
        self.crc.combine(&block.crc);
        block.clear();
        self.spare = Some(block);
        Ok(())
    }
}

/// Compresses in other threads.
struct Threads<'a> {
    jobs: SyncSender<Job>,
    /// The blocks in their order; its bound is what bounds the memory.
    order: SyncSender<Receiver<io::Result<Block>>>,
    spare: &'a Mutex<Vec<Block>>,
}

/// A block to compress, and whom to give it to.
struct Job {
    block: Block,
    reply: SyncSender<io::Result<Block>>,
}

impl Line for Threads<'_> {
    fn spare(&mut self) -> Block {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        spare.pop().unwrap_or_default()
    }

    fn push(&mut self, block: Block) -> io::Result<()> {
        let closed = || io::Error::from(io::ErrorKind::BrokenPipe);
        let (reply, result) = sync_channel(1);
        self.order.send(result).map_err(|_| closed())?;
        self.jobs.send(Job { block, reply }).map_err(|_| closed())
    }
}

/// Compresses blocks until there are no more.
fn work(compression: Compression, todo: &Mutex<Receiver<Job>>) {
    let mut encoder = Encoder::new(compression);
    loop {
        let job = todo.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { mut block, reply }) = job else { return };
        let result = match &mut encoder {
            Ok(encoder) => encoder.encode(&mut block).map(|()| block),
            Err(error) => Err(io::Error::other(error.to_string())),
        };
        // Nobody listens any more when the sink failed.
        let _ = reply.send(result);
    }
}

/// Writes compressed blocks in their order; gives the checksum of them all.
fn collect<S: Write>(
    mut sink: S,
    done: &Receiver<Receiver<io::Result<Block>>>,
    spare: &Mutex<Vec<Block>>,
) -> io::Result<(S, Crc)> {
    let mut crc = Crc::new();
    for block in done {
        let mut block =
            block.recv().map_err(|_| io::Error::other("a compressor ended early"))??;
        block.write_to(&mut sink)?;
        crc.combine(&block.crc);
        block.clear();
        spare.lock().unwrap_or_else(PoisonError::into_inner).push(block);
    }
    Ok((sink, crc))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn input() -> Vec<u8> {
        let mut state = 1_u32;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        });
        let noise: Vec<u8> = noise.take(BLOCK + 17).collect();
        let even = (0..3 * BLOCK).map(|n| (n / 100) as u8);
        // Noise, what compresses, and both in one block.
        noise.iter().copied().chain(even).chain(noise.iter().copied().take(BLOCK / 2)).collect()
    }

    fn packed(compression: Compression, cores: usize, input: &[u8]) -> Vec<u8> {
        let result = compress(
            compression,
            cores,
            Vec::new(),
            |error| error,
            |out| input.chunks(70_000).try_for_each(|chunk| out.write_all(chunk)),
        );
        let (bytes, diff_id) = result.expect("memory");
        let plain = compression == Compression::Uncompressed;
        assert_eq!(diff_id, (!plain).then(|| Digest::of(input)));
        bytes
    }

    #[test]
    fn bytes_come_back_and_do_not_depend_on_cores() {
        let levels = [0, 1, 6, 9];
        let gzip = levels.map(|level| Compression::Gzip { level });
        let zstd = [1, 3, 9].map(|level| Compression::Zstd { level });
        let input = input();
        for compression in gzip.into_iter().chain(zstd).chain([Compression::Uncompressed]) {
            for input in [&input[..], &input[..BLOCK], &input[..5], &[]] {
                let bytes = packed(compression, 1, input);
                assert!(bytes == packed(compression, 5, input), "{compression:?}");
                let mut plain = Vec::new();
                let read = match compression {
                    // Reads one member only: there must be no other.
                    Compression::Gzip { .. } => {
                        flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut plain)
                    }
                    Compression::Zstd { .. } => zstd::Decoder::new(&bytes[..])
                        .and_then(|mut decoder| decoder.read_to_end(&mut plain)),
                    Compression::Uncompressed => (&bytes[..]).read_to_end(&mut plain),
                };
                read.expect("valid");
                assert!(plain == input, "{compression:?}");
            }
        }
    }

    #[test]
    fn a_sink_that_fails_ends_it() {
        struct Full(usize);
        impl Write for Full {
            fn write(&mut self, data: &[u8]) -> io::Result<usize> {
                self.0 = self.0.checked_sub(data.len()).ok_or(io::ErrorKind::StorageFull)?;
                Ok(data.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let noise = &input()[..BLOCK];
        for compression in [Compression::GZIP, Compression::ZSTD, Compression::Uncompressed] {
            for cores in [1, 2] {
                let result = compress(
                    compression,
                    cores,
                    Full(3 * BLOCK),
                    |error| error,
                    |out| (0..100).try_for_each(|_| out.write_all(noise)),
                );
                let error = result.err().expect("an error");
                assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{compression:?}");
            }
        }
    }
}
