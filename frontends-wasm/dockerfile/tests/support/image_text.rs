//! Image configs as lines that people can read.

use serde_json::Value;

/// Shows what a section of the kind `config`, `history` or `row` is about.
pub fn show(kind: &str, arguments: &str, config: &Value) -> String {
    match kind {
        "history" => history(config),
        "row" => {
            // A dot in the name leads into the field.
            let mut value = field(config, arguments.split('.').next().unwrap_or_default());
            for name in arguments.split('.').skip(1) {
                value = value.get(name).cloned().unwrap_or_default();
            }
            match value {
                Value::String(text) => text,
                other => other.to_string(),
            }
        }
        _ => {
            let line = |name: &str| match field(config, name) {
                Value::Null => format!("{name}: (none)\n"),
                value => format!("{name}: {value}\n"),
            };
            arguments.split_whitespace().map(line).collect()
        }
    }
}

/// A field of the container's config, else of the image's.
fn field(config: &Value, name: &str) -> Value {
    let inner = config.get("config").and_then(|inner| inner.get(name));
    inner.or_else(|| config.get(name)).cloned().unwrap_or_default()
}

/// One line for each step of a Dockerfile; those that made no layer are indented.
fn history(config: &Value) -> String {
    let entries = config["history"].as_array().cloned().unwrap_or_default();
    let own = entries.iter().filter(|entry| entry["comment"] == "buildkit.dockerfile.v0");
    let line = |entry: &Value| {
        let empty = entry["empty_layer"] == true;
        let text = entry["created_by"].as_str().unwrap_or_default().replace('\n', "\\n");
        format!("{}{text}\n", if empty { "  " } else { "" })
    };
    own.map(line).collect()
}
