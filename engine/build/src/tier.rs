//! What a build needs of the machine, told from its graph before anything of it runs.

use std::collections::HashSet;
use std::sync::Arc;

use cofferdam_exec_linux::Privileges;
use cofferdam_llb::{ExecOp, NetMode, OpKind, SecurityMode, Vertex};
use cofferdam_session::Session;

use crate::gateway::op_excerpts;
use crate::{
    DeviceGrants, Engine, Entitlements, Error, Failure, Means, Request, Sink, entitlement, exec,
};

/// How much a build needs, the least first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Nothing: WebAssembly does it all, for any user, in any container.
    #[default]
    Wasm,
    /// A user namespace with more than one id: that of an ordinary user with a range of
    /// subordinate ids, or root's.
    UserNamespace,
    /// The machine's root.
    Root,
}

impl Tier {
    /// Returns its name for people and programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Wasm => "wasm",
            Self::UserNamespace => "user namespace",
            Self::Root => "root",
        }
    }
}

/// What a step needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// The step, as the progress display calls it.
    pub step: String,
    /// The file and the line that it comes from, where that is known.
    pub place: Option<(String, u32)>,
    /// What it needs.
    pub tier: Tier,
    /// Why.
    pub why: &'static str,
    /// What this machine lacks to run it, whoever the user is.
    pub lacking: Option<String>,
}

impl Engine {
    /// Tells why steps run in this process's user namespace, if they have none of their own.
    ///
    /// # Errors
    /// When no step can be run.
    pub async fn shared_user_namespace(&self) -> Result<Option<String>, Error> {
        self.shared.check_steps()?;
        Ok(self.shared.runner().await?.user_namespace().err().map(ToString::to_string))
    }

    /// Runs the frontend and tells what each RUN of its result needs; what needs nothing but the
    /// engine is left out. The order is that of the lines. What the frontend itself has built on
    /// its way is built.
    ///
    /// # Errors
    /// When the frontend fails.
    pub async fn needs(
        &self,
        request: Request,
        session: Arc<dyn Session>,
        sink: Sink,
    ) -> Result<Vec<Need>, Failure> {
        let (context, job) = self.begin(request, session, &sink);
        let built = self.run_frontend(&context, &job, &sink).await?;
        let (mut needs, mut seen) = (Vec::new(), HashSet::new());
        for edge in built.results.iter().filter_map(|result| result.output.as_ref()) {
            for vertex in built.graph.reachable(edge) {
                let OpKind::Exec(op) = &vertex.op.kind else { continue };
                if !seen.insert(vertex.digest) {
                    continue;
                }
                let means = match &vertex.op.platform {
                    Some(platform) if !platform.is_wasm() => {
                        exec::means(&context.engine, platform).await
                    }
                    _ => Ok(Means::Native),
                };
                let emulated = !matches!(means, Ok(Means::Native | Means::In32Bits));
                let lacking = means.err().map(|error| error.to_string());
                let lacking = match lacking {
                    None => self.missing_device(op).await?,
                    lacking => lacking,
                };
                let (tier, why) = of(vertex, op, emulated);
                let excerpts = op_excerpts(&built.source, &vertex.digest);
                let place = excerpts.first().map(|lines| (lines.file.clone(), lines.start));
                needs.push(Need { step: vertex.name().to_owned(), place, tier, why, lacking });
            }
        }
        needs.sort_by(|one, other| one.place.cmp(&other.place));
        Ok(needs)
    }
}

impl Engine {
    /// Why a step cannot have a device that it asks for, whatever it is granted.
    async fn missing_device(&self, exec: &ExecOp) -> Result<Option<String>, Error> {
        let registry = entitlement::devices(&self.shared.cdi, [exec].into_iter()).await?;
        let devices = exec.cdi_devices.iter().map(entitlement::request).collect();
        let all = DeviceGrants { all: true, ..DeviceGrants::default() };
        let all = Entitlements { devices: all, ..Entitlements::default() };
        let denied = all.grant(Privileges { devices, ..Privileges::default() }, &registry).err();
        Ok(denied.map(|denied| format!("a step {denied}")))
    }
}

fn of(vertex: &Vertex, exec: &ExecOp, emulated: bool) -> (Tier, &'static str) {
    match vertex.op.platform.as_ref() {
        Some(platform) if platform.is_wasm() => {
            (Tier::Wasm, "its program is WebAssembly, which runs within the engine")
        }
        _ if exec.security == SecurityMode::Insecure => {
            (Tier::Root, "`--security=insecure` gives it the machine's devices and all privileges")
        }
        _ if !exec.cdi_devices.is_empty() => {
            (Tier::UserNamespace, "it gets a device of the machine, if who builds may open that")
        }
        _ if exec.network == NetMode::Host => {
            (Tier::UserNamespace, "its program runs on the kernel, in the host's network")
        }
        _ if emulated => (Tier::UserNamespace, "its program runs on the kernel, under an emulator"),
        _ => (Tier::UserNamespace, "its program runs on the kernel"),
    }
}
