//! Checks of the file as it is written: cases of letters, forms, comments. They look at every
//! stage, also at those that the target does not need.

use std::collections::BTreeSet;

use super::rules::{
    CONSISTENT_INSTRUCTION_CASING, DUPLICATE_STAGE_NAME, FROM_AS_CASING,
    INVALID_DEFINITION_DESCRIPTION, LEGACY_KEY_VALUE_FORMAT, MAINTAINER_DEPRECATED,
    NO_EMPTY_CONTINUATION, RESERVED_STAGE_NAME, STAGE_NAME_CASING,
};
use super::{Checks, Selection};
use crate::command::{Command, Instruction};
use crate::descriptions::Comment;
use crate::error::{Lines, Located};
use crate::parse::Dockerfile;

/// Names that stand for something else than a stage.
const RESERVED: [&str; 2] = ["context", "scratch"];

impl Checks<'_> {
    /// Does the checks of this file.
    pub(super) fn file(&mut self, dockerfile: &Dockerfile) -> Result<(), Vec<Located>> {
        let descriptions = dockerfile.descriptions(self.text);
        for instruction in &dockerfile.instructions {
            for comment in descriptions.above(instruction.lines) {
                self.own_selection(instruction, comment)?;
            }
        }
        for instruction in &dockerfile.instructions {
            let comment = descriptions.above(instruction.lines).last().copied();
            self.description(instruction, comment);
        }
        self.casing(&dockerfile.instructions);
        let mut names = BTreeSet::new();
        for instruction in &dockerfile.instructions {
            self.form(instruction);
            if let Command::From(from) = &instruction.command
                && let Some(name) = &from.name
            {
                self.stage_name(instruction, name, &mut names);
            }
        }
        Ok(())
    }

    /// Takes a comment `check=…` for what it says about the instruction below.
    fn own_selection(
        &mut self,
        instruction: &Instruction,
        Comment { line, text }: Comment<'_>,
    ) -> Result<(), Vec<Located>> {
        let Some(text) = text.strip_prefix("check").map(str::trim_start) else {
            return Ok(());
        };
        let Some(text) = text.strip_prefix('=') else { return Ok(()) };
        let lines = Lines { start: line, end: line };
        let own = Selection::parse(text).map_err(|problem| vec![problem.at(lines)])?;
        // The directive at the top of the file may be such a comment, too, and says the same.
        self.own.insert(instruction.lines.start, own);
        Ok(())
    }

    /// A comment on a definition begins with its name.
    fn description(&self, instruction: &Instruction, comment: Option<Comment<'_>>) {
        let Some(Comment { line, text }) = comment else { return };
        let names: Vec<&str> = match &instruction.command {
            Command::Arg(arguments) => arguments.iter().map(|(name, _)| name.as_str()).collect(),
            Command::From(from) => from.name.as_deref().into_iter().collect(),
            _ => Vec::new(),
        };
        let first = text.split_whitespace().next().unwrap_or_default();
        let described = names.iter().any(|name| name.eq_ignore_ascii_case(first));
        if let (Some(name), false) = (names.first(), described || text.contains('=')) {
            let message = format!("the comment on {name} should be `# {name} DESCRIPTION`");
            let lines = Lines { start: line, end: line };
            if self.does(&INVALID_DEFINITION_DESCRIPTION, instruction.lines) {
                self.report(&INVALID_DEFINITION_DESCRIPTION, lines, [text], message);
            }
        }
    }

    /// Instructions are all in upper case, or all in lower case.
    fn casing(&self, instructions: &[Instruction]) {
        let word = |instruction: &'_ Instruction| -> String {
            instruction.text.chars().take_while(|c| !c.is_whitespace()).collect()
        };
        let is_lower = |word: &str| !word.chars().any(char::is_uppercase);
        let is_upper = |word: &str| !word.chars().any(char::is_lowercase);
        let words: Vec<String> = instructions.iter().map(word).collect();
        let lower = words.iter().filter(|word| is_lower(word)).count();
        let upper = words.iter().filter(|word| is_upper(word)).count();
        for (word, instruction) in words.iter().zip(instructions) {
            let (fits, majority) = match lower > upper {
                true => (is_lower(word), "lowercase"),
                false => (is_upper(word), "uppercase"),
            };
            if !fits {
                let message =
                    format!("'{word}' should be in the case of most instructions ({majority})");
                let lines = instruction.lines;
                self.report(&CONSISTENT_INSTRUCTION_CASING, lines, [word.as_str()], message);
            }
        }
    }

    /// Forms that work and should not be used.
    fn form(&self, instruction: &Instruction) {
        let lines = instruction.lines;
        let name = instruction.spec.name;
        if let Some(line) = instruction.blank {
            let blank = Lines { start: line, end: line };
            if self.does(&NO_EMPTY_CONTINUATION, lines) {
                let message = "empty line in a continued instruction".to_owned();
                self.report(&NO_EMPTY_CONTINUATION, blank, [], message);
            }
        }
        match &instruction.command {
            Command::Maintainer(_) => {
                let message = "MAINTAINER is deprecated: use a label".to_owned();
                self.report(&MAINTAINER_DEPRECATED, lines, [], message);
            }
            Command::Env(pairs) | Command::Label(pairs) => {
                let key = pairs.first().map_or("", |(key, _)| key.as_str());
                let rest = instruction.text.split_once(char::is_whitespace);
                let rest = rest.map_or("", |(_, rest)| rest.trim_start());
                if rest.strip_prefix(key).is_some_and(|rest| rest.starts_with([' ', '\t'])) {
                    let message = format!(
                        "\"{name} key=value\" should be used instead of \"{name} key value\""
                    );
                    self.report(&LEGACY_KEY_VALUE_FORMAT, lines, [key], message);
                }
            }
            _ => {}
        }
    }

    /// The name of a stage, and the AS before it.
    fn stage_name(&self, from: &Instruction, name: &str, names: &mut BTreeSet<String>) {
        let lines = from.lines;
        let words: Vec<&str> = from.text.split_whitespace().collect();
        let (Some(keyword), [.., as_keyword, written]) = (words.first(), words.as_slice()) else {
            return;
        };
        if *written != written.to_lowercase() {
            let message = format!("stage name '{written}' should be in lower case");
            self.report(&STAGE_NAME_CASING, lines, [*written], message);
        }
        let same = match **keyword == keyword.to_lowercase() {
            true => **as_keyword == as_keyword.to_lowercase(),
            false => **as_keyword == as_keyword.to_uppercase(),
        };
        if !same {
            let message = format!("'{as_keyword}' and '{keyword}' differ in case");
            self.report(&FROM_AS_CASING, lines, [*as_keyword], message);
        }
        if RESERVED.contains(&name) {
            let message = format!("'{name}' is reserved and should not be the name of a stage");
            self.report(&RESERVED_STAGE_NAME, lines, [*written], message);
        }
        if !names.insert(name.to_owned()) {
            let message = format!("duplicate stage name \"{name}\": names of stages should differ");
            self.report(&DUPLICATE_STAGE_NAME, lines, [*written], message);
        }
    }
}
