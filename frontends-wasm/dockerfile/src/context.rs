//! A main build context that is not a directory of the client: a git repository, or something to
//! download that is an archive of a context or a Dockerfile alone. What the client sends by itself
//! is a download, too.

use cofferdam_sdk::{ActionInput, ActionKind, CopyAction, FileAction, Host, OpMetadata, Snapshot};

use crate::error::Problem;
use crate::git::GitReference;
use crate::options::Options;

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

/// The remote context that a request names, if it names one.
pub(crate) fn remote<H: Host>(
    host: &H,
    options: &Options,
) -> Result<Option<Remote<H::Output>>, Problem> {
    let Some(place) = &options.context else { return Ok(None) };
    let dockerfile = || options.filename.clone();
    if let Some(git) = GitReference::parse(place)? {
        let keeps = options.build_args.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR");
        let keeps = keeps.is_some_and(|value| matches!(value.as_str(), "1" | "true" | "TRUE"));
        let git = GitReference { keep_git_dir: git.keep_git_dir.or(keeps.then_some(true)), ..git };
        let metadata = OpMetadata::named(format!("[internal] load git source {place}"));
        let output = host.source(&git.identifier(), &git.attributes(), None, &metadata)?;
        return Ok(Some(Remote { output, dockerfile: dockerfile() }));
    }
    if !place.starts_with("http://") && !place.starts_with("https://") {
        let expected = "a git repository, or a URL with http or https";
        return Err(Problem::invalid("option context", place, expected));
    }
    let attributes = [("http.filename".to_owned(), DOWNLOAD.to_owned())];
    let metadata = OpMetadata::named("[internal] load remote build context");
    let output = host.source(place, &attributes, None, &metadata)?;
    let head = host.solve(&output)?.read_start(DOWNLOAD, HEAD)?;
    if !is_archive(&head) {
        if options.filename_is_given {
            let expected = "none: the context is a Dockerfile itself, no archive";
            return Err(Problem::invalid("option filename", &options.filename, expected));
        }
        return Ok(Some(Remote { output, dockerfile: DOWNLOAD.into() }));
    }
    let from = ActionInput::Output(output);
    let copy =
        CopyAction { attempt_unpack: true, ..CopyAction::new(from, format!("/{DOWNLOAD}"), "/") };
    let action =
        FileAction { input: ActionInput::Scratch, kind: ActionKind::Copy(copy), has_output: true };
    let metadata = OpMetadata::named("[internal] unpack remote build context");
    let unpacked = host.file(&[action], &metadata)?.pop();
    let output = unpacked.ok_or_else(|| Problem::Unsupported("an empty build context".into()))?;
    Ok(Some(Remote { output, dockerfile: dockerfile() }))
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
