//! Commits layers: directories that a step filled, and layers that are only a manifest.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Transaction, params};

use crate::error::IoContext;
use crate::holds::Object;
use crate::materialize::set_attributes;
use crate::references::References;
use crate::sealed;
use crate::{
    Attributes, Error, HeldLayer, Layer, LayerId, Node, Reservation, Result, Store, db, disk_usage,
    scratch,
};

/// A layer's directory while it is being filled; removed when dropped without a commit.
#[derive(Debug)]
pub struct LayerDir {
    id: LayerId,
    dir: NewDir,
    room: Arc<Reservation>,
}

/// A directory that is to become something in the store; removed when dropped, however deep what
/// a step left in it is.
#[derive(Debug)]
struct NewDir(PathBuf);

impl NewDir {
    fn path(&self) -> &Path {
        &self.0
    }

    /// Says that it is at its place now, and nothing is left to remove.
    fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for NewDir {
    fn drop(&mut self) {
        if !self.0.as_os_str().is_empty() {
            scratch::remove(&self.0);
        }
    }
}

/// A step's directory that no step has yet.
#[derive(Debug, Default)]
pub(crate) struct Spare(Mutex<Option<NewDir>>);

impl Spare {
    fn lock(&self) -> MutexGuard<'_, Option<NewDir>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Spare {
    /// Leaves it to the next process: to remove it takes the disk milliseconds.
    fn drop(&mut self) {
        if let Some(dir) = self.lock().take() {
            dir.keep();
        }
    }
}

/// Watches how large a directory becomes while somebody else fills it.
pub struct Watch {
    pub(crate) path: PathBuf,
    /// Bytes of it that are counted already.
    pub(crate) counted: u64,
    pub(crate) room: Arc<Reservation>,
}

impl Watch {
    /// Sees to it that there is room for what is in the directory now.
    ///
    /// # Errors
    /// When there is none.
    pub fn check(&self) -> Result<()> {
        self.room.grow_to(disk_usage(&self.path).saturating_sub(self.counted))
    }
}

impl LayerDir {
    /// The layer that this will be.
    pub fn id(&self) -> LayerId {
        self.id
    }

    /// Sees to it that there is room for what will be in the directory.
    ///
    /// # Errors
    /// When there is none.
    pub fn reserve(&self, bytes: u64) -> Result<()> {
        self.room.grow_to(bytes)
    }

    /// For looking at the directory now and then, where there is a limit to keep.
    pub fn watch(&self) -> Watch {
        Watch { path: self.fs(), counted: 0, room: self.room.clone() }
    }

    /// Where the files go: an overlayfs upper directory.
    pub fn fs(&self) -> PathBuf {
        self.dir.path().join("fs")
    }

    /// Gives the directory the attributes of the root that it will be mounted over: what
    /// overlayfs shows as the root's is what the upper directory has.
    ///
    /// # Errors
    /// When they cannot be set.
    pub fn start_from(&self, root: &Attributes) -> Result<()> {
        set_attributes(&self.fs(), &Node::directory(root.clone()))
    }

    /// An empty directory beside it for overlayfs.
    pub fn work(&self) -> PathBuf {
        self.dir.path().join("work")
    }
}

impl Store {
    /// Starts a layer with a directory of its own.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn new_layer_dir(&self) -> Result<LayerDir> {
        let dir = self.new_overlay_dir()?;
        self.start_layer(dir)
    }

    /// Starts a layer that a step will fill, with some room for what is not known yet.
    ///
    /// # Errors
    /// When the directory cannot be made or there is no room.
    pub fn new_step_dir(&self) -> Result<LayerDir> {
        let spare = self.spare().lock().take();
        let dir = match spare {
            Some(dir) => dir,
            None => self.new_overlay_dir()?,
        };
        let dir = self.start_layer(dir)?;
        dir.reserve(self.step_room())?;
        Ok(dir)
    }

    /// Makes the directory ahead that the next step will fill: a file system that keeps
    /// directories apart looks a while for a place.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn prepare_step_dir(&self) -> Result<()> {
        let mut spare = self.spare().lock();
        if spare.is_none() {
            *spare = Some(self.new_overlay_dir()?);
        }
        Ok(())
    }

    fn start_layer(&self, dir: NewDir) -> Result<LayerDir> {
        let id = LayerId(self.next_id()?);
        Ok(LayerDir { id, dir, room: Arc::new(self.reservation()) })
    }

    /// Makes a directory with what an overlay writes to.
    fn new_overlay_dir(&self) -> Result<NewDir> {
        let dir = self.new_dir()?;
        for name in ["fs", "work"] {
            let path = dir.path().join(name);
            fs::create_dir(&path).io("cannot create", &path)?;
            // Whatever the umask is: this becomes the root directory that a step sees.
            fs::set_permissions(&path, Permissions::from_mode(0o755)).io("cannot chmod", &path)?;
        }
        Ok(dir)
    }

    fn new_dir(&self) -> Result<NewDir> {
        let tmp = self.tmp_dir();
        let dir = tempfile::Builder::new()
            .prefix("layer-")
            .permissions(Permissions::from_mode(0o755))
            .tempdir_in(tmp)
            .io("cannot create a directory in", tmp)?;
        Ok(NewDir(dir.keep()))
    }

    /// Commits what is in the directory as a layer; `root` is its manifest.
    ///
    /// # Errors
    /// When it cannot be written or there is no room; then nothing of it is in the store.
    pub fn commit_dir(&self, dir: LayerDir, root: Node) -> Result<HeldLayer> {
        // overlayfs leaves `work/work` (mode 000) behind, and a marker for `volatile`.
        self.scratch().discard(&dir.work());
        if self.limit().is_some() {
            dir.reserve(disk_usage(dir.dir.path()))?;
        }
        self.commit(dir.id, dir.dir, root)
    }

    /// Commits a layer whose bytes are all elsewhere: only its manifest is written.
    ///
    /// # Errors
    /// When it cannot be written; then nothing of it is in the store.
    pub fn commit_virtual(&self, root: Node) -> Result<HeldLayer> {
        let id = LayerId(self.next_id()?);
        let dir = self.new_dir()?;
        self.commit(id, dir, root)
    }

    fn commit(&self, id: LayerId, dir: NewDir, root: Node) -> Result<HeldLayer> {
        let manifest = dir.path().join("manifest");
        let bytes = sealed::encode(&root)
            .map_err(|reason| Error::Damaged { path: manifest.clone(), reason })?;
        fs::write(&manifest, &bytes).io("cannot write", &manifest)?;
        let references = References::of(id, &root);
        let on_disk = disk_usage(dir.path());
        let target = self.layer_path(id);

        let mut holds = self.holds().lock();
        let mut connection = self.db();
        let transaction = db::begin(&mut connection)?;
        self.insert_layer(&transaction, id, on_disk, &references)?;
        // While the transaction lasts, nobody looks for directories that no row tells of.
        fs::rename(dir.path(), &target).io("cannot move a layer to", &target)?;
        dir.keep();
        if let Err(error) = transaction.commit() {
            self.scratch().discard(&target);
            return Err(error.into());
        }
        let held = self.hold_leased(&mut holds, id);
        drop((connection, holds));
        self.remember(Layer { id, root }, bytes.len());
        self.forget_many_released()?;
        Ok(held)
    }

    fn insert_layer(
        &self,
        transaction: &Transaction<'_>,
        id: LayerId,
        bytes: u64,
        references: &References,
    ) -> Result<()> {
        let number = db::next(transaction)?;
        transaction
            .prepare_cached(
                "INSERT INTO layers (id, number, created, bytes) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![id.0, number, db::now(), bytes.cast_signed()])?;
        let mut insert = transaction
            .prepare_cached("INSERT INTO layer_contents (layer, target) VALUES (?1, ?2)")?;
        let mut exists = transaction.prepare_cached("SELECT 1 FROM layers WHERE id = ?1")?;
        for target in &references.layers {
            if !exists.exists([target.0])? {
                return Err(Error::NoLayer(*target));
            }
            insert.execute([id.0, target.0])?;
        }
        let mut insert =
            transaction.prepare_cached("INSERT INTO layer_packs (layer, pack) VALUES (?1, ?2)")?;
        let mut used = transaction.prepare_cached("UPDATE packs SET used = ?2 WHERE id = ?1")?;
        for pack in &references.packs {
            if used.execute([pack.0, number])? == 0 {
                return Err(Error::NoPack(*pack));
            }
            insert.execute([id.0, pack.0])?;
        }
        self.lease(transaction, Object::Layer(id))
    }
}
