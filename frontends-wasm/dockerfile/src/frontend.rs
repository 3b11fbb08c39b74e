//! A request from its beginning to its end: reads the Dockerfile and the ignore files, lowers
//! for each platform, and puts the result together.

use std::collections::BTreeMap;

use cofferdam_sdk::{
    BuildError, BuildResult, Description, Frontend, Host, HostError, OpMetadata, PlatformResult,
    Request, Snapshot, SourceRange, Warning,
};

use crate::directives::Directives;
use crate::error::{Errors, Lines, Located, Problem};
use crate::ignore;
use crate::lower::{ContextPaths, Input, json_list, lower};
use crate::options::{OPTIONS, Options};
use crate::parse;
use crate::path;
use crate::probe::{Images, Probe};

/// The frontend for Dockerfiles.
#[derive(Clone, Copy, Debug)]
pub struct DockerfileFrontend;

impl Frontend for DockerfileFrontend {
    fn build<H: Host>(host: &H, request: &Request) -> Result<BuildResult<H::Output>, BuildError> {
        let outside = |problem: Problem| {
            Errors::in_file("", "", vec![Located::from(problem)]).into_build_error(None)
        };
        let options = Options::new(request).map_err(outside)?;
        let files = Files::read(host, &options).map_err(outside)?;
        let source = host.add_source(&files.name, "Dockerfile", files.text.as_bytes());
        build(host, request, &options, &files, source).map_err(|problems| {
            Errors::in_file(&files.name, &files.text, problems).into_build_error(Some(source))
        })
    }

    fn describe() -> Description {
        let owned = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
        Description {
            name: "dockerfile".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "Builds images from Dockerfiles, the language that Docker documents.".into(),
            options: OPTIONS.iter().map(owned).collect(),
            subrequests: Vec::new(),
        }
    }
}

/// What is read before lowering.
struct Files {
    /// Path of the Dockerfile.
    name: String,
    /// The Dockerfile.
    text: String,
    /// Patterns of the ignore file that belongs to the Dockerfile alone.
    own_ignore: Option<Vec<String>>,
}

impl Files {
    fn read<H: Host>(host: &H, options: &Options) -> Result<Self, Problem> {
        let name = path::inside(&options.filename).trim_start_matches('/').to_owned();
        let own_ignore = format!("{name}.dockerignore");
        let lower_case = name.strip_suffix("Dockerfile").map(|start| format!("{start}dockerfile"));
        let mut wanted = vec![name.clone(), own_ignore.clone()];
        wanted.extend(lower_case.clone());
        let text = format!("[internal] load build definition from {name}");
        let tree = local(host, &options.dockerfile_key, &wanted, &text)?;
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
        let own_ignore = own_ignore.map(|data| ignore::parse(&String::from_utf8_lossy(&data)));
        Ok(Self { name, text, own_ignore })
    }
}

fn missing(name: &str) -> Problem {
    let message = format!("there is no Dockerfile `{name}`: expected it in the build context");
    Problem::Host(HostError::NotFound(message))
}

/// Says so where a directive asks for something that is not there.
fn directives<H: Host>(
    host: &H,
    directives: &Directives,
    files: &Files,
    source: u32,
) -> Result<(), Vec<Located>> {
    let line = |name: &str| {
        let at = files.text.lines().position(|line| line.contains(name)).unwrap_or(0);
        let at = u32::try_from(at + 1).unwrap_or(u32::MAX);
        Lines { start: at, end: at }
    };
    if let Some(syntax) = directives.syntax.as_deref().filter(|syntax| !is_own_syntax(syntax)) {
        let what = format!("the frontend `{syntax}` of the directive `syntax`");
        return Err(vec![Problem::Unsupported(what).at(line("syntax"))]);
    }
    if directives.check.is_some() {
        let Lines { start, end } = line("check");
        host.warn(&Warning {
            short: "the directive `check` is not supported yet: nothing is checked".into(),
            detail: Vec::new(),
            url: String::new(),
            locations: vec![SourceRange { source, start_line: start, end_line: end }],
        });
    }
    Ok(())
}

/// Whether a syntax directive names Docker's own frontend, whose language this one has.
fn is_own_syntax(syntax: &str) -> bool {
    let name = syntax.strip_prefix("docker.io/").unwrap_or(syntax);
    let name = name.split('@').next().unwrap_or(name).split(':').next().unwrap_or(name);
    matches!(name, "docker/dockerfile" | "docker/dockerfile-upstream")
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

/// The patterns of the ignore file at the top of a local directory.
fn ignored<H: Host>(host: &H, directory: &str) -> Result<Vec<String>, Problem> {
    let wanted = [".dockerignore".to_owned()];
    let tree = local(host, directory, &wanted, "[internal] load .dockerignore")?;
    let data = read(&tree, ".dockerignore")?.unwrap_or_default();
    Ok(ignore::parse(&String::from_utf8_lossy(&data)))
}

fn build<H: Host>(
    host: &H,
    request: &Request,
    options: &Options,
    files: &Files,
    source: u32,
) -> Result<BuildResult<H::Output>, Vec<Located>> {
    let dockerfile = parse::parse(&files.text)?;
    directives(host, &dockerfile.directives, files, source)?;
    let images = Images::default();
    let mut named = BTreeMap::new();
    for context in options.contexts.values() {
        if let Some(directory) = context.strip_prefix("local:") {
            named.insert(directory.to_owned(), ignored(host, directory)?);
        }
    }
    // Which files of the context are needed is known only after lowering, and lowering needs the
    // context: so it is done twice, first without making anything.
    let mut paths = ContextPaths::default();
    for target in &request.platforms {
        let input = Input {
            dockerfile: &dockerfile,
            options,
            target,
            build: &request.build_platform,
            name_platforms: request.platforms.len() > 1,
            context: Some(()),
            ignored: &named,
            images: &images,
            source: None,
        };
        paths.extend(lower(&Probe(host), &input)?.context_paths);
    }
    let context = match paths.is_empty() {
        true => None,
        false => Some(context(host, options, files, &paths)?),
    };
    let mut results = Vec::new();
    for target in &request.platforms {
        let input = Input {
            dockerfile: &dockerfile,
            options,
            target,
            build: &request.build_platform,
            name_platforms: request.platforms.len() > 1,
            context: context.clone(),
            ignored: &named,
            images: &images,
            source: Some(source),
        };
        let lowered = lower(host, &input)?;
        results.push(PlatformResult {
            platform: target.clone(),
            output: lowered.output,
            config: lowered.config.to_string().into_bytes(),
        });
    }
    Ok(BuildResult { results, metadata: Vec::new() })
}

/// The main build context: only what is used of it, and not what is ignored.
fn context<H: Host>(
    host: &H,
    options: &Options,
    files: &Files,
    paths: &ContextPaths,
) -> Result<H::Output, Problem> {
    let directory = &options.context_key;
    let patterns = match &files.own_ignore {
        Some(patterns) => patterns.clone(),
        None => ignored(host, directory)?,
    };
    let mut attributes = Vec::new();
    if !patterns.is_empty() {
        attributes.push(("local.excludepatterns".to_owned(), json_list(&patterns)));
    }
    if let Some(follow) = paths.follow() {
        attributes.push(("local.followpaths".to_owned(), json_list(&follow)));
    }
    attributes.push(("local.sharedkeyhint".to_owned(), directory.clone()));
    let metadata = OpMetadata::named("[internal] load build context");
    Ok(host.source(&format!("local://{directory}"), &attributes, None, &metadata)?)
}
