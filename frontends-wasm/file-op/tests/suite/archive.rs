//! Archives: what ADD unpacks, what it refuses, and that no bytes whatever make it panic.

use crate::support::{Memory, copy, run};
use crate::tar_writer::{
    Item, bzip2, dir, extension, file, gzip, item, link, open_tar, pax, tar, xz, zstd,
};
use cofferdam_file_op::{ActionKind, Copy, Ownership, Principal};
use expect_test::{Expect, expect};
use proptest::prelude::*;

fn add(dest: &str) -> Copy {
    Copy { attempt_unpack: true, ..copy("/a.tar", dest) }
}

fn unpack_as(action: Copy, data: Vec<u8>, base: &str) -> String {
    let source = Memory::empty().with_file("/a.tar", data);
    run(ActionKind::Copy(action), &[Memory::parse(base), source])
}

#[track_caller]
fn check(items: &[Item], base: &str, expected: Expect) {
    expected.assert_eq(&unpack_as(add("/"), tar(items), base));
}

#[track_caller]
fn check_bytes(data: Vec<u8>, expected: Expect) {
    expected.assert_eq(&unpack_as(add("/d"), data, ""));
}

#[test]
fn entries_of_every_kind() {
    let device = |flag, name, device| Item { device, ..item(flag, name) };
    let items = [
        dir("./"),
        dir("d/"),
        Item { mode: 0o104_755, uid: b"0000007\0".to_vec(), ..file("d/f", "F") },
        link('1', "d/hard", "d/f"),
        link('2', "d/soft", "../x y"),
        device('3', "null", (1, 3)),
        device('4', "sda", (8, 0)),
        item('6', "pipe"),
        Item { flag: 0, ..file("old", "O") },
        Item { flag: 0, ..item('0', "olddir/") },
        Item { magic: *b"ustar  \0", ..file("gnu", "G") },
        Item { magic: [0; 8], ..file("v7", "V") },
        Item { prefix: b"long/prefix".to_vec(), ..file("name", "N") },
        file("/abs/f", "A"),
        file("a//b/./c", "C"),
        file("d/.wh.f", ""),
        file("empty", ""),
    ];
    check(
        &items,
        "",
        expect![[r#"
        /a/ [@1000]
        /a/b/ [@1000]
        /a/b/c = C [@5000000000]
        /abs/ [@1000]
        /abs/f = A [@5000000000]
        /d/ [@5000000000]
        /d/.wh.f =  [@5000000000]
        /d/f = F [4755 7:0 @5000000000 #1]
        /d/hard = F [4755 7:0 @5000000000 #1]
        /d/soft -> ../x y [@5000000000]
        /empty =  [@5000000000]
        /gnu = G [@5000000000]
        /long/ [@1000]
        /long/prefix/ [@1000]
        /long/prefix/name = N [@5000000000]
        /null char 1:3 [@5000000000]
        /old = O [@5000000000]
        /olddir/ [644 @5000000000]
        /pipe fifo [@5000000000]
        /sda block 8:0 [@5000000000]
        /v7 = V [@5000000000]
    "#]],
    );
    let owner = Some(Ownership { user: Some(Principal::Id(9)), group: None });
    let chown = Copy { owner, timestamp: Some(77), ..add("/to/here") };
    expect![[r#"
        /to/ [9:9 @77]
        /to/here/ [9:9 @77]
        /to/here/d/ [9:9 @5000000000]
        /to/here/d/f = F [4755 9:9 @5000000000 #1]
        /to/here/d/hard = F [4755 9:9 @5000000000 #1]
        /to/here/d/soft -> ../x y [9:9 @5000000000]
        /to/here/null char 1:3 [9:9 @5000000000]
    "#]]
    .assert_eq(&unpack_as(chown, tar(&items[..6]), ""));
}

#[test]
fn extended_headers() {
    let long = "x".repeat(120);
    let items = [
        pax(&[("path", "p/ä"), ("mtime", "1.000000002"), ("uid", "3000000"), ("comment", "c")]),
        file("short", "P"),
        pax(&[("linkpath", "there"), ("atime", "1.5"), ("SCHILY.dev", "1")]),
        link('2', "l", "elsewhere"),
        pax(&[
            ("SCHILY.xattr.user.k", "v"),
            ("SCHILY.xattr.security.capability", "\u{1}\0"),
            ("SCHILY.xattr.trusted.overlay.opaque", "y"),
            ("SCHILY.xattr.user.overlay.opaque", "y"),
        ]),
        file("x", "X"),
        pax(&[("size", "4")]),
        Item { size: Some(b"00000000000\0".to_vec()), ..file("sized", "data") },
        pax(&[("size", "4")]),
        Item { size: Some(b"00000001000\0".to_vec()), ..file("sized2", "data") },
        extension('L', format!("g/{long}\0")),
        file("cut", "L"),
        extension('K', format!("{long}\0")),
        link('2', "k", "cut"),
        Item { flag: b'g', ..pax(&[("comment", "0123456789abcdef")]) },
        Item { mtime: b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff".to_vec(), ..file("far", "") },
        Item { mtime: [0xff; 12].to_vec(), ..file("past", "") },
        pax(&[("mtime", "-1.5")]),
        file("past2", ""),
    ];
    check(
        &items,
        "",
        expect![[r#"
        /far = 
        /g/ [@1000]
        /g/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx = L [@5000000000]
        /k -> xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx [@5000000000]
        /l -> there [@5000000000]
        /p/ [@1000]
        /p/ä = P [3000000:0 @1000000002]
        /past = 
        /past2 = 
        /sized = data [@5000000000]
        /sized2 = data [@5000000000]
        /x = X [@5000000000 security.capability=\x01\x00 user.k=v]
    "#]],
    );
}

#[test]
fn entries_go_through_symlinks_inside_the_destination() {
    let usr = "/usr/lib/old = o\n/lib -> usr/lib\n/lib64 -> /usr/lib";
    let items = [
        dir("lib/"),
        file("lib/new", "N"),
        file("lib64/sub/deep", "D"),
        link('1', "lib/hard", "lib64/old"),
        dir("usr/lib/"),
    ];
    check(
        &items,
        usr,
        expect![[r#"
        /lib -> usr/lib
        /lib64 -> /usr/lib
        /usr/
        /usr/lib/ [@5000000000]
        /usr/lib/hard = o [#1]
        /usr/lib/new = N [@5000000000]
        /usr/lib/old = o [#1]
        /usr/lib/sub/ [@1000]
        /usr/lib/sub/deep = D [@5000000000]
    "#]],
    );
    check(
        &[file("l/f", "F")],
        "/l -> ../../../etc",
        expect![[r#"
        /etc/ [@1000]
        /etc/f = F [@5000000000]
        /l -> ../../../etc
    "#]],
    );
    let through = [link('2', "l", "../../etc"), file("l/f", "F"), dir("l")];
    check(
        &through,
        "",
        expect![[r#"
        /etc/ [@5000000000]
        /etc/f = F [@5000000000]
        /l -> ../../etc [@5000000000]
    "#]],
    );
    // Below a destination that is not the root nothing leads out of it.
    let mut table = String::new();
    for target in ["/etc", "../etc", "../../../etc", ".", "/", "..", "x/../../y"] {
        let items = tar(&[link('2', "l", target), file("l/f", "F"), dir("l")]);
        let result = unpack_as(add("/in/here"), items, "/etc/f = safe");
        assert!(result.starts_with("error") || result.contains("/etc/f = safe\n"), "{target}");
        table += &format!("{target}: {}\n", result.trim().replace('\n', ", "));
    }
    expect![[r#"
        /etc: /etc/, /etc/f = safe, /in/ [@1000], /in/here/ [@1000], /in/here/etc/ [@5000000000], /in/here/etc/f = F [@5000000000], /in/here/l -> /etc [@5000000000]
        ../etc: error: archive "/a.tar", offset 512: entry "l/f": "l": symlink leads out of the destination
        ../../../etc: error: archive "/a.tar", offset 512: entry "l/f": "l": symlink leads out of the destination
        .: /etc/, /etc/f = safe, /in/ [@1000], /in/here/ [@1000], /in/here/f = F [@5000000000], /in/here/l -> . [@5000000000]
        /: /etc/, /etc/f = safe, /in/ [@1000], /in/here/ [@1000], /in/here/f = F [@5000000000], /in/here/l -> / [@5000000000]
        ..: error: archive "/a.tar", offset 512: entry "l/f": "l": symlink leads out of the destination
        x/../../y: error: archive "/a.tar", offset 512: entry "l/f": "l": symlink leads out of the destination
    "#]].assert_eq(&table);
}

#[test]
fn what_is_there_is_replaced() {
    let base = "/f = old [600]\n/d/ [700 1:1 user.k=v]\n/d/x = X\n/l -> d\n/e/y = Y\n/h = H [#1]";
    check(
        &[file("f", "F"), dir("d"), dir("l"), file("e", "E")],
        base,
        expect![[r#"
        /d/ [@5000000000 user.k=v]
        /d/x = X
        /e = E [@5000000000]
        /f = F [@5000000000]
        /h = H
        /l -> d
    "#]],
    );
    check(
        &[file("l", "L"), link('2', "d", "f"), dir("f")],
        base,
        expect![[r#"
        /d -> f [@5000000000]
        /e/
        /e/y = Y
        /f/ [@5000000000]
        /h = H
        /l = L [@5000000000]
    "#]],
    );
    check(
        &[link('2', "l", "e"), file("l/z", "Z"), file("h/i", "")],
        base,
        expect![[r#"
        error: archive "/a.tar", offset 1536: entry "h/i": "/h": not a directory
    "#]],
    );
    check(
        &[file("a", "1"), link('1', "b", "a"), file("b", "2")],
        "",
        expect![[r#"
        /a = 1 [@5000000000]
        /b = 2 [@5000000000]
    "#]],
    );
    check(
        &[link('2', "s", "t"), link('1', "hs", "s"), item('6', "p"), link('1', "hp", "p")],
        "",
        expect![[r#"
            /hp fifo [@5000000000]
            /hs -> t [@5000000000]
            /p fifo [@5000000000]
            /s -> t [@5000000000]
        "#]],
    );
}

#[test]
fn hostile_entries_are_refused() {
    let cases = [
        ("dot dot", vec![file("../x", "")]),
        ("dot dot inside", vec![file("a/../b", "")]),
        ("dot dot after the root", vec![file("/../x", "")]),
        ("hard link out", vec![link('1', "l", "../etc/passwd")]),
        ("hard link to nothing", vec![link('1', "l", "/no")]),
        ("hard link without target", vec![item('1', "l")]),
        ("hard link to a directory", vec![dir("d"), link('1', "l", "d")]),
        ("hard link to the root", vec![link('1', "l", "/")]),
        ("hard link to itself", vec![file("f", ""), link('1', "f", "f")]),
        ("hard link over its target", vec![file("d/f", ""), link('1', "d", "d/f")]),
        ("symlink loop", vec![link('2', "a", "b"), link('2', "b", "a"), file("a/x", "")]),
        ("file as the root", vec![file(".", "")]),
        ("file as a directory", vec![file("f", ""), file("f/g", "")]),
        ("not UTF-8", vec![Item { name: b"\xff".to_vec(), ..item('0', "") }]),
        ("NUL in a PAX name", vec![pax(&[("path", "a\0b")]), file("x", "")]),
        ("NUL in a long name", vec![extension('L', "a\0b\0"), file("x", "")]),
        ("too long a name", vec![extension('L', "a/".repeat(3000)), file("x", "")]),
        ("regular file with a slash", vec![file("x/", "data")]),
        ("whiteout device", vec![item('3', "w")]),
        ("sparse", vec![item('S', "s")]),
        ("PAX sparse", vec![pax(&[("GNU.sparse.major", "1")]), file("x", "")]),
        ("unknown type", vec![item('7', "s")]),
        ("multi-volume", vec![item('M', "s")]),
        ("symlink with contents", vec![Item { data: b"x".to_vec(), ..link('2', "l", "t") }]),
        (
            "hard link with contents",
            vec![file("f", ""), Item { data: b"x".to_vec(), ..link('1', "l", "f") }],
        ),
        ("negative size", vec![Item { size: Some([0xff; 12].to_vec()), ..file("f", "") }]),
        (
            "size beyond a file",
            vec![Item {
                size: Some(b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff".to_vec()),
                ..file("f", "")
            }],
        ),
        ("8 EiB of nothing", vec![pax(&[("size", "9223372036854775807")]), file("f", "x")]),
        ("PAX size beyond a file", vec![pax(&[("size", "18446744073709551615")]), file("f", "")]),
        ("user id -1", vec![pax(&[("uid", "4294967295")]), file("f", "")]),
        ("user id beyond 32 bits", vec![pax(&[("uid", "4294967296")]), file("f", "")]),
        ("negative user id", vec![Item { uid: [0xff; 8].to_vec(), ..file("f", "") }]),
        ("user id in words", vec![Item { uid: b"root\0\0\0\0".to_vec(), ..file("f", "") }]),
        ("two PAX headers", vec![pax(&[("path", "a")]), pax(&[("path", "b")]), file("x", "")]),
        ("two long names", vec![extension('L', "a\0"), extension('L', "b\0"), file("x", "")]),
        ("PAX and GNU names", vec![pax(&[("path", "a")]), extension('L', "b\0"), file("x", "")]),
        ("PAX keys twice", vec![pax(&[("path", "a"), ("path", "b")]), file("x", "")]),
        ("malformed PAX record", vec![extension('x', "99 path=a\n"), file("x", "")]),
        ("global PAX path", vec![Item { flag: b'g', ..pax(&[("path", "a")]) }, file("x", "")]),
        ("PAX header before nothing", vec![pax(&[("path", "a")])]),
        (
            "PAX header before a global one",
            vec![
                pax(&[("path", "a")]),
                Item { flag: b'g', ..pax(&[("comment", "a")]) },
                file("x", ""),
            ],
        ),
        ("too long a link", vec![extension('K', "a/".repeat(3000)), link('2', "x", "t")]),
        (
            "huge PAX header",
            vec![Item { size: Some(b"77777777777\0".to_vec()), ..pax(&[("path", "a")]) }],
        ),
        ("unknown ustar version", vec![Item { magic: *b"ustar\x0099", ..file("f", "") }]),
        (
            "old writer's prefix",
            vec![Item { magic: *b"ustar  \0", prefix: b"pre/fix".to_vec(), ..file("f", "") }],
        ),
    ];
    let mut table = String::new();
    for (title, items) in cases {
        // A harmless entry first, so that this is an archive beyond doubt.
        let items: Vec<Item> = std::iter::once(dir("ok")).chain(items).collect();
        let result = unpack_as(add("/"), tar(&items), "/etc/passwd = p");
        let shown: String = result.trim().replace('\n', ", ").chars().take(160).collect();
        table += &format!("{title}: {shown}\n");
        assert!(result.starts_with("error: "), "{title}: {result}");
    }
    expect![[r#"
        dot dot: error: archive "/a.tar", offset 512: name "../x" leads out of the archive
        dot dot inside: error: archive "/a.tar", offset 512: name "a/../b" leads out of the archive
        dot dot after the root: error: archive "/a.tar", offset 512: name "/../x" leads out of the archive
        hard link out: error: archive "/a.tar", offset 512: entry "l": name "../etc/passwd" leads out of the archive
        hard link to nothing: error: archive "/a.tar", offset 512: entry "l": "/no": not found
        hard link without target: error: archive "/a.tar", offset 512: "l" is a link to nothing
        hard link to a directory: error: archive "/a.tar", offset 1024: entry "l": is a hard link to a directory
        hard link to the root: error: archive "/a.tar", offset 512: entry "l": is a hard link to the archive's root
        hard link to itself: error: archive "/a.tar", offset 1024: entry "f": is a hard link to what it replaces
        hard link over its target: error: archive "/a.tar", offset 1024: entry "d": is a hard link to what it replaces
        symlink loop: error: archive "/a.tar", offset 1536: entry "a/x": "a": too many symlinks, expected at most 255
        file as the root: error: archive "/a.tar", offset 512: entry "": expected a directory at the archive's root
        file as a directory: error: archive "/a.tar", offset 1024: entry "f/g": "/f": not a directory
        not UTF-8: error: archive "/a.tar", offset 512: name "\xff" is not UTF-8
        NUL in a PAX name: error: archive "/a.tar", offset 512: "path" of an extended header contains NUL
        NUL in a long name: error: archive "/a.tar", offset 512: long name "a\0b" contains NUL
        too long a name: error: archive "/a.tar", offset 7168: a name of 6000 bytes, expected at most 4095
        regular file with a slash: error: archive "/a.tar", offset 512: "x/" ends with a slash and is no directory
        whiteout device: error: archive "/a.tar", offset 512: "w": device 0:0 is overlayfs's whiteout
        sparse: error: archive "/a.tar", offset 512: "s": sparse files are not supported
        PAX sparse: error: archive "/a.tar", offset 512: sparse files are not supported
        unknown type: error: archive "/a.tar", offset 512: "s": entries of type '7' are not supported
        multi-volume: error: archive "/a.tar", offset 512: "s": entries of type 'M' are not supported
        symlink with contents: error: archive "/a.tar", offset 512: "l" has 1 bytes and is no regular file
        hard link with contents: error: archive "/a.tar", offset 1024: "l" has 1 bytes and is no regular file
        negative size: error: archive "/a.tar", offset 512: "f": size -1 is negative
        size beyond a file: error: archive "/a.tar", offset 512: size of the header is not a number
        8 EiB of nothing: error: archive "/a.tar", offset 3584: the archive ends inside an entry
        PAX size beyond a file: error: archive "/a.tar", offset 1536: "f": size 18446744073709551615 is more than a file can have
        user id -1: error: archive "/a.tar", offset 1536: "f": user id 4294967295 is out of range
        user id beyond 32 bits: error: archive "/a.tar", offset 1536: "f": user id 4294967296 is out of range
        negative user id: error: archive "/a.tar", offset 512: "f": user id -1 is out of range
        user id in words: error: archive "/a.tar", offset 512: uid of the header is not a number
        two PAX headers: error: archive "/a.tar", offset 1536: two extended headers for one entry
        two long names: error: archive "/a.tar", offset 1536: two long names for one entry
        PAX and GNU names: error: archive "/a.tar", offset 2560: two long names for one entry
        PAX keys twice: error: archive "/a.tar", offset 512: "path" comes twice in an extended header
        malformed PAX record: error: archive "/a.tar", offset 512: malformed extended header
        global PAX path: error: archive "/a.tar", offset 512: global extended header with "path" is not supported
        PAX header before nothing: error: archive "/a.tar", offset 2560: an extended header without an entry
        PAX header before a global one: error: archive "/a.tar", offset 1536: an extended header without an entry
        too long a link: error: archive "/a.tar", offset 7168: a name of 6000 bytes, expected at most 4095
        huge PAX header: error: archive "/a.tar", offset 1024: an extended header of 8589934591 bytes, expected at most 1048576
        unknown ustar version: error: archive "/a.tar", offset 512: unknown version of the ustar format
        old writer's prefix: error: archive "/a.tar", offset 512: access time of the header is not a number
    "#]].assert_eq(&table);
}

/// TARmageddon (CVE-2025-62518) and its inverse (CVE-2026-33055): the contents of a file whose
/// PAX size and ustar size differ are never read as headers.
#[test]
fn cve_2025_62518_contents_are_not_headers() {
    let hidden = open_tar(&[file("hidden", "H")]);
    for stated in ["00000000000\0", "00000002000\0"] {
        let carrier = Item {
            data: hidden.clone(),
            size: Some(stated.as_bytes().to_vec()),
            ..item('0', "carrier")
        };
        let items = [pax(&[("size", &hidden.len().to_string())]), carrier, file("after", "A")];
        let result = unpack_as(add("/"), tar(&items), "");
        assert_eq!(result, "/after = A [@5000000000]\n/carrier = (1024 bytes) [@5000000000]\n");
    }
}

#[test]
fn damage() {
    let whole = tar(&[file("a", "A"), file("b", &"B".repeat(700))]);
    check_bytes(
        whole[..512 + 300].to_vec(),
        expect![[r#"
        error: archive "/a.tar", offset 812: the archive ends inside an entry
    "#]],
    );
    check_bytes(
        whole[..1024 + 100].to_vec(),
        expect![[r#"
        error: archive "/a.tar", offset 1024: the archive ends inside a header
    "#]],
    );
    check_bytes(
        whole[..1024 + 512 + 600].to_vec(),
        expect![[r#"
        error: archive "/a.tar", offset 2136: the archive ends inside an entry
    "#]],
    );
    check_bytes(
        open_tar(&[file("a", "A")]),
        expect![[r#"
        /d/ [@1000]
        /d/a = A [@5000000000]
    "#]],
    );
    let mut bad = whole.clone();
    bad[1024] ^= 1;
    check_bytes(
        bad,
        expect![[r#"
        error: archive "/a.tar", offset 1024: header checksum does not match
    "#]],
    );
    let mut gap = open_tar(&[file("a", "A")]);
    gap.resize(gap.len() + 512, 0);
    gap.extend(tar(&[file("b", "B")]));
    check_bytes(
        gap,
        expect![[r#"
        error: archive "/a.tar", offset 1024: a zero block between entries
    "#]],
    );
    let mut garbage = tar(&[file("a", "A")]);
    garbage.extend(b"garbage");
    check_bytes(
        garbage,
        expect![[r#"
        /d/ [@1000]
        /d/a = A [@5000000000]
    "#]],
    );
    let packed = gzip(&tar(&[file("a", &"A".repeat(3000)), file("b", "B")]));
    check_bytes(
        packed[..packed.len() - 12].to_vec(),
        expect![[r#"
        error: archive "/a.tar", offset 5120: cannot unpack: incomplete deflate stream
    "#]],
    );
}

#[test]
fn what_is_no_archive_is_copied() {
    for data in
        [&b""[..], b"short", &[b'x'; 2000], &[0; 2000], b"\x1f\x8b\x08broken", b"BZh9broken"]
    {
        let result = unpack_as(add("/d/"), data.to_vec(), "");
        assert!(result.starts_with("/d/ [@1000]\n/d/a.tar = "), "{data:?}: {result}");
    }
    assert!(unpack_as(add("/d/"), gzip(&[b'x'; 2000]), "").contains("/d/a.tar = "));
    let mut broken = tar(&[file("a", "A")]);
    broken[0] = b'z';
    assert!(unpack_as(add("/d/"), broken, "").contains("/d/a.tar = "));
    let plain = Copy { attempt_unpack: false, ..add("/d/") };
    assert!(unpack_as(plain, tar(&[file("a", "A")]), "").contains("/d/a.tar = "));
    let source = Memory::parse("/a.tar/x = X");
    let result = run(ActionKind::Copy(add("/d")), &[Memory::empty(), source]);
    assert_eq!(result, "/d/\n/d/x = X\n");
}

#[test]
fn compression() {
    let data = tar(&[file("a", "A"), file("b", &"B".repeat(200_000))]);
    let (first, second) = data.split_at(700);
    let skippable = b"\x50\x2a\x4d\x18\x03\0\0\0abc".to_vec();
    for (name, packed) in [
        ("gzip", gzip(&data)),
        ("bzip2", bzip2(&data)),
        ("xz", xz(&data)),
        ("zstd", zstd(&data)),
        ("gzip members", [gzip(first), gzip(second)].concat()),
        ("bzip2 streams", [bzip2(first), bzip2(second)].concat()),
        ("xz streams", [xz(first), xz(second)].concat()),
        ("zstd frames", [skippable, zstd(first), zstd(second)].concat()),
    ] {
        let result = unpack_as(add("/"), packed, "");
        assert_eq!(result, "/a = A [@5000000000]\n/b = (200000 bytes) [@5000000000]\n", "{name}");
    }
    // A window of 2 GiB: not unpacked, and nothing like that allocated.
    let window = [&b"\x28\xb5\x2f\xfd\x00\xa8"[..], &[1, 0, 0], &[0; 600]].concat();
    assert!(unpack_as(add("/d/"), window, "").contains("/d/a.tar = "));
}

/// A file of 64 MiB out of an archive of some KiB goes through in bounded pieces.
#[test]
fn a_bomb_goes_through_in_pieces() {
    let size = 64 << 20;
    let mut data =
        tar(&[Item { size: Some(format!("{size:011o}\0").into_bytes()), ..item('0', "bomb") }]);
    data.truncate(512);
    data.resize(512 + size + 1024, 0);
    let packed = gzip(&data);
    assert!(packed.len() < 1 << 20);
    let base = Memory::empty();
    let source = Memory::empty().with_file("/a.tar", packed);
    let action = cofferdam_file_op::Action {
        input: cofferdam_file_op::ActionInput::Input(0),
        kind: ActionKind::Copy(add("/")),
        output: Some(0),
    };
    let layers =
        cofferdam_file_op::apply::<crate::support::MemoryLayer>(&[action], &[base, source], 0);
    let tree = cofferdam_file_op::Layer::view(&layers.expect("a bomb is an archive")[0]);
    assert_eq!(tree.print(), format!("/bomb = ({size} bytes) [@5000000000]\n"));
    assert!(tree.calls.largest_write.get() <= 256 << 10);
}

fn sample() -> Vec<u8> {
    tar(&[
        dir("d/"),
        pax(&[("path", "d/long"), ("size", "5"), ("mtime", "1.5")]),
        file("short", "hello"),
        link('2', "d/l", "../d"),
        file("d/l/x", "X"),
        link('1', "h", "d/x"),
        extension('L', "d/other\0"),
        file("o", "O"),
    ])
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(data in proptest::collection::vec(any::<u8>(), 0..3000), kind in 0..6) {
        let magic: &[u8] = match kind {
            0 => b"\x1f\x8b\x08",
            1 => b"BZh9",
            2 => b"\xfd7zXZ\0",
            3 => b"\x28\xb5\x2f\xfd",
            _ => b"",
        };
        unpack_as(add("/d"), [magic, &data].concat(), "");
    }

    #[test]
    fn no_change_of_an_archive_makes_it_panic(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        repair in any::<bool>(),
        pack in 0..5,
    ) {
        let mut data = sample();
        let change = |data: &mut Vec<u8>| for (at, byte) in &changes {
            let at = at.index(data.len());
            data[at] = *byte;
        };
        if pack == 0 {
            change(&mut data);
            if repair {
                for block in data.chunks_mut(512).filter(|block| &block[257..262] == b"ustar") {
                    block[148..156].fill(b' ');
                    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
                    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
                }
            }
        } else {
            data = match pack {
                1 => gzip(&data),
                2 => bzip2(&data),
                3 => xz(&data),
                _ => zstd(&data),
            };
            change(&mut data);
        }
        let result = unpack_as(add("/in"), data, "/etc/passwd = safe");
        prop_assert!(result.starts_with("error") || result.contains("/etc/passwd = safe\n"));
    }
}
