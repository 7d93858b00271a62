//! Start, print the error, exit code.
mod cli;
mod docker;
mod fault;
mod model;
mod observed;
mod plan;
mod proxy;
mod wait;
fn main() {}
