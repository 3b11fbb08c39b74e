//! File ops whose paths lead upwards, and links in archives that have to go on working.

use anyhow::Result;
use cofferdam_tests::tree::TarWriter;
use cofferdam_tests::{Context, Tree};

use crate::entitlements::graphs;
use crate::llb::{Chain, field, file, number, shell};
use crate::{Canary, World, with_options, works};

const COPY: u32 = 4;
const MKFILE: u32 = 5;
const MKDIR: u32 = 6;
const RM: u32 = 7;
const SYMLINK: u32 = 8;

/// A path with `..` in a file op is joined to the directory of a tree and carried out on the host:
/// what lies beside the tree is deleted or made. If that works, the canary has changed. The same
/// for a link at the end of a path, which is to be removed, not followed.
#[test]
fn ghsa_32pv_7hq5_qhwq_file_ops_with_paths_that_climb() -> Result<()> {
    let world = World::new()?;
    let canary = Canary::new()?;
    let (path, climbing) = (canary.text(), canary.climbing());
    let mut tries = Vec::new();
    let paths = [
        "..".to_owned(),
        "../..".to_owned(),
        "/..".to_owned(),
        "a/../..".to_owned(),
        "a/../../..".to_owned(),
        "..\\..".to_owned(),
        ".".to_owned(),
        "/".to_owned(),
        String::new(),
        climbing.clone(),
        format!("/{climbing}"),
        format!("a/{climbing}"),
        format!("{climbing}/x"),
        format!("{climbing}/secret"),
        format!("{climbing}/planted"),
        format!("to-host/{climbing}/x"),
        "to-host/x/file".to_owned(),
        "to-host/planted".to_owned(),
        "up/planted".to_owned(),
        "up/x".to_owned(),
    ];
    // Mode and time stay, links are followed, missing parents are made.
    let as_it_is = [number(4, -1), number(5, 1), number(8, 1), number(11, -1)].concat();
    for (at, path) in paths.iter().enumerate() {
        let owned = field(1, path);
        let actions = [
            ("rm", RM, [owned.clone(), number(2, 1)].concat()),
            ("rm-pattern", RM, [field(1, format!("{path}/*")), number(3, 1)].concat()),
            ("mkdir", MKDIR, [owned.clone(), number(2, 0o755), number(3, 1)].concat()),
            ("mkfile", MKFILE, [owned.clone(), number(2, 0o644), field(3, "planted")].concat()),
            ("symlink", SYMLINK, [field(1, "/etc"), field(2, path)].concat()),
            (
                "copy-to",
                COPY,
                [field(1, "/bin/busybox"), field(2, path), as_it_is.clone()].concat(),
            ),
            ("copy-from", COPY, [owned.clone(), field(2, "/copied/"), as_it_is.clone()].concat()),
        ];
        for (name, number, message) in actions {
            // A step has the result written out.
            let look = shell("ls -R / > /dev/null; cat /copied/secret; true", "/", &[]);
            let chain = Chain::context().then(file(number, &message)).then(look);
            tries.push(chain.option(&format!("{name}-{at}")));
        }
    }
    let context = crate::entitlements::root()?;
    context.link("to-host", &path)?.link("up", &climbing)?.file("a/file", "")?;
    for part in tries.chunks(20) {
        let _ = graphs(&world, &context, part)?;
        canary.is_intact()?;
    }

    // A link is removed, what it leads to stays.
    let remove = file(RM, &field(1, "/to-host"));
    let look = shell("test ! -L /to-host && test -L /up && echo link removed", "/", &[]);
    let tried = graphs(&world, &context, &[Chain::context().then(remove).then(look).option("l")])?;
    assert!(tried.outcome.log().contains("link removed"), "{}", tried.outcome.report());
    canary.is_intact()?;
    // And the directory of the client is as it was.
    assert!(context.path().join("to-host").is_symlink());
    Ok(())
}

/// A client that sends a directory by a protocol of its own names what the checks forgot: `..`
/// alone, nothing, things out of order or twice, a child of what is a file. Cofferdam takes no
/// such protocol; the same names come in an archive on standard input.
#[test]
fn ghsa_g2h8_426c_7976_names_of_an_uploaded_context() -> Result<()> {
    let world = World::new()?;
    let canary = Canary::new()?;
    let climbing = canary.climbing();
    let names = [
        vec!["..".to_owned()],
        vec!["../".to_owned()],
        vec![".".to_owned()],
        vec![String::new()],
        vec!["/".to_owned()],
        vec!["./..".to_owned()],
        vec!["a/..".to_owned(), "a/../b".to_owned()],
        vec!["z".to_owned(), "a".to_owned(), "m".to_owned()],
        vec!["a".to_owned(), "a".to_owned(), "a/".to_owned(), "a".to_owned()],
        vec!["f".to_owned(), "f/child".to_owned()],
        vec!["f/child".to_owned(), "f".to_owned(), "f/child/grandchild".to_owned()],
        vec![format!("{climbing}/planted")],
        vec![format!("/{climbing}/planted")],
        vec![format!("{}/secret", canary.text())],
        vec![format!("a/{climbing}/secret")],
    ];
    let out = tempfile::tempdir()?;
    for (at, names) in names.iter().enumerate() {
        let mut archive = crate::hostile::Archive::new();
        archive.file("Dockerfile", b"FROM busybox\nCOPY . /x/\nRUN ls -R /x > /dev/null\n");
        for name in names {
            match name.strip_suffix('/') {
                Some(_) => archive.directory(name),
                None => archive.file(name, b"planted"),
            };
        }
        let dest = out.path().join(at.to_string());
        let dest = format!("type=local,dest={}", dest.display());
        let output = world.build_input(&["-o", &dest, "-"], &archive.finish())?;
        canary.is_intact()?;
        let said = String::from_utf8_lossy(&output.stderr);
        let climbs = names.iter().any(|name| name.split('/').any(|part| part == ".."));
        if climbs && output.status.success() {
            works(format!("an archive with {names:?} is taken:\n{said}"));
        }
    }
    Ok(())
}

/// What keeps archives from leaving the tree must not keep them from being unpacked where they
/// belong: onto a base whose `/lib` is a link, absolute or relative, with hard links, and with
/// directories that only the paths of files imply. Here the failure is that ADD refuses.
#[test]
fn go_archive_0_2_1_archives_through_links_of_the_base() -> Result<()> {
    let world = World::new()?;
    for target in ["/usr/lib", "usr/lib", "./usr/./lib", "/../usr/lib"] {
        let mut base = TarWriter::new();
        base.directory("usr/lib", 0o755)?.symlink("lib", target)?;
        base.symlink("usr/lib64", "/lib")?.file("usr/lib/old", 0o644, b"old")?;
        let name = format!("linked{}", world.images.path().read_dir()?.count());
        let base = world.image(&name, serde_json::json!({}), &[base.finish()?])?;
        let mut archive = TarWriter::new();
        archive.file("lib/first", 0o644, b"first")?;
        archive.hard_link("lib/second", "lib/first")?;
        archive.hard_link("usr/third", "/lib/first")?;
        archive.file("lib/implied/deeper/file", 0o644, b"deep")?;
        archive.file("usr/lib64/through/two", 0o644, b"two")?;
        archive.directory("lib", 0o755)?.file("lib/after", 0o644, b"after")?;
        let context = Context::new(&format!(
            "FROM {name} AS base\nADD x.tar /\nFROM busybox\nCOPY --from=base /usr /made/usr\n\
             COPY --from=base /lib /made/lib-itself\n"
        ))?;
        context.file("x.tar", archive.finish()?)?;
        let out = tempfile::tempdir()?;
        let build = with_options(world.build(&context)?, "--build-context", &[base]);
        let outcome = build.option("--output", out.path()).run()?;
        if outcome.code != Some(0) {
            works(format!("an archive is refused that belongs there:\n{}", outcome.report()));
        }
        let tree = Tree::from_directory(&out.path().join("made/usr"))?;
        for path in [
            "lib/first",
            "lib/second",
            "third",
            "lib/implied/deeper/file",
            "lib/through/two",
            "lib/after",
            "lib/old",
        ] {
            assert!(
                tree.entries.contains_key(path),
                "{target}: no {path}: {:?}",
                tree.entries.keys()
            );
        }
        let first = &tree.entries["lib/first"].kind;
        assert_eq!(first, &tree.entries["lib/second"].kind, "{target}: not one file");
        assert_eq!(first, &tree.entries["third"].kind, "{target}: not one file");
    }
    Ok(())
}
