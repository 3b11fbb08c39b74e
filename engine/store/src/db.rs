//! The record database: SQLite in WAL mode, so that several processes can use it at once.
//!
//! What refers to what is in its tables, so that removing anything is a matter of looking up
//! whether something else needs it. Whoever changes several rows that belong together does so in
//! one transaction from [`begin`], which also keeps other processes from doing the same.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};

use crate::{Error, Result, seals};

/// The file of the database.
const NAME: &str = "state.db";

/// How long others may have the database.
const PATIENCE: Duration = Duration::from_secs(60);

/// Changes with every incompatible change of tables or manifests.
const FORMAT: i64 = 4;

const SCHEMA: &str = "
-- `boot`: the boot in which the directory was last used; `synced`: everything with a number up to
-- this one is on the disk.
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;

-- Numbers of layers and packs, and the order in which things were stored and used: clocks jump.
CREATE TABLE sequence (next INTEGER NOT NULL);
INSERT INTO sequence VALUES (0);

-- What layers, packs and blobs take on the disk; kept by triggers.
CREATE TABLE usage (bytes INTEGER NOT NULL);
INSERT INTO usage VALUES (0);

-- Processes that use the directory, by the number of their directory in tmp/.
CREATE TABLE sessions (
    number INTEGER PRIMARY KEY,
    pid INTEGER NOT NULL,
    started INTEGER NOT NULL
) STRICT;

-- What processes have in use: `layer N`, `pack N`, `blob DIGEST`.
CREATE TABLE leases (
    object TEXT NOT NULL,
    session INTEGER NOT NULL,
    PRIMARY KEY (object, session)
) STRICT, WITHOUT ROWID;

-- Room that processes are about to fill.
CREATE TABLE reservations (
    id INTEGER PRIMARY KEY,
    session INTEGER NOT NULL,
    bytes INTEGER NOT NULL
) STRICT;

-- Committed layers.
CREATE TABLE layers (
    id INTEGER PRIMARY KEY,
    number INTEGER NOT NULL,        -- when it was committed
    created INTEGER NOT NULL,       -- seconds since 1970
    content BLOB,                   -- content digest of this layer alone, where it is known
    bytes INTEGER NOT NULL,         -- on the disk
    written INTEGER                 -- when a layer of references was written out as a directory
) STRICT;
-- Where the contents of a layer's files are, besides its own directory.
CREATE TABLE layer_contents (
    layer INTEGER NOT NULL,
    target INTEGER NOT NULL,
    PRIMARY KEY (layer, target)
) STRICT, WITHOUT ROWID;
CREATE INDEX layer_contents_target ON layer_contents (target);
CREATE TABLE layer_packs (
    layer INTEGER NOT NULL,
    pack INTEGER NOT NULL,
    PRIMARY KEY (layer, pack)
) STRICT, WITHOUT ROWID;
CREATE INDEX layer_packs_pack ON layer_packs (pack);

CREATE TABLE packs (
    id INTEGER PRIMARY KEY,
    number INTEGER NOT NULL,        -- when it was complete
    created INTEGER NOT NULL,       -- seconds since 1970
    bytes INTEGER NOT NULL,         -- on the disk
    used INTEGER NOT NULL           -- when it was last used, as a number of the sequence
) STRICT;

CREATE TABLE blobs (
    digest BLOB PRIMARY KEY,
    number INTEGER NOT NULL,        -- when it was stored
    created INTEGER NOT NULL,
    size INTEGER NOT NULL,          -- its length
    bytes INTEGER NOT NULL,         -- on the disk
    used INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Unpacked image layers, by the digest of their uncompressed tar.
CREATE TABLE diff_ids (
    diff_id BLOB PRIMARY KEY,
    layer INTEGER NOT NULL,
    implied TEXT NOT NULL,          -- JSON: directories that lower layers decide about
    used INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX diff_ids_layer ON diff_ids (layer);

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
CREATE INDEX layer_blobs_digest ON layer_blobs (digest);

-- SHA-256 of files of layers that a step left, computed when first asked for.
CREATE TABLE file_digests (
    layer INTEGER NOT NULL,
    path BLOB NOT NULL,
    digest BLOB NOT NULL,
    PRIMARY KEY (layer, path)
) STRICT, WITHOUT ROWID;

-- Results of ops. Several keys may lead to one record. A record that was evicted stays for a
-- while without its layers, to tell why a step runs again.
CREATE TABLE records (
    id INTEGER PRIMARY KEY,
    identity BLOB NOT NULL UNIQUE,
    created INTEGER NOT NULL,       -- seconds since 1970
    last_used INTEGER NOT NULL,     -- seconds since 1970
    used INTEGER NOT NULL,          -- the same as a number of the sequence
    uses INTEGER NOT NULL,
    evicted INTEGER,                -- seconds since 1970
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    about TEXT NOT NULL,            -- JSON
    data TEXT NOT NULL
) STRICT;
CREATE INDEX records_name ON records (name);
CREATE TABLE record_keys (
    key BLOB PRIMARY KEY,
    record INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX record_keys_record ON record_keys (record);
CREATE TABLE record_layers (
    record INTEGER NOT NULL,
    position INTEGER NOT NULL,      -- 0 is the lowest
    layer INTEGER NOT NULL,
    PRIMARY KEY (record, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX record_layers_layer ON record_layers (layer);

-- Images by name, and the blobs that each is made of.
CREATE TABLE images (
    name TEXT PRIMARY KEY,
    digest BLOB NOT NULL,
    media_type TEXT NOT NULL,
    size INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    used INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE image_blobs (
    name TEXT NOT NULL,
    digest BLOB NOT NULL,
    PRIMARY KEY (name, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX image_blobs_digest ON image_blobs (digest);
";

/// What format 3 has more than format 2.
const DIRS: &str = "
-- Directories that are changed in place. Without a name, one goes when nobody uses it any more.
CREATE TABLE dirs (
    id INTEGER PRIMARY KEY,
    name BLOB,
    number INTEGER NOT NULL,        -- when it was last given back
    created INTEGER NOT NULL,       -- seconds since 1970
    last_used INTEGER NOT NULL,     -- seconds since 1970
    used INTEGER NOT NULL,          -- as a number of the sequence
    uses INTEGER NOT NULL,
    bytes INTEGER NOT NULL,         -- on the disk
    kind TEXT NOT NULL,
    description TEXT NOT NULL
) STRICT;
CREATE INDEX dirs_name ON dirs (name);
-- One row per use.
CREATE TABLE dir_users (
    id INTEGER PRIMARY KEY,
    dir INTEGER NOT NULL,
    session INTEGER NOT NULL,
    exclusive INTEGER NOT NULL
) STRICT;
CREATE INDEX dir_users_dir ON dir_users (dir);
";

/// Tables whose rows take room on the disk.
const COUNTED: [&str; 3] = ["layers", "packs", "blobs"];

pub(crate) fn open(root: &Path) -> Result<Connection> {
    let path = root.join(NAME);
    let damaged = |error: rusqlite::Error| damaged(root, error.into());
    let mut db = Connection::open(&path).map_err(damaged)?;
    patiently(|| prepare(&mut db)).map_err(damaged)?;
    let found = format(&db)?;
    if found != FORMAT {
        return Err(Error::Format { path: root.to_owned(), found, expected: FORMAT });
    }
    Ok(db)
}

/// Tells an error that means that the database itself is damaged from all others.
pub(crate) fn damaged(root: &Path, error: Error) -> Error {
    match error.is_damaged_database() {
        true => Error::Damaged { path: root.join(NAME), reason: error.to_string() },
        false => error,
    }
}

/// Fails if something is wrong with how the database is built.
pub(crate) fn check_structure(db: &Connection, root: &Path) -> Result<()> {
    let mut query = db.prepare("PRAGMA integrity_check")?;
    let lines: Vec<String> =
        query.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    match lines.iter().find(|line| *line != "ok") {
        Some(line) => Err(Error::Damaged { path: root.join(NAME), reason: line.clone() }),
        None => Ok(()),
    }
}

fn format(db: &Connection) -> rusqlite::Result<i64> {
    db.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// Tries again while others have the database. SQLite itself does not wait in the moment in which
/// a new database gets its log.
fn patiently<T>(mut attempt: impl FnMut() -> rusqlite::Result<T>) -> rusqlite::Result<T> {
    let started = Instant::now();
    loop {
        match attempt() {
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                    && started.elapsed() < PATIENCE =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            result => return result,
        }
    }
}

fn prepare(db: &mut Connection) -> rusqlite::Result<()> {
    db.busy_timeout(PATIENCE)?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "NORMAL")?;
    db.set_prepared_statement_cache_capacity(64);
    seals::register(db)?;
    if !matches!(format(db)?, 0 | 2 | 3) {
        return Ok(());
    }
    // Another process may be doing the same: the lock decides, then look again.
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let before = format(&transaction)?;
    if before == 0 {
        transaction.execute_batch(SCHEMA)?;
        COUNTED.iter().try_for_each(|table| count(&transaction, table))?;
    }
    if before < 3 {
        transaction.execute_batch(DIRS)?;
        count(&transaction, "dirs")?;
    }
    if before < FORMAT {
        seals::add(&transaction)?;
        transaction.pragma_update(None, "user_version", FORMAT)?;
    }
    transaction.commit()
}

/// Has the bytes of a table's rows counted.
fn count(db: &Connection, table: &str) -> rusqlite::Result<()> {
    db.execute_batch(&format!(
        "CREATE TRIGGER {table}_insert AFTER INSERT ON {table} BEGIN
             UPDATE usage SET bytes = bytes + NEW.bytes;
         END;
         CREATE TRIGGER {table}_update AFTER UPDATE OF bytes ON {table} BEGIN
             UPDATE usage SET bytes = bytes + NEW.bytes - OLD.bytes;
         END;
         CREATE TRIGGER {table}_delete AFTER DELETE ON {table} BEGIN
             UPDATE usage SET bytes = bytes - OLD.bytes;
         END;"
    ))
}

/// Starts a transaction that changes something. Other processes wait until it has ended.
pub(crate) fn begin(db: &mut Connection) -> Result<Transaction<'_>> {
    Ok(db.transaction_with_behavior(TransactionBehavior::Immediate)?)
}

/// The next number; never handed out twice.
pub(crate) fn next(db: &Connection) -> rusqlite::Result<i64> {
    db.prepare_cached("UPDATE sequence SET next = next + 1 RETURNING next")?
        .query_row([], |row| row.get(0))
}

/// Seconds since 1970.
pub(crate) fn now() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |age| i64::try_from(age.as_secs()).unwrap_or(i64::MAX))
}
