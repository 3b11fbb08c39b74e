//! Ctrl-C: ends every process of every step, leaves nothing mounted, and the next build works.

use std::fs;
use std::io::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cofferdam_tests::cofferdam::exit;
use cofferdam_tests::command::{command, run};
use cofferdam_tests::{Context, Fault, FaultyRegistry};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::World;

/// The processes of this machine whose command line contains this text.
pub(crate) fn processes(text: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let lines = entries.flatten().filter_map(|entry| {
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " "))
    });
    lines.filter(|line| line.contains(text)).collect()
}

#[test]
fn an_interrupt_ends_every_process_and_leaves_nothing_mounted() -> Result<()> {
    let world = World::new()?;
    // A number that no other process of this machine sleeps for.
    let marker = format!("9{:07}", std::process::id());
    let context = Context::new(&format!(
        "ARG REGISTRY\nFROM ${{REGISTRY}}/busybox AS base\n\
         FROM base AS one\n\
         RUN trap '' INT TERM; sleep {marker} & setsid sh -c 'sleep {marker}' & \
             echo one-is-ready; sleep {marker}\n\
         FROM base AS two\nRUN echo two-is-ready; sleep {marker}\n\
         FROM scratch\nCOPY --from=one / /\nCOPY --from=two / /\n"
    ))?;
    let mut build = world.build(&context).spawn()?;
    build.wait_for_log("one-is-ready")?;
    build.wait_for_log("two-is-ready")?;
    assert!(!processes(&marker).is_empty(), "the steps are not to be seen in /proc");
    build.interrupt()?;
    let ended = build.finish()?;
    assert_eq!(ended.code, Some(exit::INTERRUPTED), "{}", ended.report());
    let canceled = ended.steps().into_iter().filter(|step| step.canceled).count();
    assert_eq!(canceled, 2, "{}", ended.report());
    assert_eq!(processes(&marker), Vec::<String>::new(), "processes are left");
    assert_eq!(world.cofferdam.mounts(), Vec::<String>::new(), "mounts are left");

    let context = Context::new("ARG REGISTRY\nFROM ${REGISTRY}/busybox\nRUN echo works\n")?;
    assert!(world.build(&context).run()?.succeeded().log().contains("works"));
    Ok(())
}

#[test]
pub(crate) fn processes_that_a_step_leaves_behind_end_with_it() -> Result<()> {
    let world = World::new()?;
    let marker = format!("8{:07}", std::process::id());
    let context = Context::new(&format!(
        "ARG REGISTRY\nFROM ${{REGISTRY}}/busybox\nRUN setsid sleep {marker} & echo left it\n"
    ))?;
    let _ = world.build(&context).run()?.succeeded();
    assert_eq!(processes(&marker), Vec::<String>::new());
    assert_eq!(world.cofferdam.mounts(), Vec::<String>::new());
    Ok(())
}

#[test]
fn a_failing_step_ends_the_steps_beside_it() -> Result<()> {
    let world = World::new()?;
    let marker = format!("7{:07}", std::process::id());
    let context = Context::new(&format!(
        "ARG REGISTRY\nFROM ${{REGISTRY}}/busybox AS base\n\
         FROM base AS one\nRUN sleep {marker}\n\
         FROM base AS two\nRUN sleep 1; exit 9\n\
         FROM scratch\nCOPY --from=one / /\nCOPY --from=two / /\n"
    ))?;
    let _ = world.build(&context).run()?.ended(exit::BUILD);
    assert_eq!(processes(&marker), Vec::<String>::new());
    Ok(())
}

#[test]
fn no_thread_is_detached_while_it_ends() -> Result<()> {
    let world = World::new()?;
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/programs/detach.c");
    let library = world.out.path().join("detach.so");
    let mut compile = command("cc", ["-shared", "-fPIC", "-O1", "-o"]);
    run(compile.arg(&library).arg(source).arg("-ldl"))?;
    let context = Context::new("FROM scratch\nCOPY Dockerfile /\n")?;
    let _ = world.build(&context).env("LD_PRELOAD", &library).run()?.succeeded();
    Ok(())
}

/// The end of what is long after an interrupt, on a busy machine; a second is what is promised.
const SOON: Duration = Duration::from_secs(30);

/// Work of the engine's own that takes long, and is interrupted.
struct Long {
    /// Part of the name of the step that takes long.
    step: &'static str,
    dockerfile: &'static str,
    arguments: &'static [&'static str],
    fill: fn(&Context) -> Result<()>,
    /// What the registry does that makes it long.
    fault: Option<(&'static str, Fault)>,
}

const LONG: [Long; 5] = [
    Long {
        step: "FROM",
        dockerfile: "ARG REGISTRY\nFROM ${REGISTRY}/busybox\nRUN true\n",
        arguments: &[],
        fill: |_| Ok(()),
        fault: Some(("GET /blobs/", Fault::Stall(300_000))),
    },
    Long {
        step: "load build context",
        dockerfile: "FROM scratch\nCOPY endless /\n",
        arguments: &[],
        fill: |context| {
            // Has no blocks, and is read and hashed all the same.
            fs::File::create(context.path().join("endless"))?.set_len(8 << 30)?;
            Ok(())
        },
        fault: None,
    },
    Long {
        step: "ADD endless.tar.gz",
        dockerfile: "FROM scratch\nADD endless.tar.gz /\n",
        arguments: &[],
        fill: endless_archive,
        fault: None,
    },
    Long {
        step: "exporting",
        dockerfile: "FROM scratch\nCOPY hard /\n",
        arguments: &["--output", "type=oci,dest=/dev/null,compression=zstd,compression-level=22"],
        fill: |context| {
            let mut state = 1u32;
            let letters = std::iter::repeat_with(|| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                b"etaoin shrdlu.,\n"[(state >> 28) as usize]
            });
            context.file("hard", letters.take(128 << 20).collect::<Vec<u8>>())?;
            Ok(())
        },
        fault: None,
    },
    Long {
        step: "exporting",
        dockerfile: "FROM scratch\nCOPY Dockerfile /\n",
        arguments: &["--push", "--tag", "${REGISTRY}/pushed:1"],
        fill: |_| Ok(()),
        fault: Some(("PUT /manifests/", Fault::Silent)),
    },
];

/// A small archive with one file of 8 GiB.
fn endless_archive(context: &Context) -> Result<()> {
    let member = |data: &[u8]| -> Result<Vec<u8>> {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(data)?;
        Ok(gzip.finish()?)
    };
    let mut header = tar::Header::new_gnu();
    header.set_path("endless")?;
    header.set_size(8 << 30);
    header.set_mode(0o644);
    header.set_cksum();
    let mut archive = member(header.as_bytes())?;
    // A gzip file may have many members, one after the other.
    let zeros = member(&vec![0; 64 << 20])?;
    (0..128).for_each(|_| archive.extend_from_slice(&zeros));
    context.file("endless.tar.gz", archive)?;
    Ok(())
}

#[test]
fn an_interrupt_ends_whatever_the_engine_does() -> Result<()> {
    for Long { step, dockerfile, arguments, fill, fault } in LONG {
        let world = World::new()?;
        let proxy = FaultyRegistry::start(&world.registry)?;
        if let Some((request, fault)) = fault {
            proxy.spoil(request, fault, usize::MAX);
        }
        let context = Context::new(dockerfile)?;
        fill(&context)?;
        let address = proxy.address().to_string();
        let mut build = world.cofferdam.build(context.path()).build_arg("REGISTRY", &address);
        for argument in arguments {
            build = build.arg(argument.replace("${REGISTRY}", &address));
        }
        let mut build = build.spawn()?;
        build.wait_for_step(step)?;
        thread::sleep(Duration::from_millis(500));
        let interrupted = Instant::now();
        build.interrupt()?;
        let ended = build.finish()?;
        let took = interrupted.elapsed();
        let report = ended.report();
        ensure!(took < SOON, "{step}: it took {took:?} to end:\n{report}");
        assert_eq!(ended.code, Some(exit::INTERRUPTED), "{step}:\n{report}");
        let canceled =
            |found: &cofferdam_tests::progress::Step| found.canceled && found.name.contains(step);
        assert!(ended.steps().iter().any(canceled), "{step} is not canceled:\n{report}");
        let root = world.cofferdam.root();
        let mut verify = world.cofferdam.command();
        let verified = verify.args(["store", "verify", "--root"]).arg(&root).output()?;
        assert!(verified.status.success(), "{step}: {verified:?}");
        let next = Context::new("FROM scratch\nCOPY Dockerfile /\n")?;
        let _ = world.build(&next).run()?.succeeded();
    }
    Ok(())
}
