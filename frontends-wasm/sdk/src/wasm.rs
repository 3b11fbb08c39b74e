//! The host behind the generated imports, and the way from the generated exports to a
//! [`Frontend`]. Only conversions between the generated types and the plain ones live here.

use std::rc::Rc;

use crate::{self as sdk, Frontend, Host, HostError, Platform};

/// What `wit-bindgen` makes of the contract.
#[expect(missing_docs, clippy::too_many_arguments, reason = "generated from the WIT files")]
pub mod bindings {
    wit_bindgen::generate!({
        path: "../../wit/frontend",
        world: "cofferdam:frontend/frontend",
        pub_export_macro: true,
        default_bindings_module: "cofferdam_sdk::wasm::bindings",
        generate_all,
    });
}

use bindings::cofferdam::frontend::gateway;
use bindings::cofferdam::frontend::types as exported;
use bindings::cofferdam::llb::graph;
use bindings::cofferdam::llb::types as llb;

/// The host of a component: calls go out through the component's imports.
#[derive(Clone, Copy, Debug, Default)]
pub struct WitHost;

/// A handle to an op's output, shared by its clones.
#[derive(Clone, Debug)]
pub struct WitOutput(Rc<graph::Output>);

impl WitOutput {
    fn new(output: graph::Output) -> Self {
        Self(Rc::new(output))
    }

    /// Gives the handle away. When clones of it live on, the host makes a second one: a merge
    /// of one tree is that tree.
    fn into_owned(self) -> Result<graph::Output, HostError> {
        match Rc::try_unwrap(self.0) {
            Ok(output) => Ok(output),
            Err(shared) => graph::merge(&[&*shared], &metadata(&sdk::OpMetadata::default()))
                .map_err(host_error)?
                .ok_or_else(|| HostError::Invalid("a merge of one tree came out empty".into())),
        }
    }
}

/// A tree that was built.
#[derive(Debug)]
pub struct WitSnapshot(gateway::Snapshot);

/// Runs a frontend's `build` for the component's export.
pub fn build<F: Frontend>(
    request: exported::Request,
) -> Result<exported::BuildResult, exported::BuildError> {
    let request = sdk::Request {
        options: request.options,
        platforms: request.platforms.into_iter().map(platform_in).collect(),
        build_platform: platform_in(request.build_platform),
        subrequest: request.subrequest,
    };
    let run = || -> Result<exported::BuildResult, sdk::BuildError> {
        let result = F::build(&WitHost, &request)?;
        let results = result
            .results
            .into_iter()
            .map(|result| {
                Ok(exported::PlatformResult {
                    platform: platform_out(&result.platform),
                    output: result.output.map(WitOutput::into_owned).transpose()?,
                    config: result.config,
                })
            })
            .collect::<Result<_, HostError>>()?;
        Ok(exported::BuildResult { results, metadata: result.metadata })
    };
    run().map_err(|error| exported::BuildError {
        message: error.message,
        locations: locations(&error.locations),
        hints: error.hints,
        others: error
            .others
            .into_iter()
            .map(|problem| exported::Problem {
                message: problem.message,
                locations: locations(&problem.locations),
                hints: problem.hints,
            })
            .collect(),
    })
}

/// Runs a frontend's `describe` for the component's export.
pub fn describe<F: Frontend>() -> exported::Description {
    let description = F::describe();
    exported::Description {
        name: description.name,
        version: description.version,
        summary: description.summary,
        options: description.options,
        subrequests: description.subrequests,
    }
}

impl Host for WitHost {
    type Output = WitOutput;
    type Snapshot = WitSnapshot;

    fn source(
        &self,
        identifier: &str,
        attributes: &[(String, String)],
        platform: Option<&Platform>,
        meta: &sdk::OpMetadata,
    ) -> Result<WitOutput, HostError> {
        let platform = platform.map(platform_out);
        graph::source(identifier, attributes, platform.as_ref(), &metadata(meta))
            .map(WitOutput::new)
            .map_err(host_error)
    }

    fn exec(
        &self,
        op: &sdk::ExecOp<WitOutput>,
        platform: Option<&Platform>,
        meta: &sdk::OpMetadata,
    ) -> Result<Vec<WitOutput>, HostError> {
        let op = graph::ExecOp {
            process: process(&op.process),
            mounts: op.mounts.iter().map(mount).collect(),
            network: match op.network {
                sdk::NetworkMode::Default => llb::NetworkMode::Default,
                sdk::NetworkMode::Host => llb::NetworkMode::Host,
                sdk::NetworkMode::None => llb::NetworkMode::None,
            },
            security: match op.security {
                sdk::SecurityMode::Sandbox => llb::SecurityMode::Sandbox,
                sdk::SecurityMode::Insecure => llb::SecurityMode::Insecure,
            },
            secret_env: op
                .secret_env
                .iter()
                .map(|secret| llb::SecretEnv {
                    id: secret.id.clone(),
                    name: secret.name.clone(),
                    optional: secret.optional,
                })
                .collect(),
            devices: op
                .devices
                .iter()
                .map(|device| llb::Device { name: device.name.clone(), optional: device.optional })
                .collect(),
        };
        let platform = platform.map(platform_out);
        let outputs = graph::exec(&op, platform.as_ref(), &metadata(meta)).map_err(host_error)?;
        Ok(outputs.into_iter().map(WitOutput::new).collect())
    }

    fn file(
        &self,
        actions: &[sdk::FileAction<WitOutput>],
        meta: &sdk::OpMetadata,
    ) -> Result<Vec<WitOutput>, HostError> {
        let actions: Vec<_> = actions.iter().map(file_action).collect();
        let outputs = graph::file(&actions, &metadata(meta)).map_err(host_error)?;
        Ok(outputs.into_iter().map(WitOutput::new).collect())
    }

    fn merge(
        &self,
        inputs: &[WitOutput],
        meta: &sdk::OpMetadata,
    ) -> Result<Option<WitOutput>, HostError> {
        let inputs: Vec<&graph::Output> = inputs.iter().map(|output| &*output.0).collect();
        let merged = graph::merge(&inputs, &metadata(meta)).map_err(host_error)?;
        Ok(merged.map(WitOutput::new))
    }

    fn diff(
        &self,
        lower: Option<&WitOutput>,
        upper: Option<&WitOutput>,
        meta: &sdk::OpMetadata,
    ) -> Result<Option<WitOutput>, HostError> {
        let lower = lower.map(|output| &*output.0);
        let upper = upper.map(|output| &*output.0);
        let diff = graph::diff(lower, upper, &metadata(meta)).map_err(host_error)?;
        Ok(diff.map(WitOutput::new))
    }

    fn from_definition(&self, definition: &[Vec<u8>]) -> Result<Option<WitOutput>, HostError> {
        let output = graph::from_definition(definition).map_err(host_error)?;
        Ok(output.map(WitOutput::new))
    }

    fn add_source(&self, filename: &str, language: &str, data: &[u8]) -> u32 {
        graph::add_source(filename, language, data)
    }

    fn solve(&self, output: &WitOutput) -> Result<WitSnapshot, HostError> {
        gateway::solve(&output.0).map(WitSnapshot).map_err(host_error)
    }

    fn resolve_image(
        &self,
        reference: &str,
        platform: Option<&Platform>,
        mode: sdk::ResolveMode,
        log_name: &str,
    ) -> Result<sdk::ResolvedImage, HostError> {
        let mode = match mode {
            sdk::ResolveMode::Default => gateway::ResolveMode::Default,
            sdk::ResolveMode::Pull => gateway::ResolveMode::Pull,
            sdk::ResolveMode::Local => gateway::ResolveMode::Local,
        };
        let platform = platform.map(platform_out);
        let image = gateway::resolve_image(reference, platform.as_ref(), mode, log_name)
            .map_err(host_error)?;
        Ok(sdk::ResolvedImage {
            reference: image.reference,
            digest: image.digest,
            config: image.config,
        })
    }

    fn warn(&self, warning: &sdk::Warning) {
        gateway::warn(&gateway::Warning {
            short: warning.short.clone(),
            detail: warning.detail.clone(),
            url: warning.url.clone(),
            locations: locations(&warning.locations),
        });
    }

    fn named_input(&self, name: &str) -> Result<Option<WitOutput>, HostError> {
        Ok(gateway::named_input(name).map_err(host_error)?.map(WitOutput::new))
    }

    fn call_frontend(
        &self,
        source: &str,
        options: &[(String, String)],
    ) -> Result<Option<WitOutput>, HostError> {
        Ok(gateway::call_frontend(source, options).map_err(host_error)?.map(WitOutput::new))
    }
}

/// The most that the host gives out in one read.
const READ_LIMIT: u32 = 16 << 20;

impl sdk::Snapshot for WitSnapshot {
    fn read_file(&self, path: &str) -> Result<Vec<u8>, HostError> {
        let mut data = Vec::new();
        loop {
            let piece =
                self.0.read_file(path, data.len() as u64, READ_LIMIT).map_err(host_error)?;
            data.extend_from_slice(&piece);
            if piece.len() < READ_LIMIT as usize {
                return Ok(data);
            }
        }
    }

    fn read_start(&self, path: &str, limit: u32) -> Result<Vec<u8>, HostError> {
        self.0.read_file(path, 0, limit.min(READ_LIMIT)).map_err(host_error)
    }

    fn read_dir(&self, path: &str, pattern: &str) -> Result<Vec<sdk::FileStat>, HostError> {
        let entries = self.0.read_dir(path, pattern).map_err(host_error)?;
        Ok(entries.into_iter().map(file_stat).collect())
    }

    fn stat_file(&self, path: &str) -> Result<sdk::FileStat, HostError> {
        self.0.stat_file(path).map(file_stat).map_err(host_error)
    }
}

fn host_error(error: llb::Error) -> HostError {
    match error {
        llb::Error::Invalid(message) => HostError::Invalid(message),
        llb::Error::NotFound(message) => HostError::NotFound(message),
        llb::Error::Unsupported(message) => HostError::Unsupported(message),
        llb::Error::BuildFailed(message) => HostError::BuildFailed(message),
    }
}

fn platform_in(platform: llb::Platform) -> Platform {
    Platform {
        os: platform.os,
        architecture: platform.architecture,
        variant: platform.variant,
        ..Platform::default()
    }
}

fn platform_out(platform: &Platform) -> llb::Platform {
    llb::Platform {
        os: platform.os.clone(),
        architecture: platform.architecture.clone(),
        variant: platform.variant.clone(),
    }
}

fn locations(locations: &[sdk::SourceRange]) -> Vec<llb::SourceRange> {
    let convert = |range: &sdk::SourceRange| llb::SourceRange {
        source: range.source,
        start_line: range.start_line,
        end_line: range.end_line,
        start_column: range.start_column,
        end_column: range.end_column,
    };
    locations.iter().map(convert).collect()
}

fn metadata(metadata: &sdk::OpMetadata) -> llb::OpMetadata {
    llb::OpMetadata {
        name: metadata.name.clone(),
        ignore_cache: metadata.ignore_cache,
        description: metadata.description.clone(),
        locations: locations(&metadata.locations),
    }
}

fn process(process: &sdk::Process) -> llb::Process {
    llb::Process {
        args: process.args.clone(),
        env: process.env.clone(),
        cwd: process.cwd.clone(),
        user: process.user.clone(),
        hostname: process.hostname.clone(),
        proxy: process.proxy.as_ref().map(|proxy| llb::ProxyEnv {
            http: proxy.http.clone(),
            https: proxy.https.clone(),
            ftp: proxy.ftp.clone(),
            no_proxy: proxy.no_proxy.clone(),
            all: proxy.all.clone(),
        }),
        extra_hosts: process
            .extra_hosts
            .iter()
            .map(|host| llb::ExtraHost { host: host.host.clone(), ip: host.ip.clone() })
            .collect(),
        ulimits: process
            .ulimits
            .iter()
            .map(|limit| llb::Ulimit {
                name: limit.name.clone(),
                soft: limit.soft,
                hard: limit.hard,
            })
            .collect(),
        cgroup_parent: process.cgroup_parent.clone(),
        remove_mount_stubs_recursive: process.remove_mount_stubs_recursive,
        valid_exit_codes: process.valid_exit_codes.clone(),
    }
}

fn mount(mount: &sdk::Mount<WitOutput>) -> graph::Mount<'_> {
    let secret = |secret: &sdk::SecretMount| graph::SecretMount {
        id: secret.id.clone(),
        uid: secret.uid,
        gid: secret.gid,
        mode: secret.mode,
        optional: secret.optional,
    };
    let kind = match &mount.kind {
        sdk::MountKind::Bind(bind) => graph::MountKind::Bind(graph::BindMount {
            selector: bind.selector.clone(),
            readonly: bind.readonly,
            has_output: bind.has_output,
        }),
        sdk::MountKind::Cache(cache) => graph::MountKind::Cache(graph::CacheMount {
            id: cache.id.clone(),
            selector: cache.selector.clone(),
            sharing: match cache.sharing {
                sdk::CacheSharing::Shared => llb::CacheSharing::Shared,
                sdk::CacheSharing::Private => llb::CacheSharing::Private,
                sdk::CacheSharing::Locked => llb::CacheSharing::Locked,
            },
            readonly: cache.readonly,
        }),
        sdk::MountKind::Tmpfs(size) => graph::MountKind::Tmpfs(*size),
        sdk::MountKind::Secret(details) => graph::MountKind::Secret(secret(details)),
        sdk::MountKind::Ssh(details) => graph::MountKind::Ssh(secret(details)),
    };
    let source = mount.source.as_ref().map(|output| &*output.0);
    graph::Mount { dest: mount.dest.clone(), source, kind }
}

fn action_input(input: &sdk::ActionInput<WitOutput>) -> graph::ActionInput<'_> {
    match input {
        sdk::ActionInput::Scratch => graph::ActionInput::Scratch,
        sdk::ActionInput::Output(output) => graph::ActionInput::Output(&output.0),
        sdk::ActionInput::Action(index) => graph::ActionInput::Action(*index),
    }
}

fn ownership(owner: &Option<sdk::Ownership>) -> Option<llb::Ownership> {
    let principal = |principal: &sdk::Principal| match principal {
        sdk::Principal::Id(id) => llb::Principal::Id(*id),
        sdk::Principal::Name(name) => llb::Principal::Name(name.clone()),
    };
    owner.as_ref().map(|owner| llb::Ownership {
        user: owner.user.as_ref().map(principal),
        group: owner.group.as_ref().map(principal),
    })
}

fn file_action(action: &sdk::FileAction<WitOutput>) -> graph::FileAction<'_> {
    let kind = match &action.kind {
        sdk::ActionKind::Copy(copy) => graph::ActionKind::Copy(graph::CopyAction {
            from: action_input(&copy.from),
            src: copy.src.clone(),
            dest: copy.dest.clone(),
            owner: ownership(&copy.owner),
            mode: copy.mode,
            mode_string: copy.mode_string.clone(),
            follow_symlink: copy.follow_symlink,
            dir_copy_contents: copy.dir_copy_contents,
            attempt_unpack: copy.attempt_unpack,
            create_dest_path: copy.create_dest_path,
            allow_wildcard: copy.allow_wildcard,
            allow_empty_wildcard: copy.allow_empty_wildcard,
            timestamp: copy.timestamp,
            include_patterns: copy.include_patterns.clone(),
            exclude_patterns: copy.exclude_patterns.clone(),
            always_replace_existing: copy.always_replace_existing,
            required_paths: copy.required_paths.clone(),
        }),
        sdk::ActionKind::Mkfile(mkfile) => graph::ActionKind::Mkfile(graph::MkfileAction {
            path: mkfile.path.clone(),
            mode: mkfile.mode,
            data: mkfile.data.clone(),
            owner: ownership(&mkfile.owner),
            timestamp: mkfile.timestamp,
        }),
        sdk::ActionKind::Mkdir(mkdir) => graph::ActionKind::Mkdir(graph::MkdirAction {
            path: mkdir.path.clone(),
            mode: mkdir.mode,
            make_parents: mkdir.make_parents,
            owner: ownership(&mkdir.owner),
            timestamp: mkdir.timestamp,
        }),
        sdk::ActionKind::Rm(rm) => graph::ActionKind::Rm(graph::RmAction {
            path: rm.path.clone(),
            allow_not_found: rm.allow_not_found,
            allow_wildcard: rm.allow_wildcard,
        }),
        sdk::ActionKind::Symlink(link) => graph::ActionKind::Symlink(graph::SymlinkAction {
            oldpath: link.oldpath.clone(),
            newpath: link.newpath.clone(),
            owner: ownership(&link.owner),
            timestamp: link.timestamp,
        }),
    };
    graph::FileAction { input: action_input(&action.input), kind, has_output: action.has_output }
}

fn file_stat(stat: gateway::FileStat) -> sdk::FileStat {
    sdk::FileStat {
        name: stat.name,
        kind: match stat.kind {
            gateway::FileKind::Regular => sdk::FileKind::Regular,
            gateway::FileKind::Directory => sdk::FileKind::Directory,
            gateway::FileKind::Symlink => sdk::FileKind::Symlink,
            gateway::FileKind::CharacterDevice => sdk::FileKind::CharacterDevice,
            gateway::FileKind::BlockDevice => sdk::FileKind::BlockDevice,
            gateway::FileKind::Fifo => sdk::FileKind::Fifo,
            gateway::FileKind::Socket => sdk::FileKind::Socket,
        },
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        size: stat.size,
        mtime: stat.mtime,
        link_target: stat.link_target,
    }
}
