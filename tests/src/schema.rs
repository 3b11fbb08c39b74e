//! Checks JSON against a JSON Schema, as far as `docs/progress.schema.json` goes: what that does
//! not use is an error, so that nothing in it goes unchecked. Libraries for all of JSON Schema
//! weigh more than everything else that the suites depend on.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A schema with its definitions.
pub struct Schema {
    root: Value,
}

impl Schema {
    /// Reads a schema.
    ///
    /// # Errors
    /// It is no JSON.
    pub fn parse(text: &str) -> Result<Self> {
        Ok(Self { root: serde_json::from_str(text)? })
    }

    /// Checks a value. Members that the schema does not list are errors, although readers have to
    /// put up with them: the schema has to be complete.
    ///
    /// # Errors
    /// Where the value is not as the schema says, or the schema says something unknown.
    pub fn check(&self, value: &Value) -> Result<()> {
        self.matches(&self.root, value)
    }

    fn matches(&self, schema: &Value, value: &Value) -> Result<()> {
        for (keyword, wanted) in schema.as_object().context("a schema is an object")? {
            let right = match keyword.as_str() {
                "$schema" | "$defs" | "title" | "description" => true,
                "$ref" => {
                    let path = wanted.as_str().and_then(|path| path.strip_prefix('#'));
                    let target = path.and_then(|path| self.root.pointer(path));
                    self.matches(target.with_context(|| format!("no {wanted}"))?, value)?;
                    true
                }
                "oneOf" => {
                    let all = list(wanted)?.iter().map(|schema| self.matches(schema, value));
                    let (right, wrong): (Vec<_>, Vec<_>) = all.partition(Result::is_ok);
                    let wrong: Vec<_> = wrong.into_iter().filter_map(Result::err).collect();
                    ensure!(right.len() == 1, "{value} is {} of {wrong:#?}", right.len());
                    true
                }
                "type" => match wanted {
                    Value::Array(kinds) => kinds.iter().any(|kind| is_a(value, kind)),
                    kind => is_a(value, kind),
                },
                "const" => value == wanted,
                "enum" => list(wanted)?.contains(value),
                "minimum" => value.as_f64() >= wanted.as_f64(),
                "pattern" => {
                    ensure!(wanted == "^sha256:[0-9a-f]{64}$", "unknown pattern {wanted}");
                    let hex = value.as_str().and_then(|text| text.strip_prefix("sha256:"));
                    let digit = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
                    hex.is_some_and(|hex| hex.len() == 64 && hex.chars().all(digit))
                }
                "format" => {
                    ensure!(wanted == "date-time", "unknown format {wanted}");
                    value.as_str().is_some_and(|text| OffsetDateTime::parse(text, &Rfc3339).is_ok())
                }
                "required" => {
                    let has = |name: &Value| name.as_str().is_some_and(|n| value.get(n).is_some());
                    list(wanted)?.iter().all(has)
                }
                "properties" => {
                    for (name, member) in value.as_object().into_iter().flatten() {
                        let schema =
                            wanted.get(name).with_context(|| format!("`{name}` is new"))?;
                        self.matches(schema, member).with_context(|| format!("in `{name}`"))?;
                    }
                    true
                }
                "items" => {
                    let mut items = value.as_array().into_iter().flatten();
                    items.try_for_each(|item| self.matches(wanted, item))?;
                    true
                }
                other => bail!("the schema uses `{other}`, which is not checked"),
            };
            ensure!(right, "{value} is not {keyword} {wanted}");
        }
        Ok(())
    }
}

fn list(value: &Value) -> Result<&Vec<Value>> {
    value.as_array().with_context(|| format!("{value} should be a list"))
}

fn is_a(value: &Value, kind: &Value) -> bool {
    match kind.as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_u64() || value.is_i64(),
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Schema;

    #[test]
    fn what_is_wrong_is_found() {
        let schema = r##"{
            "type": "object", "required": ["a"],
            "properties": {
                "a": { "oneOf": [{ "type": "null" }, { "$ref": "#/$defs/n" }] },
                "t": { "type": "array", "items": { "format": "date-time" } },
                "k": { "enum": ["x", 1] }
            },
            "$defs": { "n": { "type": "integer", "minimum": 0 } }
        }"##;
        let schema = Schema::parse(schema).expect("JSON");
        let right =
            [json!({ "a": null, "t": ["2026-11-22T05:00:00.5Z"], "k": 1 }), json!({ "a": 0 })];
        for value in right {
            schema.check(&value).expect("it is right");
        }
        let wrong = [
            json!(1),
            json!({}),
            json!({ "a": "" }),
            json!({ "a": -1 }),
            json!({ "a": 0, "new": 1 }),
            json!({ "a": 0, "k": "y" }),
            json!({ "a": 0, "t": ["yesterday"] }),
        ];
        for value in wrong {
            schema.check(&value).expect_err("it is wrong");
        }
        let unknown = Schema::parse(r#"{ "maximum": 3 }"#).expect("JSON");
        unknown.check(&json!(1)).expect_err("it is not checked");
    }
}
