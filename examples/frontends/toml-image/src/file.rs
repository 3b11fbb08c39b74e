//! The file format: what an image file may say, and how it is read.

use std::collections::BTreeMap;

use serde::Deserialize;

/// An image file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageFile {
    /// What the image is and how it starts.
    #[serde(default)]
    pub image: Image,
    /// What is done to the base, in this order.
    #[serde(default, rename = "step")]
    pub steps: Vec<toml::Spanned<Step>>,
}

/// What the image is and how it starts.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Image {
    /// Reference of the image to start from; none is an empty image.
    pub base: Option<String>,
    /// Added to the base's environment, for steps as for containers.
    pub env: BTreeMap<String, String>,
    /// Directory that steps and containers start in.
    pub workdir: Option<String>,
    /// `user[:group]` of steps and containers.
    pub user: Option<String>,
    /// Program of a container.
    pub entrypoint: Option<Vec<String>>,
    /// Its arguments.
    pub cmd: Option<Vec<String>>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// One step: exactly one of `run`, `copy`, `write`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Step {
    /// Runs a command.
    Run(Run),
    /// Copies from the build context.
    Copy(Copy),
    /// Writes a file.
    Write(Write),
}

/// Runs a command.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// A script for `/bin/sh`, or a program with its arguments.
    pub run: Command,
    /// Directories that are kept between builds.
    #[serde(default)]
    pub cache: Vec<String>,
}

/// A script for `/bin/sh`, or a program with its arguments.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Command {
    /// A script.
    Script(String),
    /// A program with its arguments.
    Program(Vec<String>),
}

/// Copies from the build context.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Copy {
    /// Path in the context; may have wildcards.
    pub copy: String,
    /// Destination; with a slash at its end it is a directory.
    pub to: String,
    /// Permission bits, as a string in octal.
    pub mode: Option<String>,
}

/// Writes a file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Write {
    /// Where.
    pub write: String,
    /// What.
    pub content: String,
    /// Permission bits, as a string in octal.
    pub mode: Option<String>,
}

/// What is wrong with an image file, and in which lines.
#[derive(Debug, PartialEq, Eq)]
pub struct Mistake {
    /// What is wrong.
    pub message: String,
    /// First and last line, counted from 1.
    pub lines: Option<(u32, u32)>,
}

/// Reads an image file.
///
/// # Errors
/// What is wrong with it, and where.
pub fn parse(text: &str) -> Result<ImageFile, Mistake> {
    toml::from_str(text).map_err(|error| Mistake {
        message: error.message().to_owned(),
        lines: error.span().map(|span| lines(text, &span)),
    })
}

/// The lines that a range of bytes covers.
pub fn lines(text: &str, span: &std::ops::Range<usize>) -> (u32, u32) {
    let line = |end: usize| {
        let before = &text.as_bytes()[..end.min(text.len())];
        1 + before.iter().filter(|byte| **byte == b'\n').count() as u32
    };
    let last = span.end.saturating_sub(1).max(span.start);
    (line(span.start), line(last))
}

/// Reads permission bits in octal.
///
/// # Errors
/// When they are not, or more than 7777.
pub fn mode(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| format!("mode {text:?}: expected octal digits, at most 7777"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_have_lines() {
        let mistake = |text: &str| parse(text).unwrap_err();
        assert_eq!(mistake("[image]\nbase = 1\n").lines, Some((2, 2)));
        assert!(mistake("[image]\nbsae = \"x\"\n").message.contains("bsae"));
        assert!(parse("[[step]]\nrun = \"a\"\ncopy = \"b\"\n").is_err(), "one thing per step");
    }

    #[test]
    fn sample_is_valid() {
        let file = parse(include_str!("../sample/image.toml")).unwrap();
        assert_eq!(file.steps.len(), 3);
        assert_eq!(mode("0755"), Ok(0o755));
        assert!(mode("9").is_err() && mode("77777").is_err());
    }
}
