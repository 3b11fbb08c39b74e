//! The union of layers, and symlinks inside it.

use cofferdam_store::{NodeKind, Tree};
use expect_test::{Expect, expect};

use crate::support::{Place, show_tree};

#[track_caller]
fn check(layers: &[&str], expected: Expect) {
    let place = Place::new();
    expected.assert_eq(&show_tree(&place.tree(layers)));
}

#[test]
fn union() {
    let base = "d/ [700 1:1]\n d/a = a\n d/b = b\n d/sub/c = c\n f = f\n l -> d";
    check(&[], expect![]);
    check(
        &[base, "d/a = newer\n d/new = n\n g = g"],
        expect![[r#"
        /
        d/
        d/a = newer
        d/b = b
        d/new = n
        d/sub/
        d/sub/c = c
        f = f
        g = g
        l -> d
    "#]],
    );
    check(
        &[base, "d/a whiteout\n d/sub whiteout\n f whiteout\n no whiteout"],
        expect![[r#"
        /
        d/
        d/b = b
        l -> d
    "#]],
    );
    check(
        &[base, "d/!\n d/x = only"],
        expect![[r#"
        /
        d/!
        d/x = only
        f = f
        l -> d
    "#]],
    );
    check(
        &[base, "f/\n f/below = a directory now"],
        expect![[r#"
        /
        d/ [700 1:1]
        d/a = a
        d/b = b
        d/sub/
        d/sub/c = c
        f/
        f/below = a directory now
        l -> d
    "#]],
    );
    check(
        &[base, "d = a file now"],
        expect![[r#"
        /
        d = a file now
        f = f
        l -> d
    "#]],
    );
    check(
        &[base, "d -> elsewhere\n l/\n l/x = no link"],
        expect![[r#"
        /
        d -> elsewhere
        f = f
        l/
        l/x = no link
    "#]],
    );
    check(
        &[base, "/!\n x = alone"],
        expect![[r#"
        /!
        x = alone
    "#]],
    );
    // What was hidden once does not come back with a directory on top.
    check(
        &[base, "d whiteout", "d/\n d/x = x"],
        expect![[r#"
        /
        d/
        d/x = x
        f = f
        l -> d
    "#]],
    );
    check(
        &[base, "d = file", "d/\n d/x = x"],
        expect![[r#"
        /
        d/
        d/x = x
        f = f
        l -> d
    "#]],
    );
    check(
        &[base, "d/sub/!", "d/sub/x = x", "d/sub/x whiteout\n d/sub/y = y"],
        expect![[r#"
        /
        d/
        d/a = a
        d/b = b
        d/sub/
        d/sub/y = y
        f = f
        l -> d
    "#]],
    );
    check(
        &[base, "d/ [750 2:2 user.k=v]"],
        expect![[r#"
        /
        d/ [750 2:2 user.k=v]
        d/a = a
        d/b = b
        d/sub/
        d/sub/c = c
        f = f
        l -> d
    "#]],
    );
}

fn resolve(tree: &Tree, path: &str, follow: bool) -> String {
    match tree.resolve(path.as_bytes(), follow) {
        Ok((real, found)) => {
            let kind = match &found.node().kind {
                NodeKind::Directory(_) => "directory",
                NodeKind::Regular(_) => "file",
                NodeKind::Symlink(_) => "symlink",
                _ => "other",
            };
            format!("/{} ({kind})", String::from_utf8_lossy(&real))
        }
        Err(error) => error.to_string(),
    }
}

#[test]
fn symlinks_resolve_inside_the_tree() {
    let place = Place::new();
    let base = "usr/lib/x = x\n lib -> usr/lib\n abs -> /usr/lib/x\n up -> ../../../usr\n \
                deep/er/back -> ../../lib/x\n gone -> nothing\n a -> b\n b -> a\n self -> self\n \
                file = f\n dot -> .\n root -> /\n through -> file/x";
    // The upper layer moves what a link of the lower one leads to.
    let tree = place.tree(&[base, "usr/lib/y = y\n deep/er/z -> /up/lib/y"]);
    let mut table = String::new();
    for path in [
        "",
        "/",
        "..",
        "../../..",
        "lib",
        "lib/",
        "lib/x",
        "/lib/y",
        "abs",
        "up/lib/x",
        "deep/er/back",
        "deep/er/z",
        "deep/../lib/./x",
        "lib/../lib",
        "lib/../../../usr",
        "gone",
        "gone/x",
        "a",
        "a/x",
        "self",
        "file/x",
        "dot/dot/file",
        "root/root/usr",
        "through",
        "no",
        "no/../file",
    ] {
        let (followed, kept) = (resolve(&tree, path, true), resolve(&tree, path, false));
        table += &format!("{path:?}: {followed}");
        if followed != kept {
            table += &format!(", not followed: {kept}");
        }
        table.push('\n');
    }
    expect![[r#"
        "": / (directory)
        "/": / (directory)
        "..": / (directory)
        "../../..": / (directory)
        "lib": /usr/lib (directory), not followed: /lib (symlink)
        "lib/": /usr/lib (directory), not followed: /lib (symlink)
        "lib/x": /usr/lib/x (file)
        "/lib/y": /usr/lib/y (file)
        "abs": /usr/lib/x (file), not followed: /abs (symlink)
        "up/lib/x": /usr/lib/x (file)
        "deep/er/back": /usr/lib/x (file), not followed: /deep/er/back (symlink)
        "deep/er/z": /usr/lib/y (file), not followed: /deep/er/z (symlink)
        "deep/../lib/./x": /usr/lib/x (file)
        "lib/../lib": /usr/lib (directory)
        "lib/../../../usr": /usr (directory)
        "gone": `/gone`: not found, not followed: /gone (symlink)
        "gone/x": `/gone/x`: not found
        "a": invalid path `/a`: too many levels of symbolic links, not followed: /a (symlink)
        "a/x": invalid path `/a/x`: too many levels of symbolic links
        "self": invalid path `/self`: too many levels of symbolic links, not followed: /self (symlink)
        "file/x": `/file/x`: not found
        "dot/dot/file": /file (file)
        "root/root/usr": /usr (directory)
        "through": `/through`: not found, not followed: /through (symlink)
        "no": `/no`: not found
        "no/../file": `/no/../file`: not found
    "#]].assert_eq(&table);
}

#[test]
fn reading() {
    let place = Place::new();
    let tree = place.tree(&["d/f = contents\n l -> d/f\n d2 -> d"]);
    for path in ["d/f", "l", "d2/f", "/d2/../l"] {
        assert_eq!(tree.read(path.as_bytes(), 8).expect("it is there"), b"contents", "{path}");
    }
    let mut table = String::new();
    for (path, limit) in [("l", 7), ("d", 100), ("d2", 100), ("no", 100)] {
        let error = tree.read(path.as_bytes(), limit).expect_err("it cannot be read");
        table += &format!("{path}: {error}\n");
    }
    expect![[r#"
        l: invalid path `/l`: file is too large
        d: `/d` is not a regular file
        d2: `/d2` is not a regular file
        no: `/no`: not found
    "#]]
    .assert_eq(&table);
}

#[test]
fn looking_without_following() {
    let tree = Place::new().tree(&["d/f = f\n l -> d", "d/g = g\n d/h whiteout"]);
    let there = ["", "d", "d/f", "/d//g", "./d/./f", "l"];
    let not_there = ["l/f", "d/h", "d/f/x", "d/.."];
    assert_eq!(there.map(|path| tree.get(path.as_bytes()).is_some()), [true; 6]);
    assert_eq!(not_there.map(|path| tree.get(path.as_bytes()).is_some()), [false; 4]);
}
