//! Calls itself without end. The recursion keeps nothing in linear memory, so that it is the
//! host's stack that it fills, not the guest's own.

use cofferdam_sdk::{BuildError, BuildResult, Description, Frontend, Host, Request};

struct Attack;

impl Frontend for Attack {
    fn build<H: Host>(_: &H, _: &Request) -> Result<BuildResult<H::Output>, BuildError> {
        match dive(std::hint::black_box(1)) {
            0 => Err(BuildError::new("came back")),
            _ => Err(BuildError::new("came back with a number")),
        }
    }

    fn describe() -> Description {
        Description::default()
    }
}

cofferdam_sdk::export_frontend!(Attack);

#[inline(never)]
fn dive(depth: u64) -> u64 {
    if std::hint::black_box(depth) == 0 {
        return 0;
    }
    dive(depth + 1).wrapping_mul(depth) ^ depth
}
