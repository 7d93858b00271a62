//! `__helper`: work of a helper container, for compose-zd itself. The helper image has no other program.

use std::time::Duration;

use anyhow::Result;
use clap::Subcommand;

use crate::wait::{self, StopSignal};

/// Work of a helper container.
#[derive(Subcommand, Debug)]
pub enum HelperJob {
    /// Exist for a time
    Sleep { seconds: u64 },
}

/// Does the work.
///
/// # Errors
/// The work fails. A signal ends the work.
pub fn helper(job: &HelperJob, stop: &StopSignal) -> Result<()> {
    match job {
        HelperJob::Sleep { seconds } => {
            let time = Duration::from_secs(*seconds);
            wait::until(time, time, stop, || Ok(None::<()>)).map(drop)
        }
    }
}
