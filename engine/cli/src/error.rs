//! What the program itself can find wrong, before and after the engine does its part, and which
//! exit code each kind of error has. How errors look is the report's business.

use std::io;
use std::path::PathBuf;

use cofferdam_build::Kind;

/// The exit codes, as `--help` documents them.
pub mod exit {
    /// The build succeeded.
    pub const OK: u8 = 0;
    /// A step of the build failed.
    pub const BUILD: u8 = 1;
    /// The request was wrong: a bad Dockerfile, a bad option.
    pub const USER: u8 = 2;
    /// A registry or the network failed.
    pub const NETWORK: u8 = 3;
    /// The configuration or the machine lacks something.
    pub const CONFIGURATION: u8 = 4;
    /// A defect in the engine.
    pub const INTERNAL: u8 = 70;
    /// Interrupted by a signal.
    pub const INTERRUPTED: u8 = 130;
}

/// The exit code of each kind of error.
pub fn exit_code(kind: Kind) -> u8 {
    match kind {
        Kind::Build => exit::BUILD,
        Kind::User => exit::USER,
        Kind::Network => exit::NETWORK,
        Kind::Config => exit::CONFIGURATION,
        Kind::Internal => exit::INTERNAL,
    }
}

/// What is wrong outside the engine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line cannot be meant like that.
    #[error("{message}")]
    Usage {
        /// What is wrong, with the flag.
        message: String,
        /// What to try next, one sentence each.
        hints: Vec<String>,
    },
    /// A file that the user named cannot be used.
    #[error("cannot {action} `{}`: {source}", path.display())]
    File {
        /// What was to be done: `read the Dockerfile`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it cannot be done.
        source: io::Error,
    },
    /// The state directory is somebody else's.
    #[error("the state directory `{}` belongs to {owner}, not to {user}, who runs this", root.display())]
    Owner {
        /// The state directory.
        root: PathBuf,
        /// Whose it is, by name where there is one.
        owner: String,
        /// Who runs the program.
        user: String,
    },
    /// What the program reads by itself from the user's or the machine's set-up is wrong.
    #[error("{0}")]
    Configuration(String),
    /// The engine. Boxed, because its errors are large and this one is everywhere.
    #[error(transparent)]
    Engine(Box<cofferdam_build::Error>),
    /// The file for `debug dump-llb` is not what it should be.
    #[error("`{name}` is not a BuildKit definition: {source}")]
    Definition {
        /// The file's name.
        name: String,
        /// Why.
        source: cofferdam_llb::Error,
    },
}

impl From<cofferdam_build::Error> for Error {
    fn from(error: cofferdam_build::Error) -> Self {
        Self::Engine(Box::new(error))
    }
}

impl Error {
    /// A wrong command line.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), hints: Vec::new() }
    }

    /// Adds what to try next to a wrong command line.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        if let Self::Usage { hints, .. } = &mut self {
            hints.push(hint.into());
        }
        self
    }

    /// What to try next.
    pub fn hints(&self) -> Vec<String> {
        match self {
            Self::Usage { hints, .. } => hints.clone(),
            Self::Engine(error) => error.hints(),
            Self::Owner { owner, .. } => vec![format!(
                "with files of both it would be of use to neither: run this as {owner} \
                 (sudo -u {owner} cofferdam ...), or name another directory with --root"
            )],
            _ => Vec::new(),
        }
    }

    /// Who has to do something about it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Usage { .. } | Self::File { .. } | Self::Definition { .. } => Kind::User,
            Self::Configuration(_) | Self::Owner { .. } => Kind::Config,
            Self::Engine(error) => error.kind(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_the_help() {
        let kinds = [Kind::Build, Kind::User, Kind::Network, Kind::Config, Kind::Internal];
        assert_eq!(kinds.map(exit_code), [1, 2, 3, 4, 70]);
        let missing = Error::File {
            action: "read the Dockerfile",
            path: "/x/Dockerfile".into(),
            source: io::ErrorKind::NotFound.into(),
        };
        assert_eq!(exit_code(missing.kind()), exit::USER);
        assert_eq!(exit_code(Error::Configuration(String::new()).kind()), exit::CONFIGURATION);
        let defect = Error::from(cofferdam_build::Error::Internal("x".into()));
        assert_eq!(exit_code(defect.kind()), exit::INTERNAL);
    }
}
