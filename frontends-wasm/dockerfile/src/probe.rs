//! A host that makes no ops. Lowering with it finds which paths of the build context are used,
//! which must be known before the real lowering can name the context.

use std::cell::RefCell;
use std::collections::BTreeMap;

use cofferdam_sdk::{
    ExecOp, FileAction, FileStat, Host, HostError, OpMetadata, Platform, ResolveMode,
    ResolvedImage, Snapshot, Warning,
};

/// Answers of the host about images by reference and platform, so that none is asked for twice.
#[derive(Debug, Default)]
pub struct Images(RefCell<BTreeMap<(String, String), ResolvedImage>>);

impl Images {
    /// Looks an image up, once.
    ///
    /// # Errors
    /// What the host says.
    pub fn resolve<H: Host>(
        &self,
        host: &H,
        reference: &str,
        platform: Option<&Platform>,
        mode: ResolveMode,
        log_name: &str,
    ) -> Result<ResolvedImage, HostError> {
        let shown = platform.map(Platform::to_string).unwrap_or_default();
        let key = (reference.to_owned(), shown);
        if let Some(image) = self.0.borrow().get(&key) {
            return Ok(image.clone());
        }
        let image = host.resolve_image(reference, platform, mode, log_name)?;
        self.0.borrow_mut().insert(key, image.clone());
        Ok(image)
    }
}

/// The host that makes no ops; questions about images and inputs go to the real one.
#[derive(Debug)]
pub struct Probe<'a, H>(pub &'a H);

/// Nothing was built, so nothing can be read.
#[derive(Debug)]
pub struct Nothing;

impl<H: Host> Host for Probe<'_, H> {
    type Output = ();
    type Snapshot = Nothing;

    fn source(
        &self,
        _: &str,
        _: &[(String, String)],
        _: Option<&Platform>,
        _: &OpMetadata,
    ) -> Result<(), HostError> {
        Ok(())
    }

    fn exec(
        &self,
        op: &ExecOp<()>,
        _: Option<&Platform>,
        _: &OpMetadata,
    ) -> Result<Vec<()>, HostError> {
        Ok(vec![(); op.mounts.len()])
    }

    fn file(&self, actions: &[FileAction<()>], _: &OpMetadata) -> Result<Vec<()>, HostError> {
        Ok(actions.iter().filter(|action| action.has_output).map(|_| ()).collect())
    }

    fn merge(&self, inputs: &[()], _: &OpMetadata) -> Result<Option<()>, HostError> {
        Ok(inputs.first().copied())
    }

    fn diff(
        &self,
        _: Option<&()>,
        upper: Option<&()>,
        _: &OpMetadata,
    ) -> Result<Option<()>, HostError> {
        Ok(upper.copied())
    }

    fn from_definition(&self, _: &[Vec<u8>]) -> Result<Option<()>, HostError> {
        Ok(Some(()))
    }

    fn add_source(&self, _: &str, _: &str, _: &[u8]) -> u32 {
        0
    }

    fn solve(&self, (): &()) -> Result<Nothing, HostError> {
        Ok(Nothing)
    }

    fn resolve_image(
        &self,
        reference: &str,
        platform: Option<&Platform>,
        mode: ResolveMode,
        log_name: &str,
    ) -> Result<ResolvedImage, HostError> {
        self.0.resolve_image(reference, platform, mode, log_name)
    }

    fn warn(&self, _: &Warning) {}

    fn named_input(&self, name: &str) -> Result<Option<()>, HostError> {
        Ok(self.0.named_input(name)?.map(|_| ()))
    }

    fn call_frontend(&self, _: &str, _: &[(String, String)]) -> Result<Option<()>, HostError> {
        Ok(Some(()))
    }
}

impl Snapshot for Nothing {
    fn read_file(&self, path: &str) -> Result<Vec<u8>, HostError> {
        Err(HostError::NotFound(path.into()))
    }

    fn read_dir(&self, path: &str, _: &str) -> Result<Vec<FileStat>, HostError> {
        Err(HostError::NotFound(path.into()))
    }

    fn stat_file(&self, path: &str) -> Result<FileStat, HostError> {
        Err(HostError::NotFound(path.into()))
    }
}
