//! Docker Swarm: the stack file to deploy, the observed state of a stack, and its convergence. Pure, except for `watch`.

pub mod audit;
pub mod convergence;
pub mod convert;
mod definition;
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
