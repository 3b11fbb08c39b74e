//! One block into its compressed form. Knows nothing of the blocks before and after it.

use std::io;
use std::io::Write;
use std::ops::Range;

use flate2::{Compress, Crc, FlushCompress};

use super::noise::{SEGMENT, is_noise};
use super::{BLOCK, Compression};

/// The most bytes in a stored block of deflate (RFC 1951, 3.2.4).
const STORED: usize = 65_535;

/// A block with its compressed form. Buffers are used again: to get them anew from the kernel
/// costs more than to copy into them.
pub(crate) struct Block {
    /// What was to be compressed.
    pub(crate) source: Vec<u8>,
    output: Vec<u8>,
    parts: Vec<Part>,
    /// The checksum of `source`, for gzip.
    pub(crate) crc: Crc,
}

enum Part {
    /// Bytes of the source as they are.
    Verbatim(Range<usize>),
    /// Bytes of the source as stored blocks of deflate.
    Stored(Range<usize>),
    /// Bytes of the output.
    Packed(Range<usize>),
}

impl Default for Block {
    /// An empty block with room for its source.
    fn default() -> Self {
        let source = Vec::with_capacity(BLOCK);
        Self { source, output: Vec::new(), parts: Vec::new(), crc: Crc::new() }
    }
}

impl Block {
    /// Makes it as good as new.
    pub(crate) fn clear(&mut self) {
        self.source.clear();
        self.output.clear();
        self.parts.clear();
    }

    /// Writes the compressed form.
    pub(crate) fn write_to(&self, sink: &mut impl Write) -> io::Result<()> {
        for part in &self.parts {
            match part {
                Part::Verbatim(range) => sink.write_all(&self.source[range.clone()])?,
                Part::Packed(range) => sink.write_all(&self.output[range.clone()])?,
                Part::Stored(range) => {
                    for stored in self.source[range.clone()].chunks(STORED) {
                        let length = u16::try_from(stored.len()).expect("at most 65535");
                        let (length, inverse) = (length.to_le_bytes(), (!length).to_le_bytes());
                        sink.write_all(&[&[0][..], &length, &inverse].concat())?;
                        sink.write_all(stored)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Compresses blocks one after the other.
pub(crate) enum Encoder {
    Verbatim,
    Gzip(Compress),
    Zstd(zstd::bulk::Compressor<'static>),
}

impl Encoder {
    pub(crate) fn new(compression: Compression) -> io::Result<Self> {
        Ok(match compression {
            Compression::Uncompressed => Self::Verbatim,
            Compression::Zstd { level } => Self::Zstd(zstd::bulk::Compressor::new(level)?),
            Compression::Gzip { level } => {
                Self::Gzip(Compress::new(flate2::Compression::new(level), false))
            }
        })
    }

    /// Makes the compressed form of a block from its source.
    pub(crate) fn encode(&mut self, block: &mut Block) -> io::Result<()> {
        match self {
            Self::Verbatim => block.parts.push(Part::Verbatim(0..block.source.len())),
            Self::Zstd(compressor) => {
                block.output.reserve(zstd::zstd_safe::compress_bound(block.source.len()));
                let size = compressor.compress_to_buffer(&block.source, &mut block.output)?;
                block.parts.push(Part::Packed(0..size));
            }
            Self::Gzip(deflate) => {
                block.crc = Crc::new();
                block.crc.update(&block.source);
                gzip(deflate, block)?;
            }
        }
        Ok(())
    }
}

/// Stores what does not compress, and deflates what is between.
fn gzip(deflate: &mut Compress, block: &mut Block) -> io::Result<()> {
    let mut at = 0;
    let mut judged =
        block.source.chunks(SEGMENT).map(|part| (is_noise(part), part.len())).peekable();
    while let Some((noise, mut length)) = judged.next() {
        while let Some((_, more)) = judged.next_if(|(next, _)| *next == noise) {
            length += more;
        }
        let run = at..at + length;
        at += length;
        block.parts.push(if noise {
            Part::Stored(run)
        } else {
            let start = block.output.len();
            deflated(deflate, &block.source[run], &mut block.output)?;
            Part::Packed(start..block.output.len())
        });
    }
    Ok(())
}

/// Appends the deflated form of `source`, up to a byte boundary.
fn deflated(deflate: &mut Compress, source: &[u8], output: &mut Vec<u8>) -> io::Result<()> {
    deflate.reset();
    // Room for what does not compress after all, so that one round is enough.
    output.reserve(source.len() + source.len() / 64 + 1024);
    loop {
        let rest = &source[deflate.total_in() as usize..];
        deflate.compress_vec(rest, output, FlushCompress::Sync)?;
        // A flush is complete when it leaves room (zlib's manual, `deflate`).
        if deflate.total_in() == source.len() as u64 && output.len() < output.capacity() {
            return Ok(());
        }
        output.reserve(BLOCK / 16);
    }
}
