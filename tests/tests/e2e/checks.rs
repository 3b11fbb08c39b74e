//! Checks, questions and diagnostics, as a user of the program sees them.

use anyhow::{Context as _, Result};
use cofferdam_tests::cofferdam::exit;
use cofferdam_tests::progress::Event;
use cofferdam_tests::{Cofferdam, Context};

const WARNED: &str = "FROM scratch AS Base\nCOPY present \\\n\n  /x\n";

/// Standard output of a build that is only asked.
fn ask(cofferdam: &Cofferdam, context: &Context, arguments: &[&str], code: i32) -> Result<String> {
    let build = arguments.iter().fold(cofferdam.build(context.path()), |build, arg| build.arg(arg));
    let outcome = build.varies("nothing is built").run()?.ended(code);
    Ok(String::from_utf8(outcome.stdout)?)
}

#[test]
fn a_build_warns_with_lines_and_carets() -> Result<()> {
    let cofferdam = Cofferdam::new()?;
    let context = Context::new(WARNED)?;
    context.file("present", "p")?;
    let outcome = cofferdam.build(context.path()).run()?.succeeded();
    let warnings: Vec<_> = outcome
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Warning { members } => Some(members),
            _ => None,
        })
        .collect();
    assert_eq!(warnings.len(), 2, "{}", outcome.report());
    assert_eq!(
        warnings[0]["message"],
        "StageNameCasing: stage name 'Base' should be in lower case (line 1)"
    );
    let place = &warnings[0]["locations"][0];
    assert_eq!((&place["start_column"], &place["end_column"]), (&17.into(), &20.into()));

    let mut plain = cofferdam.command();
    let output = plain.args(["build", "--progress", "plain"]).arg(context.path()).output()?;
    let text = String::from_utf8(output.stderr)?;
    for part in [
        "warning: StageNameCasing: ",
        "/rule/stage-name-casing/\n",
        "Dockerfile:1:17\n",
        "   1 | >>> FROM scratch AS Base\n     |                     ^^^^\n",
        "NoEmptyContinuation",
    ] {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
    Ok(())
}

#[test]
fn check_tells_what_it_finds_and_builds_nothing() -> Result<()> {
    let cofferdam = Cofferdam::new()?;
    let context = Context::new(WARNED)?;
    let text = ask(&cofferdam, &context, &["--check"], exit::BUILD)?;
    assert!(text.contains("WARNING: StageNameCasing - https://docs.docker.com/"), "{text}");
    let json = ask(&cofferdam, &context, &["--call=check,format=json"], exit::BUILD)?;
    let json: serde_json::Value = serde_json::from_str(&json)?;
    assert_eq!(json["warnings"].as_array().context("a list")?.len(), 2);
    context.file("Dockerfile", "FROM scratch AS base\nCOPY present /x\n")?;
    let text = ask(&cofferdam, &context, &["--check", "-t", "x"], exit::OK)?;
    assert_eq!(text, "Dockerfile: nothing was found\n");

    context.file("Dockerfile", "# check=error=true\nFROM scratch AS Base\nCOPY present /x\n")?;
    context.file("present", "p")?;
    cofferdam
        .build(context.path())
        .run()?
        .ended(exit::USER)
        .says(&["StageNameCasing", "are to be errors"]);
    let skip = "BUILDKIT_DOCKERFILE_CHECK";
    let _ = cofferdam.build(context.path()).build_arg(skip, "skip=all").run()?.succeeded();
    Ok(())
}

#[test]
fn a_frontend_can_be_asked() -> Result<()> {
    let cofferdam = Cofferdam::new()?;
    let context =
        Context::new("# V is which\nARG V=1\nFROM scratch AS first\nFROM first\nARG V\n")?;
    context.file(".dockerignore", "# what is made\n\n*.o\n!keep.o\n")?;
    let text = ask(&cofferdam, &context, &["--call=outline", "--build-arg=V=2"], exit::OK)?;
    assert_eq!(
        text,
        "TARGET:      (default)\n\nBUILD ARG   VALUE   DESCRIPTION\nV           2       is which\n"
    );
    let text = ask(&cofferdam, &context, &["--call", "targets"], exit::OK)?;
    assert_eq!(
        text,
        "TARGET      BASE      PLATFORM   DESCRIPTION\nfirst       scratch\n(default)   first\n"
    );
    let text = ask(&cofferdam, &context, &["--call", "describe"], exit::OK)?;
    assert!(text.contains("frontend.outline"), "{text}");
    for (path, says) in [
        ("a.o", "`a.o` is left out of the build context\n.dockerignore:3: *.o\n"),
        ("keep.o", "`keep.o` is in the build context\n.dockerignore:4: !keep.o\n"),
        ("a.c", "`a.c` is in the build context\nno rule of .dockerignore matches it\n"),
    ] {
        assert_eq!(ask(&cofferdam, &context, &["--explain-ignore", path], exit::OK)?, says);
    }
    context.file("Dockerfile.dockerignore", "a.c\n")?;
    let text = ask(&cofferdam, &context, &["--explain-ignore", "a.c"], exit::OK)?;
    assert_eq!(text, "`a.c` is left out of the build context\nDockerfile.dockerignore:1: a.c\n");
    Ok(())
}

#[test]
fn instructions_are_explained() -> Result<()> {
    let cofferdam = Cofferdam::new()?;
    let explain = |name: &str| cofferdam.command().args(["dockerfile", "explain", name]).output();
    let output = explain("copy")?;
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout)?;
    assert!(text.starts_with("COPY: ") && text.contains("--from=VALUE"), "{text}");
    let output = explain("CPOY")?;
    assert_eq!(output.status.code(), Some(exit::USER));
    assert!(String::from_utf8(output.stderr)?.contains("did you mean `COPY`?"));
    Ok(())
}

#[test]
fn a_source_that_is_missing_is_looked_for() -> Result<()> {
    let cofferdam = Cofferdam::new()?;
    for (source, hint) in [
        ("src/mian.c", "hint: did you mean `src/main.c`?"),
        ("main.c", "hint: did you mean `src/main.c`?"),
        ("a.log", "hint: an ignore file leaves `a.log` out"),
    ] {
        let context = Context::new(&format!("FROM scratch\nCOPY {source} /x\n"))?;
        context.file("src/main.c", "")?.file("a.log", "")?.file(".dockerignore", "*.log\n")?;
        let outcome = cofferdam.build(context.path()).run()?.ended(exit::USER);
        outcome.says(&[hint, &format!("   2 | >>> COPY {source} /x\n")]);
    }
    Ok(())
}

#[test]
fn independent_errors_are_told_at_once() -> Result<()> {
    let cofferdam = Cofferdam::new()?;
    let context = Context::new("FROM scratch\nCOPPY a b\nRUN --netwrk=none x\n")?;
    cofferdam.build(context.path()).run()?.ended(exit::USER).says(&[
        "   2 | >>> COPPY a b\n     |     ^^^^^\n",
        "hint: did you mean `COPY`?",
        "   3 | >>> RUN --netwrk=none x\n     |         ^^^^^^^^\n",
        "hint: did you mean `--network`?",
    ]);
    Ok(())
}
