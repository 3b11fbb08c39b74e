//! Named directories: they are changed in place and outlive who filled them, as caches of steps
//! and repositories do. What the names mean is the caller's affair.
//!
//! Who uses one has a row in the database, so that other processes see it; rows of processes that
//! are gone do not count. A use ends when its [`NamedDir`] is dropped.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use cofferdam_types::Digest;
use rusqlite::{Connection, OptionalExtension, params};

use crate::dirs::Watch;
use crate::error::IoContext;
use crate::holds::Object;
use crate::materialize::write_empty;
use crate::removal::Removal;
use crate::{Node, Reservation, Result, Store, db, disk_usage};

/// Names a directory in one state directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DirId(pub(crate) i64);

impl fmt::Display for DirId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Who may use a directory at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Everybody.
    Shared,
    /// Everybody, each a directory of their own of that name.
    Private,
    /// One after the other.
    Locked,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct DirRequest {
    /// The name.
    pub name: Digest,
    /// What kind of thing it is, as lists show it.
    pub kind: String,
    /// What it is, for people.
    pub description: String,
    /// Who may use it at the same time.
    pub sharing: Sharing,
    /// What a new one has in it, and its own attributes; empty if not given. Whoever asks holds the
    /// layers that it refers to.
    pub start: Option<Node>,
}

/// A directory that is in use.
pub struct NamedDir {
    store: Store,
    id: DirId,
    /// Its row among the uses.
    user: i64,
    /// What it took on the disk at first.
    counted: u64,
    room: Arc<Reservation>,
}

impl fmt::Debug for NamedDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NamedDir").field(&self.id).finish()
    }
}

impl NamedDir {
    /// Where its files are.
    pub fn fs(&self) -> PathBuf {
        self.store.dir_path(self.id).join("fs")
    }

    /// For looking at it now and then, where there is a limit to keep.
    pub fn watch(&self) -> Watch {
        Watch { path: self.fs(), counted: self.counted, room: self.room.clone() }
    }

    fn give_back(&self) -> Result<()> {
        let bytes = disk_usage(&self.store.dir_path(self.id)).cast_signed();
        let mut connection = self.store.db();
        let transaction = db::begin(&mut connection)?;
        let number = db::next(&transaction)?;
        transaction.execute(
            "UPDATE dirs SET bytes = ?2, number = ?3, used = ?3, last_used = ?4 WHERE id = ?1",
            params![self.id.0, bytes, number, db::now()],
        )?;
        transaction.execute("DELETE FROM dir_users WHERE id = ?1", [self.user])?;
        let mut removal = Removal::new(&self.store, &transaction);
        if is_nameless(&transaction, self.id)? {
            removal.dir_if_unused(self.id)?;
        }
        let gone = removal.finish();
        transaction.commit()?;
        drop(connection);
        gone.remove_files(&self.store);
        Ok(())
    }
}

impl Drop for NamedDir {
    fn drop(&mut self) {
        if let Err(error) = self.give_back() {
            tracing::warn!("cannot give directory {} back: {error}", self.id);
        }
    }
}

impl Store {
    pub(crate) fn dir_path(&self, id: DirId) -> PathBuf {
        self.root().join("dirs").join(id.to_string())
    }

    /// Takes a directory, making it if there is none that can be had; `None` while others have
    /// one that only one may use.
    ///
    /// # Errors
    /// When it cannot be made or there is no room.
    pub fn try_named_dir(&self, request: &DirRequest) -> Result<Option<NamedDir>> {
        match self.find_dir(request)? {
            Found::Taken(dir) => return Ok(Some(dir)),
            Found::Locked => return Ok(None),
            Found::Nothing => {}
        }
        // Filled before anybody sees it.
        let tmp = self.tmp_dir();
        let new = tempfile::Builder::new().prefix("dir-").tempdir_in(tmp);
        let new = new.io("cannot create a directory in", tmp)?;
        let room = Arc::new(self.reservation());
        let fs = new.path().join("fs");
        match &request.start {
            Some(start) => self.write_copy(&fs, start, &room)?,
            None => write_empty(&fs)?,
        }
        let bytes = disk_usage(new.path());
        let mut connection = self.db();
        let transaction = db::begin(&mut connection)?;
        match self.take_dir(&transaction, request)? {
            // Another process was faster.
            Found::Locked => return Ok(None),
            Found::Taken(dir) => {
                transaction.commit()?;
                return Ok(Some(dir));
            }
            Found::Nothing => {}
        }
        let id = DirId(db::next(&transaction)?);
        transaction.execute(
            "INSERT INTO dirs
                 (id, name, number, created, last_used, used, uses, bytes, kind, description)
             VALUES (?1, ?2, ?1, ?3, ?3, ?1, 0, ?4, ?5, ?6)",
            params![
                id.0,
                request.name.as_bytes(),
                db::now(),
                bytes.cast_signed(),
                request.kind,
                request.description
            ],
        )?;
        let dir = self.use_dir(&transaction, id, bytes, request.sharing, room)?;
        let target = self.dir_path(id);
        fs::rename(new.path(), &target).io("cannot move a directory to", &target)?;
        // It is at its place now; nothing is left to remove.
        let _ = new.keep();
        transaction.commit()?;
        Ok(Some(dir))
    }

    fn find_dir(&self, request: &DirRequest) -> Result<Found> {
        let mut connection = self.db();
        let transaction = db::begin(&mut connection)?;
        let found = self.take_dir(&transaction, request)?;
        transaction.commit()?;
        Ok(found)
    }

    fn take_dir(&self, connection: &Connection, request: &DirRequest) -> Result<Found> {
        Removal::new(self, connection).dead_sessions()?;
        let sql = match request.sharing {
            Sharing::Shared => {
                "SELECT id, bytes, FALSE FROM dirs WHERE name = ?1 AND NOT EXISTS
                     (SELECT 1 FROM dir_users WHERE dir = dirs.id AND exclusive)
                 ORDER BY id LIMIT 1"
            }
            Sharing::Private => {
                "SELECT id, bytes, FALSE FROM dirs WHERE name = ?1 AND NOT EXISTS
                     (SELECT 1 FROM dir_users WHERE dir = dirs.id)
                 ORDER BY id LIMIT 1"
            }
            Sharing::Locked => {
                "SELECT id, bytes, EXISTS (SELECT 1 FROM dir_users WHERE dir = dirs.id) FROM dirs
                 WHERE name = ?1 ORDER BY id LIMIT 1"
            }
        };
        let found = connection
            .prepare_cached(sql)?
            .query_row([request.name.as_bytes()], |row| {
                Ok((row.get(0).map(DirId)?, row.get::<_, i64>(1)?, row.get::<_, bool>(2)?))
            })
            .optional()?;
        let Some((id, bytes, locked)) = found else { return Ok(Found::Nothing) };
        if locked {
            return Ok(Found::Locked);
        }
        if !self.is_complete(&Object::Dir(id)) {
            // Somebody removed it behind our back.
            connection.execute("DELETE FROM dirs WHERE id = ?1", [id.0])?;
            return self.take_dir(connection, request);
        }
        let bytes = u64::try_from(bytes).unwrap_or(0);
        let room = Arc::new(self.reservation());
        self.use_dir(connection, id, bytes, request.sharing, room).map(Found::Taken)
    }

    fn use_dir(
        &self,
        connection: &Connection,
        id: DirId,
        counted: u64,
        sharing: Sharing,
        room: Arc<Reservation>,
    ) -> Result<NamedDir> {
        connection
            .prepare_cached("UPDATE dirs SET uses = uses + 1, last_used = ?2 WHERE id = ?1")?
            .execute(params![id.0, db::now()])?;
        connection
            .prepare_cached("INSERT INTO dir_users (dir, session, exclusive) VALUES (?1, ?2, ?3)")?
            .execute(params![id.0, self.session(), sharing != Sharing::Shared])?;
        let user = connection.last_insert_rowid();
        Ok(NamedDir { store: self.clone(), id, user, counted, room })
    }

    /// Takes a name away from all directories that have it: the next who asks for it gets a new
    /// one. Those in use go when they are given back.
    ///
    /// # Errors
    /// When the database fails.
    pub fn forget_named_dirs(&self, name: &Digest) -> Result<()> {
        let mut connection = self.db();
        let transaction = db::begin(&mut connection)?;
        let mut removal = Removal::new(self, &transaction);
        removal.dead_sessions()?;
        let ids: Vec<DirId> = {
            let sql = "UPDATE dirs SET name = NULL WHERE name = ?1 RETURNING id";
            let mut query = transaction.prepare_cached(sql)?;
            let rows = query.query_map([name.as_bytes()], |row| row.get(0).map(DirId))?;
            rows.collect::<rusqlite::Result<_>>()?
        };
        ids.into_iter().try_for_each(|id| removal.dir_if_unused(id))?;
        let gone = removal.finish();
        transaction.commit()?;
        drop(connection);
        gone.remove_files(self);
        Ok(())
    }
}

fn is_nameless(connection: &Connection, id: DirId) -> Result<bool> {
    let mut query =
        connection.prepare_cached("SELECT 1 FROM dirs WHERE id = ?1 AND name IS NULL")?;
    Ok(query.exists([id.0])?)
}

/// What became of a request.
enum Found {
    Taken(NamedDir),
    /// Others have it.
    Locked,
    /// There is none that can be had.
    Nothing,
}
