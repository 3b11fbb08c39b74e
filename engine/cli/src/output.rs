//! The values of `--output`: fields separated by commas, quoted as in RFC 4180, as docker reads
//! them. Which names and defaults an output gets from other flags is decided in `request`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use cofferdam_build::{
    Annotations, Compression, Dangling, Destination, FileOptions, ImageExport, ImageOptions,
    LayoutDestination, LayoutFormat, Others, Push, WasmArtifact,
};
use cofferdam_registry::Reference;

use crate::error::Error;

/// One `--output`.
#[derive(Clone, Debug)]
pub enum Output {
    /// `type=image` and `type=registry`
    Image {
        /// The image.
        image: ImageOutput,
        /// Whether the store remembers its names.
        store: bool,
        /// Whether it is pushed.
        push: bool,
        /// How it would be pushed.
        how: Push,
    },
    /// `type=oci`, and `type=docker` with a destination
    Layout {
        /// The image.
        image: ImageOutput,
        /// Who is to read it.
        format: LayoutFormat,
        /// Where to.
        dest: LayoutDestination,
    },
    /// `type=docker` without a destination
    Load(ImageOutput),
    /// `type=local`
    Local {
        /// The directory.
        dest: PathBuf,
        /// What happens to what else is in it.
        others: Others,
        /// Whether each platform has a directory of its own.
        platform_split: Option<bool>,
        /// What times files get.
        times: Times,
    },
    /// `type=tar`
    Tar {
        /// Where to.
        dest: Destination,
        /// Whether each platform has a directory of its own.
        platform_split: Option<bool>,
        /// What times files get.
        times: Times,
    },
    /// `type=cacheonly`: the result stays in the build cache.
    CacheOnly,
}

/// What an output says of an image.
#[derive(Clone, Debug, Default)]
pub struct ImageOutput {
    /// The image; its times are not set yet.
    pub export: ImageExport,
    /// A name that has a tag, as the user wrote it.
    pub tagged: Option<String>,
    /// Its registries may do without TLS.
    pub insecure: bool,
    /// What times it gets.
    pub times: Times,
}

/// What an output says of times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// `source-date-epoch`
    pub epoch: Option<i64>,
    /// `rewrite-timestamp`
    pub rewrite: Option<bool>,
}

impl Times {
    /// The epoch that holds, as far as the command line says, and whether files obey the epoch:
    /// they do unless the output says otherwise.
    pub fn decide(self, default: Option<i64>) -> (Option<i64>, bool) {
        (self.epoch.or(default), self.rewrite.unwrap_or(true))
    }

    /// How files leave that are no image.
    pub fn of_files(self, default: Option<i64>, platform_split: Option<bool>) -> FileOptions {
        let (source_date_epoch, rewrite_timestamp) = self.decide(default);
        FileOptions { source_date_epoch, rewrite_timestamp, platform_split }
    }
}

impl Output {
    /// Reads the value of one `--output`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let invalid = |what: String| Error::usage(format!("invalid --output `{text}`: {what}"));
        let fields = fields(text).map_err(|what| invalid(what.to_owned()))?;
        let files =
            |dest: Destination| Self::Tar { dest, platform_split: None, times: Times::default() };
        match fields.as_slice() {
            [only] if only.is_empty() => return Err(invalid("it is empty".into())),
            [only] if only == text && only == "-" => return Ok(files(Destination::Stdout)),
            [only] if only == text && !only.starts_with("type=") => {
                return Ok(Self::Local {
                    dest: only.into(),
                    others: Others::Keep,
                    platform_split: None,
                    times: Times::default(),
                });
            }
            _ => {}
        }
        let mut attributes = Attributes::default();
        for field in &fields {
            let Some((key, value)) = field.split_once('=') else {
                return Err(invalid(format!("`{field}` is not KEY=VALUE")));
            };
            let key = key.trim();
            // The keys of annotations are the user's own.
            let key = match key.starts_with("annotation") {
                true => key.to_owned(),
                false => key.to_lowercase(),
            };
            attributes.given.insert(key, value.to_owned());
        }
        read(attributes).map_err(invalid)
    }
}

fn read(mut attributes: Attributes) -> Result<Output, String> {
    let kind = attributes.take("type").ok_or("`type` is missing")?;
    let dest = attributes.take("dest").filter(|dest| !dest.is_empty());
    let output = match kind.as_str() {
        "image" | "registry" => {
            if dest.is_some() {
                return Err(format!("type `{kind}` has no `dest`; type `oci` writes an archive"));
            }
            let push = attributes.flag("push", kind == "registry")?;
            let how = match attributes.flag("push-by-digest", false)? {
                true => Push::ByDigest,
                false => Push::ByName,
            };
            let store = attributes.flag("store", true)?;
            // Layers are unpacked in the store whenever a step needs them.
            attributes.flag("unpack", false)?;
            attributes.refuse("unsafe-internal-store-allow-incomplete")?;
            Output::Image { image: attributes.image()?, store, push, how }
        }
        // An image in all but what is in it: goes where images go.
        "wasm-artifact" => {
            let file = attributes.take("file").filter(|file| !file.is_empty());
            let push = attributes.flag("push", false)?;
            let tar = attributes.flag("tar", true)?;
            let mut image = attributes.image()?;
            image.export.artifact = Some(WasmArtifact { file });
            let format = LayoutFormat::Oci;
            match (dest, tar) {
                (None, true) => Output::Image { image, store: true, push, how: Push::ByName },
                (_, _) if push => return Err("`push` goes without `dest`".into()),
                (Some(dest), false) if dest != "-" => Output::Layout {
                    image,
                    format,
                    dest: LayoutDestination::Directory(dest.into()),
                },
                (_, false) => return Err("`tar=false` needs a `dest`: the directory".into()),
                (dest, true) => {
                    let dest = LayoutDestination::Archive(destination(dest));
                    Output::Layout { image, format, dest }
                }
            }
        }
        "oci" | "docker" => {
            let format = match kind.as_str() {
                "docker" => LayoutFormat::Docker,
                _ => LayoutFormat::Oci,
            };
            let tar = attributes.flag("tar", true)?;
            if let Some(context) = attributes.take("context") {
                return Err(format!(
                    "`context={context}`: contexts of the docker program are not supported yet; \
                     name its daemon with DOCKER_HOST"
                ));
            }
            let image = attributes.image()?;
            match (dest, tar) {
                (Some(dest), false) if dest != "-" => {
                    let dest = LayoutDestination::Directory(dest.into());
                    Output::Layout { image, format, dest }
                }
                (_, false) => return Err("`tar=false` needs a `dest`: the directory".into()),
                (None, true) if format == LayoutFormat::Docker => Output::Load(image),
                (dest, true) => {
                    let dest = LayoutDestination::Archive(destination(dest));
                    Output::Layout { image, format, dest }
                }
            }
        }
        "local" => {
            let others = match attributes.take("mode").as_deref() {
                None | Some("copy") => Others::Keep,
                Some("delete") => Others::Delete,
                Some(other) => return Err(format!("`mode={other}`: expected `copy` or `delete`")),
            };
            attributes.refuse("attestation-prefix")?;
            Output::Local {
                dest: dest.ok_or("`dest` is missing: the directory")?.into(),
                others,
                platform_split: attributes.optional_flag("platform-split")?,
                times: attributes.times()?,
            }
        }
        "tar" => {
            attributes.refuse("attestation-prefix")?;
            Output::Tar {
                dest: destination(dest),
                platform_split: attributes.optional_flag("platform-split")?,
                times: attributes.times()?,
            }
        }
        "cacheonly" => Output::CacheOnly,
        _ => {
            return Err(format!(
                "unknown type `{kind}`, expected `image`, `registry`, `oci`, `docker`, `local`, \
                 `tar`, `wasm-artifact` or `cacheonly`"
            ));
        }
    };
    match attributes.given.first_key_value() {
        Some((key, _)) => Err(match attributes.nearest(key) {
            Some(near) => format!("type `{kind}` has no `{key}`; is `{near}` meant?"),
            None => format!("type `{kind}` has no `{key}`"),
        }),
        None => Ok(output),
    }
}

fn destination(dest: Option<String>) -> Destination {
    match dest {
        Some(path) if path != "-" => Destination::File(path.into()),
        _ => Destination::Stdout,
    }
}

/// Attributes that were not read yet, and which ones there could have been.
#[derive(Default)]
struct Attributes {
    given: BTreeMap<String, String>,
    known: Vec<&'static str>,
}

impl Attributes {
    fn take(&mut self, key: &'static str) -> Option<String> {
        self.known.push(key);
        self.given.remove(key)
    }

    /// The known attribute whose name is most like this one.
    fn nearest(&self, key: &str) -> Option<&'static str> {
        let distance = |known: &&&'static str| strsim::damerau_levenshtein(known, key);
        let near = (key.len() / 3).clamp(1, 3);
        self.known.iter().filter(|known| distance(known) <= near).min_by_key(distance).copied()
    }

    fn optional_flag(&mut self, key: &'static str) -> Result<Option<bool>, String> {
        match self.take(key).as_deref() {
            None => Ok(None),
            Some("" | "1" | "t" | "true" | "True" | "TRUE") => Ok(Some(true)),
            Some("0" | "f" | "false" | "False" | "FALSE") => Ok(Some(false)),
            Some(other) => Err(format!("`{key}={other}`: expected `true` or `false`")),
        }
    }

    fn flag(&mut self, key: &'static str, default: bool) -> Result<bool, String> {
        Ok(self.optional_flag(key)?.unwrap_or(default))
    }

    /// An attribute of BuildKit's that there is nothing behind: only its absence is right.
    fn refuse(&mut self, key: &'static str) -> Result<(), String> {
        match self.take(key).as_deref() {
            None | Some("0" | "f" | "false" | "False" | "FALSE") => Ok(()),
            Some(value) => Err(format!("`{key}={value}` is not supported yet")),
        }
    }

    fn number<T: std::str::FromStr>(&mut self, key: &'static str) -> Result<Option<T>, String> {
        let read = |text: String| {
            text.parse().map_err(|_| format!("`{key}={text}`: expected a number in range"))
        };
        self.take(key).map(read).transpose()
    }

    fn times(&mut self) -> Result<Times, String> {
        Ok(Times {
            epoch: self.number("source-date-epoch")?,
            rewrite: self.optional_flag("rewrite-timestamp")?,
        })
    }

    fn image(&mut self) -> Result<ImageOutput, String> {
        let mut export = ImageExport { options: self.options()?, ..ImageExport::default() };
        let mut tagged = None;
        for name in self.take("name").unwrap_or_default().split(',').map(str::trim) {
            match name {
                "" => continue,
                "*" => export.named_by_frontend = true,
                name => {
                    export.names.push(reference(name)?);
                    if has_tag(name) {
                        tagged = Some(name.to_owned());
                    }
                }
            }
        }
        export.name_canonical = self.flag("name-canonical", false)?;
        let prefix = self.take("dangling-name-prefix").filter(|prefix| !prefix.is_empty());
        // The name of the attribute is BuildKit's.
        let only_unnamed = self.flag("danging-name-empty-only", false)?;
        export.dangling = match prefix {
            Some(prefix) => Some(Dangling { prefix: reference(&prefix)?, only_unnamed }),
            None => None,
        };
        for key in ["oci-artifact", "attestation-inline", "prefer-nondist-layers"] {
            self.refuse(key)?;
        }
        let insecure = self.flag("registry.insecure", false)?;
        Ok(ImageOutput { export, tagged, insecure, times: self.times()? })
    }

    fn options(&mut self) -> Result<ImageOptions, String> {
        let compression = self.take("compression");
        let level: Option<u32> = self.number("compression-level")?;
        let compression = match (compression.as_deref().unwrap_or("gzip"), level) {
            ("uncompressed", _) => Compression::Uncompressed,
            ("gzip", None) => Compression::GZIP,
            ("gzip", Some(level @ 0..=9)) => Compression::Gzip { level },
            ("zstd", None) => Compression::ZSTD,
            ("zstd", Some(level @ 0..=22)) => {
                Compression::Zstd { level: level.try_into().expect("at most 22 fits") }
            }
            (name @ ("gzip" | "zstd"), Some(level)) => {
                return Err(format!("`compression-level={level}` does not exist for {name}"));
            }
            ("estargz", _) => {
                return Err("`compression=estargz` is not supported; any reader of it also takes \
                            `gzip`, without pulling lazily"
                    .into());
            }
            (other, _) => {
                return Err(format!(
                    "`compression={other}`: expected `gzip`, `zstd` or `uncompressed`"
                ));
            }
        };
        let mut annotations = Annotations::default();
        let mut failed = None;
        self.given.retain(|key, value| match annotations.add_attribute(key, value) {
            Ok(is_one) => !is_one,
            Err(error) => {
                failed.get_or_insert(error);
                true
            }
        });
        match failed {
            Some(error) => Err(error),
            None => Ok(ImageOptions {
                compression,
                force_compression: self.flag("force-compression", false)?,
                oci_media_types: self.flag("oci-mediatypes", true)?,
                annotations,
                ..ImageOptions::default()
            }),
        }
    }
}

fn reference(name: &str) -> Result<Reference, String> {
    Reference::parse(name).map_err(|error| error.to_string())
}

/// Whether the user gave a tag, rather than leaving it to be `latest`.
pub fn has_tag(name: &str) -> bool {
    let name = name.split('@').next().unwrap_or_default();
    name.rsplit('/').next().is_some_and(|last| last.contains(':'))
}

/// Splits one line at its commas (RFC 4180, and as strict about quotes as Go's `encoding/csv`).
fn fields(line: &str) -> Result<Vec<String>, &'static str> {
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        let mut field = String::new();
        if let Some(mut quoted) = rest.strip_prefix('"') {
            loop {
                let (text, after) = quoted.split_once('"').ok_or("a quote is not closed")?;
                field.push_str(text);
                match after.strip_prefix('"') {
                    Some(more) => {
                        field.push('"');
                        quoted = more;
                    }
                    None => {
                        rest = after;
                        break;
                    }
                }
            }
            if !rest.is_empty() && !rest.starts_with(',') {
                return Err("text follows a closing quote");
            }
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            field.push_str(&rest[..end]);
            if field.contains('"') {
                return Err("a quote stands inside a field; quote the whole field");
            }
            rest = &rest[end..];
        }
        fields.push(field);
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => return Ok(fields),
        }
    }
}

#[cfg(test)]
mod tests;
