//! Layers as blobs.
//!
//! Layers that a registry gave stay the blobs that they were, unless the user asks for another
//! compression. The others are packed once per compression and remembered. Small layers are
//! packed side by side, one core for each; large ones one after the other, on all cores.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cofferdam_store::{Layer, LayerBlob, LayerId, Store};

use crate::compress::{BLOCK, Compression, compress};
use crate::entries::{layer_size, write_layer};
use crate::error::IoContext;
use crate::image::{ImageOptions, PlatformImage};
use crate::manifest::Types;
use crate::{Error, Progress, Result};

/// Layers with fewer bytes are packed by one core each.
const SMALL: u64 = 4 * BLOCK as u64;

/// The blob of every layer of some images.
pub(crate) type Packed = HashMap<LayerId, LayerBlob>;

/// What has to be done to get a blob.
struct Job {
    layer: Arc<Layer>,
    /// The registry's blob, where it is that which is compressed anew.
    original: Option<LayerBlob>,
    /// What it is called in the progress.
    name: String,
    size: u64,
}

/// Finds or makes the blobs of all layers. `progress` is told of each layer that is packed.
pub(crate) fn pack(
    store: &Store,
    images: &[PlatformImage],
    options: &ImageOptions,
    progress: &Progress,
) -> Result<Packed> {
    let mut packed = Packed::new();
    let mut jobs: Vec<Job> = Vec::new();
    for image in images {
        let layers = image.snapshot.layers();
        let count = layers.len();
        for (index, id) in layers.enumerate() {
            if packed.contains_key(&id) || jobs.iter().any(|job| job.layer.id == id) {
                continue;
            }
            let name = || format!("layer {}/{count} of {}", index + 1, image.platform);
            match find(store, id, options, name)? {
                Ok(blob) => drop(packed.insert(id, blob)),
                Err(job) => jobs.push(job),
            }
        }
    }
    let (small, large): (Vec<Job>, Vec<Job>) = jobs.into_iter().partition(|job| job.size < SMALL);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    packed.extend(side_by_side(&small, cores, |job| make(store, job, options, 1, progress))?);
    for job in &large {
        packed.insert(job.layer.id, make(store, job, options, cores, progress)?);
    }
    Ok(packed)
}

/// A layer's blob if there is one, else what is to be done.
fn find(
    store: &Store,
    id: LayerId,
    options: &ImageOptions,
    name: impl Fn() -> String,
) -> Result<Result<LayerBlob, Job>> {
    let original = store.layer_blob(id, "original")?;
    let original = match original {
        Some(blob) if options.force_compression && !options.compression.made(&blob.media_type) => {
            Some(blob)
        }
        Some(blob) => return Ok(Ok(blob)),
        None => None,
    };
    if let Some(blob) = store.layer_blob(id, &kind(options, original.is_some()))? {
        return Ok(Ok(blob));
    }
    let layer = store.layer(id)?;
    let size = match &original {
        Some(blob) => blob.size,
        None => layer_size(&layer.root),
    };
    Ok(Err(Job { layer, original, name: name(), size }))
}

/// What the store knows a packed layer as. The times of base layers stay.
fn kind(options: &ImageOptions, is_base: bool) -> String {
    let mut kind = options.compression.name();
    if let Some(latest) = options.latest().filter(|_| !is_base) {
        kind.push_str(&format!("@{latest}"));
    }
    kind
}

/// Does jobs on several threads; gives the first error that came.
fn side_by_side(
    jobs: &[Job],
    cores: usize,
    make: impl Fn(&Job) -> Result<LayerBlob> + Sync,
) -> Result<Packed> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Ok(Packed::new()));
    let work = || {
        while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let made = make(job);
            let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
            match (&mut *done, made) {
                (Ok(packed), Ok(blob)) => drop(packed.insert(job.layer.id, blob)),
                (Ok(_), Err(error)) => *done = Err(error),
                (Err(_), _) => return,
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..cores.min(jobs.len()) {
            scope.spawn(work);
        }
        work();
    });
    done.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Packs a layer, or compresses its blob anew.
fn make(
    store: &Store,
    job: &Job,
    options: &ImageOptions,
    cores: usize,
    progress: &Progress,
) -> Result<LayerBlob> {
    progress(&job.name, 0, job.size);
    let failed = |source| Error::Io {
        action: "cannot write a layer to",
        path: store.root().to_owned(),
        source,
    };
    let mut counted = 0;
    let produce = |out: &mut dyn Write| {
        let mut out =
            Counted { out, count: 0, told: 0, total: job.size, name: &job.name, progress };
        match &job.original {
            Some(blob) => unpack(store, blob, &mut out)?,
            None => write_layer(store, &job.layer.root, options.latest(), &mut out)?,
        }
        counted = out.count;
        Ok(())
    };
    let (mut writer, diff_id) =
        compress(options.compression, cores, store.new_blob()?, failed, produce)?;
    progress(&job.name, counted, counted);
    writer.flush().io("cannot write a layer to", store.root())?;
    let (digest, size) = writer.commit(None)?;
    let diff_id = diff_id.unwrap_or(digest);
    if let Some(blob) = job.original.as_ref().filter(|blob| blob.diff_id != diff_id) {
        let reason = format!("its contents are {diff_id}, expected {}", blob.diff_id);
        return Err(Error::Layer { digest: blob.digest, reason });
    }
    let media_type = Types::Oci.layer(match options.compression {
        Compression::Uncompressed => ".tar",
        Compression::Gzip { .. } => ".gzip",
        Compression::Zstd { .. } => ".zstd",
    });
    let blob = LayerBlob { diff_id, digest, size, media_type, origin: String::new() };
    store.save_layer_blob(job.layer.id, &kind(options, job.original.is_some()), &blob)?;
    Ok(blob)
}

/// Writes what a blob of a registry has in it.
fn unpack(store: &Store, blob: &LayerBlob, out: &mut dyn Write) -> Result<()> {
    let wrong = |error: io::Error| Error::Layer { digest: blob.digest, reason: error.to_string() };
    let file: BufReader<File> = BufReader::with_capacity(256 << 10, store.open_blob(&blob.digest)?);
    let mut reader: Box<dyn Read> = match Compression::of(&blob.media_type) {
        Some(Compression::Uncompressed) => Box::new(file),
        Some(Compression::Gzip { .. }) => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        Some(Compression::Zstd { .. }) => {
            Box::new(zstd::Decoder::with_buffer(file).map_err(wrong)?)
        }
        None => {
            let reason = format!("media type `{}` is not known", blob.media_type);
            return Err(Error::Layer { digest: blob.digest, reason });
        }
    };
    let mut buffer = vec![0; 256 << 10];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => out.write_all(&buffer[..count]).map_err(Error::Output)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(wrong(error)),
        }
    }
}

/// Tells how much was written, not more often than every mebibyte.
struct Counted<'a> {
    out: &'a mut dyn Write,
    count: u64,
    told: u64,
    total: u64,
    name: &'a str,
    progress: &'a Progress,
}

impl Write for Counted<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let count = self.out.write(data)?;
        self.count += count as u64;
        if self.count - self.told >= 1 << 20 {
            self.told = self.count;
            (self.progress)(self.name, self.count, self.total.max(self.count));
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
