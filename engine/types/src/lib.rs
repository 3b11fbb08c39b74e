//! The two value types that every room speaks: [`Digest`] and [`Platform`].
//!
//! Both are parsed once at the door and cannot hold an invalid value afterwards, so that
//! an identifier from outside never becomes a path or an argument by accident.
//! This crate does no IO and depends on no other room.

mod digest;
mod platform;

pub use digest::{Digest, Hasher, ParseDigestError};
pub use platform::{ParsePlatformError, Platform};
