//! A real registry for the suites: Debian's `docker-registry` (CNCF distribution) on loopback,
//! with its storage in a temporary directory, ended when the value is dropped.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::command::{command, run};
use crate::oci::Layout;
use crate::port::Port;

/// A running registry.
pub struct Registry {
    process: Child,
    port: Port,
    storage: TempDir,
    tls: bool,
}

impl Registry {
    /// Starts a registry on a free port of 127.0.0.1 and waits until it answers.
    ///
    /// # Errors
    /// `docker-registry` is not installed, or does not come up.
    pub fn start() -> Result<Self> {
        Self::start_with(false)
    }

    /// The same, with TLS and a certificate of an authority of its own.
    ///
    /// # Errors
    /// Also when `openssl` is not installed.
    pub fn start_with_tls() -> Result<Self> {
        Self::start_with(true)
    }

    fn start_with(tls: bool) -> Result<Self> {
        let storage = tempfile::tempdir()?;
        let (key, certificate) =
            (storage.path().join("server.key"), storage.path().join("server.pem"));
        let mut secure = String::new();
        if tls {
            make_certificates(storage.path())?;
            secure = format!(", tls: {{key: {key:?}, certificate: {certificate:?}}}");
        }
        let port = Port::reserve()?;
        let address = port.address();
        let configuration = format!(
            "version: 0.1\n\
             log: {{level: warn, accesslog: {{disabled: true}}}}\n\
             storage:\n  filesystem: {{rootdirectory: {storage:?}}}\n  delete: {{enabled: true}}\n\
             http: {{addr: \"{address}\"{secure}}}\n",
            storage = storage.path().join("data"),
        );
        let file = storage.path().join("config.yml");
        fs::write(&file, configuration)?;
        let log = fs::File::create(storage.path().join("log"))?;
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start docker-registry (Debian package docker-registry)")?;
        let mut registry = Self { process, port, storage, tls };
        registry.wait_until_it_answers()?;
        Ok(registry)
    }

    fn wait_until_it_answers(&mut self) -> Result<()> {
        let give_up = Instant::now() + Duration::from_secs(30);
        while Instant::now() < give_up {
            if self.process.try_wait()?.is_some() {
                bail!("docker-registry ended:\n{}", self.log());
            }
            // A server with TLS says in the clear that it wants that.
            let expected = if self.tls { "HTTP/1.0 400" } else { "HTTP/1.1 200" };
            if http_get(self.address(), "/v2/").is_ok_and(|answer| answer.starts_with(expected)) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("docker-registry at {} does not answer:\n{}", self.address(), self.log())
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The certificates of the authority that signed this registry's, and of another one.
    #[must_use]
    pub fn authorities(&self) -> (PathBuf, PathBuf) {
        (self.storage.path().join("right.pem"), self.storage.path().join("wrong.pem"))
    }

    /// The image reference of a repository here, such as `127.0.0.1:PORT/busybox:latest`.
    #[must_use]
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address())
    }

    /// Pushes a layout's one image or index as `name` (`repository:tag`).
    ///
    /// # Errors
    /// skopeo is missing or the registry refuses.
    pub fn push(&self, layout: &Layout, name: &str) -> Result<()> {
        let from = format!("oci:{}", layout.path.display());
        let to = format!("docker://{}", self.reference(name));
        let options = ["--insecure-policy", "copy", "--quiet", "--all", "--dest-tls-verify=false"];
        run(command("skopeo", options).args([from, to]))?;
        Ok(())
    }

    /// Pulls `name` into a new layout at `path`, every platform of it.
    ///
    /// # Errors
    /// skopeo is missing, or the registry has no such image.
    pub fn pull(&self, name: &str, path: &Path) -> Result<Layout> {
        let from = format!("docker://{}", self.reference(name));
        let to = format!("oci:{}:latest", path.display());
        let options = ["--insecure-policy", "copy", "--quiet", "--all", "--src-tls-verify=false"];
        run(command("skopeo", options).args([from, to]))?;
        Layout::open(path)
    }

    /// What a client gets that knows the distribution specification and no media type: the type
    /// that the registry names, and the bytes.
    ///
    /// # Errors
    /// The registry has no such path.
    pub fn fetch(&self, path: &str) -> Result<(String, Vec<u8>)> {
        let mut stream = TcpStream::connect(self.address())?;
        let host = self.address();
        write!(
            stream,
            "GET {path} HTTP/1.0\r\nHost: {host}\r\n\
             Accept: application/vnd.oci.image.manifest.v1+json, */*\r\n\r\n"
        )?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
        let end = end.context("the answer has no body")?;
        let head = String::from_utf8_lossy(&answer[..end]).into_owned();
        if !head.starts_with("HTTP/1.0 200") && !head.starts_with("HTTP/1.1 200") {
            bail!("{path}: {head}");
        }
        let media_type = head.lines().find_map(|line| line.strip_prefix("Content-Type: "));
        Ok((media_type.unwrap_or_default().to_owned(), answer.split_off(end + 4)))
    }

    /// The digest that a tag points to.
    ///
    /// # Errors
    /// The registry has no such tag.
    pub fn digest(&self, name: &str) -> Result<String> {
        let reference = format!("docker://{}", self.reference(name));
        let options = ["inspect", "--raw", "--tls-verify=false"];
        let manifest = run(command("skopeo", options).arg(reference))?;
        Ok(crate::oci::digest_of(manifest.as_bytes()))
    }

    /// What the registry wrote to its log.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.storage.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // A process that has already ended is as good as one that was killed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Makes two authorities, `right` and `wrong`, and a server certificate of the first.
fn make_certificates(directory: &Path) -> Result<()> {
    let openssl = |arguments: &str| -> Result<()> {
        run(command("openssl", arguments.split(' ')).current_dir(directory))?;
        Ok(())
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    for name in ["right", "wrong"] {
        openssl(&format!(
            "req -x509 {key} -keyout {name}.key -out {name}.pem -subj /CN={name} -days 2"
        ))?;
    }
    fs::write(directory.join("extensions"), "subjectAltName=IP:127.0.0.1\n")?;
    openssl(&format!("req {key} -keyout server.key -out server.csr -subj /CN=registry"))?;
    openssl(
        "x509 -req -in server.csr -CA right.pem -CAkey right.key -CAcreateserial -days 2 \
         -extfile extensions -out server.pem",
    )
}

fn http_get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
