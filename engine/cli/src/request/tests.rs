//! Command lines and the requests that they mean.

use std::ffi::OsString;
use std::fmt::Write as _;

use clap::Parser as _;
use cofferdam_build::ImageExport;
use cofferdam_session::Session as _;
use expect_test::{Expect, expect};

use super::*;
use crate::args::{Cli, Command};

const ENVIRONMENT: &[(&str, &str)] = &[("FROM_ENV", "found")];

/// Shows what `cofferdam build ARGS CONTEXT` asks for; `CONTEXT` in an argument is the path of a
/// directory with a Dockerfile, `other.Dockerfile` and a frontend.
fn show(args: &[&str], stdout_is_terminal: bool) -> String {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let root = directory.path().to_str().expect("UTF-8");
    for name in ["Dockerfile", "other.Dockerfile", "frontend.wasm"] {
        std::fs::write(directory.path().join(name), name).expect("written");
    }
    let args = args.iter().map(|arg| arg.replace("CONTEXT", root));
    let line = ["cofferdam".to_owned(), "build".to_owned()].into_iter().chain(args);
    let cli = match Cli::try_parse_from(line) {
        Ok(cli) => cli,
        Err(error) => return format!("clap: {:?}\n", error.kind()),
    };
    let Command::Build(build) = cli.command else { panic!("the command is `build`") };
    let env = |name: &str| {
        ENVIRONMENT.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
    };
    let mut stdin = "FROM stdin\n".as_bytes();
    let surroundings = Surroundings { env: &env, stdin: &mut stdin, stdout_is_terminal };
    let shown = match prepare(&build, surroundings) {
        Ok(prepared) => describe(&prepared),
        Err(error) => {
            let hints = error.hints().into_iter().map(|hint| format!("hint: {hint}\n"));
            format!("error: {error}\n{}", hints.collect::<String>())
        }
    };
    shown.replace(root, "CONTEXT")
}

fn describe(prepared: &Prepared) -> String {
    let Prepared { request, session, cache_only, insecure, temporary, keys: _ } = prepared;
    let mut text = String::new();
    if let FrontendChoice::Component { name, bytes } = &request.frontend {
        writeln!(text, "frontend {name}: {} bytes", bytes.len()).expect("a string takes all");
    }
    for (key, value) in &request.options {
        writeln!(text, "{key}={value}").expect("a string takes all");
    }
    match (session.directory("dockerfile"), temporary.last()) {
        (Ok(dockerfile), Some(directory)) => {
            assert_eq!(dockerfile, directory.path());
            let read = std::fs::read_to_string(dockerfile.join("Dockerfile"));
            writeln!(text, "Dockerfile: {:?}", read.expect("it is there"))
        }
        (Ok(dockerfile), None) => writeln!(text, "dockerfile in {}", dockerfile.display()),
        (Err(_), _) => writeln!(text, "no directory lent"),
    }
    .expect("a string takes all");
    for export in &request.exports {
        let names =
            |names: &[Reference]| -> Vec<_> { names.iter().map(Reference::familiar).collect() };
        let image_of = |image: &ImageExport| {
            let options = &image.options;
            let epoch = options.source_date_epoch.map(|epoch| format!(" at {epoch}"));
            let rewrite = if options.rewrite_timestamp { "" } else { " not rewritten" };
            let mut shown =
                format!("{:?}{}{rewrite}", names(&image.names), epoch.unwrap_or_default());
            if !options.annotations.is_empty() {
                shown += &format!(" {:?}", options.annotations);
            }
            shown
        };
        match export {
            Export::Image { image, push, .. } => {
                writeln!(text, "image {} push={push:?}", image_of(image))
            }
            Export::Layout { image, format, dest } => {
                writeln!(text, "{format:?} {dest:?} {}", image_of(image))
            }
            Export::Load { image, .. } => writeln!(text, "load {}", image_of(image)),
            other => writeln!(text, "{other:?}"),
        }
        .expect("a string takes all");
    }
    for registry in insecure {
        writeln!(text, "insecure {registry}").expect("a string takes all");
    }
    let platforms: Vec<_> = request.platforms.iter().map(ToString::to_string).collect();
    if !platforms.is_empty() {
        writeln!(text, "platforms {platforms:?}").expect("a string takes all");
    }
    for (is_so, what) in [
        (request.pull, "pull"),
        (*cache_only, "cache only"),
        (request.entitlements.network_host, "network.host"),
        (request.entitlements.security_insecure, "security.insecure"),
        (request.entitlements.devices.all, "device"),
    ] {
        if is_so {
            writeln!(text, "{what}").expect("a string takes all");
        }
    }
    text
}

fn check(args: &[&str], expected: Expect) {
    expected.assert_eq(&show(args, false));
}

#[test]
fn a_plain_build_goes_to_the_cache_only() {
    check(
        &["CONTEXT"],
        expect![[r#"
        dockerfile in CONTEXT
        cache only
    "#]],
    );
    check(
        &["CONTEXT", "--output", "type=cacheonly"],
        expect![[r#"
        dockerfile in CONTEXT
    "#]],
    );
}

#[test]
fn options() {
    check(
        &[
            "CONTEXT",
            "--file=CONTEXT/other.Dockerfile",
            "--target=Stage",
            "--build-arg=A=1",
            "--build-arg=B=x=y",
            "--build-arg=FROM_ENV",
            "--build-arg=NOT_IN_ENV",
            "--build-arg=EMPTY=",
            "--label=l=v",
            "--label=bare",
            "--build-context=base=docker-image://busybox",
            "--pull",
            "--no-cache",
            "--add-host=a:192.0.2.1",
            "--add-host=b=[2001:db8::1]",
            "--add-host=c:::1",
            "--network=none",
            "--opt=hostname=h",
        ],
        expect![[r#"
            add-hosts=a=192.0.2.1,b=2001:db8::1,c=::1
            build-arg:A=1
            build-arg:B=x=y
            build-arg:EMPTY=
            build-arg:FROM_ENV=found
            context:base=docker-image://docker.io/library/busybox:latest
            filename=other.Dockerfile
            force-network-mode=none
            hostname=h
            image-resolve-mode=pull
            label:bare=
            label:l=v
            no-cache=
            target=Stage
            dockerfile in CONTEXT
            pull
            cache only
        "#]],
    );
    check(
        &["CONTEXT", "--no-cache-filter=a,b"],
        expect![[r#"
        no-cache=a,b
        dockerfile in CONTEXT
        cache only
    "#]],
    );
}

#[test]
fn privileges() {
    check(
        &["CONTEXT", "--network=host"],
        expect![[r#"
        force-network-mode=host
        dockerfile in CONTEXT
        cache only
        network.host
    "#]],
    );
    check(
        &["CONTEXT", "--allow=security.insecure,network.host"],
        expect![[r#"
        dockerfile in CONTEXT
        cache only
        network.host
        security.insecure
    "#]],
    );
    check(
        &["CONTEXT", "--allow=device"],
        expect![[r#"
        dockerfile in CONTEXT
        cache only
        device
    "#]],
    );
    check(
        &["CONTEXT", "--allow=devices"],
        expect![[r#"
        clap: ValueValidation
    "#]],
    );
}

#[test]
fn outputs() {
    check(
        &["CONTEXT", "-t=a", "-t=b:1", "--push"],
        expect![[r#"
            dockerfile in CONTEXT
            image ["a:latest", "b:1"] push=Some(ByName)
        "#]],
    );
    check(
        &["CONTEXT", "-t=a", "-o=type=oci,dest=x.tar", "-o=type=image,name=b", "-o", "out"],
        expect![[r#"
            dockerfile in CONTEXT
            Oci Archive(File("x.tar")) ["a:latest"]
            image ["b:latest"] push=None
            Local { dest: "out", files: FileOptions { source_date_epoch: None, rewrite_timestamp: true, platform_split: None }, others: Keep }
        "#]],
    );
    check(
        &["CONTEXT", "-o=-"],
        expect![[r#"
            dockerfile in CONTEXT
            Tar { dest: Stdout, files: FileOptions { source_date_epoch: None, rewrite_timestamp: true, platform_split: None } }
        "#]],
    );
    check(
        &["CONTEXT", "-q"],
        expect![[r#"
            dockerfile in CONTEXT
            image [] push=None
        "#]],
    );
    check(
        &["CONTEXT", "--iidfile=x"],
        expect![[r#"
            dockerfile in CONTEXT
            image [] push=None
        "#]],
    );
    check(
        &["CONTEXT", "-t=a", "--build-arg=SOURCE_DATE_EPOCH=7"],
        expect![[r#"
            build-arg:SOURCE_DATE_EPOCH=7
            dockerfile in CONTEXT
            image ["a:latest"] at 7 push=None
        "#]],
    );
}

#[test]
fn epochs_and_annotations() {
    check(
        &[
            "CONTEXT",
            "--build-arg=SOURCE_DATE_EPOCH=7",
            "-o=type=image,rewrite-timestamp=false",
            "-o=type=image,source-date-epoch=8",
            "-o=type=local,dest=x",
            "-o=type=tar,rewrite-timestamp=false,dest=x",
        ],
        expect![[r#"
            build-arg:SOURCE_DATE_EPOCH=7
            dockerfile in CONTEXT
            image [] at 7 not rewritten push=None
            image [] at 8 push=None
            Local { dest: "x", files: FileOptions { source_date_epoch: Some(7), rewrite_timestamp: true, platform_split: None }, others: Keep }
            Tar { dest: File("x"), files: FileOptions { source_date_epoch: Some(7), rewrite_timestamp: false, platform_split: None } }
        "#]],
    );
    check(
        &[
            "CONTEXT",
            "-t=a",
            "--annotation=a=b",
            "--annotation=index,manifest[linux/arm64]:c=d:e=f",
        ],
        expect![[r#"
            dockerfile in CONTEXT
            image ["a:latest"] Annotations({(Manifest, None, "a"): "b", (Manifest, Some(Platform { os: "linux", architecture: "arm64", variant: "", os_version: "", os_features: [] }), "c"): "d:e=f", (Index, None, "c"): "d:e=f"}) push=None
        "#]],
    );
    check(
        &["CONTEXT", "--load", "-t=a", "-o=type=image,name=127.0.0.2:5/x,registry.insecure=true"],
        expect![[r#"
            dockerfile in CONTEXT
            image ["127.0.0.2:5/x:latest"] push=None
            load ["a:latest"]
            insecure 127.0.0.2:5
        "#]],
    );
    check(
        &["CONTEXT", "-t=a", "--annotation=a"],
        expect![[r#"
        error: --annotation `a`: expected KEY=VALUE
    "#]],
    );
    check(
        &["CONTEXT", "-t=a", "--annotation=layer:a=b"],
        expect![[r#"
        error: --annotation `layer:a=b`: unknown place `layer`, expected `manifest`, `index`, `manifest-descriptor` or `index-descriptor`
    "#]],
    );
    check(
        &["CONTEXT", "-t=a", "--annotation=index[linux/arm64]:a=b"],
        expect![[r#"
        error: --annotation `index[linux/arm64]:a=b`: annotation `a`: an index is of no platform
    "#]],
    );
    check(
        &["CONTEXT", "--annotation=a=b"],
        expect![[r#"
        error: --annotation needs an output that makes an image
        hint: add --tag NAME or --output type=image
    "#]],
    );
    check(
        &["CONTEXT", "-t=a:1", "-o=type=image,push=true,push-by-digest=true"],
        expect![[r#"
        error: `a:1` has a tag, and `push-by-digest` pushes without one
        hint: leave the tag out of the name
    "#]],
    );
    check(
        &["CONTEXT", "-o=type=local,dest=/,mode=delete"],
        expect![[r#"
        error: `mode=delete` would delete what else is in `/`
    "#]],
    );
}

#[test]
fn outputs_that_make_no_sense() {
    check(
        &["CONTEXT", "--push"],
        expect![[r#"
        error: an image needs a name to be pushed
        hint: name it with --tag REGISTRY/REPOSITORY:TAG
    "#]],
    );
    check(
        &["CONTEXT", "-o=-", "-o=type=oci"],
        expect![[r#"
        error: only one --output can go to standard output
        hint: add `dest=FILE` to the others
    "#]],
    );
    check(
        &["CONTEXT", "-o=-", "-q"],
        expect![[r#"
        error: --quiet prints the digest on standard output, where an --output goes already
        hint: add `dest=FILE` to --output, or use --iidfile FILE rather than --quiet
    "#]],
    );
    check(
        &["CONTEXT", "-o=out", "--iidfile=x"],
        expect![[r#"
        error: --iidfile needs an output that makes an image
        hint: add --tag NAME or --output type=image
    "#]],
    );
    check(
        &["CONTEXT", "-t=Upper"],
        expect![[r#"
        error: --tag: invalid image reference "Upper": the repository name must be lower case: "library/Upper"
    "#]],
    );
    expect![[r#"
        error: refusing to write an archive to the terminal
        hint: add `dest=FILE` to --output, or redirect standard output
    "#]]
    .assert_eq(&show(&["CONTEXT", "-o=type=oci"], true));
}

#[test]
fn contexts_that_are_fetched_or_sent() {
    check(
        &["https://u:p@example.org/x.git#main", "--file=sub/Dockerfile"],
        expect![[r#"
            context=https://example.org/x.git#main
            filename=sub/Dockerfile
            no directory lent
            cache only
        "#]],
    );
    check(
        &["git@example.org:x", "--file=-"],
        expect![[r#"
            context=git@example.org:x
            dockerfilekey=dockerfile
            filename=Dockerfile
            Dockerfile: "FROM stdin\n"
            cache only
        "#]],
    );
    check(
        &["-"],
        expect![[r#"
            context=http://buildkit-session/context
            no directory lent
            cache only
        "#]],
    );
}

#[test]
fn contexts_that_are_not_there() {
    check(
        &[],
        expect![[r#"
        error: `cofferdam build` requires 1 argument: the build context
        hint: to build the current directory: cofferdam build .
        hint: for all flags: cofferdam build --help
    "#]],
    );
    check(
        &["-", "--file=-"],
        expect![[r#"
        error: the build context and the Dockerfile cannot both be standard input
        hint: a Dockerfile alone, without a context: cofferdam build - < Dockerfile
    "#]],
    );
    check(
        &["/nonexistent"],
        expect![[r#"
        error: cannot read the build context `/nonexistent`: No such file or directory (os error 2)
    "#]],
    );
    check(
        &["CONTEXT/Dockerfile"],
        expect![[r#"
        error: the build context `CONTEXT/Dockerfile` is not a directory
        hint: give the directory of the context as PATH and the Dockerfile with --file
    "#]],
    );
}

#[test]
fn dockerfiles() {
    check(
        &["CONTEXT", "--file=-"],
        expect![[r#"
        filename=Dockerfile
        Dockerfile: "FROM stdin\n"
        cache only
    "#]],
    );
    check(
        &["CONTEXT", "--file=other.Dockerfile"],
        expect![[r#"
        error: cannot read the Dockerfile `other.Dockerfile`: No such file or directory (os error 2)
        hint: --file is relative to the current directory: --file CONTEXT/other.Dockerfile
    "#]],
    );
    check(
        &["CONTEXT", "--file=CONTEXT"],
        expect![[r#"
        error: the Dockerfile `CONTEXT` is not a file
    "#]],
    );
    check(
        &["/"],
        expect![[r#"
        error: cannot read the Dockerfile `/Dockerfile`: No such file or directory (os error 2)
    "#]],
    );
}

#[test]
fn frontends_and_platforms() {
    check(
        &["CONTEXT", "--frontend=CONTEXT/frontend.wasm", "--platform=linux/x86_64,linux/arm64/v8"],
        expect![[r#"
            frontend frontend.wasm: 13 bytes
            dockerfile in CONTEXT
            platforms ["linux/amd64", "linux/arm64"]
            cache only
        "#]],
    );
    check(
        &["CONTEXT", "--platform=linux/nosuch/arch/atall"],
        expect![[r#"
        error: --platform: invalid platform "linux/nosuch/arch/atall": expected `os/architecture[/variant]`, like `linux/amd64`
    "#]],
    );
    check(
        &["CONTEXT", "--frontend=/nonexistent.wasm"],
        expect![[r#"
        error: cannot read the frontend `/nonexistent.wasm`: No such file or directory (os error 2)
    "#]],
    );
}

#[test]
fn wrong_values() {
    check(
        &["CONTEXT", "--build-arg==x"],
        expect![[r#"
        error: --build-arg `=x`: expected KEY[=VALUE]
    "#]],
    );
    check(
        &["CONTEXT", "--opt=x"],
        expect![[r#"
        error: --opt `x`: expected KEY=VALUE
    "#]],
    );
    check(
        &["CONTEXT", "--add-host=x"],
        expect![[r#"
        error: --add-host `x`: expected HOST:IP
    "#]],
    );
}
