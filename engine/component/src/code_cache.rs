//! The cache of compiled code: one file per component, Wasmtime version and processor.
//!
//! A file is `magic ‖ SHA-256(key ‖ code) ‖ code`. Loading compiled code means running it, so a
//! file whose hash does not match its name and contents is as good as no file: the component is
//! compiled again and the file replaced. (Whoever can write a *matching* file can write the
//! state directory, and with it everything else that the engine trusts.)

use std::io::Write;
use std::path::PathBuf;

use cofferdam_types::{Digest, Hasher};
use wasmtime::Engine;
use wasmtime::component::Component;

const MAGIC: &[u8; 16] = b"cofferdam-code1\n";

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
        if let Some(code) = path.as_ref().and_then(|path| std::fs::read(path).ok()) {
            match checked(&code, key) {
                // SAFETY: `deserialize` wants bytes that `serialize` of the same Wasmtime made
                // and that nobody changed. The hash, which covers the key, says that this is a
                // whole file that `write` made for this component and engine.
                Some(code) => match unsafe { Component::deserialize(engine, code) } {
                    Ok(component) => return Ok(component),
                    Err(error) => tracing::warn!(%digest, %error, "compiled code is of no use"),
                },
                None => tracing::warn!(%digest, "compiled code is damaged: compiling again"),
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

fn seal(key: Digest, code: &[u8]) -> Digest {
    let mut hasher = Hasher::new();
    hasher.update(key.as_bytes());
    hasher.update(code);
    hasher.finish()
}

/// The code in `file`, if it is what was written for `key`.
fn checked(file: &[u8], key: Digest) -> Option<&[u8]> {
    let (hash, code) = file.strip_prefix(MAGIC)?.split_at_checked(32)?;
    (hash == seal(key, code).as_bytes()).then_some(code)
}

/// Puts a file there at once or not at all, so that a reader never sees half of it.
fn write(path: &std::path::Path, key: Digest, code: &[u8]) -> std::io::Result<()> {
    let directory = path.parent().expect("the path was made by joining a name to a directory");
    std::fs::create_dir_all(directory)?;
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(MAGIC)?;
    file.write_all(seal(key, code).as_bytes())?;
    file.write_all(code)?;
    file.persist(path)?;
    Ok(())
}
