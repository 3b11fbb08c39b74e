//! Waiting for a named directory that others have.

use std::time::Duration;

use cofferdam_store::{DirRequest, NamedDir, Store};

use crate::{Error, Result};

/// How often it is looked whether a directory can be had now: first soon, then less often.
const FIRST_WAIT: Duration = Duration::from_millis(5);
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// Takes a directory, when it can be had.
///
/// # Errors
/// When it cannot be made.
pub async fn take_dir(store: &Store, request: DirRequest) -> Result<NamedDir> {
    let mut wait = FIRST_WAIT;
    loop {
        let (store, request) = (store.clone(), request.clone());
        let taken = tokio::task::spawn_blocking(move || store.try_named_dir(&request)).await;
        let taken = taken.map_err(|error| Error::Io {
            action: "cannot wait for",
            path: "a directory of the store".into(),
            source: error.into(),
        })?;
        if let Some(dir) = taken? {
            return Ok(dir);
        }
        tokio::time::sleep(wait).await;
        wait = LONGEST_WAIT.min(wait * 2);
    }
}
