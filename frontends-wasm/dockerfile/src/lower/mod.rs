//! Lowering: a parsed Dockerfile becomes ops and an image config, for one platform.
//!
//! [`lower`] makes the needed stages in the file's order. `stage` has the state of one stage and
//! its bases, `meta` the instructions that only change the config, `run` and `mounts` RUN,
//! `copy` and `remote` COPY and ADD, `names` what the progress display shows. The ops themselves
//! are put into BuildKit's form by the host.

mod copy;
mod environment;
mod meta;
pub(crate) mod mounts;
mod names;
pub(crate) mod remote;
mod run;
mod stage;
mod watch;

pub(crate) use stage::json_list;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use cofferdam_sdk::{Host, Platform, SourceRange};
use serde_json::Value;

use crate::checks::Checks;
use crate::error::{Errors, Lines, Located, MOST_PROBLEMS, Problem};
use crate::options::Options;
use crate::parse::Dockerfile;
use crate::probe::Images;
use crate::stages::Stages;
use crate::words::{Budget, Expander};
use stage::State;

/// What [`lower`] works on.
#[derive(Clone, Debug)]
pub struct Input<'a, O> {
    /// The file.
    pub dockerfile: &'a Dockerfile,
    /// What the request asks for.
    pub options: &'a Options,
    /// The platform to build for.
    pub target: &'a Platform,
    /// The platform of the machine that the build runs on.
    pub build: &'a Platform,
    /// Whether the names of ops say the platform.
    pub name_platforms: bool,
    /// The main build context.
    pub context: Option<O>,
    /// Patterns to leave out of the local directories that are named contexts.
    pub ignored: &'a BTreeMap<String, Vec<String>>,
    /// What the host said about images so far.
    pub images: &'a Images,
    /// Where what is likely to be wrong is reported.
    pub checks: Option<&'a Checks<'a>>,
    /// Which stages are looked at.
    pub scope: Scope,
    /// Number of the Dockerfile among the host's source files.
    pub source: Option<u32>,
}

/// Which stages of a file are lowered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Those that the target needs.
    #[default]
    Target,
    /// All.
    Everything,
}

/// What comes out.
#[derive(Clone, Debug)]
pub struct Lowered<O> {
    /// The tree; `None` is an empty one.
    pub output: Option<O>,
    /// The image config.
    pub config: Value,
    /// Which paths of the main context are used.
    pub context_paths: ContextPaths,
}

/// Paths of the main context that instructions use; they may have wildcards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContextPaths(BTreeSet<String>);

impl ContextPaths {
    /// Notes a path.
    pub fn add(&mut self, path: &str) {
        self.0.insert(crate::path::inside(path));
    }

    /// Adds another set.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Whether the context is not used at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The paths without the slash in front; `None` when everything is needed.
    pub fn follow(&self) -> Option<Vec<&str>> {
        let relative = |path: &'_ String| path.len() > 1;
        let all = self.0.iter().all(relative);
        all.then(|| self.0.iter().map(|path| path.trim_start_matches('/')).collect())
    }
}

/// Lowers a Dockerfile.
///
/// # Errors
/// Everything that is wrong with it, as far as it was looked at.
pub fn lower<H: Host>(
    host: &H,
    input: &Input<'_, H::Output>,
) -> Result<Lowered<H::Output>, Vec<Located>> {
    let stages = Stages::new(input.dockerfile, input.options, input.target, input.build)?;
    let target = stages.target(input.options.target.as_deref())?;
    let needed = match input.scope {
        Scope::Target => stages.needed([target])?,
        Scope::Everything => stages.needed(0..stages.stages.len())?,
    };
    let name_stages = names::shows_stages(&stages);
    let mut lowering = Lowering {
        host,
        input,
        expander: Expander::new(input.dockerfile.directives.escape),
        done: BTreeMap::new(),
        outputs: BTreeMap::new(),
        left: BTreeMap::from([(target, 1)]),
        seen_needed: needed,
        others: BTreeMap::new(),
        context_paths: ContextPaths::default(),
        name_stages,
        budget: Rc::default(),
        stages: &stages,
    };
    let mut state = lowering.all(target)?;
    for (name, value) in &input.options.labels {
        state.image.insert("Labels", name, value.as_str());
    }
    let asked = input.options.platform_is_given.then_some(input.target);
    state.image.finish(asked);
    Ok(Lowered {
        output: state.output,
        config: state.image.to_json(),
        context_paths: lowering.context_paths,
    })
}

/// The lowering of one file for one platform.
struct Lowering<'a, H: Host> {
    host: &'a H,
    input: &'a Input<'a, H::Output>,
    expander: Expander,
    stages: &'a Stages,
    /// The states of stages that others are going to be built on, and of the target.
    done: BTreeMap<usize, State<H::Output>>,
    /// What each stage that is done made.
    outputs: BTreeMap<usize, Option<H::Output>>,
    /// How many are going to be built on each stage.
    left: BTreeMap<usize, usize>,
    /// The stages that are lowered.
    seen_needed: BTreeSet<usize>,
    /// Images and contexts that are only copied from or mounted.
    others: BTreeMap<String, Option<H::Output>>,
    context_paths: ContextPaths,
    name_stages: bool,
    /// What there is for the values of variables.
    budget: Rc<Budget>,
}

impl<H: Host> Lowering<'_, H> {
    /// Lowers all needed stages; gives the state of the target.
    fn all(&mut self, target: usize) -> Result<State<H::Output>, Vec<Located>> {
        let needed: Vec<usize> = self.seen_needed.iter().copied().collect();
        needed.iter().for_each(|index| self.expect(*index));
        let mut problems = Vec::new();
        for index in needed {
            let Err(found) = self.stage(index) else { continue };
            problems.extend(found);
            if problems.len() > MOST_PROBLEMS || stage::asked_in_vain(&problems) {
                break;
            }
        }
        // What only follows from another problem is not told.
        problems.retain(|located| located.problem != Problem::Base);
        match self.done.remove(&target) {
            Some(state) if problems.is_empty() => Ok(state),
            _ => Err(problems),
        }
    }

    /// The main build context, of which `path` is used.
    fn context(&mut self, path: &str) -> Result<H::Output, Problem> {
        self.context_paths.add(path);
        self.input.context.clone().ok_or_else(|| {
            Problem::Unsupported("using files in a build without a build context".into())
        })
    }

    /// The source ranges of an op.
    fn locations(&self, lines: Lines) -> Vec<SourceRange> {
        let range = |source| SourceRange::lines(source, lines.start, lines.end);
        self.input.source.map(range).into_iter().collect()
    }
}

impl From<Problem> for Vec<Located> {
    fn from(problem: Problem) -> Self {
        vec![problem.into()]
    }
}

impl Errors {
    /// Joins what [`crate::parse::parse`] or [`lower`] found.
    pub fn in_file(filename: &str, source: &str, problems: impl Into<Vec<Located>>) -> Self {
        Self::new(filename, source, problems.into())
    }
}
