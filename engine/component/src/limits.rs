//! Limits of one run of a component, and the meter that watches over them.
//!
//! Computing time is measured by epochs: a thread of [`Runtime`](crate::Runtime) advances the
//! engine's epoch every [`TICK`], and compiled code looks at it at every loop and function
//! entry. The meter charges the time between two such looks, but never more than two ticks, and
//! starts anew when a host call that had to wait returns; so waiting costs a guest nothing.

use std::time::{Duration, Instant};

use wasmtime::{ResourceLimiter, UpdateDeadline};

use crate::error::Stop;

/// How often the epoch advances.
pub(crate) const TICK: Duration = Duration::from_millis(10);

/// What one run of a component may use.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Size of the component itself in bytes.
    pub component_bytes: usize,
    /// Bytes of all linear memories together.
    pub memory_bytes: usize,
    /// Elements of all tables together.
    pub table_elements: usize,
    /// Core instances, memories, and tables, each.
    pub instances: usize,
    /// Time that the component computes; waiting for the host is not counted.
    pub compute_time: Duration,
    /// Bytes of stack. A property of the whole engine: read when a
    /// [`Runtime`](crate::Runtime) is made, and not later.
    pub stack_bytes: usize,
    /// Bytes that one call of the component hands over, with all its lists and strings.
    pub call_bytes: usize,
    /// Resource handles that are alive at the same time.
    pub handles: usize,
    /// Ops that a frontend may make.
    pub ops: usize,
    /// Bytes of stdout and stderr that are passed on as log lines; the rest is dropped.
    pub log_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            component_bytes: 128 << 20,
            memory_bytes: 512 << 20,
            table_elements: 1 << 20,
            instances: 200,
            compute_time: Duration::from_secs(60),
            stack_bytes: 1 << 20,
            call_bytes: 64 << 20,
            handles: 100_000,
            ops: 100_000,
            log_bytes: 4 << 20,
        }
    }
}

/// Watches over one run.
pub(crate) struct Meter {
    limits: Limits,
    memory: usize,
    tables: usize,
    used: Duration,
    since: Instant,
}

impl Meter {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, memory: 0, tables: 0, used: Duration::ZERO, since: Instant::now() }
    }

    /// The limits of this run.
    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Says that a host call which had to wait is over.
    pub(crate) fn waited(&mut self) {
        self.since = Instant::now();
    }

    /// Gives the guest its full time again: it read data, and there is only so much to read.
    pub(crate) fn progressed(&mut self) {
        self.used = Duration::ZERO;
    }

    /// Called at the first look at the epoch after each tick.
    pub(crate) fn tick(&mut self, next: UpdateDeadline) -> wasmtime::Result<UpdateDeadline> {
        let now = Instant::now();
        self.used += now.duration_since(self.since).min(2 * TICK);
        self.since = now;
        if self.used > self.limits.compute_time {
            return Err(Stop::Time(self.limits.compute_time).into());
        }
        Ok(next)
    }
}

impl ResourceLimiter for Meter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let limit = self.limits.memory_bytes;
        let wanted = self.memory.saturating_add(desired.saturating_sub(current));
        if wanted > limit {
            return Err(Stop::Memory { wanted, limit }.into());
        }
        self.memory = wanted;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let limit = self.limits.table_elements;
        let wanted = self.tables.saturating_add(desired.saturating_sub(current));
        if wanted > limit {
            return Err(Stop::Table { wanted, limit }.into());
        }
        self.tables = wanted;
        Ok(true)
    }

    fn instances(&self) -> usize {
        self.limits.instances
    }

    fn tables(&self) -> usize {
        self.limits.instances
    }

    fn memories(&self) -> usize {
        self.limits.instances
    }
}
