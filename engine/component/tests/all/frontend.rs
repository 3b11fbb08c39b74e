//! A real frontend that uses every import, with a host that answers from memory.

use crate::common::{FakeHost, frontend, show};
use cofferdam_component::{Error, Limits, Request};
use cofferdam_types::Platform;
use expect_test::expect;

fn request() -> Request {
    Request { platforms: vec![Platform::new("linux", "amd64")], ..Request::default() }
}

fn with(mut request: Request, key: &str, value: &str) -> Request {
    request.options.insert(key.into(), value.into());
    request
}

#[tokio::test]
async fn every_import_works() {
    let limits =
        Limits { compute_time: std::time::Duration::from_millis(250), ..Limits::default() };
    let probe = frontend(limits, "attack-probe");
    let host = FakeHost::new();
    let result = probe.build(request(), host.clone()).await.unwrap();
    expect![[r#"
        Stdout probe: out
        Stderr probe: err
        resolve busybox for linux/amd64 (Default): look up busybox
        solve run true (located: true)
        input other
        call dockerfile with {"target": "x"}
        warning mind the gap at [SourceRange { source: 0, start_line: 2, end_line: 2, start_column: 0, end_column: 0 }] of ["Probefile"]"#]]
    .assert_eq(&host.asked().join("\n"));

    assert_eq!(result.results[0].config, br#"{"architecture":"amd64"}"#);
    assert_eq!(result.metadata["note"], b"done");
    expect![[r#"
        source [linux/amd64] of 0: docker-image://docker.io/library/busybox:latest@sha256:9d75f0d7c398df565d7ac04c6819b62d6d8f9560f5eb4672596ecd8f7e96ae91
        exec [linux/amd64] of 1: run true
        diff [] of 2: diff (docker-image://docker.io/library/busybox:latest@sha256:9d75f0d7c398df565d7ac04c6819b62d6d8f9560f5eb4672596ecd8f7e96ae91) -> (run true)
        source [] of 0: local://other
        file [] of 1: mkfile /a, copy /etc/motd /b
        source [] of 0: local://called
        merge [] of 5: merge (docker-image://docker.io/library/busybox:latest@sha256:9d75f0d7c398df565d7ac04c6819b62d6d8f9560f5eb4672596ecd8f7e96ae91, diff (docker-image://docker.io/library/busybox:latest@sha256:9d75f0d7c398df565d7ac04c6819b62d6d8f9560f5eb4672596ecd8f7e96ae91) -> (run true), local://other, mkfile /a, copy /etc/motd /b, local://called)
    "#]]
    .assert_eq(&show(&result));

    let again = probe.build(request(), FakeHost::new()).await.unwrap();
    assert_eq!(again.results, result.results, "the same request gives the same digests");
}

#[tokio::test]
async fn frontends_see_nothing_of_the_machine() {
    let probe = frontend(Limits::default(), "attack-probe");
    let request = with(Request { subrequest: "look".into(), ..request() }, "probe", "wasi");
    let mut seen = Vec::new();
    for _ in 0..2 {
        let result = probe.build(request.clone(), FakeHost::new()).await.unwrap();
        seen.push(String::from_utf8(result.metadata["seen"].clone()).unwrap());
    }
    expect![[r#"wall Some(0ns), spent 1, hash 735b2f4734cda621, env [], args [], cwd Some("/"), root false, file false"#]].assert_eq(&seen[0]);
    assert_eq!(seen[0], seen[1]);
}

#[tokio::test]
async fn errors_keep_their_parts() {
    let probe = frontend(Limits::default(), "attack-probe");
    let error = probe.build(with(request(), "fail", ""), FakeHost::new()).await.unwrap_err();
    let Error::Build(error) = error else { panic!("{error}") };
    assert_eq!(error.message, "told to fail");
    assert_eq!(error.hints, ["do not tell it"]);
    assert_eq!(error.locations[0].start_line, 2);
    let other = &error.others[0];
    assert_eq!(other.message, "and once more");
    assert_eq!((other.locations[0].start_column, other.locations[0].end_column), (1, 3));
    assert_eq!(error.sources[0].data, b"one\ntwo\n");
}

#[tokio::test]
async fn results_must_fit_the_request() {
    let probe = frontend(Limits::default(), "attack-probe");
    let error = probe.build(with(request(), "probe", "wasi"), FakeHost::new()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "component `attack-probe` returned an invalid result: 0 results, expected 1"
    );
}

#[tokio::test]
async fn describe_needs_no_request() {
    let probe = frontend(Limits::default(), "attack-probe");
    let description = probe.describe(FakeHost::new()).await.unwrap();
    assert_eq!((description.name.as_str(), description.version.as_str()), ("probe", "1"));
    assert_eq!(description.subrequests, ["look"]);
}
