//! How far the parts of a step are that are counted in bytes, and how fast they move.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use cofferdam_build::Status;

/// Over how long a rate is taken.
const WINDOW: Duration = Duration::from_secs(4);
/// Between two notes of where a part was.
const NOTE_EVERY: Duration = Duration::from_millis(200);

/// The parts of one step, in the order in which they were first heard of.
#[derive(Debug, Default)]
pub struct Transfers {
    parts: Vec<Part>,
}

/// One part, like the download of one layer.
#[derive(Debug)]
pub struct Part {
    id: String,
    /// What it does, for people.
    pub name: String,
    /// How much is done, usually in bytes.
    pub current: u64,
    /// How much there is; 0 where that is unknown.
    pub total: u64,
    /// Whether there is nothing left to do.
    pub complete: bool,
    /// Where it was in the last seconds, the oldest first.
    notes: VecDeque<(SystemTime, u64)>,
}

/// All parts of a step together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Together {
    /// How many parts there are.
    pub parts: usize,
    /// How many of them are complete.
    pub complete: usize,
    /// How much is done.
    pub current: u64,
    /// How much there is of what is known.
    pub total: u64,
}

impl Transfers {
    /// Takes note of how far a part is.
    pub fn add(&mut self, status: &Status, at: SystemTime) {
        let place = self.parts.iter().position(|part| part.id == status.id);
        let place = place.unwrap_or_else(|| {
            self.parts.push(Part {
                id: status.id.clone(),
                name: status.name.clone(),
                current: 0,
                total: 0,
                complete: false,
                notes: VecDeque::from([(at, status.current)]),
            });
            self.parts.len() - 1
        });
        let part = &mut self.parts[place];
        (part.current, part.total) = (status.current, status.total);
        part.complete =
            status.completed.is_some() || (status.total > 0 && status.current >= status.total);
        if part.notes.back().is_some_and(|(last, _)| elapsed(*last, at) >= NOTE_EVERY) {
            part.notes.push_back((at, status.current));
        }
        // One that is older stays, so that there is always something to compare with.
        while part.notes.get(1).is_some_and(|(second, _)| elapsed(*second, at) >= WINDOW) {
            part.notes.pop_front();
        }
    }

    /// The parts that are under way.
    pub fn active(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter(|part| !part.complete)
    }

    /// All parts together.
    pub fn together(&self) -> Together {
        self.parts.iter().fold(Together::default(), |sum, part| Together {
            parts: sum.parts + 1,
            complete: sum.complete + usize::from(part.complete),
            current: sum.current.saturating_add(part.current),
            total: sum.total.saturating_add(part.total.max(part.current)),
        })
    }

    /// How fast all parts together move, per second.
    pub fn rate(&self, now: SystemTime) -> Option<u64> {
        let rates: Vec<_> = self.active().filter_map(|part| part.rate(now)).collect();
        (!rates.is_empty()).then(|| rates.iter().sum())
    }
}

impl Part {
    /// How fast it moves, per second, once that can be said.
    pub fn rate(&self, now: SystemTime) -> Option<u64> {
        let (from, before) = *self.notes.front()?;
        let elapsed = elapsed(from, now);
        let moved = self.current.checked_sub(before).filter(|moved| *moved > 0)?;
        (elapsed >= NOTE_EVERY).then(|| {
            let rate = u128::from(moved) * 1000 / elapsed.as_millis().max(1);
            u64::try_from(rate).unwrap_or(u64::MAX)
        })
    }
}

/// None where the clock went backwards.
fn elapsed(from: SystemTime, to: SystemTime) -> Duration {
    to.duration_since(from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::testing::at;
    use super::*;

    fn status(id: &str, current: u64, total: u64) -> Status {
        Status { id: id.into(), name: id.into(), current, total, ..Status::default() }
    }

    #[test]
    fn rates_are_those_of_the_last_seconds() {
        let mut transfers = Transfers::default();
        transfers.add(&status("a", 0, 100_000), at(0));
        assert_eq!(transfers.rate(at(0)), None);
        for tenth in 1..=100 {
            // Fast at first, then slow.
            let current = if tenth <= 50 { tenth * 1000 } else { 50_000 + (tenth - 50) * 100 };
            transfers.add(&status("a", current, 100_000), at(tenth * 100));
            if tenth == 20 {
                assert_eq!(transfers.rate(at(2000)), Some(10_000));
            }
        }
        let rate = transfers.rate(at(10_000)).expect("it moved");
        assert!((900..1200).contains(&rate), "{rate}");
        assert!(transfers.parts[0].notes.len() < 30);
        // Nothing comes any more, and then the clock jumps.
        assert!(transfers.rate(at(20_000)).expect("it moved") < 500);
        assert_eq!(transfers.rate(at(0)), None);
    }

    #[test]
    fn parts_together() {
        let mut transfers = Transfers::default();
        transfers.add(&status("a", 10, 10), at(0));
        transfers.add(&status("b", 5, 20), at(0));
        transfers.add(&status("c", 7, 0), at(0));
        let together = transfers.together();
        assert_eq!(together, Together { parts: 3, complete: 1, current: 22, total: 37 });
        assert_eq!(transfers.active().count(), 2);
    }
}
