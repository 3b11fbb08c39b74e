//! A host that makes real ops in memory and answers about images as the fixtures say.

use std::cell::RefCell;
use std::collections::BTreeMap;

use cofferdam_llb as llb;
use cofferdam_llb::build::{self, FileActionSpec, Folded, MountSpec, Tree};
use cofferdam_sdk as sdk;
use cofferdam_sdk::{
    ExecOp, FileAction, FileStat, Host, HostError, OpMetadata, Platform, ResolveMode,
    ResolvedImage, Snapshot, Warning,
};
use cofferdam_types::Digest;

/// The host; `graph` has the ops that were made.
#[derive(Default)]
pub struct LlbHost {
    pub graph: RefCell<llb::Graph>,
    /// Files of local directories, by `directory/path`.
    pub files: Vec<(String, String)>,
    /// Configs of images, by full reference with `latest`; others are answered as the fixtures
    /// say.
    pub images: Vec<(String, serde_json::Value)>,
    /// Descriptions of vertices, one for each time that the vertex was made.
    pub described: RefCell<Vec<(Digest, BTreeMap<String, String>)>>,
    /// References that were asked for.
    pub resolved: RefCell<Vec<String>>,
}

/// A built tree: the name of a local directory and its files.
pub struct Files(Vec<(String, String)>);

impl LlbHost {
    fn insert(&self, op: llb::Op, metadata: &OpMetadata) -> Result<Digest, HostError> {
        let mut description: BTreeMap<_, _> = metadata.description.iter().cloned().collect();
        if let Some(name) = &metadata.name {
            description.insert("llb.customname".into(), name.clone());
        }
        let metadata = llb::OpMetadata {
            ignore_cache: metadata.ignore_cache,
            description: description.clone(),
            ..llb::OpMetadata::default()
        };
        let inserted = self.graph.borrow_mut().insert(op, metadata);
        let digest = inserted.map_err(|error| HostError::Invalid(error.to_string()))?;
        self.described.borrow_mut().push((digest, description));
        Ok(digest)
    }

    fn folded(
        &self,
        folded: Folded,
        metadata: &OpMetadata,
    ) -> Result<Option<llb::Edge>, HostError> {
        match folded {
            Folded::Scratch => Ok(None),
            Folded::Same(edge) => Ok(Some(edge)),
            Folded::Op(op) => Ok(Some(llb::Edge { vertex: self.insert(op, metadata)?, output: 0 })),
        }
    }
}

fn user(principal: &sdk::Principal) -> llb::UserSpec {
    match principal {
        sdk::Principal::Id(id) => llb::UserSpec::Id(*id),
        sdk::Principal::Name(name) => {
            llb::UserSpec::Name(llb::NamedUser { name: name.clone(), input: None })
        }
    }
}

fn owner(owner: &Option<sdk::Ownership>) -> Option<llb::Owner> {
    owner.as_ref().map(|owner| llb::Owner {
        user: owner.user.as_ref().map(user),
        group: owner.group.as_ref().map(user),
    })
}

fn tree(input: &sdk::ActionInput<llb::Edge>) -> Tree {
    match input {
        sdk::ActionInput::Scratch => Tree::Scratch,
        sdk::ActionInput::Output(edge) => Tree::Edge(*edge),
        sdk::ActionInput::Action(index) => Tree::Action(*index),
    }
}

fn action(action: &FileAction<llb::Edge>) -> FileActionSpec {
    let mut secondary = Tree::Scratch;
    let kind = match &action.kind {
        sdk::ActionKind::Copy(copy) => {
            secondary = tree(&copy.from);
            llb::FileActionKind::Copy(llb::FileActionCopy {
                src: copy.src.clone(),
                dest: copy.dest.clone(),
                owner: owner(&copy.owner),
                mode: copy.mode,
                follow_symlink: copy.follow_symlink,
                dir_copy_contents: copy.dir_copy_contents,
                attempt_unpack: copy.attempt_unpack,
                create_dest_path: copy.create_dest_path,
                allow_wildcard: copy.allow_wildcard,
                allow_empty_wildcard: copy.allow_empty_wildcard,
                timestamp: copy.timestamp,
                include_patterns: copy.include_patterns.clone(),
                exclude_patterns: copy.exclude_patterns.clone(),
                always_replace_existing_dest_paths: copy.always_replace_existing,
                mode_str: copy.mode_string.clone(),
                required_paths: copy.required_paths.clone(),
            })
        }
        sdk::ActionKind::Mkfile(mkfile) => llb::FileActionKind::Mkfile(llb::FileActionMkfile {
            path: mkfile.path.clone(),
            mode: mkfile.mode,
            data: mkfile.data.clone(),
            owner: owner(&mkfile.owner),
            timestamp: mkfile.timestamp,
        }),
        sdk::ActionKind::Mkdir(mkdir) => llb::FileActionKind::Mkdir(llb::FileActionMkdir {
            path: mkdir.path.clone(),
            mode: mkdir.mode,
            make_parents: mkdir.make_parents,
            owner: owner(&mkdir.owner),
            timestamp: mkdir.timestamp,
        }),
        sdk::ActionKind::Rm(rm) => llb::FileActionKind::Rm(llb::FileActionRm {
            path: rm.path.clone(),
            allow_not_found: rm.allow_not_found,
            allow_wildcard: rm.allow_wildcard,
        }),
        sdk::ActionKind::Symlink(link) => llb::FileActionKind::Symlink(llb::FileActionSymlink {
            oldpath: link.oldpath.clone(),
            newpath: link.newpath.clone(),
            owner: owner(&link.owner),
            timestamp: link.timestamp,
        }),
    };
    FileActionSpec { base: tree(&action.input), secondary, is_output: action.has_output, kind }
}

fn mount(mount: &sdk::Mount<llb::Edge>) -> MountSpec {
    let mut spec = MountSpec::bind(mount.dest.clone(), mount.source);
    match &mount.kind {
        sdk::MountKind::Bind(bind) => {
            spec.selector = bind.selector.clone();
            spec.readonly = bind.readonly;
            spec.wants_output = bind.has_output;
        }
        sdk::MountKind::Cache(cache) => {
            spec.selector = cache.selector.clone();
            spec.readonly = cache.readonly;
            let sharing = match cache.sharing {
                sdk::CacheSharing::Shared => llb::CacheSharing::Shared,
                sdk::CacheSharing::Private => llb::CacheSharing::Private,
                sdk::CacheSharing::Locked => llb::CacheSharing::Locked,
            };
            spec.kind = llb::MountKind::Cache(llb::CacheOpt { id: cache.id.clone(), sharing });
        }
        sdk::MountKind::Tmpfs(size) => {
            spec.kind = llb::MountKind::Tmpfs(Some(llb::TmpfsOpt { size: *size }));
        }
        sdk::MountKind::Secret(secret) => {
            spec.kind = llb::MountKind::Secret(llb::SecretOpt {
                id: secret.id.clone(),
                uid: secret.uid,
                gid: secret.gid,
                mode: secret.mode,
                optional: secret.optional,
            });
        }
        sdk::MountKind::Ssh(agent) => {
            spec.kind = llb::MountKind::Ssh(llb::SshOpt {
                id: agent.id.clone(),
                uid: agent.uid,
                gid: agent.gid,
                mode: agent.mode,
                optional: agent.optional,
            });
        }
    }
    spec
}

impl Host for LlbHost {
    type Output = llb::Edge;
    type Snapshot = Files;

    fn source(
        &self,
        identifier: &str,
        attributes: &[(String, String)],
        platform: Option<&Platform>,
        metadata: &OpMetadata,
    ) -> Result<llb::Edge, HostError> {
        let attributes = attributes.iter().cloned().collect();
        let op = build::source(identifier, attributes, platform.cloned());
        Ok(llb::Edge { vertex: self.insert(op, metadata)?, output: 0 })
    }

    fn exec(
        &self,
        op: &ExecOp<llb::Edge>,
        platform: Option<&Platform>,
        metadata: &OpMetadata,
    ) -> Result<Vec<llb::Edge>, HostError> {
        let process = &op.process;
        let exec = build::exec(build::ExecSpec {
            meta: llb::Meta {
                args: process.args.clone(),
                env: process.env.clone(),
                cwd: process.cwd.clone(),
                user: process.user.clone(),
                proxy_env: process.proxy.as_ref().map(|proxy| llb::ProxyEnv {
                    http_proxy: proxy.http.clone(),
                    https_proxy: proxy.https.clone(),
                    ftp_proxy: proxy.ftp.clone(),
                    no_proxy: proxy.no_proxy.clone(),
                    all_proxy: proxy.all.clone(),
                }),
                hostname: process.hostname.clone(),
                extra_hosts: process
                    .extra_hosts
                    .iter()
                    .map(|host| llb::HostIp { host: host.host.clone(), ip: host.ip.clone() })
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
                ..llb::Meta::default()
            },
            mounts: op.mounts.iter().map(mount).collect(),
            network: match op.network {
                sdk::NetworkMode::Default => llb::NetMode::Sandbox,
                sdk::NetworkMode::Host => llb::NetMode::Host,
                sdk::NetworkMode::None => llb::NetMode::None,
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
            cdi_devices: op
                .devices
                .iter()
                .map(|device| llb::CdiDevice {
                    name: device.name.clone(),
                    optional: device.optional,
                })
                .collect(),
            platform: platform.cloned(),
        });
        let vertex = self.insert(exec.op, metadata)?;
        Ok(exec.outputs.into_iter().flatten().map(|output| llb::Edge { vertex, output }).collect())
    }

    fn file(
        &self,
        actions: &[FileAction<llb::Edge>],
        metadata: &OpMetadata,
    ) -> Result<Vec<llb::Edge>, HostError> {
        let vertex = self.insert(build::file(actions.iter().map(action).collect()), metadata)?;
        let outputs = actions.iter().filter(|action| action.has_output);
        Ok(outputs.zip(0..).map(|(_, output)| llb::Edge { vertex, output }).collect())
    }

    fn merge(
        &self,
        inputs: &[llb::Edge],
        metadata: &OpMetadata,
    ) -> Result<Option<llb::Edge>, HostError> {
        self.folded(build::merge(inputs.iter().copied().map(Some)), metadata)
    }

    fn diff(
        &self,
        lower: Option<&llb::Edge>,
        upper: Option<&llb::Edge>,
        metadata: &OpMetadata,
    ) -> Result<Option<llb::Edge>, HostError> {
        self.folded(build::diff(lower.copied(), upper.copied()), metadata)
    }

    fn from_definition(&self, _: &[Vec<u8>]) -> Result<Option<llb::Edge>, HostError> {
        Err(HostError::Unsupported("definitions".into()))
    }

    fn add_source(&self, _: &str, _: &str, _: &[u8]) -> u32 {
        0
    }

    fn solve(&self, output: &llb::Edge) -> Result<Files, HostError> {
        let graph = self.graph.borrow();
        let vertex = graph.get(&output.vertex).expect("the output is of this graph");
        let llb::OpKind::Source(source) = &vertex.op.kind else {
            return Err(HostError::Unsupported("only sources can be built".into()));
        };
        let directory = source.identifier.replace("local://", "") + "/";
        let inside = |(path, text): &(String, String)| {
            Some((path.strip_prefix(&directory)?.to_owned(), text.clone()))
        };
        Ok(Files(self.files.iter().filter_map(inside).collect()))
    }

    fn resolve_image(
        &self,
        reference: &str,
        platform: Option<&Platform>,
        _: ResolveMode,
        _: &str,
    ) -> Result<ResolvedImage, HostError> {
        if reference.contains("missing") {
            return Err(HostError::NotFound(format!("no such image: `{reference}`")));
        }
        self.resolved.borrow_mut().push(reference.into());
        let platform = platform.cloned().unwrap_or_default();
        let prepared = self.images.iter().find(|(name, _)| reference == format!("{name}:latest"));
        let (digest, config) = if let Some((_, config)) = prepared {
            (Digest::of(reference), config.clone())
        } else if reference.contains("onbuild") {
            let config = serde_json::json!({
                "architecture": "amd64",
                "os": "linux",
                "config": {
                    "Env": ["PATH=/usr/bin:/bin"],
                    "OnBuild": ["RUN echo onbuild", "COPY a /onbuild/"],
                },
                "rootfs": {"type": "layers", "diff_ids": []},
            });
            (Digest::of(reference), config)
        } else {
            let config = serde_json::json!({
                "architecture": platform.architecture,
                "os": platform.os,
                "config": {
                    "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                    "Cmd": ["sh"],
                },
                "rootfs": {"type": "layers", "diff_ids": [Digest::of(reference).to_string()]},
            });
            (Digest::of(format!("{reference}{}", platform.architecture)), config)
        };
        Ok(ResolvedImage {
            reference: reference.into(),
            digest: digest.to_string(),
            config: config.to_string().into_bytes(),
        })
    }

    fn warn(&self, _: &Warning) {}

    fn named_input(&self, _: &str) -> Result<Option<llb::Edge>, HostError> {
        Ok(None)
    }

    fn call_frontend(
        &self,
        _: &str,
        _: &[(String, String)],
    ) -> Result<Option<llb::Edge>, HostError> {
        Err(HostError::Unsupported("other frontends".into()))
    }
}

impl Snapshot for Files {
    fn read_file(&self, path: &str) -> Result<Vec<u8>, HostError> {
        let found = self.0.iter().find(|(known, _)| known == path);
        let (_, text) = found.ok_or_else(|| HostError::NotFound(path.into()))?;
        Ok(text.clone().into_bytes())
    }

    fn read_dir(&self, _: &str, _: &str) -> Result<Vec<FileStat>, HostError> {
        Err(HostError::Unsupported("listing".into()))
    }

    fn stat_file(&self, path: &str) -> Result<FileStat, HostError> {
        Err(HostError::NotFound(path.into()))
    }
}
