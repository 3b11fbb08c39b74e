//! Protobuf's wire format: tags, varints and length-delimited fields.
//!
//! Only what `pb.Op` needs; the meaning of fields is [`crate::message`]'s business.
//! Format: <https://protobuf.dev/programming-guides/encoding/>.

use crate::{Problem, limits};

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const LENGTH: u8 = 2;
const FIXED32: u8 = 5;

/// One field as it lies in the bytes.
#[derive(Clone, Copy)]
pub(crate) struct Field<'a> {
    pub(crate) number: u32,
    value: Value<'a>,
    depth: u32,
}

#[derive(Clone, Copy)]
enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// No field of ours has a fixed width, so the contents do not matter.
    Fixed(u8),
}

impl<'a> Field<'a> {
    /// A field with no contents at all: what a map entry without a value stands for.
    pub(crate) fn empty(number: u32, depth: u32) -> Self {
        Self { number, value: Value::Bytes(&[]), depth }
    }

    pub(crate) fn varint(&self) -> Result<u64, Problem> {
        match self.value {
            Value::Varint(raw) => Ok(raw),
            Value::Bytes(_) => Err(Problem::WireType { expected: VARINT, got: LENGTH }),
            Value::Fixed(got) => Err(Problem::WireType { expected: VARINT, got }),
        }
    }

    pub(crate) fn bytes(&self) -> Result<&'a [u8], Problem> {
        match self.value {
            Value::Bytes(bytes) => Ok(bytes),
            Value::Varint(_) => Err(Problem::WireType { expected: LENGTH, got: VARINT }),
            Value::Fixed(got) => Err(Problem::WireType { expected: LENGTH, got }),
        }
    }

    /// Reads the field as a message inside the message.
    pub(crate) fn message(&self) -> Result<Reader<'a>, Problem> {
        let depth = self.depth + 1;
        if depth > limits::MAX_DEPTH {
            return Err(Problem::TooDeep);
        }
        Ok(Reader { rest: self.bytes()?, depth })
    }

    /// Reads the varints of a packed list, or the one of an unpacked list.
    pub(crate) fn packed(&self) -> Result<Vec<u64>, Problem> {
        let Value::Bytes(rest) = self.value else {
            return Ok(vec![self.varint()?]);
        };
        let mut reader = Reader { rest, depth: self.depth };
        let mut all = Vec::new();
        while !reader.rest.is_empty() {
            if all.len() >= limits::MAX_ITEMS {
                return Err(Problem::TooMany(limits::MAX_ITEMS));
            }
            all.push(reader.varint()?);
        }
        Ok(all)
    }
}

/// Takes fields off the front of a message.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    depth: u32,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, depth: 0 }
    }

    pub(crate) fn depth(&self) -> u32 {
        self.depth
    }

    pub(crate) fn next(&mut self) -> Result<Option<Field<'a>>, Problem> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3)
            .ok()
            .filter(|number| (1..1 << 29).contains(number))
            .ok_or(Problem::Tag(tag))?;
        let value = match (tag & 7) as u8 {
            VARINT => Value::Varint(self.varint()?),
            LENGTH => {
                let length = usize::try_from(self.varint()?).map_err(|_| Problem::Truncated)?;
                Value::Bytes(self.take(length)?)
            }
            kind @ FIXED64 => {
                self.take(8)?;
                Value::Fixed(kind)
            }
            kind @ FIXED32 => {
                self.take(4)?;
                Value::Fixed(kind)
            }
            _ => return Err(Problem::Tag(tag)),
        };
        Ok(Some(Field { number, value, depth: self.depth }))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Problem> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Problem::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, Problem> {
        let mut raw = 0;
        for shift in (0..70).step_by(7) {
            let byte = self.take(1)?[0];
            if shift == 63 && byte > 1 {
                return Err(Problem::LongVarint);
            }
            raw |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(raw);
            }
        }
        Err(Problem::LongVarint)
    }
}

/// Writes a bare varint.
pub(crate) fn put_raw(out: &mut Vec<u8>, mut raw: u64) {
    while raw >= 0x80 {
        out.push(raw as u8 | 0x80);
        raw >>= 7;
    }
    out.push(raw as u8);
}

/// Writes a varint field.
pub(crate) fn put_varint(out: &mut Vec<u8>, number: u32, raw: u64) {
    put_raw(out, u64::from(number) << 3 | u64::from(VARINT));
    put_raw(out, raw);
}

/// Writes a length-delimited field.
pub(crate) fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_raw(out, u64::from(number) << 3 | u64::from(LENGTH));
    put_raw(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Vec<u64>, Problem> {
        let mut reader = Reader::new(bytes);
        let mut all = Vec::new();
        while let Some(field) = reader.next()? {
            all.push(field.varint()?);
        }
        Ok(all)
    }

    #[test]
    fn varints_round_trip_at_the_edges() {
        for raw in [0, 1, 127, 128, u64::from(u32::MAX), i64::MAX as u64, u64::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, 1, raw);
            assert_eq!(read(&out), Ok(vec![raw]));
        }
    }

    #[test]
    fn broken_bytes_are_refused() {
        assert_eq!(read(&[0x08]), Err(Problem::Truncated));
        assert_eq!(read(&[0x08, 0x80]), Err(Problem::Truncated));
        assert_eq!(read(&[0x0a, 0x05, 0]), Err(Problem::Truncated));
        assert_eq!(read(&[0x00, 0x00]), Err(Problem::Tag(0)));
        assert_eq!(read(&[0x0b]), Err(Problem::Tag(0x0b)), "groups");
        assert_eq!(read(&[0x0d, 0, 0, 0, 0]), Err(Problem::WireType { expected: 0, got: 5 }));
        let mut long = vec![0x08];
        long.extend([0xff; 9]);
        long.push(0x02);
        assert_eq!(read(&long), Err(Problem::LongVarint));
        let huge = [0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(read(&huge), Err(Problem::Truncated));
    }
}
