//! What a client asks for, and what it gets.

use std::collections::BTreeMap;
use std::path::PathBuf;

use cofferdam_exec_linux::{Entitlements, Limits};
use cofferdam_export::{ImageOptions, LayoutFormat, LoadTargets, Loaded, Others};
use cofferdam_registry::{Descriptor, Reference};
use cofferdam_types::{Digest, Platform};

/// One build.
#[derive(Clone, Debug)]
pub struct Request {
    /// Who translates the request into a graph.
    pub frontend: FrontendChoice,
    /// The frontend's options, as BuildKit names them (`filename`, `build-arg:NAME`, …).
    pub options: BTreeMap<String, String>,
    /// A question to the frontend (`frontend.outline`, …) instead of a build; empty: build. What
    /// it answers is in the response's metadata.
    pub subrequest: String,
    /// What to build for; empty is the engine's own platform.
    pub platforms: Vec<Platform>,
    /// Where the result goes. Empty: it is only built.
    pub exports: Vec<Export>,
    /// Images are looked up in their registry even if the store knows them.
    pub pull: bool,
    /// What each step may use; no part of any cache key.
    pub step_limits: Limits,
    /// Set-user-id programs and file capabilities give steps no privilege (`no_new_privs`, prctl(2)).
    /// Off as under BuildKit and Docker, where images call `sudo`.
    pub no_new_privileges: bool,
    /// The client wants to be told why steps have to run.
    pub why: bool,
    /// Privileges that the user grants to steps.
    pub entitlements: Entitlements,
}

/// Who translates a request into a graph.
#[derive(Clone, Debug)]
pub enum FrontendChoice {
    /// The built-in Dockerfile frontend.
    Dockerfile,
    /// A component of the world `cofferdam:frontend/frontend`.
    Component {
        /// What messages call it.
        name: String,
        /// The component.
        bytes: Vec<u8>,
    },
}

/// Where a result goes.
#[derive(Clone, Debug)]
pub enum Export {
    /// Into the store under its names, and to their registries.
    Image {
        /// The image.
        image: ImageExport,
        /// Whether the store remembers its names.
        store: bool,
        /// Whether and how it is pushed.
        push: Option<Push>,
    },
    /// An archive or directory with the image.
    Layout {
        /// The image.
        image: ImageExport,
        /// Who is to read it.
        format: LayoutFormat,
        /// Where to.
        dest: LayoutDestination,
    },
    /// Into another engine on this machine.
    Load {
        /// The image.
        image: ImageExport,
        /// Where engines may be.
        targets: LoadTargets,
    },
    /// The files, in a directory.
    Local {
        /// The directory.
        dest: PathBuf,
        /// How files are written.
        files: FileOptions,
        /// What happens to what else is in it.
        others: Others,
    },
    /// The files, as a tar.
    Tar {
        /// Where to.
        dest: Destination,
        /// How files are written.
        files: FileOptions,
    },
}

/// An image on its way out.
#[derive(Clone, Debug, Default)]
pub struct ImageExport {
    /// Its names.
    pub names: Vec<Reference>,
    /// It also has the names that the frontend gives it (`image.name`).
    pub named_by_frontend: bool,
    /// Each name is also there with the digest.
    pub name_canonical: bool,
    /// A name for an image that has none, or for any.
    pub dangling: Option<Dangling>,
    /// How it is made.
    pub options: ImageOptions,
    /// Not an image: a Wasm OCI artifact of one program.
    pub artifact: Option<WasmArtifact>,
}

/// Which program a Wasm OCI artifact is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WasmArtifact {
    /// Its path; the entrypoint if nothing is said.
    pub file: Option<String>,
}

/// Names an image by its digest: `PREFIX@DIGEST`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dangling {
    /// The name before the digest.
    pub prefix: Reference,
    /// Only where there is no other name.
    pub only_unnamed: bool,
}

/// What a pushed image is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Push {
    /// By the tags of its names.
    ByName,
    /// By its digest alone.
    ByDigest,
}

/// How files leave without being an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileOptions {
    /// The time of the result, in seconds since 1970; where nothing is said, the frontend's, if it
    /// says one.
    pub source_date_epoch: Option<i64>,
    /// Makes files of layers that no registry gave not younger than that.
    pub rewrite_timestamp: bool,
    /// Whether each platform has a directory of its own (`linux_amd64`); where nothing is said,
    /// if the result is one for several.
    pub platform_split: Option<bool>,
}

/// Where a layout goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LayoutDestination {
    /// As one archive.
    Archive(Destination),
    /// As a directory.
    Directory(PathBuf),
}

/// Where one stream of bytes goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A file, replaced when it is complete.
    File(PathBuf),
    /// Standard output.
    Stdout,
}

/// What a build made.
#[derive(Clone, Debug, Default)]
pub struct Response {
    /// One for each export, in the order of the request.
    pub exported: Vec<Exported>,
    /// Further results of the frontend by name (`result.txt`, …).
    pub metadata: BTreeMap<String, Vec<u8>>,
    /// The directory with everything that the steps printed, if they did.
    pub logs: Option<PathBuf>,
}

/// What an export made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// Digest of the image's manifest or index; `None` for files.
    pub digest: Option<Digest>,
    /// The whole descriptor, with the annotations that an `index.json` has; `None` for files.
    pub descriptor: Option<Descriptor>,
    /// Digest of the image's config, if there is one platform.
    pub config: Option<Digest>,
    /// The names that it has or was pushed to.
    pub names: Vec<String>,
    /// Bytes of the whole image as it is packed, or of the files.
    pub size: u64,
    /// The engine that it was loaded into, and how many bytes that took.
    pub loaded: Option<Loaded>,
}
