//! From the flags of `cofferdam build` to the engine's request and what the session lends.
//! Reads of the user's files only the frontend component and standard input.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use cofferdam_build::{
    Annotations, Destination, Export, FrontendChoice, LayoutDestination, Others, Place, Push,
    Request,
};
use cofferdam_registry::Reference;
use cofferdam_session::{LocalSession, SecretSource};
use cofferdam_types::{ParsePlatformError, Platform};
use tempfile::TempDir;

use crate::allow;
use crate::args::{Build, NetworkMode, ProgressMode, SecurityOption};
use crate::contexts::{NamedContexts, Remote, remote};
use crate::error::Error;
use crate::lending::{Keys, lend};
use crate::output::{ImageOutput, Output, has_tag};
use crate::root::{self, Environment};

/// The name under which a context from standard input is sent.
const SENT: &str = "context";

/// What the program runs in.
pub struct Surroundings<'a> {
    /// The environment.
    pub env: Environment<'a>,
    /// Standard input.
    pub stdin: &'a mut dyn Read,
    /// Whether standard output is a terminal.
    pub stdout_is_terminal: bool,
}

/// A build, ready for the engine.
pub struct Prepared {
    /// The request.
    pub request: Request,
    /// What the client lends.
    pub session: LocalSession,
    /// Whether the user should be told that nothing comes out of the build.
    pub cache_only: bool,
    /// Registries that may do without TLS, besides those of the flags.
    pub insecure: Vec<String>,
    /// Hold what came from standard input, until the build is over.
    pub temporary: Vec<TempDir>,
    /// Keys that need an agent before the session has all that the flags lend.
    pub keys: Keys,
}

/// Reads what the flags mean together.
///
/// # Errors
/// When they do not make sense, or name files that are not there.
pub fn prepare(args: &Build, surroundings: Surroundings<'_>) -> Result<Prepared, Error> {
    let Surroundings { env, stdin, stdout_is_terminal } = surroundings;
    let mut session = LocalSession::default();
    let mut options = BTreeMap::new();
    let mut named = NamedContexts::default();
    let mut temporary = Vec::new();
    let mut dockerfile = None;
    match context(args, stdin)? {
        Context::Directory(context) => {
            dockerfile = Some(self::dockerfile(args, &context, stdin)?);
            session = session.lend("context", &context);
        }
        Context::Remote(remote) => {
            options.insert("context".to_owned(), remote.url);
            named.secrets.extend(remote.secrets);
        }
        Context::Sent(directory) => {
            options.insert("context".to_owned(), format!("http://buildkit-session/{SENT}"));
            session = session.send(SENT, &directory.path().join(SENT));
            temporary.push(directory);
        }
    }
    match (&dockerfile, args.file.as_deref()) {
        (Some(_), _) | (None, None) => {}
        (None, Some(file)) if file == Path::new("-") => {
            dockerfile = Some(stdin_dockerfile(stdin)?);
            // Otherwise it is looked for in the context.
            options.insert("dockerfilekey".to_owned(), "dockerfile".to_owned());
        }
        (None, Some(file)) => {
            let inside = file.to_str().filter(|_| file.is_relative()).ok_or_else(|| {
                let file = file.display();
                Error::usage(format!("the Dockerfile `{file}`: expected a path in the context"))
            })?;
            options.insert("filename".to_owned(), inside.to_owned());
        }
    }
    if let Some(dockerfile) = dockerfile {
        session = session.lend("dockerfile", &dockerfile.directory);
        options.extend(dockerfile.name.map(|name| ("filename".to_owned(), name)));
        temporary.extend(dockerfile.temporary);
    }

    for text in &args.build_contexts {
        named.add(text)?;
    }
    for (id, secret) in named.secrets {
        session = session.lend_secret(&id, SecretSource::Value(secret));
    }
    for (name, directory) in &named.lent {
        session = session.lend(name, directory);
    }
    options.extend(named.options);

    let (session, keys) = lend(session, &args.lend, env)?;
    let arguments = build_args(args, env)?;
    // What is no number means something to the frontend, which says what the result's time is.
    let epoch = arguments.get("SOURCE_DATE_EPOCH").and_then(|text| text.parse().ok());
    options
        .extend(arguments.iter().map(|(key, value)| (format!("build-arg:{key}"), value.clone())));
    options.extend(frontend_options(args)?);
    options.extend(args.explain_ignore.iter().map(|path| ("path".to_owned(), path.clone())));

    let call = args.call();
    let quiet = args.progress() == ProgressMode::Quiet;
    let Exports { exports, cache_only, insecure } = match call {
        // As with buildx, flags about outputs are there but nothing comes out.
        Some(_) => Exports { exports: Vec::new(), cache_only: false, insecure: Vec::new() },
        None => exports(args, quiet, epoch, env)?,
    };
    check_stdout(&exports, quiet, stdout_is_terminal)?;

    let mut entitlements = allow::entitlements(&args.allow);
    entitlements.network_host |= args.network == NetworkMode::Host;
    entitlements.cgroup_parent = args.limits.cgroup_parent.clone().unwrap_or_default();
    let request = Request {
        frontend: frontend(args.frontend.as_deref())?,
        subrequest: call.map(|call| call.subrequest).unwrap_or_default(),
        options,
        platforms: platforms(&args.platforms)?,
        exports,
        pull: args.pull,
        step_limits: args.limits.of_all_processes()?,
        no_new_privileges: args.security_options.last()
            == Some(&SecurityOption::NoNewPrivileges(true)),
        why: args.why,
        entitlements,
    };
    Ok(Prepared { request, session, cache_only, insecure, temporary, keys })
}

/// Where the main context is.
enum Context {
    Directory(PathBuf),
    Remote(Remote),
    /// Standard input, which was read.
    Sent(TempDir),
}

fn context(args: &Build, stdin: &mut dyn Read) -> Result<Context, Error> {
    let Some(path) = args.context.as_deref() else {
        return Err(Error::usage("`cofferdam build` requires 1 argument: the build context")
            .hint("to build the current directory: cofferdam build .")
            .hint("for all flags: cofferdam build --help"));
    };
    if path == Path::new("-") {
        if args.file.as_deref() == Some(Path::new("-")) {
            let message = "the build context and the Dockerfile cannot both be standard input";
            return Err(Error::usage(message)
                .hint("a Dockerfile alone, without a context: cofferdam build - < Dockerfile"));
        }
        return Ok(Context::Sent(spooled(stdin, SENT, "read the build context")?));
    }
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => Ok(Context::Directory(path.to_owned())),
        Ok(_) => {
            Err(Error::usage(format!("the build context `{}` is not a directory", path.display()))
                .hint("give the directory of the context as PATH and the Dockerfile with --file"))
        }
        Err(source) => match path.to_str().and_then(remote) {
            Some(remote) => Ok(Context::Remote(remote)),
            None => {
                Err(Error::File { action: "read the build context", path: path.to_owned(), source })
            }
        },
    }
}

/// Standard input as a file in a directory of its own.
fn spooled(stdin: &mut dyn Read, name: &str, action: &'static str) -> Result<TempDir, Error> {
    let failed = |source| Error::File { action, path: "-".into(), source };
    let directory = tempfile::Builder::new().prefix("cofferdam-stdin-").tempdir();
    let directory = directory.map_err(failed)?;
    let mut file = std::fs::File::create(directory.path().join(name)).map_err(failed)?;
    std::io::copy(stdin, &mut file).map_err(failed)?;
    Ok(directory)
}

/// Where the Dockerfile is.
struct Dockerfile {
    directory: PathBuf,
    /// Its name there; the frontend has a default.
    name: Option<String>,
    temporary: Option<TempDir>,
}

/// A Dockerfile that comes by standard input.
fn stdin_dockerfile(stdin: &mut dyn Read) -> Result<Dockerfile, Error> {
    let directory = spooled(stdin, "Dockerfile", "read the Dockerfile")?;
    Ok(Dockerfile {
        directory: directory.path().to_owned(),
        name: Some("Dockerfile".into()),
        temporary: Some(directory),
    })
}

fn dockerfile(args: &Build, context: &Path, stdin: &mut dyn Read) -> Result<Dockerfile, Error> {
    let missing =
        |path: PathBuf, source| Error::File { action: "read the Dockerfile", path, source };
    let Some(path) = args.file.as_deref() else {
        let path = context.join("Dockerfile");
        // Another frontend knows itself what its files are called.
        if args.frontend.is_none()
            && let Err(error) = std::fs::metadata(&path)
        {
            return Err(missing(path, error));
        }
        return Ok(Dockerfile { directory: context.to_owned(), name: None, temporary: None });
    };
    if path == Path::new("-") {
        return stdin_dockerfile(stdin);
    }
    match std::fs::metadata(path) {
        Ok(found) if found.is_file() => {}
        Ok(_) => {
            let path = path.display();
            return Err(Error::usage(format!("the Dockerfile `{path}` is not a file")));
        }
        Err(source) => {
            if path.is_relative() && context.join(path).is_file() {
                let (path, inside) = (path.display(), context.join(path));
                return Err(Error::usage(format!("cannot read the Dockerfile `{path}`: {source}"))
                    .hint(format!(
                        "--file is relative to the current directory: --file {}",
                        inside.display()
                    )));
            }
            return Err(missing(path.to_owned(), source));
        }
    }
    let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| {
        Error::usage(format!("the name of the Dockerfile `{}` is not UTF-8", path.display()))
    })?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    Ok(Dockerfile {
        directory: directory.unwrap_or(Path::new(".")).to_owned(),
        name: Some(name.to_owned()),
        temporary: None,
    })
}

fn build_args(args: &Build, env: Environment<'_>) -> Result<BTreeMap<String, String>, Error> {
    let from_env = |key: &str| -> Result<Option<String>, Error> {
        let value = env(key).map(|value| value.into_string());
        value.transpose().map_err(|_| {
            Error::usage(format!("--build-arg {key}: the environment's value is not UTF-8"))
        })
    };
    let mut found = BTreeMap::new();
    // As buildx does, so that reproducible builds need one variable only.
    if let Some(epoch) = from_env("SOURCE_DATE_EPOCH")? {
        found.insert("SOURCE_DATE_EPOCH".to_owned(), epoch);
    }
    for text in &args.build_args {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (text.as_str(), from_env(text)?),
        };
        if key.is_empty() {
            return Err(Error::usage(format!("--build-arg `{text}`: expected KEY[=VALUE]")));
        }
        // Docker leaves out what is not in the environment: the ARG keeps its default.
        found.extend(value.map(|value| (key.to_owned(), value)));
    }
    Ok(found)
}

/// The options that flags stand for, besides the Dockerfile, named contexts and build arguments.
fn frontend_options(args: &Build) -> Result<BTreeMap<String, String>, Error> {
    let mut options = BTreeMap::new();
    let mut set = |key: &str, value: &str| options.insert(key.to_owned(), value.to_owned());
    for text in &args.labels {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        if key.is_empty() {
            return Err(Error::usage(format!("--label `{text}`: expected KEY=VALUE")));
        }
        set(&format!("label:{key}"), value);
    }
    if let Some(target) = &args.target {
        set("target", target);
    }
    if args.no_cache {
        set("no-cache", "");
    } else if !args.no_cache_filter.is_empty() {
        set("no-cache", &args.no_cache_filter.join(","));
    }
    if args.pull {
        set("image-resolve-mode", "pull");
    }
    if !args.add_hosts.is_empty() {
        let hosts: Result<Vec<_>, _> = args.add_hosts.iter().map(|text| add_host(text)).collect();
        set("add-hosts", &hosts?.join(","));
    }
    if let Some(bytes) = args.limits.shm_size {
        set("shm-size", &bytes.to_string());
    }
    if !args.limits.ulimits.is_empty() {
        set("ulimit", &args.limits.ulimits.join(","));
    }
    if let Some(parent) = &args.limits.cgroup_parent {
        set("cgroup-parent", parent);
    }
    match args.network {
        NetworkMode::Default => None,
        NetworkMode::None => set("force-network-mode", "none"),
        NetworkMode::Host => set("force-network-mode", "host"),
    };
    for text in &args.options {
        let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
        let (key, value) =
            pair.ok_or_else(|| Error::usage(format!("--opt `{text}`: expected KEY=VALUE")))?;
        set(key, value);
    }
    Ok(options)
}

/// From `host:ip` or `host=ip` to `host=ip`.
fn add_host(text: &str) -> Result<String, Error> {
    let invalid = |what: &str| Error::usage(format!("--add-host `{text}`: {what}"));
    let (host, ip) = text
        .split_once('=')
        .or_else(|| text.split_once(':'))
        .filter(|(host, _)| !host.is_empty() && !host.contains([',', ' ']))
        .ok_or_else(|| invalid("expected HOST:IP"))?;
    if ip == "host-gateway" {
        let address = cofferdam_build::host_address()
            .ok_or_else(|| invalid("this machine has no address by which steps can reach it"))?;
        return Ok(format!("{host}={address}"));
    }
    let ip = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(ip);
    let ip: IpAddr = ip.parse().map_err(|_| invalid(&format!("`{ip}` is not an IP address")))?;
    Ok(format!("{host}={ip}"))
}

fn platforms(texts: &[String]) -> Result<Vec<Platform>, Error> {
    let parse = |text: &String| match text.trim() {
        "local" => Ok(Platform::host()),
        text => text.parse().map_err(|error| Error::usage(format!("--platform: {error}"))),
    };
    let mut platforms: Vec<Platform> = Vec::new();
    for platform in texts.iter().map(parse) {
        let platform = platform?;
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    Ok(platforms)
}

fn frontend(path: Option<&Path>) -> Result<FrontendChoice, Error> {
    let Some(path) = path else { return Ok(FrontendChoice::Dockerfile) };
    let bytes = std::fs::read(path).map_err(|source| Error::File {
        action: "read the frontend",
        path: path.to_owned(),
        source,
    })?;
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    Ok(FrontendChoice::Component { name, bytes })
}

/// What the outputs come to.
struct Exports {
    exports: Vec<Export>,
    /// Whether the user should be told that the result goes nowhere.
    cache_only: bool,
    /// Registries that may do without TLS.
    insecure: Vec<String>,
}

fn exports(
    args: &Build,
    quiet: bool,
    epoch: Option<i64>,
    env: Environment<'_>,
) -> Result<Exports, Error> {
    let parse = |tag: &String| {
        Reference::parse(tag).map_err(|error| Error::usage(format!("--tag: {error}")))
    };
    let tags = args.tags.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    let tagged = args.tags.iter().find(|tag| has_tag(tag));
    let annotations = annotations(&args.annotations)?;
    let outputs = args.outputs.iter().map(|text| Output::parse(text));
    let mut outputs = outputs.collect::<Result<Vec<_>, _>>()?;

    if args.load && !outputs.iter().any(|output| matches!(output, Output::Load(_))) {
        outputs.push(Output::Load(ImageOutput::default()));
    }
    let wants_image = args.push || !tags.is_empty();
    let wants_digest = args.iidfile.is_some() || quiet;
    let has_image = outputs.iter().any(|output| matches!(output, Output::Image { .. }));
    if (outputs.is_empty() && (wants_image || wants_digest)) || (args.push && !has_image) {
        outputs.push(Output::Image {
            image: ImageOutput::default(),
            store: true,
            push: false,
            how: Push::ByName,
        });
    }
    let cache_only = outputs.is_empty();

    let mut insecure = Vec::new();
    let mut complete = |mut image: ImageOutput| {
        if image.export.names.is_empty() && !image.export.named_by_frontend {
            image.export.names.clone_from(&tags);
            image.tagged = tagged.cloned();
        }
        let options = &mut image.export.options;
        (options.source_date_epoch, options.rewrite_timestamp) = image.times.decide(epoch);
        options.annotations.extend(&annotations);
        if image.insecure {
            insecure.extend(image.export.names.iter().map(|name| name.registry().to_owned()));
        }
        image
    };
    let mut exports = Vec::new();
    for output in outputs {
        exports.push(match output {
            Output::Image { image, store, push, how } => {
                let ImageOutput { export: image, tagged, .. } = complete(image);
                let push = (push || args.push).then_some(how);
                if push.is_some() && image.names.is_empty() && !image.named_by_frontend {
                    return Err(Error::usage("an image needs a name to be pushed")
                        .hint("name it with --tag REGISTRY/REPOSITORY:TAG"));
                }
                if let (Some(Push::ByDigest), Some(name)) = (push, tagged) {
                    return Err(Error::usage(format!(
                        "`{name}` has a tag, and `push-by-digest` pushes without one"
                    ))
                    .hint("leave the tag out of the name"));
                }
                Export::Image { image, store, push }
            }
            Output::Layout { image, format, dest } => {
                Export::Layout { image: complete(image).export, format, dest }
            }
            Output::Load(image) => {
                let targets = root::load_targets(env)?;
                Export::Load { image: complete(image).export, targets }
            }
            Output::Local { dest, others, platform_split, times } => {
                if others == Others::Delete
                    && dest.canonicalize().is_ok_and(|dest| dest == Path::new("/"))
                {
                    return Err(Error::usage("`mode=delete` would delete what else is in `/`"));
                }
                Export::Local { dest, files: times.of_files(epoch, platform_split), others }
            }
            Output::Tar { dest, platform_split, times } => {
                Export::Tar { dest, files: times.of_files(epoch, platform_split) }
            }
            Output::CacheOnly => continue,
        });
    }
    let makes_image = exports.iter().any(|export| {
        matches!(export, Export::Image { .. } | Export::Layout { .. } | Export::Load { .. })
    });
    for (is_given, flag) in
        [(args.iidfile.is_some(), "--iidfile"), (!args.annotations.is_empty(), "--annotation")]
    {
        if is_given && !makes_image {
            return Err(Error::usage(format!("{flag} needs an output that makes an image"))
                .hint("add --tag NAME or --output type=image"));
        }
    }
    Ok(Exports { exports, cache_only, insecure })
}

/// The values of `--annotation`: `[PLACE[[PLATFORM]],...:]KEY=VALUE`.
fn annotations(texts: &[String]) -> Result<Annotations, Error> {
    let mut annotations = Annotations::default();
    for text in texts {
        let invalid = |what: String| Error::usage(format!("--annotation `{text}`: {what}"));
        let (key, value) =
            text.split_once('=').ok_or_else(|| invalid("expected KEY=VALUE".into()))?;
        let (places, key) = key.split_once(':').unwrap_or(("manifest", key));
        for place in places.split(',') {
            let (name, platform) = match place.split_once('[') {
                None => (place, None),
                Some((name, platform)) => {
                    let platform = platform
                        .strip_suffix(']')
                        .ok_or_else(|| invalid("a bracket is not closed".into()))?
                        .parse()
                        .map_err(|error: ParsePlatformError| invalid(error.to_string()))?;
                    (name, Some(platform))
                }
            };
            let place = Place::named(name).ok_or_else(|| {
                invalid(format!(
                    "unknown place `{name}`, expected `manifest`, `index`, \
                     `manifest-descriptor` or `index-descriptor`"
                ))
            })?;
            annotations.add(place, platform, key, value).map_err(invalid)?;
        }
    }
    Ok(annotations)
}

/// Standard output takes one thing, and a terminal takes no archive.
fn check_stdout(exports: &[Export], quiet: bool, is_terminal: bool) -> Result<(), Error> {
    let to_stdout = |export: &&Export| match export {
        Export::Layout { dest: LayoutDestination::Archive(dest), .. }
        | Export::Tar { dest, .. } => *dest == Destination::Stdout,
        _ => false,
    };
    match exports.iter().filter(to_stdout).count() {
        0 => Ok(()),
        1 if is_terminal => Err(Error::usage("refusing to write an archive to the terminal")
            .hint("add `dest=FILE` to --output, or redirect standard output")),
        1 if quiet => Err(Error::usage(
            "--quiet prints the digest on standard output, where an --output goes already",
        )
        .hint("add `dest=FILE` to --output, or use --iidfile FILE rather than --quiet")),
        1 => Ok(()),
        _ => Err(Error::usage("only one --output can go to standard output")
            .hint("add `dest=FILE` to the others")),
    }
}

#[cfg(test)]
mod tests;
