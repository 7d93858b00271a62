//! Start, print the error, exit code.
mod cli;
mod docker;
mod fault;
mod model;
mod observed;
mod plan;
mod wait;
fn main() {}
