//! Makes a module of WASI's first preview a component, so that there is one way to run a program.
//!
//! The adapter of Wasmtime's project does it, but for one thing: it ends every program that fails
//! with `wasi:cli/exit.exit`, which knows no codes. So `proc_exit` does not go to the adapter: the
//! module is made to import `exit-with-code` itself, which has the same signature in core
//! WebAssembly.

use std::borrow::Cow;
use std::fmt::Display;

use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME as PREVIEW1,
    WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER as ADAPTER,
};
use wasm_encoder::{CustomSection, EntityType, ImportSection, Module, RawSection};
use wasmparser::{Parser, Payload};
use wit_component::{ComponentEncoder, StringEncoding, metadata};
use wit_parser::Resolve;

/// How a binary begins that is a module; a component has another version.
const MODULE: &[u8] = b"\0asm\x01\0\0\0";
/// The interface in which a program ends itself, in the adapter's version of WASI.
const EXIT: &str = "wasi:cli/exit@0.2.12";
const WORLD: &str = "package wasi:cli@0.2.12;
    interface exit {
        exit: func(status: result);
        exit-with-code: func(status-code: u8);
    }
    world ends-with-code { import exit; }";
/// The custom section in which a module says what its imports mean.
const MEANING: &str = "component-type";

/// The component that a module makes; a component is one already.
pub(crate) fn component(bytes: &[u8]) -> Result<Cow<'_, [u8]>, String> {
    if !bytes.starts_with(MODULE) {
        return Ok(Cow::Borrowed(bytes));
    }
    let module = with_exit_codes(bytes)?;
    let encode = || {
        ComponentEncoder::default()
            .module(&module)?
            .adapter(PREVIEW1, ADAPTER)?
            .validate(true)
            .encode()
    };
    encode().map(Cow::Owned).map_err(text)
}

/// Sends the exit code, where a module has one, past the adapter.
fn with_exit_codes(module: &[u8]) -> Result<Vec<u8>, String> {
    let mut changed = Module::new();
    let mut renamed = false;
    for payload in Parser::new(0).parse_all(module) {
        let payload = payload.map_err(text)?;
        if let Payload::ImportSection(section) = payload {
            let mut imports = ImportSection::new();
            for import in section.into_imports() {
                let import = import.map_err(text)?;
                let is_exit = (import.module, import.name) == (PREVIEW1, "proc_exit");
                renamed |= is_exit;
                let (from, name) = match is_exit {
                    true => (EXIT, "exit-with-code"),
                    false => (import.module, import.name),
                };
                imports.import(from, name, EntityType::try_from(import.ty).map_err(text)?);
            }
            changed.section(&imports);
        } else if let Some((id, range)) = payload.as_section() {
            changed.section(&RawSection { id, data: &module[range] });
        }
    }
    if renamed {
        let mut wit = Resolve::default();
        let meaning = wit
            .push_str("exit.wit", WORLD)
            .and_then(|package| wit.select_world(&[package], None))
            .and_then(|world| metadata::encode(&wit, world, StringEncoding::UTF8, None))
            .map_err(text)?;
        changed.section(&CustomSection { name: MEANING.into(), data: meaning.into() });
    }
    Ok(changed.finish())
}

fn text(error: impl Display) -> String {
    format!("{error:#}")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use wasm_encoder::{
        CodeSection, ExportKind, ExportSection, Function, FunctionSection, MemorySection,
        MemoryType, TypeSection, ValType,
    };

    use super::*;
    use crate::{Limits, ProgramRun, Runtime};

    /// A module that ends with `code`, or, without one, in the usual way.
    fn ending_with(code: Option<i32>) -> Vec<u8> {
        let (mut types, mut imports) = (TypeSection::new(), ImportSection::new());
        types.ty().function([ValType::I32], []);
        types.ty().function([], []);
        imports.import(PREVIEW1, "proc_exit", EntityType::Function(0));
        let mut functions = FunctionSection::new();
        functions.function(1);
        let mut memories = MemorySection::new();
        let (minimum, maximum, memory64, shared) = (1, None, false, false);
        memories.memory(MemoryType { minimum, maximum, memory64, shared, page_size_log2: None });
        let mut exports = ExportSection::new();
        exports.export("_start", ExportKind::Func, 1).export("memory", ExportKind::Memory, 0);
        let mut body = Function::new([]);
        if let Some(code) = code {
            body.instructions().i32_const(code).call(0);
        }
        body.instructions().end();
        let mut bodies = CodeSection::new();
        bodies.function(&body);
        let mut module = Module::new();
        module.section(&types).section(&imports).section(&functions).section(&memories);
        module.section(&exports).section(&bodies);
        module.finish()
    }

    #[tokio::test]
    async fn a_module_ends_with_its_own_code() {
        let runtime = Runtime::new(None, Limits::default()).unwrap();
        // The status of a process is a byte.
        let cases = [
            (None, 0),
            (Some(0), 0),
            (Some(1), 1),
            (Some(7), 7),
            (Some(255), 255),
            (Some(300), 44),
        ];
        for (code, ended) in cases {
            let program = runtime.load_program("program", &ending_with(code)).unwrap();
            let run = ProgramRun {
                args: vec!["program".into()],
                env: Vec::new(),
                cwd: "/".into(),
                preopens: Vec::new(),
                network: false,
                memory: None,
                compute_time: None,
                output: Arc::new(|_, _| {}),
            };
            assert_eq!(program.run(run).await.unwrap(), ended, "{code:?}");
        }
    }

    #[test]
    fn what_is_no_module_of_the_first_preview_is_refused_by_name() {
        let mut module = Module::new();
        let (mut types, mut imports) = (TypeSection::new(), ImportSection::new());
        types.ty().function([], []);
        imports.import("env", "magic", EntityType::Function(0));
        let broken = module.section(&types).section(&imports).clone().finish();
        let error = component(&broken).unwrap_err();
        assert!(error.contains("env") && error.contains("magic"), "{error}");
        let error = component(b"\0asm\x01\0\0\0\x02\x05nonsense").unwrap_err();
        assert!(error.contains("offset"), "{error}");
    }
}
