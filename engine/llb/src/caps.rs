//! Capabilities: the names by which clients ask whether an engine can do something.
//!
//! The names are BuildKit's, its misspelling included. A client puts those that an op needs
//! into the op's metadata; a name that is not listed means that the client is newer than this
//! list, and the op may ask for something in a way that would be missed.

use std::collections::BTreeMap;

use crate::error::short;
use crate::{Error, OpMetadata};

/// What sources can do.
pub const SOURCE: &[&str] = &[
    "source.image",
    "source.image.resolvemode",
    "source.image.layerlimit",
    "source.image.checksum",
    "source.local",
    "source.local.unique",
    "source.local.sessionid",
    "source.local.includepatterns",
    "source.local.followpaths",
    "source.local.excludepatterns",
    "source.local.sharedkeyhint",
    "source.local.differ",
    "source.local.metadatatransfer",
    "source.git",
    "source.git.keepgitdir",
    "source.git.fullurl",
    "source.git.httpauth",
    "source.git.knownsshhosts",
    "source.git.mountsshsock",
    "source.git.subdir",
    "source.git.checksum",
    "source.git.skipsubmodules",
    "source.git.signatureverify",
    "source.git.mtime",
    "source.git.fetchbycommit",
    "source.git.bundle",
    "source.git.checkoutbundle",
    "source.http",
    "source.http.auth",
    "source.http.checksum",
    "source.http.perm",
    "soruce.http.uidgid",
    "source.http.header",
    "source.http.signatureverify",
    "source.imageblob",
    "source.ocilayout",
    "source.buildop.llbfilename",
];

/// What exec ops can do.
pub const EXEC: &[&str] = &[
    "exec.meta.base",
    "exec.meta.cgroup.parent",
    "exec.meta.network",
    "exec.meta.network.proxy",
    "exec.meta.proxyenv",
    "exec.meta.security",
    "exec.meta.security.devices.v1",
    "exec.meta.setsdefaultpath",
    "exec.meta.ulimit",
    "exec.meta.cdi",
    "exec.meta.removemountstubs.recursive",
    "exec.meta.linux.resources",
    "exec.mount.bind",
    "exec.mount.bind.readwrite-nooutput",
    "exec.mount.cache",
    "exec.mount.cache.sharing",
    "exec.mount.selector",
    "exec.mount.tmpfs",
    "exec.mount.tmpfs.size",
    "exec.mount.secret",
    "exec.mount.ssh",
    "exec.mount.cache.content",
    "exec.cgroup",
    "exec.secretenv",
    "exec.validexitcode",
];

/// What file ops can do.
pub const FILE: &[&str] = &[
    "file.base",
    "file.rm.wildcard",
    "file.copy.includeexcludepatterns",
    "file.copy.requiredpaths",
    "file.rm.nofollowsymlink",
    "file.copy.alwaysreplaceexistingdestpaths",
    "file.copy.modestring",
    "file.symlink.create",
];

/// What the rest of the engine can do.
pub const OTHER: &[&str] = &[
    "constraints",
    "platform",
    "meta.ignorecache",
    "meta.description",
    "meta.exportcache",
    "cache.gha",
    "cache.s3",
    "cache.azblob",
    "mergeop",
    "diffop",
    "passthroughop",
    "exporter.image.annotations",
    "exporter.image.attestations",
    "exporter.sourcedateepoch",
    "exporter.multiple",
    "exporter.session",
    "source.policy",
    "source.policy.session",
    "gc.freespacefilter",
    "history.filter",
];

/// Whether `name` is a capability that BuildKit declares.
pub fn is_known(name: &str) -> bool {
    [SOURCE, EXEC, FILE, OTHER].iter().any(|group| group.contains(&name))
}

/// Refuses metadata that needs a capability that nobody declares.
pub(crate) fn check(metadata: &OpMetadata) -> Result<(), Error> {
    match metadata.caps.keys().find(|name| !is_known(name)) {
        Some(name) => Err(Error::UnknownCapability(short(name).to_owned())),
        None => Ok(()),
    }
}

/// What BuildKit's client says that a whole definition needs.
pub(crate) fn terminal_metadata() -> OpMetadata {
    let caps = ["constraints", "meta.description", "platform"];
    let caps: BTreeMap<_, _> = caps.iter().map(|name| ((*name).to_owned(), true)).collect();
    OpMetadata { caps, ..OpMetadata::default() }
}
