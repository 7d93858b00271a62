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
mod witness;

#[cfg(test)]
#[path = "tests/fuzz.rs"]
mod fuzz;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command, HistoryArgs, Output, RolloutArgs, StatusArgs};
use fault::Fault;
use report::entry::SCHEMA_TEXT;
use report::{Detail, Report, Settings};
use wait::Stop;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let report = Report::new(settings(&cli.command));
    let exit = match run(&cli, report) {
        Ok(()) => 0,
        Err(error) => {
            let fault = Fault::from_error(error);
            report.fault(&fault);
            fault.exit.code()
        }
    };
    report.end(exit);
    ExitCode::from(exit)
}

fn run(cli: &Cli, report: Report) -> anyhow::Result<()> {
    let stop = Stop::listen(move || report.leaves_at_once())?;
    match &cli.command {
        Command::Deploy(args) => deploy::deploy(&cli.compose, args, report, &stop),
        Command::Rollback(args) => deploy::rollback(&cli.compose, args, report, &stop),
        Command::Recover(args) => deploy::recover(&cli.compose, &args.rollout, report, &stop),
        Command::Status(args) => deploy::status(&cli.compose, args, report, &stop),
        Command::History(args) => deploy::history(&cli.compose, args, report),
        Command::Schema => {
            report.page(SCHEMA_TEXT);
            Ok(())
        }
    }
}

/// How a command is told.
fn settings(command: &Command) -> Settings {
    let rollout = match command {
        Command::Deploy(args) => &args.rollout,
        Command::Rollback(args) => &args.rollout,
        Command::Recover(args) => &args.rollout,
        Command::Status(StatusArgs { output, .. }) | Command::History(HistoryArgs { output, .. }) => {
            return Settings { json: *output == Output::Json, ..Settings::default() };
        }
        Command::Schema => return Settings::default(),
    };
    Settings {
        detail: detail(rollout),
        json: rollout.output == Output::Json,
        rollout: true,
        timeline: rollout.timeline.clone(),
    }
}

fn detail(args: &RolloutArgs) -> Detail {
    match (args.quiet, args.verbose) {
        (true, _) => Detail::Quiet,
        (_, true) => Detail::Verbose,
        _ => Detail::Normal,
    }
}
