//! What can be asked instead of a build. The first four are BuildKit's, with its names and the
//! shapes of its answers; those that begin with `cofferdam.` are ours. Every answer is there for
//! people (`result.txt`) and for programs (`result.json`).

mod explain;
mod ignored;
mod lint;
mod outline;
mod targets;
mod text;

use cofferdam_sdk::{BuildError, BuildResult, Host, Request};
use serde_json::{Value, json};

use crate::error::Problem;
use crate::frontend::outside;
use crate::suggest::nearest;

/// One that is answered.
struct Subrequest {
    name: &'static str,
    version: &'static str,
    summary: &'static str,
    /// Options that it takes besides those of a build.
    options: &'static [(&'static str, &'static str)],
    /// Further results than text and JSON.
    results: &'static [&'static str],
}

const TARGET: (&str, &str) = ("target", "name of the stage (default: the last)");

const SUBREQUESTS: [Subrequest; 6] = [
    Subrequest {
        name: "frontend.subrequests.describe",
        version: "1.0.0",
        summary: "lists the subrequests",
        options: &[],
        results: &[],
    },
    Subrequest {
        name: "frontend.outline",
        version: "1.0.0",
        summary: "lists what a target takes: build arguments, secrets, ssh agents, caches",
        options: &[TARGET],
        results: &[],
    },
    Subrequest {
        name: "frontend.targets",
        version: "1.0.0",
        summary: "lists the stages that can be built",
        options: &[],
        results: &[],
    },
    Subrequest {
        name: "frontend.lint",
        version: "1.0.0",
        summary: "checks the Dockerfile",
        options: &[TARGET],
        results: &["result.statuscode"],
    },
    Subrequest {
        name: "cofferdam.ignore",
        version: "1.0.0",
        summary: "says which rule of the ignore file leaves a path out of the build context",
        options: &[("path", "the path, relative to the context")],
        results: &[],
    },
    Subrequest {
        name: "cofferdam.explain",
        version: "1.0.0",
        summary: "explains an instruction or a check, or lists them",
        options: &[("name", "the instruction or the check (default: all)")],
        results: &[],
    },
];

/// What is answered.
struct Answer {
    text: String,
    json: Value,
    /// Whether everything is as it should be; `None` where that is not the question.
    good: Option<bool>,
}

impl Answer {
    fn new(text: String, json: Value) -> Self {
        Self { text, json, good: None }
    }
}

/// The names of all subrequests.
pub fn names() -> impl Iterator<Item = &'static str> {
    SUBREQUESTS.iter().map(|subrequest| subrequest.name)
}

/// Answers one.
///
/// # Errors
/// When there is no such subrequest, or what stands in the way of an answer.
pub fn answer<H: Host>(
    host: &H,
    request: &Request,
    name: &str,
) -> Result<BuildResult<H::Output>, BuildError> {
    let answer = match name {
        "frontend.subrequests.describe" => describe(),
        "frontend.outline" => outline::answer(host, request)?,
        "frontend.targets" => targets::answer(host, request)?,
        "frontend.lint" => lint::answer(host, request)?,
        "cofferdam.ignore" => ignored::answer(host, request)?,
        "cofferdam.explain" => explain::answer(request)?,
        _ => {
            let mut error = outside(Problem::Unsupported(format!("the subrequest `{name}`")));
            error
                .hints
                .extend(nearest(name, names()).map(|near| format!("did you mean `{near}`?")));
            return Err(error);
        }
    };
    let subrequest = SUBREQUESTS.iter().find(|subrequest| subrequest.name == name);
    let version = subrequest.map_or("", |subrequest| subrequest.version);
    let mut metadata = vec![
        ("result.txt".to_owned(), answer.text.into_bytes()),
        ("result.json".to_owned(), format!("{:#}", answer.json).into_bytes()),
        ("version".to_owned(), version.as_bytes().to_vec()),
    ];
    if let Some(good) = answer.good {
        let code = if good { b"0" } else { b"1" };
        metadata.push(("result.statuscode".to_owned(), code.to_vec()));
    }
    Ok(BuildResult { results: Vec::new(), metadata })
}

/// Lists them.
fn describe() -> Answer {
    let row = |it: &Subrequest| vec![it.name.to_owned(), it.version.into(), it.summary.into()];
    let rows: Vec<_> = SUBREQUESTS.iter().map(row).collect();
    let named = |name: &str, text: &str| json!({"Name": name, "Description": text});
    let shown = |it: &Subrequest| {
        let results = ["result.json", "result.txt"].into_iter().chain(it.results.iter().copied());
        json!({
            "Name": it.name,
            "Version": it.version,
            "Type": "rpc",
            "Description": it.summary,
            "Opts": it.options.iter().map(|(name, text)| named(name, text)).collect::<Vec<_>>(),
            "Inputs": null,
            "Metadata": results.map(|name| named(name, "")).collect::<Vec<_>>(),
            "Refs": null,
        })
    };
    let json = SUBREQUESTS.iter().map(shown).collect::<Vec<_>>();
    Answer::new(text::table(&["NAME", "VERSION", "DESCRIPTION"], &rows), json.into())
}
