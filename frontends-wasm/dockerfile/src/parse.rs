//! From logical lines to instructions, as the table says. Nothing is expanded here.

use crate::command::{Command, CommandLine, Copy, From, Healthcheck, Instruction, Run};
use crate::directives::{self, Directives};
use crate::duration;
use crate::error::{Lines, Located, Problem};
use crate::heredoc::Heredoc;
use crate::instruction::{self, FlagKind, Form, INSTRUCTIONS, Spec};
use crate::lines::{LogicalLine, split};
use crate::suggest::nearest;

/// A Dockerfile, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dockerfile {
    /// What its directives say.
    pub directives: Directives,
    /// Its instructions in order; the first that is not ARG is FROM.
    pub instructions: Vec<Instruction>,
}

/// Parses a Dockerfile.
///
/// # Errors
/// Everything that is wrong with it, in the file's order.
pub fn parse(source: &str) -> Result<Dockerfile, Vec<Located>> {
    let directives = directives::parse(source).map_err(|error| vec![*error])?;
    let mut problems = Vec::new();
    let mut instructions = Vec::new();
    let mut begun = false;
    let (lines, cut) = split(source, directives.escape, takes_heredocs);
    for line in lines {
        let lines = line.lines;
        let is_from = first_word(&line.text).0.eq_ignore_ascii_case("FROM");
        match parse_line(line, directives.escape) {
            Ok(instruction) => {
                begun |= matches!(instruction.command, Command::From(_));
                if !begun && !matches!(instruction.command, Command::Arg(_)) {
                    let message = format!(
                        "{} stands before the first FROM: only ARG may",
                        instruction.spec.name
                    );
                    problems.push(Problem::Syntax(message).at(lines));
                    begun = true;
                }
                instructions.push(instruction);
            }
            Err(problem) => {
                begun |= is_from;
                problems.push(problem.at(lines));
            }
        }
    }
    problems.extend(cut);
    if problems.is_empty() && !begun {
        let message = "the file has no FROM: expected at least one stage".into();
        problems.push(Problem::Syntax(message).into());
    }
    if problems.is_empty() { Ok(Dockerfile { directives, instructions }) } else { Err(problems) }
}

/// Parses the text of an ONBUILD trigger that an image brings along.
///
/// # Errors
/// When it is not an instruction that may be one.
pub fn parse_trigger(text: &str) -> Result<Instruction, Problem> {
    let (mut lines, cut) = split(text, '\\', takes_heredocs);
    if let Some(cut) = cut {
        return Err(cut.problem);
    }
    if lines.len() != 1 {
        return Err(Problem::invalid("ONBUILD trigger", text, "one instruction"));
    }
    let instruction = parse_line(lines.remove(0), '\\')?;
    match instruction.spec.in_onbuild {
        true => Ok(instruction),
        false => Err(not_in_onbuild(instruction.spec)),
    }
}

fn takes_heredocs(text: &str) -> bool {
    let (mut word, mut rest) = first_word(text);
    if word.eq_ignore_ascii_case("ONBUILD") {
        (word, rest) = first_word(rest);
    }
    rest.contains("<<") && instruction::find(word).is_some_and(|spec| spec.heredocs)
}

fn first_word(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

fn not_in_onbuild(spec: &'static Spec) -> Problem {
    Problem::Arguments { instruction: "ONBUILD", expected: format!("cannot keep {}", spec.name) }
}

fn parse_line(line: LogicalLine, escape: char) -> Result<Instruction, Problem> {
    let (word, rest) = first_word(&line.text);
    let spec = instruction::find(word).ok_or_else(|| Problem::UnknownInstruction {
        name: word.chars().take(80).collect(),
        nearest: nearest(word, INSTRUCTIONS.iter().map(|spec| spec.name)).map(str::to_owned),
    })?;
    let (rest, flags) = Flags::take(spec, rest)?;
    let command = command(spec, rest, flags, line.heredocs, escape)?;
    Ok(Instruction { spec, command, lines: line.lines, text: line.text, blank: line.blank })
}

fn command(
    spec: &'static Spec,
    rest: &str,
    mut flags: Flags,
    heredocs: Vec<Heredoc>,
    escape: char,
) -> Result<Command, Problem> {
    if rest.is_empty() && spec.min > 0 {
        return Err(expected(spec, count(spec)));
    }
    let words = || -> Result<Vec<String>, Problem> {
        let found = match spec.form {
            Form::JsonOrWords => json(spec, rest)?,
            _ => None,
        };
        let found =
            found.unwrap_or_else(|| rest.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        match (spec.min..=spec.max).contains(&found.len()) {
            true => Ok(found),
            false => Err(expected(spec, count(spec))),
        }
    };
    let whole = || rest.to_owned();
    Ok(match spec.name {
        "FROM" => Command::From(from(spec, &words()?, flags.text("platform"))?),
        "ARG" => Command::Arg(arguments(rest, escape)?),
        "RUN" => Command::Run(Run {
            line: command_line(spec, rest)?,
            mounts: flags.list("mount"),
            network: flags.text("network"),
            security: flags.text("security"),
            devices: flags.list("device"),
            heredocs,
        }),
        "ADD" | "COPY" => Command::Copy(copy(spec, words()?, flags, heredocs)?),
        "ENV" => Command::Env(pairs(spec, rest, escape)?),
        "LABEL" => Command::Label(pairs(spec, rest, escape)?),
        "WORKDIR" => Command::Workdir(whole()),
        "USER" => Command::User(whole()),
        "STOPSIGNAL" => Command::Stopsignal(whole()),
        "MAINTAINER" => Command::Maintainer(whole()),
        "CMD" => Command::Cmd(command_line(spec, rest)?),
        "ENTRYPOINT" => Command::Entrypoint(command_line(spec, rest)?),
        "EXPOSE" => Command::Expose(words()?),
        "VOLUME" => {
            let volumes: Vec<String> =
                words()?.iter().map(|volume| volume.trim().to_owned()).collect();
            if volumes.iter().any(String::is_empty) {
                return Err(expected(spec, "requires paths that are not empty"));
            }
            Command::Volume(volumes)
        }
        "SHELL" => match json(spec, rest)? {
            Some(shell) if !shell.is_empty() => Command::Shell(shell),
            _ => return Err(expected(spec, "requires a JSON array of at least one text")),
        },
        "HEALTHCHECK" => Command::Healthcheck(healthcheck(spec, rest, &mut flags)?),
        "ONBUILD" => {
            let none = Lines { start: 1, end: 1 };
            let (text, bodies) = (rest.to_owned(), heredocs.clone());
            let line = LogicalLine { lines: none, text, heredocs: bodies, blank: None };
            let kept = parse_line(line, escape)?;
            if !kept.spec.in_onbuild {
                return Err(not_in_onbuild(kept.spec));
            }
            let bodies = heredocs.iter().map(|doc| format!("\n{}{}", doc.body, doc.name));
            Command::Onbuild(bodies.fold(rest.to_owned(), |text, body| text + &body))
        }
        other => unreachable!("the table has no instruction {other}"),
    })
}

fn expected(spec: &'static Spec, expected: impl Into<String>) -> Problem {
    Problem::Arguments { instruction: spec.name, expected: expected.into() }
}

fn count(spec: &Spec) -> String {
    match (spec.min, spec.max) {
        (1, 1) => "requires exactly one argument".into(),
        (1, usize::MAX) => "requires at least one argument".into(),
        (min, usize::MAX) => format!("requires at least {min} arguments"),
        (min, max) => format!("requires {min} to {max} arguments"),
    }
}

/// Reads a JSON array of texts; `None` when it is no JSON array.
fn json(spec: &'static Spec, text: &str) -> Result<Option<Vec<String>>, Problem> {
    if !text.starts_with('[') {
        return Ok(None);
    }
    let Ok(values) = serde_json::from_str::<Vec<serde_json::Value>>(text) else {
        return Ok(None);
    };
    let text = |value| match value {
        serde_json::Value::String(text) => Ok(text),
        _ => Err(expected(spec, "requires that its JSON array has only texts")),
    };
    values.into_iter().map(text).collect::<Result<_, _>>().map(Some)
}

fn command_line(spec: &'static Spec, rest: &str) -> Result<CommandLine, Problem> {
    if let Some(args) = json(spec, rest)? {
        if args.is_empty() && matches!(spec.name, "RUN" | "HEALTHCHECK") {
            return Err(expected(spec, "requires at least one argument in its JSON array"));
        }
        return Ok(CommandLine { shell: false, args });
    }
    let args = if rest.is_empty() { Vec::new() } else { vec![rest.to_owned()] };
    Ok(CommandLine { shell: true, args })
}

fn from(spec: &'static Spec, words: &[String], platform: Option<String>) -> Result<From, Problem> {
    let name = match words {
        [_] => None,
        [_, keyword, name] if keyword.eq_ignore_ascii_case("AS") => {
            let name = name.to_lowercase();
            let valid = name.starts_with(|c: char| c.is_ascii_lowercase())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
            if !valid {
                let form = "a letter, then letters, digits, `-`, `_` and `.`";
                return Err(Problem::invalid("stage name", name, form));
            }
            Some(name)
        }
        _ => return Err(expected(spec, "requires `image` or `image AS name`")),
    };
    Ok(From { base: words[0].clone(), platform, name })
}

fn copy(
    spec: &'static Spec,
    mut words: Vec<String>,
    mut flags: Flags,
    heredocs: Vec<Heredoc>,
) -> Result<Copy, Problem> {
    let dest = words.pop().unwrap_or_default();
    if crate::heredoc::parse_word(&dest).is_some_and(|dest| is_one_of(&heredocs, &dest)) {
        return Err(expected(spec, "cannot have a here-document as its destination"));
    }
    words.retain(|word| {
        crate::heredoc::parse_word(word).is_none_or(|word| !is_one_of(&heredocs, &word))
    });
    Ok(Copy {
        add: spec.name == "ADD",
        sources: words,
        heredocs,
        dest,
        from: flags.text("from"),
        chown: flags.text("chown"),
        chmod: flags.text("chmod"),
        link: flags.bool("link").unwrap_or_default(),
        parents: flags.bool("parents").unwrap_or_default(),
        exclude: flags.list("exclude"),
        keep_git_dir: flags.bool("keep-git-dir"),
        checksum: flags.text("checksum"),
        unpack: flags.bool("unpack"),
    })
}

fn is_one_of(heredocs: &[Heredoc], word: &Heredoc) -> bool {
    heredocs.iter().any(|heredoc| heredoc.name == word.name)
}

fn arguments(rest: &str, escape: char) -> Result<Vec<(String, Option<String>)>, Problem> {
    let word = |word: String| match word.split_once('=') {
        Some(("", _)) => Err(Problem::invalid("argument", word, "`name` or `name=value`")),
        Some((name, value)) => Ok((name.to_owned(), Some(value.to_owned()))),
        None => Ok((word, None)),
    };
    quoted_words(rest, escape).into_iter().map(word).collect()
}

fn pairs(spec: &'static Spec, rest: &str, escape: char) -> Result<Vec<(String, String)>, Problem> {
    let words = quoted_words(rest, escape);
    if !words.first().is_some_and(|word| word.contains('=')) {
        let (name, value) = first_word(rest);
        if value.is_empty() {
            return Err(expected(spec, "requires `name=value`"));
        }
        return Ok(vec![(name.to_owned(), value.to_owned())]);
    }
    let word = |word: String| match word.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(Problem::invalid("argument", word, "`name=value`")),
    };
    words.into_iter().map(word).collect()
}

/// Cuts at blanks outside of quotes; quotes and escapes stay.
fn quoted_words(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match quote {
            None if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ => {}
        }
        if c == escape && quote != Some('\'') {
            // An escape character at the very end of an unquoted word stands for nothing.
            if let Some(next) = chars.next() {
                word.extend([c, next]);
            }
            continue;
        }
        word.push(c);
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

fn healthcheck(spec: &'static Spec, rest: &str, flags: &mut Flags) -> Result<Healthcheck, Problem> {
    let (kind, rest) = first_word(rest);
    let test = match kind.to_ascii_uppercase().as_str() {
        // As in BuildKit, flags say nothing here, and are no mistake.
        "NONE" if rest.is_empty() => {
            return Ok(Healthcheck { test: vec!["NONE".into()], ..Healthcheck::default() });
        }
        "NONE" => return Err(expected(spec, "NONE takes no arguments")),
        "CMD" if !rest.is_empty() => {
            let line = command_line(spec, rest)?;
            let kind = if line.shell { "CMD-SHELL" } else { "CMD" };
            std::iter::once(kind.to_owned()).chain(line.args).collect()
        }
        _ => return Err(expected(spec, "requires `NONE` or `CMD command`")),
    };
    let mut time = |flag: &'static str| match flags.text(flag) {
        Some(value) => duration::parse(&value)
            .filter(|time| *time == 0 || *time >= 1_000_000)
            .ok_or_else(|| {
                Problem::invalid(format!("--{flag}"), value, "a time of 1ms or more, like `1m30s`")
            }),
        None => Ok(0),
    };
    let (interval, timeout) = (time("interval")?, time("timeout")?);
    let (start_period, start_interval) = (time("start-period")?, time("start-interval")?);
    let retries = match flags.text("retries") {
        Some(text) => match text.parse::<i32>() {
            Ok(number) if number >= 0 => i64::from(number),
            _ => return Err(Problem::invalid("--retries", text, "a number of 0 or more")),
        },
        None => 0,
    };
    Ok(Healthcheck { test, interval, timeout, start_period, start_interval, retries })
}

/// The flags in front of an instruction's arguments.
struct Flags {
    values: Vec<(&'static str, String)>,
}

impl Flags {
    /// Takes the flags off; returns what follows them.
    fn take<'a>(spec: &'static Spec, mut rest: &'a str) -> Result<(&'a str, Self), Problem> {
        let mut flags = Self { values: Vec::new() };
        while rest.starts_with("--") {
            let (word, behind) = flag_word(rest);
            rest = behind.trim_start();
            if word == "--" {
                break;
            }
            let (name, value) = match word[2..].split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (&word[2..], None),
            };
            let known = spec.flags.iter().find(|flag| flag.name == name);
            let flag = known.ok_or_else(|| Problem::UnknownFlag {
                instruction: spec.name,
                flag: name.chars().take(80).collect(),
                nearest: nearest(name, spec.flags.iter().map(|flag| flag.name)).map(str::to_owned),
            })?;
            let what = || format!("--{name}");
            let value = match (flag.kind, value) {
                (FlagKind::Bool, None) => "true",
                (FlagKind::Bool, Some(value)) if value.eq_ignore_ascii_case("true") => "true",
                (FlagKind::Bool, Some(value)) if value.eq_ignore_ascii_case("false") => "false",
                (FlagKind::Bool, Some(value)) => {
                    return Err(Problem::invalid(what(), value, "`true` or `false`"));
                }
                (_, Some(value)) => value,
                (_, None) => {
                    let message = format!("takes a value for `--{name}`");
                    return Err(expected(spec, message));
                }
            };
            if flag.kind != FlagKind::List
                && flags.values.iter().any(|(given, _)| *given == flag.name)
            {
                return Err(expected(spec, format!("takes `--{name}` only once")));
            }
            flags.values.push((flag.name, value.to_owned()));
        }
        Ok((rest, flags))
    }

    fn text(&mut self, name: &str) -> Option<String> {
        let index = self.values.iter().position(|(given, _)| *given == name)?;
        Some(self.values.swap_remove(index).1)
    }

    fn bool(&mut self, name: &str) -> Option<bool> {
        self.text(name).map(|value| value == "true")
    }

    fn list(&mut self, name: &str) -> Vec<String> {
        let values = self.values.iter_mut().filter(|(given, _)| *given == name);
        values.map(|(_, value)| std::mem::take(value)).collect()
    }
}

/// Takes one word off, without its quotes and escapes.
fn flag_word(text: &str) -> (String, &str) {
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match quote {
            None if c.is_whitespace() => return (word, &text[at..]),
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ if c == '\\' => word.extend(chars.next().map(|(_, c)| c)),
            _ => word.push(c),
        }
    }
    (word, "")
}
