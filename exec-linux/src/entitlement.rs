//! The one decision about privileges: what of what a step asks for the user has granted. Whoever
//! runs a step, in a sandbox or in WebAssembly, takes a [`Granted`], and only
//! [`Entitlements::grant`] makes one that holds a privilege. Who grants an entitlement, and that
//! numbers of a protocol are known, is the caller's affair.

use std::ops::Deref;

use serde::{Deserialize, Serialize};

use crate::step::{Network, Security};

/// What a step asks for beyond what every step has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Privileges {
    /// The network that it sees.
    pub network: Network,
    /// How much it is confined.
    pub security: Security,
    /// The cgroup below which it gets its own, from the root of the hierarchies on; the runner's
    /// if it is empty.
    pub cgroup_parent: String,
}

/// What a build was granted; nothing by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entitlements {
    /// `network.host`
    pub network_host: bool,
    /// `security.insecure`
    pub security_insecure: bool,
    /// The cgroup parent that the user named; steps may ask for no other.
    pub cgroup_parent: String,
}

/// Privileges that a step may have. The default is what every step has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Granted(Privileges);

/// Why a step may not have what it asks for. The text goes on from "the step".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// It needs an entitlement that the build was not granted.
    #[error("needs the entitlement `{0}`, which was not granted")]
    Entitlement(&'static str),
    /// It asks for a cgroup that the user has not named.
    #[error("asks for the cgroup parent `{0}`, which the user has not named")]
    CgroupParent(String),
}

impl Denied {
    /// Returns the flag by which the user would grant it.
    pub fn flag(&self) -> String {
        match self {
            Self::Entitlement(name) => format!("--allow {name}"),
            Self::CgroupParent(path) => format!("--cgroup-parent {path}"),
        }
    }
}

impl Entitlements {
    /// Decides whether a step may have what it asks for: all of it, or it does not run.
    ///
    /// # Errors
    /// Says what was not granted.
    pub fn grant(&self, asked: Privileges) -> Result<Granted, Denied> {
        match asked.network {
            Network::Default | Network::None => {}
            Network::Host if self.network_host => {}
            Network::Host => return Err(Denied::Entitlement("network.host")),
        }
        match asked.security {
            Security::Sandbox => {}
            Security::Insecure if self.security_insecure => {}
            Security::Insecure => return Err(Denied::Entitlement("security.insecure")),
        }
        match asked.cgroup_parent.as_str() {
            "" => {}
            parent if parent == self.cgroup_parent => {}
            _ => return Err(Denied::CgroupParent(asked.cgroup_parent)),
        }
        Ok(Granted(asked))
    }
}

impl Granted {
    /// What crossed from the engine to its helper, which does as it is told.
    pub(crate) fn received(privileges: Privileges) -> Self {
        Self(privileges)
    }
}

impl Deref for Granted {
    type Target = Privileges;

    fn deref(&self) -> &Privileges {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every network with every security mode and cgroup, for every set of grants.
    #[test]
    fn each_privilege_needs_its_own_entitlement() {
        let mut decisions = 0;
        for (network_host, security_insecure, named) in [false, true]
            .into_iter()
            .flat_map(|network| [(network, false), (network, true)])
            .flat_map(|(network, security)| ["", "own"].map(|named| (network, security, named)))
        {
            let granted =
                Entitlements { network_host, security_insecure, cgroup_parent: named.into() };
            for network in [Network::Default, Network::Host, Network::None] {
                for security in [Security::Sandbox, Security::Insecure] {
                    for parent in ["", "own", "other"] {
                        let asked =
                            Privileges { network, security, cgroup_parent: parent.to_owned() };
                        let missing = [
                            (network == Network::Host && !network_host)
                                .then_some("--allow network.host".to_owned()),
                            (security == Security::Insecure && !security_insecure)
                                .then_some("--allow security.insecure".to_owned()),
                            (!parent.is_empty() && parent != named)
                                .then_some(format!("--cgroup-parent {parent}")),
                        ];
                        let decided = granted.grant(asked.clone());
                        let case = format!("{asked:?} of {granted:?}: {decided:?}");
                        match (missing.into_iter().flatten().next(), decided) {
                            (None, Ok(given)) => assert_eq!(*given, asked, "{case}"),
                            (Some(flag), Err(denied)) => assert_eq!(denied.flag(), flag, "{case}"),
                            _ => panic!("{case}"),
                        }
                        decisions += 1;
                    }
                }
            }
        }
        assert_eq!(decisions, 8 * 3 * 2 * 3);
        assert_eq!(Ok(Granted::default()), Entitlements::default().grant(Privileges::default()));
    }
}
