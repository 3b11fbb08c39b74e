//! Base images out of Debian packages, made once per machine and kept in a cache directory.
//!
//! The cache is `$COFFERDAM_TEST_CACHE`, else `/var/cache/cofferdam-tests`. An entry's name
//! carries its recipe's version: change a recipe, change the name.

use std::fs::{self, File};
use std::io::BufReader;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::apt::Apt;
use crate::command::{command, run};
use crate::oci::{Compression, Layer, Layout};
use crate::tree::TarWriter;

pub(crate) const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The directory that keeps what is expensive to make.
#[must_use]
pub fn cache() -> PathBuf {
    let named = std::env::var_os("COFFERDAM_TEST_CACHE").map(PathBuf::from);
    named.unwrap_or_else(|| PathBuf::from("/var/cache/cofferdam-tests"))
}

/// Returns a cache entry, making it first where it is missing.
///
/// Several test processes may ask at once: one makes, the others wait.
pub(crate) fn cached(name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let cache = cache();
    fs::create_dir_all(&cache).with_context(|| {
        format!("cannot make `{}`; set COFFERDAM_TEST_CACHE to another", cache.display())
    })?;
    let entry = cache.join(name);
    let lock = File::create(cache.join(format!("{name}.lock")))?;
    lock.lock()?;
    if !entry.exists() {
        let making = tempfile::tempdir_in(&cache)?;
        make(making.path()).with_context(|| format!("cannot make the fixture {name}"))?;
        fs::set_permissions(making.path(), fs::Permissions::from_mode(0o755))?;
        fs::rename(making.keep(), &entry)?;
    }
    Ok(entry)
}

/// busybox-static with a link per applet: for amd64 and arm64 where the machine's package
/// sources have both, else for its own architecture.
///
/// # Errors
/// The packages cannot be fetched.
pub fn busybox() -> Result<Layout> {
    let entry = cached("busybox-1", |directory| {
        let native = Apt::native_architecture()?;
        let both: Vec<&str> =
            if native == "amd64" { vec!["amd64", "arm64"] } else { vec![&native] };
        let scratch = tempfile::tempdir()?;
        // Sources that serve only one architecture fail the update as a whole.
        let apt = Apt::prepare(scratch.path(), &both)
            .or_else(|_| Apt::prepare(scratch.path(), &[&native]))?;
        let program = |arch: &str| -> Result<Vec<u8>> {
            let files = scratch.path().join(arch);
            apt.extract(&format!("busybox-static:{arch}"), &files)?;
            let usr = files.join("usr/bin/busybox");
            Ok(fs::read(files.join("bin/busybox")).or_else(|_| fs::read(usr))?)
        };
        let layout = Layout::create(directory)?;
        let own = program(&native)?;
        let applets = applets(&own)?;
        let mut manifests = Vec::new();
        for arch in both {
            let binary = if arch == native { Ok(own.clone()) } else { program(arch) };
            let Ok(binary) = binary else { continue };
            let layers = [busybox_layer(&layout, &binary, &applets)?];
            let container = json!({"Env": [PATH], "Cmd": ["sh"]});
            manifests.push(layout.add_image(arch, container, &layers)?);
        }
        layout.tag("latest", &manifests)
    })?;
    Layout::open(&entry)
}

/// Debian's architectures that the suites run steps on, with OCI's names: this machine's own, and
/// those that need an emulator, with different word sizes and byte orders.
pub const ARCHITECTURES: [(&str, &str); 6] = [
    ("amd64", "amd64"),
    ("i386", "386"),
    ("arm64", "arm64"),
    ("armhf", "arm/v7"),
    ("ppc64el", "ppc64le"),
    ("s390x", "s390x"),
];

/// busybox-static for all of [`ARCHITECTURES`].
///
/// # Errors
/// The packages cannot be fetched.
pub fn busybox_everywhere() -> Result<Layout> {
    let entry = cached("busybox-everywhere-1", |directory| {
        let scratch = tempfile::tempdir()?;
        let names = ARCHITECTURES.map(|(debian, _)| debian);
        let apt = Apt::prepare(scratch.path(), &names)?;
        let program = |debian: &str| -> Result<Vec<u8>> {
            let files = scratch.path().join(debian);
            apt.extract(&format!("busybox-static:{debian}"), &files)?;
            let usr = files.join("usr/bin/busybox");
            Ok(fs::read(files.join("bin/busybox")).or_else(|_| fs::read(usr))?)
        };
        let applets = applets(&program(&Apt::native_architecture()?)?)?;
        let layout = Layout::create(directory)?;
        let mut manifests = Vec::new();
        for (debian, oci) in ARCHITECTURES {
            let layers = [busybox_layer(&layout, &program(debian)?, &applets)?];
            manifests.push(layout.add_image(
                oci,
                json!({"Env": [PATH], "Cmd": ["sh"]}),
                &layers,
            )?);
        }
        layout.tag("latest", &manifests)
    })?;
    Layout::open(&entry)
}

fn applets(busybox: &[u8]) -> Result<Vec<String>> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("busybox");
    fs::write(&path, busybox)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    let program = path.to_str().context("temporary directory is not UTF-8")?;
    Ok(run(&mut command(program, ["--list"]))?.lines().map(str::to_owned).collect())
}

fn busybox_layer(layout: &Layout, binary: &[u8], applets: &[String]) -> Result<Layer> {
    let mut tar = TarWriter::new();
    for name in ["bin", "dev", "etc", "home", "proc", "sys", "usr", "var"] {
        tar.directory(name, 0o755)?;
    }
    tar.directory("root", 0o700)?.directory("tmp", 0o1777)?;
    tar.file("bin/busybox", 0o755, binary)?;
    for applet in applets.iter().filter(|applet| *applet != "busybox") {
        tar.symlink(&format!("bin/{applet}"), "busybox")?;
    }
    let users = "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\n\
                 builder:x:1000:1001:builder:/home/builder:/bin/sh\n";
    tar.file("etc/passwd", 0o644, users.as_bytes())?;
    let groups = "root:x:0:\ndaemon:x:1:\nbuilders:x:1001:\nstaff:x:50:builder\n";
    tar.file("etc/group", 0o644, groups.as_bytes())?;
    layout.add_layer(&tar.finish()?[..], Compression::Gzip)
}

/// A minimal Debian of this machine's release.
///
/// # Errors
/// mmdebstrap is missing or the packages cannot be fetched.
pub fn debian() -> Result<Layout> {
    bootstrapped("debian-1", &[])
}

/// A minimal Debian with a C compiler and make: enough to build GNU hello.
///
/// # Errors
/// mmdebstrap is missing or the packages cannot be fetched.
pub fn gcc() -> Result<Layout> {
    bootstrapped("gcc-1", &["gcc", "libc6-dev", "make", "patch"])
}

fn bootstrapped(name: &str, include: &[&str]) -> Result<Layout> {
    let entry = cached(name, |directory| {
        let native = Apt::native_architecture()?;
        let scratch = tempfile::tempdir()?;
        let archive = scratch.path().join("root.tar");
        Apt::prepare(&scratch.path().join("apt"), &[&native])?.bootstrap(include, &archive)?;
        let layout = Layout::create(directory)?;
        let layer = layout.add_layer(BufReader::new(File::open(&archive)?), Compression::Gzip)?;
        let container = json!({"Env": [PATH], "Cmd": ["bash"]});
        let manifest = layout.add_image(&native, container, &[layer])?;
        layout.tag("latest", &[manifest])
    })?;
    Layout::open(&entry)
}

/// An image of three layers (gzip, zstd, uncompressed) that has every kind of entry a layer can
/// have: owners, modes, extended attributes, hard links, whiteouts and an opaque directory.
///
/// It is made anew in `directory`, from nothing but this function.
///
/// # Errors
/// The directory cannot be written.
pub fn layered(directory: &Path) -> Result<Layout> {
    let layout = Layout::create(directory)?;
    let mut lower = TarWriter::new();
    lower.owner(1, 2).directory("a", 0o750)?.file("a/one", 0o644, b"one")?;
    lower.hard_link("a/two", "a/one")?.hard_link("a/three", "a/one")?;
    lower.owner(0, 0).file("a/gone", 0o600, b"gone")?;
    lower.directory("opaque", 0o755)?.file("opaque/old", 0o644, b"old")?;
    lower.directory("replaced", 0o755)?.file("replaced/inner", 0o644, b"inner")?;
    let mut middle = TarWriter::new();
    middle.file("a/.wh.gone", 0, b"")?;
    middle.directory("opaque", 0o711)?.file("opaque/.wh..wh..opq", 0, b"")?;
    middle.file("opaque/new", 0o644, b"new")?;
    middle.symlink("a/link", "one")?.symlink("a/away", "/../../etc")?;
    middle.attribute("user.note", b"kept").file("a/noted", 0o4755, b"noted")?;
    middle.file("replaced", 0o644, b"now a file")?;
    let mut upper = TarWriter::new();
    upper.file("a/one", 0o640, b"one, again")?;
    upper.fifo("a/pipe", 0o600)?;
    let layers = [
        layout.add_layer(&lower.finish()?[..], Compression::Gzip)?,
        layout.add_layer(&middle.finish()?[..], Compression::Zstd)?,
        layout.add_layer(&upper.finish()?[..], Compression::None)?,
    ];
    let container = json!({"Env": [PATH, "LAYERED=yes"], "WorkingDir": "/a"});
    let manifest = layout.add_image(&oci_architecture()?, container, &layers)?;
    layout.tag("latest", &[manifest])?;
    Ok(layout)
}

/// An image of the same layers as another and one more, made in `directory`: what a base image is
/// after its publisher has updated it.
///
/// # Errors
/// The base has no image for this machine.
pub fn updated(base: &Layout, addition: TarWriter, directory: &Path) -> Result<Layout> {
    let arch = oci_architecture()?;
    let image = base.image(&arch)?;
    let layout = Layout::create(directory)?;
    let mut layers = Vec::new();
    for archive in base.layers(&image)? {
        layers.push(layout.add_layer(&archive[..], Compression::Gzip)?);
    }
    layers.push(layout.add_layer(&addition.finish()?[..], Compression::Gzip)?);
    let manifest = layout.add_image(&arch, image.config["config"].clone(), &layers)?;
    layout.tag("latest", &[manifest])?;
    Ok(layout)
}

/// The digest of the one layer of [`busybox`] for this machine.
///
/// # Errors
/// As [`busybox`].
pub fn busybox_layer_digest() -> Result<String> {
    let image = busybox()?.image(&oci_architecture()?)?;
    Ok(image.manifest["layers"][0]["digest"].as_str().unwrap_or_default().to_owned())
}

/// This machine's architecture, by its OCI name.
///
/// # Errors
/// There is no dpkg on this machine.
pub fn oci_architecture() -> Result<String> {
    let debian = Apt::native_architecture()?;
    Ok(match debian.as_str() {
        "i386" => "386".to_owned(),
        "armhf" => "arm".to_owned(),
        "ppc64el" => "ppc64le".to_owned(),
        _ => debian,
    })
}

/// The archives of Debian's source package of GNU hello.
pub struct HelloSource {
    /// `hello_VERSION.orig.tar.gz`.
    pub upstream: PathBuf,
    /// `hello_VERSION-REVISION.debian.tar.xz`.
    pub debian: PathBuf,
}

/// Fetches Debian's source package of GNU hello.
///
/// # Errors
/// The machine's package sources have no source packages.
pub fn hello_source() -> Result<HelloSource> {
    let entry = cached("hello-source-1", |directory| {
        let scratch = tempfile::tempdir()?;
        let native = Apt::native_architecture()?;
        Apt::prepare(scratch.path(), &[&native])?.source("hello", directory)
    })?;
    let find = |part: &str| -> Result<PathBuf> {
        let names = fs::read_dir(&entry)?.flatten().map(|file| file.path());
        let mut found = names.filter(|path| path.to_string_lossy().contains(part));
        found.next().with_context(|| format!("the source package of hello has no {part}"))
    };
    Ok(HelloSource { upstream: find(".orig.tar.")?, debian: find(".debian.tar.")? })
}
