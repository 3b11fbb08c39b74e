//! Which checks are done: the directive `# check=`, the build argument `BUILDKIT_DOCKERFILE_CHECK`
//! and comments above an instruction all have the form `skip=A,B|all;error=true;experimental=A|all`.

use std::collections::BTreeSet;

use super::rules::{RULES, Rule};
use crate::error::Problem;
use crate::suggest::nearest;

/// Which checks are done, and what comes of what they find.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    skipped: Names,
    experimental: Names,
    /// Whether a finding makes the build fail.
    pub error: bool,
}

/// Names of checks, in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Names {
    all: bool,
    some: BTreeSet<String>,
}

impl Names {
    fn parse(list: &str) -> Self {
        match list.trim() {
            "all" => Self { all: true, some: BTreeSet::new() },
            list => {
                let names = list.split(',').map(|name| name.trim().to_lowercase());
                Self { all: false, some: names.collect() }
            }
        }
    }

    fn has(&self, rule: &Rule) -> bool {
        self.all || self.some.contains(&rule.name.to_lowercase())
    }
}

impl Selection {
    /// Reads `skip=A,B;error=true;experimental=all`.
    ///
    /// # Errors
    /// When an option is unknown, or has no value that it can have. Names of checks may be any:
    /// other versions have other checks.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let mut selection = Self::default();
        for option in text.split(';').filter(|option| !option.trim().is_empty()) {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            match key.trim() {
                "skip" => selection.skipped = Names::parse(value),
                "experimental" => selection.experimental = Names::parse(value),
                "error" => {
                    selection.error = match value.trim() {
                        "true" | "1" => true,
                        "false" | "0" => false,
                        other => {
                            let expected = "`true` or `false`";
                            return Err(Problem::invalid("`error` of check", other, expected));
                        }
                    }
                }
                other => {
                    let near = nearest(other, ["skip", "error", "experimental"]);
                    let near = near.map(|near| format!("; `{near}`?")).unwrap_or_default();
                    let expected = format!("`skip`, `error` or `experimental`{near}");
                    return Err(Problem::invalid("option of check", other, expected));
                }
            }
        }
        Ok(selection)
    }

    /// Whether a check is done.
    pub fn includes(&self, rule: &Rule) -> bool {
        !self.skipped.has(rule) && (!rule.experimental || self.experimental.has(rule))
    }

    /// Whether a check is left out by name, or with all.
    pub fn skips(&self, rule: &Rule) -> bool {
        self.skipped.has(rule)
    }

    /// Names that no check has, with the nearest that one has.
    pub fn unknown(&self) -> impl Iterator<Item = (&str, Option<&'static str>)> {
        let names = self.skipped.some.iter().chain(&self.experimental.some);
        let known = |name: &str| RULES.iter().any(|rule| rule.name.eq_ignore_ascii_case(name));
        names
            .filter(move |name| !name.is_empty() && !known(name))
            .map(|name| (name.as_str(), nearest(name, RULES.iter().map(|rule| rule.name))))
    }
}

#[cfg(test)]
mod tests {
    use super::super::rules::{INVALID_DEFINITION_DESCRIPTION, STAGE_NAME_CASING, UNDEFINED_VAR};
    use super::*;

    fn check(text: &str, expected: &str) {
        let shown = match Selection::parse(text) {
            Ok(selection) => {
                let rules = [&STAGE_NAME_CASING, &UNDEFINED_VAR, &INVALID_DEFINITION_DESCRIPTION];
                let done = rules.map(|rule| selection.includes(rule));
                format!("{done:?} {} {:?}", selection.error, selection.unknown().next())
            }
            Err(problem) => problem.to_string(),
        };
        assert_eq!(shown, expected, "{text}");
    }

    #[test]
    fn selections() {
        check("", "[true, true, false] false None");
        check("skip=all", "[false, false, false] false None");
        check("skip=StageNameCasing, UndefinedVar;error=true", "[false, false, false] true None");
        check("error=false;experimental=all", "[true, true, true] false None");
        check(
            "skip=UndefinedVars",
            "[true, true, false] false Some((\"undefinedvars\", Some(\"UndefinedVar\")))",
        );
        check("error=yes", "invalid `error` of check `yes`: expected `true` or `false`");
        check(
            "skp=all",
            "invalid option of check `skp`: expected `skip`, `error` or `experimental`; `skip`?",
        );
    }
}
