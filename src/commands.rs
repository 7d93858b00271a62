//! Commands beside those that change what runs.

pub mod check;
pub mod completions;
pub mod help;
pub mod helper;
pub mod history;
pub mod init;
pub mod notify;
pub mod prune;
pub mod status;
