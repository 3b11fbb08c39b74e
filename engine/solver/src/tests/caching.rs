//! What is looked up, what is run, and which keys lead where.

use expect_test::expect;

use super::*;

/// source ← copy ← build ← pack, where copy reads by content.
fn pipeline(world: &Arc<World>) -> (Graph, Edge) {
    let mut graph = Graph::new(world);
    let source = graph.op("source", &[]);
    let copy = graph.copy("copy", &[source]);
    let build = graph.op("build", &[copy]);
    let pack = graph.op("pack", &[build]);
    (graph, pack)
}

#[tokio::test]
async fn a_hit_at_the_top_runs_nothing_below() {
    let (world, cache) = (World::new(), Arc::default());
    world.source("source", "x");
    let (graph, top) = pipeline(&world);
    assert_eq!(solve(&cache, &graph, top).await, "pack(build(copy(x)))");
    world.check(expect![[r#"
        resolve source
        run source
        run copy
        run build
        run pack"#]]);
    assert_eq!(solve(&cache, &graph, top).await, "pack(build(copy(x)))");
    world.check(expect!["resolve source"]);
}

#[tokio::test]
async fn the_top_hits_when_everything_below_was_pruned() {
    let (world, cache) = (World::new(), Arc::<Memory>::default());
    world.source("source", "x");
    let (graph, top) = pipeline(&world);
    let value = solve(&cache, &graph, top).await;
    lock(&cache.records).values.retain(|_, kept| *kept == value);
    world.take_log();
    assert_eq!(solve(&cache, &graph, top).await, value);
    world.check(expect!["resolve source"]);
}

#[tokio::test]
async fn a_result_that_was_pruned_is_made_again_from_what_is_left() {
    let (world, cache) = (World::new(), Arc::<Memory>::default());
    world.source("source", "x");
    let (graph, top) = pipeline(&world);
    let value = solve(&cache, &graph, top).await;
    lock(&cache.records).values.retain(|_, kept| kept.starts_with("copy"));
    world.take_log();
    assert_eq!(solve(&cache, &graph, top).await, value);
    world.check(expect![[r#"
        resolve source
        run build
        run pack"#]]);
}

#[tokio::test]
async fn a_change_that_is_not_read_hits_by_content_and_then_by_definition() {
    let (world, cache) = (World::new(), Arc::<Memory>::default());
    world.source("source", "x#1");
    let (graph, top) = pipeline(&world);
    solve(&cache, &graph, top).await;
    world.take_log();

    world.source("source", "x#2");
    solve(&cache, &graph, top).await;
    world.check(expect![[r#"
        resolve source
        run source"#]]);
    // One for each of copy, build and pack.
    assert_eq!(lock(&cache.records).aliases, 3);

    solve(&cache, &graph, top).await;
    world.check(expect!["resolve source"]);
    assert_eq!(lock(&cache.records).aliases, 3);
}

#[tokio::test]
async fn a_change_that_is_read_runs_everything_above() {
    let (world, cache) = (World::new(), Arc::default());
    world.source("source", "x");
    let (graph, top) = pipeline(&world);
    solve(&cache, &graph, top).await;
    world.take_log();
    world.source("source", "y");
    assert_eq!(solve(&cache, &graph, top).await, "pack(build(copy(y)))");
    world.check(expect![[r#"
        resolve source
        run source
        run copy
        run build
        run pack"#]]);
}

#[tokio::test]
async fn equal_content_from_another_op_is_the_same_record() {
    let (world, cache) = (World::new(), Arc::default());
    let consumer = |name: &str| {
        let mut graph = Graph::new(&world);
        let source = graph.copy(name, &[]);
        let top = graph.op("top", &[source]);
        (graph, top)
    };
    world.source("here", "same");
    world.source("there", "same");
    let (graph, top) = consumer("here");
    solve(&cache, &graph, top).await;
    world.take_log();
    let (graph, top) = consumer("there");
    solve(&cache, &graph, top).await;
    world.check(expect![[r#"
        resolve there
        run there"#]]);
}

#[tokio::test]
async fn ignoring_the_cache_runs_the_vertex_and_what_depends_on_its_result() {
    let (world, cache) = (World::new(), Arc::default());
    world.source("source", "x");
    let graph_with = |ignore_cache| {
        let mut graph = Graph::new(&world);
        let source = graph.op("source", &[]);
        let inputs = vec![source];
        let update =
            graph.add(Spec { name: "update".into(), inputs, ignore_cache, ..Spec::default() });
        let copy = graph.copy("copy", &[update]);
        let install = graph.op("install", &[update]);
        let top = graph.op("top", &[copy, install]);
        (graph, top)
    };
    let (plain, top) = graph_with(false);
    solve(&cache, &plain, top).await;
    world.take_log();
    // `copy` reads the same content, so it is not run again.
    let (ignoring, top) = graph_with(true);
    solve(&cache, &ignoring, top).await;
    world.check(expect![[r#"
        resolve source
        run update
        run install
        run top"#]]);
    // The new results are found from now on.
    solve(&cache, &plain, top).await;
    world.check(expect!["resolve source"]);
}

#[tokio::test]
async fn a_job_runs_a_vertex_once_even_if_nothing_is_cached() {
    let world = World::new();
    let mut graph = Graph::new(&world);
    let inputs = vec![];
    let base = graph.add(Spec {
        name: "base".into(),
        inputs,
        ignore_cache: true,
        more_outputs: 1,
        ..Spec::default()
    });
    let second = Edge { output: 1, ..base };
    let (left, right) = (graph.op("left", &[base]), graph.op("right", &[base, second]));
    let top = graph.op("top", &[left, right]);
    let job = quiet(&Solver::new(Arc::new(crate::NoCache), 1));
    let value = job.solve(&graph.nodes, top).await.unwrap().value;
    assert_eq!(value, "top(left(base()),right(base(),base.1()))");
    assert_eq!(job.solve(&graph.nodes, second).await.unwrap().value, "base.1()");
    // Whichever of left and right came first.
    let log = world.take_log();
    let mut lines: Vec<_> = log.lines().collect();
    lines[1..3].sort_unstable();
    assert_eq!(lines, ["run base", "run left", "run right", "run top"]);
}

#[tokio::test]
async fn each_output_has_its_own_record() {
    let (world, cache) = (World::new(), Arc::<Memory>::default());
    let mut graph = Graph::new(&world);
    let first = graph.add(Spec { name: "pair".into(), more_outputs: 1, ..Spec::default() });
    let second = Edge { output: 1, ..first };
    assert_eq!(solve(&cache, &graph, first).await, "pair()");
    assert_eq!(solve(&cache, &graph, second).await, "pair.1()");
    world.check(expect!["run pair"]);
    lock(&cache.records).values.retain(|_, kept| kept == "pair.1()");
    assert_eq!(solve(&cache, &graph, second).await, "pair.1()");
    world.check(expect![""]);
    assert_eq!(solve(&cache, &graph, first).await, "pair()");
    world.check(expect!["run pair"]);
}
