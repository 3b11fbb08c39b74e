//! Runs the git program with nothing around it: no settings but ours, no prompts, and, where the
//! kernel has Landlock, no files but the system's programs and its own repository.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use landlock::{
    ABI, Access, AccessFs, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    path_beneath_rules,
};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::runtime::Handle;

use super::remote::{ALLOWED, Protocol, Remote};
use crate::{Error, Result};

/// More than so much of what git prints is not read.
const MAX_OUTPUT: u64 = 512 << 20;
/// Of what git complains about, so much is kept.
const MAX_COMPLAINT: usize = 16 << 10;

/// What git may read besides its own repository.
const READABLE: [&str; 26] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/nix/store",
    "/gnu/store",
    "/proc",
    "/etc/alternatives",
    "/etc/ssl",
    "/etc/pki",
    "/etc/ca-certificates",
    "/etc/crypto-policies",
    "/etc/resolv.conf",
    "/run/systemd/resolve",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/passwd",
    "/etc/group",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
];
const DEVICES: [&str; 4] = ["/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"];

/// What the program's user has for git; everything else of the environment is kept from it.
#[derive(Clone, Debug, Default)]
pub struct GitConfig {
    /// `PATH`, and variables for proxies and certificates.
    pub environment: Vec<(String, OsString)>,
    /// Files with the keys of ssh servers that are trusted.
    pub known_hosts: Vec<PathBuf>,
}

/// Who we are to a server.
#[derive(Clone, Default)]
pub(super) struct Identity {
    /// The `Authorization` header.
    pub(super) authorization: Option<String>,
    /// The socket of an ssh agent.
    pub(super) agent: Option<PathBuf>,
    /// Keys of ssh servers that are trusted, in the form of `known_hosts`.
    pub(super) known_hosts: Option<String>,
}

/// Runs git for one repository.
pub(super) struct Git<'a> {
    pub(super) config: &'a GitConfig,
    pub(super) remote: &'a Remote,
    pub(super) identity: &'a Identity,
    /// An empty directory for what git wants to have somewhere.
    pub(super) home: &'a Path,
    /// The repository, where one is needed.
    pub(super) repository: Option<&'a Path>,
    /// Another repository of this machine that may be read.
    pub(super) source: Option<&'a Path>,
}

impl Git<'_> {
    /// Runs git to its end; what it printed.
    pub(super) async fn run<S: AsRef<OsStr>>(
        &self,
        action: &'static str,
        arguments: impl IntoIterator<Item = S>,
    ) -> Result<Vec<u8>> {
        let mut running = self.start(action, arguments, Stdio::null())?;
        let mut stdout = running.child.stdout.take().expect("it is piped").take(MAX_OUTPUT);
        let mut output = Vec::new();
        let read = stdout.read_to_end(&mut output);
        let (read, complaint) = tokio::join!(read, running.complaint());
        read.map_err(|error| self.failed(action, error.to_string()))?;
        running.end(self, action, complaint).await?;
        Ok(output)
    }

    /// Starts git.
    pub(super) fn start<S: AsRef<OsStr>>(
        &self,
        action: &'static str,
        arguments: impl IntoIterator<Item = S>,
        stdin: Stdio,
    ) -> Result<Running> {
        let failed = |error: io::Error| self.failed(action, error.to_string());
        let mut command = Command::new("git");
        command.env_clear().envs(self.config.environment.iter().map(|(name, value)| (name, value)));
        for name in ["HOME", "XDG_CONFIG_HOME", "TMPDIR"] {
            command.env(name, self.home);
        }
        for (name, value) in [
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_SYSTEM", "/dev/null"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_ATTR_NOSYSTEM", "1"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_ASKPASS", "/bin/false"),
            ("SSH_ASKPASS", "/bin/false"),
            ("SSH_ASKPASS_REQUIRE", "force"),
            ("GIT_NO_LAZY_FETCH", "1"),
            ("GIT_LFS_SKIP_SMUDGE", "1"),
            ("GIT_OPTIONAL_LOCKS", "0"),
            ("LC_ALL", "C"),
            // Also for what a server redirects to.
            ("GIT_ALLOW_PROTOCOL", if self.source.is_some() { "file" } else { ALLOWED }),
        ] {
            command.env(name, value);
        }
        match self.repository {
            Some(repository) => command.env("GIT_DIR", repository),
            // None that happens to lie around the state directory.
            None => {
                let above = self.home.parent();
                command.envs(above.map(|above| ("GIT_CEILING_DIRECTORIES", above)))
            }
        };
        let mut settings = vec![
            ("core.hooksPath", "/dev/null".to_owned()),
            ("core.fsmonitor", "false".to_owned()),
            ("core.askPass", "/bin/false".to_owned()),
            ("credential.helper", String::new()),
            ("fetch.recurseSubmodules", "false".to_owned()),
            ("submodule.recurse", "false".to_owned()),
            ("transfer.bundleURI", "false".to_owned()),
            ("gc.auto", "0".to_owned()),
            ("maintenance.auto", "false".to_owned()),
            // The repositories are this program's own, whoever runs it.
            ("safe.directory", "*".to_owned()),
            ("http.lowSpeedLimit", "1".to_owned()),
            ("http.lowSpeedTime", "60".to_owned()),
        ];
        if self.remote.protocol() == Protocol::Ssh && self.source.is_none() {
            settings.push(("core.sshCommand", self.ssh().map_err(failed)?));
            if let Some(agent) = &self.identity.agent {
                command.env("SSH_AUTH_SOCK", agent);
            }
        }
        let header = format!("http.{}.extraHeader", self.remote.origin());
        if let Some(authorization) = &self.identity.authorization {
            settings.push((&header, format!("Authorization: {authorization}")));
        }
        // By environment: arguments are there for everybody to see.
        command.env("GIT_CONFIG_COUNT", settings.len().to_string());
        for (number, (key, value)) in settings.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{number}"), key);
            command.env(format!("GIT_CONFIG_VALUE_{number}"), value);
        }
        command.args(arguments).current_dir(self.home);
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own, to be ended as a whole.
        command.process_group(0).kill_on_drop(true);
        let child = self.spawn(command).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                self.failed(action, "the program `git` is not there: install git".to_owned())
            }
            _ => failed(error),
        })?;
        Ok(Running { child })
    }

    /// How ssh is called: without settings of the user's, and with hosts that are known only.
    fn ssh(&self) -> io::Result<String> {
        let known = self.home.join("known_hosts");
        let mut text = self.identity.known_hosts.clone().unwrap_or_default();
        if text.is_empty() {
            for path in &self.config.known_hosts {
                text += &std::fs::read_to_string(path).unwrap_or_default();
                text.push('\n');
            }
        }
        std::fs::write(&known, text)?;
        Ok(format!(
            "ssh -F /dev/null -o BatchMode=yes -o StrictHostKeyChecking=yes \
             -o GlobalKnownHostsFile=/dev/null -o UpdateHostKeys=no -o UserKnownHostsFile={}",
            quote(&known.to_string_lossy())
        ))
    }

    /// Starts a program from a thread that confines itself before: what it starts is confined.
    fn spawn(&self, mut command: Command) -> io::Result<Child> {
        let mut readable: Vec<PathBuf> = READABLE.iter().map(PathBuf::from).collect();
        let path = self.config.environment.iter().find(|(name, _)| name == "PATH");
        for directory in path.iter().flat_map(|(_, path)| std::env::split_paths(path)) {
            // Where git itself is, its helpers are beside it.
            let git = std::fs::canonicalize(directory.join("git")).ok();
            let prefix = git.as_deref().and_then(|git| git.parent()?.parent());
            readable.extend(prefix.filter(|prefix| *prefix != Path::new("/")).map(Path::to_owned));
            readable.push(directory);
        }
        readable.extend(self.source.map(Path::to_owned));
        let certificates = self.config.environment.iter().filter(|(name, _)| name.contains("SSL"));
        readable.extend(certificates.map(|(_, path)| PathBuf::from(path)));
        let mut writable: Vec<PathBuf> = DEVICES.iter().map(PathBuf::from).collect();
        writable.push(self.home.to_owned());
        writable.extend(self.repository.map(Path::to_owned));
        writable.extend(self.identity.agent.clone());
        let runtime = Handle::current();
        let thread = std::thread::Builder::new().name("git".to_owned()).spawn(move || {
            let _within = runtime.enter();
            confine(&readable, &writable).map_err(io::Error::other)?;
            command.spawn()
        });
        thread?.join().unwrap_or_else(|_| Err(io::Error::other("the thread that starts it ended")))
    }

    pub(super) fn failed(&self, action: &'static str, reason: String) -> Error {
        Error::Repository { url: self.remote.url().to_owned(), action, reason }
    }
}

/// Takes the thread all rights to files but these, as far as the kernel can.
fn confine(readable: &[PathBuf], writable: &[PathBuf]) -> Result<(), RulesetError> {
    let abi = ABI::V5;
    Ruleset::default()
        .handle_access(AccessFs::from_all(abi))?
        .create()?
        .add_rules(path_beneath_rules(readable, AccessFs::from_read(abi)))?
        .add_rules(path_beneath_rules(writable, AccessFs::from_all(abi)))?
        .restrict_self()?;
    Ok(())
}

/// A git that runs; ended with all its helpers when dropped.
pub(super) struct Running {
    pub(super) child: Child,
}

impl Drop for Running {
    fn drop(&mut self) {
        // There is an id for as long as it was not seen to end.
        let id = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        if let Some(group) = id {
            _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Running {
    /// The end of what git complains about, read to the end.
    pub(super) fn complaint(&mut self) -> impl Future<Output = Vec<u8>> + use<> {
        let stderr = self.child.stderr.take().expect("it is piped");
        tail(stderr)
    }

    /// Waits for its end, which has to be a good one.
    pub(super) async fn end(
        &mut self,
        git: &Git<'_>,
        action: &'static str,
        complaint: Vec<u8>,
    ) -> Result<()> {
        let status = self.child.wait().await;
        let status = status.map_err(|error| git.failed(action, error.to_string()))?;
        match status.success() {
            true => Ok(()),
            false => Err(git.failed(action, told(&complaint, &status.to_string()))),
        }
    }
}

async fn tail(mut from: impl AsyncRead + Unpin) -> Vec<u8> {
    let (mut kept, mut chunk) = (Vec::new(), [0; 4096]);
    while let Ok(count @ 1..) = from.read(&mut chunk).await {
        kept.extend_from_slice(&chunk[..count]);
        if kept.len() > 2 * MAX_COMPLAINT {
            kept.drain(..kept.len() - MAX_COMPLAINT);
        }
    }
    kept
}

/// What of a complaint says why.
fn told(complaint: &[u8], status: &str) -> String {
    let text = String::from_utf8_lossy(complaint);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let reasons = lines.iter().filter_map(|line| {
        ["fatal: ", "error: ", "remote: ", "ERROR: "]
            .iter()
            .find_map(|start| line.strip_prefix(start))
    });
    let reasons: Vec<&str> = reasons.collect();
    let told = if reasons.is_empty() { &lines[lines.len().saturating_sub(3)..] } else { &reasons };
    let told = told.join("; ").chars().filter(|c| !c.is_control()).take(600).collect::<String>();
    if told.is_empty() { status.to_owned() } else { told }
}

/// A word for a shell, which git has `core.sshCommand` read by.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn git_reads_and_writes_nothing_else() {
        let modules = std::fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
        let dir = tempfile::tempdir().expect("a directory");
        let [home, repository, other] = ["home", "repository", "other"].map(|name| {
            let path = dir.path().join(name);
            std::fs::create_dir(&path).expect("a directory");
            path
        });
        std::fs::write(other.join("f"), "secret").expect("written");
        std::fs::write(home.join("f"), "secret").expect("written");
        let environment = std::env::var_os("PATH").map(|path| ("PATH".to_owned(), path));
        let config =
            GitConfig { environment: environment.into_iter().collect(), known_hosts: Vec::new() };
        let git = Git {
            config: &config,
            remote: &Remote::parse("https://h.example/a").expect("a repository"),
            identity: &Identity::default(),
            home: &home,
            repository: Some(&repository),
            source: None,
        };
        git.run("make a repository", ["init", "-q", "--bare"]).await.expect("it can be made");
        let hash = async |path: PathBuf| {
            let path = path.to_string_lossy().into_owned();
            git.run("hash", ["hash-object", "-w", "--no-filters", "--", &path]).await
        };
        hash(home.join("f")).await.expect("that is git's own");
        let read = hash(other.join("f")).await;
        // Without Landlock there is nothing to be seen here.
        if modules.split(',').any(|module| module.trim() == "landlock") {
            let error = read.expect_err("that is not git's").to_string();
            assert!(error.contains("Permission denied"), "{error}");
        }
        let error = git.run("fail", ["no-such-command"]).await.expect_err("git has none");
        assert!(error.to_string().starts_with("repository `https://h.example/a`: cannot fail: "));
    }

    #[test]
    fn complaints_are_told_in_short() {
        let text = b"Cloning...\nremote: denied\x1b[31m\nfatal: no\n";
        assert_eq!(told(text, "exit status: 1"), "denied[31m; no");
        assert_eq!(told(b"", "exit status: 1"), "exit status: 1");
        assert_eq!(told(b"a\nb\nc\nd\n", ""), "b; c; d");
    }
}
