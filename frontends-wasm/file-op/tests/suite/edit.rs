//! mkdir, mkfile, rm and symlink, and how the actions of one op hang together.

use crate::support::{Memory, MemoryLayer, NOW, copy, run};
use cofferdam_file_op::{
    Action, ActionInput, ActionKind, Copy, Layer, MakeDirectory, MakeFile, MakeSymlink, Ownership,
    Principal, Remove, apply,
};
use expect_test::{Expect, expect};

#[track_caller]
fn check(kind: ActionKind, base: &str, expected: Expect) {
    expected.assert_eq(&run(kind, &[Memory::parse(base)]));
}

fn owner(id: u32) -> Option<Ownership> {
    Some(Ownership { user: Some(Principal::Id(id)), group: None })
}

fn mkdir(path: &str, make_parents: bool) -> ActionKind {
    let path = path.to_owned();
    ActionKind::MakeDirectory(MakeDirectory {
        path,
        mode: 0o7700,
        make_parents,
        owner: owner(5),
        timestamp: Some(9),
    })
}

fn mkfile(path: &str) -> ActionKind {
    let (path, data) = (path.to_owned(), b"new".to_vec());
    ActionKind::MakeFile(MakeFile { path, mode: 0o4640, data, owner: None, timestamp: None })
}

fn rm(path: &str, allow_not_found: bool, allow_wildcard: bool) -> ActionKind {
    ActionKind::Remove(Remove { path: path.to_owned(), allow_not_found, allow_wildcard })
}

fn symlink(oldpath: &str, newpath: &str) -> ActionKind {
    let (oldpath, newpath) = (oldpath.to_owned(), newpath.to_owned());
    ActionKind::MakeSymlink(MakeSymlink { oldpath, newpath, owner: owner(5), timestamp: None })
}

#[test]
fn directories() {
    check(
        mkdir("/a", false),
        "",
        expect![[r#"
        /a/ [700 5:5 @9]
    "#]],
    );
    check(
        mkdir("a/", false),
        "",
        expect![[r#"
        /a/ [700 5:5 @9]
    "#]],
    );
    check(
        mkdir("/a/b", false),
        "",
        expect![[r#"
        not found: "/a": not found
    "#]],
    );
    check(
        mkdir("/a/b/c", true),
        "/a/ [711 @1]",
        expect![[r#"
        /a/ [711 @1]
        /a/b/ [700 5:5 @9]
        /a/b/c/ [700 5:5 @9]
    "#]],
    );
    check(
        mkdir("/a", false),
        "/a/ [711 @1]",
        expect![[r#"
        /a/ [711 @1]
    "#]],
    );
    check(
        mkdir("/a", true),
        "/a = file",
        expect![[r#"
        error: "/a": not a directory
    "#]],
    );
    check(
        mkdir("/a/b", true),
        "/a = file",
        expect![[r#"
        error: "/a": not a directory
    "#]],
    );
    check(
        mkdir("/l/b", true),
        "/l -> /x/y",
        expect![[r#"
        /l -> /x/y
        /x/ [700 5:5 @9]
        /x/y/ [700 5:5 @9]
        /x/y/b/ [700 5:5 @9]
    "#]],
    );
    check(
        mkdir("/l", false),
        "/l -> d\n/d/ [711]",
        expect![[r#"
        /d/ [711]
        /l -> d
    "#]],
    );
    check(
        mkdir("/../a", false),
        "",
        expect![[r#"
        /a/ [700 5:5 @9]
    "#]],
    );
    check(mkdir("/", true), "", expect![[""]]);
}

#[test]
fn files() {
    check(
        mkfile("/f"),
        "",
        expect![[r#"
        /f = new [640 @1000]
    "#]],
    );
    check(
        mkfile("/d/f"),
        "",
        expect![[r#"
        not found: "/d": not found
    "#]],
    );
    check(
        mkfile("/f"),
        "/f = old [755 1:2 @3 security.capability=c user.k=v]",
        expect![[r#"
        /f = new [755 1:2 @1000 user.k=v]
    "#]],
    );
    check(
        mkfile("/l"),
        "/l -> ../../t",
        expect![[r#"
        /l -> ../../t
        /t = new [640 @1000]
    "#]],
    );
    check(
        mkfile("/l"),
        "/l -> d/t",
        expect![[r#"
        not found: "/d": not found
    "#]],
    );
    check(
        mkfile("/d"),
        "/d/",
        expect![[r#"
        error: "/d": not a regular file
    "#]],
    );
    check(
        mkfile("/p"),
        "/p fifo",
        expect![[r#"
        error: "/p": not a regular file
    "#]],
    );
    check(
        mkfile("/f/g"),
        "/f = F",
        expect![[r#"
        error: "/f": not a directory
    "#]],
    );
    check(
        mkfile("/"),
        "",
        expect![[r#"
        error: "/": not a regular file
    "#]],
    );
}

#[test]
fn removal() {
    let base = "/a/b/c = C\n/l -> a\n/f.txt = F\n/g.txt = G\n/gone -> no";
    check(
        rm("/a", false, false),
        base,
        expect![[r#"
        /f.txt = F
        /g.txt = G
        /gone -> no
        /l -> a
    "#]],
    );
    check(
        rm("/l", false, false),
        base,
        expect![[r#"
        /a/
        /a/b/
        /a/b/c = C
        /f.txt = F
        /g.txt = G
        /gone -> no
    "#]],
    );
    check(
        rm("/l/b/c", false, false),
        base,
        expect![[r#"
        /a/
        /a/b/
        /f.txt = F
        /g.txt = G
        /gone -> no
        /l -> a
    "#]],
    );
    check(
        rm("/gone", false, false),
        base,
        expect![[r#"
        /a/
        /a/b/
        /a/b/c = C
        /f.txt = F
        /g.txt = G
        /l -> a
    "#]],
    );
    check(
        rm("/no", false, false),
        base,
        expect![[r#"
        not found: "/no": not found
    "#]],
    );
    check(rm("/no", true, false), "", expect![[""]]);
    check(
        rm("/no/no", false, false),
        "",
        expect![[r#"
        not found: "/no/no": not found
    "#]],
    );
    check(rm("/no/no", true, false), "", expect![[""]]);
    check(
        rm("/f.txt/no", true, false),
        "/f.txt = F",
        expect![[r#"
        /f.txt = F
    "#]],
    );
    check(
        rm("/*.txt", false, true),
        base,
        expect![[r#"
        /a/
        /a/b/
        /a/b/c = C
        /gone -> no
        /l -> a
    "#]],
    );
    check(
        rm("/*.txt", false, false),
        base,
        expect![[r#"
        not found: "/*.txt": not found
    "#]],
    );
    check(
        rm("/l/*", false, true),
        base,
        expect![[r#"
        /a/
        /a/b/
        /a/b/c = C
        /f.txt = F
        /g.txt = G
        /gone -> no
        /l -> a
    "#]],
    );
    check(rm("/no/*", false, true), "", expect![[""]]);
    for path in ["/", "", ".", "..", "/..", "/a/..", "../../"] {
        assert!(
            run(rm(path, true, false), &[Memory::parse(base)]).starts_with("error: "),
            "{path}"
        );
    }
    check(
        rm("/a/../../f.txt", false, false),
        "/f.txt = F\n/a/",
        expect![[r#"
        /a/
    "#]],
    );
    check(
        rm("/up/x", false, false),
        "/up -> ../../..\n/x = X",
        expect![[r#"
        /up -> ../../..
    "#]],
    );
}

#[test]
fn symlinks() {
    check(
        symlink("../any thing", "/l"),
        "",
        expect![[r#"
        /l -> ../any thing [5:5 @1000]
    "#]],
    );
    check(
        symlink("t", "/d/l"),
        "",
        expect![[r#"
        not found: "/d": not found
    "#]],
    );
    check(
        symlink("t", "/d/l"),
        "/d -> e\n/e/",
        expect![[r#"
        /d -> e
        /e/
        /e/l -> t [5:5 @1000]
    "#]],
    );
    check(
        symlink("t", "/f"),
        "/f = F",
        expect![[r#"
        error: "/f": already exists
    "#]],
    );
    check(
        symlink("t", "/l"),
        "/l -> no",
        expect![[r#"
        error: "/l": already exists
    "#]],
    );
}

fn act(input: ActionInput, kind: ActionKind, output: Option<u32>) -> Action {
    Action { input, kind, output }
}

#[track_caller]
fn check_op(actions: &[Action], expected: Expect) {
    let inputs = [Memory::parse("/base = B"), Memory::parse("/f = F")];
    let result = match apply::<MemoryLayer>(actions, &inputs, NOW) {
        Ok(layers) => {
            let trees = layers.iter().map(|layer| layer.view().print());
            trees.collect::<Vec<_>>().join("---\n")
        }
        Err(error) => format!("action {}: {error}\n", error.action),
    };
    expected.assert_eq(&result);
    assert_eq!(inputs[0].print() + &inputs[1].print(), "/base = B\n/f = F\n");
}

#[test]
fn actions_go_on_from_each_other() {
    use ActionInput::{Action as Earlier, Input, Scratch};
    let from = |from| ActionKind::Copy(Copy { from, ..copy("/", "/x/") });
    check_op(
        &[act(Input(0), mkfile("/a"), None), act(Earlier(0), mkfile("/b"), Some(0))],
        expect![[r#"
            /a = new [640 @1000]
            /b = new [640 @1000]
            /base = B
        "#]],
    );
    check_op(
        &[
            act(Input(0), mkfile("/a"), Some(1)),
            act(Earlier(0), mkfile("/b"), Some(0)),
            act(Earlier(0), mkfile("/c"), Some(2)),
        ],
        expect![[r#"
            /a = new [640 @1000]
            /b = new [640 @1000]
            /base = B
            ---
            /a = new [640 @1000]
            /base = B
            ---
            /a = new [640 @1000]
            /base = B
            /c = new [640 @1000]
        "#]],
    );
    check_op(
        &[act(Scratch, mkfile("/a"), None), act(Earlier(0), from(Earlier(0)), Some(0))],
        expect![[r#"
            /a = new [640 @1000]
            /x/
            /x/a = new [640 @1000]
        "#]],
    );
    check_op(
        &[act(Scratch, from(Scratch), Some(0))],
        expect![[r#"
        /x/
    "#]],
    );
    check_op(
        &[act(Input(2), mkfile("/a"), Some(0))],
        expect![[r#"
        action 0: input 2 does not exist, expected less than 2
    "#]],
    );
    check_op(
        &[act(Earlier(0), mkfile("/a"), Some(0))],
        expect![[r#"
        action 0: earlier action 0 does not exist, expected less than 0
    "#]],
    );
    check_op(
        &[act(Scratch, from(Input(9)), Some(0))],
        expect![[r#"
        action 0: input 9 does not exist, expected less than 2
    "#]],
    );
    check_op(
        &[act(Scratch, mkfile("/a"), Some(1))],
        expect![[r#"
        action 0: output 1 is not expected: outputs are numbered from 0, each once
    "#]],
    );
    check_op(
        &[act(Scratch, mkfile("/a"), Some(0)), act(Scratch, mkfile("/a"), Some(0))],
        expect![[r#"
            action 1: output 0 is not expected: outputs are numbered from 0, each once
        "#]],
    );
    check_op(
        &[act(Scratch, mkfile("/a"), None), act(Earlier(0), rm("/b", false, false), Some(0))],
        expect![[r#"
            action 1: "/b": not found
        "#]],
    );
}
