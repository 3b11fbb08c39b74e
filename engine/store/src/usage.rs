//! What is stored: how large each thing is, when it was last used and who holds it; and pruning
//! by that.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use cofferdam_types::Digest;
use rusqlite::{Connection, Row};

use crate::filter::Filter;
use crate::holds::Object;
use crate::removal::Removal;
use crate::{DirId, LayerId, PackId, Result, Store, db};

/// One thing that takes room in the state directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Names it: `layer 7`, `pack 8`, `blob sha256:…`, `directory 9`.
    pub id: String,
    /// Its kind, as BuildKit names it where it has the like: `regular`, `source.local`, `failed`,
    /// …; further `image-layer` (unpacked from an image) and `blob`.
    pub kind: String,
    /// What it is, for people: the step that made it.
    pub description: String,
    /// Bytes on the disk.
    pub bytes: u64,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// When it was last used, in seconds since 1970, where that is known.
    pub last_used: Option<i64>,
    /// How often it was used since it was made.
    pub uses: u64,
    /// Processes that hold it now.
    pub held_by: Vec<u32>,
    /// Images by name that it is part of.
    pub images: Vec<String>,
    /// How many other things refer to it.
    pub shared: u64,
    /// In which order things were used.
    pub(crate) order: i64,
}

impl Usage {
    /// Whether somebody holds it.
    pub fn in_use(&self) -> bool {
        !self.held_by.is_empty()
    }
}

/// What is to be removed.
#[derive(Clone, Debug, Default)]
pub struct Prune {
    /// Only what matches one of these; everything if there is none.
    pub filters: Vec<Filter>,
    /// Images by name, too, and what only they need.
    pub images: bool,
    /// Nothing that was used in the last so long.
    pub keep_duration: Duration,
    /// Nothing is removed while no more than so many bytes are in use; 0 removes everything.
    pub keep_bytes: u64,
}

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// The things.
    pub removed: Vec<Usage>,
    /// Images by name.
    pub images: Vec<String>,
    /// Bytes on the disk that are free now.
    pub bytes: u64,
}

impl Store {
    /// Everything that takes room, the largest first.
    ///
    /// # Errors
    /// When the database fails.
    pub fn usages(&self) -> Result<Vec<Usage>> {
        self.forget_released()?;
        let mut connection = self.db();
        let transaction = db::begin(&mut connection)?;
        Removal::new(self, &transaction).dead_sessions()?;
        let mut usages: Vec<Usage> =
            list(&transaction)?.into_iter().map(|(_, usage)| usage).collect();
        transaction.commit()?;
        usages.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.id.cmp(&b.id)));
        Ok(usages)
    }

    /// Bytes that the database, compiled components, indexes and logs take.
    pub fn other_usage(&self) -> u64 {
        self.overhead()
    }

    /// Removes what matches and nobody holds, the least recently used first, with what only that
    /// needs.
    ///
    /// # Errors
    /// When the database fails.
    pub fn prune(&self, prune: &Prune) -> Result<Pruned> {
        self.forget_released()?;
        let mut pruned = Pruned::default();
        let mut connection = self.db();
        let transaction = db::begin(&mut connection)?;
        let mut removal = Removal::new(self, &transaction);
        removal.dead_sessions()?;
        removal.orphans()?;
        if prune.images && prune.filters.is_empty() {
            let mut query = transaction.prepare("SELECT name FROM images ORDER BY used")?;
            let names = query.query_map([], |row| row.get(0))?;
            pruned.images = names.collect::<rusqlite::Result<_>>()?;
            pruned.images.iter().try_for_each(|name| removal.image(name))?;
        }
        let mut total = self.total(&transaction)?;
        // What others build on comes free when those are gone: until nothing changes any more.
        loop {
            let mut found = list(&transaction)?;
            found.sort_by_key(|(_, usage)| usage.order);
            let before = removal.count();
            for (object, usage) in found {
                if prune.keep_bytes > 0 && total <= prune.keep_bytes {
                    break;
                }
                if !prune.wants(&usage) {
                    continue;
                }
                let freed = removal.bytes();
                removal.evict(&object)?;
                let freed = removal.bytes() - freed;
                total = total.saturating_sub(freed);
                if removal.has(&object) {
                    pruned.removed.push(usage);
                }
            }
            if removal.count() == before {
                break;
            }
        }
        let mut gone = removal.finish();
        transaction.commit()?;
        drop(connection);
        if prune.is_everything() {
            // Indexes of directories whose files are not stored any more.
            let local = fs::read_dir(self.root().join("local")).into_iter().flatten().flatten();
            gone.paths.extend(local.map(|entry| entry.path()));
        }
        gone.remove_files(self);
        pruned.bytes = gone.bytes;
        Ok(pruned)
    }

    fn total(&self, connection: &Connection) -> Result<u64> {
        let bytes: i64 = connection.query_row("SELECT bytes FROM usage", [], |row| row.get(0))?;
        Ok(u64::try_from(bytes).unwrap_or(0) + self.overhead())
    }
}

impl Prune {
    /// Whether nothing but what is in use shall stay.
    fn is_everything(&self) -> bool {
        self.filters.is_empty() && self.keep_duration.is_zero() && self.keep_bytes == 0
    }

    fn wants(&self, usage: &Usage) -> bool {
        let recently = || {
            let keep = i64::try_from(self.keep_duration.as_secs()).unwrap_or(i64::MAX);
            let used = usage.last_used.unwrap_or(usage.created);
            keep > 0 && used > db::now().saturating_sub(keep)
        };
        !usage.in_use()
            && (self.filters.is_empty() || self.filters.iter().any(|filter| filter.matches(usage)))
            && !recently()
    }
}

/// Everything that is stored. Whoever reads it has a transaction.
fn list(connection: &Connection) -> Result<Vec<(Object, Usage)>> {
    let mut held: HashMap<String, Vec<u32>> = HashMap::new();
    let mut query = connection.prepare_cached(
        "SELECT object, pid FROM leases JOIN sessions ON number = session UNION
             SELECT 'directory ' || dir, pid FROM dir_users JOIN sessions ON number = session",
    )?;
    let leases = query.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get(1)?)))?;
    for lease in leases {
        let (object, pid) = lease?;
        held.entry(object).or_default().push(pid);
    }
    let mut found = Vec::new();
    for (sql, read) in [
        (LAYERS, layer as fn(&Row<'_>) -> rusqlite::Result<(Object, Usage)>),
        (PACKS, pack),
        (BLOBS, blob),
        (DIRS, dir),
    ] {
        let mut query = connection.prepare_cached(sql)?;
        let rows = query.query_map([], read)?;
        for row in rows {
            let (object, mut usage) = row?;
            usage.held_by = held.remove(&object.to_string()).unwrap_or_default();
            found.push((object, usage));
        }
    }
    Ok(found)
}

/// A layer is described by the record that has it on top, the first one if there are several,
/// and was used whenever a record with it was.
const LAYERS: &str = "
SELECT layer.id, layer.bytes, layer.created,
    (SELECT min(record.id) FROM record_layers JOIN records AS record ON record.id = record
        WHERE layer = layer.id AND position =
            (SELECT max(position) FROM record_layers AS all_layers
             WHERE all_layers.record = record.id)) AS owner,
    (SELECT max(last_used) FROM record_layers JOIN records AS record ON record.id = record
        WHERE layer = layer.id) AS last_used,
    max(coalesce((SELECT max(used) FROM record_layers JOIN records AS record ON record.id = record
        WHERE layer = layer.id), 0),
        coalesce((SELECT max(used) FROM diff_ids WHERE layer = layer.id), 0), 0) AS used,
    (SELECT count(*) FROM record_layers WHERE layer = layer.id)
        + (SELECT count(*) FROM layer_contents WHERE target = layer.id),
    EXISTS (SELECT 1 FROM diff_ids WHERE layer = layer.id),
    (SELECT origin FROM layer_blobs WHERE layer = layer.id AND compression = 'original'),
    kind, name, coalesce(uses, 0)
FROM layers AS layer
LEFT JOIN records AS owner_record ON owner_record.id = owner";

fn layer(row: &Row<'_>) -> rusqlite::Result<(Object, Usage)> {
    let object = Object::Layer(LayerId(row.get(0)?));
    let of_image: bool = row.get(7)?;
    let origin: Option<String> = row.get(8)?;
    let (kind, description) = if of_image {
        ("image-layer".to_owned(), origin.unwrap_or_default())
    } else {
        (
            row.get::<_, Option<String>>(9)?.unwrap_or_else(|| "internal".into()),
            row.get::<_, Option<String>>(10)?.unwrap_or_default(),
        )
    };
    Ok((
        object,
        Usage {
            id: object.to_string(),
            kind,
            description,
            bytes: bytes(row, 1)?,
            created: row.get(2)?,
            last_used: row.get(4)?,
            order: row.get(5)?,
            shared: bytes(row, 6)?,
            uses: bytes(row, 11)?,
            ..Usage::default()
        },
    ))
}

const PACKS: &str = "
SELECT id, bytes, created, used, (SELECT count(*) FROM layer_packs WHERE pack = id) FROM packs";

fn pack(row: &Row<'_>) -> rusqlite::Result<(Object, Usage)> {
    let object = Object::Pack(PackId(row.get(0)?));
    Ok((
        object,
        Usage {
            id: object.to_string(),
            kind: "source.local".into(),
            description: "contents of files".into(),
            bytes: bytes(row, 1)?,
            created: row.get(2)?,
            order: row.get(3)?,
            shared: bytes(row, 4)?,
            ..Usage::default()
        },
    ))
}

const BLOBS: &str = "
SELECT digest, bytes, created, used,
    (SELECT count(*) FROM layer_blobs WHERE layer_blobs.digest = blobs.digest),
    (SELECT media_type FROM layer_blobs WHERE layer_blobs.digest = blobs.digest),
    (SELECT group_concat(name, ' ') FROM image_blobs WHERE image_blobs.digest = blobs.digest)
FROM blobs";

fn blob(row: &Row<'_>) -> rusqlite::Result<(Object, Usage)> {
    let digest = Digest::from_bytes(row.get(0)?);
    let media_type: Option<String> = row.get(5)?;
    let images: Option<String> = row.get(6)?;
    Ok((
        Object::Blob(digest),
        Usage {
            id: format!("blob {digest}"),
            kind: "blob".into(),
            description: media_type.unwrap_or_else(|| "manifest or config".into()),
            bytes: bytes(row, 1)?,
            created: row.get(2)?,
            order: row.get(3)?,
            shared: bytes(row, 4)?,
            images: images.iter().flat_map(|names| names.split(' ')).map(str::to_owned).collect(),
            ..Usage::default()
        },
    ))
}

const DIRS: &str = "
SELECT id, bytes, created, last_used, used, uses, kind, description FROM dirs";

fn dir(row: &Row<'_>) -> rusqlite::Result<(Object, Usage)> {
    let object = Object::Dir(DirId(row.get(0)?));
    Ok((
        object,
        Usage {
            id: object.to_string(),
            bytes: bytes(row, 1)?,
            created: row.get(2)?,
            last_used: row.get(3)?,
            order: row.get(4)?,
            uses: bytes(row, 5)?,
            kind: row.get(6)?,
            description: row.get(7)?,
            ..Usage::default()
        },
    ))
}

fn bytes(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(|bytes| u64::try_from(bytes).unwrap_or(0))
}
