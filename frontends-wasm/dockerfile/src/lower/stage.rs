//! The state of a stage, what stages begin on, and the way of each instruction to its lowering.

use cofferdam_sdk::{Host, OpMetadata, Platform, ResolvedImage};

use super::Lowering;
use super::environment::Environment;
use super::names::{self, Names};
use super::watch::Seen;
use crate::command::{Command, Instruction};
use crate::error::{Located, MOST_PROBLEMS, Problem};
use crate::git::GitReference;
use crate::image::Image;
use crate::parse::parse_trigger;
use crate::reference::{Reference, familiar};
use crate::stages::Base;
use crate::suggest::nearest;
use crate::words::Expander;

/// What is true after an instruction.
#[derive(Clone, Debug)]
pub(super) struct State<O> {
    /// Number of the stage.
    pub index: usize,
    /// The tree; `None` is an empty one.
    pub output: Option<O>,
    /// The image config.
    pub image: Image,
    /// The platform that steps run on.
    pub platform: Platform,
    /// The variables of steps.
    pub env: Environment,
    /// The working directory.
    pub cwd: String,
    /// Arguments that were declared, for the history.
    pub arguments: Vec<(String, Option<String>)>,
    /// Whether this stage has set CMD.
    pub has_cmd: bool,
    /// Names of ops.
    pub names: Names,
    /// Whether steps run without looking at the cache.
    pub ignore_cache: bool,
    /// What the checks remember.
    pub seen: Seen,
}

/// The tree and image that a name stands for.
struct Found<O> {
    output: Option<O>,
    image: Image,
    platform: Platform,
}

impl<O> Found<O> {
    fn scratch(platform: &Platform) -> Self {
        Self { output: None, image: Image::scratch(platform), platform: platform.clone() }
    }
}

impl<O> State<O> {
    /// Metadata of the op of an instruction.
    pub fn metadata<H: Host<Output = O>>(
        &self,
        lowering: &Lowering<'_, H>,
        instruction: &Instruction,
        name: String,
    ) -> OpMetadata {
        OpMetadata {
            name: Some(name),
            ignore_cache: self.ignore_cache,
            description: Vec::new(),
            locations: lowering.locations(instruction.lines),
        }
    }

    /// Expands a word with the stage's variables.
    pub fn expand(&self, expander: Expander, word: &str) -> Result<String, Problem> {
        expander.word(word, &self.env)
    }
}

impl<H: Host> Lowering<'_, H> {
    /// Lowers a stage whose needed stages are done.
    pub(super) fn stage(&mut self, index: usize) -> Result<(), Vec<Located>> {
        if self.outputs.contains_key(&index) {
            return Ok(());
        }
        let stages = self.stages;
        let stage = &stages.stages[index];
        let at_from = |problem: Problem| vec![problem.at(stage.from.lines)];
        let mut state = self.begin(index).map_err(at_from)?;
        if stage.context.is_some() {
            self.finish(index, state);
            return Ok(());
        }
        let triggers = state.image.list("OnBuild");
        state.image.set("OnBuild", Vec::<String>::new());
        state.names.add_steps(trigger_steps(&triggers));
        for text in triggers {
            let mut trigger = parse_trigger(&text).map_err(at_from)?;
            trigger.lines = stage.from.lines;
            trigger.text = format!("ONBUILD {}", trigger.text);
            self.instruction(&mut state, &trigger)?;
        }
        state.env.take_missed();
        let mut problems = Vec::new();
        for instruction in &stage.instructions {
            self.watch(&mut state, instruction);
            let result = self.instruction(&mut state, instruction);
            self.watch_missed(&state, instruction);
            let Err(found) = result else { continue };
            problems.extend(found);
            // What follows may fail of the variables that this one did not set.
            let sets = matches!(instruction.command, Command::Arg(_) | Command::Env(_));
            if sets || problems.len() > MOST_PROBLEMS || asked_in_vain(&problems) {
                break;
            }
        }
        self.finish(index, state);
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// Keeps what is needed of a stage.
    fn finish(&mut self, index: usize, state: State<H::Output>) {
        self.outputs.insert(index, state.output.clone());
        if self.left.contains_key(&index) {
            self.done.insert(index, state);
        }
    }

    /// What a stage on another begins with. The last one takes it, so that a long chain of stages
    /// is not copied again and again.
    fn take(&mut self, base: usize) -> Option<State<H::Output>> {
        match self.left.get_mut(&base) {
            Some(left) if *left > 1 => {
                *left -= 1;
                self.done.get(&base).cloned()
            }
            _ => {
                self.left.remove(&base);
                self.done.remove(&base)
            }
        }
    }

    /// Notes that a stage is going to be built on its base.
    pub(super) fn expect(&mut self, index: usize) {
        let stage = &self.stages.stages[index];
        if let (Base::Stage(base), None) = (&stage.base, &stage.context) {
            *self.left.entry(*base).or_default() += 1;
        }
    }

    fn instruction(
        &mut self,
        state: &mut State<H::Output>,
        instruction: &Instruction,
    ) -> Result<(), Vec<Located>> {
        if instruction.spec.step {
            state.names.advance();
        }
        let result = match &instruction.command {
            Command::Run(run) => self.run(state, instruction, run),
            Command::Copy(copy) => self.copy(state, instruction, copy),
            Command::Workdir(path) => self.workdir(state, instruction, path),
            _ => self.meta(state, instruction),
        };
        result.map_err(|problem| vec![problem.at(instruction.lines)])
    }

    /// The state after FROM.
    fn begin(&mut self, index: usize) -> Result<State<H::Output>, Problem> {
        let stages = self.stages;
        let stage = &stages.stages[index];
        let shown_stage = if self.name_stages { stages.display_name(index) } else { String::new() };
        let total = match &stage.context {
            None => names::count(&stage.base, &stage.instructions),
            Some(_) => 0,
        };
        let ignore_cache = self.input.options.ignores_cache(&stages.display_name(index));
        let platform = stage.platform.as_ref().unwrap_or(self.input.target).clone();
        let prefix = |platform: &Platform| match self.input.name_platforms {
            true => names::platform(platform, self.input.target),
            false => String::new(),
        };
        if let (Base::Stage(base), None) = (&stage.base, &stage.context) {
            let Some(mut state) = self.take(*base) else { return Err(Problem::Base) };
            state.index = index;
            state.has_cmd = false;
            state.seen = state.seen.inherited();
            state.names = Names::new(&prefix(&state.platform), &shown_stage, total);
            state.ignore_cache = ignore_cache;
            return Ok(state);
        }
        let name = match (&stage.base, &stage.name) {
            (Base::Named(name), _) => name,
            // Only a stage with a name can be replaced.
            (Base::Stage(_), name) => name.as_ref().expect("a replaced stage has a name"),
        };
        let mut names = Names::new(&prefix(&platform), &shown_stage, total);
        if total > 0 && name != "scratch" {
            names.advance();
        }
        let metadata = |text: String, image: &Image| {
            let mut names = names.clone();
            names.add_steps(trigger_steps(&image.list("OnBuild")));
            OpMetadata {
                name: Some(names.name(&text)),
                ignore_cache: false,
                description: vec![(
                    "com.docker.dockerfile.v1.command".into(),
                    names::uppercase(&stage.from.text),
                )],
                locations: self.locations(stage.from.lines),
            }
        };
        let found = match &stage.context {
            Some(given) => {
                let name = stage.name.as_deref().unwrap_or(name);
                self.given(name, given, &platform, metadata)
            }
            None => self.named(name, &platform, metadata),
        };
        let found = found.map_err(|problem| self.perhaps_stage(problem, name))?;
        if name != "scratch" && stage.context.is_none() {
            self.watch_base(stage, name, &platform, &found.image.platform());
        }
        if found.output.is_none() && name != "scratch" {
            // An image without layers has no op, and its name is not used up.
            names = Names::new(&prefix(&platform), &shown_stage, total);
        }
        let mut state = State {
            index,
            output: found.output,
            env: Environment::new(found.image.env(), self.budget.clone()),
            cwd: "/".into(),
            image: found.image,
            platform: found.platform,
            arguments: Vec::new(),
            has_cmd: false,
            names,
            ignore_cache,
            seen: Seen::default(),
        };
        let workdir = state.image.text("WorkingDir").to_owned();
        if !workdir.is_empty() {
            state.cwd = super::meta::working_directory("/", &workdir);
            state.image.set("WorkingDir", state.cwd.as_str());
        }
        Ok(state)
    }

    /// The tree that COPY or a mount of the stage `within` names.
    pub(super) fn source_tree(
        &mut self,
        within: usize,
        name: &str,
    ) -> Result<Option<H::Output>, Problem> {
        if name.contains('$') {
            let expected = "a name without variables; name a stage with `FROM … AS` instead";
            return Err(Problem::invalid("source", name, expected));
        }
        if let Some(index) = self.stages.referred(name, within)? {
            if let Some(output) = self.outputs.get(&index) {
                return Ok(output.clone());
            }
            if self.seen_needed.contains(&index) {
                return Err(Problem::Base);
            }
            // Only a trigger of a base image names a stage that was not seen to be needed. What
            // it is built on may be given away already, and is made once more.
            let needed = self.stages.needed([index]).map_err(first)?;
            for &stage in &needed {
                self.expect(stage);
                self.outputs.remove(&stage);
            }
            for stage in needed {
                self.stage(stage).map_err(first)?;
            }
            return Ok(self.outputs.get(&index).cloned().flatten());
        }
        if let Some(known) = self.others.get(name) {
            return Ok(known.clone());
        }
        let target = self.input.target.clone();
        let metadata = |text: String, _: &Image| OpMetadata {
            description: vec![("com.docker.dockerfile.v1.command".into(), String::new())],
            ..OpMetadata::named(text)
        };
        let found = self
            .named(name, &target, metadata)
            .map_err(|problem| self.perhaps_stage(problem, name))?;
        self.others.insert(name.into(), found.output.clone());
        Ok(found.output)
    }

    /// Suggests a stage where the host does not find what `name` stands for.
    fn perhaps_stage(&self, problem: Problem, name: &str) -> Problem {
        match (problem, nearest(name, self.stages.names())) {
            // A registry that cannot be asked is no reason to keep quiet about a misspelling.
            (Problem::Host(error), Some(stage)) => {
                let nearest = Some(stage.to_owned());
                let (name, reason) = (name.to_owned(), error.to_string());
                Problem::UnknownSource { name, reason, nearest }
            }
            (problem, _) => problem,
        }
    }

    /// What a name stands for that is no stage: a named context, `scratch` or an image.
    fn named(
        &self,
        name: &str,
        platform: &Platform,
        metadata: impl Fn(String, &Image) -> OpMetadata,
    ) -> Result<Found<H::Output>, Problem> {
        if name == "scratch" {
            return Ok(Found::scratch(platform));
        }
        match self.input.options.context(name, platform) {
            Some(given) => self.given(name, given, platform, metadata),
            None => self.image(name, platform, metadata),
        }
    }

    /// What the named context `name` is, given as `given`.
    fn given(
        &self,
        name: &str,
        given: &str,
        platform: &Platform,
        metadata: impl Fn(String, &Image) -> OpMetadata,
    ) -> Result<Found<H::Output>, Problem> {
        let scratch = || Found::scratch(platform);
        if let Some(git) = GitReference::parse(given)? {
            let metadata = OpMetadata::named(format!("[internal] load git source {given}"));
            let output = self.host.source(&git.identifier(), &git.attributes(), None, &metadata)?;
            return Ok(Found { output: Some(output), ..scratch() });
        }
        let (scheme, rest) = given.split_once(':').unwrap_or((given, ""));
        match scheme {
            "scratch" => Ok(scratch()),
            "docker-image" if familiar(rest.trim_start_matches("//")) == "scratch" => Ok(scratch()),
            "docker-image" => self.image(rest.trim_start_matches("//"), platform, metadata),
            "http" | "https" => {
                let attributes = [("http.filename".to_owned(), "context".to_owned())];
                let metadata = OpMetadata::named(format!("[context {name}] {given}"));
                let output = self.host.source(given, &attributes, None, &metadata)?;
                Ok(Found { output: Some(output), ..scratch() })
            }
            "oci-layout" => {
                let image = self.resolve(given, platform)?;
                let place = rest.trim_start_matches("//");
                let place = place.split('@').next().unwrap_or(place);
                let identifier = format!("oci-layout://{place}@{}", image.digest);
                self.image_source(given, &identifier, &image, platform, metadata)
            }
            "local" => {
                let mut attributes = vec![("local.sharedkeyhint".to_owned(), rest.to_owned())];
                if let Some(patterns) = self.input.ignored.get(rest).filter(|list| !list.is_empty())
                {
                    attributes.push(("local.excludepatterns".into(), json_list(patterns)));
                }
                let name = format!("[context {name}] load from client");
                let output = self.host.source(
                    &format!("local://{rest}"),
                    &attributes,
                    None,
                    &OpMetadata::named(name),
                )?;
                Ok(Found { output: Some(output), ..scratch() })
            }
            "input" => {
                let output = self.host.named_input(rest)?;
                Ok(Found { output, ..scratch() })
            }
            _ => Err(Problem::Unsupported(format!("the named context `{given}`"))),
        }
    }

    fn image(
        &self,
        text: &str,
        platform: &Platform,
        metadata: impl Fn(String, &Image) -> OpMetadata,
    ) -> Result<Found<H::Output>, Problem> {
        let mut reference = Reference::parse(text)?;
        let image = self.resolve(&reference.to_string(), platform)?;
        reference.digest = Some(image.digest.clone());
        let identifier = format!("docker-image://{reference}");
        self.image_source(&reference.to_string(), &identifier, &image, platform, metadata)
    }

    fn resolve(&self, reference: &str, platform: &Platform) -> Result<ResolvedImage, Problem> {
        let name = match self.input.name_platforms {
            true => format!("[{platform} internal] load metadata for {reference}"),
            false => format!("[internal] load metadata for {reference}"),
        };
        let mode = self.input.options.resolve_mode;
        let images = self.input.images;
        Ok(images.resolve(self.host, reference, Some(platform), mode, &name)?)
    }

    fn image_source(
        &self,
        shown: &str,
        identifier: &str,
        resolved: &ResolvedImage,
        platform: &Platform,
        metadata: impl Fn(String, &Image) -> OpMetadata,
    ) -> Result<Found<H::Output>, Problem> {
        let image = Image::parse(shown, &resolved.config, platform)?;
        let output = match image.has_no_layers() {
            true => None,
            false => {
                let mode = match self.input.options.resolve_mode {
                    cofferdam_sdk::ResolveMode::Default => None,
                    cofferdam_sdk::ResolveMode::Pull => Some("pull"),
                    cofferdam_sdk::ResolveMode::Local => Some("local"),
                };
                let attributes: Vec<_> = mode
                    .filter(|_| identifier.starts_with("docker-image:"))
                    .map(|mode| ("image.resolvemode".to_owned(), mode.to_owned()))
                    .into_iter()
                    .collect();
                let metadata = metadata(format!("FROM {shown}"), &image);
                Some(self.host.source(identifier, &attributes, Some(platform), &metadata)?)
            }
        };
        Ok(Found { output, image, platform: platform.clone() })
    }
}

/// Whether the host could not answer: asking on would only make everybody wait.
pub(super) fn asked_in_vain(problems: &[Located]) -> bool {
    problems
        .iter()
        .any(|located| matches!(located.problem, Problem::Host(_) | Problem::UnknownSource { .. }))
}

/// How many of a base image's triggers are steps.
fn trigger_steps(triggers: &[String]) -> usize {
    let spec = |text: &String| crate::instruction::find(text.split_whitespace().next()?);
    triggers.iter().filter_map(spec).filter(|spec| spec.step).count()
}

fn first(mut problems: Vec<Located>) -> Problem {
    problems.swap_remove(0).problem
}

/// A list of texts as JSON, the form of attributes of sources.
pub(crate) fn json_list<T: AsRef<str>>(list: &[T]) -> String {
    let texts: Vec<&str> = list.iter().map(AsRef::as_ref).collect();
    serde_json::Value::from(texts).to_string()
}
