//! `cofferdam.explain`: the tables of instructions and checks, for people to read.

use std::fmt::Write as _;

use cofferdam_sdk::{BuildError, Request};
use serde_json::{Value, json};

use super::{Answer, text};
use crate::checks::rules::{self, RULES, Rule};
use crate::error::Problem;
use crate::frontend::outside;
use crate::instruction::{self, Expansion, FlagKind, INSTRUCTIONS, Spec};
use crate::suggest::nearest;

/// Explains what the option `name` names, or lists everything.
pub(super) fn answer(request: &Request) -> Result<Answer, BuildError> {
    let Some(name) = request.option("name").filter(|name| !name.is_empty()) else {
        return Ok(all());
    };
    if let Some(spec) = instruction::find(name) {
        return Ok(Answer::new(spec_text(spec), spec_json(spec)));
    }
    if let Some(rule) = rules::find(name) {
        return Ok(Answer::new(rule_text(rule), rule_json(rule)));
    }
    let expected = "an instruction or a check";
    let mut error = outside(Problem::invalid("name", name, expected));
    let known = INSTRUCTIONS.iter().map(|spec| spec.name);
    let near = nearest(name, known.chain(RULES.iter().map(|rule| rule.name)));
    error.hints.extend(near.map(|near| format!("did you mean `{near}`?")));
    Err(error)
}

fn all() -> Answer {
    let row = |name: &str, summary: &str| vec![name.to_owned(), summary.to_owned()];
    let specs: Vec<_> = INSTRUCTIONS.iter().map(|spec| row(spec.name, spec.summary)).collect();
    let checks: Vec<_> = RULES.iter().map(|rule| row(rule.name, rule.summary)).collect();
    let text = format!(
        "{}\n{}",
        text::table(&["INSTRUCTION", "WHAT IT DOES"], &specs),
        text::table(&["CHECK", "WHAT A DOCKERFILE SHOULD BE LIKE"], &checks),
    );
    let json = json!({
        "instructions": INSTRUCTIONS.iter().map(spec_json).collect::<Vec<Value>>(),
        "checks": RULES.iter().map(|rule| rule_json(rule)).collect::<Vec<Value>>(),
    });
    Answer::new(text, json)
}

/// What a flag is followed by.
fn value(kind: FlagKind) -> &'static str {
    match kind {
        FlagKind::Text | FlagKind::List => "=VALUE",
        FlagKind::Bool => "[=true|false]",
    }
}

fn spec_text(spec: &Spec) -> String {
    let mut shown = format!("{}: {}\n\n", spec.name, spec.summary);
    for form in spec.usage {
        let flags = if spec.flags.is_empty() { "" } else { " [FLAGS]" };
        let _ = writeln!(shown, "    {}{flags} {form}", spec.name);
    }
    let _ = writeln!(shown, "\n{}", wrap(spec.text));
    if !spec.flags.is_empty() {
        let row = |flag: &instruction::Flag| {
            let times = if flag.kind == FlagKind::List { " (may be repeated)" } else { "" };
            vec![format!("--{}{}", flag.name, value(flag.kind)), format!("{}{times}", flag.summary)]
        };
        let rows: Vec<_> = spec.flags.iter().map(row).collect();
        let _ = writeln!(shown, "\n{}", text::table(&["FLAG", ""], &rows).trim_end());
    }
    if !spec.options.is_empty() {
        let row = |it: &instruction::MountOption| {
            vec![it.names.join(", "), it.kinds.join(", "), it.summary.to_owned()]
        };
        let rows: Vec<_> = spec.options.iter().map(row).collect();
        let table = text::table(&["OPTION OF --mount", "TYPES", ""], &rows);
        let _ = writeln!(shown, "\n{}", table.trim_end());
    }
    let _ = writeln!(shown, "\nVariables are expanded {}.", expansion(spec.expansion));
    let mut notes = Vec::new();
    if spec.heredocs {
        notes.push("Here-documents may follow it.");
    }
    if !spec.in_onbuild {
        notes.push("It cannot stand in ONBUILD.");
    }
    if !notes.is_empty() {
        let _ = writeln!(shown, "{}", notes.join(" "));
    }
    shown
}

fn expansion(expansion: Expansion) -> &'static str {
    match expansion {
        Expansion::None => "nowhere; a shell that runs the text may know them",
        Expansion::Flags => "in its flags; the shell that runs the text knows them, too",
        Expansion::Arguments => "in its flags and arguments",
        Expansion::Global => "in its flags and arguments: those of ARGs before the first FROM",
    }
}

fn spec_json(spec: &Spec) -> Value {
    let flag = |flag: &instruction::Flag| {
        json!({
            "name": flag.name,
            "summary": flag.summary,
            "repeatable": flag.kind == FlagKind::List,
            "boolean": flag.kind == FlagKind::Bool,
        })
    };
    let option = |it: &instruction::MountOption| json!({"names": it.names, "types": it.kinds, "summary": it.summary});
    json!({
        "instruction": spec.name,
        "summary": spec.summary,
        "usage": spec.usage,
        "text": spec.text,
        "flags": spec.flags.iter().map(flag).collect::<Vec<_>>(),
        "mountOptions": spec.options.iter().map(option).collect::<Vec<_>>(),
        "variables": match spec.expansion {
            Expansion::None => "none",
            Expansion::Flags => "flags",
            Expansion::Arguments => "arguments",
            Expansion::Global => "global",
        },
        "heredocs": spec.heredocs,
        "inOnbuild": spec.in_onbuild,
    })
}

fn rule_text(rule: &Rule) -> String {
    let indent =
        |text: &str| -> String { text.lines().map(|line| format!("    {line}\n")).collect() };
    let experimental = match rule.experimental {
        true => "\nIt is only done when `# check=experimental=` asks for it.\n",
        false => "",
    };
    format!(
        "{}: {}\n\n{}\n{experimental}\nInstead of\n\n{}\nwrite\n\n{}\nmore: {}\n",
        rule.name,
        rule.summary,
        wrap(rule.why),
        indent(rule.bad),
        indent(rule.good),
        rule.url(),
    )
}

fn rule_json(rule: &Rule) -> Value {
    json!({
        "check": rule.name,
        "summary": rule.summary,
        "text": rule.why,
        "bad": rule.bad,
        "good": rule.good,
        "experimental": rule.experimental,
        "url": rule.url(),
    })
}

/// Breaks a paragraph into lines of at most 80 characters.
fn wrap(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is always a last line");
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > 80 {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.join("\n")
}
