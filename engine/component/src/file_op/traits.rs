//! What file operations need of whoever keeps trees and layers.

use std::any::Any;
use std::io::{Read, Write};
use std::sync::Arc;

use crate::path::TreePath;

/// What kind of thing an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// Regular file of that many bytes.
    Regular(u64),
    /// Directory.
    Directory,
    /// Symlink, with what it says.
    Symlink(Vec<u8>),
    /// Character device, major and minor number.
    CharacterDevice(u32, u32),
    /// Block device, major and minor number.
    BlockDevice(u32, u32),
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
}

/// Owner, permissions, time and extended attributes of an entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits with setuid, setgid and sticky: at most 07777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time in nanoseconds since 1970.
    pub mtime: i64,
    /// Extended attributes, sorted by name.
    pub xattrs: Vec<(String, Vec<u8>)>,
}

/// An entry of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Kind.
    pub kind: EntryKind,
    /// Attributes.
    pub attributes: Attributes,
}

/// An entry with its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedEntry {
    /// Base name: any bytes but `/` and NUL.
    pub name: Vec<u8>,
    /// The entry.
    pub entry: Entry,
    /// Entries of the same tree with the same number are hard links of one file.
    pub link_group: Option<u64>,
}

/// What a copy changes of everything that it copies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttributeChanges {
    /// New owner.
    pub uid: Option<u32>,
    /// New group.
    pub gid: Option<u32>,
    /// New modification time in nanoseconds since 1970.
    pub mtime: Option<i64>,
}

/// Why a tree or a layer could not do what it was asked. The component is told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// Nothing is at this path.
    #[error("`{0}` does not exist")]
    NotFound(String),
    /// What is at this path is of the wrong kind. Also for a symlink in the middle of a path:
    /// paths are not resolved here.
    #[error("wrong kind of file: {0}")]
    WrongKind(String),
    /// An argument is not valid.
    #[error("{0}")]
    Invalid(String),
    /// Reading or writing failed.
    #[error("{0}")]
    Io(String),
}

/// A read-only file tree. Symlinks are *not* followed. [`Any`] is there so that whoever
/// implements [`Layer::put_file`] can get the concrete type back: `(source as &dyn Any)`.
pub trait Tree: Any + Send + Sync {
    /// Looks at a path; `None` when nothing is there.
    ///
    /// # Errors
    /// When the tree cannot be read.
    fn stat(&self, path: &TreePath) -> Result<Option<Entry>, TreeError>;

    /// Lists a directory, sorted by the bytes of the names.
    ///
    /// # Errors
    /// When the path is not a directory.
    fn list(&self, path: &TreePath) -> Result<Vec<NamedEntry>, TreeError>;

    /// What a symlink says.
    ///
    /// # Errors
    /// When the path is not a symlink.
    fn read_link(&self, path: &TreePath) -> Result<Vec<u8>, TreeError>;

    /// Opens a regular file.
    ///
    /// # Errors
    /// When the path is not a regular file.
    fn open(&self, path: &TreePath) -> Result<Box<dyn Read + Send>, TreeError>;
}

/// Starts layers.
pub trait LayerFactory: Send + Sync {
    /// A layer without edits on top of `base`; `None` is an empty tree.
    ///
    /// # Errors
    /// A reason that ends the whole operation.
    fn new_layer(&self, base: Option<&Arc<dyn Tree>>) -> Result<Box<dyn Layer>, TreeError>;
}

/// A layer in the making: edits on top of a tree. The parent directory of a path must exist in
/// the view. What is in the way is replaced, but a directory over a directory only changes the
/// attributes. A `Box<dyn Layer>` becomes a `Box<dyn Any>`, and so the concrete type, again.
pub trait Layer: Any + Send {
    /// A live view of the base with the edits so far, also with those that come later.
    ///
    /// # Errors
    /// A reason that ends the whole operation.
    fn view(&self) -> Result<Arc<dyn Tree>, TreeError>;

    /// A copy that is edited on its own from here on.
    ///
    /// # Errors
    /// A reason that ends the whole operation.
    fn fork(&self) -> Result<Box<dyn Layer>, TreeError>;

    /// Puts a regular file by reference: its bytes stay where they are. `source` came from
    /// this operation's inputs, or from [`Layer::view`] of one of its layers.
    ///
    /// # Errors
    /// When the source is no regular file, or the path's parent no directory.
    fn put_file(
        &mut self,
        path: &TreePath,
        source: &Arc<dyn Tree>,
        source_path: &TreePath,
        attributes: Attributes,
    ) -> Result<(), TreeError>;

    /// Puts everything that the directory `source_path` has in it into the directory `path`, which
    /// must be empty, by reference. Where the source comes from: as for [`Layer::put_file`]. Hard
    /// links among it stay hard links of each other.
    ///
    /// # Errors
    /// When the source or `path` is no directory, `path` not empty, or the source nests too deep.
    fn put_contents(
        &mut self,
        path: &TreePath,
        source: &Arc<dyn Tree>,
        source_path: &TreePath,
        changes: AttributeChanges,
    ) -> Result<(), TreeError>;

    /// Puts a regular file with these bytes.
    ///
    /// # Errors
    /// When the path's parent is no directory, or writing fails.
    fn put_bytes(
        &mut self,
        path: &TreePath,
        data: &[u8],
        attributes: Attributes,
    ) -> Result<(), TreeError>;

    /// Puts a regular file whose bytes follow.
    ///
    /// # Errors
    /// When the path's parent is no directory, or writing fails.
    fn put_stream(
        &mut self,
        path: &TreePath,
        attributes: Attributes,
    ) -> Result<Box<dyn FileWriter>, TreeError>;

    /// Makes a directory, or changes the attributes of the one that is there.
    ///
    /// # Errors
    /// When the path's parent is no directory.
    fn put_directory(&mut self, path: &TreePath, attributes: Attributes) -> Result<(), TreeError>;

    /// Puts a symlink, device, pipe or socket; `kind` is neither a regular file nor a directory.
    ///
    /// # Errors
    /// When the path's parent is no directory.
    fn put_special(
        &mut self,
        path: &TreePath,
        kind: EntryKind,
        attributes: Attributes,
    ) -> Result<(), TreeError>;

    /// Makes `path` another name of the regular file `existing` of the view.
    ///
    /// # Errors
    /// When `existing` is no regular file, or the path's parent no directory.
    fn put_hard_link(&mut self, path: &TreePath, existing: &TreePath) -> Result<(), TreeError>;

    /// Removes a path with all below it.
    ///
    /// # Errors
    /// When nothing is there.
    fn remove(&mut self, path: &TreePath) -> Result<(), TreeError>;
}

/// Takes the bytes of one file of a layer. Dropped without `finish`, it leaves no file.
pub trait FileWriter: Write + Send {
    /// Puts the file with the bytes so far.
    ///
    /// # Errors
    /// When writing fails.
    fn finish(self: Box<Self>) -> Result<(), TreeError>;
}
