//! The values of `--output`: fields separated by commas, quoted as in RFC 4180, as docker reads
//! them. Which names and defaults an output gets from other flags is decided in `request`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use cofferdam_build::{Compression, Destination, ImageOptions};
use cofferdam_registry::Reference;

use crate::error::Error;

/// One `--output`.
#[derive(Clone, Debug)]
pub enum Output {
    /// `type=image` and `type=registry`
    Image {
        /// The names.
        names: Vec<Reference>,
        /// Whether it is pushed.
        push: bool,
        /// How it is made.
        options: ImageOptions,
    },
    /// `type=oci`
    Oci {
        /// Where to.
        dest: Destination,
        /// Names in the archive.
        names: Vec<Reference>,
        /// How it is made.
        options: ImageOptions,
    },
    /// `type=local`
    Local(PathBuf),
    /// `type=tar`
    Tar(Destination),
    /// `type=cacheonly`: the result stays in the build cache.
    CacheOnly,
}

impl Output {
    /// Reads the value of one `--output`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let invalid = |what: String| Error::usage(format!("invalid --output `{text}`: {what}"));
        let fields = fields(text).map_err(|what| invalid(what.to_owned()))?;
        match fields.as_slice() {
            [only] if only.is_empty() => return Err(invalid("it is empty".into())),
            [only] if only == text && only == "-" => return Ok(Self::Tar(Destination::Stdout)),
            [only] if only == text && !only.starts_with("type=") => {
                return Ok(Self::Local(only.into()));
            }
            _ => {}
        }
        let mut attributes = Attributes(BTreeMap::new());
        for field in &fields {
            let Some((key, value)) = field.split_once('=') else {
                return Err(invalid(format!("`{field}` is not KEY=VALUE")));
            };
            attributes.0.insert(key.trim().to_lowercase(), value.to_owned());
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
            let names = attributes.names()?;
            Output::Image { names, push, options: attributes.image_options()? }
        }
        "oci" => {
            if !attributes.flag("tar", true)? {
                return Err("`tar=false`, a layout as a directory, is not supported yet".into());
            }
            let names = attributes.names()?;
            Output::Oci { dest: destination(dest), names, options: attributes.image_options()? }
        }
        "local" => Output::Local(dest.ok_or("`dest` is missing: the directory")?.into()),
        "tar" => Output::Tar(destination(dest)),
        "cacheonly" => Output::CacheOnly,
        "docker" => return Err("type `docker` is not supported yet; `oci` is near".into()),
        _ => {
            return Err(format!(
                "unknown type `{kind}`, expected `image`, `registry`, `oci`, `local`, `tar` or \
                 `cacheonly`"
            ));
        }
    };
    match attributes.0.first_key_value() {
        Some((key, _)) => Err(format!("type `{kind}` has no `{key}`, or not yet")),
        None => Ok(output),
    }
}

fn destination(dest: Option<String>) -> Destination {
    match dest {
        Some(path) if path != "-" => Destination::File(path.into()),
        _ => Destination::Stdout,
    }
}

/// What was not read yet.
struct Attributes(BTreeMap<String, String>);

impl Attributes {
    fn take(&mut self, key: &str) -> Option<String> {
        self.0.remove(key)
    }

    fn flag(&mut self, key: &str, default: bool) -> Result<bool, String> {
        match self.take(key).as_deref() {
            None => Ok(default),
            Some("" | "1" | "t" | "true" | "True" | "TRUE") => Ok(true),
            Some("0" | "f" | "false" | "False" | "FALSE") => Ok(false),
            Some(other) => Err(format!("`{key}={other}`: expected `true` or `false`")),
        }
    }

    fn number<T: std::str::FromStr>(&mut self, key: &str) -> Result<Option<T>, String> {
        let read = |text: String| {
            text.parse().map_err(|_| format!("`{key}={text}`: expected a number in range"))
        };
        self.take(key).map(read).transpose()
    }

    fn names(&mut self) -> Result<Vec<Reference>, String> {
        let names = self.take("name").unwrap_or_default();
        let names = names.split(',').filter(|name| !name.is_empty());
        names.map(|name| Reference::parse(name).map_err(|error| error.to_string())).collect()
    }

    fn image_options(&mut self) -> Result<ImageOptions, String> {
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
            (other, _) => {
                return Err(format!(
                    "`compression={other}`: expected `gzip`, `zstd` or `uncompressed`"
                ));
            }
        };
        Ok(ImageOptions {
            compression,
            oci_media_types: self.flag("oci-mediatypes", true)?,
            source_date_epoch: self.number("source-date-epoch")?,
            rewrite_timestamp: self.flag("rewrite-timestamp", false)?,
            ..ImageOptions::default()
        })
    }
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
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(text: &str, expected: Expect) {
        let shown = match Output::parse(text) {
            Ok(Output::Image { names, push, options }) => {
                format!("image {} push={push} {}", list(&names), show(&options))
            }
            Ok(Output::Oci { dest, names, options }) => {
                format!("oci {dest:?} {} {}", list(&names), show(&options))
            }
            Ok(other) => format!("{other:?}"),
            Err(error) => format!("error: {error}"),
        };
        expected.assert_eq(&shown);
    }

    fn list(names: &[Reference]) -> String {
        format!("{:?}", names.iter().map(Reference::familiar).collect::<Vec<_>>())
    }

    fn show(options: &ImageOptions) -> String {
        let types = if options.oci_media_types { "oci" } else { "docker" };
        let epoch = options.source_date_epoch.map(|time| format!(" at {time}"));
        format!("{:?} {types}{}", options.compression, epoch.unwrap_or_default())
    }

    #[test]
    fn outputs() {
        check("out", expect![[r#"Local("out")"#]]);
        check("a=b", expect![[r#"Local("a=b")"#]]);
        check("-", expect!["Tar(Stdout)"]);
        check("type=local,dest=out", expect![[r#"Local("out")"#]]);
        check("dest=out,type=local", expect![[r#"Local("out")"#]]);
        check("type=tar", expect!["Tar(Stdout)"]);
        check("type=tar,dest=-", expect!["Tar(Stdout)"]);
        check("type=tar,dest=a.tar", expect![[r#"Tar(File("a.tar"))"#]]);
        check("type=cacheonly", expect!["CacheOnly"]);
        check("type=image", expect!["image [] push=false Gzip { level: 6 } oci"]);
        check(
            "type=image,name=a/b,push=true",
            expect![[r#"image ["a/b:latest"] push=true Gzip { level: 6 } oci"#]],
        );
        check(
            "type=registry,name=a/b:1",
            expect![[r#"image ["a/b:1"] push=true Gzip { level: 6 } oci"#]],
        );
        check(
            r#"type=oci,"name=a:1,b:2","dest=with ""comma"", x.tar",compression=zstd,compression-level=9"#,
            expect![[r#"oci File("with \"comma\", x.tar") ["a:1", "b:2"] Zstd { level: 9 } oci"#]],
        );
        check(
            "type=oci,oci-mediatypes=false,compression=uncompressed,source-date-epoch=7",
            expect!["oci Stdout [] Uncompressed docker at 7"],
        );
    }

    #[test]
    fn wrong_outputs() {
        check("", expect!["error: invalid --output ``: it is empty"]);
        check(
            "type=nosuch",
            expect![
                "error: invalid --output `type=nosuch`: unknown type `nosuch`, expected `image`, `registry`, `oci`, `local`, `tar` or `cacheonly`"
            ],
        );
        check("a,b", expect!["error: invalid --output `a,b`: `a` is not KEY=VALUE"]);
        check(
            "dest=x,name=y",
            expect!["error: invalid --output `dest=x,name=y`: `type` is missing"],
        );
        check(
            "type=local",
            expect!["error: invalid --output `type=local`: `dest` is missing: the directory"],
        );
        check(
            "type=image,dest=x",
            expect![
                "error: invalid --output `type=image,dest=x`: type `image` has no `dest`; type `oci` writes an archive"
            ],
        );
        check(
            "type=image,push=maybe",
            expect![
                "error: invalid --output `type=image,push=maybe`: `push=maybe`: expected `true` or `false`"
            ],
        );
        check(
            "type=image,name=Upper",
            expect![[
                r#"error: invalid --output `type=image,name=Upper`: invalid image reference "Upper": the repository name must be lower case: "library/Upper""#
            ]],
        );
        check(
            "type=oci,compression-level=10",
            expect![
                "error: invalid --output `type=oci,compression-level=10`: `compression-level=10` does not exist for gzip"
            ],
        );
        check(
            "type=oci,compression=lzma",
            expect![
                "error: invalid --output `type=oci,compression=lzma`: `compression=lzma`: expected `gzip`, `zstd` or `uncompressed`"
            ],
        );
        check(
            "type=tar,name=x",
            expect![
                "error: invalid --output `type=tar,name=x`: type `tar` has no `name`, or not yet"
            ],
        );
        check(
            r#"type=tar,"dest=x"#,
            expect![[r#"error: invalid --output `type=tar,"dest=x`: a quote is not closed"#]],
        );
        check(
            r#"type=tar,"dest=x"y"#,
            expect![[
                r#"error: invalid --output `type=tar,"dest=x"y`: text follows a closing quote"#
            ]],
        );
        check(
            r#"type=tar,dest="x""#,
            expect![[
                r#"error: invalid --output `type=tar,dest="x"`: a quote stands inside a field; quote the whole field"#
            ]],
        );
    }
}
