//! `RUN --mount`: reads the options and makes the mounts.

use cofferdam_sdk::{
    ActionInput, ActionKind, BindMount, CacheMount, CacheSharing, FileAction, Host, MkdirAction,
    Mount, MountKind, OpMetadata, Ownership, Principal, SecretEnv, SecretMount,
};

use super::{Lowering, stage::State};
use crate::command::Run;
use crate::error::Problem;
use crate::instruction;
use crate::options::truth;
use crate::path;
use crate::suggest::nearest;

/// What the mounts of a RUN are.
pub(super) struct Mounted<O> {
    /// The mounts, without the root.
    pub mounts: Vec<Mount<O>>,
    /// Secrets that become variables.
    pub secret_env: Vec<SecretEnv>,
    /// Where the first ssh agent is.
    pub agent: Option<String>,
}

/// One `--mount`, with its variables expanded.
#[derive(Debug, Default)]
struct Options {
    kind: String,
    target: String,
    source: String,
    from: Option<String>,
    id: String,
    sharing: String,
    readonly: Option<bool>,
    required: Option<bool>,
    size: Option<u64>,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    env: Option<String>,
}

/// The `from` of a `--mount`, as it stands: variables in it are not allowed.
pub(crate) fn source(text: &str) -> Option<String> {
    let fields = fields(text);
    let from = |(key, value): &(String, Option<String>)| {
        value.clone().filter(|_| key.eq_ignore_ascii_case("from"))
    };
    fields.iter().find_map(from)
}

/// Cuts at commas; a field in double quotes may have some, `""` in it is one quote.
pub(crate) fn fields(text: &str) -> Vec<(String, Option<String>)> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let field = fields.last_mut().expect("there is always a last field");
        match c {
            '"' if quoted && chars.next_if_eq(&'"').is_some() => field.push('"'),
            '"' if quoted || field.is_empty() => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            c => field.push(c),
        }
    }
    let split = |field: String| match field.split_once('=') {
        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
        None => (field, None),
    };
    fields.into_iter().map(split).collect()
}

impl Options {
    fn parse(
        text: &str,
        expand: impl Fn(&str) -> Result<String, Problem>,
    ) -> Result<Self, Problem> {
        let mut options = Self { kind: "bind".into(), ..Self::default() };
        for (key, value) in fields(text) {
            let key = key.to_lowercase();
            let what = || format!("`{key}` of --mount");
            let value = match value {
                Some(value) if key == "from" => Some(value),
                Some(value) => Some(expand(&value)?),
                None => None,
            };
            let flag = match value.as_deref() {
                None => Ok(true),
                Some(text) => {
                    truth(text).ok_or_else(|| Problem::invalid(what(), text, "`true` or `false`"))
                }
            };
            match key.as_str() {
                "readonly" | "ro" => options.readonly = Some(flag?),
                "readwrite" | "rw" => options.readonly = Some(!flag?),
                "required" => options.required = Some(flag?),
                _ => {
                    let Some(value) = value else {
                        return Err(Problem::invalid("option of --mount", key, "`key=value`"));
                    };
                    let number = |radix: u32| {
                        let expected = if radix == 8 { "octal digits" } else { "a number" };
                        u32::from_str_radix(&value, radix)
                            .map_err(|_| Problem::invalid(what(), &value, expected))
                    };
                    match key.as_str() {
                        "type" => options.kind = value.to_lowercase(),
                        "target" | "dst" | "destination" => options.target = value,
                        "source" | "src" => options.source = value,
                        "from" => options.from = Some(value),
                        "id" => options.id = value,
                        "sharing" => options.sharing = value.to_lowercase(),
                        "size" => {
                            let size = size(&value).ok_or_else(|| {
                                Problem::invalid(what(), &value, "bytes, like `64m`")
                            })?;
                            options.size = Some(size);
                        }
                        "mode" => options.mode = Some(number(8)?),
                        "uid" => options.uid = Some(number(10)?),
                        "gid" => options.gid = Some(number(10)?),
                        "env" => options.env = Some(value),
                        _ => {
                            let known = instruction::mount_option_names();
                            let near = nearest(&key, known).map(|near| format!(": `{near}`?"));
                            let expected = format!("a known one{}", near.unwrap_or_default());
                            return Err(Problem::invalid("option of --mount", key, expected));
                        }
                    }
                }
            }
        }
        options.check()?;
        Ok(options)
    }

    /// Refuses options that the type of the mount has no use for.
    fn check(&self) -> Result<(), Problem> {
        let kind = self.kind.as_str();
        if !instruction::MOUNT_TYPES.contains(&kind) {
            let expected = "`bind`, `cache`, `tmpfs`, `secret` or `ssh`";
            return Err(Problem::invalid("type of --mount", kind, expected));
        }
        for (name, given) in [
            ("required", self.required.is_some()),
            ("size", self.size.is_some()),
            ("env", self.env.is_some()),
            ("sharing", !self.sharing.is_empty()),
            ("mode", self.mode.is_some()),
            ("uid", self.uid.is_some()),
            ("gid", self.gid.is_some()),
            ("from", self.from.is_some()),
            ("source", !self.source.is_empty()),
        ] {
            let kinds = instruction::mount_option(name).map_or(&[][..], |option| option.kinds);
            if given && !kinds.contains(&kind) {
                let expected = format!("no `{name}`: it is for `{}`", kinds.join("`, `"));
                return Err(Problem::invalid("--mount", format!("type={kind}"), expected));
            }
        }
        if kind == "secret" && !self.source.is_empty() && !self.id.is_empty() {
            return Err(Problem::invalid("--mount", "type=secret", "an `id` or a `source`"));
        }
        Ok(())
    }
}

impl<H: Host> Lowering<'_, H> {
    pub(super) fn mounts(
        &mut self,
        state: &State<H::Output>,
        run: &Run,
    ) -> Result<Mounted<H::Output>, Problem> {
        let mut mounted = Mounted { mounts: Vec::new(), secret_env: Vec::new(), agent: None };
        let mut agents = 0;
        for text in &run.mounts {
            let options = Options::parse(text, |word| state.expand(self.expander, word))?;
            let absolute = |target: &str| path::join(&state.cwd, target);
            match options.kind.as_str() {
                "secret" => secret(&options, absolute, &mut mounted)?,
                "ssh" => {
                    let dest = match options.target.as_str() {
                        "" => format!("/run/buildkit/ssh_agent.{agents}"),
                        target => absolute(target),
                    };
                    agents += 1;
                    mounted.agent.get_or_insert_with(|| dest.clone());
                    let details = details(options.id.clone(), &options, 0o600);
                    let kind = MountKind::Ssh(details);
                    mounted.mounts.push(Mount { dest, source: None, kind });
                }
                _ => {
                    // Without a target it is the working directory.
                    let dest = absolute(&options.target);
                    if dest == "/" {
                        let expected = "a `target` below `/`";
                        return Err(Problem::invalid("--mount", text, expected));
                    }
                    let mount = match options.kind.as_str() {
                        "bind" => self.bind(state, &options)?,
                        "cache" => self.cache(state, &options)?,
                        _ => (None, MountKind::Tmpfs(options.size.unwrap_or_default())),
                    };
                    mounted.mounts.push(Mount { dest, source: mount.0, kind: mount.1 });
                }
            }
        }
        Ok(mounted)
    }

    fn bind(
        &mut self,
        state: &State<H::Output>,
        options: &Options,
    ) -> Result<(Option<H::Output>, MountKind), Problem> {
        let selector = path::inside(&options.source);
        let source = match &options.from {
            Some(name) => self.source_tree(state.index, name)?,
            None => Some(self.context(&selector)?),
        };
        let bind = BindMount {
            selector: if selector == "/" { String::new() } else { selector },
            readonly: options.readonly.unwrap_or(true),
            has_output: false,
        };
        Ok((source, MountKind::Bind(bind)))
    }

    fn cache(
        &mut self,
        state: &State<H::Output>,
        options: &Options,
    ) -> Result<(Option<H::Output>, MountKind), Problem> {
        let mut source = match &options.from {
            Some(name) => self.source_tree(state.index, name)?,
            None => None,
        };
        let mut selector = path::inside(&options.source);
        let owned = options.uid.is_some() || options.gid.is_some() || options.mode.is_some();
        if selector == "/" && owned {
            // The directory that a new cache starts from, with that owner and mode.
            let id = |id: Option<u32>| Some(Principal::Id(id.unwrap_or_default()));
            let mkdir = MkdirAction {
                path: "/cache".into(),
                mode: options.mode.unwrap_or(0o755),
                owner: Some(Ownership { user: id(options.uid), group: id(options.gid) }),
                ..MkdirAction::default()
            };
            let action = FileAction::new(ActionInput::from(source), ActionKind::Mkdir(mkdir));
            let metadata = OpMetadata::named("[internal] setting cache mount permissions");
            source = self.host.file(&[action], &metadata)?.pop();
            selector = "/cache".into();
        }
        let sharing = match options.sharing.as_str() {
            "" | "shared" => CacheSharing::Shared,
            "private" => CacheSharing::Private,
            "locked" => CacheSharing::Locked,
            other => {
                let expected = "`shared`, `private` or `locked`";
                return Err(Problem::invalid("`sharing` of --mount", other, expected));
            }
        };
        let id = match options.id.as_str() {
            "" => path::clean(&options.target),
            id => id.into(),
        };
        let build_args = &self.input.options.build_args;
        let namespace = build_args.get("BUILDKIT_CACHE_MOUNT_NS").cloned().unwrap_or_default();
        let cache = CacheMount {
            id: format!("{namespace}/{id}"),
            selector: if selector == "/" { String::new() } else { selector },
            sharing,
            readonly: options.readonly.unwrap_or(false),
        };
        Ok((source, MountKind::Cache(cache)))
    }
}

fn details(id: String, options: &Options, mode: u32) -> SecretMount {
    SecretMount {
        id,
        uid: options.uid.unwrap_or_default(),
        gid: options.gid.unwrap_or_default(),
        mode: options.mode.unwrap_or(mode),
        optional: options.required != Some(true),
    }
}

fn secret<O>(
    options: &Options,
    absolute: impl Fn(&str) -> String,
    mounted: &mut Mounted<O>,
) -> Result<(), Problem> {
    let id = match (options.source.as_str(), options.id.as_str(), options.target.as_str()) {
        ("", "", "") => {
            return Err(Problem::invalid("--mount", "type=secret", "an `id` or a `target`"));
        }
        ("", "", target) => path::base(target),
        ("", id, _) => id,
        (source, _, _) => source,
    };
    if let Some(name) = &options.env {
        mounted.secret_env.push(SecretEnv {
            id: id.into(),
            name: name.clone(),
            optional: options.required != Some(true),
        });
    }
    if options.env.is_none() || !options.target.is_empty() {
        let dest = match options.target.as_str() {
            "" => format!("/run/secrets/{}", path::base(id)),
            target => absolute(target),
        };
        let kind = MountKind::Secret(details(id.into(), options, 0o400));
        mounted.mounts.push(Mount { dest, source: None, kind });
    }
    Ok(())
}

/// Bytes, with a unit of powers of 1024: `64m`, `1GiB`, `512`.
fn size(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    let unit = text[end..].trim().to_lowercase();
    let unit = unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(&unit);
    let power = match unit {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    let bytes = number * 1024f64.powi(power);
    (bytes < i64::MAX as f64).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("64m", Some(64 << 20)), ("1.5k", Some(1536)), ("2GiB", Some(2 << 30)), ("x", None)]
        {
            assert_eq!(size(text), bytes, "{text}");
        }
    }

    #[test]
    fn sources_are_read_before_expansion() {
        assert_eq!(source("type=bind,from=alpine,source=/x"), Some("alpine".into()));
        assert_eq!(source("type=cache,target=/x"), None);
        assert_eq!(source("\"target=/a,b\",FROM=x"), Some("x".into()));
    }
}
