//! Keeps the table of `docs/attacks.md` complete: every test of this suite is in it, and every
//! weakness that it names is there and says that it is caught by that test.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

/// The tests of this suite that no attack belongs to.
const OWN: [&str; 2] = ["control_an_ordinary_build_works", "every_attack_is_in_the_table"];

/// The names of functions that follow `#[test]`.
fn tests(sources: &Path) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(sources)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let text = fs::read_to_string(&path)?;
        for part in text.split("#[test]\n").skip(1) {
            let name = part.split_once("fn ").and_then(|(_, rest)| rest.split_once('('));
            names.insert(name.context("a test has a name")?.0.to_owned());
        }
    }
    Ok(names)
}

#[test]
fn every_attack_is_in_the_table() -> Result<()> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("attacks");
    let table = fs::read_to_string(sources.join("../../docs/attacks.md"))?;
    // They start with a number: each is made on top of those before.
    let mut patches = BTreeSet::new();
    for entry in fs::read_dir(sources.join("weak"))? {
        patches.insert(entry?.file_name().to_string_lossy().into_owned());
    }
    let mut listed = BTreeSet::new();
    let mut weaknesses = BTreeSet::new();
    for line in table.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [_, _, tests, weakness] = cells[..] else { continue };
        let Some(test) = tests.strip_prefix('`').and_then(|test| test.strip_suffix('`')) else {
            continue;
        };
        listed.insert(test.to_owned());
        let weakness = weakness.trim_matches('`');
        let patch = patches.iter().find(|name| name[3..] == format!("{weakness}.patch"));
        let patch = patch.with_context(|| format!("{test}: there is no weakness `{weakness}`"))?;
        let text = fs::read_to_string(sources.join("weak").join(patch))?;
        let caught = format!("Caught by: {test}\n");
        assert!(text.contains(&caught), "{patch} does not say {caught:?}");
        weaknesses.insert(patch.clone());
    }
    let mut expected = tests(&sources)?;
    expected.retain(|name| !OWN.contains(&name.as_str()));
    assert_eq!(listed, expected, "tests in docs/attacks.md and in tests/attacks");
    assert_eq!(weaknesses, patches, "weaknesses in docs/attacks.md and in tests/attacks/weak");
    Ok(())
}
