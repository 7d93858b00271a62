//! Execution of a request: on one host by Compose, or on a Swarm.

pub mod compose;
pub mod swarm;
