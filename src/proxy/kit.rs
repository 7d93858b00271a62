//! Parts that several adapters use.

pub mod sockets;
pub mod version;
