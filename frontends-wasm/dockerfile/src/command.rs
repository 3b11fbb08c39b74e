//! Instructions as data, before any variable is expanded.

use crate::error::Lines;
use crate::heredoc::Heredoc;
use crate::instruction::Spec;

/// An instruction with its place and its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Its row of the table.
    pub spec: &'static Spec,
    /// What it says.
    pub command: Command,
    /// Where it stands.
    pub lines: Lines,
    /// Its text, continuations joined.
    pub text: String,
    /// The first empty line inside it, if there is one.
    pub blank: Option<u32>,
}

/// What an instruction says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// FROM
    From(From),
    /// ARG: names, with default values.
    Arg(Vec<(String, Option<String>)>),
    /// RUN
    Run(Run),
    /// COPY and ADD.
    Copy(Copy),
    /// ENV
    Env(Vec<(String, String)>),
    /// LABEL
    Label(Vec<(String, String)>),
    /// WORKDIR
    Workdir(String),
    /// USER
    User(String),
    /// CMD
    Cmd(CommandLine),
    /// ENTRYPOINT
    Entrypoint(CommandLine),
    /// EXPOSE
    Expose(Vec<String>),
    /// VOLUME
    Volume(Vec<String>),
    /// SHELL
    Shell(Vec<String>),
    /// STOPSIGNAL
    Stopsignal(String),
    /// MAINTAINER
    Maintainer(String),
    /// HEALTHCHECK
    Healthcheck(Healthcheck),
    /// ONBUILD: the text of the instruction that is kept.
    Onbuild(String),
}

/// FROM
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct From {
    /// Image, stage, named context or `scratch`.
    pub base: String,
    /// `--platform`
    pub platform: Option<String>,
    /// The stage's name, in lower case.
    pub name: Option<String>,
}

/// A command in shell or exec form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandLine {
    /// Whether the stage's shell runs it; then there is one argument.
    pub shell: bool,
    /// Program and arguments, or the shell's text.
    pub args: Vec<String>,
}

/// RUN
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// What to run.
    pub line: CommandLine,
    /// `--mount`, unread.
    pub mounts: Vec<String>,
    /// `--network`
    pub network: Option<String>,
    /// `--security`
    pub security: Option<String>,
    /// `--device`, unread.
    pub devices: Vec<String>,
    /// The here-documents of the line.
    pub heredocs: Vec<Heredoc>,
}

/// COPY or ADD
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copy {
    /// Whether it is ADD.
    pub add: bool,
    /// Sources.
    pub sources: Vec<String>,
    /// Sources that are here-documents; they come after the others.
    pub heredocs: Vec<Heredoc>,
    /// Destination.
    pub dest: String,
    /// `--from`
    pub from: Option<String>,
    /// `--chown`
    pub chown: Option<String>,
    /// `--chmod`
    pub chmod: Option<String>,
    /// `--link`
    pub link: bool,
    /// `--parents`
    pub parents: bool,
    /// `--exclude`
    pub exclude: Vec<String>,
    /// `--keep-git-dir`
    pub keep_git_dir: Option<bool>,
    /// `--checksum`
    pub checksum: Option<String>,
    /// `--unpack`
    pub unpack: Option<bool>,
}

/// HEALTHCHECK; times in nanoseconds, 0 where nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Healthcheck {
    /// `NONE`, `CMD …` or `CMD-SHELL …`.
    pub test: Vec<String>,
    /// Time between checks.
    pub interval: i64,
    /// Longest time for a check.
    pub timeout: i64,
    /// Time for the container to start.
    pub start_period: i64,
    /// Time between checks during the start.
    pub start_interval: i64,
    /// Failures in a row that count.
    pub retries: i64,
}
