//! Docker's `config.json`: credentials in the file itself and in credential helpers.
//!
//! The caller says where the file and the helper programs are; nothing here looks at the
//! environment or the home directory. The format is described at
//! <https://docs.docker.com/reference/cli/docker/login/>.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::credentials::{Credential, Credentials, CredentialsError, Secret};

/// The key under which every Docker tool keeps Docker Hub's credentials.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
/// How long a helper may take; it may have to ask the user to unlock a key ring.
const HELPER_TIMEOUT: Duration = Duration::from_secs(60);
/// More output than any credential has.
const HELPER_OUTPUT: u64 = 1 << 20;

/// The credentials of a Docker configuration file.
#[derive(Default)]
pub struct DockerConfig {
    path: PathBuf,
    file: File,
    helper_dirs: Vec<PathBuf>,
}

#[derive(Default, Deserialize)]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Auth>,
    #[serde(default, rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(default, rename = "credsStore")]
    store: String,
}

#[derive(Default, Deserialize)]
struct Auth {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default, rename = "identitytoken")]
    identity_token: String,
    #[serde(default, rename = "registrytoken")]
    registry_token: String,
}

impl fmt::Debug for DockerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DockerConfig")
            .field("path", &self.path)
            .field("auths", &self.file.auths.keys())
            .field("helpers", &self.file.helpers)
            .field("store", &self.file.store)
            .finish_non_exhaustive()
    }
}

impl DockerConfig {
    /// Reads a configuration file; one that does not exist holds no credentials.
    ///
    /// # Errors
    ///
    /// The file cannot be read or is not valid.
    pub fn load(path: &Path) -> Result<Self, CredentialsError> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => b"{}".to_vec(),
            Err(error) => {
                return Err(CredentialsError(format!("cannot read {}: {error}", path.display())));
            }
        };
        // The parser's message can repeat a value, so only the place is told.
        let file = serde_json::from_slice(&text).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            CredentialsError(format!("invalid {}: line {line}, column {column}", path.display()))
        })?;
        Ok(Self { path: path.into(), file, helper_dirs: Vec::new() })
    }

    /// Names the directories in which `docker-credential-*` programs are looked for, in order.
    #[must_use]
    pub fn helper_dirs(self, dirs: impl IntoIterator<Item = PathBuf>) -> Self {
        Self { helper_dirs: dirs.into_iter().collect(), ..self }
    }

    fn find_in_file(&self, registry: &str) -> Result<Option<Credential>, CredentialsError> {
        let keys = &self.file.auths;
        let found = keys.get(server_key(registry)).or_else(|| {
            let wanted = host_of(registry);
            keys.iter().find(|(key, _)| host_of(key) == wanted).map(|(_, auth)| auth)
        });
        let Some(auth) = found else {
            return Ok(None);
        };
        if !auth.identity_token.is_empty() {
            return Ok(Some(Credential::IdentityToken(Secret::new(&auth.identity_token))));
        }
        if !auth.registry_token.is_empty() {
            return Ok(Some(Credential::RegistryToken(Secret::new(&auth.registry_token))));
        }
        if auth.auth.is_empty() {
            return Ok(Credential::from_pair(&auth.username, &auth.password));
        }
        let invalid = || {
            CredentialsError(format!(
                "invalid {}: `auth` of {registry} is not `user:password` in base64",
                self.path.display()
            ))
        };
        let pair = STANDARD.decode(auth.auth.trim()).map_err(|_| invalid())?;
        let pair = String::from_utf8(pair).map_err(|_| invalid())?;
        let (username, password) = pair.split_once(':').ok_or_else(invalid)?;
        // Old clients padded the password with NUL.
        Ok(Credential::from_pair(username, password.trim_end_matches('\0')))
    }

    async fn ask_helper(
        &self,
        helper: &str,
        registry: &str,
    ) -> Result<Option<Credential>, CredentialsError> {
        let fail = |what: String| CredentialsError(format!("helper {helper:?}: {what}"));
        let program = self.find_helper(helper)?;
        let mut child = tokio::process::Command::new(&program)
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| fail(format!("cannot start {}: {error}", program.display())))?;
        let mut stdin = child.stdin.take().expect("the helper's standard input is a pipe");
        let stdout = child.stdout.take().expect("the helper's standard output is a pipe");
        let talk = async {
            // A helper that needs no input may be gone before it is written.
            let _ = stdin.write_all(server_key(registry).as_bytes()).await;
            drop(stdin);
            let mut output = Vec::new();
            stdout.take(HELPER_OUTPUT).read_to_end(&mut output).await?;
            Ok::<_, io::Error>((child.wait().await?, output))
        };
        let (status, output) = tokio::time::timeout(HELPER_TIMEOUT, talk)
            .await
            .map_err(|_| fail(format!("no answer within {} s", HELPER_TIMEOUT.as_secs())))?
            .map_err(|error| fail(error.to_string()))?;
        if !status.success() {
            // The protocol has this one message for "nothing stored".
            let nothing = b"credentials not found";
            if output.windows(nothing.len()).any(|window| window == nothing) {
                return Ok(None);
            }
            return Err(fail(format!("ended with {status}")));
        }
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default, rename = "Username")]
            username: String,
            #[serde(default, rename = "Secret")]
            secret: String,
        }
        let answer: Answer = serde_json::from_slice(&output)
            .map_err(|_| fail("the answer is not the JSON of a credential".into()))?;
        Ok(Credential::from_pair(&answer.username, &answer.secret))
    }

    fn find_helper(&self, helper: &str) -> Result<PathBuf, CredentialsError> {
        let valid = !helper.is_empty()
            && !helper.starts_with('.')
            && helper.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if !valid {
            return Err(CredentialsError(format!(
                "invalid helper name {helper:?} in {}: expected letters, digits, `-`, `_` and `.`",
                self.path.display()
            )));
        }
        let name = format!("docker-credential-{helper}");
        self.helper_dirs
            .iter()
            .map(|dir| dir.join(&name))
            .find(|path| path.is_file())
            .ok_or_else(|| CredentialsError(format!("{name} is not installed")))
    }
}

#[async_trait]
impl Credentials for DockerConfig {
    async fn credential(&self, registry: &str) -> Result<Option<Credential>, CredentialsError> {
        let wanted = host_of(registry);
        let own = self.file.helpers.iter().find(|(key, _)| host_of(key) == wanted);
        let helper = own.map_or(self.file.store.as_str(), |(_, helper)| helper);
        if !helper.is_empty()
            && let Some(credential) = self.ask_helper(helper, registry).await?
        {
            return Ok(Some(credential));
        }
        self.find_in_file(registry)
    }
}

/// The name that credential stores know a registry by.
fn server_key(registry: &str) -> &str {
    if registry == "docker.io" { DOCKER_HUB_KEY } else { registry }
}

/// The host and port of a key, which may also be an URL.
fn host_of(key: &str) -> &str {
    let key = key.strip_prefix("https://").or(key.strip_prefix("http://")).unwrap_or(key);
    match key.split('/').next().unwrap_or(key) {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use expect_test::{Expect, expect};

    use super::*;

    /// Shows what a configuration gives for a registry, with secrets in the open.
    async fn look_up(json: &str, registry: &str) -> String {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("config.json");
        std::fs::write(&path, json).expect("written");
        if json.contains("fake") {
            write_helper(dir.path());
        }
        let config = match DockerConfig::load(&path) {
            Ok(config) => config.helper_dirs([dir.path().join("none"), dir.path().into()]),
            Err(error) => return error.to_string().replace(&*dir.path().to_string_lossy(), ""),
        };
        match config.credential(registry).await {
            Ok(None) => "none".into(),
            Ok(Some(Credential::Basic { username, password })) => {
                format!("{username} / {}", password.expose())
            }
            Ok(Some(Credential::IdentityToken(token))) => format!("identity {}", token.expose()),
            Ok(Some(Credential::RegistryToken(token))) => format!("registry {}", token.expose()),
            Err(error) => error.to_string().replace(&*dir.path().to_string_lossy(), ""),
        }
    }

    fn write_helper(dir: &Path) {
        let helper = dir.join("docker-credential-fake");
        std::fs::write(
            &helper,
            "#!/bin/sh\nread server\ncase $server in\n\
             *known*|*index.docker.io/v1/) echo \"{\\\"ServerURL\\\":\\\"$server\\\",\
             \\\"Username\\\":\\\"helped\\\",\\\"Secret\\\":\\\"for $server\\\"}\";;\n\
             *token*) echo '{\"Username\":\"<token>\",\"Secret\":\"refresh\"}';;\n\
             *broken*) echo 'secret-in-output'; exit 3;;\n\
             *) echo 'credentials not found in native keychain'; exit 1;;\nesac\n",
        )
        .expect("written");
        std::fs::set_permissions(&helper, PermissionsExt::from_mode(0o755)).expect("executable");
    }

    async fn check(json: &str, registry: &str, expected: Expect) {
        expected.assert_eq(&look_up(json, registry).await);
    }

    #[tokio::test]
    async fn credentials_in_the_file() {
        let file = r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "aHViOmh1YjpwYXNzAAA="},
            "https://quay.io/v1/": {"username": "q", "password": "p"},
            "127.0.0.1:5000": {"identitytoken": "idt", "auth": "ZGVtbzp4"},
            "reg": {"registrytoken": "regt"},
            "bad": {"auth": "c2VjcmV0"},
            "empty": {}
        }, "unknown": 1}"#;
        check(file, "docker.io", expect!["hub / hub:pass"]).await;
        check(file, "quay.io", expect!["q / p"]).await;
        check(file, "127.0.0.1:5000", expect!["identity idt"]).await;
        check(file, "127.0.0.1:5001", expect!["none"]).await;
        check(file, "reg", expect!["registry regt"]).await;
        check(file, "empty", expect!["none"]).await;
        check(
            file,
            "bad",
            expect!["invalid /config.json: `auth` of bad is not `user:password` in base64"],
        )
        .await;
        check(r#"{"auths": "pass"}"#, "x", expect!["invalid /config.json: line 1, column 16"])
            .await;
    }

    #[tokio::test]
    async fn credentials_from_helpers() {
        let store = r#"{"credsStore": "fake", "auths": {"mine": {"auth": "bWU6cGFzcw=="}}}"#;
        check(store, "known.io", expect!["helped / for known.io"]).await;
        check(store, "docker.io", expect!["helped / for https://index.docker.io/v1/"]).await;
        check(store, "token.io", expect!["identity refresh"]).await;
        check(store, "mine", expect!["me / pass"]).await;
        check(store, "other.io", expect!["none"]).await;
        check(store, "broken.io", expect![[r#"helper "fake": ended with exit status: 3"#]]).await;
        let helpers = r#"{"credHelpers": {"known.io": "fake", "a": "../fake", "b": "missing"}}"#;
        check(helpers, "known.io", expect!["helped / for known.io"]).await;
        check(helpers, "known2.io", expect!["none"]).await;
        check(
            helpers,
            "a",
            expect![[
                r#"invalid helper name "../fake" in /config.json: expected letters, digits, `-`, `_` and `.`"#
            ]],
        )
        .await;
        check(helpers, "b", expect!["docker-credential-missing is not installed"]).await;
    }

    #[test]
    fn debug_has_no_secret() {
        let file = r#"{"auths": {"r": {"auth": "aHViOmh1YjpwYXNz", "password": "hunter2"}}}"#;
        let file = serde_json::from_str(file).expect("valid");
        let text = format!("{:?}", DockerConfig { file, ..DockerConfig::default() });
        assert!(text.contains("\"r\"") && !text.contains("hunter2") && !text.contains("aHVi"));
    }
}
