//! What programs read of a build's progress: every line is as `docs/progress.schema.json` says.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use cofferdam_tests::schema::Schema;
use cofferdam_tests::{Context, needs_steps};
use serde_json::Value;

use crate::World;

#[test]
fn every_line_of_json_is_as_the_schema_says() -> Result<()> {
    if needs_steps() {
        return Ok(());
    }
    let schema = Schema::parse(include_str!("../../../docs/progress.schema.json"))?;
    let world = World::new()?;
    let steps = |last: &str| {
        Context::new(&format!(
            "ARG REGISTRY\nFROM ${{REGISTRY}}/busybox AS a\nRUN echo out; printf '\\377 \\303\\244' >&2\n\
             FROM ${{REGISTRY}}/busybox as b\nRUN echo b\nCOPY --from=a /etc/passwd /\nENV X 1\n{last}\n"
        ))
    };
    let mut seen = BTreeSet::new();
    let mut build = |context: &Context| -> Result<()> {
        let mut command = world.cofferdam.command();
        command.arg("build").arg("--root").arg(world.cofferdam.root()).arg(context.path());
        command.args(["--progress", "json", "--why", "--output", "type=oci,dest=/dev/null"]);
        command.arg("--build-arg").arg(format!("REGISTRY={}", world.registry.address()));
        let output = command.output()?;
        for line in String::from_utf8(output.stderr)?.lines() {
            let Ok(value) = serde_json::from_str::<Value>(line) else { continue };
            schema.check(&value).with_context(|| line.to_owned())?;
            seen.insert(value["type"].as_str().unwrap_or_default().to_owned());
            if value["type"] == "missed" {
                seen.insert(format!("missed {}", value["reason"]));
            }
        }
        Ok(())
    };
    build(&steps("RUN true")?)?;
    build(&steps("RUN true")?)?;
    build(&steps("RUN exit 3")?)?;
    let all = ["vertex", "started", "missed", "completed", "log", "status", "warning", "result"];
    for kind in all {
        assert!(seen.contains(kind), "no `{kind}` in {seen:?}");
    }
    Ok(())
}
