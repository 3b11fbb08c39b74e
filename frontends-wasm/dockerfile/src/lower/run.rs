//! RUN: the process, its variables and its here-documents.

use cofferdam_sdk::{
    ActionInput, ActionKind, BindMount, Device, ExecOp, FileAction, Host, MkfileAction, Mount,
    MountKind, NetworkMode, OpMetadata, Process, SecurityMode,
};

use super::{Lowering, names, stage::State};
use crate::command::{Instruction, Run};
use crate::error::Problem;
use crate::heredoc;
use crate::options;
use crate::path;
use crate::words::{Expander, Variables};

/// Where a here-document with a `#!` line is mounted.
const SCRIPTS: &str = "/dev/pipes/";

impl<H: Host> Lowering<'_, H> {
    pub(super) fn run(
        &mut self,
        state: &mut State<H::Output>,
        instruction: &Instruction,
        run: &Run,
    ) -> Result<(), Problem> {
        let mut shown = names::text(instruction, self.expander, &state.env);
        let mut mounts = vec![Mount::root(state.output.clone())];
        let mut args = run.line.args.clone();
        let only = args.first().filter(|_| run.line.shell).and_then(|arg| heredoc::parse_word(arg));
        match run.heredocs.as_slice() {
            [] => {}
            [script] if only.is_some_and(|only| only.name == script.name) => {
                let mut lines = script.body.trim().lines();
                let first = lines.next().unwrap_or_default();
                let more = if lines.next().is_some() { "..." } else { "" };
                shown = format!("{shown} ({first}{more})");
                let content = script.content();
                args = match content.starts_with("#!") {
                    true => {
                        mounts.push(self.script(&script.name, content)?);
                        vec![path::join(SCRIPTS, &script.name)]
                    }
                    false => vec![content],
                };
            }
            bodies => {
                let text = args.first().cloned().unwrap_or_default();
                let whole = |text: String, doc: &heredoc::Heredoc| {
                    format!("{text}\n{}{}", doc.body, doc.name)
                };
                args = vec![bodies.iter().fold(text, whole)];
            }
        }
        if run.line.shell {
            args = state.image.shell_command(args.join(" "));
        }
        let mounted = self.mounts(state, run)?;
        mounts.extend(mounted.mounts);
        if self.input.options.shm_size > 0 {
            let kind = MountKind::Tmpfs(self.input.options.shm_size);
            mounts.push(Mount { dest: "/dev/shm".into(), source: None, kind });
        }
        let network = match &run.network {
            None => self.input.options.network,
            Some(word) => {
                let mode = state.expand(self.expander, word)?;
                match options::network(&mode) {
                    Ok(NetworkMode::Default) => self.input.options.network,
                    Ok(mode) => mode,
                    Err(expected) => return Err(Problem::invalid("--network", mode, expected)),
                }
            }
        };
        let security = match &run.security {
            None => SecurityMode::Sandbox,
            Some(word) => match state.expand(self.expander, word)?.as_str() {
                "sandbox" => SecurityMode::Sandbox,
                "insecure" => SecurityMode::Insecure,
                other => {
                    return Err(Problem::invalid("--security", other, "`sandbox` or `insecure`"));
                }
            },
        };
        let mut env = state.env.clone();
        if let Some(socket) = mounted.agent.filter(|_| env.get("SSH_AUTH_SOCK").is_none()) {
            env.set("SSH_AUTH_SOCK", &socket)?;
        }
        let options = self.input.options;
        let process = Process {
            args: args.clone(),
            env: env.iter().map(|(name, value)| format!("{name}={value}")).collect(),
            cwd: state.cwd.clone(),
            user: state.image.text("User").into(),
            hostname: options.hostname.clone(),
            proxy: options.proxy(),
            extra_hosts: options.extra_hosts.clone(),
            ulimits: options.ulimits.clone(),
            cgroup_parent: options.cgroup_parent.clone(),
            remove_mount_stubs_recursive: true,
            ..Process::default()
        };
        let op = ExecOp {
            process,
            mounts,
            network,
            security,
            secret_env: mounted.secret_env,
            devices: devices(state, self.expander, &run.devices)?,
        };
        let mut metadata = state.metadata(self, instruction, state.names.name(&shown));
        let text = instruction.text.strip_prefix("ONBUILD ").unwrap_or(&instruction.text);
        metadata.description = vec![("com.docker.dockerfile.v1.command".into(), text.into())];
        state.output = self.host.exec(&op, Some(&state.platform), &metadata)?.into_iter().next();
        let text = history(state, &args);
        state.image.record(text, true);
        Ok(())
    }

    /// A here-document with a `#!` line, as a file to run.
    fn script(&self, name: &str, content: String) -> Result<Mount<H::Output>, Problem> {
        let mkfile = MkfileAction {
            path: path::inside(name),
            mode: 0o755,
            data: content.into_bytes(),
            ..MkfileAction::default()
        };
        let action = FileAction::new(ActionInput::Scratch, ActionKind::Mkfile(mkfile));
        let metadata = OpMetadata::named("[internal] preparing inline document");
        let bind = BindMount { selector: "/".into(), readonly: true, has_output: false };
        Ok(Mount {
            dest: SCRIPTS.into(),
            source: self.host.file(&[action], &metadata)?.pop(),
            kind: MountKind::Bind(bind),
        })
    }
}

/// Reads `--device`: `[name=]NAME[,required]`.
fn devices<O>(
    state: &State<O>,
    expander: Expander,
    words: &[String],
) -> Result<Vec<Device>, Problem> {
    let device = |word: &String| {
        let text = state.expand(expander, word)?;
        let mut device = Device { name: String::new(), optional: true };
        for (at, field) in text.split(',').enumerate() {
            match field.split_once('=') {
                Some(("name", name)) => device.name = name.into(),
                None if field == "required" => device.optional = false,
                Some(("required", "true" | "1")) => device.optional = false,
                Some(("required", "false" | "0")) => device.optional = true,
                // Names have an equals sign themselves: `vendor.example/class=device`.
                _ if at == 0 => device.name = field.into(),
                _ => {
                    let expected = "`name[,required]`";
                    return Err(Problem::invalid("--device", &text, expected));
                }
            }
        }
        match device.name.is_empty() {
            true => Err(Problem::invalid("--device", &text, "the name of a device")),
            false => Ok(device),
        }
    };
    words.iter().map(device).collect()
}

/// `RUN |1 name=value /bin/sh -c … # buildkit`: with the arguments that were declared.
fn history<O>(state: &State<O>, args: &[String]) -> String {
    let mut arguments: Vec<(&str, &str)> = Vec::new();
    for (name, value) in &state.arguments {
        let value = state.env.get(name).or(value.as_deref()).unwrap_or_default();
        match arguments.iter_mut().find(|(known, _)| known == name) {
            Some(known) => known.1 = value,
            None => arguments.push((name, value)),
        }
    }
    let mut text = String::from("RUN ");
    if !arguments.is_empty() {
        text.push_str(&format!("|{} ", arguments.len()));
    }
    for (name, value) in arguments {
        text.push_str(&format!("{name}={value} "));
    }
    text + &args.join(" ") + " # buildkit"
}
