//! The client against Debian's `docker-registry`, directly and through a proxy that does harm.

mod faults;
mod fixture;
mod mirrors;
mod real;
mod uploads;
