//! What a build came to, in numbers.

use std::time::Duration;

use super::steps::{End, Step, Steps};

/// How many of the slowest steps are named.
const SLOWEST: usize = 5;
/// What took less is not slow.
const SLOW: Duration = Duration::from_millis(100);

/// The numbers of one build.
#[derive(Debug, Default)]
pub struct Summary {
    /// Steps that were executed.
    pub run: usize,
    /// Steps that were cached.
    pub cached: usize,
    /// How long those took when they were executed, where that is known.
    pub saved: Duration,
    /// What took longest, and how long.
    pub slowest: Vec<(Duration, String)>,
    /// Bytes that were moved by transfers.
    pub transferred: u64,
    /// How long it all took.
    pub elapsed: Duration,
}

impl Summary {
    /// Counts.
    pub fn new(steps: &Steps, elapsed: Duration) -> Self {
        let ended = |end: End| {
            steps.iter().filter(move |step| is_of_graph(step) && step.ended() == Some(&end))
        };
        let mut slowest: Vec<_> = steps
            .iter()
            .filter(|step| step.took >= SLOW)
            .map(|step| (step.took, step.name.clone()))
            .collect();
        slowest.sort_by_key(|(took, _)| std::cmp::Reverse(*took));
        slowest.truncate(SLOWEST);
        Self {
            run: ended(End::Done).count(),
            cached: ended(End::Cached).count(),
            saved: ended(End::Cached).filter_map(|step| step.saved).sum(),
            slowest,
            transferred: steps.iter().map(|step| step.transfers.together().current).sum(),
            elapsed,
        }
    }
}

/// Whether it is a step of the user's, rather than something around them.
fn is_of_graph(step: &Step) -> bool {
    !step.name.starts_with("[internal]") && !step.name.starts_with("exporting to ")
}

#[cfg(test)]
mod tests {
    use cofferdam_build::{Event, EventKind, Outcome};
    use cofferdam_types::Digest;

    use super::super::testing::{announced, at, status};
    use super::*;

    #[test]
    fn steps_are_counted() {
        let mut steps = Steps::default();
        let mut add = |vertex: &str, millis, kind| {
            steps.add(&Event { vertex: Digest::of(vertex), at: at(millis), kind });
        };
        let mut step = |name: &str, took, outcome| {
            add(name, 0, announced(name));
            add(name, 0, EventKind::Started);
            add(name, took, status("part", 1000, 0));
            add(name, took, EventKind::Completed(outcome));
        };
        step("[internal] load build context", 200, Outcome::Done);
        step("[1/3] FROM x", 0, Outcome::Cached { took: None });
        step("[2/3] COPY", 0, Outcome::Cached { took: Some(Duration::from_secs(7)) });
        step("[2/3] RUN a", 1500, Outcome::Done);
        step("[3/3] RUN b", 40, Outcome::Done);
        step("exporting to image", 300, Outcome::Done);
        let summary = Summary::new(&steps, Duration::from_secs(2));
        assert_eq!((summary.run, summary.cached, summary.transferred), (2, 2, 6000));
        assert_eq!(summary.saved, Duration::from_secs(7));
        let slowest = summary.slowest.iter().map(|(took, name)| (took.as_millis(), name.as_str()));
        assert_eq!(
            slowest.collect::<Vec<_>>(),
            [
                (1500, "[2/3] RUN a"),
                (300, "exporting to image"),
                (200, "[internal] load build context")
            ]
        );
    }
}
