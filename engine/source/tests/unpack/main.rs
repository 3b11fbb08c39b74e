//! Unpacking of image layers: what lands on disk, what the manifest says, and that both agree;
//! what is refused, and that nothing stays behind then. `support` makes archives and shows trees.

mod layers;
mod refused;
mod support;
