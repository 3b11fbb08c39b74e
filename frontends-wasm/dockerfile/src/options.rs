//! The options of a request, as BuildKit's clients name them, checked.

use std::collections::{BTreeMap, BTreeSet};

use cofferdam_sdk::{ExtraHost, NetworkMode, Platform, ProxyEnv, Request, ResolveMode, Ulimit};

use crate::error::Problem;
use crate::reference::familiar;

/// Which stages run without looking at the cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NoCache {
    /// None.
    #[default]
    Never,
    /// All.
    Always,
    /// Those with these names, in lower case.
    Stages(BTreeSet<String>),
}

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Path of the Dockerfile.
    pub filename: String,
    /// Whether the request says so.
    pub filename_is_given: bool,
    /// Where the main context is, if that is no directory of the client.
    pub context: Option<String>,
    /// Whether the Dockerfile is in a directory of the client, whatever the main context is.
    pub dockerfile_is_local: bool,
    /// The stage to build; `None` is the last.
    pub target: Option<String>,
    /// Values for ARGs.
    pub build_args: BTreeMap<String, String>,
    /// Labels to add to the image.
    pub labels: BTreeMap<String, String>,
    /// Named contexts, by familiar name, perhaps with `::` and a platform.
    pub contexts: BTreeMap<String, String>,
    /// Whether the request says which platform it wants.
    pub platform_is_given: bool,
    /// The time of what is made, in seconds since 1970 (`SOURCE_DATE_EPOCH`), as far as it is a
    /// number. What else it may be is found out by `epoch`.
    pub epoch: Option<i64>,
    /// What `SOURCE_DATE_EPOCH` is where an ARG before the first FROM says it.
    pub declared_epoch: Option<String>,
    /// Whether the result is one for several platforms, even if there is one only.
    pub multi_platform: bool,
    /// Size of `/dev/shm` of every step in bytes; 0 is the default.
    pub shm_size: u64,
    /// Resource limits of every step.
    pub ulimits: Vec<Ulimit>,
    /// Name of the local directory that is the main context.
    pub context_key: String,
    /// Name of the local directory that has the Dockerfile.
    pub dockerfile_key: String,
    /// Which stages run without looking at the cache.
    pub no_cache: NoCache,
    /// How images are looked up.
    pub resolve_mode: ResolveMode,
    /// Lines for `/etc/hosts` of every step.
    pub extra_hosts: Vec<ExtraHost>,
    /// Host name of every step.
    pub hostname: String,
    /// Network of the steps that do not choose one.
    pub network: NetworkMode,
    /// Parent cgroup of every step.
    pub cgroup_parent: String,
}

/// The options that [`Options::new`] reads, with one line each.
pub const OPTIONS: &[(&str, &str)] = &[
    ("filename", "path of the Dockerfile (default: Dockerfile)"),
    ("target", "name of the stage to build (default: the last)"),
    ("build-arg:NAME", "value of an ARG"),
    ("label:NAME", "label to add to the image"),
    (
        "context:NAME[::PLATFORM]",
        "what NAME stands for: docker-image://, oci-layout://, local:, input:, or the address of a git repository or a file",
    ),
    ("context", "main context: a git repository, or the URL of an archive or a Dockerfile"),
    ("contextkey", "local directory that is the main context (default: context)"),
    ("dockerfilekey", "local directory that has the Dockerfile (default: dockerfile)"),
    ("no-cache", "empty: no stage uses the cache; else a list of stages"),
    ("image-resolve-mode", "default, pull or local"),
    ("add-hosts", "list of host=address for /etc/hosts"),
    ("hostname", "host name of the steps"),
    ("force-network-mode", "default, none or host"),
    ("cgroup-parent", "parent cgroup of the steps"),
    ("platform", "list of platforms that the request names"),
    ("multi-platform", "whether there is an index even for a single platform"),
    ("shm-size", "size of /dev/shm of the steps, in bytes"),
    ("ulimit", "list of name=soft[:hard]"),
];

impl Options {
    /// Reads the options of a request.
    ///
    /// # Errors
    /// When one has an invalid value, or asks for what is not supported yet.
    pub fn new(request: &Request) -> Result<Self, Problem> {
        let text = |name: &str| request.option(name).filter(|value| !value.is_empty());
        let collect = |prefix: &str| -> BTreeMap<String, String> {
            let pairs = request.options_with(prefix);
            pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
        };
        let contexts = collect("context:");
        Ok(Self {
            filename: text("filename").unwrap_or("Dockerfile").into(),
            filename_is_given: text("filename").is_some(),
            context: text("context").filter(|_| text("contextkey").is_none()).map(str::to_owned),
            dockerfile_is_local: text("dockerfilekey").is_some(),
            target: text("target").map(str::to_owned),
            build_args: collect("build-arg:"),
            labels: collect("label:"),
            contexts: contexts.into_iter().map(|(key, value)| (context_key(&key), value)).collect(),
            platform_is_given: text("platform").is_some(),
            epoch: text("build-arg:SOURCE_DATE_EPOCH").and_then(|text| text.parse().ok()),
            declared_epoch: None,
            multi_platform: multi_platform(request)?,
            shm_size: match text("shm-size") {
                None => 0,
                Some(text) => text
                    .parse()
                    .map_err(|_| Problem::invalid("option shm-size", text, "a number of bytes"))?,
            },
            ulimits: text("ulimit").map(ulimits).transpose()?.unwrap_or_default(),
            context_key: text("contextkey").unwrap_or("context").into(),
            dockerfile_key: text("dockerfilekey").unwrap_or("dockerfile").into(),
            no_cache: match request.option("no-cache") {
                None => NoCache::Never,
                Some("") => NoCache::Always,
                Some(list) => NoCache::Stages(
                    list.split(',').map(|name| name.trim().to_lowercase()).collect(),
                ),
            },
            resolve_mode: match text("image-resolve-mode") {
                None | Some("default") => ResolveMode::Default,
                Some("pull") => ResolveMode::Pull,
                Some("local" | "preferLocal") => ResolveMode::Local,
                Some(other) => {
                    let expected = "`default`, `pull` or `local`";
                    return Err(Problem::invalid("option image-resolve-mode", other, expected));
                }
            },
            extra_hosts: text("add-hosts").map(extra_hosts).transpose()?.unwrap_or_default(),
            hostname: text("build-arg:BUILDKIT_SANDBOX_HOSTNAME")
                .or_else(|| text("hostname"))
                .unwrap_or_default()
                .into(),
            network: match text("force-network-mode") {
                None => NetworkMode::Default,
                Some(mode) => network(mode).map_err(|expected| {
                    Problem::invalid("option force-network-mode", mode, expected)
                })?,
            },
            cgroup_parent: text("cgroup-parent").unwrap_or_default().into(),
        })
    }

    /// The time that files get, in nanoseconds since 1970; `None` is the time that they have.
    pub fn file_time(&self) -> Option<i64> {
        self.epoch.map(|seconds| seconds.saturating_mul(1_000_000_000))
    }

    /// What a name stands for instead of the stage or image that has it.
    pub fn context(&self, name: &str, platform: &Platform) -> Option<&str> {
        let name = familiar(name);
        if matches!(name.as_str(), "scratch" | "context") {
            return None;
        }
        let of_platform = self.contexts.get(&format!("{name}::{platform}"));
        of_platform.or_else(|| self.contexts.get(&name)).map(String::as_str)
    }

    /// Whether a stage runs without looking at the cache.
    pub fn ignores_cache(&self, stage: &str) -> bool {
        match &self.no_cache {
            NoCache::Never => false,
            NoCache::Always => true,
            NoCache::Stages(names) => names.contains(stage),
        }
    }

    /// The proxy variables among the build arguments.
    pub fn proxy(&self) -> Option<ProxyEnv> {
        let value = |name: &str| {
            // Of both spellings the one in lower case counts, which is sorted behind.
            let found = self.build_args.iter().rfind(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.clone()).unwrap_or_default()
        };
        let proxy = ProxyEnv {
            http: value("http_proxy"),
            https: value("https_proxy"),
            ftp: value("ftp_proxy"),
            no_proxy: value("no_proxy"),
            all: value("all_proxy"),
        };
        (proxy != ProxyEnv::default()).then_some(proxy)
    }
}

/// Reads a network mode.
///
/// # Errors
/// What was expected.
pub fn network(mode: &str) -> Result<NetworkMode, &'static str> {
    match mode {
        "default" | "sandbox" => Ok(NetworkMode::Default),
        "none" => Ok(NetworkMode::None),
        "host" => Ok(NetworkMode::Host),
        _ => Err("`default`, `none` or `host`"),
    }
}

/// Reads a truth value as Go does.
pub(crate) fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Whether the result is one for several platforms: of a request for several it always is.
fn multi_platform(request: &Request) -> Result<bool, Problem> {
    let several = request.platforms.len() > 1;
    // The build argument is there for clients that have no such option.
    for (option, shown) in [
        ("build-arg:BUILDKIT_MULTI_PLATFORM", "BUILDKIT_MULTI_PLATFORM"),
        ("multi-platform", "option multi-platform"),
    ] {
        let Some(text) = request.option(option).filter(|text| !text.is_empty()) else { continue };
        return match truth(text) {
            Some(false) if several => {
                Err(Problem::invalid(shown, text, "`true`, because there are several platforms"))
            }
            Some(asked) => Ok(asked),
            None => Err(Problem::invalid(shown, text, "`true` or `false`")),
        };
    }
    Ok(several)
}

fn context_key(key: &str) -> String {
    match key.split_once("::") {
        Some((name, platform)) => {
            let parsed = platform.parse::<Platform>().map(|platform| platform.to_string());
            format!("{}::{}", familiar(name), parsed.unwrap_or_else(|_| platform.to_lowercase()))
        }
        None => familiar(key),
    }
}

fn ulimits(list: &str) -> Result<Vec<Ulimit>, Problem> {
    let limit = |text: &str| {
        let (name, limits) = text.split_once('=')?;
        let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
        let (soft, hard) = (soft.parse().ok()?, hard.parse().ok()?);
        Some(Ulimit { name: name.to_lowercase(), soft, hard })
    };
    let read = |text: &str| {
        limit(text).ok_or_else(|| Problem::invalid("option ulimit", text, "`name=soft[:hard]`"))
    };
    list.split(',').map(read).collect()
}

fn extra_hosts(list: &str) -> Result<Vec<ExtraHost>, Problem> {
    let entry = |entry: &str| {
        let (host, ip) = entry.split_once('=')?;
        let ip = ip.trim_start_matches('[').trim_end_matches(']');
        ip.parse::<std::net::IpAddr>().ok()?;
        Some(ExtraHost { host: host.into(), ip: ip.into() })
    };
    let read = |text: &str| {
        entry(text).ok_or_else(|| Problem::invalid("option add-hosts", text, "`host=address`"))
    };
    list.split(',').map(read).collect()
}
