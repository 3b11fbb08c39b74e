//! `frontend.lint`: what the checks find in the whole file, and what is wrong with it.

use std::fmt::Write as _;

use cofferdam_sdk::{BuildError, Host, Request};
use serde_json::{Value, json};

use super::{Answer, text};
use crate::checks::{Checks, Finding};
use crate::error::{Errors, Located};
use crate::frontend::{Files, Survey, outside};
use crate::locate::SourceText;
use crate::lower::Scope;
use crate::options::Options;
use crate::parse;

/// Checks the file.
pub(super) fn answer<H: Host>(host: &H, request: &Request) -> Result<Answer, BuildError> {
    let options = Options::new(request).map_err(outside)?;
    let files = Files::read(host, &options).map_err(outside)?;
    let source = files.register(host);
    let (findings, problems) = check(host, request, &options, &files);
    let error = (!problems.is_empty()).then(|| {
        Errors::in_file(&files.name, &files.text, problems).into_build_error(Some(source))
    });
    let lines = SourceText::new(&files.text);
    let mut shown = String::new();
    for finding in &findings {
        let range = finding.range(source);
        let excerpt = text::excerpt(&lines, &files.name, range);
        let Finding { rule, message, .. } = finding;
        let _ = write!(shown, "\nWARNING: {} - {}\n{message}\n{excerpt}", rule.name, rule.url());
    }
    let warnings = findings.iter().map(|finding| {
        json!({
            "ruleName": finding.rule.name,
            "description": finding.rule.summary,
            "url": finding.rule.url(),
            "detail": finding.message,
            "level": 1,
            "location": text::location(finding.range(source)),
        })
    });
    let mut answer = json!({
        "warnings": warnings.collect::<Vec<Value>>(),
        "sources": text::sources(&files.name, &files.text),
    });
    if let Some(error) = &error {
        let others =
            error.others.iter().map(|other| (&other.message, &other.locations, &other.hints));
        let all = std::iter::once((&error.message, &error.locations, &error.hints)).chain(others);
        for (message, locations, hints) in all {
            shown.push('\n');
            for range in locations {
                shown += &text::excerpt(&lines, &files.name, *range);
            }
            let _ = writeln!(shown, "ERROR: {message}");
            hints.iter().for_each(|hint| shown += &format!("hint: {hint}\n"));
        }
        answer["buildError"] = json!({"message": error.message});
        if let Some(range) = error.locations.first() {
            answer["buildError"]["location"] = text::location(*range);
        }
    }
    let summary = match (findings.len(), &error) {
        (0, None) => "nothing was found".to_owned(),
        (count, error) => {
            let plural = if count == 1 { "" } else { "s" };
            let errors = if error.is_some() { ", and it cannot be built" } else { "" };
            format!("{count} warning{plural}{errors}")
        }
    };
    let good = findings.is_empty() && error.is_none();
    let text = format!("{}: {summary}\n{shown}", files.name);
    Ok(Answer { text, json: answer, good: Some(good) })
}

/// What is found, and what stops.
fn check<H: Host>(
    host: &H,
    request: &Request,
    options: &Options,
    files: &Files,
) -> (Vec<Finding>, Vec<Located>) {
    let dockerfile = match parse::parse(&files.text) {
        Ok(dockerfile) => dockerfile,
        Err(problems) => return (Vec::new(), problems),
    };
    let checks = match Checks::new(&files.text, &dockerfile, options) {
        Ok(checks) => checks,
        Err(problems) => return (Vec::new(), problems),
    };
    // A target asks about what it needs, and no target about everything.
    let scope = match options.target {
        Some(_) => Scope::Target,
        None => Scope::Everything,
    };
    let survey = Survey::new(host, request, options, (files, &dockerfile), (&checks, scope));
    (checks.findings(), survey.err().unwrap_or_default())
}
