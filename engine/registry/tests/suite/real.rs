//! The client against a real registry, in order.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use crate::fixture::{Registry, client, json, noise, push_image, quick, reference, reserve};
use bytes::Bytes;
use cofferdam_registry::{
    Client, ClientConfig, Credential, Credentials, CredentialsError, Descriptor, DockerConfig,
    ErrorKind, Pushed, media_type,
};
use cofferdam_types::{Digest, Platform};
use expect_test::expect;
use futures::TryStreamExt as _;
use tokio::io::AsyncReadExt as _;

fn platform(text: &str) -> Platform {
    text.parse().expect("a valid platform")
}

#[tokio::test]
async fn what_was_pushed_is_pulled() {
    let registry = Registry::start().await;
    let client = client();
    let reference = registry.reference("some/image:1");
    let layer = noise(3 << 20);
    let pushed = push_image(&client, &reference, "amd64", &layer).await;

    assert_eq!(client.resolve(&reference).await.expect("resolved"), pushed);
    let image = client.image(&reference, &platform("linux/amd64")).await.expect("pulled");
    assert_eq!(image.root.descriptor, pushed);
    assert_eq!(image.raw_manifest, image.root);
    assert_eq!(image.platform, Some(platform("linux/amd64")));
    assert_eq!(image.config, r#"{"os": "linux", "architecture": "amd64"}"#);
    let mut bytes = Vec::new();
    let stream = client.blob(&reference, &image.manifest.layers[0]);
    stream.into_reader().read_to_end(&mut bytes).await.expect("read");
    assert!(bytes == layer);

    let pinned = reference.with_digest(pushed.digest);
    assert_eq!(client.manifest(&pinned).await.expect("pulled"), image.root);
    let again = registry.reference("some/image").with_digest(pushed.digest);
    assert_eq!(
        client.push_manifest(&again, media_type::OCI_MANIFEST, image.root.bytes).await.ok(),
        Some(pushed.digest)
    );
}

#[tokio::test]
async fn an_index_gives_the_image_of_the_platform() {
    let registry = Registry::start().await;
    let client = client();
    let mut entries = Vec::new();
    let mut digests = Vec::new();
    for (architecture, shown) in [("amd64", "amd64"), ("arm64", "arm64"), ("amd64", "unknown")] {
        let reference = registry.reference(&format!("multi:{shown}"));
        let layer = Bytes::from(shown);
        let descriptor = push_image(&client, &reference, architecture, &layer).await;
        let os = if shown == "unknown" { "unknown" } else { "linux" };
        let entry = json(&descriptor);
        let entry = entry.strip_suffix('}').expect("an object");
        entries
            .push(format!(r#"{entry}, "platform": {{"os": "{os}", "architecture": "{shown}"}}}}"#));
        digests.push(descriptor.digest);
    }
    for kind in [media_type::OCI_INDEX, media_type::DOCKER_INDEX] {
        let index = Bytes::from(format!(
            r#"{{"schemaVersion": 2, "mediaType": "{kind}", "manifests": [{}]}}"#,
            entries.join(", ")
        ));
        let reference = registry.reference("multi:all");
        let digest = client.push_manifest(&reference, kind, index).await.expect("pushed");
        for (want, found) in [("linux/amd64", digests[0]), ("linux/arm64", digests[1])] {
            let image = client.image(&reference, &platform(want)).await.expect("pulled");
            assert_eq!(image.root.descriptor.digest, digest);
            assert_eq!(image.root.descriptor.media_type, kind);
            assert_eq!(image.raw_manifest.descriptor.digest, found);
            assert_eq!(image.platform, Some(platform(want)));
        }
        let error = client.image(&reference, &platform("linux/s390x")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoPlatform);
        expect![["no image for platform linux/s390x, there is one for: linux/amd64, linux/arm64"]]
            .assert_eq(&error.problem.to_string());
    }
}

#[tokio::test]
async fn blobs_are_sent_only_if_they_have_to_be() {
    let registry = Registry::start().await;
    let client = client();
    let (first, second) = (registry.reference("first"), registry.reference("second"));
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let bytes = noise(1 << 20);
    std::fs::write(file.path(), &bytes).expect("written");
    let blob = Descriptor::of("application/octet-stream", &bytes);
    let path: &Path = file.path();

    let push = async |to, from| client.push_blob(to, &blob, path, from).await.expect("pushed");
    assert_eq!(push(&first, None).await, Pushed::Uploaded);
    assert_eq!(push(&first, None).await, Pushed::Existed);
    assert_eq!(push(&second, Some(&first)).await, Pushed::Mounted);
    assert_eq!(push(&second, Some(&first)).await, Pushed::Existed);
    let third = registry.reference("third");
    let empty = registry.reference("nothing/here");
    assert_eq!(push(&third, Some(&empty)).await, Pushed::Uploaded);
    for reference in [first, second, third] {
        assert!(client.small_blob(&reference, &blob).await.expect("pulled") == bytes);
    }
}

#[tokio::test]
async fn an_empty_blob_comes_through() {
    let registry = Registry::start().await;
    let client = client();
    let reference = registry.reference("empty");
    let blob = Descriptor::of("application/octet-stream", b"");
    let pushed = client.push_blob(&reference, &blob, &Bytes::new(), None).await;
    assert_eq!(pushed.expect("pushed"), Pushed::Uploaded);
    assert_eq!(client.small_blob(&reference, &blob).await.expect("pulled"), "");
    let lie = Descriptor::new("x", Digest::of(b"x"), 0);
    let error = client.small_blob(&reference, &lie).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongContents);
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let registry = Registry::start().await;
    let client = client();
    let reference = registry.reference("no/such:tag");
    let errors = [
        client.resolve(&reference).await.unwrap_err(),
        client.manifest(&reference).await.unwrap_err(),
        client.manifest(&reference.with_digest(Digest::of(b"x"))).await.unwrap_err(),
        client.small_blob(&reference, &Descriptor::of("x", b"x")).await.unwrap_err(),
    ];
    let text: String = errors
        .iter()
        .map(|error| {
            assert_eq!(error.kind(), ErrorKind::NotFound);
            format!("{error}\n").replace(&registry.address.to_string(), "ADDRESS")
        })
        .collect();
    expect![[r#"
        registry ADDRESS: manifest no/such:tag: not found
        registry ADDRESS: manifest no/such:tag: not found
        registry ADDRESS: manifest no/such@sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881: not found
        registry ADDRESS: blob no/such@sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881: not found
    "#]]
    .assert_eq(&text);
}

#[tokio::test]
async fn a_descriptor_has_to_be_right() {
    let registry = Registry::start().await;
    let client = client();
    let reference = registry.reference("wrong");
    let bytes = noise(100_000);
    let right = Descriptor::of("x", &bytes);
    let push = async |descriptor: &Descriptor| {
        let result = client.push_blob(&reference, descriptor, &bytes, None).await;
        result.expect_err("refused").kind()
    };
    let size = right.size;
    assert_eq!(push(&Descriptor { size: size + 1, ..right.clone() }).await, ErrorKind::Local);
    let other = Descriptor { digest: Digest::of(b"other"), ..right.clone() };
    assert_eq!(push(&other).await, ErrorKind::Local);
    let missing = Path::new("/nonexistent/blob");
    let error = client.push_blob(&reference, &right, missing, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Local);

    client.push_blob(&reference, &right, &bytes, None).await.expect("pushed");
    for wrong in [size - 1, size + 1] {
        let descriptor = Descriptor { size: wrong, ..right.clone() };
        let error = client.small_blob(&reference, &descriptor).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WrongContents, "{error}");
    }
}

#[tokio::test]
async fn a_manifest_without_its_blobs_is_rejected() {
    let registry = Registry::start().await;
    let missing = json(&Descriptor::of("application/vnd.oci.image.config.v1+json", b"x"));
    let manifest = Bytes::from(format!(
        r#"{{"schemaVersion": 2, "mediaType": "{}", "config": {missing}, "layers": []}}"#,
        media_type::OCI_MANIFEST
    ));
    let reference = registry.reference("bare:1");
    let client = client();
    let pushed = client.push_manifest(&reference, media_type::OCI_MANIFEST, manifest).await;
    let error = pushed.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rejected);
    expect!["the registry answered 400: blob unknown to registry (MANIFEST_BLOB_UNKNOWN)"]
        .assert_eq(&error.problem.to_string());
}

#[tokio::test]
async fn nobody_there_is_a_network_error() {
    let (_port, nobody) = reserve();
    let error = client().resolve(&reference(nobody, "x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Network);
    assert!(error.to_string().contains("refused"), "{error}");
}

/// Gives one answer to everyone.
struct Always(Option<Credential>);

#[async_trait::async_trait]
impl Credentials for Always {
    async fn credential(&self, _: &str) -> Result<Option<Credential>, CredentialsError> {
        Ok(self.0.clone())
    }
}

#[tokio::test]
async fn a_password_is_needed_and_enough() {
    let registry = Registry::start_with_password().await;
    let reference = registry.reference("locked:1");
    let with = |credential| {
        Client::new(ClientConfig { credentials: Arc::new(Always(credential)), ..quick() })
    };
    for wrong in [None, Credential::from_pair("demo", "hunter2")] {
        let client = with(wrong);
        let blob = Descriptor::of("x", b"x");
        let errors = [
            client.resolve(&reference).await.unwrap_err(),
            client.small_blob(&reference, &blob).await.unwrap_err(),
            client.push_blob(&reference, &blob, &Bytes::from("x"), None).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::Unauthorized);
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
    }
    let client = with(Credential::from_pair("demo", "correct horse"));
    let layer = noise(100_000);
    let pushed = push_image(&client, &reference, "amd64", &layer).await;
    assert_eq!(client.resolve(&reference).await.expect("resolved"), pushed);
    let other = registry.reference("other");
    let blob = Descriptor::of("x", &layer);
    let mounted = client.push_blob(&other, &blob, &layer, Some(&reference)).await;
    assert_eq!(mounted.expect("pushed"), Pushed::Mounted);
}

#[tokio::test]
async fn a_credential_helper_lets_us_in() {
    let registry = Registry::start_with_password().await;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let helper = dir.path().join("docker-credential-fake");
    let script = "#!/bin/sh\nread server\n\
         echo \"{\\\"ServerURL\\\":\\\"$server\\\",\\\"Username\\\":\\\"demo\\\",\
         \\\"Secret\\\":\\\"correct horse\\\"}\"\n";
    std::fs::write(&helper, script).expect("written");
    std::fs::set_permissions(&helper, PermissionsExt::from_mode(0o755)).expect("executable");
    let config = dir.path().join("config.json");
    let json = format!(r#"{{"credHelpers": {{"{}": "fake"}}}}"#, registry.address);
    std::fs::write(&config, json).expect("written");

    let config = DockerConfig::load(&config).expect("valid").helper_dirs([dir.path().into()]);
    let client = Client::new(ClientConfig { credentials: Arc::new(config), ..quick() });
    let reference = registry.reference("helped:1");
    let pushed = push_image(&client, &reference, "amd64", &noise(10)).await;
    let image = client.image(&reference, &platform("linux/amd64")).await.expect("pulled");
    assert_eq!(image.root.descriptor, pushed);
    let layer = client.blob(&reference, &image.manifest.layers[0]);
    let chunks: Vec<Bytes> = layer.try_collect().await.expect("read");
    assert!(chunks.concat() == noise(10));
}

#[tokio::test]
async fn operations_run_in_tasks_of_their_own() {
    let registry = Registry::start().await;
    let client = client();
    let reference = registry.reference("tasks:1");
    push_image(&client, &reference, "amd64", &noise(10)).await;
    // More at once than the limit lets through.
    let tasks: Vec<_> = (0..20)
        .map(|n| {
            let (client, reference) = (client.clone(), reference.clone());
            tokio::spawn(async move {
                let bytes = noise(50_000 + n);
                let blob = Descriptor::of("x", &bytes);
                client.push_blob(&reference, &blob, &bytes, None).await?;
                client.image(&reference, &platform("linux/amd64")).await?;
                client.small_blob(&reference, &blob).await.map(|pulled| pulled == bytes)
            })
        })
        .collect();
    for task in tasks {
        assert!(task.await.expect("no panic").expect("no error"));
    }
}
