//! Ctrl-C: ends every process of every step, leaves nothing mounted, and the next build works.

use std::fs;

use anyhow::Result;
use cofferdam_tests::Context;
use cofferdam_tests::cofferdam::exit;

use crate::World;

/// The processes of this machine whose command line contains this text.
pub(crate) fn processes(text: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let lines = entries.flatten().filter_map(|entry| {
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " "))
    });
    lines.filter(|line| line.contains(text)).collect()
}

#[test]
fn an_interrupt_ends_every_process_and_leaves_nothing_mounted() -> Result<()> {
    let world = World::new()?;
    // A number that no other process of this machine sleeps for.
    let marker = format!("9{:07}", std::process::id());
    let context = Context::new(&format!(
        "ARG REGISTRY\nFROM ${{REGISTRY}}/busybox AS base\n\
         FROM base AS one\n\
         RUN trap '' INT TERM; sleep {marker} & setsid sh -c 'sleep {marker}' & \
             echo one-is-ready; sleep {marker}\n\
         FROM base AS two\nRUN echo two-is-ready; sleep {marker}\n\
         FROM scratch\nCOPY --from=one / /\nCOPY --from=two / /\n"
    ))?;
    let mut build = world.build(&context).spawn()?;
    build.wait_for_log("one-is-ready")?;
    assert!(!processes(&marker).is_empty(), "the steps are not to be seen in /proc");
    build.interrupt()?;
    let ended = build.finish()?;
    assert_eq!(ended.code, Some(exit::INTERRUPTED), "{}", ended.report());
    assert_eq!(processes(&marker), Vec::<String>::new(), "processes are left");
    assert_eq!(world.cofferdam.mounts(), Vec::<String>::new(), "mounts are left");

    let context = Context::new("ARG REGISTRY\nFROM ${REGISTRY}/busybox\nRUN echo works\n")?;
    assert!(world.build(&context).run()?.succeeded().log().contains("works"));
    Ok(())
}

#[test]
pub(crate) fn processes_that_a_step_leaves_behind_end_with_it() -> Result<()> {
    let world = World::new()?;
    let marker = format!("8{:07}", std::process::id());
    let context = Context::new(&format!(
        "ARG REGISTRY\nFROM ${{REGISTRY}}/busybox\nRUN setsid sleep {marker} & echo left it\n"
    ))?;
    let _ = world.build(&context).run()?.succeeded();
    assert_eq!(processes(&marker), Vec::<String>::new());
    assert_eq!(world.cofferdam.mounts(), Vec::<String>::new());
    Ok(())
}

#[test]
fn a_failing_step_ends_the_steps_beside_it() -> Result<()> {
    let world = World::new()?;
    let marker = format!("7{:07}", std::process::id());
    let context = Context::new(&format!(
        "ARG REGISTRY\nFROM ${{REGISTRY}}/busybox AS base\n\
         FROM base AS one\nRUN sleep {marker}\n\
         FROM base AS two\nRUN sleep 1; exit 9\n\
         FROM scratch\nCOPY --from=one / /\nCOPY --from=two / /\n"
    ))?;
    let _ = world.build(&context).run()?.ended(exit::BUILD);
    assert_eq!(processes(&marker), Vec::<String>::new());
    Ok(())
}
