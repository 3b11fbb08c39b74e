//! A host that makes nothing: it has files and images, and keeps the warnings.

use std::cell::RefCell;

use cofferdam_sdk::{
    ExecOp, FileAction, FileStat, Host, HostError, OpMetadata, Platform, ResolveMode,
    ResolvedImage, Snapshot, Warning,
};

/// The host.
#[derive(Default)]
pub struct PaperHost {
    /// Files of local directories, by `directory/path`.
    pub files: Vec<(String, String)>,
    /// What the frontend warned of.
    pub warnings: RefCell<Vec<Warning>>,
}

/// The files of one local directory.
pub struct Files(Vec<(String, String)>);

impl Host for PaperHost {
    /// What a source is of; empty for everything else.
    type Output = String;
    type Snapshot = Files;

    fn source(
        &self,
        identifier: &str,
        _: &[(String, String)],
        _: Option<&Platform>,
        _: &OpMetadata,
    ) -> Result<String, HostError> {
        Ok(identifier.into())
    }

    fn exec(
        &self,
        op: &ExecOp<String>,
        _: Option<&Platform>,
        _: &OpMetadata,
    ) -> Result<Vec<String>, HostError> {
        Ok(vec![String::new(); op.mounts.len()])
    }

    fn file(
        &self,
        actions: &[FileAction<String>],
        _: &OpMetadata,
    ) -> Result<Vec<String>, HostError> {
        let outputs = actions.iter().filter(|action| action.has_output);
        Ok(outputs.map(|_| String::new()).collect())
    }

    fn merge(&self, inputs: &[String], _: &OpMetadata) -> Result<Option<String>, HostError> {
        Ok(inputs.first().cloned())
    }

    fn diff(
        &self,
        _: Option<&String>,
        upper: Option<&String>,
        _: &OpMetadata,
    ) -> Result<Option<String>, HostError> {
        Ok(upper.cloned())
    }

    fn from_definition(&self, _: &[Vec<u8>]) -> Result<Option<String>, HostError> {
        Ok(None)
    }

    fn add_source(&self, _: &str, _: &str, _: &[u8]) -> u32 {
        0
    }

    fn solve(&self, output: &String) -> Result<Files, HostError> {
        let directory = output.replace("local://", "") + "/";
        let inside = |(path, text): &(String, String)| {
            Some((path.strip_prefix(&directory)?.to_owned(), text.clone()))
        };
        Ok(Files(self.files.iter().filter_map(inside).collect()))
    }

    fn resolve_image(
        &self,
        reference: &str,
        platform: Option<&Platform>,
        _: ResolveMode,
        _: &str,
    ) -> Result<ResolvedImage, HostError> {
        if reference.contains("missing") {
            return Err(HostError::NotFound(format!("no such image: `{reference}`")));
        }
        // An image called `tool` is there for one platform only.
        let asked = platform.cloned().unwrap_or_default();
        let architecture = match reference.contains("/tool:") {
            true => "arm64".to_owned(),
            false => asked.architecture,
        };
        let config = serde_json::json!({
            "architecture": architecture,
            "os": "linux",
            "config": {"Env": ["PATH=/bin", "FROM_BASE=1"]},
            "rootfs": {"type": "layers", "diff_ids": ["sha256:00"]},
        });
        Ok(ResolvedImage {
            reference: reference.into(),
            digest: format!("sha256:{:064}", 0),
            config: config.to_string().into_bytes(),
        })
    }

    fn warn(&self, warning: &Warning) {
        self.warnings.borrow_mut().push(warning.clone());
    }

    fn named_input(&self, _: &str) -> Result<Option<String>, HostError> {
        Ok(None)
    }

    fn call_frontend(&self, _: &str, _: &[(String, String)]) -> Result<Option<String>, HostError> {
        Err(HostError::Unsupported("other frontends".into()))
    }
}

impl Snapshot for Files {
    fn read_file(&self, path: &str) -> Result<Vec<u8>, HostError> {
        let found = self.0.iter().find(|(known, _)| known == path);
        let (_, text) = found.ok_or_else(|| HostError::NotFound(path.into()))?;
        Ok(text.clone().into_bytes())
    }

    fn read_dir(&self, path: &str, _: &str) -> Result<Vec<FileStat>, HostError> {
        Err(HostError::NotFound(path.into()))
    }

    fn stat_file(&self, path: &str) -> Result<FileStat, HostError> {
        Err(HostError::NotFound(path.into()))
    }
}
