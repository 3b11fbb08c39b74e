//! Who new files belong to: numbers, or names looked up in the `/etc/passwd` and `/etc/group` of
//! a tree. A name that is not there means 0, as in BuildKit.

use crate::error::Error;
use crate::path::{Last, resolve};
use crate::tree::{EntryKind, Reader, Tree};

/// The largest passwd or group file that is read, in bytes.
const MAX_FILE: u64 = 10 << 20;

/// A user and a group by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Owner {
    pub uid: u32,
    pub gid: u32,
}

/// A user or group, with the tree to look a name up in.
pub(crate) enum Account<'a, T> {
    Id(u32),
    Name(&'a str, &'a T),
}

/// Finds the numbers: a user without a group brings the primary group with it, or, given by
/// number, the group of the same number.
pub(crate) fn look_up<T: Tree>(
    user: Option<Account<'_, T>>,
    group: Option<Account<'_, T>>,
) -> Result<Owner, Error> {
    let mut owner = match user {
        None => Owner::default(),
        Some(Account::Id(id)) => Owner { uid: id, gid: id },
        Some(Account::Name(name, tree)) => {
            let fields = find(tree, "/etc/passwd", name)?;
            Owner { uid: number(&fields, 2), gid: number(&fields, 3) }
        }
    };
    match group {
        None => {}
        Some(Account::Id(id)) => owner.gid = id,
        Some(Account::Name(name, tree)) => {
            // A group that does not exist leaves the user's.
            if let fields @ [_, ..] = find(tree, "/etc/group", name)?.as_slice() {
                owner.gid = number(fields, 2);
            }
        }
    }
    Ok(owner)
}

fn number(fields: &[String], at: usize) -> u32 {
    fields.get(at).and_then(|field| field.trim().parse().ok()).unwrap_or(0)
}

/// The fields of the first line that is about `name`; none when there is no such line or file.
fn find<T: Tree>(tree: &T, path: &str, name: &str) -> Result<Vec<String>, Error> {
    let found = match resolve(tree, path, Last::Follow) {
        Ok(found) => found,
        Err(Error::NotDirectory(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    match found.entry.map(|entry| entry.kind) {
        None => return Ok(Vec::new()),
        Some(EntryKind::Regular(size)) if size > MAX_FILE => {
            return Err(Error::TooLarge { path: path.to_owned(), size, limit: MAX_FILE });
        }
        Some(EntryKind::Regular(_)) => {}
        Some(_) => return Err(Error::NotRegular(path.to_owned())),
    }
    let mut reader = tree.open(&found.path)?;
    let mut text = Vec::new();
    loop {
        let part = reader.read(256 << 10)?;
        if part.is_empty() {
            break;
        }
        text.extend_from_slice(&part);
        let size = text.len() as u64;
        if size > MAX_FILE {
            return Err(Error::TooLarge { path: path.to_owned(), size, limit: MAX_FILE });
        }
    }
    for line in text.split(|byte| *byte == b'\n') {
        let line = line.trim_ascii();
        let first = line.split(|byte| *byte == b':').next().unwrap_or_default();
        if !line.is_empty() && first == name.as_bytes() {
            return Ok(String::from_utf8_lossy(line).split(':').map(str::to_owned).collect());
        }
    }
    Ok(Vec::new())
}
