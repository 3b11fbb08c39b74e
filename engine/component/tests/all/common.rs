//! Guests for the tests, and a host that answers frontends from memory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};

use cofferdam_component::{
    BuildResult, Component, FileKind, FileStat, Frontend, FrontendHost, HostError, Limits,
    LogStream, PlatformResult, ResolveMode, ResolvedImage, Runtime, Snapshot, Subgraph, TreePath,
    Warning,
};
use cofferdam_llb::{Edge, Graph, OpKind, OpMetadata, Source, Vertex, build};
use cofferdam_types::{Digest, Platform};

/// The bytes of a guest: from `COFFERDAM_TEST_GUESTS`, or built now.
pub fn guest(name: &str) -> Vec<u8> {
    // One build at a time: parallel ones of the same guest could replace what the other copies.
    static BUILDING: Mutex<()> = Mutex::new(());
    let _building = BUILDING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
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
pub struct FakeHost {
    asked: Mutex<Vec<String>>,
    /// What every tree that is built has in it.
    files: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl FakeHost {
    pub fn new() -> Arc<Self> {
        Self::with("/etc/motd", "hello\n")
    }

    pub fn with(path: &str, data: &str) -> Arc<Self> {
        let files = [(path.into(), data.into())].into();
        Arc::new(Self { asked: Mutex::default(), files })
    }

    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn ask(&self, what: String) {
        self.asked.lock().unwrap().push(what);
    }
}

/// The ops that the only result needs, one in a line.
pub fn show(result: &BuildResult) -> String {
    let [PlatformResult { output: Some(edge), .. }] = &result.results[..] else {
        panic!("expected one result with an output: {result:?}")
    };
    let line = |vertex: &Arc<Vertex>| {
        let platform = vertex.op.platform.as_ref().map(ToString::to_string).unwrap_or_default();
        let kind = match &vertex.op.kind {
            OpKind::Source(_) => "source",
            OpKind::Exec(_) => "exec",
            OpKind::File(_) => "file",
            OpKind::Merge(_) => "merge",
            OpKind::Diff(_) => "diff",
            OpKind::Build(_) | OpKind::Passthrough(_) => "other",
        };
        format!("{kind} [{platform}] of {}: {}\n", vertex.op.inputs.len(), vertex.name())
    };
    result.graph.reachable(edge).into_iter().map(line).collect()
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
        Ok(Arc::new(Files(self.files.clone())))
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

/// A tree of regular files by their paths.
struct Files(BTreeMap<Vec<u8>, Vec<u8>>);

fn stat(path: &[u8], data: &[u8]) -> FileStat {
    FileStat {
        name: path.rsplit(|byte| *byte == b'/').next().unwrap().to_vec(),
        kind: FileKind::Regular,
        mode: 0o644,
        uid: 0,
        gid: 0,
        size: data.len() as u64,
        mtime: 0,
        link_target: None,
    }
}

impl Files {
    fn get(&self, path: &TreePath) -> Result<&Vec<u8>, HostError> {
        self.0.get(path.as_bytes()).ok_or_else(|| HostError::NotFound(path.to_string()))
    }
}

#[async_trait::async_trait]
impl Snapshot for Files {
    async fn read_file(
        &self,
        path: &TreePath,
        offset: u64,
        max: u32,
    ) -> Result<Vec<u8>, HostError> {
        let rest = self.get(path)?.get(offset as usize..).unwrap_or_default();
        Ok(rest[..rest.len().min(max as usize)].to_vec())
    }

    async fn read_dir(&self, path: &TreePath, _: &str) -> Result<Vec<FileStat>, HostError> {
        let inside = |file: &[u8]| file.starts_with(&[path.as_bytes(), b"/"].concat());
        Ok(self.0.iter().filter(|(file, _)| inside(file)).map(|(f, data)| stat(f, data)).collect())
    }

    async fn stat_file(&self, path: &TreePath) -> Result<FileStat, HostError> {
        Ok(stat(path.as_bytes(), self.get(path)?))
    }
}
