//! When to try again: bounded attempts with growing pauses, and what the registry asks for.
//!
//! This only decides and waits; the operations loop themselves, because each knows what it
//! can repeat.

use std::time::Duration;

use crate::error::Problem;

/// How often and how long an operation that failed for a passing reason is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts in all, the first one included.
    pub attempts: u32,
    /// The pause before the second attempt; each further pause is three times as long.
    pub first_pause: Duration,
    /// The most time that an operation spends in pauses. A registry that asks for more
    /// (`Retry-After`) gets no further attempt.
    pub total_pause: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 4,
            first_pause: Duration::from_millis(400),
            total_pause: Duration::from_secs(15),
        }
    }
}

/// The attempts of one operation.
#[derive(Debug)]
pub(crate) struct Attempts {
    policy: RetryPolicy,
    made: u32,
    paused: Duration,
}

impl Attempts {
    pub(crate) fn new(policy: RetryPolicy) -> Self {
        Self { policy, made: 1, paused: Duration::ZERO }
    }

    /// Waits and says true if the operation that failed with `problem` should be repeated.
    pub(crate) async fn again(&mut self, problem: &Problem) -> bool {
        let Some(pause) = self.next_pause(problem) else {
            return false;
        };
        tracing::debug!(%problem, ?pause, "trying again");
        tokio::time::sleep(pause).await;
        true
    }

    fn next_pause(&mut self, problem: &Problem) -> Option<Duration> {
        if !problem.is_transient() || self.made >= self.policy.attempts {
            return None;
        }
        let own = self.policy.first_pause.saturating_mul(3u32.saturating_pow(self.made - 1));
        let asked = match problem {
            Problem::Status { retry_after: Some(asked), .. } => *asked,
            _ => Duration::ZERO,
        };
        let pause = own.max(asked);
        let paused = self.paused.checked_add(pause)?;
        if paused > self.policy.total_pause {
            return None;
        }
        self.made += 1;
        self.paused = paused;
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pauses(problem: impl Fn() -> Problem) -> Vec<u128> {
        let mut attempts = Attempts::new(RetryPolicy::default());
        std::iter::from_fn(|| attempts.next_pause(&problem()).map(|p| p.as_millis())).collect()
    }

    #[test]
    fn pauses_grow_and_end() {
        let status = |code, seconds: Option<u64>| {
            let retry_after = seconds.map(Duration::from_secs);
            pauses(|| Problem::Status { code, message: String::new(), retry_after })
        };
        assert_eq!(pauses(|| Problem::Connection(String::new())), [400, 1200, 3600]);
        assert_eq!(status(503, None), [400, 1200, 3600]);
        assert_eq!(status(429, Some(7)), [7000, 7000]);
        assert_eq!(status(429, Some(3600)), [0; 0]);
        assert_eq!(status(429, Some(u64::MAX)), [0; 0]);
        assert_eq!(status(400, None), [0; 0]);
        assert_eq!(pauses(|| Problem::NotFound), [0; 0]);
    }
}
