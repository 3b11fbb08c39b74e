//! Files of cases: a readable form that the frontend's own tests and the whole-program tests
//! share. `cases/README.md` describes it. This module reads such files and writes expected parts
//! anew; what is checked is the tests' business.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Begins a case.
const CASE: &str = "==== ";
/// Begins a section of a case.
const SECTION: &str = "---- ";

/// One file: a topic with its cases.
pub struct CaseFile {
    pub path: PathBuf,
    pub cases: Vec<Case>,
    text: String,
}

/// One case, or one row of a table.
#[derive(Clone)]
pub struct Case {
    /// The file's topic and the case's own name.
    pub name: String,
    pub sections: Vec<Section>,
}

/// A part of a case.
#[derive(Clone)]
pub struct Section {
    /// The first word after the dashes.
    pub kind: String,
    /// What follows it on that line.
    pub arguments: String,
    pub body: String,
    /// Where the body is in the file; a row's expected part has its place in the table.
    pub place: Range<usize>,
}

impl Case {
    /// The body of the first section of a kind.
    pub fn body(&self, kind: &str) -> Option<&str> {
        self.sections.iter().find(|section| section.kind == kind).map(|found| found.body.as_str())
    }

    /// All sections of a kind.
    pub fn all<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Section> {
        self.sections.iter().filter(move |section| section.kind == kind)
    }

    /// The Dockerfile, with `<TAB>`, `<SP>`, `<CR>` and `<BOM>` replaced by what they name, and
    /// cut off at `<END>`.
    pub fn dockerfile(&self) -> String {
        let body = self.body("Dockerfile").unwrap_or_default();
        let body = body.split("<END>").next().unwrap_or_default();
        let named = [("<TAB>", "\t"), ("<SP>", " "), ("<CR>", "\r"), ("<BOM>", "\u{feff}")];
        named.iter().fold(body.to_owned(), |text, (name, c)| text.replace(name, c))
    }

    /// The request's options, by name.
    pub fn options(&self) -> Vec<(String, String)> {
        let lines = self.body("options").unwrap_or_default().lines();
        let option = |line: &str| {
            let (name, value) = line.split_once('=').unwrap_or((line, ""));
            (name.to_owned(), value.to_owned())
        };
        lines.map(option).collect()
    }
}

impl Section {
    /// A file's name, which may have blanks, and its `mode=` or `link=`.
    pub fn name_and_attributes(&self) -> (&str, &str) {
        let attribute = [" mode=", " link="].iter().find_map(|word| self.arguments.find(word));
        match attribute {
            Some(at) => (&self.arguments[..at], &self.arguments[at + 1..]),
            None => (&self.arguments, ""),
        }
    }
}

impl CaseFile {
    /// Reads all files of a directory that end in `.cases`.
    pub fn all(directory: &Path) -> Vec<Self> {
        let entries = fs::read_dir(directory)
            .unwrap_or_else(|error| panic!("`{}`: {error}", directory.display()));
        let paths = entries.map(|entry| entry.expect("a readable directory").path());
        let mut paths: Vec<PathBuf> =
            paths.filter(|path| path.extension().is_some_and(|end| end == "cases")).collect();
        paths.sort();
        paths.into_iter().map(Self::read).collect()
    }

    fn read(path: PathBuf) -> Self {
        let text = fs::read_to_string(&path).expect("a file of cases in UTF-8");
        let topic = path.file_stem().and_then(|stem| stem.to_str()).expect("a name in UTF-8");
        let mut cases: Vec<Case> = Vec::new();
        let mut at = 0;
        // Prose before the first section belongs to nobody.
        let mut open = false;
        for line in text.split_inclusive('\n') {
            let start = at;
            at += line.len();
            let (title, head) = (line.trim_end(), line.trim_end());
            if let Some(name) = title.strip_prefix(CASE) {
                cases.push(Case { name: format!("{topic}: {name}"), sections: Vec::new() });
                open = false;
            } else if let Some(head) = head.strip_prefix(SECTION) {
                let (kind, arguments) = head.split_once(' ').unwrap_or((head, ""));
                let case = cases.last_mut().expect("a section belongs to a case");
                case.sections.push(Section {
                    kind: kind.into(),
                    arguments: arguments.into(),
                    body: String::new(),
                    place: at..at,
                });
                open = true;
            } else if open {
                let case = cases.last_mut().expect("a section belongs to a case");
                let section = case.sections.last_mut().expect("a section is open");
                section.body.push_str(line);
                section.place.end = start + line.len();
            }
        }
        let mut seen = std::collections::BTreeSet::new();
        for case in &mut cases {
            assert!(seen.insert(case.name.clone()), "two cases are called `{}`", case.name);
            // A blank line before the next case or section is no part of a body.
            for section in &mut case.sections {
                while section.body.ends_with("\n\n") || section.body == "\n" {
                    section.body.pop();
                    section.place.end -= 1;
                }
            }
        }
        let cases = cases.into_iter().flat_map(|case| rows(&case).unwrap_or(vec![case])).collect();
        Self { path, cases, text }
    }

    /// Replaces bodies, given by their places.
    pub fn update(&self, mut changes: Vec<(Range<usize>, String)>) {
        changes.sort_by_key(|(place, _)| std::cmp::Reverse(place.start));
        let mut text = self.text.clone();
        for (place, body) in changes {
            text.replace_range(place, &body);
        }
        fs::write(&self.path, text).expect("the file can be written");
    }
}

/// The cases of a table: `@@` in its template stands for each row's left side, and the right side
/// is what is expected of the field that the section `rows` names.
fn rows(case: &Case) -> Option<Vec<Case>> {
    let rows = case.all("rows").next()?;
    let template = case.body("template").expect("a table has a template");
    let mut at = rows.place.start;
    let mut cases = Vec::new();
    for line in rows.body.split_inclusive('\n') {
        let start = at;
        at += line.len();
        if line.trim().is_empty() {
            continue;
        }
        let (word, result) = line.split_once("=>").expect("a row has a `=>`");
        let from = start + line.len() - result.len();
        let (word, result) = (word.trim(), result.trim());
        let section = |kind: &str, arguments: &str, body: String, place| Section {
            kind: kind.into(),
            arguments: arguments.into(),
            body,
            place,
        };
        let mut sections: Vec<Section> = case
            .sections
            .iter()
            .filter(|section| !matches!(section.kind.as_str(), "rows" | "template"))
            .cloned()
            .collect();
        sections.push(section("Dockerfile", "", template.replace("@@", word), 0..0));
        sections.push(section("row", &rows.arguments, result.into(), from..at));
        cases.push(Case { name: format!("{}: {word}", case.name), sections });
    }
    Some(cases)
}
