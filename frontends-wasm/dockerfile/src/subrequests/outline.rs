//! `frontend.outline`: what a target takes from whoever builds it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use cofferdam_sdk::{BuildError, Host, Platform, Request, SourceRange};
use serde_json::{Value, json};

use super::{Answer, text};
use crate::command::{Command, Instruction};
use crate::descriptions::Descriptions;
use crate::error::{Errors, Lines, Located};
use crate::frontend::{Files, outside};
use crate::lower::mounts;
use crate::options::Options;
use crate::parse::{self, Dockerfile};
use crate::stages::{Stages, globals};
use crate::words::{Budget, Expander, Within};

/// What a target takes.
#[derive(Default)]
struct Outline {
    name: String,
    description: String,
    arguments: Vec<Argument>,
    /// By kind and id: whether it must be there, and where it is first.
    mounts: BTreeMap<(Kind, String), (bool, Lines)>,
}

struct Argument {
    name: String,
    description: String,
    value: Option<String>,
    lines: Lines,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Secret,
    Agent,
    Cache,
}

/// Describes the target.
pub(super) fn answer<H: Host>(host: &H, request: &Request) -> Result<Answer, BuildError> {
    let options = Options::new(request).map_err(outside)?;
    let files = Files::read(host, &options).map_err(outside)?;
    let source = files.register(host);
    let outline = outline(request, &options, &files.text).map_err(|problems| {
        Errors::in_file(&files.name, &files.text, problems).into_build_error(Some(source))
    })?;
    Ok(Answer::new(outline.text(), outline.json(source, &files)))
}

fn outline(request: &Request, options: &Options, text: &str) -> Result<Outline, Vec<Located>> {
    let dockerfile = parse::parse(text)?;
    let descriptions = dockerfile.descriptions(text);
    let build = &request.build_platform;
    let target = request.platforms.first().unwrap_or(build);
    let stages = Stages::new(&dockerfile, options, target, build)?;
    let index = stages.target(options.target.as_deref())?;
    let stage = &stages.stages[index];
    let name = stage.name.clone().unwrap_or_default();
    let mut outline = Outline {
        description: descriptions.of(stage.from.lines, &name).unwrap_or_default().to_owned(),
        name,
        ..Outline::default()
    };
    let budget = Budget::default();
    let mut known = BTreeSet::new();
    outline.globals(&dockerfile, &descriptions, options, (target, build), &mut known);
    for index in stages.needed([index])? {
        let expander = Expander::new(dockerfile.directives.escape);
        let mut variables: BTreeMap<String, String> = BTreeMap::new();
        for instruction in &stages.stages[index].instructions {
            match &instruction.command {
                Command::Arg(arguments) => {
                    for (name, default) in arguments {
                        let given = options.build_args.get(name).cloned();
                        let default = || {
                            let word = default.as_ref()?;
                            let known = Within { variables: &variables, budget: &budget };
                            Some(expander.word(word, &known).unwrap_or_else(|_| word.clone()))
                        };
                        let global = || stages.globals.get(name).cloned();
                        let value = given.or_else(default).or_else(global);
                        variables.extend(value.clone().map(|value| (name.clone(), value)));
                        outline.argument(instruction, &descriptions, name, value, &mut known);
                    }
                }
                Command::Run(run) => {
                    run.mounts.iter().for_each(|mount| outline.mount(mount, instruction.lines));
                }
                _ => {}
            }
        }
    }
    Ok(outline)
}

impl Outline {
    /// The ARGs in front of the first FROM.
    fn globals(
        &mut self,
        dockerfile: &Dockerfile,
        descriptions: &Descriptions<'_>,
        options: &Options,
        (target, build): (&Platform, &Platform),
        known: &mut BTreeSet<String>,
    ) {
        let (values, _) = globals(dockerfile, options, target, build);
        for instruction in &dockerfile.instructions {
            let Command::Arg(arguments) = &instruction.command else { break };
            for (name, _) in arguments {
                let value = values.get(name).cloned();
                self.argument(instruction, descriptions, name, value, known);
            }
        }
    }

    fn argument(
        &mut self,
        instruction: &Instruction,
        descriptions: &Descriptions<'_>,
        name: &str,
        value: Option<String>,
        known: &mut BTreeSet<String>,
    ) {
        if !known.insert(name.to_owned()) {
            return;
        }
        self.arguments.push(Argument {
            name: name.to_owned(),
            description: descriptions.of(instruction.lines, name).unwrap_or_default().to_owned(),
            value,
            lines: instruction.lines,
        });
    }

    fn mount(&mut self, text: &str, lines: Lines) {
        let fields: BTreeMap<String, Option<String>> = mounts::fields(text)
            .into_iter()
            .map(|(key, value)| (key.trim().to_lowercase(), value))
            .collect();
        let field = |keys: &[&str]| {
            let value = keys.iter().find_map(|key| fields.get(*key)?.clone());
            value.filter(|value| !value.is_empty())
        };
        let target = field(&["target", "dst", "destination"]);
        let (kind, id) = match field(&["type"]).as_deref() {
            Some("secret") => {
                let base = || Some(crate::path::base(target.as_deref()?).to_owned());
                (Kind::Secret, field(&["source", "src"]).or_else(|| field(&["id"])).or_else(base))
            }
            Some("ssh") => (Kind::Agent, Some(field(&["id"]).unwrap_or_else(|| "default".into()))),
            Some("cache") => (Kind::Cache, field(&["id"]).or(target)),
            _ => return,
        };
        let Some(id) = id else { return };
        let required = fields.get("required").is_some_and(|value| {
            value.as_deref().is_none_or(|value| value == "true" || value == "1")
        });
        let known = self.mounts.entry((kind, id)).or_insert((false, lines));
        known.0 |= required;
    }

    /// Ids of a kind, whether each must be there, and where it is.
    fn of(&self, kind: Kind) -> Vec<(&str, bool, Lines)> {
        let of_kind = self.mounts.iter().filter(|((found, _), _)| *found == kind);
        of_kind.map(|((_, id), (required, lines))| (id.as_str(), *required, *lines)).collect()
    }

    fn text(&self) -> String {
        let mut shown = String::new();
        let name = if self.name.is_empty() { "(default)" } else { &self.name };
        let _ = writeln!(shown, "TARGET:      {name}");
        if !self.description.is_empty() {
            let _ = writeln!(shown, "DESCRIPTION: {}", self.description);
        }
        if !self.arguments.is_empty() {
            let row = |it: &Argument| {
                vec![it.name.clone(), it.value.clone().unwrap_or_default(), it.description.clone()]
            };
            let rows: Vec<_> = self.arguments.iter().map(row).collect();
            shown += &format!("\n{}", text::table(&["BUILD ARG", "VALUE", "DESCRIPTION"], &rows));
        }
        for (kind, heading) in [(Kind::Secret, "SECRET"), (Kind::Agent, "SSH")] {
            let row = |(id, required, _): (&str, bool, Lines)| {
                vec![id.to_owned(), if required { "true".into() } else { String::new() }]
            };
            let rows: Vec<_> = self.of(kind).into_iter().map(row).collect();
            if !rows.is_empty() {
                shown += &format!("\n{}", text::table(&[heading, "REQUIRED"], &rows));
            }
        }
        let caches: Vec<_> =
            self.of(Kind::Cache).into_iter().map(|(id, ..)| vec![id.to_owned()]).collect();
        if !caches.is_empty() {
            shown += &format!("\n{}", text::table(&["CACHE MOUNT"], &caches));
        }
        shown
    }

    fn json(&self, source: u32, files: &Files) -> Value {
        let place =
            |lines: Lines| text::location(SourceRange::lines(source, lines.start, lines.end));
        let argument = |it: &Argument| {
            let mut json = json!({"name": it.name, "location": place(it.lines)});
            if !it.description.is_empty() {
                json["description"] = it.description.as_str().into();
            }
            if let Some(value) = &it.value {
                json["value"] = value.as_str().into();
            }
            json
        };
        let named = |kind: Kind| -> Vec<Value> {
            let entry = |(id, required, lines): (&str, bool, Lines)| {
                let mut json = json!({"name": id, "location": place(lines)});
                if required {
                    json["required"] = true.into();
                }
                json
            };
            self.of(kind).into_iter().map(entry).collect()
        };
        let cache =
            |(id, _, lines): (&str, bool, Lines)| json!({"ID": id, "location": place(lines)});
        let mut json = json!({"sources": text::sources(&files.name, &files.text)});
        for (key, text) in [("name", &self.name), ("description", &self.description)] {
            if !text.is_empty() {
                json[key] = text.as_str().into();
            }
        }
        for (key, list) in [
            ("args", self.arguments.iter().map(argument).collect()),
            ("secrets", named(Kind::Secret)),
            ("ssh", named(Kind::Agent)),
            ("cache", self.of(Kind::Cache).into_iter().map(cache).collect()),
        ] {
            if !list.is_empty() {
                json[key] = list.into();
            }
        }
        json
    }
}
