//! Checks and the other questions that can be asked instead of a build, seen from outside.

#[path = "../support/paper_host.rs"]
mod host;
mod questions;

use cofferdam_dockerfile::DockerfileFrontend;
use cofferdam_dockerfile::checks::RULES;
use cofferdam_sdk::{BuildError, BuildResult, Frontend, Platform, Request};
use expect_test::{Expect, expect, expect_file};
use host::PaperHost;

/// A Dockerfile, the ignore file beside it, and what is asked.
#[derive(Clone, Copy, Default)]
struct Case<'a> {
    dockerfile: &'a str,
    ignore: &'a str,
    options: &'a [(&'a str, &'a str)],
    subrequest: &'a str,
}

impl Case<'_> {
    fn run(self) -> (PaperHost, Result<BuildResult<String>, BuildError>) {
        let mut host = PaperHost::default();
        host.files.push(("dockerfile/Dockerfile".into(), self.dockerfile.into()));
        host.files.push(("context/.dockerignore".into(), self.ignore.into()));
        let options = self.options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let request = Request {
            options: options.collect(),
            platforms: vec![Platform::new("linux", "amd64")],
            build_platform: Platform::new("linux", "amd64"),
            subrequest: self.subrequest.into(),
        };
        let result = DockerfileFrontend::build(&host, &request);
        (host, result)
    }

    /// One part of the answer to a subrequest.
    fn answer(self, part: &str) -> String {
        let metadata = self.run().1.expect("an answer").metadata;
        let found = metadata.into_iter().find(|(key, _)| key == part).expect(part);
        String::from_utf8(found.1).expect("UTF-8")
    }

    /// The checks that found something, and where.
    fn found(self) -> String {
        let text = Case { subrequest: "frontend.lint", ..self }.answer("result.json");
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let warnings = json["warnings"].as_array().expect("a list").iter().map(|warning| {
            let start = &warning["location"]["ranges"][0]["start"];
            let end = &warning["location"]["ranges"][0]["end"];
            format!(
                "{}:{}-{} {}: {}\n",
                start["line"],
                start["character"],
                end["character"],
                warning["ruleName"].as_str().expect("a name"),
                warning["detail"].as_str().expect("a text"),
            )
        });
        let error = &json["buildError"]["message"];
        warnings.collect::<String>() + error.as_str().unwrap_or_default()
    }
}

fn check(dockerfile: &str, expected: Expect) {
    expected.assert_eq(&Case { dockerfile, ..Case::default() }.found());
}

#[test]
fn every_example_of_the_table_shows_its_check() {
    for rule in RULES {
        let ignore = |text: &str| match text.contains("!build.log") {
            true => "*.log\n!build.log\n",
            false => "*.log\n",
        };
        let found = |dockerfile: &str| {
            Case { dockerfile, ignore: ignore(dockerfile), ..Case::default() }.found()
        };
        let bad = found(rule.bad);
        let named = format!(" {}: ", rule.name);
        assert!(bad.contains(&named), "{} in\n{}\nfound:\n{bad}", rule.name, rule.bad);
        // One of them cannot be built, either.
        let findings = bad.lines().filter(|line| !line.starts_with("Dockerfile:")).count();
        assert_eq!(findings, 1, "{} in\n{}\nfound:\n{bad}", rule.name, rule.bad);
        let good = found(rule.good);
        assert_eq!(good, "", "{} in\n{}", rule.name, rule.good);
    }
}

/// `UPDATE_EXPECT=1` writes it anew.
#[test]
fn the_document_says_what_the_table_says() {
    let mut text = String::from(DOCUMENT);
    for rule in RULES {
        let experimental = match rule.experimental {
            true => "Only with `# check=experimental=InvalidDefinitionDescription` or `all`. ",
            false => "",
        };
        text += &format!(
            "\n### {}\n\n{experimental}{}{}.\n\n{}\n\n```dockerfile\n{}```\n\nInstead:\n\n\
             ```dockerfile\n{}```\n",
            rule.name,
            rule.summary[..1].to_uppercase(),
            &rule.summary[1..],
            rule.why,
            rule.bad,
            rule.good
        );
    }
    expect_file!["../../../../docs/checks.md"].assert_eq(&text);
}

const DOCUMENT: &str = "\
# Checks

A Dockerfile can be legal and still wrong. Cofferdam checks it with every build, and tells what it
finds as warnings, with the line and a caret. The checks have the names that BuildKit gives them.

- `cofferdam build --check .` checks and does not build. The exit code is 0 if nothing was found and
  1 otherwise. It looks at every stage, or with `--target` at those that the target needs.
- `--call=check,format=json` gives the same for programs, in the shape of BuildKit's `frontend.lint`.
- `cofferdam dockerfile explain NAME` says what this page says about a check.

## Choosing

A directive at the top of the file chooses for all of it:

```dockerfile
# check=skip=JSONArgsRecommended,StageNameCasing;error=true
```

- `skip=NAME,NAME` or `skip=all` leaves checks out;
- `error=true` makes what is found an error: nothing is built;
- `experimental=NAME,NAME` or `experimental=all` adds checks that are not done otherwise.

`--build-arg BUILDKIT_DOCKERFILE_CHECK=skip=all` says the same on the command line, and stands above
the directive. A comment directly above an instruction leaves checks out for that one:

```dockerfile
# check=skip=JSONArgsRecommended
CMD exec server $OPTIONS
```

## All checks

This part is written from the table in `frontends-wasm/dockerfile/src/checks/rules.rs`.
";

#[test]
fn places_and_messages() {
    check(
        "from scratch as Base\nrun true\nCOPY x \\\n\n   /\n\nmaintainer me\n\
         FROM scratch AS context\nFROM base AS Context\n",
        expect![[r#"
            1:1-4 ConsistentInstructionCasing: 'from' should be in the case of most instructions (uppercase)
            1:17-20 StageNameCasing: stage name 'Base' should be in lower case
            2:1-3 ConsistentInstructionCasing: 'run' should be in the case of most instructions (uppercase)
            4:null-null NoEmptyContinuation: empty line in a continued instruction
            7:1-10 ConsistentInstructionCasing: 'maintainer' should be in the case of most instructions (uppercase)
            7:1-10 MaintainerDeprecated: MAINTAINER is deprecated: use a label
            8:17-23 ReservedStageName: 'context' is reserved and should not be the name of a stage
            9:14-20 StageNameCasing: stage name 'Context' should be in lower case
            9:14-20 ReservedStageName: 'context' is reserved and should not be the name of a stage
            9:14-20 DuplicateStageName: duplicate stage name "context": names of stages should differ
        "#]],
    );
}

#[test]
fn variables() {
    check(
        "ARG TAG=1\nARG EMPTY\nFROM alpine:${TGA}3\nARG DIRECTORY=/x EMPTY\n\
         ENV PATH=$PAHT:/x A=${B:-1} C=${D}\nCOPY a $EMPTY$DIRECTRY/\nRUN echo $SHELL_KNOWS\n\
         LABEL l=$FROM_BASE m=$A\n",
        expect![[r#"
            3:13-17 UndefinedArgInFrom: the variable 'TGA' in FROM is not declared (did you mean TAG?)
            5:10-14 UndefinedVar: usage of undefined variable '$PAHT' (did you mean $PATH?)
            5:31-34 UndefinedVar: usage of undefined variable '$D'
            6:14-22 UndefinedVar: usage of undefined variable '$DIRECTRY' (did you mean $DIRECTORY?)
        "#]],
    );
}

#[test]
fn what_a_stage_inherits() {
    check(
        "FROM alpine AS a\nWORKDIR /a\nCMD [\"a\"]\nFROM a\nWORKDIR b\nCMD [\"b\"]\nCMD [\"c\"]\n\
         SHELL [\"/bin/bash\"]\nENTRYPOINT x\nENV PUBLIC_KEY=1 MY_KEY=2\n",
        expect![[r#"
            6:1-3 MultipleInstructionsDisallowed: of several CMD in one stage only the last is used
            10:18-23 SecretsUsedInArgOrEnv: ENV "MY_KEY" should not be used for a secret
        "#]],
    );
}

#[test]
fn what_is_chosen() {
    let bad = "FROM alpine AS Upper\nMAINTAINER me\nCMD a\n";
    let with = |first: &str| format!("{first}{bad}");
    check(&with("# check=skip=all\n"), expect![[r#""#]]);
    check(
        &with("# check=skip=maintainerdeprecated, JSONArgsRecommended\n"),
        expect![[r#"
        2:16-20 StageNameCasing: stage name 'Upper' should be in lower case
    "#]],
    );
    check(
        &with("# check=error=true;skip=StageNameCasing\n"),
        expect![[r#"
        3:1-10 MaintainerDeprecated: MAINTAINER is deprecated: use a label
        4:1-3 JSONArgsRecommended: a JSON array is recommended for CMD, so that signals reach the program
    "#]],
    );
    check(
        &with("# check=skp=all\n"),
        expect![
            "Dockerfile:1: invalid option of check `skp`: expected `skip`, `error` or `experimental`; `skip`?"
        ],
    );
    check(
        "FROM alpine AS a\n# check=skip=MaintainerDeprecated\nMAINTAINER a\nMAINTAINER b\n",
        expect![[r#"
            4:1-10 MaintainerDeprecated: MAINTAINER is deprecated: use a label
        "#]],
    );
    check(
        "FROM alpine AS a\n# check=skip=\n\nCMD b\n",
        expect![[r#"
        4:1-3 JSONArgsRecommended: a JSON array is recommended for CMD, so that signals reach the program
    "#]],
    );
    let options = &[("build-arg:BUILDKIT_DOCKERFILE_CHECK", "skip=MaintainerDeprecated")];
    let dockerfile = with("# check=skip=all\n");
    let found = Case { dockerfile: &dockerfile, options, ..Case::default() }.found();
    expect![[r#"
        4:1-3 JSONArgsRecommended: a JSON array is recommended for CMD, so that signals reach the program
    "#]].assert_eq(&found);
}

#[test]
fn a_build_warns_of_what_it_needs() {
    let dockerfile = "# check=skip=JSONArgRecommended\nFROM alpine AS unused\nWORKDIR x\n\
                      FROM alpine\nWORKDIR y\nCOPY a.log /\n";
    let (host, result) = Case { dockerfile, ignore: "*.log\n", ..Case::default() }.run();
    assert!(result.is_ok());
    let warnings = host.warnings.borrow();
    let shown: Vec<_> = warnings.iter().map(|it| format!("{}\n{}\n", it.short, it.url)).collect();
    expect![[r#"
        there is no check `jsonargrecommended`; did you mean `JSONArgsRecommended`?

        WorkdirRelativePath: relative WORKDIR "y" depends on that of the base image (line 5)
        https://docs.docker.com/go/dockerfile/rule/workdir-relative-path/
        CopyIgnoredFile: COPY takes the file "a.log", which the ignore file leaves out (line 6)
        https://docs.docker.com/go/dockerfile/rule/copy-ignored-file/
    "#]]
    .assert_eq(&shown.concat());
}

#[test]
fn a_build_fails_of_checks_where_the_file_says_so() {
    let dockerfile = "# check=error=true\nFROM alpine AS A\nMAINTAINER x\nFROM scratch\n";
    let (host, result) = Case { dockerfile, ..Case::default() }.run();
    assert_eq!(host.warnings.borrow().len(), 2);
    expect!["Dockerfile: checks found something, and are to be errors: MaintainerDeprecated, StageNameCasing"].assert_eq(&result.expect_err("it found something").message);
}

#[test]
fn findings_are_bounded() {
    let dockerfile = String::from("FROM alpine\n") + &"MAINTAINER x\n".repeat(5000);
    let found = Case { dockerfile: &dockerfile, ..Case::default() }.found();
    assert_eq!(found.lines().count(), 200);
}
