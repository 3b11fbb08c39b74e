//! The reader of archives beside GNU tar, libarchive and Python's tarfile, on thousands of archives
//! that are odd in ways that parsers were fooled by. Two readers that see different entries let an
//! archive show one content to a scanner and another to a builder.
//!
//! This looks at the crate itself, `cofferdam-archive`: a build for each archive would take hours.
//! Its weakness is a mutation of that crate, and `weak.sh` runs the tests that are built with it.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use cofferdam_archive::{MemberKind, Tar, clean_path};
use fastrand::Rng;

use crate::hostile::{Archive, record};
use crate::{rounds, works};

/// How many archives are tried; `COFFERDAM_ATTACK_SEED` has them start elsewhere.
const ARCHIVES: usize = 4000;

/// Name, kind, size, link.
type Entry = (Vec<u8>, char, u64, Vec<u8>);

/// What a reader sees, or why it refuses.
type Seen = Result<Vec<Entry>, String>;

const NAMES: [&str; 12] = [
    "a", "b", "dir/", "dir/f", "./a", "dir//g", "/abs", "x.y-z_0", "dir/./h", "..a", "a...",
    "dir/sub/",
];
const BAD_NAMES: [&str; 7] = ["../up", "dir/../up", "..", ".", "/", "", "a/"];

fn name(random: &mut Rng) -> String {
    match random.u32(0..20) {
        0 => BAD_NAMES[random.usize(0..BAD_NAMES.len())].to_owned(),
        1 => "long/".repeat(random.usize(18..30)) + "end",
        2 => "n".repeat(random.usize(95..105)),
        _ => NAMES[random.usize(0..NAMES.len())].to_owned(),
    }
}

/// Which dialect a header is in.
fn magic(random: &mut Rng) -> &'static [u8] {
    match random.u32(0..16) {
        0..=9 => b"ustar\x0000",
        10..=12 => b"ustar  \0",
        13 | 14 => b"\0\0\0\0\0\0\0\0",
        _ => b"ustar\x0001",
    }
}

/// A number in one of the forms that writers have used.
fn digits(random: &mut Rng, value: u64, width: usize) -> Vec<u8> {
    let short = width - 1;
    match random.u32(0..14) {
        // GNU's binary form: as many bytes of the number as fit behind the mark.
        0 => {
            let number = [[0; 8], value.to_be_bytes()].concat();
            [&[0x80], &number[number.len() - short..]].concat()
        }
        1 => format!("{value:>short$o} ").into_bytes(),
        2 => format!("{value:0width$o}").into_bytes(),
        3 => format!("{value:o}\0").into_bytes(),
        4 => format!("{value:o} \0").into_bytes(),
        5 if random.bool() => format!("{value:o}9").into_bytes(),
        6 if random.bool() => format!("+{value:o}").into_bytes(),
        _ => format!("{value:0short$o}\0").into_bytes(),
    }
}

/// A header with a checksum, mostly a right one.
fn header(random: &mut Rng, flag: u8, name: &str, size: u64, link: &str) -> [u8; 512] {
    let mut block = [0; 512];
    let mut put = |at: usize, length: usize, bytes: &[u8]| {
        let length = length.min(bytes.len());
        block[at..at + length].copy_from_slice(&bytes[..length]);
    };
    let (mut name, mut prefix) = (name.as_bytes(), &b""[..]);
    let slash = name.iter().rposition(|byte| *byte == b'/').filter(|at| *at > 0);
    if let Some(at) = slash
        && (name.len() > 100 || random.u32(0..12) == 0)
    {
        (prefix, name) = (&name[..at], &name[at + 1..]);
    }
    put(0, 100, name);
    put(100, 8, b"0000644\0");
    put(108, 8, &digits(random, 7, 8));
    put(116, 8, b"0000000\0");
    let size = if size == 0 { b"00000000000\0".to_vec() } else { digits(random, size, 12) };
    put(124, 12, &size);
    put(136, 12, b"14524766000\0");
    put(156, 1, &[flag]);
    put(157, 100, link.as_bytes());
    let magic = magic(random);
    put(257, 8, magic);
    if magic[0] != 0 && matches!(flag, b'3' | b'4') {
        put(329, 8, b"0000001\0");
        put(337, 8, b"0000003\0");
    }
    if magic == b"ustar\x0000" || random.u32(0..4) == 0 {
        put(345, 155, prefix);
    }
    if random.u32(0..30) == 0 {
        let at = random.usize(0..500);
        block[at] = random.u8(..);
    }
    block[148..156].fill(b' ');
    let unsigned: i64 = block.iter().map(|byte| i64::from(*byte)).sum();
    let signed: i64 = block.iter().map(|byte| i64::from(*byte as i8)).sum();
    let sum = match random.u32(0..40) {
        0 => unsigned + 1,
        1 => signed.max(0),
        _ => unsigned,
    };
    let text = match random.u32(0..10) {
        0 => format!("{sum:7o}\0"),
        1 => format!("{sum:06o} \0"),
        _ => format!("{sum:06o}\0 "),
    };
    block[148..156].copy_from_slice(&text.as_bytes()[..8]);
    block
}

fn padded(out: &mut Vec<u8>, data: &[u8]) {
    out.extend(data);
    out.resize(out.len().next_multiple_of(512), 0);
}

/// Records for the next entry; gives the size that they say, if any.
fn records(random: &mut Rng, size: u64) -> (Vec<u8>, Option<u64>) {
    let mut out = Vec::new();
    let mut said = None;
    for _ in 0..random.usize(1..4) {
        let path = name(random);
        match random.u32(0..18) {
            0..=2 => out.extend(record("path", path.as_bytes())),
            3 | 4 => out.extend(record("linkpath", path.as_bytes())),
            5..=8 => {
                // The size of the header, of nothing, or of another file.
                let size = [size, size, 0, 512, 1024, 3][random.usize(0..6)];
                said = Some(size);
                out.extend(record("size", size.to_string().as_bytes()));
            }
            9 => out.extend(record("uid", b"8")),
            10 => out.extend(record("comment", b"text\nwith=lines")),
            11 => out.extend(record("path", b"")),
            12 => out.extend(b"7 path=x\n"),
            13 => out.extend(b"30 path=x\n"),
            14 => out.extend(b"012 path=xy\n"),
            15 => out.extend(b"\0\0\0\0"),
            16 => out.extend(record("GNU.sparse.name", b"other")),
            _ => out.extend(record("path", format!("nul\0{path}").as_bytes())),
        }
    }
    (out, said)
}

/// An archive of a few entries, most of them right.
fn archive(random: &mut Rng) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..random.usize(1..5) {
        let (name, link) = (name(random), name(random));
        let mut size = [0, 0, 3, 512, 600, 1024][random.usize(0..6)];
        if random.u32(0..4) == 0 {
            let (mut data, mut said) = (Vec::new(), None);
            for _ in 0..1 + u32::from(random.u32(0..8) == 0) {
                let flag = [b'x', b'x', b'x', b'L', b'L', b'K', b'g'][random.usize(0..7)];
                data.clear();
                match flag {
                    b'x' => (data, said) = records(random, size),
                    b'g' => data = record("comment", b"x"),
                    _ => {
                        data.extend(format!("longer/{name}").as_bytes());
                        data.resize(data.len() + random.usize(0..3), 0);
                    }
                }
                out.extend(header(random, flag, "././@LongLink", data.len() as u64, ""));
                padded(&mut out, &data);
            }
            // What there is of contents is what the extended header says, or the other.
            if let Some(said) = said.filter(|_| random.u32(0..3) > 0) {
                let shown = if random.bool() { size } else { 0 };
                let flag = if random.u32(0..6) == 0 { b'5' } else { b'0' };
                out.extend(header(random, flag, &name, shown, ""));
                contents(random, &mut out, said);
                continue;
            }
        }
        let flag = *b"0000000555512346\x007S".get(random.usize(0..19)).unwrap_or(&b'0');
        if !matches!(flag, b'0' | 0 | b'7') && random.u32(0..10) > 0 {
            size = 0;
        }
        let link = if matches!(flag, b'1' | b'2') { link.as_str() } else { "" };
        out.extend(header(random, flag, &name, size, link));
        contents(random, &mut out, size);
        if random.u32(0..60) == 0 {
            out.extend([0; 512]);
        }
    }
    match random.u32(0..12) {
        0 => {}
        1 => out.extend([0; 512]),
        2 => out.truncate(random.usize(0..=out.len())),
        3 => {
            out.extend([0; 1024]);
            let more = archive_of_one(random);
            out.extend(more);
        }
        _ => out.extend([0; 1024]),
    }
    out
}

/// Contents, which may be an archive themselves.
fn contents(random: &mut Rng, out: &mut Vec<u8>, size: u64) {
    let mut data = match random.bool() {
        true => archive_of_one(random),
        false => vec![b'c'; size as usize],
    };
    data.resize(size as usize, 0);
    padded(out, &data);
}

fn archive_of_one(random: &mut Rng) -> Vec<u8> {
    let mut archive = Archive::new();
    archive.file(&format!("smuggled{}", random.u8(..)), b"");
    archive.finish()
}

/// An archive that our reader takes.
struct Kept {
    seed: u64,
    path: PathBuf,
    entries: Vec<Entry>,
}

/// What our reader sees.
fn ours(data: &[u8]) -> Result<Vec<Entry>, cofferdam_archive::Error> {
    let mut tar = Tar::new(data);
    let mut entries = Vec::new();
    while let Some(member) = tar.next()? {
        let wrong = |reason| cofferdam_archive::Error { offset: member.offset, reason };
        let (kind, link) = match member.kind {
            MemberKind::Regular => ('-', Vec::new()),
            // Whoever uses the reader refuses what this refuses.
            MemberKind::HardLink(to) => ('h', clean_path(&to).map_err(wrong)?),
            MemberKind::Symlink(to) => ('l', to),
            MemberKind::CharacterDevice(..) => ('c', Vec::new()),
            MemberKind::BlockDevice(..) => ('b', Vec::new()),
            MemberKind::Directory => ('d', Vec::new()),
            MemberKind::Fifo => ('p', Vec::new()),
        };
        entries.push((member.path, kind, member.size, link));
    }
    Ok(entries)
}

/// What a program's listing says, line by line: `PERMISSIONS … SIZE DATE… NAME[ -> LINK]`.
fn listed(text: &str, fields: usize, size_field: usize) -> Seen {
    let mut entries = Vec::new();
    for line in text.lines() {
        let mut rest = line;
        let mut words = Vec::new();
        for _ in 0..fields {
            rest = rest.trim_start();
            let (word, after) = rest.split_once(' ').ok_or_else(|| format!("no entry: {line}"))?;
            words.push(word);
            rest = after;
        }
        // One space in front, also where the name is empty.
        let rest = format!(" {}", rest.trim_start_matches(' '));
        let rest = rest.as_str();
        let (name, link, kind) = if let Some((name, link)) = rest.split_once(" link to ") {
            (name, link, 'h')
        } else if let Some((name, link)) = rest.split_once(" -> ") {
            (name, link, 'l')
        } else {
            (rest, "", words[0].chars().next().unwrap_or('?'))
        };
        let size =
            if kind == '-' { words[size_field].parse().map_err(|_| line.to_owned())? } else { 0 };
        entries.push((unquoted(&name[name.len().min(1)..])?, kind, size, unquoted(link)?));
    }
    Ok(entries)
}

/// A name as programs show it: with `\ooo` for bytes that are no text.
fn unquoted(name: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let mut bytes = name.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        match bytes.next().ok_or("a lone backslash")? {
            digit @ b'0'..=b'7' => {
                let mut value = u32::from(digit - b'0');
                for _ in 0..2 {
                    let digit = bytes.next().filter(u8::is_ascii_digit).ok_or("no octal number")?;
                    value = value << 3 | u32::from(digit - b'0');
                }
                out.push(value as u8);
            }
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'a' => out.push(7),
            b'b' => out.push(8),
            b'v' => out.push(11),
            b'f' => out.push(12),
            other => out.push(other),
        }
    }
    Ok(out)
}

/// What a program sees; an error is its refusal.
fn program(
    program: &str,
    arguments: &[&str],
    archive: &Path,
    fields: (usize, usize),
) -> Result<Seen> {
    let mut command = Command::new(program);
    command.args(arguments).arg(archive).env("LC_ALL", "C").env("TZ", "UTC").stdin(Stdio::null());
    let output = command.output().with_context(|| format!("cannot start {program}"))?;
    if !output.status.success() {
        return Ok(Err(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    Ok(listed(&String::from_utf8_lossy(&output.stdout), fields.0, fields.1))
}

/// What Python sees of each archive.
fn python(archives: &[PathBuf]) -> Result<Vec<Seen>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("attacks/programs/list_tar.py");
    let mut child = Command::new("python3")
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start python3")?;
    let mut pipe = child.stdin.take().context("it is piped")?;
    let names: String = archives.iter().map(|path| format!("{}\n", path.display())).collect();
    let writer = std::thread::spawn(move || pipe.write_all(names.as_bytes()));
    let output = child.wait_with_output()?;
    let _ = writer.join();
    let answer = |line: &str| -> Result<Seen> {
        let value: serde_json::Value = serde_json::from_str(line)?;
        let Some(entries) = value.as_array() else { return Ok(Err(value.to_string())) };
        let entry = |entry: &serde_json::Value| -> Option<Entry> {
            let text = |at: usize| hex::decode(entry[at].as_str()?).ok();
            Some((text(0)?, entry[1].as_str()?.chars().next()?, entry[2].as_u64()?, text(3)?))
        };
        Ok(Ok(entries.iter().map(entry).collect::<Option<_>>().context("an entry of Python's")?))
    };
    let text = String::from_utf8(output.stdout)?;
    text.lines().map(answer).collect()
}

/// Makes names comparable: what the readers keep of slashes and dots means nothing.
fn normal(entries: &[Entry]) -> Vec<Entry> {
    let clean = |name: &[u8]| clean_path(name).unwrap_or_else(|_| name.to_vec());
    let link = |kind: char, link: &[u8]| if kind == 'h' { clean(link) } else { link.to_vec() };
    entries
        .iter()
        .map(|(name, kind, size, to)| (clean(name), *kind, *size, link(*kind, to)))
        .collect()
}

/// What an archive's own size, an extended header and another reader make of it differ. If our
/// reader takes an archive, all readers that take it see the same entries.
#[test]
fn cve_2025_62518_cve_2026_33055_readers_see_different_entries() -> Result<()> {
    let seed = std::env::var("COFFERDAM_ATTACK_SEED").ok().and_then(|text| text.parse().ok());
    let seed: u64 = seed.unwrap_or(1);
    let directory = tempfile::tempdir()?;
    let (mut taken, mut total) = (0, 0);
    for round in 0..(ARCHIVES * rounds()).div_ceil(1000) {
        let mut kept = Vec::new();
        for number in 0..1000 {
            let seed = seed.wrapping_mul(1_000_003) + (round * 1000 + number) as u64;
            let data = archive(&mut Rng::with_seed(seed));
            total += 1;
            if let Ok(entries) = ours(&data) {
                let path = directory.path().join(format!("{number}.tar"));
                fs::write(&path, &data)?;
                kept.push(Kept { seed, path, entries });
            }
        }
        taken += kept.len();
        let paths: Vec<PathBuf> = kept.iter().map(|kept| kept.path.clone()).collect();
        let theirs = python(&paths)?;
        ensure!(theirs.len() == kept.len(), "Python answered {} times", theirs.len());
        let gnu = ["--list", "--verbose", "--numeric-owner", "--quoting-style=escape", "-f"];
        let check = |(kept, python): (&Kept, &Seen)| -> Result<()> {
            let Kept { seed, path, entries } = kept;
            let readers = [
                ("GNU tar", program("tar", &gnu, path, (5, 2))?),
                ("libarchive", program("bsdtar", &["-tvf"], path, (8, 4))?),
                ("Python", python.clone()),
            ];
            for (reader, answer) in readers {
                let Ok(theirs) = answer else { continue };
                if normal(entries) != normal(&theirs) {
                    let kept = std::env::temp_dir().join(format!("attack-{seed}.tar"));
                    fs::copy(path, &kept)?;
                    works(format!(
                        "archive of seed {seed} ({}): we see\n{}{reader} sees\n{}",
                        kept.display(),
                        shown(entries),
                        shown(&theirs)
                    ));
                }
            }
            Ok(())
        };
        let pairs: Vec<_> = kept.iter().zip(&theirs).collect();
        let half = pairs.len() / 2;
        std::thread::scope(|scope| -> Result<()> {
            let (first, second) = pairs.split_at(half);
            let other = scope.spawn(|| first.iter().try_for_each(|pair| check(*pair)));
            second.iter().try_for_each(|pair| check(*pair))?;
            match other.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })?;
    }
    eprintln!("{taken} of {total} archives are taken");
    assert!(taken * 5 > total, "only {taken} of {total} archives are taken");
    Ok(())
}

fn shown(entries: &[Entry]) -> String {
    let line = |(name, kind, size, link): &Entry| {
        format!("    {kind} {size} {} {}\n", name.escape_ascii(), link.escape_ascii())
    };
    entries.iter().map(line).collect()
}
