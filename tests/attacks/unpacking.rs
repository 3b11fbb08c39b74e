//! What unpacking costs: bombs, and layers on which the work grows faster than the layer.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cofferdam_tests::cofferdam::exit;
use cofferdam_tests::command::{command, run};
use cofferdam_tests::oci::Compression;
use cofferdam_tests::tree::TarWriter;
use cofferdam_tests::{Context, Layout, bases};

use crate::hostile::Archive;
use crate::{World, check_end, rounds, works};

/// What a run of the program took.
pub(crate) struct Taken {
    pub(crate) status: ExitStatus,
    pub(crate) said: String,
    /// Seconds of processor time, its helpers' too.
    pub(crate) seconds: f64,
    /// The most memory that it or a helper had, in bytes.
    pub(crate) memory: u64,
}

/// Builds a context, and says what that took.
pub(crate) fn measured(world: &World, context: &Context, arguments: &[&str]) -> Result<Taken> {
    let busybox = format!("busybox=oci-layout://{}:latest", bases::busybox()?.path.display());
    let mut command = world.cofferdam.command();
    command.arg("build").arg("--root").arg(world.cofferdam.root()).args(["--progress", "plain"]);
    command.arg("--build-context").arg(busybox).args(arguments).arg(context.path());
    let taken = measure(&mut command)?;
    check_end(taken.status.code(), &taken.said);
    Ok(taken)
}

fn measure(command: &mut Command) -> Result<Taken> {
    let log = tempfile::NamedTempFile::new()?;
    command.stdout(log.reopen()?).stderr(log.reopen()?);
    let child = command.spawn()?;
    let pid = i32::try_from(child.id())?;
    let mut status = 0;
    // SAFETY: all-zero bytes are a valid `rusage`.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both are valid for writing, and the child is waited for nowhere else.
    let waited = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
    ensure!(waited == pid, "the program is gone: {}", std::io::Error::last_os_error());
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    Ok(Taken {
        status: ExitStatus::from_raw(status),
        said: fs::read_to_string(log.path())?,
        seconds: seconds(usage.ru_utime) + seconds(usage.ru_stime),
        memory: u64::try_from(usage.ru_maxrss)? * 1024,
    })
}

/// A layer of so many entries.
type Layer = fn(usize) -> Vec<u8>;

fn one_directory(count: usize) -> Vec<u8> {
    let mut archive = Archive::new();
    for number in 0..count {
        archive.file(&format!("all/{number}"), b"");
    }
    archive.finish()
}

fn hard_links(count: usize) -> Vec<u8> {
    let mut archive = Archive::new();
    archive.file("all/first", b"contents");
    for number in 0..count {
        archive.hard_link(&format!("all/{number}"), "all/first");
    }
    archive.finish()
}

fn deep_paths(count: usize) -> Vec<u8> {
    // As deep as the longest path, again and again.
    let directory = "d/".repeat(1000);
    let mut archive = Archive::new();
    for number in 0..count / 100 {
        archive.file(&format!("{directory}{number}"), b"");
    }
    archive.finish()
}

fn whiteouts(count: usize) -> Vec<u8> {
    let mut archive = Archive::new();
    for number in 0..count {
        archive.file(&format!("all/.wh.{number}"), b"");
    }
    archive.finish()
}

fn replaced(count: usize) -> Vec<u8> {
    let mut archive = Archive::new();
    for _ in 0..count / 2 {
        archive.symlink("all/x", "y").file("all/x", b"");
    }
    archive.finish()
}

/// A layer is made such that unpacking it goes over the same directory again for every entry. Four
/// times the entries must not take more than four times the processor time, and half as much
/// again; what a build takes without the layer is left out.
#[test]
fn ghsa_rp3h_jf77_q9p4_unpacking_grows_with_the_square() -> Result<()> {
    let layers: [(&str, Layer, usize, &str); 7] = [
        ("one directory, kept", one_directory, 30_000, "COPY --from=evil /bin/true /t"),
        ("one directory, mounted", one_directory, 5_000, "RUN --mount=from=evil,target=/m true"),
        ("hard links, kept", hard_links, 30_000, "COPY --from=evil /bin/true /t"),
        ("hard links, mounted", hard_links, 5_000, "RUN --mount=from=evil,target=/m true"),
        ("deep paths", deep_paths, 30_000, "COPY --from=evil /bin/true /t"),
        ("whiteouts", whiteouts, 30_000, "COPY --from=evil /bin/true /t"),
        ("replaced again and again", replaced, 30_000, "COPY --from=evil /bin/true /t"),
    ];
    for (name, layer, count, instruction) in layers {
        let count = count * rounds();
        let costs = || -> Result<[f64; 3]> {
            let world = World::new()?;
            let context = Context::new(&format!("FROM busybox\n{instruction}\n"))?;
            // Another image each time, of which nothing is known.
            let cost = |at: usize, count: usize| -> Result<f64> {
                let base =
                    world.image(&format!("evil{at}"), serde_json::json!({}), &[layer(count)])?;
                let base = base.replacen(&format!("evil{at}="), "evil=", 1);
                let taken = measured(&world, &context, &["--build-context", &base])?;
                ensure!(taken.status.success(), "{name}: {}", taken.said);
                Ok(taken.seconds)
            };
            let _ = cost(0, 1)?;
            Ok([cost(1, 2)?, cost(2, count)?, cost(3, 4 * count)?])
        };
        // What is small is all noise, and others use this machine too, which only ever adds to a
        // cost: the least of each counts.
        let growth = |[without, small, large]: [f64; 3]| (small - without, large - without);
        let too_much =
            |(small, large): (f64, f64)| large > 0.5 && large > 4.0 * 1.5 * small.max(0.05);
        let mut least = costs()?;
        for _ in 0..2 {
            if too_much(growth(least)) {
                let again = costs()?;
                least = std::array::from_fn(|at| least[at].min(again[at]));
            }
        }
        let (small, large) = growth(least);
        eprintln!("{name}: {small:.3} s for {count}, {large:.3} s for {}", 4 * count);
        if too_much((small, large)) {
            works(format!("{name}: {count} entries take {small} s, four times as many {large} s"));
        }
    }
    Ok(())
}

/// A megabyte that becomes gigabytes: in memory, or until the disk is full. The limit of storage
/// ends it, and memory stays what it was.
#[test]
fn tar_set_gzip_bombs_end_at_the_limit_of_storage() -> Result<()> {
    const BOMB: u64 = 512 << 20;
    let world = World::new()?;
    let ordinary = Context::new("FROM busybox\nADD x.tar.gz /\nRUN true\n")?;
    ordinary.file("x.tar.gz", crate::hostile::gzip(&Archive::new().file("f", b"x").finish()))?;
    let usual = measured(&world, &ordinary, &[])?;
    ensure!(usual.status.success(), "{}", usual.said);
    world.cofferdam.settle()?;

    let bomb = bomb(BOMB)?;
    assert!((bomb.len() as u64) < BOMB / 100);
    let added = Context::new("FROM busybox\nADD x.tar.gz /\nRUN true\n")?;
    added.file("x.tar.gz", &bomb)?;
    let directory = world.images.path().join("bomb");
    let layout = Layout::create(&directory)?;
    let plain = flate2::read::GzDecoder::new(&bomb[..]);
    let layer = layout.add_layer(plain, Compression::Gzip)?;
    let architecture = bases::oci_architecture()?;
    let manifest = layout.add_image(&architecture, serde_json::json!({}), &[layer])?;
    layout.tag("latest", &[manifest])?;
    let evil = format!("evil=oci-layout://{}:latest", directory.display());
    let based = Context::new("FROM busybox\nCOPY --from=evil /zeros /zeros\nRUN true\n")?;
    let mounted = Context::new("FROM busybox\nRUN --mount=from=evil,target=/m true\n")?;
    for (context, arguments) in [
        (&added, vec!["--max-storage", "128m"]),
        (&based, vec!["--max-storage", "128m", "--build-context", &evil]),
        (&mounted, vec!["--max-storage", "128m", "--build-context", &evil]),
    ] {
        let (taken, most) = watched(&world, || measured(&world, context, &arguments))?;
        if most > 384 << 20 {
            works(format!("a bomb takes {most} bytes of storage"));
        }
        if taken.status.code() == Some(exit::OK) {
            works("a bomb goes off in 128 MiB of storage");
        }
        let more = taken.memory.saturating_sub(usual.memory);
        if more > 128 << 20 {
            works(format!("a bomb takes {more} bytes of memory"));
        }
        assert!(taken.said.contains("storage"), "{}", taken.said);
        world.cofferdam.settle()?;
        let kept = run(command("du", ["-sb"]).arg(world.cofferdam.root()))?;
        let kept: u64 = kept.split_whitespace().next().context("du says a number")?.parse()?;
        if kept > 256 << 20 {
            works(format!("{kept} bytes are left of a bomb"));
        }
    }
    Ok(())
}

/// Does something, and says how many bytes the state directory had at most meanwhile.
fn watched<T>(world: &World, act: impl FnOnce() -> Result<T>) -> Result<(T, u64)> {
    let done = AtomicBool::new(false);
    let root = world.cofferdam.root();
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut most = 0;
            while !done.load(Ordering::Relaxed) {
                // Files come and go while it looks.
                let output = command("du", ["-s", "--block-size=1"]).arg(&root).output();
                let said = output.map(|output| output.stdout).unwrap_or_default();
                let said = String::from_utf8_lossy(&said);
                let bytes = said.split_whitespace().next().and_then(|bytes| bytes.parse().ok());
                most = bytes.unwrap_or(0).max(most);
                thread::sleep(Duration::from_millis(100));
            }
            most
        });
        let result = act();
        done.store(true, Ordering::Relaxed);
        Ok((result?, watch.join().unwrap_or(u64::MAX)))
    })
}

/// A gzipped archive of one file of so many zeros.
fn bomb(size: u64) -> Result<Vec<u8>> {
    use std::io::{Read as _, Write as _};
    let mut tar = TarWriter::new();
    tar.file("before", 0o644, b"")?;
    let mut archive = Archive::new();
    let digits = format!("{size:011o}");
    archive.header(crate::hostile::Header {
        name: b"zeros",
        size: digits.as_bytes(),
        ..Default::default()
    });
    let header = archive.finish();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(&header[..512])?;
    std::io::copy(&mut std::io::repeat(0).take(size), &mut encoder)?;
    encoder.write_all(&[0; 1024])?;
    Ok(encoder.finish()?)
}

/// A step makes directories in one another, deeper than any path can name. What cannot be named
/// cannot be counted or removed by name either: it would stay in the state directory for ever, and
/// a walk that calls itself for each level would end the engine.
#[test]
fn rustsec_2023_0018_directories_too_deep_to_remove() -> Result<()> {
    let world = World::new()?;
    let dockerfile = "FROM busybox\nCOPY attacker /bin/\n\
                      RUN --mount=type=cache,target=/c cd WHERE && attacker deep 3000\n";
    for place in ["/", "/c"] {
        let _ = world.run(&dockerfile.replace("WHERE", place), &[])?;
        let again = world.run("FROM busybox\nRUN echo lives on\n", &["--no-cache"])?.succeeded();
        assert_eq!(again.log(), "lives on\n");
        world.cofferdam.settle()?;
        let pruned = world.command(&["prune", "--all"], b"")?;
        ensure!(pruned.status.success(), "{}", String::from_utf8_lossy(&pruned.stderr));
        world.cofferdam.settle()?;
        let find = ["-mindepth", "1", "-type", "d", "-name", "d", "-printf", "x\n", "-quit"];
        let left = run(command("find", [world.cofferdam.root()]).args(find))?;
        if !left.is_empty() {
            works(format!("directories made at {place} are still there after a prune"));
        }
    }
    // As deep as a path can be: this a build can keep.
    for depth in [1000, 1900] {
        let dockerfile = format!(
            "FROM busybox AS made\nCOPY attacker /bin/\nRUN attacker deep {depth}\n\
             FROM busybox\nCOPY --from=made /d /d\nRUN ls /d/d/d\n"
        );
        let out = world.images.path().join("out");
        let _ = world.run(&dockerfile, &["--output", &out.display().to_string()])?;
        if out.exists() {
            run(command("rm", ["-rf"]).arg(&out))?;
        }
    }
    Ok(())
}
