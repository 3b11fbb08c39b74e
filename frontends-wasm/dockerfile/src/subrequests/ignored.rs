//! `cofferdam.ignore`: which rule of which ignore file decides about a path.

use cofferdam_sdk::{BuildError, Host, Request};
use serde_json::json;

use super::Answer;
use crate::error::Problem;
use crate::frontend::{Files, outside};
use crate::ignore;
use crate::options::Options;
use crate::path;

/// Says what decides about the option `path`.
pub(super) fn answer<H: Host>(host: &H, request: &Request) -> Result<Answer, BuildError> {
    let Some(asked) = request.option("path").filter(|path| !path.is_empty()) else {
        let expected = "a path relative to the build context";
        return Err(outside(Problem::invalid("option path", "", expected)));
    };
    let options = Options::new(request).map_err(outside)?;
    let files = Files::read(host, &options).map_err(outside)?;
    let file = files.ignore_file(host, &options).map_err(outside)?;
    let rules = ignore::rules(&file.text);
    let patterns: Vec<String> = rules.iter().map(|rule| rule.pattern.clone()).collect();
    let path = path::inside(asked);
    let path = path.trim_start_matches('/');
    let (ignored, decided) = ignore::matcher(&patterns).map_err(outside)?.decide(path);
    let verdict = if ignored { "is left out of" } else { "is in" };
    let rule = decided.map(|at| &rules[at]);
    let why = match rule {
        Some(rule) => format!("{}:{}: {}", file.name, rule.line, rule.written),
        None if rules.is_empty() => format!("{} has no rules, or is not there", file.name),
        None => format!("no rule of {} matches it", file.name),
    };
    let json = json!({
        "path": path,
        "ignored": ignored,
        "file": file.name,
        "line": rule.map(|rule| rule.line),
        "rule": rule.map(|rule| rule.written.as_str()),
    });
    Ok(Answer::new(format!("`{path}` {verdict} the build context\n{why}\n"), json))
}
