//! Docker's API over a Unix socket or TCP (Docker Engine API, version 1.24 and later).
//!
//! Docker's own image store looks a layer up by its chain before it opens the layer's file in
//! the archive: layers of images that it has are named in `manifest.json` and left out. Which
//! those are, its images' lists of diff ids say. containerd's image store and podman read all
//! files of an archive.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cofferdam_registry::Reference;
use cofferdam_types::Digest;
use reqwest::{Body, Method, StatusCode};
use serde_json::Value;

use super::{Load, Loaded, Pieces};
use crate::layout::{ImageLayout, LayoutFormat, single};
use crate::{Error, Result};

/// How long an answer to a question may take; loading takes as long as it takes.
const PATIENCE: Duration = Duration::from_secs(30);
/// The most images whose layers are looked at.
const MAX_IMAGES: usize = 1000;

pub(super) struct Docker {
    http: reqwest::Client,
    base: String,
    name: String,
}

/// Who speaks the API, as far as it matters for what can be left out.
#[derive(PartialEq)]
enum Kind {
    /// Docker with its own image store.
    Layers,
    /// Whatever else.
    Opaque(&'static str),
}

impl Docker {
    /// Errors are the reason alone.
    pub(super) fn at(address: &str) -> Result<Self, String> {
        let builder = reqwest::Client::builder().no_proxy();
        let (builder, base) = if let Some(path) = address.strip_prefix("unix://") {
            (builder.unix_socket(std::path::Path::new(path)), "http://docker".to_owned())
        } else if let Some(host) = address.strip_prefix("tcp://") {
            (builder, format!("http://{}", host.trim_end_matches('/')))
        } else {
            return Err("expected `unix://PATH` or `tcp://HOST:PORT` (without TLS)".into());
        };
        let http = builder.build().map_err(|error| error.to_string())?;
        Ok(Self { http, base, name: address.to_owned() })
    }

    /// Whether somebody answers; if not, why.
    pub(super) async fn ping(&self) -> Result<(), String> {
        match self.ask(Method::GET, "/_ping").await {
            Ok((StatusCode::OK, _)) => Ok(()),
            Ok((status, _)) => Err(format!("answers {status} to a ping")),
            Err(reason) => Err(reason),
        }
    }

    pub(super) async fn load(&self, load: &Load<'_>) -> Result<Loaded> {
        let failed = |reason: String| Error::Load { into: self.name.clone(), reason };
        let kind = self.kind().await.map_err(failed)?;
        let into = match kind {
            Kind::Layers => "Docker",
            Kind::Opaque(name) => name,
        };
        if let Some(id) = self.existing(load).await.map_err(failed)? {
            self.tag(&id, load.names).await.map_err(failed)?;
            return Ok(Loaded { into: into.into(), sent: 0 });
        }
        let without = match kind {
            Kind::Layers => self.known_layers(load).await.map_err(failed)?,
            Kind::Opaque(_) => HashSet::new(),
        };
        let partial = !without.is_empty();
        let sent = match self.send(load, without).await {
            // An image may have gone in the meantime, and its layers with it.
            Err(error) if partial => {
                tracing::debug!("loading without the layers that are there: {error}");
                self.send(load, HashSet::new()).await?
            }
            result => result?,
        };
        Ok(Loaded { into: into.into(), sent })
    }

    async fn kind(&self) -> Result<Kind, String> {
        let version = self.get("/version").await?.unwrap_or_default();
        let components = version["Components"].as_array().into_iter().flatten();
        let is_docker = components
            .filter_map(|component| component["Name"].as_str())
            .any(|name| name == "Engine");
        if !is_docker {
            return Ok(Kind::Opaque("podman"));
        }
        let info = self.get("/info").await?.unwrap_or_default();
        let status = info["DriverStatus"].to_string();
        Ok(match status.contains("io.containerd.snapshotter") {
            true => Kind::Opaque("Docker with containerd's image store"),
            false => Kind::Layers,
        })
    }

    /// What the engine calls the image, if it has it: its own image store goes by the config's
    /// digest, containerd's by the manifest's.
    async fn existing(&self, load: &Load<'_>) -> Result<Option<String>, String> {
        let manifest = &load.image.manifests[0];
        let ours = [manifest.config.digest, manifest.descriptor.digest];
        for digest in ours {
            let Some(found) = self.get(&format!("/images/{digest}/json")).await? else { continue };
            let id = found["Id"].as_str().unwrap_or_default();
            if ours.iter().any(|digest| digest.to_string() == id || digest.hex() == id) {
                return Ok(Some(digest.to_string()));
            }
        }
        Ok(None)
    }

    /// Names an image that is there already.
    async fn tag(&self, id: &str, names: &[Reference]) -> Result<(), String> {
        for name in names {
            let Some(tag) = name.tag() else { continue };
            let path = format!("/images/{id}/tag?repo={}&tag={tag}", encoded(&name.name()));
            match self.ask(Method::POST, &path).await? {
                (status, _) if status.is_success() => {}
                (status, body) => return Err(format!("tag {name}: {status}: {}", said(&body))),
            }
        }
        Ok(())
    }

    /// The blobs of the lowest layers, as far as some image of the engine is built on the same.
    async fn known_layers(&self, load: &Load<'_>) -> Result<HashSet<Digest>, String> {
        let layers = &single(load.image).map_err(|error| error.to_string())?.layers;
        let images = self.get("/images/json?all=1").await?.unwrap_or_default();
        let mut known = 0;
        for image in images.as_array().into_iter().flatten().take(MAX_IMAGES) {
            let Some(id) = image["Id"].as_str() else { continue };
            let Some(details) = self.get(&format!("/images/{id}/json")).await? else { continue };
            let theirs = details["RootFS"]["Layers"].as_array().into_iter().flatten();
            let common = theirs
                .zip(layers)
                .take_while(|(theirs, ours)| {
                    theirs.as_str().is_some_and(|text| text == ours.diff_id.to_string())
                })
                .count();
            known = known.max(common);
        }
        let (there, missing) = layers.split_at(known);
        let missing: HashSet<Digest> =
            missing.iter().map(|layer| layer.descriptor.digest).collect();
        let there = there.iter().map(|layer| layer.descriptor.digest);
        Ok(there.filter(|digest| !missing.contains(digest)).collect())
    }

    /// Sends an archive; gives its size.
    async fn send(&self, load: &Load<'_>, without: HashSet<Digest>) -> Result<u64> {
        let failed = |reason: String| Error::Load { into: self.name.clone(), reason };
        let (pieces, receiver) = Pieces::new();
        let (store, image, names) = (load.store.clone(), load.image.clone(), load.names.to_vec());
        let writing = tokio::task::spawn_blocking(move || {
            let layout = ImageLayout {
                store: &store,
                image: &image,
                names: &names,
                format: LayoutFormat::Docker,
                without,
            };
            let mut pieces = pieces;
            let written = layout.write_archive(&mut pieces);
            if let Err(error) = &written {
                pieces.fail(error);
            }
            written
        });
        let sent = Arc::new(AtomicU64::new(0));
        let (count, progress) = (sent.clone(), load.progress.clone());
        let body = futures::stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|piece| (piece, receiver))
        });
        let body = futures::StreamExt::inspect(body, move |piece| {
            let length = piece.as_ref().map_or(0, |piece| piece.len() as u64);
            let sent = count.fetch_add(length, Ordering::Relaxed) + length;
            progress("sending the archive", sent, 0);
        });
        let request = self
            .http
            .post(format!("{}/images/load?quiet=1", self.base))
            .header("Content-Type", "application/x-tar")
            .body(Body::wrap_stream(body));
        let answered = async {
            let response = request.send().await.map_err(|error| chain(&error))?;
            let status = response.status();
            let body = response.bytes().await.map_err(|error| chain(&error))?;
            let problem = body
                .split(|byte| *byte == b'\n')
                .filter_map(|line| serde_json::from_slice::<Value>(line).ok())
                .find_map(|line| Some(line["error"].as_str()?.to_owned()));
            match problem {
                Some(problem) => Err(problem),
                None if status.is_success() => Ok(()),
                None => Err(format!("{status}: {}", said(&body))),
            }
        };
        let answered = answered.await;
        let written = writing.await.map_err(|error| failed(error.to_string()))?;
        match (answered, written) {
            (Ok(()), Ok(())) => Ok(sent.load(Ordering::Relaxed)),
            // That the engine closed the connection is what it said, not what it wrote.
            (Err(reason), Ok(()) | Err(Error::Output(_))) => Err(failed(reason)),
            (_, Err(error)) => Err(error),
        }
    }

    /// The JSON at a path; `None` if there is nothing.
    async fn get(&self, path: &str) -> Result<Option<Value>, String> {
        match self.ask(Method::GET, path).await? {
            (StatusCode::NOT_FOUND, _) => Ok(None),
            (status, body) if status.is_success() => serde_json::from_slice(&body)
                .map(Some)
                .map_err(|error| format!("its answer to {path} is not JSON: {error}")),
            (status, body) => Err(format!("{path}: {status}: {}", said(&body))),
        }
    }

    async fn ask(&self, method: Method, path: &str) -> Result<(StatusCode, Vec<u8>), String> {
        let request = self.http.request(method, format!("{}{path}", self.base)).timeout(PATIENCE);
        let response = request.send().await.map_err(|error| chain(&error))?;
        let status = response.status();
        let body = response.bytes().await.map_err(|error| chain(&error))?;
        Ok((status, body.to_vec()))
    }
}

/// What an engine says is wrong: the message in its JSON, else the text.
fn said(body: &[u8]) -> String {
    let json = serde_json::from_slice::<Value>(body).ok();
    let message = json.as_ref().and_then(|json| json["message"].as_str());
    let text = message.map_or_else(|| String::from_utf8_lossy(body), Into::into);
    text.trim().chars().take(500).collect()
}

/// The error with its causes: the outer ones say little.
fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    text
}

/// A repository's name as a value in a query.
fn encoded(text: &str) -> String {
    text.replace('/', "%2F").replace(':', "%3A")
}
