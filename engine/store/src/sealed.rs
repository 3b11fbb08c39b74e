//! Files of the state directory that have their own form: a value with a checksum, so that a damaged
//! one is not taken for what was written.

use cofferdam_types::Digest;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes of the checksum at the end: the first half of a SHA-256.
const CHECKSUM: usize = 16;

/// Returns the bytes of a value and their checksum.
pub(crate) fn encode(value: &impl Serialize) -> Result<Vec<u8>, String> {
    let mut bytes = postcard::to_stdvec(value).map_err(|error| error.to_string())?;
    let checksum = Digest::of(&bytes);
    bytes.extend_from_slice(&checksum.as_bytes()[..CHECKSUM]);
    Ok(bytes)
}

/// Returns the value of what [`encode`] made, or what is wrong with the bytes.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let (body, checksum) = bytes
        .len()
        .checked_sub(CHECKSUM)
        .map(|length| bytes.split_at(length))
        .ok_or("it is too short")?;
    if Digest::of(body).as_bytes()[..CHECKSUM] != *checksum {
        return Err("its checksum is wrong".into());
    }
    postcard::from_bytes(body).map_err(|error| error.to_string())
}
