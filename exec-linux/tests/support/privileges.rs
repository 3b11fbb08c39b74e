//! Privileges for steps of tests.

use cofferdam_exec_linux::*;

/// What a step gets that asks for it and is granted everything.
pub fn granted(network: Network, security: Security) -> Granted {
    let all =
        Entitlements { network_host: true, security_insecure: true, ..Entitlements::default() };
    let asked = Privileges { network, security, ..Privileges::default() };
    all.grant(asked, &DeviceRegistry::default()).unwrap()
}
