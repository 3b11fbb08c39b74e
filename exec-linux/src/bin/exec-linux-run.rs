//! `exec-linux-run STEP.json`: runs one step, for debugging and for this crate's tests. The step is
//! [`cofferdam_exec_linux::Step`] as JSON; the state directory is `$EXEC_LINUX_STATE`, and what
//! network it gets `$EXEC_LINUX_NETWORK`.

use std::io::Write;
use std::process::ExitCode;

use cofferdam_exec_linux::{
    Config, Emulators, Exit, NetworkConfig, NetworkMode, Runner, Step, Stream, Streams,
    sandbox_entry,
};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    sandbox_entry();
    match run() {
        Ok(Exit::Code(code)) => ExitCode::from(u8::try_from(code).unwrap_or(255)),
        Ok(Exit::Signal(signal)) => {
            eprintln!("killed by signal {signal}");
            ExitCode::from(u8::try_from(128 + signal).unwrap_or(255))
        }
        Ok(Exit::OutOfMemory) => {
            eprintln!("killed for want of memory");
            ExitCode::from(137)
        }
        Err(error) => {
            eprintln!("exec-linux-run: {error}");
            ExitCode::from(125)
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn run() -> Result<Exit, Box<dyn std::error::Error>> {
    let path = std::env::args_os().nth(1).ok_or("usage: exec-linux-run STEP.json")?;
    let step: Step = serde_json::from_slice(&std::fs::read(path)?)?;
    let state_dir = std::env::var_os("EXEC_LINUX_STATE").ok_or("EXEC_LINUX_STATE is not set")?;
    let mode = std::env::var("EXEC_LINUX_NETWORK").unwrap_or_default();
    let mode = match mode.as_str() {
        "" => NetworkMode::Auto,
        "nat" => NetworkMode::Nat,
        "slirp4netns" => NetworkMode::Slirp4netns,
        "pasta" => NetworkMode::Pasta,
        _ => return Err(format!("EXEC_LINUX_NETWORK is `{mode}`").into()),
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let programs = std::env::split_paths(&path).collect();
    let runner = Runner::new(Config {
        program: None,
        oci_runtime: None,
        cgroup_parent: "cofferdam".to_owned(),
        state_dir: state_dir.into(),
        network: NetworkConfig { mode, programs, ..NetworkConfig::default() },
        emulators: Emulators::default(),
    })?;
    let (sender, mut receiver) = tokio::sync::mpsc::channel::<(Stream, bytes::Bytes)>(16);
    let print = async {
        while let Some((stream, bytes)) = receiver.recv().await {
            let result = match stream {
                Stream::Stdout => std::io::stdout().write_all(&bytes),
                Stream::Stderr => std::io::stderr().write_all(&bytes),
            };
            if result.is_err() {
                return;
            }
        }
    };
    let (exit, ()) = tokio::join!(
        runner.run(step, Streams::output_only(sender), CancellationToken::new()),
        print
    );
    Ok(exit?)
}
