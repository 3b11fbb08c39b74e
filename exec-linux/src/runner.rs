//! The engine's side of a step: starts helpers, hands each its order, streams the output, and
//! sees to it that the step is gone whatever becomes of the caller.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::WriteHalf;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cgroup::{Engine, Hierarchies};
use crate::check::{Checked, check};
use crate::emulation::binfmt::Registry;
use crate::emulation::{Emulators, Execution};
use crate::error::Error;
use crate::network::{Chosen, Namespace, NetworkConfig, Networks};
use crate::rootless;
use crate::sandbox::{HELPER_ARGV0, STAGE, STUB_LAYERS};
use crate::seal::SealedProgram;
use crate::seccomp::native_filter;
use crate::step::{Network, Security, Step};
use crate::streams::{Connection, Stream, Streams, pump};
use crate::user_namespace::{NoUserNamespace, UserNamespace};
use crate::wire::{self, Lent, Message, Order, Preparation, Report, Task};

/// How steps are run on this host.
#[derive(Debug, Clone)]
pub struct Config {
    /// The program that calls [`crate::sandbox_entry`]; this program itself if not given.
    pub program: Option<PathBuf>,
    /// The OCI runtime that runs steps: a program like runc. Without one they are run by this
    /// crate, which is much faster.
    pub oci_runtime: Option<PathBuf>,
    /// The name of the cgroup below which each step gets one: a single path component.
    pub cgroup_parent: String,
    /// A directory of this runner's own for mount stubs, best on the file system of the layers.
    /// What an earlier runner left there is removed.
    pub state_dir: PathBuf,
    /// What network steps get that ask for none by name.
    pub network: NetworkConfig,
    /// What runs steps for other platforms.
    pub emulators: Emulators,
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// With an exit code.
    Code(i32),
    /// Killed by a signal.
    Signal(i32),
    /// Killed, and the kernel had killed a process of the step for exceeding its memory limit.
    OutOfMemory,
}

/// Runs steps. Cheap to clone. All steps of a runner must be run within the same tokio runtime.
#[derive(Debug, Clone)]
pub struct Runner {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    program: SealedProgram,
    filter: Vec<u8>,
    /// Nowhere, if an OCI runtime makes the cgroups.
    hierarchies: Hierarchies,
    oci_runtime: Option<PathBuf>,
    /// The steps' user namespace, or why they have none of their own.
    user_namespace: Result<UserNamespace, NoUserNamespace>,
    networks: Networks,
    state_dir: PathBuf,
    /// Distinguishes this runner's steps from those of other engines on the host.
    prefix: String,
    next: AtomicU64,
    /// The steps that run, also those whose caller is gone, and the helpers that are ending.
    steps: TaskTracker,
    /// A helper that waits for the next step's order.
    ready: Mutex<Option<Helper>>,
    /// The emulators of the steps' user namespace.
    registry: Registry,
}

/// A helper process that has no order yet.
#[derive(Debug)]
struct Helper {
    /// What its step will be called.
    id: String,
    process: Child,
    /// Its end, also by this runner's, ends the helper.
    socket: UnixStream,
}

impl Shared {
    fn ready(&self) -> MutexGuard<'_, Option<Helper>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the helper that is ready, or else a new one.
    fn helper(&self) -> io::Result<Helper> {
        if let Some(mut helper) = self.ready().take()
            && matches!(helper.process.try_wait(), Ok(None))
        {
            return Ok(helper);
        }
        self.start_helper()
    }

    /// What a step gets of the engine's, with its descriptors.
    fn lend<'a>(
        &'a self,
        step: &Step,
        network: Option<&'a Namespace>,
    ) -> impl Iterator<Item = (Lent, BorrowedFd<'a>)> {
        let user_namespace = match step.privileges.security {
            Security::Sandbox => self.user_namespace.as_ref().ok(),
            // What it may do, it may do to the host.
            Security::Insecure => None,
        };
        let user = user_namespace.map(|own| (Lent::UserNamespace, own.descriptor()));
        let network = network.map(|own| (Lent::NetworkNamespace, own.as_fd()));
        user.into_iter().chain(network)
    }

    /// Gets a helper and a network ready for the next step, which thus need not wait for that.
    fn prepare_next(&self, network: Network) {
        self.networks.prepare_next(network);
        if self.ready().is_none() {
            let helper = self.start_helper().ok();
            // If it could not be started, the next step tries again and says why.
            *self.ready() = helper;
        }
    }

    /// Has the kernel start a step's emulator, for its program and for all that this starts.
    /// Otherwise it is only the step's program that is emulated, and the reason is given.
    async fn emulate(self: &Arc<Self>, step: &mut Step) -> Result<(), String> {
        let Execution::Emulated(emulator) = &step.execution else { return Ok(()) };
        // Nothing is ever registered in the namespace that everybody else is in.
        let shared_with_all = rootless::in_initial_namespace();
        if step.privileges.security == Security::Insecure && shared_with_all {
            return Err("a step with `--security=insecure` is in the host's user namespace".into());
        }
        let (shared, architecture) = (self.clone(), emulator.architecture.clone());
        let register = move || {
            let user_namespace = match &shared.user_namespace {
                Ok(of_steps) => Some(of_steps.descriptor()),
                Err(reason) if shared_with_all => return Err(reason.to_string()),
                // The engine's own is an ordinary user's.
                Err(_) => None,
            };
            shared.registry.register(&architecture, &shared.program.path(), user_namespace)
        };
        let registered = tokio::task::spawn_blocking(register).await;
        registered.unwrap_or_else(|error| Err(error.to_string()))?;
        step.execution = Execution::ByHandler;
        Ok(())
    }

    fn start_helper(&self) -> io::Result<Helper> {
        let (ours, theirs) = StdUnixStream::pair()?;
        let id = format!("{}-{}", self.prefix, self.next.fetch_add(1, Ordering::Relaxed));
        let preparation = Preparation { id: id.clone(), hierarchies: self.hierarchies.clone() };
        // The socket holds as much, also before anybody reads it.
        wire::send(&ours, &preparation)?;
        ours.set_nonblocking(true)?;
        let socket = UnixStream::from_std(ours)?;
        // Nothing but three descriptors goes to the helper, and nothing of our environment. No
        // option here may make the standard library fork instead of posix_spawn.
        let mut command = Command::new(self.program.path());
        command.arg0(HELPER_ARGV0).env_clear();
        // A group of its own: what a terminal sends on Ctrl-C is for the engine to act on.
        command.process_group(0);
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(Helper { id, process: command.spawn()?, socket })
    }
}

impl Drop for Shared {
    /// Lets the helper that no step needed close what takes its time, so that the engine can go.
    fn drop(&mut self) {
        let helper = self.ready().take();
        if let (Some(helper), Some(slow)) = (helper, self.networks.end()) {
            // If the helper is gone, we close it ourselves.
            _ = wire::write_with(&helper.socket, &wire::encode(&Task::Close), &[slow.as_fd()]);
            drop(slow);
            // It waits for the end of the socket.
            drop(helper);
        }
    }
}

impl Runner {
    /// Prepares what all steps share.
    ///
    /// # Errors
    /// If the program or the state directory cannot be used, or the machine's architecture has no
    /// seccomp profile.
    pub fn new(config: Config) -> Result<Self, Error> {
        let program = config.program.unwrap_or_else(|| "/proc/self/exe".into());
        let sealed = SealedProgram::new(&program)
            .map_err(Error::helper(format!("sealing the program `{}`", program.display())))?;
        let state_dir = &config.state_dir;
        let prepare = || {
            fs::create_dir_all(state_dir)?;
            for entry in fs::read_dir(state_dir)? {
                fs::remove_dir_all(entry?.path())?;
            }
            for directory in [STAGE, STUB_LAYERS] {
                fs::create_dir(state_dir.join(directory))?;
            }
            state_dir.canonicalize()
        };
        let state_dir = prepare().map_err(Error::helper(format!(
            "preparing the state directory `{}`",
            state_dir.display()
        )))?;
        let user_namespace = UserNamespace::new(&sealed, &state_dir);
        let own = user_namespace.as_ref().ok().map(|own| own.descriptor().try_clone_to_owned());
        let own = own.transpose().map_err(Error::helper("keeping the user namespace"))?;
        let filter = native_filter().ok_or_else(|| {
            Error::Setup("there is no seccomp profile for this machine's architecture".to_owned())
        })?;
        Ok(Self {
            shared: Arc::new(Shared {
                program: sealed,
                filter,
                hierarchies: match config.oci_runtime {
                    None => Hierarchies::discover(&config.cgroup_parent),
                    Some(_) => Hierarchies::default(),
                },
                oci_runtime: config.oci_runtime,
                user_namespace,
                networks: Networks::new(config.network, own.map(Arc::new)),
                state_dir,
                prefix: Engine::this().prefix(),
                next: AtomicU64::new(0),
                steps: TaskTracker::new(),
                ready: Mutex::default(),
                registry: Registry::new(config.emulators),
            }),
        })
    }

    /// Returns the user namespace that steps run in, but those that may do everything.
    ///
    /// # Errors
    /// Without one, steps run in the engine's.
    pub fn user_namespace(&self) -> Result<&UserNamespace, &NoUserNamespace> {
        self.shared.user_namespace.as_ref()
    }

    /// Finds out, once, what network steps get that ask for none by name.
    ///
    /// # Errors
    /// When the configured one cannot be had.
    pub async fn network(&self) -> Result<Arc<Chosen>, Error> {
        self.shared.networks.chosen().await
    }

    /// Runs a step to its end, with its standard streams connected meanwhile.
    ///
    /// When `cancel` is cancelled all processes of the step are killed, and [`Error::Cancelled`]
    /// comes once they are gone. Dropping the future kills them too, in the background. Must be
    /// called within a tokio runtime.
    ///
    /// # Errors
    /// Anything but the step's own end: see [`Error`].
    pub async fn run(
        &self,
        step: Step,
        streams: Streams,
        cancel: CancellationToken,
    ) -> Result<Exit, Error> {
        self.run_holding(step, streams, cancel, ()).await
    }

    /// The same, with something that the step needs for as long as any process of it lives, also
    /// after the future was dropped. Letting go of it may take its time.
    ///
    /// # Errors
    /// As [`Runner::run`].
    pub async fn run_holding(
        &self,
        mut step: Step,
        streams: Streams,
        cancel: CancellationToken,
        held: impl Send + 'static,
    ) -> Result<Exit, Error> {
        let devices = step.privileges.devices.clone();
        devices.apply(&mut step);
        let step = check(step)?;
        let cancel = cancel.child_token();
        let running = supervise(self.shared.clone(), step, streams, cancel.clone());
        // A task of its own, so that the step is seen to its end when this future is dropped.
        let task = self.shared.steps.spawn(async move {
            let result = running.await;
            // A panic while letting go was told by its message, and the step's end stands.
            _ = tokio::task::spawn_blocking(move || drop(held)).await;
            result
        });
        let _kill_on_drop = cancel.drop_guard();
        match task.await {
            Ok(result) => result,
            Err(error) => Err(Error::HelperLost(error.to_string())),
        }
    }
}

impl Runner {
    /// Waits until every step has ended with all its processes, also the killed ones, and with its
    /// helper. Steps may be run again afterwards; the helper that is ready for the next one stays
    /// until the runner is dropped.
    pub async fn idle(&self) {
        self.shared.steps.close();
        self.shared.steps.wait().await;
        self.shared.steps.reopen();
    }
}

async fn supervise(
    shared: Arc<Shared>,
    step: Checked,
    streams: Streams,
    cancel: CancellationToken,
) -> Result<Exit, Error> {
    let starting = Error::helper("starting the sandbox helper");
    let Checked(mut step) = step;
    if shared.oci_runtime.is_some() && matches!(step.execution, Execution::Emulated(_)) {
        // It makes a user namespace of its own, in which no emulator is registered.
        let message = "a step for another platform cannot be run by an OCI runtime";
        return Err(Error::Setup(message.to_owned()));
    }
    if let Err(reason) = shared.emulate(&mut step).await {
        let text = format!("cofferdam: what this program starts is not emulated: {reason}\n");
        // Whoever does not listen does not miss it.
        _ = streams.output.send((Stream::Stderr, text.into())).await;
    }
    let hierarchies = match (step.privileges.cgroup_parent.as_str(), &shared.oci_runtime) {
        ("", _) | (_, Some(_)) => None,
        (parent, None) => Some(Hierarchies::below(parent)),
    };
    let network = step.privileges.network;
    // Some networks end with this value.
    let namespace = tokio::select! {
        namespace = shared.networks.namespace(network) => namespace?,
        () = cancel.cancelled() => return Err(Error::Cancelled),
    };
    let lent = shared.lend(&step, namespace.as_ref());
    let (lent, descriptors): (Vec<Lent>, Vec<BorrowedFd<'_>>) = lent.unzip();
    let Helper { id, process: mut helper, mut socket } = shared.helper().map_err(starting)?;
    let order = wire::encode(&Task::Step(Box::new(Order {
        id,
        privileges: (*step.privileges).clone(),
        step,
        state_dir: shared.state_dir.clone(),
        hierarchies,
        filter: shared.filter.clone(),
        oci_runtime: shared.oci_runtime.clone(),
        input: streams.input.kind(),
        lent,
    })));
    let Streams { input, output } = streams;
    let stdout = helper.stdout.take().expect("the helper's stdout is piped");
    let stderr = helper.stderr.take().expect("the helper's stderr is piped");
    let (reader, mut writer) = socket.split();
    let (connect, connected) = oneshot::channel();
    let speak = async {
        // If the helper is gone, its missing report says so better than a broken pipe.
        let sent = tokio::select! {
            sent = send(&mut writer, &order, &descriptors) => sent.is_ok(),
            () = cancel.cancelled() => false,
        };
        if sent {
            shared.prepare_next(network);
            cancel.cancelled().await;
        }
        // The end of our half of the socket is what kills the step.
        _ = writer.shutdown().await;
        std::future::pending::<()>().await;
    };
    let gone = CancellationToken::new();
    let report = async {
        let report = receive(reader.as_ref(), connect).await;
        gone.cancel();
        report
    };
    let interact = async {
        // Without an input, or if the step could not be started, no descriptor comes.
        let Ok(descriptor) = connected.await else { return };
        if let Ok(Some(connection)) = Connection::new(input, descriptor) {
            connection.run(&output, &cancel, &gone).await;
        }
    };
    let listen = async {
        let (report, (), (), ()) = tokio::join!(
            report,
            pump(stdout, Stream::Stdout, &output, &cancel),
            pump(stderr, Stream::Stderr, &output, &cancel),
            interact,
        );
        report
    };
    let report = tokio::select! {
        report = listen => report,
        () = speak => unreachable!("it waits forever"),
    };
    let report = match report {
        Ok(report) => {
            // Nothing of the step is left. The end of the helper itself is nobody's concern.
            shared.steps.spawn(async move { helper.wait().await });
            report
        }
        Err(error) => {
            let waiting = Error::helper("waiting for the sandbox helper");
            let status = helper.wait().await.map_err(waiting)?;
            if cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            return Err(Error::HelperLost(format!("{status}, {error}")));
        }
    };
    if cancel.is_cancelled() {
        return Err(Error::Cancelled);
    }
    match report {
        Report::Failed(failure) => Err(failure.into()),
        Report::Signal { signal: libc::SIGKILL, oom: true } => Ok(Exit::OutOfMemory),
        // A shell says so when its child was killed.
        Report::Code { code: 137, oom: true } => Ok(Exit::OutOfMemory),
        Report::Code { code, .. } => Ok(Exit::Code(code)),
        Report::Signal { signal, .. } => Ok(Exit::Signal(signal)),
    }
}

/// Writes an order, with its descriptors.
async fn send(
    writer: &mut WriteHalf<'_>,
    order: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let socket: &UnixStream = writer.as_ref();
    let write = || wire::write_with(socket, order, descriptors);
    let sent = socket.async_io(Interest::WRITABLE, write).await?;
    writer.write_all(&order[sent..]).await
}

/// Reads the helper's report, and hands over the descriptor that comes before it. After the report
/// nothing of the step is left.
async fn receive(from: &UnixStream, connect: oneshot::Sender<OwnedFd>) -> io::Result<Report> {
    let (mut bytes, mut connect, mut failed) = (Vec::new(), Some(connect), None);
    loop {
        let received =
            from.async_io(Interest::READABLE, || wire::read_with(from, &mut bytes)).await?;
        for descriptor in received.descriptors {
            if let Some(connect) = connect.take() {
                // Whoever asked for it may have given up.
                _ = connect.send(descriptor);
            }
        }
        while let Some(message) = wire::take(&mut bytes).transpose()? {
            match message {
                Message::Connected => {}
                // What the helper makes of pid 1's end says less than pid 1 did.
                Message::Ended(_) if failed.is_some() => {}
                // Pid 1 says why it could not start before it ends; the helper's end tells that it
                // has.
                Message::Ended(report @ Report::Failed(_)) => failed = Some(report),
                Message::Ended(report) => return Ok(report),
            }
        }
        if received.length == 0 {
            return failed.ok_or_else(|| io::Error::other("it said nothing"));
        }
    }
}
