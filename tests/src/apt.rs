//! A private apt: the machine's own package sources, with source packages and a second
//! architecture switched on, and with lists and caches kept apart from the system's.
//!
//! Nothing here changes the machine (`dpkg --add-architecture` would), and no mirror is named:
//! the sources are whatever the machine is configured with.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::command::{command, run};

/// An apt with its own lists and caches below one directory.
pub struct Apt {
    configuration: PathBuf,
    sources: PathBuf,
}

impl Apt {
    /// Prepares the directory from the machine's sources and fetches the package lists. The first
    /// architecture is the one that packages are for which name none.
    ///
    /// # Errors
    /// The machine has no apt sources, or none of their lists can be fetched.
    pub fn prepare(directory: &Path, architectures: &[&str]) -> Result<Self> {
        let sources = directory.join("sources.list.d");
        for name in ["lists/partial", "archives/partial", "sources.list.d", "empty"] {
            fs::create_dir_all(directory.join(name))?;
        }
        copy_sources(&sources)?;
        let listed: String = architectures.iter().map(|a| format!(" \"{a}\";")).collect();
        let text = format!(
            "Dir::Etc::SourceList \"/dev/null\";\n\
             Dir::Etc::SourceParts \"{sources}\";\n\
             Dir::State::Lists \"{base}/lists\";\n\
             Dir::Cache \"{base}\";\n\
             Dir::Cache::Archives \"{base}/archives\";\n\
             APT::Architecture \"{native}\";\n\
             APT::Architectures {{{listed} }};\n\
             APT::Sandbox::User \"root\";\n\
             Acquire::Retries \"5\";\n\
             Acquire::Languages \"none\";\n",
            native = architectures.first().context("at least one architecture")?,
            sources = sources.display(),
            base = directory.display(),
        );
        let configuration = directory.join("apt.conf");
        fs::write(&configuration, text)?;
        let apt = Self { configuration, sources };
        match run(&mut apt.get(&["update", "-q"])) {
            // A mirror may lack an index in which nothing is that is wanted; what is, is missed later.
            Err(error) if !error.to_string().contains("They have been ignored") => Err(error),
            _ => Ok(apt),
        }
    }

    /// The native architecture, by Debian's name.
    ///
    /// # Errors
    /// There is no dpkg on this machine.
    pub fn native_architecture() -> Result<String> {
        Ok(run(&mut command("dpkg", ["--print-architecture"]))?.trim().to_owned())
    }

    fn get(&self, arguments: &[&str]) -> Command {
        let mut command = command("apt-get", arguments);
        command.env("APT_CONFIG", &self.configuration).env("LC_ALL", "C.UTF-8");
        command
    }

    /// Downloads one binary package (`name` or `name:architecture`) and unpacks its files.
    ///
    /// # Errors
    /// The package is not in the lists, or cannot be fetched.
    pub fn extract(&self, package: &str, into: &Path) -> Result<()> {
        let download = tempfile::tempdir()?;
        run(self.get(&["download", "-q", package]).current_dir(download.path()))?;
        let archive = fs::read_dir(download.path())?
            .next()
            .with_context(|| format!("apt-get download {package} left no file"))??
            .path();
        let mut unpack = command("dpkg-deb", ["-x"]);
        run(unpack.arg(&archive).arg(into))?;
        Ok(())
    }

    /// Downloads packages with all that they need, as for a machine that has none.
    ///
    /// # Errors
    /// A package is not in the lists, or cannot be fetched.
    pub fn closure(&self, packages: &[&str], into: &Path) -> Result<Vec<PathBuf>> {
        fs::create_dir_all(into.join("partial"))?;
        let nothing = into.join("status");
        fs::write(&nothing, "")?;
        let option = |name: &str, path: &Path| format!("Dir::{name}={}", path.display());
        let mut install = self.get(&["install", "-q", "-y", "--download-only"]);
        install.args(["--no-install-recommends", "-o", "Debug::NoLocking=true", "-o"]);
        install.arg(option("State::Status", &nothing)).arg("-o");
        install.arg(option("Cache::Archives", into)).args(packages);
        run(&mut install)?;
        let mut found: Vec<PathBuf> =
            fs::read_dir(into)?.flatten().map(|file| file.path()).collect();
        found.retain(|path| path.extension().is_some_and(|extension| extension == "deb"));
        found.sort();
        Ok(found)
    }

    /// Downloads the files of a source package (`.dsc`, upstream and Debian archives).
    ///
    /// # Errors
    /// The source package is not in the lists, or cannot be fetched.
    pub fn source(&self, package: &str, into: &Path) -> Result<()> {
        run(self.get(&["source", "-q", "--download-only", package]).current_dir(into))?;
        Ok(())
    }

    /// Makes a minimal root file system of this machine's release as a tar archive.
    ///
    /// # Errors
    /// mmdebstrap is missing or cannot fetch the packages.
    pub fn bootstrap(&self, include: &[&str], archive: &Path) -> Result<()> {
        let mut bootstrap = command("mmdebstrap", ["--quiet", "--variant=minbase"]);
        // Documentation is most of the files and nothing that a build reads.
        for excluded in ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*"] {
            bootstrap.arg(format!("--dpkgopt=path-exclude={excluded}"));
        }
        if !include.is_empty() {
            bootstrap.arg(format!("--include={}", include.join(",")));
        }
        bootstrap.arg(release()?).arg(archive);
        for entry in fs::read_dir(&self.sources)? {
            bootstrap.arg(entry?.path());
        }
        // The same archive whenever the packages are the same.
        bootstrap.env("SOURCE_DATE_EPOCH", "1700000000");
        run(&mut bootstrap)?;
        Ok(())
    }
}

fn release() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(line.context("/etc/os-release names no VERSION_CODENAME")?.trim_matches('"').to_owned())
}

/// Copies the machine's source lists with source packages switched on.
fn copy_sources(into: &Path) -> Result<()> {
    let mut found = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
        found.extend(entries.flatten().map(|entry| entry.path()));
    }
    let mut copied = 0;
    for path in found {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let (Some(name), Some(extension)) = (path.file_name(), path.extension()) else { continue };
        let with_source = match extension.to_str() {
            Some("list") => one_line_with_source(&text),
            Some("sources") => deb822_with_source(&text),
            _ => continue,
        };
        fs::write(into.join(name), with_source)?;
        copied += 1;
    }
    if copied == 0 {
        bail!("this machine has no apt sources below /etc/apt");
    }
    Ok(())
}

fn one_line_with_source(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        out.push_str(line);
        out.push('\n');
        if let Some(rest) = line.strip_prefix("deb ") {
            out.push_str(&format!("deb-src {rest}\n"));
        }
    }
    out
}

fn deb822_with_source(text: &str) -> String {
    let line = |line: &str| match line.strip_prefix("Types:") {
        Some(_) => "Types: deb deb-src\n".to_owned(),
        None => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::{deb822_with_source, one_line_with_source};

    #[test]
    fn both_forms_of_source_lists_gain_source_packages() {
        assert_eq!(
            one_line_with_source("# c\ndeb [signed-by=/k] URL suite main\n"),
            "# c\ndeb [signed-by=/k] URL suite main\ndeb-src [signed-by=/k] URL suite main\n",
        );
        assert_eq!(
            deb822_with_source("Types: deb\nURIs: URL\n"),
            "Types: deb deb-src\nURIs: URL\n",
        );
    }
}
