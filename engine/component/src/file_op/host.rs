//! Answers the calls of the file-op component: `tree` and `layer`.
//!
//! Paths become [`TreePath`]s and attributes are checked here; an invalid one is the guest's
//! mistake, and it is told.

use std::io::{Read, Write};
use std::sync::Arc;

use wasmtime::component::Resource;

use super::bindings::cofferdam::file_op::{actions, layer, tree, types};
use super::traits::{
    AttributeChanges, Attributes, Entry, EntryKind, FileWriter, Layer, LayerFactory, NamedEntry,
    Tree, TreeError,
};
use crate::error::Stop;
use crate::path::{TreePath, decode_name, encode_name};
use crate::runtime::State;

/// Most bytes that one `read` returns.
const MAX_READ: u32 = 1 << 20;
/// Most extended attributes of one entry, and bytes of one of them, as Linux has it.
const MAX_XATTR: usize = 64 << 10;

pub(crate) struct FileOpHost {
    pub(super) layers: Arc<dyn LayerFactory>,
}

pub struct TreeHandle(pub(super) Arc<dyn Tree>);
pub struct ReaderHandle(Box<dyn Read + Send>);
pub struct LayerHandle(pub(super) Box<dyn Layer>);
/// Empty once the file is finished.
pub struct WriterHandle(Option<Box<dyn FileWriter>>);

type Guest = State<FileOpHost>;
type Answer<T> = wasmtime::Result<Result<T, types::Error>>;

fn path(text: &str) -> Result<TreePath, types::Error> {
    TreePath::parse(text).map_err(|error| types::Error::Invalid(error.to_string()))
}

fn io_error(error: std::io::Error) -> types::Error {
    types::Error::Io(error.to_string())
}

impl From<TreeError> for types::Error {
    fn from(error: TreeError) -> Self {
        match error {
            TreeError::NotFound(what) => Self::NotFound(what),
            TreeError::WrongKind(what) => Self::WrongKind(what),
            TreeError::Invalid(what) => Self::Invalid(what),
            TreeError::Io(what) => Self::Io(what),
        }
    }
}

/// For calls that have no error of their own: the operation ends.
fn stop(error: TreeError) -> wasmtime::Error {
    Stop::Host(error.to_string()).into()
}

impl From<Entry> for types::Entry {
    fn from(Entry { kind, attributes }: Entry) -> Self {
        let kind = match kind {
            EntryKind::Regular(size) => types::EntryKind::Regular(size),
            EntryKind::Directory => types::EntryKind::Directory,
            EntryKind::Symlink(target) => {
                types::EntryKind::Symlink(encode_name(&target).into_owned())
            }
            EntryKind::CharacterDevice(major, minor) => {
                types::EntryKind::CharacterDevice((major, minor))
            }
            EntryKind::BlockDevice(major, minor) => types::EntryKind::BlockDevice((major, minor)),
            EntryKind::Fifo => types::EntryKind::Fifo,
            EntryKind::Socket => types::EntryKind::Socket,
        };
        let Attributes { mode, uid, gid, mtime, xattrs } = attributes;
        Self { kind, attributes: types::Attributes { mode, uid, gid, mtime, xattrs } }
    }
}

impl TryFrom<types::Attributes> for Attributes {
    type Error = types::Error;

    fn try_from(attributes: types::Attributes) -> Result<Self, types::Error> {
        let types::Attributes { mode, uid, gid, mtime, mut xattrs } = attributes;
        if mode > 0o7777 {
            let message = format!("mode {mode:o}: expected permission bits, at most 7777");
            return Err(types::Error::Invalid(message));
        }
        let valid = |(name, value): &(String, Vec<u8>)| {
            !name.is_empty()
                && name.len() <= 255
                && !name.contains('\0')
                && value.len() <= MAX_XATTR
        };
        if !xattrs.iter().all(valid) || xattrs.len() > MAX_XATTR {
            return Err(types::Error::Invalid("extended attributes: too long or too many".into()));
        }
        xattrs.sort();
        Ok(Self { mode, uid, gid, mtime, xattrs })
    }
}

/// Checks what `put-special` is given.
fn special(kind: types::EntryKind) -> Result<EntryKind, types::Error> {
    match kind {
        types::EntryKind::Symlink(target) => {
            if target.is_empty() || target.len() > 4095 || target.contains('\0') {
                let message = "symlink: expected 1 to 4095 bytes without NUL";
                return Err(types::Error::Invalid(message.into()));
            }
            Ok(EntryKind::Symlink(decode_name(&target).into_owned()))
        }
        types::EntryKind::CharacterDevice((major, minor)) => {
            Ok(EntryKind::CharacterDevice(major, minor))
        }
        types::EntryKind::BlockDevice((major, minor)) => Ok(EntryKind::BlockDevice(major, minor)),
        types::EntryKind::Fifo => Ok(EntryKind::Fifo),
        types::EntryKind::Socket => Ok(EntryKind::Socket),
        types::EntryKind::Regular(_) | types::EntryKind::Directory => {
            let message = "put-special: expected a symlink, device, pipe or socket";
            Err(types::Error::Invalid(message.into()))
        }
    }
}

impl types::Host for Guest {}
impl actions::Host for Guest {}
impl tree::Host for Guest {}
impl layer::Host for Guest {}

impl tree::HostTree for Guest {
    fn stat(&mut self, this: Resource<TreeHandle>, text: String) -> Answer<Option<types::Entry>> {
        let tree = self.table.get(&this)?;
        Ok(path(&text).and_then(|path| Ok(tree.0.stat(&path)?.map(Into::into))))
    }

    fn list(&mut self, this: Resource<TreeHandle>, text: String) -> Answer<Vec<types::NamedEntry>> {
        let tree = self.table.get(&this)?;
        let named = |NamedEntry { name, entry, link_group }| types::NamedEntry {
            name: match encode_name(&name) {
                std::borrow::Cow::Owned(name) => name,
                std::borrow::Cow::Borrowed(_) => {
                    String::from_utf8(name).expect("a name that is borrowed as text is UTF-8")
                }
            },
            entry: entry.into(),
            link_group,
        };
        Ok(path(&text).and_then(|path| Ok(tree.0.list(&path)?.into_iter().map(named).collect())))
    }

    fn read_link(&mut self, this: Resource<TreeHandle>, text: String) -> Answer<String> {
        let tree = self.table.get(&this)?;
        Ok(path(&text).and_then(|path| Ok(encode_name(&tree.0.read_link(&path)?).into_owned())))
    }

    fn open(&mut self, this: Resource<TreeHandle>, text: String) -> Answer<Resource<ReaderHandle>> {
        let tree = self.table.get(&this)?;
        match path(&text).and_then(|path| Ok(tree.0.open(&path)?)) {
            Ok(reader) => Ok(Ok(self.table.push(ReaderHandle(reader))?)),
            Err(error) => Ok(Err(error)),
        }
    }

    fn drop(&mut self, this: Resource<TreeHandle>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

impl tree::HostReader for Guest {
    fn read(&mut self, this: Resource<ReaderHandle>, max: u32) -> Answer<Vec<u8>> {
        let reader = self.table.get_mut(&this)?;
        let max = max.min(MAX_READ);
        let mut data = Vec::with_capacity(max as usize);
        let result = (&mut reader.0).take(u64::from(max)).read_to_end(&mut data);
        if !data.is_empty() {
            self.meter.progressed();
        }
        Ok(result.map(|_| data).map_err(io_error))
    }

    fn drop(&mut self, this: Resource<ReaderHandle>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

impl Guest {
    /// Does one edit of a layer.
    fn edit(
        &mut self,
        this: &Resource<LayerHandle>,
        text: &str,
        edit: impl FnOnce(&mut dyn Layer, &TreePath) -> Result<(), types::Error>,
    ) -> Answer<()> {
        let layer = self.table.get_mut(this)?;
        let result = path(text).and_then(|path| edit(&mut *layer.0, &path));
        Ok(result)
    }
}

impl layer::HostLayer for Guest {
    fn new(
        &mut self,
        base: Option<Resource<TreeHandle>>,
    ) -> wasmtime::Result<Resource<LayerHandle>> {
        let base = base.map(|base| self.table.get(&base)).transpose()?.map(|tree| &tree.0);
        let layer = self.host.layers.new_layer(base).map_err(stop)?;
        Ok(self.table.push(LayerHandle(layer))?)
    }

    fn view(&mut self, this: Resource<LayerHandle>) -> wasmtime::Result<Resource<TreeHandle>> {
        let view = self.table.get(&this)?.0.view().map_err(stop)?;
        Ok(self.table.push(TreeHandle(view))?)
    }

    fn fork(&mut self, this: Resource<LayerHandle>) -> wasmtime::Result<Resource<LayerHandle>> {
        let fork = self.table.get(&this)?.0.fork().map_err(stop)?;
        Ok(self.table.push(LayerHandle(fork))?)
    }

    fn put_file(
        &mut self,
        this: Resource<LayerHandle>,
        text: String,
        source: Resource<TreeHandle>,
        source_text: String,
        attributes: types::Attributes,
    ) -> Answer<()> {
        let source = self.table.get(&source)?.0.clone();
        self.edit(&this, &text, |layer, to| {
            let from = path(&source_text)?;
            Ok(layer.put_file(to, &source, &from, attributes.try_into()?)?)
        })
    }

    fn put_contents(
        &mut self,
        this: Resource<LayerHandle>,
        text: String,
        source: Resource<TreeHandle>,
        source_text: String,
        changes: types::AttributeChanges,
    ) -> Answer<()> {
        let types::AttributeChanges { uid, gid, mtime } = changes;
        let source = self.table.get(&source)?.0.clone();
        let result = self.edit(&this, &text, |layer, to| {
            let from = path(&source_text)?;
            Ok(layer.put_contents(to, &source, &from, AttributeChanges { uid, gid, mtime })?)
        });
        self.meter.progressed();
        result
    }

    fn put_bytes(
        &mut self,
        this: Resource<LayerHandle>,
        text: String,
        data: Vec<u8>,
        attributes: types::Attributes,
    ) -> Answer<()> {
        self.edit(&this, &text, |layer, path| {
            Ok(layer.put_bytes(path, &data, attributes.try_into()?)?)
        })
    }

    fn put_stream(
        &mut self,
        this: Resource<LayerHandle>,
        text: String,
        attributes: types::Attributes,
    ) -> Answer<Resource<WriterHandle>> {
        let layer = self.table.get_mut(&this)?;
        let writer =
            path(&text).and_then(|path| Ok(layer.0.put_stream(&path, attributes.try_into()?)?));
        match writer {
            Ok(writer) => Ok(Ok(self.table.push(WriterHandle(Some(writer)))?)),
            Err(error) => Ok(Err(error)),
        }
    }

    fn put_directory(
        &mut self,
        this: Resource<LayerHandle>,
        text: String,
        attributes: types::Attributes,
    ) -> Answer<()> {
        self.edit(
            &this,
            &text,
            |layer, path| Ok(layer.put_directory(path, attributes.try_into()?)?),
        )
    }

    fn put_special(
        &mut self,
        this: Resource<LayerHandle>,
        text: String,
        kind: types::EntryKind,
        attributes: types::Attributes,
    ) -> Answer<()> {
        self.edit(&this, &text, |layer, path| {
            Ok(layer.put_special(path, special(kind)?, attributes.try_into()?)?)
        })
    }

    fn put_hard_link(
        &mut self,
        this: Resource<LayerHandle>,
        text: String,
        existing: String,
    ) -> Answer<()> {
        self.edit(&this, &text, |layer, to| Ok(layer.put_hard_link(to, &path(&existing)?)?))
    }

    fn remove(&mut self, this: Resource<LayerHandle>, text: String) -> Answer<()> {
        self.edit(&this, &text, |layer, path| Ok(layer.remove(path)?))
    }

    fn drop(&mut self, this: Resource<LayerHandle>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

impl layer::HostWriter for Guest {
    fn write(&mut self, this: Resource<WriterHandle>, data: Vec<u8>) -> Answer<()> {
        Ok(match &mut self.table.get_mut(&this)?.0 {
            Some(writer) => writer.write_all(&data).map_err(io_error),
            None => Err(types::Error::Invalid("write: the file is finished".into())),
        })
    }

    fn finish(&mut self, this: Resource<WriterHandle>) -> Answer<()> {
        Ok(match self.table.get_mut(&this)?.0.take() {
            Some(writer) => writer.finish().map_err(Into::into),
            None => Err(types::Error::Invalid("finish: the file is finished".into())),
        })
    }

    fn drop(&mut self, this: Resource<WriterHandle>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}
