//! The same input gives the same digest: what every build of the suites that succeeds is held to.
//!
//! A build is made twice more with `SOURCE_DATE_EPOCH` set: in the state directory in which it
//! succeeded, where its steps are cached, and from nothing: in another state directory, from a
//! copy of the context at another place, on one core, with another umask and time zone. Both
//! images must have one digest. Nothing of this shows in the state directory but the blobs of
//! the image.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::cofferdam::{Cofferdam, Outcome, Plan, exit};
use crate::command::{command, run};
use crate::oci::digest_of;
use crate::tree::FIXTURE_TIME;
use crate::{Layout, Tree, bases};

/// Later than every file of the fixtures and earlier than now, so that it shows which times are
/// clamped and which are kept.
const EPOCH: u64 = FIXTURE_TIME + 50_000_000;

/// Options that say what becomes of the image and nothing of what is in it, with whether a value
/// follows.
const OUTPUTS: [(&str, bool); 9] = [
    ("--output", true),
    ("-o", true),
    ("--tag", true),
    ("-t", true),
    ("--iidfile", true),
    ("--metadata-file", true),
    ("--progress", true),
    ("--push", false),
    ("--load", false),
];

/// Which builds were made twice already, so that a test that repeats one pays once.
#[derive(Debug, Default)]
pub(crate) struct Made(Mutex<HashSet<String>>);

impl Made {
    /// Makes a build that succeeded twice more and compares.
    ///
    /// # Errors
    /// One of the two fails, or they give different images; the error says how they differ.
    pub(crate) fn check(&self, plan: &Plan) -> Result<()> {
        let arguments = without_outputs(&plan.arguments);
        let identity = identity(plan, &arguments)?;
        if !self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(identity) {
            return Ok(());
        }
        let place = tempfile::tempdir()?;
        let elsewhere = place.path().join("somewhere/else");
        fs::create_dir_all(place.path().join("somewhere"))?;
        run(command("cp", ["-a"]).arg(&plan.context).arg(&elsewhere))?;

        let cached = Image::new(&place, "cached.tar");
        // What is forced to run gives the same as what ran.
        let mut again = arguments.clone();
        again.retain(|argument| argument != "--no-cache");
        let outcome = cached.build(plan, &plan.home, &plan.context, &again, Way::AsBefore)?;
        let Some(first) = outcome.digest() else { return Ok(()) };

        let other = Cofferdam::new()?;
        // Compiling the frontend anew takes longer than most builds and is no input.
        fs::create_dir_all(other.root())?;
        run(command("cp", ["-a"]).arg(plan.home.join("state/compiled")).arg(other.root()))?;
        let fresh = Image::new(&place, "fresh.tar");
        let outcome = fresh.build(plan, other.home(), &elsewhere, &arguments, Way::Otherwise)?;
        let second = outcome.digest();
        if second.as_ref() == Some(&first) {
            return Ok(());
        }
        bail!(
            "the same build elsewhere gave another image: {first} here, {second:?} there\n{}",
            differences(&cached.unpack()?, &fresh.unpack()?)?
        )
    }
}

fn without_outputs(arguments: &[OsString]) -> Vec<OsString> {
    let mut kept = Vec::new();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let text = argument.to_string_lossy();
        let name = text.split('=').next().unwrap_or_default();
        match OUTPUTS.iter().find(|(output, _)| *output == name) {
            None => kept.push(argument.clone()),
            // Its value is the next argument, unless it is in this one.
            Some((_, true)) if !text.contains('=') => drop(arguments.next()),
            Some(_) => {}
        }
    }
    kept
}

/// Everything that goes into a build: its arguments and the context as it is now.
fn identity(plan: &Plan, arguments: &[OsString]) -> Result<String> {
    let files = Tree::from_directory(&plan.context)?;
    let all = format!("{:?} {arguments:?} {:?} {files:?}", plan.context, plan.environment);
    Ok(digest_of(all.as_bytes()))
}

/// How the program is started.
enum Way {
    AsBefore,
    /// On one core, with another umask and time zone.
    Otherwise,
}

/// An image that is built to be compared.
struct Image {
    archive: PathBuf,
}

impl Image {
    fn new(place: &TempDir, name: &str) -> Self {
        Self { archive: place.path().join(name) }
    }

    fn build(
        &self,
        plan: &Plan,
        home: &Path,
        context: &Path,
        arguments: &[OsString],
        way: Way,
    ) -> Result<Outcome> {
        let mut plan = Plan { home: home.to_owned(), context: context.to_owned(), ..plan.clone() };
        let dest = format!("type=oci,dest={}", self.archive.display());
        plan.arguments =
            arguments.iter().cloned().chain(["--output".into(), dest.into()]).collect();
        if !plan.environment.iter().any(|(name, _)| name == "SOURCE_DATE_EPOCH") {
            plan.environment.push(("SOURCE_DATE_EPOCH".into(), EPOCH.to_string().into()));
        }
        if let Way::Otherwise = way {
            plan.environment.push(("TZ".into(), "Asia/Kathmandu".into()));
            let script = "umask 077; exec \"$@\"";
            let words = ["taskset", "-c", &first_core()?, "sh", "-c", script, "sh"];
            plan.wrapper = words.map(str::to_owned).into();
        }
        let outcome = plan.start()?.finish_alone()?;
        if outcome.code != Some(exit::OK) {
            bail!("the build succeeded, but not when it was repeated:\n{}", outcome.report());
        }
        Ok(outcome)
    }

    fn unpack(&self) -> Result<Layout> {
        let directory = self.archive.with_extension("layout");
        fs::create_dir(&directory)?;
        run(command("tar", ["-xf"]).arg(&self.archive).arg("-C").arg(&directory))?;
        Layout::open(&directory)
    }
}

/// The first core that this process may use.
fn first_core() -> Result<String> {
    let status = fs::read_to_string("/proc/self/status")?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let list = list.context("/proc/self/status has no Cpus_allowed_list")?.trim();
    Ok(list.split([',', '-']).next().unwrap_or(list).to_owned())
}

/// In what two images differ: config, number of layers, and the entries of each layer.
fn differences(first: &Layout, second: &Layout) -> Result<String> {
    let arch = bases::oci_architecture()?;
    let (one, two) = (first.image(&arch)?, second.image(&arch)?);
    let mut out = String::new();
    if one.config != two.config {
        out += &format!("config {:#}\nagainst {:#}\n", one.config, two.config);
    }
    let (ours, theirs) = (first.layers(&one)?, second.layers(&two)?);
    for (index, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
        if ours == theirs {
            continue;
        }
        out += &format!("layer {index}:\n");
        for line in diff_entries(ours, theirs)? {
            out += &format!("  {line}\n");
        }
    }
    Ok(out)
}

/// The headers of two archives, entry by entry, where they differ.
fn diff_entries(first: &[u8], second: &[u8]) -> Result<Vec<String>> {
    let describe = |archive: &[u8]| -> Result<Vec<String>> {
        let mut reader = tar::Archive::new(archive);
        let mut lines = Vec::new();
        for entry in reader.entries()? {
            let mut entry = entry?;
            let header = entry.header().clone();
            let extensions: Vec<String> = match entry.pax_extensions()? {
                Some(list) => {
                    list.flatten().map(|pax| format!("{:?}={:?}", pax.key(), pax.value())).collect()
                }
                None => Vec::new(),
            };
            let mut contents = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut contents)?;
            lines.push(format!(
                "{} {:?} mode {:o} owner {}:{} time {} {} {extensions:?}",
                String::from_utf8_lossy(&entry.path_bytes()),
                header.entry_type(),
                header.mode()?,
                header.uid()?,
                header.gid()?,
                header.mtime()?,
                digest_of(&contents),
            ));
        }
        Ok(lines)
    };
    let (first, second) = (describe(first)?, describe(second)?);
    let only = |ours: &[String], theirs: &[String], sign: char| -> Vec<String> {
        let theirs: HashSet<&String> = theirs.iter().collect();
        ours.iter()
            .filter(|line| !theirs.contains(line))
            .map(|line| format!("{sign} {line}"))
            .collect()
    };
    let mut lines = only(&first, &second, '-');
    lines.extend(only(&second, &first, '+'));
    if lines.is_empty() {
        lines.push("the same entries in another order".to_owned());
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::without_outputs;

    #[test]
    fn what_is_in_the_image_stays_and_where_it_goes_is_left_out() {
        let line =
            "--build-arg A=B -t name --push --output type=local,dest=x -o=y --target t --iidfile f";
        let arguments: Vec<_> = line.split(' ').map(Into::into).collect();
        assert_eq!(without_outputs(&arguments), ["--build-arg", "A=B", "--target", "t"]);
    }
}
