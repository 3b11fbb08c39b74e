//! What `cofferdam build --progress json` reports, read as a user's program would read it.

use std::collections::BTreeMap;

use serde::Deserialize;
use time::OffsetDateTime;

/// One line of `--progress json`.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Event {
    /// A vertex became part of the build.
    Vertex {
        /// The digest of its op.
        digest: String,
        /// What a person reads.
        name: String,
        /// The digests of what it needs.
        #[serde(default)]
        inputs: Vec<String>,
    },
    /// Why a vertex is about to run, with `--why`.
    Missed {
        /// The digest of the vertex.
        vertex: String,
        /// The reason for people.
        message: String,
    },
    /// A vertex began to run.
    Started {
        /// The digest of the vertex.
        vertex: String,
        /// When.
        #[serde(with = "time::serde::rfc3339")]
        time: OffsetDateTime,
    },
    /// A vertex has its result, or failed.
    Completed {
        /// The digest of the vertex.
        vertex: String,
        /// Whether the result was there already.
        cached: bool,
        /// Whether nobody waited for it any more.
        #[serde(default)]
        canceled: bool,
        /// Why it failed.
        #[serde(default)]
        error: Option<String>,
        /// When.
        #[serde(with = "time::serde::rfc3339")]
        time: OffsetDateTime,
    },
    /// Output of a step.
    Log {
        /// The digest of the vertex.
        vertex: String,
        /// 1 for standard output, 2 for standard error.
        stream: u8,
        /// The text.
        data: String,
    },
    /// How far a transfer is; the suites do not look inside.
    Status {},
    /// Something that the frontend warns of.
    Warning {
        /// The members of the event.
        #[serde(flatten)]
        members: BTreeMap<String, serde_json::Value>,
    },
    /// The end of the build, with what was made.
    Result {
        /// The members of the event.
        #[serde(flatten)]
        members: BTreeMap<String, serde_json::Value>,
    },
    /// An event that these suites do not know.
    #[serde(other)]
    Other,
}

/// What became of one vertex.
#[derive(Clone, Debug)]
pub struct Step {
    /// The digest of its op.
    pub digest: String,
    /// What a person reads.
    pub name: String,
    /// When it began, where it did.
    pub started: Option<OffsetDateTime>,
    /// When it ended, where it did.
    pub completed: Option<OffsetDateTime>,
    /// Whether its result was there already.
    pub cached: bool,
    /// Whether nobody waited for it any more.
    pub canceled: bool,
    /// Why it failed.
    pub error: Option<String>,
    /// How often it was started.
    pub starts: usize,
}

impl Step {
    /// Whether this step did its work in this build.
    #[must_use]
    pub fn executed(&self) -> bool {
        self.completed.is_some() && !self.cached && !self.canceled && self.started.is_some()
    }

    /// Whether the two steps ran at the same time.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.started < other.completed
            && other.started < self.completed
            && self.executed()
            && other.executed()
    }
}

/// The steps that these events tell of, in the order in which they were announced.
#[must_use]
pub fn steps(events: &[Event]) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for event in events {
        match event {
            Event::Vertex { digest, name, .. } if !steps.iter().any(|s| s.digest == *digest) => {
                steps.push(Step {
                    digest: digest.clone(),
                    name: name.clone(),
                    started: None,
                    completed: None,
                    cached: false,
                    canceled: false,
                    error: None,
                    starts: 0,
                });
            }
            Event::Started { vertex, time } => {
                for step in steps.iter_mut().filter(|step| step.digest == *vertex) {
                    step.started.get_or_insert(*time);
                    step.starts += 1;
                }
            }
            Event::Completed { vertex, cached, canceled, error, time } => {
                for step in steps.iter_mut().filter(|step| step.digest == *vertex) {
                    step.completed = Some(*time);
                    step.cached = *cached;
                    step.canceled = *canceled;
                    step.error.clone_from(error);
                }
            }
            _ => {}
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::{Event, steps};

    #[test]
    fn steps_are_gathered_from_events() {
        let lines = [
            r#"{"type":"vertex","digest":"sha256:a","name":"[1/2] RUN a","inputs":[]}"#,
            r#"{"type":"vertex","digest":"sha256:b","name":"[2/2] RUN b","inputs":["sha256:a"]}"#,
            r#"{"type":"started","vertex":"sha256:a","time":"2026-11-22T05:00:00.000000001Z"}"#,
            r#"{"type":"started","vertex":"sha256:b","time":"2026-11-22T05:00:01Z"}"#,
            r#"{"type":"log","vertex":"sha256:a","stream":1,"data":"x\n"}"#,
            r#"{"type":"status","vertex":"sha256:a","current":1}"#,
            r#"{"type":"completed","vertex":"sha256:a","cached":false,"error":null,"time":"2026-11-22T05:00:02Z"}"#,
            r#"{"type":"completed","vertex":"sha256:b","cached":true,"error":null,"time":"2026-11-22T05:00:03Z"}"#,
            r#"{"type":"result","digest":"sha256:c"}"#,
            r#"{"type":"warning","message":"unknown to the suites"}"#,
        ];
        let events: Vec<Event> =
            lines.iter().map(|line| serde_json::from_str(line).expect(line)).collect();
        let steps = steps(&events);
        assert_eq!(steps.len(), 2);
        assert!(steps[0].executed() && !steps[1].executed());
        assert!(!steps[0].overlaps(&steps[1]), "a cached step does not overlap");
    }
}
