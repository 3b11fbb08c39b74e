//! What is known of layers: what image layer one was unpacked from, the blobs that hold it, digests of
//! its contents.

use cofferdam_types::Digest;
use rusqlite::{OptionalExtension, params};

use crate::records::digest;
use crate::{HeldLayer, LayerId, Result, Store, db, seals};

/// What an image layer was unpacked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnpackedLayer {
    /// The layer.
    pub layer: HeldLayer,
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

impl Store {
    /// The layer that an image layer was unpacked to, if it still is there.
    ///
    /// # Errors
    /// When the database fails.
    pub fn unpacked_layer(&self, diff_id: &Digest) -> Result<Option<UnpackedLayer>> {
        let mut holds = self.holds().lock();
        let mut connection = self.db();
        let transaction = db::begin(&mut connection)?;
        let found = transaction
            .prepare_cached(&format!(
                "UPDATE diff_ids SET used = ?2 WHERE diff_id = ?1 AND seal = {} AND EXISTS
                     (SELECT 1 FROM layer_blobs AS blob WHERE blob.layer = diff_ids.layer
                         AND compression = 'original' AND blob.seal = {})
                 RETURNING layer, implied",
                seals::DIFF_ID,
                seals::LAYER_BLOB
            ))?
            .query_row(params![diff_id.as_bytes(), db::next(&transaction)?], |row| {
                Ok((row.get(0).map(LayerId)?, row.get::<_, String>(1)?))
            })
            .optional()?;
        let Some((id, implied)) = found else { return Ok(None) };
        let Ok(implied) = serde_json::from_str(&implied) else { return Ok(None) };
        if let Err(missing) = self.lease_layers(&transaction, &holds, &[id])? {
            drop(transaction);
            drop((connection, holds));
            return self.lose(missing).map(|()| None);
        }
        transaction.commit()?;
        Ok(Some(UnpackedLayer { layer: self.hold_leased(&mut holds, id), implied }))
    }

    /// Remembers what an image layer was unpacked to.
    ///
    /// # Errors
    /// When the database fails.
    pub fn save_unpacked_layer(&self, diff_id: &Digest, unpacked: &UnpackedLayer) -> Result<()> {
        let implied = serde_json::to_string(&unpacked.implied).expect("lists of numbers are JSON");
        let mut connection = self.db();
        let transaction = db::begin(&mut connection)?;
        let used = db::next(&transaction)?;
        transaction.execute(
            "INSERT OR REPLACE INTO diff_ids (diff_id, layer, implied, used, seal)
             VALUES (?1, ?2, ?3, ?4, seal(?1, ?2, ?3))",
            params![diff_id.as_bytes(), unpacked.layer.id().0, implied, used],
        )?;
        Ok(transaction.commit()?)
    }

    /// The blob that holds a layer, compressed like this (`gzip`, `zstd`, `uncompressed`, or
    /// `original` for what a registry gave), if there is one.
    ///
    /// # Errors
    /// When the database fails.
    pub fn layer_blob(&self, layer: LayerId, compression: &str) -> Result<Option<LayerBlob>> {
        let blob = self
            .db()
            .query_row(
                &format!(
                    "SELECT diff_id, digest, size, media_type, origin FROM layer_blobs
                     WHERE layer = ?1 AND compression = ?2 AND seal = {}",
                    seals::LAYER_BLOB
                ),
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
            .optional()?;
        match blob {
            Some(blob) if self.has_blob(&blob.digest)? => Ok(Some(blob)),
            _ => Ok(None),
        }
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
             (layer, compression, diff_id, digest, size, media_type, origin, seal)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, seal(?1, ?2, ?3, ?4, ?5, ?6, ?7))",
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
        let mut query = db.prepare_cached(&format!(
            "SELECT digest FROM file_digests WHERE layer = ?1 AND path = ?2 AND seal = {}",
            seals::FILE_DIGEST
        ))?;
        Ok(query.query_row(params![layer.0, path], |row| digest(row, 0)).optional()?)
    }

    pub(crate) fn save_file_digests(&self, digests: &[(LayerId, Box<[u8]>, Digest)]) -> Result<()> {
        let mut db = self.db();
        let transaction = db.transaction()?;
        for (layer, path, digest) in digests {
            transaction.execute(
                "INSERT OR REPLACE INTO file_digests (layer, path, digest, seal)
                 VALUES (?1, ?2, ?3, seal(?1, ?2, ?3))",
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
        let mut query = db.prepare_cached(&format!(
            "SELECT content FROM layers WHERE id = ?1 AND content IS NOT NULL AND seal = {}",
            seals::CONTENT
        ))?;
        Ok(query.query_row([layer.0], |row| digest(row, 0)).optional()?)
    }

    /// Remembers the content digest of a layer alone.
    ///
    /// # Errors
    /// When the database fails.
    pub fn save_layer_content(&self, layer: LayerId, content: &Digest) -> Result<()> {
        self.db().execute(
            "UPDATE layers SET content = ?2, seal = seal(?1, ?2) WHERE id = ?1",
            params![layer.0, content.as_bytes()],
        )?;
        Ok(())
    }
}
