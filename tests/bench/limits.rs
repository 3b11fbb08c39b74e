//! What this machine needs for the work that nobody can leave out, measured in the same run as
//! what is compared with it: the floor under the curves of `growth`.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::machine::files;

/// More processes than this are not started: the time of so many is scaled.
const PROCESSES: usize = 500;

/// Seconds for starting so many processes that do nothing, on all cores.
///
/// # Errors
/// `true` cannot be started.
pub fn processes(count: usize) -> Result<f64> {
    let started = count.min(PROCESSES);
    let seconds = on_all_cores(started, |_| {
        let status = Command::new("true").stdin(Stdio::null()).status()?;
        if !status.success() { bail!("`true` failed") } else { Ok(()) }
    })?;
    Ok(seconds * count as f64 / started as f64)
}

/// Seconds for writing so many small files and renaming each to its place, one after the other.
///
/// # Errors
/// They cannot be written.
pub fn commits(count: usize) -> Result<f64> {
    let directory = tempfile::tempdir()?;
    let start = Instant::now();
    for number in 0..count {
        let making = directory.path().join("making");
        fs::write(&making, [0; 100])?;
        fs::rename(&making, directory.path().join(number.to_string()))?;
    }
    Ok(start.elapsed().as_secs_f64())
}

/// Seconds for reading and hashing every file below a directory and writing its bytes once, into
/// one file, on all cores.
///
/// # Errors
/// They cannot be read or written.
pub fn copy(directory: &Path) -> Result<f64> {
    let files = files(directory)?;
    let target = tempfile::tempdir()?;
    let output = File::create(target.path().join("pack"))?;
    let end = AtomicU64::new(0);
    on_all_cores(files.len(), |index| {
        let mut file = File::open(&files[index])?;
        let mut at = end.fetch_add(file.metadata()?.len(), Ordering::Relaxed);
        let (mut hasher, mut buffer) = (Sha256::new(), vec![0; 256 << 10]);
        loop {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
            output.write_all_at(&buffer[..count], at)?;
            at += count as u64;
        }
        std::hint::black_box(hasher.finalize());
        Ok(())
    })
}

/// Seconds for so many small requests to a registry, one after the other on one connection.
///
/// # Errors
/// It does not answer.
pub fn requests(registry: SocketAddr, count: usize) -> Result<f64> {
    let start = Instant::now();
    let mut stream = TcpStream::connect(registry)?;
    stream.set_nodelay(true)?;
    let mut answer = vec![0; 4096];
    for _ in 0..count {
        stream.write_all(format!("GET /v2/ HTTP/1.1\r\nHost: {registry}\r\n\r\n").as_bytes())?;
        // So short an answer comes in one piece.
        let length = stream.read(&mut answer)?;
        if !answer[..length].starts_with(b"HTTP/1.1 200") {
            bail!("the registry gave another answer than 200");
        }
    }
    Ok(start.elapsed().as_secs_f64())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn on_all_cores(count: usize, work: impl Fn(usize) -> Result<()> + Sync) -> Result<f64> {
    let start = Instant::now();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..cores())
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        if index >= count {
                            return Ok(());
                        }
                        work(index)?;
                    }
                })
            })
            .collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a worker does not panic"))
    })
    .context("a floor cannot be measured")?;
    Ok(start.elapsed().as_secs_f64())
}
