//! Makes a Wasm OCI artifact: one program of a result, as what registries and tools for
//! WebAssembly take it (CNCF TAG Runtime, "Wasm OCI Artifact"), rather than as an image with the
//! program in an archive.

use std::collections::BTreeMap;

use cofferdam_registry::{Descriptor, media_type};
use cofferdam_store::{Found, Store, Tree};
use cofferdam_types::Digest;
use serde::Serialize;
use serde_json::Value;
use wasmparser::{Encoding, Parser, Payload};

use crate::config::complete;
use crate::image::{BuiltImage, BuiltLayer, BuiltManifest, ImageOptions, PlatformImage};
use crate::manifest::{Types, manifest};
use crate::{Error, Result};

const CONFIG: &str = "application/vnd.wasm.config.v0+json";
const LAYER: &str = "application/wasm";
/// The name under which tools save a layer.
const TITLE: &str = "org.opencontainers.image.title";
/// The longest program; it is looked into as a whole.
const MAX_PROGRAM: u64 = 512 << 20;

/// The config of an artifact.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Config<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    author: Option<&'a str>,
    architecture: &'static str,
    os: &'static str,
    layer_digests: [Digest; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    component: Option<Interface>,
}

/// What a component is given and gives.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Interface {
    exports: Vec<String>,
    imports: Vec<String>,
    /// The world; a binary does not say which it was made for.
    target: Option<String>,
}

/// Makes the artifact of one program of a result: of `file`, else of the image's entrypoint, else
/// of the only `.wasm` file that there is. It blocks.
///
/// # Errors
/// When there are several platforms, the program cannot be told or is no WebAssembly, or the store
/// fails.
pub fn build_artifact(
    store: &Store,
    images: &[PlatformImage],
    file: Option<&str>,
    options: &ImageOptions,
) -> Result<BuiltImage> {
    let [image] = images else {
        let reason = format!("a wasm artifact has one program, not {} platforms", images.len());
        return Err(Error::Options(reason));
    };
    let wrong = |reason| Error::Config { platform: image.platform.to_string(), reason };
    let completed =
        complete(&image.config, &image.platform, &[], options.source_date_epoch).map_err(wrong)?;
    let config: Value = serde_json::from_slice(&completed.json)
        .map_err(|error| wrong(format!("not a JSON object: {error}")))?;
    let tree = store.tree(&image.snapshot)?;
    let path = program(&tree, file, &config).map_err(Error::Options)?;
    let bytes = tree.read(path.as_bytes(), MAX_PROGRAM)?;
    let component =
        interface(&bytes).map_err(|reason| Error::Options(format!("`{path}`: {reason}")))?;
    store.put_blob(&bytes)?;
    let mut layer = Descriptor::of(LAYER, &bytes);
    let name = path.rsplit('/').next().unwrap_or(&path);
    layer.annotations = BTreeMap::from([(TITLE.to_owned(), name.to_owned())]);
    let config = Config {
        created: completed.created.as_deref(),
        author: config["author"].as_str(),
        architecture: "wasm",
        os: if component.is_some() { "wasip2" } else { "wasip1" },
        layer_digests: [layer.digest],
        component,
    };
    let json = serde_json::to_vec(&config).expect("strings serialise");
    store.put_blob(&json)?;
    let config = Descriptor::of(CONFIG, &json);
    let annotations = options.annotations.of(&image.platform);
    let json = manifest(Types::Oci, &config, [&layer].into_iter(), &annotations.manifest);
    store.put_blob(&json)?;
    let mut descriptor = Descriptor::of(media_type::OCI_MANIFEST, &json);
    descriptor.annotations = annotations.descriptor;
    let diff_id = layer.digest;
    let layers = vec![BuiltLayer { descriptor: layer, diff_id, origin: String::new() }];
    let built = BuiltManifest { descriptor: descriptor.clone(), config, layers };
    Ok(BuiltImage { descriptor, manifests: vec![built], created: completed.created })
}

/// The path of the program.
fn program(tree: &Tree, file: Option<&str>, config: &Value) -> std::result::Result<String, String> {
    let config = &config["config"];
    let first = |key: &str| config[key].as_array().and_then(|list| list.first()?.as_str());
    let entrypoint = || first("Entrypoint").or_else(|| first("Cmd"));
    let named = file.or_else(|| entrypoint().filter(|path| path.ends_with(".wasm")));
    if let Some(named) = named {
        let path = match named.starts_with('/') {
            true => named.to_owned(),
            false => format!("{}/{named}", config["WorkingDir"].as_str().unwrap_or_default()),
        };
        return match tree.resolve(path.as_bytes(), true) {
            Ok((_, found)) if found.regular().is_some() => Ok(path),
            Ok(_) => Err(format!("`{path}` is not a file")),
            Err(error) => Err(error.to_string()),
        };
    }
    let mut found = Vec::new();
    if let Some(root) = tree.root() {
        programs(&root, &mut String::new(), &mut found);
    }
    match found.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err("the result has no `.wasm` file to make an artifact of".into()),
        several => Err(format!(
            "which file is the artifact to be made of: {}? Say it with `file=PATH`, or make it the \
             ENTRYPOINT",
            several.join(", ")
        )),
    }
}

fn programs(directory: &Found<'_>, path: &mut String, found: &mut Vec<String>) {
    for child in directory.children() {
        let length = path.len();
        path.push('/');
        path.push_str(&String::from_utf8_lossy(child.name));
        match child.found.regular() {
            Some(_) if path.ends_with(".wasm") => found.push(path.clone()),
            _ => programs(&child.found, path, found),
        }
        path.truncate(length);
    }
}

/// Reads what a component imports and exports; `None` is a module.
fn interface(bytes: &[u8]) -> std::result::Result<Option<Interface>, String> {
    let broken = |error: wasmparser::BinaryReaderError| format!("is no WebAssembly: {error}");
    let mut interface = Interface::default();
    let (mut depth, mut component) = (0usize, false);
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(broken)? {
            Payload::Version { encoding, .. } => {
                depth += 1;
                component |= depth == 1 && encoding == Encoding::Component;
            }
            Payload::End(_) => depth -= 1,
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section {
                    interface.imports.push(import.map_err(broken)?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section {
                    interface.exports.push(export.map_err(broken)?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok(component.then_some(interface))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_components_and_others() {
        assert_eq!(interface(b"\0asm\x01\0\0\0"), Ok(None));
        assert_eq!(interface(b"\0asm\x0d\0\x01\0"), Ok(Some(Interface::default())));
        for bad in [b"".as_slice(), b"\0asm", b"#!/bin/sh\n", b"\0asm\x01\0\0\0\x01\xff"] {
            let error = interface(bad).unwrap_err();
            assert!(error.starts_with("is no WebAssembly"), "{error}");
        }
    }
}
