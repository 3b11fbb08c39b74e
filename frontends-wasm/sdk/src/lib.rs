//! What a frontend in Rust is written against: plain types for ops and requests, the trait
//! [`Host`] through which a frontend reaches the engine, and [`export_frontend!`], which makes
//! a component of a type that implements [`Frontend`].
//!
//! A frontend's own code is generic over [`Host`], so that it can be tested natively with a host
//! that only records. The generated bindings exist only on `wasm32` and stay inside this crate.
//!
//! ```
//! use cofferdam_sdk::*;
//!
//! struct Hello;
//!
//! impl Frontend for Hello {
//!     fn build<H: Host>(
//!         host: &H,
//!         request: &Request,
//!     ) -> Result<BuildResult<H::Output>, BuildError> {
//!         let file = FileAction::new(
//!             ActionInput::Scratch,
//!             ActionKind::Mkfile(MkfileAction {
//!                 path: "/hello".into(),
//!                 mode: 0o644,
//!                 data: b"hello\n".to_vec(),
//!                 owner: None,
//!                 timestamp: None,
//!             }),
//!         );
//!         let output = host.file(&[file], &OpMetadata::named("write /hello"))?.pop();
//!         Ok(BuildResult::same_for_all(request, output, Vec::new()))
//!     }
//!
//!     fn describe() -> Description {
//!         Description { name: "hello".into(), version: "1".into(), ..Description::default() }
//!     }
//! }
//!
//! cofferdam_sdk::export_frontend!(Hello);
//! ```

mod frontend;
mod host;
mod ops;

#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod wasm;

pub use cofferdam_types::{ParsePlatformError, Platform};
pub use frontend::{
    BuildError, BuildResult, Description, Frontend, PlatformResult, Problem, Request,
};
pub use host::{
    FileKind, FileStat, Host, HostError, ResolveMode, ResolvedImage, Snapshot, Warning,
};
pub use ops::{
    ActionInput, ActionKind, BindMount, CacheMount, CacheSharing, CopyAction, Device, ExecOp,
    ExtraHost, FileAction, MkdirAction, MkfileAction, Mount, MountKind, NetworkMode, OpMetadata,
    Ownership, Principal, Process, ProxyEnv, RmAction, SecretEnv, SecretMount, SecurityMode,
    SourceRange, SymlinkAction, Ulimit,
};

/// Exports a type that implements [`Frontend`] as a component of the world
/// `cofferdam:frontend/frontend`. Does nothing when the crate is not built for `wasm32`.
#[macro_export]
macro_rules! export_frontend {
    ($frontend:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Component;

            impl $crate::wasm::bindings::Guest for Component {
                fn build(
                    request: $crate::wasm::bindings::Request,
                ) -> Result<$crate::wasm::bindings::BuildResult, $crate::wasm::bindings::BuildError>
                {
                    $crate::wasm::build::<$frontend>(request)
                }

                fn describe() -> $crate::wasm::bindings::Description {
                    $crate::wasm::describe::<$frontend>()
                }
            }

    $crate::wasm::bindings::export!(Component with_types_in $crate::wasm::bindings);
        };
    };
}
