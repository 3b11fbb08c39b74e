//! Archives: what ADD unpacks. `decode` takes the compression away, `cofferdam-archive` reads the
//! entries, `unpack` puts them into a layer.
//!
//! Names of a tree are text, so an entry whose name or link is not UTF-8 is refused.

mod decode;
mod unpack;

use std::io::{Chain, Cursor, Read};

use cofferdam_archive::{BLOCK, Tar, is_header};
use decode::Decoder;

use crate::error::Error;
use crate::tree::Reader;

pub(crate) use unpack::unpack;

/// An opened archive.
pub(crate) struct Archive<R: Reader> {
    name: String,
    tar: Tar<Chain<Cursor<[u8; BLOCK]>, Decoder<R>>>,
}

impl<R: Reader> Archive<R> {
    /// Starts to read a file; `None` if it is not an archive. That is decided, as by BuildKit, by
    /// the first tar header alone: with a valid one, whatever is wrong later on is an error.
    ///
    /// # Errors
    /// When the host cannot read.
    pub(crate) fn open(name: &str, reader: R) -> Result<Option<Self>, Error> {
        let Some(mut decoder) = Decoder::new(reader)? else { return Ok(None) };
        let mut first = [0; BLOCK];
        // Damaged compressed data just means that this is no archive.
        if decoder.read_exact(&mut first).is_err() || !is_header(&first) {
            return Ok(None);
        }
        let tar = Tar::new(Cursor::new(first).chain(decoder));
        Ok(Some(Self { name: name.to_owned(), tar }))
    }

    fn damaged(&self, error: cofferdam_archive::Error) -> Error {
        self.wrong(error.offset, error.reason)
    }

    /// An error at an offset of the archive.
    fn wrong(&self, offset: u64, reason: String) -> Error {
        Error::Archive { archive: self.name.clone(), offset, reason }
    }
}
