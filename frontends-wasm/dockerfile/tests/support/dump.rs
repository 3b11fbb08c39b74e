//! Ops as lines that people can read. Only what an op has beyond the usual is shown.

use cofferdam_llb as llb;

/// Shows the ops that `edge` needs; `kinds` chooses some (`source`, `exec`, `file`, `merge`),
/// none is all. Every op has a number, by which the others refer to it.
pub fn dump(graph: &llb::Graph, edge: &llb::Edge, kinds: &[&str]) -> String {
    let ops = graph.reachable(edge);
    let number = |edge: &llb::Edge| {
        let at = ops.iter().position(|vertex| vertex.digest == edge.vertex);
        format!("#{}", at.expect("inputs are reachable") + 1)
    };
    let mut text = String::new();
    for (at, vertex) in ops.iter().enumerate() {
        let inputs: Vec<String> = vertex.op.inputs.iter().map(&number).collect();
        let platform = match &vertex.op.platform {
            Some(platform) if platform.to_string() != "linux/amd64" => format!(" for {platform}"),
            _ => String::new(),
        };
        let (kind, lines) = match &vertex.op.kind {
            llb::OpKind::Source(source) => ("source", self::source(source)),
            llb::OpKind::Exec(exec) => ("exec", self::exec(exec, &inputs)),
            llb::OpKind::File(file) => ("file", self::file(file, &inputs)),
            llb::OpKind::Merge(merge) => {
                let tree = |input: &u32| inputs[*input as usize].as_str();
                ("merge", vec![merge.inputs.iter().map(tree).collect::<Vec<_>>().join(" ")])
            }
            _ => ("other", vec![format!("{:?}", vertex.op.kind)]),
        };
        if !kinds.is_empty() && !kinds.contains(&kind) {
            continue;
        }
        text += &format!("#{} {kind}{platform} {}\n", at + 1, lines[0]);
        for line in &lines[1..] {
            text += &format!("    {line}\n");
        }
    }
    text
}

fn source(source: &llb::SourceOp) -> Vec<String> {
    let mut identifier = source.identifier.clone();
    if identifier.starts_with("docker-image:") {
        identifier = identifier.split("@sha256:").next().unwrap_or_default().into();
    }
    let mut lines = vec![identifier];
    for (name, value) in &source.attrs {
        // Every git source has these, and every local one its name.
        if !["git.authheadersecret", "git.authtokensecret", "local.sharedkeyhint"]
            .contains(&name.as_str())
        {
            lines.push(format!("{name}={value}"));
        }
    }
    lines
}

fn exec(exec: &llb::ExecOp, inputs: &[String]) -> Vec<String> {
    let meta = &exec.meta;
    let mut lines = vec![format!("{:?}", meta.args)];
    let mut note = |name: &str, value: String| {
        if !value.is_empty() {
            lines.push(format!("{name} {value}"));
        }
    };
    let usual = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let env: Vec<_> = meta.env.iter().filter(|entry| *entry != usual).cloned().collect();
    note("env", if env.is_empty() { String::new() } else { format!("{env:?}") });
    note("cwd", if meta.cwd == "/" { String::new() } else { meta.cwd.clone() });
    note("user", meta.user.clone());
    note("hostname", meta.hostname.clone());
    note("cgroup", meta.cgroup_parent.clone());
    if let Some(proxy) = &meta.proxy_env {
        let parts = [&proxy.http_proxy, &proxy.https_proxy, &proxy.ftp_proxy, &proxy.no_proxy];
        let parts = parts.into_iter().chain([&proxy.all_proxy]).map(String::as_str);
        note("proxy", parts.collect::<Vec<_>>().join("|"));
    }
    for host in &meta.extra_hosts {
        note("host", format!("{} {}", host.host, host.ip));
    }
    for limit in &meta.ulimits {
        note("ulimit", format!("{}={}:{}", limit.name, limit.soft, limit.hard));
    }
    match exec.network {
        llb::NetMode::Sandbox => {}
        other => note("network", format!("{other:?}").to_lowercase()),
    }
    match exec.security {
        llb::SecurityMode::Sandbox => {}
        other => note("security", format!("{other:?}").to_lowercase()),
    }
    for secret in &exec.secret_env {
        let optional = if secret.optional { " optional" } else { "" };
        note("secret variable", format!("{}={}{optional}", secret.name, secret.id));
    }
    for device in &exec.cdi_devices {
        let optional = if device.optional { " optional" } else { "" };
        note("device", format!("{}{optional}", device.name));
    }
    for mount in &exec.mounts {
        let tree = mount.input.map_or("scratch".to_owned(), |input| inputs[input as usize].clone());
        if mount.dest == "/" && mount.selector.is_empty() && !mount.readonly {
            note("on", tree);
            continue;
        }
        let mut text = format!("{} {tree}", mount.dest);
        if !mount.selector.is_empty() {
            text += &format!(":{}", mount.selector);
        }
        if mount.readonly {
            text += " readonly";
        }
        let details = |id: &str, uid, gid, mode: u32, optional| {
            let optional = if optional { " optional" } else { "" };
            format!(" id={id} {uid}:{gid} {mode:04o}{optional}")
        };
        let kind = match &mount.kind {
            llb::MountKind::Bind => "bind",
            llb::MountKind::Cache(cache) => {
                text +=
                    &format!(" id={} {}", cache.id, format!("{:?}", cache.sharing).to_lowercase());
                "cache"
            }
            llb::MountKind::Tmpfs(options) => {
                let size = options.as_ref().map_or(0, |options| options.size);
                text = format!("{} size={size}", mount.dest);
                "tmpfs"
            }
            llb::MountKind::Secret(secret) => {
                let llb::SecretOpt { id, uid, gid, mode, optional } = secret;
                text = mount.dest.clone() + &details(id, *uid, *gid, *mode, *optional);
                "secret"
            }
            llb::MountKind::Ssh(agent) => {
                let llb::SshOpt { id, uid, gid, mode, optional } = agent;
                text = mount.dest.clone() + &details(id, *uid, *gid, *mode, *optional);
                "ssh"
            }
        };
        note(kind, text);
    }
    lines
}

fn file(file: &llb::FileOp, inputs: &[String]) -> Vec<String> {
    let tree = |index: Option<u32>| match index {
        None => "scratch".to_owned(),
        Some(index) => match llb::ActionInput::of(index, inputs.len()) {
            llb::ActionInput::Input(index) => inputs[index as usize].clone(),
            llb::ActionInput::Action(index) => format!("action {index}"),
        },
    };
    let mut lines = Vec::new();
    for action in &file.actions {
        let base = tree(action.input);
        lines.push(match &action.kind {
            llb::FileActionKind::Copy(copy) => {
                let from = tree(action.secondary_input);
                let mut text = format!("copy {from}:{} to {base}:{}", copy.src, copy.dest);
                if let Some(owner) = &copy.owner {
                    text += &format!(" owner={}", self::owner(owner));
                }
                match (copy.mode_str.as_str(), copy.mode) {
                    ("", None) => {}
                    ("", Some(mode)) => text += &format!(" mode={mode:04o}"),
                    (mode, _) => text += &format!(" mode={mode}"),
                }
                for (name, list) in [
                    ("include", &copy.include_patterns),
                    ("exclude", &copy.exclude_patterns),
                    ("required", &copy.required_paths),
                ] {
                    if !list.is_empty() {
                        text += &format!(" {name}={}", list.join(","));
                    }
                }
                if copy.attempt_unpack {
                    text += " unpack";
                }
                if let Some(time) = copy.timestamp {
                    text += &format!(" time={}s", time / 1_000_000_000);
                }
                text
            }
            llb::FileActionKind::Mkfile(mkfile) => {
                let data = String::from_utf8_lossy(&mkfile.data);
                format!("mkfile {base}:{} {:04o} {data:?}", mkfile.path, mkfile.mode)
            }
            llb::FileActionKind::Mkdir(mkdir) => {
                let owner =
                    mkdir.owner.as_ref().map(|owner| format!(" owner={}", self::owner(owner)));
                let owner = owner.unwrap_or_default();
                let time = mkdir.timestamp.map(|time| format!(" time={}s", time / 1_000_000_000));
                let time = time.unwrap_or_default();
                format!("mkdir {base}:{} {:04o}{owner}{time}", mkdir.path, mkdir.mode)
            }
            other => format!("{other:?}"),
        });
    }
    lines
}

fn owner(owner: &llb::Owner) -> String {
    let name = |user: &llb::UserSpec| match user {
        llb::UserSpec::Id(id) => id.to_string(),
        llb::UserSpec::Name(user) => user.name.clone(),
    };
    let parts: Vec<String> = [&owner.user, &owner.group].into_iter().flatten().map(name).collect();
    parts.join(":")
}
