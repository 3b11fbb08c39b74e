//! The image config in Docker's form: what instructions change in it, and its history.
//! It is kept as JSON, so that fields of a base image that are not known here stay.

use std::collections::BTreeMap;

use cofferdam_sdk::Platform;
use serde_json::{Map, Value, json};

use crate::error::Problem;

/// The search path of images that set none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An image config.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    root: Map<String, Value>,
    config: Map<String, Value>,
    /// Where in the environment each variable is.
    variables: BTreeMap<String, usize>,
}

impl Image {
    /// The config of an empty image.
    pub fn scratch(platform: &Platform) -> Self {
        let mut root = Map::new();
        root.insert("rootfs".into(), json!({"type": "layers", "diff_ids": null}));
        let mut config = Map::new();
        config.insert("WorkingDir".into(), "/".into());
        let mut image = Self { root, config, variables: BTreeMap::new() };
        image.complete(platform);
        image
    }

    /// Reads the config of a base image.
    ///
    /// # Errors
    /// When it is not a JSON object.
    pub fn parse(reference: &str, json: &[u8], platform: &Platform) -> Result<Self, Problem> {
        let mut root: Map<String, Value> = serde_json::from_slice(json).map_err(|error| {
            Problem::invalid("image config of", reference, format!("a JSON object ({error})"))
        })?;
        // The new image has its own time, and the rest describes how Docker's old builder made
        // the base.
        for field in ["created", "container", "container_config", "id", "parent"] {
            root.remove(field);
        }
        root.retain(|_, value| !value.is_null());
        let mut config = match root.remove("config") {
            Some(Value::Object(config)) => config,
            _ => Map::new(),
        };
        config.retain(|_, value| !is_empty(value));
        if !root.get("rootfs").is_some_and(Value::is_object) {
            root.insert("rootfs".into(), json!({"type": "layers", "diff_ids": []}));
        }
        let mut image = Self { root, config, variables: BTreeMap::new() };
        image.complete(platform);
        Ok(image)
    }

    /// Adds what every image has.
    fn complete(&mut self, platform: &Platform) {
        for (at, (name, _)) in self.env().into_iter().enumerate() {
            self.variables.entry(name).or_insert(at);
        }
        if !self.root.contains_key("architecture") {
            self.root.insert("architecture".into(), platform.architecture.as_str().into());
            self.root.insert("os".into(), platform.os.as_str().into());
            if !platform.variant.is_empty() {
                self.root.insert("variant".into(), platform.variant.as_str().into());
            }
        }
        if platform.os != "windows" && !self.variables.contains_key("PATH") {
            self.set_env("PATH", DEFAULT_PATH);
        }
    }

    /// Whether the image has no layers at all, so that it is an empty tree.
    pub fn has_no_layers(&self) -> bool {
        let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned();
        let diff_ids = self.root.get("rootfs").and_then(|rootfs| rootfs.get("diff_ids"));
        let history = list(self.root.get("history")).unwrap_or_default();
        let empty = |entry: &Value| entry.get("empty_layer") == Some(&Value::Bool(true));
        list(diff_ids).is_none_or(|ids| ids.is_empty()) && history.iter().all(empty)
    }

    /// The platform of the config.
    pub fn platform(&self) -> Platform {
        let text = |field: &str| {
            self.root.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        Platform {
            os: text("os"),
            architecture: text("architecture"),
            variant: text("variant"),
            ..Platform::default()
        }
        .normalized()
    }

    /// A text of the config; empty when it is not set.
    pub fn text(&self, field: &str) -> &str {
        self.config.get(field).and_then(Value::as_str).unwrap_or_default()
    }

    /// A list of the config; empty when it is not set.
    pub fn list(&self, field: &str) -> Vec<String> {
        let values = self.config.get(field).and_then(Value::as_array);
        let texts = values.into_iter().flatten().filter_map(Value::as_str);
        texts.map(str::to_owned).collect()
    }

    /// Sets a field of the config; one that is empty is left out.
    pub fn set(&mut self, field: &str, value: impl Into<Value>) {
        let value = value.into();
        match is_empty(&value) {
            true => self.config.remove(field),
            false => self.config.insert(field.into(), value),
        };
    }

    /// Sets a field outside of the config.
    pub fn set_author(&mut self, author: &str) {
        self.root.insert("author".into(), author.into());
    }

    /// Sets one entry of a map of the config: a label, a port, a volume.
    pub fn insert(&mut self, field: &str, key: &str, value: impl Into<Value>) {
        let map = self.config.entry(field).or_insert_with(|| json!({}));
        if !map.is_object() {
            *map = json!({});
        }
        if let Some(map) = map.as_object_mut() {
            map.insert(key.into(), value.into());
        }
    }

    /// The environment.
    pub fn env(&self) -> Vec<(String, String)> {
        let split = |entry: String| match entry.split_once('=') {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => (entry, String::new()),
        };
        self.list("Env").into_iter().map(split).collect()
    }

    /// Sets a variable, in the place where it was set before.
    pub fn set_env(&mut self, name: &str, value: &str) {
        let entry = Value::from(format!("{name}={value}"));
        let Some(Value::Array(env)) = self.config.get_mut("Env") else {
            self.config.insert("Env".into(), json!([entry]));
            self.variables = BTreeMap::from([(name.to_owned(), 0)]);
            return;
        };
        match self.variables.get(name).and_then(|at| env.get_mut(*at)) {
            Some(known) => *known = entry,
            None => {
                self.variables.insert(name.to_owned(), env.len());
                env.push(entry);
            }
        }
    }

    /// Adds to a list of the config.
    pub fn push(&mut self, field: &str, text: &str) {
        match self.config.entry(field).or_insert_with(|| json!([])) {
            Value::Array(list) => list.push(text.into()),
            other => *other = json!([text]),
        }
    }

    /// The command line that runs a text in the image's shell.
    pub fn shell_command(&self, text: String) -> Vec<String> {
        let mut args = self.list("Shell");
        if args.is_empty() {
            args = match self.root.get("os").and_then(Value::as_str) {
                Some("windows") => ["cmd", "/S", "/C"].map(str::to_owned).into(),
                _ => ["/bin/sh", "-c"].map(str::to_owned).into(),
            };
        }
        args.push(text);
        args
    }

    /// Adds to the history; `layer` says whether the step made a layer.
    pub fn record(&mut self, text: String, layer: bool) {
        let mut entry = json!({"created_by": text, "comment": "buildkit.dockerfile.v0"});
        if !layer {
            entry["empty_layer"] = true.into();
        }
        match self.root.entry("history").or_insert_with(|| json!([])) {
            Value::Array(history) => history.push(entry),
            other => *other = json!([entry]),
        }
    }

    /// Writes the platform down: the one that was asked for, else the base image's, in its
    /// normal form.
    pub fn finish(&mut self, asked: Option<&Platform>) {
        let own = self.platform();
        let mut platform = asked.cloned().unwrap_or_else(|| own.clone()).normalized();
        let same = (&platform.os, &platform.architecture) == (&own.os, &own.architecture);
        if same && platform.variant.is_empty() {
            platform.variant = own.variant;
        }
        for (field, value) in [
            ("os", platform.os),
            ("architecture", platform.architecture),
            ("variant", platform.variant),
        ] {
            match value.is_empty() {
                true => self.root.remove(field),
                false => self.root.insert(field.into(), value.into()),
            };
        }
        if !same {
            self.root.remove("os.version");
        }
    }

    /// The whole config as JSON.
    pub fn to_json(&self) -> Value {
        let mut root = self.root.clone();
        root.insert("config".into(), self.config.clone().into());
        root.into()
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Number(_) => false,
    }
}

/// A list of texts as Go's `%q` prints it: `["a" "b"]`.
pub fn quoted_list(list: &[String]) -> String {
    let quoted: Vec<String> = list.iter().map(|text| quote(text)).collect();
    format!("[{}]", quoted.join(" "))
}

/// Whether `%q` prints a character as it is: letters, marks, numbers, punctuation and symbols.
fn is_printed(c: char) -> bool {
    // Behind another character, a mark is no reason to escape.
    !['a', c].iter().collect::<String>().escape_debug().to_string().starts_with("a\\u{")
}

fn quote(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\u{b}' => quoted.push_str("\\v"),
            c if c.is_ascii_control() => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if c.is_ascii() || is_printed(c) => quoted.push(c),
            c if u32::from(c) < 0x10000 => {
                quoted.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => quoted.push_str(&format!("\\U{:08x}", u32::from(c))),
        }
    }
    quoted + "\""
}
