//! What this process has in use, and must not be removed by anybody: leases.
//!
//! A layer is held by every [`Snapshot`] that has it. Packs and blobs are touched in passing and
//! stay for as long as a [`Keep`] lives that was there before. What is held is in the database
//! too, where other processes see it; they take no notice of the leases of a process that is
//! gone. What is no longer held is taken out of the database a little later, many at a time.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cofferdam_types::Digest;
use rusqlite::{Connection, params};

use crate::{DirId, HeldLayer, LayerId, PackId, Result, Snapshot, Store, db};

/// So many leases may be in the database that are not needed any more.
const MAX_RELEASED: usize = 256;

/// Something that can be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Object {
    Layer(LayerId),
    Pack(PackId),
    Blob(Digest),
    /// A named directory; its uses have a table of their own.
    Dir(DirId),
}

/// As it is called in the table of leases.
impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layer(id) => write!(f, "layer {id}"),
            Self::Pack(id) => write!(f, "pack {id}"),
            Self::Blob(digest) => write!(f, "blob {}", digest.hex()),
            Self::Dir(id) => write!(f, "directory {id}"),
        }
    }
}

/// Keeps a layer; given back when dropped.
pub(crate) struct Hold {
    holds: Arc<Holds>,
    object: Object,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.holds.lock().give_back(self.object);
    }
}

/// While this lives, no pack or blob that was stored or found after it was made is removed.
pub struct Keep {
    store: Store,
    number: u64,
}

impl fmt::Debug for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Keep").field(&self.number).finish()
    }
}

impl Drop for Keep {
    fn drop(&mut self) {
        let mut holds = self.store.holds().lock();
        holds.keeps.remove(&self.number);
        holds.release_touched();
        drop(holds);
        if let Err(error) = self.store.forget_released() {
            tracing::warn!("leases: {error}");
        }
    }
}

/// Everything that this process holds.
#[derive(Default)]
pub(crate) struct Holds(Mutex<State>);

#[derive(Default)]
pub(crate) struct State {
    objects: HashMap<Object, Held>,
    /// In the database, but not needed any more.
    released: HashSet<Object>,
    /// The keeps that are alive.
    keeps: BTreeSet<u64>,
    /// Grows with every keep and touch.
    clock: u64,
}

#[derive(Default)]
struct Held {
    count: usize,
    /// When it was last touched; 0 is never.
    touched: u64,
}

impl Holds {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether the lease is in the database.
    fn is_leased(&self, object: &Object) -> bool {
        self.objects.contains_key(object) || self.released.contains(object)
    }

    fn take(&mut self, object: Object) {
        self.released.remove(&object);
        self.objects.entry(object).or_default().count += 1;
    }

    fn touch(&mut self, object: Object) {
        self.released.remove(&object);
        self.clock += 1;
        self.objects.entry(object).or_default().touched = self.clock;
    }

    fn give_back(&mut self, object: Object) {
        let oldest = self.keeps.first().copied().unwrap_or(u64::MAX);
        if let Some(held) = self.objects.get_mut(&object) {
            held.count = held.count.saturating_sub(1);
            if held.count == 0 && held.touched < oldest {
                self.objects.remove(&object);
                self.released.insert(object);
            }
        }
    }

    fn release_touched(&mut self) {
        let oldest = self.keeps.first().copied().unwrap_or(u64::MAX);
        let done: Vec<_> = self
            .objects
            .iter()
            .filter(|(_, held)| held.count == 0 && held.touched < oldest)
            .map(|(object, _)| *object)
            .collect();
        for object in done {
            self.objects.remove(&object);
            self.released.insert(object);
        }
    }
}

impl Store {
    /// Keeps packs and blobs that are stored or found from now on.
    pub fn keep(&self) -> Keep {
        let mut holds = self.holds().lock();
        holds.clock += 1;
        let number = holds.clock;
        holds.keeps.insert(number);
        Keep { store: self.clone(), number }
    }

    /// A chain of layers, if all of them are there.
    ///
    /// # Errors
    /// When the database fails.
    pub fn snapshot(&self, layers: &[LayerId]) -> Result<Option<Snapshot>> {
        let mut holds = self.holds().lock();
        let objects: Vec<_> = layers.iter().map(|id| Object::Layer(*id)).collect();
        if !objects.iter().all(|object| holds.is_leased(object)) {
            let mut connection = self.db();
            let transaction = db::begin(&mut connection)?;
            if self.lease_layers(&transaction, &holds, layers)?.is_err() {
                return Ok(None);
            }
            transaction.commit()?;
        }
        Ok(Some(self.held(&mut holds, layers)))
    }

    /// Puts leases for layers into the database, or tells which layer is not there.
    pub(crate) fn lease_layers(
        &self,
        connection: &Connection,
        holds: &State,
        layers: &[LayerId],
    ) -> Result<Result<(), Object>> {
        let mut exists = connection.prepare_cached("SELECT 1 FROM layers WHERE id = ?1")?;
        for layer in layers {
            if holds.is_leased(&Object::Layer(*layer)) {
                continue;
            }
            // What somebody removed behind our back is gone, too.
            let object = Object::Layer(*layer);
            if !exists.exists([layer.0])? || !self.is_complete(&object) {
                return Ok(Err(object));
            }
            self.lease(connection, object)?;
        }
        Ok(Ok(()))
    }

    /// The chain of layers whose leases are in the database.
    pub(crate) fn held(&self, holds: &mut State, layers: &[LayerId]) -> Snapshot {
        layers.iter().map(|id| self.hold_leased(holds, *id)).collect()
    }

    /// A layer whose lease is in the database.
    pub(crate) fn hold_leased(&self, holds: &mut State, id: LayerId) -> HeldLayer {
        let object = Object::Layer(id);
        holds.take(object);
        HeldLayer { id, _hold: Arc::new(Hold { holds: self.holds().clone(), object }) }
    }

    /// Notes that packs or blobs are in use, for whoever has a [`Keep`]. Says of each whether it
    /// is there.
    pub(crate) fn touch(&self, objects: &[Object]) -> Result<Vec<bool>> {
        let mut holds = self.holds().lock();
        let mut connection = self.db();
        let transaction = db::begin(&mut connection)?;
        let number = db::next(&transaction)?;
        let mut there = Vec::with_capacity(objects.len());
        for object in objects {
            let changed = match object {
                Object::Pack(id) => transaction
                    .prepare_cached("UPDATE packs SET used = ?2 WHERE id = ?1")?
                    .execute(params![id.0, number])?,
                Object::Blob(digest) => transaction
                    .prepare_cached("UPDATE blobs SET used = ?2 WHERE digest = ?1")?
                    .execute(params![digest.as_bytes(), number])?,
                Object::Layer(_) => unreachable!("layers are held by snapshots"),
                Object::Dir(_) => unreachable!("directories have uses"),
            };
            there.push(changed > 0);
            if changed > 0 && !holds.keeps.is_empty() && !holds.is_leased(object) {
                self.lease(&transaction, *object)?;
            }
        }
        transaction.commit()?;
        if !holds.keeps.is_empty() {
            for (object, _) in objects.iter().zip(&there).filter(|(_, there)| **there) {
                holds.touch(*object);
            }
        }
        Ok(there)
    }

    /// Notes that a pack or blob was made, for whoever has a [`Keep`]; in the transaction that
    /// makes it.
    pub(crate) fn touch_new(
        &self,
        connection: &Connection,
        holds: &mut State,
        object: Object,
    ) -> Result<()> {
        if !holds.keeps.is_empty() {
            self.lease(connection, object)?;
            holds.touch(object);
        }
        Ok(())
    }

    pub(crate) fn lease(&self, connection: &Connection, object: Object) -> Result<()> {
        connection
            .prepare_cached("INSERT OR IGNORE INTO leases (object, session) VALUES (?1, ?2)")?
            .execute(params![object.to_string(), self.session()])?;
        Ok(())
    }

    /// Takes leases that are not needed any more out of the database.
    pub(crate) fn forget_released(&self) -> Result<()> {
        let mut holds = self.holds().lock();
        if holds.released.is_empty() {
            return Ok(());
        }
        let mut connection = self.db();
        let transaction = db::begin(&mut connection)?;
        {
            let mut delete = transaction
                .prepare_cached("DELETE FROM leases WHERE object = ?1 AND session = ?2")?;
            for object in &holds.released {
                delete.execute(params![object.to_string(), self.session()])?;
            }
        }
        transaction.commit()?;
        holds.released.clear();
        if holds.objects.is_empty() {
            self.claims().step_back();
        }
        Ok(())
    }

    /// Takes leases out of the database if they have become many.
    pub(crate) fn forget_many_released(&self) -> Result<()> {
        let many = self.holds().lock().released.len() > MAX_RELEASED;
        if many { self.forget_released() } else { Ok(()) }
    }
}
