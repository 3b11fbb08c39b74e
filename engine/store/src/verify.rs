//! Checks everything that is stored against its digests, and drops what is damaged.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cofferdam_types::{Digest, Hasher};

use crate::error::IoContext;
use crate::holds::Object;
use crate::removal::Removal;
use crate::scratch::Scratch;
use crate::{
    Content, Error, LayerId, Node, NodeKind, PackId, Regular, Result, Store, db, sealed, seals,
};

/// How long other processes may take to end before the database is replaced.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is wrong with one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The thing: `layer 7`, `pack 8`, `blob …`, a path, or a part of the database.
    pub what: String,
    /// What is wrong with it.
    pub reason: String,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// How many layers, packs and blobs were looked at.
    pub objects: usize,
    /// How many records.
    pub records: usize,
    /// Bytes that were read and hashed.
    pub bytes: u64,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// What processes that were killed left behind: nothing refers to it, so nothing is wrong.
    pub left_over: Vec<PathBuf>,
}

/// What to do with what is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// It is only told.
    Report,
    /// It is dropped, with what depends on it.
    Drop,
}

impl Store {
    /// Opens a state directory whose database is unreadable with an empty one. The old one is
    /// kept beside it as `state.db.damaged`; what it told of is lost.
    ///
    /// # Errors
    /// When another process uses the directory, or it cannot be written.
    pub fn start_over(root: &Path) -> Result<Self> {
        let scratch = Scratch::open(&root.join("tmp"))?;
        // The one that syncs after a build is done soon.
        let start = Instant::now();
        while scratch.others_alive() {
            if start.elapsed() > PATIENCE {
                return Err(Error::InUse(root.to_owned()));
            }
            std::thread::sleep(PATIENCE / 300);
        }
        for suffix in ["", "-wal", "-shm"] {
            let path = root.join(format!("state.db{suffix}"));
            let aside = root.join(format!("state.db{suffix}.damaged"));
            match fs::rename(&path, &aside) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).io("cannot move", &path);
                }
                _ => {}
            }
        }
        drop(scratch);
        Self::open(root)
    }

    /// Checks every record, layer, pack and blob. Other processes can go on building meanwhile.
    ///
    /// # Errors
    /// When the database fails or is damaged; what is wrong with what is stored is no error.
    pub fn verify(&self, repair: Repair) -> Result<Verified> {
        self.check(repair).map_err(|error| db::damaged(self.root(), error))
    }

    fn check(&self, repair: Repair) -> Result<Verified> {
        let mut check = Check {
            store: self,
            verified: Verified::default(),
            broken: HashSet::new(),
            read: HashSet::new(),
        };
        check.database()?;
        let objects = crate::durability::objects(&self.db())?;
        check.verified.objects = objects.len();
        let layers: Vec<LayerId> = objects
            .iter()
            .filter_map(|(object, _)| match object {
                Object::Layer(id) => Some(*id),
                _ => None,
            })
            .collect();
        for (object, _) in &objects {
            match object {
                Object::Blob(digest) => check.blob(digest)?,
                Object::Pack(id) => check.pack(*id)?,
                Object::Dir(_) if !self.is_complete(object) && check.still_there(object)? => {
                    check.wrong(*object, "its directory is missing");
                }
                Object::Layer(_) | Object::Dir(_) => {}
            }
        }
        for id in layers {
            check.layer(id)?;
        }
        let Check { mut verified, broken, .. } = check;
        self.repair(repair, broken, &mut verified)?;
        Ok(verified)
    }

    fn repair(
        &self,
        repair: Repair,
        broken: HashSet<Object>,
        verified: &mut Verified,
    ) -> Result<()> {
        let mut connection = self.db();
        let transaction = db::begin(&mut connection)?;
        let mut removal = Removal::new(self, &transaction);
        removal.dead_sessions()?;
        for record in seals::broken_records(&transaction)? {
            removal.record(record)?;
        }
        seals::forget_broken(&transaction)?;
        for object in &broken {
            removal.lose(object)?;
        }
        verified.left_over = removal.orphan_paths()?;
        match repair {
            Repair::Report => Ok(()),
            Repair::Drop => {
                removal.orphans()?;
                let gone = removal.finish();
                transaction.commit()?;
                drop(connection);
                gone.remove_files(self);
                Ok(())
            }
        }
    }
}

struct Check<'a> {
    store: &'a Store,
    verified: Verified,
    broken: HashSet<Object>,
    /// Files in packs that were read: many layers refer to the same.
    read: HashSet<(PackId, u64, Digest)>,
}

impl Check<'_> {
    fn wrong(&mut self, object: Object, reason: impl Into<String>) {
        self.broken.insert(object);
        self.verified.problems.push(Problem { what: object.to_string(), reason: reason.into() });
    }

    /// Whether the object still is there: another process may have removed it meanwhile.
    fn still_there(&self, object: &Object) -> Result<bool> {
        let db = self.store.db();
        Ok(match object {
            Object::Layer(id) => {
                db.prepare_cached("SELECT 1 FROM layers WHERE id = ?1")?.exists([id.0])?
            }
            Object::Pack(id) => {
                db.prepare_cached("SELECT 1 FROM packs WHERE id = ?1")?.exists([id.0])?
            }
            Object::Dir(id) => {
                db.prepare_cached("SELECT 1 FROM dirs WHERE id = ?1")?.exists([id.0])?
            }
            Object::Blob(digest) => db
                .prepare_cached("SELECT 1 FROM blobs WHERE digest = ?1")?
                .exists([digest.as_bytes()])?,
        })
    }

    fn database(&mut self) -> Result<()> {
        let db = self.store.db();
        db::check_structure(&db, self.store.root())?;
        self.verified.records =
            db.query_row("SELECT count(*) FROM records WHERE evicted IS NULL", [], |row| {
                row.get::<_, i64>(0).map(|count| usize::try_from(count).unwrap_or(0))
            })?;
        for (table, count) in seals::broken(&db)? {
            let reason =
                format!("{count} rows of `{table}` do not have the checksum that they had");
            self.verified.problems.push(Problem { what: "state.db".into(), reason });
        }
        // What a row refers to must be there.
        for (what, sql) in [
            (
                "records",
                "SELECT layer FROM record_layers WHERE layer NOT IN (SELECT id FROM layers)",
            ),
            (
                "image layers",
                "SELECT layer FROM diff_ids WHERE layer NOT IN (SELECT id FROM layers)",
            ),
            (
                "layers",
                "SELECT target FROM layer_contents WHERE target NOT IN (SELECT id FROM layers)",
            ),
        ] {
            let mut query = db.prepare(sql)?;
            let missing: HashSet<i64> =
                query.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
            for layer in missing {
                let object = Object::Layer(LayerId(layer));
                self.broken.insert(object);
                let reason = format!("{what} refer to it and it is not there");
                self.verified.problems.push(Problem { what: object.to_string(), reason });
            }
        }
        let mut query =
            db.prepare("SELECT pack FROM layer_packs WHERE pack NOT IN (SELECT id FROM packs)")?;
        let missing: HashSet<i64> =
            query.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        for pack in missing {
            let object = Object::Pack(PackId(pack));
            self.broken.insert(object);
            let reason = "layers refer to it and it is not there".into();
            self.verified.problems.push(Problem { what: object.to_string(), reason });
        }
        Ok(())
    }

    fn blob(&mut self, digest: &Digest) -> Result<()> {
        let object = Object::Blob(*digest);
        let path = self.store.blob_path(digest);
        let mut hasher = Hasher::new();
        let read = File::open(&path).and_then(|mut file| io::copy(&mut file, &mut hasher));
        match read {
            Ok(bytes) => {
                self.verified.bytes += bytes;
                let actual = hasher.finish();
                if actual != *digest {
                    self.wrong(object, format!("its contents have the digest {actual}"));
                }
            }
            Err(error) if self.still_there(&object)? => self.wrong(object, error.to_string()),
            Err(_) => {}
        }
        Ok(())
    }

    fn pack(&mut self, id: PackId) -> Result<()> {
        let object = Object::Pack(id);
        if let Err(error) = fs::metadata(self.store.pack_path(id))
            && self.still_there(&object)?
        {
            self.wrong(object, error.to_string());
        }
        Ok(())
    }

    fn layer(&mut self, id: LayerId) -> Result<()> {
        let object = Object::Layer(id);
        // Its contents are read below: they must not be removed meanwhile.
        let Some(_held) = self.store.snapshot(&[id])? else {
            if self.still_there(&object)? {
                self.wrong(object, "its manifest is missing or empty");
            }
            return Ok(());
        };
        let path = self.store.layer_path(id);
        let bytes = match fs::read(path.join("manifest")).io("cannot read", path.join("manifest")) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.wrong(object, error.to_string());
                return Ok(());
            }
        };
        match sealed::decode(&bytes) {
            Ok(root) => self.contents(id, &root),
            Err(reason) => self.wrong(object, format!("its manifest is damaged: {reason}")),
        }
        Ok(())
    }

    /// Whether the files of a layer are what its manifest says.
    fn contents(&mut self, id: LayerId, root: &Node) {
        let mut seen = HashMap::new();
        let walked = root.walk(&mut |path, node| {
            let NodeKind::Regular(regular) = &node.kind else { return Ok(()) };
            if let Some(group) = regular.link_group
                && seen.insert(group, ()).is_some()
            {
                return Ok(());
            }
            self.file(id, regular)
                .map_err(|(object, reason)| (object, format!("`{}`: {reason}", display(path))))
        });
        if let Err((object, reason)) = walked {
            self.wrong(object, reason);
        }
    }

    fn file(&mut self, layer: LayerId, regular: &Regular) -> Result<(), (Object, String)> {
        let object = match &regular.content {
            Content::Layer { layer, .. } => Object::Layer(*layer),
            Content::Pack { pack, .. } => Object::Pack(*pack),
        };
        let failed = |error: String| (object, error);
        // What lies in another layer is checked there; what has no digest can only be looked at.
        match &regular.content {
            Content::Layer { layer: other, .. } if *other != layer => return Ok(()),
            Content::Layer { layer, path } if regular.digest.is_none() => {
                let path = self.store.content_path(*layer, path);
                let metadata =
                    fs::symlink_metadata(path).map_err(|error| failed(error.to_string()))?;
                if metadata.size() != regular.size {
                    return Err(failed(format!(
                        "{} bytes expected, it has {}",
                        regular.size,
                        metadata.size()
                    )));
                }
                return Ok(());
            }
            Content::Pack { pack, offset } => {
                if let Some(digest) = regular.digest
                    && !self.read.insert((*pack, *offset, digest))
                {
                    return Ok(());
                }
            }
            Content::Layer { .. } => {}
        }
        let mut file =
            self.store.open_content(regular).map_err(|error| failed(error.to_string()))?;
        let mut hasher = Hasher::new();
        self.verified.bytes +=
            io::copy(&mut file, &mut hasher).map_err(|error| failed(error.to_string()))?;
        match regular.digest {
            Some(digest) if digest != hasher.finish() => {
                Err(failed(format!("its contents do not have the digest {digest}")))
            }
            _ => Ok(()),
        }
    }
}

fn display(path: &[u8]) -> String {
    crate::tree::display(path)
}
