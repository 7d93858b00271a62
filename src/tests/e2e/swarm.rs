//! Stacks of a Swarm: what compose-zd does with them is tried on engines of the tests' own, and the machine's own
//! engine never becomes part of a Swarm here.

#[path = "swarm/nodes.rs"]
pub mod nodes;
#[path = "swarm/one.rs"]
mod one;
#[path = "swarm/proxies.rs"]
mod proxies;
#[path = "swarm/several.rs"]
mod several;
#[path = "swarm/stack.rs"]
mod stack;
#[path = "swarm/truth.rs"]
mod truth;
