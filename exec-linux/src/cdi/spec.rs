//! One file of the Container Device Interface, JSON or YAML: its words as they stand, and what is
//! checked of them. Format: github.com/cncf-tags/container-device-interface, SPEC.md.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::Deserialize;

use super::edits::Edits;
use super::name;

/// Versions that are understood. Those before 0.3 had another form.
const VERSIONS: [&str; 8] =
    ["0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"];
/// Larger files are refused: what vendors generate for many devices has some ten KiB.
const LARGEST: u64 = 4 << 20;
/// As deep as the format goes, and some more.
const DEEPEST: usize = 32;

/// A file that was read and checked.
#[derive(Debug)]
pub struct Spec {
    /// `vendor/class`
    pub kind: String,
    /// What anybody wants to say about all of them.
    pub annotations: BTreeMap<String, String>,
    /// The devices, in the file's order.
    pub devices: Vec<Device>,
    /// What each of them changes about a step.
    pub edits: Edits,
    /// What in that is not done here.
    pub unsupported: Option<String>,
}

/// One device of a file.
#[derive(Debug)]
pub struct Device {
    /// Its name, without the kind.
    pub name: String,
    /// What anybody wants to say about it.
    pub annotations: BTreeMap<String, String>,
    /// What it changes about a step.
    pub edits: Edits,
    /// What in that is not done here.
    pub unsupported: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Words {
    cdi_version: String,
    kind: String,
    annotations: Option<BTreeMap<String, String>>,
    devices: Vec<DeviceWords>,
    container_edits: Option<ContainerEdits>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct DeviceWords {
    name: String,
    annotations: Option<BTreeMap<String, String>>,
    container_edits: ContainerEdits,
}

/// What is changed about a container.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ContainerEdits {
    /// `NAME=value`
    pub env: Option<Vec<String>>,
    /// Device nodes.
    pub device_nodes: Option<Vec<DeviceNode>>,
    /// Network interfaces.
    pub net_devices: Option<Vec<NetDevice>>,
    /// Programs of the host.
    pub hooks: Option<Vec<Hook>>,
    /// Mounts.
    pub mounts: Option<Vec<Mount>>,
    /// What the processor's caches are shared by.
    pub intel_rdt: Option<IntelRdt>,
    /// Groups.
    pub additional_gids: Option<Vec<u32>>,
}

/// A device node.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DeviceNode {
    /// Where it is in the container.
    pub path: String,
    /// Where it is on the host, if elsewhere.
    pub host_path: Option<String>,
    /// `c`, `b`, `u`, `p`
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Its major number; 0 is that of the host's.
    pub major: Option<i64>,
    /// Its minor number.
    pub minor: Option<i64>,
    /// Its permission bits.
    pub file_mode: Option<u32>,
    /// Letters of `rwm`.
    pub permissions: Option<String>,
    /// Its owner.
    pub uid: Option<u32>,
    /// Its group.
    pub gid: Option<u32>,
}

/// A mount.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Mount {
    /// What is mounted.
    pub host_path: String,
    /// Where.
    pub container_path: String,
    /// How.
    pub options: Option<Vec<String>>,
    /// The file system.
    #[serde(rename = "type")]
    pub kind: Option<String>,
}

/// A program that is run at some time of a container's life.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[expect(dead_code, reason = "hooks are not run; the fields make sure that they are ones")]
pub struct Hook {
    /// When.
    pub hook_name: String,
    /// Which.
    pub path: String,
    args: Option<Vec<String>>,
    env: Option<Vec<String>>,
    timeout: Option<i64>,
}

/// An interface that moves into the container.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[expect(dead_code, reason = "interfaces are not moved; the fields make sure that they are ones")]
pub struct NetDevice {
    host_interface_name: String,
    name: String,
}

/// A class of resctrl.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[expect(dead_code, reason = "there are no classes; the fields make sure that it is one")]
pub struct IntelRdt {
    #[serde(rename = "closID")]
    clos_id: Option<String>,
    l3_cache_schema: Option<String>,
    mem_bw_schema: Option<String>,
    schemata: Option<Vec<String>>,
    enable_monitoring: Option<bool>,
    #[serde(rename = "enableCMT")]
    enable_cmt: Option<bool>,
    #[serde(rename = "enableMBM")]
    enable_mbm: Option<bool>,
}

impl Spec {
    /// Reads a file; what is wrong with it is told without its path.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = contents(path)?;
        let words: Words = match path.extension() {
            Some(extension) if extension == "json" => {
                serde_json::from_str(&text).map_err(|error| error.to_string())?
            }
            _ => yaml(&text)?,
        };
        Self::check(words)
    }

    fn check(words: Words) -> Result<Self, String> {
        let Words { cdi_version, kind, annotations, devices, container_edits } = words;
        if !VERSIONS.contains(&cdi_version.trim_start_matches('v')) {
            let known = VERSIONS.join(", ");
            return Err(format!("cdiVersion: `{cdi_version}` is not one of {known}"));
        }
        name::check_kind(&kind).map_err(|why| format!("kind: `{kind}`: {why}"))?;
        if devices.is_empty() {
            return Err("devices: there is none".to_owned());
        }
        let place = "containerEdits";
        let container_edits = container_edits.unwrap_or_default();
        let edits = Edits::read(&container_edits, place)?;
        let unsupported = Edits::unsupported(&container_edits, place);
        let mut checked: Vec<Device> = Vec::with_capacity(devices.len());
        for (index, words) in devices.into_iter().enumerate() {
            let DeviceWords { name, annotations, container_edits } = words;
            let wrong = |why: &str| format!("devices[{index}].name: `{name}`: {why}");
            name::check_device(&name).map_err(wrong)?;
            if checked.iter().any(|other| other.name == name) {
                return Err(wrong("the file has two of that name"));
            }
            let place = format!("devices[{index}].containerEdits");
            checked.push(Device {
                edits: Edits::read(&container_edits, &place)?,
                unsupported: Edits::unsupported(&container_edits, &place),
                annotations: annotations.unwrap_or_default(),
                name,
            });
        }
        let annotations = annotations.unwrap_or_default();
        Ok(Self { kind, annotations, devices: checked, edits, unsupported })
    }
}

/// Reads a regular file of some size; a link to one is as good.
fn contents(path: &Path) -> Result<String, String> {
    // A pipe would wait for somebody who writes.
    let open = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file: File = open.map_err(|error| error.to_string())?;
    if !file.metadata().map_err(|error| error.to_string())?.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    let mut text = String::new();
    file.take(LARGEST + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > LARGEST {
        return Err(format!("it is larger than {} MiB", LARGEST >> 20));
    }
    Ok(text)
}

fn yaml(text: &str) -> Result<Words, String> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEEPEST,
            // Aliases multiply; no specification needs many.
            max_aliases: 1000,
            max_anchors: 1000,
        },
        // As the Go programs read them, for `fileMode: 0660`.
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| error.to_string())
}
