//! The stages of a Dockerfile: which there are, what each is built on, and which ones a target
//! needs.

use std::collections::{BTreeMap, BTreeSet};

use cofferdam_sdk::Platform;

use crate::command::{Command, From, Instruction};
use crate::epoch;
use crate::error::{Located, MOST_PROBLEMS, Problem};
use crate::lower::mounts;
use crate::options::Options;
use crate::parse::Dockerfile;
use crate::words::{Budget, Expander, Variables, Within};

/// A stage, with the variables of its FROM expanded.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Its name, in lower case.
    pub name: Option<String>,
    /// What it is built on.
    pub base: Base,
    /// The platform that its FROM asks for.
    pub platform: Option<Platform>,
    /// The named context that stands for all of it.
    pub context: Option<String>,
    /// The FROM itself.
    pub from: Instruction,
    /// What follows it.
    pub instructions: Vec<Instruction>,
}

/// What a stage is built on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Base {
    /// An earlier stage, by number.
    Stage(usize),
    /// An image, a named context or `scratch`.
    Named(String),
}

/// All stages of a file.
#[derive(Clone, Debug)]
pub struct Stages {
    /// In the file's order.
    pub stages: Vec<Stage>,
    /// The variables declared before the first FROM, and the predefined ones.
    pub globals: BTreeMap<String, String>,
    /// The numbers of the stages that have a name, in order.
    by_name: BTreeMap<String, Vec<usize>>,
}

impl Stages {
    /// Finds the stages and expands their FROMs.
    ///
    /// # Errors
    /// When a FROM cannot be expanded.
    pub fn new(
        dockerfile: &Dockerfile,
        options: &Options,
        target: &Platform,
        build: &Platform,
    ) -> Result<Self, Vec<Located>> {
        let expander = Expander::new(dockerfile.directives.escape);
        let (globals, mut problems) = globals(dockerfile, options, target, build);
        let mut stages: Vec<Stage> = Vec::new();
        let mut names = BTreeMap::new();
        let budget = Budget::default();
        let variables = Within { variables: &globals, budget: &budget };
        for instruction in &dockerfile.instructions {
            match (&instruction.command, stages.last_mut()) {
                (Command::From(from), _) => {
                    match stage(from, instruction, &names, &variables, expander, build) {
                        Ok(mut stage) => {
                            names.extend(stage.name.clone().map(|name| (name, stages.len())));
                            let platform = stage.platform.as_ref().unwrap_or(target);
                            let name = stage.name.as_deref();
                            let context = name.and_then(|name| options.context(name, platform));
                            stage.context = context.map(str::to_owned);
                            stages.push(stage);
                        }
                        Err(problem) => problems.push(problem.at(instruction.lines)),
                    }
                }
                (_, Some(stage)) => stage.instructions.push(instruction.clone()),
                (_, None) => {}
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut by_name: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (index, stage) in stages.iter().enumerate() {
            if let Some(name) = &stage.name {
                by_name.entry(name.clone()).or_default().push(index);
            }
        }
        Ok(Self { stages, globals, by_name })
    }

    /// The number of the stage that a request asks for.
    ///
    /// # Errors
    /// When there is no such stage.
    pub fn target(&self, name: Option<&str>) -> Result<usize, Problem> {
        match name {
            None => Ok(self.stages.len() - 1),
            Some(name) => self.find(name).ok_or_else(|| match name.parse::<usize>() {
                Ok(_) => Problem::invalid("target", name, "the name of a stage, not its number"),
                Err(_) => Problem::unknown_stage(name, self.names()),
            }),
        }
    }

    /// The last stage with a name.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(&name.to_lowercase())?.last().copied()
    }

    /// The stage that an instruction of the stage `within` names, by name or number; `None` when
    /// the name is that of something else.
    ///
    /// # Errors
    /// When the stage does not exist or is not built yet.
    pub fn referred(&self, name: &str, within: usize) -> Result<Option<usize>, Problem> {
        let index = match name.parse::<usize>() {
            Ok(index) if index >= self.stages.len() => {
                return Err(Problem::unknown_stage(name, self.names()));
            }
            Ok(index) => Some(index),
            Err(_) => {
                let named = self.by_name.get(&name.to_lowercase()).map_or(&[][..], Vec::as_slice);
                let earlier = named.partition_point(|index| *index < within);
                named[..earlier].last().or_else(|| named.first()).copied()
            }
        };
        match index {
            Some(index) if index >= within => Err(Problem::LaterStage { name: name.into() }),
            index => Ok(index),
        }
    }

    /// All names of stages.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.stages.iter().filter_map(|stage| stage.name.as_deref())
    }

    /// What the progress display calls a stage.
    pub fn display_name(&self, index: usize) -> String {
        self.stages[index].name.clone().unwrap_or_else(|| format!("stage-{index}"))
    }

    /// The stages that `targets` need, themselves included, in the file's order.
    ///
    /// # Errors
    /// When an instruction of one of them names a stage that does not exist.
    pub fn needed(
        &self,
        targets: impl IntoIterator<Item = usize>,
    ) -> Result<BTreeSet<usize>, Vec<Located>> {
        let mut needed = BTreeSet::new();
        let mut open: Vec<usize> = targets.into_iter().collect();
        let mut problems = Vec::new();
        while let Some(index) = open.pop() {
            if problems.len() > MOST_PROBLEMS {
                break;
            }
            if !needed.insert(index) {
                continue;
            }
            let stage = &self.stages[index];
            if stage.context.is_some() {
                continue;
            }
            if let Base::Stage(base) = stage.base {
                open.push(base);
            }
            for instruction in &stage.instructions {
                for name in sources(&instruction.command) {
                    match self.referred(&name, index) {
                        Ok(source) => open.extend(source),
                        Err(problem) => problems.push(problem.at(instruction.lines)),
                    }
                }
            }
        }
        if problems.is_empty() { Ok(needed) } else { Err(problems) }
    }
}

/// The trees that an instruction names as sources.
fn sources(command: &Command) -> Vec<String> {
    match command {
        Command::Copy(copy) => copy.from.iter().cloned().collect(),
        Command::Run(run) => run.mounts.iter().filter_map(|mount| mounts::source(mount)).collect(),
        _ => Vec::new(),
    }
}

/// The variables that exist in FROM: the predefined ones, and the ARGs before the first FROM;
/// with what is wrong with those.
pub(crate) fn globals(
    dockerfile: &Dockerfile,
    options: &Options,
    target: &Platform,
    build: &Platform,
) -> (BTreeMap<String, String>, Vec<Located>) {
    let expander = Expander::new(dockerfile.directives.escape);
    let last = dockerfile.instructions.iter().rev().find_map(|instruction| {
        let Command::From(from) = &instruction.command else { return None };
        Some(from.name.as_deref())
    });
    let mut globals = predefined(options, last.flatten(), target, build);
    let budget = Budget::default();
    let mut problems = Vec::new();
    for instruction in &dockerfile.instructions {
        let Command::Arg(arguments) = &instruction.command else { break };
        for (name, default) in arguments {
            let value = match (options.build_args.get(name), default) {
                (Some(value), _) => Ok(Some(value.clone())),
                (None, Some(word)) => {
                    let variables = Within { variables: &globals, budget: &budget };
                    expander.word(word, &variables).map(Some)
                }
                (None, None) => Ok(None),
            };
            match value {
                Ok(Some(value)) => {
                    globals.insert(name.clone(), value);
                }
                Ok(None) => {}
                Err(problem) => problems.push(problem.at(instruction.lines)),
            }
        }
    }
    if let (Some(settled), Some(value)) = (&options.declared_epoch, globals.get_mut(epoch::NAME)) {
        value.clone_from(settled);
    }
    (globals, problems)
}

fn stage(
    from: &From,
    instruction: &Instruction,
    earlier: &BTreeMap<String, usize>,
    globals: &dyn Variables,
    expander: Expander,
    build: &Platform,
) -> Result<Stage, Problem> {
    let base = expander.word(&from.base, globals)?;
    if base.is_empty() {
        let expected = "an image or stage; a variable in it may not be set";
        return Err(Problem::invalid("base", &from.base, expected));
    }
    let platform = match &from.platform {
        Some(word) => {
            let text = expander.word(word, globals)?;
            if text.is_empty() {
                let expected = "`os/architecture`; a variable in it may not be set";
                return Err(Problem::invalid("--platform", word, expected));
            }
            Some(platform(&text, build)?)
        }
        None => None,
    };
    let index = earlier.get(&base.to_lowercase()).copied();
    Ok(Stage {
        name: from.name.clone(),
        base: index.map_or(Base::Named(base), Base::Stage),
        platform,
        context: None,
        from: instruction.clone(),
        instructions: Vec::new(),
    })
}

/// Reads a platform; one without an operating system or architecture has those of the build.
fn platform(text: &str, build: &Platform) -> Result<Platform, Problem> {
    let full = match text.contains('/') {
        true => text.to_owned(),
        false => match text {
            "linux" | "windows" | "darwin" | "wasi" | "freebsd" => {
                format!("{text}/{}", build.architecture)
            }
            _ => format!("{}/{text}", build.os),
        },
    };
    full.parse().map_err(|_| Problem::invalid("--platform", text, "`os/architecture[/variant]`"))
}

/// The arguments that exist without a declaration before the first FROM. `last` is the name of
/// the last stage.
fn predefined(
    options: &Options,
    last: Option<&str>,
    target: &Platform,
    build: &Platform,
) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    for (prefix, platform) in [("BUILD", build), ("TARGET", target)] {
        for (name, value) in [
            ("PLATFORM", platform.to_string()),
            ("OS", platform.os.clone()),
            ("OSVERSION", platform.os_version.clone()),
            ("ARCH", platform.architecture.clone()),
            ("VARIANT", platform.variant.clone()),
        ] {
            values.insert(format!("{prefix}{name}"), value);
        }
    }
    let stage = options.target.as_deref().or(last).unwrap_or("default");
    values.insert("TARGETSTAGE".into(), stage.into());
    for (name, value) in &mut values {
        if let Some(given) = options.build_args.get(name) {
            value.clone_from(given);
        }
    }
    values
}
