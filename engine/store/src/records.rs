//! What survives a restart: results of ops, unpacked image layers, images by name.

use cofferdam_types::Digest;
use rusqlite::{OptionalExtension, Row, params};

use crate::{LayerId, Result, Store, db};

/// A cache record: what an op made, and what it is known as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Content digest of the result where that is cheap, else the key it was first stored under.
    pub identity: Digest,
    /// The result, as its owner serialised it.
    pub value: String,
}

/// What an image layer was unpacked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnpackedLayer {
    /// The layer.
    pub layer: LayerId,
    /// Directories that entries lie in and that have no entry of their own: what they are is up
    /// to the layers below.
    pub implied: Vec<Vec<u8>>,
}

/// A blob that holds a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerBlob {
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Digest of the blob.
    pub digest: Digest,
    /// Bytes of the blob.
    pub size: u64,
    /// Media type of the blob.
    pub media_type: String,
    /// Repository that it was pulled from (`registry/repository`), or empty.
    pub origin: String,
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
}

fn digest(row: &Row<'_>, column: usize) -> rusqlite::Result<Digest> {
    row.get(column).map(Digest::from_bytes)
}

impl Store {
    /// Looks a result up by one of its keys.
    ///
    /// # Errors
    /// When the database fails.
    pub fn record(&self, key: &Digest) -> Result<Option<Record>> {
        let db = self.db();
        let mut query = db.prepare_cached(
            "SELECT identity, value FROM records JOIN record_keys ON record = id WHERE key = ?1",
        )?;
        let row = |row: &Row<'_>| Ok(Record { identity: digest(row, 0)?, value: row.get(1)? });
        Ok(query.query_row([key.as_bytes()], row).optional()?)
    }

    /// Looks a result up by its identity.
    ///
    /// # Errors
    /// When the database fails.
    pub fn record_by_identity(&self, identity: &Digest) -> Result<Option<Record>> {
        let db = self.db();
        let mut query =
            db.prepare_cached("SELECT identity, value FROM records WHERE identity = ?1")?;
        let row = |row: &Row<'_>| Ok(Record { identity: digest(row, 0)?, value: row.get(1)? });
        Ok(query.query_row([identity.as_bytes()], row).optional()?)
    }

    /// Stores a result under its keys. A result with the same identity is replaced, and all keys
    /// that led to it lead to the new one.
    ///
    /// # Errors
    /// When the database fails.
    pub fn save_record(&self, keys: &[Digest], record: &Record) -> Result<()> {
        let mut db = self.db();
        let transaction = db.transaction()?;
        let id: i64 = transaction.query_row(
            "INSERT INTO records (identity, value, created) VALUES (?1, ?2, ?3)
             ON CONFLICT (identity) DO UPDATE SET value = ?2, created = ?3 RETURNING id",
            params![record.identity.as_bytes(), record.value, db::now()],
            |row| row.get(0),
        )?;
        for key in keys {
            transaction.execute(
                "INSERT INTO record_keys (key, record) VALUES (?1, ?2)
                 ON CONFLICT (key) DO UPDATE SET record = ?2",
                params![key.as_bytes(), id],
            )?;
        }
        Ok(transaction.commit()?)
    }

    /// Drops a record that cannot be used any more.
    ///
    /// # Errors
    /// When the database fails.
    pub fn remove_record(&self, identity: &Digest) -> Result<()> {
        let mut db = self.db();
        let transaction = db.transaction()?;
        transaction.execute(
            "DELETE FROM record_keys WHERE record IN (SELECT id FROM records WHERE identity = ?1)",
            [identity.as_bytes()],
        )?;
        transaction.execute("DELETE FROM records WHERE identity = ?1", [identity.as_bytes()])?;
        Ok(transaction.commit()?)
    }

    /// The layer that an image layer was unpacked to, if it still is there.
    ///
    /// # Errors
    /// When the database fails.
    pub fn unpacked_layer(&self, diff_id: &Digest) -> Result<Option<UnpackedLayer>> {
        let layer = self
            .db()
            .query_row(
                "SELECT layer, implied FROM diff_ids WHERE diff_id = ?1",
                [diff_id.as_bytes()],
                |row| Ok((row.get(0).map(LayerId)?, row.get::<_, String>(1)?)),
            )
            .optional()?;
        Ok(layer.filter(|(id, _)| self.layer_path(*id).exists()).and_then(|(layer, implied)| {
            Some(UnpackedLayer { layer, implied: serde_json::from_str(&implied).ok()? })
        }))
    }

    /// Remembers what an image layer was unpacked to.
    ///
    /// # Errors
    /// When the database fails.
    pub fn save_unpacked_layer(&self, diff_id: &Digest, unpacked: &UnpackedLayer) -> Result<()> {
        let implied = serde_json::to_string(&unpacked.implied).expect("lists of numbers are JSON");
        self.db().execute(
            "INSERT OR REPLACE INTO diff_ids (diff_id, layer, implied) VALUES (?1, ?2, ?3)",
            params![diff_id.as_bytes(), unpacked.layer.0, implied],
        )?;
        Ok(())
    }

    /// The blob that holds a layer, compressed like this (`gzip`, `zstd`, `uncompressed`, or
    /// `original` for what a registry gave), if there is one.
    ///
    /// # Errors
    /// When the database fails.
    pub fn layer_blob(&self, layer: LayerId, compression: &str) -> Result<Option<LayerBlob>> {
        Ok(self
            .db()
            .query_row(
                "SELECT diff_id, digest, size, media_type, origin FROM layer_blobs
                 WHERE layer = ?1 AND compression = ?2",
                params![layer.0, compression],
                |row| {
                    Ok(LayerBlob {
                        diff_id: digest(row, 0)?,
                        digest: digest(row, 1)?,
                        size: row.get::<_, i64>(2)?.cast_unsigned(),
                        media_type: row.get(3)?,
                        origin: row.get(4)?,
                    })
                },
            )
            .optional()?
            .filter(|blob| self.has_blob(&blob.digest)))
    }

    /// Remembers a blob that holds a layer.
    ///
    /// # Errors
    /// When the database fails.
    pub fn save_layer_blob(
        &self,
        layer: LayerId,
        compression: &str,
        blob: &LayerBlob,
    ) -> Result<()> {
        self.db().execute(
            "INSERT OR REPLACE INTO layer_blobs
             (layer, compression, diff_id, digest, size, media_type, origin)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![
                layer.0,
                compression,
                blob.diff_id.as_bytes(),
                blob.digest.as_bytes(),
                blob.size.cast_signed(),
                blob.media_type,
                blob.origin
            ],
        )?;
        Ok(())
    }

    /// The digest of a layer's file that was computed before.
    pub(crate) fn file_digest(&self, layer: LayerId, path: &[u8]) -> Result<Option<Digest>> {
        let db = self.db();
        let mut query =
            db.prepare_cached("SELECT digest FROM file_digests WHERE layer = ?1 AND path = ?2")?;
        Ok(query.query_row(params![layer.0, path], |row| digest(row, 0)).optional()?)
    }

    pub(crate) fn save_file_digests(&self, digests: &[(LayerId, Box<[u8]>, Digest)]) -> Result<()> {
        let mut db = self.db();
        let transaction = db.transaction()?;
        for (layer, path, digest) in digests {
            transaction.execute(
                "INSERT OR REPLACE INTO file_digests (layer, path, digest) VALUES (?1, ?2, ?3)",
                params![layer.0, path, digest.as_bytes()],
            )?;
        }
        Ok(transaction.commit()?)
    }

    /// When a layer was made, in seconds since 1970.
    ///
    /// # Errors
    /// When the layer is not there or the database fails.
    pub fn layer_created(&self, layer: LayerId) -> Result<i64> {
        let db = self.db();
        let mut query = db.prepare_cached("SELECT created FROM layers WHERE id = ?1")?;
        let created = query.query_row([layer.0], |row| row.get(0)).optional()?;
        created.ok_or(crate::Error::NoLayer(layer))
    }

    /// The content digest of a layer alone, computed before.
    ///
    /// # Errors
    /// When the database fails.
    pub fn layer_content(&self, layer: LayerId) -> Result<Option<Digest>> {
        let db = self.db();
        let mut query = db.prepare_cached("SELECT content FROM layers WHERE id = ?1")?;
        let content =
            query.query_row([layer.0], |row| row.get::<_, Option<[u8; 32]>>(0)).optional()?;
        Ok(content.flatten().map(Digest::from_bytes))
    }

    /// Remembers the content digest of a layer alone.
    ///
    /// # Errors
    /// When the database fails.
    pub fn save_layer_content(&self, layer: LayerId, content: &Digest) -> Result<()> {
        self.db().execute(
            "UPDATE layers SET content = ?2 WHERE id = ?1",
            params![layer.0, content.as_bytes()],
        )?;
        Ok(())
    }

    /// An image by its full name.
    ///
    /// # Errors
    /// When the database fails.
    pub fn image(&self, name: &str) -> Result<Option<ImageRecord>> {
        Ok(self
            .db()
            .query_row(
                "SELECT digest, media_type, size FROM images WHERE name = ?1",
                [name],
                |row| {
                    Ok(ImageRecord {
                        digest: digest(row, 0)?,
                        media_type: row.get(1)?,
                        size: row.get::<_, i64>(2)?.cast_unsigned(),
                    })
                },
            )
            .optional()?)
    }

    /// Names an image.
    ///
    /// # Errors
    /// When the database fails.
    pub fn save_image(&self, name: &str, image: &ImageRecord) -> Result<()> {
        self.db().execute(
            "INSERT OR REPLACE INTO images (name, digest, media_type, size, updated)
             VALUES (?1, ?2, ?3, ?4, ?5)",
            params![
                name,
                image.digest.as_bytes(),
                image.media_type,
                image.size.cast_signed(),
                db::now()
            ],
        )?;
        Ok(())
    }
}
