//! Takes the results to where the client wants them.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use cofferdam_export::{
    BuiltImage, ImageLayout, ImageOptions, LayoutFormat, PlatformImage, build_image, push,
    write_directory, write_tar,
};
use cofferdam_registry::Reference;

use crate::graph::BuildContext;
use crate::progress::{Phase, Sink};
use crate::request::Destination;
use crate::vertex::blocking;
use crate::{Error, Export, Exported};

/// Runs the exports of a request, one after the other: each has the machine for itself.
pub(crate) async fn run(
    context: &Arc<BuildContext>,
    images: Vec<PlatformImage>,
    sink: &Sink,
) -> Result<Vec<Exported>, Error> {
    // What an image is made of stays until it is where it should be.
    let _keep = context.engine.store.keep();
    let images = Arc::new(images);
    let mut exported = Vec::new();
    for export in &context.request.exports {
        let name = match export {
            Export::Image { .. } => "exporting to image",
            Export::Oci { .. } => "exporting to oci image format",
            Export::Local(_) => "exporting to client directory",
            Export::Tar(_) => "exporting to client tarball",
        };
        let phase = Phase::start(sink, name);
        let result = one(context, export, &images, &phase).await;
        exported.push(phase.end(result)?);
    }
    Ok(exported)
}

async fn one(
    context: &Arc<BuildContext>,
    export: &Export,
    images: &Arc<Vec<PlatformImage>>,
    phase: &Phase,
) -> Result<Exported, Error> {
    let store = context.engine.store.clone();
    match export.clone() {
        Export::Image { names, push: pushes, options } => {
            let image = pack(context, images, options, phase).await?;
            for name in &names {
                store.save_image(&name.to_string(), &image.record())?;
                if pushes {
                    let report = phase.reporter();
                    push(&store, &context.engine.client, name, &image, &report).await?;
                }
            }
            Ok(said(&image, &names))
        }
        Export::Oci { dest, names, options } => {
            let image = pack(context, images, options, phase).await?;
            let said = said(&image, &names);
            blocking(move || {
                let layout = ImageLayout {
                    store: &store,
                    image: &image,
                    names: &names,
                    format: LayoutFormat::Oci,
                    without: HashSet::new(),
                };
                to(&dest, |out| Ok(layout.write_archive(out)?))
            })
            .await?;
            Ok(said)
        }
        Export::Local(dest) => {
            let images = images.clone();
            blocking(move || {
                for (prefix, image) in prefixes(&images) {
                    let tree = store.tree(&image.snapshot)?;
                    write_directory(&tree, None, &dest.join(prefix))?;
                }
                Ok(Exported::default())
            })
            .await
        }
        Export::Tar(dest) => {
            let images = images.clone();
            blocking(move || {
                let trees = prefixes(&images)
                    .into_iter()
                    .map(|(prefix, image)| Ok((prefix, store.tree(&image.snapshot)?)))
                    .collect::<Result<Vec<_>, Error>>()?;
                let trees: Vec<_> =
                    trees.iter().map(|(prefix, tree)| (prefix.as_str(), tree)).collect();
                to(&dest, |out| Ok(write_tar(&trees, None, out)?))?;
                Ok(Exported::default())
            })
            .await
        }
    }
}

async fn pack(
    context: &Arc<BuildContext>,
    images: &Arc<Vec<PlatformImage>>,
    options: ImageOptions,
    phase: &Phase,
) -> Result<BuiltImage, Error> {
    let (store, images, report) = (context.engine.store.clone(), images.clone(), phase.reporter());
    blocking(move || Ok(build_image(&store, &images, &options, &report)?)).await
}

fn said(image: &BuiltImage, names: &[Reference]) -> Exported {
    Exported {
        digest: Some(image.descriptor.digest),
        config: match image.manifests.as_slice() {
            [only] => Some(only.config.digest),
            _ => None,
        },
        names: names.iter().map(ToString::to_string).collect(),
    }
}

/// With several platforms, each has a directory of its own (`linux_amd64`).
fn prefixes(images: &[PlatformImage]) -> BTreeMap<String, &PlatformImage> {
    match images {
        [only] => BTreeMap::from([(String::new(), only)]),
        several => several
            .iter()
            .map(|image| (image.platform.to_string().replace('/', "_"), image))
            .collect(),
    }
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
