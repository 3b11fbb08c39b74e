//! The table of instructions: for each one its name, flags, number of arguments, where variables
//! are expanded, and what it does. The parser, its suggestions and the documentation read it.

/// One row of the table.
#[derive(Debug, PartialEq, Eq)]
pub struct Spec {
    /// The name, in upper case.
    pub name: &'static str,
    /// Flags that it takes.
    pub flags: &'static [Flag],
    /// Fewest arguments.
    pub min: usize,
    /// Most arguments.
    pub max: usize,
    /// How the text behind the flags is cut into arguments.
    pub form: Form,
    /// Where variables are expanded.
    pub expansion: Expansion,
    /// Whether here-documents may follow.
    pub heredocs: bool,
    /// Whether it may stand in ONBUILD.
    pub in_onbuild: bool,
    /// Whether it counts as a step in the progress display.
    pub step: bool,
    /// One line on what it does.
    pub summary: &'static str,
    /// The forms of what follows its flags.
    pub usage: &'static [&'static str],
    /// A paragraph on it.
    pub text: &'static str,
    /// The options of its flag `--mount`.
    pub options: &'static [MountOption],
}

/// An option of `--mount`.
#[derive(Debug, PartialEq, Eq)]
pub struct MountOption {
    /// Its names, all meaning the same.
    pub names: &'static [&'static str],
    /// The types of mounts that have it.
    pub kinds: &'static [&'static str],
    /// One line on what it does.
    pub summary: &'static str,
}

/// A flag of an instruction.
#[derive(Debug, PartialEq, Eq)]
pub struct Flag {
    /// The name, without dashes.
    pub name: &'static str,
    /// What values it takes.
    pub kind: FlagKind,
    /// One line on what it does.
    pub summary: &'static str,
}

/// What values a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlagKind {
    /// A text, once.
    Text,
    /// A text, any number of times.
    List,
    /// Nothing, `true` or `false`.
    Bool,
}

/// How the text behind the flags is cut into arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Words between blanks; quotes are part of them.
    Words,
    /// A JSON array, else words.
    JsonOrWords,
    /// A JSON array, else a command for the shell.
    JsonOrShell,
    /// A JSON array.
    Json,
    /// `name=value …`, or `name value`.
    Pairs,
    /// `name` or `name=value`, several.
    NamesOrPairs,
    /// All of it is one argument.
    Whole,
    /// `NONE`, or `CMD` with a command.
    Health,
    /// Another instruction.
    Instruction,
}

/// Where variables are expanded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expansion {
    /// Nowhere.
    None,
    /// In flags only.
    Flags,
    /// In flags and arguments, with the stage's variables.
    Arguments,
    /// In flags and arguments, with the variables declared before the first FROM.
    Global,
}

const fn flag(name: &'static str, kind: FlagKind, summary: &'static str) -> Flag {
    Flag { name, kind, summary }
}

const CHOWN: Flag = flag("chown", FlagKind::Text, "owner of what is copied, user[:group]");
const CHMOD: Flag = flag("chmod", FlagKind::Text, "permissions of what is copied");
const LINK: Flag = flag("link", FlagKind::Bool, "copy into a layer of its own");
const EXCLUDE: Flag = flag("exclude", FlagKind::List, "pattern of what is left out");

const ANY: usize = usize::MAX;

const fn plain(name: &'static str, form: Form, summary: &'static str) -> Spec {
    Spec {
        name,
        flags: &[],
        min: 1,
        max: ANY,
        form,
        expansion: Expansion::None,
        heredocs: false,
        in_onbuild: true,
        step: false,
        summary,
        usage: &[],
        text: "",
        options: &[],
    }
}

const fn option(
    names: &'static [&'static str],
    kinds: &'static [&'static str],
    summary: &'static str,
) -> MountOption {
    MountOption { names, kinds, summary }
}

/// The types of mounts.
pub const MOUNT_TYPES: &[&str] = &["bind", "cache", "tmpfs", "secret", "ssh"];

/// The options of `RUN --mount`.
const MOUNT_OPTIONS: &[MountOption] = &[
    option(&["type"], MOUNT_TYPES, "what is mounted (default: bind)"),
    option(
        &["target", "dst", "destination"],
        MOUNT_TYPES,
        "where; relative paths are relative to the working directory",
    ),
    option(
        &["source", "src"],
        &["bind", "cache", "secret"],
        "path inside the tree that is mounted; of a secret, its id",
    ),
    option(
        &["from"],
        &["bind", "cache"],
        "stage, image or context that the tree is from (default: the build context)",
    ),
    option(&["readwrite", "rw"], &["bind"], "may be written to; what is written is thrown away"),
    option(&["readonly", "ro"], &["bind", "cache"], "cannot be written to"),
    option(
        &["id"],
        &["cache", "secret", "ssh"],
        "which cache (default: the target), secret or agent",
    ),
    option(
        &["sharing"],
        &["cache"],
        "with steps at the same time: shared (default), private or locked",
    ),
    option(&["size"], &["tmpfs"], "the most that it holds, like 64m"),
    option(&["env"], &["secret"], "name of the variable that has the secret"),
    option(&["required"], &["secret", "ssh"], "it is an error if the client does not lend it"),
    option(&["mode"], &["cache", "secret", "ssh"], "permissions in octal digits"),
    option(&["uid"], &["cache", "secret", "ssh"], "number of the owner (default: 0)"),
    option(&["gid"], &["cache", "secret", "ssh"], "number of the group (default: 0)"),
];

/// All instructions.
pub const INSTRUCTIONS: &[Spec] = &[
    Spec {
        flags: &[
            CHOWN,
            CHMOD,
            LINK,
            flag("keep-git-dir", FlagKind::Bool, "keep the .git directory of a repository"),
            flag("checksum", FlagKind::Text, "digest that the download must have"),
            flag("unpack", FlagKind::Bool, "whether to unpack archives"),
            EXCLUDE,
        ],
        min: 2,
        expansion: Expansion::Arguments,
        heredocs: true,
        step: true,
        usage: &[
            "SOURCE... DESTINATION",
            r#"["SOURCE", ..., "DESTINATION"]"#,
            "<<NAME DESTINATION",
        ],
        text: "Copies like COPY, and more: a local archive (tar, also compressed) is unpacked, \
               a source that is an http or https address is downloaded, and one that is a Git \
               repository is cloned. Where none of that is wanted, COPY says so.",
        ..plain("ADD", Form::JsonOrWords, "adds files, unpacked archives, downloads")
    },
    Spec {
        expansion: Expansion::Arguments,
        usage: &["NAME[=DEFAULT] ..."],
        text: "Declares variables for the rest of the stage; `--build-arg` gives them other \
               values. Declared before the first FROM they exist in FROM only, and an ARG \
               without a default makes them known in a stage. They are not in the environment \
               of the container that is started later, but in the history of the image.",
        ..plain("ARG", Form::NamesOrPairs, "declares variables that a build can set")
    },
    Spec {
        min: 0,
        usage: &[r#"["PROGRAM", "ARGUMENT", ...]"#, r#"["ARGUMENT", ...]"#, "COMMAND"],
        text: "Sets what a container runs if nothing else is said when it is started; with an \
               ENTRYPOINT, its arguments. Without brackets a shell runs the command. The last \
               one of a stage counts.",
        ..plain("CMD", Form::JsonOrShell, "sets the image's default command")
    },
    Spec {
        flags: &[
            flag("from", FlagKind::Text, "stage, image or context to copy from"),
            CHOWN,
            CHMOD,
            LINK,
            flag("parents", FlagKind::Bool, "keep the directories of the sources"),
            EXCLUDE,
        ],
        min: 2,
        expansion: Expansion::Arguments,
        heredocs: true,
        step: true,
        usage: &[
            "SOURCE... DESTINATION",
            r#"["SOURCE", ..., "DESTINATION"]"#,
            "<<NAME DESTINATION",
        ],
        text: "Copies files and directories; of a directory, what is in it. Sources are paths \
               in the build context, or with `--from` in a stage, an image or a named context, \
               and may have the wildcards * ? [ and **. With several sources the destination is \
               a directory and ends in a slash.",
        ..plain("COPY", Form::JsonOrWords, "copies files from the context, a stage or an image")
    },
    Spec {
        min: 0,
        usage: &[r#"["PROGRAM", "ARGUMENT", ...]"#, "COMMAND"],
        text: "Sets the program that a container runs, with what CMD or the command line say as \
               further arguments. Without brackets a shell runs the command, and takes no \
               further arguments. The last one of a stage counts.",
        ..plain("ENTRYPOINT", Form::JsonOrShell, "sets the program that the image runs")
    },
    Spec {
        expansion: Expansion::Arguments,
        usage: &["NAME=VALUE ...", "NAME VALUE"],
        text: "Sets environment variables for the rest of the stage, for stages on it and for \
               containers. Variables in one instruction do not see each other.",
        ..plain("ENV", Form::Pairs, "sets environment variables")
    },
    Spec {
        expansion: Expansion::Arguments,
        usage: &["PORT[-PORT][/tcp|udp|sctp] ..."],
        text: "Notes in the image which ports its program listens on. It opens none: that is \
               done when a container is started.",
        ..plain("EXPOSE", Form::Words, "names the ports that the image listens on")
    },
    Spec {
        flags: &[flag("platform", FlagKind::Text, "platform of the stage")],
        max: 3,
        expansion: Expansion::Global,
        in_onbuild: false,
        usage: &["IMAGE [AS NAME]", "STAGE [AS NAME]", "scratch [AS NAME]"],
        text: "Begins a stage: what follows is built on an image, on an earlier stage, on a \
               named context or on nothing (scratch). A name makes the stage known to FROM, to \
               `COPY --from`, to mounts and to `--target`.",
        ..plain("FROM", Form::Words, "begins a stage on an image or an earlier stage")
    },
    Spec {
        flags: &[
            flag("interval", FlagKind::Text, "time between checks"),
            flag("timeout", FlagKind::Text, "longest time for a check"),
            flag("start-period", FlagKind::Text, "time for the container to start"),
            flag("start-interval", FlagKind::Text, "time between checks during the start"),
            flag("retries", FlagKind::Text, "failures in a row that count"),
        ],
        usage: &["CMD COMMAND", r#"CMD ["PROGRAM", "ARGUMENT", ...]"#, "NONE"],
        text: "Sets a command that says from inside whether a container works: exit code 0 is \
               healthy, 1 is not. NONE takes away what the base image has. Times are like 30s \
               or 1m30s.",
        ..plain("HEALTHCHECK", Form::Health, "says how to check that a container works")
    },
    Spec {
        expansion: Expansion::Arguments,
        usage: &["NAME=VALUE ...", "NAME VALUE"],
        text: "Adds labels to the image, which programs read. Names of one's own begin with a \
               domain written backwards, like org.example.name.",
        ..plain("LABEL", Form::Pairs, "adds labels to the image")
    },
    Spec {
        max: 1,
        in_onbuild: false,
        usage: &["NAME"],
        text: "Sets the author of the image. It is deprecated: write LABEL \
               org.opencontainers.image.authors=NAME.",
        ..plain("MAINTAINER", Form::Whole, "sets the image's author (deprecated)")
    },
    Spec {
        heredocs: true,
        in_onbuild: false,
        usage: &["INSTRUCTION"],
        text: "Keeps an instruction in the image. It is run at the beginning of each build that \
               begins FROM this image, and of none that begins from that one's image.",
        ..plain("ONBUILD", Form::Instruction, "keeps an instruction for builds on this image")
    },
    Spec {
        flags: &[
            flag("mount", FlagKind::List, "mounts a context, stage, cache, secret or agent"),
            flag("network", FlagKind::Text, "default, none or host"),
            flag("security", FlagKind::Text, "sandbox or insecure"),
            flag("device", FlagKind::List, "gives the command a CDI device"),
        ],
        min: 0,
        expansion: Expansion::Flags,
        heredocs: true,
        step: true,
        usage: &["COMMAND", r#"["PROGRAM", "ARGUMENT", ...]"#, "<<NAME"],
        text: "Runs a command in the stage so far; what it leaves behind is a new layer. \
               Without brackets the stage's shell runs it. A here-document is a script of \
               several lines, for the shell or for what its first line #! names.",
        options: MOUNT_OPTIONS,
        ..plain("RUN", Form::JsonOrShell, "runs a command")
    },
    Spec {
        usage: &[r#"["PROGRAM", "ARGUMENT", ...]"#],
        text: "Sets the shell that runs commands without brackets, in RUN, CMD, ENTRYPOINT and \
               HEALTHCHECK. It begins as /bin/sh -c.",
        ..plain("SHELL", Form::Json, "sets the shell of the shell forms")
    },
    Spec {
        max: 1,
        expansion: Expansion::Arguments,
        usage: &["SIGNAL"],
        text: "Sets the signal that asks the program of a container to end: a name like \
               SIGQUIT, or a number. Without it, it is SIGTERM.",
        ..plain("STOPSIGNAL", Form::Whole, "sets the signal that stops a container")
    },
    Spec {
        max: 1,
        expansion: Expansion::Arguments,
        usage: &["USER[:GROUP]"],
        text: "Sets who runs the commands of the rest of the stage and of containers: names \
               that the image knows, or numbers. It does not change who owns what COPY and ADD \
               make.",
        ..plain("USER", Form::Whole, "sets the user of what follows")
    },
    Spec {
        expansion: Expansion::Arguments,
        usage: &["PATH ...", r#"["PATH", ...]"#],
        text: "Notes in the image which directories have data of their own: a container gets a \
               new volume for each that is not mounted otherwise.",
        ..plain("VOLUME", Form::JsonOrWords, "names directories with data of their own")
    },
    Spec {
        max: 1,
        expansion: Expansion::Arguments,
        step: true,
        usage: &["PATH"],
        text: "Sets the working directory of the rest of the stage and of containers, and makes \
               it if it is not there. A relative path is relative to the one before.",
        ..plain("WORKDIR", Form::Whole, "sets and makes the working directory")
    },
];

/// The row of an option of `--mount`.
pub fn mount_option(name: &str) -> Option<&'static MountOption> {
    MOUNT_OPTIONS.iter().find(|option| option.names.contains(&name))
}

/// All names of options of `--mount`.
pub fn mount_option_names() -> impl Iterator<Item = &'static str> {
    MOUNT_OPTIONS.iter().flat_map(|option| option.names).copied()
}

/// The row of an instruction, in any case of letters.
pub fn find(name: &str) -> Option<&'static Spec> {
    INSTRUCTIONS.iter().find(|spec| spec.name.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_found_in_any_case() {
        assert!(INSTRUCTIONS.is_sorted_by_key(|spec| spec.name));
        assert_eq!(find("workDir").map(|spec| spec.name), Some("WORKDIR"));
        assert_eq!(find("WORKDI"), None);
        for spec in INSTRUCTIONS {
            assert!(spec.min <= spec.max && !spec.summary.is_empty(), "{}", spec.name);
            assert!(!spec.usage.is_empty() && spec.text.ends_with('.'), "{}", spec.name);
            let has_mounts = spec.flags.iter().any(|flag| flag.name == "mount");
            assert_eq!(has_mounts, !spec.options.is_empty(), "{}", spec.name);
        }
    }
}
