//! Progress for programs: one JSON object per line. `docs/progress-json.md` describes the format
//! and must be changed with this file.

use std::collections::HashMap;
use std::time::SystemTime;

use cofferdam_build::{BuildEvent, Event, EventKind, Exported, Miss, Outcome, Response, Stream};
use cofferdam_types::Digest;
use serde::Serialize;
use time::OffsetDateTime;

use super::failure_message;
use super::why::reason;

/// Writes events as JSON.
#[derive(Debug, Default)]
pub struct Json {
    /// Beginnings of characters at the end of what a stream has printed so far.
    cut: HashMap<(Digest, u8), Vec<u8>>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Line<'a> {
    Vertex {
        digest: Digest,
        name: &'a str,
        inputs: &'a [Digest],
    },
    Missed {
        vertex: Digest,
        reason: &'static str,
        input: Option<Digest>,
        change: Option<Change<'a>>,
        evicted: Option<Time>,
        message: String,
        time: Time,
    },
    Started {
        vertex: Digest,
        time: Time,
    },
    Completed {
        vertex: Digest,
        cached: bool,
        took_ms: Option<u64>,
        canceled: bool,
        error: Option<String>,
        time: Time,
    },
    Log {
        vertex: Digest,
        stream: u8,
        data: &'a str,
        time: Time,
    },
    Status {
        vertex: Digest,
        id: &'a str,
        name: &'a str,
        current: u64,
        total: u64,
        complete: bool,
        time: Time,
    },
    Warning {
        message: &'a str,
        detail: &'a [String],
        url: &'a str,
        locations: Vec<Location<'a>>,
    },
    Result {
        digest: Option<Digest>,
        config: Option<Digest>,
        names: Vec<&'a str>,
        exports: Vec<Export<'a>>,
    },
}

#[derive(Serialize)]
struct Change<'a> {
    leaf: &'a str,
    before: Option<&'a str>,
    after: Option<&'a str>,
}

#[derive(Serialize)]
struct Location<'a> {
    file: &'a str,
    start: u32,
    end: u32,
    /// `null` where whole lines are meant.
    start_column: Option<u32>,
    end_column: Option<u32>,
}

#[derive(Serialize)]
struct Export<'a> {
    digest: Option<Digest>,
    config: Option<Digest>,
    names: &'a [String],
    size: u64,
}

#[derive(Serialize)]
struct Time(#[serde(with = "time::serde::rfc3339")] OffsetDateTime);

impl Time {
    fn of(time: SystemTime) -> Self {
        Self(time.into())
    }
}

impl Json {
    /// The lines for an event.
    pub fn render(&mut self, event: &BuildEvent) -> String {
        match event {
            BuildEvent::Vertex(event) => self.vertex(event),
            BuildEvent::Warning { warning, excerpts } => {
                let locations = excerpts.iter().map(|excerpt| Location {
                    file: &excerpt.file,
                    start: excerpt.start,
                    end: excerpt.end,
                    start_column: Some(excerpt.start_column).filter(|column| *column > 0),
                    end_column: Some(excerpt.end_column).filter(|column| *column > 0),
                });
                line(&Line::Warning {
                    message: &warning.short,
                    detail: &warning.detail,
                    url: &warning.url,
                    locations: locations.collect(),
                })
            }
        }
    }

    /// The line for what was made: the first image, and everything in the order of the outputs.
    pub fn result(&mut self, response: &Response) -> String {
        let exports = &response.exported;
        let image = exports.iter().find(|export| export.digest.is_some());
        line(&Line::Result {
            digest: image.and_then(|image| image.digest),
            config: image.and_then(|image| image.config),
            names: image.iter().flat_map(|image| &image.names).map(String::as_str).collect(),
            exports: exports
                .iter()
                .map(|Exported { digest, config, names, size, .. }| Export {
                    digest: *digest,
                    config: *config,
                    names,
                    size: *size,
                })
                .collect(),
        })
    }

    fn vertex(&mut self, event: &Event) -> String {
        let (vertex, time) = (event.vertex, Time::of(event.at));
        match &event.kind {
            EventKind::Announced { name, inputs } => {
                line(&Line::Vertex { digest: vertex, name, inputs })
            }
            EventKind::Missed(miss) => line(&missed(vertex, miss, time)),
            EventKind::Started => line(&Line::Started { vertex, time }),
            EventKind::Log { stream, data } => {
                let stream = match stream {
                    Stream::Stdout => 1,
                    Stream::Stderr => 2,
                };
                let data = self.text(vertex, stream, data);
                match data.is_empty() {
                    true => String::new(),
                    false => line(&Line::Log { vertex, stream, data: &data, time }),
                }
            }
            EventKind::Status(status) => line(&Line::Status {
                vertex,
                id: &status.id,
                name: &status.name,
                current: status.current,
                total: status.total,
                complete: status.completed.is_some(),
                time,
            }),
            EventKind::Completed(outcome) => {
                let mut lines = String::new();
                for stream in [1, 2] {
                    if let Some(rest) = self.cut.remove(&(vertex, stream)) {
                        let data = &String::from_utf8_lossy(&rest);
                        let time = Time::of(event.at);
                        lines += &line(&Line::Log { vertex, stream, data, time });
                    }
                }
                let error = match outcome {
                    Outcome::Failed(error) => Some(failure_message(&**error)),
                    Outcome::Done | Outcome::Cached { .. } | Outcome::Canceled => None,
                };
                let took = match outcome {
                    Outcome::Cached { took } => *took,
                    Outcome::Done | Outcome::Failed(_) | Outcome::Canceled => None,
                };
                lines
                    + &line(&Line::Completed {
                        vertex,
                        cached: matches!(outcome, Outcome::Cached { .. }),
                        took_ms: took
                            .map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
                        canceled: matches!(outcome, Outcome::Canceled),
                        error,
                        time,
                    })
            }
        }
    }

    /// What a stream printed as text; a character that is not complete yet is kept back.
    fn text(&mut self, vertex: Digest, stream: u8, data: &[u8]) -> String {
        let mut bytes = self.cut.remove(&(vertex, stream)).unwrap_or_default();
        bytes.extend_from_slice(data);
        let cut = match bytes.utf8_chunks().last() {
            // Invalid bytes at the very end may be the beginning of a character.
            Some(chunk) if is_beginning(chunk.invalid()) => chunk.invalid().len(),
            _ => 0,
        };
        let rest = bytes.split_off(bytes.len() - cut);
        if !rest.is_empty() {
            self.cut.insert((vertex, stream), rest);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

fn missed(vertex: Digest, miss: &Miss, time: Time) -> Line<'_> {
    let (name, input, change, evicted) = match miss {
        Miss::NeverSeen => ("never-seen", None, None, None),
        Miss::Ignored => ("ignored", None, None, None),
        Miss::Changed(change) => ("changed", None, Some(change), None),
        Miss::InputChanged { vertex, change, .. } => {
            ("input-changed", Some(*vertex), change.as_ref(), None)
        }
        Miss::Evicted { at } => ("evicted", None, None, Some(Time::of(*at))),
        Miss::Lost => ("lost", None, None, None),
    };
    let change = change.map(|change| Change {
        leaf: &change.leaf,
        before: change.before.as_deref(),
        after: change.after.as_deref(),
    });
    Line::Missed { vertex, reason: name, input, change, evicted, message: reason(miss), time }
}

/// Whether more bytes could make a character of these.
fn is_beginning(bytes: &[u8]) -> bool {
    !bytes.is_empty() && std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

fn line(line: &Line<'_>) -> String {
    let mut text = serde_json::to_string(line).expect("progress lines are always valid JSON");
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cofferdam_build::EventKind::{Completed, Started};
    use cofferdam_build::{Excerpt, Warning};
    use expect_test::{Expect, expect};

    use super::super::testing::{announced, at, failed, log, status};
    use super::*;

    fn check(kinds: Vec<EventKind>, expected: Expect) {
        let mut json = Json::default();
        let vertex = Digest::of("a");
        let event = |kind| BuildEvent::Vertex(Event { vertex, at: at(1), kind });
        let text: String = kinds.into_iter().map(|kind| json.render(&event(kind))).collect();
        for line in text.lines() {
            serde_json::from_str::<serde_json::Value>(line).expect("each line is JSON");
        }
        expected.assert_eq(&text.replace(&vertex.to_string(), "DIGEST"));
    }

    #[test]
    fn events() {
        check(
            vec![
                EventKind::Announced { name: "RUN \"x\"".into(), inputs: vec![Digest::of("a")] },
                EventKind::Missed(Miss::Ignored),
                EventKind::Missed(Miss::InputChanged {
                    vertex: Digest::of("a"),
                    name: "COPY".into(),
                    change: Some(cofferdam_build::Change {
                        leaf: "file x".into(),
                        before: None,
                        after: Some("1".into()),
                    }),
                }),
                EventKind::Missed(Miss::Evicted { at: at(2) }),
                Started,
                log(Stream::Stdout, "a\nb\x1b"),
                log(Stream::Stderr, "c"),
                status("layer", 1, 2),
                Completed(Outcome::Done),
                Completed(Outcome::Cached { took: Some(Duration::from_millis(1500)) }),
                Completed(Outcome::Canceled),
                Completed(failed("exit code: 1")),
            ],
            expect![[r#"
                {"type":"vertex","digest":"DIGEST","name":"RUN \"x\"","inputs":["DIGEST"]}
                {"type":"missed","vertex":"DIGEST","reason":"ignored","input":null,"change":null,"evicted":null,"message":"told to ignore the cache","time":"2026-11-22T05:00:00.001Z"}
                {"type":"missed","vertex":"DIGEST","reason":"input-changed","input":"DIGEST","change":{"leaf":"file x","before":null,"after":"1"},"evicted":null,"message":"input `COPY` changed: file x added: \"1\"","time":"2026-11-22T05:00:00.001Z"}
                {"type":"missed","vertex":"DIGEST","reason":"evicted","input":null,"change":null,"evicted":"2026-11-22T05:00:00.002Z","message":"evicted from the cache at 2026-11-22T05:00:00Z","time":"2026-11-22T05:00:00.001Z"}
                {"type":"started","vertex":"DIGEST","time":"2026-11-22T05:00:00.001Z"}
                {"type":"log","vertex":"DIGEST","stream":1,"data":"a\nb\u001b","time":"2026-11-22T05:00:00.001Z"}
                {"type":"log","vertex":"DIGEST","stream":2,"data":"c","time":"2026-11-22T05:00:00.001Z"}
                {"type":"status","vertex":"DIGEST","id":"layer","name":"layer","current":1,"total":2,"complete":false,"time":"2026-11-22T05:00:00.001Z"}
                {"type":"completed","vertex":"DIGEST","cached":false,"took_ms":null,"canceled":false,"error":null,"time":"2026-11-22T05:00:00.001Z"}
                {"type":"completed","vertex":"DIGEST","cached":true,"took_ms":1500,"canceled":false,"error":null,"time":"2026-11-22T05:00:00.001Z"}
                {"type":"completed","vertex":"DIGEST","cached":false,"took_ms":null,"canceled":true,"error":null,"time":"2026-11-22T05:00:00.001Z"}
                {"type":"completed","vertex":"DIGEST","cached":false,"took_ms":null,"canceled":false,"error":"exit code: 1","time":"2026-11-22T05:00:00.001Z"}
            "#]],
        );
    }

    #[test]
    fn characters_are_not_cut() {
        let piece = |bytes: &'static [u8]| EventKind::Log {
            stream: Stream::Stdout,
            data: bytes::Bytes::from_static(bytes),
        };
        let mut json = Json::default();
        let mut data = String::new();
        for kind in [
            announced("a"),
            piece(b"\xe2\x82"),
            piece(b"\xac \xff \xc3"),
            piece(b"("),
            piece(b"\xf0\x9f"),
            Completed(Outcome::Done),
        ] {
            let event = Event { vertex: Digest::of("a"), at: at(0), kind };
            for line in json.render(&BuildEvent::Vertex(event)).lines() {
                let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
                data += line["data"].as_str().unwrap_or_default();
            }
        }
        assert_eq!(data, "€ \u{fffd} \u{fffd}(\u{fffd}");
    }

    #[test]
    fn warnings_and_results() {
        let mut json = Json::default();
        let warning = Warning {
            short: "careful".into(),
            detail: vec!["more".into()],
            url: "https://example.org".into(),
            locations: Vec::new(),
        };
        let whole = Excerpt { file: "Dockerfile".into(), start: 2, end: 3, ..Excerpt::default() };
        let part = Excerpt { start: 4, end: 4, start_column: 5, end_column: 9, ..whole.clone() };
        let mut text = json.render(&BuildEvent::Warning { warning, excerpts: vec![whole, part] });
        let image = Exported {
            digest: Some(Digest::of("a")),
            config: Some(Digest::of("a")),
            names: vec!["docker.io/library/x:latest".into()],
            ..Exported::default()
        };
        let exported = vec![Exported::default(), image];
        text += &json.result(&Response { exported, ..Response::default() });
        expect![[r#"
            {"type":"warning","message":"careful","detail":["more"],"url":"https://example.org","locations":[{"file":"Dockerfile","start":2,"end":3,"start_column":null,"end_column":null},{"file":"Dockerfile","start":4,"end":4,"start_column":5,"end_column":9}]}
            {"type":"result","digest":"DIGEST","config":"DIGEST","names":["docker.io/library/x:latest"],"exports":[{"digest":null,"config":null,"names":[],"size":0},{"digest":"DIGEST","config":"DIGEST","names":["docker.io/library/x:latest"],"size":0}]}
        "#]]
        .assert_eq(&text.replace(&Digest::of("a").to_string(), "DIGEST"));
    }
}
