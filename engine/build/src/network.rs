//! What a step has to be told about the network that it is going to be in.

use std::net::Ipv4Addr;
use std::sync::Arc;

use cofferdam_exec_linux::{Chosen, NetworkKind};
use cofferdam_llb::NetMode;

use crate::engine::Shared;
use crate::{Engine, Error, Resolver};

impl Engine {
    /// Finds out what network steps get that ask for none by name.
    ///
    /// # Errors
    /// When no step can be run, or the configured network cannot be had.
    pub async fn step_network(&self) -> Result<Arc<Chosen>, Error> {
        self.shared.check_steps()?;
        chosen(&self.shared).await
    }
}

async fn chosen(engine: &Shared) -> Result<Arc<Chosen>, Error> {
    engine.runner().await?.network().await.map_err(|source| Error::Sandbox {
        command: "set up".into(),
        source,
        kept: false,
    })
}

/// What was found out for a step.
pub(crate) struct Found {
    /// Its `/etc/resolv.conf`; `None` leaves the image's.
    pub(crate) resolv_conf: Option<String>,
    /// What the user should know, if the network is not what steps should have.
    pub(crate) lacking: Option<String>,
}

/// Finds out what network a step is going to have.
pub(crate) async fn find(engine: &Shared, mode: NetMode) -> Result<Found, Error> {
    let resolver = &engine.resolver;
    let in_host = || Found { resolv_conf: resolver.for_host_network(), lacking: None };
    match mode {
        NetMode::Host | NetMode::None => return Ok(in_host()),
        NetMode::Sandbox => {}
    }
    let chosen = chosen(engine).await?;
    tracing::debug!(target: "network", "steps get {}, for lack of {:?}", chosen.kind, chosen.lacking);
    match chosen.kind {
        NetworkKind::Host if chosen.lacking.is_empty() => Ok(in_host()),
        NetworkKind::Host => {
            let why = chosen.lacking.join("; ");
            let lacking =
                format!("steps share the host's network, for they can have no other: {why}");
            Ok(Found { lacking: Some(lacking), ..in_host() })
        }
        NetworkKind::None => Ok(in_host()),
        NetworkKind::Nat(_) => Ok(own(resolver, None)),
        NetworkKind::Imitated(imitator) => Ok(own(resolver, imitator.name_server())),
    }
}

/// For a network of its own, in which there may be a name server too.
fn own(resolver: &Resolver, name_server: Option<Ipv4Addr>) -> Found {
    let mut file = resolver.for_own_network();
    if file.lines().any(|line| line.starts_with("nameserver")) {
        return Found { resolv_conf: Some(file), lacking: None };
    }
    let lacking = match name_server {
        Some(address) => {
            file += &format!("nameserver {address}\n");
            None
        }
        None => Some(
            "steps find no host names, for the host's name servers are on its loopback: name \
             others in the configuration file, `nameservers` of `[dns]`"
                .to_owned(),
        ),
    };
    Found { resolv_conf: Some(file), lacking }
}
