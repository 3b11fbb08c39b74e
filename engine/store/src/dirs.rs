//! Commits layers: directories that a step filled, and layers that are only a manifest.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use rusqlite::params;
use tempfile::TempDir;

use crate::error::IoContext;
use crate::materialize::set_attributes;
use crate::{Attributes, Error, Layer, LayerId, Node, Result, Store, db};

/// A layer's directory while it is being filled; removed when dropped without a commit.
#[derive(Debug)]
pub struct LayerDir {
    id: LayerId,
    dir: TempDir,
}

impl LayerDir {
    /// The layer that this will be.
    pub fn id(&self) -> LayerId {
        self.id
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
        let id = LayerId(self.next_id()?);
        let tmp = self.tmp_dir();
        let dir = tempfile::Builder::new()
            .prefix(&format!("layer-{id}-"))
            .permissions(Permissions::from_mode(0o755))
            .tempdir_in(tmp)
            .io("cannot create a directory in", tmp)?;
        for name in ["fs", "work"] {
            let path = dir.path().join(name);
            fs::create_dir(&path).io("cannot create", &path)?;
            // Whatever the umask is: this becomes the root directory that a step sees.
            fs::set_permissions(&path, Permissions::from_mode(0o755)).io("cannot chmod", &path)?;
        }
        Ok(LayerDir { id, dir })
    }

    /// Commits what is in the directory as a layer; `root` is its manifest.
    ///
    /// # Errors
    /// When it cannot be written; then nothing of it is in the store.
    pub fn commit_dir(&self, dir: LayerDir, root: Node) -> Result<Arc<Layer>> {
        // overlayfs leaves `work/work` (mode 000) behind, and a marker for `volatile`.
        self.scratch().discard(&dir.work());
        self.commit(dir.id, dir.dir, root)
    }

    /// Commits a layer whose bytes are all elsewhere: only its manifest is written.
    ///
    /// # Errors
    /// When it cannot be written; then nothing of it is in the store.
    pub fn commit_virtual(&self, root: Node) -> Result<Arc<Layer>> {
        let id = LayerId(self.next_id()?);
        let tmp = self.tmp_dir();
        let dir = tempfile::Builder::new()
            .prefix(&format!("layer-{id}-"))
            .permissions(Permissions::from_mode(0o755))
            .tempdir_in(tmp)
            .io("cannot create a directory in", tmp)?;
        self.commit(id, dir, root)
    }

    fn commit(&self, id: LayerId, dir: TempDir, root: Node) -> Result<Arc<Layer>> {
        let manifest = dir.path().join("manifest");
        let bytes = postcard::to_stdvec(&root).map_err(|error| Error::Damaged {
            path: manifest.clone(),
            reason: error.to_string(),
        })?;
        fs::write(&manifest, bytes).io("cannot write", &manifest)?;
        let target = self.layer_path(id);
        fs::rename(dir.path(), &target).io("cannot move a layer to", &target)?;
        // The directory is at its place now; nothing is left to remove.
        let _ = dir.keep();
        self.db().execute(
            "INSERT INTO layers (id, created) VALUES (?1, ?2)",
            params![id.0, db::now()],
        )?;
        Ok(self.remember(Layer { id, root }))
    }
}
