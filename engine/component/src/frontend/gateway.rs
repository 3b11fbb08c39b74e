//! Answers `cofferdam:frontend/gateway`: what a frontend asks of the engine while it works.

use std::sync::Arc;

use wasmtime::component::Resource;

use super::bindings::cofferdam::frontend::{gateway, types};
use super::bindings::cofferdam::llb::types as wit;
use super::graph::{Failure, OutputHandle, answer};
use super::{
    FileKind, FileStat, FrontendState, HostError, ResolveMode, Snapshot, Subgraph, Warning, convert,
};
use crate::path::{TreePath, encode_name};
use crate::runtime::State;

/// Most bytes that one `read-file` returns.
const MAX_READ: u32 = 16 << 20;

/// A tree that was built.
pub struct SnapshotHandle(Arc<dyn Snapshot>);

type Guest = State<FrontendState>;
type Answer<T> = wasmtime::Result<Result<T, wit::Error>>;

fn path(text: &str) -> Result<TreePath, wit::Error> {
    TreePath::resolve(text).map_err(convert::invalid)
}

impl From<FileStat> for gateway::FileStat {
    fn from(stat: FileStat) -> Self {
        let text = |bytes: Vec<u8>| encode_name(&bytes).into_owned();
        Self {
            name: text(stat.name),
            kind: match stat.kind {
                FileKind::Regular => gateway::FileKind::Regular,
                FileKind::Directory => gateway::FileKind::Directory,
                FileKind::Symlink => gateway::FileKind::Symlink,
                FileKind::CharacterDevice => gateway::FileKind::CharacterDevice,
                FileKind::BlockDevice => gateway::FileKind::BlockDevice,
                FileKind::Fifo => gateway::FileKind::Fifo,
                FileKind::Socket => gateway::FileKind::Socket,
            },
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            size: stat.size,
            mtime: stat.mtime,
            link_target: stat.link_target.map(text),
        }
    }
}

impl Guest {
    /// Ends a host call that had to wait: the clock of the guest goes on, and what the host
    /// could not answer is told to the guest or ends the run.
    fn arrive<T>(&mut self, result: Result<T, HostError>) -> Answer<T> {
        self.meter.waited();
        result.map_or_else(|error| convert::host_error(error).map(Err), |value| Ok(Ok(value)))
    }

    fn arrive_subgraph(
        &mut self,
        result: Result<Option<Subgraph>, HostError>,
    ) -> Answer<Option<Resource<OutputHandle>>> {
        match self.arrive(result)? {
            Ok(sub) => answer(self.adopt(sub)),
            Err(error) => answer(Err(Failure::Tell(error))),
        }
    }
}

impl types::Host for Guest {}

impl gateway::HostSnapshot for Guest {
    async fn read_file(
        &mut self,
        this: Resource<SnapshotHandle>,
        text: String,
        offset: u64,
        length: u32,
    ) -> Answer<Vec<u8>> {
        let snapshot = self.table.get(&this)?.0.clone();
        let path = match path(&text) {
            Ok(_) if length > MAX_READ => {
                let message = format!("length {length}: at most {MAX_READ} bytes in one call");
                return Ok(Err(convert::invalid(message)));
            }
            Ok(path) => path,
            Err(error) => return Ok(Err(error)),
        };
        // One byte more than allowed tells a file that is too long from one that just fits.
        let max = if length == 0 { MAX_READ + 1 } else { length };
        let result = snapshot.read_file(&path, offset, max).await;
        self.arrive(result.and_then(|mut data| {
            if length == 0 && data.len() > MAX_READ as usize {
                let message = format!("{path}: more than {MAX_READ} bytes, read it piece by piece");
                return Err(HostError::Invalid(message));
            }
            data.truncate(max as usize);
            Ok(data)
        }))
    }

    async fn read_dir(
        &mut self,
        this: Resource<SnapshotHandle>,
        text: String,
        pattern: String,
    ) -> Answer<Vec<gateway::FileStat>> {
        let snapshot = self.table.get(&this)?.0.clone();
        let path = match path(&text) {
            Ok(path) => path,
            Err(error) => return Ok(Err(error)),
        };
        let result = snapshot.read_dir(&path, &pattern).await;
        self.arrive(result.map(|entries| entries.into_iter().map(Into::into).collect()))
    }

    async fn stat_file(
        &mut self,
        this: Resource<SnapshotHandle>,
        text: String,
    ) -> Answer<gateway::FileStat> {
        let snapshot = self.table.get(&this)?.0.clone();
        let path = match path(&text) {
            Ok(path) => path,
            Err(error) => return Ok(Err(error)),
        };
        let result = snapshot.stat_file(&path).await;
        self.arrive(result.map(Into::into))
    }

    fn drop(&mut self, this: Resource<SnapshotHandle>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

impl gateway::Host for Guest {
    async fn solve(&mut self, output: Resource<OutputHandle>) -> Answer<Resource<SnapshotHandle>> {
        let edge = self.table.get(&output)?.0;
        let host = self.host.host.clone();
        let result = host.solve(&self.host.graph, &self.host.source, edge).await;
        match self.arrive(result)? {
            Ok(snapshot) => Ok(Ok(self.table.push(SnapshotHandle(snapshot))?)),
            Err(error) => Ok(Err(error)),
        }
    }

    async fn resolve_image(
        &mut self,
        reference: String,
        platform: Option<wit::Platform>,
        mode: gateway::ResolveMode,
        log_name: String,
    ) -> Answer<gateway::ResolvedImage> {
        let checked = convert::text("image reference", &reference)
            .and_then(|_| platform.map(convert::platform).transpose());
        let platform = match checked {
            Ok(platform) => platform,
            Err(error) => return Ok(Err(error)),
        };
        let mode = match mode {
            gateway::ResolveMode::Default => ResolveMode::Default,
            gateway::ResolveMode::Pull => ResolveMode::Pull,
            gateway::ResolveMode::Local => ResolveMode::Local,
        };
        let host = self.host.host.clone();
        let result = host.resolve_image(&reference, platform, mode, &log_name).await;
        self.arrive(result.map(|image| gateway::ResolvedImage {
            reference: image.reference,
            digest: image.digest.to_string(),
            config: image.config,
        }))
    }

    fn warn(&mut self, warning: gateway::Warning) -> wasmtime::Result<()> {
        let source = &self.host.source;
        let gateway::Warning { short, detail, url, locations } = warning;
        // There is no way to tell the guest: ranges that lead nowhere are left out.
        let locations = locations
            .into_iter()
            .filter_map(|range| convert::ranges(vec![range], source.infos.len()).ok()?.pop())
            .collect();
        self.host.host.warn(Warning { short, detail, url, locations }, source);
        Ok(())
    }

    async fn named_input(&mut self, name: String) -> Answer<Option<Resource<OutputHandle>>> {
        if let Err(error) = convert::text("name of an input", &name) {
            return Ok(Err(error));
        }
        let host = self.host.host.clone();
        let result = host.named_input(&name).await;
        self.arrive_subgraph(result)
    }

    async fn call_frontend(
        &mut self,
        source: String,
        options: Vec<(String, String)>,
    ) -> Answer<Option<Resource<OutputHandle>>> {
        if let Err(error) = convert::text("name of a frontend", &source) {
            return Ok(Err(error));
        }
        let host = self.host.host.clone();
        let result = host.call_frontend(&source, convert::map(options)).await;
        self.arrive_subgraph(result)
    }
}
