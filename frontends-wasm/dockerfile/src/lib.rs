//! The Dockerfile frontend: parser and lowering as an ordinary library, and, built for wasm, a
//! component of the world `cofferdam:frontend/frontend`.
//!
//! The way of a Dockerfile: `directives` and `lines` cut the text, [`parse`] makes instructions
//! as the table in [`instruction`] says, `stages` finds what the target needs, [`lower`] makes
//! ops through a [`cofferdam_sdk::Host`] and the image config. `frontend` reads the files that a
//! request names and does this for each platform. [`checks`] look on; `subrequests` answers what is
//! asked instead of a build; `locate` finds the columns of what is told.
//!
//! **Invariant:** it knows no crate of the host, and reaches the outside only through the SDK.

pub mod checks;
pub mod command;
mod context;
pub mod descriptions;
pub mod directives;
pub mod duration;
mod epoch;
pub mod error;
mod frontend;
pub mod git;
pub mod heredoc;
pub mod ignore;
pub mod image;
pub mod instruction;
pub mod lines;
pub mod locate;
pub mod lower;
pub mod options;
pub mod parse;
pub mod path;
pub mod pattern;
pub mod probe;
pub mod reference;
pub mod stages;
mod subrequests;
pub mod suggest;
pub mod words;

pub use frontend::DockerfileFrontend;

cofferdam_sdk::export_frontend!(DockerfileFrontend);
