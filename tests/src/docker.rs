//! A small Docker daemon for the suites: as much of its API as loading an image takes, on a Unix
//! socket. It treats archives as Docker's own image store does: a layer whose chain it has is not
//! looked for in the archive.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::oci::digest_of;

/// A running daemon; its thread ends with the process.
pub struct Docker {
    directory: TempDir,
    state: Arc<Mutex<State>>,
}

/// What the daemon has and saw.
#[derive(Default)]
pub struct State {
    /// Images by ID, the digest of the config, with their diff ids.
    pub images: HashMap<String, Vec<String>>,
    /// IDs by name.
    pub tags: HashMap<String, String>,
    /// Bytes of each archive that was loaded.
    pub loaded: Vec<u64>,
}

impl Docker {
    /// Starts a daemon without images.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn start() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let listener = UnixListener::bind(directory.path().join("docker.sock"))?;
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let state = shared.clone();
                // What is wrong with a request shows in what the client makes of it.
                thread::spawn(move || serve(stream, &state));
            }
        });
        Ok(Self { directory, state })
    }

    /// The value for `DOCKER_HOST`.
    #[must_use]
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("docker.sock")
    }

    /// What the daemon has.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn serve(stream: UnixStream, state: &Mutex<State>) -> Result<()> {
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut words = line.split_whitespace();
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let request = format!("{method} {target}");
        let mut headers = HashMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim().split_once(':') else { break };
            headers.insert(name.to_lowercase(), value.trim().to_owned());
        }
        let body = body(&mut reader, &headers)?;
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let (status, answer) = match answer(&request, &body, &mut state) {
            Ok(Some(answer)) => ("200 OK", answer),
            Ok(None) => ("404 Not Found", json!({"message": "no such image"})),
            // As Docker does: the failure comes in the stream of a response that began well.
            Err(error) => ("200 OK", json!({"error": format!("{error:#}")})),
        };
        let answer = format!("{answer}\n");
        write!(
            writer,
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{answer}",
            answer.len()
        )?;
    }
}

fn body(reader: &mut impl std::io::BufRead, headers: &HashMap<String, String>) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    if let Some(length) = headers.get("content-length") {
        reader.take(length.parse()?).read_to_end(&mut body)?;
    } else if headers.contains_key("transfer-encoding") {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let length = u64::from_str_radix(line.trim(), 16).context("length of a chunk")?;
            reader.by_ref().take(length).read_to_end(&mut body)?;
            reader.read_line(&mut line)?;
            if length == 0 {
                break;
            }
        }
    }
    Ok(body)
}

fn answer(request: &str, body: &[u8], state: &mut State) -> Result<Option<Value>> {
    let (path, query) = request.split_once('?').unwrap_or((request, ""));
    Ok(Some(match path {
        "GET /_ping" => json!("OK"),
        "GET /version" => json!({"Components": [{"Name": "Engine"}]}),
        "GET /info" => json!({"DriverStatus": [["Backing Filesystem", "extfs"]]}),
        "GET /images/json" => state.images.keys().map(|id| json!({"Id": id})).collect(),
        "POST /images/load" => {
            state.loaded.push(body.len() as u64);
            load(body, state)?;
            json!({"stream": "Loaded image"})
        }
        _ => {
            let Some(rest) = path.split_once("/images/").map(|(_, rest)| rest) else {
                bail!("unknown request {request}")
            };
            let (id, action) = rest.rsplit_once('/').unwrap_or((rest, ""));
            let id = state.tags.get(id).cloned().unwrap_or_else(|| id.to_owned());
            let Some(layers) = state.images.get(&id).cloned() else { return Ok(None) };
            if action == "tag" {
                let value = |key: &str| {
                    let pair = query.split('&').find_map(|pair| pair.strip_prefix(key));
                    pair.unwrap_or_default().replace("%2F", "/").replace("%3A", ":")
                };
                let name = format!("{}:{}", value("repo="), value("tag="));
                state.tags.insert(name.trim_start_matches("docker.io/library/").into(), id);
                json!({})
            } else {
                json!({"Id": id, "RootFS": {"Type": "layers", "Layers": layers}})
            }
        }
    }))
}

fn load(archive: &[u8], state: &mut State) -> Result<()> {
    let mut files = HashMap::new();
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        let name = entry.path()?.to_string_lossy().into_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        files.insert(name, bytes);
    }
    let file = |name: &str| files.get(name).with_context(|| format!("the archive lacks {name}"));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let manifest: Value = serde_json::from_slice(file("manifest.json")?)?;
    for image in manifest.as_array().context("manifest.json is no list")? {
        let config = file(&text(&image["Config"]))?;
        let parsed: Value = serde_json::from_slice(config)?;
        let list = |value: &Value| -> Vec<String> {
            value.as_array().into_iter().flatten().map(text).collect()
        };
        let (diff_ids, layers) = (list(&parsed["rootfs"]["diff_ids"]), list(&image["Layers"]));
        if diff_ids.len() != layers.len() {
            bail!("{} layers, but {} diff ids", layers.len(), diff_ids.len());
        }
        for (index, layer) in layers.iter().enumerate() {
            let chain = &diff_ids[..=index];
            if state.images.values().any(|known| known.starts_with(chain)) {
                continue;
            }
            let mut plain = Vec::new();
            flate2::read::MultiGzDecoder::new(&file(layer)?[..]).read_to_end(&mut plain)?;
            if digest_of(&plain) != diff_ids[index] {
                bail!("{layer} is not {}", diff_ids[index]);
            }
        }
        let id = digest_of(config);
        state.images.insert(id.clone(), diff_ids);
        for tag in list(&image["RepoTags"]) {
            state.tags.insert(tag, id.clone());
        }
    }
    Ok(())
}
