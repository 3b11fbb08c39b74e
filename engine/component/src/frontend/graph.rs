//! Answers `cofferdam:llb/graph`: every call makes an op in the run's graph.

use std::collections::BTreeMap;

use cofferdam_llb as llb;
use wasmtime::component::Resource;

use super::bindings::cofferdam::llb::{graph, types as wit};
use super::{FrontendState, Subgraph, convert};
use crate::error::Stop;
use crate::runtime::State;

/// Source files that one run may register, and bytes of all of them.
const MAX_SOURCES: usize = 1000;
const MAX_SOURCE_BYTES: usize = 64 << 20;
/// Locations that one run may give to its ops.
const MAX_LOCATIONS: usize = 200_000;
/// The description that the progress display takes an op's name from.
const CUSTOM_NAME: &str = "llb.customname";

/// One output of one op.
pub struct OutputHandle(pub(super) llb::Edge);

type Guest = State<FrontendState>;
type Output = Resource<OutputHandle>;
type Answer<T> = wasmtime::Result<Result<T, wit::Error>>;

/// Why there is no op: the guest is told, or stopped.
pub(super) enum Failure {
    Tell(wit::Error),
    Stop(wasmtime::Error),
}

impl From<wit::Error> for Failure {
    fn from(error: wit::Error) -> Self {
        Self::Tell(error)
    }
}

impl From<llb::Error> for Failure {
    fn from(error: llb::Error) -> Self {
        Self::Tell(convert::invalid(error))
    }
}

impl From<wasmtime::component::ResourceTableError> for Failure {
    fn from(error: wasmtime::component::ResourceTableError) -> Self {
        Self::Stop(error.into())
    }
}

impl From<Stop> for Failure {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop.into())
    }
}

pub(super) fn answer<T>(result: Result<T, Failure>) -> Answer<T> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(Failure::Tell(error)) => Ok(Err(error)),
        Err(Failure::Stop(error)) => Err(error),
    }
}

impl Guest {
    fn edge(&self, output: &Output) -> Result<llb::Edge, Failure> {
        Ok(self.table.get(output)?.0)
    }

    pub(super) fn output(&mut self, edge: llb::Edge) -> Result<Output, Failure> {
        Ok(self.table.push(OutputHandle(edge))?)
    }

    fn check_room(&self) -> Result<(), Failure> {
        let limit = self.meter.limits().ops;
        if self.host.graph.len() >= limit {
            return Err(Stop::TooMany { what: "ops", limit }.into());
        }
        Ok(())
    }

    /// Makes an op with its metadata and locations.
    fn insert(
        &mut self,
        op: llb::Op,
        metadata: wit::OpMetadata,
    ) -> Result<cofferdam_types::Digest, Failure> {
        self.check_room()?;
        let state = &mut self.host;
        let ranges = convert::ranges(metadata.locations, state.source.infos.len())?;
        let mut description = convert::map(metadata.description);
        description.extend(metadata.name.map(|name| (CUSTOM_NAME.to_owned(), name)));
        let metadata = llb::OpMetadata {
            ignore_cache: metadata.ignore_cache,
            description,
            ..llb::OpMetadata::default()
        };
        let digest = state.graph.insert(op, metadata)?;
        if ranges.is_empty() {
            return Ok(digest);
        }
        state.locations += ranges.len();
        if state.locations > MAX_LOCATIONS {
            return Err(Stop::TooMany { what: "source locations", limit: MAX_LOCATIONS }.into());
        }
        let line = |line: u32| {
            let line = i32::try_from(line).expect("`ranges` lets no larger line through");
            Some(llb::Position { line, character: 0 })
        };
        let known = state.source.locations.entry(digest).or_default();
        for range in ranges {
            let location = llb::Location {
                source_index: i32::try_from(range.source).expect("there are few source files"),
                ranges: vec![llb::Range {
                    start: line(range.start_line),
                    end: line(range.end_line),
                }],
            };
            if !known.locations.contains(&location) {
                known.locations.push(location);
            }
        }
        Ok(digest)
    }

    /// Makes an op with one output.
    fn insert_single(&mut self, op: llb::Op, metadata: wit::OpMetadata) -> Result<Output, Failure> {
        let vertex = self.insert(op, metadata)?;
        self.output(llb::Edge { vertex, output: 0 })
    }

    fn folded(
        &mut self,
        folded: llb::build::Folded,
        metadata: wit::OpMetadata,
    ) -> Result<Option<Output>, Failure> {
        Ok(match folded {
            llb::build::Folded::Scratch => None,
            llb::build::Folded::Same(edge) => Some(self.output(edge)?),
            llb::build::Folded::Op(op) => Some(self.insert_single(op, metadata)?),
        })
    }

    /// Takes another graph's result into this graph.
    pub(super) fn adopt(&mut self, sub: Option<Subgraph>) -> Result<Option<Output>, Failure> {
        let Some(Subgraph { graph, edge }) = sub else { return Ok(None) };
        for vertex in graph.reachable(&edge) {
            self.check_room()?;
            self.host.graph.insert_encoded(vertex.bytes().to_vec(), vertex.metadata.clone())?;
        }
        if !self.host.graph.has(&edge) {
            let llb::Edge { vertex, output } = edge;
            return Err(llb::Error::UnknownEdge { vertex, output }.into());
        }
        self.output(edge).map(Some)
    }

    fn tree(&self, input: &graph::ActionInput) -> Result<llb::build::Tree, Failure> {
        Ok(match input {
            graph::ActionInput::Scratch => llb::build::Tree::Scratch,
            graph::ActionInput::Output(output) => llb::build::Tree::Edge(self.edge(output)?),
            graph::ActionInput::Action(number) => llb::build::Tree::Action(*number),
        })
    }

    fn mount(&self, mount: &graph::Mount) -> Result<llb::build::MountSpec, Failure> {
        let source = mount.source.as_ref().map(|source| self.edge(source)).transpose()?;
        let plain = llb::build::MountSpec {
            wants_output: false,
            ..llb::build::MountSpec::bind(mount.dest.clone(), source)
        };
        Ok(match &mount.kind {
            graph::MountKind::Bind(bind) => {
                if bind.readonly && bind.has_output {
                    let dest = &mount.dest;
                    return Err(convert::invalid(format!(
                        "mount {dest}: a read-only mount has no output; its result is its source"
                    ))
                    .into());
                }
                llb::build::MountSpec {
                    selector: bind.selector.clone(),
                    readonly: bind.readonly,
                    wants_output: bind.has_output,
                    ..plain
                }
            }
            graph::MountKind::Cache(cache) => llb::build::MountSpec {
                selector: cache.selector.clone(),
                readonly: cache.readonly,
                kind: llb::MountKind::Cache(llb::CacheOpt {
                    id: cache.id.clone(),
                    sharing: match cache.sharing {
                        wit::CacheSharing::Shared => llb::CacheSharing::Shared,
                        wit::CacheSharing::Private => llb::CacheSharing::Private,
                        wit::CacheSharing::Locked => llb::CacheSharing::Locked,
                    },
                }),
                ..plain
            },
            graph::MountKind::Tmpfs(size) => llb::build::MountSpec {
                kind: llb::MountKind::Tmpfs(Some(llb::TmpfsOpt { size: *size })),
                ..plain
            },
            graph::MountKind::Secret(secret) => llb::build::MountSpec {
                kind: llb::MountKind::Secret(llb::SecretOpt {
                    id: secret.id.clone(),
                    uid: secret.uid,
                    gid: secret.gid,
                    mode: secret.mode,
                    optional: secret.optional,
                }),
                ..plain
            },
            graph::MountKind::Ssh(ssh) => llb::build::MountSpec {
                kind: llb::MountKind::Ssh(llb::SshOpt {
                    id: ssh.id.clone(),
                    uid: ssh.uid,
                    gid: ssh.gid,
                    mode: ssh.mode,
                    optional: ssh.optional,
                }),
                ..plain
            },
        })
    }

    fn make_exec(
        &mut self,
        op: graph::ExecOp,
        platform: Option<wit::Platform>,
        metadata: wit::OpMetadata,
    ) -> Result<Vec<Output>, Failure> {
        let spec = llb::build::ExecSpec {
            meta: op.process.into(),
            mounts: op.mounts.iter().map(|mount| self.mount(mount)).collect::<Result<_, _>>()?,
            network: match op.network {
                wit::NetworkMode::Default => llb::NetMode::Sandbox,
                wit::NetworkMode::Host => llb::NetMode::Host,
                wit::NetworkMode::None => llb::NetMode::None,
            },
            security: match op.security {
                wit::SecurityMode::Sandbox => llb::SecurityMode::Sandbox,
                wit::SecurityMode::Insecure => llb::SecurityMode::Insecure,
            },
            secret_env: op
                .secret_env
                .into_iter()
                .map(|wit::SecretEnv { id, name, optional }| llb::SecretEnv { id, name, optional })
                .collect(),
            cdi_devices: op
                .devices
                .into_iter()
                .map(|wit::Device { name, optional }| llb::CdiDevice { name, optional })
                .collect(),
            platform: platform.map(convert::platform).transpose()?,
        };
        let exec = llb::build::exec(spec);
        let vertex = self.insert(exec.op, metadata)?;
        let outputs = exec.outputs.into_iter().flatten();
        outputs.map(|output| self.output(llb::Edge { vertex, output })).collect()
    }

    fn action(&self, action: graph::FileAction) -> Result<llb::build::FileActionSpec, Failure> {
        use llb::FileActionKind as Kind;
        let base = self.tree(&action.input)?;
        let mut secondary = llb::build::Tree::Scratch;
        let kind = match action.kind {
            graph::ActionKind::Copy(copy) => {
                secondary = self.tree(&copy.from)?;
                Kind::Copy(llb::FileActionCopy {
                    src: copy.src,
                    dest: copy.dest,
                    owner: convert::ownership(copy.owner),
                    mode: copy.mode,
                    follow_symlink: copy.follow_symlink,
                    dir_copy_contents: copy.dir_copy_contents,
                    attempt_unpack: copy.attempt_unpack,
                    create_dest_path: copy.create_dest_path,
                    allow_wildcard: copy.allow_wildcard,
                    allow_empty_wildcard: copy.allow_empty_wildcard,
                    timestamp: copy.timestamp,
                    include_patterns: copy.include_patterns,
                    exclude_patterns: copy.exclude_patterns,
                    always_replace_existing_dest_paths: copy.always_replace_existing,
                    mode_str: copy.mode_string,
                    required_paths: copy.required_paths,
                })
            }
            graph::ActionKind::Mkfile(mkfile) => Kind::Mkfile(llb::FileActionMkfile {
                path: mkfile.path,
                mode: mkfile.mode,
                data: mkfile.data,
                owner: convert::ownership(mkfile.owner),
                timestamp: mkfile.timestamp,
            }),
            graph::ActionKind::Mkdir(mkdir) => Kind::Mkdir(llb::FileActionMkdir {
                path: mkdir.path,
                mode: mkdir.mode,
                make_parents: mkdir.make_parents,
                owner: convert::ownership(mkdir.owner),
                timestamp: mkdir.timestamp,
            }),
            graph::ActionKind::Rm(rm) => Kind::Rm(llb::FileActionRm {
                path: rm.path,
                allow_not_found: rm.allow_not_found,
                allow_wildcard: rm.allow_wildcard,
            }),
            graph::ActionKind::Symlink(link) => Kind::Symlink(llb::FileActionSymlink {
                oldpath: link.oldpath,
                newpath: link.newpath,
                owner: convert::ownership(link.owner),
                timestamp: link.timestamp,
            }),
        };
        Ok(llb::build::FileActionSpec { base, secondary, is_output: action.has_output, kind })
    }

    fn make_file(
        &mut self,
        actions: Vec<graph::FileAction>,
        metadata: wit::OpMetadata,
    ) -> Result<Vec<Output>, Failure> {
        let actions: Vec<_> =
            actions.into_iter().map(|action| self.action(action)).collect::<Result<_, _>>()?;
        let outputs = actions.iter().filter(|action| action.is_output).count();
        let vertex = self.insert(llb::build::file(actions), metadata)?;
        let mut handles = Vec::with_capacity(outputs);
        for output in (0..).take(outputs) {
            handles.push(self.output(llb::Edge { vertex, output })?);
        }
        Ok(handles)
    }

    fn load_definition(&mut self, def: Vec<Vec<u8>>) -> Result<Option<Output>, Failure> {
        let definition = llb::Definition { def, metadata: BTreeMap::new(), source: None };
        let edge = definition.load_into(&mut self.host.graph)?;
        let limit = self.meter.limits().ops;
        if self.host.graph.len() > limit {
            return Err(Stop::TooMany { what: "ops", limit }.into());
        }
        edge.map(|edge| self.output(edge)).transpose()
    }
}

impl wit::Host for Guest {}

impl graph::HostOutput for Guest {
    fn digest(&mut self, this: Output) -> wasmtime::Result<String> {
        Ok(self.table.get(&this)?.0.vertex.to_string())
    }

    fn drop(&mut self, this: Output) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

impl graph::Host for Guest {
    fn source(
        &mut self,
        identifier: String,
        attrs: Vec<(String, String)>,
        platform: Option<wit::Platform>,
        metadata: wit::OpMetadata,
    ) -> Answer<Output> {
        let platform = match platform.map(convert::platform).transpose() {
            Ok(platform) => platform,
            Err(error) => return Ok(Err(error)),
        };
        let op = llb::build::source(identifier, convert::map(attrs), platform);
        answer(self.insert_single(op, metadata))
    }

    fn exec(
        &mut self,
        op: graph::ExecOp,
        platform: Option<wit::Platform>,
        metadata: wit::OpMetadata,
    ) -> Answer<Vec<Output>> {
        answer(self.make_exec(op, platform, metadata))
    }

    fn file(
        &mut self,
        actions: Vec<graph::FileAction>,
        metadata: wit::OpMetadata,
    ) -> Answer<Vec<Output>> {
        answer(self.make_file(actions, metadata))
    }

    fn merge(&mut self, inputs: Vec<Output>, metadata: wit::OpMetadata) -> Answer<Option<Output>> {
        let edges: Result<Vec<_>, _> =
            inputs.iter().map(|input| self.edge(input).map(Some)).collect();
        answer(edges.and_then(|edges| self.folded(llb::build::merge(edges), metadata)))
    }

    fn diff(
        &mut self,
        lower: Option<Output>,
        upper: Option<Output>,
        metadata: wit::OpMetadata,
    ) -> Answer<Option<Output>> {
        let edge =
            |output: &Option<Output>| output.as_ref().map(|output| self.edge(output)).transpose();
        let edges = edge(&lower).and_then(|lower| Ok((lower, edge(&upper)?)));
        answer(
            edges.and_then(|(lower, upper)| self.folded(llb::build::diff(lower, upper), metadata)),
        )
    }

    fn from_definition(&mut self, definition: Vec<Vec<u8>>) -> Answer<Option<Output>> {
        answer(self.load_definition(definition))
    }

    fn add_source(
        &mut self,
        filename: String,
        language: String,
        data: Vec<u8>,
    ) -> wasmtime::Result<u32> {
        let state = &mut self.host;
        let number = state.source.infos.len();
        state.source_bytes += filename.len() + language.len() + data.len();
        if number >= MAX_SOURCES {
            return Err(Stop::TooMany { what: "source files", limit: MAX_SOURCES }.into());
        }
        if state.source_bytes > MAX_SOURCE_BYTES {
            let what = "bytes of source files";
            return Err(Stop::TooMany { what, limit: MAX_SOURCE_BYTES }.into());
        }
        state.source.infos.push(llb::SourceInfo { filename, data, definition: None, language });
        Ok(u32::try_from(number).expect("there are few source files"))
    }
}
