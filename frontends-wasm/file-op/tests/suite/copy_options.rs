//! The options of copies: attributes, owners, patterns, and what kinds of files they meet.

use crate::support::{Memory, copy, run};
use cofferdam_file_op::{ActionInput, ActionKind, Copy, Ownership, Principal};
use expect_test::{Expect, expect};

/// Copies from the tree `source` into the tree `base`.
#[track_caller]
fn check(action: Copy, source: &str, base: &str, expected: Expect) {
    let inputs = [Memory::parse(base), Memory::parse(source)];
    expected.assert_eq(&run(ActionKind::Copy(action), &inputs));
}

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|&text| text.to_owned()).collect()
}

fn owned(user: Option<Principal>, group: Option<Principal>) -> Option<Ownership> {
    Some(Ownership { user, group })
}

fn named(name: &str) -> Option<Principal> {
    Some(Principal::Name(name.to_owned(), ActionInput::Input(0)))
}

#[test]
fn attributes() {
    let source = "/d/s = S [4755 1:2 @5 user.k=v]\n/d/x = X [711]\n/d/n = N [600]\n\
                  /d/l -> s [1:2 @6]\n/d/e/ [700]";
    let with = |change: fn(&mut Copy)| {
        let mut action = copy("/d", "/x/");
        change(&mut action);
        action
    };
    check(
        copy("/d", "/x/"),
        source,
        "",
        expect![[r#"
        /x/
        /x/e/ [700]
        /x/l -> s [1:2 @6]
        /x/n = N [600]
        /x/s = S [4755 1:2 @5 user.k=v]
        /x/x = X [711]
    "#]],
    );
    check(
        with(|copy| copy.mode = Some(0o4711)),
        source,
        "",
        expect![[r#"
        /x/
        /x/e/ [4711]
        /x/l -> s [1:2 @6]
        /x/n = N [4711]
        /x/s = S [4711 1:2 @5 user.k=v]
        /x/x = X [4711]
    "#]],
    );
    check(
        with(|copy| copy.mode_string = "u=rwX,go=rX".to_owned()),
        source,
        "",
        expect![[r#"
        /x/
        /x/e/
        /x/l -> s [1:2 @6]
        /x/n = N
        /x/s = S [755 1:2 @5 user.k=v]
        /x/x = X [755]
    "#]],
    );
    check(
        with(|copy| {
            copy.mode = Some(0);
            copy.mode_string = "go-rwx".to_owned();
        }),
        source,
        "",
        expect![[r#"
            /x/
            /x/e/ [700]
            /x/l -> s [1:2 @6]
            /x/n = N [600]
            /x/s = S [4700 1:2 @5 user.k=v]
            /x/x = X [700]
        "#]],
    );
    check(
        with(|copy| copy.mode_string = "q".to_owned()),
        source,
        "",
        expect![[r#"
        error: invalid mode "q": expected octal digits or clauses like `u=rwX,go=rX`
    "#]],
    );
    check(
        with(|copy| copy.timestamp = Some(77)),
        source,
        "",
        expect![[r#"
        /x/ [@77]
        /x/e/ [700 @77]
        /x/l -> s [1:2 @77]
        /x/n = N [600 @77]
        /x/s = S [4755 1:2 @77 user.k=v]
        /x/x = X [711 @77]
    "#]],
    );
    check(
        with(|copy| copy.timestamp = Some(77)),
        source,
        "/x/ [@1]",
        expect![[r#"
        /x/ [@77]
        /x/e/ [700 @77]
        /x/l -> s [1:2 @77]
        /x/n = N [600 @77]
        /x/s = S [4755 1:2 @77 user.k=v]
        /x/x = X [711 @77]
    "#]],
    );
}

#[test]
fn ownership() {
    let accounts = |tree: Memory| {
        let passwd = "root:x:0:0:r:/root:/bin/sh\n\n  joe:x:500:600::/:\nbad:x:abc\n";
        let group = "root:x:0:\nwheel:x:10:joe\n";
        tree.with_file("/etc/passwd", passwd.into()).with_file("/etc/group", group.into())
    };
    let id = |id| Some(Principal::Id(id));
    let mut table = String::new();
    for (user, group) in [
        (None, None),
        (id(7), None),
        (id(7), id(8)),
        (None, id(8)),
        (named("joe"), None),
        (named("joe"), named("wheel")),
        (named("joe"), id(0)),
        (named("joe"), named("nobody")),
        (named("nobody"), None),
        (named("bad"), None),
        (id(7), named("wheel")),
        (Some(Principal::Name("joe".to_owned(), ActionInput::Scratch)), None),
    ] {
        let title = format!("{user:?} {group:?}").replace("Some", "").replace(", Input(0)", "");
        let action = Copy { owner: owned(user, group), ..copy("/f", "/d/f") };
        let inputs = [accounts(Memory::empty()), Memory::parse("/f = F [1:2]")];
        let result = run(ActionKind::Copy(action), &inputs);
        let lines: Vec<_> = result.lines().filter(|line| !line.starts_with("/etc")).collect();
        table += &format!("{title}: {}\n", lines.join(", "));
    }
    expect![[r#"
        None None: /d/ [@1000], /d/f = F
        (Id(7)) None: /d/ [7:7 @1000], /d/f = F [7:7]
        (Id(7)) (Id(8)): /d/ [7:8 @1000], /d/f = F [7:8]
        None (Id(8)): /d/ [0:8 @1000], /d/f = F [0:8]
        (Name("joe")) None: /d/ [500:600 @1000], /d/f = F [500:600]
        (Name("joe")) (Name("wheel")): /d/ [500:10 @1000], /d/f = F [500:10]
        (Name("joe")) (Id(0)): /d/ [500:0 @1000], /d/f = F [500:0]
        (Name("joe")) (Name("nobody")): /d/ [500:600 @1000], /d/f = F [500:600]
        (Name("nobody")) None: /d/ [@1000], /d/f = F
        (Name("bad")) None: /d/ [@1000], /d/f = F
        (Id(7)) (Name("wheel")): /d/ [7:10 @1000], /d/f = F [7:10]
        (Name("joe", Scratch)) None: error: no tree to look up "joe" in
    "#]]
    .assert_eq(&table);
    // A named owner without an account file, or with one that is a link, is no special case.
    let joe = || Copy { owner: owned(named("joe"), None), ..copy("/f", "/g") };
    check(
        joe(),
        "/f = F [1:2]",
        "",
        expect![[r#"
        /g = F
    "#]],
    );
    check(
        joe(),
        "/f = F [1:2]",
        "/etc = file",
        expect![[r#"
        /etc = file
        /g = F
    "#]],
    );
    check(
        joe(),
        "/f = F",
        "/etc/passwd -> /p\n/p = joe:x:5:6",
        expect![[r#"
        /etc/
        /etc/passwd -> /p
        /g = F [5:6]
        /p = joe:x:5:6
    "#]],
    );
    check(
        joe(),
        "/f = F",
        "/etc/passwd fifo",
        expect![[r#"
        error: "/etc/passwd": not a regular file
    "#]],
    );
    check(
        joe(),
        "/f = F",
        "/etc/passwd/",
        expect![[r#"
        error: "/etc/passwd": not a regular file
    "#]],
    );
    let huge = Memory::empty().with_file("/etc/passwd", vec![b'x'; (10 << 20) + 1]);
    let result = run(ActionKind::Copy(joe()), &[huge, Memory::parse("/f = F")]);
    expect![[r#"
        error: "/etc/passwd": 10485761 bytes, expected at most 10485760
    "#]]
    .assert_eq(&result);
}

#[test]
fn special_files_and_hard_links() {
    let source = "/d/a = A [#1]\n/d/b = A [#1]\n/d/e/c = A [#1]\n/d/x = X [#2]\n/d/p fifo\n\
                  /d/s socket\n/d/n char 1:3\n/d/m block 8:1";
    check(
        copy("/d", "/x"),
        source,
        "",
        expect![[r#"
        /x/
        /x/a = A [#1]
        /x/b = A [#1]
        /x/e/
        /x/e/c = A [#1]
        /x/m block 8:1
        /x/n char 1:3
        /x/p fifo
        /x/s socket
        /x/x = X
    "#]],
    );
    check(
        copy("/d", "/x"),
        source,
        "/x/a = old\n/x/b = old",
        expect![[r#"
        /x/
        /x/a = A [#1]
        /x/b = A [#1]
        /x/e/
        /x/e/c = A [#1]
        /x/m block 8:1
        /x/n char 1:3
        /x/p fifo
        /x/s socket
        /x/x = X
    "#]],
    );
    check(
        copy("/d/[ab]", "/x/"),
        source,
        "",
        expect![[r#"
        /x/ [@1000]
        /x/a = A
        /x/b = A
    "#]],
    );
    let exclude = Copy { exclude_patterns: texts(&["a"]), ..copy("/d", "/x") };
    check(
        exclude,
        source,
        "",
        expect![[r#"
        /x/
        /x/b = A [#1]
        /x/e/
        /x/e/c = A [#1]
        /x/m block 8:1
        /x/n char 1:3
        /x/p fifo
        /x/s socket
        /x/x = X
    "#]],
    );
}

#[test]
fn patterns() {
    let source = "/d/a.go = A\n/d/b.md = B\n/d/e/ [700 1:1 @5]\n/d/e/c.go = C\n/d/e/f/ [711]\n\
                  /d/e/f/g.md = G\n/d/h/ [@6]";
    let with = |include: &[&str], exclude: &[&str]| Copy {
        include_patterns: texts(include),
        exclude_patterns: texts(exclude),
        ..copy("/d", "/x")
    };
    check(
        with(&["**/*.go"], &[]),
        source,
        "",
        expect![[r#"
        /x/
        /x/a.go = A
        /x/e/ [700 1:1 @5]
        /x/e/c.go = C
    "#]],
    );
    check(
        with(&["e/f"], &[]),
        source,
        "",
        expect![[r#"
        /x/
        /x/e/ [700 1:1 @5]
        /x/e/f/ [711]
        /x/e/f/g.md = G
    "#]],
    );
    check(
        with(&["e/f/g.md"], &[]),
        source,
        "",
        expect![[r#"
        /x/
        /x/e/ [700 1:1 @5]
        /x/e/f/ [711]
        /x/e/f/g.md = G
    "#]],
    );
    check(
        with(&["e/f/g.md"], &[]),
        source,
        "/x/e/ [750 9:9 @9]",
        expect![[r#"
        /x/
        /x/e/ [700 9:9 @9]
        /x/e/f/ [711]
        /x/e/f/g.md = G
    "#]],
    );
    check(
        with(&["e/f/g.md"], &[]),
        source,
        "/x/e = file",
        expect![[r#"
        error: cannot copy to non-directory: "/x/e"
    "#]],
    );
    check(
        with(&["nothing"], &[]),
        source,
        "",
        expect![[r#"
        /x/
    "#]],
    );
    check(
        with(&[], &["**/*.md"]),
        source,
        "",
        expect![[r#"
        /x/
        /x/a.go = A
        /x/e/ [700 1:1 @5]
        /x/e/c.go = C
        /x/e/f/ [711]
        /x/h/ [@6]
    "#]],
    );
    check(
        with(&[], &["e"]),
        source,
        "",
        expect![[r#"
        /x/
        /x/a.go = A
        /x/b.md = B
        /x/h/ [@6]
    "#]],
    );
    check(
        with(&[], &["e", "!e/f"]),
        source,
        "",
        expect![[r#"
        /x/
        /x/a.go = A
        /x/b.md = B
        /x/e/ [700 1:1 @5]
        /x/e/f/ [711]
        /x/e/f/g.md = G
        /x/h/ [@6]
    "#]],
    );
    check(
        with(&[], &["*", "!**/*.go"]),
        source,
        "",
        expect![[r#"
        /x/
        /x/a.go = A
        /x/e/ [700 1:1 @5]
        /x/e/c.go = C
    "#]],
    );
    check(
        with(&["e"], &["**/f"]),
        source,
        "",
        expect![[r#"
        /x/
        /x/e/ [700 1:1 @5]
        /x/e/c.go = C
    "#]],
    );
    check(
        with(&["*", "!h"], &[]),
        source,
        "",
        expect![[r#"
        /x/
        /x/a.go = A
        /x/b.md = B
        /x/e/ [700 1:1 @5]
        /x/e/c.go = C
        /x/e/f/ [711]
        /x/e/f/g.md = G
    "#]],
    );
    check(
        with(&["["], &[]),
        source,
        "",
        expect![[r#"
            error: invalid pattern `[`: a class does not end
        "#]],
    );
    check(
        with(&[], &["!"]),
        source,
        "",
        expect![[r#"
            error: invalid pattern `!`: nothing follows `!`
        "#]],
    );
    let file = Copy { exclude_patterns: texts(&["a.go"]), ..copy("/d/a.go", "/x") };
    check(
        file,
        source,
        "",
        expect![[r#"
        /x = A
    "#]],
    );
}

#[test]
fn parents_and_required_paths() {
    let source = "/a/b/ [700 @5]\n/a/b/c = C\n/a/d = D\n/l -> a";
    let parents = |include: &str, required: &[&str]| Copy {
        include_patterns: texts(&[include]),
        required_paths: texts(required),
        ..copy("/", "/x/")
    };
    check(
        parents("a/b/c", &["a/b/c"]),
        source,
        "",
        expect![[r#"
        /x/
        /x/a/
        /x/a/b/ [700 @5]
        /x/a/b/c = C
    "#]],
    );
    check(
        parents("a/b/x", &["a/b/x"]),
        source,
        "",
        expect![[r#"
        not found: "/a/b/x": not found
    "#]],
    );
    check(
        parents("a/*/c", &[]),
        source,
        "",
        expect![[r#"
        /x/
        /x/a/
        /x/a/b/ [700 @5]
        /x/a/b/c = C
    "#]],
    );
    check(
        parents("l/d", &["l/d"]),
        source,
        "",
        expect![[r#"
        not found: "/l/d": not found
    "#]],
    );
    let pivot = Copy { include_patterns: texts(&["b/x"]), ..copy("/a", "/x/") };
    let pivot = Copy { required_paths: texts(&["b/x"]), ..pivot };
    check(
        pivot,
        source,
        "",
        expect![[r#"
        not found: "/a/b/x": not found
    "#]],
    );
}
