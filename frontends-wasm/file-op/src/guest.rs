//! Connects the traits to the host's resources when built for wasm. Only converts: what an action
//! does is decided elsewhere in this crate.

use crate::action::{
    Action, ActionInput, ActionKind, Copy, MakeDirectory, MakeFile, MakeSymlink, Ownership,
    Principal, Remove,
};
use crate::tree::{
    AttributeChanges, Attributes, Entry, EntryKind, Fault, Layer, NamedEntry, Reader, Tree, Writer,
};

mod bindings {
    wit_bindgen::generate!({
        world: "file-op",
        path: "../../wit/file-op",
    });
}

use bindings::cofferdam::file_op::actions as wire_actions;
use bindings::cofferdam::file_op::layer as wire_layer;
use bindings::cofferdam::file_op::tree as wire_tree;
use bindings::cofferdam::file_op::types as wire;

struct FileOp;

bindings::export!(FileOp with_types_in bindings);

impl bindings::Guest for FileOp {
    fn apply(
        actions: Vec<wire_actions::Action>,
        inputs: Vec<wire_tree::Tree>,
        now: i64,
    ) -> Result<Vec<wire_layer::Layer>, wire_actions::ActionError> {
        let actions: Vec<Action> = actions.into_iter().map(Action::from).collect();
        crate::apply(&actions, &inputs, now).map_err(|failed| wire_actions::ActionError {
            action: failed.action,
            not_found: failed.error.is_not_found(),
            message: failed.error.to_string(),
        })
    }
}

impl Tree for wire_tree::Tree {
    type Reader = wire_tree::Reader;

    fn stat(&self, path: &str) -> Result<Option<Entry>, Fault> {
        Ok(self.stat(path)?.map(Entry::from))
    }

    fn list(&self, path: &str) -> Result<Vec<NamedEntry>, Fault> {
        Ok(self.list(path)?.into_iter().map(NamedEntry::from).collect())
    }

    fn open(&self, path: &str) -> Result<Self::Reader, Fault> {
        Ok(self.open(path)?)
    }
}

impl Reader for wire_tree::Reader {
    fn read(&mut self, max: u32) -> Result<Vec<u8>, Fault> {
        Ok(wire_tree::Reader::read(self, max)?)
    }
}

impl Layer for wire_layer::Layer {
    type Tree = wire_tree::Tree;
    type Writer = wire_layer::Writer;

    fn new(base: Option<&Self::Tree>) -> Self {
        wire_layer::Layer::new(base)
    }

    fn view(&self) -> Self::Tree {
        self.view()
    }

    fn fork(&self) -> Self {
        self.fork()
    }

    fn put_file(
        &self,
        path: &str,
        source: &Self::Tree,
        source_path: &str,
        attributes: &Attributes,
    ) -> Result<(), Fault> {
        Ok(self.put_file(path, source, source_path, &attributes.into())?)
    }

    fn put_contents(
        &self,
        path: &str,
        source: &Self::Tree,
        source_path: &str,
        changes: &AttributeChanges,
    ) -> Result<(), Fault> {
        let AttributeChanges { uid, gid, mtime } = *changes;
        Ok(self.put_contents(
            path,
            source,
            source_path,
            wire::AttributeChanges { uid, gid, mtime },
        )?)
    }

    fn put_bytes(&self, path: &str, data: &[u8], attributes: &Attributes) -> Result<(), Fault> {
        Ok(self.put_bytes(path, data, &attributes.into())?)
    }

    fn put_stream(&self, path: &str, attributes: &Attributes) -> Result<Self::Writer, Fault> {
        Ok(self.put_stream(path, &attributes.into())?)
    }

    fn put_directory(&self, path: &str, attributes: &Attributes) -> Result<(), Fault> {
        Ok(self.put_directory(path, &attributes.into())?)
    }

    fn put_special(
        &self,
        path: &str,
        kind: &EntryKind,
        attributes: &Attributes,
    ) -> Result<(), Fault> {
        Ok(self.put_special(path, &kind.into(), &attributes.into())?)
    }

    fn put_hard_link(&self, path: &str, existing: &str) -> Result<(), Fault> {
        Ok(self.put_hard_link(path, existing)?)
    }

    fn remove(&self, path: &str) -> Result<(), Fault> {
        Ok(self.remove(path)?)
    }
}

impl Writer for wire_layer::Writer {
    fn write(&mut self, data: &[u8]) -> Result<(), Fault> {
        Ok(wire_layer::Writer::write(self, data)?)
    }

    fn finish(self) -> Result<(), Fault> {
        Ok(wire_layer::Writer::finish(&self)?)
    }
}

impl From<wire::Error> for Fault {
    fn from(error: wire::Error) -> Self {
        match error {
            wire::Error::NotFound(path) => Self::NotFound(path),
            wire::Error::WrongKind(path) => Self::WrongKind(path),
            wire::Error::Invalid(what) => Self::Invalid(what),
            wire::Error::Io(what) => Self::Io(what),
        }
    }
}

impl From<wire::EntryKind> for EntryKind {
    fn from(kind: wire::EntryKind) -> Self {
        match kind {
            wire::EntryKind::Regular(size) => Self::Regular(size),
            wire::EntryKind::Directory => Self::Directory,
            wire::EntryKind::Symlink(target) => Self::Symlink(target),
            wire::EntryKind::CharacterDevice((major, minor)) => Self::CharacterDevice(major, minor),
            wire::EntryKind::BlockDevice((major, minor)) => Self::BlockDevice(major, minor),
            wire::EntryKind::Fifo => Self::Fifo,
            wire::EntryKind::Socket => Self::Socket,
        }
    }
}

impl From<&EntryKind> for wire::EntryKind {
    fn from(kind: &EntryKind) -> Self {
        match kind {
            EntryKind::Regular(size) => Self::Regular(*size),
            EntryKind::Directory => Self::Directory,
            EntryKind::Symlink(target) => Self::Symlink(target.clone()),
            EntryKind::CharacterDevice(major, minor) => Self::CharacterDevice((*major, *minor)),
            EntryKind::BlockDevice(major, minor) => Self::BlockDevice((*major, *minor)),
            EntryKind::Fifo => Self::Fifo,
            EntryKind::Socket => Self::Socket,
        }
    }
}

impl From<wire::Attributes> for Attributes {
    fn from(attributes: wire::Attributes) -> Self {
        let wire::Attributes { mode, uid, gid, mtime, xattrs } = attributes;
        Self { mode, uid, gid, mtime, xattrs }
    }
}

impl From<&Attributes> for wire::Attributes {
    fn from(attributes: &Attributes) -> Self {
        let Attributes { mode, uid, gid, mtime, xattrs } = attributes.clone();
        Self { mode, uid, gid, mtime, xattrs }
    }
}

impl From<wire::Entry> for Entry {
    fn from(entry: wire::Entry) -> Self {
        Self { kind: entry.kind.into(), attributes: entry.attributes.into() }
    }
}

impl From<wire::NamedEntry> for NamedEntry {
    fn from(entry: wire::NamedEntry) -> Self {
        Self { name: entry.name, entry: entry.entry.into(), link_group: entry.link_group }
    }
}

impl From<wire_actions::ActionInput> for ActionInput {
    fn from(input: wire_actions::ActionInput) -> Self {
        match input {
            wire_actions::ActionInput::Scratch => Self::Scratch,
            wire_actions::ActionInput::Input(index) => Self::Input(index),
            wire_actions::ActionInput::Action(index) => Self::Action(index),
        }
    }
}

impl From<wire_actions::Ownership> for Ownership {
    fn from(owner: wire_actions::Ownership) -> Self {
        let principal = |principal| match principal {
            wire_actions::Principal::Id(id) => Principal::Id(id),
            wire_actions::Principal::Name((name, tree)) => Principal::Name(name, tree.into()),
        };
        Self { user: owner.user.map(principal), group: owner.group.map(principal) }
    }
}

impl From<wire_actions::Action> for Action {
    fn from(action: wire_actions::Action) -> Self {
        use wire_actions::ActionKind as Wire;
        let kind = match action.kind {
            Wire::Copy(copy) => ActionKind::Copy(Copy {
                from: copy.from.into(),
                src: copy.src,
                dest: copy.dest,
                owner: copy.owner.map(Ownership::from),
                mode: copy.mode,
                mode_string: copy.mode_string,
                follow_symlink: copy.follow_symlink,
                dir_copy_contents: copy.dir_copy_contents,
                attempt_unpack: copy.attempt_unpack,
                create_dest_path: copy.create_dest_path,
                allow_wildcard: copy.allow_wildcard,
                allow_empty_wildcard: copy.allow_empty_wildcard,
                timestamp: copy.timestamp,
                include_patterns: copy.include_patterns,
                exclude_patterns: copy.exclude_patterns,
                always_replace_existing: copy.always_replace_existing,
                required_paths: copy.required_paths,
            }),
            Wire::Mkfile(make) => ActionKind::MakeFile(MakeFile {
                path: make.path,
                mode: make.mode,
                data: make.data,
                owner: make.owner.map(Ownership::from),
                timestamp: make.timestamp,
            }),
            Wire::Mkdir(make) => ActionKind::MakeDirectory(MakeDirectory {
                path: make.path,
                mode: make.mode,
                make_parents: make.make_parents,
                owner: make.owner.map(Ownership::from),
                timestamp: make.timestamp,
            }),
            Wire::Rm(remove) => ActionKind::Remove(Remove {
                path: remove.path,
                allow_not_found: remove.allow_not_found,
                allow_wildcard: remove.allow_wildcard,
            }),
            Wire::Symlink(make) => ActionKind::MakeSymlink(MakeSymlink {
                oldpath: make.oldpath,
                newpath: make.newpath,
                owner: make.owner.map(Ownership::from),
                timestamp: make.timestamp,
            }),
        };
        Self { input: action.input.into(), kind, output: action.output }
    }
}
