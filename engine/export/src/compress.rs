//! Compresses on all cores, into bytes that do not depend on how many there are.
//!
//! The input is cut into blocks of [`BLOCK`] bytes that are compressed independently. For gzip
//! they are joined to one member, as pigz does it: each ends with a sync flush (RFC 1951,
//! 3.2.4), and an empty last block closes the stream. Several members would be as valid
//! (RFC 1952, 2.2), but there are readers that stop after the first. For zstd each block is a
//! frame (RFC 8878, 3.1), which every decoder takes.

use std::io::{self, Write};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};

use cofferdam_types::{Digest, Hasher};
use flate2::{Compress, Crc, FlushCompress};

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

    /// Whether the level exists.
    pub(crate) fn is_valid(self) -> bool {
        match self {
            Self::Uncompressed => true,
            Self::Gzip { level } => level <= 9,
            Self::Zstd { level } => (0..=22).contains(&level),
        }
    }
}

/// Writes what `produce` writes to `sink`, compressed on up to `cores` threads. Gives the digest
/// of the uncompressed bytes. Errors of the sink come from `failed`, and go before those that
/// they cause in `produce`.
pub(crate) fn compress<S: Write + Send, E>(
    compression: Compression,
    cores: usize,
    sink: S,
    failed: impl Fn(io::Error) -> E,
    produce: impl FnOnce(&mut dyn Write) -> Result<(), E>,
) -> Result<(S, Digest), E> {
    let (jobs, todo) = sync_channel::<Job>(cores);
    let (order, done) = sync_channel(2 * cores);
    let todo = Mutex::new(todo);
    std::thread::scope(|scope| {
        let todo = &todo;
        if compression != Compression::Uncompressed {
            for _ in 0..cores {
                scope.spawn(move || work(compression, todo));
            }
        }
        let collector = scope.spawn(move || collect(compression, sink, &done));
        let mut blocks = Blocks {
            compression,
            block: Vec::new(),
            sent: false,
            jobs,
            order,
            hasher: Hasher::new(),
            crc: Crc::new(),
        };
        let produced = produce(&mut blocks);
        let finished = blocks.finish();
        let collected = collector.join().expect("the collector does not panic");
        let mut sink = collected.map_err(&failed)?;
        produced?;
        let (diff_id, crc) = finished.map_err(&failed)?;
        if let Compression::Gzip { .. } = compression {
            let trailer = [&[3, 0][..], &crc.sum().to_le_bytes(), &crc.amount().to_le_bytes()];
            sink.write_all(&trailer.concat()).map_err(&failed)?;
        }
        Ok((sink, diff_id))
    })
}

type Compressed = io::Result<Vec<u8>>;

/// A block to compress, and whom to give it to.
struct Job {
    block: Vec<u8>,
    reply: std::sync::mpsc::Sender<Compressed>,
}

/// Cuts what is written into blocks.
struct Blocks {
    compression: Compression,
    block: Vec<u8>,
    sent: bool,
    jobs: SyncSender<Job>,
    /// The blocks in their order; its bound is what bounds the memory.
    order: SyncSender<Receiver<Compressed>>,
    hasher: Hasher,
    crc: Crc,
}

impl Blocks {
    fn send(&mut self) -> io::Result<()> {
        let block = std::mem::take(&mut self.block);
        self.sent = true;
        self.hasher.update(&block);
        if let Compression::Gzip { .. } = self.compression {
            self.crc.update(&block);
        }
        let closed = || io::Error::from(io::ErrorKind::BrokenPipe);
        let (reply, result) = channel();
        self.order.send(result).map_err(|_| closed())?;
        if self.compression == Compression::Uncompressed {
            return reply.send(Ok(block)).map_err(|_| closed());
        }
        self.jobs.send(Job { block, reply }).map_err(|_| closed())
    }

    fn finish(mut self) -> io::Result<(Digest, Crc)> {
        // Of nothing, too, zstd makes a frame.
        if !self.block.is_empty() || !self.sent {
            self.send()?;
        }
        Ok((self.hasher.finish(), self.crc))
    }
}

impl Write for Blocks {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let count = data.len().min(BLOCK - self.block.len());
        self.block.extend_from_slice(&data[..count]);
        if self.block.len() == BLOCK {
            self.send()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Compresses blocks until there are no more.
fn work(compression: Compression, todo: &Mutex<Receiver<Job>>) {
    let mut encoder = Encoder::new(compression);
    loop {
        let job = todo.lock().expect("nobody panics holding it").recv();
        let Ok(Job { block, reply }) = job else { return };
        let result = match &mut encoder {
            Ok(encoder) => encoder.block(&block),
            Err(error) => Err(io::Error::other(error.to_string())),
        };
        // Nobody listens any more when the sink failed.
        let _ = reply.send(result);
    }
}

/// Writes compressed blocks in their order.
fn collect<S: Write>(
    compression: Compression,
    mut sink: S,
    done: &Receiver<Receiver<Compressed>>,
) -> io::Result<S> {
    if let Compression::Gzip { .. } = compression {
        // No name, no time, unknown system: nothing that differs from build to build.
        sink.write_all(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff])?;
    }
    for block in done {
        let block = block.recv().map_err(|_| io::Error::other("a compressor ended early"))??;
        sink.write_all(&block)?;
    }
    Ok(sink)
}

enum Encoder {
    Gzip(Compress),
    Zstd(zstd::bulk::Compressor<'static>),
}

impl Encoder {
    fn new(compression: Compression) -> io::Result<Self> {
        Ok(match compression {
            Compression::Zstd { level } => Self::Zstd(zstd::bulk::Compressor::new(level)?),
            Compression::Gzip { level } => {
                Self::Gzip(Compress::new(flate2::Compression::new(level), false))
            }
            Compression::Uncompressed => {
                return Err(io::Error::other("nothing to compress with"));
            }
        })
    }

    fn block(&mut self, block: &[u8]) -> Compressed {
        let deflate = match self {
            Self::Zstd(compressor) => return compressor.compress(block),
            Self::Gzip(deflate) => deflate,
        };
        deflate.reset();
        // Room for a block that does not compress, so that one round is enough.
        let mut output = Vec::with_capacity(block.len() + block.len() / 64 + 1024);
        loop {
            let rest = &block[deflate.total_in() as usize..];
            deflate.compress_vec(rest, &mut output, FlushCompress::Sync)?;
            // A flush is complete when it leaves room (zlib's manual, `deflate`).
            if deflate.total_in() == block.len() as u64 && output.len() < output.capacity() {
                return Ok(output);
            }
            output.reserve(BLOCK / 16);
        }
    }
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
        noise.take(BLOCK + 17).chain((0..3 * BLOCK).map(|n| (n / 100) as u8)).collect()
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
        assert_eq!(diff_id, Digest::of(input));
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
            let result = compress(
                compression,
                2,
                Full(3 * BLOCK),
                |error| error,
                |out| (0..100).try_for_each(|_| out.write_all(noise)),
            );
            let error = result.err().expect("an error");
            assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{compression:?}");
        }
    }
}
