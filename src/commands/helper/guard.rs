//! Guard of the rules of a published port, which outlives the run that set them. A stand-in that has ended must not get
//! requests: without the rules they reach the owner of the port.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::process::{leave_session, run_program, start_of};
use crate::proxy::port::firewall::{Firewall, Listings};
use crate::wait::{self, StopSignal};

/// Interval at which the process behind the rules is checked.
const POLL: Duration = Duration::from_millis(100);

/// Interval at which the rules are checked while the process lives.
const RULES_POLL: Duration = Duration::from_secs(2);

/// Time without a rule after which the work is done: while the process lives, and after its end. The run that starts a guard
/// sets the rules after the start.
const UNUSED: Duration = Duration::from_secs(20);
const UNUSED_AFTER_END: Duration = Duration::from_secs(3);

/// Removes the rules of an owner once the process has ended. Ends when no rule is left.
pub fn port(firewall: &Firewall, owner: &str, pid: u32) -> Result<()> {
    leave_session();
    let started = start_of(pid);
    let (mut checked_at, mut last_rule) = (None, Instant::now());
    wait::until(POLL, Duration::MAX, &StopSignal::default(), || {
        let lives = started.is_some() && start_of(pid) == started;
        if lives && checked_at.is_some_and(|at: Instant| at.elapsed() < RULES_POLL) {
            return Ok(None);
        }
        checked_at = Some(Instant::now());
        let answers: Vec<String> = firewall.list_commands().iter().map(|command| run(command)).collect();
        let listings: Vec<&str> = answers.iter().map(String::as_str).collect();
        let listings = Listings::new(&listings);
        if Firewall::has_rules(&listings, owner) {
            last_rule = Instant::now();
        }
        if !lives {
            firewall.deletions(&listings, owner).iter().for_each(|command| _ = run(command));
        }
        let unused = if lives { UNUSED } else { UNUSED_AFTER_END };
        Ok((last_rule.elapsed() > unused).then_some(()))
    })
    .map(drop)
}

/// Output of a command; empty if it fails.
fn run(command: &[String]) -> String {
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    run_program(&words, Path::new("/"), &[]).map(|result| result.stdout).unwrap_or_default()
}
