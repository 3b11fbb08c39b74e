//! Builds the cases of the Dockerfile language with the program: the same files that the frontend
//! is tested with (`frontends-wasm/dockerfile/tests/cases/README.md`), here for the trees and
//! configs of real images. `UPDATE_EXPECT=1` writes the expected parts anew.

#[path = "../../../frontends-wasm/dockerfile/tests/support/case_file.rs"]
mod case_file;
#[path = "../../../frontends-wasm/dockerfile/tests/support/image_text.rs"]
mod image_text;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result};
use case_file::{Case, CaseFile, Section};
use cofferdam_tests::cofferdam::exit;
use cofferdam_tests::command::{command, run};
use cofferdam_tests::oci::Image;
use cofferdam_tests::tree::{Entry, Kind, TarWriter};
use cofferdam_tests::web::{Web, WebAnswer, WebRequest};
use cofferdam_tests::{Build, Cofferdam, Context, Layout, Outcome, Registry, Tree, bases};

use crate::World;

/// Contents of up to so many bytes are shown.
const SHORT: u64 = 200;

#[test]
fn the_language_by_its_cases() -> Result<()> {
    check("cases")
}

#[test]
fn the_corpus() -> Result<()> {
    check("corpus")
}

/// What all cases are built with.
struct Shared {
    registry: Registry,
    cofferdam: Cofferdam,
    /// The file system of busybox, which is not shown.
    base: Tree,
    /// Configuration by which Docker's registry is the test's.
    configuration: String,
}

fn check(directory: &str) -> Result<()> {
    let World { registry, cofferdam, out } = World::new()?;
    let busybox = bases::busybox()?;
    registry.push(&busybox, "library/busybox:latest")?;
    let configuration = out.path().join("config.toml");
    let mirror = format!("[registry.\"docker.io\"]\nmirrors = [\"{}\"]\n", registry.address());
    fs::write(&configuration, mirror)?;
    let base = Tree::from_image(&busybox, &busybox.image(&bases::oci_architecture()?)?)?;
    let configuration = configuration.display().to_string();
    let shared = Shared { registry, cofferdam, base, configuration };

    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../frontends-wasm/dockerfile/tests");
    let files = CaseFile::all(&root.join(directory));
    let is_built = |case: &&Case| case.all("not-built").next().is_none();
    let cases: Vec<&Case> = files.iter().flat_map(|file| &file.cases).filter(is_built).collect();
    let next = AtomicUsize::new(0);
    let results = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = build(&shared, case);
                    let mut results = results.lock().expect("no thread panics with the lock");
                    results.insert(case.name.clone(), result);
                }
            });
        }
    });
    report(&files, &results.into_inner()?)
}

/// What was found for sections of a case.
type Found = Vec<(Section, String)>;

fn report(files: &[CaseFile], results: &BTreeMap<String, Result<Found>>) -> Result<()> {
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    let mut report = String::new();
    for file in files {
        let mut changes = Vec::new();
        for case in &file.cases {
            match results.get(&case.name) {
                None => {}
                Some(Err(error)) => report += &format!("== {}\n{error:#}\n", case.name),
                Some(Ok(found)) => {
                    for (section, found) in
                        found.iter().filter(|(section, found)| section.body != *found)
                    {
                        let Section { kind, body, .. } = section;
                        if update && kind != "row" {
                            changes.push((section.place.clone(), found.clone()));
                        } else {
                            report += &format!(
                                "== {}\nexpected {kind}:\n{body}found:\n{found}\n",
                                case.name
                            );
                        }
                    }
                }
            }
        }
        if !changes.is_empty() {
            file.update(changes);
        }
    }
    assert!(report.is_empty(), "{report}");
    Ok(())
}

fn build(shared: &Shared, case: &Case) -> Result<Found> {
    let out = tempfile::tempdir()?;
    for image in case.all("image") {
        let context = Context::new(&image.body)?;
        let name = shared.registry.reference(&format!("{}:latest", image.arguments));
        let build = plain(shared, &context).option("-t", name).arg("--push");
        let outcome = build.run()?;
        anyhow::ensure!(outcome.code == Some(exit::OK), "{}", outcome.report());
    }
    let others = tempfile::tempdir()?;
    let context = context(case, others.path())?;
    let mut build = plain(shared, &context);
    let mut architecture = bases::oci_architecture()?;
    for (name, value) in case.options() {
        build = match name.split_once(':').unwrap_or((&name, "")) {
            ("build-arg", argument) => build.build_arg(argument, &value),
            ("label", label) => build.option("--label", format!("{label}={value}")),
            ("target", _) => build.option("--target", &value),
            ("filename", _) => build.option("--file", context.path().join(&value)),
            ("platform", _) => {
                architecture = value.split('/').nth(1).unwrap_or_default().into();
                build.option("--platform", &value)
            }
            ("secret", id) => {
                let file = others.path().join(format!("secret-{id}"));
                fs::write(&file, &value)?;
                build.option("--secret", format!("id={id},src={}", file.display()))
            }
            ("context", context) => {
                let value = match value.strip_prefix("local:") {
                    Some(directory) => others.path().join(directory).display().to_string(),
                    None => value.clone(),
                };
                build.option("--build-context", format!("{context}={value}"))
            }
            _ => build.option("--opt", format!("{name}={value}")),
        };
    }
    let (served, repositories) = (tempfile::tempdir()?, tempfile::tempdir()?);
    if let Some(files) = serve(case, served.path())? {
        build = build.build_arg("SERVER", files.url(""));
    }
    if repositories_of(case, repositories.path())? {
        build = build.build_arg("GIT", Web::git(repositories.path())?.url("/git"));
    }
    let layout = out.path().join("layout");
    let output = format!("type=oci,tar=false,dest={}", layout.display());
    let outcome = build.option("--output", output).run()?;
    if let Some(error) = expected_error(case) {
        return refused(case, &outcome, &error).map(|()| Vec::new());
    }
    if let Some(texts) = case.body("fails") {
        let failed = [Some(exit::BUILD), Some(exit::USER)].contains(&outcome.code);
        anyhow::ensure!(failed, "{}", outcome.report());
        let all = outcome.report();
        for text in texts.lines() {
            anyhow::ensure!(all.contains(text), "no `{text}` in\n{all}");
        }
        return Ok(Vec::new());
    }
    anyhow::ensure!(outcome.code == Some(exit::OK), "{}", outcome.report());
    let layout = Layout::open(&layout)?;
    let image = layout.image(&architecture)?;
    found(shared, case, &outcome, &layout, &image)
}

fn plain(shared: &Shared, context: &Context) -> Build {
    let build = shared.cofferdam.build(context.path()).option("--config", &shared.configuration);
    build.varies("the suites beside this one make the same builds twice, and these are many")
}

/// The messages that are expected, without the places in front of them.
fn expected_error(case: &Case) -> Option<Vec<String>> {
    let row = case.body("row").and_then(|row| row.strip_prefix("error: "));
    let message = |line: &str| match line.split_once(": ") {
        Some((place, message)) if place.starts_with("Dockerfile") => message.to_owned(),
        _ => line.to_owned(),
    };
    let lines = case.body("error").or(row)?.lines().filter(|line| !line.starts_with("hint: "));
    Some(lines.map(message).collect())
}

fn refused(case: &Case, outcome: &Outcome, messages: &[String]) -> Result<()> {
    let refused = [Some(exit::USER), Some(exit::NETWORK)].contains(&outcome.code);
    anyhow::ensure!(refused, "exit code {:?}\n{}", outcome.code, outcome.report());
    for message in messages {
        // Images that do not exist are not found in other words than those of the frontend's test.
        let known = outcome.text.contains(message) || message.starts_with("no such image");
        anyhow::ensure!(known, "{}: no `{message}` in\n{}", case.name, outcome.report());
    }
    Ok(())
}

fn found(
    shared: &Shared,
    case: &Case,
    outcome: &Outcome,
    layout: &Layout,
    image: &Image,
) -> Result<Found> {
    let mut found = Vec::new();
    for section in &case.sections {
        let text = match section.kind.as_str() {
            "tree" => tree(shared, layout, image)?,
            "tree-names" => {
                let tree = Tree::from_image(layout, image)?;
                tree.entries.keys().map(|path| format!("{path}\n")).collect()
            }
            "steps" => steps(outcome),
            "row" if ["ops", "error"].iter().any(|kind| section.arguments.starts_with(kind)) => {
                continue;
            }
            "config" | "history" | "row" => {
                image_text::show(&section.kind, &section.arguments, &image.config)
            }
            _ => continue,
        };
        found.push((section.clone(), text));
    }
    Ok(found)
}

fn steps(outcome: &Outcome) -> String {
    let names = outcome.steps().into_iter().map(|step| step.name);
    let names = names.filter(|name| name.starts_with('[') && !name.starts_with("[internal]"));
    let stable = |name: String| format!("{}\n", name.split("@sha256:").next().unwrap_or_default());
    names.map(stable).collect::<BTreeSet<_>>().into_iter().collect()
}

/// The image's files but those of busybox. Times are left out, and so are symlinks' modes.
fn tree(shared: &Shared, layout: &Layout, image: &Image) -> Result<String> {
    let tree = Tree::from_image(layout, image)?;
    let contents = contents(layout, image)?;
    let same = |ours: &Entry, theirs: &Entry| {
        Entry { mtime: 0, ..ours.clone() } == Entry { mtime: 0, ..theirs.clone() }
    };
    let mut text = String::new();
    for (path, entry) in &tree.entries {
        if shared.base.entries.get(path).is_some_and(|base| same(entry, base)) {
            continue;
        }
        let Entry { mode, uid, gid, .. } = entry;
        let owned = format!("{mode:04o} {uid}:{gid} {path}");
        text += &match &entry.kind {
            Kind::Directory => format!("d{owned}\n"),
            Kind::File { size, linked, .. } => {
                let linked = linked.as_ref().filter(|first| *first != path);
                match (linked, contents.get(path)) {
                    (Some(first), _) => format!("-{owned} linked as {first}\n"),
                    (None, Some(contents)) => format!("-{owned} {contents:?}\n"),
                    (None, None) => format!("-{owned} {size} bytes\n"),
                }
            }
            Kind::Symlink(target) => format!("l {uid}:{gid} {path} -> {target}\n"),
            other => format!("{other:?} {owned}\n"),
        };
    }
    if tree.entries.contains_key("bin/busybox") {
        for path in shared.base.entries.keys().filter(|path| !tree.entries.contains_key(*path)) {
            text += &format!("gone {path}\n");
        }
    }
    Ok(text)
}

/// Short contents of files, by path.
fn contents(layout: &Layout, image: &Image) -> Result<BTreeMap<String, String>> {
    let mut contents = BTreeMap::new();
    for archive in layout.layers(image)? {
        for entry in tar::Archive::new(&archive[..]).entries()? {
            let mut entry = entry?;
            let path = entry.path()?.to_string_lossy().trim_matches('/').to_owned();
            contents.remove(&path);
            if entry.header().entry_type().is_file() && entry.size() <= SHORT {
                let mut text = String::new();
                if entry.read_to_string(&mut text).is_ok() {
                    contents.insert(path, text);
                }
            }
        }
    }
    Ok(contents)
}

/// A server of the files that the case wants served.
fn serve(case: &Case, directory: &Path) -> Result<Option<Web>> {
    if case.all("served").next().is_none() {
        return Ok(None);
    }
    for section in case.all("served") {
        fs::write(directory.join(&section.arguments), &section.body)?;
    }
    let directory = directory.to_owned();
    let answer = move |request: &WebRequest| {
        let name = request.path.rsplit('/').next().unwrap_or_default();
        fs::read(directory.join(name)).map_or(WebAnswer::status(404), WebAnswer::body)
    };
    Web::start(answer).map(Some)
}

/// Makes the repositories of a case; says whether there are any.
fn repositories_of(case: &Case, directory: &Path) -> Result<bool> {
    for section in case.all("repository") {
        let place = directory.join(&section.arguments);
        let git = |arguments: &[&str]| {
            let mut git = command("git", ["-c", "user.name=t", "-c", "user.email=t@t.example"]);
            git.args(arguments).current_dir(&place).env("HOME", "/nonexistent");
            run(&mut git)
        };
        fs::create_dir_all(&place)?;
        git(&["init", "-q", "-b", "main"])?;
        for line in section.body.lines() {
            let (name, contents) = line.split_once(' ').context("a line has name and contents")?;
            let path = place.join(name);
            fs::create_dir_all(path.parent().context("a file has a directory")?)?;
            fs::write(path, format!("{contents}\n"))?;
        }
        git(&["add", "-A"])?;
        git(&["commit", "-q", "-m", "all"])?;
        git(&["tag", "v1"])?;
    }
    Ok(case.all("repository").next().is_some())
}

/// The files of a case: those of the context, and of named contexts below `others`.
fn context(case: &Case, others: &Path) -> Result<Context> {
    let context = Context::new(&case.dockerfile())?;
    for section in case.all("file") {
        let (name, attributes) = section.name_and_attributes();
        if let Some(other) = name.strip_prefix('@') {
            let path = others.join(other);
            fs::create_dir_all(path.parent().context("a file has a directory")?)?;
            fs::write(path, &section.body)?;
            continue;
        }
        match attributes.strip_prefix("link=") {
            Some(target) => context.link(name, target)?,
            None => context.file(name, &section.body)?,
        };
        if let Some(mode) = attributes.strip_prefix("mode=") {
            context.mode(name, u32::from_str_radix(mode, 8)?)?;
        }
    }
    for section in case.all("archive") {
        let (name, form) = section.arguments.split_once(' ').unwrap_or((&section.arguments, ""));
        let archive = archive(&section.body)?;
        let archive = match (form, name.rsplit('.').next()) {
            ("gzip", _) | (_, Some("gz")) => {
                let mut encoder =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(&archive)?;
                encoder.finish()?
            }
            (_, Some("zst")) => zstd::encode_all(&archive[..], 1)?,
            _ => archive,
        };
        context.file(name, archive)?;
    }
    Ok(context)
}

/// Lines of mode, owner, name and contents; a slash ends a directory's name.
fn archive(lines: &str) -> Result<Vec<u8>> {
    let mut writer = TarWriter::new();
    for line in lines.lines() {
        let mut words = line.splitn(4, ' ');
        let mut word = || words.next().context("a line has mode, owner, name and contents");
        let mode = u32::from_str_radix(word()?, 8)?;
        let (uid, gid) = word()?.split_once(':').context("an owner is `user:group`")?;
        let (name, contents) = (word()?, word().unwrap_or_default());
        writer.owner(uid.parse()?, gid.parse()?);
        match (name.strip_suffix('/'), contents.strip_prefix("-> ")) {
            (Some(directory), _) => writer.directory(directory, mode)?,
            (None, Some(target)) => writer.symlink(name, target)?,
            (None, None) => writer.file(name, mode, contents.as_bytes())?,
        };
    }
    writer.finish()
}
