//! The other engine: what a stack is given, what Swarm made of it, and when it has converged. Pure, but for the watching.

pub mod audit;
pub mod convergence;
pub mod convert;
pub mod diff;
pub mod objects;
pub mod observed;
pub mod placement;
pub mod proxy_config;
pub mod published_urls;
pub mod stack_file;
pub mod watch;

#[cfg(test)]
mod properties;
