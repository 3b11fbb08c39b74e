//! Trees and layers of the store, as the file-op component sees them.

use std::any::Any;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cofferdam_component::{
    AttributeChanges, Attributes, Entry, EntryKind, FileWriter, Layer, LayerFactory, NamedEntry,
    Tree, TreeError, TreePath,
};
use cofferdam_store::{
    Found, LayerBuilder, LinkGroup, Node, NodeKind, PackWriter, Regular, SharedPackWriter, Store,
};

use crate::Error;

/// A tree of the store.
pub(crate) struct StoreTree(cofferdam_store::Tree);

impl StoreTree {
    pub(crate) fn new(tree: cofferdam_store::Tree) -> Self {
        Self(tree)
    }

    pub(crate) fn shared(self) -> Arc<dyn Tree> {
        Arc::new(self)
    }
}

impl Tree for StoreTree {
    fn stat(&self, path: &TreePath) -> Result<Option<Entry>, TreeError> {
        Ok(self.0.get(path.as_bytes()).map(|found| entry(&found)))
    }

    fn list(&self, path: &TreePath) -> Result<Vec<NamedEntry>, TreeError> {
        list(self.0.get(path.as_bytes()), path)
    }

    fn read_link(&self, path: &TreePath) -> Result<Vec<u8>, TreeError> {
        read_link(self.0.get(path.as_bytes()), path)
    }

    fn open(&self, path: &TreePath) -> Result<Box<dyn Read + Send>, TreeError> {
        open(self.0.store(), self.0.get(path.as_bytes()), path)
    }
}

/// Starts layers of the store.
pub(crate) struct Factory {
    pub(crate) store: Store,
}

impl LayerFactory for Factory {
    fn new_layer(&self, base: Option<&Arc<dyn Tree>>) -> Result<Box<dyn Layer>, TreeError> {
        let builder = match base {
            None => LayerBuilder::new(None),
            Some(base) => {
                let any: &dyn Any = &**base;
                if let Some(tree) = any.downcast_ref::<StoreTree>() {
                    LayerBuilder::new(Some(tree.0.clone()))
                } else if let Some(view) = any.downcast_ref::<View>() {
                    view.lock().clone()
                } else {
                    return Err(TreeError::Invalid("a tree of another operation".into()));
                }
            }
        };
        Ok(Box::new(StoreLayer::new(self.store.clone(), builder)))
    }
}

/// A layer in the making.
pub(crate) struct StoreLayer {
    store: Store,
    builder: Arc<Mutex<LayerBuilder>>,
    pack: Arc<SharedPackWriter>,
}

impl StoreLayer {
    fn new(store: Store, builder: LayerBuilder) -> Self {
        let pack = Arc::new(store.new_pack());
        Self { store, builder: Arc::new(Mutex::new(builder)), pack }
    }

    /// The manifest of a layer that the component returned.
    pub(crate) fn finish(layer: Box<dyn Layer>) -> Result<Node, Error> {
        let any: Box<dyn Any> = layer;
        let layer = any
            .downcast::<Self>()
            .map_err(|_| Error::Internal("a layer of another operation".into()))?;
        // The component has ended: nobody looks at what it made any more.
        Ok(std::mem::replace(&mut *layer.lock(), LayerBuilder::new(None)).finish())
    }

    fn lock(&self) -> MutexGuard<'_, LayerBuilder> {
        self.builder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Layer for StoreLayer {
    fn view(&self) -> Result<Arc<dyn Tree>, TreeError> {
        Ok(Arc::new(View { store: self.store.clone(), builder: self.builder.clone() }))
    }

    fn fork(&self) -> Result<Box<dyn Layer>, TreeError> {
        Ok(Box::new(Self::new(self.store.clone(), self.lock().clone())))
    }

    fn put_file(
        &mut self,
        path: &TreePath,
        source: &Arc<dyn Tree>,
        source_path: &TreePath,
        attributes: Attributes,
    ) -> Result<(), TreeError> {
        let regular = at(source, source_path, |found| {
            let regular = found.regular().ok_or_else(|| wrong_kind(source_path, "regular file"))?;
            Ok(regular.clone())
        })?;
        let Regular { size, content, digest, link_group: _ } = regular;
        self.lock()
            .put_file(path.as_bytes(), attributes_in(attributes), content, size, digest)
            .map_err(error)
    }

    fn put_contents(
        &mut self,
        path: &TreePath,
        source: &Arc<dyn Tree>,
        source_path: &TreePath,
        changes: AttributeChanges,
    ) -> Result<(), TreeError> {
        let AttributeChanges { uid, gid, mtime } = changes;
        let changes = cofferdam_store::AttributeChanges { uid, gid, mtime };
        let into = self.builder.clone();
        at(source, source_path, |found| {
            if !found.is_directory() {
                return Err(wrong_kind(source_path, "directory"));
            }
            // The view of the layer itself would be locked already.
            let mut into = into
                .try_lock()
                .map_err(|_| TreeError::Invalid("a layer cannot take its own contents".into()))?;
            into.put_contents(path.as_bytes(), found, &changes).map_err(error)
        })
    }

    fn put_bytes(
        &mut self,
        path: &TreePath,
        data: &[u8],
        attributes: Attributes,
    ) -> Result<(), TreeError> {
        let (content, digest) = self.pack.put(data).map_err(error)?;
        let size = data.len() as u64;
        self.lock()
            .put_file(path.as_bytes(), attributes_in(attributes), content, size, Some(digest))
            .map_err(error)
    }

    fn put_stream(
        &mut self,
        path: &TreePath,
        attributes: Attributes,
    ) -> Result<Box<dyn FileWriter>, TreeError> {
        // How long it will be is not known, so it gets a pack of its own.
        let writer = self.store.new_pack().into_stream().map_err(error)?;
        let builder = self.builder.clone();
        Ok(Box::new(Stream { writer, builder, path: path.clone(), attributes }))
    }

    fn put_directory(&mut self, path: &TreePath, attributes: Attributes) -> Result<(), TreeError> {
        self.lock().put_directory(path.as_bytes(), attributes_in(attributes)).map_err(error)
    }

    fn put_special(
        &mut self,
        path: &TreePath,
        kind: EntryKind,
        attributes: Attributes,
    ) -> Result<(), TreeError> {
        let kind = match kind {
            EntryKind::Symlink(target) => NodeKind::Symlink(target),
            EntryKind::CharacterDevice(major, minor) => NodeKind::CharacterDevice(major, minor),
            EntryKind::BlockDevice(major, minor) => NodeKind::BlockDevice(major, minor),
            EntryKind::Fifo => NodeKind::Fifo,
            EntryKind::Socket => NodeKind::Socket,
            EntryKind::Regular(_) | EntryKind::Directory => {
                return Err(wrong_kind(path, "symlink, device, pipe or socket"));
            }
        };
        let node = Node { attributes: attributes_in(attributes), kind };
        self.lock().put(path.as_bytes(), node).map_err(error)
    }

    fn put_hard_link(&mut self, path: &TreePath, existing: &TreePath) -> Result<(), TreeError> {
        self.lock().put_hard_link(path.as_bytes(), existing.as_bytes()).map_err(error)
    }

    fn remove(&mut self, path: &TreePath) -> Result<(), TreeError> {
        self.lock().remove(path.as_bytes()).map_err(error)
    }
}

/// The bytes of a file that the component unpacks.
struct Stream {
    writer: PackWriter,
    builder: Arc<Mutex<LayerBuilder>>,
    path: TreePath,
    attributes: Attributes,
}

impl Write for Stream {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.writer.write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl FileWriter for Stream {
    fn finish(self: Box<Self>) -> Result<(), TreeError> {
        let Self { writer, builder, path, attributes } = *self;
        let (content, size, digest) = writer.finish();
        builder
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .put_file(path.as_bytes(), attributes_in(attributes), content, size, Some(digest))
            .map_err(error)
    }
}

/// The live view of a layer in the making.
struct View {
    store: Store,
    builder: Arc<Mutex<LayerBuilder>>,
}

impl View {
    fn lock(&self) -> MutexGuard<'_, LayerBuilder> {
        self.builder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tree for View {
    fn stat(&self, path: &TreePath) -> Result<Option<Entry>, TreeError> {
        Ok(self.lock().get(path.as_bytes()).map(|found| entry(&found)))
    }

    fn list(&self, path: &TreePath) -> Result<Vec<NamedEntry>, TreeError> {
        list(self.lock().get(path.as_bytes()), path)
    }

    fn read_link(&self, path: &TreePath) -> Result<Vec<u8>, TreeError> {
        read_link(self.lock().get(path.as_bytes()), path)
    }

    fn open(&self, path: &TreePath) -> Result<Box<dyn Read + Send>, TreeError> {
        open(&self.store, self.lock().get(path.as_bytes()), path)
    }
}

/// Does something with what is at a path of an operation's tree.
fn at<T>(
    tree: &Arc<dyn Tree>,
    path: &TreePath,
    look: impl FnOnce(&Found<'_>) -> Result<T, TreeError>,
) -> Result<T, TreeError> {
    let any: &dyn Any = &**tree;
    let look = |found: Option<Found<'_>>| {
        look(&found.ok_or_else(|| TreeError::NotFound(path.to_string()))?)
    };
    if let Some(tree) = any.downcast_ref::<StoreTree>() {
        look(tree.0.get(path.as_bytes()))
    } else if let Some(view) = any.downcast_ref::<View>() {
        look(view.lock().get(path.as_bytes()))
    } else {
        Err(TreeError::Invalid("a tree of another operation".into()))
    }
}

fn entry(found: &Found<'_>) -> Entry {
    let node = found.node();
    let kind = match &node.kind {
        NodeKind::Directory(_) => EntryKind::Directory,
        NodeKind::Regular(regular) => EntryKind::Regular(regular.size),
        NodeKind::Symlink(target) => EntryKind::Symlink(target.clone()),
        NodeKind::CharacterDevice(major, minor) => EntryKind::CharacterDevice(*major, *minor),
        NodeKind::BlockDevice(major, minor) => EntryKind::BlockDevice(*major, *minor),
        NodeKind::Fifo => EntryKind::Fifo,
        // A tree never shows a whiteout.
        NodeKind::Socket | NodeKind::Whiteout => EntryKind::Socket,
    };
    let cofferdam_store::Attributes { mode, uid, gid, mtime, xattrs } = node.attributes.clone();
    Entry { kind, attributes: Attributes { mode, uid, gid, mtime, xattrs } }
}

fn attributes_in(attributes: Attributes) -> cofferdam_store::Attributes {
    let Attributes { mode, uid, gid, mtime, xattrs } = attributes;
    cofferdam_store::Attributes { mode, uid, gid, mtime, xattrs }
}

fn list(found: Option<Found<'_>>, path: &TreePath) -> Result<Vec<NamedEntry>, TreeError> {
    let found = found.ok_or_else(|| TreeError::NotFound(path.to_string()))?;
    if !found.is_directory() {
        return Err(wrong_kind(path, "directory"));
    }
    let children = found.children();
    Ok(children
        .into_iter()
        .map(|child| NamedEntry {
            name: child.name.to_vec(),
            entry: entry(&child.found),
            link_group: child.found.link_group().map(number),
        })
        .collect())
}

/// A number for a group of hard links, as the component knows them.
fn number(LinkGroup { layer, group }: LinkGroup) -> u64 {
    // A layer has fewer files than 2^40, and an image fewer layers than 2^24.
    u64::from(layer) << 40 | group
}

fn read_link(found: Option<Found<'_>>, path: &TreePath) -> Result<Vec<u8>, TreeError> {
    match found.map(|found| &found.node().kind) {
        Some(NodeKind::Symlink(target)) => Ok(target.clone()),
        Some(_) => Err(wrong_kind(path, "symlink")),
        None => Err(TreeError::NotFound(path.to_string())),
    }
}

fn open(
    store: &Store,
    found: Option<Found<'_>>,
    path: &TreePath,
) -> Result<Box<dyn Read + Send>, TreeError> {
    let found = found.ok_or_else(|| TreeError::NotFound(path.to_string()))?;
    let regular = found.regular().ok_or_else(|| wrong_kind(path, "regular file"))?;
    Ok(Box::new(store.open_content(regular).map_err(error)?))
}

fn wrong_kind(path: &TreePath, expected: &str) -> TreeError {
    TreeError::WrongKind(format!("`{path}` is not a {expected}"))
}

fn error(error: cofferdam_store::Error) -> TreeError {
    match error {
        cofferdam_store::Error::NotFound(path) => TreeError::NotFound(path),
        cofferdam_store::Error::WrongKind { .. } => TreeError::WrongKind(error.to_string()),
        cofferdam_store::Error::InvalidPath { .. } => TreeError::Invalid(error.to_string()),
        other => TreeError::Io(other.to_string()),
    }
}
