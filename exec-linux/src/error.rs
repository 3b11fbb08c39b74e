//! What can go wrong with a step that is not the step's own exit status.

use std::io;

use crate::check::Invalid;
use crate::wire::{Failure, FailureKind};

/// Why a step did not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value of the step cannot be carried out.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The program is not there. A shell would give exit code 127.
    #[error("{0}")]
    ProgramNotFound(String),
    /// The program is there but cannot be executed. A shell would give exit code 126.
    #[error("{0}")]
    ProgramNotExecutable(String),
    /// The sandbox could not be built.
    #[error("{0}")]
    Setup(String),
    /// The step was cancelled; all its processes are gone.
    #[error("the step was cancelled")]
    Cancelled,
    /// A step's network could not be made.
    #[error("{doing}: {source}")]
    Network {
        /// What was being done.
        doing: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The helper process could not be started or spoken to.
    #[error("{doing}: {source}")]
    Helper {
        /// What was being done.
        doing: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The helper process ended without saying how the step ended.
    #[error("the sandbox helper ended without a report: {0}")]
    HelperLost(String),
}

impl Error {
    /// Returns the exit code a shell gives for the same failure, where it has one.
    pub fn shell_exit_code(&self) -> Option<i32> {
        match self {
            Self::ProgramNotFound(_) => Some(127),
            Self::ProgramNotExecutable(_) => Some(126),
            _ => None,
        }
    }

    pub(crate) fn helper(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Helper { doing, source }
    }

    pub(crate) fn network(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Network { doing, source }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let text = failure.to_string();
        match failure.kind {
            FailureKind::Setup => Self::Setup(text),
            FailureKind::NotFound => Self::ProgramNotFound(text),
            FailureKind::NotExecutable => Self::ProgramNotExecutable(text),
        }
    }
}
