//! Two steps at once on one cache: one swaps a name while the other one's mounts are made. What the
//! engine looks at twice is something else the second time.

use anyhow::{Context as _, Result};
use cofferdam_tests::{Context, Outcome};

use crate::{Canary, World, rounds, with_attacker, works};

/// How many mounts one step of the victim has.
const MOUNTS: usize = 32;
/// How many steps the victim has: 10,240 mounts are made while names are swapped.
const STEPS: usize = 320;

/// What the victim mounts, and how it looks at the result.
struct Victim<'a> {
    /// Options of a `--mount` but its target.
    mount: &'a str,
    /// Where the number of a mount stands in its target: `#`.
    target: &'a str,
    /// How many mounts a step has.
    mounts: usize,
    /// How many steps there are.
    steps: usize,
    /// What it runs.
    script: &'a str,
}

/// Has one stage swap `sub` and `link` in a cache, as fast as it can, for as long as another one
/// makes its mounts. Gives how often they were swapped, too.
fn race(world: &World, link: &str, victim: &Victim<'_>) -> Result<(Outcome, u64)> {
    let cache = "--mount=type=cache,id=race,target=/c";
    let mut dockerfile = format!(
        "FROM busybox AS ready\nCOPY attacker /bin/\n\
         RUN {cache} rm -rf /c/*; mkdir /c/sub && echo inside > /c/sub/inside && ln -s {link} /c/link\n\
         FROM ready AS swapper\n\
         RUN {cache} touch /c/started; attacker swap /c/sub /c/link /c/stop && touch /swapped\n\
         FROM ready AS victim\n\
         RUN {cache} while ! test -e /c/started; do sleep 0.01; done\n"
    );
    for step in 0..victim.steps * rounds() {
        dockerfile += "RUN";
        for mount in 0..victim.mounts {
            let target = victim.target.replace('#', &mount.to_string());
            dockerfile += &format!(" --mount={},target={target}", victim.mount);
        }
        dockerfile += &format!(" : {step}; {}\n", victim.script);
    }
    dockerfile += &format!(
        "RUN {cache} touch /c/stop /done\n\
         FROM busybox\nCOPY --from=swapper /swapped /\nCOPY --from=victim /done /\n"
    );
    let outcome = world.run(&dockerfile, &[])?.succeeded();
    let log = outcome.log();
    let swapped = log.split_once("swapped ").and_then(|(_, rest)| rest.split(' ').next());
    let swapped = swapped.context("the swapper says how often")?.parse()?;
    Ok((outcome, swapped))
}

/// The `source` of a cache mount is a directory when it is looked at and a link to `/` when it is
/// mounted. If that works, one of the mounts shows the host's root, with the canary in it.
#[test]
fn cve_2024_23651_cache_source_is_swapped_for_a_link() -> Result<()> {
    let world = World::new()?;
    let canary = Canary::new()?;
    let script = format!(
        "for m in /m*; do if test -e $m{path}/secret; then echo SEEN; echo x > $m{path}/planted; fi; done",
        path = canary.text()
    );
    let victim = Victim {
        mount: "type=cache,id=race,source=sub",
        target: "/m#",
        mounts: MOUNTS,
        steps: STEPS,
        script: &script,
    };
    let (outcome, swapped) = race(&world, "/", &victim)?;
    if outcome.log().contains("SEEN") {
        works("a step had the host's root mounted");
    }
    canary.is_intact()?;
    assert!(swapped > 10_000, "only swapped {swapped} times");
    Ok(())
}

/// The mount point of a second mount lies in a shared cache, below the name that is swapped. If the
/// directories that lead there are made by name on the host, they are made where the link leads.
#[test]
fn cve_2024_45310_mount_points_are_made_through_a_link() -> Result<()> {
    let world = World::new()?;
    let canary = Canary::new()?;
    let victim = Victim {
        mount: "type=cache,id=race,target=/c --mount=type=tmpfs",
        target: "/c/sub/made/by/mount#",
        mounts: 1,
        steps: STEPS / 4,
        script: "true",
    };
    for link in [canary.text(), canary.climbing()] {
        let (_, swapped) = race(&world, &link, &victim)?;
        canary.is_intact()?;
        assert!(swapped > 1_000, "only swapped {swapped} times");
    }
    Ok(())
}

/// While a runtime writes to files of /proc that confine the process, mounts of the image lead it
/// to others. Here no mount may stand in for anything of /proc, whether it is said outright or by
/// a link that is swapped in meanwhile.
#[test]
fn cve_2025_52881_mounts_redirect_what_is_in_proc() -> Result<()> {
    let world = World::new()?;
    let direct = [
        "/proc",
        "/proc/",
        "//proc//self",
        "/./proc/self/attr",
        "/proc/self/attr/exec",
        "/proc/sys/kernel/core_pattern",
        "/proc/1",
        "/x/../proc/self",
    ];
    for target in direct {
        let context = Context::new(&format!(
            "FROM busybox\nRUN --mount=type=tmpfs,target={target} echo it ran\n"
        ))?;
        let outcome = world.build(&context)?.run()?;
        if outcome.log().contains("it ran") {
            works(format!("a mount at `{target}` is made:\n{}", outcome.report()));
        }
    }
    // That what is in /proc is the kernel's, and that what is masked there is. A mount that was
    // made before /proc was lies below it, where nobody gets to.
    let look = "stat -fc '%T %n' /proc /proc/self /proc/1/attr /proc/1/fd /proc/sys /proc/sys/kernel \
                /proc/sys/kernel/core_pattern /proc/1/attr/current 2>/dev/null; \
                (: > /proc/sys/kernel/hostname) 2>/dev/null && echo WRITTEN; \
                test -z \"$(head -c 1 /proc/kcore 2>/dev/null)\" || echo READ";
    let calm = world.run(&format!("FROM busybox\nRUN {look}; true\n"), &[])?.succeeded().log();
    let look = format!("{look}; true");
    let mount = "type=cache,id=race,target=/c --mount=type=tmpfs";
    for link in ["/proc", "/proc/self", "../../../proc/sys", "/proc/self/fd/../.."] {
        let victim =
            Victim { mount, target: "/c/sub/attr#", mounts: 1, steps: STEPS / 8, script: &look };
        let (outcome, swapped) = race(&world, link, &victim)?;
        assert!(swapped > 1_000, "only swapped {swapped} times");
        let log = outcome.log();
        let seen: Vec<&str> = log.lines().filter(|line| !line.starts_with("swapped")).collect();
        let expected: Vec<&str> = calm.lines().collect();
        if let Some(other) = seen.chunks(expected.len()).find(|seen| *seen != expected) {
            works(format!("a step with a link to {link} has another /proc:\n{other:#?}\n{calm}"));
        }
    }
    // The image itself has links where /proc and a mount point are.
    let linked = "FROM busybox\nRUN ln -s /proc /p && ln -s proc/self /q\n\
                  RUN --mount=type=tmpfs,target=/p/sys --mount=type=tmpfs,target=/q/attr ";
    let outcome = world.run(&format!("{linked}{look}\n"), &[])?;
    if outcome.code == Some(0) && outcome.log() != calm {
        works(format!("links of the image lead mounts into /proc:\n{}", outcome.report()));
    }
    Ok(())
}

/// Two builds at once, of two users of one machine, mount the same stage; one of them writes to its
/// mount and swaps names there. If what it writes is in the stage itself, the other one's mount has
/// the host's root, or changed files.
#[test]
fn cve_2024_11218_bind_mounts_of_two_builds() -> Result<()> {
    let world = World::new()?;
    let canary = Canary::new()?;
    let shared = "FROM busybox AS shared\nRUN mkdir -p /d/sub && echo inside > /d/sub/inside && ln -s / /d/link\n";
    // Both builds find it, and mount the same layer.
    let _ = world.run(shared, &[])?.succeeded();
    let stop = "--mount=type=cache,id=stop,target=/stop";
    let swapper = with_attacker(&format!(
        "{shared}FROM busybox\nCOPY attacker /bin/\n\
         RUN {stop} --mount=from=shared,source=/d,target=/m,rw \
         touch /stop/started && attacker swap /m/sub /m/link /stop/stop\n"
    ))?;
    let mut victim = format!(
        "{shared}FROM busybox\nRUN {stop} while ! test -e /stop/started; do sleep 0.01; done\n"
    );
    let path = canary.text();
    for step in 0..STEPS / 4 * rounds() {
        victim += "RUN";
        for mount in 0..MOUNTS {
            victim += &format!(" --mount=from=shared,source=/d/sub,target=/m{mount}");
        }
        victim += &format!(
            " : {step}; for m in /m*; do test -e $m/inside || echo CHANGED; \
             if test -e $m{path}/secret; then echo SEEN; fi; done\n"
        );
    }
    victim += &format!("RUN {stop} touch /stop/stop\n");
    let swapper = world.build(&swapper)?.spawn()?;
    let outcome = world.build(&Context::new(&victim)?)?.run();
    let swapped = swapper.finish()?;
    let (outcome, swapped) = (outcome?.succeeded(), swapped.succeeded());
    for sign in ["SEEN", "CHANGED"] {
        if outcome.log().contains(sign) {
            works(format!("{sign}: a build's mount is another build's to change"));
        }
    }
    canary.is_intact()?;
    assert!(swapped.log().contains("swapped "), "{}", swapped.report());
    Ok(())
}
