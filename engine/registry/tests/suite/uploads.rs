//! Going on with a broken upload, at a registry that keeps what came of it, as the specification
//! has it. (Debian's docker-registry throws it away.)

use std::sync::{Arc, Mutex};

use cofferdam_registry::{Descriptor, Pushed};
use expect_test::{Expect, expect};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::fixture::{client, noise, read_head, reference};

/// What one upload is like: how much of the body of each `PATCH` is taken before the connection
/// breaks, and what the registry says then.
#[derive(Default)]
struct Uploads {
    breaks: Vec<usize>,
    received: Vec<u8>,
    /// Whether the end was told.
    complete: bool,
    requests: Vec<String>,
}

async fn check(breaks: &[usize], keeps: fn(usize) -> usize, expected: Expect) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let uploads = Uploads { breaks: breaks.to_vec(), ..Uploads::default() };
    let state = Arc::new(Mutex::new(uploads));
    let shared = state.clone();
    let server = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let shared = shared.clone();
            // A connection that breaks is what this is for.
            tokio::spawn(async move { drop(serve(stream, &shared, keeps).await) });
        }
    });
    let bytes = noise(3 << 20);
    let blob = Descriptor::of("x", &bytes);
    let pushed = client().push_blob(&reference(address, "up"), &blob, &bytes, None).await;
    server.abort();
    assert_eq!(pushed.expect("pushed"), Pushed::Uploaded);
    let state = state.lock().expect("not poisoned");
    assert!(state.received == bytes, "wrong bytes arrived");
    expected.assert_eq(&state.requests.join("\n"));
}

async fn serve(
    mut stream: TcpStream,
    state: &Mutex<Uploads>,
    keeps: fn(usize) -> usize,
) -> std::io::Result<()> {
    let (head, mut body) = read_head(&mut stream).await?;
    let method = head.split(' ').next().unwrap_or_default().to_owned();
    let value = |name: &str| {
        let line = head.lines().find(|line| line.to_lowercase().starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let range = value("content-range:").unwrap_or_default();
    let length: usize = value("content-length:").and_then(|text| text.parse().ok()).unwrap_or(0);
    let line = format!("{method} {range}").trim().to_owned();
    let cut = {
        let mut state = state.lock().expect("not poisoned");
        state.requests.push(line);
        if method == "PATCH" && !state.breaks.is_empty() {
            Some(state.breaks.remove(0))
        } else {
            None
        }
    };
    let take = cut.unwrap_or(length);
    while body.len() < take && stream.read_buf(&mut body).await? > 0 {}
    body.truncate(take);
    let answer = {
        let mut state = state.lock().expect("not poisoned");
        state.received.extend_from_slice(&body);
        if cut.is_some() {
            let kept = keeps(state.received.len());
            state.received.truncate(kept);
            stream.set_zero_linger()?;
            return Ok(());
        }
        let have = state.received.len();
        let range = if have > 0 { format!("Range: 0-{}\r\n", have - 1) } else { String::new() };
        let location = "Location: /v2/up/blobs/uploads/1?x=y\r\n";
        match method.as_str() {
            "HEAD" if state.complete => "200 OK\r\n".into(),
            "HEAD" => "404 Not Found\r\n".into(),
            "POST" => {
                state.received.clear();
                format!("202 Accepted\r\n{location}")
            }
            "PATCH" => format!("202 Accepted\r\n{location}{range}"),
            "GET" => format!("204 No Content\r\n{location}{range}"),
            _ => {
                state.complete = true;
                "201 Created\r\n".to_owned()
            }
        }
    };
    let answer = format!("HTTP/1.1 {answer}Content-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

#[tokio::test]
async fn a_broken_upload_goes_on_where_it_was() {
    check(
        &[1_000_000, 500_000],
        |have| have,
        expect![[r#"
        HEAD
        POST
        PATCH
        GET
        PATCH 1000000-3145727
        GET
        PATCH 1500000-3145727
        PUT"#]],
    )
    .await;
}

#[tokio::test]
async fn what_a_registry_did_not_keep_is_sent_again() {
    check(
        &[1_000_000],
        |have| have - 1000,
        expect![[r#"
        HEAD
        POST
        PATCH
        GET
        PATCH 999000-3145727
        PUT"#]],
    )
    .await;
    check(
        &[1_000_000],
        |_| 0,
        expect![[r#"
        HEAD
        POST
        PATCH
        GET
        HEAD
        POST
        PATCH
        PUT"#]],
    )
    .await;
    // This is told like nothing, so it is not relied on.
    check(
        &[1_000_000],
        |_| 1,
        expect![[r#"
        HEAD
        POST
        PATCH
        GET
        HEAD
        POST
        PATCH
        PUT"#]],
    )
    .await;
}

#[tokio::test]
async fn an_upload_that_gets_on_is_not_given_up() {
    check(
        &[1_100_000, 0, 0, 0, 1_100_000, 0, 0, 0],
        |have| have,
        expect![[r#"
        HEAD
        POST
        PATCH
        GET
        PATCH 1100000-3145727
        GET
        PATCH 1100000-3145727
        GET
        PATCH 1100000-3145727
        GET
        PATCH 1100000-3145727
        GET
        PATCH 2200000-3145727
        GET
        PATCH 2200000-3145727
        GET
        PATCH 2200000-3145727
        GET
        PATCH 2200000-3145727
        PUT"#]],
    )
    .await;
}
