//! Checks: what is legal in a Dockerfile and still likely to be wrong.
//!
//! [`rules`] is the table of them, `selection` says which are done. `file` looks at the text and
//! at what the parser made of it, `stages` at the FROMs, and `lower` reports what it alone can
//! know, of variables and base images. All of them report here.
//!
//! Lowering is watched when nothing is made yet (`probe`), so that each finding is told once and
//! before anything runs.

mod file;
pub mod rules;
mod selection;
mod stages;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use cofferdam_sdk::{SourceRange, Warning};

use crate::command::Instruction;
use crate::error::{Lines, Located, Problem};
use crate::locate::{Place, SourceText};
use crate::options::Options;
use crate::parse::Dockerfile;
pub use rules::{RULES, Rule};
pub use selection::Selection;

/// How many findings of one file are told; more than that nobody reads.
const MOST_FINDINGS: usize = 200;

/// How many sources of COPY and ADD are compared with the ignore file.
const MOST_TAKEN: usize = 1000;

/// Something that a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The check.
    pub rule: &'static Rule,
    /// What was found, one sentence without its end.
    pub message: String,
    /// The lines of the instruction.
    pub lines: Lines,
    /// The part of them that is meant, if it can be seen there.
    pub place: Option<Place>,
}

/// A file that an instruction takes out of the build context.
#[derive(Clone, Debug)]
struct Taken {
    lines: Lines,
    instruction: &'static str,
    written: String,
    path: String,
}

/// Collects what checks find in one file.
#[derive(Debug)]
pub struct Checks<'a> {
    text: &'a str,
    source: SourceText<'a>,
    selection: Selection,
    /// The selections of comments above instructions, by the instruction's first line.
    own: BTreeMap<u32, Selection>,
    found: RefCell<Found>,
}

#[derive(Debug, Default)]
struct Found {
    findings: Vec<Finding>,
    /// To tell each thing once, also when it is built for several platforms.
    known: BTreeSet<(u32, &'static str, String)>,
    taken: Vec<Taken>,
}

impl<'a> Checks<'a> {
    /// Begins with what can be seen in the file alone.
    ///
    /// # Errors
    /// When the selection of checks is not valid.
    pub fn new(
        text: &'a str,
        dockerfile: &Dockerfile,
        options: &Options,
    ) -> Result<Self, Vec<Located>> {
        let given = options.build_args.get("BUILDKIT_DOCKERFILE_CHECK");
        let selection = match (given, &dockerfile.directives.check) {
            (Some(given), _) => Selection::parse(given)?,
            (None, Some(check)) => {
                let line = dockerfile.directives.check_line;
                let lines = Lines { start: line, end: line };
                Selection::parse(check).map_err(|problem| vec![problem.at(lines)])?
            }
            (None, None) => Selection::default(),
        };
        let mut checks = Self {
            text,
            source: SourceText::new(text),
            selection,
            own: BTreeMap::new(),
            found: RefCell::default(),
        };
        checks.file(dockerfile)?;
        Ok(checks)
    }

    /// Notes a finding. Of `about`, the first text that stands in the lines is what is meant.
    pub(crate) fn report<'t>(
        &self,
        rule: &'static Rule,
        lines: Lines,
        about: impl IntoIterator<Item = &'t str>,
        message: String,
    ) {
        if !self.does(rule, lines) {
            return;
        }
        let mut found = self.found.borrow_mut();
        if found.findings.len() >= MOST_FINDINGS
            || !found.known.insert((lines.start, rule.name, message.clone()))
        {
            return;
        }
        let place = self.source.find(lines, about);
        let place = place.or_else(|| self.source.first_word(lines));
        found.findings.push(Finding { rule, message, lines, place });
    }

    /// Whether a finding would be noted: to look for a message to no avail costs time.
    pub(crate) fn wants(&self, rule: &'static Rule, lines: Lines) -> bool {
        self.does(rule, lines) && self.found.borrow().findings.len() < MOST_FINDINGS
    }

    /// Whether a check is done on the instruction with these lines.
    fn does(&self, rule: &'static Rule, lines: Lines) -> bool {
        let own = self.own.get(&lines.start);
        self.selection.includes(rule) && !own.is_some_and(|own| own.skips(rule))
    }

    /// Notes that an instruction takes a path out of the main context.
    pub(crate) fn takes(&self, instruction: &Instruction, written: &str, path: &str) {
        let taken = Taken {
            lines: instruction.lines,
            instruction: instruction.spec.name,
            written: written.into(),
            path: path.into(),
        };
        let mut found = self.found.borrow_mut();
        if found.taken.len() < MOST_TAKEN {
            found.taken.push(taken);
        }
    }

    /// Looks for files that instructions take and the ignore file leaves out.
    ///
    /// # Errors
    /// When a pattern is not valid.
    pub fn ignored(&self, patterns: &[String]) -> Result<(), Problem> {
        let matcher = crate::ignore::matcher(patterns)?;
        let taken = std::mem::take(&mut self.found.borrow_mut().taken);
        for Taken { lines, instruction, written, path } in taken {
            let path = path.trim_matches('/');
            if !path.is_empty() && matcher.decide(path).0 {
                let message = format!(
                    "{instruction} takes the file \"{path}\", which the ignore file leaves out"
                );
                self.report(&rules::COPY_IGNORED_FILE, lines, [written.as_str(), path], message);
            }
        }
        Ok(())
    }

    /// What was found, in the file's order.
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings = self.found.borrow().findings.clone();
        findings.sort_by_key(|finding| {
            let column = finding.place.map_or((0, 0), |place| (place.line, place.start));
            (finding.lines.start, column)
        });
        findings
    }

    /// What the user is told of the findings; `source` is the number of the file.
    pub fn warnings(&self, source: u32) -> Vec<Warning> {
        let unknown = self.selection.unknown().map(|(name, near)| Warning {
            short: match near {
                Some(near) => format!("there is no check `{name}`; did you mean `{near}`?"),
                None => format!("there is no check `{name}`"),
            },
            ..Warning::default()
        });
        let findings = self.findings();
        let findings = findings.iter().map(|finding| finding.warning(source));
        unknown.chain(findings).collect()
    }

    /// Whether what was found makes the build fail.
    ///
    /// # Errors
    /// So it does.
    pub fn verdict(&self) -> Result<(), Vec<Located>> {
        let names: BTreeSet<_> =
            self.found.borrow().findings.iter().map(|finding| finding.rule.name).collect();
        match self.selection.error && !names.is_empty() {
            true => Err(vec![Problem::Checks(names.into_iter().collect()).into()]),
            false => Ok(()),
        }
    }
}

impl Finding {
    /// The warning that the user sees; `source` is the number of the file.
    pub fn warning(&self, source: u32) -> Warning {
        Warning {
            short: format!("{}: {} (line {})", self.rule.name, self.message, self.lines.start),
            detail: vec![self.rule.summary.to_owned()],
            url: self.rule.url(),
            locations: vec![self.range(source)],
        }
    }

    /// Where it is.
    pub fn range(&self, source: u32) -> SourceRange {
        match self.place {
            Some(place) => place.range(source),
            None => SourceRange::lines(source, self.lines.start, self.lines.end),
        }
    }
}
