//! The client against a registry that fails, lies, or stops in the middle.

use crate::fixture::{Harm, Proxy, Registry, answer, client, noise, push_image, quick, quick_for};
use std::sync::Arc;

use bytes::Bytes;
use cofferdam_registry::{
    Client, ClientConfig, Credential, Credentials, CredentialsError, Descriptor, ErrorKind,
};
use expect_test::{Expect, expect};

const SIZE: usize = 3 << 20;

/// What came out, with the ranges that were asked for; `expected` shows errors, too.
async fn check_blob(faults: &[Harm], expected: Expect) {
    let registry = Registry::start().await;
    let bytes = noise(SIZE);
    let blob = Descriptor::of("x", &bytes);
    let direct = registry.reference("faulty");
    client().push_blob(&direct, &blob, &bytes, None).await.expect("pushed");

    let client = Client::new(quick_for(faults));
    let faults: Vec<_> = faults.iter().map(|harm| ("/blobs/", harm.clone())).collect();
    let proxy = Proxy::start(registry.address, &faults).await;
    let result = client.small_blob(&proxy.reference("faulty"), &blob).await;
    let mut text = match result {
        Ok(pulled) => {
            assert!(pulled == bytes, "wrong bytes got through");
            "ok\n".to_owned()
        }
        Err(error) => {
            let text = error.to_string();
            let (_, text) = text.split_once(&format!("{}: ", blob.digest)).expect("names it");
            format!("{:?}: {text}\n", error.kind())
        }
    };
    for request in proxy.requests("/blobs/") {
        let range = request.split_once("HTTP/1.1").expect("a request line").1.trim();
        let range = if range.is_empty() { "all" } else { range };
        text.push_str(&format!("{range}\n"));
    }
    proxy.assert_spent();
    expected.assert_eq(&text);
}

#[tokio::test]
async fn a_reset_download_is_resumed() {
    let faults = [Harm::ResetAfter(1_000_000), Harm::ResetAfter(500_000)];
    check_blob(
        &faults,
        expect![[r#"
        ok
        all
        range: bytes=1000000-
        range: bytes=1500000-
    "#]],
    )
    .await;
}

#[tokio::test]
async fn a_truncated_download_is_resumed() {
    check_blob(
        &[Harm::CloseAfter(1_000_000)],
        expect![[r#"
        ok
        all
        range: bytes=1000000-
    "#]],
    )
    .await;
}

#[tokio::test]
async fn a_registry_without_ranges_sends_all_again() {
    check_blob(
        &[Harm::ResetAfter(1_000_000), Harm::Without("range")],
        expect![[r#"
        ok
        all
        range: bytes=1000000-
    "#]],
    )
    .await;
}

#[tokio::test]
async fn a_registry_that_refuses_ranges_sends_all_again() {
    check_blob(
        &[Harm::ResetAfter(1_000_000), answer("416 Range Not Satisfiable", "")],
        expect![[r#"
            ok
            all
            range: bytes=1000000-
            all
        "#]],
    )
    .await;
}

#[tokio::test]
async fn a_stalled_download_is_resumed() {
    check_blob(
        &[Harm::StallAfter(1_000_000)],
        expect![[r#"
            ok
            all
            range: bytes=1000000-
        "#]],
    )
    .await;
}

#[tokio::test]
async fn a_download_that_goes_on_breaking_ends() {
    let faults = vec![Harm::CloseAfter(1000); 5];
    check_blob(
        &faults,
        expect![[r#"
            Network: expected 3145728 bytes, connection ended after 5000 (tried 5 times)
            all
            range: bytes=1000-
            range: bytes=2000-
            range: bytes=3000-
            range: bytes=4000-
        "#]],
    )
    .await;
}

#[tokio::test]
async fn wrong_bytes_are_fetched_again_and_never_used() {
    check_blob(
        &[Harm::Flip(1_500_000)],
        expect![[r#"
            ok
            all
            all
        "#]],
    )
    .await;
    check_blob(
        &[Harm::Flip(1_500_000), Harm::Flip(1_500_000)],
        expect![[r#"
            WrongContents: the contents have digest sha256:01efc5696d214388d243de007adfde278a8e2690ad2971dc5f218b01db1fc865, expected sha256:eacfe04bc21304a30f1841b28d57f3ff58dee143c5c40569fc8e05b078100339
            all
            all
        "#]],
    )
    .await;
}

#[tokio::test]
async fn wrong_bytes_in_a_resumed_part_are_refused() {
    check_blob(
        &[Harm::CloseAfter(1_000_000), Harm::Flip(7), Harm::Flip(1_000_007)],
        expect![[r#"
            WrongContents: the contents have digest sha256:17f83dc92d73f2fbe7207cbfc5d6468f2020b164dc6db6a93c5341f815c88ec8, expected sha256:eacfe04bc21304a30f1841b28d57f3ff58dee143c5c40569fc8e05b078100339
            all
            range: bytes=1000000-
            all
        "#]],
    )
    .await;
}

#[tokio::test]
async fn more_bytes_than_promised_are_refused() {
    check_blob(
        &[Harm::Append(b"more"), Harm::Append(b"more")],
        expect![[r#"
            WrongContents: expected 3145728 bytes, more were sent
            all
            all
        "#]],
    )
    .await;
}

#[tokio::test]
async fn a_failing_registry_is_asked_again() {
    let faults = [
        answer("500 Internal Server Error", ""),
        answer("503 Service Unavailable", "retry-after: Sun, 06 Nov 1994 08:49:37 GMT\r\n"),
        answer("429 Too Many Requests", "retry-after: 0\r\n"),
    ];
    check_blob(
        &faults,
        expect![[r#"
        ok
        all
        all
        all
        all
    "#]],
    )
    .await;
    check_blob(
        &vec![answer("500 Internal Server Error", ""); 5],
        expect![[r#"
            Network: the registry answered 500 (tried 5 times)
            all
            all
            all
            all
            all
        "#]],
    )
    .await;
}

#[tokio::test]
async fn manifests_are_asked_for_again() {
    let registry = Registry::start().await;
    let pushed =
        push_image(&client(), &registry.reference("m:1"), "amd64", &Bytes::from("layer")).await;
    let faults = [
        ("HEAD", answer("500 Internal Server Error", "")),
        ("HEAD", answer("429 Too Many Requests", "retry-after: 1\r\n")),
        ("GET /v2/m/manifests", Harm::ResetAfter(10)),
        ("GET /v2/m/manifests", answer("502 Bad Gateway", "")),
    ];
    let proxy = Proxy::start(registry.address, &faults).await;
    let client = client();
    let reference = proxy.reference("m:1");
    assert_eq!(client.resolve(&reference).await.expect("resolved"), pushed);
    assert_eq!(client.manifest(&reference).await.expect("pulled").descriptor, pushed);
    assert_eq!(proxy.requests("/manifests/").len(), 6);
    proxy.assert_spent();
}

#[tokio::test]
async fn a_registry_that_wants_us_to_wait_for_long_is_left_alone() {
    let registry = Registry::start().await;
    let faults = [("HEAD", answer("429 Too Many Requests", "retry-after: 3600\r\n"))];
    let proxy = Proxy::start(registry.address, &faults).await;
    let error = client().resolve(&proxy.reference("m:1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Network);
    assert_eq!(proxy.requests("/manifests/").len(), 1);
}

#[tokio::test]
async fn a_registry_without_head_is_asked_with_get() {
    let registry = Registry::start().await;
    let pushed =
        push_image(&client(), &registry.reference("m:1"), "amd64", &Bytes::from("layer")).await;
    let faults = [("HEAD", answer("405 Method Not Allowed", ""))];
    let proxy = Proxy::start(registry.address, &faults).await;
    assert_eq!(client().resolve(&proxy.reference("m:1")).await.expect("resolved"), pushed);
}

#[tokio::test]
async fn a_wrong_manifest_is_refused() {
    let registry = Registry::start().await;
    let pushed =
        push_image(&client(), &registry.reference("m:1"), "amd64", &Bytes::from("layer")).await;
    let harm = || ("GET /v2/m/manifests", Harm::Flip(30));
    let proxy = Proxy::start(registry.address, &[harm(), harm(), harm(), harm()]).await;
    let reference = proxy.reference("m:1");
    for reference in [&reference, &reference.with_digest(pushed.digest)] {
        let error = client().manifest(reference).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WrongContents, "{error}");
        assert!(error.to_string().contains("have digest"), "{error}");
    }
    proxy.assert_spent();
}

#[tokio::test]
async fn an_endless_manifest_is_refused() {
    let registry = Registry::start().await;
    let body = "x".repeat(9 << 20);
    let faults = [("GET /v2/m/manifests", Harm::Answer(format!("HTTP/1.1 200 OK\r\n\r\n{body}")))];
    let proxy = Proxy::start(registry.address, &faults).await;
    let error = client().manifest(&proxy.reference("m:1")).await.unwrap_err();
    expect!["larger than the limit of 8388608 bytes"].assert_eq(&error.problem.to_string());
}

/// Pushes through faults, and shows what was asked of the registry.
async fn check_upload(faults: &[(&str, Harm)], expected: Expect) {
    let registry = Registry::start().await;
    let proxy = Proxy::start(registry.address, faults).await;
    let bytes = noise(SIZE);
    let blob = Descriptor::of("x", &bytes);
    let reference = proxy.reference("up");
    let result = client().push_blob(&reference, &blob, &bytes, None).await;
    let mut text = match result {
        Ok(pushed) => {
            assert!(client().small_blob(&registry.reference("up"), &blob).await.unwrap() == bytes);
            format!("{pushed:?}\n")
        }
        Err(error) => {
            let text = error.to_string();
            let (_, text) = text.split_once(&format!("{}: ", blob.digest)).expect("names it");
            format!("{:?}: {text}\n", error.kind())
        }
    };
    for request in proxy.requests("") {
        let (method, path) = request.split_once(' ').expect("a request line");
        let what = if path.contains("/uploads/") { "upload" } else { "blob" };
        text.push_str(&format!("{method} {what}\n"));
    }
    proxy.assert_spent();
    expected.assert_eq(&text);
}

#[tokio::test]
async fn a_broken_upload_begins_again_where_nothing_is_kept() {
    check_upload(
        &[("POST", answer("503 Service Unavailable", "")), ("PATCH", Harm::CutUpload(2_000_000))],
        expect![[r#"
            Uploaded
            HEAD blob
            POST upload
            HEAD blob
            POST upload
            PATCH upload
            GET upload
            HEAD blob
            POST upload
            PATCH upload
            PUT upload
        "#]],
    )
    .await;
}

#[tokio::test]
async fn an_upload_whose_end_was_not_answered_is_complete() {
    check_upload(
        &[("PUT", Harm::Unanswered)],
        expect![[r#"
            Uploaded
            HEAD blob
            POST upload
            PATCH upload
            PUT upload
            GET upload
            HEAD blob
        "#]],
    )
    .await;
}

#[tokio::test]
async fn a_lost_upload_begins_again() {
    check_upload(
        &[("PATCH", answer("404 Not Found", ""))],
        expect![[r#"
        Uploaded
        HEAD blob
        POST upload
        PATCH upload
        HEAD blob
        POST upload
        PATCH upload
        PUT upload
    "#]],
    )
    .await;
    check_upload(
        &[("PATCH", Harm::CutUpload(2_000_000)), ("GET", answer("404 Not Found", ""))],
        expect![[r#"
            Uploaded
            HEAD blob
            POST upload
            PATCH upload
            GET upload
            HEAD blob
            POST upload
            PATCH upload
            PUT upload
        "#]],
    )
    .await;
}

#[tokio::test]
async fn an_upload_changed_on_the_way_is_sent_again() {
    check_upload(
        &[("PATCH", Harm::FlipUpload(2_000_000))],
        expect![[r#"
        Uploaded
        HEAD blob
        POST upload
        PATCH upload
        PUT upload
        HEAD blob
        POST upload
        PATCH upload
        PUT upload
    "#]],
    )
    .await;
}

#[tokio::test]
async fn an_upload_that_goes_on_failing_ends() {
    check_upload(
        &vec![("PATCH", answer("500 Internal Server Error", "")); 5],
        expect![[r#"
        Network: the registry answered 500 (tried 5 times)
        HEAD blob
        POST upload
        PATCH upload
        GET upload
        HEAD blob
        POST upload
        PATCH upload
        GET upload
        HEAD blob
        POST upload
        PATCH upload
        GET upload
        HEAD blob
        POST upload
        PATCH upload
        GET upload
        HEAD blob
        POST upload
        PATCH upload
    "#]],
    )
    .await;
}

/// A registry whose tokens come from a server of its own; `/v2/` and tokens are canned.
#[tokio::test]
async fn tokens_are_fetched_and_renewed() {
    let registry = Registry::start().await;
    let pushed =
        push_image(&client(), &registry.reference("t:1"), "amd64", &Bytes::from("layer")).await;
    // The address has to be known before the answers can name it.
    let tokens = Proxy::start(
        registry.address,
        &[("GET /token", token("first")), ("GET /token", token("second"))],
    )
    .await;
    let challenge = format!(
        "www-authenticate: Bearer realm=\"http://{}/token\",service=\"svc\"\r\n",
        tokens.address
    );
    let proxy = Proxy::start(
        registry.address,
        &[
            ("GET /v2/t/manifests", answer("401 Unauthorized", &challenge)),
            ("GET /v2/t/manifests", Harm::Without("none")),
            ("GET /v2/t/manifests", answer("401 Unauthorized", &challenge)),
        ],
    )
    .await;
    let client = client();
    let reference = proxy.reference("t:1");
    for _ in 0..2 {
        assert_eq!(client.manifest(&reference).await.expect("pulled").descriptor, pushed);
    }
    proxy.assert_spent();
    tokens.assert_spent();
    expect!["GET /token?service=svc&scope=repository%3At%3Apull HTTP/1.1"]
        .assert_eq(&tokens.requests("")[0]);
}

/// Sends an identity token to whoever asks.
struct Identity;

#[async_trait::async_trait]
impl Credentials for Identity {
    async fn credential(&self, _: &str) -> Result<Option<Credential>, CredentialsError> {
        Ok(Credential::from_pair("<token>", "refresh"))
    }
}

#[tokio::test]
async fn an_identity_token_is_exchanged() {
    let registry = Registry::start().await;
    let pushed =
        push_image(&client(), &registry.reference("t:1"), "amd64", &Bytes::from("layer")).await;
    let tokens = Proxy::start(registry.address, &[("POST /token", token("access"))]).await;
    let challenge =
        format!("www-authenticate: Bearer realm=\"http://{}/token\"\r\n", tokens.address);
    let faults = [("HEAD /v2/t/manifests", answer("401 Unauthorized", &challenge))];
    let proxy = Proxy::start(registry.address, &faults).await;
    let client = Client::new(ClientConfig { credentials: Arc::new(Identity), ..quick() });
    assert_eq!(client.resolve(&proxy.reference("t:1")).await.expect("resolved"), pushed);
    tokens.assert_spent();
}

#[tokio::test]
async fn a_token_that_would_break_a_header_is_refused() {
    let registry = Registry::start().await;
    let tokens = Proxy::start(registry.address, &[("GET /token", token("a\\nb"))]).await;
    let challenge =
        format!("www-authenticate: Bearer realm=\"http://{}/token\"\r\n", tokens.address);
    let faults = [("HEAD /v2/t/manifests", answer("401 Unauthorized", &challenge))];
    let proxy = Proxy::start(registry.address, &faults).await;
    let error = client().resolve(&proxy.reference("t:1")).await.unwrap_err();
    expect!["invalid: the token has control characters"].assert_eq(&error.problem.to_string());
}

fn token(token: &str) -> Harm {
    let body = format!(r#"{{"token": "{token}", "expires_in": 300}}"#);
    let length = body.len();
    Harm::Answer(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}"))
}

#[tokio::test]
async fn a_token_server_that_says_no_is_an_unauthorized_error() {
    let registry = Registry::start().await;
    let refusal = [("GET /token", answer("401 Unauthorized", ""))];
    let tokens = Proxy::start(registry.address, &refusal).await;
    let challenge =
        format!("www-authenticate: Bearer realm=\"http://{}/token\"\r\n", tokens.address);
    let faults = [("HEAD /v2/t/manifests", answer("401 Unauthorized", &challenge))];
    let proxy = Proxy::start(registry.address, &faults).await;
    let error = client().resolve(&proxy.reference("t:1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert_eq!(proxy.requests("/manifests/").len(), 1);
}
