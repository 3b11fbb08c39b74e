//! Instructions that only change the image config, and WORKDIR, which also makes a directory.

use cofferdam_sdk::{ActionKind, FileAction, Host, MkdirAction};
use serde_json::{Value, json};

use super::{Lowering, copy, names, stage::State};
use crate::command::{Command, CommandLine, Healthcheck, Instruction};
use crate::duration;
use crate::error::Problem;
use crate::image::quoted_list;
use crate::path;

/// Arguments that never become variables of a step.
const NOT_IN_ENV: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// The longest path that Linux takes (PATH_MAX).
const LONGEST_PATH: usize = 4096;

impl<H: Host> Lowering<'_, H> {
    pub(super) fn meta(
        &mut self,
        state: &mut State<H::Output>,
        instruction: &Instruction,
    ) -> Result<(), Problem> {
        let expander = self.expander;
        let text = match &instruction.command {
            Command::Env(pairs) => {
                let pairs = self.pairs(state, pairs)?;
                for (name, value) in &pairs {
                    state.env.set(name, value)?;
                    state.image.set_env(name, value);
                }
                format!("ENV {}", joined(&pairs))
            }
            Command::Label(pairs) => {
                let pairs = self.pairs(state, pairs)?;
                for (name, value) in &pairs {
                    state.image.insert("Labels", name, value.as_str());
                }
                format!("LABEL {}", joined(&pairs))
            }
            Command::Arg(arguments) => self.arguments(state, arguments)?,
            Command::User(user) => {
                let user = state.expand(expander, user)?;
                state.image.set("User", user.as_str());
                format!("USER {user}")
            }
            Command::Cmd(line) => {
                let args = command(state, line);
                state.image.set("Cmd", args.clone());
                state.image.set("ArgsEscaped", true);
                state.has_cmd = true;
                format!("CMD {}", quoted_list(&args))
            }
            Command::Entrypoint(line) => {
                let args = command(state, line);
                state.image.set("Entrypoint", args.clone());
                if !state.has_cmd {
                    state.image.set("Cmd", Value::Null);
                }
                format!("ENTRYPOINT {}", quoted_list(&args))
            }
            Command::Shell(shell) => {
                state.image.set("Shell", shell.clone());
                format!("SHELL [{}]", shell.join(" "))
            }
            Command::Expose(words) => {
                let mut ports = Vec::new();
                for word in words {
                    for word in expander.words(word, &state.env)? {
                        ports.extend(exposed(&word)?);
                    }
                }
                ports.sort();
                ports.dedup();
                for port in &ports {
                    state.image.insert("ExposedPorts", port, json!({}));
                }
                format!("EXPOSE [{}]", ports.join(" "))
            }
            Command::Volume(words) => {
                let mut volumes = Vec::new();
                for word in words {
                    let volume = state.expand(expander, word)?;
                    if volume.is_empty() {
                        return Err(Problem::invalid("volume", word, "a path that is not empty"));
                    }
                    state.image.insert("Volumes", &volume, json!({}));
                    volumes.push(volume);
                }
                format!("VOLUME [{}]", volumes.join(" "))
            }
            Command::Stopsignal(word) => {
                let signal = state.expand(expander, word)?;
                if !is_signal(&signal) {
                    let expected = "a signal's name like `SIGTERM`, or its number";
                    return Err(Problem::invalid("signal", signal, expected));
                }
                state.image.set("StopSignal", signal.as_str());
                format!("STOPSIGNAL {signal}")
            }
            Command::Maintainer(author) => {
                state.image.set_author(author);
                format!("MAINTAINER {author}")
            }
            Command::Healthcheck(check) => healthcheck(state, check),
            Command::Onbuild(text) => {
                state.image.push("OnBuild", text);
                return Ok(());
            }
            Command::From(_) | Command::Run(_) | Command::Copy(_) | Command::Workdir(_) => {
                unreachable!("these have a lowering of their own")
            }
        };
        state.image.record(text, false);
        Ok(())
    }

    pub(super) fn workdir(
        &mut self,
        state: &mut State<H::Output>,
        instruction: &Instruction,
        word: &str,
    ) -> Result<(), Problem> {
        let directory = state.expand(self.expander, word)?;
        let current = match state.image.text("WorkingDir") {
            "" => "/",
            current => current,
        };
        let directory = working_directory(current, &directory);
        if directory.len() > LONGEST_PATH {
            let expected = format!("a path of at most {LONGEST_PATH} bytes");
            return Err(Problem::invalid("working directory", word, expected));
        }
        state.image.set("WorkingDir", directory.as_str());
        state.cwd.clone_from(&directory);
        if directory != "/" {
            let text = names::text(instruction, self.expander, &state.env);
            let metadata = state.metadata(self, instruction, state.names.name(&text));
            let user = state.image.text("User");
            let mkdir = MkdirAction {
                path: path::clean(&directory),
                mode: 0o755,
                make_parents: true,
                owner: (!user.is_empty()).then(|| copy::ownership(user)),
                timestamp: self.input.options.file_time(),
            };
            let action = FileAction::new(state.output.clone().into(), ActionKind::Mkdir(mkdir));
            state.output = self.host.file(&[action], &metadata)?.pop();
        }
        state.image.record(format!("WORKDIR {directory}"), directory != "/");
        Ok(())
    }

    fn pairs(
        &self,
        state: &State<H::Output>,
        pairs: &[(String, String)],
    ) -> Result<Vec<(String, String)>, Problem> {
        let expand = |(name, value): &(String, String)| {
            let name = state.expand(self.expander, name)?;
            if name.is_empty() {
                return Err(Problem::invalid("name", "", "a name that is not empty"));
            }
            Ok((name, state.expand(self.expander, value)?))
        };
        pairs.iter().map(expand).collect()
    }

    fn arguments(
        &self,
        state: &mut State<H::Output>,
        arguments: &[(String, Option<String>)],
    ) -> Result<String, Problem> {
        let mut texts = Vec::new();
        for (name, default) in arguments {
            let value = match (self.input.options.build_args.get(name), default) {
                (Some(value), _) => Some(value.clone()),
                (None, Some(word)) => Some(state.expand(self.expander, word)?),
                (None, None) => self.stages.globals.get(name).cloned(),
            };
            if let Some(value) = &value
                && !NOT_IN_ENV.contains(&name.as_str())
            {
                state.env.set(name, value)?;
            }
            texts.push(match &value {
                Some(value) => format!("{name}={value}"),
                None => name.clone(),
            });
            state.arguments.push((name.clone(), value));
        }
        Ok(format!("ARG {}", texts.join(" ")))
    }
}

/// The working directory after WORKDIR: what is absolute stands as it is.
pub(super) fn working_directory(current: &str, directory: &str) -> String {
    match directory.starts_with('/') {
        true => directory.into(),
        false => path::join(current, directory),
    }
}

fn joined(pairs: &[(String, String)]) -> String {
    let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join(" ")
}

fn command<O>(state: &State<O>, line: &CommandLine) -> Vec<String> {
    match line.shell {
        true => state.image.shell_command(line.args.join(" ")),
        false => line.args.clone(),
    }
}

/// `80`, `80/udp`, `8000-8002`, as the ports that they mean.
fn exposed(text: &str) -> Result<Vec<String>, Problem> {
    let ports = || {
        let (published, port) = text.rsplit_once(':').unwrap_or(("", text));
        let (range, protocol) = port.split_once('/').unwrap_or((port, ""));
        let protocol = match protocol.to_lowercase().as_str() {
            "" | "tcp" => "tcp",
            "udp" => "udp",
            "sctp" => "sctp",
            _ => return None,
        };
        let (first, last) = port_range(range)?;
        // An address and a host port in front say where to publish, which an image cannot; they
        // are read all the same, as Docker does.
        let (address, host) = published.rsplit_once(':').unwrap_or(("", published));
        let address = address.trim_start_matches('[').trim_end_matches(']');
        if !address.is_empty() && address.parse::<std::net::IpAddr>().is_err() {
            return None;
        }
        if !host.is_empty() {
            let (host_first, host_last) = port_range(host)?;
            if first != last && host_last - host_first != last - first {
                return None;
            }
        }
        Some((first..=last).map(|port| format!("{port}/{protocol}")).collect())
    };
    ports().ok_or_else(|| Problem::invalid("port", text, "`port[-port][/tcp|udp|sctp]`"))
}

fn port_range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}

fn is_signal(text: &str) -> bool {
    const NAMES: [&str; 36] = [
        "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT",
        "KILL", "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM",
        "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
        "RTMIN", "RTMAX",
    ];
    if let Ok(number) = text.parse::<u8>() {
        return (1..=64).contains(&number);
    }
    let name = text.to_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let real_time = [("RTMIN+", 15), ("RTMAX-", 14)]
        .into_iter()
        .find_map(|(prefix, most)| Some((name.strip_prefix(prefix)?, most)));
    match real_time {
        Some((number, most)) => number.parse().is_ok_and(|number| (1..=most).contains(&number)),
        None => NAMES.contains(&name),
    }
}

fn healthcheck<O>(state: &mut State<O>, check: &Healthcheck) -> String {
    let mut value = json!({"Test": check.test});
    for (field, number) in [
        ("Interval", check.interval),
        ("Timeout", check.timeout),
        ("StartPeriod", check.start_period),
        ("StartInterval", check.start_interval),
        ("Retries", check.retries),
    ] {
        if number != 0 {
            value[field] = number.into();
        }
    }
    state.image.set("Healthcheck", value);
    format!(
        "HEALTHCHECK {{Test:[{}] Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
        check.test.join(" "),
        duration::format(check.interval),
        duration::format(check.timeout),
        duration::format(check.start_period),
        duration::format(check.start_interval),
        check.retries
    )
}
