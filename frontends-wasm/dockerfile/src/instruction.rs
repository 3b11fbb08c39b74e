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
    }
}

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
        ..plain("ADD", Form::JsonOrWords, "adds files, unpacked archives, downloads")
    },
    Spec {
        expansion: Expansion::Arguments,
        ..plain("ARG", Form::NamesOrPairs, "declares variables that a build can set")
    },
    Spec { min: 0, ..plain("CMD", Form::JsonOrShell, "sets the image's default command") },
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
        ..plain("COPY", Form::JsonOrWords, "copies files from the context, a stage or an image")
    },
    Spec {
        min: 0,
        ..plain("ENTRYPOINT", Form::JsonOrShell, "sets the program that the image runs")
    },
    Spec {
        expansion: Expansion::Arguments,
        ..plain("ENV", Form::Pairs, "sets environment variables")
    },
    Spec {
        expansion: Expansion::Arguments,
        ..plain("EXPOSE", Form::Words, "names the ports that the image listens on")
    },
    Spec {
        flags: &[flag("platform", FlagKind::Text, "platform of the stage")],
        max: 3,
        expansion: Expansion::Global,
        in_onbuild: false,
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
        ..plain("HEALTHCHECK", Form::Health, "says how to check that a container works")
    },
    Spec {
        expansion: Expansion::Arguments,
        ..plain("LABEL", Form::Pairs, "adds labels to the image")
    },
    Spec {
        max: 1,
        in_onbuild: false,
        ..plain("MAINTAINER", Form::Whole, "sets the image's author (deprecated)")
    },
    Spec {
        heredocs: true,
        in_onbuild: false,
        ..plain("ONBUILD", Form::Instruction, "keeps an instruction for builds on this image")
    },
    Spec {
        flags: &[
            flag("mount", FlagKind::List, "mounts a context, stage, cache, secret or agent"),
            flag("network", FlagKind::Text, "default, none or host"),
            flag("security", FlagKind::Text, "sandbox or insecure"),
        ],
        expansion: Expansion::Flags,
        heredocs: true,
        step: true,
        ..plain("RUN", Form::JsonOrShell, "runs a command")
    },
    plain("SHELL", Form::Json, "sets the shell of the shell forms"),
    Spec {
        max: 1,
        expansion: Expansion::Arguments,
        ..plain("STOPSIGNAL", Form::Whole, "sets the signal that stops a container")
    },
    Spec {
        max: 1,
        expansion: Expansion::Arguments,
        ..plain("USER", Form::Whole, "sets the user of what follows")
    },
    Spec {
        expansion: Expansion::Arguments,
        ..plain("VOLUME", Form::JsonOrWords, "names directories with data of their own")
    },
    Spec {
        max: 1,
        expansion: Expansion::Arguments,
        step: true,
        ..plain("WORKDIR", Form::Whole, "sets and makes the working directory")
    },
];

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
        }
    }
}
