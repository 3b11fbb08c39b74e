//! Whether an op makes sense on its own: the rules that need no other vertex.
//!
//! Rules that need the client, the host or the contents of a tree are checked where the op runs.

use std::net::IpAddr;

use crate::error::short;
use crate::{
    ActionInput, BuildOp, ContentCache, ExecOp, FileAction, FileActionKind, FileOp, Meta, Mount,
    MountKind, Op, OpKind, Owner, PassthroughOp, SourceOp,
};
use crate::{DiffOp, Error, MergeOp};

/// The schemes of sources.
const SCHEMES: &[&str] = &[
    "docker-image",
    "docker-image+blob",
    "oci-layout",
    "oci-layout+blob",
    "local",
    "git",
    "http",
    "https",
];

/// The input of a build op that holds the definition.
const DEFINITION_INPUT: &str = "buildkit.llb.definition";

type Check = Result<(), String>;

impl Op {
    /// Checks everything about the op that does not depend on other vertices.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], naming the field and what was expected.
    pub fn validate(&self) -> Result<(), Error> {
        let inputs = self.inputs.len();
        let result = match &self.kind {
            OpKind::Exec(exec) => check_exec(exec, inputs),
            OpKind::Source(source) => check_source(source, inputs),
            OpKind::File(file) => check_file(file, inputs),
            OpKind::Build(build) => check_build(build, inputs),
            OpKind::Merge(merge) => check_merge(merge, inputs),
            OpKind::Diff(diff) => check_diff(diff, inputs),
            OpKind::Passthrough(passthrough) => check_passthrough(passthrough, inputs),
        };
        result
            .and_then(|()| self.check_platform())
            .map_err(|reason| Error::Invalid { kind: self.kind_name(), reason })
    }

    /// A platform becomes part of file names and arguments further on.
    fn check_platform(&self) -> Check {
        let Some(platform) = &self.platform else {
            return Ok(());
        };
        let fields =
            [&platform.os, &platform.architecture, &platform.variant, &platform.os_version];
        for text in fields.into_iter().chain(&platform.os_features) {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
            ensure(text.bytes().all(plain), || {
                let text = short(text);
                format!("platform has {text:?}: expected letters, digits, `-`, `_` and `.`")
            })?;
        }
        Ok(())
    }
}

fn ensure(condition: bool, reason: impl FnOnce() -> String) -> Check {
    if condition { Ok(()) } else { Err(reason()) }
}

fn not_empty(name: &str, text: &str) -> Check {
    ensure(!text.is_empty(), || format!("{name} is empty"))
}

/// Refuses NUL, which would cut the text short on its way to the kernel.
fn no_nul(name: &str, text: &str) -> Check {
    ensure(!text.contains('\0'), || format!("{name} contains a NUL character"))
}

fn input_exists(name: &str, index: u32, inputs: usize) -> Check {
    ensure((index as usize) < inputs, || format!("{name} is input {index} of {inputs}"))
}

fn check_exec(exec: &ExecOp, inputs: usize) -> Check {
    check_meta(&exec.meta)?;
    for secret in &exec.secret_env {
        let name = &secret.name;
        ensure(!name.is_empty() && !name.contains(['=', '\0']), || {
            format!("secretenv name is {:?}: expected the name of a variable", short(name))
        })?;
    }
    for device in &exec.cdi_devices {
        not_empty("cdiDevices name", &device.name)?;
    }
    for mount in &exec.mounts {
        check_mount(mount, inputs)
            .map_err(|reason| format!("mount {:?}: {reason}", short(&mount.dest)))?;
    }
    for (number, mount) in exec.output_mounts().enumerate() {
        let output = mount.output.map_or(number, |output| output as usize);
        ensure(output == number, || {
            format!(
                "mount {:?}: output is {output}, expected {number}: outputs are numbered in the \
                 order of the mounts",
                short(&mount.dest)
            )
        })?;
    }
    let mut roots = exec.mounts.iter().filter(|mount| mount.dest == "/");
    match (roots.next(), roots.next()) {
        (Some(root), None) => ensure(root.kind == MountKind::Bind, || {
            "mount \"/\": expected a bind mount for the root file system".into()
        }),
        (None, _) => Err("no mount at \"/\": a process needs a root file system".into()),
        (Some(_), Some(_)) => Err("more than one mount at \"/\"".into()),
    }
}

fn check_meta(meta: &Meta) -> Check {
    ensure(!meta.args.is_empty(), || "args are empty".into())?;
    not_empty("cwd", &meta.cwd)?;
    let single = [
        ("cwd", &meta.cwd),
        ("user", &meta.user),
        ("hostname", &meta.hostname),
        ("cgroupParent", &meta.cgroup_parent),
    ];
    let args = meta.args.iter().map(|arg| ("args", arg));
    let env = meta.env.iter().map(|env| ("env", env));
    for (name, text) in single.into_iter().chain(args).chain(env) {
        no_nul(name, text)?;
    }
    for entry in &meta.extra_hosts {
        ensure(entry.ip.parse::<IpAddr>().is_ok(), || {
            format!("extraHosts IP is {:?}: expected an IP address", short(&entry.ip))
        })?;
        let odd = |c: char| c.is_whitespace() || c.is_control() || c == '#';
        ensure(!entry.host.is_empty() && !entry.host.contains(odd), || {
            format!("extraHosts Host is {:?}: expected a host name", short(&entry.host))
        })?;
    }
    for limit in &meta.ulimits {
        not_empty("ulimit Name", &limit.name)?;
    }
    Ok(())
}

fn check_mount(mount: &Mount, inputs: usize) -> Check {
    not_empty("dest", &mount.dest)?;
    no_nul("dest", &mount.dest)?;
    no_nul("selector", &mount.selector)?;
    if let Some(input) = mount.input {
        input_exists("input", input, inputs)?;
    }
    let shared_write = mount.is_output() && !mount.readonly && mount.selector.is_empty();
    ensure(!(shared_write && mount.content_cache == ContentCache::On), || {
        "contentCache is on: expected a read-only mount, one without output or a selector".into()
    })
}

fn check_source(source: &SourceOp, inputs: usize) -> Check {
    ensure(inputs == 0, || format!("{inputs} inputs: expected none"))?;
    no_nul("identifier", &source.identifier)?;
    let scheme = source.identifier.split_once("://").map(|(scheme, _)| scheme);
    ensure(scheme.is_some_and(|scheme| SCHEMES.contains(&scheme)), || {
        let identifier = short(&source.identifier);
        format!("identifier is {identifier:?}: expected one of {}", SCHEMES.join(", "))
    })
}

fn check_file(file: &FileOp, inputs: usize) -> Check {
    ensure(!file.actions.is_empty(), || "actions are empty".into())?;
    let mut used = vec![false; file.actions.len()];
    let mut outputs = Vec::new();
    for (number, action) in file.actions.iter().enumerate() {
        let about = |reason| format!("action {number}: {reason}");
        check_action(action).map_err(about)?;
        let mut refer = |name: &str, index: u32| match ActionInput::of(index, inputs) {
            ActionInput::Input(_) => Ok(()),
            ActionInput::Action(earlier) => {
                ensure((earlier as usize) < number, || {
                    format!(
                        "{name} is {index}: expected one of {inputs} inputs or {number} earlier \
                         actions"
                    )
                })?;
                used[earlier as usize] = true;
                Ok(())
            }
        };
        for (name, index) in [("input", action.input), ("secondaryInput", action.secondary_input)] {
            if let Some(index) = index {
                refer(name, index).map_err(about)?;
            }
        }
        for named in action.kind.owner().into_iter().flat_map(Owner::names) {
            let index = named.input.ok_or_else(|| {
                let name = short(&named.name);
                about(format!("owner {name:?} by name: expected a tree that knows it"))
            })?;
            refer("owner's input", index).map_err(about)?;
        }
        if let Some(output) = action.output {
            used[number] = true;
            outputs.push(output);
        }
    }
    if let Some(number) = used.iter().position(|used| !used) {
        return Err(format!("action {number}: its result is neither used nor an output"));
    }
    outputs.sort_unstable();
    let contiguous = outputs.iter().zip(0..).all(|(output, number)| *output == number);
    outputs.truncate(10);
    ensure(contiguous, || format!("outputs are {outputs:?}: expected 0, 1, 2, … each once"))
}

fn check_action(action: &FileAction) -> Check {
    let paths = match &action.kind {
        FileActionKind::Copy(copy) => vec![("src", &copy.src), ("dest", &copy.dest)],
        FileActionKind::Mkfile(mkfile) => vec![("path", &mkfile.path)],
        FileActionKind::Mkdir(mkdir) => vec![("path", &mkdir.path)],
        FileActionKind::Rm(rm) => vec![("path", &rm.path)],
        FileActionKind::Symlink(link) => {
            not_empty("newpath", &link.newpath)?;
            vec![("oldpath", &link.oldpath), ("newpath", &link.newpath)]
        }
    };
    for (name, path) in paths {
        no_nul(name, path)?;
    }
    Ok(())
}

fn check_build(build: &BuildOp, inputs: usize) -> Check {
    ensure(build.builder.is_none(), || "builder is not −1: no other builder is known".into())?;
    ensure(build.inputs.contains_key(DEFINITION_INPUT), || {
        format!("no input is named `{DEFINITION_INPUT}`")
    })?;
    for (name, index) in &build.inputs {
        input_exists(&format!("{:?}", short(name)), *index, inputs)?;
    }
    Ok(())
}

fn check_merge(merge: &MergeOp, inputs: usize) -> Check {
    merge.inputs.iter().try_for_each(|index| input_exists("a member", *index, inputs))
}

fn check_diff(diff: &DiffOp, inputs: usize) -> Check {
    for (name, side) in [("lower", diff.lower), ("upper", diff.upper)] {
        if let Some(index) = side {
            input_exists(name, index, inputs)?;
        }
    }
    Ok(())
}

fn check_passthrough(passthrough: &PassthroughOp, inputs: usize) -> Check {
    not_empty("id", &passthrough.id)?;
    ensure(!passthrough.outputs.is_empty(), || "outputs are empty".into())?;
    passthrough.outputs.iter().try_for_each(|index| input_exists("an output", *index, inputs))
}
