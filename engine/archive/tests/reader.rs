//! The reader against GNU tar, and against noise. What it makes of entries that are wrong is
//! tested where archives are used: in `frontends-wasm/file-op` and `engine/source`.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use cofferdam_archive::{MemberKind, Tar, clean_path};
use expect_test::expect;
use proptest::prelude::*;

/// One line per entry, with the contents of small files.
fn list(data: &[u8]) -> Result<String, cofferdam_archive::Error> {
    let mut tar = Tar::new(data);
    let mut out = String::new();
    while let Some(member) = tar.next()? {
        let mut contents = Vec::new();
        let mut buffer = [0; 1000];
        loop {
            match tar.read(&mut buffer)? {
                0 => break,
                count => contents.extend_from_slice(&buffer[..count]),
            }
        }
        assert_eq!(contents.len() as u64, member.size);
        assert_eq!(clean_path(&member.path), Ok(member.path.clone()));
        let kind = match &member.kind {
            MemberKind::Regular if contents.len() > 20 => format!("({} bytes)", contents.len()),
            MemberKind::Regular => format!("= {}", contents.escape_ascii()),
            MemberKind::HardLink(to) => format!("hard link to {}", to.escape_ascii()),
            MemberKind::Symlink(to) => format!("-> {}", to.escape_ascii()),
            kind => format!("{kind:?}"),
        };
        let path = member.path.escape_ascii();
        out += &format!("{path} {:o} {}:{}", member.mode, member.uid, member.gid);
        out += &format!(" @{} {kind} {:?}\n", member.mtime, member.xattrs);
    }
    Ok(out)
}

fn shell(directory: &Path, script: &str) {
    let status = Command::new("sh").args(["-euc", script]).current_dir(directory).status();
    assert!(status.expect("there is a shell").success(), "{script}");
}

/// An archive of each format that GNU tar writes, of the same files.
static ARCHIVES: LazyLock<Vec<(&str, Vec<u8>)>> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("a directory for the test");
    let formats = [
        ("v7", "--format=v7 --exclude=./pipe"),
        ("ustar", "--format=ustar"),
        ("oldgnu", "--format=oldgnu"),
        ("gnu", "--format=gnu"),
        ("posix", "--format=posix"),
        ("posix with a global header", "--format=posix --pax-option=comment=text"),
        ("ids in base 256", "--format=gnu --owner=:4000000 --group=:5000000"),
        ("ids in PAX", "--format=posix --owner=:4000000 --group=:5000000"),
    ];
    shell(
        dir.path(),
        "umask 022; mkdir -p in/d/empty; cd in
         printf short >d/f; ln d/f hard; ln -s d/f soft; mkfifo pipe; head -c 1500 /dev/zero >zeros
         touch -h -d @1600000000 . d d/empty d/f soft pipe zeros",
    );
    let archives = formats.map(|(name, options)| {
        let ids = if options.contains("--owner") { "" } else { "--owner=:0 --group=:0" };
        shell(dir.path(), &format!("tar -C in --sort=name {ids} {options} -cf a.tar ."));
        (name, fs::read(dir.path().join("a.tar")).expect("the archive"))
    });
    archives.to_vec()
});

#[test]
fn formats_of_gnu_tar() {
    let all: Vec<_> =
        ARCHIVES.iter().map(|(_, data)| list(data).expect("a valid archive")).collect();
    expect![[r#"
         755 0:0 @1600000000000000000 Directory []
        d 755 0:0 @1600000000000000000 Directory []
        d/empty 755 0:0 @1600000000000000000 Directory []
        d/f 644 0:0 @1600000000000000000 = short []
        hard 644 0:0 @1600000000000000000 hard link to ./d/f []
        pipe 644 0:0 @1600000000000000000 Fifo []
        soft 777 0:0 @1600000000000000000 -> d/f []
        zeros 644 0:0 @1600000000000000000 (1500 bytes) []
    "#]]
    .assert_eq(&all[1]);
    for (text, (name, _)) in all.iter().zip(ARCHIVES.iter()) {
        let expected = match *name {
            "ids in base 256" | "ids in PAX" => all[1].replace(" 0:0 ", " 4000000:5000000 "),
            // The first format knows of no pipes.
            "v7" => all[1]
                .lines()
                .filter(|line| !line.contains("Fifo"))
                .map(|line| format!("{line}\n"))
                .collect(),
            _ => all[1].clone(),
        };
        assert_eq!(*text, expected, "{name}");
    }
}

#[test]
fn what_follows_the_end_is_left() {
    let mut data = ARCHIVES[1].1.clone();
    data.truncate(data.len() / 512 * 512);
    data.extend_from_slice(b"more");
    let mut tar = Tar::new(data.as_slice());
    while tar.next().expect("a valid archive").is_some() {}
    assert!(tar.into_inner().ends_with(b"more"));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is changed, the reader ends, without a panic.
    #[test]
    fn noise(
        archive in 0..8_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
        mend in any::<bool>(),
    ) {
        let mut data = ARCHIVES[archive].1.clone();
        for (at, byte) in changes {
            let at = at.index(data.len());
            data[at] = byte;
            if mend {
                // Most changes would end at the checksum.
                let header = &mut data[at / 512 * 512..][..512];
                header[148..156].fill(b' ');
                let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
                header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
        let _ = list(&data[..cut.index(data.len())]);
        let _ = list(&data);
    }
}
