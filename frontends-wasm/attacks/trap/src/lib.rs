//! Crashes.

use cofferdam_sdk::{BuildError, BuildResult, Description, Frontend, Host, Request};

struct Attack;

impl Frontend for Attack {
    fn build<H: Host>(_: &H, _: &Request) -> Result<BuildResult<H::Output>, BuildError> {
        std::process::abort()
    }

    fn describe() -> Description {
        Description::default()
    }
}

cofferdam_sdk::export_frontend!(Attack);
