//! A program in a failed step, connected with this program's standard streams or its terminal.

use std::future::pending;
use std::io::{self, Write as _};
use std::pin::pin;
use std::time::{Duration, Instant};

use cofferdam_build::{
    Engine, Entry, FailedStep, Input, OutputStream, StepExit, Streams, TerminalEvent,
};
use cofferdam_session::Session;
use rustix::process::{Signal, getpid, kill_process};
use rustix::stdio::stdin;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use crate::error::{Error, exit};
use crate::raw_terminal::{self, Raw};
use crate::run;

/// The key (Ctrl-]) that ends the program from outside when it is pressed so many times within
/// so long, as in systemd-nspawn: a program that is process 1 can ignore all others.
const ESCAPE: (u8, usize, Duration) = (0x1d, 3, Duration::from_secs(1));
/// The exit code of what writes to a pipe that nobody reads: a shell's for SIGPIPE.
const BROKEN_PIPE: u8 = 128 + 13;
/// How much is read at once.
const CHUNK: usize = 64 * 1024;

/// Runs a program in a step and gives the exit code.
///
/// # Errors
/// When it cannot be run, or its output cannot be written.
pub async fn enter(
    engine: &Engine,
    failed: &FailedStep,
    mut entry: Entry,
    session: &dyn Session,
    terminal: bool,
) -> Result<u8, Error> {
    let interrupted = run::listen()?;
    let (output, written) = write_output();
    let (mut ended, terminal) = match terminal {
        true => {
            if let Ok(term) = std::env::var("TERM") {
                entry.env.push(format!("TERM={term}"));
            }
            let (events, receiver) = mpsc::channel(16);
            let ended = read_keys(events.clone());
            (Some(ended), Some((events, receiver)))
        }
        false => (None, None),
    };
    let (events, input) = match terminal {
        Some((sender, events)) => {
            (Some(sender), Input::Terminal { size: raw_terminal::size(), events })
        }
        None => (None, Input::Pipe(read_bytes())),
    };
    let run = engine.enter(failed, entry, session, Streams { input, output });
    let followed = async {
        match events {
            Some(events) => follow(events).await,
            None => pending().await,
        }
    };
    let escaped = async {
        match &mut ended {
            Some(ended) => _ = ended.await,
            None => pending().await,
        }
    };
    let (mut run, mut written) = (pin!(run), pin!(written));
    let (mut followed, mut escaped) = (pin!(followed), pin!(escaped));
    let (mut interrupted, mut all_written) = (pin!(interrupted), false);
    loop {
        tokio::select! {
            exit = &mut run => {
                let exit = exit?;
                if !all_written {
                    // What it wrote last. Its exit code counts, not whether that is still read.
                    let _ = written.await;
                }
                return Ok(code(exit));
            }
            result = &mut written, if !all_written => match result {
                Ok(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                    return Ok(BROKEN_PIPE);
                }
                Ok(Err(source)) => {
                    let path = "/dev/stdout".into();
                    return Err(Error::File { action: "write to", path, source });
                }
                // The streams end before the step has.
                _ => all_written = true,
            },
            result = &mut followed => return result,
            () = &mut escaped => return Ok(exit::INTERRUPTED),
            _ = &mut interrupted => return Ok(exit::INTERRUPTED),
        }
    }
}

/// The exit code by which a shell tells how a program ended.
fn code(exit: StepExit) -> u8 {
    match exit {
        StepExit::Code(code) => code as u8,
        StepExit::Signal(signal) => 128u8.wrapping_add(signal as u8),
        StepExit::OutOfMemory => 137,
    }
}

/// Keeps the terminal raw, and tells of its size, until this program is to quit.
async fn follow(events: mpsc::Sender<TerminalEvent>) -> Result<u8, Error> {
    let listen = |kind| signal(kind).map_err(configuration);
    let mut resized = listen(SignalKind::window_change())?;
    let mut quit = listen(SignalKind::quit())?;
    let mut stopped = listen(SignalKind::from_raw(Signal::TSTP.as_raw()))?;
    let mut continued = listen(SignalKind::from_raw(Signal::CONT.as_raw()))?;
    let raw = Raw::start().map_err(configuration)?;
    loop {
        tokio::select! {
            _ = resized.recv() => {}
            _ = continued.recv() => raw.resume().map_err(configuration)?,
            _ = stopped.recv() => {
                raw_terminal::restore();
                // Cannot fail, and returns when this program is continued.
                let _ = kill_process(getpid(), Signal::STOP);
            }
            _ = quit.recv() => return Ok(exit::INTERRUPTED),
        }
        // While nothing takes them, sizes may be lost but for the last, which is asked for then.
        let _ = events.send(TerminalEvent::Resized(raw_terminal::size())).await;
    }
}

fn configuration(error: io::Error) -> Error {
    Error::Configuration(format!("cannot use the terminal: {error}"))
}

/// Writes what comes to standard output and error, by a thread that may block.
fn write_output() -> (mpsc::Sender<(OutputStream, bytes::Bytes)>, oneshot::Receiver<io::Result<()>>)
{
    let (sender, mut receiver) = mpsc::channel::<(OutputStream, bytes::Bytes)>(16);
    let (tell, told) = oneshot::channel();
    std::thread::spawn(move || {
        let mut write = || {
            while let Some((stream, bytes)) = receiver.blocking_recv() {
                match stream {
                    OutputStream::Stdout => {
                        let mut stdout = io::stdout().lock();
                        stdout.write_all(&bytes)?;
                        stdout.flush()?;
                    }
                    OutputStream::Stderr => io::stderr().write_all(&bytes)?,
                }
            }
            Ok(())
        };
        // Nobody listens when the program ends for another reason.
        let _ = tell.send(write());
    });
    (sender, told)
}

/// Reads standard input to its end, by a thread that may block as long as the program runs.
fn read_bytes() -> mpsc::Receiver<bytes::Bytes> {
    let (sender, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        read(|bytes| sender.blocking_send(bytes.to_vec().into()).is_ok());
    });
    receiver
}

/// Reads what is typed; tells when the user wants out or the terminal is gone.
fn read_keys(events: mpsc::Sender<TerminalEvent>) -> oneshot::Receiver<()> {
    let (tell, told) = oneshot::channel();
    std::thread::spawn(move || {
        let mut escape = Escape::default();
        read(|bytes| {
            if escape.is_pressed(bytes, Instant::now()) {
                return false;
            }
            events.blocking_send(TerminalEvent::Typed(bytes.to_vec().into())).is_ok()
        });
        // Nobody listens when the program has ended.
        let _ = tell.send(());
    });
    told
}

/// Hands on what standard input gives, until its end or until it is not wanted.
fn read(mut wanted: impl FnMut(&[u8]) -> bool) {
    let mut buffer = vec![0; CHUNK];
    loop {
        match rustix::io::read(stdin(), &mut buffer[..]) {
            Ok(0) => return,
            Ok(count) => {
                if !wanted(&buffer[..count]) {
                    return;
                }
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

/// Notices the key that ends a program from outside.
#[derive(Default)]
struct Escape {
    pressed: Vec<Instant>,
}

impl Escape {
    fn is_pressed(&mut self, keys: &[u8], now: Instant) -> bool {
        let (key, times, within) = ESCAPE;
        for pressed in keys {
            match *pressed == key {
                true => self.pressed.push(now),
                false => self.pressed.clear(),
            }
            self.pressed.retain(|at| now.duration_since(*at) <= within);
            if self.pressed.len() >= times {
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_escape_is_three_keys_in_a_row_and_in_time() {
        let start = Instant::now();
        let check = |presses: &[(&[u8], u64)]| {
            let mut escape = Escape::default();
            let at = |millis: &u64| start + Duration::from_millis(*millis);
            presses.iter().any(|(keys, millis)| escape.is_pressed(keys, at(millis)))
        };
        assert!(check(&[(b"\x1d\x1d\x1d", 0)]));
        assert!(check(&[(b"a\x1d", 0), (b"\x1d", 400), (b"\x1d", 900)]));
        assert!(!check(&[(b"\x1d\x1da\x1d", 0)]));
        assert!(!check(&[(b"\x1d\x1d", 0), (b"\x1d", 1500)]));
        assert!(check(&[(b"\x1d\x1d", 0), (b"\x1d\x1d", 1500), (b"\x1d", 1600)]));
    }

    #[test]
    fn exit_codes_are_those_of_a_shell() {
        assert_eq!(code(StepExit::Code(3)), 3);
        assert_eq!(code(StepExit::Signal(11)), 139);
        assert_eq!(code(StepExit::OutOfMemory), 137);
    }
}
