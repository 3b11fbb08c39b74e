//! Writes tar archives: POSIX ustar headers, with a PAX header in front of entries that do not
//! fit (`pax(1)`, "pax Interchange Format").
//!
//! As in the layers that containerd writes, times are whole seconds, rounded down: unpacked
//! layers then look the same whichever builder made them, and few entries need a PAX header.
//! User and group names are empty, because they mean nothing outside the image.

use std::io::{self, Write};

use cofferdam_store::Attributes;

const BLOCK: usize = 512;
/// The largest number in the seven octal digits of mode, owner and group.
const MAX_7: u64 = 0o777_7777;
/// The largest number in the eleven octal digits of size and time.
const MAX_11: u64 = 0o777_7777_7777;

/// What an entry is.
#[derive(Clone, Copy)]
pub(crate) enum Kind<'a> {
    /// A regular file of this many bytes, which follow.
    Regular(u64),
    /// Another name of an entry before this one.
    HardLink(&'a [u8]),
    Symlink(&'a [u8]),
    CharacterDevice(u32, u32),
    BlockDevice(u32, u32),
    Directory,
    Fifo,
}

pub(crate) struct TarWriter<W> {
    out: W,
}

impl<W: Write> TarWriter<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out }
    }

    /// Writes the header of an entry. The bytes of a regular file are to be written to the
    /// writer next, followed by [`TarWriter::pad`].
    pub(crate) fn header(
        &mut self,
        path: &[u8],
        attributes: &Attributes,
        kind: Kind<'_>,
    ) -> io::Result<()> {
        let mut path = path.to_vec();
        if matches!(kind, Kind::Directory) {
            path.push(b'/');
        }
        let seconds = attributes.mtime.div_euclid(1_000_000_000);
        let (flag, size, link, device) = match kind {
            Kind::Regular(size) => (b'0', size, None, (0, 0)),
            Kind::HardLink(target) => (b'1', 0, Some(target), (0, 0)),
            Kind::Symlink(target) => (b'2', 0, Some(target), (0, 0)),
            Kind::CharacterDevice(major, minor) => (b'3', 0, None, (major, minor)),
            Kind::BlockDevice(major, minor) => (b'4', 0, None, (major, minor)),
            Kind::Directory => (b'5', 0, None, (0, 0)),
            Kind::Fifo => (b'6', 0, None, (0, 0)),
        };
        let link = link.unwrap_or_default();

        let mut pax = Pax::default();
        pax.number_if(attributes.gid > MAX_7 as u32, "gid", attributes.gid);
        pax.text_if(link, "linkpath");
        let fits = u64::try_from(seconds).is_ok_and(|seconds| seconds <= MAX_11);
        pax.number_if(!fits, "mtime", seconds);
        pax.text_if(&path, "path");
        pax.number_if(size > MAX_11, "size", size);
        pax.number_if(attributes.uid > MAX_7 as u32, "uid", attributes.uid);
        for (name, value) in &attributes.xattrs {
            pax.record(&format!("SCHILY.xattr.{name}"), value);
        }
        if !pax.0.is_empty() {
            let name = pax_name(&path);
            let mut header = Header::new(&name, b'x');
            header.number(100..108, 0o644);
            header.number(124..136, pax.0.len() as u64);
            self.out.write_all(&header.finish())?;
            self.out.write_all(&pax.0)?;
            self.pad(pax.0.len() as u64)?;
        }

        // What does not fit is in the PAX header; here it is cut off, or zero.
        let mut header = Header::new(&path, flag);
        let or_zero = |number: u64, max: u64| if number <= max { number } else { 0 };
        let mode = if let Kind::Symlink(_) = kind { 0o777 } else { attributes.mode & 0o7777 };
        header.number(100..108, mode.into());
        header.number(108..116, or_zero(attributes.uid.into(), MAX_7));
        header.number(116..124, or_zero(attributes.gid.into(), MAX_7));
        header.number(124..136, or_zero(size, MAX_11));
        header.number(136..148, or_zero(u64::try_from(seconds).unwrap_or(0), MAX_11));
        header.bytes(157..257, link);
        header.number(329..337, device.0.into());
        header.number(337..345, device.1.into());
        self.out.write_all(&header.finish())
    }

    /// Fills up the last block of contents of `size` bytes.
    pub(crate) fn pad(&mut self, size: u64) -> io::Result<()> {
        let rest = (size % BLOCK as u64) as usize;
        let padding = if rest == 0 { 0 } else { BLOCK - rest };
        self.out.write_all(&[0; BLOCK][..padding])
    }

    /// What is written to: for the bytes of a regular file.
    pub(crate) fn inner(&mut self) -> &mut W {
        &mut self.out
    }

    /// Writes the end marker.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()
    }
}

impl<W: Write> Write for TarWriter<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.out.write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// The records of a PAX header: `LENGTH KEY=VALUE\n`, the length counting itself.
#[derive(Default)]
struct Pax(Vec<u8>);

impl Pax {
    fn record(&mut self, key: &str, value: &[u8]) {
        let rest = key.len() + value.len() + 3;
        let mut length = rest;
        while rest + length.to_string().len() != length {
            length = rest + length.to_string().len();
        }
        self.0.extend_from_slice(format!("{length} {key}=").as_bytes());
        self.0.extend_from_slice(value);
        self.0.push(b'\n');
    }

    fn number_if(&mut self, needed: bool, key: &str, number: impl ToString) {
        if needed {
            self.record(key, number.to_string().as_bytes());
        }
    }

    /// Names that are long, or in an encoding that ustar leaves open.
    fn text_if(&mut self, text: &[u8], key: &str) {
        if text.len() > 100 || !text.is_ascii() {
            self.record(key, text);
        }
    }
}

/// What programs that do not know PAX headers unpack them to: `DIR/PaxHeaders.0/NAME`.
fn pax_name(path: &[u8]) -> Vec<u8> {
    let path = path.strip_suffix(b"/").unwrap_or(path);
    let at = path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
    let name = [&path[..at], b"PaxHeaders.0/", &path[at..]].concat();
    name.into_iter().filter(u8::is_ascii).take(100).collect()
}

struct Header([u8; BLOCK]);

impl Header {
    fn new(name: &[u8], flag: u8) -> Self {
        let mut header = Self([0; BLOCK]);
        header.bytes(0..100, name);
        for field in [100..108, 108..116, 116..124, 124..136, 136..148, 329..337, 337..345] {
            header.number(field, 0);
        }
        header.0[156] = flag;
        header.bytes(257..265, b"ustar\x0000");
        header
    }

    fn bytes(&mut self, field: std::ops::Range<usize>, value: &[u8]) {
        let length = value.len().min(field.len());
        self.0[field][..length].copy_from_slice(&value[..length]);
    }

    /// Octal digits with a NUL at the end.
    fn number(&mut self, field: std::ops::Range<usize>, number: u64) {
        let text = format!("{number:0width$o}\0", width = field.len() - 1);
        self.bytes(field, text.as_bytes());
    }

    fn finish(mut self) -> [u8; BLOCK] {
        self.0[148..156].fill(b' ');
        let sum: u64 = self.0.iter().map(|byte| u64::from(*byte)).sum();
        self.bytes(148..156, format!("{sum:06o}\0 ").as_bytes());
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads back what was written, with a reader of others.
    #[test]
    fn what_does_not_fit_into_ustar_survives() {
        let deep = format!("{}/ü/name", "directory".repeat(30));
        let attributes = Attributes {
            mode: 0o4755,
            uid: u32::MAX - 1,
            gid: 3_000_000,
            mtime: -1_500_000_000,
            // The reader does not take line ends, which are allowed.
            xattrs: vec![("user.x".into(), b"a\0=b".to_vec())],
        };
        let mut bytes = Vec::new();
        let mut writer = TarWriter::new(&mut bytes);
        writer.header(deep.as_bytes(), &attributes, Kind::Regular(3)).expect("memory");
        writer.write_all(b"abc").expect("memory");
        writer.pad(3).expect("memory");
        writer.finish().expect("memory");
        assert_eq!(bytes.len() % BLOCK, 0);

        let mut archive = ::tar::Archive::new(bytes.as_slice());
        let mut entry = archive.entries().expect("valid").next().expect("one").expect("valid");
        assert_eq!(&*entry.path_bytes(), deep.as_bytes());
        assert_eq!((entry.size(), entry.header().mode().expect("valid")), (3, 0o4755));
        let records: Vec<(String, Vec<u8>)> = entry
            .pax_extensions()
            .expect("valid")
            .expect("some")
            .map(|record| record.expect("valid"))
            .map(|record| (record.key().expect("text").into(), record.value_bytes().into()))
            .filter(|(key, _)| key != "path")
            .collect();
        let expected: [(&str, &[u8]); 4] = [
            ("gid", b"3000000"),
            ("mtime", b"-2"),
            ("uid", b"4294967294"),
            ("SCHILY.xattr.user.x", b"a\0=b"),
        ];
        assert_eq!(records, expected.map(|(key, value)| (key.to_owned(), value.to_vec())));
    }

    #[test]
    fn the_length_of_a_record_counts_itself() {
        for length in [1, 89, 90, 91, 92, 93, 94, 95, 987, 988, 989, 990, 991, 992] {
            let mut pax = Pax::default();
            pax.record("k", &vec![b'v'; length]);
            let text = String::from_utf8(pax.0).expect("text");
            let (number, _) = text.split_once(' ').expect("a length");
            assert_eq!(number.parse(), Ok(text.len()));
        }
    }
}
