//! The seccomp filter of [`crate::Security::Sandbox`]: Docker's default profile (`profile`),
//! compiled to classic BPF (`compile`); and one that hands over a few calls (`nodes`).

mod compile;
pub mod nodes;
mod oci;
mod profile;

#[cfg(test)]
mod tests;

pub use oci::native_profile;

/// Returns the filter for the machine's native architecture, as the bytes of its `sock_filter`s,
/// or `None` where no profile is known for it (the step must then not be started).
pub fn native_filter() -> Option<Vec<u8>> {
    let native = profile::Native::of_this_machine()?;
    Some(compile::filter(native).iter().flat_map(|i| i.to_bytes()).collect())
}
