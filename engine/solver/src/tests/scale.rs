//! Graphs that are deep or wide: no stack overflow, no quadratic walk.

use std::time::{Duration, Instant};

use super::*;
use crate::EventKind;

/// How vertices depend on each other.
#[derive(Clone, Copy, Debug)]
enum Shape {
    /// Each on the one before.
    Chain,
    /// All on the first, and the last on all.
    Fan,
    /// Rows of ten, each vertex on two of the row before.
    Lattice,
}

const SHAPES: [Shape; 3] = [Shape::Chain, Shape::Fan, Shape::Lattice];

/// A vertex that does not grow its value with the depth of the graph.
fn link(graph: &mut Graph, i: usize, inputs: Vec<Edge>) -> Edge {
    let name = format!("link{i}");
    graph.world.source(&name, &i.to_string());
    graph.add(Spec { name, inputs, ..Spec::default() })
}

/// A graph of `size` vertices, and the one on top that needs them all.
fn graph(world: &Arc<World>, shape: Shape, size: usize) -> (Graph, Edge) {
    let mut graph = Graph::new(world);
    let mut all: Vec<Edge> = Vec::with_capacity(size);
    for i in 0..size - 1 {
        let inputs = match shape {
            Shape::Chain => all.last().copied().into_iter().collect(),
            Shape::Fan => all.first().copied().into_iter().collect(),
            Shape::Lattice if i < 10 => vec![],
            Shape::Lattice => vec![all[i - 10], all[(i / 10 - 1) * 10 + (i + 1) % 10]],
        };
        all.push(link(&mut graph, i, inputs));
    }
    let inputs = match shape {
        Shape::Chain => all[size - 2..].to_vec(),
        Shape::Fan => all,
        Shape::Lattice => all.split_off(all.len().saturating_sub(10)),
    };
    let top = graph.op("top", &inputs);
    (graph, top)
}

/// What one build costs.
#[derive(Debug)]
struct Cost {
    runs: usize,
    events: usize,
    /// Keys that the cache was asked about.
    asked: usize,
    took: Duration,
}

async fn build(cache: &Arc<Memory>, graph: &Graph, top: Edge) -> Cost {
    let events = Arc::new(AtomicUsize::new(0));
    let count = events.clone();
    let sink = Arc::new(move |event: Event| {
        // Reading the name is what any sink does.
        if let EventKind::Announced { name, .. } = &event.kind {
            assert!(!name.is_empty());
        }
        count.fetch_add(1, Ordering::Relaxed);
    });
    let asked = cache.asked.load(Ordering::Relaxed);
    let began = Instant::now();
    let solver = solver(cache);
    let value = solver.job(sink).solve(&graph.nodes, top).await.expect("nothing fails").value;
    let took = began.elapsed();
    assert!(value.starts_with("top("));
    assert_eq!(solver.active(), 0);
    let runs = graph.world.take_log();
    let runs = runs.lines().filter(|line| line.starts_with("run")).count();
    let asked = cache.asked.load(Ordering::Relaxed) - asked;
    Cost { runs, events: events.load(Ordering::Relaxed), asked, took }
}

/// Builds twice: nothing is known, and everything is.
async fn costs(shape: Shape, size: usize) -> [Cost; 2] {
    let (world, cache) = (World::new(), Arc::default());
    let (graph, top) = graph(&world, shape, size);
    [build(&cache, &graph, top).await, build(&cache, &graph, top).await]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_vertex_costs_the_same() {
    for shape in SHAPES {
        for size in [20, 200, 2_000, 20_000] {
            let [first, second] = costs(shape, size).await;
            assert_eq!([first.runs, second.runs], [size, 0], "{shape:?} of {size}");
            // Announced, started, output, completed; three lookups before a run.
            assert!(first.events <= 4 * size, "{shape:?} of {size}: {first:?}");
            assert!(first.asked <= 3 * size, "{shape:?} of {size}: {first:?}");
            // Announced, started, cached; one lookup, and how long each took.
            assert!(second.events <= 3 * size, "{shape:?} of {size}: {second:?}");
            assert!(second.asked <= size, "{shape:?} of {size}: {second:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_is_longer_than_a_stack_is_deep() {
    let [first, second] = costs(Shape::Chain, 100_000).await;
    assert_eq!([first.runs, second.runs], [100_000, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_chain_is_cancelled() {
    let (world, cache) = (World::new(), Arc::default());
    let (graph, top) = graph(&world, Shape::Chain, 100_000);
    world.gate("link0");
    let solver = solver(&cache);
    {
        let job = quiet(&solver);
        tokio::select! {
            _ = job.solve(&graph.nodes, top) => unreachable!("the gate is shut"),
            () = world.wait_for("run link0") => {}
        }
    }
    while solver.active() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_ladder_is_walked_once_per_vertex() {
    // Two vertices per rung, each depending on both of the rung below: 2^100 paths.
    let world = World::new();
    let mut graph = Graph::new(&world);
    let mut rung = [link(&mut graph, 0, vec![]), link(&mut graph, 1, vec![])];
    for i in 1..100 {
        rung = [0, 1].map(|side| link(&mut graph, 2 * i + side, rung.to_vec()));
    }
    let top = graph.op("top", &rung);
    let cache = Arc::default();
    assert_eq!(build(&cache, &graph, top).await.runs, 201);
    assert_eq!(build(&cache, &graph, top).await.runs, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints what a vertex costs; run it with --release --nocapture"]
async fn measure() {
    for shape in SHAPES {
        for size in [20, 100, 1_000, 10_000, 100_000] {
            let [first, second] = costs(shape, size).await;
            let per_vertex = |cost: &Cost| cost.took / u32::try_from(size).expect("small");
            println!(
                "{shape:?} of {size}: {:?} for each vertex, {:?} if it is known",
                per_vertex(&first),
                per_vertex(&second)
            );
        }
    }
}
