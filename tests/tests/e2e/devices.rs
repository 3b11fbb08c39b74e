//! Devices by the Container Device Interface: `RUN --device`, `--allow device`, `[cdi]`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};
use cofferdam_tests::cofferdam::{Who, exit};
use cofferdam_tests::{Build, Cofferdam, Context, needs_root};
use tempfile::TempDir;

use crate::World;

/// A loop device whose disk says so, and a directory that describes it as `vendor.com/disk=a`.
struct Disk {
    device: String,
    file: PathBuf,
    descriptions: TempDir,
}

impl Disk {
    fn new() -> Result<Self> {
        let descriptions = tempfile::tempdir()?;
        let file = descriptions.path().join("disk");
        fs::write(&file, [b"contents of the disk\n".as_slice(), &[0; 1 << 16]].concat())?;
        let output = Command::new("losetup").args(["--find", "--show"]).arg(&file).output()?;
        ensure!(output.status.success(), "losetup: {output:?}");
        let device = String::from_utf8(output.stdout)?.trim().to_owned();
        let disk = Self { device, file, descriptions };
        disk.describe("a", "rw")?;
        Ok(disk)
    }

    fn describe(&self, name: &str, permissions: &str) -> Result<()> {
        let text = format!(
            "cdiVersion: 0.6.0\nkind: vendor.com/disk\ncontainerEdits: {{env: [DISK=yes]}}\n\
             devices:\n- name: {name}\n  containerEdits:\n    deviceNodes:\n    \
             - {{path: /dev/vendor/disk, hostPath: {}, permissions: {permissions}}}\n",
            self.device
        );
        Ok(fs::write(self.descriptions.path().join("disk.yaml"), text)?)
    }

    fn build(&self, world: &World, context: &Context) -> Build {
        world.build(context).option("--cdi-spec-dir", self.descriptions.path())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        _ = Command::new("losetup").arg("--detach").arg(&self.device).status();
    }
}

fn context(run: &str) -> Result<Context> {
    Context::new(&format!("ARG REGISTRY\nFROM ${{REGISTRY}}/busybox\n{run}\n"))
}

const READ: &str =
    "RUN --device=vendor.com/disk=a,required echo $DISK: $(head -n 1 /dev/vendor/disk)";

#[test]
fn a_device_needs_its_entitlement_and_then_works() -> Result<()> {
    if needs_root("devices") {
        return Ok(());
    }
    let (world, disk) = (World::new()?, Disk::new()?);
    let context_of = context(READ)?;
    let build = |allow: &[&str]| {
        let build = disk.build(&world, &context_of).arg("--no-cache");
        let build = allow.iter().fold(build, |build, allow| build.option("--allow", allow));
        build.varies("the device is this machine's").run()
    };
    let hint = "--allow device=vendor.com/disk=a";
    for allow in [&[][..], &["network.host"], &["device=vendor.com/disk=b"], &["device=no/name=x"]]
    {
        let refused = build(allow)?.ended(exit::USER);
        refused.says(&["needs the entitlement `device` for `vendor.com/disk=a`", hint, "RUN"]);
    }
    for allow in
        ["device", "device=vendor.com/disk=a", "device=vendor.com/disk", "device=vendor.com/disk=*"]
    {
        let log = build(&["network.host", allow])?.succeeded().log();
        assert!(log.contains("yes: contents of the disk"), "{allow}: {log}");
    }
    // What is in the cache is asked for as well, and the device's name is a part of the key.
    let cached = |run: &str, allow: &[&str]| {
        let context = context(run)?;
        let build = disk.build(&world, &context);
        let build = allow.iter().fold(build, |build, allow| build.option("--allow", allow));
        build.varies("the device is this machine's").run()
    };
    let _ = cached(READ, &["device"])?.succeeded();
    assert!(!cached(READ, &["device"])?.succeeded().log().contains("contents"));
    cached(READ, &[])?.ended(exit::USER).says(&[hint]);
    let any = READ.replace("disk=a", "disk");
    assert!(cached(&any, &["device"])?.succeeded().log().contains("yes: contents"));
    // By another name, which the user gives it.
    let alias = READ.replace("vendor.com/disk=a", "any.com/name=x");
    let granted = cached(&alias, &["device=vendor.com/disk=a,alias=any.com/name=x"])?.succeeded();
    assert!(granted.log().contains("yes: contents"), "{}", granted.log());
    // The step may write, and nothing of the device is in the image.
    let write = context("RUN --device=vendor.com/disk echo new > /dev/vendor/disk && sync")?;
    let build = disk.build(&world, &write).option("--allow", "device");
    let out = world.out.path().join("out");
    let build = build.option("-o", format!("type=local,dest={}", out.display()));
    let _ = build.varies("the device is this machine's").run()?.succeeded();
    assert!(fs::read(&disk.file)?.starts_with(b"new\n"));
    assert!(!out.join("dev/vendor").exists());
    // One that may only be read.
    disk.describe("a", "r")?;
    let write = "RUN --device=vendor.com/disk head -n 1 /dev/vendor/disk; \
                 (echo newer > /dev/vendor/disk) || echo not written";
    let log = cached(write, &["device"])?.succeeded().log();
    assert!(log.contains("new\n") && log.contains("not written"), "{log}");
    assert!(log.contains("Operation not permitted"), "{log}");
    Ok(())
}

#[test]
fn what_is_not_there_is_missing_or_done_without() -> Result<()> {
    if needs_root("devices") {
        return Ok(());
    }
    let (world, disk) = (World::new()?, Disk::new()?);
    fs::write(
        disk.descriptions.path().join("hooked.json"),
        r#"{"cdiVersion": "0.6.0",
        "kind": "vendor.com/gpu", "devices": [{"name": "all", "containerEdits": {}}],
        "containerEdits": {"hooks": [{"hookName": "createContainer", "path": "/bin/ldconfig"}]}}"#,
    )?;
    fs::write(
        disk.descriptions.path().join("wrong.json"),
        r#"{"cdiVersion": "9.0.0",
        "kind": "vendor.com/x", "devices": []}"#,
    )?;
    let build = |run: &str, more: &[&str]| {
        let context = context(run)?;
        let build = disk.build(&world, &context).option("--allow", "device");
        more.iter().fold(build, |build, more| build.arg(more)).run()
    };
    build("RUN --device=vendor.com/disk=b,required true", &[])?.ended(exit::USER).says(&[
        "`vendor.com/disk=b`",
        "there is `vendor.com/disk=a`, `vendor.com/gpu=all`",
        "wrong.json: cdiVersion: `9.0.0`",
        "cofferdam platforms",
    ]);
    let without = build("RUN --device=vendor.com/disk=b echo it ran $DISK", &[])?.succeeded();
    assert!(without.log().contains("there is no device `vendor.com/disk=b`"), "{}", without.log());
    assert!(without.log().contains("it ran\n"), "{}", without.log());
    build("RUN --device=vendor.com/gpu=all true", &[])?.ended(exit::USER).says(&[
        "hooked.json: containerEdits.hooks[0]: the hook createContainer `/bin/ldconfig` is not run",
    ]);
    for wrong in ["/dev/kmsg", "disk", "vendor.com/disk=../a"] {
        build(&format!("RUN --device={wrong} true"), &[])?.ended(exit::USER).says(&[wrong]);
    }
    // Where it is switched off.
    let file = world.out.path().join("config.toml");
    fs::write(&file, "[cdi]\ndisabled = true\n")?;
    let off = format!("--config={}", file.display());
    build(READ, &[&off])?.ended(exit::USER).says(&["`[cdi] disabled`"]);
    // Every build may have it that the machine's owner lets have it.
    let dir = disk.descriptions.path().display();
    fs::write(
        &file,
        format!("[cdi]\nspecDirs = [\"{dir}\"]\nautoAllowed = [\"vendor.com/disk\"]\n"),
    )?;
    let context_of = context(READ)?;
    let build = world.build(&context_of).option("--config", &file);
    let log = build.varies("the device is this machine's").run()?.succeeded().log();
    assert!(log.contains("yes: contents"), "{log}");
    Ok(())
}

#[test]
fn devices_are_listed_and_a_build_says_that_it_needs_one() -> Result<()> {
    if needs_root("devices") {
        return Ok(());
    }
    let (world, disk) = (World::new()?, Disk::new()?);
    let dir = disk.descriptions.path();
    let list = |format: &[&str]| -> Result<String> {
        let mut command = world.cofferdam.command();
        command.arg("--cdi-spec-dir").arg(dir).arg("platforms").args(format);
        let output = command.arg("--root").arg(world.cofferdam.root()).output()?;
        ensure!(output.status.success(), "{output:?}");
        Ok(String::from_utf8(output.stdout)?)
    };
    let text = list(&[])?;
    assert!(text.contains(&format!("vendor.com/disk=a  {}/disk.yaml\n", dir.display())), "{text}");
    let json: serde_json::Value = serde_json::from_str(&list(&["--format", "json"])?)?;
    assert_eq!(json["devices"][0]["name"], "vendor.com/disk=a");
    let tier = |run: &str| -> Result<String> {
        let context_of = context(run)?;
        let outcome = disk.build(&world, &context_of).arg("--print-tier").run()?.succeeded();
        Ok(String::from_utf8(outcome.stdout)?)
    };
    let needs = tier(READ)?;
    assert!(needs.contains("it gets a device of the machine"), "{needs}");
    assert!(needs.contains("it builds here"), "{needs}");
    let needs = tier("RUN --device=vendor.com/disk=b,required true")?;
    assert!(needs.contains("it does not build here") && needs.contains("disk=b"), "{needs}");
    Ok(())
}

#[test]
fn an_oci_runtime_gives_the_same_device() -> Result<()> {
    if needs_root("devices") || !std::path::Path::new("/usr/sbin/runc").exists() {
        return Ok(());
    }
    let (world, disk) = (World::new()?, Disk::new()?);
    disk.describe("a", "r")?;
    let run = "RUN --device=vendor.com/disk=a,required echo $DISK: $(head -n 1 /dev/vendor/disk); \
               (echo new > /dev/vendor/disk) || echo not written; \
               mknod /n c 10 200 2>/dev/null && (: < /n) && echo opened; ls -n /dev/vendor/disk";
    let context_of = context(run)?;
    let build = disk.build(&world, &context_of).option("--allow", "device");
    let build = build.option("--oci-runtime", "/usr/sbin/runc");
    let log = build.varies("the device is this machine's").run()?.succeeded().log();
    assert!(log.contains("yes: contents of the disk") && log.contains("not written"), "{log}");
    assert!(!log.contains("opened"), "{log}");
    assert!(fs::read(&disk.file)?.starts_with(b"contents"));
    Ok(())
}

#[test]
fn a_wasi_step_has_no_device() -> Result<()> {
    if needs_root("devices") {
        return Ok(());
    }
    let (world, disk) = (World::new()?, Disk::new()?);
    let context =
        Context::new("FROM scratch\nCOPY file /\nRUN --device=vendor.com/disk=a [\"/file\"]\n")?;
    context.file("file", "\0asm")?;
    let build = disk.build(&world, &context).option("--platform", "wasi/wasm");
    let build = build.option("--allow", "device");
    build.run()?.ended(exit::USER).says(&["the device `vendor.com/disk=a` on wasi/wasm"]);
    Ok(())
}

/// A user gets what the user may open anyway.
#[test]
fn a_user_gets_devices_that_the_user_may_open() -> Result<()> {
    if needs_root("other users") {
        return Ok(());
    }
    let world = World::new()?;
    let user = Cofferdam::new()?.run_by(Who::User)?;
    let directory = tempfile::tempdir_in("/tmp")?;
    Command::new("chmod").arg("755").arg(directory.path()).status()?;
    fs::write(
        directory.path().join("v.yaml"),
        "cdiVersion: 0.6.0\nkind: v.com/c\ndevices:\n\
        - {name: open, containerEdits: {deviceNodes: [{path: /dev/v/zero, hostPath: /dev/zero}]}}\n\
        - {name: closed, containerEdits: {deviceNodes: [{path: /dev/v/fuse, hostPath: /dev/fuse}]}}\n\
        - {name: half, containerEdits: {deviceNodes: [{path: /dev/v/z, hostPath: /dev/zero,\n    \
           permissions: r}]}}\n",
    )?;
    let build = |device: &str| {
        let context = context(&format!(
            "RUN --device=v.com/c={device},required head -c 3 /dev/v/zero | wc -c"
        ))?;
        context.mode("", 0o755)?;
        let build = user.build(context.path());
        let build = build.build_arg("REGISTRY", world.registry.address());
        let build = build.option("--cdi-spec-dir", directory.path()).option("--allow", "device");
        build.varies("the device is this machine's").run()
    };
    let log = build("open")?.succeeded().log();
    assert!(log.contains("3\n"), "{log}");
    build("closed")?.ended(exit::CONFIGURATION).says(&["`/dev/fuse`", "for others than you"]);
    build("half")?.ended(exit::CONFIGURATION).says(&["nothing enforces"]);
    Ok(())
}
