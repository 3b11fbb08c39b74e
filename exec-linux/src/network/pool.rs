//! The thread that makes network namespaces, and those that it has made ahead.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, mpsc};

use tokio::sync::oneshot;

use super::namespace::{self, Fresh};
use super::nat::Nat;
use super::user_mode::Imitator;
use super::{Chosen, Namespace, NetworkConfig, NetworkKind, NetworkMode};
use crate::error::Error;
use crate::step::Network;

/// Gives network namespaces to steps. Nothing is made before the first asks.
#[derive(Debug)]
pub struct Networks {
    config: NetworkConfig,
    user_namespace: Option<Arc<OwnedFd>>,
    thread: OnceLock<Thread>,
    slow: Arc<OnceLock<OwnedFd>>,
}

#[derive(Debug)]
struct Thread {
    requests: mpsc::Sender<Request>,
    handle: std::thread::JoinHandle<()>,
}

#[derive(Debug)]
enum Request {
    Choose(oneshot::Sender<Result<Arc<Chosen>, Error>>),
    Namespace(Kind, oneshot::Sender<Result<Option<Namespace>, Error>>),
    /// Makes the next one ahead.
    Prepare(Kind),
}

/// What is to be had in a network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// What was chosen for steps that ask for nothing.
    Default,
    /// A loopback device.
    Alone,
}

impl Kind {
    fn of(network: Network) -> Option<Self> {
        match network {
            Network::Default => Some(Self::Default),
            Network::None => Some(Self::Alone),
            Network::Host => None,
        }
    }
}

impl Networks {
    /// Prepares to make network namespaces that belong to a user namespace; if none is given, to
    /// the caller's.
    pub fn new(config: NetworkConfig, user_namespace: Option<Arc<OwnedFd>>) -> Self {
        Self { config, user_namespace, thread: OnceLock::new(), slow: Arc::default() }
    }

    /// Finds out, once, what network steps get that ask for none by name.
    ///
    /// # Errors
    /// When the configured one cannot be had.
    pub async fn chosen(&self) -> Result<Arc<Chosen>, Error> {
        self.ask(Request::Choose).await?
    }

    /// Gives a network namespace, or none if the step is to be in the host's.
    ///
    /// # Errors
    /// When it cannot be made, or the configured network not be had.
    pub async fn namespace(&self, network: Network) -> Result<Option<Namespace>, Error> {
        let Some(kind) = Kind::of(network) else { return Ok(None) };
        self.ask(|reply| Request::Namespace(kind, reply)).await?
    }

    /// Has a network namespace made for the next step, which is probably like this one.
    pub fn prepare_next(&self, network: Network) {
        if let (Some(kind), Some(thread)) = (Kind::of(network), self.thread.get()) {
            // Nobody waits for it.
            _ = thread.requests.send(Request::Prepare(kind));
        }
    }

    /// Ends the thread, and returns what is left of the rules: as long as this is open, they are.
    /// To close it takes several milliseconds.
    pub fn end(&mut self) -> Option<OwnedFd> {
        let Thread { requests, handle } = self.thread.take()?;
        drop(requests);
        // A panic of its was told by its message.
        _ = handle.join();
        Arc::get_mut(&mut self.slow)?.take()
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Result<T, Error> {
        let gone = || Error::network("asking for a network")(io::ErrorKind::BrokenPipe.into());
        let (reply, answer) = oneshot::channel();
        self.thread()?.send(request(reply)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }

    fn thread(&self) -> Result<&mpsc::Sender<Request>, Error> {
        if let Some(thread) = self.thread.get() {
            return Ok(&thread.requests);
        }
        let (requests, receiver) = mpsc::channel();
        let maker = Maker {
            config: self.config.clone(),
            user_namespace: self.user_namespace.clone(),
            slow: self.slow.clone(),
            choice: None,
            default: None,
            alone: None,
        };
        // Of two that start a thread at the same time, one's ends at once.
        let handle = std::thread::Builder::new()
            .name("network".to_owned())
            .spawn(move || maker.serve(&receiver))
            .map_err(Error::network("starting the thread that makes networks"))?;
        Ok(&self.thread.get_or_init(|| Thread { requests, handle }).requests)
    }
}

/// What the thread has.
struct Maker {
    config: NetworkConfig,
    user_namespace: Option<Arc<OwnedFd>>,
    slow: Arc<OnceLock<OwnedFd>>,
    /// What it came to, or why the configured network cannot be had.
    choice: Option<Result<Choice, String>>,
    /// Made ahead, one of each kind.
    default: Option<Namespace>,
    alone: Option<Namespace>,
}

struct Choice {
    chosen: Arc<Chosen>,
    connection: Connection,
}

/// How network namespaces are connected.
enum Connection {
    Nat(Box<Nat>),
    Imitated(Imitator, PathBuf),
    /// They are not, or there are none.
    No,
}

impl Maker {
    /// Answers until nobody can ask any more.
    fn serve(mut self, requests: &mpsc::Receiver<Request>) {
        for request in requests {
            // Whoever asked may be gone; then so is what was made.
            match request {
                Request::Choose(reply) => {
                    let chosen = self.choice().map(|choice| choice.chosen.clone());
                    _ = reply.send(chosen);
                }
                Request::Namespace(kind, reply) => _ = reply.send(self.take(kind)),
                Request::Prepare(kind) => self.prepare(kind),
            }
        }
    }

    fn choice(&mut self) -> Result<&mut Choice, Error> {
        if self.choice.is_none() {
            let choice = self.choose(self.config.mode).map_err(|error| error.to_string());
            self.choice = Some(choice);
        }
        let choice = self.choice.as_mut().expect("it was made above");
        choice.as_mut().map_err(|error| Error::Setup(error.clone()))
    }

    /// The one place that decides what network steps get.
    fn choose(&mut self, mode: NetworkMode) -> Result<Choice, Error> {
        match mode {
            NetworkMode::Nat => self.nat(),
            NetworkMode::Slirp4netns => self.imitated(Imitator::Slirp4netns),
            NetworkMode::Pasta => self.imitated(Imitator::Pasta),
            NetworkMode::Host => Ok(unconnected(NetworkKind::Host, vec![])),
            NetworkMode::None => Ok(unconnected(NetworkKind::None, vec![])),
            NetworkMode::Auto => Ok(self.choose_best()),
        }
    }

    fn choose_best(&mut self) -> Choice {
        let mut lacking = Vec::new();
        for mode in [NetworkMode::Nat, NetworkMode::Slirp4netns, NetworkMode::Pasta] {
            match self.choose(mode) {
                Ok(Choice { chosen, connection }) => {
                    let chosen = Arc::new(Chosen { kind: chosen.kind, lacking });
                    return Choice { chosen, connection };
                }
                Err(error) => lacking.push(error.to_string()),
            }
        }
        unconnected(NetworkKind::Host, lacking)
    }

    fn nat(&mut self) -> Result<Choice, Error> {
        let mut nat = Nat::new(self.config.subnet, &self.config.avoid)?;
        let mut first = self.fresh()?;
        nat.connect(&mut first)?;
        nat.probe(&first)?;
        // Should there be no descriptor left, the thread's end takes its time.
        if let Ok(rules) = nat.rules() {
            _ = self.slow.set(rules);
        }
        self.default = Some(Namespace { descriptor: first.namespace, _attached: None });
        let found = nat.surroundings();
        let kind = NetworkKind::Nat(found.subnet);
        let chosen = Arc::new(Chosen { kind, lacking: vec![] });
        Ok(Choice { chosen, connection: Connection::Nat(Box::new(nat)) })
    }

    fn imitated(&mut self, imitator: Imitator) -> Result<Choice, Error> {
        let program = imitator.find(&self.config.programs)?;
        let mut first = self.fresh()?;
        let attached = imitator.connect(&program, &mut first)?;
        self.default = Some(Namespace { descriptor: first.namespace, _attached: Some(attached) });
        let chosen = Arc::new(Chosen { kind: NetworkKind::Imitated(imitator), lacking: vec![] });
        Ok(Choice { chosen, connection: Connection::Imitated(imitator, program) })
    }

    fn fresh(&self) -> Result<Fresh, Error> {
        namespace::make(self.user_namespace.as_ref().map(|namespace| namespace.as_fd()))
    }

    /// Takes the one that is ready, else makes one; none if steps are to be in the host's network.
    fn take(&mut self, kind: Kind) -> Result<Option<Namespace>, Error> {
        let Some(kind) = self.means(kind)? else { return Ok(None) };
        if let Some(ready) = self.ready(kind).take() {
            return Ok(Some(ready));
        }
        let mut fresh = self.fresh()?;
        let mut attached = None;
        if kind == Kind::Default {
            match &mut self.choice()?.connection {
                Connection::Nat(nat) => nat.connect(&mut fresh)?,
                Connection::Imitated(imitator, program) => {
                    attached = Some(imitator.connect(program, &mut fresh)?);
                }
                Connection::No => {}
            }
        }
        Ok(Some(Namespace { descriptor: fresh.namespace, _attached: attached }))
    }

    /// What a kind comes to here; none if it is the host's network. Steps that want nothing have
    /// no need of the choice.
    fn means(&mut self, kind: Kind) -> Result<Option<Kind>, Error> {
        if kind == Kind::Alone {
            return Ok(Some(kind));
        }
        Ok(match self.choice()?.chosen.kind {
            NetworkKind::Host => None,
            NetworkKind::None => Some(Kind::Alone),
            NetworkKind::Nat(_) | NetworkKind::Imitated(_) => Some(Kind::Default),
        })
    }

    fn ready(&mut self, kind: Kind) -> &mut Option<Namespace> {
        match kind {
            Kind::Default => &mut self.default,
            Kind::Alone => &mut self.alone,
        }
    }

    fn prepare(&mut self, kind: Kind) {
        // If none can be made, the next step tries again and says why.
        let Ok(Some(kind)) = self.means(kind) else { return };
        // What is ready is taken and put back.
        if let Ok(made) = self.take(kind) {
            *self.ready(kind) = made;
        }
    }
}

fn unconnected(kind: NetworkKind, lacking: Vec<String>) -> Choice {
    Choice { chosen: Arc::new(Chosen { kind, lacking }), connection: Connection::No }
}
