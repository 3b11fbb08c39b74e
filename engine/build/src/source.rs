//! Source ops: which room of `engine/source` an identifier means.

use std::sync::Arc;

use cofferdam_llb::SourceOp;
use cofferdam_registry::Reference;
use cofferdam_solver::{Context, Leaf};
use cofferdam_source::{
    Filter, Form, HttpFile, Layout, LocalScan, Origin, ResolvedImage, scan_directory,
};
use cofferdam_store::Snapshot;
use cofferdam_types::{Digest, Platform};

use crate::Error;
use crate::graph::BuildContext;
use crate::leaves::leaf;
use crate::progress::status;
use crate::remote::{self, ResolvedGit};
use crate::vertex::blocking;

/// What a source turned out to be.
pub(crate) enum ResolvedSource {
    Image(Box<(Origin, ResolvedImage)>),
    Local(Arc<LocalScan>),
    Git(Box<ResolvedGit>),
    Http(Box<HttpFile>),
}

impl ResolvedSource {
    /// What a cache key depends on, and what kind of thing that is.
    pub(crate) fn key(&self) -> (&'static str, Digest) {
        match self {
            Self::Image(image) => ("image", image.1.chain_id()),
            Self::Local(scan) => ("local", scan.digest),
            Self::Git(git) => ("git", git.tree.key()),
            Self::Http(file) => ("http", file.key()),
        }
    }

    /// Whether the times of its files are something that is said of it, as the key has it.
    pub(crate) fn gives_times(&self) -> bool {
        matches!(self, Self::Git(_) | Self::Http(_))
    }

    /// What the key consists of. An image with the same layers under another name has the same
    /// key; the name is here since it says more than digests.
    pub(crate) fn leaves(&self) -> Vec<Leaf> {
        match self {
            Self::Image(image) => {
                let (origin, image) = &**image;
                vec![
                    leaf("image", origin.name()),
                    leaf("image digest", image.root.to_string()),
                    leaf("image layers", image.chain_id().to_string()),
                ]
            }
            Self::Local(scan) => vec![leaf("files", scan.digest.to_string())],
            Self::Git(git) => {
                vec![leaf("repository", git.tree.url()), leaf("commit", &git.tree.commit)]
            }
            Self::Http(file) => {
                vec![leaf("url", file.shown_url()), leaf("file digest", file.digest())]
            }
        }
    }
}

/// Finds out what a source op stands for now.
pub(crate) async fn resolve(
    context: &BuildContext,
    op: &SourceOp,
    platform: Option<&Platform>,
    progress: &Context,
) -> Result<ResolvedSource, Error> {
    let (scheme, rest) = op.identifier.split_once("://").ok_or_else(|| {
        Error::Invalid(format!("source `{}`: expected `scheme://`", op.identifier))
    })?;
    match scheme {
        "docker-image" | "oci-layout" => {
            let origin = origin(context, &op.identifier)?;
            let platform = platform.cloned().unwrap_or_else(Platform::host).normalized();
            let image = context.engine.images.resolve(&origin, &platform).await?;
            if let Some(wanted) = op.attrs.get("image.checksum")
                && *wanted != image.root.to_string()
            {
                return Err(Error::Invalid(format!(
                    "image `{}`: digest {wanted} expected, found {}",
                    origin.name(),
                    image.root
                )));
            }
            Ok(ResolvedSource::Image(Box::new((origin, image))))
        }
        "local" => {
            let directory = context.session.directory(rest)?;
            let filter = Filter {
                include: list(op, "local.includepattern")?,
                exclude: list(op, "local.excludepatterns")?,
                follow: list(op, "local.followpaths")?,
            };
            let (store, reporter) = (context.engine.store.clone(), progress.clone());
            let report = move |current, total| {
                reporter.status(status("transferring", current, total));
            };
            let scan =
                blocking(move || Ok(scan_directory(&store, &directory, &filter, &report)?)).await?;
            progress.status(status("transferring", scan.bytes, scan.bytes));
            Ok(ResolvedSource::Local(Arc::new(scan)))
        }
        "http" | "https" => {
            let file = remote::resolve_http(context, op).await?;
            Ok(ResolvedSource::Http(Box::new(file)))
        }
        "git" => Ok(ResolvedSource::Git(Box::new(remote::resolve_git(context, op).await?))),
        _ => Err(Error::Invalid(format!("source `{}`: unknown scheme", op.identifier))),
    }
}

/// Brings a source into the store, its layers in this form.
pub(crate) async fn fetch(
    context: &BuildContext,
    source: &ResolvedSource,
    form: Form,
    progress: &Context,
) -> Result<Snapshot, Error> {
    match source {
        ResolvedSource::Image(image) => {
            if form == Form::Directory {
                // Before anything is written for a step.
                context.engine.check_steps()?;
            }
            let (origin, image) = &**image;
            let progress = progress.clone();
            let report = Arc::new(move |blob: &Digest, current, total| {
                progress.status(status(&blob.to_string(), current, total));
            });
            Ok(context.engine.images.pull(origin, image, form, report).await?)
        }
        ResolvedSource::Git(git) => remote::fetch_git(context, git).await,
        ResolvedSource::Http(file) => Ok(context.engine.files.fetch(file).await?),
        ResolvedSource::Local(scan) => {
            let (store, scan) = (context.engine.store.clone(), scan.clone());
            blocking(move || {
                let layer = store.commit_virtual(scan.root.clone())?;
                store.save_layer_content(layer.id(), &scan.digest)?;
                Ok(Snapshot::default().with(layer))
            })
            .await
        }
    }
}

/// Where an image is, from `docker-image://…` or `oci-layout://NAME[:TAG][@DIGEST]`, where NAME
/// is a directory that the client lends as `oci-layout:NAME`.
pub(crate) fn origin(context: &BuildContext, identifier: &str) -> Result<Origin, Error> {
    let Some(place) = identifier.strip_prefix("oci-layout://") else {
        let text = identifier.strip_prefix("docker-image://").unwrap_or(identifier);
        let reference =
            Reference::parse(text).map_err(|error| Error::Invalid(error.to_string()))?;
        return Ok(Origin::Registry { client: context.engine.client.clone(), reference });
    };
    let (name, digest) = match place.split_once('@') {
        Some((name, digest)) => {
            let digest = digest
                .parse()
                .map_err(|error| Error::Invalid(format!("image `{identifier}`: {error}")))?;
            (name, Some(digest))
        }
        None => (place, None),
    };
    let (name, tag) = match name.split_once(':') {
        Some((name, tag)) => (name, Some(tag.to_owned())),
        None => (name, None),
    };
    let directory = context.session.directory(&format!("oci-layout:{name}"))?;
    let layout = Layout::open(&directory)?;
    Ok(Origin::Layout { layout, name: identifier.to_owned(), tag, digest })
}

/// A list of strings in an attribute, as JSON.
fn list(op: &SourceOp, key: &str) -> Result<Vec<String>, Error> {
    let Some(text) = op.attrs.get(key) else { return Ok(Vec::new()) };
    serde_json::from_str(text)
        .map_err(|error| Error::Invalid(format!("source `{}`: `{key}`: {error}", op.identifier)))
}
