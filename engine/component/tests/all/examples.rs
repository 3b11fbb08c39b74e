//! The frontends in `examples/frontends` work.

use cofferdam_component::{Error, Limits, Request};
use cofferdam_types::Platform;
use expect_test::expect;

use crate::common::{FakeHost, frontend, show};

fn request() -> Request {
    Request { platforms: vec![Platform::new("linux", "amd64")], ..Request::default() }
}

#[tokio::test]
async fn toml_image_builds_its_sample() {
    let sample = include_str!("../../../../examples/frontends/toml-image/sample/image.toml");
    let host = FakeHost::with("/image.toml", sample);
    let result = frontend(Limits::default(), "toml-image").build(request(), host).await.unwrap();
    expect![[r#"
        source [linux/amd64] of 0: FROM docker.io/library/busybox:latest
        source [] of 0: load build context
        file [] of 2: [1/3] copy greeting /srv/
        file [] of 1: [2/3] write /srv/made-by
        exec [linux/amd64] of 1: [3/3] run /bin/sh -c echo "$GREETING from a step" >> /srv/greeting
    "#]]
    .assert_eq(&show(&result));
    let config = String::from_utf8(result.results[0].config.clone()).unwrap();
    expect![[r#"{"architecture":"amd64","config":{"Cmd":null,"Entrypoint":["/bin/cat","/srv/greeting","/srv/made-by"],"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin","GREETING=hello"],"Labels":{"org.example.kind":"sample"},"WorkingDir":"/srv"},"os":"linux"}"#]].assert_eq(&config);
}

#[tokio::test]
async fn toml_image_points_at_mistakes() {
    let host = FakeHost::with("/image.toml", "[image]\nbase = 1\n");
    let error = frontend(Limits::default(), "toml-image").build(request(), host).await.unwrap_err();
    let Error::Build(error) = error else { panic!("{error}") };
    assert_eq!(error.locations[0].start_line, 2);
    assert_eq!(error.sources[0].filename, "image.toml");
}

#[tokio::test]
async fn minimal_c_writes_one_file() {
    let minimal = frontend(Limits::default(), "minimal-c");
    let result = minimal.build(request(), FakeHost::new()).await.unwrap();
    expect![[r#"
        file [] of 0: write /hello
    "#]]
    .assert_eq(&show(&result));
    let description = minimal.describe(FakeHost::new()).await.unwrap();
    assert_eq!(description.name, "minimal-c");
}
