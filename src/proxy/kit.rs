//! Parts that several adapters use.

pub mod clock;
pub mod connections;
pub mod directive;
pub mod hosts;
pub mod passes;
pub mod sock_diag;
pub mod sockets;
pub mod time;
pub mod version;
