//! No attack: looks at everything that a frontend can see, and uses every import once. Two runs
//! must see the same, and nothing of the machine.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use cofferdam_sdk::{
    ActionInput, ActionKind, BuildError, BuildResult, CopyAction, Description, ExecOp, FileAction,
    Frontend, Host, HostError, MkfileAction, Mount, NetworkMode, OpMetadata, PlatformResult,
    Problem, Process, Request, ResolveMode, SecurityMode, Snapshot, SourceRange, Warning,
};

struct Probe;

impl Frontend for Probe {
    fn build<H: Host>(host: &H, request: &Request) -> Result<BuildResult<H::Output>, BuildError> {
        if request.option("probe") == Some("wasi") {
            let metadata = vec![("seen".to_owned(), look_around().into_bytes())];
            return Ok(BuildResult { results: Vec::new(), metadata });
        }
        if let Some(number) = request.option("exit") {
            std::process::exit(number.parse().unwrap_or(1));
        }
        if request.option("fail").is_some() {
            host.add_source("Probefile", "probe", b"one\ntwo\n");
            return Err(BuildError {
                message: "told to fail".into(),
                locations: vec![SourceRange::lines(0, 2, 2)],
                hints: vec!["do not tell it".into()],
                others: vec![Problem {
                    message: "and once more".into(),
                    locations: vec![SourceRange {
                        start_column: 1,
                        end_column: 3,
                        ..SourceRange::lines(0, 1, 1)
                    }],
                    ..Problem::default()
                }],
            });
        }
        println!("probe: out");
        eprintln!("probe: err");
        build(host, request)
    }

    fn describe() -> Description {
        Description {
            name: "probe".into(),
            version: "1".into(),
            summary: "Uses every import.".into(),
            options: vec![("probe".into(), "`wasi`: look around".into())],
            subrequests: vec!["look".into()],
        }
    }
}

fn look_around() -> String {
    let (start, wall) = (Instant::now(), SystemTime::now());
    let spent = start.elapsed().as_nanos();
    format!(
        "wall {:?}, spent {spent}, hash {:x}, env {:?}, args {:?}, cwd {:?}, root {:?}, file {:?}",
        wall.duration_since(UNIX_EPOCH).ok(),
        RandomState::new().hash_one("x"),
        std::env::vars().collect::<Vec<_>>(),
        std::env::args().collect::<Vec<_>>(),
        std::env::current_dir().ok(),
        std::fs::read_dir("/").is_ok(),
        std::fs::read("/etc/passwd").is_ok(),
    )
}

fn build<H: Host>(host: &H, request: &Request) -> Result<BuildResult<H::Output>, BuildError> {
    let file = host.add_source("Probefile", "probe", b"one\ntwo\n");
    let locations = vec![SourceRange::lines(file, 1, 2)];
    let plain = OpMetadata::default();

    let platform = request.platforms.first();
    let image = host.resolve_image("busybox", platform, ResolveMode::Default, "look up busybox")?;
    let identifier = format!("docker-image://{}@{}", image.reference, image.digest);
    let base = host.source(&identifier, &[], platform, &plain)?;

    let exec = ExecOp {
        process: Process { args: vec!["/bin/true".into()], cwd: "/".into(), ..Process::default() },
        mounts: vec![Mount::root(Some(base.clone()))],
        network: NetworkMode::Default,
        security: SecurityMode::Sandbox,
        secret_env: Vec::new(),
        devices: Vec::new(),
    };
    let metadata = OpMetadata { name: Some("run true".into()), locations, ..plain.clone() };
    let ran = host
        .exec(&exec, platform, &metadata)?
        .pop()
        .ok_or_else(|| BuildError::new("exec: no output"))?;

    let snapshot = host.solve(&ran)?;
    let text = snapshot.read_file("etc/../etc/motd")?;
    let entries = snapshot.read_dir("/etc", "")?.len();
    let stat = snapshot.stat_file("/etc/motd")?;
    if stat.size != text.len() as u64 || entries != 1 {
        return Err(BuildError::new("snapshot: the answers do not fit together"));
    }
    if !matches!(snapshot.read_file("/missing"), Err(HostError::NotFound(_))) {
        return Err(BuildError::new("snapshot: a missing file is not `not-found`"));
    }

    let mkfile = MkfileAction { path: "/a".into(), mode: 0o644, data: text, ..Default::default() };
    let copy = CopyAction::new(ActionInput::Output(ran.clone()), "/etc/motd", "/b");
    let files = host.file(
        &[
            FileAction::intermediate(ActionInput::Scratch, ActionKind::Mkfile(mkfile)),
            FileAction::new(ActionInput::Action(0), ActionKind::Copy(copy)),
        ],
        &plain,
    )?;
    let input = host.named_input("other")?.ok_or_else(|| BuildError::new("no input"))?;
    let called = host.call_frontend("dockerfile", &[("target".into(), "x".into())])?;
    let diff = host
        .diff(Some(&base), Some(&ran), &plain)?
        .ok_or_else(|| BuildError::new("diff: no output"))?;
    let mut layers = vec![base, diff, input];
    layers.extend(files);
    layers.extend(called);
    let merged = host.merge(&layers, &plain)?;
    if host.from_definition(&[])?.is_some() {
        return Err(BuildError::new("an empty definition is not scratch"));
    }
    if !matches!(host.from_definition(&[vec![255; 9]]), Err(HostError::Invalid(_))) {
        return Err(BuildError::new("a definition of rubbish is not `invalid`"));
    }
    let nowhere = SourceRange::lines(7, 1, 1);
    let bad = OpMetadata { locations: vec![nowhere], ..OpMetadata::default() };
    if !matches!(host.source("docker-image://x", &[], None, &bad), Err(HostError::Invalid(_))) {
        return Err(BuildError::new("a location in no file is not `invalid`"));
    }
    host.warn(&Warning {
        short: "mind the gap".into(),
        locations: vec![SourceRange::lines(file, 2, 2), nowhere],
        ..Warning::default()
    });
    let results = request
        .platforms
        .iter()
        .map(|platform| PlatformResult {
            platform: platform.clone(),
            output: merged.clone(),
            config: image.config.clone(),
        })
        .collect();
    Ok(BuildResult { results, metadata: vec![("note".into(), b"done".to_vec())] })
}

cofferdam_sdk::export_frontend!(Probe);
