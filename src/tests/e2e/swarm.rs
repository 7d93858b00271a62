//! Stacks on Swarm. The tests run on their own engines; the machine's own engine never joins a Swarm.

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
