//! The entries of a tar stream: headers, extended headers and contents put together and checked.

use std::io::{ErrorKind, Read};

use crate::Error;
use crate::header::{BLOCK, Header};
use crate::pax::{self, Pax};

/// The longest extended header, in bytes.
const MAX_EXTENSION: i64 = 1 << 20;

/// The longest path that Linux takes, without the final NUL.
const MAX_PATH: usize = 4095;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberKind {
    /// A regular file; its contents follow.
    Regular,
    /// Another name of an earlier entry, with that entry's name as it stands in the archive.
    HardLink(Vec<u8>),
    /// A symbolic link, with what it says.
    Symlink(Vec<u8>),
    /// A character device, major and minor number; never 0:0, which is overlayfs's whiteout.
    CharacterDevice(u32, u32),
    /// A block device, major and minor number.
    BlockDevice(u32, u32),
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
}

/// An entry of an archive. Its contents come from [`Tar::read`], before the next entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Where its headers start.
    pub offset: u64,
    /// Its name as [`clean_path`] returns it; empty for the archive's root.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: MemberKind,
    /// Bytes of its contents; more than 0 for regular files only.
    pub size: u64,
    /// Permission bits with setuid, setgid and sticky (07777).
    pub mode: u32,
    /// Owner, never 2³²−1.
    pub uid: u32,
    /// Group, never 2³²−1.
    pub gid: u32,
    /// Nanoseconds since 1970, never negative.
    pub mtime: i64,
    /// Extended attributes sorted by name, without those that overlayfs uses for itself.
    pub xattrs: Vec<(String, Vec<u8>)>,
}

/// Reads a tar stream from its beginning to its end.
#[derive(Debug)]
pub struct Tar<S> {
    source: S,
    /// How far the stream has been read.
    offset: u64,
    /// Bytes of the current entry that have not been read.
    remaining: u64,
    /// Zero bytes that follow them up to the next block.
    padding: u64,
}

impl<S: Read> Tar<S> {
    /// Starts to read.
    pub fn new(source: S) -> Self {
        Self { source, offset: 0, remaining: 0, padding: 0 }
    }

    /// How far the stream has been read: after [`Tar::next`], where the contents begin.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// What is left of the stream: after the last entry, what follows the end of the archive.
    pub fn into_inner(self) -> S {
        self.source
    }

    fn damage(&self, reason: impl Into<String>) -> Error {
        Error { offset: self.offset, reason: reason.into() }
    }

    /// Goes on to the next entry; `None` at the end.
    ///
    /// # Errors
    /// When the stream is damaged, or says what readers could understand differently.
    #[expect(clippy::should_implement_trait, reason = "contents are read between entries")]
    pub fn next(&mut self) -> Result<Option<Member>, Error> {
        self.skip()?;
        let start = self.offset;
        let mut extended = None;
        let mut long_name = None;
        let mut long_link = None;
        loop {
            let pending = extended.is_some() || long_name.is_some() || long_link.is_some();
            let offset = self.offset;
            let Some(header) = self.header()? else {
                if pending {
                    return Err(self.damage("an extended header without an entry"));
                }
                return Ok(None);
            };
            let at = |reason: String| Error { offset, reason };
            match header.flag {
                b'x' if extended.is_some() => {
                    return Err(at("two extended headers for one entry".to_owned()));
                }
                b'x' => extended = Some(pax::parse(&self.extension(&header)?).map_err(at)?),
                b'g' if pending => {
                    return Err(at("an extended header without an entry".to_owned()));
                }
                b'g' => pax::check_global(&self.extension(&header)?).map_err(at)?,
                b'L' if long_name.is_none() => {
                    long_name = Some(c_string(self.extension(&header)?).map_err(at)?);
                }
                b'K' if long_link.is_none() => {
                    long_link = Some(c_string(self.extension(&header)?).map_err(at)?);
                }
                b'L' | b'K' => return Err(at("two long names for one entry".to_owned())),
                _ => {
                    let mut pax = extended.unwrap_or_default();
                    for (ours, long) in [(&mut pax.path, long_name), (&mut pax.link, long_link)] {
                        if ours.is_some() && long.is_some() {
                            return Err(at("two long names for one entry".to_owned()));
                        }
                        *ours = ours.take().or(long);
                    }
                    let member = member(start, header, pax).map_err(at)?;
                    self.remaining = member.size;
                    self.padding = member.size.wrapping_neg() % BLOCK as u64;
                    return Ok(Some(member));
                }
            }
        }
    }

    /// Reads contents of the current entry; 0 bytes are its end.
    ///
    /// # Errors
    /// When the stream is damaged or ends early.
    pub fn read(&mut self, buf: &mut [u8]) -> Result<usize, Error> {
        let want = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(buf.len());
        if want == 0 {
            return Ok(0);
        }
        let count = loop {
            match self.source.read(&mut buf[..want]) {
                Ok(0) => return Err(self.damage("the archive ends inside an entry")),
                Ok(count) => break count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.damage(format!("cannot unpack: {error}"))),
            }
        };
        self.remaining -= count as u64;
        self.offset += count as u64;
        Ok(count)
    }

    /// Skips what is left of the current entry.
    fn skip(&mut self) -> Result<(), Error> {
        self.remaining = self.remaining.saturating_add(std::mem::take(&mut self.padding));
        let mut buf = [0; 8 << 10];
        while self.read(&mut buf)? > 0 {}
        Ok(())
    }

    /// Reads a block; `None` where the stream ends.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, Error> {
        let mut block = [0; BLOCK];
        let mut have = 0;
        while have < BLOCK {
            match self.source.read(&mut block[have..]) {
                Ok(0) if have == 0 => return Ok(None),
                Ok(0) => return Err(self.damage("the archive ends inside a header")),
                Ok(count) => have += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.damage(format!("cannot unpack: {error}"))),
            }
        }
        self.offset += BLOCK as u64;
        Ok(Some(block))
    }

    fn header(&mut self) -> Result<Option<Header>, Error> {
        let offset = self.offset;
        let Some(block) = self.block()? else { return Ok(None) };
        if block != [0; BLOCK] {
            return Header::parse(&block).map(Some).map_err(|reason| Error { offset, reason });
        }
        match self.block()? {
            Some(second) if second != [0; BLOCK] => {
                Err(Error { offset, reason: "a zero block between entries".to_owned() })
            }
            _ => Ok(None),
        }
    }

    /// The contents of an extended header.
    fn extension(&mut self, header: &Header) -> Result<Vec<u8>, Error> {
        if !(0..=MAX_EXTENSION).contains(&header.size) {
            let size = header.size;
            return Err(self.damage(format!(
                "an extended header of {size} bytes, expected at most {MAX_EXTENSION}"
            )));
        }
        self.remaining = header.size as u64;
        self.padding = self.remaining.wrapping_neg() % BLOCK as u64;
        let mut data = vec![0; header.size as usize];
        let mut have = 0;
        while have < data.len() {
            have += self.read(&mut data[have..])?;
        }
        self.skip()?;
        Ok(data)
    }
}

/// A GNU long name: text with a NUL at its end, and nowhere else.
fn c_string(mut data: Vec<u8>) -> Result<Vec<u8>, String> {
    while data.last() == Some(&0) {
        data.pop();
    }
    if data.is_empty() {
        return Err("an empty long name".to_owned());
    }
    if data.contains(&0) {
        return Err(format!("long name {:?} contains NUL", String::from_utf8_lossy(&data)));
    }
    Ok(data)
}

/// Makes a name relative to the archive's root, without empty components and `.`.
///
/// # Errors
/// Says what is wrong: `..` is refused wherever it stands.
pub fn clean_path(name: &[u8]) -> Result<Vec<u8>, String> {
    let mut path = Vec::with_capacity(name.len());
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                let name = String::from_utf8_lossy(name);
                return Err(format!("name {name:?} leads out of the archive"));
            }
            _ => {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(part);
            }
        }
    }
    Ok(path)
}

fn member(offset: u64, header: Header, pax: Pax) -> Result<Member, String> {
    let own_slash = header.name.ends_with(b"/");
    let raw = pax.path.unwrap_or(header.name);
    let link = pax.link.unwrap_or(header.link);
    for text in [&raw, &link] {
        if text.len() > MAX_PATH {
            return Err(format!("a name of {} bytes, expected at most {MAX_PATH}", text.len()));
        }
    }
    let path = clean_path(&raw)?;
    let slash = raw.ends_with(b"/");
    let name = String::from_utf8_lossy(&raw);
    let device = || {
        let part = |number: i64| {
            u32::try_from(number).map_err(|_| format!("{name:?}: device number {number} is wrong"))
        };
        Ok::<_, String>((part(header.device.0)?, part(header.device.1)?))
    };
    let kind = match header.flag {
        b'5' => MemberKind::Directory,
        // Python goes by the header's own name, others by the one that counts.
        0 if slash != own_slash => {
            return Err(format!("{name:?} can be read as a file and as a directory"));
        }
        // Before there was a type for directories, the slash made them; of a slash alone GNU tar
        // takes it for part of the name.
        0 if slash && !path.is_empty() => MemberKind::Directory,
        _ if slash => return Err(format!("{name:?} ends with a slash and is no directory")),
        b'0' | 0 => MemberKind::Regular,
        b'1' | b'2' if link.is_empty() => return Err(format!("{name:?} is a link to nothing")),
        b'1' => MemberKind::HardLink(link),
        b'2' => MemberKind::Symlink(link),
        b'3' => match device()? {
            (0, 0) => return Err(format!("{name:?}: device 0:0 is overlayfs's whiteout")),
            (major, minor) => MemberKind::CharacterDevice(major, minor),
        },
        b'4' => {
            let (major, minor) = device()?;
            MemberKind::BlockDevice(major, minor)
        }
        b'6' => MemberKind::Fifo,
        b'S' => return Err(format!("{name:?}: sparse files are not supported")),
        flag => {
            let flag = char::from(flag);
            return Err(format!("{name:?}: entries of type {flag:?} are not supported"));
        }
    };
    let size = match pax.size {
        Some(size) => size,
        None => u64::try_from(header.size)
            .map_err(|_| format!("{name:?}: size {} is negative", header.size))?,
    };
    if i64::try_from(size).is_err() {
        return Err(format!("{name:?}: size {size} is more than a file can have"));
    }
    if size > 0 && kind != MemberKind::Regular {
        return Err(format!("{name:?} has {size} bytes and is no regular file"));
    }
    // 2³²−1 means "leave as it is" to chown(2), so nobody has it.
    let id = |what: &str, pax: Option<u64>, own: i64| {
        let id = pax.map_or(i128::from(own), i128::from);
        let valid = u32::try_from(id).ok().filter(|id| *id != u32::MAX);
        valid.ok_or_else(|| format!("{name:?}: {what} {id} is out of range"))
    };
    let uid = id("user id", pax.uid, header.uid)?;
    let gid = id("group id", pax.gid, header.gid)?;
    if header.mode < 0 {
        return Err(format!("{name:?}: mode {} is negative", header.mode));
    }
    let mtime = pax.mtime.unwrap_or(i128::from(header.mtime) * 1_000_000_000);
    Ok(Member {
        offset,
        path,
        kind,
        size,
        mode: (header.mode & 0o7777) as u32,
        uid,
        gid,
        // As BuildKit does it: a time that cannot be kept becomes 1970.
        mtime: i64::try_from(mtime).ok().filter(|time| *time >= 0).unwrap_or(0),
        xattrs: pax.xattrs,
    })
}
