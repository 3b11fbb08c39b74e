//! Checks of the FROMs: the variables in them, and the platforms that they ask for.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use cofferdam_sdk::Platform;

use super::Checks;
use super::rules::{
    FROM_PLATFORM_FLAG_CONST_DISALLOWED, INVALID_DEFAULT_ARG_IN_FROM, REDUNDANT_TARGET_PLATFORM,
    UNDEFINED_ARG_IN_FROM,
};
use crate::command::{Command, From, Instruction};
use crate::options::Options;
use crate::parse::Dockerfile;
use crate::reference::Reference;
use crate::stages::globals;
use crate::suggest::nearest;
use crate::words::{Budget, Expander, Variables, Within};

/// Variables that remember what was asked for in vain.
struct Watched<'a> {
    variables: &'a BTreeMap<String, String>,
    budget: &'a Budget,
    missed: RefCell<BTreeSet<String>>,
}

impl Variables for Watched<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    fn missed(&self, name: &str) {
        self.missed.borrow_mut().insert(name.to_owned());
    }

    fn spend(&self, work: usize) -> bool {
        self.budget.spend(work)
    }
}

impl Checks<'_> {
    /// Looks at the FROMs, for one target platform.
    pub fn stages(
        &self,
        dockerfile: &Dockerfile,
        options: &Options,
        target: &Platform,
        build: &Platform,
    ) {
        let expander = Expander::new(dockerfile.directives.escape);
        let (variables, _) = globals(dockerfile, options, target, build);
        let without = Options { build_args: BTreeMap::new(), ..options.clone() };
        let (defaults, _) = globals(dockerfile, &without, target, build);
        let budget = Budget::default();
        let mut declared: BTreeSet<&str> = BTreeSet::new();
        let mut stages: BTreeSet<&str> = BTreeSet::new();
        for instruction in &dockerfile.instructions {
            match &instruction.command {
                Command::Arg(arguments) if stages.is_empty() => {
                    declared.extend(arguments.iter().map(|(name, _)| name.as_str()));
                }
                Command::From(from) => {
                    let watched = Watched {
                        variables: &variables,
                        budget: &budget,
                        missed: RefCell::default(),
                    };
                    for word in [Some(&from.base), from.platform.as_ref()].into_iter().flatten() {
                        // What cannot be expanded is told as an error.
                        let _ = expander.word(word, &watched);
                    }
                    for name in watched.missed.take() {
                        if !declared.contains(name.as_str())
                            && self.wants(&UNDEFINED_ARG_IN_FROM, instruction.lines)
                        {
                            let known = declared.iter().copied();
                            let known = known.chain(variables.keys().map(String::as_str));
                            self.undeclared(instruction, &name, nearest(&name, known));
                        }
                    }
                    let defaults = Within { variables: &defaults, budget: &budget };
                    self.default_base(instruction, from, expander, &defaults, &stages, options);
                    self.pinned(instruction, from);
                    stages.insert(from.name.as_deref().unwrap_or_default());
                }
                _ => {}
            }
        }
    }

    fn undeclared(&self, instruction: &Instruction, name: &str, near: Option<&str>) {
        let mut message = format!("the variable '{name}' in FROM is not declared");
        if let Some(near) = near {
            message += &format!(" (did you mean {near}?)");
        }
        let (braced, plain) = (format!("${{{name}"), format!("${name}"));
        let about = [braced.as_str(), plain.as_str()];
        self.report(&UNDEFINED_ARG_IN_FROM, instruction.lines, about, message);
    }

    /// Without build arguments, FROM should name an image all the same.
    fn default_base(
        &self,
        instruction: &Instruction,
        from: &From,
        expander: Expander,
        defaults: &Within<'_>,
        stages: &BTreeSet<&str>,
        options: &Options,
    ) {
        if !from.base.contains('$') {
            return;
        }
        let base = expander.word(&from.base, defaults).unwrap_or_default();
        let lower = base.to_lowercase();
        let known = stages.contains(lower.as_str()) || options.contexts.contains_key(&lower);
        if !known && Reference::parse(&base).is_err() {
            let written = &from.base;
            let message =
                format!("with the defaults of its ARGs, {written} is no name of a base image");
            let about = [written.as_str()];
            self.report(&INVALID_DEFAULT_ARG_IN_FROM, instruction.lines, about, message);
        }
    }

    /// The platform that a FROM asks for.
    fn pinned(&self, instruction: &Instruction, from: &From) {
        let Some(platform) = &from.platform else { return };
        let lines = instruction.lines;
        if matches!(platform.as_str(), "$TARGETPLATFORM" | "${TARGETPLATFORM}") {
            let message = format!("the platform {platform} in FROM is what it is anyway");
            self.report(&REDUNDANT_TARGET_PLATFORM, lines, [platform.as_str()], message);
            return;
        }
        let name = from.name.as_deref().unwrap_or_default();
        let meant = platform.split('/').take(2).any(|part| !part.is_empty() && name.contains(part));
        if !platform.contains('$') && !meant {
            let message = format!("the platform of FROM should not be the constant \"{platform}\"");
            let about = [platform.as_str()];
            self.report(&FROM_PLATFORM_FLAG_CONST_DISALLOWED, lines, about, message);
        }
    }
}
