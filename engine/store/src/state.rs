//! The state directory: where everything is, and what this process holds open of it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use rusqlite::Connection;

use crate::error::IoContext;
use crate::scratch::Scratch;
use crate::{
    Content, Error, Layer, LayerId, Node, OpenFile, PackId, Regular, Result, Snapshot, Tree, db,
};

/// Packs that are kept open for reading.
const OPEN_PACKS: usize = 64;

/// A state directory. Cloning is cheap; clones share everything.
///
/// ```text
/// state.db      records (SQLite, WAL)
/// layers/ID/    manifest, and fs/ once the layer is on disk
/// packs/ID      the bytes of many small files
/// blobs/sha256/ manifests, configs and compressed layers
/// local/        what is known of the files of local directories
/// compiled/     compiled components
/// tmp/SESSION/  what is not committed; what is left of it, the next process removes
/// ```
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    root: PathBuf,
    scratch: Scratch,
    db: Mutex<Connection>,
    layers: Mutex<HashMap<LayerId, Arc<Layer>>>,
    packs: Mutex<HashMap<PackId, Arc<File>>>,
}

impl Store {
    /// Opens a state directory, making it if it does not exist. What killed processes left
    /// uncommitted is removed.
    ///
    /// # Errors
    /// When the directory cannot be written or was made by a newer version.
    pub fn open(root: &Path) -> Result<Self> {
        for name in ["layers", "packs", "blobs/sha256", "local", "compiled", "tmp"] {
            let path = root.join(name);
            fs::create_dir_all(&path).io("cannot create", &path)?;
        }
        let scratch = Scratch::open(&root.join("tmp"))?;
        let db = db::open(root)?;
        Ok(Self {
            inner: Arc::new(Inner {
                root: root.to_owned(),
                scratch,
                db: Mutex::new(db),
                layers: Mutex::default(),
                packs: Mutex::default(),
            }),
        })
    }

    /// The state directory.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// Where compiled components are kept.
    pub fn compiled_dir(&self) -> PathBuf {
        self.inner.root.join("compiled")
    }

    pub(crate) fn scratch(&self) -> &Scratch {
        &self.inner.scratch
    }

    /// A path for a directory of the caller's own; what is there when this process has ended is
    /// removed.
    pub fn fresh_tmp(&self, kind: &str) -> PathBuf {
        self.inner.scratch.fresh(kind)
    }

    /// A directory for what is not committed.
    pub fn tmp_dir(&self) -> &Path {
        self.inner.scratch.path()
    }

    pub(crate) fn db(&self) -> MutexGuard<'_, Connection> {
        self.inner.db.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The next number for a layer or pack; never handed out twice.
    pub(crate) fn next_id(&self) -> Result<i64> {
        Ok(self.db().query_row(
            "UPDATE sequence SET next = next + 1 RETURNING next",
            [],
            |row| row.get(0),
        )?)
    }

    pub(crate) fn layer_path(&self, id: LayerId) -> PathBuf {
        self.inner.root.join("layers").join(id.to_string())
    }

    pub(crate) fn pack_path(&self, id: PackId) -> PathBuf {
        self.inner.root.join("packs").join(id.to_string())
    }

    /// A committed layer with its manifest.
    ///
    /// # Errors
    /// When the layer is not there or its manifest is damaged.
    pub fn layer(&self, id: LayerId) -> Result<Arc<Layer>> {
        if let Some(layer) = self.loaded().get(&id) {
            return Ok(layer.clone());
        }
        let path = self.layer_path(id).join("manifest");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::NoLayer(id));
            }
            Err(error) => return Err(error).io("cannot read", &path),
        };
        let root: Node = postcard::from_bytes(&bytes)
            .map_err(|error| Error::Damaged { path, reason: error.to_string() })?;
        Ok(self.remember(Layer { id, root }))
    }

    pub(crate) fn remember(&self, layer: Layer) -> Arc<Layer> {
        self.loaded().entry(layer.id).or_insert_with(|| Arc::new(layer)).clone()
    }

    fn loaded(&self) -> MutexGuard<'_, HashMap<LayerId, Arc<Layer>>> {
        self.inner.layers.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Whether every layer of a chain is there.
    pub fn contains(&self, snapshot: &Snapshot) -> bool {
        snapshot.0.iter().all(|id| {
            // An empty manifest is one that did not reach the disk before a power loss.
            let written = || {
                let manifest = fs::metadata(self.layer_path(*id).join("manifest"));
                manifest.is_ok_and(|metadata| metadata.len() > 0)
            };
            self.loaded().contains_key(id) || written()
        })
    }

    /// The union of a chain of layers.
    ///
    /// # Errors
    /// When a layer is not there.
    pub fn tree(&self, snapshot: &Snapshot) -> Result<Tree> {
        let layers = snapshot.0.iter().map(|id| self.layer(*id)).collect::<Result<_>>()?;
        Ok(Tree::new(self.clone(), layers))
    }

    /// Opens the bytes of a regular file.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn open_content(&self, regular: &Regular) -> Result<OpenFile> {
        match &regular.content {
            Content::Pack { pack, offset } => {
                Ok(OpenFile::new(self.pack_file(*pack)?, *offset, regular.size))
            }
            Content::Layer { layer, path } => {
                let path = self.content_path(*layer, path);
                let file = File::open(&path).io("cannot open", &path)?;
                Ok(OpenFile::new(Arc::new(file), 0, regular.size))
            }
        }
    }

    /// Where a file in a layer's own directory is. The manifest was made from the directory and
    /// has no symlinks in the middle of a path.
    pub(crate) fn content_path(&self, layer: LayerId, path: &[u8]) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;
        self.layer_path(layer).join("fs").join(std::ffi::OsStr::from_bytes(path))
    }

    fn pack_file(&self, pack: PackId) -> Result<Arc<File>> {
        let mut packs = self.inner.packs.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(file) = packs.get(&pack) {
            return Ok(file.clone());
        }
        let path = self.pack_path(pack);
        let file = Arc::new(File::open(&path).io("cannot open", &path)?);
        if packs.len() >= OPEN_PACKS {
            packs.clear();
        }
        packs.insert(pack, file.clone());
        Ok(file)
    }
}
