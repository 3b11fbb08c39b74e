//! Concurrency: what runs at the same time, what is shared, cancelled and failed.

use std::time::Duration;

use expect_test::expect;

use super::*;
use crate::SolveError;

/// Lets everything go on that can: with the clock paused, a sleep ends when all else is idle.
async fn settle() {
    tokio::time::sleep(Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn independent_vertices_run_at_the_same_time_up_to_the_limit() {
    let world = World::new();
    let mut graph = Graph::new(&world);
    let names = ["a", "b", "c", "d", "e", "f"];
    let gates = names.map(|name| world.gate(name));
    let inputs = names.map(|name| graph.op(name, &[]));
    let top = graph.op("top", &inputs);
    let job = quiet(&solver(&Arc::default()));
    let opener = async {
        settle().await;
        // All four permits are taken, each by a run that waits for its gate.
        assert_eq!(world.running.load(Ordering::SeqCst), 4);
        gates.iter().for_each(|gate| gate.add_permits(1));
    };
    let (result, ()) = tokio::join!(job.solve(&graph.nodes, top), opener);
    assert_eq!(result.unwrap().value, "top(a(),b(),c(),d(),e(),f())");
    assert_eq!(world.most_running.load(Ordering::SeqCst), 4);
}

#[tokio::test(start_paused = true)]
async fn waiting_for_an_input_holds_no_permit() {
    let world = World::new();
    let mut graph = Graph::new(&world);
    let mut edge = graph.op("base", &[]);
    for name in ["one", "two", "three"] {
        edge = graph.op(name, &[edge]);
    }
    let job = quiet(&Solver::new(Arc::new(Memory::default()), 1));
    assert_eq!(job.solve(&graph.nodes, edge).await.unwrap().value, "three(two(one(base())))");
}

#[tokio::test(start_paused = true)]
async fn two_jobs_share_a_run_and_one_of_them_may_leave() {
    let world = World::new();
    let mut graph = Graph::new(&world);
    let base = graph.op("base", &[]);
    let tops = ["left", "right"].map(|name| graph.op(name, &[base]));
    let gate = world.gate("base");
    let solver = solver(&Arc::default());
    let (first, second) = (quiet(&solver), quiet(&solver));
    let mut left = Box::pin(first.solve(&graph.nodes, tops[0]));
    let mut right = Box::pin(second.solve(&graph.nodes, tops[1]));
    tokio::select! {
        _ = &mut left => unreachable!("the gate is shut"),
        _ = &mut right => unreachable!("the gate is shut"),
        () = settle() => {}
    }
    drop(left);
    drop(first);
    settle().await;
    world.check(expect!["run base"]);
    gate.add_permits(1);
    assert_eq!(right.await.unwrap().value, "right(base())");
    world.check(expect!["run right"]);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_waits_for_is_dropped_and_can_be_started_again() {
    let world = World::new();
    let mut graph = Graph::new(&world);
    let base = graph.op("base", &[]);
    let top = graph.op("top", &[base]);
    let gate = world.gate("base");
    let job = quiet(&solver(&Arc::default()));
    tokio::select! {
        _ = job.solve(&graph.nodes, top) => unreachable!("the gate is shut"),
        () = settle() => {}
    }
    settle().await;
    world.check(expect![[r#"
        run base
        drop base"#]]);
    gate.add_permits(1);
    assert_eq!(job.solve(&graph.nodes, top).await.unwrap().value, "top(base())");
    world.check(expect![[r#"
        run base
        run top"#]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn work_started_again_waits_until_the_dropped_work_has_ended() {
    use crate::flight::Flight;
    let flight = Flight::<u32>::default();
    let steps = Arc::new(Mutex::new(Vec::new()));
    let (begun, mut has_begun) = tokio::sync::mpsc::unbounded_channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let first = {
        let steps = steps.clone();
        async move {
            begun.send(()).expect("the test listens");
            // In the middle of a poll, where an abort cannot reach it.
            released.recv().expect("the test releases");
            lock(&steps).push("first ends");
            std::future::pending().await
        }
    };
    tokio::select! {
        _ = flight.get(1, || first) => unreachable!("the first work does not end by itself"),
        _ = has_begun.recv() => {}
    }
    let releaser = async {
        // Time for the second work to begin too early, if it could.
        tokio::time::sleep(Duration::from_millis(20)).await;
        release.send(()).expect("the first work listens");
    };
    let noted = steps.clone();
    let second = async move {
        lock(&noted).push("second begins");
        Ok(2)
    };
    let (result, ()) = tokio::join!(flight.get(1, || second), releaser);
    assert!(matches!(result, Some(Ok(2))));
    assert_eq!(*lock(&steps), ["first ends", "second begins"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn work_that_was_dropped_too_late_is_not_done_again() {
    use crate::flight::Flight;
    let flight = Flight::<u32>::default();
    let (begun, mut has_begun) = tokio::sync::mpsc::unbounded_channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let first = async move {
        begun.send(()).expect("the test listens");
        // In the middle of its last poll, where an abort cannot reach it.
        released.recv().expect("the test releases");
        Ok(1)
    };
    tokio::select! {
        _ = flight.get(1, || first) => unreachable!("the first work waits"),
        _ = has_begun.recv() => {}
    }
    let releaser = async { release.send(()).expect("the first work listens") };
    let second = async { unreachable!("the first work has the result") };
    let (result, ()) = tokio::join!(flight.get(1, || second), releaser);
    assert!(matches!(result, Some(Ok(1))));
    assert_eq!(flight.done(), Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_failure_cancels_what_only_its_solve_wants() {
    let world = World::new();
    let mut graph = Graph::new(&world);
    let names = ["bad", "alone", "shared"];
    let inputs = names.map(|name| graph.op(name, &[]));
    let top = graph.op("top", &inputs);
    let gates = names.map(|name| world.gate(name));
    lock(&world.failing).insert("bad".into());
    let solver = solver(&Arc::default());
    let (job, other) = (quiet(&solver), quiet(&solver));
    let mut failing = Box::pin(job.solve(&graph.nodes, top));
    let mut shared = Box::pin(other.solve(&graph.nodes, inputs[2]));
    tokio::select! {
        _ = &mut failing => unreachable!("the gates are shut"),
        _ = &mut shared => unreachable!("the gate is shut"),
        () = settle() => {}
    }
    gates[0].add_permits(1);
    let error = failing.await.unwrap_err();
    assert_eq!(error.downcast_ref::<ToldToFail>().unwrap().0, "bad");
    assert_eq!(error.vertex(), inputs[0].vertex);
    settle().await;
    gates[2].add_permits(1);
    assert_eq!(shared.await.unwrap().value, "shared()");
    world.check(expect![[r#"
        run shared
        run bad
        run alone
        fail bad
        drop alone"#]]);

    // The failure is not remembered, and what was done meanwhile is.
    lock(&world.failing).clear();
    gates.iter().for_each(|gate| gate.add_permits(1));
    assert_eq!(job.solve(&graph.nodes, top).await.unwrap().value, "top(bad(),alone(),shared())");
    world.check(expect![[r#"
        run bad
        run alone
        run top"#]]);
}

#[tokio::test(start_paused = true)]
async fn everybody_who_waits_gets_the_same_error() {
    let world = World::new();
    let mut graph = Graph::new(&world);
    let bad = graph.op("bad", &[]);
    let tops = ["left", "right"].map(|name| graph.op(name, &[bad]));
    lock(&world.failing).insert("bad".into());
    let solver = solver(&Arc::default());
    let (first, second) = (quiet(&solver), quiet(&solver));
    let (left, right) =
        tokio::join!(first.solve(&graph.nodes, tops[0]), second.solve(&graph.nodes, tops[1]));
    assert!(Arc::ptr_eq(&left.unwrap_err(), &right.unwrap_err()));
    world.check(expect![[r#"
        run bad
        fail bad"#]]);
}

#[tokio::test(start_paused = true)]
async fn different_vertices_with_equal_keys_run_once() {
    let world = World::new();
    let mut graph = Graph::new(&world);
    let inputs = ["amd64", "arm64"].map(|label| {
        let base = graph.add(Spec { name: "base".into(), label, ..Spec::default() });
        let inputs = vec![base];
        graph.add(Spec { name: "copy".into(), inputs, label, yields: 3, ..Spec::default() })
    });
    let top = graph.op("top", &inputs);
    assert_eq!(solve(&Arc::default(), &graph, top).await, "top(copy(base()),copy(base()))");
    world.check(expect![[r#"
        run base
        run copy
        run top"#]]);
}

#[tokio::test(start_paused = true)]
async fn ignoring_the_cache_does_not_share_with_those_who_do_not() {
    let world = World::new();
    let cache = Arc::default();
    let mut plain = Graph::new(&world);
    let edge = plain.op("base", &[]);
    let mut ignoring = Graph::new(&world);
    ignoring.add(Spec { name: "base".into(), ignore_cache: true, ..Spec::default() });
    let gate = world.gate("base");
    let solver = solver(&cache);
    let jobs = [quiet(&solver), quiet(&solver), quiet(&solver)];
    let opener = async {
        settle().await;
        gate.add_permits(2);
    };
    let results = tokio::join!(
        jobs[0].solve(&plain.nodes, edge),
        jobs[1].solve(&ignoring.nodes, edge),
        jobs[2].solve(&ignoring.nodes, edge),
        opener
    );
    assert_eq!(results.1.unwrap(), results.2.unwrap());
    assert_eq!(results.0.unwrap().value, "base()");
    world.check(expect![[r#"
        run base
        run base"#]]);
}

#[tokio::test]
async fn a_broken_graph_or_vertex_is_an_error() {
    let world = World::new();
    let mut graph = Graph::new(&world);
    let base = graph.op("base", &[]);
    let nowhere = Edge { vertex: Digest::of("nowhere"), output: 0 };
    let lost = graph.op("lost", &[nowhere]);
    let beyond = graph.op("beyond", &[base, Edge { output: 7, ..base }]);
    let panics = graph.op("panics", &[]);
    // A circle needs a digest that does not cover the inputs.
    let digest = Digest::of("circle");
    let circle = Edge { vertex: digest, output: 0 };
    let spec = Spec { name: "circle".into(), inputs: vec![circle], ..Spec::default() };
    graph.nodes.insert(digest, Arc::new(Node { world: world.clone(), spec, digest }));

    let job = quiet(&solver(&Arc::default()));
    let mut errors = String::new();
    for edge in [lost, beyond, panics, circle] {
        let error: Arc<SolveError> = job.solve(&graph.nodes, edge).await.unwrap_err();
        errors += &format!("{error}\n").replace(&error.vertex().to_string(), "DIGEST");
    }
    expect![[r#"
        vertex DIGEST is not in the graph
        vertex `base` (DIGEST) has 1 outputs, and no output 7
        vertex `panics` (DIGEST) panicked: as told
        vertex `circle` (DIGEST) depends on itself
    "#]]
    .assert_eq(&errors);
}

#[tokio::test(start_paused = true)]
async fn nothing_stays_behind_when_the_jobs_are_gone() {
    let world = World::new();
    let mut graph = Graph::new(&world);
    let base = graph.op("base", &[]);
    let top = graph.op("top", &[base]);
    let solver = solver(&Arc::default());
    let job = quiet(&solver);
    job.solve(&graph.nodes, top).await.unwrap();
    settle().await;
    assert_eq!(solver.active(), 2);
    drop(job);
    assert_eq!(solver.active(), 0);
}
