//! Annotations: which there are, and into which document of an image each goes.
//!
//! The keys are those of BuildKit's exporters: `annotation`, `annotation-manifest`,
//! `annotation-manifest-descriptor`, `annotation-index` and `annotation-index-descriptor`, with a
//! platform in brackets where one is meant, then a dot and the annotation's own key.

use std::collections::BTreeMap;

use cofferdam_types::Platform;

/// Where an annotation goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Into the manifests.
    Manifest,
    /// To the descriptors of the manifests.
    ManifestDescriptor,
    /// Into the index; there must be one.
    Index,
    /// To the descriptor of the index, which the `index.json` of a layout has.
    IndexDescriptor,
}

impl Place {
    /// Reads the name of a place, as in `--annotation`.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "manifest" => Self::Manifest,
            "manifest-descriptor" => Self::ManifestDescriptor,
            "index" => Self::Index,
            "index-descriptor" => Self::IndexDescriptor,
            _ => return None,
        })
    }

    fn is_index(self) -> bool {
        matches!(self, Self::Index | Self::IndexDescriptor)
    }
}

/// Annotations by where they go; later ones replace earlier ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Annotations(BTreeMap<(Place, Option<Platform>, String), String>);

/// The annotations of one platform.
#[derive(Debug, Default)]
pub(crate) struct ForPlatform {
    pub manifest: BTreeMap<String, String>,
    pub descriptor: BTreeMap<String, String>,
}

impl Annotations {
    /// Adds one; without a platform, it is for every one.
    ///
    /// # Errors
    /// The reason alone: no key, or a platform where there is none.
    pub fn add(
        &mut self,
        place: Place,
        platform: Option<Platform>,
        key: &str,
        value: &str,
    ) -> Result<(), String> {
        if key.is_empty() {
            return Err("an annotation needs a key".into());
        }
        if place.is_index() && platform.is_some() {
            return Err(format!("annotation `{key}`: an index is of no platform"));
        }
        self.0.insert((place, platform, key.to_owned()), value.to_owned());
        Ok(())
    }

    /// Adds the annotation that an exporter's attribute means; says whether it means one.
    ///
    /// # Errors
    /// The reason alone: an unknown place or platform.
    pub fn add_attribute(&mut self, attribute: &str, value: &str) -> Result<bool, String> {
        let Some(rest) = attribute.strip_prefix("annotation") else { return Ok(false) };
        let place_end = rest.find(['.', '[']).unwrap_or(rest.len());
        let (name, rest) = rest.split_at(place_end);
        let place = match name.strip_prefix('-') {
            None if name.is_empty() => Some(Place::Manifest),
            None => return Ok(false),
            Some(name) => Place::named(name),
        };
        let place = place.ok_or_else(|| {
            format!(
                "`annotation{name}`: expected `annotation`, `annotation-manifest`, \
                 `annotation-manifest-descriptor`, `annotation-index` or \
                 `annotation-index-descriptor`"
            )
        })?;
        let (platform, rest) = match rest.strip_prefix('[') {
            None => (None, rest),
            Some(rest) => {
                let (platform, rest) = rest
                    .split_once(']')
                    .ok_or_else(|| format!("`{attribute}`: the bracket is not closed"))?;
                let platform: Platform =
                    platform.parse().map_err(|error| format!("`{attribute}`: {error}"))?;
                (Some(platform), rest)
            }
        };
        let key = rest
            .strip_prefix('.')
            .ok_or_else(|| format!("`{attribute}`: expected a dot and the annotation's key"))?;
        self.add(place, platform, key, value)?;
        Ok(true)
    }

    /// Adds those of another set, which go before these.
    pub fn extend(&mut self, other: &Self) {
        let others = other.0.iter().map(|(key, value)| (key.clone(), value.clone()));
        self.0.extend(others);
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether there are any for an index.
    pub(crate) fn need_index(&self) -> bool {
        self.0.keys().any(|(place, ..)| place.is_index())
    }

    /// The platforms that are named.
    pub(crate) fn platforms(&self) -> impl Iterator<Item = &Platform> {
        self.0.keys().filter_map(|(_, platform, _)| platform.as_ref())
    }

    pub(crate) fn of(&self, platform: &Platform) -> ForPlatform {
        ForPlatform {
            manifest: self.at(Place::Manifest, Some(platform)),
            descriptor: self.at(Place::ManifestDescriptor, Some(platform)),
        }
    }

    pub(crate) fn of_index(&self) -> BTreeMap<String, String> {
        self.at(Place::Index, None)
    }

    pub(crate) fn of_index_descriptor(&self) -> BTreeMap<String, String> {
        self.at(Place::IndexDescriptor, None)
    }

    /// Those for all platforms, then those for this one.
    fn at(&self, wanted: Place, platform: Option<&Platform>) -> BTreeMap<String, String> {
        let of = |which: Option<&Platform>| {
            let matches = move |(place, of, _): &(Place, Option<Platform>, String)| {
                *place == wanted && of.as_ref() == which
            };
            let found = self.0.iter().filter(move |(key, _)| matches(key));
            found.map(|((_, _, key), value)| (key.clone(), value.clone())).collect()
        };
        let mut found: BTreeMap<String, String> = of(None);
        if platform.is_some() {
            found.append(&mut of(platform));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(attributes: &[&str], expected: Expect) {
        let mut annotations = Annotations::default();
        let mut text = String::new();
        for attribute in attributes {
            match annotations.add_attribute(attribute, "v") {
                Ok(true) => {}
                Ok(false) => text += &format!("not one: {attribute}\n"),
                Err(error) => text += &format!("error: {error}\n"),
            }
        }
        let amd64 = annotations.of(&"linux/amd64".parse().expect("valid"));
        let keys = |map: BTreeMap<String, String>| map.into_keys().collect::<Vec<_>>().join(" ");
        for (name, map) in [
            ("manifest", amd64.manifest),
            ("descriptor", amd64.descriptor),
            ("index", annotations.of_index()),
            ("index descriptor", annotations.of_index_descriptor()),
        ] {
            if !map.is_empty() {
                text += &format!("{name}: {}\n", keys(map));
            }
        }
        expected.assert_eq(&text);
    }

    #[test]
    fn places() {
        check(
            &[
                "annotation.org.example.a",
                "annotation-manifest.b",
                "annotation-manifest[linux/amd64].c",
                "annotation[linux/arm64].d",
                "annotation-manifest-descriptor.e",
                "annotation-index.f",
                "annotation-index-descriptor.g",
                "annotations",
            ],
            expect![[r#"
                not one: annotations
                manifest: b c org.example.a
                descriptor: e
                index: f
                index descriptor: g
            "#]],
        );
        check(
            &[
                "annotation-layer.a",
                "annotation[linux/amd64.b",
                "annotation[linux/amd64]c",
                "annotation[no/such/thing/really].d",
                "annotation-index[linux/amd64].e",
                "annotation.",
                "annotation",
            ],
            expect![[r#"
                error: `annotation-layer`: expected `annotation`, `annotation-manifest`, `annotation-manifest-descriptor`, `annotation-index` or `annotation-index-descriptor`
                error: `annotation[linux/amd64.b`: the bracket is not closed
                error: `annotation[linux/amd64]c`: expected a dot and the annotation's key
                error: `annotation[no/such/thing/really].d`: invalid platform "no/such/thing/really": expected `os/architecture[/variant]`, like `linux/amd64`
                error: annotation `e`: an index is of no platform
                error: an annotation needs a key
                error: `annotation`: expected a dot and the annotation's key
            "#]],
        );
    }
}
