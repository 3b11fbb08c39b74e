//! Tests of this crate with real components, which `frontends-wasm/build.sh` builds on the way.

mod attacks;
mod code_cache;
mod common;
mod examples;
mod file_op;
mod frontend;
