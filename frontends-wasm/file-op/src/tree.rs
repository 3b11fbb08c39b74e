//! What file ops work on: trees to read from and layers to write to, with their plain data.
//!
//! The traits say what `cofferdam:file-op/tree` and `/layer` say; the host implements them behind
//! the component boundary, tests implement them in memory.

/// What kind of thing an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// Regular file of that many bytes.
    Regular(u64),
    /// Directory.
    Directory,
    /// Symlink, with what it says.
    Symlink(String),
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
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Permission bits with setuid, setgid and sticky.
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

/// What a copy changes of everything that it copies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AttributeChanges {
    /// New owner.
    pub uid: Option<u32>,
    /// New group.
    pub gid: Option<u32>,
    /// New modification time in nanoseconds since 1970.
    pub mtime: Option<i64>,
}

impl Attributes {
    /// Adds the extended attributes that only the existing directory has: putting one over it
    /// sets attributes, and removes none.
    pub(crate) fn keep_xattrs(&mut self, existing: &Self) {
        for (name, value) in &existing.xattrs {
            if let Err(at) = self.xattrs.binary_search_by(|(other, _)| other.cmp(name)) {
                self.xattrs.insert(at, (name.clone(), value.clone()));
            }
        }
    }
}

/// An entry of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Kind.
    pub kind: EntryKind,
    /// Attributes.
    pub attributes: Attributes,
}

impl Entry {
    pub(crate) fn is_directory(&self) -> bool {
        self.kind == EntryKind::Directory
    }
}

/// An entry with its name, as a listing has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedEntry {
    /// Base name.
    pub name: String,
    /// The entry.
    pub entry: Entry,
    /// Entries of the same tree with the same number are hard links of one file.
    pub link_group: Option<u64>,
}

/// Why the host did not do what a call asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The path does not exist.
    #[error("{0:?}: not found")]
    NotFound(String),
    /// The path is there, and is of the wrong kind.
    #[error("{0:?}: wrong kind of file")]
    WrongKind(String),
    /// The path or another argument is not valid.
    #[error("invalid argument: {0}")]
    Invalid(String),
    /// The host could not read or write.
    #[error("{0}")]
    Io(String),
}

/// A read-only file tree. Paths are absolute; symlinks are not followed.
pub trait Tree {
    /// Reads one file.
    type Reader: Reader;
    /// Looks at a path; `None` when nothing is there.
    ///
    /// # Errors
    /// [`Fault::WrongKind`] for a path through something that is no directory.
    fn stat(&self, path: &str) -> Result<Option<Entry>, Fault>;
    /// Lists a directory, sorted by name.
    ///
    /// # Errors
    /// When the path is not a directory.
    fn list(&self, path: &str) -> Result<Vec<NamedEntry>, Fault>;
    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// When the path is not a regular file.
    fn open(&self, path: &str) -> Result<Self::Reader, Fault>;
}

/// Reads a file from its beginning to its end.
pub trait Reader {
    /// Reads up to `max` bytes; an empty list is the end.
    ///
    /// # Errors
    /// When the host cannot read.
    fn read(&mut self, max: u32) -> Result<Vec<u8>, Fault>;
}

/// A new layer: edits on top of a tree. Parent directories must exist. What is in the way is
/// replaced; a directory over a directory only changes the attributes.
pub trait Layer: Sized {
    /// The trees that this layer goes with.
    type Tree: Tree;
    /// Takes the bytes of one file.
    type Writer: Writer;
    /// Starts a layer on `base`; `None` is an empty tree.
    fn new(base: Option<&Self::Tree>) -> Self;
    /// A live, read-only view of the base with the edits made so far.
    fn view(&self) -> Self::Tree;
    /// A copy that can be edited on its own from here on.
    fn fork(&self) -> Self;
    /// Puts a regular file by reference: its bytes stay where they are.
    ///
    /// # Errors
    /// When the source is no regular file, or `path` cannot be made.
    fn put_file(
        &self,
        path: &str,
        source: &Self::Tree,
        source_path: &str,
        attributes: &Attributes,
    ) -> Result<(), Fault>;
    /// Puts everything that a directory of a tree has in it into the directory `path`, which must
    /// be empty: files by reference. Hard links among them stay hard links of each other.
    ///
    /// # Errors
    /// When one of both is no directory, `path` is not empty, or the source nests too deep.
    fn put_contents(
        &self,
        path: &str,
        source: &Self::Tree,
        source_path: &str,
        changes: &AttributeChanges,
    ) -> Result<(), Fault>;
    /// Puts a regular file with these bytes.
    ///
    /// # Errors
    /// When `path` cannot be made.
    fn put_bytes(&self, path: &str, data: &[u8], attributes: &Attributes) -> Result<(), Fault>;
    /// Puts a regular file whose bytes follow.
    ///
    /// # Errors
    /// When `path` cannot be made.
    fn put_stream(&self, path: &str, attributes: &Attributes) -> Result<Self::Writer, Fault>;
    /// Makes a directory, or changes the attributes of the one that is there.
    ///
    /// # Errors
    /// When `path` cannot be made.
    fn put_directory(&self, path: &str, attributes: &Attributes) -> Result<(), Fault>;
    /// Puts a symlink, device, pipe or socket.
    ///
    /// # Errors
    /// When `path` cannot be made.
    fn put_special(
        &self,
        path: &str,
        kind: &EntryKind,
        attributes: &Attributes,
    ) -> Result<(), Fault>;
    /// Makes `path` another name of the regular file `existing` of this layer's view.
    ///
    /// # Errors
    /// When `existing` is no regular file, or `path` cannot be made.
    fn put_hard_link(&self, path: &str, existing: &str) -> Result<(), Fault>;
    /// Removes a path with all below it.
    ///
    /// # Errors
    /// When the path does not exist.
    fn remove(&self, path: &str) -> Result<(), Fault>;
}

/// Takes the bytes of one file.
pub trait Writer {
    /// Appends bytes.
    ///
    /// # Errors
    /// When the host cannot write.
    fn write(&mut self, data: &[u8]) -> Result<(), Fault>;
    /// Ends the file; without this call the file does not come to be.
    ///
    /// # Errors
    /// When the host cannot write.
    fn finish(self) -> Result<(), Fault>;
}
