//! Lowers the Dockerfiles that BuildKit lowered, and compares: the ops by digest, the names that
//! people see, and the image config.

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cofferdam_dockerfile::error::Errors;
use cofferdam_dockerfile::lower::{Input, lower};
use cofferdam_dockerfile::options::Options;
use cofferdam_dockerfile::parse::parse;
use cofferdam_dockerfile::probe::Images;
use cofferdam_llb as llb;
use cofferdam_sdk::{Host, OpMetadata, Platform, Request};
use serde_json::Value;

use support::LlbHost;

/// Cases that differ on purpose, with the reason.
const DIFFERENT: &[(&str, &str)] = &[];

/// Cases whose language is not supported yet, with a part of the error.
const UNSUPPORTED: &[(&str, &str)] = &[];

#[test]
fn ops_and_images_are_buildkits() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    // A checkout without what is shared beside it has a copy.
    let default = ["../shared/fixtures/llb", "tests/fixtures/llb"]
        .map(|directory| format!("{root}/{directory}"))
        .into_iter()
        .find(|directory| Path::new(directory).exists())
        .expect("the repository has fixtures");
    let directories = std::env::var("LLB_FIXTURES").unwrap_or(default);
    let mut report = String::new();
    let mut count = 0;
    for directory in directories.split(':').filter(|directory| !directory.is_empty()) {
        let entries = std::fs::read_dir(directory)
            .unwrap_or_else(|error| panic!("fixtures `{directory}` (LLB_FIXTURES): {error}"));
        let paths = entries.map(|entry| entry.expect("a readable directory").path());
        let is_case = |path: &PathBuf| path.extension().is_some_and(|end| end == "Dockerfile");
        let mut cases: Vec<PathBuf> = paths.filter(is_case).collect();
        cases.sort();
        assert!(!cases.is_empty(), "no `*.Dockerfile` in `{directory}` (LLB_FIXTURES)");
        for case in cases {
            count += 1;
            let name = case.file_stem().and_then(|stem| stem.to_str()).expect("a name in UTF-8");
            let differences = compare(&case);
            let expected = |list: &[(&str, &str)]| {
                list.iter().find(|(known, _)| *known == name).map(|(_, text)| (*text).to_owned())
            };
            let (purpose, unsupported) = (expected(DIFFERENT), expected(UNSUPPORTED));
            match (differences, purpose, unsupported) {
                (differences, None, None) if differences.is_empty() => {}
                (differences, Some(_), None) if !differences.is_empty() => {}
                (differences, None, Some(error)) if differences.contains(&error) => {}
                (differences, None, None) => report += &format!("== {name}\n{differences}"),
                (differences, ..) => {
                    report += &format!("== {name}: listed, but not so:\n{differences}");
                }
            }
        }
    }
    assert!(report.is_empty(), "of {count} cases:\n{report}");
}

fn target(case: &Path) -> Platform {
    let name = case.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match name.split('-').next() {
        Some("arm64") => Platform::new("linux", "arm64"),
        Some("wasi") => Platform::new("wasi", "wasm"),
        _ => Platform::new("linux", "amd64"),
    }
}

/// What differs; empty when nothing does.
fn compare(case: &Path) -> String {
    let source = std::fs::read_to_string(case).expect("a readable Dockerfile");
    let host = LlbHost::default();
    let context = host
        .source(
            "local://context",
            &[
                ("local.sharedkeyhint".to_owned(), "context".to_owned()),
                ("local.unique".to_owned(), "fixture".to_owned()),
            ],
            None,
            &OpMetadata::named("[internal] load build context"),
        )
        .expect("a valid source");
    let target = target(case);
    let options = Options::new(&Request::default()).expect("no options are valid options");
    let lowered = parse(&source).and_then(|dockerfile| {
        let input = Input {
            dockerfile: &dockerfile,
            options: &options,
            target: &target,
            // The fixtures' generator built on the target's platform.
            build: &target,
            name_platforms: false,
            context: Some(context),
            ignored: &BTreeMap::new(),
            checks: None,
            scope: cofferdam_dockerfile::lower::Scope::Target,
            images: &Images::default(),
            source: Some(0),
        };
        lower(&host, &input)
    });
    let lowered = match lowered {
        Ok(lowered) => lowered,
        Err(problems) => return format!("{}\n", Errors::in_file("Dockerfile", &source, problems)),
    };
    let graph = host.graph.borrow();
    let definition = match lowered.output {
        Some(edge) => graph.to_definition(edge).expect("the output is of this graph"),
        None => llb::Definition::default(),
    };
    let wanted = std::fs::read(case.with_extension("llb.pb")).expect("a readable definition");
    let wanted = llb::Definition::decode(&wanted).expect("a valid definition");
    let mut differences = String::new();
    let (ours, theirs) = (ops(&definition), ops(&wanted));
    for (digest, text) in &theirs {
        if !ours.iter().any(|(known, _)| known == digest) {
            differences += &format!("missing op {digest}: {text}\n");
        }
    }
    for (digest, text) in &ours {
        if !theirs.iter().any(|(known, _)| known == digest) {
            differences += &format!("surplus op {digest}: {text}\n");
        }
    }
    if differences.is_empty() && definition.def != wanted.def {
        differences += "the same ops in another order\n";
    }
    // A vertex that two stages make has one of two names.
    let described = host.described.borrow();
    for (digest, metadata) in &wanted.metadata {
        let mut ours = described.iter().filter(|(known, _)| known == digest).peekable();
        let last = ours.peek().copied();
        if last.is_some() && !ours.any(|(_, ours)| *ours == metadata.description) {
            let theirs = &metadata.description;
            differences += &format!("described as {last:?} instead of {theirs:?}\n");
        }
    }
    let image = std::fs::read(case.with_extension("image.json")).expect("a readable image config");
    let image: Value = serde_json::from_slice(&image).expect("a config in JSON");
    compare_json("image", &lowered.config, &image, &mut differences);
    differences
}

fn ops(definition: &llb::Definition) -> Vec<(String, String)> {
    let op = |bytes: &Vec<u8>| {
        let text = match llb::Op::decode(bytes) {
            Ok(op) => format!("{op:?}"),
            Err(_) => "the terminal".into(),
        };
        (cofferdam_types::Digest::of(bytes).to_string(), text)
    };
    definition.def.iter().map(op).collect()
}

fn compare_json(path: &str, ours: &Value, theirs: &Value, differences: &mut String) {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            let mut keys: Vec<_> = ours.keys().chain(theirs.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                let field = |map: &serde_json::Map<String, Value>| {
                    map.get(key).cloned().unwrap_or_else(|| "(not there)".into())
                };
                compare_json(&format!("{path}.{key}"), &field(ours), &field(theirs), differences);
            }
        }
        (Value::Array(ours), Value::Array(theirs)) if ours.len() == theirs.len() => {
            for (index, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
                compare_json(&format!("{path}[{index}]"), ours, theirs, differences);
            }
        }
        (ours, theirs) if ours == theirs => {}
        (ours, theirs) => *differences += &format!("{path} is {ours} instead of {theirs}\n"),
    }
}
