//! The two sides of a build request: what comes in, and what a frontend gives back.

use crate::{Host, HostError, Platform, SourceRange};

/// A frontend: turns requests into ops.
pub trait Frontend {
    /// Builds a request.
    ///
    /// # Errors
    /// Whatever is wrong with the request or its files, or what the host said.
    fn build<H: Host>(host: &H, request: &Request) -> Result<BuildResult<H::Output>, BuildError>;

    /// Says what this frontend is.
    fn describe() -> Description;
}

/// What to build.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Options by name, in the request's order: `filename`, `target`, `build-arg:NAME`, ….
    pub options: Vec<(String, String)>,
    /// Platforms to build for; at least one.
    pub platforms: Vec<Platform>,
    /// The platform of the machine that the build runs on.
    pub build_platform: Platform,
    /// A subrequest instead of a build; empty: build.
    pub subrequest: String,
}

impl Request {
    /// The value of an option; of several, the last.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// All options that start with `prefix`, without it.
    pub fn options_with<'a>(
        &'a self,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a str)> + 'a {
        self.options
            .iter()
            .filter_map(move |(key, value)| Some((key.strip_prefix(prefix)?, value.as_str())))
    }
}

/// The result for one platform.
#[derive(Clone, Debug)]
pub struct PlatformResult<O> {
    /// The platform.
    pub platform: Platform,
    /// The tree; `None` is an empty image.
    pub output: Option<O>,
    /// Image config, JSON in Docker's form; empty when there is none.
    pub config: Vec<u8>,
}

/// What a frontend made.
#[derive(Clone, Debug)]
pub struct BuildResult<O> {
    /// One for each platform of the request, in its order. Empty for a subrequest.
    pub results: Vec<PlatformResult<O>>,
    /// Further results by name.
    pub metadata: Vec<(String, Vec<u8>)>,
}

impl<O: Clone> BuildResult<O> {
    /// The same tree and config for every platform of the request.
    pub fn same_for_all(request: &Request, output: Option<O>, config: Vec<u8>) -> Self {
        let results = request
            .platforms
            .iter()
            .map(|platform| PlatformResult {
                platform: platform.clone(),
                output: output.clone(),
                config: config.clone(),
            })
            .collect();
        Self { results, metadata: Vec::new() }
    }
}

/// Why there is no result.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct BuildError {
    /// One line: what is wrong.
    pub message: String,
    /// Where.
    pub locations: Vec<SourceRange>,
    /// What to try next, one sentence each.
    pub hints: Vec<String>,
    /// What else is wrong, if it does not follow from the first.
    pub others: Vec<Problem>,
}

/// One more thing that is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problem {
    /// One line: what is wrong.
    pub message: String,
    /// Where.
    pub locations: Vec<SourceRange>,
    /// What to try next, one sentence each.
    pub hints: Vec<String>,
}

impl BuildError {
    /// An error without locations and hints.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), ..Self::default() }
    }
}

impl From<HostError> for BuildError {
    fn from(error: HostError) -> Self {
        Self::new(error.to_string())
    }
}

/// What a frontend says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// One paragraph on the language.
    pub summary: String,
    /// Options that it understands, with one line each.
    pub options: Vec<(String, String)>,
    /// Subrequests that it answers.
    pub subrequests: Vec<String>,
}
