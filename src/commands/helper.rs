//! `__helper`: work of a helper container, for compose-zd itself. The helper image has no other program.

mod guard;

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use clap::Subcommand;

use crate::proxy::kit::sock_diag;
use crate::proxy::port::firewall::Firewall;
use crate::relay::{self, RelayStatus};
use crate::report::Report;
use crate::wait::{self, StopSignal};

/// Work of a helper container.
#[derive(Subcommand, Debug)]
pub enum HelperJob {
    /// Exist for a time
    Sleep { seconds: u64 },
    /// Print the open connections of the network, with their traffic
    Connections,
    /// Remove the rules of a published port once the process behind them has ended
    GuardPort {
        /// Start of the comment of each rule
        #[arg(long)]
        owner: String,
        /// Process on this machine
        #[arg(long)]
        pid: u32,
        /// Program for the rules of IPv4
        v4: String,
        /// Program for the rules of IPv6
        v6: Option<String>,
    },
    /// Hold connections, and forward them once their target is known
    Relay {
        /// Port to listen on
        #[arg(long = "port", required = true)]
        ports: Vec<u16>,
        /// Longest time for a request to wait, in seconds
        #[arg(long)]
        hold: u64,
        /// Time after which the relay ends, in seconds
        #[arg(long)]
        lifetime: u64,
    },
    /// Set the target of the relay in this network, or none: connections wait again
    RelayForward {
        to: Option<IpAddr>,
        /// Port of the relay and the port of the target for it
        #[arg(long = "port", value_parser = parse_ports)]
        ports: Vec<(u16, u16)>,
    },
    /// Print the state of the relay in this network
    RelayStatus,
}

/// Two ports, as in `80:3000`.
fn parse_ports(text: &str) -> Result<(u16, u16), String> {
    let pair = text.split_once(':').and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
    pair.ok_or_else(|| format!("`{text}` is not two ports"))
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
        HelperJob::Relay { ports, hold, lifetime } => {
            relay::run(ports, Duration::from_secs(*hold), Duration::from_secs(*lifetime), stop)
        }
        HelperJob::RelayForward { to, ports } => {
            print_status(&relay::forward(*to, ports.iter().copied().collect())?, report)
        }
        HelperJob::RelayStatus => print_status(&relay::status()?, report),
        HelperJob::GuardPort { owner, pid, v4, v6 } => {
            guard::port(&Firewall { v4: v4.clone(), v6: v6.clone() }, owner, *pid)
        }
    }
}

fn print_status(status: &RelayStatus, report: Report) -> Result<()> {
    report.print_line(&serde_json::to_string(status)?);
    Ok(())
}
