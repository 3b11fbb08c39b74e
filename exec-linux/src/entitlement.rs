//! The one decision about privileges: what of what a step asks for the user has granted. Whoever
//! runs a step, in a sandbox or in WebAssembly, takes a [`Granted`], and only
//! [`Entitlements::grant`] makes one that holds a privilege. Who grants an entitlement, and that
//! numbers of a protocol are known, is the caller's affair.

use std::collections::BTreeMap;
use std::ops::Deref;

use serde::{Deserialize, Serialize};

use crate::cdi::{DeviceRegistry, DeviceRequest, Edits};
use crate::step::{Network, Security};

/// What a step asks for beyond what every step has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Privileges {
    /// The network that it sees.
    pub network: Network,
    /// How much it is confined.
    pub security: Security,
    /// The cgroup below which it gets its own, from the root of the hierarchies on; the runner's
    /// if it is empty.
    pub cgroup_parent: String,
    /// Devices of the machine.
    pub devices: Vec<DeviceRequest>,
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
    /// `device`
    pub devices: DeviceGrants,
}

/// Devices that a build was granted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceGrants {
    /// All that there are: `device` without a name.
    pub all: bool,
    /// Those that these names mean: `device=vendor.com/class=name`.
    pub names: Vec<String>,
    /// By the name that steps call it, the device that they get:
    /// `device=vendor.com/class=name,alias=NAME`.
    pub aliases: BTreeMap<String, String>,
}

/// What a step was given of what it asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// The network that it sees.
    pub network: Network,
    /// How much it is confined.
    pub security: Security,
    /// The cgroup below which it gets its own; the runner's if it is empty.
    pub cgroup_parent: String,
    /// What its devices change about it.
    pub devices: Edits,
    /// Devices that it does without, since there are none of that name.
    pub missing_devices: Vec<String>,
}

/// Privileges that a step may have. The default is what every step has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Granted(Given);

/// Why a step may not have what it asks for. The text goes on from "the step".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// It needs an entitlement that the build was not granted.
    #[error("needs the entitlement `{0}`, which was not granted")]
    Entitlement(&'static str),
    /// The same, for a device.
    #[error("needs the entitlement `device` for `{0}`, which was not granted")]
    Device(String),
    /// It asks for a cgroup that the user has not named.
    #[error("asks for the cgroup parent `{0}`, which the user has not named")]
    CgroupParent(String),
    /// It asks for a device that cannot be had.
    #[error("asks for the device `{name}`, which cannot be had: {why}")]
    NoDevice {
        /// What it is called.
        name: String,
        /// Why not.
        why: String,
    },
}

impl Denied {
    /// Returns the flag by which the user would grant it, if there is one.
    pub fn flag(&self) -> Option<String> {
        match self {
            Self::Entitlement(name) => Some(format!("--allow {name}")),
            Self::Device(name) => Some(format!("--allow device={name}")),
            Self::CgroupParent(path) => Some(format!("--cgroup-parent {path}")),
            Self::NoDevice { .. } => None,
        }
    }
}

impl Entitlements {
    /// Decides whether a step may have what it asks for: all of it, or it does not run. What there
    /// is of devices is in `registry`.
    ///
    /// # Errors
    /// Says what was not granted, or is not there.
    pub fn grant(&self, asked: Privileges, registry: &DeviceRegistry) -> Result<Granted, Denied> {
        let Privileges { network, security, cgroup_parent, devices } = asked;
        match network {
            Network::Default | Network::None => {}
            Network::Host if self.network_host => {}
            Network::Host => return Err(Denied::Entitlement("network.host")),
        }
        match security {
            Security::Sandbox => {}
            Security::Insecure if self.security_insecure => {}
            Security::Insecure => return Err(Denied::Entitlement("security.insecure")),
        }
        match cgroup_parent.as_str() {
            "" => {}
            parent if parent == self.cgroup_parent => {}
            _ => return Err(Denied::CgroupParent(cgroup_parent)),
        }
        let mut given = Given { network, security, cgroup_parent, ..Given::default() };
        for request in devices {
            self.devices.grant(request, registry, &mut given)?;
        }
        Ok(Granted(given))
    }
}

impl DeviceGrants {
    fn grant(
        &self,
        request: DeviceRequest,
        registry: &DeviceRegistry,
        given: &mut Given,
    ) -> Result<(), Denied> {
        let alias = self.aliases.get(&request.name);
        let real = alias.unwrap_or(&request.name);
        let cannot = |why| Denied::NoDevice { name: request.name.clone(), why };
        let found = registry.find(real).map_err(cannot)?;
        if found.is_empty() {
            if !request.optional {
                return Err(cannot(registry.unknown()));
            }
            given.missing_devices.push(request.name);
            return Ok(());
        }
        for device in &found {
            let granted = alias.is_some() || self.is_granted(device, registry);
            if !(granted || registry.lets_everybody_have(device)) {
                return Err(Denied::Device((*device).to_owned()));
            }
        }
        for device in found {
            let edits = registry.edits(device);
            let cannot = |why| Denied::NoDevice { name: device.to_owned(), why };
            given.devices.extend(edits.map_err(cannot)?);
        }
        Ok(())
    }

    fn is_granted(&self, device: &str, registry: &DeviceRegistry) -> bool {
        // What is no name means no device.
        let mut meant = self.names.iter().flat_map(|name| registry.find(name).unwrap_or_default());
        self.all || meant.any(|meant| meant == device)
    }
}

impl Granted {
    /// What crossed from the engine to its helper, which does as it is told.
    pub(crate) fn received(given: Given) -> Self {
        Self(given)
    }
}

impl Deref for Granted {
    type Target = Given;

    fn deref(&self) -> &Given {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cdi::CdiConfig;

    /// Which devices a step asks for, and of which kind of answer.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Asks {
        Nothing,
        /// `v.com/c=a`
        One,
        /// `v.com/c=*`, which is `a` and `b`
        All,
        /// `v.com/c=fast`, the class of `b`
        Class,
        /// `v.com/c=x`, which is none
        Unknown,
        /// The same, optional
        Optional,
        /// `v.com/free=f`, which everybody may have
        Free,
    }

    /// Devices that are granted.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Grants {
        Nothing,
        Everything,
        A,
        B,
        /// `v.com/c`: the first
        First,
        Both,
        /// `device=v.com/c=b,alias=v.com/c=x`
        Alias,
    }

    fn registry() -> (tempfile::TempDir, DeviceRegistry) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = |name: &str, text: &str| {
            std::fs::write(directory.path().join(name), text).expect("written");
        };
        file(
            "c.yaml",
            "cdiVersion: 0.6.0\nkind: v.com/c\ndevices:\n\
             - {name: a, containerEdits: {env: [A=1]}}\n\
             - {name: b, containerEdits: {env: [B=1]},\n   \
                annotations: {org.mobyproject.buildkit.device.class: fast}}\n",
        );
        file(
            "free.yaml",
            "cdiVersion: 0.6.0\nkind: v.com/free\ndevices:\n\
             - {name: f, containerEdits: {env: [F=1]},\n   \
                annotations: {org.mobyproject.buildkit.device.autoallow: \"true\"}}\n",
        );
        let spec_dirs = vec![directory.path().to_owned()];
        let registry = DeviceRegistry::read(&CdiConfig { spec_dirs, ..CdiConfig::default() });
        assert_eq!(registry.problems, []);
        (directory, registry)
    }

    fn grants(grants: Grants) -> DeviceGrants {
        let names: &[&str] = match grants {
            Grants::Nothing | Grants::Everything | Grants::Alias => &[],
            Grants::A => &["v.com/c=a"],
            Grants::B => &["no name", "v.com/c=b"],
            Grants::First => &["v.com/c"],
            Grants::Both => &["v.com/c=*"],
        };
        let alias = ("v.com/c=x".to_owned(), "v.com/c=b".to_owned());
        DeviceGrants {
            all: grants == Grants::Everything,
            names: names.iter().map(|&name| name.to_owned()).collect(),
            aliases: (grants == Grants::Alias).then_some(alias).into_iter().collect(),
        }
    }

    /// What is to come of it: the variables of the devices, or the flag that is missing, which is
    /// none for a device that is not there.
    fn devices_decided(
        asks: Asks,
        grants: Grants,
    ) -> Result<&'static [&'static str], &'static str> {
        let (a, b) = ("--allow device=v.com/c=a", "--allow device=v.com/c=b");
        match (asks, grants) {
            (Asks::Nothing, _) => Ok(&[]),
            (Asks::Free, _) => Ok(&["F=1"]),
            (Asks::Unknown | Asks::Optional, Grants::Alias) => Ok(&["B=1"]),
            (Asks::Optional, _) => Ok(&[]),
            (Asks::Unknown, _) => Err(""),
            (Asks::One, Grants::Everything | Grants::A | Grants::First | Grants::Both) => {
                Ok(&["A=1"])
            }
            (Asks::One, _) => Err(a),
            (Asks::Class, Grants::Everything | Grants::B | Grants::Both) => Ok(&["B=1"]),
            (Asks::Class, _) => Err(b),
            (Asks::All, Grants::Everything | Grants::Both) => Ok(&["A=1", "B=1"]),
            (Asks::All, Grants::A | Grants::First) => Err(b),
            (Asks::All, _) => Err(a),
        }
    }

    /// Every network with every security mode, cgroup and device, for every set of grants.
    #[test]
    fn each_privilege_needs_its_own_entitlement() {
        use Asks::*;
        let (_directory, registry) = registry();
        let mut decisions = 0;
        let all_grants = [
            Grants::Nothing,
            Grants::Everything,
            Grants::A,
            Grants::B,
            Grants::First,
            Grants::Both,
            Grants::Alias,
        ];
        let flags = [(false, false), (false, true), (true, false), (true, true)];
        for (network_host, security_insecure) in flags {
            for named in ["", "own"] {
                for of_devices in all_grants {
                    let granted = Entitlements {
                        network_host,
                        security_insecure,
                        cgroup_parent: named.into(),
                        devices: grants(of_devices),
                    };
                    for network in [Network::Default, Network::Host, Network::None] {
                        for security in [Security::Sandbox, Security::Insecure] {
                            for parent in ["", "own", "other"] {
                                for asks in [Nothing, One, All, Class, Unknown, Optional, Free] {
                                    check(
                                        (&granted, &registry),
                                        (network, security, parent, asks),
                                        devices_decided(asks, of_devices),
                                    );
                                    decisions += 1;
                                }
                            }
                        }
                    }
                }
            }
        }
        assert_eq!(decisions, 4 * 2 * 7 * 3 * 2 * 3 * 7);
        let nothing = Entitlements::default().grant(Privileges::default(), &registry);
        assert_eq!(nothing, Ok(Granted::default()));
    }

    fn check(
        (granted, registry): (&Entitlements, &DeviceRegistry),
        (network, security, parent, asks): (Network, Security, &str, Asks),
        of_devices: Result<&[&str], &str>,
    ) {
        let name = match asks {
            Asks::Nothing => None,
            Asks::One => Some("v.com/c=a"),
            Asks::All => Some("v.com/c=*"),
            Asks::Class => Some("v.com/c=fast"),
            Asks::Unknown | Asks::Optional => Some("v.com/c=x"),
            Asks::Free => Some("v.com/free=f"),
        };
        let request =
            |name: &str| DeviceRequest { name: name.to_owned(), optional: asks == Asks::Optional };
        let cgroup_parent = parent.to_owned();
        let devices = name.map(request).into_iter().collect();
        let asked = Privileges { network, security, cgroup_parent, devices };
        let expected = match () {
            () if network == Network::Host && !granted.network_host => {
                Err("--allow network.host".to_owned())
            }
            () if security == Security::Insecure && !granted.security_insecure => {
                Err("--allow security.insecure".to_owned())
            }
            () if !parent.is_empty() && parent != granted.cgroup_parent => {
                Err(format!("--cgroup-parent {parent}"))
            }
            () => of_devices.map_err(str::to_owned),
        };
        let decided = granted.grant(asked.clone(), registry);
        let case = format!("{asked:?} of {granted:?}: {decided:?}");
        match (expected, decided) {
            (Ok(env), Ok(given)) => {
                assert_eq!((given.network, given.security), (network, security), "{case}");
                assert_eq!(given.cgroup_parent, parent, "{case}");
                assert_eq!(given.devices.env, env, "{case}");
                let missing = asks == Asks::Optional && env.is_empty();
                assert_eq!(given.missing_devices.len(), usize::from(missing), "{case}");
            }
            (Err(flag), Err(denied)) => {
                assert_eq!(denied.flag().unwrap_or_default(), flag, "{case}");
            }
            _ => panic!("{case}"),
        }
    }
}
