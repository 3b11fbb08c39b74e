//! What jobs are told.

use expect_test::expect;

use super::*;
use crate::{EventKind, Outcome, Sink};

/// A sink that writes one line per event, and where it writes them.
fn recorder(graph: &Graph) -> (Sink, Arc<Mutex<String>>) {
    let names: HashMap<_, _> =
        graph.nodes.iter().map(|(digest, node)| (*digest, node.spec.name.clone())).collect();
    let text = Arc::new(Mutex::new(String::new()));
    let written = text.clone();
    let sink = move |event: Event| {
        let what = match event.kind {
            EventKind::Announced { inputs, .. } => {
                let inputs: Vec<_> = inputs.iter().map(|input| names[input].as_str()).collect();
                format!("announced, reads [{}]", inputs.join(", "))
            }
            EventKind::Started => "started".into(),
            EventKind::Completed(Outcome::Failed(error)) => {
                format!("failed: {}", std::error::Error::source(&error).expect("a vertex failed"))
            }
            EventKind::Completed(Outcome::Cached { .. }) => "cached".into(),
            EventKind::Missed(miss) => format!("missed {miss:?}"),
            EventKind::Completed(outcome) => format!("{outcome:?}").to_lowercase(),
            EventKind::Log { data, .. } => format!("log {data:?}"),
            EventKind::Status(status) => format!("status {}", status.id),
        };
        *lock(&written) += &format!("{}: {what}\n", names[&event.vertex]);
    };
    (Arc::new(sink), text)
}

async fn check(cache: &Arc<Memory>, graph: &Graph, edge: Edge, expected: Expect) {
    let (sink, text) = recorder(graph);
    // Errors are in the events.
    let _ = solver(cache).job(sink).solve(&graph.nodes, edge).await;
    expected.assert_eq(&lock(&text));
}

#[tokio::test]
async fn a_solve_tells_what_it_does() {
    let (world, cache) = (World::new(), Arc::default());
    let mut graph = Graph::new(&world);
    let source = graph.op("chatty source", &[]);
    let middle = graph.op("middle", &[source]);
    let top = graph.op("top", &[middle]);
    lock(&world.failing).insert("top".into());
    check(
        &cache,
        &graph,
        top,
        expect![[r#"
            chatty source: announced, reads []
            middle: announced, reads [chatty source]
            top: announced, reads [middle]
            chatty source: started
            chatty source: log b"resolving"
            chatty source: done
            chatty source: started
            chatty source: log b"running chatty source"
            chatty source: done
            middle: started
            middle: log b"running middle"
            middle: done
            top: started
            top: log b"running top"
            top: failed: `top` is told to fail
        "#]],
    )
    .await;

    lock(&world.failing).clear();
    solve(&cache, &graph, top).await;
    // What is below a hit is cached as well.
    check(
        &cache,
        &graph,
        top,
        expect![[r#"
            chatty source: announced, reads []
            middle: announced, reads [chatty source]
            top: announced, reads [middle]
            chatty source: started
            chatty source: log b"resolving"
            chatty source: done
            middle: started
            middle: cached
            top: started
            top: cached
        "#]],
    )
    .await;
}

#[tokio::test]
async fn a_late_job_is_told_what_it_missed_and_a_cancelled_one_that_it_is() {
    let world = World::new();
    let mut graph = Graph::new(&world);
    let base = graph.op("base", &[]);
    world.gate("base");
    let solver = solver(&Arc::default());
    let (sink, early) = recorder(&graph);
    let first = solver.job(sink);
    let (sink, late) = recorder(&graph);
    let second = solver.job(sink);
    tokio::select! {
        _ = first.solve(&graph.nodes, base) => unreachable!("the gate is shut"),
        () = async {
            world.wait_for("run base").await;
            tokio::select! {
                _ = second.solve(&graph.nodes, base) => unreachable!("the gate is shut"),
                () = async {
                    while lock(&late).lines().count() < 3 {
                        tokio::task::yield_now().await;
                    }
                } => {}
            }
        } => {}
    }
    world.wait_for("drop base").await;
    tokio::task::yield_now().await;
    let expected = "base: announced, reads []\nbase: started\nbase: log b\"running base\"\n\
                    base: canceled\n";
    assert_eq!(*lock(&early), expected);
    assert_eq!(*lock(&late), expected);
}

#[tokio::test]
async fn for_a_job_that_is_over_nothing_runs_any_more() {
    let world = World::new();
    let mut graph = Graph::new(&world);
    let base = graph.op("base", &[]);
    world.gate("base");
    let solver = solver(&Arc::default());
    let (sink, stays) = recorder(&graph);
    let stays_job = solver.job(sink);
    let (sink, goes) = recorder(&graph);
    let goes_job = solver.job(sink);
    let (first, second) = (stays_job.solve(&graph.nodes, base), goes_job.solve(&graph.nodes, base));
    tokio::select! {
        _ = async { tokio::join!(first, second) } => unreachable!("the gate is shut"),
        () = world.wait_for("run base") => {}
    }
    drop(goes_job);
    let begun = "base: announced, reads []\nbase: started\n";
    let told = lock(&goes).clone();
    assert!(told.starts_with(begun) && told.ends_with("base: canceled\n"), "{told}");
    world.wait_for("drop base").await;
    tokio::task::yield_now().await;
    assert_eq!(*lock(&goes), told, "what happens later is not the job's");
    drop(stays_job);
    assert_eq!(lock(&stays).matches("canceled").count(), 1);
}

#[test]
fn the_history_is_bounded() {
    use crate::progress::{Feed, Progress, Work};
    let progress = Progress::new(Digest::of("loud"));
    let work = Work::started(&progress);
    for i in 0..100_000 {
        work.context().log(Stream::Stdout, i.to_string());
        work.context().status(crate::Status { id: i.to_string(), ..Default::default() });
    }
    let told = Arc::new(Mutex::new(Vec::new()));
    let write = told.clone();
    let feed = Feed::new(Arc::new(move |event: Event| lock(&write).push(event)), false);
    progress.follow(&feed, || EventKind::Announced { name: "loud".into(), inputs: vec![] });
    let told = lock(&told);
    assert!(told.len() < 8 << 10, "{}", told.len());
    assert!(matches!(told[1].kind, EventKind::Started));
    assert!(matches!(&told.last().unwrap().kind, EventKind::Log { data, .. } if data == "99999"));
}
