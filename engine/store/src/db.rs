//! The record database: SQLite in WAL mode, so that several processes can use it at once.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use crate::{Error, Result};

/// Changes with every incompatible change of tables or manifests.
const FORMAT: i64 = 1;

const SCHEMA: &str = "
CREATE TABLE sequence (next INTEGER NOT NULL);
INSERT INTO sequence VALUES (0);

-- Committed layers.
CREATE TABLE layers (
    id INTEGER PRIMARY KEY,
    created INTEGER NOT NULL,       -- seconds since 1970
    content BLOB                    -- content digest of this layer alone, where it is known
) STRICT;

-- Unpacked image layers, by the digest of their uncompressed tar.
CREATE TABLE diff_ids (
    diff_id BLOB PRIMARY KEY,
    layer INTEGER NOT NULL,
    implied TEXT NOT NULL           -- JSON: directories that lower layers decide about
) STRICT, WITHOUT ROWID;

-- Blobs that hold a layer, by how they are packed.
CREATE TABLE layer_blobs (
    layer INTEGER NOT NULL,
    compression TEXT NOT NULL,
    diff_id BLOB NOT NULL,
    digest BLOB NOT NULL,
    size INTEGER NOT NULL,
    media_type TEXT NOT NULL,
    origin TEXT NOT NULL,           -- repository that the blob came from, or empty
    PRIMARY KEY (layer, compression)
) STRICT, WITHOUT ROWID;

-- SHA-256 of files of layers that a step left, computed when first asked for.
CREATE TABLE file_digests (
    layer INTEGER NOT NULL,
    path BLOB NOT NULL,
    digest BLOB NOT NULL,
    PRIMARY KEY (layer, path)
) STRICT, WITHOUT ROWID;

-- Results of ops. Several keys may lead to one record.
CREATE TABLE records (
    id INTEGER PRIMARY KEY,
    identity BLOB NOT NULL UNIQUE,
    value TEXT NOT NULL,            -- JSON
    created INTEGER NOT NULL
) STRICT;
CREATE TABLE record_keys (
    key BLOB PRIMARY KEY,
    record INTEGER NOT NULL REFERENCES records(id)
) STRICT, WITHOUT ROWID;

-- Images by name.
CREATE TABLE images (
    name TEXT PRIMARY KEY,
    digest BLOB NOT NULL,
    media_type TEXT NOT NULL,
    size INTEGER NOT NULL,
    updated INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";

pub(crate) fn open(root: &Path) -> Result<Connection> {
    let mut db = Connection::open(root.join("state.db"))?;
    db.busy_timeout(Duration::from_secs(30))?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "NORMAL")?;
    let format = |db: &Connection| db.query_row("PRAGMA user_version", [], |row| row.get(0));
    if format(&db)? == 0i64 {
        // Another process may be doing the same: the lock decides, then look again.
        let transaction = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        if format(&transaction)? == 0i64 {
            transaction.execute_batch(SCHEMA)?;
            transaction.pragma_update(None, "user_version", FORMAT)?;
        }
        transaction.commit()?;
    }
    let found = format(&db)?;
    if found != FORMAT {
        return Err(Error::Format { path: root.to_owned(), found, expected: FORMAT });
    }
    Ok(db)
}

/// Seconds since 1970.
pub(crate) fn now() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |age| i64::try_from(age.as_secs()).unwrap_or(i64::MAX))
}
