//! A main build context that is not a directory of the client: a git repository, or something to
//! download that is an archive of a context or a Dockerfile alone. What the client sends by itself
//! is a download, too.

use cofferdam_sdk::{ActionInput, ActionKind, CopyAction, FileAction, Host, OpMetadata, Snapshot};

use crate::error::Problem;
use crate::git::GitReference;
use crate::options::{Options, truth};

/// The name of what is downloaded, as in BuildKit.
const DOWNLOAD: &str = "context";
/// What is looked at to tell an archive: the first header of a tar.
const HEAD: u32 = 512;
/// How compressed archives begin: gzip, bzip2, xz, zstd.
const COMPRESSED: [&[u8]; 4] = [b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"];

/// A context that comes from elsewhere.
pub(crate) struct Remote<O> {
    /// Its files.
    pub output: O,
    /// The path of the Dockerfile in it.
    pub dockerfile: String,
}

/// What is somewhere else, to be fetched.
pub(crate) struct Source {
    /// Identifier of the source op.
    pub identifier: String,
    /// Its attributes.
    pub attributes: Vec<(String, String)>,
    /// What the progress display calls it.
    pub name: String,
    /// The name of the one file that a download is; `None` for a repository.
    pub file: Option<String>,
}

impl Source {
    /// A repository, as the request writes it.
    pub fn git(git: &GitReference, text: &str) -> Self {
        Self {
            identifier: git.identifier(),
            attributes: git.attributes(),
            name: format!("[internal] load git source {text}"),
            file: None,
        }
    }

    /// A download.
    pub fn download(address: &str, name: String) -> Self {
        Self {
            identifier: address.to_owned(),
            attributes: vec![("http.filename".to_owned(), DOWNLOAD.to_owned())],
            name,
            file: Some(DOWNLOAD.to_owned()),
        }
    }
}

/// Where the main context is, if the request names a place that is no directory of the client.
pub(crate) fn source(options: &Options) -> Result<Option<Source>, Problem> {
    let Some(place) = &options.context else { return Ok(None) };
    if let Some(git) = GitReference::parse(place)? {
        let keeps = options.build_args.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR");
        let keeps = keeps.and_then(|value| truth(value)).filter(|keeps| *keeps);
        let git = GitReference { keep_git_dir: git.keep_git_dir.or(keeps), ..git };
        return Ok(Some(Source::git(&git, place)));
    }
    if !place.starts_with("http://") && !place.starts_with("https://") {
        let expected = "a git repository, or a URL with http or https";
        return Err(Problem::invalid("option context", place, expected));
    }
    Ok(Some(Source::download(place, "[internal] load remote build context".to_owned())))
}

/// The remote context that a request names, if it names one.
pub(crate) fn remote<H: Host>(
    host: &H,
    options: &Options,
) -> Result<Option<Remote<H::Output>>, Problem> {
    let Some(source) = source(options)? else { return Ok(None) };
    let dockerfile = options.filename.clone();
    let metadata = OpMetadata::named(&source.name);
    let output = host.source(&source.identifier, &source.attributes, None, &metadata)?;
    let Some(file) = source.file else { return Ok(Some(Remote { output, dockerfile })) };
    match unpacked(host, &output, &file)? {
        Some(output) => Ok(Some(Remote { output, dockerfile })),
        None if options.filename_is_given => {
            let expected = "none: the context is a Dockerfile itself, no archive";
            Err(Problem::invalid("option filename", &options.filename, expected))
        }
        None => Ok(Some(Remote { output, dockerfile: file })),
    }
}

/// What the download `file` unpacks to; `None` when it is no archive.
pub(crate) fn unpacked<H: Host>(
    host: &H,
    download: &H::Output,
    file: &str,
) -> Result<Option<H::Output>, Problem> {
    if !is_archive(&host.solve(download)?.read_start(file, HEAD)?) {
        return Ok(None);
    }
    let from = ActionInput::Output(download.clone());
    let copy =
        CopyAction { attempt_unpack: true, ..CopyAction::new(from, format!("/{file}"), "/") };
    let action =
        FileAction { input: ActionInput::Scratch, kind: ActionKind::Copy(copy), has_output: true };
    let metadata = OpMetadata::named("[internal] unpack remote build context");
    Ok(host.file(&[action], &metadata)?.pop())
}

/// Whether a file that begins so is an archive, compressed or not.
fn is_archive(head: &[u8]) -> bool {
    COMPRESSED.iter().any(|magic| head.starts_with(magic)) || is_tar(head)
}

/// Whether this is the first header of a tar: its sum is right (POSIX pax(1), ustar).
fn is_tar(head: &[u8]) -> bool {
    let Some(head) = head.get(..HEAD as usize) else { return false };
    let digits = head[148..156].iter().filter(|byte| byte.is_ascii_digit());
    let said = digits.fold(0, |sum: u32, digit| sum.wrapping_mul(8) + u32::from(digit - b'0'));
    let bytes = head.iter().enumerate();
    let sum: u32 = bytes
        .map(|(at, byte)| u32::from(if (148..156).contains(&at) { b' ' } else { *byte }))
        .sum();
    head[0] != 0 && sum == said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_told_from_dockerfiles() {
        let mut head = vec![0; 512];
        head[..4].copy_from_slice(b"file");
        let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum::<u32>() + 8 * 32;
        head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        assert!(is_archive(&head));
        head[5] = 1;
        assert!(!is_archive(&head));
        for text in [&b"FROM scratch\n"[..], b"", b"BZ", &[0; 512], &[b'#'; 600]] {
            assert!(!is_archive(text));
        }
        assert!(is_archive(b"\x1f\x8b\x08") && is_archive(b"BZh9") && is_archive(b"\xfd7zXZ\0\0"));
    }
}
