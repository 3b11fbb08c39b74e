//! Takes the results to where the client wants them.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use cofferdam_export::{
    Annotations, BuiltImage, FileTree, ImageLayout, LayoutFormat, Others, PlatformImage,
    build_artifact, build_image, check_disjoint, delete_others, load, push, write_directory,
    write_tar,
};
use cofferdam_registry::Reference;
use cofferdam_store::Store;
use cofferdam_types::Digest;

use crate::graph::BuildContext;
use crate::progress::{Phase, Sink};
use crate::request::{Destination, FileOptions, ImageExport, LayoutDestination, Push};
use crate::vertex::blocking;
use crate::{Error, Export, Exported};

/// Runs the exports of a request, one after the other: each has the machine for itself.
/// `metadata` is what the frontend says of the result besides.
pub(crate) async fn run(
    context: &Arc<BuildContext>,
    images: Vec<PlatformImage>,
    metadata: &BTreeMap<String, Vec<u8>>,
    sink: &Sink,
) -> Result<Vec<Exported>, Error> {
    // What an image is made of stays until it is where it should be.
    let _keep = context.engine.store.keep();
    let images = Arc::new(images);
    let mut exported = Vec::new();
    for export in &context.request.exports {
        let name = match export {
            Export::Image { .. } => "exporting to image",
            Export::Layout { format: LayoutFormat::Oci, .. } => "exporting to oci image format",
            Export::Layout { format: LayoutFormat::Docker, .. } => {
                "exporting to docker image format"
            }
            Export::Load { .. } => "loading the image",
            Export::Local { .. } => "exporting to client directory",
            Export::Tar { .. } => "exporting to client tarball",
        };
        let phase = Phase::start(sink, name);
        let result = one(context, export, &images, metadata, &phase).await;
        exported.push(phase.end(result)?);
    }
    Ok(exported)
}

async fn one(
    context: &Arc<BuildContext>,
    export: &Export,
    images: &Arc<Vec<PlatformImage>>,
    metadata: &BTreeMap<String, Vec<u8>>,
    phase: &Phase,
) -> Result<Exported, Error> {
    let store = context.engine.store.clone();
    let result = Facts::of(images, metadata)?;
    match export.clone() {
        Export::Image { image, store: remember, push: how } => {
            let (built, names) = pack(context, images, image, metadata, phase).await?;
            for name in &names {
                if remember {
                    store.save_image(&name.to_string(), &built.record())?;
                }
                let name = match how {
                    None => continue,
                    // A name with the digest behind it is found by the digest already.
                    Some(Push::ByName) if name.digest().is_some() && names.len() > 1 => continue,
                    Some(Push::ByName) => name.clone(),
                    Some(Push::ByDigest) => name.with_digest(built.descriptor.digest),
                };
                push(&store, &context.engine.client, &name, &built, &phase.reporter()).await?;
            }
            Ok(said(&built, &names))
        }
        Export::Layout { image, format, dest } => {
            if let LayoutFormat::Docker = format {
                result.one_platform()?;
            }
            let (built, names) = pack(context, images, image, metadata, phase).await?;
            let said = said(&built, &names);
            blocking(move || {
                let (store, image, names, without) = (&store, &built, &names[..], HashSet::new());
                let layout = ImageLayout { store, image, names, format, without };
                match dest {
                    LayoutDestination::Archive(dest) => {
                        to(&dest, |out| Ok(layout.write_archive(out)?))
                    }
                    LayoutDestination::Directory(dir) => Ok(layout.write_directory(&dir)?),
                }
            })
            .await?;
            Ok(said)
        }
        Export::Load { image, targets } => {
            result.one_platform()?;
            let (built, names) = pack(context, images, image, metadata, phase).await?;
            let loaded = load(&store, &built, &names, &targets, &phase.reporter()).await?;
            Ok(Exported { loaded: Some(loaded), ..said(&built, &names) })
        }
        Export::Local { dest, files, others } => {
            let images = images.clone();
            let owners = context.engine.privilege.owners();
            blocking(move || {
                let trees = trees(&store, &images, files, &result)?;
                let apart = trees.iter().all(|(prefix, _)| !prefix.is_empty());
                if others == Others::Delete && trees.len() > 1 && !apart {
                    return Err(Error::Invalid(
                        "`mode=delete` with `platform-split=false`: the files of one platform \
                         would be deleted for those of the next"
                            .into(),
                    ));
                }
                for (prefix, tree) in &trees {
                    write_directory(tree, others, owners, &dest.join(prefix))?;
                }
                if others == Others::Delete && apart {
                    let names: Vec<_> = trees.iter().map(|(prefix, _)| prefix.as_str()).collect();
                    delete_others(&dest, &names)?;
                }
                Ok(of_files(&trees))
            })
            .await
        }
        Export::Tar { dest, files } => {
            let images = images.clone();
            blocking(move || {
                let trees = trees(&store, &images, files, &result)?;
                let named: Vec<_> =
                    trees.iter().map(|(prefix, tree)| (prefix.as_str(), tree)).collect();
                to(&dest, |out| Ok(write_tar(&named, out)?))?;
                Ok(of_files(&trees))
            })
            .await
        }
    }
}

/// What holds for all exports of a result.
struct Facts {
    /// How many platforms it has.
    platforms: usize,
    /// Whether it is one for several platforms, even if there is one only.
    multi_platform: bool,
    /// The time that the frontend says it has, in seconds since 1970.
    source_date_epoch: Option<i64>,
}

impl Facts {
    /// Reads them from what the frontend says, under BuildKit's keys.
    fn of(images: &[PlatformImage], metadata: &BTreeMap<String, Vec<u8>>) -> Result<Self, Error> {
        let epoch = metadata.get("source.date.epoch").filter(|text| !text.is_empty());
        let epoch = epoch.map(|text| String::from_utf8_lossy(text));
        let number = epoch.map(|text| {
            let wrong = |_| {
                let text = text.escape_debug();
                Error::Invalid(format!(
                    "the frontend's result: `source.date.epoch` is `{text}`, expected seconds"
                ))
            };
            text.parse().map_err(wrong)
        });
        Ok(Self {
            platforms: images.len(),
            multi_platform: images.len() > 1 || metadata.contains_key("refs.platforms"),
            source_date_epoch: number.transpose()?,
        })
    }

    /// Refuses an index before anything is packed for it.
    fn one_platform(&self) -> Result<(), Error> {
        if !self.multi_platform {
            return Ok(());
        }
        let (held, instead) = match self.platforms {
            1 => ("no index".to_owned(), "leave `multi-platform` out"),
            several => {
                (format!("an image of one platform, not of {several}"), "build for one --platform")
            }
        };
        Err(Error::Invalid(format!(
            "Docker's archives hold {held}; write an OCI archive (--output type=oci), or {instead}"
        )))
    }
}

/// Builds the image; gives it with its names.
async fn pack(
    context: &Arc<BuildContext>,
    images: &Arc<Vec<PlatformImage>>,
    image: ImageExport,
    metadata: &BTreeMap<String, Vec<u8>>,
    phase: &Phase,
) -> Result<(BuiltImage, Vec<Reference>), Error> {
    let mut options = image.options.clone();
    let result = Facts::of(images, metadata)?;
    options.multi_platform |= result.multi_platform;
    options.source_date_epoch = options.source_date_epoch.or(result.source_date_epoch);
    options.annotations = annotations(metadata)?;
    options.annotations.extend(&image.options.annotations);
    let (store, images, report) = (context.engine.store.clone(), images.clone(), phase.reporter());
    let artifact = image.artifact.clone();
    let built = blocking(move || match artifact {
        None => Ok(build_image(&store, &images, &options, &report)?),
        Some(artifact) => Ok(build_artifact(&store, &images, artifact.file.as_deref(), &options)?),
    })
    .await?;
    let names = names(&image, metadata, built.descriptor.digest)?;
    Ok((built, names))
}

/// The annotations that the frontend asks for, under the keys of an exporter's attributes.
fn annotations(metadata: &BTreeMap<String, Vec<u8>>) -> Result<Annotations, Error> {
    let mut annotations = Annotations::default();
    for (key, value) in metadata {
        annotations
            .add_attribute(key, &String::from_utf8_lossy(value))
            .map_err(|reason| Error::Invalid(format!("the frontend's result: {reason}")))?;
    }
    Ok(annotations)
}

/// All names of an image, each once.
fn names(
    image: &ImageExport,
    metadata: &BTreeMap<String, Vec<u8>>,
    digest: Digest,
) -> Result<Vec<Reference>, Error> {
    let mut names = image.names.clone();
    if image.named_by_frontend {
        let given = metadata.get("image.name").map(|name| String::from_utf8_lossy(name));
        for name in given.iter().flat_map(|names| names.split(',')).filter(|name| !name.is_empty())
        {
            let name = Reference::parse(name)
                .map_err(|error| Error::Invalid(format!("the frontend's result: {error}")))?;
            names.push(name);
        }
    }
    let named = !names.is_empty();
    if image.name_canonical {
        let canonical: Vec<_> = names.iter().map(|name| name.with_digest(digest)).collect();
        names.extend(canonical);
    }
    let dangling = image.dangling.as_ref().filter(|dangling| !(dangling.only_unnamed && named));
    names.extend(dangling.map(|dangling| dangling.prefix.with_digest(digest)));
    let mut seen = HashSet::new();
    names.retain(|name| seen.insert(name.to_string()));
    Ok(names)
}

fn said(image: &BuiltImage, names: &[Reference]) -> Exported {
    Exported {
        digest: Some(image.descriptor.digest),
        descriptor: Some(image.described()),
        config: match image.manifests.as_slice() {
            [only] => Some(only.config.digest),
            _ => None,
        },
        names: names.iter().map(ToString::to_string).collect(),
        size: image.size(),
        loaded: None,
    }
}

fn of_files(trees: &[(String, FileTree)]) -> Exported {
    Exported { size: trees.iter().map(|(_, tree)| tree.size()).sum(), ..Exported::default() }
}

/// The files of each platform, with the directory that they go to.
fn trees(
    store: &Store,
    images: &[PlatformImage],
    options: FileOptions,
    result: &Facts,
) -> Result<Vec<(String, FileTree)>, Error> {
    let latest = options.source_date_epoch.or(result.source_date_epoch);
    let latest = latest.filter(|_| options.rewrite_timestamp);
    let mut trees = BTreeMap::new();
    for image in images {
        let tree = FileTree::new(store, &image.snapshot, latest)?;
        trees.insert(image.platform.to_string(), tree);
    }
    if options.platform_split.unwrap_or(result.multi_platform) {
        let prefixed = trees.into_iter().map(|(name, tree)| (name.replace('/', "_"), tree));
        return Ok(prefixed.collect());
    }
    let named: Vec<_> = trees.iter().map(|(name, tree)| (name.as_str(), tree)).collect();
    check_disjoint(&named)?;
    Ok(trees.into_values().map(|tree| (String::new(), tree)).collect())
}

/// Writes to a file, which comes to its name only when it is complete, or to standard output.
fn to(
    dest: &Destination,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<(), Error>,
) -> Result<(), Error> {
    let output = |error| cofferdam_export::Error::Output(error).into();
    // With a file in it the standard library knows to copy inside the kernel.
    let through = |file: File| {
        let mut out = BufWriter::with_capacity(1 << 20, file);
        write(&mut out)?;
        out.flush().map_err(output)
    };
    let path = match dest {
        Destination::Stdout => {
            let fd = io::stdout().as_fd().try_clone_to_owned().map_err(output)?;
            return through(fd.into());
        }
        Destination::File(path) => path,
    };
    let failed = |action: &'static str| {
        move |source: io::Error| cofferdam_export::Error::Io { action, path: path.clone(), source }
    };
    // A pipe or device is written to as it is.
    if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
        return through(File::options().write(true).open(path).map_err(failed("cannot open"))?);
    }
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let file = tempfile::Builder::new()
        .prefix(".cofferdam-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(dir)
        .map_err(failed("cannot create a file beside"))?;
    through(file.as_file().try_clone().map_err(failed("cannot open"))?)?;
    file.persist(path).map_err(|error| failed("cannot write")(error.error))?;
    Ok(())
}
