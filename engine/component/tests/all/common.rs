//! Guests for the tests, and a host that answers frontends from memory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};

use cofferdam_component::{
    Component, FileKind, FileStat, Frontend, FrontendHost, HostError, Limits, LogStream,
    ResolveMode, ResolvedImage, Runtime, Snapshot, Subgraph, TreePath, Warning,
};
use cofferdam_llb::{Edge, Graph, OpMetadata, Source, build};
use cofferdam_types::{Digest, Platform};

/// The bytes of a guest: from `COFFERDAM_TEST_GUESTS`, or built now.
pub fn guest(name: &str) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let directory = match std::env::var_os("COFFERDAM_TEST_GUESTS") {
        Some(directory) => PathBuf::from(directory),
        None => {
            let directory = root.join("target/guests");
            let script = root.join("frontends-wasm/build.sh");
            let status = Command::new(script).arg(&directory).arg(name).status();
            assert!(status.expect("build.sh starts").success(), "cannot build {name}");
            directory
        }
    };
    std::fs::read(directory.join(format!("{name}.wasm"))).expect("the guest was built")
}

/// Loads a guest. One runtime serves all tests, so that each guest is compiled once.
pub fn load(name: &str) -> Component {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime =
        RUNTIME.get_or_init(|| Runtime::new(None, Limits::default()).expect("Wasmtime works here"));
    runtime.load(name, &guest(name)).expect("the guest is a component")
}

pub fn frontend(limits: Limits, name: &str) -> Frontend {
    Frontend::new(load(name)).expect("the guest is a frontend").with_limits(limits)
}

/// Answers from memory, and writes down what it was asked.
#[derive(Default)]
pub struct FakeHost {
    pub asked: Mutex<Vec<String>>,
}

impl FakeHost {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn ask(&self, what: String) {
        self.asked.lock().unwrap().push(what);
    }
}

fn subgraph(identifier: &str) -> Subgraph {
    let mut graph = Graph::new();
    let op = build::source(identifier, BTreeMap::new(), None);
    let vertex = graph.insert(op, OpMetadata::default()).expect("the op is valid");
    Subgraph { graph, edge: Edge { vertex, output: 0 } }
}

#[async_trait::async_trait]
impl FrontendHost for FakeHost {
    async fn resolve_image(
        &self,
        reference: &str,
        platform: Option<Platform>,
        mode: ResolveMode,
        log_name: &str,
    ) -> Result<ResolvedImage, HostError> {
        let platform = platform.unwrap_or_default();
        self.ask(format!("resolve {reference} for {platform} ({mode:?}): {log_name}"));
        Ok(ResolvedImage {
            reference: format!("docker.io/library/{reference}:latest"),
            digest: Digest::of(reference),
            config: br#"{"architecture":"amd64"}"#.to_vec(),
        })
    }

    async fn solve(
        &self,
        graph: &Graph,
        source: &Source,
        edge: Edge,
    ) -> Result<Arc<dyn Snapshot>, HostError> {
        // Long enough that a guest would be out of time if waiting were counted.
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let located = source.locations.contains_key(&edge.vertex);
        self.ask(format!("solve {} (located: {located})", graph.get(&edge.vertex).unwrap().name()));
        Ok(Arc::new(Motd))
    }

    async fn named_input(&self, name: &str) -> Result<Option<Subgraph>, HostError> {
        self.ask(format!("input {name}"));
        Ok(Some(subgraph("local://other")))
    }

    async fn call_frontend(
        &self,
        source: &str,
        options: BTreeMap<String, String>,
    ) -> Result<Option<Subgraph>, HostError> {
        self.ask(format!("call {source} with {options:?}"));
        Ok(Some(subgraph("local://called")))
    }

    fn warn(&self, warning: Warning, source: &Source) {
        let files: Vec<_> = source.infos.iter().map(|info| info.filename.as_str()).collect();
        self.ask(format!("warning {} at {:?} of {files:?}", warning.short, warning.locations));
    }

    fn log(&self, stream: LogStream, line: &str) {
        self.ask(format!("{stream:?} {line}"));
    }
}

/// A tree with nothing but `/etc/motd`.
struct Motd;

const MOTD: &[u8] = b"hello\n";

fn motd() -> FileStat {
    FileStat {
        name: b"motd".to_vec(),
        kind: FileKind::Regular,
        mode: 0o644,
        uid: 0,
        gid: 0,
        size: MOTD.len() as u64,
        mtime: 0,
        link_target: None,
    }
}

#[async_trait::async_trait]
impl Snapshot for Motd {
    async fn read_file(
        &self,
        path: &TreePath,
        offset: u64,
        max: u32,
    ) -> Result<Vec<u8>, HostError> {
        self.stat_file(path).await?;
        let rest = MOTD.get(offset as usize..).unwrap_or_default();
        Ok(rest[..rest.len().min(max as usize)].to_vec())
    }

    async fn read_dir(&self, path: &TreePath, _: &str) -> Result<Vec<FileStat>, HostError> {
        match path.as_bytes() {
            b"/etc" => Ok(vec![motd()]),
            _ => Err(HostError::NotFound(path.to_string())),
        }
    }

    async fn stat_file(&self, path: &TreePath) -> Result<FileStat, HostError> {
        match path.as_bytes() {
            b"/etc/motd" => Ok(motd()),
            _ => Err(HostError::NotFound(path.to_string())),
        }
    }
}
