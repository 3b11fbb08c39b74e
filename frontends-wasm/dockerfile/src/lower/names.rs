//! What the progress display calls the ops: `[build 2/3] RUN make`.

use cofferdam_sdk::Platform;

use crate::command::{Command, Instruction};
use crate::stages::{Base, Stages};
use crate::words::{Expander, Variables};

/// Counts the steps of a stage and gives them names.
#[derive(Clone, Debug, Default)]
pub struct Names {
    prefix: String,
    step: usize,
    total: usize,
}

impl Names {
    /// Begins a stage: `platform` and `stage` are empty where the display does not show them.
    pub fn new(platform: &str, stage: &str, total: usize) -> Self {
        let words = [platform, stage].into_iter().filter(|word| !word.is_empty());
        let prefix = words.map(|word| format!("{word} ")).collect();
        Self { prefix, step: 0, total }
    }

    /// Counts one step more.
    pub fn advance(&mut self) {
        self.step += 1;
    }

    /// Adds steps that only the base image's triggers brought to light.
    pub fn add_steps(&mut self, steps: usize) {
        self.total += steps;
    }

    /// The name of the current step.
    pub fn name(&self, text: &str) -> String {
        if self.total == 0 {
            return text.into();
        }
        let width = self.total.to_string().len();
        format!("[{}{:width$}/{}] {text}", self.prefix, self.step, self.total)
    }
}

/// The text of an instruction as it is shown, variables expanded. That of RUN keeps its quotes
/// and the variables that only the shell knows.
pub fn text(instruction: &Instruction, expander: Expander, variables: &dyn Variables) -> String {
    let for_display = matches!(instruction.command, Command::Run(_));
    let expander = Expander { for_display, ..expander };
    let text = &instruction.text;
    uppercase(&expander.word(text, variables).unwrap_or_else(|_| text.clone()))
}

/// The text with the instruction's name in upper case.
pub fn uppercase(text: &str) -> String {
    match text.split_once(' ') {
        Some((word, rest)) => format!("{} {rest}", word.to_uppercase()),
        None => text.to_uppercase(),
    }
}

/// Whether names say which stage they belong to: there is more than one tree to build on, copy
/// from or mount.
pub fn shows_stages(stages: &Stages) -> bool {
    let other = |instruction: &Instruction| match &instruction.command {
        Command::Copy(copy) => copy.from.is_some(),
        Command::Run(run) => !run.mounts.is_empty(),
        _ => false,
    };
    stages.stages.len() > 1
        || stages.stages.iter().any(|stage| stage.instructions.iter().any(other))
}

/// How many steps the instructions are, the base image included.
pub fn count<'a>(base: &Base, instructions: impl IntoIterator<Item = &'a Instruction>) -> usize {
    let image = matches!(base, Base::Named(name) if name != "scratch");
    let steps = instructions.into_iter().filter(|instruction| instruction.spec.step).count();
    steps + usize::from(image)
}

/// A platform as names show it; of a cross build both.
pub fn platform(stage: &Platform, target: &Platform) -> String {
    if stage == target {
        return stage.to_string();
    }
    let target_text = target.to_string();
    let shown = match target_text.split_once('/') {
        Some((os, rest)) if os == stage.os => rest,
        _ => &target_text,
    };
    format!("{stage}->{shown}")
}
