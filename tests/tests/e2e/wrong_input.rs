//! Wrong input: each gives a message that names what is wrong and the exit code of its kind, and
//! the next build with the same state directory works.

use anyhow::Result;
use cofferdam_tests::cofferdam::exit;
use cofferdam_tests::{Cofferdam, Context};

use crate::World;

/// A Dockerfile, further arguments, and what the message must contain.
struct Case {
    dockerfile: &'static str,
    arguments: &'static [&'static str],
    says: &'static [&'static str],
}

const CASES: &[Case] = &[
    Case {
        dockerfile: "FROM scratch\nCOPY nothere /x\n",
        arguments: &[],
        says: &["nothere", "Dockerfile:2", "COPY nothere /x"],
    },
    Case {
        dockerfile: "FROM scratch\nCOPPY present /x\n",
        arguments: &[],
        says: &["COPPY", "Dockerfile:2", "COPY"],
    },
    Case {
        dockerfile: "FROM scratch\nCOPY present\n",
        arguments: &[],
        says: &["COPY", "Dockerfile:2"],
    },
    Case { dockerfile: "COPY present /x\n", arguments: &[], says: &["FROM", "Dockerfile:1"] },
    Case { dockerfile: "# nothing\n", arguments: &[], says: &["Dockerfile"] },
    Case {
        dockerfile: "FROM scratch AS build\nCOPY present /x\n",
        arguments: &["--target", "biuld"],
        says: &["biuld", "build"],
    },
    Case {
        dockerfile: "FROM scratch\nCOPY --from=7 /x /x\n",
        arguments: &[],
        says: &["7", "Dockerfile:2"],
    },
    Case {
        dockerfile: "FROM scratch\nCOPY --form=x present /x\n",
        arguments: &[],
        says: &["--form", "--from", "Dockerfile:2"],
    },
    Case {
        dockerfile: "FROM NotLower/Case!\n",
        arguments: &[],
        says: &["NotLower", "Dockerfile:1"],
    },
    Case {
        dockerfile: "FROM scratch\nCOPY ${UNCLOSED present /x\n",
        arguments: &[],
        says: &["Dockerfile:2"],
    },
    Case {
        dockerfile: "FROM scratch\nCOPY present /x\n",
        arguments: &["--platform", "linux/nosuch/arch/atall"],
        says: &["linux/nosuch/arch/atall"],
    },
    Case {
        dockerfile: "FROM scratch\nCOPY present /x\n",
        arguments: &["--output", "type=nosuch"],
        says: &["nosuch"],
    },
    Case {
        dockerfile: "FROM scratch\nCOPY present /x\n",
        arguments: &["--file", "No.Dockerfile"],
        says: &["No.Dockerfile"],
    },
    Case {
        dockerfile: "FROM scratch\nCOPY present /x\n",
        arguments: &["--frontend", "/nonexistent/frontend.wasm"],
        says: &["/nonexistent/frontend.wasm"],
    },
    Case {
        dockerfile: "FROM scratch\nCOPY present /x\n",
        arguments: &["--no-such-option"],
        says: &["--no-such-option"],
    },
];

#[test]
fn wrong_input_is_named_and_the_next_build_works() -> Result<()> {
    let cofferdam = Cofferdam::new()?;
    let good = Context::new("FROM scratch\nCOPY present /x\n")?;
    good.file("present", "p")?;
    for case in CASES {
        let context = Context::new(case.dockerfile)?;
        context.file("present", "p")?;
        let build = case.arguments.iter().fold(cofferdam.build(context.path()), |b, a| b.arg(a));
        let outcome = build.run()?;
        assert_eq!(
            outcome.code,
            Some(exit::USER),
            "exit code for {:?} {:?}:\n{}",
            case.dockerfile,
            case.arguments,
            outcome.report(),
        );
        outcome.says(case.says);
        let _ = cofferdam.build(good.path()).run()?.succeeded();
    }
    Ok(())
}

#[test]
fn a_missing_context_is_named() -> Result<()> {
    let cofferdam = Cofferdam::new()?;
    let outcome = cofferdam.build("/nonexistent/context".as_ref()).run()?.ended(exit::USER);
    outcome.says(&["/nonexistent/context"]);
    Ok(())
}

#[test]
fn a_failed_run_shows_its_lines_its_log_and_its_exit_code() -> Result<()> {
    let world = World::new()?;
    let context = Context::new(
        "ARG REGISTRY\nFROM ${REGISTRY}/busybox\nRUN echo fine\n\
         RUN echo the last words && \\\n    exit 3\nRUN echo never\n",
    )?;
    let failed = world.build(&context).run()?.ended(exit::BUILD);
    failed.says(&["Dockerfile:4", "RUN echo the last words", "exit 3", "the last words", "3"]);
    assert!(!failed.log().contains("never"));

    context.file(
        "Dockerfile",
        "ARG REGISTRY\nFROM ${REGISTRY}/busybox\nRUN echo fine\nRUN echo mended\n",
    )?;
    let mended = world.build(&context).run()?.succeeded();
    assert_eq!(mended.executed(), ["[3/3] RUN echo mended"], "what succeeded is kept");
    Ok(())
}

#[test]
fn paths_do_not_leave_the_context() -> Result<()> {
    let cofferdam = Cofferdam::new()?;
    let outside = tempfile::NamedTempFile::new()?;
    std::fs::write(outside.path(), "canary")?;
    let context =
        Context::new(&format!("FROM scratch\nCOPY ../../../..{} /up\n", outside.path().display()))?;
    let _ = cofferdam.build(context.path()).run()?.ended(exit::USER);

    let target = outside.path().to_str().expect("temporary paths are UTF-8");
    let context = Context::new("FROM scratch\nCOPY link /link\n")?;
    context.link("link", target)?;
    let _ = cofferdam.build(context.path()).run()?.ended(exit::USER);
    Ok(())
}
