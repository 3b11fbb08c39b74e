//! Completes image configs: what of them only the exporter knows. Fields that are not known
//! here stay as they are.
//!
//! The rules are those of BuildKit's image exporter: one history entry that is not empty per
//! layer, and a time in each entry.

use cofferdam_types::{Digest, Platform};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// What a process finds its programs with when the image does not say.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What marks history entries that were made up here.
const COMMENT: &str = "buildkit.exporter.image.v0";

/// What a config says of a layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConfigLayer {
    pub diff_id: Digest,
    /// Seconds since 1970.
    pub created: i64,
}

/// A config as it goes into the image.
#[derive(Debug)]
pub(crate) struct Completed {
    pub json: Vec<u8>,
    pub created: Option<String>,
}

/// Completes a config. An empty one stands for the default one of the platform. With `epoch`
/// (seconds since 1970), no time in it is later, and the image was created then.
///
/// Errors are the reason alone.
pub(crate) fn complete(
    config: &[u8],
    platform: &Platform,
    layers: &[ConfigLayer],
    epoch: Option<i64>,
) -> Result<Completed, String> {
    let mut config = if config.is_empty() {
        let config = json!({ "Env": [DEFAULT_PATH], "WorkingDir": "/" });
        Map::from_iter([("config".to_owned(), config)])
    } else {
        serde_json::from_slice(config).map_err(|error| format!("not a JSON object: {error}"))?
    };
    let of_platform = [
        ("architecture", &platform.architecture),
        ("os", &platform.os),
        ("variant", &platform.variant),
    ];
    // A variant belongs to its architecture: it is not added to one that is there.
    let complete = config.contains_key("architecture") && config.contains_key("os");
    for (key, value) in of_platform {
        if !complete && !value.is_empty() && !config.contains_key(key) {
            config.insert(key.into(), value.clone().into());
        }
    }
    let diff_ids: Vec<Value> =
        layers.iter().map(|layer| layer.diff_id.to_string().into()).collect();
    config.insert("rootfs".into(), json!({ "type": "layers", "diff_ids": diff_ids }));

    let mut history: Vec<Map<String, Value>> = match config.remove("history") {
        None | Some(Value::Null) => Vec::new(),
        Some(history) => serde_json::from_value(history)
            .map_err(|error| format!("`history` is not a list of objects: {error}"))?,
    };
    let times = layers.iter().map(|layer| rfc3339(layer.created)).collect::<Result<Vec<_>, _>>()?;
    let epoch = epoch.map(rfc3339).transpose()?;
    reconcile(&mut history, &times, epoch.as_deref());

    let newest = history.iter().filter_map(created).max_by_key(|text| parse(text));
    if let Some(created) = epoch.as_deref().or(newest) {
        config.insert("created".into(), created.into());
    }
    config.insert("history".into(), history.into_iter().map(Value::Object).collect());
    let created = created(&config).map(ToOwned::to_owned);
    let json = serde_json::to_vec(&config).map_err(|error| error.to_string())?;
    Ok(Completed { json, created })
}

/// Makes history and layers correspond one to one, and dates what has no date.
fn reconcile(history: &mut Vec<Map<String, Value>>, layers: &[String], epoch: Option<&str>) {
    let mut accounted = 0;
    for entry in history.iter_mut() {
        if !is_empty(entry) && accounted == layers.len() {
            entry.insert("empty_layer".into(), true.into());
        }
        accounted += usize::from(!is_empty(entry));
    }
    for _ in accounted..layers.len() {
        history.push(Map::from_iter([("comment".to_owned(), COMMENT.into())]));
    }

    if let Some(epoch) = epoch {
        for entry in history {
            let earlier = created(entry).is_some_and(|text| parse(text) <= parse(epoch));
            if !earlier {
                entry.insert("created".into(), epoch.into());
            }
        }
        return;
    }
    let mut times = layers.iter();
    for entry in history.iter_mut().filter(|entry| !is_empty(entry)) {
        let time = times.next().expect("there are as many entries as layers");
        if created(entry).is_none() {
            entry.insert("created".into(), time.as_str().into());
        }
    }
    // Steps that made no layer: those before the first new layer are as old as it, so that they
    // are not dated like the base; the others as the layer before them.
    let first_new = history
        .iter()
        .skip_while(|entry| created(entry).is_some())
        .find_map(created)
        .or_else(|| history.iter().rev().find_map(created));
    let mut last = first_new.map(ToOwned::to_owned);
    let mut new = false;
    for entry in history {
        match created(entry) {
            Some(time) if new => last = Some(time.to_owned()),
            Some(_) => {}
            None => {
                new = true;
                if let Some(last) = &last {
                    entry.insert("created".into(), last.as_str().into());
                }
            }
        }
    }
}

fn is_empty(entry: &Map<String, Value>) -> bool {
    entry.get("empty_layer").and_then(Value::as_bool).unwrap_or(false)
}

fn created(entry: &Map<String, Value>) -> Option<&str> {
    entry.get("created").and_then(Value::as_str).filter(|text| !text.is_empty())
}

fn parse(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok()
}

fn rfc3339(seconds: i64) -> Result<String, String> {
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .ok_or_else(|| format!("{seconds} seconds since 1970 is not a time"))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    /// `history` has one word per entry: its name, `!` if it is empty, `@HOUR` if it has a time.
    fn check(history: &str, layers: &[i64], epoch: Option<i64>, expected: Expect) {
        let at = |hour: i64| rfc3339(hour * 3600).expect("a time");
        let entries: Vec<Value> = history
            .split_whitespace()
            .map(|word| {
                let (word, hour) = word.split_once('@').unwrap_or((word, ""));
                let mut entry = json!({ "created_by": word.trim_end_matches('!') });
                if word.ends_with('!') {
                    entry["empty_layer"] = true.into();
                }
                if let Ok(hour) = hour.parse() {
                    entry["created"] = at(hour).into();
                }
                entry
            })
            .collect();
        let config =
            json!({ "history": entries, "x-unknown": [1], "os": "o", "architecture": "a" });
        let layers: Vec<ConfigLayer> = layers
            .iter()
            .map(|hour| ConfigLayer { diff_id: Digest::of(b""), created: hour * 3600 })
            .collect();
        let platform = Platform::new("linux", "arm/v7");
        let epoch = epoch.map(|hour| hour * 3600);
        let done = complete(config.to_string().as_bytes(), &platform, &layers, epoch);
        let done: Value = serde_json::from_slice(&done.expect("valid").json).expect("JSON");
        assert_eq!(done["x-unknown"], json!([1]));
        assert_eq!((&done["os"], &done["architecture"]), (&json!("o"), &json!("a")));
        assert_eq!(done["rootfs"]["diff_ids"].as_array().map(Vec::len), Some(layers.len()));
        let hour = |value: &Value| {
            let time = value.as_str().and_then(parse);
            time.map_or("never".into(), |time| (time.unix_timestamp() / 3600).to_string())
        };
        let words: Vec<String> = done["history"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|entry| {
                let name = entry["created_by"].as_str().or(entry["comment"].as_str());
                let empty = if entry["empty_layer"] == true { "!" } else { "" };
                format!("{}{empty}@{}", name.expect("a name"), hour(&entry["created"]))
            })
            .collect();
        expected.assert_eq(&format!("{} => {}", words.join(" "), hour(&done["created"])));
    }

    #[test]
    fn history_and_layers_correspond() {
        check("a b", &[1, 2], None, expect!["a@1 b@2 => 2"]);
        check(
            "",
            &[1, 2],
            None,
            expect!["buildkit.exporter.image.v0@1 buildkit.exporter.image.v0@2 => 2"],
        );
        check("a", &[1, 2], None, expect!["a@1 buildkit.exporter.image.v0@2 => 2"]);
        check("a b c!", &[1], None, expect!["a@1 b!@1 c!@1 => 1"]);
        check(
            "base@1 cmd!@1 env! a b env!",
            &[9, 5, 6],
            None,
            expect!["base@1 cmd!@1 env!@5 a@5 b@6 env!@6 => 6"],
        );
        check("base@1 env!", &[9], None, expect!["base@1 env!@1 => 1"]);
        check("base@8 a", &[9, 5], None, expect!["base@8 a@5 => 8"]);
        check("env! env!", &[], None, expect!["env!@never env!@never => never"]);
        check(
            "base@1 young@9 a env!",
            &[9, 9, 9],
            Some(4),
            expect!["base@1 young@4 a@4 env!@4 => 4"],
        );
        check("env!", &[], Some(4), expect!["env!@4 => 4"]);
    }

    #[test]
    fn a_missing_config_is_the_default() {
        let platform = "linux/arm/v6".parse().expect("valid");
        let done = complete(b"", &platform, &[], None).expect("valid");
        expect![[
            r#"{"architecture":"arm","config":{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"WorkingDir":"/"},"history":[],"os":"linux","rootfs":{"diff_ids":[],"type":"layers"},"variant":"v6"}"#
        ]]
        .assert_eq(&String::from_utf8(done.json).expect("text"));
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in ["[]", "1", "{", r#"{"history": 1}"#, r#"{"history": [1]}"#] {
            let done = complete(bad.as_bytes(), &Platform::default(), &[], None);
            assert!(done.is_err(), "{bad}");
        }
    }
}
