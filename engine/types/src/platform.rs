//! Platforms: `os/architecture[/variant]`, parsed and normalised as containerd does.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An operating system, a processor architecture and the details that an image can depend on.
///
/// Shapes follow the `platform` object of the OCI image index specification.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`, `wasi`, …
    pub os: String,
    /// `amd64`, `arm64`, `wasm`, …
    pub architecture: String,
    /// `v7`, `v8`, …; empty when the architecture has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// Windows only.
    #[serde(default, rename = "os.version", skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    /// Windows only.
    #[serde(default, rename = "os.features", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
}

/// Architectures that may stand alone; Go's names, as everywhere in OCI.
const ARCHITECTURES: [&str; 11] = [
    "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "ppc64le", "riscv64",
    "s390x",
];

/// Says why a string is not a [`Platform`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("invalid platform {text:?}: expected `os/architecture[/variant]`, like `linux/amd64`")]
pub struct ParsePlatformError {
    /// The offending text.
    pub text: String,
}

impl Platform {
    /// Makes a platform without a variant, normalised.
    pub fn new(os: &str, architecture: &str) -> Self {
        Self { os: os.into(), architecture: architecture.into(), ..Self::default() }.normalized()
    }

    /// The platform that this program was compiled for.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            other => other,
        };
        Self::new(std::env::consts::OS, architecture)
    }

    /// Whether this is the WebAssembly platform, under any of its spellings.
    pub fn is_wasm(&self) -> bool {
        self.architecture == "wasm"
    }

    /// Rewrites aliases to the names that registries use (containerd's `Normalize`).
    ///
    /// `wasip1`, `wasip2` and `wasm32` are spellings seen in the wild for `wasi/wasm`.
    pub fn normalized(mut self) -> Self {
        self.os = self.os.to_lowercase();
        self.architecture = self.architecture.to_lowercase();
        self.variant = self.variant.to_lowercase();
        match self.os.as_str() {
            "macos" => self.os = "darwin".into(),
            "wasip1" | "wasip2" => self.os = "wasi".into(),
            _ => {}
        }
        let (architecture, variant) = match (self.architecture.as_str(), self.variant.as_str()) {
            ("x86_64" | "x86-64" | "amd64", "" | "v1") => ("amd64", ""),
            ("x86_64" | "x86-64", variant) => ("amd64", variant),
            ("aarch64" | "arm64", "" | "8" | "v8") => ("arm64", ""),
            ("aarch64", variant) => ("arm64", variant),
            ("armhf", _) => ("arm", "v7"),
            ("armel", _) => ("arm", "v6"),
            ("arm", "" | "7") => ("arm", "v7"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "6") => ("arm", "v6"),
            ("arm", "8") => ("arm", "v8"),
            ("i386" | "i686", _) => ("386", ""),
            ("wasm32", _) => ("wasm", ""),
            same => same,
        };
        (self.architecture, self.variant) = (architecture.into(), variant.into());
        self
    }

    /// Says whether an image for `candidate` runs where `self` is wanted, and how well:
    /// `None` is no, a lower number is a better match.
    pub fn match_rank(&self, candidate: &Self) -> Option<u32> {
        let (want, have) = (self.clone().normalized(), candidate.clone().normalized());
        if want.os != have.os {
            return None;
        }
        if want.architecture == have.architecture {
            let level = |variant: &str, default: u32| {
                variant.strip_prefix('v').map_or(Some(default), |digits| digits.parse().ok())
            };
            let default = match want.architecture.as_str() {
                "amd64" => 1,
                "arm64" => 8,
                _ => 0,
            };
            let (wanted, offered) =
                (level(&want.variant, default)?, level(&have.variant, default)?);
            return wanted.checked_sub(offered);
        }
        match (want.architecture.as_str(), have.architecture.as_str()) {
            ("amd64", "386") => Some(100),
            ("arm64", "arm") => Some(100),
            _ => None,
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

impl FromStr for Platform {
    type Err = ParsePlatformError;

    /// Parses and normalises; a single component is an architecture (host OS) or an OS.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split('/').collect();
        let valid = parts.iter().all(|part| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        });
        let make = |os: &str, architecture: &str, variant: &str| {
            Self {
                os: os.into(),
                architecture: architecture.into(),
                variant: variant.into(),
                ..Self::default()
            }
            .normalized()
        };
        match parts.as_slice() {
            _ if !valid => Err(ParsePlatformError { text: text.into() }),
            [os @ ("linux" | "darwin" | "macos" | "windows" | "freebsd")] => {
                Ok(make(os, &Self::host().architecture, ""))
            }
            // No kernel is an operating system for it.
            ["wasm" | "wasm32"] => Ok(make("wasi", "wasm", "")),
            // A word alone is only taken for what it is known to be (as in containerd).
            [architecture]
                if ARCHITECTURES
                    .contains(&make("linux", architecture, "").architecture.as_str()) =>
            {
                Ok(make(&Self::host().os, architecture, ""))
            }
            [os, architecture] => Ok(make(os, architecture, "")),
            [os, architecture, variant] => Ok(make(os, architecture, variant)),
            _ => Err(ParsePlatformError { text: text.into() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        assert_eq!(text.parse::<Platform>().map(|p| p.to_string()), Ok(expected.to_owned()));
    }

    #[test]
    fn spellings_normalise() {
        check("linux/x86_64", "linux/amd64");
        check("linux/amd64/v1", "linux/amd64");
        check("linux/amd64/v3", "linux/amd64/v3");
        check("linux/arm64/v8", "linux/arm64");
        check("linux/armhf", "linux/arm/v7");
        check("linux/arm", "linux/arm/v7");
        check("macos/arm64", "darwin/arm64");
        check("wasip1/wasm", "wasi/wasm");
        check("wasip2/wasm", "wasi/wasm");
        check("wasi/wasm32", "wasi/wasm");
        check("wasm", "wasi/wasm");
        check("arm64", &format!("{}/arm64", std::env::consts::OS));
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in ["", "/", "bogus", "linux/", "a/b/c/d", "linux/am d64", "linux/../x/y"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }

    #[test]
    fn older_variants_run_on_newer_ones() {
        let rank = |want: &str, have: &str| {
            want.parse::<Platform>().unwrap().match_rank(&have.parse().unwrap())
        };
        assert_eq!(rank("linux/amd64", "linux/amd64"), Some(0));
        assert_eq!(rank("linux/arm/v7", "linux/arm/v6"), Some(1));
        assert_eq!(rank("linux/arm/v6", "linux/arm/v7"), None);
        assert_eq!(rank("linux/amd64", "linux/386"), Some(100));
        assert_eq!(rank("linux/amd64", "linux/arm64"), None);
        assert_eq!(rank("linux/amd64", "wasi/amd64"), None);
    }
}
