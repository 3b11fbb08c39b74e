//! The storage limit: room is reserved before it is filled, and what was not used for the longest
//! time makes way. All processes see what the others have reserved.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};

use crate::descend::disk_usage;
use crate::removal::{Gone, Removal};
use crate::{Error, Result, Store, db};

/// Room is reserved in pieces of so many bytes where the size is not known before.
const PIECE: u64 = 16 << 20;
/// What a step is given room for before it starts; more follows while it runs.
const STEP: u64 = 64 << 20;
/// How long others may take to make room while nothing changes.
const PATIENCE: Duration = Duration::from_secs(30);
/// How old what is known of the database's and the logs' size may be.
const OVERHEAD_AGE: Duration = Duration::from_secs(1);
/// When nothing has changed for so long, those who wait for room wait for each other.
const STANDSTILL: Duration = Duration::from_secs(1);
/// How soon, and later how often, it is looked whether there is room now.
const INTERVAL: Duration = Duration::from_millis(20);
const MAX_INTERVAL: Duration = Duration::from_millis(400);

/// Room in the state directory that is about to be filled; given back when dropped.
pub struct Reservation {
    store: Store,
    /// Its row and how many bytes it has, once there are any.
    row: Mutex<(Option<i64>, u64)>,
}

impl std::fmt::Debug for Reservation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reservation").finish_non_exhaustive()
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let (row, _) = *self.row.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(row) = row else { return };
        if let Err(error) = self.store.db().execute("DELETE FROM reservations WHERE id = ?1", [row])
        {
            tracing::warn!("cannot give reserved storage back: {error}");
        }
    }
}

impl Reservation {
    /// Sees to it that there is room for `bytes` in all. Without a limit there always is.
    ///
    /// # Errors
    /// [`Error::StorageLimit`] when nothing can make way.
    pub fn grow_to(&self, bytes: u64) -> Result<()> {
        let Some(limit) = self.store.limit() else { return Ok(()) };
        let mut row = self.row.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes <= row.1 {
            return Ok(());
        }
        // With a small limit, pieces are small too: others wait for what is only reserved.
        let wanted = bytes.max(row.1 + PIECE.min(limit / 32));
        row.0 = Some(self.store.make_room(limit, row.0, wanted - row.1, wanted)?);
        row.1 = wanted;
        Ok(())
    }
}

impl Store {
    /// Starts to reserve room.
    pub fn reservation(&self) -> Reservation {
        Reservation { store: self.clone(), row: Mutex::default() }
    }

    /// What a step is given room for before it starts.
    pub(crate) fn step_room(&self) -> u64 {
        STEP.min(self.limit().unwrap_or(0) / 16)
    }

    /// Adds `more` bytes to a reservation, which then has `total`.
    fn make_room(&self, limit: u64, row: Option<i64>, more: u64, total: u64) -> Result<i64> {
        let mut last = (0, Instant::now());
        let mut wait = INTERVAL;
        loop {
            self.forget_released()?;
            let mut connection = self.db();
            let transaction = db::begin(&mut connection)?;
            let overhead = self.recent_overhead();
            let mut used = taken(&transaction)? + overhead;
            if used + more > limit {
                Removal::new(self, &transaction).dead_sessions()?;
                used = taken(&transaction)? + overhead;
            }
            let stands_still = used == last.0 && last.1.elapsed() > STANDSTILL;
            let may_go_first = self.may_go_first(&transaction, more, limit / 4)?;
            if used + more <= limit || stands_still && may_go_first && self.claims().go_first()? {
                let sql = "INSERT OR REPLACE INTO reservations (id, session, bytes)
                           VALUES (?1, ?2, ?3)";
                transaction.execute(sql, params![row, self.session(), total.cast_signed()])?;
                let row = row.unwrap_or_else(|| transaction.last_insert_rowid());
                transaction.commit()?;
                return Ok(row);
            }
            let gone = self.evict(&transaction, used + more - limit)?;
            if gone.bytes > 0 {
                // Nobody fills the room before the files are really gone.
                let sql = "INSERT INTO reservations (session, bytes) VALUES (?1, ?2)";
                transaction.execute(sql, params![self.session(), gone.bytes.cast_signed()])?;
                let leaving = transaction.last_insert_rowid();
                transaction.commit()?;
                drop(connection);
                gone.remove_files(self);
                self.db().execute("DELETE FROM reservations WHERE id = ?1", [leaving])?;
                continue;
            }
            let others: bool = transaction.query_row(
                "SELECT EXISTS (SELECT 1 FROM reservations WHERE id IS NOT ?1)
                     OR EXISTS (SELECT 1 FROM leases WHERE session <> ?2)",
                params![row, self.session()],
                |row| row.get(0),
            )?;
            transaction.commit()?;
            drop(connection);
            if used != last.0 {
                last = (used, Instant::now());
            }
            if !others || !may_go_first && last.1.elapsed() > PATIENCE {
                return Err(Error::StorageLimit { limit, used, needed: more });
            }
            // Many may wait, and each look costs the others time.
            std::thread::sleep(wait);
            wait = (wait * 2).min(MAX_INTERVAL);
        }
    }

    /// Whether this process may at times go beyond the limit. Several builds may each hold what
    /// the others wait for: one after the other goes on without room, ends, and gives back what it
    /// has. A build that nobody else keeps from going on has no such right, nor one that wants more
    /// than `most` bytes.
    fn may_go_first(&self, connection: &Connection, more: u64, most: u64) -> Result<bool> {
        let (own, others): (i64, bool) = connection.query_row(
            "SELECT coalesce((SELECT sum(bytes) FROM reservations WHERE session = ?1), 0),
                EXISTS (SELECT 1 FROM leases WHERE session <> ?1)",
            [self.session()],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        Ok(others && u64::try_from(own).unwrap_or(0) + more <= most)
    }

    /// Removes what was not used for the longest time, until `bytes` are free or nothing is left
    /// that may go. Images by name go last.
    pub(crate) fn evict(&self, connection: &Connection, bytes: u64) -> Result<Gone> {
        let mut removal = Removal::new(self, connection);
        for candidates in [CANDIDATES, IMAGES] {
            loop {
                let found = self.candidates(connection, candidates)?;
                let any = !found.is_empty();
                for candidate in found {
                    if removal.bytes() >= bytes {
                        break;
                    }
                    candidate.remove(&mut removal)?;
                }
                if !any || removal.bytes() >= bytes {
                    break;
                }
            }
        }
        removal.old_tombstones()?;
        Ok(removal.finish())
    }

    fn candidates(&self, connection: &Connection, sql: &str) -> Result<Vec<Candidate>> {
        let mut query = connection.prepare_cached(sql)?;
        let rows = query.query_map([], |row| {
            Ok(match row.get::<_, i64>(0)? {
                0 => Candidate::Record(row.get(1)?),
                1 => Candidate::ImageLayer(row.get(2)?),
                2 => Candidate::Pack(row.get(1)?),
                3 => Candidate::Blob(row.get(2)?),
                5 => Candidate::Dir(row.get(1)?),
                6 => Candidate::Layer(row.get(1)?),
                _ => Candidate::Image(row.get(2)?),
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Bytes that layers, packs and blobs take on the disk.
    ///
    /// # Errors
    /// When the database fails.
    pub fn usage(&self) -> Result<u64> {
        let bytes: i64 = self.db().query_row("SELECT bytes FROM usage", [], |row| row.get(0))?;
        Ok(u64::try_from(bytes).unwrap_or(0))
    }

    /// [`Store::overhead`], looked at now and then.
    fn recent_overhead(&self) -> u64 {
        let mut known = self.known_overhead().lock().unwrap_or_else(PoisonError::into_inner);
        match *known {
            Some((bytes, at)) if at.elapsed() < OVERHEAD_AGE => bytes,
            _ => {
                let bytes = self.overhead();
                *known = Some((bytes, Instant::now()));
                bytes
            }
        }
    }

    /// What the directory takes besides layers, packs and blobs: the database, compiled
    /// components, indexes of local directories, logs.
    pub(crate) fn overhead(&self) -> u64 {
        let root = self.root();
        let files = ["state.db", "state.db-wal", "state.db-shm"].map(|name| root.join(name));
        let places = ["compiled", "local", "logs"].map(|name| root.join(name));
        files.iter().chain(&places).map(|path| disk_usage(path)).sum()
    }
}

/// What is on the disk and what is reserved.
fn taken(connection: &Connection) -> Result<u64> {
    let bytes: i64 = connection
        .prepare_cached(
            "SELECT bytes + (SELECT coalesce(sum(bytes), 0) FROM reservations) FROM usage",
        )?
        .query_row([], |row| row.get(0))?;
    Ok(u64::try_from(bytes).unwrap_or(0))
}

enum Candidate {
    Record(i64),
    ImageLayer([u8; 32]),
    Layer(i64),
    Pack(i64),
    Blob([u8; 32]),
    Dir(i64),
    Image(String),
}

impl Candidate {
    fn remove(self, removal: &mut Removal<'_>) -> Result<()> {
        use cofferdam_types::Digest;
        match self {
            Self::Record(id) => removal.record(id),
            Self::ImageLayer(diff_id) => removal.image_layer(&Digest::from_bytes(diff_id)),
            Self::Layer(id) => removal.layer_if_unused(crate::LayerId(id)),
            Self::Pack(id) => removal.pack_if_unused(crate::PackId(id)),
            Self::Blob(digest) => removal.cached_blob(&Digest::from_bytes(digest)),
            Self::Dir(id) => removal.dir_if_unused(crate::DirId(id)),
            Self::Image(name) => removal.image(&name),
        }
    }
}

/// What may go, the least recently used first; before all else layers that nothing refers to, which
/// are of processes that ended, or of a disk that was full, between a layer and its record. A record
/// whose topmost layer another record builds on goes after that one.
const CANDIDATES: &str = "
SELECT 0, record.id, NULL, record.used AS used FROM records AS record
JOIN record_layers AS top ON top.record = record.id
    AND top.position = (SELECT max(position) FROM record_layers WHERE record = record.id)
WHERE record.evicted IS NULL
    AND NOT EXISTS (SELECT 1 FROM leases WHERE object = 'layer ' || top.layer)
    AND NOT EXISTS (
        SELECT 1 FROM record_layers AS other WHERE other.layer = top.layer
        AND EXISTS (SELECT 1 FROM record_layers AS above
                    WHERE above.record = other.record AND above.position > other.position))
UNION ALL
SELECT 1, 0, diff_id, used FROM diff_ids
WHERE NOT EXISTS (SELECT 1 FROM record_layers WHERE layer = diff_ids.layer)
    AND NOT EXISTS (SELECT 1 FROM layer_contents WHERE target = diff_ids.layer)
    AND NOT EXISTS (SELECT 1 FROM leases WHERE object = 'layer ' || diff_ids.layer)
UNION ALL
SELECT 2, id, NULL, used FROM packs
WHERE NOT EXISTS (SELECT 1 FROM layer_packs WHERE pack = packs.id)
    AND NOT EXISTS (SELECT 1 FROM leases WHERE object = 'pack ' || packs.id)
UNION ALL
SELECT 3, 0, digest, used FROM blobs
WHERE NOT EXISTS (SELECT 1 FROM image_blobs WHERE digest = blobs.digest)
    AND NOT EXISTS (SELECT 1 FROM leases WHERE object = 'blob ' || lower(hex(blobs.digest)))
    AND NOT EXISTS (SELECT 1 FROM layer_blobs
                    WHERE digest = blobs.digest AND compression = 'original')
UNION ALL
SELECT 5, id, NULL, used FROM dirs
WHERE NOT EXISTS (SELECT 1 FROM dir_users WHERE dir = dirs.id)
UNION ALL
SELECT 6, id, NULL, 0 FROM layers
WHERE NOT EXISTS (SELECT 1 FROM record_layers WHERE layer = layers.id)
    AND NOT EXISTS (SELECT 1 FROM diff_ids WHERE layer = layers.id)
    AND NOT EXISTS (SELECT 1 FROM layer_contents WHERE target = layers.id)
    AND NOT EXISTS (SELECT 1 FROM leases WHERE object = 'layer ' || layers.id)
ORDER BY used LIMIT 64";

/// Images by name.
const IMAGES: &str = "SELECT 4, 0, name FROM images ORDER BY used LIMIT 16";
