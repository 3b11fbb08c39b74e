//! A frontend for images described in TOML.
//!
//! This file turns an image file into ops; what may be in one is in `file.rs`. See `README.md`.

pub mod file;

use cofferdam_sdk::{
    ActionInput, ActionKind, BuildError, BuildResult, CacheMount, CacheSharing, CopyAction,
    Description, ExecOp, FileAction, Frontend, Host, HostError, MkfileAction, Mount, MountKind,
    NetworkMode, OpMetadata, Platform, PlatformResult, Process, Request, ResolveMode, SecurityMode,
    Snapshot, SourceRange, export_frontend,
};
use file::{Command, ImageFile, Step};
use serde_json::{Map, Value, json};

/// The search path where the base image sets none.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The frontend.
pub struct TomlImage;

export_frontend!(TomlImage);

impl Frontend for TomlImage {
    fn build<H: Host>(host: &H, request: &Request) -> Result<BuildResult<H::Output>, BuildError> {
        if !request.subrequest.is_empty() {
            return Err(BuildError::new(format!("unknown subrequest {:?}", request.subrequest)));
        }
        let filename = request.option("filename").unwrap_or("image.toml");
        let text = read(host, filename)?;
        let source = host.add_source(filename, "TOML", text.as_bytes());
        let at = |lines: Option<(u32, u32)>| -> Vec<SourceRange> {
            let range = |(start, end)| SourceRange::lines(source, start, end);
            lines.map(range).into_iter().collect()
        };
        let file = file::parse(&text).map_err(|mistake| BuildError {
            message: format!("{filename}: {}", mistake.message),
            locations: at(mistake.lines),
            ..BuildError::default()
        })?;
        let build = |platform: &Platform| {
            let mut stage = Stage::start(host, &file, platform)?;
            for (number, step) in file.steps.iter().enumerate() {
                let locations = at(Some(file::lines(&text, &step.span())));
                let name = format!("[{}/{}] ", number + 1, file.steps.len());
                let metadata = |what: &str| OpMetadata {
                    locations: locations.clone(),
                    ..OpMetadata::named(name.clone() + what)
                };
                stage
                    .step(step.get_ref(), metadata)
                    .map_err(|error| BuildError { locations: locations.clone(), ..error })?;
            }
            stage.finish()
        };
        let results = request.platforms.iter().map(build).collect::<Result<_, BuildError>>()?;
        Ok(BuildResult { results, metadata: Vec::new() })
    }

    fn describe() -> Description {
        Description {
            name: "toml-image".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "Builds images that are described in TOML: a base and a list of steps.".into(),
            options: vec![("filename".into(), "the image file; default: image.toml".into())],
            subrequests: Vec::new(),
        }
    }
}

/// Fetches the image file from the client, and nothing else.
fn read<H: Host>(host: &H, filename: &str) -> Result<String, BuildError> {
    let paths = json!([filename]).to_string();
    let attributes = [("local.followpaths".to_owned(), paths)];
    let metadata = OpMetadata::named(format!("load {filename}"));
    let local = host.source("local://dockerfile", &attributes, None, &metadata)?;
    let bytes = host.solve(&local)?.read_file(filename).map_err(|error| match error {
        HostError::NotFound(_) => BuildError {
            message: format!("there is no file `{filename}`"),
            hints: vec!["name another image file with --file".into()],
            ..BuildError::default()
        },
        error => error.into(),
    })?;
    String::from_utf8(bytes).map_err(|_| BuildError::new(format!("{filename}: is not UTF-8")))
}

/// The image as far as it is made.
struct Stage<'a, H: Host> {
    host: &'a H,
    file: &'a ImageFile,
    platform: &'a Platform,
    tree: Option<H::Output>,
    config: Map<String, Value>,
}

impl<'a, H: Host> Stage<'a, H> {
    fn start(host: &'a H, file: &'a ImageFile, platform: &'a Platform) -> Result<Self, BuildError> {
        let mut config = Map::new();
        let mut tree = None;
        if let Some(base) = &file.image.base {
            let log_name = format!("look up {base}");
            let image =
                host.resolve_image(base, Some(platform), ResolveMode::Default, &log_name)?;
            config = serde_json::from_slice(&image.config)
                .map_err(|error| BuildError::new(format!("{base}: image config: {error}")))?;
            let identifier = format!("docker-image://{}@{}", image.reference, image.digest);
            let metadata = OpMetadata::named(format!("FROM {base}"));
            tree = Some(host.source(&identifier, &[], Some(platform), &metadata)?);
        }
        config.insert("os".into(), json!(platform.os));
        config.insert("architecture".into(), json!(platform.architecture));
        if !platform.variant.is_empty() {
            config.insert("variant".into(), json!(platform.variant));
        }
        let mut stage = Self { host, file, platform, tree, config };
        stage.configure();
        Ok(stage)
    }

    /// Writes what the file says of the image over what the base says.
    fn configure(&mut self) {
        let image = &self.file.image;
        let run = self.config.entry("config").or_insert_with(|| json!({}));
        let mut env: Vec<String> = run["Env"]
            .as_array()
            .map(|env| env.iter().filter_map(|v| v.as_str().map(Into::into)).collect())
            .unwrap_or_default();
        if !env.iter().any(|variable| variable.starts_with("PATH=")) {
            env.push(DEFAULT_PATH.into());
        }
        for (name, value) in &image.env {
            let prefix = format!("{name}=");
            env.retain(|variable| !variable.starts_with(&prefix));
            env.push(prefix + value);
        }
        run["Env"] = json!(env);
        if let Some(entrypoint) = &image.entrypoint {
            // Arguments of the base's program mean nothing to another one.
            run["Entrypoint"] = json!(entrypoint);
            run["Cmd"] = Value::Null;
        }
        for (key, value) in [
            ("Cmd", image.cmd.as_ref().map(|cmd| json!(cmd))),
            ("WorkingDir", image.workdir.as_ref().map(|dir| json!(dir))),
            ("User", image.user.as_ref().map(|user| json!(user))),
        ] {
            if let Some(value) = value {
                run[key] = value;
            }
        }
        for (key, value) in &image.labels {
            run["Labels"][key] = json!(value);
        }
    }

    fn text(&self, key: &str) -> String {
        self.config["config"][key].as_str().unwrap_or_default().to_owned()
    }

    fn step(
        &mut self,
        step: &Step,
        metadata: impl Fn(&str) -> OpMetadata,
    ) -> Result<(), BuildError> {
        let mode = |mode: &Option<String>| {
            mode.as_deref().map(file::mode).transpose().map_err(BuildError::new)
        };
        let (kind, metadata) = match step {
            Step::Run(run) => return self.run(run, metadata),
            Step::Copy(copy) => {
                let context = self.host.source(
                    "local://context",
                    &[],
                    None,
                    &OpMetadata::named("load build context"),
                )?;
                let action = CopyAction {
                    mode: mode(&copy.mode)?,
                    dir_copy_contents: true,
                    create_dest_path: true,
                    allow_wildcard: true,
                    follow_symlink: true,
                    ..CopyAction::new(Some(context), absolute(&copy.copy), absolute(&copy.to))
                };
                (ActionKind::Copy(action), metadata(&format!("copy {} {}", copy.copy, copy.to)))
            }
            Step::Write(write) => {
                let action = MkfileAction {
                    path: absolute(&write.write),
                    mode: mode(&write.mode)?.unwrap_or(0o644),
                    data: write.content.clone().into_bytes(),
                    ..MkfileAction::default()
                };
                (ActionKind::Mkfile(action), metadata(&format!("write {}", write.write)))
            }
        };
        let action = FileAction::new(ActionInput::from(self.tree.clone()), kind);
        self.tree = self.host.file(&[action], &metadata)?.pop();
        Ok(())
    }

    fn run(
        &mut self,
        run: &file::Run,
        metadata: impl Fn(&str) -> OpMetadata,
    ) -> Result<(), BuildError> {
        if self.tree.is_none() {
            return Err(BuildError::new("run: there is nothing to run in an empty image"));
        }
        let args = match &run.run {
            Command::Script(script) => vec!["/bin/sh".into(), "-c".into(), script.clone()],
            Command::Program(args) => args.clone(),
        };
        let name = format!("run {}", args.join(" "));
        let cache = |path: &String| Mount {
            dest: absolute(path),
            source: None,
            kind: MountKind::Cache(CacheMount {
                id: format!("toml-image{}", absolute(path)),
                sharing: CacheSharing::Locked,
                ..CacheMount::default()
            }),
        };
        let mut mounts = vec![Mount::root(self.tree.take())];
        mounts.extend(run.cache.iter().map(cache));
        let env = self.config["config"]["Env"].as_array().into_iter().flatten();
        let env = env.filter_map(|value| value.as_str().map(Into::into)).collect();
        let process = Process {
            args,
            env,
            cwd: absolute(&self.text("WorkingDir")),
            user: self.text("User"),
            ..Process::default()
        };
        let op = ExecOp {
            process,
            mounts,
            network: NetworkMode::Default,
            security: SecurityMode::Sandbox,
            secret_env: Vec::new(),
            devices: Vec::new(),
        };
        self.tree = self.host.exec(&op, Some(self.platform), &metadata(&name))?.pop();
        Ok(())
    }

    fn finish(self) -> Result<PlatformResult<H::Output>, BuildError> {
        let config = serde_json::to_vec(&self.config)
            .map_err(|error| BuildError::new(format!("image config: {error}")))?;
        Ok(PlatformResult { platform: self.platform.clone(), output: self.tree, config })
    }
}

/// Paths in an image file are meant from the root on.
fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}
