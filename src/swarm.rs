//! The other engine: what a stack is given, what Swarm made of it, and when it has converged. Pure, but for the watching.

pub mod change;
pub mod convert;
pub mod file;
pub mod front;
pub mod objects;
pub mod placement;
pub mod public;
pub mod risks;
pub mod state;
pub mod verdict;
pub mod watch;

#[cfg(test)]
mod properties;
