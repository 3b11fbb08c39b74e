//! Decompression: gzip, bzip2, xz and zstd, told apart by their first bytes. Concatenated members
//! are read as one stream. Each decoder's memory is bounded by its window, at most 128 MiB.

use std::io::{self, BufRead, Read};

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use crate::tree::{Fault, Reader};

/// Bytes that are asked for at once.
const CHUNK: u32 = 256 << 10;

/// The largest window, in bytes; the same as zstd's own limit.
const MAX_WINDOW: u64 = 128 << 20;

/// Memory for the xz decoder in KiB: a dictionary of [`MAX_WINDOW`], and some for its tables.
const XZ_MEMORY: u32 = (MAX_WINDOW as u32 >> 10) + 1024;

/// The bytes of a file of a tree, buffered.
pub(crate) struct Source<R> {
    reader: R,
    buffer: Vec<u8>,
    at: usize,
}

impl<R: Reader> Read for Source<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buf)?;
        self.consume(count);
        Ok(count)
    }
}

impl<R: Reader> BufRead for Source<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.buffer.len() {
            self.buffer = self.reader.read(CHUNK).map_err(io::Error::other)?;
            self.at = 0;
        }
        Ok(&self.buffer[self.at..])
    }

    fn consume(&mut self, amount: usize) {
        self.at = (self.at + amount).min(self.buffer.len());
    }
}

/// What an archive says once its compression is taken away.
pub(crate) enum Decoder<R: Reader> {
    Plain(Source<R>),
    Gzip(Box<MultiGzDecoder<Source<R>>>),
    Bzip2(MultiBzDecoder<Source<R>>),
    Xz(Box<XzReader<Source<R>>>),
    Zstd(Box<Zstd<R>>),
}

impl<R: Reader> Decoder<R> {
    /// Looks at the first bytes; `None` for a file too short to tell.
    pub(crate) fn new(mut reader: R) -> Result<Option<Self>, Fault> {
        let mut buffer = Vec::new();
        while buffer.len() < 6 {
            let part = reader.read(CHUNK)?;
            if part.is_empty() {
                return Ok(None);
            }
            buffer.extend_from_slice(&part);
        }
        let magic = [buffer[0], buffer[1], buffer[2], buffer[3], buffer[4], buffer[5]];
        let source = Source { reader, buffer, at: 0 };
        Ok(Some(match magic {
            [0x1f, 0x8b, 8, ..] => Self::Gzip(Box::new(MultiGzDecoder::new(source))),
            [b'B', b'Z', b'h', ..] => Self::Bzip2(MultiBzDecoder::new(source)),
            [0xfd, b'7', b'z', b'X', b'Z', 0] => {
                Self::Xz(Box::new(XzReader::new_mem_limit(source, true, XZ_MEMORY)))
            }
            // A frame, or a skippable frame in front of one.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                Self::Zstd(Box::new(Zstd::new(source)))
            }
            _ => Self::Plain(source),
        }))
    }
}

impl<R: Reader> Read for Decoder<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(source) => source.read(buf),
            Self::Gzip(decoder) => decoder.read(buf),
            Self::Bzip2(decoder) => decoder.read(buf),
            Self::Xz(decoder) => decoder.read(buf),
            Self::Zstd(decoder) => decoder.read(buf),
        }
    }
}

/// Reads zstd frame after frame; the library's own reader stops after the first.
pub(crate) struct Zstd<R> {
    source: Source<R>,
    decoder: FrameDecoder,
    /// Whether the decoder is inside a frame.
    inside: bool,
}

impl<R: Reader> Zstd<R> {
    fn new(source: Source<R>) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(MAX_WINDOW);
        Self { source, decoder, inside: false }
    }

    /// Starts the next frame, over any skippable ones; says whether there is one.
    fn start_frame(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.decoder.reset(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let length = u64::from(length);
                    let skipped = io::copy(&mut (&mut self.source).take(length), &mut io::sink())?;
                    if skipped != length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(false)
    }

    fn end_frame(&mut self) -> io::Result<()> {
        self.inside = false;
        let stored = self.decoder.get_checksum_from_data();
        if stored.is_some() && stored != self.decoder.get_calculated_checksum() {
            return Err(io::Error::other("zstd: checksum of the contents does not match"));
        }
        Ok(())
    }
}

impl<R: Reader> Read for Zstd<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.inside {
                if !self.start_frame()? {
                    return Ok(0);
                }
                self.inside = true;
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                self.decoder
                    .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1))
                    .map_err(io::Error::other)?;
            }
            let count = self.decoder.read(buf)?;
            if count > 0 {
                return Ok(count);
            }
            self.end_frame()?;
        }
    }
}
