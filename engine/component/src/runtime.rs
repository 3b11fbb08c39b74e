//! Sets Wasmtime up, loads components, and starts runs of them under limits.
//!
//! What a component may import and how its calls are answered is the business of
//! [`frontend`](crate::frontend) and [`file_op`](crate::file_op).

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use cofferdam_types::Digest;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{self, Linker, ResourceTable};
use wasmtime::{Config, Engine, Store, UpdateDeadline};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use crate::code_cache::CodeCache;
use crate::error::{Error, classify};
use crate::limits::{Limits, Meter, TICK};
use crate::wasi::{self, Clock, LogSink};

/// The part of Wasmtime that all components of a process share. Cheap to clone.
#[derive(Clone)]
pub struct Runtime(Arc<Inner>);

struct Inner {
    engine: Engine,
    limits: Limits,
    cache: CodeCache,
    loaded: Mutex<HashMap<Digest, component::Component>>,
}

/// A compiled component with a name for messages. Cheap to clone.
#[derive(Clone)]
pub struct Component {
    pub(crate) runtime: Runtime,
    pub(crate) name: Arc<str>,
    pub(crate) digest: Digest,
    pub(crate) code: component::Component,
}

/// Bytes of stack for what a guest has the host do; only what is used takes memory. Trees are
/// walked by functions that call themselves, once for each of up to 2048 directories in one another.
const HOST_STACK: usize = 32 << 20;

/// What Wasmtime keeps for one run; `H` is what answers the guest's calls.
pub(crate) struct State<H> {
    pub(crate) table: ResourceTable,
    pub(crate) clock: Clock,
    pub(crate) meter: Meter,
    pub(crate) host: H,
    wasi: WasiCtx,
}

impl<H: Send> WasiView for State<H> {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

/// What happens when a guest has computed for a tick and may go on.
#[derive(Clone, Copy)]
pub(crate) enum Tick {
    /// Other tasks of the same thread come first.
    Yield,
    /// Nothing: the run has its thread for itself.
    GoOn,
}

/// A kind of component: what it is called in messages, and what it may import beside WASI.
pub(crate) struct Kind {
    pub(crate) plural: &'static str,
    pub(crate) world: &'static str,
    pub(crate) imports: &'static [&'static str],
}

impl Runtime {
    /// Sets Wasmtime up. Compiled code is kept in `cache_dir`, which belongs to this process's
    /// user alone. `limits` hold for every component that sets no others.
    ///
    /// # Errors
    /// [`Error::Engine`] when the settings or the machine are not right for Wasmtime.
    pub fn new(cache_dir: Option<PathBuf>, limits: Limits) -> Result<Self, Error> {
        let mut config = Config::new();
        config
            .epoch_interruption(true)
            .concurrency_support(false)
            .max_wasm_stack(limits.stack_bytes)
            // The host's own frames come on top of the guest's.
            .async_stack_size(limits.stack_bytes + HOST_STACK)
            // Results must not depend on the processor.
            .cranelift_nan_canonicalization(true)
            .relaxed_simd_deterministic(true);
        let engine = Engine::new(&config).map_err(|error| Error::Engine(format!("{error:#}")))?;
        let weak = engine.weak();
        std::thread::Builder::new()
            .name("wasm-epoch".into())
            .spawn(move || {
                while let Some(engine) = weak.upgrade() {
                    engine.increment_epoch();
                    drop(engine);
                    std::thread::sleep(TICK);
                }
            })
            .map_err(|error| Error::Engine(format!("cannot start the epoch's thread: {error}")))?;
        let cache = CodeCache::new(cache_dir, &engine);
        Ok(Self(Arc::new(Inner { engine, limits, cache, loaded: Mutex::default() })))
    }

    /// Compiles a component, or finds it compiled. `name` is for messages. Compiling a large
    /// component takes seconds of all cores: call this where blocking is right.
    ///
    /// # Errors
    /// [`Error::Malformed`] or [`Error::ComponentTooLarge`].
    pub fn load(&self, name: &str, bytes: &[u8]) -> Result<Component, Error> {
        let limit = self.0.limits.component_bytes;
        if bytes.len() > limit {
            return Err(Error::ComponentTooLarge {
                component: name.into(),
                size: bytes.len(),
                limit,
            });
        }
        let digest = Digest::of(bytes);
        let loaded = || self.0.loaded.lock().expect("no holder of this lock panics");
        let known = loaded().get(&digest).cloned();
        let code = match known {
            Some(code) => code,
            None => {
                let code = self.0.cache.load(&self.0.engine, digest, bytes).map_err(|error| {
                    Error::Malformed { component: name.into(), reason: format!("{error:#}") }
                })?;
                loaded().insert(digest, code.clone());
                code
            }
        };
        Ok(Component { runtime: self.clone(), name: name.into(), digest, code })
    }

    /// The limits that hold for components which set no others.
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.0.engine
    }
}

impl Component {
    /// The SHA-256 of the component.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The name that messages use.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Checks that the component imports nothing that its kind is not given.
    pub(crate) fn check_imports(&self, kind: &Kind) -> Result<(), Error> {
        let ty = self.code.component_type();
        for (import, item) in ty.imports(self.runtime.engine()) {
            // A world's `use` is an import of a name for a type, which gives nothing.
            let named = matches!(item.ty, ComponentItem::Type(_) | ComponentItem::Resource(_));
            if named && !import.contains(':') {
                continue;
            }
            let (interface, version) = import.split_once('@').unwrap_or((import, ""));
            let allowed = match version.strip_prefix("0.2.") {
                Some(_) => wasi::INTERFACES.contains(&interface),
                None => kind.imports.contains(&import),
            };
            if !allowed {
                return Err(Error::ForbiddenImport {
                    component: self.name.to_string(),
                    import: import.to_owned(),
                    kind: kind.plural,
                });
            }
        }
        Ok(())
    }

    /// An error of linking: names are right by now, so it is the types that do not fit.
    pub(crate) fn wrong_world(&self, kind: &Kind, error: &wasmtime::Error) -> Error {
        Error::WrongWorld {
            component: self.name.to_string(),
            world: kind.world,
            reason: format!("{error:#}"),
        }
    }

    /// A linker with WASI in it.
    pub(crate) fn linker<H: Send + 'static>(&self) -> wasmtime::Result<Linker<State<H>>> {
        let mut linker = Linker::new(self.runtime.engine());
        wasi::add_to_linker(&mut linker)?;
        Ok(linker)
    }

    /// Prepares one run.
    pub(crate) fn store<H: Send + 'static>(
        &self,
        host: H,
        limits: &Limits,
        log: LogSink,
        tick: Tick,
    ) -> Store<State<H>> {
        let mut table = ResourceTable::new();
        table.set_max_capacity(limits.handles);
        let state = State {
            table,
            clock: Clock::default(),
            meter: Meter::new(limits.clone()),
            host,
            wasi: wasi::context(log, limits.log_bytes),
        };
        let mut store = Store::new(self.runtime.engine(), state);
        store.limiter(|state| &mut state.meter);
        store.set_hostcall_fuel(limits.call_bytes);
        store.set_max_component_handles(limits.handles);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(move |mut store| {
            store.data_mut().meter.tick(match tick {
                Tick::Yield => UpdateDeadline::Yield(1),
                Tick::GoOn => UpdateDeadline::Continue(1),
            })
        });
        store
    }

    /// Says what a failed call into this component means.
    pub(crate) fn classify(&self, error: &wasmtime::Error, limits: &Limits) -> Error {
        classify(&self.name, error, limits.call_bytes)
    }
}
