//! Edits on top of a tree: what is seen, and what the new layer says.

use cofferdam_store::{Attributes, LayerBuilder, Node, NodeKind, Result};
use expect_test::{Expect, expect};

use crate::support::{Place, show_found, show_node, show_tree};

fn attributes(mode: u32) -> Attributes {
    Attributes { mode, ..Attributes::default() }
}

fn symlink(target: &str) -> Node {
    Node { attributes: attributes(0o777), kind: NodeKind::Symlink(target.into()) }
}

const BASE: &str = "d/ [700 1:2 @5 user.k=v]\n d/a = a\n d/b = b\n d/sub/c = c\n f = f";

/// Shows the layer that the edits make. What is seen while editing has to be what the committed
/// layer shows on top of the base.
#[track_caller]
fn check(base: &[&str], edit: impl FnOnce(&mut LayerBuilder) -> Result<()>, expected: Expect) {
    let place = Place::new();
    let chain = place.chain(base);
    let tree = place.store.tree(&chain).expect("all layers are there");
    let mut builder = LayerBuilder::new((!base.is_empty()).then_some(tree));
    let outcome = match edit(&mut builder) {
        Ok(()) => String::new(),
        Err(error) => format!("error: {error}\n"),
    };
    let seen = show_found(&place.store, &builder.view());
    let layer = place.store.commit_virtual(builder.finish()).expect("a layer");
    let tree = place.store.tree(&chain.with(layer.clone())).expect("all layers are there");
    assert_eq!(seen, show_tree(&tree), "the view and the committed layer");
    expected.assert_eq(&format!(
        "{outcome}{}----\n{seen}",
        show_node(&place.store, &place.store.layer(layer.id()).expect("it is there").root)
    ));
}

#[test]
fn nothing() {
    check(
        &[],
        |_| Ok(()),
        expect![[r#"
        /
        ----
        /
    "#]],
    );
    check(
        &["/ [711 3:4]\n f = f"],
        |_| Ok(()),
        expect![[r#"
        / [711 3:4]
        ----
        / [711 3:4]
        f = f
    "#]],
    );
}

#[test]
fn put() {
    check(
        &[BASE],
        |builder| {
            builder.put(b"d/a", symlink("b"))?;
            builder.put(b"/d/sub/./new", symlink("c"))?;
            builder.put(b"d/b", symlink("first"))?;
            builder.put(b"d/b", symlink("second"))
        },
        expect![[r#"
            /
            d/ [700 1:2 @5 user.k=v]
            d/a -> b
            d/b -> second
            d/sub/
            d/sub/new -> c
            ----
            /
            d/ [700 1:2 @5 user.k=v]
            d/a -> b
            d/b -> second
            d/sub/
            d/sub/c = c
            d/sub/new -> c
            f = f
        "#]],
    );
    check(
        &[BASE],
        |builder| builder.put(b"d", symlink("over a directory")),
        expect![[r#"
        /
        d -> over a directory
        ----
        /
        d -> over a directory
        f = f
    "#]],
    );
    check(
        &[],
        |builder| builder.put(b"x", symlink("y")),
        expect![[r#"
        /
        x -> y
        ----
        /
        x -> y
    "#]],
    );
    for path in ["no/x", "f/x", "", "/", "d/../x"] {
        let place = Place::new();
        let mut builder = LayerBuilder::new(Some(place.tree(&[BASE])));
        assert!(builder.put(path.as_bytes(), symlink("x")).is_err(), "{path}");
    }
}

#[test]
fn remove() {
    check(
        &[BASE],
        |builder| {
            builder.remove(b"d/a")?;
            builder.remove(b"d/sub")?;
            builder.remove(b"not-there")?;
            builder.remove(b"d/a/below")?;
            builder.put(b"new", symlink("x"))?;
            builder.remove(b"new")
        },
        expect![[r#"
            /
            d/ [700 1:2 @5 user.k=v]
            d/a whiteout
            d/sub whiteout
            ----
            /
            d/ [700 1:2 @5 user.k=v]
            d/b = b
            f = f
        "#]],
    );
    check(
        &[BASE],
        |builder| {
            builder.remove(b"d")?;
            builder.put(b"d/x", symlink("the parent is gone"))
        },
        expect![[r#"
            error: `/d/x` is not a path below directories only
            /
            d whiteout
            ----
            /
            f = f
        "#]],
    );
    check(
        &[BASE],
        |builder| builder.remove(b"/"),
        expect![[r#"
        error: invalid path `/`: is the root
        /
        ----
        /
        d/ [700 1:2 @5 user.k=v]
        d/a = a
        d/b = b
        d/sub/
        d/sub/c = c
        f = f
    "#]],
    );
}

#[test]
fn put_directory() {
    check(
        &[BASE],
        |builder| {
            builder.put_directory(b"d", attributes(0o750))?;
            builder.put_directory(b"new", attributes(0o700))?;
            builder.put(b"new/x", symlink("y"))?;
            builder.put_directory(b"new", attributes(0o711))?;
            builder.put_directory(b"/", attributes(0o555))
        },
        expect![[r#"
            / [555]
            d/ [750]
            new/ [711]
            new/x -> y
            ----
            / [555]
            d/ [750]
            d/a = a
            d/b = b
            d/sub/
            d/sub/c = c
            f = f
            new/ [711]
            new/x -> y
        "#]],
    );
    // What the base had there stays removed.
    check(
        &[BASE],
        |builder| {
            builder.remove(b"d")?;
            builder.put_directory(b"d", attributes(0o755))?;
            builder.put_directory(b"d/sub", attributes(0o755))?;
            builder.put(b"d/sub/x", symlink("y"))
        },
        expect![[r#"
            /
            d/!
            d/sub/
            d/sub/x -> y
            ----
            /
            d/!
            d/sub/
            d/sub/x -> y
            f = f
        "#]],
    );
    check(
        &[BASE],
        |builder| {
            builder.put(b"d", symlink("x"))?;
            builder.put_directory(b"d", attributes(0o755))?;
            builder.put_directory(b"f", attributes(0o755))?;
            builder.remove(b"f")?;
            builder.put_directory(b"f", attributes(0o700))
        },
        expect![[r#"
            /
            d/!
            f/! [700]
            ----
            /
            d/!
            f/! [700]
        "#]],
    );
}

#[test]
fn put_hard_link() {
    check(
        &[BASE],
        |builder| {
            builder.put_hard_link(b"d/link", b"f")?;
            builder.put_hard_link(b"again", b"d/link")?;
            builder.put_hard_link(b"other", b"d/a")
        },
        expect![[r#"
            /
            again = f [#1]
            d/ [700 1:2 @5 user.k=v]
            d/a = a [#2]
            d/link = f [#1]
            f = f [#1]
            other = a [#2]
            ----
            /
            again = f [#1]
            d/ [700 1:2 @5 user.k=v]
            d/a = a [#2]
            d/b = b
            d/link = f [#1]
            d/sub/
            d/sub/c = c
            f = f [#1]
            other = a [#2]
        "#]],
    );
    check(
        &[BASE],
        |builder| builder.put_hard_link(b"x", b"d"),
        expect![[r#"
        error: `/d` is not a regular file
        /
        ----
        /
        d/ [700 1:2 @5 user.k=v]
        d/a = a
        d/b = b
        d/sub/
        d/sub/c = c
        f = f
    "#]],
    );
    check(
        &[BASE],
        |builder| builder.put_hard_link(b"x", b"no"),
        expect![[r#"
        error: `/no`: not found
        /
        ----
        /
        d/ [700 1:2 @5 user.k=v]
        d/a = a
        d/b = b
        d/sub/
        d/sub/c = c
        f = f
    "#]],
    );
    check(
        &[BASE],
        |builder| builder.put_hard_link(b"no/x", b"f"),
        expect![[r#"
        error: `/no/x (parent)`: not found
        /
        f = f [#1]
        ----
        /
        d/ [700 1:2 @5 user.k=v]
        d/a = a
        d/b = b
        d/sub/
        d/sub/c = c
        f = f [#1]
    "#]],
    );
}

#[test]
fn forks_are_independent() {
    let place = Place::new();
    let mut first = LayerBuilder::new(Some(place.tree(&[BASE])));
    first.put(b"common", symlink("x")).expect("a valid edit");
    let mut second = first.clone();
    first.remove(b"d").expect("a valid edit");
    second.put(b"d/only", symlink("second")).expect("a valid edit");
    expect![[r#"
        /
        common -> x
        d whiteout
    "#]]
    .assert_eq(&show_node(&place.store, first.root()));
    expect![[r#"
        /
        common -> x
        d/ [700 1:2 @5 user.k=v]
        d/only -> second
    "#]]
    .assert_eq(&show_node(&place.store, second.root()));
}
