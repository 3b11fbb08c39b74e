//! A strict reader for tar archives: ustar, v7, PAX, and GNU tar without sparse files.
//!
//! `header` and `pax` read what tar says about one entry, `reader` puts the entries together.
//! What two tar readers could understand in two ways is an error, so that nobody can show one
//! content to a scanner and another to us. Memory stays bounded whatever an archive says. An
//! archive may end without the two zero blocks, but not inside an entry; what follows them is not
//! looked at.
//!
//! Pure code: image layers are read with it on the host, ADD's archives in a guest. Taking
//! compression away, and where entries may go, is left to those who call it.

mod header;
mod pax;
mod reader;

pub use header::{BLOCK, is_header};
pub use reader::{Member, MemberKind, Tar, clean_path};

/// What is wrong with an archive, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("offset {offset}: {reason}")]
pub struct Error {
    /// Offset in the uncompressed archive.
    pub offset: u64,
    /// What is wrong.
    pub reason: String,
}
