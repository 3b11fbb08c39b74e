//! `SOURCE_DATE_EPOCH`, the time of what is made: a number, or the time of the main context, of a
//! named context, or of a stage that only fetches something. It comes by a build argument or by an
//! ARG before the first FROM. What obeys it is for lowering and for the exporters.

use cofferdam_sdk::{FileKind, Host, OpMetadata, Platform, Snapshot};

use crate::command::{Command, Copy, Instruction};
use crate::context::{self, Source};
use crate::error::{Lines, Located, Problem};
use crate::git::GitReference;
use crate::lower::remote;
use crate::options::Options;
use crate::parse::Dockerfile;
use crate::stages::globals;
use crate::words::{Budget, Expander, Within};

/// Its name.
pub(crate) const NAME: &str = "SOURCE_DATE_EPOCH";
/// What stands for the main context.
const CONTEXT: &str = "context";
const NANOSECONDS: i64 = 1_000_000_000;

/// Puts a number in the place of what a request or a file says of it. Where what is meant has no
/// time, as directories of the client have none, it is as if nothing were said.
///
/// # Errors
/// When it means nothing, or not the same for all platforms.
pub(crate) fn settle<H: Host>(
    host: &H,
    options: &Options,
    dockerfile: &Dockerfile,
    (platforms, build): (&[Platform], &Platform),
) -> Result<Options, Vec<Located>> {
    let mut settled = options.clone();
    let mut said: Option<(String, Option<Lines>)> = None;
    for target in platforms {
        // What is wrong with the ARGs is told where they are used.
        let (globals, _) = globals(dockerfile, options, target, build);
        let text = match options.build_args.get(NAME) {
            Some(given) => (given.clone(), None),
            None => match globals.get(NAME) {
                Some(text) => (text.clone(), declared(dockerfile)),
                None => return Ok(settled),
            },
        };
        if said.as_ref().is_some_and(|said| *said != text) {
            let problem = Problem::invalid(NAME, text.0, "the same for all platforms");
            return Err(vec![located(problem, text.1)]);
        }
        said = Some(text);
    }
    let (Some((text, lines)), Some(target)) = (said, platforms.first()) else {
        return Ok(settled);
    };
    let found = value(host, options, dockerfile, (target, build), &text);
    settled.epoch = found.map_err(|problem| vec![located(problem, lines)])?;
    let number = settled.epoch.map(|seconds| seconds.to_string()).unwrap_or_default();
    match settled.build_args.get_mut(NAME) {
        Some(given) => *given = number,
        None => settled.declared_epoch = Some(number),
    }
    Ok(settled)
}

fn located(problem: Problem, lines: Option<Lines>) -> Located {
    match lines {
        Some(lines) => problem.at(lines),
        None => problem.into(),
    }
}

/// The ARG before the first FROM that has its value.
fn declared(dockerfile: &Dockerfile) -> Option<Lines> {
    let globals = dockerfile.instructions.iter().map_while(|instruction| {
        let Command::Arg(arguments) = &instruction.command else { return None };
        Some((instruction.lines, arguments))
    });
    let declares = |(_, arguments): &(Lines, &Vec<(String, Option<String>)>)| {
        arguments.iter().any(|(name, default)| name == NAME && default.is_some())
    };
    globals.filter(declares).last().map(|(lines, _)| lines)
}

/// The seconds since 1970 that a text means; `None` where there is no time.
fn value<H: Host>(
    host: &H,
    options: &Options,
    dockerfile: &Dockerfile,
    (target, build): (&Platform, &Platform),
    text: &str,
) -> Result<Option<i64>, Problem> {
    if text.is_empty() {
        return Ok(None);
    }
    if let Ok(seconds) = text.parse() {
        return Ok(Some(seconds));
    }
    if text == CONTEXT {
        return match context::source(options)? {
            Some(source) => time(host, &source),
            None => Ok(None),
        };
    }
    if let Some(given) = options.context(text, target) {
        return match named(text, given)? {
            Some(source) => time(host, &source),
            None => Ok(None),
        };
    }
    let is_meant = |instruction: &Instruction| match &instruction.command {
        Command::From(from) => from.name.as_deref() == Some(text.to_lowercase().as_str()),
        _ => false,
    };
    let Some(at) = dockerfile.instructions.iter().position(is_meant) else {
        let expected = "seconds since 1970, `context`, or the name of a context or stage";
        return Err(Problem::invalid(NAME, text, expected));
    };
    let source = of_stage(dockerfile, options, (target, build), at)?;
    time(host, &source)
}

/// Where a named context is; `None` when it is none that has a time of its own.
fn named(name: &str, given: &str) -> Result<Option<Source>, Problem> {
    if let Some(git) = GitReference::parse(given)? {
        return Ok(Some(Source::git(&git, given)));
    }
    let is_download = remote::is_http(given);
    Ok(is_download.then(|| Source::download(given, format!("[context {name}] {given}"))))
}

/// What the stage at `at` fetches: it begins with `scratch`, and has one ADD and nothing else but
/// ARGs.
fn of_stage(
    dockerfile: &Dockerfile,
    options: &Options,
    (target, build): (&Platform, &Platform),
    at: usize,
) -> Result<Source, Problem> {
    let expander = Expander::new(dockerfile.directives.escape);
    let (mut variables, _) = globals(dockerfile, options, target, build);
    variables.remove(NAME);
    let budget = Budget::default();
    let Some((from, rest)) = dockerfile.instructions[at..].split_first() else {
        unreachable!("there is an instruction at its own place")
    };
    let Command::From(from) = &from.command else { unreachable!("a stage begins with FROM") };
    let name = from.name.as_deref().unwrap_or_default();
    let wrong = |expected: &str| Problem::invalid("stage of SOURCE_DATE_EPOCH", name, expected);
    let base = expander.word(&from.base, &Within { variables: &variables, budget: &budget })?;
    if base != "scratch" {
        return Err(wrong("one that begins with `FROM scratch`"));
    }
    let mut found: Option<Source> = None;
    for instruction in rest {
        match &instruction.command {
            Command::From(_) => break,
            Command::Arg(arguments) => {
                for (name, default) in arguments {
                    let within = Within { variables: &variables, budget: &budget };
                    let value = match (options.build_args.get(name), default) {
                        (Some(given), _) => given.clone(),
                        (None, Some(word)) => expander.word(word, &within)?,
                        (None, None) => continue,
                    };
                    variables.insert(name.clone(), value);
                }
            }
            Command::Copy(copy @ Copy { add: true, .. }) if found.is_none() => {
                let within = Within { variables: &variables, budget: &budget };
                let ([word], []) = (&copy.sources[..], &copy.heredocs[..]) else {
                    return Err(wrong("an ADD with one source, a download or git repository"));
                };
                let checksum = copy.checksum.as_ref().map(|sum| expander.word(sum, &within));
                let checksum = checksum.transpose()?.filter(|sum| !sum.is_empty());
                let text = expander.word(word, &within)?;
                let Some(remote) = remote::parse(&text, copy, checksum.as_deref())? else {
                    return Err(wrong("an ADD of a download or git repository"));
                };
                found = Some(Source {
                    identifier: remote.identifier,
                    attributes: remote.attributes,
                    name: format!("[internal] load {text}"),
                    file: remote.unpackable.then(|| remote.path.trim_start_matches('/').to_owned()),
                });
            }
            _ => return Err(wrong("one ADD and, besides, nothing but ARG")),
        }
    }
    found.ok_or_else(|| wrong("an ADD of a download or git repository"))
}

/// When what is elsewhere was made, in seconds since 1970.
fn time<H: Host>(host: &H, source: &Source) -> Result<Option<i64>, Problem> {
    let metadata = OpMetadata::named(source.name.clone());
    let Some(file) = &source.file else {
        // Then everything in it, and so its top, has the time of the commit.
        let mut attributes = source.attributes.clone();
        attributes.retain(|(name, _)| name != "git.mtime");
        attributes.push(("git.mtime".to_owned(), "commit".to_owned()));
        let output = host.source(&source.identifier, &attributes, None, &metadata)?;
        return Ok(Some(seconds(host.solve(&output)?.stat_file("/")?.mtime)));
    };
    let output = host.source(&source.identifier, &source.attributes, None, &metadata)?;
    // What the server says; an archive that it says nothing of is as old as its youngest file.
    match host.solve(&output)?.stat_file(file)?.mtime {
        0 => match context::unpacked(host, &output, file)? {
            Some(archive) => youngest(&host.solve(&archive)?),
            None => Ok(None),
        },
        mtime => Ok(Some(seconds(mtime))),
    }
}

/// The time of the file that was changed last.
fn youngest(tree: &impl Snapshot) -> Result<Option<i64>, Problem> {
    let mut found = None;
    let mut open = vec!["/".to_owned()];
    while let Some(directory) = open.pop() {
        for entry in tree.read_dir(&directory, "")? {
            match entry.kind {
                FileKind::Directory => open.push(format!("{directory}{}/", entry.name)),
                FileKind::Regular => found = found.max(Some(seconds(entry.mtime))),
                _ => {}
            }
        }
    }
    Ok(found)
}

fn seconds(nanoseconds: i64) -> i64 {
    nanoseconds.div_euclid(NANOSECONDS)
}
