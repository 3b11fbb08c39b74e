//! Minimal Debians for other architectures, put together on this machine without running anything
//! of them: the packages are unpacked and noted as such, and `dpkg --configure -a` in a step does
//! the rest, as the second stage of debootstrap does.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::BufReader;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::apt::Apt;
use crate::bases::{PATH, cached};
use crate::command::{command, run};
use crate::oci::{Compression, Layout};

/// A minimal Debian of one of [`crate::bases::ARCHITECTURES`], its packages unpacked and not
/// configured: `dpkg`, `apt` and the shell work already.
///
/// # Errors
/// The packages cannot be fetched.
pub fn debian(debian: &str, oci: &str) -> Result<Layout> {
    let entry = cached(&format!("unpacked-debian-{debian}-1"), |directory| {
        let scratch = tempfile::tempdir()?;
        let apt = Apt::prepare(&scratch.path().join("apt"), &[debian])?;
        let packages = apt.closure(&["?essential", "apt"], &scratch.path().join("packages"))?;
        let root = scratch.path().join("root");
        unpack(&packages, &root)?;
        let archive = scratch.path().join("root.tar");
        let mut pack = command("tar", ["--sort=name", "--numeric-owner", "--mtime=@1700000000"]);
        run(pack.arg("-C").arg(&root).arg("-cf").arg(&archive).arg("."))?;
        let layout = Layout::create(directory)?;
        let layer = layout.add_layer(BufReader::new(File::open(&archive)?), Compression::Gzip)?;
        let container = json!({"Env": [PATH, "DEBIAN_FRONTEND=noninteractive"], "Cmd": ["bash"]});
        let manifest = layout.add_image(oci, container, &[layer])?;
        layout.tag("latest", &[manifest])
    })?;
    Layout::open(&entry)
}

fn unpack(packages: &[PathBuf], root: &Path) -> Result<()> {
    // The merged /usr, which base-files takes for granted.
    for name in ["usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "var/lib/dpkg/info", "etc/apt"] {
        fs::create_dir_all(root.join(name))?;
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        symlink(format!("usr/{name}"), root.join(name))?;
    }
    let database = root.join("var/lib/dpkg");
    let mut status = String::new();
    for package in packages {
        let script = "dpkg-deb --fsys-tarfile \"$0\" | tar -C \"$1\" --keep-directory-symlink -x";
        run(command("sh", ["-ec", script]).arg(package).arg(root))?;
        let control = tempfile::tempdir()?;
        run(command("dpkg-deb", ["--control"]).arg(package).arg(control.path()))?;
        let fields = fs::read_to_string(control.path().join("control"))?;
        let field =
            |name: &str| fields.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let name = field("Package:").context("a package has a name")?;
        let info = match field("Multi-Arch:") {
            Some("same") => format!("{name}:{}", field("Architecture:").unwrap_or_default()),
            _ => name.to_owned(),
        };
        for entry in fs::read_dir(control.path())? {
            let entry = entry?;
            let file = entry.file_name().to_string_lossy().into_owned();
            if file != "control" {
                fs::copy(entry.path(), database.join(format!("info/{info}.{file}")))?;
            }
        }
        let listing =
            run(command("sh", ["-ec", "dpkg-deb --fsys-tarfile \"$0\" | tar -t"]).arg(package))?;
        let listing: String = listing
            .lines()
            .map(|line| line.trim_start_matches('.').trim_end_matches('/'))
            .map(|path| if path.is_empty() { "/.\n".to_owned() } else { format!("{path}\n") })
            .collect();
        fs::write(database.join(format!("info/{info}.list")), listing)?;
        writeln!(status, "{}\nStatus: install ok unpacked\n", fields.trim_end())?;
    }
    fs::write(database.join("status"), status)?;
    fs::write(database.join("available"), "")?;
    // What the package base-passwd makes first of all in every installation.
    for name in ["passwd", "group"] {
        fs::copy(
            root.join(format!("usr/share/base-passwd/{name}.master")),
            root.join("etc").join(name),
        )?;
    }
    fs::set_permissions(root, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Downloads packages into a directory that apt takes as a repository (`deb file:DIRECTORY ./`).
///
/// # Errors
/// The packages cannot be fetched.
pub fn repository(debian: &str, packages: &[&str], directory: &Path) -> Result<()> {
    let entry = cached(&format!("repository-{debian}-{}-1", packages.join("-")), |entry| {
        let scratch = tempfile::tempdir()?;
        let apt = Apt::prepare(scratch.path(), &[debian])?;
        let mut index = String::new();
        for package in apt.closure(packages, &scratch.path().join("packages"))? {
            let bytes = fs::read(&package)?;
            let name = package.file_name().context("a package is a file")?.to_string_lossy();
            let fields = run(command("dpkg-deb", ["--field"]).arg(&package))?;
            let digest = hex::encode(Sha256::digest(&bytes));
            writeln!(
                index,
                "{}\nFilename: ./{name}\nSize: {}\nSHA256: {digest}\n",
                fields.trim_end(),
                bytes.len()
            )?;
            fs::write(entry.join(&*name), bytes)?;
        }
        fs::write(entry.join("Packages"), index)?;
        Ok(())
    })?;
    run(command("cp", ["-r"]).arg(&entry).arg(directory))?;
    Ok(())
}
