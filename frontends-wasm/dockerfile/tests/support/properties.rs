//! What is true of every input. The fuzz targets in `fuzz/` and the property tests in
//! `tests/properties.rs` both feed these.

use std::collections::BTreeMap;

use cofferdam_dockerfile::DockerfileFrontend;
use cofferdam_dockerfile::parse::parse;
use cofferdam_dockerfile::words::Expander;
use cofferdam_dockerfile::{heredoc, ignore, lines};
use cofferdam_sdk::{Frontend, Platform, Request, SourceRange};

use crate::host::PaperHost;

/// A Dockerfile is built and checked or refused, and whatever is told points into it.
pub fn dockerfile(text: &str) {
    let mut host = PaperHost::default();
    host.files.push(("dockerfile/Dockerfile".into(), text.to_owned()));
    host.files.push(("context/.dockerignore".into(), "*.log\n!a\n".into()));
    for subrequest in ["", "frontend.lint", "frontend.outline", "frontend.targets"] {
        let request = Request {
            options: vec![("build-arg:A".into(), "$A".into())],
            platforms: vec![Platform::new("linux", "amd64"), Platform::new("linux", "arm64")],
            build_platform: Platform::new("linux", "amd64"),
            subrequest: subrequest.into(),
        };
        if let Err(error) = DockerfileFrontend::build(&host, &request) {
            assert!(!error.message.is_empty());
            error.locations.iter().for_each(|range| points_into(text, *range));
            for other in &error.others {
                assert!(!other.message.is_empty());
                other.locations.iter().for_each(|range| points_into(text, *range));
            }
        }
    }
    for warning in host.warnings.borrow().iter() {
        warning.locations.iter().for_each(|range| points_into(text, *range));
    }
    if let Ok(dockerfile) = parse(text) {
        let mut end = 0;
        for instruction in &dockerfile.instructions {
            assert!(
                end < instruction.lines.start && instruction.lines.start <= instruction.lines.end
            );
            end = instruction.lines.end;
        }
    }
}

fn points_into(text: &str, range: SourceRange) {
    let SourceRange { start_line, end_line, start_column, end_column, .. } = range;
    assert!(0 < start_line && start_line <= end_line, "{range:?}");
    assert!(end_line as usize <= text.split('\n').count(), "{range:?}");
    if start_column > 0 {
        let line = text.lines().nth(start_line as usize - 1).expect("the line is there");
        // Both are in the same line, and in it; a byte order mark is a character, too.
        assert!(start_line == end_line && start_column <= end_column, "{range:?}");
        assert!(end_column as usize <= line.chars().count(), "{range:?} in {line:?}");
    }
}

/// A word is expanded or refused; what has nothing to expand stays as it is.
pub fn word(text: &str) {
    let values = [("a", "1*2"), ("b", ""), ("long", "xyxyxyxyxy")];
    let variables: BTreeMap<String, String> =
        values.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    for escape in ['\\', '`'] {
        let expander = Expander::new(escape);
        let expanded = expander.word(text, &variables);
        if !text.contains(['$', '\'', '"', escape]) {
            assert_eq!(expanded.as_deref(), Ok(text));
        }
        let shown = Expander { for_display: true, ..expander };
        // A text for display has less to fail of: what is not set stays as it is.
        if expanded.is_ok() {
            assert!(shown.word(text, &variables).is_ok());
        }
        let _ = Expander { keep_quotes: true, ..expander }.word(text, &variables);
    }
    if !text.contains('\'') {
        let quoted = Expander::new('\\').word(&format!("'{text}'"), &variables);
        assert_eq!(quoted.as_deref(), Ok(text));
    }
}

/// The rules of an ignore file stand where they say, and decide about every path.
pub fn ignore_file(text: &str) {
    let rules = ignore::rules(text);
    let file = text.strip_prefix('\u{feff}').unwrap_or(text);
    for rule in &rules {
        let line = file.lines().nth(rule.line as usize - 1).expect("the line is there");
        assert_eq!(line.trim(), rule.written);
        assert!(!rule.pattern.is_empty());
    }
    let patterns = ignore::parse(text);
    let Ok(matcher) = ignore::matcher(&patterns) else { return };
    for path in ["a", "a/b", "a/b/c.log", ".git/config", "ä"] {
        let (ignored, by) = matcher.decide(path);
        let deciding = by.map(|at| !patterns[at].starts_with('!'));
        assert_eq!(ignored, deciding.unwrap_or(false), "{path} in {patterns:?}");
    }
}

/// Here-documents keep what stands in them, whatever it is.
pub fn here_document(text: &str) {
    // The name is none of the lines.
    let mut name = String::from("E");
    while text.lines().any(|line| line.trim_matches('\t').contains(&name)) {
        name.push('E');
    }
    let body: String = text.lines().map(|line| format!("{line}\n")).collect();
    // A line is at most so long, and a carriage return before its end belongs to the end.
    if body.lines().any(|line| line.len() > 60_000) || text.contains('\r') {
        return;
    }
    for announced in [format!("<<{name}"), format!("<<-'{name}'")] {
        let source = format!("RUN {announced} cat\n{body}{name}\nRUN after\n");
        let (cut, problem) = lines::split(&source, '\\', |line| line.starts_with("RUN"));
        assert_eq!((cut.len(), problem), (2, None), "{source:?}");
        let [document] = cut[0].heredocs.as_slice() else { panic!("one in {source:?}") };
        assert_eq!(document.body, body);
        let stripped: String =
            body.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect();
        let expected = if document.strip_tabs { stripped } else { body.clone() };
        assert_eq!(document.content(), expected);
    }
    let _ = heredoc::announced(text, '\\');
}
