//! What survives a power loss: everything up to a mark.
//!
//! Files are not synced one by one, which would make every step wait for the disk. Instead the
//! whole file system is synced once in a while, off the way of builds, and the database notes up
//! to where everything is on the disk. When the machine has been restarted, what came after the
//! mark is not trusted and goes, together with what depends on it.

use std::fs::{self, File};
use std::path::PathBuf;

use cofferdam_types::Digest;
use rusqlite::{Connection, OptionalExtension, params};

use crate::error::IoContext;
use crate::holds::Object;
use crate::removal::Removal;
use crate::{DirId, LayerId, PackId, Result, Store};

/// A number that is another one in each boot of the machine (random(4)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

impl Store {
    /// Puts everything that is stored on the disk, and notes so.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn sync(&self) -> Result<()> {
        let Some(number) = self.unsynced()? else { return Ok(()) };
        let root = self.root();
        let directory = File::open(root).io("cannot open", root)?;
        rustix::fs::syncfs(&directory).io("cannot sync the file system of", root)?;
        self.db().execute(
            "INSERT INTO meta (name, value) VALUES ('synced', ?1)
             ON CONFLICT (name) DO UPDATE SET value = ?1
             WHERE CAST(value AS INTEGER) < CAST(?1 AS INTEGER)",
            [number.to_string()],
        )?;
        Ok(())
    }

    /// The latest number, if something was stored since the last mark.
    fn unsynced(&self) -> Result<Option<i64>> {
        let db = self.db();
        let (next, stored): (i64, i64) = db.query_row(
            "SELECT next, max(
                 coalesce((SELECT max(number) FROM layers), 0),
                 coalesce((SELECT max(written) FROM layers), 0),
                 coalesce((SELECT max(number) FROM packs), 0),
                 coalesce((SELECT max(number) FROM dirs), 0),
                 coalesce((SELECT max(number) FROM blobs), 0))
             FROM sequence",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        Ok((stored > synced(&db)?).then_some(next))
    }

    /// Whether something was stored that a power loss would take.
    ///
    /// # Errors
    /// When the database fails.
    pub fn needs_sync(&self) -> Result<bool> {
        Ok(self.unsynced()?.is_some())
    }

    /// Drops what is not known to be on the disk, if the machine was restarted since the
    /// directory was last used. Gives the paths to remove.
    pub(crate) fn recover(&self, connection: &Connection) -> Result<Vec<PathBuf>> {
        // Where there is none, every start counts as the same boot.
        let boot = fs::read_to_string(BOOT_ID).unwrap_or_default().trim().to_owned();
        let known: Option<String> = connection
            .query_row("SELECT value FROM meta WHERE name = 'boot'", [], |row| row.get(0))
            .optional()?;
        if known.as_ref() == Some(&boot) {
            return Ok(Vec::new());
        }
        connection.execute(
            "INSERT OR REPLACE INTO meta (name, value) VALUES ('boot', ?1)",
            params![boot],
        )?;
        if known.is_none() {
            // A new database: whatever lies there is of one that was lost.
            let mut removal = Removal::new(self, connection);
            removal.orphans()?;
            return Ok(removal.finish().paths);
        }
        let mark = synced(connection)?;
        let mut removal = Removal::new(self, connection);
        connection.execute("DELETE FROM leases", [])?;
        connection.execute("DELETE FROM reservations", [])?;
        // What was being changed is anybody's guess, whatever was synced meanwhile.
        for dir in ids(connection, "SELECT DISTINCT dir FROM dir_users")? {
            removal.lose(&Object::Dir(DirId(dir)))?;
        }
        connection.execute("DELETE FROM dir_users", [])?;
        connection.execute("DELETE FROM sessions WHERE number <> ?1", [self.session()])?;
        let mut paths = self.unwrite(connection, mark)?;
        for (object, number) in objects(connection)? {
            if number > mark || !self.is_complete(&object) {
                removal.lose(&object)?;
            }
        }
        // What is in the middle of a pack that no layer has is anybody's guess.
        let loose = "SELECT id FROM packs WHERE id NOT IN (SELECT pack FROM layer_packs)";
        for pack in ids(connection, loose)? {
            removal.lose(&Object::Pack(PackId(pack)))?;
        }
        let local = self.root().join("local");
        paths.extend(fs::read_dir(local).into_iter().flatten().flatten().map(|e| e.path()));
        removal.orphans()?;
        let gone = removal.finish();
        if !gone.objects.is_empty() {
            tracing::warn!(
                "the machine was restarted before {} new objects of the build cache were on the \
                 disk: they are dropped",
                gone.objects.len()
            );
        }
        paths.extend(gone.objects.iter().map(|object| self.object_path(object)));
        paths.extend(gone.paths);
        Ok(paths)
    }

    /// Layers of references that were written out after the mark are layers of references again.
    fn unwrite(&self, connection: &Connection, mark: i64) -> Result<Vec<PathBuf>> {
        let layers = ids(
            connection,
            &format!("SELECT id FROM layers WHERE written > {mark} AND number <= {mark}"),
        )?;
        for layer in &layers {
            let manifest = self.layer_path(LayerId(*layer)).join("manifest");
            connection.execute(
                "UPDATE layers SET written = NULL, bytes = ?2 WHERE id = ?1",
                params![layer, crate::disk_usage(&manifest).cast_signed()],
            )?;
        }
        Ok(layers.iter().map(|id| self.layer_path(LayerId(*id)).join("fs")).collect())
    }

    /// Whether the files of an object are there, as far as a glance tells.
    pub(crate) fn is_complete(&self, object: &Object) -> bool {
        let path = self.object_path(object);
        match object {
            Object::Layer(_) => {
                fs::metadata(path.join("manifest")).is_ok_and(|metadata| metadata.len() > 0)
            }
            Object::Pack(_) | Object::Blob(_) => path.exists(),
            Object::Dir(_) => path.join("fs").exists(),
        }
    }
}

fn synced(connection: &Connection) -> Result<i64> {
    let value: Option<String> = connection
        .query_row("SELECT value FROM meta WHERE name = 'synced'", [], |row| row.get(0))
        .optional()?;
    Ok(value.and_then(|value| value.parse().ok()).unwrap_or(0))
}

fn ids(connection: &Connection, sql: &str) -> Result<Vec<i64>> {
    let mut query = connection.prepare(sql)?;
    let rows = query.query_map([], |row| row.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Everything that is stored, with the number that it was stored as.
pub(crate) fn objects(connection: &Connection) -> Result<Vec<(Object, i64)>> {
    let mut objects = Vec::new();
    let mut query = connection.prepare("SELECT id, number FROM packs")?;
    let packs = query.query_map([], |row| Ok((row.get(0).map(PackId)?, row.get(1)?)))?;
    for pack in packs {
        let (id, number) = pack?;
        objects.push((Object::Pack(id), number));
    }
    let mut query = connection.prepare("SELECT id, number FROM layers")?;
    let layers = query.query_map([], |row| Ok((row.get(0).map(LayerId)?, row.get(1)?)))?;
    for layer in layers {
        let (id, number) = layer?;
        objects.push((Object::Layer(id), number));
    }
    let mut query = connection.prepare("SELECT id, number FROM dirs")?;
    let dirs = query.query_map([], |row| Ok((row.get(0).map(DirId)?, row.get(1)?)))?;
    for dir in dirs {
        let (id, number) = dir?;
        objects.push((Object::Dir(id), number));
    }
    let mut query = connection.prepare("SELECT digest, number FROM blobs")?;
    let blobs = query.query_map([], |row| Ok((row.get::<_, [u8; 32]>(0)?, row.get(1)?)))?;
    for blob in blobs {
        let (digest, number) = blob?;
        objects.push((Object::Blob(Digest::from_bytes(digest)), number));
    }
    Ok(objects)
}
