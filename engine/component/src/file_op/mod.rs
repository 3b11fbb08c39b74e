//! Runs the file-op component: a pure function from trees to layers.
//!
//! The component decides what happens; the bytes stay with the implementer of [`Tree`] and
//! [`Layer`], who is asked for single edits. Paths and names are checked on the way.

mod actions;
mod host;
mod traits;

use std::sync::Arc;

use cofferdam_llb::FileOp;
use wasmtime::component::HasSelf;

pub use self::traits::{
    AttributeChanges, Attributes, Entry, EntryKind, FileWriter, Layer, LayerFactory, NamedEntry,
    Tree, TreeError,
};
use crate::error::Error;
use crate::limits::Limits;
use crate::runtime::{Component, Kind, State, Tick};

pub(crate) mod bindings {
    //! What Wasmtime makes of the WIT.

    wasmtime::component::bindgen!({
        path: "../../wit/file-op",
        world: "cofferdam:file-op/file-op",
        imports: { default: trappable },
        exports: { default: async },
        with: {
            "cofferdam:file-op/tree.tree": super::host::TreeHandle,
            "cofferdam:file-op/tree.reader": super::host::ReaderHandle,
            "cofferdam:file-op/layer.layer": super::host::LayerHandle,
            "cofferdam:file-op/layer.writer": super::host::WriterHandle,
        },
    });
}

const KIND: Kind = Kind {
    plural: "file operations",
    world: "cofferdam:file-op/file-op@0.1.0",
    imports: &[
        "cofferdam:file-op/actions@0.1.0",
        "cofferdam:file-op/layer@0.1.0",
        "cofferdam:file-op/tree@0.1.0",
        "cofferdam:file-op/types@0.1.0",
    ],
};

/// A component that does file operations. Cheap to clone.
#[derive(Clone)]
pub struct FileOps {
    component: Component,
    pre: bindings::FileOpPre<State<host::FileOpHost>>,
    limits: Limits,
}

impl FileOps {
    /// Takes a component for what it is said to be.
    ///
    /// # Errors
    /// [`Error::ForbiddenImport`] or [`Error::WrongWorld`].
    pub fn new(component: Component) -> Result<Self, Error> {
        component.check_imports(&KIND)?;
        let wrong = |error: wasmtime::Error| component.wrong_world(&KIND, &error);
        let mut linker = component.linker().map_err(wrong)?;
        bindings::FileOp::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)
            .map_err(wrong)?;
        let pre = linker.instantiate_pre(&component.code).map_err(wrong)?;
        let pre = bindings::FileOpPre::new(pre).map_err(wrong)?;
        let limits = component.runtime.limits().clone();
        Ok(Self { component, pre, limits })
    }

    /// Sets other limits than the runtime's.
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// The component.
    pub fn component(&self) -> &Component {
        &self.component
    }

    /// Applies the actions of `op` to `inputs` and returns one layer for each output, in the
    /// order of the outputs. `now` is the time, in nanoseconds since 1970, for what has no
    /// timestamp of its own. Blocks: the implementers of the traits read and write meanwhile.
    ///
    /// # Errors
    /// [`Error::FileAction`] when an action cannot be done, or what stopped the component.
    pub fn apply(
        &self,
        op: &FileOp,
        inputs: Vec<Arc<dyn Tree>>,
        now: i64,
        layers: Arc<dyn LayerFactory>,
    ) -> Result<Vec<Box<dyn Layer>>, Error> {
        let name = self.component.name.clone();
        let log: crate::wasi::LogSink =
            Arc::new(move |_, line| tracing::debug!(component = &*name, "{line}"));
        let host = host::FileOpHost { layers };
        let mut store = self.component.store(host, &self.limits, log, Tick::GoOn);
        let outputs = op.actions.iter().filter(|action| action.output.is_some()).count();
        let actions = actions::to_wit(op, inputs.len())?;
        // Nothing that this component imports ever waits, so that this is one long poll.
        let result = futures::executor::block_on(async {
            let inputs = inputs
                .into_iter()
                .map(|tree| Ok(store.data_mut().table.push(host::TreeHandle(tree))?))
                .collect::<wasmtime::Result<Vec<_>>>()?;
            let instance = self.pre.instantiate_async(&mut store).await?;
            instance.call_apply(&mut store, &actions, &inputs, now).await
        });
        let made = match result {
            Ok(Ok(made)) => made,
            Ok(Err(error)) => {
                return Err(Error::FileAction {
                    action: error.action as usize,
                    message: error.message,
                    not_found: error.not_found,
                });
            }
            Err(error) => return Err(self.component.classify(&error, &self.limits)),
        };
        let invalid = |reason: String| Error::InvalidResult {
            component: self.component.name().to_owned(),
            reason,
        };
        if made.len() != outputs {
            return Err(invalid(format!("{} layers, expected {outputs}", made.len())));
        }
        let table = &mut store.data_mut().table;
        made.into_iter()
            .map(|layer| Ok(table.delete(layer).map_err(|error| invalid(error.to_string()))?.0))
            .collect()
    }
}
