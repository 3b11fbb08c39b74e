//! The components that the engine comes with, as bytes.
//!
//! `build.rs` builds them for wasm32-wasip2 with `frontends-wasm/build.sh`; with
//! `COFFERDAM_GUESTS=DIR` it takes `DIR/dockerfile.wasm` and `DIR/file-op.wasm` instead. What is
//! in them is the business of the crates `dockerfile` and `file-op`, and how they are run that of
//! `engine/component`.

/// The Dockerfile frontend: a component of the world `cofferdam:frontend/frontend`.
pub const DOCKERFILE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/dockerfile.wasm"));

/// File operations: a component of the world `cofferdam:file-op/file-op`.
pub const FILE_OP: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/file-op.wasm"));
