//! What steps may use: `--memory`, `--cpuset-cpus`, `--ulimit`, `--shm-size`, `--cgroup-parent` and
//! the like.

use anyhow::Result;
use cofferdam_tests::cofferdam::exit;
use cofferdam_tests::{Context, needs_root};

use crate::World;

/// A Dockerfile whose only step runs this.
fn context(script: &str) -> Result<Context> {
    Context::new(&format!("ARG REGISTRY\nFROM ${{REGISTRY}}/busybox\nRUN {script}\n"))
}

#[test]
fn limits_reach_the_step() -> Result<()> {
    if needs_root("cgroups") {
        return Ok(());
    }
    let world = World::new()?;
    let context = context(
        "echo open files $(ulimit -n) of $(ulimit -H -n), core $(ulimit -c); \
         echo processors $(sed -n 's/Cpus_allowed_list:[[:space:]]*//p' /proc/self/status); \
         echo shm $(df -k /dev/shm | tail -n 1 | awk '{print $2}')",
    )?;
    let build = world
        .build(&context)
        .option("--ulimit", "nofile=123:456")
        .option("--ulimit", "core=0")
        .option("--cpuset-cpus", "0")
        .option("--cpu-quota", "50000")
        .option("--cpu-shares", "512")
        .option("--memory", "64m")
        .option("--memory-swap", "-1")
        .option("--shm-size", "2m");
    let log = build.run()?.succeeded().log();
    for part in ["open files 123 of 456, core 0\n", "processors 0\n", "shm 2048\n"] {
        assert!(log.contains(part), "no {part:?} in:\n{log}");
    }
    Ok(())
}

#[test]
fn ulimits_are_part_of_the_key_and_other_limits_are_not() -> Result<()> {
    if needs_root("cgroups") {
        return Ok(());
    }
    let world = World::new()?;
    let context = context("echo it ran")?;
    let build = |options: &[(&str, &str)]| {
        let build = world.build(&context);
        options.iter().fold(build, |build, (name, value)| build.option(name, value)).run()
    };
    let again = |built: &cofferdam_tests::cofferdam::Outcome| !built.log().contains("it ran");
    assert!(!again(&build(&[])?.succeeded()));
    let same: &[&[(&str, &str)]] =
        &[&[("--memory", "64m")], &[("--cpu-quota", "90000")], &[("--cpuset-cpus", "0")]];
    for options in same {
        assert!(again(&build(options)?.succeeded()), "{options:?} ran the step again");
    }
    assert!(!again(&build(&[("--ulimit", "nofile=200")])?.succeeded()));
    Ok(())
}

#[test]
fn a_memory_limit_includes_shared_memory_and_swap() -> Result<()> {
    if needs_root("cgroups") {
        return Ok(());
    }
    let world = World::new()?;
    let context = context("dd if=/dev/zero of=/dev/shm/x bs=1M count=48")?;
    let build = world.build(&context).option("--memory", "32m").option("--shm-size", "64m");
    build.run()?.ended(exit::BUILD).says(&["out of memory"]);
    Ok(())
}

#[test]
fn a_cgroup_parent_is_the_users_to_name() -> Result<()> {
    if needs_root("cgroups") {
        return Ok(());
    }
    let world = World::new()?;
    let name = format!("cofferdam-test-{}/inner", std::process::id());
    let context = context(
        "echo limit $(cat /sys/fs/cgroup/cgroup.controllers 2>/dev/null | wc -l); sleep 0",
    )?;
    let build = world.build(&context).option("--cgroup-parent", &name);
    let _ = build.run()?.succeeded();
    let found = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(std::path::Path::new);
    let made = found.iter().map(|root| root.join(&name)).find(|path| path.is_dir());
    let made = made.expect("the cgroup is there, without the step's");
    let leaves = std::fs::read_dir(&made)?.filter(|e| e.as_ref().is_ok_and(|e| e.path().is_dir()));
    assert_eq!(leaves.count(), 0, "the step's cgroup is left");
    for root in std::fs::read_dir("/sys/fs/cgroup")?.filter_map(Result::ok).map(|e| e.path()) {
        for path in [root.join(&name), root.join(name.trim_end_matches("/inner"))] {
            _ = std::fs::remove_dir(path);
        }
    }
    for path in [made.clone(), made.parent().expect("it has one").to_owned()] {
        _ = std::fs::remove_dir(path);
    }
    // A frontend cannot choose one.
    let build = world.build(&context).option("--opt", "cgroup-parent=elsewhere");
    build.run()?.ended(exit::USER).says(&["cgroup parent `elsewhere`", "--cgroup-parent"]);
    let build = world.build(&context).option("--cgroup-parent", "../outside");
    build.run()?.ended(exit::USER).says(&["cgroup parent \"../outside\" is not allowed"]);
    Ok(())
}

#[test]
fn wrong_limits_are_named() -> Result<()> {
    let world = World::new()?;
    let context = context("true")?;
    for (name, value, message) in [
        ("--ulimit", "files=3", "ulimit \"files\" is not allowed: there is no such resource"),
        ("--ulimit", "nofile=9:3", "its soft limit exceeds its hard limit"),
        ("--ulimit", "nofile", "name=soft[:hard]"),
        ("--cpu-shares", "1", "cpu shares \"1\" is not allowed: expected 2 to 262144"),
        ("--cpu-period", "7", "expected 1000 to 1000000 microseconds"),
        ("--cpuset-cpus", "all", "expected a list like `0-2,5`"),
        ("--cpuset-cpus", "4000", "limiting processors to 4000"),
    ] {
        let outcome = world.build(&context).option(name, value).run()?;
        assert_ne!(outcome.code, Some(0), "{name} {value}");
        outcome.says(&[message]);
    }
    let less = world.build(&context).option("--memory", "2m").option("--memory-swap", "1m");
    less.run()?.ended(exit::USER).says(&["it is less than the memory limit"]);
    Ok(())
}
