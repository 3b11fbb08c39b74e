//! The command line: commands and flags under the names that `docker build` uses, with the texts
//! of `--help`. What the flags mean together is decided in `request`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use cofferdam_build::Swap;

use crate::allow::Allow;
use crate::error::Error;

const EXIT_CODES: &str = "\
Exit codes:
  0    success
  1    a step of the build failed
  2    the request is wrong: command line, Dockerfile, build context
  3    a registry or the network failed
  4    the configuration or the machine lacks something
  70   a defect in cofferdam
  130  interrupted by a signal";

/// Builds container images; everything but the RUN steps works in WebAssembly sandboxes.
#[derive(Debug, Parser)]
#[command(name = "cofferdam", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub struct Cli {
    /// State directory [default: /var/lib/cofferdam for root, else $XDG_DATA_HOME/cofferdam or
    /// ~/.local/share/cofferdam] [env: COFFERDAM_ROOT]
    #[arg(long, global = true, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// The most that the state directory may take on the disk, in bytes or with a unit (b, k, m,
    /// g, t), or "none"; what was not used for the longest time makes way [default: 80 % of the
    /// file system, at most 100g] [env: COFFERDAM_MAX_STORAGE]
    #[arg(long, global = true, value_name = "BYTES", value_parser = max_storage)]
    pub max_storage: Option<MaxStorage>,
    /// Configuration file [default: $XDG_CONFIG_HOME/cofferdam/config.toml or
    /// /etc/cofferdam/config.toml, where there is one]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory with QEMU's user-mode emulators, for steps of other platforms [default: where PATH
    /// leads, /usr/local/bin and /usr/bin]
    #[arg(long, global = true, value_name = "DIR")]
    pub qemu_dir: Option<PathBuf>,
    /// Directory with descriptions of devices by the Container Device Interface; what a later one
    /// says of a device counts [default: /etc/cdi, /var/run/cdi and /etc/buildkit/cdi]
    #[arg(long = "cdi-spec-dir", global = true, value_name = "DIR")]
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How much the state directory may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxStorage {
    /// As much as there is.
    Unlimited,
    /// So many bytes.
    Bytes(u64),
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build an image
    #[command(after_help = EXIT_CODES)]
    Build(Box<Build>),
    /// Learn the Dockerfile language
    #[command(subcommand)]
    Dockerfile(Dockerfile),
    /// Open a shell in a step that failed, or look inside
    #[command(after_help = DEBUG_HELP)]
    Debug(Debug),
    /// Show what the state directory holds, how big it is, when it was used and by whom
    Du(Du),
    /// Remove what no build is using, the least recently used first
    Prune(Prune),
    /// Look after the state directory
    #[command(subcommand)]
    Store(Store),
    /// Show which platforms steps can run for on this machine, how, and what is around them
    Platforms(Platforms),
    /// Print the version
    Version,
}

/// Flags of `cofferdam platforms`.
#[derive(Args, Debug)]
pub struct Platforms {
    /// In which form
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: Format,
}

const DEBUG_HELP: &str = "\
Without a program a shell is run: /bin/bash, else /bin/sh. What is changed in the step is thrown
away. The exit code is the program's; where standard input and output are a terminal, pressing
Ctrl-] three times within a second ends it.";

/// Flags of `cofferdam debug`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Debug {
    /// Looks inside.
    #[command(subcommand)]
    pub command: Option<DebugCommand>,
    /// The failed step, by its id or the beginning of it [default: the one that failed last]
    #[arg(value_name = "ID")]
    pub id: Option<String>,
    /// The program to run in it, with its arguments
    #[arg(last = true, value_name = "PROGRAM")]
    pub program: Vec<String>,
    /// List the steps that can be entered
    #[arg(long, conflicts_with_all = ["id", "program", "input", "allow"])]
    pub list: bool,
    /// Enter it as it was before it ran
    #[arg(long)]
    pub input: bool,
    /// Allow the privileged entitlement that the step needs
    #[arg(long, value_name = "ENTITLEMENT")]
    pub allow: Vec<Allow>,
    /// What the step had of the user's.
    #[command(flatten)]
    pub lend: Lend,
}

/// Flags that lend secrets to steps.
#[derive(Args, Debug, Default)]
pub struct Lend {
    /// Secret to expose to the build (format: "id=ID[,src=FILE|,env=VARIABLE]")
    #[arg(long = "secret", value_name = "SECRET")]
    pub secrets: Vec<String>,
    /// SSH agent socket or keys to expose to the build (format: "default" for SSH_AUTH_SOCK, or
    /// "ID=SOCKET" or "ID=KEY[,KEY]")
    #[arg(long = "ssh", value_name = "AGENT")]
    pub agents: Vec<String>,
}

/// Commands for finding out what happens.
#[derive(Debug, Subcommand)]
pub enum DebugCommand {
    /// Print a BuildKit definition (binary pb.Definition) as JSON
    DumpLlb {
        /// The definition; `-` is standard input
        #[arg(value_name = "FILE", default_value = "-")]
        file: PathBuf,
    },
}

/// Flags of `cofferdam du`.
#[derive(Args, Debug)]
pub struct Du {
    /// Only what matches: "type==regular", "inuse", "description~=REGEX", … joined by commas; one
    /// of several must match
    #[arg(long = "filter", value_name = "FILTER")]
    pub filters: Vec<String>,
    /// One JSON object per line
    #[arg(long, conflicts_with = "verbose")]
    pub json: bool,
    /// A paragraph for each
    #[arg(short, long)]
    pub verbose: bool,
}

/// Flags of `cofferdam prune`.
#[derive(Args, Debug)]
pub struct Prune {
    /// Images by name, too
    #[arg(short, long)]
    pub all: bool,
    /// Only what matches, as for "du"
    #[arg(long = "filter", value_name = "FILTER")]
    pub filters: Vec<String>,
    /// Keep what was used in the last so long, like 48h
    #[arg(long, value_name = "DURATION", value_parser = crate::storage::duration)]
    pub keep_duration: Option<std::time::Duration>,
    /// Stop when so many bytes or less are taken
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub max_used_space: Option<u64>,
    /// Stop when the file system has so many bytes free
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub min_free_space: Option<u64>,
    /// Always keep so many bytes
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub reserved_space: Option<u64>,
}

/// Commands about the state directory.
#[derive(Debug, Subcommand)]
pub enum Store {
    /// Check every record, layer and blob; drop what is damaged
    Verify {
        /// Change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Put everything on the disk, so that a power loss does not take it
    Sync,
}

/// Flags that limit what each step may use.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Limits of each step")]
pub struct Limits {
    /// Memory limit, in bytes or with a unit (b, k, m, g)
    #[arg(short = 'm', long, value_name = "BYTES", value_parser = bytes)]
    pub memory: Option<u64>,
    /// Limit of memory and swap together, or "-1" for as much swap as there is [default: no swap,
    /// if there is a memory limit]
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, requires = "memory")]
    pub memory_swap: Option<String>,
    /// Share of the processors that others want, too (2 to 262144; 1024 is usual)
    #[arg(short = 'c', long, value_name = "SHARES")]
    pub cpu_shares: Option<u64>,
    /// Processor time in each period, in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    pub cpu_quota: Option<u64>,
    /// Length of the periods of "--cpu-quota", in microseconds [default: 100000]
    #[arg(long, value_name = "MICROSECONDS")]
    pub cpu_period: Option<u64>,
    /// Processors (0-3, 0,1)
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes (0-3, 0,1)
    #[arg(long, value_name = "LIST")]
    pub cpuset_mems: Option<String>,
    /// Size of /dev/shm, in bytes or with a unit
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub shm_size: Option<u64>,
    /// Limit of each process (format: "NAME=SOFT[:HARD]"; -1 is none)
    #[arg(long = "ulimit", value_name = "ULIMIT")]
    pub ulimits: Vec<String>,
    /// Cgroup below which steps get theirs
    #[arg(long, value_name = "CGROUP")]
    pub cgroup_parent: Option<String>,
}

impl Limits {
    /// What counts for all processes of a step together.
    ///
    /// # Errors
    /// The limit of swap is neither a number of bytes nor -1.
    pub fn of_all_processes(&self) -> Result<cofferdam_build::StepLimits, Error> {
        let swap = |text: &str| match text {
            "-1" => Ok(Swap::Unlimited),
            _ => bytes(text).map(Swap::Total).map_err(|expected| {
                Error::usage(format!("--memory-swap `{text}`: {expected}, or -1"))
            }),
        };
        Ok(cofferdam_build::StepLimits {
            memory: self.memory,
            memory_and_swap: self.memory_swap.as_deref().map(swap).transpose()?,
            cpu_shares: self.cpu_shares,
            cpu_quota: self.cpu_quota,
            cpu_period: self.cpu_period,
            cpuset_cpus: self.cpuset_cpus.clone(),
            cpuset_mems: self.cpuset_mems.clone(),
            ..cofferdam_build::StepLimits::default()
        })
    }
}

/// Flags of `cofferdam build`.
#[derive(Args, Debug, Default)]
pub struct Build {
    /// The build context: a directory, a git repository, the URL of an archive or a Dockerfile, or
    /// "-" for one of both on standard input
    #[arg(value_name = "PATH")]
    pub context: Option<PathBuf>,
    /// Add a custom host-to-IP mapping (format: "host:ip")
    #[arg(long = "add-host", value_name = "HOST:IP")]
    pub add_hosts: Vec<String>,
    /// Add annotation to the image (format: "[PLACE[[PLATFORM]],...:]KEY=VALUE", with the places
    /// manifest, index, manifest-descriptor and index-descriptor)
    #[arg(long = "annotation", value_name = "ANNOTATION")]
    pub annotations: Vec<String>,
    /// Allow extra privileged entitlement: network.host, security.insecure, device, or
    /// device=NAME[,alias=NAME]
    #[arg(long, value_name = "ENTITLEMENT")]
    pub allow: Vec<Allow>,
    /// What steps may use.
    #[command(flatten)]
    pub limits: Limits,
    /// Ask about the build instead of building: check, outline, targets or describe; with
    /// ",format=json" in JSON
    #[arg(long, value_name = "METHOD[,format=FORMAT]")]
    pub call: Option<Call>,
    /// Check the Dockerfile instead of building (shorthand for "--call=check")
    #[arg(long, conflicts_with = "call")]
    pub check: bool,
    /// Say which rule of the ignore file leaves PATH out of the build context, instead of building
    #[arg(long, value_name = "PATH", conflicts_with_all = ["call", "check"])]
    pub explain_ignore: Option<String>,
    /// Set build-time variables; without a value, it is that of the environment
    #[arg(long = "build-arg", value_name = "KEY[=VALUE]")]
    pub build_args: Vec<String>,
    /// Additional build contexts (a directory, docker-image://REF, a git repository, a URL, or
    /// oci-layout://PATH[:TAG][@DIGEST])
    #[arg(long = "build-context", value_name = "NAME=VALUE")]
    pub build_contexts: Vec<String>,
    /// Name of the Dockerfile (default: "PATH/Dockerfile"); "-" is standard input
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Build with this frontend component instead of the built-in one for Dockerfiles
    #[arg(long, value_name = "FILE.wasm")]
    pub frontend: Option<PathBuf>,
    /// Write the image ID to a file
    #[arg(long, value_name = "FILE")]
    pub iidfile: Option<PathBuf>,
    /// Registry without TLS; those on loopback need no mention
    #[arg(long = "insecure-registry", value_name = "HOST[:PORT]")]
    pub insecure_registries: Vec<String>,
    /// Set metadata for an image
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<String>,
    /// Load the image into Docker, containerd or podman, whichever answers (shorthand for
    /// "--output=type=docker")
    #[arg(long)]
    pub load: bool,
    /// Write build result metadata to a file
    #[arg(long, value_name = "FILE")]
    pub metadata_file: Option<PathBuf>,
    /// Set the networking mode for the RUN instructions during build (host includes
    /// "--allow network.host")
    #[arg(long, value_name = "MODE", default_value = "default")]
    pub network: NetworkMode,
    /// Do not use cache when building the image
    #[arg(long)]
    pub no_cache: bool,
    /// Do not cache specified stages
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    pub no_cache_filter: Vec<String>,
    /// Run steps by this OCI runtime (runc, crun, runsc, or a path) instead of cofferdam's own
    /// sandbox
    #[arg(long, value_name = "PROGRAM")]
    pub oci_runtime: Option<PathBuf>,
    /// Option for the frontend
    #[arg(long = "opt", value_name = "KEY=VALUE")]
    pub options: Vec<String>,
    /// Output destination (format: "type=image|registry|oci|docker|local|tar|wasm-artifact|cacheonly,dest=path",
    /// or a directory, or "-" for a tar on standard output; docs/outputs.md has all attributes)
    #[arg(short, long = "output", value_name = "OUTPUT")]
    pub outputs: Vec<String>,
    /// Set target platform for build
    #[arg(long = "platform", value_name = "PLATFORM", value_delimiter = ',')]
    pub platforms: Vec<String>,
    /// Set type of progress output; quiet is "--quiet"
    #[arg(long, value_name = "TYPE", default_value = "auto")]
    pub progress: ProgressMode,
    /// Say what the build needs of this machine, and which lines need it, instead of building
    #[arg(long, conflicts_with_all = ["call", "check", "explain_ignore"])]
    pub print_tier: bool,
    /// Always attempt to pull all referenced images
    #[arg(long)]
    pub pull: bool,
    /// Shorthand for "--output=type=image,push=true"
    #[arg(long)]
    pub push: bool,
    /// Suppress the build output and print the image ID on success
    #[arg(short, long)]
    pub quiet: bool,
    /// Security options for steps: "no-new-privileges", so that set-user-id programs and file
    /// capabilities give no privilege
    #[arg(long = "security-opt", value_name = "OPTION")]
    pub security_options: Vec<SecurityOption>,
    /// What is lent to the steps.
    #[command(flatten)]
    pub lend: Lend,
    /// Image identifier (format: "[registry/]repository[:tag]")
    #[arg(short, long = "tag", value_name = "NAME")]
    pub tags: Vec<String>,
    /// Set the target build stage to build
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,
    /// Say for each step that has to run why the cache has no result of it
    #[arg(long)]
    pub why: bool,
}

impl Build {
    /// What is asked instead of building.
    pub fn call(&self) -> Option<Call> {
        let ask = |subrequest: &str| {
            Some(Call { subrequest: subrequest.to_owned(), format: Format::Text })
        };
        match &self.call {
            Some(call) => Some(call.clone()),
            None if self.check => ask("frontend.lint"),
            None if self.explain_ignore.is_some() => ask("cofferdam.ignore"),
            None => None,
        }
    }

    /// How progress is shown.
    pub fn progress(&self) -> ProgressMode {
        if self.quiet { ProgressMode::Quiet } else { self.progress }
    }
}

/// What `--call` asks the frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The subrequest's name.
    pub subrequest: String,
    /// In which form the answer is printed.
    pub format: Format,
}

/// The form of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}

impl std::str::FromStr for Call {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (method, rest) = text.split_once(',').unwrap_or((text, ""));
        let subrequest = match method {
            "check" | "lint" => "frontend.lint",
            "outline" => "frontend.outline",
            "targets" => "frontend.targets",
            "describe" | "subrequests.describe" => "frontend.subrequests.describe",
            "" => return Err("expected `check`, `outline`, `targets` or `describe`".into()),
            // Frontends may answer more than this program knows.
            other => other,
        };
        let format = match rest.trim() {
            "" | "format=text" => Format::Text,
            "format=json" => Format::Json,
            _ => return Err(format!("unknown option `{rest}`: expected `format=json`")),
        };
        Ok(Self { subrequest: subrequest.to_owned(), format })
    }
}

/// Commands about the Dockerfile language.
#[derive(Debug, Subcommand)]
pub enum Dockerfile {
    /// Explain an instruction, or a check, or list them all
    Explain {
        /// The instruction (`COPY`) or the check (`UndefinedVar`)
        #[arg(value_name = "NAME")]
        name: Option<String>,
        /// In which form
        #[arg(long, value_name = "FORMAT", default_value = "text")]
        format: Format,
    },
}

/// What `--security-opt` may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecurityOption {
    /// Whether programs can give privileges.
    NoNewPrivileges(bool),
}

impl std::str::FromStr for SecurityOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "no-new-privileges" | "no-new-privileges=true" => Ok(Self::NoNewPrivileges(true)),
            "no-new-privileges=false" => Ok(Self::NoNewPrivileges(false)),
            _ => Err("expected `no-new-privileges[=true|false]`".to_owned()),
        }
    }
}

/// Networks of steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum NetworkMode {
    /// What the engine has for steps
    #[default]
    Default,
    /// Loopback only
    None,
    /// The host's
    Host,
}

/// How progress is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ProgressMode {
    /// The best for where standard error goes
    #[default]
    Auto,
    /// For a terminal
    Tty,
    /// Line by line
    Plain,
    /// One JSON object per line (docs/progress-json.md)
    Json,
    /// Not at all
    Quiet,
}

/// Flags of `docker build` and `docker buildx build` that are not there yet.
const NOT_YET: &[&str] = &[
    "--attest",
    "--builder",
    "--cache-from",
    "--cache-to",
    "--compress",
    "--force-rm",
    "--isolation",
    "--policy",
    "--provenance",
    "--rm",
    "--sbom",
    "--squash",
];

/// The limit of the state directory.
pub fn max_storage(text: &str) -> Result<MaxStorage, String> {
    match text {
        "none" => Ok(MaxStorage::Unlimited),
        _ => bytes(text).map(MaxStorage::Bytes).map_err(|error| format!("{error}, or `none`")),
    }
}

/// Bytes as Docker writes them: a number, and perhaps b, k, m, g or t for powers of 1024.
pub fn bytes(text: &str) -> Result<u64, String> {
    let lower = text.to_lowercase();
    let (number, unit) = match lower.strip_suffix(['b', 'k', 'm', 'g', 't']) {
        Some(number) => (number, lower.chars().next_back()),
        None => (lower.as_str(), None),
    };
    let shift = match unit {
        Some('k') => 10,
        Some('m') => 20,
        Some('g') => 30,
        Some('t') => 40,
        _ => 0,
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift))
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| "expected a number of bytes, like `512m`".to_owned())
}

/// Says so when clap was given a flag that Docker has and this program has not yet.
pub fn not_yet(error: &clap::Error) -> Option<Error> {
    let clap::error::ContextValue::String(flag) =
        error.get(clap::error::ContextKind::InvalidArg)?
    else {
        return None;
    };
    let flag = flag.split('=').next().unwrap_or(flag);
    (error.kind() == clap::error::ErrorKind::UnknownArgument && NOT_YET.contains(&flag))
        .then(|| Error::usage(format!("docker's flag `{flag}` is not supported yet")))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_docker_has_and_we_have_not_is_named() {
        let refusal = |flag: &str| {
            let error = Cli::try_parse_from(["cofferdam", "build", flag, "."]).unwrap_err();
            not_yet(&error).map(|error| error.to_string())
        };
        assert_eq!(
            refusal("--squash=true").as_deref(),
            Some("docker's flag `--squash` is not supported yet")
        );
        assert_eq!(refusal("--no-such-option"), None);
    }

    #[test]
    fn no_flag_is_both_there_and_not_there() {
        let mut command = Cli::command();
        command.build();
        let build = command.find_subcommand("build").expect("there is `build`");
        let flags: Vec<String> =
            build.get_arguments().filter_map(|a| a.get_long()).map(|f| format!("--{f}")).collect();
        assert!(flags.contains(&"--tag".to_owned()));
        assert!(NOT_YET.iter().all(|flag| !flags.contains(&(*flag).to_owned())));
    }

    #[test]
    fn debug_has_an_id_a_program_and_subcommands() {
        let parse = |args: &[&str]| {
            let args = ["cofferdam", "debug"].iter().chain(args);
            match Cli::try_parse_from(args).map(|cli| cli.command) {
                Ok(Command::Debug(debug)) => format!(
                    "{:?} {:?} {:?} {} {}",
                    debug.command, debug.id, debug.program, debug.list, debug.input
                ),
                Ok(other) => format!("{other:?}"),
                Err(error) => error.kind().to_string(),
            }
        };
        assert_eq!(parse(&[]), "None None [] false false");
        assert_eq!(parse(&["ab12"]), "None Some(\"ab12\") [] false false");
        assert_eq!(
            parse(&["--input", "--root=/x", "--", "ls", "-l"]),
            "None None [\"ls\", \"-l\"] false true"
        );
        assert_eq!(parse(&["ab", "--", "sh"]), "None Some(\"ab\") [\"sh\"] false false");
        assert_eq!(
            parse(&["dump-llb", "f", "--root", "/x"]),
            "Some(DumpLlb { file: \"f\" }) None [] false false"
        );
        assert_eq!(parse(&["--list", "--root", "/x"]), "None None [] true false");
        let conflict = clap::error::ErrorKind::ArgumentConflict.to_string();
        assert_eq!(parse(&["--list", "ab"]), conflict);
        assert_eq!(parse(&["--list", "--", "ls"]), conflict);
    }

    #[test]
    fn quiet_is_a_progress_mode() {
        let mode = |flags: &[&str]| {
            let args = ["cofferdam", "build", "."].iter().chain(flags);
            match Cli::try_parse_from(args).expect("valid").command {
                Command::Build(build) => build.progress(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(mode(&[]), ProgressMode::Auto);
        assert_eq!(mode(&["--progress", "json"]), ProgressMode::Json);
        assert_eq!(mode(&["--progress", "json", "-q"]), ProgressMode::Quiet);
    }
}
