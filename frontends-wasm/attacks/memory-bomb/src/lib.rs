//! Takes memory until there is none.

use cofferdam_sdk::{BuildError, BuildResult, Description, Frontend, Host, Request};

struct Attack;

impl Frontend for Attack {
    fn build<H: Host>(_: &H, _: &Request) -> Result<BuildResult<H::Output>, BuildError> {
        let mut taken: Vec<Vec<u8>> = Vec::new();
        loop {
            taken.push(std::hint::black_box(vec![1; 16 << 20]));
        }
    }

    fn describe() -> Description {
        Description::default()
    }
}

cofferdam_sdk::export_frontend!(Attack);
