//! The exporters against the tools that people use the results with.

mod directory;
mod fixture;
mod image;
