//! Hands over one list that stands for far more bytes than the guest has: every element is the
//! same string.

use cofferdam_sdk::wasm::bindings::cofferdam::llb::graph;
use cofferdam_sdk::{BuildError, BuildResult, Description, Frontend, Host, Request};

struct Attack;

impl Frontend for Attack {
    fn build<H: Host>(_: &H, _: &Request) -> Result<BuildResult<H::Output>, BuildError> {
        let long = vec![0u8; 4 << 20];
        // SAFETY: no other code uses this memory, and `mem::forget` below keeps the vectors
        // from freeing it twice.
        let list: Vec<Vec<u8>> = (0..1000)
            .map(|_| unsafe {
                Vec::from_raw_parts(long.as_ptr().cast_mut(), long.len(), long.capacity())
            })
            .collect();
        let answer = graph::from_definition(&list);
        std::mem::forget(list);
        Err(BuildError::new(format!("the host took the list: {}", answer.is_ok())))
    }

    fn describe() -> Description {
        Description::default()
    }
}

cofferdam_sdk::export_frontend!(Attack);
