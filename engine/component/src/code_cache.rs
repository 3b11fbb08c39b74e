//! The cache of compiled code: one file per component, Wasmtime version and processor.
//!
//! A file is `code ‖ BLAKE3(key ‖ code) ‖ magic`: Wasmtime maps the code from where it lies, and
//! never looks behind it. Loading compiled code means running it, so a file whose hash does not
//! match its name and contents is as good as no file: the component is compiled again and the
//! file replaced. (Whoever can write a *matching* file can write the state directory, and with it
//! everything else that the engine trusts.) Every start of the program hashes these megabytes,
//! which is why the hash is the fastest that is to be had.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use cofferdam_types::{Digest, Hasher};
use wasmtime::Engine;
use wasmtime::component::Component;

const MAGIC: &[u8; 16] = b"cofferdam-code2\n";
/// What follows the code: its hash and the magic.
const TRAILER: usize = blake3::OUT_LEN + MAGIC.len();

/// A directory of compiled components; without a directory nothing is kept.
pub(crate) struct CodeCache {
    directory: Option<PathBuf>,
    /// What the compiled code depends on beside the component: Wasmtime's version, the
    /// processor's features, the engine's settings.
    engine: Digest,
}

/// Collects what Wasmtime says of an engine's compatibility.
struct HasherAdapter(Hasher);

impl std::hash::Hasher for HasherAdapter {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let digest = self.0.clone().finish();
        u64::from_le_bytes(digest.as_bytes()[..8].try_into().expect("a digest has 32 bytes"))
    }
}

impl CodeCache {
    pub(crate) fn new(directory: Option<PathBuf>, engine: &Engine) -> Self {
        let mut hasher = HasherAdapter(Hasher::new());
        std::hash::Hash::hash(&engine.precompile_compatibility_hash(), &mut hasher);
        Self { directory, engine: hasher.0.finish() }
    }

    /// Returns the compiled form of the component `bytes`, from the directory if it is there.
    pub(crate) fn load(
        &self,
        engine: &Engine,
        digest: Digest,
        bytes: &[u8],
    ) -> wasmtime::Result<Component> {
        let key = {
            let mut hasher = Hasher::new();
            hasher.field(digest.as_bytes());
            hasher.field(self.engine.as_bytes());
            hasher.finish()
        };
        let path = self.directory.as_ref().map(|dir| dir.join(format!("{}.code", key.hex())));
        if let Some(path) = path.as_ref().filter(|path| path.exists()) {
            match is_whole(path, key) {
                Ok(true) => match map(engine, path) {
                    Ok(component) => return Ok(component),
                    Err(error) => tracing::warn!(%digest, %error, "compiled code is of no use"),
                },
                Ok(false) => tracing::warn!(%digest, "compiled code is damaged: compiling again"),
                Err(error) => tracing::warn!(%digest, %error, "cannot read compiled code"),
            }
        }
        let component = Component::from_binary(engine, bytes)?;
        if let Some(path) = path
            && let Err(error) = write(&path, key, &component.serialize()?)
        {
            // The cache only saves time: without it the build goes on.
            tracing::warn!(path = %path.display(), %error, "cannot keep compiled code");
        }
        Ok(component)
    }
}

/// Maps compiled code into memory, that was checked.
fn map(engine: &Engine, path: &Path) -> wasmtime::Result<Component> {
    // SAFETY: `deserialize_file` wants what `serialize` of the same Wasmtime made and nobody
    // changes. The hash, which covers the key, says that this is a whole file that `write` made
    // for this component and engine; files in the directory are replaced, never written to.
    let mapped = unsafe { Component::deserialize_file(engine, path) };
    mapped.or_else(|error| {
        // From a file system without programs (`noexec`) nothing can be mapped to be run.
        let Ok(file) = std::fs::read(path) else { return Err(error) };
        // SAFETY: as above.
        unsafe { Component::deserialize(engine, &file[..file.len().saturating_sub(TRAILER)]) }
    })
}

/// Whether a file is what was written for `key`.
fn is_whole(path: &Path, key: Digest) -> io::Result<bool> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let Some(length) = length.checked_sub(TRAILER as u64) else { return Ok(false) };
    let mut hasher = sealing(key);
    hasher.update_reader((&mut file).take(length))?;
    let mut trailer = Vec::with_capacity(TRAILER);
    file.read_to_end(&mut trailer)?;
    Ok(trailer == [hasher.finalize().as_bytes(), MAGIC.as_slice()].concat())
}

fn sealing(key: Digest) -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new();
    hasher.update(key.as_bytes());
    hasher
}

/// Puts a file there at once or not at all, so that a reader never sees half of it.
fn write(path: &Path, key: Digest, code: &[u8]) -> io::Result<()> {
    let directory = path.parent().expect("the path was made by joining a name to a directory");
    std::fs::create_dir_all(directory)?;
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(code)?;
    file.write_all(sealing(key).update(code).finalize().as_bytes())?;
    file.write_all(MAGIC)?;
    file.persist(path)?;
    Ok(())
}
