//! Copies: where things land, and what is merged, replaced, refused or missing.

use crate::support::{Memory, copy, run};
use cofferdam_file_op::{ActionKind, Copy};
use expect_test::{Expect, expect};

/// Copies from the tree `source` into the tree `base`.
#[track_caller]
fn check(action: Copy, source: &str, base: &str, expected: Expect) {
    let inputs = [Memory::parse(base), Memory::parse(source)];
    expected.assert_eq(&run(ActionKind::Copy(action), &inputs));
}

#[test]
fn where_a_file_goes() {
    let source = "/f = F [600 7:8 @5]";
    check(
        copy("/f", "/g"),
        source,
        "",
        expect![[r#"
        /g = F [600 7:8 @5]
    "#]],
    );
    check(
        copy("f", "g"),
        source,
        "",
        expect![[r#"
        /g = F [600 7:8 @5]
    "#]],
    );
    check(
        copy("/f", "/"),
        source,
        "",
        expect![[r#"
        /f = F [600 7:8 @5]
    "#]],
    );
    check(
        copy("/f", "/d/"),
        source,
        "",
        expect![[r#"
        /d/ [@1000]
        /d/f = F [600 7:8 @5]
    "#]],
    );
    check(
        copy("/f", "/d/."),
        source,
        "",
        expect![[r#"
        /d/ [@1000]
        /d/f = F [600 7:8 @5]
    "#]],
    );
    check(
        copy("/f", "/d"),
        source,
        "/d/",
        expect![[r#"
        /d/
        /d/f = F [600 7:8 @5]
    "#]],
    );
    check(
        copy("/f", "/a/b/g"),
        source,
        "",
        expect![[r#"
        /a/ [@1000]
        /a/b/ [@1000]
        /a/b/g = F [600 7:8 @5]
    "#]],
    );
    check(
        copy("/f", "/a/b/g"),
        source,
        "/a/ [700 1:1 @3]",
        expect![[r#"
        /a/ [700 1:1 @3]
        /a/b/ [@1000]
        /a/b/g = F [600 7:8 @5]
    "#]],
    );
    check(
        copy("/f", "/../../g"),
        source,
        "",
        expect![[r#"
        /g = F [600 7:8 @5]
    "#]],
    );
    check(
        copy("/f", "/d/../g"),
        source,
        "",
        expect![[r#"
        /g = F [600 7:8 @5]
    "#]],
    );
    check(
        copy("/f", "/g"),
        source,
        "/g = old [755 1:1 user.old=1]",
        expect![[r#"
        /g = F [600 7:8 @5]
    "#]],
    );
    check(
        copy("/f", "/x/g"),
        source,
        "/x = file",
        expect![[r#"
        error: "/x": not a directory
    "#]],
    );
    check(
        copy("/f", "/x/"),
        source,
        "/x = file",
        expect![[r#"
        error: "/x": not a directory
    "#]],
    );
}

#[test]
fn symlinks_in_the_destination_are_followed() {
    let source = "/f = F\n/d/f = DF";
    check(
        copy("/f", "/lib/g"),
        source,
        "/usr/lib/\n/lib -> usr/lib",
        expect![[r#"
        /lib -> usr/lib
        /usr/
        /usr/lib/
        /usr/lib/g = F
    "#]],
    );
    check(
        copy("/f", "/lib/"),
        source,
        "/usr/lib/\n/lib -> /usr/lib",
        expect![[r#"
        /lib -> /usr/lib
        /usr/
        /usr/lib/
        /usr/lib/f = F
    "#]],
    );
    check(
        copy("/f", "/lib"),
        source,
        "/usr/lib/\n/lib -> /usr/lib",
        expect![[r#"
        /lib -> /usr/lib
        /usr/
        /usr/lib/
        /usr/lib/f = F
    "#]],
    );
    check(
        copy("/d", "/lib"),
        source,
        "/usr/lib/\n/lib -> /usr/lib",
        expect![[r#"
        /lib -> /usr/lib
        /usr/
        /usr/lib/
        /usr/lib/f = DF
    "#]],
    );
    check(
        copy("/f", "/lib/g"),
        source,
        "/lib -> ../../../out",
        expect![[r#"
        /lib -> ../../../out
        /out/ [@1000]
        /out/g = F
    "#]],
    );
    check(
        copy("/f", "/a/g"),
        source,
        "/a -> b\n/b -> a",
        expect![[r#"
        error: "/a": too many symlinks, expected at most 255
    "#]],
    );
    check(
        copy("/f", "/l"),
        source,
        "/l -> t\n/t = old",
        expect![[r#"
        /l -> t
        /t = F
    "#]],
    );
    check(
        copy("/f", "/l"),
        source,
        "/l -> /new/t",
        expect![[r#"
        /l -> /new/t
        /new/ [@1000]
        /new/t = F
    "#]],
    );
    check(
        copy("/f", "/a/b"),
        source,
        "/x/y/\n/a -> x/y/../z\n/x/z/",
        expect![[r#"
        /a -> x/y/../z
        /x/
        /x/y/
        /x/z/
        /x/z/b = F
    "#]],
    );
}

#[test]
fn where_a_directory_goes() {
    let source = "/d/ [700 1:2 @5 user.k=v]\n/d/f = F [@6]\n/d/e/ [711 3:3 @7]\n/d/e/g = G";
    check(
        copy("/d", "/x"),
        source,
        "",
        expect![[r#"
        /x/ [@5]
        /x/e/ [711 3:3 @7]
        /x/e/g = G
        /x/f = F [@6]
    "#]],
    );
    check(
        copy("/d", "/x/"),
        source,
        "/x/ [750 9:9 @1 user.mine=1]",
        expect![[r#"
        /x/ [750 9:9 @5 user.mine=1]
        /x/e/ [711 3:3 @7]
        /x/e/g = G
        /x/f = F [@6]
    "#]],
    );
    check(
        copy("/d/", "/"),
        source,
        "",
        expect![[r#"
        /e/ [711 3:3 @7]
        /e/g = G
        /f = F [@6]
    "#]],
    );
    check(
        copy("/", "/x"),
        source,
        "",
        expect![[r#"
        /x/
        /x/d/ [700 1:2 @5 user.k=v]
        /x/d/e/ [711 3:3 @7]
        /x/d/e/g = G
        /x/d/f = F [@6]
    "#]],
    );
    let whole = Copy { dir_copy_contents: false, ..copy("/d", "/x") };
    check(
        whole.clone(),
        source,
        "",
        expect![[r#"
        /x/ [700 1:2 @5 user.k=v]
        /x/e/ [711 3:3 @7]
        /x/e/g = G
        /x/f = F [@6]
    "#]],
    );
    check(
        whole.clone(),
        source,
        "/x/ [@1]",
        expect![[r#"
        /x/ [@1]
        /x/d/ [700 1:2 @5 user.k=v]
        /x/d/e/ [711 3:3 @7]
        /x/d/e/g = G
        /x/d/f = F [@6]
    "#]],
    );
    check(
        whole.clone(),
        source,
        "/x/d/ [@1]",
        expect![[r#"
        /x/
        /x/d/ [@5]
        /x/d/e/ [711 3:3 @7]
        /x/d/e/g = G
        /x/d/f = F [@6]
    "#]],
    );
    check(
        whole,
        source,
        "/x = file",
        expect![[r#"
        error: cannot copy to non-directory: "/x"
    "#]],
    );
    check(
        copy("/d", "/x"),
        source,
        "/x = file",
        expect![[r#"
        error: cannot copy to non-directory: "/x"
    "#]],
    );
}

#[test]
fn what_is_there_is_merged_or_refused() {
    let source = "/d/e/ [711 3:3 @7 user.new=1]\n/d/e/g = G";
    let merge = "/x/e/ [700 1:1 @1 user.old=1]\n/x/e/h = H\n/x/e/g = old";
    check(
        copy("/d", "/x"),
        source,
        merge,
        expect![[r#"
        /x/
        /x/e/ [711 3:3 @7 user.new=1 user.old=1]
        /x/e/g = G
        /x/e/h = H
    "#]],
    );
    check(
        copy("/d", "/x"),
        source,
        "/x/e = file",
        expect![[r#"
        error: cannot copy to non-directory: "/x/e"
    "#]],
    );
    check(
        copy("/d", "/x"),
        source,
        "/x/e -> /y\n/y/",
        expect![[r#"
        error: cannot copy to non-directory: "/x/e"
    "#]],
    );
    check(
        copy("/d", "/x"),
        source,
        "/x/e/g/h = H",
        expect![[r#"
        error: cannot replace directory "/x/e/g" with file
    "#]],
    );
    check(
        copy("/d", "/x"),
        source,
        "/x/e/g -> /t\n/t = T",
        expect![[r#"
        /t = T
        /x/
        /x/e/ [711 3:3 @7 user.new=1]
        /x/e/g = G
    "#]],
    );
    let replace = |src, dest| Copy { always_replace_existing: true, ..copy(src, dest) };
    check(
        replace("/d", "/x"),
        source,
        "/x/e = file",
        expect![[r#"
        /x/
        /x/e/ [711 3:3 @7 user.new=1]
        /x/e/g = G
    "#]],
    );
    check(
        replace("/d", "/x"),
        source,
        "/x/e -> /y\n/y/k = K",
        expect![[r#"
        /x/
        /x/e/ [711 3:3 @7 user.new=1]
        /x/e/g = G
        /y/
        /y/k = K
    "#]],
    );
    check(
        replace("/d", "/x"),
        source,
        "/x/e/g/h = H",
        expect![[r#"
        /x/
        /x/e/ [711 3:3 @7 user.new=1]
        /x/e/g = G
    "#]],
    );
    check(
        replace("/d", "/x"),
        source,
        merge,
        expect![[r#"
        /x/
        /x/e/ [711 3:3 @7 user.new=1 user.old=1]
        /x/e/g = G
        /x/e/h = H
    "#]],
    );
    check(
        replace("/d/e/g", "/x/"),
        source,
        "/x/g/h = H",
        expect![[r#"
        /x/
        /x/g = G
    "#]],
    );
    check(
        copy("/d/e/g", "/x/"),
        source,
        "/x/g/h = H",
        expect![[r#"
        error: cannot replace directory "/x/g" with file
    "#]],
    );
    let l = "/d/l -> a\n/d/m fifo";
    check(
        copy("/d", "/x"),
        l,
        "/x/l -> b\n/x/m = M",
        expect![[r#"
        /x/
        /x/l -> a
        /x/m fifo
    "#]],
    );
}

#[test]
fn many_entries_are_merged_as_few_are() {
    let source: String = (0..20).map(|n| format!("/d/f{n} = new\n")).collect();
    check(
        copy("/d", "/x"),
        &source,
        "/x/f3/k = K",
        expect![[r#"
        error: cannot replace directory "/x/f3" with file
    "#]],
    );
    check(
        copy("/d", "/x"),
        "/d/e/ [700]",
        "/x/e/k = K\n/x/e/l = L",
        expect![[r#"
        /x/
        /x/e/ [700]
        /x/e/k = K
        /x/e/l = L
    "#]],
    );
}

#[test]
fn symlinks_in_the_source() {
    let source = "/l -> /d/f\n/d/f = F\n/dl -> d\n/out -> ../../../d\n/loop -> loop\n/gone -> no";
    check(
        copy("/l", "/x"),
        source,
        "",
        expect![[r#"
        /x = F
    "#]],
    );
    check(
        copy("/l", "/x/"),
        source,
        "",
        expect![[r#"
        /x/ [@1000]
        /x/l = F
    "#]],
    );
    check(
        copy("/dl", "/x"),
        source,
        "",
        expect![[r#"
        /x/
        /x/f = F
    "#]],
    );
    check(
        copy("/dl/f", "/x"),
        source,
        "",
        expect![[r#"
        /x = F
    "#]],
    );
    check(
        copy("/out/f", "/x"),
        source,
        "",
        expect![[r#"
        /x = F
    "#]],
    );
    check(
        copy("/loop", "/x"),
        source,
        "",
        expect![[r#"
        error: "/loop": too many symlinks, expected at most 255
    "#]],
    );
    check(
        copy("/gone", "/x"),
        source,
        "",
        expect![[r#"
        not found: "/gone": not found
    "#]],
    );
    let keep = |src, dest| Copy { follow_symlink: false, ..copy(src, dest) };
    check(
        keep("/l", "/x"),
        source,
        "",
        expect![[r#"
        /x -> /d/f
    "#]],
    );
    check(
        keep("/dl", "/x/"),
        source,
        "",
        expect![[r#"
        /x/ [@1000]
        /x/dl -> d
    "#]],
    );
    check(
        keep("/dl/f", "/x"),
        source,
        "",
        expect![[r#"
        /x = F
    "#]],
    );
    check(
        keep("/gone", "/x"),
        source,
        "",
        expect![[r#"
        /x -> no
    "#]],
    );
}

#[test]
fn what_is_missing() {
    let source = "/f = F\n/d/";
    let strict = |src, dest| Copy { allow_empty_wildcard: false, ..copy(src, dest) };
    check(
        copy("/x", "/y"),
        source,
        "",
        expect![[r#"
        not found: "/x": not found
    "#]],
    );
    check(
        copy("x/y\"z", "/y"),
        source,
        "",
        expect![[r#"
        not found: "/x/y\"z": not found
    "#]],
    );
    check(
        copy("/f/x", "/y"),
        source,
        "",
        expect![[r#"
        not found: "/f/x": not found
    "#]],
    );
    check(copy("/x*", "/y/z/"), source, "", expect![[""]]);
    check(copy("/no/x*", "/y/"), source, "", expect![[""]]);
    check(
        strict("/x*", "/y/"),
        source,
        "",
        expect![[r#"
        not found: "/x*": not found
    "#]],
    );
    check(
        strict("/f", "/y"),
        source,
        "",
        expect![[r#"
        /y = F
    "#]],
    );
    let no_path = |dest| Copy { create_dest_path: false, ..copy("/f", dest) };
    check(
        no_path("/y"),
        source,
        "",
        expect![[r#"
        /y = F
    "#]],
    );
    check(
        no_path("/a/y"),
        source,
        "",
        expect![[r#"
        not found: "/a/y": not found
    "#]],
    );
    check(
        no_path("/a/y"),
        source,
        "/a/",
        expect![[r#"
        /a/
        /a/y = F
    "#]],
    );
    check(
        no_path("/l/y"),
        source,
        "/l -> a\n/a/",
        expect![[r#"
        /a/
        /a/y = F
        /l -> a
    "#]],
    );
}

#[test]
fn wildcards() {
    let source = "/a.txt = A\n/b.txt = B\n/c.md = C\n/d/a.txt = DA\n/d/e/b.txt = DEB\n/l -> d\n\
                  /*star = S\n/[x] = X";
    check(
        copy("/*.txt", "/x/"),
        source,
        "",
        expect![[r#"
        /x/ [@1000]
        /x/a.txt = A
        /x/b.txt = B
    "#]],
    );
    check(
        copy("/*.txt", "/x"),
        "/a.txt = A",
        "",
        expect![[r#"
        /x = A
    "#]],
    );
    check(
        copy("/?.md", "/x/"),
        source,
        "",
        expect![[r#"
        /x/ [@1000]
        /x/c.md = C
    "#]],
    );
    check(
        copy("/[ac].*", "/x/"),
        source,
        "",
        expect![[r#"
        /x/ [@1000]
        /x/a.txt = A
        /x/c.md = C
    "#]],
    );
    check(
        copy("/*/*.txt", "/x/"),
        source,
        "",
        expect![[r#"
        /x/ [@1000]
        /x/a.txt = DA
    "#]],
    );
    check(
        copy("/d/*", "/x/"),
        source,
        "",
        expect![[r#"
        /x/
        /x/a.txt = DA
        /x/b.txt = DEB
    "#]],
    );
    check(
        copy("/l/*", "/x/"),
        source,
        "",
        expect![[r#"
        /x/
        /x/a.txt = DA
        /x/b.txt = DEB
    "#]],
    );
    check(
        copy("/\\*star", "/x/"),
        source,
        "",
        expect![[r#"
        not found: "/\\*star": not found
    "#]],
    );
    check(
        copy("/[[]x]", "/x/"),
        source,
        "",
        expect![[r#"
        /x/ [@1000]
        /x/[x] = X
    "#]],
    );
    check(
        copy("/[", "/x/"),
        source,
        "",
        expect![[r#"
            error: invalid pattern `[`: a class does not end
        "#]],
    );
    check(
        copy("/*", "/x/"),
        "/d/f = F\n/e/g = G",
        "",
        expect![[r#"
        /x/
        /x/f = F
        /x/g = G
    "#]],
    );
    let whole = Copy { dir_copy_contents: false, ..copy("/*", "/x/") };
    check(
        whole,
        "/d/f = F\n/e/g = G",
        "",
        expect![[r#"
        /x/ [@1000]
        /x/d/
        /x/d/f = F
        /x/e/
        /x/e/g = G
    "#]],
    );
    let literal = |src| Copy { allow_wildcard: false, ..copy(src, "/x/") };
    check(
        literal("/*star"),
        source,
        "",
        expect![[r#"
        /x/ [@1000]
        /x/*star = S
    "#]],
    );
    check(
        literal("/*"),
        source,
        "",
        expect![[r#"
        not found: "/*": not found
    "#]],
    );
}

/// One listing per directory, one call per file, and nothing per file beside that; and nothing at
/// all where everything goes into a directory that was empty.
#[test]
fn a_copy_of_many_files_asks_little() {
    let mut source = String::new();
    for directory in 0..100 {
        for file in 0..40 {
            source += &format!("/d{directory}/f{file} = x\n");
        }
    }
    let cases: [(&[&str], _, _); 3] =
        [(&[], "/x/old = o", 101), (&["**/*.o", "d7"], "/x/old = o", 100), (&[], "/y/", 0)];
    for (exclude, old, listings) in cases {
        let inputs = [Memory::parse(old), Memory::parse(&source)];
        let action = Copy {
            exclude_patterns: exclude.iter().map(|&text| text.to_owned()).collect(),
            ..copy("/", "/x")
        };
        let result = run(ActionKind::Copy(action), &inputs);
        let directories = if exclude.is_empty() { 100 } else { 99 };
        assert_eq!(result.lines().count(), 2 + directories * 41);
        assert_eq!(inputs[1].calls.list.get(), listings);
        assert!(inputs[1].calls.stat.get() < 5 && inputs[1].calls.open.get() == 0);
    }
}

#[test]
fn trees_deeper_than_a_path_can_say_are_refused() {
    let deep = Memory::parse(&format!("/d{}/", "/a".repeat(2100)));
    let result = run(ActionKind::Copy(copy("/d", "/x")), &[Memory::empty(), deep]);
    let message = "nested too deep, expected at most 2048 levels\n";
    assert!(result.starts_with("error: ") && result.ends_with(message), "{result}");
}
