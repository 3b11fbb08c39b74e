//! Removes what nothing needs any more, and what is broken together with all that depends on it.
//!
//! Rows go first, in one transaction; files follow when it is committed. A process that is killed
//! in between leaves files without rows, which [`Removal::orphans`] finds.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use cofferdam_types::Digest;
use rusqlite::{Connection, OptionalExtension, params};

use crate::holds::Object;
use crate::{DirId, LayerId, PackId, Result, Store, db, scratch};

/// Tombstones of evicted records that are kept.
const MAX_TOMBSTONES: i64 = 20_000;

/// A removal in the making: rows are changed in the transaction of `connection`.
pub(crate) struct Removal<'a> {
    store: &'a Store,
    connection: &'a Connection,
    gone: Gone,
}

/// What a removal took out of the database; the files are still there.
#[derive(Default)]
pub(crate) struct Gone {
    pub(crate) objects: HashSet<Object>,
    /// Bytes that they take on the disk.
    pub(crate) bytes: u64,
    /// How many records were evicted.
    pub(crate) records: usize,
    /// Further paths to remove.
    pub(crate) paths: Vec<PathBuf>,
}

impl From<Vec<PathBuf>> for Gone {
    fn from(paths: Vec<PathBuf>) -> Self {
        Self { paths, ..Self::default() }
    }
}

impl Gone {
    /// Removes the files; returns when they are gone. For after the transaction.
    pub(crate) fn remove_files(&self, store: &Store) {
        match self.set_aside(store) {
            Ok(paths) => paths.iter().for_each(|path| scratch::remove(path)),
            // `store verify` finds them.
            Err(error) => tracing::warn!("files of what was removed stay: {error}"),
        }
        self.objects.iter().for_each(|object| store.forget(*object));
    }

    /// Moves the files out of the way. A blob that another process has stored again meanwhile has
    /// the same name and stays.
    fn set_aside(&self, store: &Store) -> Result<Vec<PathBuf>> {
        let mut connection = store.db();
        // Nobody stores anything while it lasts; it changes nothing.
        let transaction = db::begin(&mut connection)?;
        let known = Removal::new(store, &transaction);
        let paths = self.objects.iter().map(|object| store.object_path(object));
        let mut aside = Vec::new();
        for path in paths.chain(self.paths.iter().cloned()) {
            if !known.is_known(&path)? {
                aside.extend(store.scratch().set_aside(&path));
            }
        }
        Ok(aside)
    }
}

impl Store {
    /// Removes something that is broken or gone, and all that depends on it.
    pub(crate) fn lose(&self, object: Object) -> Result<()> {
        tracing::warn!("{object} in `{}` is missing or damaged: dropped", self.root().display());
        let mut connection = self.db();
        let transaction = db::begin(&mut connection)?;
        let mut removal = Removal::new(self, &transaction);
        removal.lose(&object)?;
        let gone = removal.finish();
        transaction.commit()?;
        drop(connection);
        gone.remove_files(self);
        Ok(())
    }

    pub(crate) fn object_path(&self, object: &Object) -> PathBuf {
        match object {
            Object::Layer(id) => self.layer_path(*id),
            Object::Pack(id) => self.pack_path(*id),
            Object::Blob(digest) => self.blob_path(digest),
            Object::Dir(id) => self.dir_path(*id),
        }
    }
}

impl<'a> Removal<'a> {
    pub(crate) fn new(store: &'a Store, connection: &'a Connection) -> Self {
        Self { store, connection, gone: Gone::default() }
    }

    pub(crate) fn finish(self) -> Gone {
        self.gone
    }

    /// Bytes on the disk that are gone so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.gone.bytes
    }

    fn exists(&self, sql: &str, value: impl rusqlite::ToSql) -> Result<bool> {
        Ok(self.connection.prepare_cached(sql)?.exists([value])?)
    }

    fn ids(&self, sql: &str, value: impl rusqlite::ToSql) -> Result<Vec<i64>> {
        let mut query = self.connection.prepare_cached(sql)?;
        let rows = query.query_map([value], |row| row.get(0))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    fn execute(&self, sql: &str, value: impl rusqlite::ToSql) -> Result<usize> {
        Ok(self.connection.prepare_cached(sql)?.execute([value])?)
    }

    fn is_leased(&self, object: &Object) -> Result<bool> {
        self.exists("SELECT 1 FROM leases WHERE object = ?1", object.to_string())
    }

    /// Forgets the leases and reservations of processes that are gone.
    pub(crate) fn dead_sessions(&self) -> Result<()> {
        let mut query = self.connection.prepare_cached("SELECT number FROM sessions")?;
        let numbers: Vec<i64> =
            query.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        for number in numbers {
            if self.store.scratch().is_alive(number) {
                continue;
            }
            self.execute("DELETE FROM leases WHERE session = ?1", number)?;
            self.execute("DELETE FROM reservations WHERE session = ?1", number)?;
            self.execute("DELETE FROM dir_users WHERE session = ?1", number)?;
            self.execute("DELETE FROM sessions WHERE number = ?1", number)?;
        }
        Ok(())
    }

    /// Evicts a record: what only it needs goes with it. A note stays that tells when.
    pub(crate) fn record(&mut self, record: i64) -> Result<()> {
        let layers = self
            .ids("SELECT layer FROM record_layers WHERE record = ?1 ORDER BY position", record)?;
        // What it was made from was of use whenever it was.
        self.execute(
            "UPDATE records SET used = max(used, (SELECT used FROM records WHERE id = ?1))
             WHERE evicted IS NULL AND id IN (
                 SELECT other.record FROM record_layers own
                 JOIN record_layers other ON other.layer = own.layer WHERE own.record = ?1)",
            record,
        )?;
        self.connection
            .prepare_cached("UPDATE records SET evicted = ?2, data = '' WHERE id = ?1")?
            .execute(params![record, db::now()])?;
        self.execute("DELETE FROM record_layers WHERE record = ?1", record)?;
        self.gone.records += 1;
        for layer in layers.into_iter().rev() {
            self.layer_if_unused(LayerId(layer))?;
        }
        Ok(())
    }

    /// Forgets the oldest notes of evicted records.
    pub(crate) fn old_tombstones(&self) -> Result<()> {
        let old = "SELECT id FROM records WHERE evicted IS NOT NULL
                   ORDER BY used DESC LIMIT -1 OFFSET ?1";
        self.execute(&format!("DELETE FROM record_keys WHERE record IN ({old})"), MAX_TOMBSTONES)?;
        self.execute(&format!("DELETE FROM records WHERE id IN ({old})"), MAX_TOMBSTONES)?;
        Ok(())
    }

    /// Forgets what an image layer was unpacked to.
    pub(crate) fn image_layer(&mut self, diff_id: &Digest) -> Result<()> {
        let layers =
            self.ids("SELECT layer FROM diff_ids WHERE diff_id = ?1", diff_id.as_bytes())?;
        self.execute("DELETE FROM diff_ids WHERE diff_id = ?1", diff_id.as_bytes())?;
        layers.into_iter().try_for_each(|layer| self.layer_if_unused(LayerId(layer)))
    }

    /// Forgets an image by name.
    pub(crate) fn image(&mut self, name: &str) -> Result<()> {
        let mut query =
            self.connection.prepare_cached("SELECT digest FROM image_blobs WHERE name = ?1")?;
        let blobs: Vec<[u8; 32]> =
            query.query_map([name], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        self.execute("DELETE FROM images WHERE name = ?1", name)?;
        self.execute("DELETE FROM image_blobs WHERE name = ?1", name)?;
        blobs.into_iter().try_for_each(|blob| self.blob_if_unused(&Digest::from_bytes(blob)))
    }

    /// Removes a layer if no record, image layer, other layer or process needs it.
    pub(crate) fn layer_if_unused(&mut self, id: LayerId) -> Result<()> {
        for table in [
            "SELECT 1 FROM record_layers WHERE layer = ?1",
            "SELECT 1 FROM diff_ids WHERE layer = ?1",
            "SELECT 1 FROM layer_contents WHERE target = ?1",
        ] {
            if self.exists(table, id.0)? {
                return Ok(());
            }
        }
        if self.is_leased(&Object::Layer(id))? {
            return Ok(());
        }
        self.layer(id)
    }

    fn layer(&mut self, id: LayerId) -> Result<()> {
        let Some(bytes) = self.bytes_of("SELECT bytes FROM layers WHERE id = ?1", id.0)? else {
            return Ok(());
        };
        let mut blobs =
            self.connection.prepare_cached("SELECT digest FROM layer_blobs WHERE layer = ?1")?;
        let blobs: Vec<[u8; 32]> =
            blobs.query_map([id.0], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        let targets = self.ids("SELECT target FROM layer_contents WHERE layer = ?1", id.0)?;
        for table in ["layer_contents", "layer_packs", "layer_blobs", "file_digests"] {
            self.execute(&format!("DELETE FROM {table} WHERE layer = ?1"), id.0)?;
        }
        self.execute("DELETE FROM layers WHERE id = ?1", id.0)?;
        self.gone(Object::Layer(id), bytes);
        blobs.into_iter().try_for_each(|blob| self.blob_if_unused(&Digest::from_bytes(blob)))?;
        targets.into_iter().try_for_each(|target| self.layer_if_unused(LayerId(target)))
    }

    fn bytes_of(&self, sql: &str, value: impl rusqlite::ToSql) -> Result<Option<i64>> {
        Ok(self.connection.prepare_cached(sql)?.query_row([value], |row| row.get(0)).optional()?)
    }

    fn gone(&mut self, object: Object, bytes: i64) {
        self.gone.objects.insert(object);
        self.gone.bytes += u64::try_from(bytes).unwrap_or(0);
    }

    /// Removes a pack if no layer and no process needs it.
    pub(crate) fn pack_if_unused(&mut self, id: PackId) -> Result<()> {
        if self.exists("SELECT 1 FROM layer_packs WHERE pack = ?1", id.0)?
            || self.is_leased(&Object::Pack(id))?
        {
            return Ok(());
        }
        self.pack(id)
    }

    fn pack(&mut self, id: PackId) -> Result<()> {
        if let Some(bytes) = self.bytes_of("SELECT bytes FROM packs WHERE id = ?1", id.0)? {
            self.execute("DELETE FROM packs WHERE id = ?1", id.0)?;
            self.gone(Object::Pack(id), bytes);
        }
        Ok(())
    }

    /// Removes a blob if no layer, image or process needs it.
    pub(crate) fn blob_if_unused(&mut self, digest: &Digest) -> Result<()> {
        if self.exists("SELECT 1 FROM layer_blobs WHERE digest = ?1", digest.as_bytes())? {
            return Ok(());
        }
        self.cached_blob(digest)
    }

    /// Removes a blob that can be made again from its layer, if no image or process needs it.
    pub(crate) fn cached_blob(&mut self, digest: &Digest) -> Result<()> {
        if self.exists("SELECT 1 FROM image_blobs WHERE digest = ?1", digest.as_bytes())?
            || self.is_leased(&Object::Blob(*digest))?
        {
            return Ok(());
        }
        self.blob(digest)
    }

    fn blob(&mut self, digest: &Digest) -> Result<()> {
        let bytes =
            self.bytes_of("SELECT bytes FROM blobs WHERE digest = ?1", digest.as_bytes())?;
        if let Some(bytes) = bytes {
            self.execute("DELETE FROM layer_blobs WHERE digest = ?1", digest.as_bytes())?;
            self.execute("DELETE FROM blobs WHERE digest = ?1", digest.as_bytes())?;
            self.gone(Object::Blob(*digest), bytes);
        }
        Ok(())
    }

    /// Removes a named directory if nobody uses it.
    pub(crate) fn dir_if_unused(&mut self, id: DirId) -> Result<()> {
        match self.exists("SELECT 1 FROM dir_users WHERE dir = ?1", id.0)? {
            true => Ok(()),
            false => self.dir(id),
        }
    }

    fn dir(&mut self, id: DirId) -> Result<()> {
        if let Some(bytes) = self.bytes_of("SELECT bytes FROM dirs WHERE id = ?1", id.0)? {
            self.execute("DELETE FROM dirs WHERE id = ?1", id.0)?;
            self.gone(Object::Dir(id), bytes);
        }
        Ok(())
    }

    /// Removes something that is broken, and all that depends on it.
    pub(crate) fn lose(&mut self, object: &Object) -> Result<()> {
        match object {
            Object::Layer(id) => self.lose_layer(*id),
            Object::Pack(id) => self.lose_pack(*id),
            Object::Blob(digest) => self.lose_blob(digest),
            Object::Dir(id) => self.dir(*id),
        }
    }

    /// Removes a layer that is broken, and all that depends on it.
    fn lose_layer(&mut self, id: LayerId) -> Result<()> {
        let mut todo = vec![id];
        let mut seen = HashSet::new();
        while let Some(id) = todo.pop() {
            if !seen.insert(id) {
                continue;
            }
            let dependents =
                self.ids("SELECT layer FROM layer_contents WHERE target = ?1", id.0)?;
            todo.extend(dependents.into_iter().map(LayerId));
            for record in self.ids("SELECT record FROM record_layers WHERE layer = ?1", id.0)? {
                self.record(record)?;
            }
            self.execute("DELETE FROM diff_ids WHERE layer = ?1", id.0)?;
            self.execute("DELETE FROM leases WHERE object = ?1", Object::Layer(id).to_string())?;
            self.layer(id)?;
        }
        Ok(())
    }

    /// Removes a pack that is broken, and all that depends on it.
    fn lose_pack(&mut self, id: PackId) -> Result<()> {
        for layer in self.ids("SELECT layer FROM layer_packs WHERE pack = ?1", id.0)? {
            self.lose_layer(LayerId(layer))?;
        }
        self.pack(id)
    }

    /// Removes a blob that is broken, and the images that it is part of.
    fn lose_blob(&mut self, digest: &Digest) -> Result<()> {
        let mut query =
            self.connection.prepare_cached("SELECT name FROM image_blobs WHERE digest = ?1")?;
        let names: Vec<String> = query
            .query_map([digest.as_bytes()], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        names.iter().try_for_each(|name| self.image(name))?;
        // An image layer whose blob is gone could only be pushed as another one: it is fetched
        // anew.
        let originals =
            "SELECT layer FROM layer_blobs WHERE digest = ?1 AND compression = 'original'";
        for layer in self.ids(originals, digest.as_bytes())? {
            self.lose_layer(LayerId(layer))?;
        }
        self.blob(digest)
    }

    /// Evicts the records and image layers that a layer is the top of, a pack that no layer
    /// needs, or a blob that is not the only form of what it holds.
    pub(crate) fn evict(&mut self, object: &Object) -> Result<()> {
        match object {
            Object::Layer(id) => {
                let top = "SELECT record FROM record_layers AS top WHERE layer = ?1 AND position =
                           (SELECT max(position) FROM record_layers WHERE record = top.record)";
                let inside = "SELECT 1 FROM record_layers AS inside WHERE layer = ?1 AND position <
                              (SELECT max(position) FROM record_layers
                               WHERE record = inside.record)";
                if self.exists(inside, id.0)? {
                    return Ok(());
                }
                for record in self.ids(top, id.0)? {
                    self.record(record)?;
                }
                self.execute("DELETE FROM diff_ids WHERE layer = ?1", id.0)?;
                self.layer_if_unused(*id)
            }
            Object::Pack(id) => self.pack_if_unused(*id),
            Object::Dir(id) => self.dir_if_unused(*id),
            Object::Blob(digest) => {
                let original =
                    "SELECT 1 FROM layer_blobs WHERE digest = ?1 AND compression = 'original'";
                match self.exists(original, digest.as_bytes())? {
                    true => Ok(()),
                    false => self.cached_blob(digest),
                }
            }
        }
    }

    /// How many things are gone so far.
    pub(crate) fn count(&self) -> usize {
        self.gone.objects.len()
    }

    /// Whether something is gone.
    pub(crate) fn has(&self, object: &Object) -> bool {
        self.gone.objects.contains(object)
    }

    /// Finds files that no row tells of, to remove them: a process was killed in the middle.
    /// Nobody stores anything while the transaction lasts.
    pub(crate) fn orphans(&mut self) -> Result<()> {
        for path in self.orphan_paths()? {
            // At once: the next layer or pack may get this very number.
            self.gone.paths.extend(self.store.scratch().set_aside(&path));
        }
        Ok(())
    }

    /// The files that no row tells of.
    pub(crate) fn orphan_paths(&self) -> Result<Vec<PathBuf>> {
        let mut orphans = Vec::new();
        let gone: HashSet<PathBuf> =
            self.gone.objects.iter().map(|object| self.store.object_path(object)).collect();
        let root = self.store.root().to_owned();
        for place in ["layers", "packs", "blobs/sha256", "dirs"] {
            for path in entries(&root.join(place)) {
                if !gone.contains(&path) && !self.is_known(&path)? {
                    orphans.push(path);
                }
            }
        }
        Ok(orphans)
    }

    /// Whether a layer, pack or blob with this path is in the database.
    fn is_known(&self, path: &Path) -> Result<bool> {
        let part = |path: Option<&Path>| path?.file_name()?.to_str().map(ToOwned::to_owned);
        let name = part(Some(path)).unwrap_or_default();
        let number = name.parse::<i64>().ok();
        match (part(path.parent()).as_deref(), number) {
            (Some("layers"), Some(id)) => self.exists("SELECT 1 FROM layers WHERE id = ?1", id),
            (Some("packs"), Some(id)) => self.exists("SELECT 1 FROM packs WHERE id = ?1", id),
            (Some("dirs"), Some(id)) => self.exists("SELECT 1 FROM dirs WHERE id = ?1", id),
            (Some("sha256"), _) => match format!("sha256:{name}").parse::<Digest>() {
                Ok(digest) => {
                    self.exists("SELECT 1 FROM blobs WHERE digest = ?1", digest.as_bytes())
                }
                Err(_) => Ok(false),
            },
            _ => Ok(false),
        }
    }
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}
