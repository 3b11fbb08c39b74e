//! `--secret` and `--ssh`, in the forms of docker: what the session lends of the user's secrets
//! and ssh agents. Keys that are given as files go into an agent of their own, OpenSSH's, that
//! ends with this program.

use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cofferdam_session::{LocalSession, Secret, SecretSource};
use tempfile::TempDir;

use crate::args::Lend;
use crate::error::Error;
use crate::root::Environment;

/// How long an agent may take to start.
const PATIENCE: Duration = Duration::from_secs(10);
/// Has the agent end when nobody holds this shell's standard input any more, however that came.
const WATCH: &str = "cat >/dev/null; kill \"$SSH_AGENT_PID\"";

/// Key files for an agent, by the name of the agent.
pub type Keys = Vec<(String, Vec<PathBuf>)>;

/// Adds what the flags lend; the keys are for [`KeyAgent`].
///
/// # Errors
/// When a flag is malformed, or names what is not there.
pub fn lend(
    mut session: LocalSession,
    flags: &Lend,
    env: Environment<'_>,
) -> Result<(LocalSession, Keys), Error> {
    for text in &flags.secrets {
        let (id, source) = secret(text, env)?;
        session = session.lend_secret(&id, source);
    }
    let mut keys = Keys::new();
    for text in &flags.agents {
        let (id, agent) = agent(text, env)?;
        match agent {
            Agent::Socket(socket) => session = session.lend_agent(&id, &socket),
            Agent::Keys(files) => keys.push((id, files)),
        }
    }
    Ok((session, keys))
}

/// Reads `id=ID[,src=FILE|,env=VARIABLE][,type=file|env]`.
fn secret(text: &str, env: Environment<'_>) -> Result<(String, SecretSource), Error> {
    let wrong = |what: String| {
        Error::usage(format!("--secret `{text}`: {what}"))
            .hint("as a file: --secret id=NAME,src=FILE; a variable: --secret id=NAME,env=VARIABLE")
    };
    let (mut id, mut kind, mut file, mut variable) = (None, None, None, None);
    for field in text.split(',') {
        let (key, value) = field
            .split_once('=')
            .ok_or_else(|| wrong(format!("`{field}`: expected `key=value`")))?;
        let place = match key.to_lowercase().as_str() {
            "id" => &mut id,
            "type" => &mut kind,
            "src" | "source" => &mut file,
            "env" => &mut variable,
            _ => {
                let expected = "expected `id`, `src`, `env` or `type`";
                return Err(wrong(format!("unknown key `{key}`: {expected}")));
            }
        };
        *place = Some(value.to_owned());
    }
    let id = id.filter(|id| !id.is_empty()).ok_or_else(|| wrong("`id` is missing".into()))?;
    match kind.as_deref() {
        None | Some("file") => {}
        // As docker: the source is then a variable's name.
        Some("env") => variable = variable.or(file.take()),
        Some(other) => {
            return Err(wrong(format!("unknown type `{other}`: expected `file` or `env`")));
        }
    }
    let set = |name: &str| env(name).map(std::os::unix::ffi::OsStringExt::into_vec);
    if file.is_none() && variable.is_none() {
        // The id alone stands for a variable, or else for a file.
        match (kind.as_deref(), set(&id).is_some()) {
            (Some("env"), _) | (None, true) => variable = Some(id.clone()),
            _ => file = Some(id.clone()),
        }
    }
    if let Some(name) = variable {
        let value = set(&name)
            .ok_or_else(|| wrong(format!("the environment variable `{name}` is not set")))?;
        return Ok((id, SecretSource::Value(Secret::new(value))));
    }
    let path = PathBuf::from(file.expect("one of both is there"));
    match std::fs::metadata(&path) {
        Ok(found) if !found.is_dir() => Ok((id, SecretSource::File(path))),
        Ok(_) => Err(wrong(format!("`{}` is a directory", path.display()))),
        Err(error) => Err(wrong(format!("cannot read `{}`: {error}", path.display()))),
    }
}

/// What `--ssh` means.
#[derive(Debug, PartialEq, Eq)]
enum Agent {
    /// An agent that listens there.
    Socket(PathBuf),
    /// An agent that has these keys.
    Keys(Vec<PathBuf>),
}

/// Reads `ID[=SOCKET|KEY[,KEY]]`.
fn agent(text: &str, env: Environment<'_>) -> Result<(String, Agent), Error> {
    let wrong = |what: String| Error::usage(format!("--ssh `{text}`: {what}"));
    let (id, paths) = match text.split_once('=') {
        Some((id, paths)) => (id, paths.split(',').map(PathBuf::from).collect()),
        None => (text, Vec::new()),
    };
    if id.is_empty() {
        return Err(wrong("expected ID, ID=SOCKET or ID=KEYFILE".into()));
    }
    let is_socket = |path: &Path| {
        std::fs::metadata(path)
            .map(|found| found.file_type().is_socket())
            .map_err(|error| wrong(format!("cannot read `{}`: {error}", path.display())))
    };
    if paths.is_empty() {
        let socket = env("SSH_AUTH_SOCK").filter(|socket| !socket.is_empty());
        let socket = socket.map(PathBuf::from).ok_or_else(|| {
            wrong("there is no agent: SSH_AUTH_SOCK is not set".into())
                .hint(format!("start one with `ssh-agent`, or give a key: --ssh {id}=KEYFILE"))
        })?;
        return match is_socket(&socket)? {
            true => Ok((id.to_owned(), Agent::Socket(socket))),
            false => Err(wrong(format!("SSH_AUTH_SOCK `{}` is no socket", socket.display()))),
        };
    }
    let mut sockets = 0;
    for path in &paths {
        sockets += usize::from(is_socket(path)?);
    }
    match (sockets, paths.as_slice()) {
        (0, _) => Ok((id.to_owned(), Agent::Keys(paths))),
        (1, [socket]) => Ok((id.to_owned(), Agent::Socket(socket.clone()))),
        _ => Err(wrong("expected one socket, or keys alone".into())),
    }
}

/// An agent with keys from files.
#[derive(Debug)]
pub struct KeyAgent {
    directory: TempDir,
    /// The shell that the agent lives as long as.
    shell: Child,
}

impl KeyAgent {
    /// Starts an agent that has these keys.
    ///
    /// # Errors
    /// When OpenSSH is not there, or a file is no key that can be used without a passphrase.
    pub fn start(id: &str, keys: &[PathBuf]) -> Result<Self, Error> {
        let cannot = |what: String| Error::Configuration(format!("--ssh {id}: {what}"));
        let directory = tempfile::Builder::new().prefix("cofferdam-ssh-").tempdir();
        let directory = directory.map_err(|error| {
            cannot(format!("cannot make a directory for the agent's socket: {error}"))
        })?;
        let socket = directory.path().join("agent");
        let mut command = program("ssh-agent");
        command.arg("-a").arg(&socket).args(["--", "/bin/sh", "-c", WATCH]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let shell = command
            .spawn()
            .map_err(|error| cannot(format!("cannot start `ssh-agent` (of OpenSSH): {error}")))?;
        let agent = Self { directory, shell };
        let started = Instant::now();
        // It is there before it is listened to.
        while UnixStream::connect(&socket).is_err() {
            if started.elapsed() > PATIENCE {
                return Err(cannot("`ssh-agent` does not listen".into()));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        for key in keys {
            let mut command = program("ssh-add");
            command.env("SSH_AUTH_SOCK", &socket).arg("-q").arg("--").arg(key);
            // Nobody is asked for a passphrase: another program than the user's would do that.
            command.env("SSH_ASKPASS", "/bin/false").env("SSH_ASKPASS_REQUIRE", "force");
            let output = command
                .output()
                .map_err(|error| cannot(format!("cannot start `ssh-add` (of OpenSSH): {error}")))?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr);
                let said = said.lines().next().unwrap_or("it may need a passphrase");
                return Err(Error::usage(format!(
                    "--ssh {id}: `{}` is no key that can be used: {said}",
                    key.display()
                ))
                .hint("a key with a passphrase: add it to an agent, and lend that: --ssh ID"));
            }
        }
        Ok(agent)
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("agent")
    }
}

impl Drop for KeyAgent {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        // It ends now, and with it the agent.
        _ = self.shell.wait();
    }
}

/// A program with no more of the environment than it needs.
fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    command.stdin(Stdio::null());
    command
}

/// Starts an agent for each set of keys, and lends it.
///
/// # Errors
/// As [`KeyAgent::start`].
pub fn start_agents(
    mut session: LocalSession,
    keys: &Keys,
) -> Result<(LocalSession, Vec<KeyAgent>), Error> {
    let mut agents = Vec::new();
    for (id, files) in keys {
        let agent = KeyAgent::start(id, files)?;
        session = session.lend_agent(id, &agent.socket());
        agents.push(agent);
    }
    Ok((session, agents))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::net::UnixListener;

    use expect_test::expect;

    use super::*;

    #[test]
    fn secrets() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().to_str().expect("UTF-8");
        std::fs::write(dir.path().join("file"), "f").expect("written");
        let env = |name: &str| (name == "TOKEN").then(|| OsString::from("t"));
        let mut shown = String::new();
        for text in [
            "id=a,src=DIR/file",
            "id=a,source=DIR/file,type=file",
            "type=env,id=a,src=TOKEN",
            "id=a,env=TOKEN",
            "id=TOKEN",
            "id=DIR/file",
            "id=DIR/none",
            "id=a,src=DIR",
            "id=a,env=NONE",
            "id=TOKEN,type=file",
            "src=DIR/file",
            "id=a,typ=env",
            "id=a,type=vault",
            "a",
        ] {
            shown += &match secret(&text.replace("DIR", root), &env) {
                Ok((id, SecretSource::File(path))) => format!("{id}: file {}\n", path.display()),
                Ok((id, SecretSource::Value(secret))) => {
                    format!("{id}: {}\n", String::from_utf8_lossy(secret.reveal()))
                }
                Err(error) => format!("{error}\n"),
            };
        }
        expect![[r#"
            a: file DIR/file
            a: file DIR/file
            a: t
            a: t
            TOKEN: t
            DIR/file: file DIR/file
            --secret `id=DIR/none`: cannot read `DIR/none`: No such file or directory (os error 2)
            --secret `id=a,src=DIR`: `DIR` is a directory
            --secret `id=a,env=NONE`: the environment variable `NONE` is not set
            --secret `id=TOKEN,type=file`: cannot read `TOKEN`: No such file or directory (os error 2)
            --secret `src=DIR/file`: `id` is missing
            --secret `id=a,typ=env`: unknown key `typ`: expected `id`, `src`, `env` or `type`
            --secret `id=a,type=vault`: unknown type `vault`: expected `file` or `env`
            --secret `a`: `a`: expected `key=value`
        "#]]
        .assert_eq(&shown.replace(root, "DIR"));
    }

    #[test]
    fn agents() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().to_str().expect("UTF-8");
        for name in ["key", "other"] {
            std::fs::write(dir.path().join(name), "k").expect("written");
        }
        let _listener = UnixListener::bind(dir.path().join("socket")).expect("a socket");
        let mut shown = String::new();
        for (text, socket) in [
            ("default", "DIR/socket"),
            ("default", "DIR/key"),
            ("default", ""),
            ("a=DIR/socket", ""),
            ("a=DIR/key,DIR/other", ""),
            ("a=DIR/key,DIR/socket", ""),
            ("a=DIR/none", ""),
            ("=DIR/key", ""),
        ] {
            let socket = socket.replace("DIR", root);
            let env = |name: &str| (name == "SSH_AUTH_SOCK").then(|| OsString::from(&socket));
            shown += &match agent(&text.replace("DIR", root), &env) {
                Ok((id, agent)) => format!("{id}: {agent:?}\n"),
                Err(error) => format!("{error}\n"),
            };
        }
        expect![[r#"
            default: Socket("DIR/socket")
            --ssh `default`: SSH_AUTH_SOCK `DIR/key` is no socket
            --ssh `default`: there is no agent: SSH_AUTH_SOCK is not set
            a: Socket("DIR/socket")
            a: Keys(["DIR/key", "DIR/other"])
            --ssh `a=DIR/key,DIR/socket`: expected one socket, or keys alone
            --ssh `a=DIR/none`: cannot read `DIR/none`: No such file or directory (os error 2)
            --ssh `=DIR/key`: expected ID, ID=SOCKET or ID=KEYFILE
        "#]]
        .assert_eq(&shown.replace(root, "DIR"));
    }
}
