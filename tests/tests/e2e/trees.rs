//! The file trees and configurations of built images, entry by entry against what the Dockerfile
//! says.

use anyhow::Result;
use cofferdam_tests::tree::TarWriter;
use cofferdam_tests::{Context, bases, needs_root};
use expect_test::expect;
use serde_json::json;

use crate::{World, now};

#[test]
fn copied_trees_are_what_the_dockerfile_says() -> Result<()> {
    let context = Context::new(
        "FROM scratch AS source\n\
         COPY tree/ /s/\n\
         FROM scratch\n\
         COPY one.txt /\n\
         COPY --chown=5:6 one.txt /owned/deep/\n\
         COPY --chown=7 --chmod=0640 one.txt /moded\n\
         COPY tree /tree\n\
         COPY --from=source /s/sub/ /between/\n\
         COPY glob/*.txt /globbed/\n\
         COPY followed /followed\n\
         ADD archive.tar /unpacked/\n",
    )?;
    context.file("one.txt", "one")?.mode("one.txt", 0o604)?;
    context.file("tree/file", "file")?.hard_link("tree/same", "tree/file")?;
    context.file("tree/sub/exec", "#!")?.mode("tree/sub/exec", 0o4755)?;
    context.link("tree/sub/up", "../file")?.link("tree/dangling", "/nowhere")?;
    context.mode("tree/sub", 0o711)?.time("tree/sub", 1_600_000_000)?;
    context.time("tree", 1_500_000_000)?;
    context.file("glob/a.txt", "a")?.file("glob/b.txt", "b")?.file("glob/c.md", "c")?;
    context.link("followed", "one.txt")?;
    let mut archive = TarWriter::new();
    archive.owner(3, 4).directory("d", 0o1777)?.file("d/f", 0o2755, b"f")?;
    archive.hard_link("d/g", "d/f")?.symlink("d/l", "f")?;
    archive.attribute("user.note", b"kept").file("noted", 0o600, b"n")?;
    context.file("archive.tar", archive.finish()?)?;

    let world = World::new()?;
    let start = now()?;
    let (tree, config) = world.image(&context, "tree:latest")?;
    // Directories that no instruction names are made: root's, 0755 and new. One whose contents
    // come from a directory takes over that one's time.
    expect![[r#"
        d0755 0:0 1600000000 between
        -4755 0:0 1700000000 between/exec 2 bytes
        l0777 0:0 1700000000 between/up -> ../file
        -0604 0:0 1700000000 followed 3 bytes
        d0755 0:0 now globbed
        -0644 0:0 1700000000 globbed/a.txt 1 bytes
        -0644 0:0 1700000000 globbed/b.txt 1 bytes
        -0640 7:7 1700000000 moded 3 bytes
        -0604 0:0 1700000000 one.txt 3 bytes
        d0755 5:6 now owned
        d0755 5:6 now owned/deep
        -0604 5:6 1700000000 owned/deep/one.txt 3 bytes
        d0755 0:0 1500000000 tree
        l0777 0:0 1700000000 tree/dangling -> /nowhere
        -0644 0:0 1700000000 tree/file 4 bytes linked as tree/file
        -0644 0:0 1700000000 tree/same 4 bytes linked as tree/file
        d0711 0:0 1600000000 tree/sub
        -4755 0:0 1700000000 tree/sub/exec 2 bytes
        l0777 0:0 1700000000 tree/sub/up -> ../file
        d0755 0:0 now unpacked
        d1777 3:4 1700000000 unpacked/d
        -2755 3:4 1700000000 unpacked/d/f 1 bytes linked as unpacked/d/f
        -2755 3:4 1700000000 unpacked/d/g 1 bytes linked as unpacked/d/f
        l0777 3:4 1700000000 unpacked/d/l -> f
        -0600 3:4 1700000000 unpacked/noted 1 bytes user.note=kept
    "#]]
    .assert_eq(&tree.listing(start));
    let layers = config["rootfs"]["diff_ids"].as_array().map(Vec::len);
    assert_eq!(layers, Some(8), "one layer per COPY and ADD");
    Ok(())
}

#[test]
fn archives_of_every_compression_are_unpacked() -> Result<()> {
    let mut archive = TarWriter::new();
    archive.file("inside", 0o644, b"inside")?;
    let plain = archive.finish()?;
    let directory = tempfile::tempdir()?;
    std::fs::write(directory.path().join("a.tar"), &plain)?;
    let context = Context::new(
        "FROM scratch\nADD a.tar /tar/\nADD a.tar.gz /gzip/\nADD a.tar.bz2 /bzip2/\n\
         ADD a.tar.xz /xz/\nADD a.tar.zst /zstd/\nADD not.tar.gz /plain/\n",
    )?;
    context.file("a.tar", &plain)?.file("not.tar.gz", "no archive")?;
    for (program, suffix) in [("gzip", "gz"), ("bzip2", "bz2"), ("xz", "xz"), ("zstd", "zst")] {
        let mut compress = std::process::Command::new(program);
        let output = compress.arg("-c").arg(directory.path().join("a.tar")).output()?;
        assert!(output.status.success(), "{program} failed");
        context.file(&format!("a.tar.{suffix}"), output.stdout)?;
    }
    let world = World::new()?;
    let (tree, _) = world.image(&context, "archives:latest")?;
    for name in ["tar", "gzip", "bzip2", "xz", "zstd"] {
        assert!(tree.entries.contains_key(&format!("{name}/inside")), "{name} was not unpacked");
    }
    assert!(tree.entries.contains_key("plain/not.tar.gz"), "no archive: copied as it is");
    Ok(())
}

#[test]
fn a_run_changes_what_it_changes_and_no_more() -> Result<()> {
    if needs_root("device nodes") {
        return Ok(());
    }
    let world = World::new()?;
    let base = bases::busybox()?;
    let base = cofferdam_tests::Tree::from_image(&base, &base.image(&bases::oci_architecture()?)?)?;
    let context = Context::new(
        "ARG REGISTRY\nFROM ${REGISTRY}/busybox\n\
         RUN rm /etc/group && mkdir -m 2750 /new && echo x > /new/file && chown 8:9 /new/file \
         && ln /new/file /new/link && ln -s file /new/soft && mkfifo /new/pipe \
         && mknod /new/null c 1 3\n\
         RUN rm -rf /home && mkdir /home && echo again > /home/file\n",
    )?;
    let (tree, _) = world.image(&context, "run:latest")?;
    let differences = base.differences(&tree);
    let heads: Vec<&str> = differences.iter().filter_map(|line| line.split(':').next()).collect();
    assert_eq!(
        heads,
        [
            "- etc",
            "+ etc",
            "- etc/group",
            "- home",
            "+ home",
            "+ home/file",
            "+ new",
            "+ new/file",
            "+ new/link",
            "+ new/null",
            "+ new/pipe",
            "+ new/soft",
        ],
        "{}",
        differences.join("\n"),
    );
    let listing = tree.below("new").listing(0);
    assert_eq!(
        listing,
        "-0644 8:9 now file 2 bytes linked as new/file\n\
         -0644 8:9 now link 2 bytes linked as new/file\n\
         c0644 0:0 now null 0x103\n\
         p0644 0:0 now pipe\n\
         l0777 0:0 now soft -> file\n",
    );
    Ok(())
}

#[test]
fn a_base_of_every_kind_of_layer_is_kept() -> Result<()> {
    let world = World::new()?;
    let layered = bases::layered(&world.out.path().join("layered"))?;
    world.registry.push(&layered, "layered:latest")?;
    let image = layered.image(&bases::oci_architecture()?)?;
    let base = cofferdam_tests::Tree::from_image(&layered, &image)?;

    let context = Context::new("ARG REGISTRY\nFROM ${REGISTRY}/layered\nLABEL a=b\n")?;
    let (labelled, config) = world.image(&context, "labelled:latest")?;
    assert_eq!(base.differences(&labelled), Vec::<String>::new());
    assert_eq!(config["rootfs"], image.config["rootfs"], "layers are taken over as they are");
    assert_eq!(config["config"]["Labels"], json!({"a": "b"}));
    assert_eq!(config["config"]["WorkingDir"], "/a");

    // The same tree once more, this time through the union of the layers.
    let context = Context::new(
        "ARG REGISTRY\nFROM ${REGISTRY}/layered AS base\nFROM scratch\nCOPY --from=base / /\n",
    )?;
    let (copied, _) = world.image(&context, "copied:latest")?;
    assert_eq!(base.differences(&copied), Vec::<String>::new());
    Ok(())
}

#[test]
fn the_configuration_and_history_are_dockers() -> Result<()> {
    let world = World::new()?;
    let context = Context::new(
        "ARG REGISTRY\nFROM ${REGISTRY}/busybox\n\
         ARG VERSION=3\nENV A=1 B=\"two words\"\nLABEL version=$VERSION\nWORKDIR /srv/app\n\
         RUN echo $A > a\nCOPY f .\nUSER builder:staff\nEXPOSE 80 53/udp\nVOLUME /data\n\
         STOPSIGNAL SIGTERM\nSHELL [\"/bin/ash\", \"-c\"]\nENTRYPOINT [\"/bin/f\", \"x\"]\n\
         CMD echo hi\n",
    )?;
    context.file("f", "f")?;
    let (_, config) = world.image(&context, "config:latest")?;
    let container = &config["config"];
    let expected = json!({
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "A=1", "B=two words"],
        "Labels": {"version": "3"},
        "WorkingDir": "/srv/app",
        "User": "builder:staff",
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
        "Volumes": {"/data": {}},
        "StopSignal": "SIGTERM",
        "Shell": ["/bin/ash", "-c"],
        "Entrypoint": ["/bin/f", "x"],
        "Cmd": ["/bin/ash", "-c", "echo hi"],
    });
    for (member, value) in expected.as_object().expect("the literal is an object") {
        assert_eq!(&container[member], value, "config.{member} of {config:#}");
    }
    let history = config["history"].as_array().expect("config has a history");
    let made: Vec<(&str, bool)> = history
        .iter()
        .map(|e| (e["created_by"].as_str().unwrap_or("-"), e["empty_layer"] == json!(true)))
        .collect();
    assert!(made.contains(&("WORKDIR /srv/app", false)), "{made:?}");
    assert!(
        made.contains(&("RUN |1 VERSION=3 /bin/sh -c echo $A > a # buildkit", false)),
        "{made:?}"
    );
    assert!(made.contains(&("COPY f . # buildkit", false)), "{made:?}");
    assert!(made.contains(&("USER builder:staff", true)), "{made:?}");
    let layers = config["rootfs"]["diff_ids"].as_array().map_or(0, Vec::len);
    assert_eq!(made.iter().filter(|(_, empty)| !empty).count(), layers, "{made:?}");
    Ok(())
}

/// Each layer numbers its groups of hard links from one on: those of several layers are others.
#[test]
fn hard_links_of_several_layers_stay_apart() -> Result<()> {
    let world = World::new()?;
    let context = Context::new(
        "ARG REGISTRY\nFROM ${REGISTRY}/busybox AS linked\n\
         RUN mkdir -p /d/in && echo one > /d/a && ln /d/a /d/in/b\n\
         RUN echo two > /d/c && ln /d/c /d/in/d && echo alone > /single && ln /single /d/e\n\
         FROM scratch AS whole\nCOPY --from=linked /d /d\n\
         FROM scratch AS merged\nCOPY --from=linked /d/in /d/in\nCOPY --from=linked /d /d\n\
         FROM scratch AS chosen\nCOPY --from=linked --chmod=600 /d /d\n\
         FROM scratch\nCOPY --from=whole / /whole/\nCOPY --from=merged / /merged/\n\
         COPY --from=chosen / /chosen/\n",
    )?;
    let (tree, _) = world.image(&context, "linked:latest")?;
    let listing = tree.listing(0);
    let files = |prefix: &str| -> Vec<String> {
        let lines = listing.lines().filter_map(|line| line.split_once(&format!(" {prefix}/d/")));
        lines.map(|(_, rest)| rest.replace(prefix, "")).filter(|l| l.contains("bytes")).collect()
    };
    let expected = [
        "a 4 bytes linked as /d/a",
        "c 4 bytes linked as /d/c",
        "e 6 bytes",
        "in/b 4 bytes linked as /d/a",
        "in/d 4 bytes linked as /d/c",
    ];
    for stage in ["whole", "merged", "chosen"] {
        assert_eq!(files(stage), expected, "in {stage}:\n{listing}");
    }
    Ok(())
}
