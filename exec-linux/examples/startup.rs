//! Prints how long a step takes from order to end, beside a plain process in the same loop:
//! `startup ROOTFS [COUNT [LAYERS [default|host|none [MIB]]]]`, as root, with that many layers
//! below the step's own, in that network, by an engine that has so much memory. The processor time
//! is that of all that is made for it. The program is its own helper, so build it in release mode.

use std::path::PathBuf;
use std::time::Instant;

use cofferdam_exec_linux::*;
use tokio_util::sync::CancellationToken;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Before the runtime starts its threads.
    sandbox_entry();
    measure()
}

#[tokio::main]
async fn measure() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let image = PathBuf::from(args.next().ok_or("usage: startup ROOTFS [COUNT]")?);
    let count: usize = args.next().map_or(Ok(20), |count| count.parse())?;
    let layers: usize = args.next().map_or(Ok(20), |layers| layers.parse())?;
    let network = match args.next().as_deref() {
        None | Some("default") => Network::Default,
        Some("host") => Network::Host,
        Some("none") => Network::None,
        Some(other) => return Err(format!("no network is called `{other}`").into()),
    };
    let mebibytes: usize = args.next().map_or(Ok(0), |mebibytes| mebibytes.parse())?;
    let memory = vec![1_u8; mebibytes << 20];
    let dir = tempfile::tempdir()?;
    let runner = Runner::new(Config {
        program: None,
        oci_runtime: None,
        cgroup_parent: "cofferdam-bench".to_owned(),
        state_dir: dir.path().join("state"),
        network: NetworkConfig::default(),
        emulators: Emulators::default(),
    })?;
    let mut lowers = vec![image];
    for number in 1..layers {
        let lower = dir.path().join(format!("l{number}"));
        std::fs::create_dir(&lower)?;
        std::fs::write(lower.join(format!("file{number}")), [])?;
        lowers.push(lower);
    }
    let all = Entitlements { network_host: true, ..Entitlements::default() };
    let granted =
        all.grant(Privileges { network, ..Privileges::default() }, &DeviceRegistry::default())?;
    let (mut steps, mut plain) = (Vec::new(), Vec::new());
    for number in 0..count {
        let [upper, work] = ["u", "w"].map(|name| dir.path().join(format!("{name}{number}")));
        std::fs::create_dir(&upper)?;
        std::fs::create_dir(&work)?;
        let overlay = Overlay { lowers: lowers.clone(), writable: Some((upper, work)) };
        let step = Step {
            rootfs: Rootfs::Overlay(overlay),
            mounts: vec![],
            args: vec!["true".into()],
            env: vec![],
            cwd: "/".into(),
            user: User::default(),
            hostname: "bench".into(),
            privileges: granted.clone(),
            execution: Execution::Native,
            no_new_privileges: true,
            hosts: Some(String::new()),
            resolv_conf: Some(String::new()),
            limits: Limits::default(),
        };
        let (output, _nobody_listens) = tokio::sync::mpsc::channel(1);
        let started = Instant::now();
        let exit = runner.run(step, Streams::output_only(output), CancellationToken::new()).await?;
        steps.push(started.elapsed());
        if exit != Exit::Code(0) {
            return Err(format!("the step ended with {exit:?}").into());
        }
        let started = Instant::now();
        tokio::process::Command::new("/bin/true").status().await?;
        plain.push(started.elapsed());
    }
    runner.idle().await;
    drop(memory);
    for (what, mut times) in [("a step", steps), ("a plain process", plain)] {
        times.sort();
        println!("{what}: least {:?}, median {:?} of {count}", times[0], times[count / 2]);
    }
    Ok(())
}
