//! Fuzzes ignore files. What must be true is in `tests/support/properties.rs`.
#![no_main]

#[path = "../../tests/support/paper_host.rs"]
mod host;
#[path = "../../tests/support/properties.rs"]
#[expect(dead_code, reason = "each target has one of them")]
mod properties;

libfuzzer_sys::fuzz_target!(|text: &str| properties::ignore_file(text));
