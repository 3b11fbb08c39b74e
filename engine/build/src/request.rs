//! What a client asks for, and what it gets.

use std::collections::BTreeMap;
use std::path::PathBuf;

use cofferdam_export::ImageOptions;
use cofferdam_registry::Reference;
use cofferdam_types::{Digest, Platform};

/// One build.
#[derive(Clone, Debug)]
pub struct Request {
    /// Who translates the request into a graph.
    pub frontend: FrontendChoice,
    /// The frontend's options, as BuildKit names them (`filename`, `build-arg:NAME`, …).
    pub options: BTreeMap<String, String>,
    /// What to build for; empty is the engine's own platform.
    pub platforms: Vec<Platform>,
    /// Where the result goes. Empty: it is only built.
    pub exports: Vec<Export>,
    /// Images are looked up in their registry even if the store knows them.
    pub pull: bool,
    /// How much memory each step may use, in bytes; no part of any cache key.
    pub step_memory: Option<u64>,
    /// The client wants to be told why steps have to run.
    pub why: bool,
    /// Privileges that the user grants to steps.
    pub entitlements: Entitlements,
}

/// Privileges that a step may ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entitlements {
    /// `network.host`
    pub network_host: bool,
    /// `security.insecure`
    pub security_insecure: bool,
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
    /// Into the store under these names, and to their registries if `push` is set.
    Image {
        /// The names.
        names: Vec<Reference>,
        /// Whether it is pushed.
        push: bool,
        /// How it is made.
        options: ImageOptions,
    },
    /// An OCI archive.
    Oci {
        /// Where to.
        dest: Destination,
        /// Names in the archive.
        names: Vec<Reference>,
        /// How it is made.
        options: ImageOptions,
    },
    /// The files, in a directory.
    Local(PathBuf),
    /// The files, as a tar.
    Tar(Destination),
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
    /// Digest of the image's config, if there is one platform.
    pub config: Option<Digest>,
    /// The names that it has or was pushed to.
    pub names: Vec<String>,
}
