//! Layers that are wrong: each is refused with a message, and leaves nothing behind.

use cofferdam_types::Digest;
use expect_test::expect;

use crate::support::{
    Item, device, dir, extension, file, gzip, hard_link, item, records, refused, symlink, tar, with,
};

#[test]
fn hostile_entries() {
    let cases = [
        ("dot dot", vec![file("../x", "")]),
        ("dot dot inside", vec![file("a/../b", "")]),
        ("absolute dot dot", vec![file("/../x", "")]),
        ("below a symlink", vec![symlink("l", "/etc"), file("l/passwd", "")]),
        ("implied below a symlink", vec![symlink("l", "../../.."), file("l/a/b", "")]),
        ("directory below a symlink", vec![symlink("l", "/tmp"), dir("l/d")]),
        ("whiteout below a symlink", vec![symlink("l", "/etc"), file("l/.wh.passwd", "")]),
        ("below a file", vec![file("f", ""), file("f/g", "")]),
        ("implied below a whiteout", vec![file(".wh.w", ""), file("w/f", "")]),
        ("hard link out", vec![hard_link("h", "../../etc/passwd")]),
        ("hard link to the host", vec![hard_link("h", "/etc/passwd")]),
        ("hard link through a symlink", vec![symlink("l", "/etc"), hard_link("h", "l/passwd")]),
        ("hard link to a directory", vec![dir("d"), hard_link("h", "d")]),
        ("hard link to a whiteout", vec![file(".wh.w", ""), hard_link("h", "w")]),
        ("hard link to itself", vec![file("f", ""), hard_link("f", "f")]),
        ("hard link over its target", vec![file("d/f", ""), hard_link("d", "d/f")]),
        ("hard link to the root", vec![hard_link("h", "/")]),
        ("link to nothing", vec![symlink("l", "")]),
        ("file as the root", vec![file(".", "")]),
        ("whiteout device", vec![device('3', "w", 0, 0)]),
        ("whiteout of nothing", vec![file(".wh.", "")]),
        ("whiteout of dot dot", vec![file("d/.wh...", "")]),
        ("long component", vec![extension('L', format!("{}\0", "n".repeat(256))), file("x", "")]),
        ("long path", vec![extension('L', format!("{}\0", "d/".repeat(2100))), file("x", "")]),
        ("NUL in a name", vec![with(&[("path", b"a\0b")], file("x", ""))]),
        ("sparse", vec![item('S', "s")]),
        ("PAX sparse", vec![with(&[("GNU.sparse.major", b"1")], file("s", ""))]),
        ("unknown type", vec![item('Z', "z")]),
        ("user id -1", vec![with(&[("uid", b"4294967295")], file("f", ""))]),
        ("global path", vec![extension('g', records(&[("path", b"p")])), file("f", "")]),
        ("malformed PAX", vec![extension('x', "9 path=abc\n"), file("f", "")]),
        ("PAX keys twice", vec![with(&[("path", b"a"), ("path", b"b")], file("f", ""))]),
        ("8 EiB", vec![with(&[("size", b"9223372036854775807")], file("f", "x"))]),
        ("symlink with contents", vec![Item { data: b"x".to_vec(), ..symlink("l", "t") }]),
    ];
    let mut table = String::new();
    for (title, items) in cases {
        table += &format!("{title}: {}\n", refused(&tar(&items), None));
    }
    expect![[r#"
        dot dot: layer layer: offset 0: name "../x" leads out of the archive
        dot dot inside: layer layer: offset 0: name "a/../b" leads out of the archive
        absolute dot dot: layer layer: offset 0: name "/../x" leads out of the archive
        below a symlink: layer layer: entry `l/passwd` at offset 512: is below `l`, which is no directory
        implied below a symlink: layer layer: entry `l/a/b` at offset 512: is below `l`, which is no directory
        directory below a symlink: layer layer: entry `l/d` at offset 512: is below `l`, which is no directory
        whiteout below a symlink: layer layer: entry `l/.wh.passwd` at offset 512: is below `l`, which is no directory
        below a file: layer layer: entry `f/g` at offset 512: is below `f`, which is no directory
        implied below a whiteout: layer layer: entry `w/f` at offset 512: is below `w`, which is no directory
        hard link out: layer layer: entry `h` at offset 0: name "../../etc/passwd" leads out of the archive
        hard link to the host: layer layer: entry `h` at offset 0: is a hard link to `etc/passwd`, which is no file of this layer
        hard link through a symlink: layer layer: entry `h` at offset 512: is a hard link to `l/passwd`, which is no file of this layer
        hard link to a directory: layer layer: entry `h` at offset 512: is a hard link to `d`, which is no file of this layer
        hard link to a whiteout: layer layer: entry `h` at offset 512: is a hard link to `w`, which is no file of this layer
        hard link to itself: layer layer: entry `f` at offset 512: is a hard link to what it replaces
        hard link over its target: layer layer: entry `d` at offset 512: is a hard link to what it replaces
        hard link to the root: layer layer: entry `h` at offset 0: is a hard link to ``, which is no file of this layer
        link to nothing: layer layer: offset 0: "l" is a link to nothing
        file as the root: layer layer: entry `` at offset 0: expected a directory as the root
        whiteout device: layer layer: offset 0: "w": device 0:0 is overlayfs's whiteout
        whiteout of nothing: layer layer: entry `.wh.` at offset 0: is a whiteout of nothing
        whiteout of dot dot: layer layer: entry `d/.wh...` at offset 0: is a whiteout of nothing
        long component: layer layer: entry `nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn` at offset 0: expected names of at most 255 bytes
        long path: layer layer: offset 5120: a name of 4200 bytes, expected at most 4095
        NUL in a name: layer layer: offset 0: "path" of an extended header contains NUL
        sparse: layer layer: offset 0: "s": sparse files are not supported
        PAX sparse: layer layer: offset 0: sparse files are not supported
        unknown type: layer layer: offset 0: "z": entries of type 'Z' are not supported
        user id -1: layer layer: offset 1024: "f": user id 4294967295 is out of range
        global path: layer layer: offset 0: global extended header with "path" is not supported
        malformed PAX: layer layer: offset 0: malformed extended header
        PAX keys twice: layer layer: offset 0: "path" comes twice in an extended header
        8 EiB: layer layer: offset 3072: the archive ends inside an entry
        symlink with contents: layer layer: offset 0: "l" has 1 bytes and is no regular file
    "#]].assert_eq(&table);
}

#[test]
fn damaged_archives() {
    let whole = tar(&[file("f", &"contents".repeat(1000)), file("g", "G")]);
    let packed = gzip(&whole);
    let zstd = zstd::encode_all(whole.as_slice(), 1).expect("memory takes all");
    let mut wrong_sum = whole.clone();
    wrong_sum[0] ^= 1;
    let mut wrong_crc = packed.clone();
    let crc = wrong_crc.len() - 8;
    wrong_crc[crc] ^= 1;
    let mut lone_zero = whole[..512 + 8192].to_vec();
    lone_zero.resize(lone_zero.len() + 512, 0);
    lone_zero.extend_from_slice(&whole[..512 + 8192]);
    let mut table = String::new();
    for (title, data) in [
        ("cut in contents", &whole[..1000]),
        ("cut in a header", &whole[..300]),
        ("gzip cut in its data", &packed[..packed.len() / 2]),
        ("gzip cut in its checksum", &packed[..packed.len() - 4]),
        ("gzip cut in its header", &packed[..5]),
        ("gzip checksum", &wrong_crc),
        ("garbage after gzip", &[packed.as_slice(), b"garbage"].concat()),
        ("zstd cut", &zstd[..zstd.len() - 6]),
        ("header checksum", &wrong_sum),
        ("lone zero block", &lone_zero),
        ("no archive", &[b'x'; 2000]),
    ] {
        table += &format!("{title}: {}\n", refused(data, None));
    }
    expect![[r#"
        cut in contents: layer layer: offset 1000: the archive ends inside an entry
        cut in a header: layer layer: offset 0: the archive ends inside a header
        gzip cut in its data: layer layer: cannot read the archive: incomplete deflate stream
        gzip cut in its checksum: layer layer: cannot read the archive: unexpected end of file
        gzip cut in its header: layer layer: cannot read the archive: unexpected end of file
        gzip checksum: layer layer: cannot read the archive: corrupt gzip stream does not have a matching checksum
        garbage after gzip: layer layer: cannot read the archive: unexpected end of file
        zstd cut: layer layer: cannot read the archive: incomplete frame
        header checksum: layer layer: offset 0: header checksum does not match
        lone zero block: layer layer: offset 8704: a zero block between entries
        no archive: layer layer: offset 0: header checksum does not match
    "#]].assert_eq(&table);
}

#[test]
fn wrong_diff_id() {
    let whole = tar(&[file("d/f", "F"), symlink("l", "d")]);
    let mut other = whole.clone();
    // What follows the end of the archive counts too.
    other.extend_from_slice(b"trailing");
    let error = refused(&gzip(&other), Some(&Digest::of(&whole)));
    expect!["layer layer: its uncompressed digest is sha256:b2fccb65c9b261459daaf2e50986e5282f18c7ce63ca936057116c3c1adf9dd0, the image says sha256:9343e2d4276e98457a68c6bfe83c0680691efefb213f170e14b3b0260403fb3c"].assert_eq(&error);
}
