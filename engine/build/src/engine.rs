//! The engine: what all builds of a process share, and the way of one build through the rooms.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use cofferdam_component::{FileOps, Frontend, Limits, Program, Runtime};
use cofferdam_exec_linux::{CdiConfig, Emulators, NetworkConfig, Runner, Streams};
use cofferdam_export::{Owners, PlatformImage};
use cofferdam_registry::{Client, ClientConfig};
use cofferdam_session::Session;
use cofferdam_solver::{Job, Solver};
use cofferdam_source::{GitConfig, GitSource, HttpSource, ImageSource};
use cofferdam_store::Store;
use cofferdam_types::Platform;
use futures::future::try_join_all;
use tokio::sync::OnceCell;
use tokio_util::task::TaskTracker;

use crate::cache::StoreCache;
use crate::failed_step::{self, Entry, FailedStep};
use crate::gateway::Gateway;
use crate::graph::BuildContext;
use crate::logs::{self, Logs};
use crate::progress::{BuildEvent, Sink};
use crate::vertex::{OpVertex, blocking};
use crate::{Error, Failure, FrontendChoice, Request, Resolver, Response, StepExit, export};

/// How an engine is set up. Everything that depends on the user or the machine is passed in.
#[derive(Clone)]
pub struct Config {
    /// The state directory.
    pub root: PathBuf,
    /// The most that the state directory may take on the disk, in bytes.
    pub max_storage: Option<u64>,
    /// How registries are spoken to, and who we are to them.
    pub registries: ClientConfig,
    /// What the git program gets of the user's set-up.
    pub git: GitConfig,
    /// How many ops run at the same time.
    pub parallelism: usize,
    /// How steps find names.
    pub resolver: Resolver,
    /// What network steps get that ask for none by name. The name servers are added to what they
    /// must be able to reach.
    pub network: NetworkConfig,
    /// What this process may do on the machine.
    pub privilege: Privilege,
    /// Where the machine's devices are described, and which every build may have.
    pub cdi: CdiConfig,
    /// Directories in which QEMU is looked for, for steps of other platforms.
    pub qemu_directories: Vec<PathBuf>,
    /// Limits for components.
    pub limits: Limits,
    /// The OCI runtime that runs steps instead of the engine itself: the program's path.
    pub oci_runtime: Option<PathBuf>,
}

/// What a process may do on the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// It is root.
    Root,
    /// It is an ordinary user's, and root of a user namespace: files in the state directory have
    /// the ids of images, and what is written elsewhere belongs to the user.
    Namespace,
    /// It is an ordinary user's: everything works but steps that run on the kernel.
    None {
        /// Why it has no more.
        why: String,
    },
}

impl Privilege {
    /// To whom files belong that are written for the user.
    pub(crate) fn owners(&self) -> Owners {
        match self {
            Self::Root => Owners::Kept,
            Self::Namespace | Self::None { .. } => Owners::Writer,
        }
    }
}

/// Builds. Cloning is cheap; clones share everything.
#[derive(Clone)]
pub struct Engine {
    pub(crate) shared: Arc<Shared>,
    solver: Solver<OpVertex>,
    next: Arc<AtomicU64>,
    /// The threads that write logs.
    log_writers: TaskTracker,
}

/// What the ops of all builds share. What not every build needs is made when first asked for.
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) images: ImageSource,
    pub(crate) client: Client,
    pub(crate) files: HttpSource,
    pub(crate) repositories: GitSource,
    pub(crate) resolver: Resolver,
    network: NetworkConfig,
    pub(crate) privilege: Privilege,
    pub(crate) cdi: CdiConfig,
    pub(crate) emulators: Emulators,
    oci_runtime: Option<PathBuf>,
    runtime: Runtime,
    file_ops: OnceLock<FileOps>,
    runner: OnceCell<Runner>,
}

impl Shared {
    /// The file-op component.
    pub(crate) fn file_ops(&self) -> Result<&FileOps, Error> {
        if let Some(file_ops) = self.file_ops.get() {
            return Ok(file_ops);
        }
        let component = self.runtime.load("file-op", cofferdam_bundle::FILE_OP)?;
        let file_ops = FileOps::new(component)?;
        Ok(self.file_ops.get_or_init(|| file_ops))
    }

    /// The program of a step on `wasi/wasm`.
    pub(crate) fn load_program(&self, name: &str, bytes: &[u8]) -> Result<Program, Error> {
        Ok(self.runtime.load_program(name, bytes)?)
    }

    /// The most bytes that such a program may have.
    pub(crate) fn program_bytes(&self) -> usize {
        self.runtime.limits().component_bytes
    }

    /// Makes sure that steps can be run, as far as that is known.
    pub(crate) fn check_steps(&self) -> Result<(), Error> {
        match &self.privilege {
            Privilege::Root | Privilege::Namespace => Ok(()),
            Privilege::None { why } => Err(Error::NoSteps(why.clone())),
        }
    }

    /// What runs steps.
    pub(crate) async fn runner(&self) -> Result<&Runner, Error> {
        let (state_dir, emulators) = (self.store.fresh_tmp("exec"), self.emulators.clone());
        let network = self.network.clone();
        let oci_runtime = self.oci_runtime.clone();
        self.runner
            .get_or_try_init(|| {
                blocking(move || {
                    let config = cofferdam_exec_linux::Config {
                        program: None,
                        oci_runtime,
                        cgroup_parent: "cofferdam".to_owned(),
                        state_dir,
                        network,
                        emulators,
                    };
                    Runner::new(config).map_err(|source| Error::Sandbox {
                        command: "set up".into(),
                        source,
                        kept: false,
                    })
                })
            })
            .await
    }
}

impl Engine {
    /// Opens the state directory and gets ready to build.
    ///
    /// # Errors
    /// When the state directory cannot be used.
    pub fn open(config: Config) -> Result<Self, Error> {
        let store = Store::open_with_limit(&config.root, config.max_storage)?;
        let runtime = Runtime::new(Some(store.compiled_dir()), config.limits)?;
        let client = Client::new(config.registries);
        let cache = Arc::new(StoreCache(store.clone()));
        let mut network = config.network;
        network.avoid.extend(config.resolver.reachable_nameservers());
        Ok(Self {
            shared: Arc::new(Shared {
                images: ImageSource::new(store.clone()),
                files: HttpSource::new(store.clone(), client.clone()),
                repositories: GitSource::new(store.clone(), config.git),
                store,
                client,
                resolver: config.resolver,
                network,
                privilege: config.privilege,
                cdi: config.cdi,
                emulators: Emulators::new(config.qemu_directories),
                oci_runtime: config.oci_runtime,
                runtime,
                file_ops: OnceLock::new(),
                runner: OnceCell::new(),
            }),
            solver: Solver::new(cache, config.parallelism),
            next: Arc::default(),
            log_writers: TaskTracker::new(),
        })
    }

    /// Runs one build from the request to its exports. Dropping the future cancels what no other
    /// build waits for.
    ///
    /// # Errors
    /// What went wrong first, with the step and the lines of the source that it is about.
    pub async fn build(
        &self,
        request: Request,
        session: Arc<dyn Session>,
        sink: Sink,
    ) -> Result<Response, Failure> {
        let directory = self.shared.store.root().join("logs");
        let limits = logs::Limits::default();
        let (logs, sink) = Logs::start(directory, limits, sink, &self.log_writers);
        let result = self.build_with(request, session, sink).await;
        let mut kept = logs.close().await;
        match result {
            Ok(response) => Ok(Response { logs: kept.directory, ..response }),
            Err(failure) => {
                let log = failure.step.as_ref().and_then(|step| kept.failed.remove(step));
                Err(Failure { log, ..failure })
            }
        }
    }

    async fn build_with(
        &self,
        request: Request,
        session: Arc<dyn Session>,
        sink: Sink,
    ) -> Result<Response, Failure> {
        let (context, job) = self.begin(request, session, &sink);
        let built = self.run_frontend(&context, &job, &sink).await?;
        // All platforms at once: the job runs what they share once.
        let images = built.results.into_iter().map(async |result| {
            let snapshot = match result.output {
                Some(edge) => context.solve(&job, &built.graph, &built.source, edge).await?,
                None => cofferdam_store::Snapshot::default(),
            };
            let cofferdam_component::PlatformResult { platform, config, .. } = result;
            Ok::<_, Failure>(PlatformImage { platform, snapshot, config })
        });
        let images = try_join_all(images).await?;
        let exported = export::run(&context, images, &built.metadata, &sink).await?;
        Ok(Response { exported, metadata: built.metadata, logs: None })
    }

    /// What a build has from its beginning.
    pub(crate) fn begin(
        &self,
        request: Request,
        session: Arc<dyn Session>,
        sink: &Sink,
    ) -> (Arc<BuildContext>, Arc<Job<OpVertex>>) {
        let context = Arc::new(BuildContext {
            engine: self.shared.clone(),
            session,
            id: self.next.fetch_add(1, Ordering::Relaxed),
            request,
            renewed: Mutex::default(),
            sink: sink.clone(),
            warned: Mutex::default(),
        });
        let feed = sink.clone();
        let feed = Arc::new(move |event| feed(BuildEvent::Vertex(event)));
        let job = Arc::new(match context.request.why {
            true => self.solver.job_with_reasons(feed),
            false => self.solver.job(feed),
        });
        (context, job)
    }

    pub(crate) async fn run_frontend(
        &self,
        context: &Arc<BuildContext>,
        job: &Arc<Job<OpVertex>>,
        sink: &Sink,
    ) -> Result<cofferdam_component::BuildResult, Failure> {
        let (engine, choice) = (self.shared.clone(), context.request.frontend.clone());
        let frontend = blocking(move || {
            let component = match &choice {
                FrontendChoice::Dockerfile => {
                    engine.runtime.load("dockerfile", cofferdam_bundle::DOCKERFILE)?
                }
                FrontendChoice::Component { name, bytes } => engine.runtime.load(name, bytes)?,
            };
            Ok(Frontend::new(component)?)
        })
        .await?;
        let host = Platform::host();
        let platforms = match context.request.platforms.as_slice() {
            [] => vec![host.clone()],
            platforms => platforms.to_vec(),
        };
        let gateway = Arc::new(Gateway {
            context: context.clone(),
            job: job.clone(),
            sink: sink.clone(),
            failure: Mutex::default(),
        });
        let mut options = context.request.options.clone();
        if !context.request.platforms.is_empty() {
            // As BuildKit's clients say it: a frontend may want to know what was asked for.
            let asked: Vec<_> = platforms.iter().map(Platform::to_string).collect();
            options.insert("platform".into(), asked.join(","));
        }
        let request = cofferdam_component::Request {
            options,
            platforms,
            build_platform: host,
            subrequest: context.request.subrequest.clone(),
        };
        match frontend.build(request, gateway.clone()).await {
            Ok(built) => Ok(built),
            // The step that failed says more than what the frontend makes of it, except where.
            Err(error) => {
                let told = Failure::from(error);
                // A failure that the frontend got over is not what it died of.
                let cause = gateway
                    .take_failure()
                    .filter(|cause| told.to_string().contains(&cause.to_string()));
                Err(match cause {
                    Some(mut cause) => {
                        if cause.excerpts.is_empty() {
                            cause.excerpts = told.excerpts;
                        }
                        cause.hints.extend(told.hints);
                        cause
                    }
                    None => told,
                })
            }
        }
    }

    /// Whether something was stored that a power loss would still take; see
    /// [`crate::StateDirectory::sync`].
    ///
    /// # Errors
    /// When the database fails.
    pub fn needs_sync(&self) -> Result<bool, Error> {
        Ok(self.shared.store.needs_sync()?)
    }

    /// The steps that failed and can be entered, the newest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn failed_steps(&self) -> Result<Vec<FailedStep>, Error> {
        let store = self.shared.store.clone();
        blocking(move || failed_step::all(&store)).await
    }

    /// Runs a program in a failed step, with all that the step had. What it changes is thrown
    /// away, except in cache mounts. Secrets and ssh agents are those of `session`. Dropping the future kills it.
    ///
    /// # Errors
    /// When the step needs more than is granted, or the program cannot be run.
    pub async fn enter(
        &self,
        failed: &FailedStep,
        entry: Entry,
        session: &dyn Session,
        streams: Streams,
    ) -> Result<StepExit, Error> {
        failed_step::enter(&self.shared, failed, entry, session, streams).await
    }

    /// Waits until nothing of a cancelled build runs any more.
    pub async fn shutdown(&self) {
        self.log_writers.close();
        // A disk that takes longer has no more time.
        let _ = tokio::time::timeout(logs::PATIENCE, self.log_writers.wait()).await;
        if let Some(runner) = self.shared.runner.get() {
            runner.idle().await;
        }
    }
}
