//! When to try again: bounded attempts with growing, scattered pauses, and what the registry
//! asks for.
//!
//! This only decides and waits; the operations loop themselves, because each knows what it
//! can repeat.

use std::time::{Duration, SystemTime};

use crate::error::Problem;

/// No pause grows beyond this, unless the registry asks for one that is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How often and how long an operation that failed for a passing reason is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts in all, the first one included. A transfer that got on is granted all of them
    /// again.
    pub attempts: u32,
    /// The pause before the second attempt, at most; each further pause is twice as long. How
    /// much of a pause is made is left to chance, so that many clients do not come back at once.
    pub first_pause: Duration,
    /// The most time that an operation spends in pauses. A registry that asks for more
    /// (`Retry-After`) gets no further attempt.
    pub total_pause: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 5,
            first_pause: Duration::from_millis(300),
            total_pause: Duration::from_secs(60),
        }
    }
}

/// The attempts of one operation.
#[derive(Debug)]
pub(crate) struct Attempts {
    policy: RetryPolicy,
    made: u32,
    paused: Duration,
    wrong: u32,
}

impl Attempts {
    pub(crate) fn new(policy: RetryPolicy) -> Self {
        Self { policy, made: 1, paused: Duration::ZERO, wrong: 0 }
    }

    /// Waits and says true if the operation that failed with `problem` should be repeated.
    pub(crate) async fn again(&mut self, problem: &Problem) -> bool {
        let Some(pause) = self.next_pause(problem, fastrand::f64()) else {
            return false;
        };
        tracing::debug!(%problem, ?pause, "trying again");
        tokio::time::sleep(pause).await;
        true
    }

    /// The pause before the next attempt, if there is to be one; `chance` is from 0 to 1.
    fn next_pause(&mut self, problem: &Problem, chance: f64) -> Option<Duration> {
        if self.made >= self.policy.attempts || !(problem.is_transient() || self.mends(problem)) {
            return None;
        }
        let doubled = self.policy.first_pause.saturating_mul(2u32.saturating_pow(self.made - 1));
        let own = doubled.min(LONGEST_PAUSE).mul_f64(0.5 + chance / 2.0);
        let pause = own.max(problem.retry_after().unwrap_or_default());
        let paused = self.paused.checked_add(pause)?;
        if paused > self.policy.total_pause {
            return None;
        }
        self.made += 1;
        self.paused = paused;
        Some(pause)
    }

    /// Whether a second look may help: bytes that were changed on the way are right the next
    /// time, those that are wrong in the registry never are.
    fn mends(&mut self, problem: &Problem) -> bool {
        self.wrong += u32::from(problem.is_wrong_bytes());
        problem.is_wrong_bytes() && self.wrong == 1
    }
}

/// Reads a `Retry-After` header: seconds, or a date, of which those in the past mean now.
/// RFC 9110, section 10.2.3.
pub(crate) fn parse_retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => {
            let date = httpdate::parse_http_date(text).ok()?;
            Some(date.duration_since(now).unwrap_or_default())
        }
    }
}

#[cfg(test)]
mod tests {
    use cofferdam_types::Digest;

    use super::*;

    fn pauses(chance: f64, problem: impl Fn() -> Problem) -> Vec<u128> {
        let mut attempts = Attempts::new(RetryPolicy::default());
        std::iter::from_fn(|| attempts.next_pause(&problem(), chance).map(|p| p.as_millis()))
            .collect()
    }

    fn status(code: u16, seconds: Option<u64>) -> Vec<u128> {
        let retry_after = seconds.map(Duration::from_secs);
        pauses(1.0, || Problem::Status { code, message: String::new(), retry_after })
    }

    #[test]
    fn pauses_grow_and_end() {
        let broken = || Problem::Connection(String::new());
        assert_eq!(pauses(1.0, broken), [300, 600, 1200, 2400]);
        assert_eq!(pauses(0.0, broken), [150, 300, 600, 1200]);
        assert_eq!(status(503, None), [300, 600, 1200, 2400]);
        assert_eq!(status(400, None), [0; 0]);
        assert_eq!(pauses(1.0, || Problem::NotFound), [0; 0]);
    }

    #[test]
    fn no_pause_is_longer_than_ten_seconds_of_our_own() {
        let policy = RetryPolicy { attempts: 9, ..RetryPolicy::default() };
        let mut attempts = Attempts::new(policy);
        let broken = Problem::Connection(String::new());
        let pauses: Vec<_> = std::iter::from_fn(|| attempts.next_pause(&broken, 1.0)).collect();
        assert_eq!(pauses[4..], [4800, 9600, 10_000, 10_000].map(Duration::from_millis));
    }

    #[test]
    fn what_the_registry_asks_for_is_waited_for_within_bounds() {
        assert_eq!(status(429, Some(7)), [7000; 4]);
        assert_eq!(status(503, Some(1)), [1000, 1000, 1200, 2400]);
        assert_eq!(status(429, Some(25)), [25_000; 2]);
        assert_eq!(status(429, Some(3600)), [0; 0]);
        assert_eq!(status(429, Some(u64::MAX)), [0; 0]);
        let retry_after = Some(Duration::from_secs(3));
        let limited = || Problem::Status { code: 429, message: String::new(), retry_after };
        assert_eq!(pauses(0.0, || Problem::Token(Box::new(limited()))), [3000; 4]);
    }

    #[test]
    fn wrong_bytes_are_fetched_once_more() {
        let (expected, actual) = (Digest::of(b"a"), Digest::of(b"b"));
        assert_eq!(pauses(1.0, || Problem::WrongDigest { expected, actual }), [300]);
        assert_eq!(pauses(1.0, || Problem::Long { expected: 1 }), [300]);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        // Sun, 06 Nov 1994 08:49:37 GMT
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let table = [
            ("0", Some(0)),
            (" 120 ", Some(120)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sunday, 06-Nov-94 08:50:37 GMT", Some(60)),
            ("Sun Nov  6 09:49:37 1994", Some(3600)),
            ("Sun, 06 Nov 1994 08:49:30 GMT", Some(0)),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
        ];
        for (text, expected) in table {
            let found = parse_retry_after(text, now);
            assert_eq!(found, expected.map(Duration::from_secs), "{text:?}");
        }
    }
}
