//! The state directory: where everything is, and what this process holds open of it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use rusqlite::{Connection, params};

use crate::claims::ClaimFile;
use crate::dirs::Spare;
use crate::error::IoContext;
use crate::holds::{Holds, Object};
use crate::removal::Gone;
use crate::scratch::Scratch;
use crate::{
    Content, Error, Layer, LayerId, OpenFile, PackId, Regular, Result, Snapshot, Tree, db, sealed,
    space,
};

/// Packs that are kept open for reading.
const OPEN_PACKS: usize = 64;
/// Bytes of manifests that are kept in memory, as they are on the disk.
const LOADED_BYTES: usize = 8 << 20;

/// A state directory. Cloning is cheap; clones share everything.
///
/// ```text
/// state.db      records (SQLite, WAL)
/// layers/ID/    manifest, and fs/ once the layer is on disk
/// packs/ID      the bytes of many small files
/// blobs/sha256/ manifests, configs and compressed layers
/// dirs/ID/fs    directories with a name, which are changed in place
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
    /// The most that the directory may take on the disk.
    limit: Option<u64>,
    scratch: Scratch,
    spare: Spare,
    holds: Arc<Holds>,
    claims: ClaimFile,
    /// What the directory takes besides what is counted, and when that was looked at.
    overhead: Mutex<Option<(u64, Instant)>>,
    db: Mutex<Connection>,
    layers: Mutex<Loaded>,
    packs: Mutex<HashMap<PackId, Arc<File>>>,
}

/// Manifests in memory.
#[derive(Default)]
struct Loaded {
    layers: HashMap<LayerId, (Arc<Layer>, usize)>,
    bytes: usize,
}

impl Loaded {
    fn add(&mut self, layer: Arc<Layer>, bytes: usize) {
        if self.bytes + bytes > LOADED_BYTES {
            // What somebody works with costs nothing to keep.
            self.layers.retain(|_, (layer, _)| Arc::strong_count(layer) > 1);
            self.bytes = self.layers.values().map(|(_, bytes)| bytes).sum();
        }
        if self.layers.insert(layer.id, (layer, bytes)).is_none() {
            self.bytes += bytes;
        }
    }
}

impl Store {
    /// Opens a state directory, making it if it does not exist. What killed processes left
    /// uncommitted is removed.
    ///
    /// # Errors
    /// When the directory cannot be written, is damaged, or was made by another version.
    pub fn open(root: &Path) -> Result<Self> {
        Self::open_with_limit(root, None)
    }

    /// Opens a state directory of which this process sees to it that it does not take more than
    /// `limit` bytes on the disk.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_with_limit(root: &Path, limit: Option<u64>) -> Result<Self> {
        for name in ["layers", "packs", "blobs/sha256", "dirs", "local", "compiled", "tmp"] {
            let path = root.join(name);
            fs::create_dir_all(&path).io("cannot create", &path)?;
        }
        let scratch = Scratch::open(&root.join("tmp"))?;
        space::ensure(root)?;
        let db = db::open(root)?;
        let store = Self {
            inner: Arc::new(Inner {
                root: root.to_owned(),
                limit,
                scratch,
                spare: Spare::default(),
                holds: Arc::default(),
                claims: ClaimFile::open(&root.join("tmp/claims"))?,
                overhead: Mutex::default(),
                db: Mutex::new(db),
                layers: Mutex::default(),
                packs: Mutex::default(),
            }),
        };
        store.begin_session().map_err(|error| db::damaged(root, error))?;
        Ok(store)
    }

    /// Enters this process into the database, and mends what a power loss left.
    fn begin_session(&self) -> Result<()> {
        let number = self.session();
        let mut connection = self.db();
        let transaction = db::begin(&mut connection)?;
        // Whoever had the number before is gone.
        for table in ["leases", "reservations", "dir_users"] {
            transaction.execute(&format!("DELETE FROM {table} WHERE session = ?1"), [number])?;
        }
        transaction.execute(
            "INSERT OR REPLACE INTO sessions (number, pid, started) VALUES (?1, ?2, ?3)",
            params![number, std::process::id(), db::now()],
        )?;
        let left = self.recover(&transaction)?;
        transaction.commit()?;
        drop(connection);
        if !left.is_empty() {
            Gone::from(left).remove_files(self);
        }
        Ok(())
    }

    /// The state directory.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// Where compiled components are kept.
    pub fn compiled_dir(&self) -> PathBuf {
        self.inner.root.join("compiled")
    }

    /// The most that the directory may take on the disk, in bytes.
    pub fn limit(&self) -> Option<u64> {
        self.inner.limit
    }

    pub(crate) fn holds(&self) -> &Arc<Holds> {
        &self.inner.holds
    }

    pub(crate) fn known_overhead(&self) -> &Mutex<Option<(u64, Instant)>> {
        &self.inner.overhead
    }

    pub(crate) fn claims(&self) -> &ClaimFile {
        &self.inner.claims
    }

    /// The number of this process among those that use the directory.
    pub(crate) fn session(&self) -> i64 {
        self.inner.scratch.number()
    }

    pub(crate) fn spare(&self) -> &Spare {
        &self.inner.spare
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
        Ok(db::next(&self.db())?)
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
        if let Some((layer, _)) = self.loaded().layers.get(&id) {
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
        let root = match sealed::decode(&bytes) {
            Ok(root) => root,
            Err(reason) => {
                self.lose(Object::Layer(id))?;
                return Err(Error::Damaged { path, reason });
            }
        };
        Ok(self.remember(Layer { id, root }, bytes.len()))
    }

    pub(crate) fn remember(&self, layer: Layer, bytes: usize) -> Arc<Layer> {
        let layer = Arc::new(layer);
        self.loaded().add(layer.clone(), bytes);
        layer
    }

    /// Forgets what is in memory of a layer or pack that is removed.
    pub(crate) fn forget(&self, object: Object) {
        match object {
            Object::Layer(id) => drop(self.loaded().layers.remove(&id)),
            Object::Pack(id) => drop(self.open_packs().remove(&id)),
            Object::Blob(_) | Object::Dir(_) => {}
        }
    }

    fn loaded(&self) -> MutexGuard<'_, Loaded> {
        self.inner.layers.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The union of a chain of layers.
    ///
    /// # Errors
    /// When a layer is not there.
    pub fn tree(&self, snapshot: &Snapshot) -> Result<Tree> {
        let layers = snapshot.layers().map(|id| self.layer(id)).collect::<Result<_>>()?;
        Ok(Tree::new(self.clone(), layers, snapshot.clone()))
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
                Ok(OpenFile::new(Arc::new(open_stored(path)?), 0, regular.size))
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
        let mut packs = self.open_packs();
        if let Some(file) = packs.get(&pack) {
            return Ok(file.clone());
        }
        let path = self.pack_path(pack);
        let file = Arc::new(open_stored(path)?);
        if packs.len() >= OPEN_PACKS {
            packs.clear();
        }
        packs.insert(pack, file.clone());
        Ok(file)
    }

    fn open_packs(&self) -> MutexGuard<'_, HashMap<PackId, Arc<File>>> {
        self.inner.packs.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Opens a file that should be there.
fn open_stored(path: PathBuf) -> Result<File> {
    match File::open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Error::Damaged { path, reason: "it is not there".into() })
        }
        result => result.io("cannot open", &path),
    }
}
