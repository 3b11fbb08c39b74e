//! One error model: what kind, which step, where in the source, and what to try next.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use cofferdam_component::SourceRange;
use cofferdam_exec_linux::{Denied, Exit, Missing};
use cofferdam_llb::SourceInfo;
use cofferdam_solver::SolveError;
use serde::{Deserialize, Serialize};

/// Who has to do something about an error; decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A step of the build failed.
    Build,
    /// The request or a file of the user's is wrong.
    User,
    /// A registry or the network.
    Network,
    /// The machine or the engine's set-up: state directory, privileges, full disk.
    Config,
    /// A defect in the engine.
    Internal,
}

/// What went wrong, in whichever room.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A component could not be run, or the frontend refused the request.
    #[error(transparent)]
    Component(#[from] cofferdam_component::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] cofferdam_store::Error),
    /// A source.
    #[error(transparent)]
    Source(#[from] cofferdam_source::Error),
    /// A registry, while pushing.
    #[error(transparent)]
    Registry(#[from] cofferdam_registry::Error),
    /// An exporter.
    #[error(transparent)]
    Export(#[from] cofferdam_export::Error),
    /// A graph.
    #[error(transparent)]
    Llb(#[from] cofferdam_llb::Error),
    /// The client.
    #[error(transparent)]
    Session(#[from] cofferdam_session::Error),
    /// The sandbox could not run a step.
    #[error("process `{command}`: {source}")]
    Sandbox {
        /// The command.
        command: String,
        /// Why not.
        source: cofferdam_exec_linux::Error,
        /// Whether it can be entered.
        kept: bool,
    },
    /// No step can be run by this user on this machine.
    #[error("a RUN cannot be run here: {0}")]
    NoSteps(String),
    /// The program of a step on `wasi/wasm` cannot be run.
    #[error("process `{command}`: {reason}")]
    Program {
        /// The command.
        command: String,
        /// Why not.
        reason: String,
    },
    /// Nothing on this machine runs programs of the step's platform.
    #[error("a step for {platform} cannot run on this machine: {missing}")]
    Platform {
        /// The platform.
        platform: String,
        /// What is missing.
        missing: Box<Missing>,
    },
    /// A step ended badly.
    #[error("process `{command}` did not complete successfully: {exit}")]
    Step {
        /// The command.
        command: String,
        /// How it ended.
        exit: StepExit,
        /// Whether it can be entered.
        kept: bool,
    },
    /// A step asks for more than the user granted.
    #[error("process `{command}` {denied}")]
    Denied {
        /// The command.
        command: String,
        /// What it asks for.
        denied: Denied,
    },
    /// The client has not a secret that is needed.
    #[error("the secret `{id}` is needed for {place}, and the client has none of that name")]
    NoSecret {
        /// The secret.
        id: String,
        /// Where it would go.
        place: String,
    },
    /// The client has not an ssh agent that is needed.
    #[error("the ssh agent `{id}` is needed, and the client has none of that name")]
    NoAgent {
        /// The agent.
        id: String,
    },
    /// An ssh agent does not answer.
    #[error("the ssh agent `{id}` at `{}` does not answer: {source}", path.display())]
    Agent {
        /// The agent.
        id: String,
        /// Its socket.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A failed step is to be entered, and there is no shell in it.
    #[error("there is no shell in the step's root: expected `/bin/bash` or `/bin/sh`")]
    NoShell,
    /// A file op could not be done.
    #[error("{message}")]
    File {
        /// What is wrong, with the path.
        message: String,
    },
    /// Something that is not there yet.
    #[error("{0} is not supported yet")]
    Unsupported(String),
    /// Something in the request does not make sense.
    #[error("{0}")]
    Invalid(String),
    /// The solver found a defect.
    #[error("{0}")]
    Internal(String),
}

/// How Debian and its descendants install the emulators.
pub const INSTALL_QEMU: &str = "apt-get install qemu-user-static";

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StepExit {
    /// With an exit code.
    Code(i32),
    /// By a signal.
    Signal(i32),
    /// The kernel killed it for want of memory.
    OutOfMemory,
}

impl From<Exit> for StepExit {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Code(code) => Self::Code(code),
            Exit::Signal(signal) => Self::Signal(signal),
            Exit::OutOfMemory => Self::OutOfMemory,
        }
    }
}

impl fmt::Display for StepExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code: {code}"),
            Self::Signal(signal) => write!(f, "killed by signal {signal}"),
            Self::OutOfMemory => f.write_str("out of memory"),
        }
    }
}

impl Error {
    /// Whether it is about a step that failed and can be entered.
    pub fn can_be_entered(&self) -> bool {
        matches!(self, Self::Step { kept: true, .. } | Self::Sandbox { kept: true, .. })
    }

    /// The exit code that a shell gives for the same, where a program could not be started.
    pub fn shell_exit_code(&self) -> Option<i32> {
        match self {
            Self::Sandbox { source, .. } => source.shell_exit_code(),
            _ => None,
        }
    }

    /// What to try next, one sentence each.
    pub fn hints(&self) -> Vec<String> {
        match self {
            Self::Source(cofferdam_source::Error::Registry(error))
            | Self::Registry(error)
            | Self::Export(cofferdam_export::Error::Registry(error)) => registry_hints(error),
            Self::Store(cofferdam_store::Error::StorageLimit { .. }) => {
                vec!["give it more room: --max-storage, or COFFERDAM_MAX_STORAGE".into()]
            }
            Self::Store(error) if error.is_damage() => {
                vec!["check and repair the state directory: cofferdam store verify".into()]
            }
            Self::NoSteps(_) => vec![
                "build it as root, or in a place where that is allowed".into(),
                "see what it needs, and for which lines: cofferdam build --print-tier".into(),
            ],
            Self::Platform { missing, .. } if matches!(**missing, Missing::Emulator { .. }) => {
                vec![
                    format!("install QEMU's user-mode emulators: {INSTALL_QEMU}"),
                    "or say where they are: --qemu-dir DIR".into(),
                    "what this machine can run: cofferdam platforms".into(),
                ]
            }
            Self::Denied { denied: Denied::NoDevice { .. }, .. } => {
                vec!["devices of this machine: cofferdam platforms".into()]
            }
            Self::Denied { denied, .. } => {
                denied.flag().into_iter().map(|flag| format!("grant it: {flag}")).collect()
            }
            Self::NoSecret { id, .. } => vec![format!(
                "lend it: --secret id={id},src=FILE, or --secret id={id},env=VARIABLE"
            )],
            Self::NoAgent { id } => vec![format!(
                "lend it: --ssh {id} for the agent of SSH_AUTH_SOCK, or --ssh {id}=KEYFILE"
            )],
            Self::NoShell => {
                vec!["run a program that is there: cofferdam debug -- PROGRAM ARGUMENT...".into()]
            }
            Self::Export(cofferdam_export::Error::NothingToLoadInto { .. }) => vec![
                "start one of them, or say where Docker is with DOCKER_HOST".into(),
                "or write an archive: --output type=docker,dest=FILE".into(),
            ],
            _ => Vec::new(),
        }
    }

    /// Who has to do something about it.
    pub fn kind(&self) -> Kind {
        use cofferdam_registry::ErrorKind;
        let registry = |error: &cofferdam_registry::Error| match error.kind() {
            ErrorKind::Local => Kind::Config,
            ErrorKind::NoPlatform => Kind::User,
            _ => Kind::Network,
        };
        match self {
            Self::Step { .. } | Self::Program { .. } => Kind::Build,
            Self::Component(_)
            | Self::File { .. }
            | Self::Llb(_)
            | Self::Denied { .. }
            | Self::NoSecret { .. }
            | Self::NoAgent { .. }
            | Self::Agent { .. }
            | Self::NoShell
            | Self::Unsupported(_)
            | Self::Invalid(_)
            | Self::Session(_) => Kind::User,
            Self::Source(cofferdam_source::Error::Registry(error)) | Self::Registry(error) => {
                registry(error)
            }
            Self::Source(
                cofferdam_source::Error::Store(_) | cofferdam_source::Error::Io { .. },
            )
            | Self::Store(_) => Kind::Config,
            Self::Source(cofferdam_source::Error::Layer { .. }) => Kind::Network,
            Self::Source(
                cofferdam_source::Error::Download(_) | cofferdam_source::Error::Repository { .. },
            ) => Kind::Network,
            Self::Source(_) => Kind::User,
            Self::Export(cofferdam_export::Error::Registry(error)) => registry(error),
            Self::Export(
                cofferdam_export::Error::Config { .. } | cofferdam_export::Error::Options(_),
            ) => Kind::User,
            Self::Export(_) | Self::Platform { .. } => Kind::Config,
            Self::Sandbox { source, .. } => match self.shell_exit_code() {
                Some(_) => Kind::Build,
                None if matches!(source, cofferdam_exec_linux::Error::Invalid(_)) => Kind::User,
                None => Kind::Config,
            },
            Self::NoSteps(_) => Kind::Config,
            Self::Internal(_) => Kind::Internal,
        }
    }
}

/// What to try next with a registry.
fn registry_hints(error: &cofferdam_registry::Error) -> Vec<String> {
    let registry = &error.registry;
    if error.kind() == cofferdam_registry::ErrorKind::Unauthorized {
        return vec![format!("log in first: docker login {registry}")];
    }
    if let cofferdam_registry::Problem::Certificate(_) = *error.problem {
        return vec![format!(
            "name the certificate of its authority in the configuration file: `ca` under \
             [registry.\"{registry}\"]"
        )];
    }
    Vec::new()
}

/// A build that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What went wrong.
    pub error: Arc<Error>,
    /// The step that failed, as the progress display calls it.
    pub step: Option<String>,
    /// The lines of the source that it is about.
    pub excerpts: Vec<Excerpt>,
    /// What to try next, one sentence each.
    pub hints: Vec<String>,
    /// The file with everything that the step printed, if it did.
    pub log: Option<PathBuf>,
    /// What else is wrong with the request.
    pub others: Vec<Diagnostic>,
}

/// One more thing that is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// One line: what is wrong.
    pub message: String,
    /// The lines of the source that it is about.
    pub excerpts: Vec<Excerpt>,
    /// What to try next, one sentence each.
    pub hints: Vec<String>,
}

/// Lines of a source file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Excerpt {
    /// Name of the file.
    pub file: String,
    /// The lines that it is about, with some before and after them.
    pub text: String,
    /// Number of the first line in `text`, counted from 1.
    pub first: u32,
    /// First line that it is about, counted from 1.
    pub start: u32,
    /// Last line that it is about.
    pub end: u32,
    /// First column in the first line, in characters, counted from 1; 0: the whole lines.
    pub start_column: u32,
    /// Last column in the last line, inclusive; 0: to the end of the line.
    pub end_column: u32,
}

impl Excerpt {
    /// Lines before and after those that an excerpt is about.
    const CONTEXT: usize = 3;

    /// Cuts a place out of a file.
    pub(crate) fn of(info: &SourceInfo, place: SourceRange) -> Self {
        let SourceRange { start_line: start, end_line: end, start_column, end_column, .. } = place;
        let skipped = (start as usize).saturating_sub(1 + Self::CONTEXT);
        let last = (end as usize).saturating_add(Self::CONTEXT);
        let lines = info.data.split_inclusive(|byte| *byte == b'\n');
        let lines: Vec<&[u8]> = lines.take(last).skip(skipped).collect();
        Self {
            file: info.filename.clone(),
            text: String::from_utf8_lossy(&lines.concat()).into_owned(),
            first: u32::try_from(skipped).unwrap_or(u32::MAX).saturating_add(1),
            start,
            end,
            start_column,
            end_column,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        let (mut excerpts, mut hints) = (Vec::new(), error.hints());
        let mut others = Vec::new();
        if let Error::Component(cofferdam_component::Error::Build(refusal)) = &error {
            let cut =
                |locations: &[SourceRange]| crate::progress::excerpts(&refusal.sources, locations);
            hints.extend(refusal.hints.iter().cloned());
            excerpts = cut(&refusal.locations);
            others.extend(refusal.others.iter().map(|problem| Diagnostic {
                message: problem.message.clone(),
                excerpts: cut(&problem.locations),
                hints: problem.hints.clone(),
            }));
        }
        Self { error: Arc::new(error), step: None, excerpts, hints, log: None, others }
    }
}

/// A vertex's error, shared by all who waited for it.
#[derive(Clone, Debug)]
pub(crate) struct Shared(pub(crate) Arc<Error>);

impl fmt::Display for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Shared {}

impl Shared {
    /// What a vertex's method returns.
    pub(crate) fn boxed(error: impl Into<Error>) -> cofferdam_solver::VertexError {
        Box::new(Self(Arc::new(error.into())))
    }
}

/// The engine's own error in what the solver returned.
pub(crate) fn from_solver(error: &SolveError) -> (Arc<Error>, Option<String>) {
    let step = match error {
        SolveError::Vertex { name, .. } => Some(name.clone()),
        _ => None,
    };
    let error = match error.downcast_ref::<Shared>() {
        Some(shared) => shared.0.clone(),
        None => Arc::new(Error::Internal(error.to_string())),
    };
    (error, step)
}
