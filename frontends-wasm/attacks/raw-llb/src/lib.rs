//! Hands the engine whatever LLB the request has: the door for attacks that no Dockerfile can say.
//!
//! Each option `try.NAME` is a definition, its ops in hexadecimal digits with commas between them.
//! Each is built, and what became of it is a line of the file `/answers`, which is the result.

use cofferdam_sdk::{
    ActionInput, ActionKind, BuildError, BuildResult, Description, FileAction, Frontend, Host,
    MkfileAction, OpMetadata, Request,
};

struct RawLlb;

impl Frontend for RawLlb {
    fn build<H: Host>(host: &H, request: &Request) -> Result<BuildResult<H::Output>, BuildError> {
        let mut answers = Vec::new();
        for (name, definition) in request.options_with("try.") {
            let ops: Option<Vec<Vec<u8>>> = definition.split(',').map(bytes).collect();
            let ops = ops.ok_or_else(|| BuildError::new(format!("{name}: no hexadecimal digits")))?;
            let built = host.from_definition(&ops).and_then(|output| {
                output.map(|output| host.solve(&output)).transpose()
            });
            answers.push(match built {
                Ok(_) => format!("{name}: built"),
                Err(error) => format!("{name}: refused: {}", error.to_string().replace('\n', " ")),
            });
        }
        let answers = MkfileAction {
            path: "/answers".into(),
            mode: 0o644,
            data: answers.join("\n").into_bytes(),
            ..MkfileAction::default()
        };
        let answers = FileAction::new(ActionInput::Scratch, ActionKind::Mkfile(answers));
        let output = host.file(&[answers], &OpMetadata::named("write /answers"))?.pop();
        Ok(BuildResult::same_for_all(request, output, Vec::new()))
    }

    fn describe() -> Description {
        Description { name: "raw-llb".into(), version: "1".into(), ..Description::default() }
    }
}

fn bytes(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

cofferdam_sdk::export_frontend!(RawLlb);
