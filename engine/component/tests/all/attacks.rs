//! Hostile components: each is stopped with an error that says why, and nobody else notices.

use std::time::Duration;

use crate::common::{FakeHost, frontend, load};
use cofferdam_component::{Error, Frontend, Limits, Request, Runtime};
use cofferdam_types::Platform;

fn request() -> Request {
    Request { platforms: vec![Platform::new("linux", "amd64")], ..Request::default() }
}

fn limits() -> Limits {
    Limits { compute_time: Duration::from_millis(200), memory_bytes: 64 << 20, ..Limits::default() }
}

async fn attack(name: &str) -> Error {
    frontend(limits(), name).build(request(), FakeHost::new()).await.unwrap_err()
}

#[tokio::test]
async fn endless_loop_is_out_of_time() {
    let error = attack("attack-endless-loop").await;
    assert!(matches!(error, Error::OutOfTime { .. }), "{error}");
    assert_eq!(
        error.to_string(),
        "component `attack-endless-loop` was stopped: it used more than 200ms of computing time"
    );
}

#[tokio::test]
async fn memory_bomb_is_out_of_memory() {
    let error = attack("attack-memory-bomb").await;
    assert!(matches!(error, Error::OutOfMemory { limit, wanted, .. } if wanted > limit), "{error}");
}

#[tokio::test]
async fn trap_is_a_crash() {
    let error = attack("attack-trap").await;
    let Error::Trapped { reason, frames, .. } = &error else { panic!("{error}") };
    assert!(reason.contains("unreachable"), "{reason}");
    assert!((1..=9).contains(&frames.0.len()), "{frames}");
}

#[tokio::test]
async fn endless_recursion_is_a_stack_overflow() {
    let error = attack("attack-stack-overflow").await;
    let Error::StackOverflow { frames, .. } = &error else { panic!("{error}") };
    assert_eq!(frames.0.len(), 9, "eight frames and how many more there are");
}

#[tokio::test]
async fn list_that_stands_for_gigabytes_is_refused() {
    let error = attack("attack-huge-list").await;
    assert!(matches!(error, Error::CallTooLarge { .. }), "{error}");
}

#[test]
fn forbidden_import_is_named_before_anything_runs() {
    let error = Frontend::new(load("attack-forbidden-import")).err().unwrap();
    let Error::ForbiddenImport { import, .. } = &error else { panic!("{error}") };
    assert!(import.starts_with("wasi:sockets/"), "{import}");
    let expected = format!(
        "component `attack-forbidden-import` imports `{import}`, which frontends are not given"
    );
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn exit_is_an_error() {
    let probe = frontend(limits(), "attack-probe");
    for (code, expected) in [("0", 0), ("3", 1)] {
        let options = [("exit".to_owned(), code.to_owned())].into();
        let error = probe.build(Request { options, ..request() }, FakeHost::new()).await;
        let error = error.unwrap_err();
        assert!(matches!(error, Error::Exited { code, .. } if code == expected), "{error}");
    }
}

#[tokio::test]
async fn others_go_on_while_one_loops() {
    let bad = frontend(limits(), "attack-endless-loop");
    let good = frontend(limits(), "attack-probe");
    // One thread for both: the loop has to make room.
    let (bad, good) =
        tokio::join!(bad.build(request(), FakeHost::new()), good.build(request(), FakeHost::new()));
    assert!(matches!(bad, Err(Error::OutOfTime { .. })));
    assert_eq!(good.unwrap().results.len(), 1);
}

#[tokio::test]
async fn ops_and_memory_are_counted() {
    let few = Limits { ops: 2, ..limits() };
    let error = frontend(few, "attack-probe").build(request(), FakeHost::new()).await.unwrap_err();
    assert!(matches!(error, Error::TooMany { what: "ops", limit: 2, .. }), "{error}");

    let small = Limits { memory_bytes: 64 << 10, ..limits() };
    let error =
        frontend(small, "attack-probe").build(request(), FakeHost::new()).await.unwrap_err();
    assert!(matches!(error, Error::OutOfMemory { .. }), "{error}");
}

#[test]
fn rubbish_is_no_component() {
    let runtime = Runtime::new(None, Limits { component_bytes: 100, ..limits() }).unwrap();
    let error = |bytes: &[u8]| runtime.load("rubbish", bytes).err().unwrap();
    assert!(matches!(error(b"rubbish"), Error::Malformed { .. }));
    assert!(matches!(error(b"\0asm\x01\0\0\0"), Error::Malformed { .. }));
    assert!(matches!(error(&[0; 101]), Error::ComponentTooLarge { size: 101, limit: 100, .. }));
}
