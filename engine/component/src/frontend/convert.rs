//! Turns the records of the WIT into checked types, and answers back into records.

use std::collections::BTreeMap;

use cofferdam_llb as llb;
use cofferdam_types::Platform;
use wasmtime::component::ResourceTable;

use super::bindings::cofferdam::frontend::types as frontend;
use super::bindings::cofferdam::llb::types as wit;
use super::{BuildError, Description, HostError, PlatformResult, Problem, Request, SourceRange};
use crate::error::Stop;

/// Longest string of those that name something.
const MAX_TEXT: usize = 64 << 10;

/// An error that the guest is told.
pub(super) fn invalid(what: impl std::fmt::Display) -> wit::Error {
    wit::Error::Invalid(what.to_string())
}

/// What the host could not answer: told to the guest, unless it ends the run.
pub(super) fn host_error(error: HostError) -> wasmtime::Result<wit::Error> {
    Ok(match error {
        HostError::Invalid(text) => wit::Error::Invalid(text),
        HostError::NotFound(text) => wit::Error::NotFound(text),
        HostError::Unsupported(text) => wit::Error::Unsupported(text),
        HostError::BuildFailed(text) => wit::Error::BuildFailed(text),
        HostError::Stop(text) => return Err(Stop::Host(text).into()),
    })
}

/// Checks a name or reference of the guest.
pub(super) fn text<'a>(what: &str, text: &'a str) -> Result<&'a str, wit::Error> {
    if text.is_empty() || text.len() > MAX_TEXT || text.chars().any(char::is_control) {
        let limit = MAX_TEXT >> 10;
        return Err(invalid(format!(
            "{what}: expected 1 byte to {limit} KiB without control characters"
        )));
    }
    Ok(text)
}

/// Checks a platform. It is not normalised: its spelling is part of an op's digest.
pub(super) fn platform(platform: wit::Platform) -> Result<Platform, wit::Error> {
    let valid = |part: &str| {
        part.len() <= 64 && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    let wit::Platform { os, architecture, variant } = platform;
    if os.is_empty()
        || architecture.is_empty()
        || ![&os, &architecture, &variant].into_iter().all(|part| valid(part))
    {
        return Err(invalid(format!(
            "platform {os:?}/{architecture:?}/{variant:?}: expected letters, digits, `-`, `_`, `.`"
        )));
    }
    Ok(Platform { os, architecture, variant, ..Platform::default() })
}

fn from_platform(platform: Platform) -> wit::Platform {
    let Platform { os, architecture, variant, .. } = platform;
    wit::Platform { os, architecture, variant }
}

/// Checks that ranges point into files that were registered.
pub(super) fn ranges(
    ranges: Vec<wit::SourceRange>,
    files: usize,
) -> Result<Vec<SourceRange>, wit::Error> {
    let convert = |range: wit::SourceRange| {
        let wit::SourceRange { source, start_line, end_line, start_column, end_column } = range;
        if source as usize >= files {
            return Err(invalid(format!("location: no source file has the number {source}")));
        }
        if start_line == 0 || end_line < start_line || end_line > i32::MAX as u32 {
            return Err(invalid(format!(
                "location: lines {start_line} to {end_line}, expected a range counted from 1"
            )));
        }
        let backwards = end_column != 0 && end_column < start_column && start_line == end_line;
        if backwards || start_column.max(end_column) > i32::MAX as u32 {
            return Err(invalid(format!(
                "location: columns {start_column} to {end_column}, expected a range counted from 1"
            )));
        }
        Ok(SourceRange { source, start_line, end_line, start_column, end_column })
    };
    ranges.into_iter().map(convert).collect()
}

/// Makes a map of pairs; the last of equal keys wins, as in a JSON object.
pub(super) fn map(pairs: Vec<(String, String)>) -> BTreeMap<String, String> {
    pairs.into_iter().collect()
}

pub(super) fn ownership(ownership: Option<wit::Ownership>) -> Option<llb::Owner> {
    let principal = |principal| match principal {
        wit::Principal::Id(id) => llb::UserSpec::Id(id),
        // Which tree knows the name is filled in by `llb::build::file`.
        wit::Principal::Name(name) => llb::UserSpec::Name(llb::NamedUser { name, input: None }),
    };
    ownership.map(|owner| llb::Owner {
        user: owner.user.map(principal),
        group: owner.group.map(principal),
    })
}

impl From<wit::Process> for llb::Meta {
    fn from(process: wit::Process) -> Self {
        Self {
            args: process.args,
            env: process.env,
            cwd: process.cwd,
            user: process.user,
            proxy_env: process.proxy.map(|proxy| llb::ProxyEnv {
                http_proxy: proxy.http,
                https_proxy: proxy.https,
                ftp_proxy: proxy.ftp,
                no_proxy: proxy.no_proxy,
                all_proxy: proxy.all,
            }),
            extra_hosts: process
                .extra_hosts
                .into_iter()
                .map(|wit::ExtraHost { host, ip }| llb::HostIp { host, ip })
                .collect(),
            hostname: process.hostname,
            ulimits: process
                .ulimits
                .into_iter()
                .map(|wit::Ulimit { name, soft, hard }| llb::Ulimit { name, soft, hard })
                .collect(),
            cgroup_parent: process.cgroup_parent,
            remove_mount_stubs_recursive: process.remove_mount_stubs_recursive,
            valid_exit_codes: process.valid_exit_codes,
        }
    }
}

impl From<Request> for frontend::Request {
    fn from(request: Request) -> Self {
        Self {
            options: request.options.into_iter().collect(),
            platforms: request.platforms.into_iter().map(from_platform).collect(),
            build_platform: from_platform(request.build_platform),
            subrequest: request.subrequest,
        }
    }
}

impl From<frontend::Description> for Description {
    fn from(description: frontend::Description) -> Self {
        let frontend::Description { name, version, summary, options, subrequests } = description;
        Self { name, version, summary, options, subrequests }
    }
}

/// Takes the frontend's own error; locations that lead nowhere are left out, so that they do
/// not hide what it says.
pub(super) fn build_error(
    error: frontend::BuildError,
    sources: Vec<llb::SourceInfo>,
) -> BuildError {
    let valid = |locations: Vec<wit::SourceRange>| -> Vec<SourceRange> {
        let valid = |range| ranges(vec![range], sources.len()).ok()?.pop();
        locations.into_iter().filter_map(valid).collect()
    };
    let other = |problem: frontend::Problem| Problem {
        message: problem.message,
        locations: valid(problem.locations),
        hints: problem.hints,
    };
    let locations = valid(error.locations);
    let others = error.others.into_iter().map(other).collect();
    BuildError { message: error.message, locations, hints: error.hints, others, sources }
}

/// Checks that there is one result for each platform.
pub(super) fn results(
    results: Vec<frontend::PlatformResult>,
    platforms: &[Platform],
    table: &ResourceTable,
) -> Result<Vec<PlatformResult>, String> {
    if results.len() != platforms.len() {
        return Err(format!("{} results, expected {}", results.len(), platforms.len()));
    }
    let convert = |(result, wanted): (frontend::PlatformResult, &Platform)| {
        let made = platform(result.platform).map_err(|error| error.to_string())?;
        if (&made.os, &made.architecture, &made.variant)
            != (&wanted.os, &wanted.architecture, &wanted.variant)
        {
            return Err(format!("a result for {made}, expected one for {wanted}"));
        }
        let output = result
            .output
            .map(|output| table.get(&output).map(|handle| handle.0))
            .transpose()
            .map_err(|error| error.to_string())?;
        // What the WIT has no words for (Windows versions) comes from the request.
        Ok(PlatformResult { platform: wanted.clone(), output, config: result.config })
    };
    results.into_iter().zip(platforms).map(convert).collect()
}
