//! Copies between trees, with the semantics of BuildKit's copy (fsutil): where things land, what
//! is merged, replaced or refused, and whose attributes win. No bytes pass through: files are put
//! by reference. Each source directory is listed once, and no file of it is looked at on its own.

use std::collections::HashMap;

use cofferdam_patterns::{Glob, Matcher, ParentMatch, has_wildcard};

use crate::action::Copy;
use crate::archive;
use crate::error::Error;
use crate::mode::ModeChange;
use crate::owner::Owner;
use crate::path::{self, Last, Resolved, clean, join, make_directories, resolve, split};
use crate::tree::{AttributeChanges, Attributes, Entry, EntryKind, Layer, NamedEntry, Tree};

/// A path of 4096 bytes, the longest that Linux takes, can name no deeper directory.
const MAX_DEPTH: usize = 2048;

/// Up to so many entries are looked up one by one in an existing directory; for more the
/// directory is listed.
const FEW: usize = 8;

/// Carries out a copy into `layer`, whose view is `view`. Files made without a timestamp of their
/// own get the time `now`.
pub(crate) fn copy<L: Layer>(
    action: &Copy,
    layer: &L,
    view: &L::Tree,
    from: &L::Tree,
    owner: Option<Owner>,
    now: i64,
) -> Result<(), Error> {
    if !action.create_dest_path {
        let dest = resolve(view, &clean(&action.dest), Last::Follow)?;
        if path::stat(view, split(&dest.path).0)?.is_none() {
            return Err(Error::NotFound(clean(&action.dest)));
        }
    }
    let sources = if action.allow_wildcard {
        expand(from, &action.src, last(action.follow_symlink))?
    } else {
        vec![clean(&action.src)]
    };
    if sources.is_empty() && !action.allow_empty_wildcard {
        return Err(Error::NotFound(clean(&action.src)));
    }
    let created = Attributes {
        mode: 0o755,
        uid: owner.unwrap_or_default().uid,
        gid: owner.unwrap_or_default().gid,
        mtime: action.timestamp.unwrap_or(now),
        xattrs: Vec::new(),
    };
    let patterns = |patterns: &[String]| match patterns {
        [] => Ok(None),
        patterns => Matcher::new(patterns).map(Some),
    };
    let mut copier = Copier {
        action,
        layer,
        view,
        from,
        owner,
        created,
        mode: ModeChange::new(&action.mode_string, action.mode)?,
        include: patterns(&action.include_patterns)?,
        exclude: patterns(&action.exclude_patterns)?,
        links: HashMap::new(),
    };
    for source in &sources {
        if action.attempt_unpack && copier.unpack(source, now)? {
            continue;
        }
        copier.copy(source)?;
    }
    Ok(())
}

fn last(follow: bool) -> Last {
    if follow { Last::Follow } else { Last::Keep }
}

/// Finds what a pattern stands for. The components before the first wildcard are resolved
/// through symlinks; from there on names are compared, and symlinks are not followed.
pub(crate) fn expand<T: Tree>(tree: &T, pattern: &str, last: Last) -> Result<Vec<String>, Error> {
    let pattern = clean(pattern);
    let parts: Vec<&str> = pattern.split('/').filter(|part| !part.is_empty()).collect();
    let Some(first) = parts.iter().position(|part| has_wildcard(part)) else {
        return Ok(vec![pattern]);
    };
    let globs = parts[first..].iter().map(|part| Glob::new(part)).collect::<Result<Vec<_>, _>>()?;
    let start = match resolve(tree, &parts[..first].join("/"), last) {
        Ok(Resolved { path, entry: Some(entry) }) if entry.is_directory() => path,
        Ok(_) | Err(Error::NotDirectory(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = vec![start];
    for (at, glob) in globs.iter().enumerate() {
        let more = at + 1 < globs.len();
        let mut next = Vec::new();
        for directory in &found {
            for entry in tree.list(directory)? {
                if (!more || entry.entry.is_directory()) && glob.matches(&entry.name) {
                    next.push(join(directory, &entry.name));
                }
            }
        }
        found = next;
    }
    Ok(found)
}

/// What is known about the entries of a directory at the destination.
enum Existing {
    /// It is new, and empty but for what this copy puts there.
    Nothing,
    /// It has to be asked for each entry.
    Ask,
    /// Its entries.
    Listed(HashMap<String, Entry>),
}

/// What the patterns say about a path.
#[derive(Default)]
struct Verdict {
    /// Whether it is to be copied.
    wanted: bool,
    is_excluded: bool,
    /// For its children.
    included: ParentMatch,
    /// For its children.
    excluded: ParentMatch,
}

/// A source directory that is being copied.
struct Directory {
    source: String,
    target: String,
    /// Path from the top of the copied tree on; empty at the top.
    relative: String,
    attributes: Attributes,
    /// What was at the target before.
    before: Option<Entry>,
    /// Whether the directory has been made; one that only some descendants may need is not.
    made: bool,
    existing: Existing,
    verdict: Verdict,
    entries: std::vec::IntoIter<NamedEntry>,
}

struct Copier<'a, L: Layer> {
    action: &'a Copy,
    layer: &'a L,
    view: &'a L::Tree,
    from: &'a L::Tree,
    owner: Option<Owner>,
    /// Attributes of directories that the source knows nothing about.
    created: Attributes,
    mode: ModeChange,
    include: Option<Matcher>,
    exclude: Option<Matcher>,
    /// Where the first name of each group of hard links has been put.
    links: HashMap<u64, String>,
}

impl<L: Layer> Copier<'_, L> {
    /// Unpacks `source` if it is an archive; says whether it was.
    fn unpack(&self, source: &str, now: i64) -> Result<bool, Error> {
        let found = self.find(source, Last::Follow)?;
        let Some(Entry { kind: EntryKind::Regular(_), .. }) = found.entry else {
            return Ok(false);
        };
        let Some(archive) = archive::Archive::open(source, self.from.open(&found.path)?)? else {
            return Ok(false);
        };
        let dest = resolve(self.view, &clean(&self.action.dest), Last::Follow)?;
        make_directories(self.layer, self.view, &dest, &self.created)?;
        archive::unpack(archive, self.layer, self.view, &dest.path, self.owner, now)?;
        Ok(true)
    }

    /// Resolves a source path; that it does not exist shows only in the entry.
    fn find(&self, source: &str, last: Last) -> Result<Resolved, Error> {
        match resolve(self.from, source, last) {
            Err(Error::NotDirectory(_)) => Ok(Resolved { path: source.to_owned(), entry: None }),
            other => other,
        }
    }

    /// Copies one source to where it belongs.
    fn copy(&mut self, source: &str) -> Result<(), Error> {
        let found = self.find(source, last(self.action.follow_symlink))?;
        let entry = found.entry.ok_or_else(|| Error::NotFound(source.to_owned()))?;
        self.check_required(source, &found.path)?;
        let target = self.prepare_target(source, &entry)?;
        self.links.clear();
        self.copy_top(found.path, entry, target)
    }

    fn check_required(&self, source: &str, resolved: &str) -> Result<(), Error> {
        for required in &self.action.required_paths {
            let relative = &clean(required)[1..];
            let path = join(resolved, relative);
            let found = self.find(&path, Last::Keep)?;
            // What lies behind a symlink is there, but is not copied.
            if found.entry.is_none() || found.path != path {
                return Err(Error::NotFound(join(source, relative)));
            }
        }
        Ok(())
    }

    /// Decides where the source goes, and makes the directories that lead there.
    fn prepare_target(&self, source: &str, entry: &Entry) -> Result<Resolved, Error> {
        let dest = &self.action.dest;
        // With a slash (or a dot) at its end the destination is meant to be a directory.
        let directory = match dest.rsplit_once('/') {
            Some((_, "" | ".")) => dest.as_str(),
            Some((parent, _)) => parent,
            None => "/",
        };
        let directory = resolve(self.view, &clean(directory), Last::Follow)?;
        make_directories(self.layer, self.view, &directory, &self.created)?;

        let mut target = resolve(self.view, &clean(dest), Last::Follow)?;
        let contents = self.action.dir_copy_contents && entry.is_directory();
        let into = match &target.entry {
            None => false,
            Some(existing) if entry.is_directory() => {
                if !contents && !existing.is_directory() {
                    return Err(Error::DirectoryOverFile(target.path));
                }
                !contents
            }
            Some(existing) => existing.is_directory(),
        };
        if into && source != "/" {
            let path = join(&target.path, split(source).1);
            target = Resolved { entry: path::stat(self.view, &path)?, path };
        }
        let parent = split(&target.path).0;
        let entry = path::stat(self.view, parent)?;
        let parent = Resolved { path: parent.to_owned(), entry };
        make_directories(self.layer, self.view, &parent, &self.created)?;
        if contents && target.entry.is_none() {
            make_directories(self.layer, self.view, &target, &self.created)?;
            target.entry =
                Some(Entry { kind: EntryKind::Directory, attributes: self.created.clone() });
        }
        Ok(target)
    }

    /// Copies the source itself, which no pattern is about, and all below it.
    fn copy_top(&mut self, source: String, entry: Entry, target: Resolved) -> Result<(), Error> {
        if !entry.is_directory() {
            self.check_replace(&target.path, target.entry.as_ref())?;
            return self.put(&source, &entry, None, &target.path);
        }
        let before = self.directory_before(&target.path, target.entry)?;
        match &before {
            // No layer says anything about the root, so its time would be lost anyway.
            Some(_) if target.path == "/" => {}
            // The destination that was there keeps all but its time.
            Some(before) => {
                let mut attributes = before.attributes.clone();
                attributes.mtime = self.action.timestamp.unwrap_or(entry.attributes.mtime);
                self.layer.put_directory(&target.path, &attributes)?;
            }
            None => {
                self.layer.put_directory(&target.path, &self.attributes(&entry))?;
            }
        }
        if self.takes_everything() && self.is_empty(&target.path, before.as_ref())? {
            return self.put_all(&source, &target.path);
        }
        let verdict = Verdict { wanted: true, ..Verdict::default() };
        let relative = String::new();
        let top = self.enter(source, target.path, relative, entry.attributes, before, verdict)?;
        self.copy_below(top)
    }

    /// Whether what is below a directory is copied as it is but for its owner and its time.
    fn takes_everything(&self) -> bool {
        self.include.is_none() && self.exclude.is_none() && self.mode == ModeChange::Keep
    }

    /// Whether nothing was in the directory at a target.
    fn is_empty(&self, target: &str, before: Option<&Entry>) -> Result<bool, Error> {
        Ok(before.is_none() || self.view.list(target)?.is_empty())
    }

    /// Copies everything below a directory at once: the host knows how, and need not be asked
    /// about each entry.
    fn put_all(&self, source: &str, target: &str) -> Result<(), Error> {
        let changes = AttributeChanges {
            uid: self.owner.map(|owner| owner.uid),
            gid: self.owner.map(|owner| owner.gid),
            mtime: self.action.timestamp,
        };
        Ok(self.layer.put_contents(target, self.from, source, &changes)?)
    }

    /// Goes through directories, a parent before its children. The stack is a list of its own:
    /// the depth of a tree is not ours to choose.
    fn copy_below(&mut self, top: Directory) -> Result<(), Error> {
        let mut stack = vec![top];
        while let Some(directory) = stack.last_mut() {
            let Some(NamedEntry { name, entry, link_group }) = directory.entries.next() else {
                stack.pop();
                continue;
            };
            let relative = if directory.relative.is_empty() {
                name.clone()
            } else {
                format!("{}/{name}", directory.relative)
            };
            let verdict = self.judge(&directory.verdict, &relative);
            let wanted = verdict.wanted;
            let enter = entry.is_directory() && self.may_want_below(&relative, &verdict);
            if !wanted && !enter {
                continue;
            }
            let source = join(&directory.source, &name);
            let target = join(&directory.target, &name);
            let before = match &mut directory.existing {
                Existing::Nothing => None,
                Existing::Ask => path::stat(self.view, &target)?,
                Existing::Listed(entries) => entries.remove(&name),
            };
            if wanted {
                self.make_pending(&mut stack)?;
            }
            if !entry.is_directory() {
                self.check_replace(&target, before.as_ref())?;
                self.put(&source, &entry, link_group, &target)?;
                continue;
            }
            let before = if wanted {
                let before = self.directory_before(&target, before)?;
                let mut attributes = self.attributes(&entry);
                if let Some(before) = &before {
                    attributes.keep_xattrs(&before.attributes);
                }
                self.layer.put_directory(&target, &attributes)?;
                before
            } else {
                before
            };
            if stack.len() >= MAX_DEPTH {
                return Err(Error::TooDeep(source, MAX_DEPTH));
            }
            stack.push(self.enter(source, target, relative, entry.attributes, before, verdict)?);
        }
        Ok(())
    }

    /// Starts on a directory: lists it, and finds out about what is at its target.
    fn enter(
        &self,
        source: String,
        target: String,
        relative: String,
        attributes: Attributes,
        before: Option<Entry>,
        verdict: Verdict,
    ) -> Result<Directory, Error> {
        let entries = self.from.list(&source)?;
        let existing = match &before {
            Some(before) if !before.is_directory() => Existing::Nothing,
            None => Existing::Nothing,
            Some(_) if entries.len() <= FEW => Existing::Ask,
            Some(_) => {
                let listed = self.view.list(&target)?.into_iter();
                Existing::Listed(listed.map(|entry| (entry.name, entry.entry)).collect())
            }
        };
        Ok(Directory {
            source,
            target,
            relative,
            attributes,
            before,
            made: verdict.wanted,
            existing,
            verdict,
            entries: entries.into_iter(),
        })
    }

    /// Asks the patterns about a path.
    fn judge(&self, parent: &Verdict, relative: &str) -> Verdict {
        let (is_included, included) = match &self.include {
            None => (true, ParentMatch::default()),
            Some(matcher) => matcher.matches(relative, &parent.included),
        };
        let (is_excluded, excluded) = match &self.exclude {
            None => (false, ParentMatch::default()),
            Some(matcher) => matcher.matches(relative, &parent.excluded),
        };
        Verdict { wanted: is_included && !is_excluded, is_excluded, included, excluded }
    }

    /// Whether a directory that is not wanted itself can have something below it that is.
    fn may_want_below(&self, relative: &str, verdict: &Verdict) -> bool {
        let covered =
            verdict.is_excluded && self.exclude.as_ref().is_none_or(Matcher::covers_below);
        let matcher = self.include.as_ref();
        let possible = matcher.is_none_or(|m| m.may_match_below(relative, &verdict.included));
        possible && !covered
    }

    /// Makes the directories above a path that turned out to be wanted.
    fn make_pending(&self, stack: &mut [Directory]) -> Result<(), Error> {
        let done = stack.iter().rposition(|directory| directory.made).map_or(0, |at| at + 1);
        for directory in &mut stack[done..] {
            directory.made = true;
            let before = directory.before.take();
            let attributes = match self.directory_before(&directory.target, before)? {
                // As BuildKit does it: of a directory that is there and that the patterns do
                // not name itself, only the permissions change.
                Some(before) => Attributes { mode: directory.attributes.mode, ..before.attributes },
                None => self.changed(&directory.attributes, &EntryKind::Directory),
            };
            self.layer.put_directory(&directory.target, &attributes)?;
        }
        Ok(())
    }

    /// What of the entry at a directory's target stays: nothing if it is to be replaced.
    fn directory_before(
        &self,
        target: &str,
        before: Option<Entry>,
    ) -> Result<Option<Entry>, Error> {
        match before {
            Some(entry) if !entry.is_directory() => {
                if self.action.always_replace_existing {
                    Ok(None)
                } else {
                    Err(Error::DirectoryOverFile(target.to_owned()))
                }
            }
            before => Ok(before),
        }
    }

    /// Refuses to replace a directory by something else, unless the copy says so.
    fn check_replace(&self, target: &str, before: Option<&Entry>) -> Result<(), Error> {
        if target == "/" {
            return Err(Error::IsRoot(target.to_owned()));
        }
        let directory = before.is_some_and(Entry::is_directory);
        if directory && !self.action.always_replace_existing {
            return Err(Error::FileOverDirectory(target.to_owned()));
        }
        Ok(())
    }

    /// Puts anything but a directory.
    fn put(
        &mut self,
        source: &str,
        entry: &Entry,
        link_group: Option<u64>,
        target: &str,
    ) -> Result<(), Error> {
        let attributes = self.attributes(entry);
        if !matches!(entry.kind, EntryKind::Regular(_)) {
            return Ok(self.layer.put_special(target, &entry.kind, &attributes)?);
        }
        if let Some(group) = link_group {
            if let Some(first) = self.links.get(&group) {
                return Ok(self.layer.put_hard_link(target, first)?);
            }
            self.links.insert(group, target.to_owned());
        }
        Ok(self.layer.put_file(target, self.from, source, &attributes)?)
    }

    fn attributes(&self, entry: &Entry) -> Attributes {
        self.changed(&entry.attributes, &entry.kind)
    }

    /// The source's attributes with the changes that the copy asks for.
    fn changed(&self, source: &Attributes, kind: &EntryKind) -> Attributes {
        let mode = match kind {
            // A symlink has no permissions to change.
            EntryKind::Symlink(_) => source.mode,
            kind => self.mode.apply(source.mode, *kind == EntryKind::Directory),
        };
        Attributes {
            mode,
            uid: self.owner.map_or(source.uid, |owner| owner.uid),
            gid: self.owner.map_or(source.gid, |owner| owner.gid),
            mtime: self.action.timestamp.unwrap_or(source.mtime),
            xattrs: source.xattrs.clone(),
        }
    }
}
