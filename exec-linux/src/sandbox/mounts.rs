//! Builds the step's mount tree, by descriptors: every mount is made detached, prepared, and only
//! then attached to a directory that was opened within the step's root.

use std::borrow::Cow;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Gid, Mode, OFlags, Uid, fchmod, fchown, mkdirat, openat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
    move_mount, open_tree, unmount,
};
use rustix::process::{fchdir, pivot_root};

use super::host_files::{HostFiles, by_descriptor};
use super::mount_attributes::{self as attributes, NO_DEV, NO_EXEC, NO_SUID, READ_ONLY};
use super::paths::{self, Kind};
use super::stubs::{self, Stubs};
use super::{Doing, Result, dev};
use crate::check::LOWERS_MAX;
use crate::step::{BindSource, Mount, Overlay, Restrictions, Rootfs, Security};
use crate::user_namespace::Ids;
use crate::wire::Order;
use dev::HostDevices;

/// The directory of the state directory on which sources are attached while they are prepared,
/// seen by the helper alone: older kernels only clone mounts that are attached somewhere.
pub const STAGE: &str = "stage";

/// The directory of the state directory that holds the layers of mount stubs.
pub const STUB_LAYERS: &str = "stubs";

/// Whose kernel it is: what the helper may do in the namespace that it is started in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// That of the machine's root.
    Machine,
    /// That of root of a user namespace: some file systems take other options, devices and the
    /// host's network cannot be had anew.
    Namespace,
}

/// Where an OCI runtime is shown the step, within the helper's mount namespace; any directory that
/// every host has, which no runtime needs, and that is not only root's on the way there: the
/// runtime looks at it as the step's root.
pub const BUNDLE: &str = "/mnt";

/// What `init` and the clean-up need of the mounts.
#[derive(Debug, Default)]
pub struct Mounted {
    /// The step's root.
    pub root: Option<OwnedFd>,
    /// The step's own /dev.
    pub dev: Option<OwnedFd>,
    /// The step's /sys.
    pub sys: Option<OwnedFd>,
    /// The directory that /proc is to be mounted on.
    pub proc_target: Option<OwnedFd>,
    /// The host's /proc where that will be: in a user namespace the kernel gives a new one only to
    /// who sees one.
    pub host_proc: Option<OwnedFd>,
    /// An empty read-only directory that is not attached yet.
    pub empty: Option<OwnedFd>,
    /// What was made for mount points only; to be removed once the mounts are gone.
    pub stubs: Stubs,
}

/// A mount that is ready to be attached.
struct Prepared<'a> {
    mount: OwnedFd,
    kind: Kind,
    dest: &'a str,
}

/// Makes all mounts but /proc, and makes the step's root the root of this process, which from then
/// on makes files as the step's root.
pub fn build(
    order: &Order,
    privilege: Privilege,
    user_namespace: Option<BorrowedFd<'_>>,
    devices_guarded: bool,
    mounted: &mut Mounted,
) -> Result<()> {
    let step = &order.step;
    let always = if devices_guarded { 0 } else { NO_DEV };
    let (root, prepared) = prepare(order, privilege, user_namespace, always, mounted)?;
    // As long as the host's can be seen.
    let devices = match privilege {
        Privilege::Machine => None,
        Privilege::Namespace => Some(HostDevices::take(&step.privileges)?),
    };
    let sys = sys(privilege, step.privileges.security)?;
    let host_proc = match privilege {
        Privilege::Machine => None,
        Privilege::Namespace => Some(
            attributes::clone_all(Path::new("/proc"))
                .doing(|| "cloning the host's /proc".to_owned())?,
        ),
    };
    enter(&root)?;
    let root = mounted.root.insert(root);

    let mut target = |dest: &str, kind| {
        paths::ensure(&*root, dest, kind, &mut mounted.stubs)
            .doing(|| format!("making the mount point `{dest}`"))
    };
    let dev = match devices {
        None => dev::make(step.privileges.security),
        Some(_) => dev::make_without_nodes(),
    };
    let dev = dev.doing(|| "making /dev".to_owned())?;
    if devices.is_none() {
        for node in &step.privileges.devices.nodes {
            dev::add_node(&dev, &node.name, node, &step.user, Ids::of(user_namespace))?;
        }
    }
    attach(&dev, target("/dev", Kind::Directory)?).doing(|| "mounting /dev".to_owned())?;
    devices.map_or(Ok(()), |devices| devices.mount(&dev))?;
    dev::mount_children(&dev, Ids::of(user_namespace))?;
    mounted.dev = Some(dev);

    attach(&sys, target("/sys", Kind::Directory)?).doing(|| "mounting /sys".to_owned())?;
    mounted.sys = Some(sys);
    let proc_target = target("/proc", Kind::Directory)?;
    if let Some(proc) = &host_proc {
        attach(proc, &proc_target).doing(|| "mounting the host's /proc".to_owned())?;
    }
    (mounted.proc_target, mounted.host_proc) = (Some(proc_target), host_proc);

    for Prepared { mount, kind, dest } in prepared {
        attach(mount, target(dest, kind)?).doing(|| format!("mounting `{dest}`"))?;
    }
    Ok(())
}

/// Makes what an OCI runtime is given, in [`BUNDLE`]: `rootfs`, `sys`, and the returned ones, each
/// with the path that it is to be mounted at.
pub fn build_bundle<'a>(
    order: &'a Order,
    user_namespace: Option<BorrowedFd<'_>>,
    mounted: &mut Mounted,
) -> Result<Vec<(PathBuf, Cow<'a, str>)>> {
    let (root, prepared) = prepare(order, Privilege::Machine, user_namespace, 0, mounted)?;
    let bundle = make_bundle().doing(|| format!("making a bundle in `{BUNDLE}`"))?;
    let place = |name: &str, kind: Kind, mount: &OwnedFd| -> io::Result<()> {
        match kind {
            Kind::Directory => mkdirat(&bundle, name, Mode::from_raw_mode(0o755))?,
            Kind::File => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                drop(openat(&bundle, name, flags, Mode::from_raw_mode(0o644))?);
            }
        }
        attach(mount, paths::resolve(&bundle, name)?)
    };
    let doing = |name: &str| format!("mounting `{name}` in `{BUNDLE}`");
    place("rootfs", Kind::Directory, &root).doing(|| doing("rootfs"))?;
    let sys = sys(Privilege::Machine, order.step.privileges.security)?;
    place("sys", Kind::Directory, &sys).doing(|| doing("sys"))?;
    let devices = &order.step.privileges.devices.nodes;
    let nodes = new_file_system("tmpfs", &[("mode", "0755")], NO_SUID | NO_EXEC)
        .doing(|| doing("devices"))?;
    place("devices", Kind::Directory, &nodes).doing(|| doing("devices"))?;
    let own = ["/dev", "/proc", "/sys"].map(|dest| (dest, Kind::Directory));
    // What the runtime would make it would leave.
    for (dest, kind) in own.into_iter().chain(prepared.iter().map(|p| (p.dest, p.kind))) {
        if !dest.starts_with("/dev/") {
            paths::ensure(&root, dest, kind, &mut mounted.stubs)
                .doing(|| format!("making the mount point `{dest}`"))?;
        }
    }
    mounted.root = Some(root);
    let mut binds = Vec::new();
    for (number, node) in devices.iter().enumerate() {
        let name = number.to_string();
        dev::add_node(&nodes, &name, node, &order.step.user, Ids::of(user_namespace))?;
        let dest = Cow::Owned(format!("/dev/{}", node.name));
        binds.push((Path::new(BUNDLE).join("devices").join(name), dest));
    }
    for (number, Prepared { mount, kind, dest }) in prepared.into_iter().enumerate() {
        let name = format!("mount-{number}");
        place(&name, kind, &mount).doing(|| format!("mounting the source of `{dest}`"))?;
        binds.push((Path::new(BUNDLE).join(name), Cow::Borrowed(dest)));
    }
    Ok(binds)
}

/// Mounts a file system in memory where the helper shows an OCI runtime the step.
fn make_bundle() -> io::Result<OwnedFd> {
    let bundle = new_file_system("tmpfs", &[("mode", "0755")], NO_SUID | NO_DEV)?;
    attach(&bundle, openat(CWD, BUNDLE, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)?;
    Ok(bundle)
}

/// Makes the root file system, and what is to be mounted on it, without attaching them. From then
/// on this process makes files as the step's root.
fn prepare<'a>(
    order: &'a Order,
    privilege: Privilege,
    user_namespace: Option<BorrowedFd<'_>>,
    always: u64,
    mounted: &mut Mounted,
) -> Result<(OwnedFd, Vec<Prepared<'a>>)> {
    let step = &order.step;
    let stub_layers = order.state_dir.join(STUB_LAYERS);
    let layers = match &step.rootfs {
        Rootfs::Bind { .. } => None,
        Rootfs::Overlay(overlay) => Some(overlay.paths().chain([stub_layers.as_path()])),
    };
    let stage = order.state_dir.join(STAGE);
    let host = HostFiles::new(&stage, user_namespace, layers.into_iter().flatten())?;
    let sources = Sources::new(&host, privilege)?;
    mounted.empty = Some(sources.empty()?);
    let mut prepared = Vec::new();
    let own = [("/etc/hosts", &step.hosts), ("/etc/resolv.conf", &step.resolv_conf)];
    for (dest, contents) in own {
        if let Some(contents) = contents {
            let mount = sources.file(dest, contents.as_bytes(), 0o644, (0, 0))?;
            prepared.push(Prepared { mount, kind: Kind::File, dest });
        }
    }
    for mount in &step.mounts {
        prepared.push(sources.prepare(mount, always)?);
    }
    let root = match &step.rootfs {
        Rootfs::Bind { path } => sources.clone_of(path)?,
        Rootfs::Overlay(overlay) => {
            let dests: Vec<_> = prepared.iter().map(|p| (p.dest, p.kind)).collect();
            let bottom = host.as_host_root(|| {
                stubs::layer(&stub_layers, &order.id, &dests)
                    .doing(|| format!("making mount stubs in `{}`", stub_layers.display()))
            })?;
            sources.overlay(overlay, Some(host.open(&bottom)?))?
        }
    };
    attributes::set(&root, always).doing(|| "restricting the root file system".to_owned())?;
    Ok((root, prepared))
}

/// Makes /sys, not attached yet.
fn sys(privilege: Privilege, security: Security) -> Result<OwnedFd> {
    let read_only = if security == Security::Insecure { 0 } else { READ_ONLY };
    let restrictions = read_only | NO_SUID | NO_DEV | NO_EXEC;
    let made = match new_file_system("sysfs", &[], restrictions) {
        // It shows the network, and the host's is not ours to show anew.
        Err(_) if privilege == Privilege::Namespace => attributes::clone_all(Path::new("/sys"))
            .and_then(|host| attributes::set_all(&host, restrictions).map(|()| host)),
        made => made,
    };
    made.doing(|| "making /sys".to_owned())
}

/// Makes a mount the root of the mount namespace and drops the host's tree.
fn enter(root: &OwnedFd) -> Result<()> {
    move_mount(root, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .doing(|| "mounting the root file system".to_owned())?;
    fchdir(root).doing(|| "changing to the step's root".to_owned())?;
    // Both the same: the old root comes to lie over the new one, whence it is taken away; no
    // directory of the image is needed for it (pivot_root(2)).
    pivot_root(".", ".").doing(|| "making the step's root the root".to_owned())?;
    unmount(".", UnmountFlags::DETACH).doing(|| "leaving the host's file systems".to_owned())?;
    std::env::set_current_dir("/").doing(|| "changing to the step's root".to_owned())
}

/// Attaches a detached mount to a directory or file.
pub fn attach(mount: impl AsFd, target: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", target, "", flags)?)
}

/// Clones the attached mount that `file` lies on, with `file` as its root.
pub fn clone_attached(file: impl AsFd) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(open_tree(file, "", flags)?)
}

/// Makes a detached mount of a new file system.
pub fn new_file_system(
    kind: &str,
    options: &[(&str, &str)],
    attributes: u64,
) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (name, value) in options {
        fsconfig_set_string(&context, *name, *value)?;
    }
    fsconfig_create(&context)?;
    mount_of(&context, attributes)
}

fn mount_of(context: &OwnedFd, attributes: u64) -> io::Result<OwnedFd> {
    let flags = MountAttrFlags::from_bits_retain(attributes as _);
    Ok(fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, flags)?)
}

/// Prepares the sources of mounts.
struct Sources<'a> {
    host: &'a HostFiles<'a>,
    privilege: Privilege,
    /// A file system in memory that takes the contents of files.
    files: OwnedFd,
    next: std::cell::Cell<u32>,
}

impl<'a> Sources<'a> {
    fn new(host: &'a HostFiles<'a>, privilege: Privilege) -> Result<Self> {
        let make = || {
            let files = new_file_system("tmpfs", &[("mode", "0700")], NO_SUID | NO_DEV)?;
            attach(&files, host.stage())?;
            mkdirat(&files, "empty", Mode::from_raw_mode(0o755))?;
            Ok(files)
        };
        let files = make().map_err(|error: io::Error| {
            super::failure("making a file system in memory".to_owned(), error)
        })?;
        Ok(Self { host, privilege, files, next: 0.into() })
    }

    fn empty(&self) -> Result<OwnedFd> {
        let make = || {
            let mount = clone_attached(paths::resolve(&self.files, "empty")?)?;
            attributes::set(&mount, READ_ONLY | NO_EXEC)?;
            Ok::<_, io::Error>(mount)
        };
        make().doing(|| "making an empty directory".to_owned())
    }

    /// Makes a file in memory.
    fn file(
        &self,
        dest: &str,
        contents: &[u8],
        mode: u32,
        (uid, gid): (u32, u32),
    ) -> Result<OwnedFd> {
        let make = || {
            let name = self.next.replace(self.next.get() + 1).to_string();
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            let file = openat(&self.files, &name, flags, Mode::from_raw_mode(0o600))?;
            let mut file = std::fs::File::from(file);
            io::Write::write_all(&mut file, contents)?;
            let (uid, gid) = (self.host.ids().host(uid)?, self.host.ids().host(gid)?);
            fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
            fchmod(&file, Mode::from_raw_mode(mode & 0o7777))?;
            clone_attached(paths::resolve(&self.files, &name)?)
        };
        make().doing(|| format!("making the content of `{dest}`"))
    }

    fn clone_of(&self, path: &Path) -> Result<OwnedFd> {
        clone_attached(self.host.open(path)?)
            .doing(|| format!("cloning the mount of `{}`", path.display()))
    }

    fn prepare<'m>(&self, mount: &'m Mount, always: u64) -> Result<Prepared<'m>> {
        let dest = mount.dest();
        let restrict = |mount: &OwnedFd, readonly, restrictions: Restrictions| {
            attributes::set(mount, always | attributes::of(readonly, restrictions))
                .doing(|| format!("restricting the mount at `{dest}`"))
        };
        let (mount, kind) = match mount {
            Mount::Tmpfs { size, .. } => {
                let size = size.map(|bytes| bytes.to_string());
                let mut options = vec![("mode", "1777")];
                options.extend(size.as_deref().map(|size| ("size", size)));
                let mount = new_file_system("tmpfs", &options, always | NO_SUID)
                    .doing(|| format!("making a file system in memory for `{dest}`"))?;
                (mount, Kind::Directory)
            }
            Mount::File { contents, mode, uid, gid, readonly, restrictions, .. } => {
                let mount = self.file(dest, contents, *mode, (*uid, *gid))?;
                restrict(&mount, *readonly, *restrictions)?;
                (mount, Kind::File)
            }
            Mount::Bind { source, selector, readonly, restrictions, .. } => {
                let source = self.open_source(source)?;
                let selected = match selector {
                    // A file or a socket is only there as the whole.
                    None => source,
                    Some(selector) => paths::resolve(&source, selector)
                        .doing(|| format!("opening `{selector}` in the source of `{dest}`"))?,
                };
                let mount = clone_attached(&selected)
                    .doing(|| format!("cloning the source of `{dest}`"))?;
                restrict(&mount, *readonly, *restrictions)?;
                let kind = match paths::file_type(&selected) {
                    Ok(FileType::Directory) => Kind::Directory,
                    _ => Kind::File,
                };
                (mount, kind)
            }
        };
        Ok(Prepared { mount, kind, dest })
    }

    /// Mounts layers as an overlay, above `bottom`.
    fn overlay(&self, overlay: &Overlay, bottom: Option<OwnedFd>) -> Result<OwnedFd> {
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)
            .doing(|| "making an overlay".to_owned())?;
        let add = |key: &str, directory: &OwnedFd| {
            // By descriptor where the kernel can (6.13), so that no name is looked up twice.
            fsconfig_set_fd(&context, key, directory)
                .or_else(|_| fsconfig_set_string(&context, key, by_descriptor(directory)))
        };
        let layer = |key: &str, path: &Path| {
            add(key, &self.host.open(path)?)
                .doing(|| format!("adding the layer `{}` to an overlay", path.display()))
        };
        let lowers = &overlay.lowers;
        for lower in lowers.iter().rev() {
            layer("lowerdir+", lower)?;
        }
        if let Some(bottom) = bottom.filter(|_| lowers.len() < LOWERS_MAX) {
            add("lowerdir+", &bottom).doing(|| "adding mount stubs to an overlay".to_owned())?;
        }
        if let Some((upper, work)) = &overlay.writable {
            layer("upperdir", upper)?;
            layer("workdir", work)?;
            // Unmounting any other overlay syncs the whole file system that the upper directory is on.
            fsconfig_set_flag(&context, "volatile")
                .doing(|| "making an overlay volatile".to_owned())?;
        }
        let doing = || match &overlay.writable {
            Some((upper, _)) => format!(
                "mounting an overlay of {} layers with the upper directory `{}`",
                lowers.len(),
                upper.display()
            ),
            None => format!("mounting a read-only overlay of {} layers", lowers.len()),
        };
        if self.privilege == Privilege::Namespace {
            // The attributes that it notes things in by default are the machine's root's.
            fsconfig_set_flag(&context, "userxattr").doing(doing)?;
        }
        // The kernel acts for the overlay with what this process has now: as the step's root, which
        // makes its working directory, and with the host's capabilities.
        fsconfig_create(&context).doing(doing)?;
        mount_of(&context, 0).doing(doing)
    }

    /// Opens the root of a source.
    fn open_source(&self, source: &BindSource) -> Result<OwnedFd> {
        let overlay = match source {
            BindSource::Path(path) => return self.host.open(path),
            BindSource::Host(path) => return self.host.open_anything(path),
            BindSource::Overlay(overlay) => overlay,
        };
        let mount = match (&overlay.writable, overlay.lowers.as_slice()) {
            (None, []) => new_file_system("tmpfs", &[("mode", "0755")], READ_ONLY)
                .doing(|| "making an empty file system".to_owned())?,
            // overlayfs refuses a single layer.
            (None, [lower]) => {
                let mount = self.clone_of(lower)?;
                attributes::set(&mount, READ_ONLY)
                    .doing(|| format!("making `{}` read-only", lower.display()))?;
                mount
            }
            (Some(_), []) => {
                let empty = paths::resolve(&self.files, "empty")
                    .doing(|| "opening an empty directory".to_owned())?;
                self.overlay(overlay, Some(empty))?
            }
            _ => self.overlay(overlay, None)?,
        };
        attach(&mount, self.host.stage()).doing(|| "attaching a source".to_owned())?;
        Ok(mount)
    }
}
