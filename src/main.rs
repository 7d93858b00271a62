//! Start, print the error, exit code.

#![forbid(unsafe_code)]

mod cli;
mod deploy;
mod docker;
mod drain;
mod fault;
mod git;
mod health;
mod lock;
mod model;
mod observed;
mod plan;
mod proxy;
mod release;
mod report;
mod rollout;
mod shell;
mod swarm;
mod wait;

#[cfg(test)]
#[path = "tests/fuzz.rs"]
mod fuzz;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command, RolloutArgs};
use fault::Fault;
use report::{Detail, Report};
use wait::Stop;

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let fault = Fault::from_error(error);
            Report::fault(&fault);
            ExitCode::from(fault.exit.code())
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    let stop = Stop::listen(Report::leaves_at_once)?;
    match &cli.command {
        Command::Deploy(args) => {
            deploy::deploy(&cli.compose, args, Report::new(detail(&args.rollout)), &stop)
        }
        Command::Rollback(args) => {
            deploy::rollback(&cli.compose, args, Report::new(detail(&args.rollout)), &stop)
        }
        Command::Recover(args) => {
            deploy::recover(&cli.compose, &args.rollout, Report::new(detail(&args.rollout)), &stop)
        }
        Command::Status(args) => deploy::status(&cli.compose, args, Report::new(Detail::Normal)),
        Command::History(args) => deploy::history(&cli.compose, args, Report::new(Detail::Normal)),
    }
}

fn detail(args: &RolloutArgs) -> Detail {
    match (args.quiet, args.verbose) {
        (true, _) => Detail::Quiet,
        (_, true) => Detail::Verbose,
        _ => Detail::Normal,
    }
}
