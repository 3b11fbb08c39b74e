//! The state directory as such, without building: what is in it, pruning it, checking it.

use std::path::Path;

use cofferdam_store::Store;

use crate::Error;

pub use cofferdam_store::{Filter, Problem, Prune, Pruned, Repair, Usage, Verified};

/// A state directory that other processes may be building in.
pub struct StateDirectory(Store);

/// What a state directory takes on the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Everything that can be pruned, the largest first.
    pub things: Vec<Usage>,
    /// Bytes of the rest: the database, compiled components, indexes, logs.
    pub rest: u64,
}

impl StateDirectory {
    /// Opens a state directory, making it if it does not exist.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn open(root: &Path) -> Result<Self, Error> {
        Ok(Self(Store::open(root)?))
    }

    /// What takes how much room.
    ///
    /// # Errors
    /// When the database fails.
    pub fn disk_usage(&self) -> Result<DiskUsage, Error> {
        Ok(DiskUsage { things: self.0.usages()?, rest: self.0.other_usage() })
    }

    /// Removes what nobody holds, the least recently used first.
    ///
    /// # Errors
    /// When the database fails.
    pub fn prune(&self, prune: &Prune) -> Result<Pruned, Error> {
        Ok(self.0.prune(prune)?)
    }

    /// Checks everything in a state directory against its digests. Where the database itself is
    /// unreadable, repairing means to start over with an empty one.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub fn verify(root: &Path, repair: Repair) -> Result<Verified, Error> {
        let verified = Store::open(root).and_then(|store| store.verify(repair));
        match (verified, repair) {
            // Nothing else that is damaged is an error of a check.
            (Err(error), Repair::Drop) if error.is_damage() => {
                let mut verified = Store::start_over(root)?.verify(repair)?;
                let reason = error.to_string();
                verified.problems.insert(0, Problem { what: "state.db".into(), reason });
                Ok(verified)
            }
            (verified, _) => Ok(verified?),
        }
    }

    /// Puts everything on the disk, so that a power loss does not take it.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn sync(&self) -> Result<(), Error> {
        Ok(self.0.sync()?)
    }
}
