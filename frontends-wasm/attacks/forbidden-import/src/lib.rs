//! Opens a connection, for which the component imports `wasi:sockets`.

use std::net::TcpStream;

use cofferdam_sdk::{BuildError, BuildResult, Description, Frontend, Host, Request};

struct Attack;

impl Frontend for Attack {
    fn build<H: Host>(_: &H, _: &Request) -> Result<BuildResult<H::Output>, BuildError> {
        let answer = TcpStream::connect("127.0.0.1:80");
        Err(BuildError::new(format!("reached the network: {}", answer.is_ok())))
    }

    fn describe() -> Description {
        Description::default()
    }
}

cofferdam_sdk::export_frontend!(Attack);
