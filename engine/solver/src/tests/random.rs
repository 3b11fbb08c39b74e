//! Random graphs, changes, failures, cancellations and prunings, against an evaluation from
//! scratch.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use tokio::runtime::{Builder, Runtime};

use super::*;

/// A vertex, with inputs as numbers that are taken modulo the vertices before it.
#[derive(Clone, Debug)]
struct Plan {
    inputs: Vec<usize>,
    by_content: bool,
    identity: bool,
    more_outputs: u32,
    yields: usize,
}

/// What happens between and during builds.
#[derive(Clone, Debug)]
enum Step {
    /// A source gets new content, with a part that is read and one that is not.
    Change { source: usize, read: u8, unread: u8 },
    /// A vertex fails from now on, or works again.
    Break { vertex: usize, broken: bool },
    /// Records are lost: all whose value's length leaves this remainder.
    Prune { remainder: usize },
    /// Jobs at the same time, each possibly cancelled after some turns.
    Build { wanted: Vec<(usize, Option<usize>)>, ignore_cache: Option<usize> },
}

fn plan() -> impl Strategy<Value = Plan> {
    (vec(any::<usize>(), 0..4), any::<bool>(), any::<bool>(), 0..2u32, 0..4usize).prop_map(
        |(inputs, by_content, identity, more_outputs, yields)| Plan {
            inputs,
            by_content,
            identity,
            more_outputs,
            yields,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let wanted = (any::<usize>(), proptest::option::weighted(0.3, 0..60usize));
    let build = (vec(wanted, 1..4), proptest::option::weighted(0.2, any::<usize>()));
    prop_oneof![
        2 => (any::<usize>(), 0..3u8, 0..3u8)
            .prop_map(|(source, read, unread)| Step::Change { source, read, unread }),
        1 => (any::<usize>(), proptest::bool::weighted(0.3))
            .prop_map(|(vertex, broken)| Step::Break { vertex, broken }),
        1 => (0..4usize).prop_map(|remainder| Step::Prune { remainder }),
        4 => build.prop_map(|(wanted, ignore_cache)| Step::Build { wanted, ignore_cache }),
    ]
}

/// Names, inputs and behaviour of all vertices.
fn specs(plans: &[Plan], ignore_cache: Option<usize>) -> Vec<Spec> {
    let mut specs: Vec<Spec> = Vec::new();
    for (i, plan) in plans.iter().enumerate() {
        let pick = |number: &usize| {
            let input = &specs[number % i];
            let output = (*number / i) as u32 % (1 + input.more_outputs);
            Edge { vertex: input.digest(), output }
        };
        let inputs = if i == 0 { vec![] } else { plan.inputs.iter().map(pick).collect() };
        specs.push(Spec {
            name: format!("v{i}"),
            inputs,
            by_content: plan.by_content,
            identity: plan.identity,
            ignore_cache: ignore_cache.is_some_and(|number| number % plans.len() == i),
            more_outputs: plan.more_outputs,
            yields: plan.yields,
            label: "",
        });
    }
    specs
}

/// The value of every edge, and whether something that it needs is broken.
fn evaluate(world: &World, specs: &[Spec]) -> BTreeMap<Edge, (String, bool)> {
    let mut values = BTreeMap::<Edge, (String, bool)>::new();
    for spec in specs {
        let inputs: Vec<_> = spec.inputs.iter().map(|edge| values[edge].0.clone()).collect();
        let broken = lock(&world.failing).contains(&spec.name)
            || spec.inputs.iter().any(|edge| values[edge].1);
        for output in 0..=spec.more_outputs {
            let value = spec.value(world, &inputs, output);
            values.insert(Edge { vertex: spec.digest(), output }, (value, broken));
        }
    }
    values
}

async fn build(
    world: &Arc<World>,
    cache: &Arc<Memory>,
    specs: &[Spec],
    wanted: &[(usize, Option<usize>)],
) {
    let expected = evaluate(world, specs);
    let edges: Vec<Edge> = expected.keys().copied().collect();
    let mut graph = Graph::new(world);
    specs.iter().for_each(|spec| {
        graph.add(spec.clone());
    });
    let solver = solver(cache);
    // Open until all are done: what one of them has run, the others need not run.
    let jobs: Vec<_> = wanted.iter().map(|_| quiet(&solver)).collect();
    let builds = wanted.iter().zip(&jobs).map(|((number, patience), job)| {
        let (edge, graph, expected) = (edges[number % edges.len()], &graph, &expected);
        async move {
            let cancelled = async {
                match patience {
                    Some(turns) => {
                        for _ in 0..*turns {
                            tokio::task::yield_now().await;
                        }
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                result = job.solve(&graph.nodes, edge) => match result {
                    Ok(record) => assert_eq!(record.value, expected[&edge].0),
                    Err(error) => {
                        assert!(expected[&edge].1, "{error:?}");
                        assert!(error.downcast_ref::<ToldToFail>().is_some(), "{error:?}");
                    }
                },
                () = cancelled => {}
            }
        }
    });
    futures::future::join_all(builds).await;
    drop(jobs);
    // What was cancelled comes to its end, and nothing is kept.
    while world.running.load(Ordering::SeqCst) > 0 || solver.active() > 0 {
        tokio::time::sleep(Duration::from_micros(10)).await;
    }
}

/// Asserts that no vertex ran again, unless it had failed or been dropped in the meantime.
fn check_runs(log: &str, may_run: &mut HashMap<String, bool>) {
    for line in log.lines() {
        let (what, name) = line.split_once(' ').expect("what and name");
        match what {
            "run" => {
                let may = may_run.insert(name.into(), false).unwrap_or(true);
                assert!(may, "{name} ran twice:\n{log}");
            }
            "drop" | "fail" => {
                may_run.insert(name.into(), true);
            }
            _ => {}
        }
    }
}

fn simulate(runtime: &Runtime, plans: &[Plan], steps: &[Step]) {
    let (world, cache) = (World::new(), Arc::<Memory>::default());
    let plain = specs(plans, None);
    for spec in plain.iter().filter(|spec| spec.inputs.is_empty()) {
        world.source(&spec.name, "0#0");
    }
    // Until something changes or is lost, a vertex that ended well must not run again.
    let mut may_run = HashMap::new();
    for step in steps {
        match step {
            Step::Change { source, read, unread } => {
                let sources: Vec<_> = plain.iter().filter(|spec| spec.inputs.is_empty()).collect();
                let source = sources[source % sources.len()];
                world.source(&source.name, &format!("{read}#{unread}"));
                may_run.clear();
            }
            Step::Break { vertex, broken } => {
                let name = plain[vertex % plain.len()].name.clone();
                let mut failing = lock(&world.failing);
                if *broken {
                    failing.insert(name)
                } else {
                    failing.remove(&name)
                };
            }
            Step::Prune { remainder } => {
                lock(&cache.records).values.retain(|_, value| value.len() % 4 != *remainder);
                may_run.clear();
            }
            Step::Build { wanted, ignore_cache } => {
                // What ignores the cache runs once for all jobs of this build.
                if ignore_cache.is_some() {
                    may_run.clear();
                }
                let specs = specs(plans, *ignore_cache);
                runtime.block_on(build(&world, &cache, &specs, wanted));
                check_runs(&world.take_log(), &mut may_run);
                if ignore_cache.is_some() {
                    may_run.clear();
                }
            }
        }
    }
}

fn builds() -> impl Strategy<Value = (Vec<Plan>, Vec<Step>)> {
    (vec(plan(), 1..14), vec(step(), 1..16))
}

#[test]
fn builds_agree_with_an_evaluation_from_scratch() {
    let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    proptest!(ProptestConfig::with_cases(500), |((plans, steps) in builds())| {
        simulate(&runtime, &plans, &steps);
    });
}

#[test]
fn builds_on_several_threads_agree_with_an_evaluation_from_scratch() {
    let runtime =
        Builder::new_multi_thread().worker_threads(3).enable_time().build().expect("a runtime");
    proptest!(ProptestConfig::with_cases(200), |((plans, steps) in builds())| {
        simulate(&runtime, &plans, &steps);
    });
}
