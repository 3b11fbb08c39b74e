//! Questions to the frontend instead of a build: `--call`, `--check`, `--explain-ignore` and
//! `cofferdam dockerfile explain`. The frontend knows the answers; this prints them.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::sync::Arc;

use cofferdam_build::{Engine, Entitlements, FrontendChoice, Request, Response, StepLimits};
use cofferdam_session::LocalSession;

use crate::args::Format;
use crate::error::{Error, exit};
use crate::progress::text::{Colours, clean};
use crate::report::{self, Style};
use crate::run::{Setup, block_on, configure, tell, tell_error};

/// Prints what the frontend answered, and gives the exit code that goes with it.
///
/// # Errors
/// When there is no answer in that form, or it cannot be printed.
pub fn answer(response: &Response, format: Format) -> Result<u8, Error> {
    let key = match format {
        Format::Text => "result.txt",
        Format::Json => "result.json",
    };
    let Some(answer) = response.metadata.get(key) else {
        return Err(Error::usage(format!("the frontend's answer has no `{key}`")));
    };
    let answer = String::from_utf8_lossy(answer);
    let lines = answer.lines().map(|line| clean(line, Colours::Remove) + "\n");
    let text: String = lines.collect();
    io::stdout().write_all(text.as_bytes()).map_err(|source| Error::File {
        action: "write the answer to",
        path: "/dev/stdout".into(),
        source,
    })?;
    // What BuildKit's frontends say about a check: 0 is good.
    let good = response.metadata.get("result.statuscode").is_none_or(|code| code == b"0");
    Ok(if good { exit::OK } else { exit::BUILD })
}

/// Runs `cofferdam dockerfile explain`, and gives its exit code.
pub fn explain(name: Option<String>, format: Format, setup: Setup, style: Style) -> u8 {
    let config = match configure(setup, &[]) {
        Ok(config) => config,
        Err(error) => return tell_error(&error, style),
    };
    let request = Request {
        frontend: FrontendChoice::Dockerfile,
        options: BTreeMap::from_iter(name.map(|name| ("name".to_owned(), name))),
        subrequest: "cofferdam.explain".into(),
        platforms: Vec::new(),
        exports: Vec::new(),
        pull: false,
        step_limits: StepLimits::default(),
        no_new_privileges: false,
        why: false,
        entitlements: Entitlements::default(),
    };
    let work = async {
        let engine = Engine::open(config)?;
        let result = engine.build(request, Arc::new(LocalSession::default()), Arc::new(|_| {}));
        let result = result.await;
        engine.shutdown().await;
        match result {
            Ok(response) => answer(&response, format),
            Err(failure) => {
                tell(&report::failure(&failure, &Default::default(), style));
                Ok(crate::error::exit_code(failure.error.kind()))
            }
        }
    };
    block_on(work, style)
}
