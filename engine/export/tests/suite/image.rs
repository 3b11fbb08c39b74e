//! Images in layouts and registries, read by skopeo and umoci.

use std::collections::HashSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cofferdam_export::{
    Annotations, BuiltImage, Compression, ImageLayout, ImageOptions, LayoutFormat, Place,
    build_image, push,
};
use cofferdam_registry::{Client, ClientConfig, Reference};
use cofferdam_store::Snapshot;
use cofferdam_types::Digest;
use expect_test::{Expect, expect};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpSocket;

use crate::fixture::{
    Fixture, Times, attributes, describe_directory, describe_tree, noise, run, silent,
};

fn with(compression: Compression) -> ImageOptions {
    ImageOptions { compression, ..ImageOptions::default() }
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("read")).expect("JSON")
}

/// Builds the image with everything and writes it as an archive.
fn archive(fixture: &Fixture, options: &ImageOptions) -> (BuiltImage, String) {
    let images = [fixture.image("linux/amd64")];
    let image = build_image(&fixture.store, &images, options, &silent()).expect("built");
    let path = fixture.dir.path().join("image.tar");
    let mut file = fs::File::create(&path).expect("created");
    let names = [Reference::parse("demo:1").expect("valid")];
    layout(fixture, &image, &names).write_archive(&mut file).expect("written");
    (image, path.display().to_string())
}

#[test]
fn umoci_unpacks_what_the_tree_is() {
    for compression in [Compression::GZIP, Compression::Uncompressed] {
        let fixture = Fixture::new();
        let (_, path) = archive(&fixture, &with(compression));
        let layout = format!("{}/layout:1", fixture.dir.path().display());
        let bundle = fixture.dir.path().join("bundle");
        let from = format!("oci-archive:{path}:1");
        run("skopeo", &["--insecure-policy", "copy", &from, &format!("oci:{layout}")]);
        run("umoci", &["unpack", "--image", &layout, &bundle.display().to_string()]);
        let tree = fixture.tree(&fixture.everything());
        let unpacked = describe_directory(&bundle.join("rootfs"), Times::Seconds);
        assert_eq!(unpacked, describe_tree(&tree, Times::Seconds));
    }
}

#[test]
fn skopeo_decompresses_every_compression() {
    for compression in [
        Compression::Uncompressed,
        Compression::Gzip { level: 1 },
        Compression::GZIP,
        Compression::ZSTD,
        Compression::Zstd { level: 9 },
    ] {
        let fixture = Fixture::new();
        let (image, path) = archive(&fixture, &with(compression));
        let dir = fixture.dir.path().join("plain");
        let (from, to) = (format!("oci-archive:{path}"), format!("dir:{}", dir.display()));
        run("skopeo", &["--insecure-policy", "copy", "--dest-decompress", &from, &to]);
        for layer in &image.manifests[0].layers {
            let plain = fs::read(dir.join(layer.diff_id.hex())).expect("decompressed");
            assert_eq!(Digest::of(plain), layer.diff_id);
        }
    }
}

/// Another state directory, another order of layers in it, another second: the same image.
#[test]
fn the_same_input_gives_the_same_bytes() {
    let options =
        ImageOptions { source_date_epoch: Some(1_700_000_000), ..ImageOptions::default() };
    let first = Fixture::new();
    let second = Fixture::new();
    second.layer(&Snapshot::default(), |edit| edit.file("x", attributes(0o644, 0, 0), b"x"));
    let (a, b) = (archive(&first, &options), archive(&second, &options));
    assert_eq!(a.0, b.0);
    assert!(fs::read(a.1).expect("read") == fs::read(b.1).expect("read"));
    // Times come from the layers, not from the clock.
    let images = [first.image("linux/amd64")];
    let build = || build_image(&first.store, &images, &with(Compression::GZIP), &silent());
    let image = build().expect("built");
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(build().expect("built"), image);
}

#[test]
fn times_can_be_rewritten() {
    let fixture = Fixture::new();
    let epoch = 1_600_000_000;
    let options = ImageOptions {
        source_date_epoch: Some(epoch),
        rewrite_timestamp: true,
        compression: Compression::Uncompressed,
        ..ImageOptions::default()
    };
    let (image, _) = archive(&fixture, &options);
    for layer in &image.manifests[0].layers {
        let blob = fixture.store.open_blob(&layer.descriptor.digest).expect("there");
        let mut archive = tar::Archive::new(blob);
        for entry in archive.entries().expect("valid") {
            let mtime = entry.expect("valid").header().mtime().expect("valid");
            assert!(mtime <= epoch as u64, "{mtime}");
        }
    }
}

/// What is in the documents, with digests and sizes left out.
#[test]
fn documents_are_as_the_specification_says() {
    let fixture = Fixture::new();
    let images = [fixture.image("linux/amd64"), fixture.image("linux/arm/v7")];
    let mut annotations = Annotations::default();
    let arm = Some("linux/arm/v7".parse().expect("valid"));
    for (place, platform, key) in [
        (Place::Manifest, None, "m"),
        (Place::Manifest, arm, "arm"),
        (Place::ManifestDescriptor, None, "d"),
        (Place::Index, None, "i"),
        (Place::IndexDescriptor, None, "top"),
    ] {
        annotations.add(place, platform, key, "v").expect("valid");
    }
    let options = ImageOptions {
        annotations,
        source_date_epoch: Some(1_700_000_000),
        ..ImageOptions::default()
    };
    let image = build_image(&fixture.store, &images, &options, &silent()).expect("built");
    let dir = fixture.dir.path().join("layout");
    let names = [Reference::parse("demo:1").expect("valid")];
    layout(&fixture, &image, &names).write_directory(&dir).expect("written");
    check_document(
        &dir.join("index.json"),
        expect![[r#"
            {"annotations":{"io.containerd.image.name":"docker.io/library/demo:1","org.opencontainers.image.created":"2023-11-14T22:13:20Z","org.opencontainers.image.ref.name":"1","top":"v"},"mediaType":"application/vnd.oci.image.index.v1+json"}
            {"manifests":null,"mediaType":"application/vnd.oci.image.index.v1+json","schemaVersion":2}
        "#]],
    );
    let blob = |digest: &Digest| dir.join("blobs/sha256").join(digest.hex());
    check_document(
        &blob(&image.descriptor.digest),
        expect![[r#"
        {"annotations":{"d":"v"},"mediaType":"application/vnd.oci.image.manifest.v1+json","platform":{"architecture":"amd64","os":"linux"}}
        {"annotations":{"d":"v"},"mediaType":"application/vnd.oci.image.manifest.v1+json","platform":{"architecture":"arm","os":"linux","variant":"v7"}}
        {"annotations":{"i":"v"},"manifests":null,"mediaType":"application/vnd.oci.image.index.v1+json","schemaVersion":2}
    "#]],
    );
    let manifest = blob(&image.manifests[1].descriptor.digest);
    check_document(
        &manifest,
        expect![[r#"
            {"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip"}
            {"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip"}
            {"annotations":{"arm":"v","m":"v"},"config":{"mediaType":"application/vnd.oci.image.config.v1+json"},"layers":null,"mediaType":"application/vnd.oci.image.manifest.v1+json","schemaVersion":2}
        "#]],
    );
    let start = fs::read_to_string(&manifest).expect("text");
    assert!(start.starts_with("{\n  \"schemaVersion\": 2,\n  \"mediaType\": \""), "{start}");
    check_document(
        &blob(&image.manifests[1].config.digest),
        expect![[r#"
        {"architecture":"arm","config":{"Cmd":["sh"]},"created":"2023-11-14T22:13:20Z","history":[{"created":"2023-11-14T22:13:20Z","created_by":"one"},{"comment":"buildkit.exporter.image.v0","created":"2023-11-14T22:13:20Z"}],"os":"linux","rootfs":null,"variant":"v7"}
    "#]],
    );

    let docker = ImageOptions { oci_media_types: false, ..ImageOptions::default() };
    let image = build_image(&fixture.store, &images[..1], &docker, &silent()).expect("built");
    let manifest = fixture.store.blob_path(&image.descriptor.digest);
    check_document(
        &manifest,
        expect![[r#"
        {"mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip"}
        {"mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip"}
        {"config":{"mediaType":"application/vnd.docker.container.image.v1+json"},"layers":null,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","schemaVersion":2}
    "#]],
    );
}

fn check_document(path: &Path, expected: Expect) {
    let mut document = json_of(path);
    let mut lines = String::new();
    let stable = |value: &mut Value| {
        for key in ["digest", "size"] {
            if let Some(object) = value.as_object_mut() {
                object.remove(key);
            }
        }
    };
    for list in ["manifests", "layers"] {
        for mut item in document[list].as_array().cloned().unwrap_or_default() {
            stable(&mut item);
            lines.push_str(&format!("{item}\n"));
            document[list] = Value::Null;
        }
        if document.get(list).is_some_and(Value::is_null) && lines.is_empty() {
            document.as_object_mut().expect("an object").remove(list);
        }
    }
    if document.get("rootfs").is_some() {
        document["rootfs"] = Value::Null;
    }
    if let Some(config) = document.get_mut("config") {
        stable(config);
    }
    lines.push_str(&format!("{document}\n"));
    expected.assert_eq(&lines);
}

#[test]
fn contradictions_are_refused() {
    let fixture = Fixture::new();
    let image = fixture.image("linux/amd64");
    let check = |count: usize, options: ImageOptions, expected: Expect| {
        let images = vec![image.clone(); count];
        let error = build_image(&fixture.store, &images, &options, &silent()).expect_err("refused");
        expected.assert_eq(&error.to_string());
    };
    let mut annotations = Annotations::default();
    annotations.add(Place::Index, None, "a", "b").expect("valid");
    let index = ImageOptions { annotations, ..ImageOptions::default() };
    let mut annotations = Annotations::default();
    let s390x = Some("linux/s390x".parse().expect("valid"));
    annotations.add(Place::Manifest, s390x, "a", "b").expect("valid");
    let elsewhere = ImageOptions { annotations, ..ImageOptions::default() };
    check(1, elsewhere, expect!["annotation for the platform linux/s390x, which is not built"]);
    let docker = ImageOptions { multi_platform: true, oci_media_types: false, ..index.clone() };
    check(0, ImageOptions::default(), expect!["an image needs at least one platform"]);
    check(2, ImageOptions::default(), expect!["platform linux/amd64 is there twice"]);
    check(1, index, expect!["annotations of the index: the image has no index"]);
    check(1, docker, expect!["annotations need OCI media types"]);
    let level = with(Compression::Gzip { level: 10 });
    check(1, level, expect!["invalid compression level for gzip: expected 0 to 9"]);
    let mut broken = image.clone();
    broken.config = b"[]".to_vec();
    let error = build_image(&fixture.store, &[broken], &ImageOptions::default(), &silent());
    expect!["image config for linux/amd64: not a JSON object: invalid type: sequence, expected a map at line 1 column 0"]
        .assert_eq(&error.expect_err("refused").to_string());
}

/// It would remove the file `x` of the layers below, for whoever unpacks the image.
#[test]
fn a_file_that_looks_like_a_whiteout_is_refused() {
    let fixture = Fixture::new();
    let mut image = fixture.image("linux/amd64");
    image.snapshot = fixture.layer(&Snapshot::default(), |edit| {
        edit.directory("etc", attributes(0o755, 0, 0));
        edit.file("etc/.wh.x", attributes(0o644, 0, 0), b"");
    });
    let error = build_image(&fixture.store, &[image], &ImageOptions::default(), &silent());
    expect!["cannot export `/etc/.wh.x`: in an image layer, `.wh.` at the beginning of a name marks a removed file"]
        .assert_eq(&error.expect_err("refused").to_string());
}

#[test]
fn progress_ends_at_its_total() {
    let fixture = Fixture::new();
    let calls = Arc::new(Mutex::new(Vec::new()));
    let images = [fixture.image("linux/amd64")];
    let heard = calls.clone();
    let progress: cofferdam_export::Progress = Arc::new(move |id: &str, current, total| {
        heard.lock().expect("no panic").push((id.to_owned(), current, total));
    });
    let options = ImageOptions::default();
    build_image(&fixture.store, &images, &options, &progress).expect("built");
    let calls = std::mem::take(&mut *calls.lock().expect("no panic"));
    assert!(calls.iter().all(|(_, current, total)| current <= total), "{calls:?}");
    let ended = |name: &str| {
        let last = calls.iter().rfind(|(id, _, _)| id == name).expect("told");
        last.1 == last.2
    };
    assert!(ended("layer 1/2 of linux/amd64") && ended("layer 2/2 of linux/amd64"));
    assert!(calls.len() >= 6, "3 MiB were written on the way: {calls:?}");
}

/// Debian's `docker-registry` on a loopback port; ends with the value.
struct Registry {
    process: Child,
    address: SocketAddr,
    _port: TcpSocket,
    _dir: TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Registry {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        // Nobody else gets a port to which a socket is bound; a server that sets SO_REUSEADDR may.
        let port = TcpSocket::new_v4().expect("a socket");
        port.set_reuseaddr(true).expect("an option that there is");
        port.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a port");
        let address = port.local_addr().expect("bound");
        let data = dir.path().join("data");
        let config = json!({
            "version": "0.1",
            "log": { "level": "error" },
            "storage": { "filesystem": { "rootdirectory": data } },
            "http": { "addr": address },
        });
        // JSON is YAML.
        fs::write(dir.path().join("config.yml"), config.to_string()).expect("written");
        let process = Command::new("/usr/bin/docker-registry")
            .arg("serve")
            .arg(dir.path().join("config.yml"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Debian's docker-registry is installed");
        let mut registry = Self { process, address, _port: port, _dir: dir };
        while TcpStream::connect(address).is_err() {
            let ended = registry.process.try_wait().expect("our child");
            assert!(ended.is_none(), "the registry ended: {ended:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        registry
    }

    fn reference(&self, rest: &str) -> Reference {
        Reference::parse(&format!("{}/{rest}", self.address)).expect("valid")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_reads_what_was_pushed() {
    let (fixture, registry) = (Fixture::new(), Registry::start());
    let client = Client::new(ClientConfig::default());
    let images = [fixture.image("linux/amd64"), fixture.image("linux/arm64")];
    for (images, options) in [
        (&images[..], ImageOptions::default()),
        (&images[..1], ImageOptions::default()),
        (&images[..1], ImageOptions { oci_media_types: false, ..ImageOptions::default() }),
    ] {
        let image = build_image(&fixture.store, images, &options, &silent()).expect("built");
        let reference = registry.reference("demo/app:1");
        let digest = push(&fixture.store, &client, &reference, &image, &silent()).await;
        assert_eq!(digest.expect("pushed"), image.descriptor.digest);
        let from = format!("docker://{reference}");
        let platform = &images[images.len() - 1].platform;
        let arguments = ["--override-arch", &platform.architecture, "inspect"];
        let output = run("skopeo", &[&arguments[..], &["--tls-verify=false", &from]].concat());
        let inspected: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(inspected["Digest"], image.descriptor.digest.to_string());
        assert_eq!(inspected["Architecture"], platform.architecture);
        let manifest = &image.manifests[image.manifests.len() - 1];
        let layers: Vec<_> =
            manifest.layers.iter().map(|layer| layer.descriptor.digest.to_string()).collect();
        assert_eq!(inspected["Layers"], json!(layers));
    }
}

/// The blob of a base layer stays what it was, and goes from repository to repository.
#[tokio::test(flavor = "multi_thread")]
async fn base_layers_are_mounted_from_their_origin() {
    let (fixture, registry) = (Fixture::new(), Registry::start());
    let client = Client::new(ClientConfig::default());
    let options = with(Compression::Gzip { level: 1 });
    let base = fixture.layer(&Snapshot::default(), |edit| {
        edit.file("big", attributes(0o644, 0, 0), &noise(1 << 20));
    });
    let mut image = fixture.image("linux/amd64");
    image.snapshot = base.clone();
    let built = build_image(&fixture.store, &[image.clone()], &options, &silent()).expect("built");
    let from = registry.reference("base:1");
    push(&fixture.store, &client, &from, &built, &silent()).await.expect("pushed");
    let mut blob = fixture
        .store
        .layer_blob(base.top().expect("one layer"), "gzip-1")
        .expect("reads")
        .expect("remembered");
    blob.origin = from.name();
    fixture
        .store
        .save_layer_blob(base.top().expect("one layer"), "original", &blob)
        .expect("saved");

    image.snapshot = fixture.layer(&base, |edit| {
        edit.file("small", attributes(0o644, 0, 0), b"small");
    });
    let built = build_image(&fixture.store, &[image], &with(Compression::ZSTD), &silent());
    let built = built.expect("built");
    let layers = &built.manifests[0].layers;
    assert_eq!((layers[0].descriptor.digest, &*layers[0].origin), (blob.digest, &*from.name()));
    assert!(layers[1].descriptor.media_type.ends_with("+zstd"));

    let sent = Arc::new(Mutex::new(Vec::new()));
    let heard = sent.clone();
    let progress: cofferdam_export::Progress = Arc::new(move |id: &str, current, total| {
        if 0 < current && current < total {
            heard.lock().expect("no panic").push(id.to_owned());
        }
    });
    let to = registry.reference("derived:1");
    // Nothing of the base is read again: its blob is not even there any more.
    fs::remove_file(fixture.store.blob_path(&blob.digest)).expect("removed");
    push(&fixture.store, &client, &to, &built, &progress).await.expect("pushed");
    let sent = sent.lock().expect("no panic");
    assert!(!sent.contains(&blob.digest.to_string()), "{sent:?}");
    run("skopeo", &["inspect", "--tls-verify=false", &format!("docker://{to}")]);
}

fn layout<'a>(
    fixture: &'a Fixture,
    image: &'a BuiltImage,
    names: &'a [Reference],
) -> ImageLayout<'a> {
    let (store, format, without) = (&fixture.store, LayoutFormat::Oci, HashSet::new());
    ImageLayout { store, image, names, format, without }
}
