//! The helper that waits for the next step. A file of its own, so that this process has no other
//! helpers than this test's.

mod support;

use std::fs;
use std::time::Duration;

use support::Bench;

/// The processes that this one has started, with their state (proc_pid_stat(5)).
fn children() -> Vec<(u32, char)> {
    let parent = std::process::id().to_string();
    let stats = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let stat = fs::read_to_string(entry.unwrap().path().join("stat")).ok()?;
        let (pid, rest) = stat.split_once(" (")?;
        let (_, rest) = rest.rsplit_once(") ")?;
        let mut fields = rest.split(' ');
        let state = fields.next()?.chars().next()?;
        (fields.next()? == parent).then(|| Some((pid.parse().ok()?, state)))?
    });
    stats.collect()
}

async fn until(what: impl Fn(&[(u32, char)]) -> bool) -> Vec<(u32, char)> {
    loop {
        let now = children();
        if what(&now) {
            return now;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn one_waits_is_replaced_when_it_dies_and_ends_with_the_runner() {
    let bench = Bench::new();
    assert_eq!(bench.run(bench.sh("echo 1")).await, "1\n");
    bench.runner.idle().await;
    let (waiting, _) = until(|children| children.len() == 1).await[0];

    let killed = std::process::Command::new("kill").args(["-KILL", &waiting.to_string()]).status();
    assert!(killed.unwrap().success());
    until(|children| children.iter().all(|(pid, state)| *pid != waiting || *state == 'Z')).await;
    assert_eq!(bench.run(bench.sh("echo 2")).await, "2\n");
    assert_eq!(bench.changes(), "");

    let Bench { dir, runner } = bench;
    drop(runner);
    until(|children| children.iter().all(|(_, state)| *state == 'Z')).await;
    drop(dir);
}
