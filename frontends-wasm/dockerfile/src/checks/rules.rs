//! The table of checks: for each one its name, what it finds, why that matters, and what to write
//! instead. Names, addresses and what they find are those of BuildKit, so that one `# check=skip`
//! serves both; warnings, `cofferdam dockerfile explain` and `docs/checks.md` come from here.

/// A check.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// The name, as `# check=skip=` has it.
    pub name: &'static str,
    /// What the Dockerfile should be like, in one sentence.
    pub summary: &'static str,
    /// Why, and what to do.
    pub why: &'static str,
    /// A Dockerfile that the check finds.
    pub bad: &'static str,
    /// The same, so that it does not.
    pub good: &'static str,
    /// Only done when `# check=experimental=` asks for it.
    pub experimental: bool,
}

impl Rule {
    /// Where Docker's documentation has it.
    pub fn url(&self) -> String {
        let mut kebab = String::new();
        let chars: Vec<char> = self.name.chars().collect();
        for (at, c) in chars.iter().enumerate() {
            let after_lower = at > 0 && chars[at - 1].is_ascii_lowercase();
            let last_of_acronym = at > 0 && chars.get(at + 1).is_some_and(char::is_ascii_lowercase);
            if c.is_ascii_uppercase() && (after_lower || last_of_acronym) {
                kebab.push('-');
            }
            kebab.push(c.to_ascii_lowercase());
        }
        format!("https://docs.docker.com/go/dockerfile/rule/{kebab}/")
    }
}

const fn rule(
    name: &'static str,
    summary: &'static str,
    why: &'static str,
    bad: &'static str,
    good: &'static str,
) -> Rule {
    Rule { name, summary, why, bad, good, experimental: false }
}

/// `StageNameCasing`
pub static STAGE_NAME_CASING: Rule = rule(
    "StageNameCasing",
    "names of stages are in lower case",
    "Names of stages are compared without regard to case, and everybody writes the names of images \
     in lower case. One spelling keeps stages easy to find.",
    "FROM alpine AS Builder\n",
    "FROM alpine AS builder\n",
);
/// `FromAsCasing`
pub static FROM_AS_CASING: Rule = rule(
    "FromAsCasing",
    "the keyword AS has the case of its FROM",
    "Any case works, but two cases in one line look like a mistake.",
    "FROM alpine as builder\n",
    "FROM alpine AS builder\n",
);
/// `NoEmptyContinuation`
pub static NO_EMPTY_CONTINUATION: Rule = rule(
    "NoEmptyContinuation",
    "no empty line stands inside a continued instruction",
    "An empty line looks like the end of the instruction and is not. Remove it, or put a comment \
     there.",
    "FROM alpine\nRUN apk add \\\n\n    git\n",
    "FROM alpine\nRUN apk add \\\n    git\n",
);
/// `ConsistentInstructionCasing`
pub static CONSISTENT_INSTRUCTION_CASING: Rule = rule(
    "ConsistentInstructionCasing",
    "all instructions are in upper case, or all in lower case",
    "Any case works; a file in which one instruction looks like another is easier to read.",
    "FROM alpine\nrun true\nCMD [\"true\"]\n",
    "FROM alpine\nRUN true\nCMD [\"true\"]\n",
);
/// `DuplicateStageName`
pub static DUPLICATE_STAGE_NAME: Rule = rule(
    "DuplicateStageName",
    "no two stages have the same name",
    "A name that two stages have means the later one from there on. What is copied from it, and \
     what `--target` builds, depends on where the name is used.",
    "FROM alpine AS app\nFROM debian AS app\n",
    "FROM alpine AS build\nFROM debian AS app\n",
);
/// `ReservedStageName`
pub static RESERVED_STAGE_NAME: Rule = rule(
    "ReservedStageName",
    "no stage is called `scratch` or `context`",
    "`scratch` is the empty image and `context` the build context. A stage with such a name hides \
     it, or is hidden by it.",
    "FROM alpine AS scratch\n",
    "FROM alpine AS minimal\n",
);
/// `JSONArgsRecommended`
pub static JSON_ARGS_RECOMMENDED: Rule = rule(
    "JSONArgsRecommended",
    "CMD and ENTRYPOINT are JSON arrays",
    "A command that is no JSON array is run by a shell, which stands between the container and the \
     program: signals like the one of `docker stop` may never arrive at the program. Where a shell \
     is wanted, say so with SHELL, or name it in the array.",
    "FROM alpine\nCMD server --port 80\n",
    "FROM alpine\nCMD [\"server\", \"--port\", \"80\"]\n",
);
/// `MaintainerDeprecated`
pub static MAINTAINER_DEPRECATED: Rule = rule(
    "MaintainerDeprecated",
    "the author is named by a label",
    "MAINTAINER has been deprecated for long. The label `org.opencontainers.image.authors` says the \
     same and is what other tools read.",
    "FROM alpine\nMAINTAINER somebody@example.org\n",
    "FROM alpine\nLABEL org.opencontainers.image.authors=\"somebody@example.org\"\n",
);
/// `UndefinedArgInFrom`
pub static UNDEFINED_ARG_IN_FROM: Rule = rule(
    "UndefinedArgInFrom",
    "FROM uses no variable that is not declared",
    "Only ARGs in front of the first FROM, and the predefined ones like TARGETPLATFORM, exist in \
     FROM. Any other variable is empty there.",
    "ARG VERSION=1\nFROM alpine:3${VERSOIN}\n",
    "ARG VERSION=1\nFROM alpine:3${VERSION}\n",
);
/// `WorkdirRelativePath`
pub static WORKDIR_RELATIVE_PATH: Rule = rule(
    "WorkdirRelativePath",
    "the first WORKDIR of a stage is an absolute path",
    "A relative path is relative to the working directory of the base image, which a new version \
     of it may change.",
    "FROM alpine\nWORKDIR app\n",
    "FROM alpine\nWORKDIR /app\n",
);
/// `UndefinedVar`
pub static UNDEFINED_VAR: Rule = rule(
    "UndefinedVar",
    "no instruction uses a variable that is not set",
    "A variable that no ARG or ENV of the stage and no base image sets is empty. That is mostly a \
     misspelling, or an ARG that stands in another stage.",
    "FROM alpine\nARG DIRECTORY=/src\nCOPY . $DIRECTROY\n",
    "FROM alpine\nARG DIRECTORY=/src\nCOPY . $DIRECTORY\n",
);
/// `MultipleInstructionsDisallowed`
pub static MULTIPLE_INSTRUCTIONS_DISALLOWED: Rule = rule(
    "MultipleInstructionsDisallowed",
    "a stage has one CMD, one ENTRYPOINT and one HEALTHCHECK",
    "Of several in one stage only the last counts; the others do nothing.",
    "FROM alpine\nENTRYPOINT [\"a\"]\nENTRYPOINT [\"b\"]\n",
    "FROM alpine\nENTRYPOINT [\"b\"]\n",
);
/// `LegacyKeyValueFormat`
pub static LEGACY_KEY_VALUE_FORMAT: Rule = rule(
    "LegacyKeyValueFormat",
    "ENV and LABEL are written as name=value",
    "Without the `=` everything behind the name is the value, so that one instruction sets one \
     variable, and a forgotten quote goes unseen.",
    "FROM alpine\nENV DIRECTORY /src\n",
    "FROM alpine\nENV DIRECTORY=/src\n",
);
/// `InvalidBaseImagePlatform`
pub static INVALID_BASE_IMAGE_PLATFORM: Rule = rule(
    "InvalidBaseImagePlatform",
    "a base image is for the platform that is built for",
    "An image that is there for one platform only is taken whatever is asked for. What is built on \
     it does not run where it is meant to.",
    "# where `example.org/tool` is there for linux/arm64 only, in a build for linux/amd64\n\
     FROM example.org/tool\n",
    "FROM example.org/tool-for-every-platform\n",
);
/// `RedundantTargetPlatform`
pub static REDUNDANT_TARGET_PLATFORM: Rule = rule(
    "RedundantTargetPlatform",
    "FROM does not ask for the platform that it has anyway",
    "A stage is for the target platform unless its FROM says otherwise.",
    "FROM --platform=$TARGETPLATFORM alpine\n",
    "FROM alpine\n",
);
/// `SecretsUsedInArgOrEnv`
pub static SECRETS_USED_IN_ARG_OR_ENV: Rule = rule(
    "SecretsUsedInArgOrEnv",
    "no ARG or ENV is for a secret",
    "What ARG and ENV set is in the image's config and history, where everybody who has the image \
     can read it. Hand secrets to a step with `RUN --mount=type=secret`.",
    "FROM alpine\nARG API_TOKEN\n",
    "FROM alpine\nRUN --mount=type=secret,id=api_token,env=API_TOKEN fetch\n",
);
/// `InvalidDefaultArgInFrom`
pub static INVALID_DEFAULT_ARG_IN_FROM: Rule = rule(
    "InvalidDefaultArgInFrom",
    "with the defaults of its ARGs, every FROM names an image",
    "A Dockerfile should build without `--build-arg`. Give the ARG a default, or write one into the \
     FROM: `${TAG:-latest}`.",
    "ARG TAG\nFROM busybox:$TAG\n",
    "ARG TAG=latest\nFROM busybox:$TAG\n",
);
/// `FromPlatformFlagConstDisallowed`
pub static FROM_PLATFORM_FLAG_CONST_DISALLOWED: Rule = rule(
    "FromPlatformFlagConstDisallowed",
    "FROM does not pin a platform",
    "With a fixed platform the image is for that one, whatever `--platform` asks for. Use a \
     variable like BUILDPLATFORM, or leave the choice to the command line. A stage whose name has \
     the system or architecture in it is taken to be meant so.",
    "FROM --platform=linux/amd64 alpine AS base\n",
    "FROM --platform=$BUILDPLATFORM alpine AS base\n",
);
/// `CopyIgnoredFile`
pub static COPY_IGNORED_FILE: Rule = rule(
    "CopyIgnoredFile",
    "COPY and ADD name no file that the ignore file leaves out",
    "What `.dockerignore` leaves out of the build context cannot be copied: the step will fail. \
     `cofferdam build --explain-ignore PATH` says which rule it was.",
    "# where .dockerignore has the line `*.log`\nFROM scratch\nCOPY build.log /\n",
    "# where .dockerignore has the lines `*.log` and `!build.log`\nFROM scratch\nCOPY build.log /\n",
);
/// `InvalidDefinitionDescription`
pub static INVALID_DEFINITION_DESCRIPTION: Rule = Rule {
    experimental: true,
    ..rule(
        "InvalidDefinitionDescription",
        "a comment on an ARG or a stage begins with its name",
        "The comment directly above an ARG or a FROM with a name describes it in \
         `--call=outline` and `--call=targets` if it begins with that name. Leave an empty line \
         below a comment that is none.",
        "# check=experimental=all\n# Where things go\nARG PREFIX=/usr\nFROM scratch\n",
        "# check=experimental=all\n# PREFIX is where things go\nARG PREFIX=/usr\nFROM scratch\n",
    )
};
/// `ExposeProtoCasing`
pub static EXPOSE_PROTO_CASING: Rule = rule(
    "ExposeProtoCasing",
    "protocols in EXPOSE are in lower case",
    "Any case works; everybody writes `tcp` and `udp`.",
    "FROM alpine\nEXPOSE 80/TCP\n",
    "FROM alpine\nEXPOSE 80/tcp\n",
);
/// `ExposeInvalidFormat`
pub static EXPOSE_INVALID_FORMAT: Rule = rule(
    "ExposeInvalidFormat",
    "EXPOSE names ports of the container only",
    "Which address and port of the host lead to a port is said when a container is started, with \
     `--publish`. EXPOSE drops it.",
    "FROM alpine\nEXPOSE 127.0.0.1:80:80\n",
    "FROM alpine\nEXPOSE 80\n",
);

/// All checks, by name.
pub static RULES: [&Rule; 22] = [
    &CONSISTENT_INSTRUCTION_CASING,
    &COPY_IGNORED_FILE,
    &DUPLICATE_STAGE_NAME,
    &EXPOSE_INVALID_FORMAT,
    &EXPOSE_PROTO_CASING,
    &FROM_AS_CASING,
    &FROM_PLATFORM_FLAG_CONST_DISALLOWED,
    &INVALID_BASE_IMAGE_PLATFORM,
    &INVALID_DEFAULT_ARG_IN_FROM,
    &INVALID_DEFINITION_DESCRIPTION,
    &JSON_ARGS_RECOMMENDED,
    &LEGACY_KEY_VALUE_FORMAT,
    &MAINTAINER_DEPRECATED,
    &MULTIPLE_INSTRUCTIONS_DISALLOWED,
    &NO_EMPTY_CONTINUATION,
    &REDUNDANT_TARGET_PLATFORM,
    &RESERVED_STAGE_NAME,
    &SECRETS_USED_IN_ARG_OR_ENV,
    &STAGE_NAME_CASING,
    &UNDEFINED_ARG_IN_FROM,
    &UNDEFINED_VAR,
    &WORKDIR_RELATIVE_PATH,
];

/// The check with a name, in any case of letters.
pub fn find(name: &str) -> Option<&'static Rule> {
    RULES.into_iter().find(|rule| rule.name.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_every_row_is_full() {
        assert!(RULES.is_sorted_by_key(|rule| rule.name.to_lowercase()));
        for rule in RULES {
            assert!(rule.why.ends_with('.'), "{}", rule.name);
            assert!(rule.bad != rule.good && rule.bad.ends_with('\n'), "{}", rule.name);
        }
    }

    #[test]
    fn addresses_are_dockers() {
        for (name, address) in [
            ("StageNameCasing", "stage-name-casing"),
            ("JSONArgsRecommended", "json-args-recommended"),
            ("SecretsUsedInArgOrEnv", "secrets-used-in-arg-or-env"),
            ("UndefinedVar", "undefined-var"),
        ] {
            let url = find(name).expect("a check").url();
            assert_eq!(url, format!("https://docs.docker.com/go/dockerfile/rule/{address}/"));
        }
    }
}
