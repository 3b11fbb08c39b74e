//! What the steps of a graph ask for, put before the one decision of `exec-linux`
//! ([`Entitlements::grant`]): before anything of the graph is built or found in the cache. A step
//! runs with what came of that, in a sandbox as in WebAssembly.

use std::collections::HashMap;
use std::sync::Arc;

use cofferdam_exec_linux::{
    CdiConfig, DeviceRegistry, DeviceRequest, Entitlements, Granted, Network, Privileges, Security,
};
use cofferdam_llb::{CdiDevice, ExecOp, NetMode, OpKind, SecurityMode, Source, Vertex};
use cofferdam_types::Digest;

use crate::gateway::op_excerpts;
use crate::vertex::blocking;
use crate::{Error, Failure};

/// Reads what devices there are, if a step asks for one.
pub(crate) async fn devices(
    config: &CdiConfig,
    mut steps: impl Iterator<Item = &ExecOp>,
) -> Result<DeviceRegistry, Error> {
    let config = config.clone();
    match steps.any(|exec| !exec.cdi_devices.is_empty()) {
        true => blocking(move || Ok(DeviceRegistry::read(&config))).await,
        false => Ok(DeviceRegistry::default()),
    }
}

/// The steps among vertices.
pub(crate) fn steps<'a>(vertices: &'a [&Arc<Vertex>]) -> impl Iterator<Item = &'a ExecOp> {
    vertices.iter().filter_map(|vertex| match &vertex.op.kind {
        OpKind::Exec(exec) => Some(exec),
        _ => None,
    })
}

/// Decides for all steps, given by their vertices; the result is by their digests in LLB.
///
/// # Errors
/// The first step that may not have what it asks for.
pub(crate) fn grant_all(
    granted: &Entitlements,
    devices: &DeviceRegistry,
    source: &Source,
    vertices: &[&Arc<Vertex>],
) -> Result<HashMap<Digest, Granted>, Box<Failure>> {
    let decide = |vertex: &&Arc<Vertex>| {
        let OpKind::Exec(exec) = &vertex.op.kind else { return None };
        let decided = grant(granted, devices, exec);
        Some(match decided {
            Ok(granted) => Ok((vertex.digest, granted)),
            Err(error) => {
                let excerpts = op_excerpts(source, &vertex.digest);
                Err(Box::new(Failure { excerpts, ..error.into() }))
            }
        })
    };
    vertices.iter().filter_map(decide).collect()
}

/// Decides for one step.
///
/// # Errors
/// When it may not have what it asks for.
pub(crate) fn grant(
    granted: &Entitlements,
    devices: &DeviceRegistry,
    exec: &ExecOp,
) -> Result<Granted, Error> {
    let asked = Privileges {
        network: match exec.network {
            NetMode::Sandbox => Network::Default,
            NetMode::Host => Network::Host,
            NetMode::None => Network::None,
        },
        security: match exec.security {
            SecurityMode::Sandbox => Security::Sandbox,
            SecurityMode::Insecure => Security::Insecure,
        },
        cgroup_parent: exec.meta.cgroup_parent.clone(),
        devices: exec.cdi_devices.iter().map(request).collect(),
    };
    granted
        .grant(asked, devices)
        .map_err(|denied| Error::Denied { command: exec.meta.args.join(" "), denied })
}

/// What a step asks for by the name of a device.
pub(crate) fn request(device: &CdiDevice) -> DeviceRequest {
    DeviceRequest { name: device.name.clone(), optional: device.optional }
}

#[cfg(test)]
mod tests {
    use cofferdam_llb::Op;

    use super::*;

    /// An exec op as a frontend sends it, with these numbers for its modes.
    fn wire(network: i64, security: i64) -> Vec<u8> {
        let varint = |mut value: u64| {
            let mut bytes = Vec::new();
            while value >= 0x80 {
                bytes.push(value as u8 | 0x80);
                value >>= 7;
            }
            bytes.push(value as u8);
            bytes
        };
        let field = |number: u8, bytes: &[u8]| {
            [vec![number << 3 | 2], varint(bytes.len() as u64), bytes.to_vec()].concat()
        };
        let number =
            |field: u8, value: i64| [vec![field << 3], varint(value.cast_unsigned())].concat();
        let meta = [field(1, b"true"), field(3, b"/")].concat();
        let mount = [number(1, -1), field(3, b"/")].concat();
        let exec = [field(1, &meta), field(2, &mount), number(3, network), number(4, security)];
        field(2, &exec.concat())
    }

    /// From the bytes of an op to the decision, for every set of grants and for numbers that the
    /// protocol does not have.
    #[test]
    fn modes_are_known_and_granted_or_refused() {
        for grants in 0..4 {
            let entitlements = Entitlements {
                network_host: grants & 1 != 0,
                security_insecure: grants & 2 != 0,
                ..Entitlements::default()
            };
            for network in [0, 1, 2, 3, 99, -1, i64::MAX, i64::MIN] {
                for security in [0, 1, 2, 99, -1, i64::MAX, i64::MIN] {
                    let decoded = Op::decode(&wire(network, security));
                    let answer = match &decoded {
                        Err(error) => error.to_string(),
                        Ok(Op { kind: OpKind::Exec(exec), .. }) => {
                            match grant(&entitlements, &DeviceRegistry::default(), exec) {
                                Ok(_) => "granted".to_owned(),
                                Err(error) => error.to_string(),
                            }
                        }
                        Ok(op) => panic!("{op:?} is no exec op"),
                    };
                    let known = (0..3).contains(&network) && (0..2).contains(&security);
                    let expected = match () {
                        () if !known => "unknown value",
                        () if network == 1 && !entitlements.network_host => "`network.host`",
                        () if security == 1 && !entitlements.security_insecure => {
                            "`security.insecure`"
                        }
                        () => "granted",
                    };
                    let case = format!("{network} {security} of {entitlements:?}: {answer}");
                    assert!(answer.contains(expected), "{case}");
                    assert_eq!(answer == "granted", expected == "granted", "{case}");
                }
            }
        }
    }
}
