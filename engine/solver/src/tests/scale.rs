//! Graphs that are deep or wide: no stack overflow, no quadratic walk.

use super::*;

const SIZE: usize = 10_000;

async fn count_runs(world: &Arc<World>, graph: &Graph, top: Edge) -> [usize; 2] {
    let cache = Arc::default();
    let mut runs = [0; 2];
    for count in &mut runs {
        let value = solve(&cache, graph, top).await;
        assert!(value.starts_with("top("));
        *count = lock(&world.log).iter().filter(|line| line.starts_with("run")).count();
        world.take_log();
    }
    runs
}

/// A vertex that does not grow its value with the length of the chain.
fn link(graph: &mut Graph, i: usize, inputs: Vec<Edge>) -> Edge {
    let name = format!("link{i}");
    graph.world.source(&name, &i.to_string());
    graph.add(Spec { name, inputs, ..Spec::default() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain() {
    let world = World::new();
    let mut graph = Graph::new(&world);
    let mut last = link(&mut graph, 0, vec![]);
    for i in 1..SIZE {
        last = link(&mut graph, i, vec![last]);
    }
    let top = graph.op("top", &[last]);
    assert_eq!(count_runs(&world, &graph, top).await, [SIZE + 1, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fan() {
    let world = World::new();
    let mut graph = Graph::new(&world);
    let base = link(&mut graph, 0, vec![]);
    let middle: Vec<_> = (1..SIZE).map(|i| link(&mut graph, i, vec![base])).collect();
    let top = graph.op("top", &middle);
    assert_eq!(count_runs(&world, &graph, top).await, [SIZE + 1, 0]);
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
    assert_eq!(count_runs(&world, &graph, top).await, [201, 0]);
}
