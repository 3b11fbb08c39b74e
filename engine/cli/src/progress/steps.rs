//! What became of each step so far: numbers, states, times. The live view and the summary show
//! it; how, is theirs.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use cofferdam_build::{Event, EventKind, Outcome};
use cofferdam_types::Digest;

use super::failure_message;
use super::text::{clean_lines, one_line};
use super::transfers::Transfers;
use super::why::reason;

/// All steps that were heard of.
#[derive(Debug, Default)]
pub struct Steps {
    steps: Vec<Step>,
    places: HashMap<Digest, usize>,
    numbered: usize,
}

/// One step.
#[derive(Debug)]
pub struct Step {
    /// Its vertex.
    pub vertex: Digest,
    /// Its name, on one line and harmless.
    pub name: String,
    /// Its number, from 1, in the order of the first starts; 0 before that.
    pub number: usize,
    /// The vertices that it depends on.
    pub inputs: Vec<Digest>,
    /// What it is at.
    pub state: State,
    /// How long its ended stretches of work took together.
    pub took: Duration,
    /// How long it took when it was done that it need not be done now, where that is known.
    pub saved: Option<Duration>,
    /// Why it has to be done, if anybody wants to know.
    pub why: Option<String>,
    /// How far its parts are.
    pub transfers: Transfers,
    /// Whether something was printed or moved since it was last said to have ended.
    pub has_news: bool,
}

/// What a step is at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It was announced.
    Waiting,
    /// It works since then.
    Running(SystemTime),
    /// It ended, for now at least.
    Ended(End),
}

/// How a step's work ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It was done.
    Done,
    /// There was none to do.
    Cached,
    /// It failed; the message.
    Failed(String),
    /// Nobody waited for it any more.
    Canceled,
}

impl Steps {
    /// Takes note of an event.
    pub fn add(&mut self, event: &Event) {
        let Self { steps, places, numbered } = self;
        let place = *places.entry(event.vertex).or_insert_with(|| {
            steps.push(Step {
                vertex: event.vertex,
                name: String::new(),
                number: 0,
                inputs: Vec::new(),
                state: State::Waiting,
                took: Duration::ZERO,
                saved: None,
                why: None,
                transfers: Transfers::default(),
                has_news: false,
            });
            steps.len() - 1
        });
        let step = &mut steps[place];
        match &event.kind {
            EventKind::Announced { name, inputs } => {
                step.name = one_line(name);
                step.inputs.clone_from(inputs);
            }
            EventKind::Started => {
                if step.number == 0 {
                    *numbered += 1;
                    step.number = *numbered;
                }
                step.state = State::Running(event.at);
            }
            EventKind::Missed(miss) => step.why = Some(one_line(&reason(miss))),
            EventKind::Log { .. } => step.has_news = true,
            EventKind::Status(status) => {
                step.transfers.add(status, event.at);
                step.has_news = true;
            }
            EventKind::Completed(outcome) => {
                if let State::Running(since) = step.state {
                    step.took += event.at.duration_since(since).unwrap_or_default();
                }
                step.saved = match outcome {
                    Outcome::Cached { took } => *took,
                    Outcome::Done | Outcome::Failed(_) | Outcome::Canceled => None,
                };
                step.state = State::Ended(match outcome {
                    Outcome::Done => End::Done,
                    Outcome::Cached { .. } => End::Cached,
                    Outcome::Failed(error) => End::Failed(clean_lines(&failure_message(&**error))),
                    Outcome::Canceled => End::Canceled,
                });
            }
        }
    }

    /// The step of a vertex.
    pub fn get(&self, vertex: &Digest) -> Option<&Step> {
        self.places.get(vertex).map(|place| &self.steps[*place])
    }

    /// [`Steps::get`], to change it.
    pub fn get_mut(&mut self, vertex: &Digest) -> Option<&mut Step> {
        self.places.get(vertex).map(|place| &mut self.steps[*place])
    }

    /// All steps, in the order of their announcements.
    pub fn iter(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter()
    }
}

impl Step {
    /// Since when it runs, if it does.
    pub fn running(&self) -> Option<SystemTime> {
        match self.state {
            State::Running(since) => Some(since),
            State::Waiting | State::Ended(_) => None,
        }
    }

    /// How it ended, if it has.
    pub fn ended(&self) -> Option<&End> {
        match &self.state {
            State::Ended(end) => Some(end),
            State::Waiting | State::Running(_) => None,
        }
    }
}

impl End {
    /// Whether it is worth telling of this end after that one was told. A step can end several
    /// times; another end is news if there was something to see before it, or if it says more.
    pub fn is_news_after(&self, before: Option<&Self>, has_news: bool) -> bool {
        match (before, self) {
            (None, _) | (_, Self::Failed(_)) => true,
            (Some(before), Self::Done) => *before != Self::Done || has_news,
            (Some(_), Self::Cached | Self::Canceled) => has_news,
        }
    }
}
