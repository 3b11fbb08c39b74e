//! The language, seen from outside: whole Dockerfiles, what they become, and what is said when
//! they are wrong.

mod support;

use cofferdam_dockerfile::DockerfileFrontend;
use cofferdam_dockerfile::parse::parse;
use cofferdam_dockerfile::words::Expander;
use cofferdam_llb as llb;
use cofferdam_sdk::{BuildError, Frontend, Platform, Request, SourceRange};
use expect_test::{Expect, expect};
use proptest::prelude::*;

use support::LlbHost;

fn request(options: &[(&str, &str)], platforms: &[&str]) -> Request {
    Request {
        options: options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        platforms: platforms.iter().map(|text| text.parse().expect("a platform")).collect(),
        build_platform: Platform::new("linux", "amd64"),
        subrequest: String::new(),
    }
}

fn build(
    files: &[(&'static str, &'static str)],
    options: &[(&str, &str)],
    platforms: &[&str],
) -> (LlbHost, Result<Vec<serde_json::Value>, BuildError>) {
    let files = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned()));
    let host = LlbHost { files: files.collect(), ..LlbHost::default() };
    let result = DockerfileFrontend::build(&host, &request(options, platforms));
    let configs = result.map(|result| {
        let config = |result: &cofferdam_sdk::PlatformResult<llb::Edge>| {
            serde_json::from_slice(&result.config).expect("a config in JSON")
        };
        result.results.iter().map(config).collect()
    });
    (host, configs)
}

/// Checks the names of all ops, in the order in which they were made, and their sources.
fn check(
    files: &[(&'static str, &'static str)],
    options: &[(&str, &str)],
    platforms: &[&str],
    expected: Expect,
) {
    let (host, result) = build(files, options, platforms);
    let mut text = String::new();
    for (digest, description) in host.described.borrow().iter() {
        text += description.get("llb.customname").map_or("(no name)", String::as_str);
        let graph = host.graph.borrow();
        let vertex = graph.get(digest).expect("it was made");
        match &vertex.op.kind {
            llb::OpKind::Source(source) => {
                for (name, value) in &source.attrs {
                    text += &format!("\n    {name}={value}");
                }
            }
            llb::OpKind::Exec(exec) => {
                text += &format!("\n    env {:?}", &exec.meta.env[1..]);
                if let Some(proxy) = &exec.meta.proxy_env {
                    text += &format!("\n    proxy {}", proxy.http_proxy);
                }
            }
            _ => {}
        }
        text.push('\n');
    }
    if let Err(error) = result {
        text += &format!("error: {}\n", error.message);
        for location in &error.locations {
            text += &format!("  lines {}-{}\n", location.start_line, location.end_line);
        }
        for hint in &error.hints {
            text += &format!("  hint: {hint}\n");
        }
    }
    expected.assert_eq(&text);
}

fn check_error(dockerfile: &'static str, expected: Expect) {
    let (_, result) = build(&[("dockerfile/Dockerfile", dockerfile)], &[], &["linux/amd64"]);
    let error = result.expect_err("the file is wrong");
    let show = |message: &str, locations: &[SourceRange], hints: &[String]| {
        let place = |at: &SourceRange| {
            let SourceRange { start_line, end_line, start_column, end_column, .. } = at;
            format!("{start_line}:{start_column} to {end_line}:{end_column}")
        };
        let places: Vec<_> = locations.iter().map(place).collect();
        format!("{message}\n{} {hints:?}", places.join(", "))
    };
    let first = show(&error.message, &error.locations, &error.hints);
    let others = error
        .others
        .iter()
        .map(|other| format!("\n{}", show(&other.message, &other.locations, &other.hints)));
    expected.assert_eq(&(first + &others.collect::<String>()));
}

#[test]
fn only_what_is_used_of_the_context_is_asked_for() {
    check(
        &[
            (
                "dockerfile/Dockerfile",
                "FROM scratch AS unused\nCOPY never /\nFROM scratch\nARG D=src\nCOPY $D/*.c b/ /x/\n",
            ),
            ("context/.dockerignore", "*.o\n"),
        ],
        &[],
        &["linux/amd64"],
        expect![[r#"
            [internal] load build definition from Dockerfile
                local.followpaths=["Dockerfile","Dockerfile.dockerignore","dockerfile"]
                local.sharedkeyhint=dockerfile
            [internal] load .dockerignore
                local.followpaths=[".dockerignore"]
                local.sharedkeyhint=context
            [internal] load build context
                local.excludepatterns=["*.o"]
                local.followpaths=["b","src/*.c"]
                local.sharedkeyhint=context
            [stage-1 1/1] COPY src/*.c b/ /x/
        "#]],
    );
}

#[test]
fn the_dockerfiles_own_ignore_file_wins() {
    check(
        &[
            ("df/sub/Dockerfile", "FROM scratch\nCOPY . /\n"),
            ("df/sub/Dockerfile.dockerignore", "own\n"),
            ("ctx/.dockerignore", "other\n"),
        ],
        &[("filename", "sub/Dockerfile"), ("dockerfilekey", "df"), ("contextkey", "ctx")],
        &["linux/amd64"],
        expect![[r#"
            [internal] load build definition from sub/Dockerfile
                local.followpaths=["sub/Dockerfile","sub/Dockerfile.dockerignore","sub/dockerfile"]
                local.sharedkeyhint=df
            [internal] load build context
                local.excludepatterns=["own"]
                local.sharedkeyhint=ctx
            [1/1] COPY . /
        "#]],
    );
}

#[test]
fn several_platforms_share_what_does_not_depend_on_them() {
    check(
        &[(
            "dockerfile/dockerfile",
            "FROM --platform=$BUILDPLATFORM a AS build\nARG TARGETARCH\nRUN cc $TARGETARCH\nFROM b\nCOPY --from=0 /x /\n",
        )],
        &[],
        &["linux/amd64", "linux/arm64"],
        expect![[r#"
            [internal] load build definition from Dockerfile
                local.followpaths=["Dockerfile","Dockerfile.dockerignore","dockerfile"]
                local.sharedkeyhint=dockerfile
            [linux/amd64 build 1/2] FROM docker.io/library/a:latest@sha256:f820436b249dd7d5b5b777e9dbe54bce5983e7f4883b3c6d7dee9c05c6b93007
            [linux/amd64 build 2/2] RUN cc amd64
                env ["TARGETARCH=amd64"]
            [linux/amd64 stage-1 1/2] FROM docker.io/library/b:latest@sha256:499b655bd9860fd8ceb3c12523371d65bbe1d7ecefa0c778af36ee65c090438a
            [linux/amd64 stage-1 2/2] COPY --from=0 /x /
            [linux/amd64->arm64 build 1/2] FROM docker.io/library/a:latest@sha256:f820436b249dd7d5b5b777e9dbe54bce5983e7f4883b3c6d7dee9c05c6b93007
            [linux/amd64->arm64 build 2/2] RUN cc arm64
                env ["TARGETARCH=arm64"]
            [linux/arm64 stage-1 1/2] FROM docker.io/library/b:latest@sha256:53e8b761fb51abdb8f9bb67703ce6f3efeb2135f8dd4ccb73897af4f97850902
            [linux/arm64 stage-1 2/2] COPY --from=0 /x /
        "#]],
    );
}

#[test]
fn arguments_of_the_request() {
    check(
        &[(
            "dockerfile/Dockerfile",
            "ARG V=1\nFROM img:$V AS a\nARG V\nARG OTHER=x\nRUN a\nFROM a AS b\nENV OTHER=y\nRUN --network=none b\n",
        )],
        &[
            ("build-arg:V", "2"),
            ("build-arg:http_proxy", "http://p"),
            ("target", "B"),
            ("no-cache", ""),
            ("label:l", "v"),
        ],
        &["linux/amd64"],
        expect![[r#"
            [internal] load build definition from Dockerfile
                local.followpaths=["Dockerfile","Dockerfile.dockerignore","dockerfile"]
                local.sharedkeyhint=dockerfile
            [a 1/2] FROM docker.io/library/img:2@sha256:3d2296263ee93281155d9cdbec937cb4fb4c15e9a3e7ecd817a57df27ace36c8
            [a 2/2] RUN a
                env ["V=2", "OTHER=x"]
                proxy http://p
            [b 1/1] RUN --network=none b
                env ["V=2", "OTHER=y"]
                proxy http://p
        "#]],
    );
}

#[test]
fn named_contexts_replace_images_and_stages() {
    check(
        &[
            ("dockerfile/Dockerfile", "FROM base\nCOPY --from=src /a /\nCOPY --from=other /b /\n"),
            ("code/.dockerignore", "target\n"),
        ],
        &[
            ("context:base", "docker-image://alpine:3"),
            ("context:src", "local:code"),
            ("context:other", "scratch"),
        ],
        &["linux/amd64"],
        expect![[r#"
            [internal] load build definition from Dockerfile
                local.followpaths=["Dockerfile","Dockerfile.dockerignore","dockerfile"]
                local.sharedkeyhint=dockerfile
            [internal] load .dockerignore
                local.followpaths=[".dockerignore"]
                local.sharedkeyhint=code
            [stage-0 1/3] FROM docker.io/library/alpine:3@sha256:8db0b919f704dc1327f862b14bd7c7415c0bab37aaad066eaadd267554e278ec
            [context src] load from client
                local.excludepatterns=["target"]
                local.sharedkeyhint=code
            [stage-0 2/3] COPY --from=src /a /
            [stage-0 3/3] COPY --from=other /b /
        "#]],
    );
}

#[test]
fn errors_say_where_and_what_next() {
    check_error(
        "FROM a\nRNU x\nCOYP a b\n",
        expect![[r#"
            Dockerfile:2: unknown instruction `RNU`
            2:1 to 2:3 ["did you mean `RUN`?"]
            Dockerfile:3: unknown instruction `COYP`
            3:1 to 3:4 ["did you mean `COPY`?"]"#]],
    );
    check_error(
        "FROM a\nCOPY --form=x a b\n",
        expect![[r#"
            Dockerfile:2: unknown flag `--form` of COPY
            2:6 to 2:11 ["did you mean `--from`?"]"#]],
    );
    check_error(
        "FROM a AS build\nFROM b\nCOPY --from=3 a b\n",
        expect![[r#"
            Dockerfile:3: there is no stage `3`
            3:13 to 3:13 []"#]],
    );
    check_error(
        "FROM a AS f\nCOPY --from=late a b\nFROM f AS late\n",
        expect![[r#"
            Dockerfile:2: stage `late` is used before its end
            2:13 to 2:16 ["move the stage in front of the instruction that uses it"]"#]],
    );
    check_error(
        "RUN x\n",
        expect![[r#"
            Dockerfile:1: RUN stands before the first FROM: only ARG may
            1:1 to 1:3 []"#]],
    );
    check_error(
        "# nothing\n",
        expect![[r#"
            Dockerfile: the file has no FROM: expected at least one stage
             []"#]],
    );
    check_error(
        "FROM a\nCOPY x\n",
        expect![[r#"
            Dockerfile:2: COPY requires at least 2 arguments
            2:1 to 2:4 []"#]],
    );
    check_error(
        "FROM a\nCOPY x y /z\n",
        expect![[r#"
            Dockerfile:2: invalid destination `/z`: expected a directory with `/` at its end, because there are several sources
            2:10 to 2:11 []"#]],
    );
    check_error(
        "FROM a\nENV X ${Y:?must be given}\n",
        expect![[r#"
            Dockerfile:2: cannot expand `${Y:?must be given}`: `Y`: must be given
            2:7 to 2:25 []"#]],
    );
    check_error(
        "FROM $NONE\n",
        expect![[r#"
            Dockerfile:1: invalid base `$NONE`: expected an image or stage; a variable in it may not be set
            1:6 to 1:10 []"#]],
    );
    check_error(
        "FROM missing\n",
        expect![[r#"
            Dockerfile:1: no such image: `docker.io/library/missing:latest`
            1:0 to 1:0 []"#]],
    );
    check_error(
        "FROM a AS mising\nFROM a\nCOPY --from=missing a b\n",
        expect![[r#"
            Dockerfile:3: no such image: `docker.io/library/missing:latest`
            3:13 to 3:19 ["did you mean the stage `mising`?"]"#]],
    );
    check_error(
        "FROM a\nCOPY --chmod=999 x /z\n",
        expect![[r#"
            Dockerfile:2: invalid --chmod `999`: expected octal digits up to 07777, or a symbolic mode like `u=rwX,go=rX`
            2:14 to 2:16 []"#]],
    );
    check_error(
        "FROM a\nRUN --mount=type=cahce,target=/x y\n",
        expect![[r#"
            Dockerfile:2: invalid type of --mount `cahce`: expected `bind`, `cache`, `tmpfs`, `secret` or `ssh`
            2:18 to 2:22 ["did you mean `cache`?"]"#]],
    );
    check_error(
        "FROM a\nEXPOSE 99999\n",
        expect![[r#"
            Dockerfile:2: invalid port `99999`: expected `port[-port][/tcp|udp|sctp]`
            2:8 to 2:12 []"#]],
    );
    check_error(
        "FROM a\nSTOPSIGNAL SIGNONE\n",
        expect![[r#"
            Dockerfile:2: invalid signal `SIGNONE`: expected a signal's name like `SIGTERM`, or its number
            2:12 to 2:18 []"#]],
    );
    check_error(
        "FROM a\nONBUILD FROM b\n",
        expect![[r#"
            Dockerfile:2: ONBUILD cannot keep FROM
            2:1 to 2:7 []"#]],
    );
    check_error(
        "FROM a\nHEALTHCHECK --interval=1us CMD x\n",
        expect![[r#"
            Dockerfile:2: invalid --interval `1us`: expected a time of 1ms or more, like `1m30s`
            2:24 to 2:26 []"#]],
    );
    check_error(
        "FROM a\nSHELL bash\n",
        expect![[r#"
            Dockerfile:2: SHELL requires a JSON array of at least one text
            2:1 to 2:5 []"#]],
    );
    check_error(
        "FROM a\nRUN --security=insecure --security=sandbox x\n",
        expect![[r#"
            Dockerfile:2: RUN takes `--security` only once
            2:5 to 2:14 []"#]],
    );
}

#[test]
fn wrong_requests_are_named() {
    let files = [("dockerfile/Dockerfile", "FROM scratch AS build\n")];
    for (options, expected) in [
        (&[("target", "biuld")][..], "Dockerfile: there is no stage `biuld`"),
        (&[("filename", "x")], "there is no Dockerfile `x`: expected it in the build context"),
        (
            &[("context", "ftp://x/y.tar")],
            "invalid option context `ftp://x/y.tar`: expected a git repository, or a URL with http or https",
        ),
        (
            &[("image-resolve-mode", "x")],
            "invalid option image-resolve-mode `x`: expected `default`, `pull` or `local`",
        ),
    ] {
        let (_, result) = build(&files, options, &["linux/amd64"]);
        assert_eq!(result.expect_err("the request is wrong").message, expected);
    }
}

#[test]
fn configs_keep_what_they_do_not_know_and_replace_in_place() {
    let (_, configs) = build(
        &[(
            "dockerfile/Dockerfile",
            "FROM a\r\nENV A=1 \\\r\n  B=2\r\nENV A=3\r\nENTRYPOINT [\"x\"]\r\nEXPOSE 8000-8001/UDP\r\n",
        )],
        &[("label:k", "v")],
        &["linux/amd64"],
    );
    let config = &configs.expect("the file is right")[0]["config"];
    expect![[r#"{"Entrypoint":["x"],"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin","A=3","B=2"],"ExposedPorts":{"8000/udp":{},"8001/udp":{}},"Labels":{"k":"v"}}"#]].assert_eq(&config.to_string());
}

#[test]
fn long_inputs_take_no_time() {
    let line = "x".repeat(60_000);
    let many = "RUN a \\\n".repeat(20_000) + "b\n";
    let nested = "${a:-".repeat(10_000);
    for source in [format!("FROM {line}\n"), format!("FROM a\n{many}"), "FROM a\n".repeat(5_000)] {
        assert!(parse(&source).is_ok());
    }
    let variables = std::collections::BTreeMap::from([("v".to_owned(), line.clone())]);
    let expander = Expander::new('\\');
    assert!(expander.word(&nested, &variables).is_err());
    let pattern = format!("${{v//{}*y/z}}", "*x".repeat(1_000));
    assert_eq!(expander.word(&pattern, &variables).as_deref(), Ok(line.as_str()));
}

proptest! {
    #[test]
    fn nothing_panics(source in "(FROM a\n)?((RUN|COPY|ADD|ENV|ARG|LABEL|HEALTHCHECK|ONBUILD|EXPOSE) ([-a-z=/<>\"'${}:\\[\\], ]{0,40})\n){0,6}") {
        let host = LlbHost { ..LlbHost::default() };
        if let Ok(dockerfile) = parse(&source) {
            let request = request(&[], &["linux/amd64"]);
            let options = cofferdam_dockerfile::options::Options::new(&request).expect("no options");
            let input = cofferdam_dockerfile::lower::Input {
                dockerfile: &dockerfile,
                options: &options,
                target: &request.platforms[0],
                build: &request.build_platform,
                name_platforms: false,
                context: Some(()),
                ignored: &Default::default(),
                checks: None,
            scope: cofferdam_dockerfile::lower::Scope::Target,
            images: &Default::default(),
                source: None,
            };
            let _ = cofferdam_dockerfile::lower::lower(&cofferdam_dockerfile::probe::Probe(&host), &input);
        }
    }

    #[test]
    fn any_text_is_parsed_or_refused(source in "\\PC{0,200}") {
        let _ = parse(&source);
        let variables = std::collections::BTreeMap::from([("a".to_owned(), source.clone())]);
        let _ = Expander::new('\\').word(&source, &variables);
        let _ = Expander::new('`').word(&format!("${{a##{source}}}${{a%{source}}}${{a/{source}}}"), &variables);
    }
}
