//! Mirrors: asked first, for pulls only, and passed over quickly when they are of no use.

use bytes::Bytes;
use cofferdam_registry::{Client, ClientConfig, Descriptor, ErrorKind, HostConfig, Reference};

use crate::fixture::{Harm, Proxy, Registry, answer, client, noise, push_image, quick_for};

/// A registry and a mirror of it, each behind a proxy, with the same image and blob.
struct World {
    origin: Proxy,
    mirror: Proxy,
    client: Client,
    reference: Reference,
    image: Descriptor,
    bytes: Bytes,
    blob: Descriptor,
    _registries: [Registry; 2],
}

impl World {
    async fn new(path: &str, origin_faults: &[(&str, Harm)], faults: &[(&str, Harm)]) -> Self {
        let registries = [Registry::start().await, Registry::start().await];
        let bytes = noise(3 << 20);
        let mut images = Vec::new();
        for (registry, path) in registries.iter().zip(["", path]) {
            let reference = registry.reference(&format!("{path}m:1"));
            images.push(push_image(&client(), &reference, "amd64", &bytes).await);
        }
        let origin = Proxy::start(registries[0].address, origin_faults).await;
        let mirror = Proxy::start(registries[1].address, faults).await;
        let mirrors = vec![format!("{}/{path}", mirror.address).parse().expect("valid")];
        let hosts = [(origin.address.to_string(), HostConfig { mirrors, ..HostConfig::default() })];
        let client = Client::new(ClientConfig {
            hosts: hosts.into(),
            ..quick_for(faults.iter().map(|(_, harm)| harm))
        });
        let reference = origin.reference("m:1");
        let (image, blob) = (images.remove(0), Descriptor::of("x", &bytes));
        Self { origin, mirror, client, reference, image, bytes, blob, _registries: registries }
    }

    async fn pull(&self) {
        assert_eq!(self.client.resolve(&self.reference).await.expect("resolved"), self.image);
        let blob = self.client.small_blob(&self.reference, &self.blob).await.expect("pulled");
        assert!(blob == self.bytes);
    }

    /// How many requests came to the registry and to the mirror.
    fn requests(&self) -> (usize, usize) {
        (self.origin.requests("").len(), self.mirror.requests("").len())
    }
}

#[tokio::test]
async fn a_mirror_serves_pulls_and_no_pushes() {
    let world = World::new("some/path/", &[], &[]).await;
    world.pull().await;
    assert_eq!(world.requests(), (0, 2));
    let asked = world.mirror.requests("HEAD");
    let expected = format!(
        "HEAD /v2/some/path/m/manifests/1?ns={} HTTP/1.1",
        world.origin.address.to_string().replace(':', "%3A")
    );
    assert_eq!(asked, [expected]);
    let other = Bytes::from("other");
    let blob = Descriptor::of("x", &other);
    world.client.push_blob(&world.reference, &blob, &other, None).await.expect("pushed");
    assert_eq!(world.requests(), (3, 2));
}

#[tokio::test]
async fn a_mirror_that_fails_is_asked_once() {
    for harm in [
        answer("500 Internal Server Error", ""),
        answer("429 Too Many Requests", "retry-after: 1\r\n"),
        Harm::Unanswered,
        Harm::Stall,
    ] {
        let world = World::new("", &[], &[("HEAD", harm.clone())]).await;
        world.pull().await;
        world.pull().await;
        assert_eq!(world.requests(), (4, 1), "{harm:?}");
    }
}

#[tokio::test]
async fn a_mirror_that_lacks_the_image_is_asked_after_the_registry() {
    let gone = || answer("404 Not Found", "");
    let world = World::new("", &[], &[("HEAD", gone())]).await;
    world.pull().await;
    world.pull().await;
    assert_eq!(world.requests(), (4, 1));
    // With the registry out of order, it may have what is needed after all.
    let broken = || ("GET", answer("500 Internal Server Error", ""));
    let faults = [broken(), broken(), broken(), broken(), broken()];
    let world = World::new("", &faults, &[("HEAD", gone())]).await;
    world.pull().await;
    assert_eq!(world.requests(), (6, 2));
}

#[tokio::test]
async fn what_a_mirror_breaks_off_is_resumed_and_then_left_to_the_registry() {
    let broken = || ("GET", Harm::CloseAfter(100_000));
    let faults = [broken(), broken(), broken(), broken(), broken()];
    let world = World::new("", &[], &faults).await;
    world.pull().await;
    let rest = world.origin.requests("GET");
    assert!(rest[0].ends_with("range: bytes=100000-"), "{rest:?}");
    assert_eq!(world.requests(), (1, 2));
}

#[tokio::test]
async fn wrong_bytes_of_a_mirror_are_fetched_from_the_registry() {
    let world = World::new("", &[], &[("GET", Harm::Flip(1_000_000))]).await;
    world.pull().await;
    assert_eq!(world.requests(), (1, 2));
    assert_eq!(
        world.client.manifest(&world.reference).await.expect("pulled").descriptor,
        world.image
    );
    assert_eq!(world.requests(), (2, 2));
}

#[tokio::test]
async fn an_error_names_the_mirrors_too() {
    let world =
        World::new("", &[("HEAD", answer("404 Not Found", ""))], &[("HEAD", answer("503 X", ""))])
            .await;
    let error = world.client.resolve(&world.reference).await.expect_err("nobody has it");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let expected = format!(
        "registry {}: manifest m:1: not found; mirror {}: the registry answered 503",
        world.origin.address, world.mirror.address
    );
    assert_eq!(error.to_string(), expected);
}
