//! `--allow`: the privileges that the user grants to steps, as buildx writes them.

use std::str::FromStr;

use cofferdam_build::Entitlements;

/// What one `--allow` says: entitlements, separated by commas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allow(Vec<Entitlement>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Entitlement {
    /// `network.host`
    NetworkHost,
    /// `security.insecure`
    SecurityInsecure,
    /// `device`
    AllDevices,
    /// `device=NAME[,alias=NAME]`
    Device { name: String, alias: Option<String> },
}

impl FromStr for Allow {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = Vec::new();
        for word in text.split(',') {
            match (word.split_once('='), all.last_mut()) {
                (Some(("alias", name)), Some(Entitlement::Device { alias, .. }))
                    if alias.is_none() && !name.is_empty() =>
                {
                    *alias = Some(name.to_owned());
                }
                (Some(("device", _)), _) => {
                    // Names of devices have a `=` themselves.
                    let name = word["device=".len()..].to_owned();
                    if name.is_empty() {
                        return Err("expected a name after `device=`".to_owned());
                    }
                    all.push(Entitlement::Device { name, alias: None });
                }
                _ => all.push(match word {
                    "network.host" => Entitlement::NetworkHost,
                    "security.insecure" => Entitlement::SecurityInsecure,
                    "device" => Entitlement::AllDevices,
                    _ => {
                        return Err("expected `network.host`, `security.insecure`, `device` or \
                                    `device=NAME[,alias=NAME]`"
                            .to_owned());
                    }
                }),
            }
        }
        Ok(Self(all))
    }
}

/// What all of them grant together.
pub fn entitlements(allowed: &[Allow]) -> Entitlements {
    let mut granted = Entitlements::default();
    for entitlement in allowed.iter().flat_map(|allow| &allow.0) {
        match entitlement.clone() {
            Entitlement::NetworkHost => granted.network_host = true,
            Entitlement::SecurityInsecure => granted.security_insecure = true,
            Entitlement::AllDevices => granted.devices.all = true,
            Entitlement::Device { name, alias: None } => granted.devices.names.push(name),
            Entitlement::Device { name, alias: Some(alias) } => {
                granted.devices.aliases.insert(alias, name);
            }
        }
    }
    granted
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(words: &[&str], expected: Expect) {
        let allowed: Result<Vec<Allow>, String> = words.iter().map(|word| word.parse()).collect();
        let told = match allowed {
            Ok(allowed) => {
                let Entitlements { network_host, security_insecure, cgroup_parent, devices } =
                    entitlements(&allowed);
                assert_eq!(cgroup_parent, "");
                format!("{network_host} {security_insecure} {devices:?}")
            }
            Err(error) => error,
        };
        expected.assert_eq(&told);
    }

    #[test]
    fn entitlements_are_written_as_for_buildx() {
        check(
            &["network.host,security.insecure"],
            expect!["true true DeviceGrants { all: false, names: [], aliases: {} }"],
        );
        check(
            &["device", "network.host"],
            expect!["true false DeviceGrants { all: true, names: [], aliases: {} }"],
        );
        check(
            &["device=v.com/c=a,alias=v.com/c=b,security.insecure", "device=v.com/c"],
            expect![[
                r#"false true DeviceGrants { all: false, names: ["v.com/c"], aliases: {"v.com/c=b": "v.com/c=a"} }"#
            ]],
        );
        for wrong in ["", "network", "devices", "alias=x", "device,alias=x", "network.host,"] {
            check(
                &[wrong],
                expect![
                    "expected `network.host`, `security.insecure`, `device` or `device=NAME[,alias=NAME]`"
                ],
            );
        }
        check(&["device="], expect!["expected a name after `device=`"]);
    }
}
