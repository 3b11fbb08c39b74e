//! The checks that need to know what only lowering knows: variables, working directories, shells
//! and base images.

use std::collections::BTreeMap;

use cofferdam_sdk::{Host, Platform};

use super::{Lowering, stage::State};
use crate::checks::Checks;
use crate::checks::rules::{
    EXPOSE_INVALID_FORMAT, EXPOSE_PROTO_CASING, INVALID_BASE_IMAGE_PLATFORM, JSON_ARGS_RECOMMENDED,
    MULTIPLE_INSTRUCTIONS_DISALLOWED, SECRETS_USED_IN_ARG_OR_ENV, UNDEFINED_VAR,
    WORKDIR_RELATIVE_PATH,
};
use crate::command::{Command, Instruction};
use crate::error::Lines;
use crate::stages::Stage;
use crate::suggest::nearest;

/// Words in the name of a variable that holds a secret, and one that takes it back.
const SECRETS: [&str; 10] = [
    "apikey",
    "auth",
    "credential",
    "credentials",
    "key",
    "passwd",
    "password",
    "pword",
    "secret",
    "token",
];
const PUBLIC: &str = "public";

/// What the checks remember of a stage.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// Whether a WORKDIR came, here or in a stage below.
    workdir: bool,
    /// Where the instructions stood that count once.
    once: BTreeMap<&'static str, Lines>,
}

impl Seen {
    /// What a stage on this one begins with.
    pub fn inherited(&self) -> Self {
        Self { workdir: self.workdir, once: BTreeMap::new() }
    }
}

impl<H: Host> Lowering<'_, H> {
    /// Looks at the image that a stage begins on.
    pub(super) fn watch_base(&self, stage: &Stage, name: &str, asked: &Platform, has: &Platform) {
        let Some(checks) = self.input.checks else { return };
        let asked = asked.clone().normalized();
        let variant =
            !asked.variant.is_empty() && !has.variant.is_empty() && asked.variant != has.variant;
        if asked.os != has.os || asked.architecture != has.architecture || variant {
            let message = format!("the base image {name} is for \"{has}\", expected \"{asked}\"");
            self.report(checks, stage, name, message);
        }
    }

    fn report(&self, checks: &Checks<'_>, stage: &Stage, name: &str, message: String) {
        let written = match &stage.from.command {
            Command::From(from) => from.base.as_str(),
            _ => name,
        };
        checks.report(&INVALID_BASE_IMAGE_PLATFORM, stage.from.lines, [written, name], message);
    }

    /// Looks at an instruction that is about to be lowered.
    pub(super) fn watch(&self, state: &mut State<H::Output>, instruction: &Instruction) {
        let Some(checks) = self.input.checks else { return };
        let lines = instruction.lines;
        let name = instruction.spec.name;
        match &instruction.command {
            Command::Cmd(line) | Command::Entrypoint(line) => {
                if line.shell && !line.args.is_empty() && state.image.list("Shell").is_empty() {
                    let message = format!(
                        "a JSON array is recommended for {name}, so that signals reach the program"
                    );
                    checks.report(&JSON_ARGS_RECOMMENDED, lines, [], message);
                }
                once(checks, state, name, lines);
            }
            Command::Healthcheck(_) => once(checks, state, name, lines),
            Command::Workdir(word) => {
                let path = state.expand(self.expander, word).unwrap_or_default();
                if !state.seen.workdir && !path.starts_with('/') {
                    let message =
                        format!("relative WORKDIR \"{path}\" depends on that of the base image");
                    checks.report(&WORKDIR_RELATIVE_PATH, lines, [word.as_str()], message);
                }
                state.seen.workdir = true;
            }
            Command::Arg(arguments) => {
                for (key, _) in arguments {
                    secret(checks, lines, name, key);
                }
            }
            Command::Env(pairs) => {
                for (key, _) in pairs {
                    secret(checks, lines, name, key);
                }
            }
            Command::Expose(words) => {
                for word in words {
                    let ports = self.expander.words(word, &state.env).unwrap_or_default();
                    ports.iter().for_each(|port| exposed(checks, lines, word, port));
                }
            }
            _ => {}
        }
    }

    /// Looks at what lowering an instruction missed.
    pub(super) fn watch_missed(&self, state: &State<H::Output>, instruction: &Instruction) {
        let missed = state.env.take_missed();
        let Some(checks) = self.input.checks else { return };
        for name in missed {
            // An ARG without a value is declared, and empty.
            if !checks.wants(&UNDEFINED_VAR, instruction.lines)
                || state.arguments.iter().any(|(known, _)| *known == name)
            {
                continue;
            }
            let mut message = format!("usage of undefined variable '${name}'");
            if let Some(near) = nearest(&name, state.env.iter().map(|(name, _)| name.as_str())) {
                message += &format!(" (did you mean ${near}?)");
            }
            let (plain, braced) = (format!("${name}"), format!("${{{name}}}"));
            let about = [braced.as_str(), plain.as_str(), name.as_str()];
            checks.report(&UNDEFINED_VAR, instruction.lines, about, message);
        }
    }
}

/// Of some instructions only the last counts: the one before it is pointed at.
fn once<O>(checks: &Checks<'_>, state: &mut State<O>, name: &'static str, lines: Lines) {
    if let Some(before) = state.seen.once.insert(name, lines) {
        let message = format!("of several {name} in one stage only the last is used");
        checks.report(&MULTIPLE_INSTRUCTIONS_DISALLOWED, before, [], message);
    }
}

/// A variable whose name says that it is for a secret.
fn secret(checks: &Checks<'_>, lines: Lines, instruction: &str, key: &str) {
    let lower = key.to_lowercase();
    let mut parts = lower.split('_');
    if parts.any(|part| SECRETS.contains(&part)) && !lower.split('_').any(|part| part == PUBLIC) {
        let message = format!("{instruction} \"{key}\" should not be used for a secret");
        checks.report(&SECRETS_USED_IN_ARG_OR_ENV, lines, [key], message);
    }
}

/// How a port is written.
fn exposed(checks: &Checks<'_>, lines: Lines, word: &str, port: &str) {
    let (range, protocol) = port.split_once('/').unwrap_or((port, ""));
    if protocol != protocol.to_lowercase() {
        let message = format!("the protocol '{protocol}' of EXPOSE should be in lower case");
        checks.report(&EXPOSE_PROTO_CASING, lines, [word], message);
    }
    if range.contains(':') {
        let message = format!("EXPOSE should name a port of the container only, found '{port}'");
        checks.report(&EXPOSE_INVALID_FORMAT, lines, [word], message);
    }
}
