//! Layers that are right.

use std::process::Command;

use cofferdam_source::{Form, unpack};
use cofferdam_types::Digest;
use expect_test::{Expect, expect};

use crate::support::{
    Item, device, dir, extension, file, gzip, hard_link, item, records, shown, store, symlink, tar,
    with,
};

#[track_caller]
fn check(items: &[Item], expected: Expect) {
    expected.assert_eq(&shown(&tar(items)));
}

#[test]
fn entries_of_every_kind() {
    check(
        &[
            dir("./"),
            dir("bin/"),
            Item { mode: 0o4755, uid: b"0000007\0".to_vec(), ..file("bin/su", "S") },
            Item { mode: 0o1777, ..dir("tmp") },
            symlink("lib", "usr/lib"),
            hard_link("bin/sudo", "bin/su"),
            hard_link("hard-lib", "/lib"),
            device('3', "null", 1, 3),
            device('4', "sda", 8, 0),
            item('6', "pipe"),
            file("/absolute/./a//b", "abc"),
            file(b"\xff\n", ""),
            Item { flag: 0, ..item('0', "old/") },
        ],
        expect![[r#"
            / dir 755 0:0 @7000000000
            /absolute dir 755 0:0 @0
            /absolute/a dir 755 0:0 @0
            /absolute/a/b file 644 0:0 @7000000000 3 bytes
            /bin dir 755 0:0 @7000000000
            /bin/su file 4755 7:0 @7000000000 1 bytes #1
            /bin/sudo file 4755 7:0 @7000000000 1 bytes #1
            /hard-lib link 777 0:0 @7000000000 -> usr/lib
            /lib link 777 0:0 @7000000000 -> usr/lib
            /null char 644 0:0 @7000000000 1:3
            /old dir 644 0:0 @7000000000
            /pipe fifo 644 0:0 @7000000000
            /sda block 644 0:0 @7000000000 8:0
            /tmp dir 1777 0:0 @7000000000
            /\xff\n file 644 0:0 @7000000000 0 bytes
        "#]],
    );
}

#[test]
fn extended_headers() {
    let name = "n".repeat(120);
    check(
        &[
            extension('g', records(&[("comment", b"a commit")])),
            with(
                &[
                    ("mtime", b"1.000000002"),
                    ("uid", b"70000"),
                    ("gid", b"2097152"),
                    ("path", b"x"),
                    ("SCHILY.xattr.user.k", b"v\0\n"),
                    ("SCHILY.xattr.user.empty", b""),
                    ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
                    ("SCHILY.xattr.user.overlay.opaque", b"y"),
                    ("LIBARCHIVE.xattr.user.k", b"dg=="),
                ],
                file("short", "x"),
            ),
            with(
                &[("SCHILY.xattr.user.d", b"1"), ("SCHILY.xattr.trusted.overlay.opaque", b"y")],
                dir("d"),
            ),
            with(
                &[(
                    "SCHILY.xattr.security.capability",
                    b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
                )],
                file("ping", "p"),
            ),
            with(&[("mtime", b"-5")], file("past", "")),
            extension('L', format!("d/{name}\0")),
            extension('K', format!("{name}\0")),
            symlink("cut", "cut"),
            Item { magic: b"ustar  \0", uid: b"\x80\0\0\0\0\x20\0\0".to_vec(), ..file("gnu", "g") },
            Item { magic: &[0; 8], ..file("v7", "") },
            with(&[("hdrcharset", b"BINARY"), ("path", b"latin1-\xe9")], file("x", "")),
        ],
        expect![[r#"
            / dir 755 0:0 @0
            /d dir 755 0:0 @7000000000 user.d=1
            /d/nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn link 777 0:0 @7000000000 -> nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn
            /gnu file 644 2097152:0 @7000000000 1 bytes
            /latin1-\xe9 file 644 0:0 @7000000000 0 bytes
            /past file 644 0:0 @0 0 bytes
            /ping file 644 0:0 @7000000000 1 bytes security.capability=\x01\x00\x00\x02\x00 \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00
            /v7 file 644 0:0 @7000000000 0 bytes
            /x file 644 70000:2097152 @1000000002 1 bytes user.empty= user.k=v\x00\n
        "#]],
    );
}

#[test]
fn whiteouts() {
    check(
        &[
            file(".wh.gone", ""),
            dir("d"),
            file("d/.wh.gone", ""),
            file("d/.wh..wh.plnk", ""),
            dir("o"),
            file("o/before", ""),
            file("o/.wh..wh..opq", ""),
            file("o/after", ""),
            file("implied/.wh.x", ""),
            file("twice/.wh.x", ""),
            file("twice/.wh.x", ""),
        ],
        expect![[r#"
            / dir 755 0:0 @0
            /d dir 755 0:0 @7000000000
            /d/gone whiteout
            /gone whiteout
            /implied dir 755 0:0 @0
            /implied/x whiteout
            /o dir 755 0:0 @7000000000 opaque
            /o/after file 644 0:0 @7000000000 0 bytes
            /o/before file 644 0:0 @7000000000 0 bytes
            /twice dir 755 0:0 @0
            /twice/x whiteout
        "#]],
    );
    check(
        &[file(".wh..wh..opq", "")],
        expect![[r#"
        / dir 755 0:0 @0 opaque
    "#]],
    );
}

/// A whiteout is about lower layers, wherever it stands in the archive.
#[test]
fn whiteouts_beside_entries_of_the_same_name() {
    check(
        &[
            file(".wh.file1", ""),
            file("file1", "1"),
            file("file2", "2"),
            file(".wh.file2", ""),
            file(".wh.dir1", ""),
            dir("dir1"),
            file("dir1/f", ""),
            dir("dir2"),
            file("dir2/f", ""),
            file(".wh.dir2", ""),
        ],
        expect![[r#"
            / dir 755 0:0 @0
            /dir1 dir 755 0:0 @7000000000 opaque
            /dir1/f file 644 0:0 @7000000000 0 bytes
            /dir2 dir 755 0:0 @7000000000 opaque
            /dir2/f file 644 0:0 @7000000000 0 bytes
            /file1 file 644 0:0 @7000000000 1 bytes
            /file2 file 644 0:0 @7000000000 1 bytes
        "#]],
    );
}

#[test]
fn later_entries_replace_earlier_ones() {
    check(
        &[
            dir("dir-to-file"),
            file("dir-to-file/f", ""),
            file("dir-to-file", "file"),
            file("file-to-dir", "file"),
            dir("file-to-dir"),
            file("file-to-dir/f", "below"),
            file("twice", "first"),
            file("twice", "2nd"),
            dir("same"),
            file("same/kept", ""),
            Item { mode: 0o700, ..dir("same") },
            symlink("link", "same"),
            dir("link"),
            file("link/f", "in a real directory"),
            symlink("same/kept", "/etc"),
            file("same/kept", "no link"),
        ],
        expect![[r#"
            / dir 755 0:0 @0
            /dir-to-file file 644 0:0 @7000000000 4 bytes
            /file-to-dir dir 755 0:0 @7000000000 opaque
            /file-to-dir/f file 644 0:0 @7000000000 5 bytes
            /link dir 755 0:0 @7000000000 opaque
            /link/f file 644 0:0 @7000000000 19 bytes
            /same dir 700 0:0 @7000000000
            /same/kept file 644 0:0 @7000000000 7 bytes
            /twice file 644 0:0 @7000000000 3 bytes
        "#]],
    );
}

#[test]
fn hard_links_to_what_is_replaced_later() {
    check(
        &[
            file("a", "old"),
            hard_link("b", "a"),
            hard_link("c", "a"),
            file("a", "newer"),
            hard_link("d", "a"),
            file("e", "eee"),
            hard_link("f", "e"),
            file("g", "alone"),
            hard_link("h", "g"),
            file("g", ""),
        ],
        expect![[r#"
            / dir 755 0:0 @0
            /a file 644 0:0 @7000000000 5 bytes #1
            /b file 644 0:0 @7000000000 3 bytes #2
            /c file 644 0:0 @7000000000 3 bytes #2
            /d file 644 0:0 @7000000000 5 bytes #1
            /e file 644 0:0 @7000000000 3 bytes #3
            /f file 644 0:0 @7000000000 3 bytes #3
            /g file 644 0:0 @7000000000 0 bytes
            /h file 644 0:0 @7000000000 5 bytes
        "#]],
    );
}

#[test]
fn empty_layers() {
    for data in [Vec::new(), tar(&[]), gzip(&tar(&[])), gzip(&[])] {
        assert_eq!(shown(&data), "/ dir 755 0:0 @0\n");
    }
}

#[test]
fn compressions() {
    let plain = tar(&[file("f", &"contents ".repeat(100_000)), file("g", "")]);
    let expected = shown(&plain);
    let zstd = |data: &[u8]| zstd::encode_all(data, 1).expect("memory takes all");
    let (first, second) = plain.split_at(300_001);
    let skippable = b"\x50\x2a\x4d\x18\x03\0\0\0abc".to_vec();
    for (title, packed) in [
        ("gzip", gzip(&plain)),
        ("gzip members", [gzip(first), gzip(second)].concat()),
        ("zstd", zstd(&plain)),
        ("zstd frames", [zstd(first), zstd(second)].concat()),
        ("zstd after a skippable frame", [skippable, zstd(&plain)].concat()),
    ] {
        assert!(packed.len() < plain.len() / 10, "{title}");
        assert_eq!(shown(&packed), expected, "{title}");
    }
}

#[test]
fn what_follows_the_end_counts_for_the_digest_only() {
    let mut data = tar(&[file("f", "F")]);
    data.extend_from_slice(&[7; 1_000_000]);
    let (_dir, store) = store();
    let expected = Digest::of(&data);
    for packed in [data.clone(), gzip(&data)] {
        for form in [Form::Directory, Form::Archive] {
            let unpacked = unpack(&store, "layer", packed.as_slice(), Some(&expected), form);
            let unpacked = unpacked.expect("valid");
            assert_eq!(unpacked.diff_id, expected);
            let layer = store.layer(unpacked.layer.id()).expect("it is there");
            assert!(layer.root.get(b"f").is_some());
        }
    }
}

/// TARmageddon (CVE-2025-62518) and its inverse (CVE-2026-33055): contents are not headers.
#[test]
fn cve_2025_62518_contents_are_not_headers() {
    let mut hidden = tar(&[file("hidden", "H")]);
    hidden.truncate(1024);
    for size in ["00000000000", "00000002000", "00000001000"] {
        // The header says `size`, its extended header the truth.
        let mut data = tar(&[with(&[("size", b"1024")], file("carrier", ""))]);
        data.truncate(1536);
        let header = &mut data[1024..];
        header[124..135].copy_from_slice(size.as_bytes());
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        data.extend_from_slice(&hidden);
        data.extend_from_slice(&tar(&[file("after", "A")]));
        assert_eq!(
            shown(&data),
            "/ dir 755 0:0 @0\n\
             /after file 644 0:0 @7000000000 1 bytes\n\
             /carrier file 644 0:0 @7000000000 1024 bytes\n"
        );
    }
}

/// What GNU tar packs comes out as it was, in each of its formats.
#[test]
fn layers_of_gnu_tar() {
    let source = tempfile::tempdir().expect("a directory for the test");
    let root = source.path();
    let long = "long-name-".repeat(15);
    let run = |script: &str| {
        let status = Command::new("sh").args(["-euc", script]).current_dir(root).status();
        assert!(status.expect("there is a shell").success(), "{script}");
    };
    run(&format!(
        "umask 022; mkdir -p root/bin root/{long} && cd root
         printf su >bin/su && ln bin/su bin/sudo && ln -s ../{long}/{long} link
         printf long >{long}/{long} && mkfifo pipe && mknod null c 1 3
         printf big >big-id && chown 3000000:3000001 big-id && chmod 4755 bin/su
         touch -d @1000000000.123456789 bin/su && touch -d @1600000000 . bin pipe null {long} \
             {long}/{long} big-id && touch -h -d @1600000000 link"
    ));
    let attributes = |path: &str, name: &str, value: &[u8]| {
        rustix::fs::setxattr(root.join(path), name, value, rustix::fs::XattrFlags::empty())
            .expect("the file system has extended attributes");
    };
    attributes("root/bin/su", "user.k", b"v\n\0");
    attributes("root/bin", "trusted.t", b"1");
    let mut shapes = Vec::new();
    for format in ["--format=pax --xattrs --xattrs-include=*", "--format=gnu", "--format=oldgnu"] {
        run(&format!("tar -C root --numeric-owner --sort=name {format} -cf layer.tar ."));
        let data = std::fs::read(root.join("layer.tar")).expect("the archive");
        shapes.push(shown(&data).replace(&long, "LONG"));
    }
    expect![[r#"
        / dir 755 0:0 @1600000000000000000
        /big-id file 644 3000000:3000001 @1600000000000000000 3 bytes
        /bin dir 755 0:0 @1600000000000000000 trusted.t=1
        /bin/su file 4755 0:0 @1000000000123456789 2 bytes #1 user.k=v\n\x00
        /bin/sudo file 4755 0:0 @1000000000123456789 2 bytes #1 user.k=v\n\x00
        /link link 777 0:0 @1600000000000000000 -> ../LONG/LONG
        /LONG dir 755 0:0 @1600000000000000000
        /LONG/LONG file 644 0:0 @1600000000000000000 4 bytes
        /null char 644 0:0 @1600000000000000000 1:3
        /pipe fifo 644 0:0 @1600000000000000000
    "#]]
    .assert_eq(&shapes[0]);
    assert_eq!(shapes[1], shapes[2]);
    let without = |text: &str| {
        text.replace("123456789 2", "000000000 2")
            .replace(" user.k=v\\n\\x00", "")
            .replace(" trusted.t=1", "")
    };
    assert_eq!(without(&shapes[0]), shapes[1]);
}
