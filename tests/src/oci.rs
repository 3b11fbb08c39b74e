//! OCI image layouts for the suites: a small writer for base images and a reader that checks
//! every digest. Deliberately independent of the engine's own code for the same format.
//!
//! Format: OCI image specification 1.1, `image-layout.md` and `manifest.md`.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::command::{command, run};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// A plain tar archive.
    None,
    /// gzip, as most images have it.
    Gzip,
    /// zstd, which only OCI media types can name.
    Zstd,
}

/// A layer that was written into a layout.
pub struct Layer {
    descriptor: Value,
    diff_id: String,
}

/// An OCI layout directory.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The directory with `index.json`.
    pub path: PathBuf,
}

/// One platform's image, as read from a layout.
#[derive(Debug)]
pub struct Image {
    /// The manifest.
    pub manifest: Value,
    /// The image configuration.
    pub config: Value,
    /// The digest of the manifest.
    pub digest: String,
}

impl Layout {
    /// Makes an empty layout in a directory.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn create(path: &Path) -> Result<Self> {
        fs::create_dir_all(path.join("blobs/sha256"))?;
        fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let layout = Self { path: path.to_owned() };
        layout.write_index(&[])?;
        Ok(layout)
    }

    /// Opens the layout in a directory.
    ///
    /// # Errors
    /// The directory holds no layout.
    pub fn open(path: &Path) -> Result<Self> {
        if !path.join("oci-layout").is_file() {
            bail!("{} is no OCI layout", path.display());
        }
        Ok(Self { path: path.to_owned() })
    }

    /// Writes a tar archive as a layer, streaming.
    ///
    /// # Errors
    /// The archive cannot be read or the layout not written.
    pub fn add_layer(&self, archive: impl Read, compression: Compression) -> Result<Layer> {
        let temporary = tempfile::NamedTempFile::new_in(&self.path)?;
        let mut plain = Hashing::new(archive);
        let mut file = temporary.as_file();
        let suffix = match compression {
            Compression::None => {
                io::copy(&mut plain, &mut file)?;
                ""
            }
            Compression::Gzip => {
                let mut encoder = GzEncoder::new(file, flate2::Compression::fast());
                io::copy(&mut plain, &mut encoder)?;
                encoder.finish()?;
                "+gzip"
            }
            Compression::Zstd => {
                zstd::stream::copy_encode(&mut plain, file, 3)?;
                "+zstd"
            }
        };
        let (digest, size) = hash_file(temporary.path())?;
        temporary.persist(self.blob_path(&digest)?)?;
        Ok(Layer {
            descriptor: json!({
                "mediaType": format!("{LAYER}{suffix}"), "digest": digest, "size": size,
            }),
            diff_id: plain.digest(),
        })
    }

    /// Writes a config and a manifest for these layers and returns the manifest's descriptor.
    ///
    /// `arch` may have a variant (`arm/v7`); `container` is the `config` member of the image
    /// configuration (Env, Cmd, ...).
    ///
    /// # Errors
    /// The layout cannot be written.
    pub fn add_image(&self, arch: &str, container: Value, layers: &[Layer]) -> Result<Value> {
        let created = "2023-11-14T22:13:20Z";
        let history: Vec<Value> =
            layers.iter().map(|_| json!({"created": created, "created_by": "fixture"})).collect();
        let (arch, variant) = arch.split_once('/').unwrap_or((arch, ""));
        let mut platform = json!({"architecture": arch, "os": "linux"});
        if !variant.is_empty() {
            platform["variant"] = variant.into();
        }
        let mut config = json!({
            "created": created,
            "config": container,
            "rootfs": {
                "type": "layers",
                "diff_ids": layers.iter().map(|l| l.diff_id.as_str()).collect::<Vec<_>>(),
            },
            "history": history,
        });
        for (key, value) in platform.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        let config = self.add_json(CONFIG, &config)?;
        let mut manifest = self.add_json(
            MANIFEST,
            &json!({
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": config,
                "layers": layers.iter().map(|l| &l.descriptor).collect::<Vec<_>>(),
            }),
        )?;
        manifest["platform"] = platform;
        Ok(manifest)
    }

    /// Gives the layout its one tag: an image, or an index of several platforms.
    ///
    /// # Errors
    /// The layout cannot be written.
    pub fn tag(&self, tag: &str, manifests: &[Value]) -> Result<()> {
        let mut top = match manifests {
            [one] => one.clone(),
            several => self.add_json(
                INDEX,
                &json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": several}),
            )?,
        };
        top["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        self.write_index(&[top])
    }

    /// The descriptors that `index.json` lists.
    ///
    /// # Errors
    /// `index.json` is missing or no index.
    pub fn descriptors(&self) -> Result<Vec<Value>> {
        let index: Value = serde_json::from_slice(&fs::read(self.path.join("index.json"))?)?;
        let manifests = index["manifests"].as_array().context("index.json lists no manifests")?;
        Ok(manifests.clone())
    }

    /// Reads the image of one architecture, through an index where there is one.
    ///
    /// # Errors
    /// The layout has no such image, or a blob differs from its digest.
    pub fn image(&self, arch: &str) -> Result<Image> {
        let mut open = self.descriptors()?;
        while let Some(descriptor) = open.pop() {
            let bytes = self.blob(&descriptor)?;
            let value: Value = serde_json::from_slice(&bytes)?;
            if let Some(manifests) = value["manifests"].as_array() {
                open.extend(manifests.iter().cloned());
                continue;
            }
            let config: Value = serde_json::from_slice(&self.blob(&value["config"])?)?;
            if config["architecture"] == arch {
                let digest = text(&descriptor["digest"])?.to_owned();
                return Ok(Image { manifest: value, config, digest });
            }
        }
        bail!("{} has no image for {arch}", self.path.display())
    }

    /// Reads a blob and checks its size and digest against its descriptor.
    ///
    /// # Errors
    /// The blob is missing or differs.
    pub fn blob(&self, descriptor: &Value) -> Result<Vec<u8>> {
        let digest = text(&descriptor["digest"])?;
        let bytes = fs::read(self.blob_path(digest)?)
            .with_context(|| format!("layout {} lacks blob {digest}", self.path.display()))?;
        let found = digest_of(&bytes);
        if found != digest {
            bail!("blob {digest} has digest {found}");
        }
        if descriptor["size"].as_u64() != Some(bytes.len() as u64) {
            bail!(
                "blob {digest} has {} bytes, descriptor says {}",
                bytes.len(),
                descriptor["size"]
            );
        }
        Ok(bytes)
    }

    /// The decompressed tar archives of an image, lowest first, each checked against its diff id.
    ///
    /// # Errors
    /// A blob is missing, of an unknown media type, or differs from a digest.
    pub fn layers(&self, image: &Image) -> Result<Vec<Vec<u8>>> {
        let layers = image.manifest["layers"].as_array().context("manifest lists no layers")?;
        let diff_ids =
            image.config["rootfs"]["diff_ids"].as_array().context("config lists no diff_ids")?;
        if layers.len() != diff_ids.len() {
            bail!("{} layers but {} diff ids", layers.len(), diff_ids.len());
        }
        let mut archives = Vec::new();
        for (layer, diff_id) in layers.iter().zip(diff_ids) {
            let blob = self.blob(layer)?;
            let media_type = text(&layer["mediaType"])?;
            let mut archive = Vec::new();
            match media_type.rsplit(['+', '.']).next() {
                Some("gzip") => {
                    flate2::read::MultiGzDecoder::new(&blob[..]).read_to_end(&mut archive)?;
                }
                Some("zstd") => {
                    zstd::Decoder::new(&blob[..])?.read_to_end(&mut archive)?;
                }
                Some("tar") => archive = blob,
                _ => bail!("layer has unknown media type {media_type}"),
            }
            if digest_of(&archive) != text(diff_id)? {
                bail!("layer {} does not have diff id {diff_id}", layer["digest"]);
            }
            archives.push(archive);
        }
        Ok(archives)
    }

    /// Checks the layout against the OCI specification's JSON schemas; tells of what there were how
    /// many, such as `1 config 1 image-manifest`.
    ///
    /// # Errors
    /// Something is not as its schema says; or `python3-jsonschema` or the schemas (Debian package
    /// golang-github-opencontainers-image-spec-dev) are not installed.
    pub fn check_schemas(&self) -> Result<String> {
        let program = include_str!("../programs/oci-schema.py");
        // Debian's own: another one does not know Debian's packages.
        let python = ["-W", "ignore::DeprecationWarning", "-c", program];
        let mut check = command("/usr/bin/python3", python);
        let told = run(check.arg(&self.path))?;
        Ok(told.trim_end().to_owned())
    }

    fn add_json(&self, media_type: &str, value: &Value) -> Result<Value> {
        let bytes = serde_json::to_vec(value)?;
        let digest = digest_of(&bytes);
        fs::write(self.blob_path(&digest)?, &bytes)?;
        Ok(json!({"mediaType": media_type, "digest": digest, "size": bytes.len()}))
    }

    fn write_index(&self, manifests: &[Value]) -> Result<()> {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
        fs::write(self.path.join("index.json"), serde_json::to_vec(&index)?)?;
        Ok(())
    }

    fn blob_path(&self, digest: &str) -> Result<PathBuf> {
        let hex = digest.strip_prefix("sha256:").filter(|hex| hex.len() == 64);
        let hex = hex.with_context(|| format!("{digest} is no sha256 digest"))?;
        Ok(self.path.join("blobs/sha256").join(hex))
    }
}

/// The digest of some bytes, in OCI's form.
#[must_use]
pub fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().with_context(|| format!("expected a string, found {value}"))
}

/// Digest and size of a file.
fn hash_file(path: &Path) -> Result<(String, u64)> {
    let mut reader = Hashing::new(File::open(path)?);
    let size = io::copy(&mut reader, &mut io::sink())?;
    Ok((reader.digest(), size))
}

/// A reader that hashes what passes through it.
struct Hashing<R> {
    inner: R,
    hasher: Sha256,
}

impl<R: Read> Hashing<R> {
    fn new(inner: R) -> Self {
        Self { inner, hasher: Sha256::new() }
    }

    fn digest(self) -> String {
        format!("sha256:{}", hex::encode(self.hasher.finalize()))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_tell_right_from_wrong() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let layout = Layout::create(directory.path())?;
        let layer = layout.add_layer(&[0; 1024][..], Compression::Gzip)?;
        let image = layout.add_image("amd64", json!({"Env": ["A=b"]}), &[layer])?;
        layout.tag("right", std::slice::from_ref(&image))?;
        assert_eq!(layout.check_schemas()?, "1 config 1 image-manifest");
        layout.tag("right", &[image.clone(), image])?;
        assert_eq!(layout.check_schemas()?, "1 config 1 image-index 1 image-manifest");
        for (config, says) in
            [(json!({"Env": "A=b"}), "'A=b' is not of type 'array'"), (json!([]), "[] is not of")]
        {
            let layer = layout.add_layer(&[0; 1024][..], Compression::Gzip)?;
            let image = layout.add_image("amd64", config, &[layer])?;
            layout.tag("wrong", &[image])?;
            let error = format!("{:#}", layout.check_schemas().expect_err("it is wrong"));
            assert!(error.contains("config-schema.json") && error.contains(says), "{error}");
        }
        layout.write_index(&[json!({"mediaType": "x/y", "digest": "sha256:0"})])?;
        let error = format!("{:#}", layout.check_schemas().expect_err("it is wrong"));
        assert!(error.contains("'size' is a required property"), "{error}");
        Ok(())
    }
}
