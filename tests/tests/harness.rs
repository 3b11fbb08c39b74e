//! The harness looked at for itself: without the `cofferdam` binary, so that a failure of a suite
//! is known to be a failure of what it tests.

use std::fs;
use std::net::TcpStream;
use std::process::Command;

use anyhow::Result;
use cofferdam_tests::command::{command, run};
use cofferdam_tests::{Context, Fault, FaultyRegistry, Layout, Registry, Tree, bases};
use expect_test::expect;

#[test]
fn registry_starts_serves_and_ends() -> Result<()> {
    let registry = Registry::start()?;
    let directory = tempfile::tempdir()?;
    registry.push(&bases::layered(&directory.path().join("in"))?, "layered:1")?;
    let pulled = registry.pull("layered:1", &directory.path().join("out"))?;
    let arch = bases::oci_architecture()?;
    assert_eq!(pulled.image(&arch)?.digest, registry.digest("layered:1")?);
    let address = registry.address();
    drop(registry);
    assert!(TcpStream::connect(address).is_err(), "the registry still listens on {address}");
    Ok(())
}

#[test]
fn layers_apply_as_the_specification_says() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let layout = bases::layered(directory.path())?;
    let tree = Tree::from_image(&layout, &layout.image(&bases::oci_architecture()?)?)?;
    expect![[r#"
        d0750 1:2 1700000000 a
        l0777 0:0 1700000000 a/away -> /../../etc
        l0777 0:0 1700000000 a/link -> one
        -4755 0:0 1700000000 a/noted 5 bytes user.note=kept
        -0640 0:0 1700000000 a/one 10 bytes
        p0600 0:0 1700000000 a/pipe
        -0644 1:2 1700000000 a/three 3 bytes linked as a/three
        -0644 1:2 1700000000 a/two 3 bytes linked as a/three
        d0711 0:0 1700000000 opaque
        -0644 0:0 1700000000 opaque/new 3 bytes
        -0644 0:0 1700000000 replaced 10 bytes
    "#]]
    .assert_eq(&tree.listing(i64::MAX));
    Ok(())
}

#[test]
fn image_and_unpacked_directory_give_the_same_tree() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let layout = bases::busybox()?;
    let bundle = directory.path().join("bundle");
    let image = format!("{}:latest", single(&layout, directory.path())?.path.display());
    run(command("umoci", ["unpack", "--image", &image]).arg(&bundle))?;
    let image = layout.image(&bases::oci_architecture()?)?;
    let differences = Tree::from_image(&layout, &image)?
        .differences(&Tree::from_directory(&bundle.join("rootfs"))?);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    Ok(())
}

/// umoci does not choose a platform: copies this machine's image out of an index.
fn single(layout: &Layout, directory: &std::path::Path) -> Result<Layout> {
    let path = directory.join("single");
    let from = format!("oci:{}:latest", layout.path.display());
    let to = format!("oci:{}:latest", path.display());
    run(&mut command("skopeo", ["--insecure-policy", "copy", "--quiet", &from, &to]))?;
    Layout::open(&path)
}

#[test]
fn differences_name_what_differs() -> Result<()> {
    let mut left = cofferdam_tests::tree::TarWriter::new();
    left.file("same", 0o644, b"s")?.file("mode", 0o644, b"m")?.file("only", 0o644, b"o")?;
    let mut right = cofferdam_tests::tree::TarWriter::new();
    right.file("same", 0o644, b"s")?.file("mode", 0o755, b"m")?;
    let left = Tree::from_tar(&left.finish()?)?;
    let differences = left.differences(&Tree::from_tar(&right.finish()?)?);
    let heads: Vec<&str> = differences.iter().filter_map(|d| d.split(':').next()).collect();
    assert_eq!(heads, ["- mode", "+ mode", "- only"]);
    Ok(())
}

#[test]
fn bases_are_runnable_file_systems() -> Result<()> {
    let checks: [(Layout, &str, &[&str]); 3] = [
        (bases::busybox()?, "/bin/busybox", &["true"]),
        (bases::debian()?, "/usr/bin/apt-get", &["--version"]),
        (bases::gcc()?, "/usr/bin/gcc", &["--version"]),
    ];
    for (layout, program, arguments) in checks {
        let directory = tempfile::tempdir()?;
        let image = layout.image(&bases::oci_architecture()?)?;
        for archive in layout.layers(&image)? {
            let mut archive = tar::Archive::new(&archive[..]);
            archive.set_preserve_ownerships(true);
            archive.unpack(directory.path())?;
        }
        run(Command::new("chroot").arg(directory.path()).arg(program).args(arguments))?;
    }
    Ok(())
}

#[test]
fn busybox_is_there_for_two_architectures_where_debian_has_them() -> Result<()> {
    let layout = bases::busybox()?;
    if bases::oci_architecture()? == "amd64" {
        let arm = Tree::from_image(&layout, &layout.image("arm64")?)?;
        let amd = Tree::from_image(&layout, &layout.image("amd64")?)?;
        assert_eq!(arm.entries.len(), amd.entries.len());
        assert_ne!(arm.entries["bin/busybox"], amd.entries["bin/busybox"]);
    }
    Ok(())
}

#[test]
fn faults_reach_a_real_client_and_go_away() -> Result<()> {
    let registry = Registry::start()?;
    let directory = tempfile::tempdir()?;
    registry.push(&bases::busybox()?, "busybox:latest")?;
    let proxy = FaultyRegistry::start(&registry)?;
    let mut attempt = 0;
    let mut pull = || {
        attempt += 1;
        let to = format!("oci:{}:x", directory.path().join(attempt.to_string()).display());
        let from = format!("docker://{}/busybox:latest", proxy.address());
        let options = ["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false"];
        run(command("skopeo", options).args([from, to]))
    };
    pull()?;
    for fault in [Fault::Status(403), Fault::WrongByte(0), Fault::Truncate(1000)] {
        proxy.spoil("GET /blobs/", fault.clone(), usize::MAX);
        assert!(pull().is_err(), "{fault:?} went unnoticed");
        proxy.heal();
    }
    // skopeo resumes a broken transfer, so a reset shows in the requests that it makes.
    let before = proxy.requests().len();
    proxy.spoil("GET /blobs/", Fault::Reset(100), 1);
    // Whether it then succeeds is skopeo's affair.
    let _ = pull();
    assert!(proxy.requests().len() > before);
    proxy.heal();
    pull()?;
    Ok(())
}

#[test]
fn hello_source_has_both_archives() -> Result<()> {
    let source = bases::hello_source()?;
    assert!(fs::metadata(source.upstream)?.len() > 100_000);
    assert!(fs::metadata(source.debian)?.len() > 1_000);
    Ok(())
}

#[test]
fn context_files_have_known_modes_and_times() -> Result<()> {
    let context = Context::new("FROM scratch\n")?;
    context.file("a/b", "b")?.mode("a/b", 0o600)?.time("a/b", 5)?.hard_link("a/c", "a/b")?;
    let tree = Tree::from_directory(context.path())?;
    let listing: Vec<String> = tree
        .listing(i64::MAX)
        .lines()
        .filter(|line| line.starts_with('-'))
        .map(str::to_owned)
        .collect();
    assert_eq!(
        listing,
        [
            "-0644 0:0 1700000000 Dockerfile 13 bytes",
            "-0600 0:0 5 a/b 1 bytes linked as a/b",
            "-0600 0:0 5 a/c 1 bytes linked as a/b",
        ]
    );
    Ok(())
}
