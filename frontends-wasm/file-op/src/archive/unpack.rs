//! Puts the entries of an archive into a layer, below one directory that no entry leaves.
//!
//! As in BuildKit: implied parents belong to root with 0755, symlinks on the way are followed as
//! if the destination were the root, a directory keeps a symlink to a directory in its place,
//! everything else replaces what is there. Whiteouts (`.wh.…`) are names like any other: they
//! mean something in layers, not in the archives that ADD takes. The attributes of the archive's
//! root and of a hard link's second header are not used: the first is the destination, which is
//! there already, the second could only repeat what the linked file has.

use cofferdam_archive::{Member, MemberKind, clean_path};

use super::Archive;
use crate::error::Error;
use crate::owner::Owner;
use crate::path::{self, Last, is_within, join, make_directories, resolve_below, split};
use crate::tree::{Attributes, EntryKind, Layer, Reader, Writer};

/// Up to this size contents are handed over in one call.
const SMALL: u64 = 1 << 20;

/// Bytes of larger contents that are handed over at once.
const CHUNK: usize = 256 << 10;

/// Unpacks into the directory `dest` (resolved, and there). Directories that the archive only
/// implies get the time `now`.
pub(crate) fn unpack<R: Reader, L: Layer>(
    mut archive: Archive<R>,
    layer: &L,
    view: &L::Tree,
    dest: &str,
    owner: Option<Owner>,
    now: i64,
) -> Result<(), Error> {
    let implied = Attributes { mode: 0o755, mtime: now, ..Attributes::default() };
    let mut unpacker = Unpacker { layer, view, dest, owner, implied, parent: None };
    while let Some(member) = archive.tar.next().map_err(|error| archive.damaged(error))? {
        let wrong = |reason| archive.wrong(member.offset, reason);
        let name = text(&member.path, "name").map_err(wrong)?.to_owned();
        unpacker.put(&mut archive, &member, &name).map_err(|error| match error {
            Error::Archive { .. } => error,
            other => archive.wrong(member.offset, format!("entry {name:?}: {other}")),
        })?;
    }
    Ok(())
}

fn text<'a>(bytes: &'a [u8], what: &str) -> Result<&'a str, String> {
    let wrong = |_| format!("{what} \"{}\" is not UTF-8", bytes.escape_ascii());
    std::str::from_utf8(bytes).map_err(wrong)
}

struct Unpacker<'a, L: Layer> {
    layer: &'a L,
    view: &'a L::Tree,
    dest: &'a str,
    owner: Option<Owner>,
    implied: Attributes,
    /// The last entry's parent, as the archive names it and as it was resolved: archives list
    /// the files of a directory together.
    parent: Option<(String, String)>,
}

impl<L: Layer> Unpacker<'_, L> {
    fn put<R: Reader>(
        &mut self,
        archive: &mut Archive<R>,
        member: &Member,
        name: &str,
    ) -> Result<(), Error> {
        let refuse =
            |reason: String| archive.wrong(member.offset, format!("entry {name:?}: {reason}"));
        if name.is_empty() {
            return match member.kind {
                MemberKind::Directory => Ok(()),
                _ => Err(refuse("expected a directory at the archive's root".to_owned())),
            };
        }
        let (parents, base) = name.rsplit_once('/').unwrap_or(("", name));
        let parent = self.parent(parents.to_owned())?;
        let path = join(&parent, base);
        let before = path::stat(self.view, &path)?;
        let before_kind = before.as_ref().map(|entry| &entry.kind);
        let attributes = self.attributes(member);
        // What can change where a path leads makes what is known of the parent void.
        let harmless = matches!(
            (&member.kind, before_kind),
            (MemberKind::Directory, None | Some(EntryKind::Directory))
                | (MemberKind::Regular, None | Some(EntryKind::Regular(_)))
        );
        match &member.kind {
            MemberKind::Directory => self.directory(name, attributes)?,
            MemberKind::Regular => self.file(archive, member.size, &path, &attributes)?,
            MemberKind::HardLink(link) => {
                let link = clean_path(link).map_err(&refuse)?;
                let link = text(&link, "link name").map_err(&refuse)?;
                if link.is_empty() {
                    return Err(refuse("is a hard link to the archive's root".to_owned()));
                }
                let target = resolve_below(self.view, self.dest, link, Last::Keep)?;
                let existing = target.entry.ok_or_else(|| Error::NotFound(target.path.clone()))?;
                if is_within(&target.path, &path) {
                    return Err(refuse("is a hard link to what it replaces".to_owned()));
                }
                match existing.kind {
                    EntryKind::Regular(_) => self.layer.put_hard_link(&path, &target.path)?,
                    EntryKind::Directory => {
                        return Err(refuse("is a hard link to a directory".to_owned()));
                    }
                    // Nothing tells a second name of one of these from a copy.
                    kind => self.layer.put_special(&path, &kind, &existing.attributes)?,
                }
            }
            MemberKind::Symlink(target) => {
                let target = text(target, "link name").map_err(&refuse)?;
                let kind = EntryKind::Symlink(target.to_owned());
                let attributes = Attributes { mode: 0o777, ..attributes };
                self.layer.put_special(&path, &kind, &attributes)?;
            }
            MemberKind::CharacterDevice(major, minor) => {
                let kind = EntryKind::CharacterDevice(*major, *minor);
                self.layer.put_special(&path, &kind, &attributes)?;
            }
            MemberKind::BlockDevice(major, minor) => {
                let kind = EntryKind::BlockDevice(*major, *minor);
                self.layer.put_special(&path, &kind, &attributes)?;
            }
            MemberKind::Fifo => self.layer.put_special(&path, &EntryKind::Fifo, &attributes)?,
        }
        if !harmless {
            self.parent = None;
        }
        Ok(())
    }

    /// Resolves the parent of an entry, and makes it if it is missing.
    fn parent(&mut self, name: String) -> Result<String, Error> {
        if let Some((known, path)) = &self.parent
            && *known == name
        {
            return Ok(path.clone());
        }
        let found = resolve_below(self.view, self.dest, &name, Last::Follow)?;
        make_directories(self.layer, self.view, &found, &self.implied)?;
        self.parent = Some((name, found.path.clone()));
        Ok(found.path)
    }

    fn directory(&mut self, name: &str, mut attributes: Attributes) -> Result<(), Error> {
        let found = resolve_below(self.view, self.dest, name, Last::Follow)?;
        if found.path == self.dest {
            // A link to the destination itself, which is not the archive's to change.
            return Ok(());
        }
        match &found.entry {
            Some(existing) if existing.is_directory() => {
                attributes.keep_xattrs(&existing.attributes);
            }
            Some(_) => {}
            None => {
                let parent = split(&found.path).0;
                let parent = resolve_below(self.view, "/", parent, Last::Follow)?;
                make_directories(self.layer, self.view, &parent, &self.implied)?;
            }
        }
        Ok(self.layer.put_directory(&found.path, &attributes)?)
    }

    fn file<R: Reader>(
        &self,
        archive: &mut Archive<R>,
        size: u64,
        path: &str,
        attributes: &Attributes,
    ) -> Result<(), Error> {
        let small = size <= SMALL;
        let mut buffer = vec![0; if small { size as usize } else { CHUNK }];
        if small {
            let mut have = 0;
            while have < buffer.len() {
                have += archive
                    .tar
                    .read(&mut buffer[have..])
                    .map_err(|error| archive.damaged(error))?;
            }
            return Ok(self.layer.put_bytes(path, &buffer, attributes)?);
        }
        let mut writer = self.layer.put_stream(path, attributes)?;
        loop {
            match archive.tar.read(&mut buffer).map_err(|error| archive.damaged(error))? {
                0 => return Ok(writer.finish()?),
                count => writer.write(&buffer[..count])?,
            }
        }
    }

    fn attributes(&self, member: &Member) -> Attributes {
        Attributes {
            mode: member.mode,
            uid: self.owner.map_or(member.uid, |owner| owner.uid),
            gid: self.owner.map_or(member.gid, |owner| owner.gid),
            mtime: member.mtime,
            xattrs: member.xattrs.clone(),
        }
    }
}
