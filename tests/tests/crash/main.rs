//! The promises of the store, held against it from outside: the built binary is killed, starved,
//! robbed of its unsynced writes and given damaged files, and has to end up with right images or
//! a clear error.
//!
//! They need root (loop devices, mounts) and the packages that `scripts/setup.sh` installs. The
//! sizes are those of continuous integration; `make crash` runs the long ones.

mod damage;
mod kills;
mod lab;
mod leftovers;
mod namespace;
mod power;
mod steps;
mod together;
mod trouble;
