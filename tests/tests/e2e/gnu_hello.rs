//! The main job: GNU hello from Debian's source package, built as its users build it.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::Result;
use cofferdam_tests::bases::{self, hello_source};
use cofferdam_tests::command::{command, run};
use cofferdam_tests::tree::Kind;
use cofferdam_tests::{Context, Tree, needs_root};

use crate::{World, now};

const DOCKERFILE: &str = r#"# GNU hello, static, alone in its image.
ARG REGISTRY
FROM ${REGISTRY}/gcc:latest AS build
ADD hello.orig.tar.gz /src/
ADD hello.debian.tar.xz /src/hello-2.10/
WORKDIR /src/hello-2.10
RUN test -s debian/changelog && ./configure LDFLAGS=-static
RUN make -j2
RUN make check
RUN make install DESTDIR=/out

FROM scratch
COPY --from=build /out/usr/local/ /usr/local/
COPY --from=build --chown=1000:1001 --chmod=0444 /src/hello-2.10/COPYING /COPYING
ENTRYPOINT ["/usr/local/bin/hello"]
CMD ["--greeting=built by cofferdam"]
"#;

#[test]
fn gnu_hello_is_built_tested_pushed_pulled_and_run() -> Result<()> {
    let world = World::new()?;
    world.registry.push(&bases::gcc()?, "gcc:latest")?;
    let source = hello_source()?;
    let context = Context::new(DOCKERFILE)?;
    context.copy("hello.orig.tar.gz", &source.upstream)?;
    context.copy("hello.debian.tar.xz", &source.debian)?;

    let start = now()?;
    let reference = world.registry.reference("hello:latest");
    let build = world.build(&context).option("-t", &reference).arg("--push").run()?.succeeded();
    let log = build.log();
    assert!(log.contains("# FAIL:  0"), "make check passed nothing:\n{log}");

    let layout = world.registry.pull("hello:latest", &world.out.path().join("layout"))?;
    let image = layout.image(&bases::oci_architecture()?)?;
    let tree = Tree::from_image(&layout, &image)?;
    check_tree(&tree, start);

    if needs_root("to unpack and start the image") {
        return Ok(());
    }
    let bundle = world.out.path().join("bundle");
    let reference = format!("{}:latest", layout.path.display());
    run(command("umoci", ["unpack", "--image", &reference]).arg(&bundle))?;
    let root = bundle.join("rootfs");
    let unpacked = Tree::from_directory(&root)?;
    let differences = tree.differences(&unpacked);
    assert!(differences.is_empty(), "umoci disagrees:\n{}", differences.join("\n"));

    let mut hello = Command::new("chroot");
    hello.arg(&root);
    for member in ["Entrypoint", "Cmd"] {
        let words = image.config["config"][member].as_array().expect("config has a command");
        hello.args(words.iter().filter_map(|word| word.as_str()));
    }
    assert_eq!(run(&mut hello)?, "built by cofferdam\n");
    Ok(())
}

/// What the Dockerfile and `make install` say about every entry of the image.
fn check_tree(tree: &Tree, start: i64) {
    let listing = tree.listing(start);
    for (path, entry) in &tree.entries {
        let copying = path == "COPYING";
        let (owner, time) = if copying { ((1000, 1001), false) } else { ((0, 0), true) };
        assert_eq!((entry.uid, entry.gid), owner, "owner of {path}:\n{listing}");
        assert_eq!(entry.mtime >= start, time, "mtime of {path}:\n{listing}");
        assert!(entry.xattrs.is_empty(), "xattrs of {path}:\n{listing}");
        let mode = match &entry.kind {
            Kind::Directory => 0o755,
            Kind::File { linked, .. } => {
                assert_eq!(*linked, None, "{path} is linked:\n{listing}");
                match path.as_str() {
                    "usr/local/bin/hello" => 0o755,
                    "COPYING" => 0o444,
                    _ => 0o644,
                }
            }
            other => panic!("{path} is {other:?}:\n{listing}"),
        };
        assert_eq!(entry.mode, mode, "mode of {path}:\n{listing}");
    }
    let translated = |path: &&str| !path.starts_with("usr/local/share/locale/");
    let paths: BTreeSet<&str> =
        tree.entries.keys().map(String::as_str).filter(translated).collect();
    let expected = BTreeSet::from([
        "COPYING",
        "usr",
        "usr/local",
        "usr/local/bin",
        "usr/local/bin/hello",
        "usr/local/share",
        "usr/local/share/info",
        "usr/local/share/info/hello.info",
        "usr/local/share/locale",
        "usr/local/share/man",
        "usr/local/share/man/man1",
        "usr/local/share/man/man1/hello.1",
    ]);
    assert_eq!(paths, expected);
    assert!(tree.entries.contains_key("usr/local/share/locale/de/LC_MESSAGES/hello.mo"));
}
