//! The language by its cases, checked on the frontend alone: what each Dockerfile is lowered to,
//! its image config and its errors. The whole-program tests build the same cases (`tests/tests/
//! e2e/cases.rs`). `UPDATE_EXPECT=1` writes the expected parts anew.

#[path = "support/case_file.rs"]
mod case_file;
#[path = "support/dump.rs"]
mod dump;
#[path = "support/image_text.rs"]
mod image_text;
mod support;

use std::path::Path;

use case_file::{Case, CaseFile, Section};
use cofferdam_dockerfile::DockerfileFrontend;
use cofferdam_llb as llb;
use cofferdam_sdk::{BuildError, Frontend, Platform, Request};
use serde_json::Value;
use support::LlbHost;

#[test]
fn cases() {
    check("tests/cases", 400);
}

#[test]
fn corpus() {
    check("tests/corpus", 30);
}

/// Checks all cases of a directory, and that there are at least so many.
fn check(directory: &str, fewest: usize) {
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    let mut report = String::new();
    let mut count = 0;
    for file in CaseFile::all(&Path::new(env!("CARGO_MANIFEST_DIR")).join(directory)) {
        let mut changes = Vec::new();
        for case in &file.cases {
            count += 1;
            for (section, found) in outcome(case) {
                if section.body == found {
                    continue;
                }
                let (name, kind) = (&case.name, &section.kind);
                report +=
                    &format!("== {name}\nexpected {kind}:\n{}found:\n{found}\n", section.body);
                let found = if kind == "row" { format!(" {found}\n") } else { found };
                changes.push((section.place.clone(), found));
            }
        }
        if update && !changes.is_empty() {
            file.update(changes);
        }
    }
    assert!(update || report.is_empty(), "{report}");
    assert!(count >= fewest, "{count} cases: expected at least {fewest}");
}

/// What is found for each section that says what is expected.
fn outcome(case: &Case) -> Vec<(Section, String)> {
    let host = LlbHost { files: files(case), images: images(case), ..LlbHost::default() };
    let result = DockerfileFrontend::build(&host, &request(case));
    let mut found = Vec::new();
    for section in &case.sections {
        let text = match (section.kind.as_str(), &result) {
            ("error", Err(error)) => describe(error),
            ("error", Ok(_)) => "no error\n".into(),
            ("row", Err(error)) => format!("error: {}", error.message),
            ("ops" | "config" | "history", Err(error)) => describe(error),
            ("ops", Ok(result)) => {
                let kinds: Vec<&str> = section.arguments.split_whitespace().collect();
                let graph = host.graph.borrow();
                let shown = |output: &Option<llb::Edge>| match output {
                    Some(edge) => dump::dump(&graph, edge, &kinds),
                    None => "scratch\n".into(),
                };
                result.results.iter().map(|result| shown(&result.output)).collect()
            }
            ("row", Ok(result)) if section.arguments.starts_with("ops") => {
                let kinds: Vec<&str> = section.arguments.split_whitespace().skip(1).collect();
                let shown = result.results[0].output.as_ref();
                let shown = shown.map(|edge| dump::dump(&host.graph.borrow(), edge, &kinds));
                let shown = shown.unwrap_or_else(|| "scratch".into());
                shown.split_whitespace().collect::<Vec<_>>().join(" ")
            }
            ("config" | "history" | "row", Ok(result)) => {
                let config = &result.results.first().expect("there is a result").config;
                let config: Value = serde_json::from_slice(config).expect("a config in JSON");
                image_text::show(&section.kind, &section.arguments, &config)
            }
            _ => continue,
        };
        found.push((section.clone(), text));
    }
    let expects_error = case.all("error").next().is_some();
    if let (Err(error), false, true) = (&result, expects_error, found.is_empty()) {
        panic!("{}: {}", case.name, error.message);
    }
    found
}

fn describe(error: &BuildError) -> String {
    let problem = |message: &str, hints: &[String]| {
        let hints = hints.iter().map(|hint| format!("hint: {hint}\n"));
        format!("{message}\n") + &hints.collect::<String>()
    };
    let others = error.others.iter().map(|other| problem(&other.message, &other.hints));
    problem(&error.message, &error.hints) + &others.collect::<String>()
}

/// Files of the context are both in the directory of the context and in that of the Dockerfile; a
/// file `@name/path` is in the directory `name`.
fn files(case: &Case) -> Vec<(String, String)> {
    let mut files = vec![("dockerfile/Dockerfile".to_owned(), case.dockerfile())];
    for section in case.all("file") {
        let (name, _) = section.name_and_attributes();
        match name.strip_prefix('@') {
            Some(other) => files.push((other.to_owned(), section.body.clone())),
            None => {
                for directory in ["context", "dockerfile"] {
                    files.push((format!("{directory}/{name}"), section.body.clone()));
                }
            }
        }
    }
    files
}

/// The images that the case builds first, by full reference.
fn images(case: &Case) -> Vec<(String, Value)> {
    let mut images = Vec::new();
    for section in case.all("image") {
        let base = Case {
            name: section.arguments.clone(),
            sections: vec![Section { kind: "Dockerfile".into(), ..section.clone() }],
        };
        let host = LlbHost { files: files(&base), ..LlbHost::default() };
        let result = DockerfileFrontend::build(&host, &request(&base));
        let result = result.unwrap_or_else(|error| panic!("{}: {}", case.name, error.message));
        let config = &result.results[0].config;
        let mut config: Value = serde_json::from_slice(config).expect("a config in JSON");
        if result.results[0].output.is_some() {
            config["rootfs"]["diff_ids"] =
                serde_json::json!([format!("sha256:{}", "a".repeat(64))]);
        }
        images.push((format!("docker.io/{}", section.arguments), config));
    }
    images
}

fn request(case: &Case) -> Request {
    let mut options = case.options();
    let platforms = options.iter().find(|(name, _)| name == "platform");
    let platforms = platforms.map_or("linux/amd64", |(_, list)| list);
    let platform = |text: &str| text.parse().expect("a platform");
    let platforms: Vec<Platform> = platforms.split(',').map(platform).collect();
    options.retain(|(name, _)| !name.starts_with("secret:"));
    for (kind, argument, url) in [
        ("served", "SERVER", "http://server.example"),
        ("repository", "GIT", "http://server.example/git"),
    ] {
        if case.all(kind).next().is_some() {
            options.push((format!("build-arg:{argument}"), url.into()));
        }
    }
    Request {
        options,
        platforms,
        build_platform: Platform::new("linux", "amd64"),
        subrequest: String::new(),
    }
}
