//! What can be wrong with a Dockerfile or a request, where, and what to do about it.

use std::fmt;

use cofferdam_sdk as sdk;
use cofferdam_sdk::{BuildError, HostError, SourceRange};

use crate::locate::{Place, SourceText};
use crate::suggest::nearest;

/// How many problems of one file are told.
pub(crate) const MOST_PROBLEMS: usize = 20;

/// Lines of a Dockerfile, counted from 1, both ends included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    /// First line.
    pub start: u32,
    /// Last line.
    pub end: u32,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The first word of a line is no instruction.
    #[error("unknown instruction `{name}`")]
    UnknownInstruction {
        /// The word.
        name: String,
        /// The nearest instruction.
        nearest: Option<String>,
    },
    /// An instruction has no such flag.
    #[error("unknown flag `--{flag}` of {instruction}")]
    UnknownFlag {
        /// The instruction.
        instruction: &'static str,
        /// The flag, without dashes.
        flag: String,
        /// The nearest flag.
        nearest: Option<String>,
    },
    /// A flag, argument or option has a value that it cannot have.
    #[error("invalid {what} `{value}`: expected {expected}")]
    InvalidValue {
        /// What the value is for.
        what: String,
        /// The value.
        value: String,
        /// What would be valid.
        expected: String,
    },
    /// The arguments of an instruction do not fit.
    #[error("{instruction} {expected}")]
    Arguments {
        /// The instruction.
        instruction: &'static str,
        /// What it requires, as a predicate.
        expected: String,
    },
    /// A file, a line, a heredoc or a statement that is not well formed.
    #[error("{0}")]
    Syntax(String),
    /// A word cannot be expanded.
    #[error("cannot expand `{word}`: {reason}")]
    Expansion {
        /// The word.
        word: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A stage that does not exist.
    #[error("there is no stage `{name}`")]
    UnknownStage {
        /// Its name or number.
        name: String,
        /// The nearest stage name.
        nearest: Option<String>,
    },
    /// A stage that is used before it is built.
    #[error("stage `{name}` is used before its end")]
    LaterStage {
        /// Its name or number.
        name: String,
    },
    /// Something of the language or of BuildKit's options that Cofferdam does not have yet.
    #[error("{0} is not supported yet")]
    Unsupported(String),
    /// The host does not find an image or another source that an instruction names.
    #[error("{reason}")]
    UnknownSource {
        /// Its name.
        name: String,
        /// What the host says.
        reason: String,
        /// The nearest stage name.
        nearest: Option<String>,
    },
    /// A stage that this one needs has problems of its own.
    #[error("another stage that this one needs has errors")]
    Base,
    /// Checks found something, and the file says that this is an error.
    #[error("checks found something, and are to be errors: {}", .0.join(", "))]
    Checks(Vec<&'static str>),
    /// So many problems more, which nobody would read.
    #[error("and {0} more errors in the file")]
    More(usize),
    /// The host refused or failed.
    #[error("{0}")]
    Host(#[from] HostError),
}

impl Problem {
    /// Makes an [`Problem::InvalidValue`].
    pub fn invalid(
        what: impl Into<String>,
        value: impl Into<String>,
        expected: impl Into<String>,
    ) -> Self {
        Self::InvalidValue { what: what.into(), value: value.into(), expected: expected.into() }
    }

    /// Makes an [`Problem::UnknownStage`] that suggests one of `known`.
    pub fn unknown_stage<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        let nearest = nearest(name, known).map(str::to_owned);
        Self::UnknownStage { name: name.into(), nearest }
    }

    /// The next step, one sentence.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownInstruction { nearest: Some(nearest), .. }
            | Self::UnknownStage { nearest: Some(nearest), .. } => {
                Some(format!("did you mean `{nearest}`?"))
            }
            Self::UnknownFlag { nearest: Some(nearest), .. } => {
                Some(format!("did you mean `--{nearest}`?"))
            }
            Self::UnknownSource { nearest: Some(nearest), .. } => {
                Some(format!("did you mean the stage `{nearest}`?"))
            }
            Self::InvalidValue { value, expected, .. } => {
                // What is expected names in backquotes the values that there are.
                let values = expected.split('`').skip(1).step_by(2);
                let is_word = |text: &&str| text.len() > 2 && text.chars().all(char::is_alphabetic);
                let near = nearest(value, values.filter(is_word).filter(|near| near != value));
                near.map(|near| format!("did you mean `{near}`?"))
            }
            Self::LaterStage { .. } => {
                Some("move the stage in front of the instruction that uses it".into())
            }
            _ => None,
        }
    }

    /// What the problem is about as the user may have written it, the closest first.
    fn about(&self) -> Vec<String> {
        match self {
            Self::UnknownInstruction { name, .. }
            | Self::UnknownStage { name, .. }
            | Self::LaterStage { name } => vec![name.clone()],
            Self::UnknownFlag { flag, .. } => vec![format!("--{flag}")],
            Self::InvalidValue { what, value, .. } => {
                // A value that only came of expansion is not there, but its flag or option is.
                let option = what.split_whitespace().find(|word| word.starts_with("--"));
                let quoted = what.split('`').nth(1).map(|key| format!("{key}="));
                [Some(value.clone()), quoted, option.map(str::to_owned)]
                    .into_iter()
                    .flatten()
                    .collect()
            }
            Self::Expansion { word, .. } => vec![word.clone()],
            Self::UnknownSource { name, .. } => vec![name.clone()],
            Self::Syntax(text) | Self::Unsupported(text) => {
                text.split('`').nth(1).map(str::to_owned).into_iter().collect()
            }
            Self::Arguments { expected, .. } => {
                let quoted = expected.split('`').nth(1).filter(|text| text.starts_with("--"));
                quoted.map(str::to_owned).into_iter().collect()
            }
            Self::Base | Self::Checks(_) | Self::More(_) | Self::Host(_) => Vec::new(),
        }
    }

    /// Says where the problem is.
    pub fn at(self, lines: Lines) -> Located {
        Located { problem: self, lines: Some(lines), place: None, text: None }
    }
}

/// A problem with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// What is wrong.
    pub problem: Problem,
    /// Where; `None` when it is not in the file.
    pub lines: Option<Lines>,
    /// Which part of the lines, once the file is known and if it is there.
    pub place: Option<Place>,
    /// The line of the place, or the first of the lines, once the file is known.
    pub text: Option<String>,
}

impl From<Problem> for Located {
    fn from(problem: Problem) -> Self {
        Self { problem, lines: None, place: None, text: None }
    }
}

impl From<HostError> for Located {
    fn from(error: HostError) -> Self {
        Problem::Host(error).into()
    }
}

/// Everything that is wrong with one file or request; at least one problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errors {
    /// Name of the Dockerfile.
    pub filename: String,
    /// What is wrong, in the file's order.
    pub problems: Vec<Located>,
}

impl Errors {
    /// Joins problems and looks their places up in the file.
    pub fn new(filename: &str, source: &str, mut problems: Vec<Located>) -> Self {
        let source = SourceText::new(source);
        let left_out = problems.len().saturating_sub(MOST_PROBLEMS);
        problems.truncate(MOST_PROBLEMS);
        for problem in &mut problems {
            let Some(lines) = problem.lines else { continue };
            let about = problem.problem.about();
            problem.place = source.find(lines, about.iter().map(String::as_str)).or_else(|| {
                let whole = matches!(problem.problem, Problem::Host(_));
                source.first_word(lines).filter(|_| !whole)
            });
            let line = problem.place.map_or(lines.start, |place| place.line);
            problem.text = Some(source.line(line).chars().take(200).collect());
        }
        if left_out > 0 {
            problems.push(Problem::More(left_out).into());
        }
        Self { filename: filename.into(), problems }
    }

    /// The form in which a component returns it; `source` is the number of the source file.
    pub fn into_build_error(self, source: Option<u32>) -> BuildError {
        let mut problems = self.problems.iter().map(|located| {
            let range = |source| match (located.place, located.lines) {
                (Some(place), _) => Some(place.range(source)),
                (None, lines) => {
                    lines.map(|lines| SourceRange::lines(source, lines.start, lines.end))
                }
            };
            sdk::Problem {
                message: self.headline(located),
                locations: source.and_then(range).into_iter().collect(),
                hints: located.problem.hint().into_iter().collect(),
            }
        });
        let first = problems.next().unwrap_or_default();
        BuildError {
            message: first.message,
            locations: first.locations,
            hints: first.hints,
            others: problems.collect(),
        }
    }

    fn headline(&self, located: &Located) -> String {
        match located.lines {
            Some(lines) => format!("{}:{}: {}", self.filename, lines.start, located.problem),
            None if matches!(located.problem, Problem::More(_)) => located.problem.to_string(),
            None if self.filename.is_empty() => located.problem.to_string(),
            None => format!("{}: {}", self.filename, located.problem),
        }
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, located) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}", self.headline(located))?;
            if let (Some(lines), Some(text)) = (located.lines, &located.text) {
                let line = located.place.map_or(lines.start, |place| place.line);
                write!(f, "\n  {line} | {text}")?;
            }
            if let Some(hint) = located.problem.hint() {
                write!(f, "\n  hint: {hint}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}
