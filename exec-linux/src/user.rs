//! Who a `USER` text means: Docker's rules over the texts of `/etc/passwd` and `/etc/group`. How
//! those are read from an image (bounded, regular files only) is the caller's affair.

use crate::step::User;

/// Why a user text means nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// No such user.
    #[error("user `{0}` is not in /etc/passwd")]
    UnknownUser(String),
    /// No such group.
    #[error("group `{0}` is not in /etc/group")]
    UnknownGroup(String),
    /// A number that no user or group can have.
    #[error("user or group id `{0}` is not in 0..=2147483647")]
    OutOfRange(String),
}

/// Returns whom `name`, `uid`, `name:group`, `uid:gid` or nothing (root) means.
///
/// A number that is not in `/etc/passwd` stands for itself with group 0. Without a group in the
/// text, a user that is in `/etc/passwd` gets its primary group from there and its supplementary
/// groups from `/etc/group`; with a group, only that one. A name that looks like a number is first
/// looked for as a name. (Docker's rules, as moby/sys/user's `GetExecUser` has them.)
///
/// # Errors
/// If a name is not listed or a number is out of range.
pub fn lookup_user(spec: &str, passwd: &str, group: &str) -> Result<User, UserError> {
    let (user, primary) = spec.split_once(':').unwrap_or((spec, ""));
    let user = if user.is_empty() { "0" } else { user };
    let number = id(user)?;
    let entry = passwd
        .lines()
        .filter_map(passwd_entry)
        .find(|entry| entry.name == user || Some(entry.uid) == number);
    let (uid, mut gid) = match (&entry, number) {
        (Some(entry), _) => (entry.uid, entry.gid),
        (None, Some(uid)) => (uid, 0),
        (None, None) => return Err(UserError::UnknownUser(user.to_owned())),
    };
    let mut groups = Vec::new();
    let mut listed = group.lines().filter_map(group_entry);
    if !primary.is_empty() {
        let number = id(primary)?;
        gid = listed
            .find(|(name, gid, _)| *name == primary || Some(*gid) == number)
            .map(|(_, gid, _)| gid)
            .or(number)
            .ok_or_else(|| UserError::UnknownGroup(primary.to_owned()))?;
    } else if let Some(entry) = entry {
        groups = listed
            .filter(|(_, _, members)| members.split(',').any(|m| m == entry.name))
            .map(|(_, gid, _)| gid)
            .collect();
    }
    Ok(User { uid, gid, groups })
}

/// Returns the home directory of a user id, if `/etc/passwd` names one.
pub(crate) fn home_of(uid: u32, passwd: &str) -> Option<&str> {
    let entry = passwd.lines().filter_map(passwd_entry).find(|entry| entry.uid == uid)?;
    Some(entry.home).filter(|home| !home.is_empty())
}

struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn passwd_entry(line: &str) -> Option<Entry<'_>> {
    let mut fields = line.trim().split(':');
    let name = fields.next()?;
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some(Entry { name, uid, gid, home: fields.nth(1).unwrap_or("") })
}

fn group_entry(line: &str) -> Option<(&str, u32, &str)> {
    let mut fields = line.trim().split(':');
    let name = fields.next()?;
    let gid = fields.nth(1)?.parse().ok()?;
    Some((name, gid, fields.next().unwrap_or("")))
}

/// Reads a number; a text that is none is `None`, one that is out of range an error.
fn id(text: &str) -> Result<Option<u32>, UserError> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(id) if id <= i32::MAX as u32 => Ok(Some(id)),
        _ => Err(UserError::OutOfRange(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# comment\nbroken:x\n\
        app:x:1000:1001:App:/home/app:/bin/sh\n2000:x:7:8::/seven:\n";
    const GROUP: &str = "root:x:0:\nwheel:x:10:app,other\napp:x:1001:\naudio:x:29:other,app\n";

    #[test]
    fn docker_semantics() {
        let cases = [
            ("", "0 0 []"),
            ("root", "0 0 []"),
            ("app", "1000 1001 [10, 29]"),
            ("1000", "1000 1001 [10, 29]"),
            ("app:wheel", "1000 10 []"),
            ("app:77", "1000 77 []"),
            ("1234", "1234 0 []"),
            ("1234:5678", "1234 5678 []"),
            ("2000", "7 8 []"),
            (":29", "0 29 []"),
            ("ghost", "user `ghost` is not in /etc/passwd"),
            ("app:ghost", "group `ghost` is not in /etc/group"),
            ("4294967295", "user or group id `4294967295` is not in 0..=2147483647"),
            ("-1", "user `-1` is not in /etc/passwd"),
        ];
        for (spec, expected) in cases {
            let got = match lookup_user(spec, PASSWD, GROUP) {
                Ok(user) => format!("{} {} {:?}", user.uid, user.gid, user.groups),
                Err(error) => error.to_string(),
            };
            assert_eq!(got, expected, "for {spec:?}");
        }
    }

    #[test]
    fn home_comes_from_passwd() {
        assert_eq!(home_of(1000, PASSWD), Some("/home/app"));
        assert_eq!(home_of(4, PASSWD), None);
    }
}
