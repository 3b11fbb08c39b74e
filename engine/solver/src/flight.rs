//! A piece of work that is done once, however many wait for it.
//!
//! The work runs in a task of its own. It is remembered when it succeeds, and dropped when
//! the last one who waits for it goes away.

use std::future::Future;
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::{SolveError, lock};

/// An error, and the number of the latest solve that was under way when it happened.
///
/// Solves up to that number share the error; later ones try again.
#[derive(Clone)]
pub(crate) struct Failure {
    pub(crate) error: Arc<SolveError>,
    pub(crate) solve: u64,
}

type Outcome<T> = Result<T, Failure>;

/// Work that results in a `T`, shared by its clones.
pub(crate) struct Flight<T>(Arc<Mutex<State<T>>>);

enum State<T> {
    Idle,
    Running { task: Weak<Task>, outcome: watch::Receiver<Option<Outcome<T>>> },
    Done(T),
    Failed(Failure),
}

/// Held by everybody who waits; aborts the work when the last one lets go.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<T> Default for Flight<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State::Idle)))
    }
}

impl<T> Clone for Flight<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Clone + Send + Sync + 'static> Flight<T> {
    /// Waits for the work, having started it if nobody has.
    ///
    /// `solve` is the number of the solve on whose behalf this is asked. `None` means that
    /// the work was lost: it panicked, or the runtime is shutting down.
    pub(crate) async fn get<F>(
        &self,
        solve: u64,
        start: impl FnOnce() -> F,
    ) -> Option<Result<T, Failure>>
    where
        F: Future<Output = Outcome<T>> + Send + 'static,
    {
        let (task, mut outcome) = {
            let mut state = lock(&self.0);
            let (running, previous) = match &*state {
                State::Done(value) => return Some(Ok(value.clone())),
                State::Failed(failure) if solve <= failure.solve => {
                    return Some(Err(failure.clone()));
                }
                State::Running { task, outcome } => match task.upgrade() {
                    Some(task) => (Some((task, outcome.clone())), None),
                    None => (None, Some(outcome.clone())),
                },
                State::Idle | State::Failed(_) => (None, None),
            };
            running.unwrap_or_else(|| self.spawn(&mut state, previous, start()))
        };
        let outcome = outcome.wait_for(Option::is_some).await.ok()?.clone();
        drop(task);
        outcome
    }

    /// The result, if the work is done.
    pub(crate) fn done(&self) -> Option<T> {
        match &*lock(&self.0) {
            State::Done(value) => Some(value.clone()),
            _ => None,
        }
    }

    fn spawn(
        &self,
        state: &mut State<T>,
        previous: Option<watch::Receiver<Option<Outcome<T>>>>,
        work: impl Future<Output = Outcome<T>> + Send + 'static,
    ) -> (Arc<Task>, watch::Receiver<Option<Outcome<T>>>) {
        let (sender, receiver) = watch::channel(None);
        let flight = self.clone();
        let handle = tokio::spawn(async move {
            // An aborted task may need a moment to end; the same work never overlaps itself. And
            // it may have got to its end, which the abort came too late for.
            let mut done = None;
            if let Some(mut previous) = previous {
                while previous.changed().await.is_ok() {}
                done = previous.borrow().clone().filter(Result::is_ok);
            }
            let outcome = match done {
                Some(done) => done,
                None => work.await,
            };
            flight.land(&sender, &outcome);
            sender.send_replace(Some(outcome));
        });
        let task = Arc::new(Task(handle.abort_handle()));
        *state = State::Running { task: Arc::downgrade(&task), outcome: receiver.clone() };
        (task, receiver)
    }

    fn land(&self, sender: &watch::Sender<Option<Outcome<T>>>, outcome: &Outcome<T>) {
        let mut state = lock(&self.0);
        // Aborted on its last step, the work may have been started anew in the meantime.
        let current = match &*state {
            State::Running { outcome, .. } => outcome.same_channel(&sender.subscribe()),
            _ => false,
        };
        if current {
            *state = match outcome {
                Ok(value) => State::Done(value.clone()),
                Err(failure) => State::Failed(failure.clone()),
            };
        }
    }
}
