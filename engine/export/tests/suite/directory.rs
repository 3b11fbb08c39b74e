//! Trees in directories and in plain archives.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use cofferdam_export::{Others, Owners, check_disjoint, write_directory, write_tar};
use cofferdam_store::{NodeKind, Snapshot};

use crate::fixture::{Fixture, Times, attributes, describe_directory, describe_tree, run};

#[test]
fn a_directory_is_what_the_tree_is() {
    let fixture = Fixture::new();
    let snapshot = fixture.everything();
    let tree = fixture.tree(&snapshot);
    let (files, clamped) = (fixture.files(&snapshot, None), fixture.files(&snapshot, Some(1000)));
    let dest = fixture.dir.path().join("a/b");
    // The second time, everything is there already.
    for _ in 0..2 {
        write_directory(&files, Others::Keep, Owners::Kept, &dest).expect("written");
        let expected = describe_tree(&tree, Times::Exact);
        assert_eq!(describe_directory(&dest, Times::Exact), expected);
    }
    write_directory(&clamped, Others::Keep, Owners::Kept, &dest).expect("written");
    assert_eq!(fs::metadata(dest.join("bin/su")).expect("there").mtime(), 1000);
}

#[test]
fn an_archive_is_what_the_tree_is() {
    let fixture = Fixture::new();
    let snapshot = fixture.everything();
    let (tree, files) = (fixture.tree(&snapshot), fixture.files(&snapshot, None));
    let archive = fixture.dir.path().join("tree.tar");
    let mut file = fs::File::create(&archive).expect("created");
    write_tar(&[("", &files), ("linux_arm64/", &files)], &mut file).expect("written");
    let dest = fixture.dir.path().join("out");
    fs::create_dir(&dest).expect("created");
    let (archive, to) = (archive.display().to_string(), dest.display().to_string());
    let arguments =
        ["--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", &archive, "-C", &to];
    run("tar", &arguments);
    let expected = describe_tree(&tree, Times::Seconds);
    assert_eq!(describe_directory(&dest.join("linux_arm64"), Times::Seconds), expected);
    fs::remove_dir_all(dest.join("linux_arm64")).expect("removed");
    assert_eq!(describe_directory(&dest, Times::Seconds), expected);
}

#[test]
fn scratch_is_an_empty_directory() {
    let fixture = Fixture::new();
    let files = fixture.files(&Snapshot::default(), None);
    let dest = fixture.dir.path().join("out");
    write_directory(&files, Others::Keep, Owners::Kept, &dest).expect("written");
    assert_eq!(fs::read_dir(&dest).expect("there").count(), 0);
    let mut archive = Vec::new();
    write_tar(&[("", &files)], &mut archive).expect("written");
    assert_eq!(archive, [0; 1024]);
}

/// What an earlier export left must not lead the next one out of the directory.
#[test]
fn links_in_the_destination_are_not_followed() {
    let fixture = Fixture::new();
    let snapshot = fixture.everything();
    let (tree, files) = (fixture.tree(&snapshot), fixture.files(&snapshot, None));
    let outside = fixture.dir.path().join("outside");
    let dest = fixture.dir.path().join("dest");
    for path in [&outside, &dest] {
        fs::create_dir(path).expect("created");
    }
    fs::write(outside.join("victim"), "untouched").expect("written");
    let before = describe_directory(&outside, Times::Exact);
    // In the way of a directory, of a file and of a link, and a link to nothing.
    symlink(&outside, dest.join("bin")).expect("created");
    symlink("../outside", dest.join("usr")).expect("created");
    symlink(outside.join("victim"), dest.join("big")).expect("created");
    symlink(outside.join("new"), dest.join("null")).expect("created");
    fs::hard_link(outside.join("victim"), dest.join("pipe")).expect("created");
    fs::write(dest.join("tmp"), "a file where a directory goes").expect("written");
    fs::write(dest.join("other"), "stays").expect("written");

    write_directory(&files, Others::Keep, Owners::Kept, &dest).expect("written");
    fs::remove_file(dest.join("other")).expect("stayed");
    assert_eq!(describe_directory(&dest, Times::Exact), describe_tree(&tree, Times::Exact));
    assert_eq!(describe_directory(&outside, Times::Exact), before);
}

#[test]
fn a_directory_in_the_way_of_a_file_stays() {
    let fixture = Fixture::new();
    let files = fixture.files(&fixture.everything(), None);
    let dest = fixture.dir.path().join("dest");
    fs::create_dir_all(dest.join("big/mine")).expect("created");
    let error = write_directory(&files, Others::Keep, Owners::Kept, &dest).expect_err("refused");
    assert_eq!(error.to_string(), "cannot export `/big`: Is a directory (os error 21)");
    assert!(dest.join("big/mine").exists());
    assert_eq!(fs::read_dir(&dest).expect("there").count(), 1, "nothing half-written is left");
}

#[test]
fn a_mirror_has_nothing_else() {
    let fixture = Fixture::new();
    let snapshot = fixture.everything();
    let (tree, files) = (fixture.tree(&snapshot), fixture.files(&snapshot, None));
    let (outside, dest) = (fixture.dir.path().join("outside"), fixture.dir.path().join("dest"));
    fs::create_dir(&outside).expect("created");
    fs::write(outside.join("victim"), "untouched").expect("written");
    fs::create_dir_all(dest.join("usr/deep/er")).expect("created");
    fs::write(dest.join("usr/deep/er/file"), "goes").expect("written");
    fs::write(dest.join("other"), "goes").expect("written");
    symlink(&outside, dest.join("usr/deep/link")).expect("created");
    symlink(&outside, dest.join("link")).expect("created");
    write_directory(&files, Others::Delete, Owners::Kept, &dest).expect("written");
    assert_eq!(describe_directory(&dest, Times::Exact), describe_tree(&tree, Times::Exact));
    assert_eq!(fs::read_to_string(outside.join("victim")).expect("stays"), "untouched");
    write_directory(
        &fixture.files(&Snapshot::default(), None),
        Others::Delete,
        Owners::Kept,
        &dest,
    )
    .expect("written");
    assert_eq!(fs::read_dir(&dest).expect("there").count(), 0);
}

#[test]
fn trees_that_share_files_cannot_share_a_directory() {
    let fixture = Fixture::new();
    let layer = |path: &str| {
        let snapshot = fixture.layer(&Snapshot::default(), |edit| {
            edit.directory("bin", attributes(0o755, 0, 0));
            edit.file(path, attributes(0o644, 0, 0), b"x");
        });
        fixture.files(&snapshot, None)
    };
    let (a, b) = (layer("bin/a"), layer("bin/b"));
    check_disjoint(&[("linux/amd64", &a), ("linux/arm64", &b)]).expect("only a directory");
    let error = check_disjoint(&[("linux/amd64", &a), ("linux/arm64", &a)]).expect_err("refused");
    assert_eq!(
        error.to_string(),
        "`/bin/a` is in the result for linux/amd64 and in that for linux/arm64; \
         with `platform-split=false` they share a directory"
    );
}

/// Names that the kernel would read as paths come from no parser of ours, but from a manifest.
#[test]
fn names_that_are_paths_are_refused() {
    let fixture = Fixture::new();
    for name in ["..", ".", "a/../../b", ""] {
        let snapshot = fixture.layer(&Snapshot::default(), |edit| {
            edit.directory("sub", attributes(0o755, 0, 0));
            edit.file("sub/file", attributes(0o644, 0, 0), b"x");
            let mut root = edit.builder.root().clone();
            let sub = root.as_directory_mut().expect("the root").children.get_mut(&b"sub"[..]);
            let sub = sub.expect("there").as_directory_mut().expect("a directory");
            let file = sub.children.remove(&b"file"[..]).expect("there");
            sub.children.insert(name.as_bytes().into(), file);
            let NodeKind::Directory(directory) = root.kind else { panic!("the root") };
            for (name, node) in directory.children {
                edit.builder.put(&name, node).expect("put");
            }
        });
        let dest = fixture.dir.path().join("x/y/dest");
        let error =
            write_directory(&fixture.files(&snapshot, None), Others::Keep, Owners::Kept, &dest)
                .expect_err(name);
        assert!(error.to_string().ends_with("is not a file name"), "{error}");
    }
}
