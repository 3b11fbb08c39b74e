//! What survives a restart: results of ops, unpacked image layers, images by name.

use std::time::Duration;

use cofferdam_types::Digest;
use rusqlite::{OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};

use crate::removal::Removal;
use crate::{LayerId, Result, Snapshot, Store, db, seals};

/// A cache record: what an op made, and what it is known as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Content digest of the result where that is cheap, else the key it was first stored under.
    pub identity: Digest,
    /// The result.
    pub snapshot: Snapshot,
    /// Where it comes from.
    pub about: About,
    /// What its owner keeps with it.
    pub data: String,
}

/// Where a record comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// What kind of thing it is, as in BuildKit: `regular`, `source.local`, `internal`, ….
    #[serde(skip)]
    pub kind: String,
    /// What people call the step.
    #[serde(skip)]
    pub name: String,
    /// Which of the step's results it is.
    pub output: u32,
    /// Digest of the step's own key.
    pub op: Option<Digest>,
    /// What went into that key, by name.
    pub leaves: Vec<(String, String)>,
    /// What each input contributed.
    pub inputs: Vec<Digest>,
    /// How long it took to make.
    pub took: Option<Duration>,
}

/// A record that is or was there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// The identity that it has or had.
    pub identity: Digest,
    /// Where it comes from.
    pub about: About,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// When it was evicted, in seconds since 1970; `None` while it is there.
    pub evicted: Option<i64>,
}

/// An image by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRecord {
    /// Digest of its manifest or index.
    pub digest: Digest,
    /// Media type of the manifest or index.
    pub media_type: String,
    /// Bytes of the manifest or index.
    pub size: u64,
    /// All blobs that it is made of, the manifest or index among them.
    pub blobs: Vec<Digest>,
}

pub(crate) fn digest(row: &Row<'_>, column: usize) -> rusqlite::Result<Digest> {
    row.get(column).map(Digest::from_bytes)
}

/// The columns that make [`About`].
fn about(row: &Row<'_>, kind: usize) -> rusqlite::Result<About> {
    // What another version wrote is only not as well explained.
    let about: About = serde_json::from_str(&row.get::<_, String>(kind + 2)?).unwrap_or_default();
    Ok(About { kind: row.get(kind)?, name: row.get(kind + 1)?, ..about })
}

impl Store {
    /// Looks a result up by one of its keys.
    ///
    /// # Errors
    /// When the database fails.
    pub fn record(&self, key: &Digest) -> Result<Option<Record>> {
        self.find(
            "SELECT id FROM record_keys JOIN records ON record = id
             WHERE key = ?1 AND record_keys.seal = seal(key, identity)",
            key,
        )
    }

    /// Looks a result up by its identity.
    ///
    /// # Errors
    /// When the database fails.
    pub fn record_by_identity(&self, identity: &Digest) -> Result<Option<Record>> {
        self.find("SELECT id FROM records WHERE identity = ?1", identity)
    }

    /// The result with this identity, for a look that does not count as a use: it must not change
    /// what was used last.
    ///
    /// # Errors
    /// When the database fails.
    pub fn peek(&self, identity: &Digest) -> Result<Option<Snapshot>> {
        let layers = {
            let db = self.db();
            let mut query = db.prepare_cached(&format!(
                "SELECT id FROM records
                 WHERE identity = ?1 AND evicted IS NULL AND seal = {}",
                seals::RECORD
            ))?;
            let id = query.query_row([identity.as_bytes()], |row| row.get(0)).optional()?;
            let Some(id) = id else { return Ok(None) };
            layers_of(&db, id)?
        };
        self.snapshot(&layers)
    }

    /// Finds a record, notes that it is used, and holds its layers: all at once, so that nobody
    /// removes it in between.
    fn find(&self, sql: &str, digest: &Digest) -> Result<Option<Record>> {
        let mut holds = self.holds().lock();
        let mut connection = self.db();
        // A miss, which is most common in a new build, needs to write nothing.
        let found = |connection: &rusqlite::Connection| {
            let mut query = connection.prepare_cached(sql)?;
            query.query_row([digest.as_bytes()], |row| row.get::<_, i64>(0)).optional()
        };
        if found(&connection)?.is_none() {
            return Ok(None);
        }
        let transaction = db::begin(&mut connection)?;
        let Some(id) = found(&transaction)? else { return Ok(None) };
        let row = transaction
            .prepare_cached(&format!(
                "UPDATE records SET used = ?2, last_used = ?3, uses = uses + 1
                 WHERE id = ?1 AND evicted IS NULL AND seal = {}
                 RETURNING identity, data, kind, name, about",
                seals::RECORD
            ))?
            .query_row(params![id, db::next(&transaction)?, db::now()], |row| {
                Ok((self::digest(row, 0)?, row.get::<_, String>(1)?, about(row, 2)?))
            })
            .optional()?;
        let Some((identity, data, about)) = row else { return Ok(None) };
        let layers = layers_of(&transaction, id)?;
        if let Err(missing) = self.lease_layers(&transaction, &holds, &layers)? {
            drop(transaction);
            drop((connection, holds));
            return self.lose(missing).map(|()| None);
        }
        transaction.commit()?;
        let snapshot = self.held(&mut holds, &layers);
        Ok(Some(Record { identity, snapshot, about, data }))
    }

    /// Stores a result under its keys. A result with the same identity is replaced, and all keys
    /// that led to it lead to the new one.
    ///
    /// # Errors
    /// When the database fails.
    pub fn save_record(&self, keys: &[Digest], record: &Record) -> Result<()> {
        let about = serde_json::to_string(&record.about).expect("strings and numbers are JSON");
        let mut connection = self.db();
        let transaction = db::begin(&mut connection)?;
        let id: i64 = transaction
            .prepare_cached(
                "INSERT INTO records
                     (identity, created, last_used, used, uses, kind, name, about, data)
                 VALUES (?1, ?2, ?2, ?3, 0, ?4, ?5, ?6, ?7)
                 ON CONFLICT (identity) DO UPDATE SET created = ?2, last_used = ?2, used = ?3,
                     evicted = NULL, kind = ?4, name = ?5, about = ?6, data = ?7
                 RETURNING id",
            )?
            .query_row(
                params![
                    record.identity.as_bytes(),
                    db::now(),
                    db::next(&transaction)?,
                    record.about.kind,
                    record.about.name,
                    about,
                    record.data
                ],
                |row| row.get(0),
            )?;
        transaction.prepare_cached("DELETE FROM record_layers WHERE record = ?1")?.execute([id])?;
        let mut insert = transaction.prepare_cached(
            "INSERT INTO record_layers (record, position, layer) VALUES (?1, ?2, ?3)",
        )?;
        for (position, layer) in (0i64..).zip(record.snapshot.layers()) {
            insert.execute([id, position, layer.0])?;
        }
        drop(insert);
        transaction
            .prepare_cached(&format!("UPDATE records SET seal = {} WHERE id = ?1", seals::RECORD))?
            .execute([id])?;
        add_keys(&transaction, keys, id, &record.identity)?;
        Ok(transaction.commit()?)
    }

    /// Has one more key lead to the record with this identity, if it is there.
    ///
    /// # Errors
    /// When the database fails.
    pub fn alias_record(&self, key: &Digest, identity: &Digest) -> Result<()> {
        let mut connection = self.db();
        let transaction = db::begin(&mut connection)?;
        let id = transaction
            .prepare_cached("SELECT id FROM records WHERE identity = ?1")?
            .query_row([identity.as_bytes()], |row| row.get(0))
            .optional()?;
        if let Some(id) = id {
            add_keys(&transaction, &[*key], id, identity)?;
        }
        Ok(transaction.commit()?)
    }

    /// Drops a record that cannot be used any more.
    ///
    /// # Errors
    /// When the database fails.
    pub fn remove_record(&self, identity: &Digest) -> Result<()> {
        let mut connection = self.db();
        let transaction = db::begin(&mut connection)?;
        let mut removal = Removal::new(self, &transaction);
        let id = transaction
            .query_row(
                "SELECT id FROM records WHERE identity = ?1 AND evicted IS NULL",
                [identity.as_bytes()],
                |row| row.get(0),
            )
            .optional()?;
        if let Some(id) = id {
            removal.record(id)?;
        }
        let gone = removal.finish();
        transaction.commit()?;
        drop(connection);
        gone.remove_files(self);
        Ok(())
    }

    /// The records of a kind, the newest first, with when each was made (seconds since 1970).
    ///
    /// # Errors
    /// When the database fails.
    pub fn records_of_kind(&self, kind: &str) -> Result<Vec<(i64, Record)>> {
        let identities: Vec<(i64, Digest)> = {
            let db = self.db();
            let mut query = db.prepare(
                "SELECT created, identity FROM records WHERE kind = ?1 AND evicted IS NULL
                 ORDER BY id DESC",
            )?;
            let rows = query.query_map([kind], |row| Ok((row.get(0)?, digest(row, 1)?)))?;
            rows.collect::<rusqlite::Result<_>>()?
        };
        let mut records = Vec::new();
        for (created, identity) in identities {
            records.extend(self.record_by_identity(&identity)?.map(|record| (created, record)));
        }
        Ok(records)
    }

    /// What is remembered of the result that a key led to, also if it was evicted.
    ///
    /// # Errors
    /// When the database fails.
    pub fn remembered(&self, key: &Digest) -> Result<Option<Remembered>> {
        let db = self.db();
        let mut query = db.prepare_cached(
            "SELECT created, evicted, kind, name, about, identity FROM records
             JOIN record_keys ON record = id WHERE key = ?1",
        )?;
        Ok(query.query_row([key.as_bytes()], remembered).optional()?)
    }

    /// How long it took to make what each of these keys leads to, where that is known. One
    /// question for many keys, since it is asked of all that a build need not look at.
    ///
    /// # Errors
    /// When the database fails.
    pub fn took(&self, keys: &[Digest]) -> Result<Vec<Option<Duration>>> {
        let mut connection = self.db();
        let transaction = connection.transaction()?;
        let mut query = transaction.prepare_cached(
            "SELECT about ->> '$.took.secs', about ->> '$.took.nanos' FROM records
             JOIN record_keys ON record = id WHERE key = ?1 AND evicted IS NULL",
        )?;
        let row =
            |row: &Row<'_>| Ok(row.get::<_, Option<i64>>(0)?.zip(row.get::<_, Option<u32>>(1)?));
        let mut took = |key: &Digest| {
            let found = query.query_row([key.as_bytes()], row).optional()?.flatten();
            Ok(found.and_then(|(seconds, nanoseconds)| {
                Some(Duration::new(u64::try_from(seconds).ok()?, nanoseconds))
            }))
        };
        keys.iter().map(&mut took).collect()
    }

    /// What is remembered of results of steps with this name, the latest used first.
    ///
    /// # Errors
    /// When the database fails.
    pub fn similar(&self, name: &str, limit: usize) -> Result<Vec<Remembered>> {
        let db = self.db();
        let mut query = db.prepare_cached(
            "SELECT created, evicted, kind, name, about, identity FROM records
             WHERE name = ?1 ORDER BY used DESC LIMIT ?2",
        )?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = query.query_map(params![name, limit], remembered)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// What is remembered of results of steps whose names begin so, the latest used first.
    ///
    /// # Errors
    /// When the database fails.
    pub fn similar_start(&self, start: &str, limit: usize) -> Result<Vec<Remembered>> {
        let db = self.db();
        let mut query = db.prepare_cached(
            "SELECT created, evicted, kind, name, about, identity FROM records
             WHERE name >= ?1 AND substr(name, 1, length(?1)) = ?1 ORDER BY used DESC LIMIT ?2",
        )?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = query.query_map(params![start, limit], remembered)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// An image by its full name.
    ///
    /// # Errors
    /// When the database fails.
    pub fn image(&self, name: &str) -> Result<Option<ImageRecord>> {
        let mut connection = self.db();
        let transaction = db::begin(&mut connection)?;
        let row = transaction
            .query_row(
                "UPDATE images SET used = ?2 WHERE name = ?1 RETURNING digest, media_type, size",
                params![name, db::next(&transaction)?],
                |row| Ok((digest(row, 0)?, row.get(1)?, row.get::<_, i64>(2)?.cast_unsigned())),
            )
            .optional()?;
        let Some((digest, media_type, size)) = row else { return Ok(None) };
        let mut query = transaction
            .prepare("SELECT digest FROM image_blobs WHERE name = ?1 ORDER BY digest")?;
        let blobs = query
            .query_map([name], |row| self::digest(row, 0))?
            .collect::<rusqlite::Result<_>>()?;
        drop(query);
        transaction.commit()?;
        Ok(Some(ImageRecord { digest, media_type, size, blobs }))
    }

    /// Names an image, whose blobs are all in the store.
    ///
    /// # Errors
    /// When the database fails.
    pub fn save_image(&self, name: &str, image: &ImageRecord) -> Result<()> {
        let mut connection = self.db();
        let transaction = db::begin(&mut connection)?;
        let used = db::next(&transaction)?;
        let mut removal = Removal::new(self, &transaction);
        removal.image(name)?;
        transaction.execute(
            "INSERT INTO images (name, digest, media_type, size, updated, used)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                name,
                image.digest.as_bytes(),
                image.media_type,
                image.size.cast_signed(),
                db::now(),
                used
            ],
        )?;
        let mut insert = transaction
            .prepare("INSERT OR IGNORE INTO image_blobs (name, digest) VALUES (?1, ?2)")?;
        for blob in &image.blobs {
            insert.execute(params![name, blob.as_bytes()])?;
        }
        drop(insert);
        // What the name meant before may have been removed, unless it is held or means it again.
        let gone = removal.finish();
        transaction.commit()?;
        drop(connection);
        gone.remove_files(self);
        Ok(())
    }
}

fn layers_of(connection: &rusqlite::Connection, record: i64) -> Result<Vec<LayerId>> {
    let mut query = connection
        .prepare_cached("SELECT layer FROM record_layers WHERE record = ?1 ORDER BY position")?;
    let layers = query.query_map([record], |row| row.get(0).map(LayerId))?;
    Ok(layers.collect::<rusqlite::Result<_>>()?)
}

fn add_keys(
    connection: &rusqlite::Connection,
    keys: &[Digest],
    record: i64,
    identity: &Digest,
) -> Result<()> {
    let mut insert = connection.prepare_cached(
        "INSERT INTO record_keys (key, record, seal) VALUES (?1, ?2, seal(?1, ?3))
         ON CONFLICT (key) DO UPDATE SET record = ?2, seal = seal(?1, ?3)",
    )?;
    for key in keys {
        insert.execute(params![key.as_bytes(), record, identity.as_bytes()])?;
    }
    Ok(())
}

fn remembered(row: &Row<'_>) -> rusqlite::Result<Remembered> {
    let (created, evicted) = (row.get(0)?, row.get(1)?);
    Ok(Remembered { identity: digest(row, 5)?, about: about(row, 2)?, created, evicted })
}
