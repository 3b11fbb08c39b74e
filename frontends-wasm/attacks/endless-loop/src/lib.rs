//! Never returns: computes for ever.

use cofferdam_sdk::{BuildError, BuildResult, Description, Frontend, Host, Request};

struct Attack;

impl Frontend for Attack {
    fn build<H: Host>(_: &H, _: &Request) -> Result<BuildResult<H::Output>, BuildError> {
        let mut number = 0u64;
        loop {
            number = std::hint::black_box(number.wrapping_add(1));
        }
    }

    fn describe() -> Description {
        Description::default()
    }
}

cofferdam_sdk::export_frontend!(Attack);
