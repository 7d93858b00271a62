//! `__helper`: work of a helper container, for compose-zd itself. The helper image has no other program.

use std::time::Duration;

use anyhow::Result;
use clap::Subcommand;

use crate::proxy::kit::sock_diag;
use crate::report::Report;
use crate::wait::{self, StopSignal};

/// Work of a helper container.
#[derive(Subcommand, Debug)]
pub enum HelperJob {
    /// Exist for a time
    Sleep { seconds: u64 },
    /// Print the open connections of the network, with their traffic
    Connections,
}

/// Does the work.
///
/// # Errors
/// The work fails. A signal ends the work.
pub fn helper(job: &HelperJob, report: Report, stop: &StopSignal) -> Result<()> {
    match job {
        HelperJob::Sleep { seconds } => {
            let time = Duration::from_secs(*seconds);
            wait::until(time, time, stop, || Ok(None::<()>)).map(drop)
        }
        HelperJob::Connections => {
            sock_diag::connections()?
                .iter()
                .for_each(|connection| report.print_line(&connection.to_string()));
            Ok(())
        }
    }
}
