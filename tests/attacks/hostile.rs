//! Archives of every kind of malice: a writer that says whatever it is told, and the set that all
//! places that take archives are given.

use std::io::Write as _;

use crate::Canary;

const BLOCK: usize = 512;

/// Writes a tar archive header by header, right or wrong.
pub(crate) struct Archive(Vec<u8>);

/// A header's fields.
#[derive(Clone, Copy)]
pub(crate) struct Header<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) flag: u8,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) size: &'a [u8],
    pub(crate) mtime: &'a [u8],
    pub(crate) link: &'a [u8],
    pub(crate) device: (u32, u32),
}

impl Default for Header<'_> {
    fn default() -> Self {
        Self {
            name: b"name",
            flag: b'0',
            mode: 0o644,
            uid: 0,
            size: b"00000000000",
            mtime: b"14524766000",
            link: b"",
            device: (0, 0),
        }
    }
}

impl Archive {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a header as it is, with its checksum.
    pub(crate) fn header(&mut self, header: Header<'_>) -> &mut Self {
        let mut block = [0; BLOCK];
        let mut put = |at: usize, length: usize, bytes: &[u8]| {
            let length = length.min(bytes.len());
            block[at..at + length].copy_from_slice(&bytes[..length]);
        };
        put(0, 100, header.name);
        put(100, 7, format!("{:07o}", header.mode).as_bytes());
        if header.uid > 0o7_777_777 {
            put(108, 8, &[&[0x80][..], &header.uid.to_be_bytes()[1..]].concat());
        } else {
            put(108, 7, format!("{:07o}", header.uid).as_bytes());
        }
        put(116, 7, b"0000000");
        put(124, 12, header.size);
        put(136, 12, header.mtime);
        put(156, 1, &[header.flag]);
        put(157, 100, header.link);
        put(257, 8, b"ustar\x0000");
        put(329, 7, format!("{:07o}", header.device.0).as_bytes());
        put(337, 7, format!("{:07o}", header.device.1).as_bytes());
        put(148, 8, b"        ");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend(block);
        self
    }

    /// Adds contents, padded to a block.
    pub(crate) fn data(&mut self, data: &[u8]) -> &mut Self {
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
        self
    }

    /// Adds an entry with its contents; a name that does not fit has a header of its own.
    pub(crate) fn entry(&mut self, header: Header<'_>, data: &[u8]) -> &mut Self {
        for (name, flag) in [(header.name, b'L'), (header.link, b'K')] {
            if name.len() > 99 {
                self.extension(flag, &[name, b"\0"].concat());
            }
        }
        let size = format!("{:011o}", data.len());
        self.header(Header { size: size.as_bytes(), ..header }).data(data)
    }

    /// Adds an extended header.
    pub(crate) fn extension(&mut self, flag: u8, data: &[u8]) -> &mut Self {
        self.entry(Header { name: b"extension", flag, ..Header::default() }, data)
    }

    /// Adds PAX records for the next entry.
    pub(crate) fn records(&mut self, records: &[(&str, &[u8])]) -> &mut Self {
        let data: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
        self.extension(b'x', &data)
    }

    pub(crate) fn file(&mut self, name: &str, data: &[u8]) -> &mut Self {
        self.entry(Header { name: name.as_bytes(), ..Header::default() }, data)
    }

    pub(crate) fn directory(&mut self, name: &str) -> &mut Self {
        let name = name.as_bytes();
        self.entry(Header { name, flag: b'5', mode: 0o755, ..Header::default() }, b"")
    }

    pub(crate) fn symlink(&mut self, name: &str, target: &str) -> &mut Self {
        self.linked(name, b'2', target)
    }

    pub(crate) fn hard_link(&mut self, name: &str, target: &str) -> &mut Self {
        self.linked(name, b'1', target)
    }

    fn linked(&mut self, name: &str, flag: u8, target: &str) -> &mut Self {
        let (name, link) = (name.as_bytes(), target.as_bytes());
        self.entry(Header { name, flag, link, mode: 0o777, ..Header::default() }, b"")
    }

    pub(crate) fn special(&mut self, name: &str, flag: u8, device: (u32, u32)) -> &mut Self {
        self.entry(Header { name: name.as_bytes(), flag, device, ..Header::default() }, b"")
    }

    /// Ends the archive.
    pub(crate) fn finish(&self) -> Vec<u8> {
        [&self.0[..], &[0; 2 * BLOCK]].concat()
    }
}

/// A PAX record, which starts with its own length.
pub(crate) fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key.as_bytes(), b"=", value, b"\n"].concat()
}

/// The set: what each is called, and its bytes. Where an entry has to lead somewhere, it leads to
/// the canary.
pub(crate) fn set(canary: &Canary) -> Vec<(&'static str, Vec<u8>)> {
    let (path, climbing) = (canary.text(), canary.climbing());
    let (path, climbing) = (path.as_str(), climbing.as_str());
    let below = |name: &str| format!("{path}/{name}");
    let mut set: Vec<(&'static str, Archive)> = Vec::new();
    let mut add = |name, fill: &dyn Fn(&mut Archive)| {
        let mut archive = Archive::new();
        fill(&mut archive);
        set.push((name, archive));
    };
    let planted = b"planted".as_slice();
    add("climbs", &|a| {
        a.file(&format!("{climbing}/planted"), planted);
    });
    add("climbs from the root", &|a| {
        a.file(&format!("/{climbing}/planted"), planted);
    });
    add("climbs inside", &|a| {
        a.file(&format!("a/b/{climbing}/secret"), planted);
    });
    add("climbs by PAX", &|a| {
        let name = format!("{climbing}/planted");
        a.records(&[("path", name.as_bytes())]).file("good", planted);
    });
    add("climbs by a long name", &|a| {
        let name = format!("{}{climbing}/planted", "../".repeat(40));
        a.file(&name, planted);
    });
    add("climbs as a directory", &|a| {
        a.directory(&format!("{climbing}/x"));
    });
    add("absolute", &|a| {
        a.file(&below("planted"), planted);
    });
    add("link, then a file through it", &|a| {
        a.symlink("to", path).file("to/planted", planted).file("to/secret", planted);
    });
    add("climbing link, then a file through it", &|a| {
        a.symlink("to", climbing).file("to/secret", planted);
    });
    add("link to a link", &|a| {
        a.symlink("one", "two").symlink("two", path).file("one/planted", planted);
    });
    add("link through a link", &|a| {
        a.symlink("d", "..").symlink("d/e", &climbing[3..]).file("d/e/planted", planted);
    });
    // CVE-2026-33056: the mode of the link's target is changed.
    add("link, then a directory", &|a| {
        let name = b"to".as_slice();
        let directory = Header { name, flag: b'5', mode: 0o7000, ..Header::default() };
        a.symlink("to", path).entry(directory, b"").file("to/planted", planted);
    });
    add("link to a file, then the file", &|a| {
        a.symlink("f", &below("secret")).file("f", planted);
    });
    add("link and whiteout through it", &|a| {
        a.symlink("to", path).file("to/.wh.secret", b"").file("to/.wh..wh..opq", b"");
    });
    // oras-go: resolved from the directory that the process happens to be in.
    add("hard link, absolute", &|a| {
        a.hard_link("h", &below("secret"));
    });
    add("hard link, relative", &|a| {
        a.hard_link("h", "Cargo.toml").hard_link("i", "etc/passwd");
    });
    add("hard link, climbing", &|a| {
        a.hard_link("h", &format!("{climbing}/secret"));
    });
    add("hard link, written through", &|a| {
        a.hard_link("h", &below("secret")).file("h", planted);
    });
    add("hard link to a link", &|a| {
        a.symlink("to", &below("secret")).hard_link("h", "to").file("h", planted);
    });
    add("hard link through a link", &|a| {
        a.symlink("to", path).hard_link("h", "to/secret");
    });
    add("hard link into a link", &|a| {
        a.file("f", planted).symlink("to", path).hard_link("to/planted", "f");
    });
    add("device nodes", &|a| {
        a.special("null", b'3', (1, 3)).special("mem", b'3', (1, 1)).special(
            "disk",
            b'4',
            (254, 0),
        );
    });
    add("whiteout as a device", &|a| {
        a.special("w", b'3', (0, 0));
    });
    add("named pipe", &|a| {
        a.special("p", b'6', (0, 0)).file("p", planted);
    });
    add("socket and other types", &|a| {
        a.special("s", b's', (0, 0)).special("z", b'Z', (0, 0));
    });
    add("setuid", &|a| {
        a.entry(Header { name: b"su", mode: 0o6755, ..Header::default() }, b"#!/bin/sh\n");
    });
    add("capabilities", &|a| {
        // cap_sys_admin+ep (struct vfs_cap_data, version 2)
        let all = [0, 0, 0, 2, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        a.records(&[("SCHILY.xattr.security.capability", &all)]).file("capable", b"x");
    });
    add("overlay's own attributes", &|a| {
        a.records(&[
            ("SCHILY.xattr.trusted.overlay.redirect", path.as_bytes()),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.overlay.redirect", path.as_bytes()),
            ("SCHILY.xattr.trusted.overlay.metacopy", b""),
        ])
        .directory("etc");
    });
    add("whiteouts", &|a| {
        a.file(".wh..wh..opq", b"").file("etc/.wh.passwd", b"").file(".wh..wh.plnk/x", b"");
        a.file(".wh.", b"").file(".wh...", b"").file("d/.wh..", b"");
    });
    add("odd names", &|a| {
        a.file("line\nbreak", b"").file("return\r", b"").file("-rf", b"").file("esc\x1b[2J", b"");
        let name = b"not \xff\xfe UTF-8".as_slice();
        a.entry(Header { name, ..Header::default() }, b"");
    });
    add("NUL in a PAX name", &|a| {
        a.records(&[("path", format!("ok\0/{climbing}/planted").as_bytes())]).file("x", planted);
    });
    add("deep", &|a| {
        a.file(&format!("{}f", "d/".repeat(2040)), b"");
    });
    add("too deep", &|a| {
        let name = "d/".repeat(100_000);
        a.records(&[("path", name.as_bytes())]).directory("x");
    });
    add("long component", &|a| {
        a.file(&"n".repeat(256), b"");
    });
    add("sparse, 8 EiB", &|a| {
        a.records(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.realsize", b"9223372036854775807"),
        ])
        .file("sparse", b"0\n");
    });
    add("old sparse", &|a| {
        a.special("sparse", b'S', (0, 0));
    });
    add("8 EiB", &|a| {
        a.records(&[("size", b"9223372036854775807")]).file("huge", b"x");
    });
    add("more than 16 EiB", &|a| {
        a.records(&[("size", b"18446744073709551617")]).file("h", b"x");
    });
    add("negative size", &|a| {
        let size = [0xff; 12];
        a.header(Header { name: b"n", size: &size, ..Header::default() }).file("after", planted);
    });
    add("times", &|a| {
        let (before, late) =
            ([0xff; 12], [0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        a.header(Header { name: b"before", mtime: &before, ..Header::default() });
        a.header(Header { name: b"late", mtime: &late, ..Header::default() });
        a.records(&[("mtime", b"-99999999999.5")]).file("m", b"");
        a.records(&[("mtime", b"99999999999999999999")]).file("n", b"");
    });
    add("nobody's id", &|a| {
        a.entry(Header { name: b"u", uid: u64::from(u32::MAX), ..Header::default() }, b"");
    });
    add("large ids", &|a| {
        a.entry(Header { name: b"u", uid: u64::from(u32::MAX) - 1, ..Header::default() }, b"");
        a.records(&[("uid", b"4294967296")]).file("v", b"");
    });
    add("size of PAX and of the header differ", &|a| {
        // Whoever believes the header takes the contents for an entry.
        let mut inner = Archive::new();
        inner.file(&format!("{climbing}/planted"), planted);
        let inner = inner.finish();
        a.records(&[("size", inner.len().to_string().as_bytes())]);
        a.header(Header { name: b"outer", ..Header::default() }).data(&inner);
    });
    add("global header with a path", &|a| {
        let name = format!("{climbing}/planted");
        a.extension(b'g', &record("path", name.as_bytes())).file("x", planted);
    });
    add("malformed PAX", &|a| {
        a.extension(b'x', b"9999 path=x\n").file("f", planted);
    });
    add("file as its own parent", &|a| {
        a.file("f", b"").file("f/g", b"").directory("f/g/h");
    });
    add("directory replaced by a link, then filled", &|a| {
        a.directory("d").file("d/f", b"").symlink("d", path).file("d/planted", planted);
    });
    add("root as a file", &|a| {
        a.file("./", b"x").symlink(".", path);
    });
    let mut all: Vec<_> = set.into_iter().map(|(name, archive)| (name, archive.finish())).collect();
    let mut plain = Archive::new();
    plain.file("f", planted);
    let plain = plain.finish();
    let climbs = all[0].1.clone();
    // What follows the end may be another archive to another reader.
    all.push(("trailing archive", [&plain[..], &climbs].concat()));
    all.push(("trailing garbage", [&plain[..], b"garbage"].concat()));
    all.push(("gzip members", [gzip(&plain[..512]), gzip(&plain[512..])].concat()));
    all.push(("gzip with garbage", [&gzip(&plain)[..], b"garbage"].concat()));
    all.push(("zstd with a window of 2 GiB", wide_window(&plain)));
    all
}

pub(crate) fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).and_then(|()| encoder.finish()).expect("memory takes all")
}

/// A zstd frame whose header asks for a window of 2 GiB (RFC 8878, 3.1.1.1.2), with one raw block.
fn wide_window(data: &[u8]) -> Vec<u8> {
    let exponent = 31 - 10;
    let block = (data.len() as u32) << 3 | 1;
    let header = [0x28, 0xb5, 0x2f, 0xfd, 0, exponent << 3];
    [&header[..], &block.to_le_bytes()[..3], data].concat()
}
