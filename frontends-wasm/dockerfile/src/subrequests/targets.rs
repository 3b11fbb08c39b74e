//! `frontend.targets`: the stages that can be built.

use cofferdam_sdk::{BuildError, Host, Request, SourceRange};
use serde_json::{Value, json};

use super::{Answer, text};
use crate::command::Command;
use crate::error::Errors;
use crate::frontend::{Files, outside};
use crate::options::Options;
use crate::parse;

/// Lists the stages.
pub(super) fn answer<H: Host>(host: &H, request: &Request) -> Result<Answer, BuildError> {
    let options = Options::new(request).map_err(outside)?;
    let files = Files::read(host, &options).map_err(outside)?;
    let source = files.register(host);
    let dockerfile = parse::parse(&files.text).map_err(|problems| {
        Errors::in_file(&files.name, &files.text, problems).into_build_error(Some(source))
    })?;
    let descriptions = dockerfile.descriptions(&files.text);
    let froms = dockerfile.instructions.iter().filter_map(|instruction| {
        let Command::From(from) = &instruction.command else { return None };
        Some((instruction, from))
    });
    let froms: Vec<_> = froms.collect();
    let (mut rows, mut targets) = (Vec::new(), Vec::new());
    for (at, (instruction, from)) in froms.iter().enumerate() {
        let last = at + 1 == froms.len();
        let name = from.name.clone().unwrap_or_default();
        let lines = instruction.lines;
        let description = descriptions.of(lines, &name).unwrap_or_default();
        let shown = match (name.is_empty(), last) {
            (true, true) => "(default)".to_owned(),
            (true, false) => continue,
            (false, true) => format!("{name} (default)"),
            (false, false) => name.clone(),
        };
        let platform = from.platform.clone().unwrap_or_default();
        rows.push(vec![shown, from.base.clone(), platform.clone(), description.to_owned()]);
        let mut target = json!({"base": from.base});
        for (key, value) in
            [("name", name.as_str()), ("description", description), ("platform", &platform)]
        {
            if !value.is_empty() {
                target[key] = value.into();
            }
        }
        if last {
            target["default"] = true.into();
        }
        let range = SourceRange::lines(source, lines.start, lines.end);
        target["location"] = text::location(range);
        targets.push(target);
    }
    let json = json!({
        "targets": Value::from(targets),
        "sources": text::sources(&files.name, &files.text),
    });
    Ok(Answer::new(text::table(&["TARGET", "BASE", "PLATFORM", "DESCRIPTION"], &rows), json))
}
