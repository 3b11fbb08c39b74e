//! A mount namespace for a test, with disks of its own: file systems in image files. Whatever
//! becomes of the test, its mounts and loop devices go with the namespace.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use cofferdam_tests::command::{command, run};

/// Is set in the process that has the namespace.
const MARK: &str = "COFFERDAM_TEST_NAMESPACE";

/// Runs a test again in a mount namespace of its own. True there: the test goes on; false in the
/// process that waited for it.
///
/// # Errors
/// The test failed in there.
pub fn entered(test: &str) -> Result<bool> {
    entered_by(test, &["--mount"])
}

/// The same, and in a network namespace of its own, which has nothing but a loopback device.
///
/// # Errors
/// The test failed in there.
pub fn entered_offline(test: &str) -> Result<bool> {
    entered_by(test, &["--mount", "--net"])
}

fn entered_by(test: &str, namespaces: &[&str]) -> Result<bool> {
    if std::env::var_os(MARK).is_some() {
        return Ok(true);
    }
    let mut command = Command::new("unshare");
    command.args(namespaces).args(["--propagation", "private", "--"]);
    command.arg(std::env::current_exe()?).args(["--exact", test, "--nocapture"]);
    let output = command.env(MARK, "1").output().context("cannot start unshare (util-linux)")?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(said.contains("1 passed") || !output.status.success(), "there is no test {test}");
    if !output.status.success() {
        bail!("in its namespace:\n{said}");
    }
    eprint!("{said}");
    Ok(false)
}

/// A disk with a file system that is mounted until the value is dropped.
pub struct Disk {
    image: PathBuf,
    point: PathBuf,
}

impl Disk {
    /// Makes an ext4 file system of so many megabytes in an image file and mounts it.
    pub fn make(image: &Path, megabytes: u64, point: &Path) -> Result<Self> {
        File::create(image)?.set_len(megabytes << 20)?;
        run(command("mkfs.ext4", ["-q", "-F", "-m", "0"]).arg(image))?;
        Self::mount(image, point)
    }

    /// Mounts the file system of an image file.
    pub fn mount(image: &Path, point: &Path) -> Result<Self> {
        fs::create_dir_all(point)?;
        // Metadata goes to the disk every second, data when the kernel pleases.
        run(command("mount", ["-t", "ext4", "-o", "loop,commit=1"]).arg(image).arg(point))?;
        Ok(Self { image: image.to_owned(), point: point.to_owned() })
    }

    /// Copies what is on the disk at this moment: what the file system has not written is not in
    /// the copy.
    pub fn cut_off(&self, copy: &Path) -> Result<()> {
        for _ in 0..200 {
            run(command("cp", ["--sparse=always"]).arg(&self.image).arg(copy))?;
            // Unchanged since it was read first: so it was all the same at some moment.
            if Command::new("cmp").arg("-s").arg(&self.image).arg(copy).status()?.success() {
                return Ok(());
            }
        }
        bail!("the disk never rests")
    }

    /// Mounts it with other options.
    pub fn remount(&self, options: &str) -> Result<()> {
        run(command("mount", ["-o", &format!("remount,{options}")]).arg(&self.point))?;
        Ok(())
    }

    /// Bytes that can still be written.
    pub fn free(&self) -> Result<u64> {
        let stat = rustix::fs::statvfs(&self.point)?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    /// Fills the disk but for so many bytes. The file is in the way until it is removed.
    pub fn fill(&self, leave: u64) -> Result<PathBuf> {
        let path = self.point.join("filler");
        let file = File::create(&path)?;
        let mut end = 0;
        // The file system needs room of its own for the list of the file's blocks.
        for margin in [1 << 20, 64 << 10, 0] {
            let size = self.free()?.saturating_sub(leave + margin);
            let flags = rustix::fs::FallocateFlags::empty();
            if size == 0 {
                continue;
            }
            match rustix::fs::fallocate(&file, flags, end, size) {
                Ok(()) => end += size,
                Err(rustix::io::Errno::NOSPC) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(path)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let detach = rustix::mount::UnmountFlags::DETACH;
        // In a test that failed it goes with the namespace.
        let _ = rustix::mount::unmount(&self.point, detach);
    }
}

/// Another boot of the machine, as far as programs can tell.
pub struct Boot {
    file: PathBuf,
    number: u32,
}

impl Boot {
    /// Puts a file in place of the kernel's boot id.
    pub fn first(file: &Path) -> Result<Self> {
        let boot = Self { file: file.to_owned(), number: 0 };
        boot.write()?;
        let target = "/proc/sys/kernel/random/boot_id";
        rustix::mount::mount_bind(file, target).context("cannot mount over the boot id")?;
        Ok(boot)
    }

    /// Restarts the machine.
    pub fn again(&mut self) -> Result<()> {
        self.number += 1;
        self.write()
    }

    fn write(&self) -> Result<()> {
        let id = format!("{:08x}-0000-4000-8000-000000000000\n", self.number);
        Ok(fs::write(&self.file, id)?)
    }
}
