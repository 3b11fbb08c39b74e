//! Checksums of the rows that builds rely on. SQLite notices a damaged page where the page's
//! structure breaks, not where a digest or a number in it has become another one. A row whose
//! seal is broken counts as no row, and `store verify` drops it.
//!
//! `seal(…)` is a function of SQL on our connections: the first half of the SHA-256 of its arguments.

use cofferdam_types::Hasher;
use rusqlite::Connection;
use rusqlite::functions::FunctionFlags;
use rusqlite::types::ValueRef;

/// A table with sealed rows.
pub(crate) struct Sealed {
    pub(crate) table: &'static str,
    /// Which rows have a seal, as SQL.
    rows: &'static str,
    /// What the seal of a row is, as SQL.
    seal: &'static str,
}

/// What is sealed of a record: its layers, too, in their order.
pub(crate) const RECORD: &str = "seal(identity, data, (SELECT group_concat(layer ORDER BY position)
     FROM record_layers WHERE record = records.id))";
/// What is sealed of the content digest of a layer.
pub(crate) const CONTENT: &str = "seal(id, content)";
/// What is sealed of an image layer.
pub(crate) const DIFF_ID: &str = "seal(diff_id, layer, implied)";
/// What is sealed of a blob that holds a layer.
pub(crate) const LAYER_BLOB: &str =
    "seal(layer, compression, diff_id, digest, size, media_type, origin)";
/// What is sealed of a file's digest.
pub(crate) const FILE_DIGEST: &str = "seal(layer, path, digest)";

const ALL: [Sealed; 6] = [
    Sealed { table: "records", rows: "evicted IS NULL", seal: RECORD },
    // That a key leads to another record shows in the record's identity.
    Sealed {
        table: "record_keys",
        rows: "TRUE",
        seal: "seal(key, (SELECT identity FROM records WHERE id = record))",
    },
    Sealed { table: "layers", rows: "content IS NOT NULL", seal: CONTENT },
    Sealed { table: "diff_ids", rows: "TRUE", seal: DIFF_ID },
    Sealed { table: "layer_blobs", rows: "TRUE", seal: LAYER_BLOB },
    Sealed { table: "file_digests", rows: "TRUE", seal: FILE_DIGEST },
];

/// Makes the function known to a connection.
pub(crate) fn register(db: &Connection) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    db.create_scalar_function("seal", -1, flags, |context| {
        let mut hasher = Hasher::new();
        for argument in 0..context.len() {
            match context.get_raw(argument) {
                ValueRef::Null => hasher.field([]),
                ValueRef::Integer(number) => hasher.field(number.to_le_bytes()),
                ValueRef::Real(number) => hasher.field(number.to_le_bytes()),
                ValueRef::Text(bytes) | ValueRef::Blob(bytes) => hasher.field(bytes),
            }
        }
        Ok(hasher.finish().as_bytes()[..16].to_vec())
    })
}

/// Adds seals to a database that has none: what format 4 has more than format 3.
pub(crate) fn add(db: &Connection) -> rusqlite::Result<()> {
    ALL.iter().try_for_each(|Sealed { table, rows, seal }| {
        db.execute_batch(&format!(
            "ALTER TABLE {table} ADD COLUMN seal BLOB;
             UPDATE {table} SET seal = {seal} WHERE {rows};"
        ))
    })
}

/// How many rows have a broken seal, by their tables.
pub(crate) fn broken(db: &Connection) -> rusqlite::Result<Vec<(&'static str, i64)>> {
    let mut found = Vec::new();
    for Sealed { table, rows, seal } in &ALL {
        let sql = format!("SELECT count(*) FROM {table} WHERE {rows} AND seal IS NOT {seal}");
        let count = db.query_row(&sql, [], |row| row.get(0))?;
        if count > 0 {
            found.push((*table, count));
        }
    }
    Ok(found)
}

/// The records with a broken seal.
pub(crate) fn broken_records(db: &Connection) -> rusqlite::Result<Vec<i64>> {
    let sql = format!("SELECT id FROM records WHERE evicted IS NULL AND seal IS NOT {RECORD}");
    let mut query = db.prepare(&sql)?;
    let rows = query.query_map([], |row| row.get(0))?;
    rows.collect()
}

/// Forgets what rows with a broken seal say; records are for the caller.
pub(crate) fn forget_broken(db: &Connection) -> rusqlite::Result<()> {
    for Sealed { table, rows, seal } in &ALL {
        let broken = format!("{rows} AND seal IS NOT {seal}");
        match *table {
            "records" => {}
            "layers" => {
                db.execute(&format!("UPDATE layers SET content = NULL WHERE {broken}"), [])?;
            }
            table => drop(db.execute(&format!("DELETE FROM {table} WHERE {broken}"), [])?),
        }
    }
    Ok(())
}
