//! The standard streams of a step: what it reads from a pipe, and what a terminal of its own is.

#[expect(dead_code, reason = "the other suites use the rest")]
mod support;

use std::fs;
use std::time::Duration;

use bytes::Bytes;
use cofferdam_exec_linux::*;
use expect_test::{Expect, expect};
use support::Bench;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

async fn check_pipe(script: &str, input: &'static [u8], expected: Expect) {
    let bench = Bench::new();
    let (sender, receiver) = mpsc::channel(1);
    let feed = async move {
        for chunk in input.chunks(1 << 20) {
            // A step that has ended takes no more.
            _ = sender.send(Bytes::from_static(chunk)).await;
        }
    };
    let (output, ()) = tokio::join!(bench.run_with(bench.sh(script), Input::Pipe(receiver)), feed);
    expected.assert_eq(&output);
}

#[tokio::test]
async fn a_step_reads_a_pipe_to_its_end() {
    let end = expect![[r#"
        hello
        end
    "#]];
    check_pipe("cat; echo end", b"hello\n", end).await;
    check_pipe("cat; echo end", b"", expect!["end\n"]).await;
    static LARGE: [u8; 5 << 20] = [0; 5 << 20];
    check_pipe("cat | busybox wc -c", &LARGE, expect!["5242880\n"]).await;
    check_pipe("probe fds", b"", expect!["0 1 2 \n"]).await;
    // What is not read does not hold the step up.
    check_pipe("echo done", &LARGE, expect!["done\n"]).await;
    check_pipe("exec 0<&-; sleep 0; echo done", &LARGE, expect!["done\n"]).await;
}

#[tokio::test]
async fn a_step_ends_while_its_input_is_still_open() {
    let bench = Bench::new();
    let (sender, receiver) = mpsc::channel(1);
    assert_eq!(bench.run_with(bench.sh("echo done"), Input::Pipe(receiver)).await, "done\n");
    drop(sender);
}

#[tokio::test]
async fn the_streams_belong_to_the_steps_user() {
    let bench = Bench::new();
    let mut step = bench.sh("cat /dev/stdin > /dev/stdout; echo error > /dev/stderr");
    step.user = User { uid: 1000, gid: 1000, groups: vec![] };
    let (sender, receiver) = mpsc::channel(1);
    sender.try_send(Bytes::from_static(b"typed\n")).unwrap();
    drop(sender);
    assert_eq!(bench.run_with(step, Input::Pipe(receiver)).await, "typed\nerr: error\n");
}

const SIZE: TerminalSize = TerminalSize { columns: 91, rows: 17 };

/// A step that runs in a terminal.
struct Session {
    bench: Bench,
    events: mpsc::Sender<TerminalEvent>,
    output: mpsc::Receiver<(Stream, Bytes)>,
    step: tokio::task::JoinHandle<Result<Exit, Error>>,
    cancel: CancellationToken,
    seen: String,
}

impl Session {
    fn start(script: &str, change: impl FnOnce(&mut Step)) -> Self {
        let bench = Bench::new();
        let mut step = bench.sh(script);
        change(&mut step);
        let (events, receiver) = mpsc::channel(4);
        let (sender, output) = mpsc::channel(4);
        let input = Input::Terminal { size: SIZE, events: receiver };
        let (runner, cancel) = (bench.runner.clone(), CancellationToken::new());
        let token = cancel.clone();
        let step = tokio::spawn(async move {
            runner.run(step, Streams { input, output: sender }, token).await
        });
        Self { bench, events, output, step, cancel, seen: String::new() }
    }

    async fn typed(&self, text: &'static str) {
        let typed = TerminalEvent::Typed(Bytes::from_static(text.as_bytes()));
        self.events.send(typed).await.unwrap();
    }

    /// Waits until the terminal shows a text, which is then forgotten with all before it.
    async fn shows(&mut self, text: &str) {
        while !self.seen.contains(text) {
            let Some((stream, bytes)) = self.output.recv().await else {
                panic!("it ended without showing {text:?}: {:?}", self.seen);
            };
            assert_eq!(stream, Stream::Stdout);
            self.seen.push_str(std::str::from_utf8(&bytes).unwrap());
        }
        let end = self.seen.find(text).unwrap() + text.len();
        self.seen.drain(..end);
    }

    /// Waits for the end; gives what the terminal still showed.
    async fn end(mut self) -> (String, Result<Exit, Error>) {
        while let Some((_, bytes)) = self.output.recv().await {
            self.seen.push_str(std::str::from_utf8(&bytes).unwrap());
        }
        (self.seen, self.step.await.unwrap())
    }
}

async fn check_terminal(script: &str, change: impl FnOnce(&mut Step), expected: Expect) {
    let (shown, exit) = Session::start(script, change).end().await;
    expected.assert_eq(&format!("{}{exit:?}\n", shown.replace('\r', "")));
}

#[tokio::test]
async fn a_terminal_is_the_steps_own() {
    let script = "busybox tty; ls -1 /dev/pts; busybox stty size; probe fds; echo err >&2
        for i in 0 1 2; do test -t $i || echo no terminal $i; done; echo > /dev/tty direct
        read -r pid name state ppid group session tty foreground rest < /proc/self/stat
        echo session $session terminal $tty; stat -c %u:%g:%a /dev/pts/0; exit 3";
    let root = expect![[r#"
        /dev/pts/0
        0
        ptmx
        17 91
        0 1 2 
        err
        direct
        session 1 terminal 34816
        0:5:620
        Ok(Code(3))
    "#]];
    check_terminal(script, |_| (), root).await;
    let user = |step: &mut Step| step.user = User { uid: 1000, gid: 1000, groups: vec![] };
    let script = "stat -c %u:%g:%a /dev/pts/0; echo > $(busybox tty) by name";
    let own = expect![[r#"
        1000:5:620
        by name
        Ok(Code(0))
    "#]];
    check_terminal(script, user, own).await;
}

#[tokio::test]
async fn what_a_terminal_showed_last_is_not_lost() {
    let script = "i=0; while test $i -lt 5000; do echo line $i; i=$((i+1)); done";
    let (shown, exit) = Session::start(script, |_| ()).end().await;
    assert_eq!(exit.unwrap(), Exit::Code(0));
    assert_eq!(shown.lines().count(), 5000);
    assert!(shown.ends_with("line 4999\r\n"), "{shown:?}");
}

#[tokio::test]
async fn keys_and_sizes_reach_the_foreground() {
    // A signal may come before or while it sleeps.
    let script = "trap 'interrupted=1' INT; trap 'resized=1' WINCH
        echo up; until test $interrupted; do sleep 1; done; echo interrupted
        until test $resized; do sleep 1; done; busybox stty size
        read -r line; echo read $line";
    let mut session = Session::start(script, |_| ());
    session.shows("up\r\n").await;
    session.typed("\x03").await;
    session.shows("interrupted\r\n").await;
    let size = TerminalSize { columns: 133, rows: 44 };
    session.events.send(TerminalEvent::Resized(size)).await.unwrap();
    session.shows("44 133\r\n").await;
    session.typed("a line\n").await;
    session.shows("read a line\r\n").await;
    let (rest, exit) = session.end().await;
    assert_eq!((rest.as_str(), exit.unwrap()), ("", Exit::Code(0)));
}

#[tokio::test]
async fn an_interactive_shell_controls_its_jobs() {
    let shell = |step: &mut Step| step.args = vec!["/bin/sh".into(), "-i".into()];
    let mut session = Session::start("", shell);
    // By then the shell has put the job in the foreground.
    session.typed("sh -c 'echo started; sleep 1000'\n").await;
    session.shows("started\r\n").await;
    session.typed("\x1a").await;
    session.shows("Stopped").await;
    session.typed("kill -9 %1; wait; exec sh -c 'echo job gone; exit 5'\n").await;
    session.shows("job gone\r\n").await;
    assert_eq!(session.end().await.1.unwrap(), Exit::Code(5));
}

/// The pseudo-terminals that this process has open.
fn terminals() -> usize {
    let links = fs::read_dir("/proc/self/fd").unwrap();
    let open = links.filter_map(|link| fs::read_link(link.ok()?.path()).ok());
    open.filter(|path| path.to_string_lossy().contains("ptmx")).count()
}

#[tokio::test]
async fn a_terminal_goes_with_its_step() {
    let mut session = Session::start("echo up; exec sleep 1000", |_| ());
    session.shows("up").await;
    assert!(terminals() > 0);
    session.cancel.cancel();
    let runner = session.bench.runner.clone();
    assert!(matches!(session.end().await.1, Err(Error::Cancelled)));
    runner.idle().await;
    let missing = |step: &mut Step| step.args = vec!["nothing".into()];
    let (_, exit) = Session::start("", missing).end().await;
    assert!(matches!(exit, Err(Error::ProgramNotFound(_))), "{exit:?}");
    // Those of the tests beside this one end, too.
    while terminals() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
