//! A request from its beginning to its end: reads the Dockerfile and the ignore files, checks,
//! lowers for each platform, and puts the result together. What is asked instead of a build is
//! left to `subrequests`.

use std::collections::BTreeMap;

use cofferdam_sdk::{
    BuildError, BuildResult, Description, Frontend, Host, HostError, OpMetadata, Platform,
    PlatformResult, Request, Snapshot, Warning,
};
use serde_json::json;

use crate::checks::Checks;
use crate::context::remote;
use crate::directives::Directives;
use crate::epoch;
use crate::error::{Errors, Lines, Located, Problem};
use crate::ignore;
use crate::lower::{ContextPaths, Input, Scope, json_list, lower};
use crate::options::{OPTIONS, Options, truth};
use crate::parse::{self, Dockerfile};
use crate::path;
use crate::probe::{Images, Probe};
use crate::subrequests;

/// Under which key a result says its `SOURCE_DATE_EPOCH`, as in BuildKit.
const EPOCH_KEY: &str = "source.date.epoch";
/// A result with this key is one for several platforms, as in BuildKit.
const PLATFORMS_KEY: &str = "refs.platforms";
/// Build arguments of BuildKit's that nothing comes of, with the reason.
const WITHOUT_EFFECT: [(&str, &str); 4] = [
    ("BUILDKIT_INLINE_CACHE", "images do not carry a cache"),
    ("BUILDKIT_INLINE_BUILDINFO_ATTRS", "images do not carry build information"),
    ("BUILDKIT_ATTEST_SBOM", "attestations are not made"),
    ("BUILDKIT_ATTEST_PROVENANCE", "attestations are not made"),
];

/// The frontend for Dockerfiles.
#[derive(Clone, Copy, Debug)]
pub struct DockerfileFrontend;

impl Frontend for DockerfileFrontend {
    fn build<H: Host>(host: &H, request: &Request) -> Result<BuildResult<H::Output>, BuildError> {
        match request.subrequest.as_str() {
            "" => image(host, request),
            name => subrequests::answer(host, request, name),
        }
    }

    fn describe() -> Description {
        let owned = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
        Description {
            name: "dockerfile".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "Builds images from Dockerfiles, the language that Docker documents.".into(),
            options: OPTIONS.iter().map(owned).collect(),
            subrequests: subrequests::names().map(str::to_owned).collect(),
        }
    }
}

/// Builds the images that a request asks for.
fn image<H: Host>(host: &H, request: &Request) -> Result<BuildResult<H::Output>, BuildError> {
    let options = Options::new(request).map_err(outside)?;
    let files = Files::read(host, &options).map_err(outside)?;
    let source = files.register(host);
    build(host, request, &options, &files, source).map_err(|problems| {
        Errors::in_file(&files.name, &files.text, problems).into_build_error(Some(source))
    })
}

/// A problem that is in no file.
pub(crate) fn outside(problem: Problem) -> BuildError {
    Errors::in_file("", "", vec![Located::from(problem)]).into_build_error(None)
}

/// What is read before lowering.
pub(crate) struct Files {
    /// Path of the Dockerfile.
    pub name: String,
    /// The Dockerfile.
    pub text: String,
    /// The ignore file that belongs to the Dockerfile alone, if there is one.
    pub own_ignore: Option<String>,
}

/// An ignore file.
pub(crate) struct IgnoreFile {
    /// Its path.
    pub name: String,
    /// What it says; empty when it is not there.
    pub text: String,
}

impl Files {
    /// Reads them.
    pub fn read<H: Host>(host: &H, options: &Options) -> Result<Self, Problem> {
        let remote = match options.dockerfile_is_local {
            true => None,
            false => remote(host, options)?,
        };
        let name = remote.as_ref().map_or(&options.filename, |remote| &remote.dockerfile);
        let name = path::inside(name).trim_start_matches('/').to_owned();
        let own_ignore = format!("{name}.dockerignore");
        let lower_case = name.strip_suffix("Dockerfile").map(|start| format!("{start}dockerfile"));
        let mut wanted = vec![name.clone(), own_ignore.clone()];
        wanted.extend(lower_case.clone());
        let text = format!("[internal] load build definition from {name}");
        let tree = match remote {
            Some(remote) => host.solve(&remote.output)?,
            None => local(host, &options.dockerfile_key, &wanted, &text)?,
        };
        let (name, data) = match (read(&tree, &name)?, lower_case) {
            (Some(data), _) => (name, data),
            (None, Some(lower_case)) => match read(&tree, &lower_case)? {
                Some(data) => (lower_case, data),
                None => return Err(missing(&name)),
            },
            (None, None) => return Err(missing(&name)),
        };
        let text = String::from_utf8(data)
            .map_err(|_| Problem::invalid("Dockerfile", &name, "a file in UTF-8"))?;
        let own_ignore = read(&tree, &own_ignore)?;
        let own_ignore = own_ignore.map(|data| String::from_utf8_lossy(&data).into_owned());
        Ok(Self { name, text, own_ignore })
    }

    /// Registers the Dockerfile as a source; gives its number.
    pub fn register<H: Host>(&self, host: &H) -> u32 {
        host.add_source(&self.name, "Dockerfile", self.text.as_bytes())
    }

    /// The ignore file of the main context.
    pub fn ignore_file<H: Host>(&self, host: &H, options: &Options) -> Result<IgnoreFile, Problem> {
        Ok(match &self.own_ignore {
            Some(text) => {
                IgnoreFile { name: format!("{}.dockerignore", self.name), text: text.clone() }
            }
            None => {
                let text = ignore_text(host, &options.context_key)?;
                IgnoreFile { name: ".dockerignore".into(), text }
            }
        })
    }
}

fn missing(name: &str) -> Problem {
    let message = format!("there is no Dockerfile `{name}`: expected it in the build context");
    Problem::Host(HostError::NotFound(message))
}

/// Refuses a request for another frontend.
fn syntax(options: &Options) -> Result<(), Problem> {
    let asked = options.build_args.get("BUILDKIT_SYNTAX");
    match asked.filter(|syntax| !syntax.is_empty() && !is_own_syntax(syntax)) {
        None => Ok(()),
        Some(syntax) => {
            let what = format!("the frontend `{syntax}` of the build argument BUILDKIT_SYNTAX");
            Err(Problem::Unsupported(what))
        }
    }
}

/// Says so where a directive asks for something that is not there.
fn directives(options: &Options, directives: &Directives, text: &str) -> Result<(), Vec<Located>> {
    // The build argument goes before the directive.
    if options.build_args.get("BUILDKIT_SYNTAX").is_some_and(|name| !name.is_empty()) {
        return Ok(syntax(options)?);
    }
    let Some(syntax) = directives.syntax.as_deref().filter(|syntax| !is_own_syntax(syntax)) else {
        return Ok(());
    };
    let at = text.lines().position(|line| line.contains("syntax")).unwrap_or(0);
    let at = u32::try_from(at + 1).unwrap_or(u32::MAX);
    let what = format!("the frontend `{syntax}` of the directive `syntax`");
    Err(vec![Problem::Unsupported(what).at(Lines { start: at, end: at })])
}

/// Whether a syntax directive names Docker's own frontend, whose language this one has.
fn is_own_syntax(syntax: &str) -> bool {
    let syntax = syntax.split_whitespace().next().unwrap_or_default();
    let name = syntax.strip_prefix("docker.io/").unwrap_or(syntax);
    let name = name.split('@').next().unwrap_or(name).split(':').next().unwrap_or(name);
    matches!(name, "dockerfile.v0" | "docker/dockerfile" | "docker/dockerfile-upstream")
}

/// Builds a small part of a local directory, to read from it.
fn local<H: Host>(
    host: &H,
    directory: &str,
    wanted: &[String],
    name: &str,
) -> Result<H::Snapshot, Problem> {
    let attributes = [
        ("local.followpaths".to_owned(), json_list(wanted)),
        ("local.sharedkeyhint".to_owned(), directory.to_owned()),
    ];
    let metadata = OpMetadata::named(name);
    let output = host.source(&format!("local://{directory}"), &attributes, None, &metadata)?;
    Ok(host.solve(&output)?)
}

/// Reads a file that need not exist.
fn read(tree: &impl Snapshot, path: &str) -> Result<Option<Vec<u8>>, Problem> {
    match tree.read_file(path) {
        Ok(data) => Ok(Some(data)),
        Err(HostError::NotFound(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The ignore file at the top of a local directory.
fn ignore_text<H: Host>(host: &H, directory: &str) -> Result<String, Problem> {
    let wanted = [".dockerignore".to_owned()];
    let tree = local(host, directory, &wanted, "[internal] load .dockerignore")?;
    let data = read(&tree, ".dockerignore")?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&data).into_owned())
}

/// What is found out before anything is made.
pub(crate) struct Survey {
    /// What the host said about images.
    images: Images,
    /// Patterns to leave out of the local directories that are named contexts.
    named: BTreeMap<String, Vec<String>>,
    /// Which files of the main context are needed.
    paths: ContextPaths,
    /// Patterns to leave out of the main context.
    ignored: Vec<String>,
}

impl Survey {
    /// Lowers a file without making anything. Which files of the context are needed is known
    /// only then, and lowering needs the context; and the checks watch it.
    pub fn new<H: Host>(
        host: &H,
        request: &Request,
        options: &Options,
        (files, dockerfile): (&Files, &Dockerfile),
        (checks, scope): (&Checks<'_>, Scope),
    ) -> Result<Self, Vec<Located>> {
        directives(options, &dockerfile.directives, &files.text)?;
        let mut survey = Self {
            images: Images::default(),
            named: BTreeMap::new(),
            paths: ContextPaths::default(),
            ignored: Vec::new(),
        };
        for context in options.contexts.values() {
            if let Some(directory) = context.strip_prefix("local:") {
                let patterns = ignore::parse(&ignore_text(host, directory)?);
                survey.named.insert(directory.to_owned(), patterns);
            }
        }
        for target in &request.platforms {
            checks.stages(dockerfile, options, target, &request.build_platform);
            let mut input = survey.input(request, options, dockerfile, target);
            (input.context, input.checks, input.scope) = (Some(()), Some(checks), scope);
            let paths = lower(&Probe(host), &input)?.context_paths;
            survey.paths.extend(paths);
        }
        // As in BuildKit, what comes from elsewhere comes as a whole.
        if !survey.paths.is_empty() && options.context.is_none() {
            survey.ignored = ignore::parse(&files.ignore_file(host, options)?.text);
            checks.ignored(&survey.ignored)?;
        }
        Ok(survey)
    }

    fn input<'a, O>(
        &'a self,
        request: &'a Request,
        options: &'a Options,
        dockerfile: &'a Dockerfile,
        target: &'a Platform,
    ) -> Input<'a, O> {
        Input {
            dockerfile,
            options,
            target,
            build: &request.build_platform,
            name_platforms: options.multi_platform,
            context: None,
            ignored: &self.named,
            images: &self.images,
            checks: None,
            scope: Scope::Target,
            source: None,
        }
    }
}

fn build<H: Host>(
    host: &H,
    request: &Request,
    options: &Options,
    files: &Files,
    source: u32,
) -> Result<BuildResult<H::Output>, Vec<Located>> {
    let dockerfile = parse::parse(&files.text)?;
    let checks = Checks::new(&files.text, &dockerfile, options)?;
    ignored(options).iter().for_each(|warning| host.warn(warning));
    let options =
        &epoch::settle(host, options, &dockerfile, (&request.platforms, &request.build_platform))?;
    let survey =
        Survey::new(host, request, options, (files, &dockerfile), (&checks, Scope::Target));
    // What is likely to be wrong may be why something is.
    checks.warnings(source).iter().for_each(|warning| host.warn(warning));
    let survey = survey?;
    checks.verdict()?;
    let context = match survey.paths.is_empty() {
        true => None,
        false => Some(context(host, options, &survey)?),
    };
    let mut results = Vec::new();
    for target in &request.platforms {
        let mut input = survey.input(request, options, &dockerfile, target);
        (input.context, input.source) = (context.clone(), Some(source));
        let lowered = lower(host, &input)?;
        results.push(PlatformResult {
            platform: target.clone(),
            output: lowered.output,
            config: lowered.config.to_string().into_bytes(),
        });
    }
    let metadata = [
        (EPOCH_KEY, options.epoch.map(|seconds| seconds.to_string())),
        (PLATFORMS_KEY, options.multi_platform.then(|| platforms(&request.platforms))),
    ];
    let metadata = metadata.into_iter().filter_map(|(key, value)| {
        let value = value?;
        Some((key.to_owned(), value.into_bytes()))
    });
    Ok(BuildResult { results, metadata: metadata.collect() })
}

/// What BuildKit's frontends say the platforms of a result with.
fn platforms(platforms: &[Platform]) -> String {
    let platforms: Vec<_> = platforms
        .iter()
        .map(|platform| {
            let mut parts = json!({"architecture": platform.architecture, "os": platform.os});
            for (name, value) in
                [("variant", &platform.variant), ("os.version", &platform.os_version)]
            {
                if !value.is_empty() {
                    parts[name] = value.as_str().into();
                }
            }
            json!({"ID": platform.to_string(), "Platform": parts})
        })
        .collect();
    json!({"Platforms": platforms}).to_string()
}

/// Warns of build arguments that ask for what there is not: a build that ran with them before goes
/// on running.
fn ignored(options: &Options) -> Vec<Warning> {
    let asks = |name: &str| {
        let given = options.build_args.get(name).filter(|text| !text.is_empty());
        given.is_some_and(|text| truth(text) != Some(false))
    };
    let arguments = WITHOUT_EFFECT.iter().filter(|(name, _)| asks(name));
    arguments
        .map(|(name, what)| Warning {
            short: format!("the build argument `{name}` has no effect: {what}"),
            detail: Vec::new(),
            url: String::new(),
            locations: Vec::new(),
        })
        .collect()
}

/// The main build context: only what is used of it, and not what is ignored.
fn context<H: Host>(host: &H, options: &Options, survey: &Survey) -> Result<H::Output, Problem> {
    if let Some(remote) = remote(host, options)? {
        return Ok(remote.output);
    }
    let directory = &options.context_key;
    let mut attributes = Vec::new();
    if !survey.ignored.is_empty() {
        attributes.push(("local.excludepatterns".to_owned(), json_list(&survey.ignored)));
    }
    if let Some(follow) = survey.paths.follow() {
        attributes.push(("local.followpaths".to_owned(), json_list(&follow)));
    }
    attributes.push(("local.sharedkeyhint".to_owned(), directory.clone()));
    let metadata = OpMetadata::named("[internal] load build context");
    Ok(host.source(&format!("local://{directory}"), &attributes, None, &metadata)?)
}
