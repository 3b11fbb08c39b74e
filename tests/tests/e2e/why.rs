//! `--why`: for every step that runs, what the cache lacked.

use anyhow::Result;
use cofferdam_tests::{Context, Outcome};

use crate::World;

const DOCKERFILE: &str = "\
ARG REGISTRY
FROM ${REGISTRY}/busybox
ENV COLOUR=red
COPY src /src
RUN cat /src/* > all
ARG FLAVOUR=plain
RUN echo $FLAVOUR > flavour
";

const COPY: &str = "[2/4] COPY src /src";
const CAT: &str = "[3/4] RUN cat /src/* > all";
const PLAIN: &str = "[4/4] RUN echo plain > flavour";
const SWEET: &str = "[4/4] RUN echo sweet > flavour";

#[track_caller]
fn assert_reason(outcome: &Outcome, step: &str, expected: &str) {
    let reasons = outcome.reasons();
    let found = reasons.iter().find(|(name, _)| name == step);
    let reason = found.map_or("none", |(_, reason)| reason);
    assert!(reason.starts_with(expected), "{step}: {reason}\n{reasons:#?}");
}

#[test]
fn every_step_that_runs_says_why() -> Result<()> {
    let world = World::new()?;
    let context = Context::new(DOCKERFILE)?;
    context.file("src/a.txt", "a\n")?.file("src/b.txt", "b\n")?;
    let build = || world.build(&context).arg("--why");

    let first = build().run()?.succeeded();
    for step in [COPY, CAT, PLAIN] {
        assert_reason(&first, step, "never built before");
    }
    assert_eq!(build().run()?.succeeded().reasons(), []);
    // Who does not ask is told nothing.
    assert_eq!(world.build(&context).arg("--no-cache").run()?.succeeded().reasons(), []);

    let sweet = build().build_arg("FLAVOUR", "sweet").run()?.succeeded();
    // The name is another one, too: it shows what the variable stands for.
    assert_reason(&sweet, SWEET, "env FLAVOUR changed: \"plain\" -> \"sweet\"");

    context.file("src/b.txt", "other\n")?;
    let changed = build().run()?.succeeded();
    let load = "[internal] load build context";
    assert_reason(&changed, load, "file src/b.txt changed: \"2 bytes");
    assert_reason(&changed, COPY, &format!("input `{load}` changed: file src/b.txt changed"));
    assert_reason(&changed, CAT, &format!("input `{COPY}` changed"));
    // Compared with what was built last.
    context.mode("src/a.txt", 0o755)?;
    let changed = build().run()?.succeeded();
    assert_reason(&changed, load, "file src/a.txt changed: \"mode 644\" -> \"mode 755\"");
    let input = format!("input `{load}` changed: file src/a.txt changed");
    assert_reason(&changed, COPY, &input);

    context.file("Dockerfile", DOCKERFILE.replace("red", "blue"))?;
    let blue = build().run()?.succeeded();
    assert_reason(&blue, CAT, "env COLOUR changed: \"red\" -> \"blue\"");

    let ignored = build().arg("--no-cache").run()?.succeeded();
    assert_reason(&ignored, CAT, "told to ignore the cache");
    Ok(())
}
