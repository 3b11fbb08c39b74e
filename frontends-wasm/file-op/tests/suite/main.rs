//! The file ops over trees in memory. `support` has the trees and their text notation,
//! `tar_writer` makes archives, right and wrong; the others hold the cases.

mod archive;
mod copy;
mod copy_options;
mod edit;
mod support;
mod tar_writer;
