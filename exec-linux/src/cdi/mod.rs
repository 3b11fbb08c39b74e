//! Devices of the machine by the Container Device Interface: vendors describe, in files, what a
//! container needs for each (nodes, mounts, variables, groups), and a step asks by name. This reads
//! the files and finds what a name means. Who may have a device is decided in
//! [`crate::Entitlements::grant`]; `sandbox` makes the nodes.

mod edits;
mod name;
mod spec;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use edits::{Edits, Node};
use spec::Spec;

/// The annotation by which BuildKit finds devices under another name.
const CLASS: &str = "org.mobyproject.buildkit.device.class";
/// The annotation by which the machine's owner lets every build have a device.
const AUTO_ALLOW: &str = "org.mobyproject.buildkit.device.autoallow";

/// Where descriptions of devices are, and which every build may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CdiConfig {
    /// Whether there are no devices.
    pub disabled: bool,
    /// The directories with descriptions. What a later one says of a device counts.
    pub spec_dirs: Vec<PathBuf>,
    /// Devices (`vendor.com/class=name`) and kinds (`vendor.com/class`) that need no entitlement.
    pub auto_allowed: Vec<String>,
}

impl Default for CdiConfig {
    /// BuildKit's.
    fn default() -> Self {
        let spec_dirs = ["/etc/cdi", "/var/run/cdi", "/etc/buildkit/cdi"].map(PathBuf::from);
        Self { disabled: false, spec_dirs: spec_dirs.into(), auto_allowed: Vec::new() }
    }
}

/// A device that a step asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRequest {
    /// `vendor.com/class=name`; without a name, the first of that kind; `*` is all of it. A name
    /// can also be the class that a description gives devices by an annotation.
    pub name: String,
    /// Whether the step does without if there is none.
    pub optional: bool,
}

/// A device of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// `vendor.com/class=name`
    pub name: String,
    /// The file that describes it.
    pub file: PathBuf,
    /// What the file says about it.
    pub annotations: BTreeMap<String, String>,
    /// Whether every build may have it.
    pub auto_allowed: bool,
    /// Why no step can have it.
    pub unusable: Option<String>,
}

/// A file, or a directory, that is no description of devices.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct CdiProblem {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

/// All devices of this machine, as their descriptions say.
#[derive(Debug, Default)]
pub struct DeviceRegistry {
    disabled: bool,
    files: Vec<(PathBuf, Spec)>,
    /// By their names.
    devices: BTreeMap<String, Place>,
    auto_allowed: BTreeSet<String>,
    /// What could not be read.
    pub problems: Vec<CdiProblem>,
}

/// Where a device is described.
#[derive(Debug)]
struct Place {
    /// The number of the directory: what a later one says counts.
    priority: usize,
    file: usize,
    device: usize,
    /// Another file that counts as much.
    rival: Option<usize>,
}

impl DeviceRegistry {
    /// Reads all descriptions. Files that cannot be read are noted, and keep nobody from having the
    /// devices of others.
    pub fn read(config: &CdiConfig) -> Self {
        let mut registry = Self {
            disabled: config.disabled,
            auto_allowed: config.auto_allowed.iter().cloned().collect(),
            ..Self::default()
        };
        if config.disabled {
            return registry;
        }
        for (priority, directory) in config.spec_dirs.iter().enumerate() {
            match files(directory) {
                Ok(files) => files.into_iter().for_each(|path| registry.add(priority, path)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    let problem = CdiProblem { path: directory.clone(), why: error.to_string() };
                    registry.problems.push(problem);
                }
            }
        }
        registry
    }

    fn add(&mut self, priority: usize, path: PathBuf) {
        let spec = match Spec::read(&path) {
            Ok(spec) => spec,
            Err(why) => return self.problems.push(CdiProblem { path, why }),
        };
        let file = self.files.len();
        for (index, device) in spec.devices.iter().enumerate() {
            let name = format!("{}={}", spec.kind, device.name);
            let place = Place { priority, file, device: index, rival: None };
            match self.devices.get_mut(&name) {
                Some(other) if other.priority == priority => other.rival = Some(file),
                _ => _ = self.devices.insert(name, place),
            }
        }
        self.files.push((path, spec));
    }

    /// Lists the devices, by name.
    pub fn devices(&self) -> impl Iterator<Item = Device> {
        self.devices.iter().map(|(name, place)| {
            let (path, spec) = &self.files[place.file];
            let device = &spec.devices[place.device];
            let mut annotations = spec.annotations.clone();
            annotations.extend(device.annotations.clone());
            Device {
                file: path.clone(),
                auto_allowed: self.is_auto_allowed(name, place),
                annotations,
                unusable: self.edits(name).err(),
                name: name.clone(),
            }
        })
    }

    /// Finds the names of the devices that a request means; none if nothing of that name is known.
    ///
    /// # Errors
    /// When it is no name.
    pub(crate) fn find(&self, request: &str) -> Result<Vec<&str>, String> {
        let (kind, wanted) = name::split(request);
        name::check_kind(kind)?;
        let of_kind = self.devices.iter().filter_map(|(name, place)| {
            let (of, device) = name.split_once('=').expect("`add` made it of both");
            (of == kind).then_some((name.as_str(), device, place))
        });
        let mut of_kind: Vec<_> = of_kind.collect();
        match wanted {
            None => of_kind.truncate(1),
            Some("*") => {}
            Some(wanted) => {
                name::check_device(wanted)?;
                if of_kind.iter().any(|(_, device, _)| *device == wanted) {
                    of_kind.retain(|(_, device, _)| *device == wanted);
                } else {
                    of_kind.retain(|(.., place)| self.annotation(place, CLASS) == Some(wanted));
                }
            }
        }
        Ok(of_kind.into_iter().map(|(name, ..)| name).collect())
    }

    /// Tells whether every build may have a device.
    pub(crate) fn lets_everybody_have(&self, name: &str) -> bool {
        self.devices.get(name).is_some_and(|place| self.is_auto_allowed(name, place))
    }

    fn is_auto_allowed(&self, name: &str, place: &Place) -> bool {
        self.auto_allowed.contains(name)
            || self.auto_allowed.contains(&self.files[place.file].1.kind)
            || matches!(
                self.annotation(place, AUTO_ALLOW),
                // What Go's strconv.ParseBool takes for true.
                Some("1" | "t" | "T" | "true" | "TRUE" | "True")
            )
    }

    fn annotation(&self, place: &Place, key: &str) -> Option<&str> {
        let spec = &self.files[place.file].1;
        let own = spec.devices[place.device].annotations.get(key);
        own.or_else(|| spec.annotations.get(key)).map(String::as_str)
    }

    /// What a device changes about a step, with what its file says of all its devices.
    ///
    /// # Errors
    /// When no step can have it.
    pub(crate) fn edits(&self, name: &str) -> Result<Edits, String> {
        let place = self.devices.get(name).ok_or_else(|| self.unknown())?;
        let (path, spec) = &self.files[place.file];
        if let Some(rival) = place.rival {
            let [one, other] = [path, &self.files[rival].0].map(|path| path.display());
            return Err(format!("both {one} and {other} describe it"));
        }
        let device = &spec.devices[place.device];
        let at = |why: String| format!("{}: {why}", path.display());
        if let Some(why) = spec.unsupported.as_ref().or(device.unsupported.as_ref()) {
            return Err(at(why.clone()));
        }
        let mut edits = spec.edits.clone();
        edits.extend(device.edits.clone());
        edits.complete().map_err(at)
    }

    /// Says of a device that nobody knows what there is instead.
    pub(crate) fn unknown(&self) -> String {
        if self.disabled {
            return "devices are switched off (`[cdi] disabled` in the configuration file)".into();
        }
        let mut text = "no description of it was found".to_owned();
        match self.devices.is_empty() {
            true => text += ", nor of any other device",
            false => {
                let names: Vec<_> = self.devices.keys().map(|name| format!("`{name}`")).collect();
                text += &format!("; there is {}", names.join(", "));
            }
        }
        for problem in &self.problems {
            text += &format!("; {problem}");
        }
        text
    }
}

/// The files in a directory that are descriptions by their names, sorted.
fn files(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ext| ext == "json" || ext == "yaml" || ext == "yml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests;
