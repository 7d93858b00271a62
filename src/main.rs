//! Start, print the error, exit code.

#![forbid(unsafe_code)]

mod check;
mod cli;
mod deploy;
mod docker;
mod drain;
mod error;
mod git;
mod health;
mod init;
mod lock;
mod manual;
mod mask;
mod model;
mod observed;
mod plan;
mod plugin;
mod preflight;
mod proxy;
mod release;
mod report;
mod rollout;
mod shell;
mod swarm;
#[cfg(feature = "tls")]
mod tls;
mod wait;
mod witness;

#[cfg(test)]
#[path = "tests/fuzz.rs"]
mod fuzz;

use std::ffi::OsString;
use std::process::ExitCode;

use cli::{CheckArgs, Cli, Command, HistoryArgs, OutputFormat, RolloutArgs, StatusArgs};
use error::Error;
use report::record::SCHEMA_TEXT;
use report::{Report, ReportOptions, Verbosity};
use wait::StopSignal;

fn main() -> ExitCode {
    let cli = read(std::env::args_os().collect());
    let report = Report::new(settings(&cli.command));
    let exit = match run(&cli, report) {
        Ok(()) => 0,
        Err(error) => {
            let error = Error::from_error(error);
            report.error(&error);
            error.exit.code()
        }
    };
    report.end(exit);
    ExitCode::from(exit)
}

/// Name that the program was called by.
fn program() -> &'static str {
    if plugin::is_plugin(std::env::args_os().next().as_ref()) { "docker zd" } else { "compose-zd" }
}

/// The command line, also as docker has it of a plugin.
fn read(words: Vec<OsString>) -> Cli {
    if !plugin::is_plugin(words.first()) {
        return Cli::read(words, program());
    }
    let call = plugin::parse_invocation(words);
    let mut cli = Cli::read(call.words, program());
    cli.compose.docker = call.docker;
    cli
}

fn run(cli: &Cli, report: Report) -> anyhow::Result<()> {
    // What changes nothing that runs is just ended by Ctrl-C.
    let stop = || StopSignal::listen(move |asked| report.stop_requested(asked));
    match &cli.command {
        Command::Deploy(args) => deploy::deploy(&cli.compose, args, report, &stop()?),
        Command::Rollback(args) => deploy::rollback(&cli.compose, args, report, &stop()?),
        Command::Recover(args) => deploy::recover(&cli.compose, &args.rollout, report, &stop()?),
        Command::Status(args) => deploy::status(&cli.compose, args, report, &stop()?),
        Command::History(args) => deploy::history(&cli.compose, args, report),
        Command::Prune(args) => deploy::prune(&cli.compose, args, report),
        Command::Check(args) => deploy::check(&cli.compose, args, report),
        Command::Init(args) => deploy::init(&cli.compose, args, report),
        Command::Help { word } => {
            manual::help(word.as_deref(), program(), &report);
            Ok(())
        }
        Command::Man { dir: Some(dir) } => manual::write_pages(dir),
        Command::Man { dir: None } => manual::page().map(|page| report.page(&page)),
        Command::Completions { shell } => manual::completions(*shell).map(|script| report.page(&script)),
        Command::Schema => {
            report.page(SCHEMA_TEXT);
            Ok(())
        }
        Command::Metadata => {
            report.say(&plugin::metadata(env!("ZD_VERSION")));
            Ok(())
        }
    }
}

/// How a command is told.
fn settings(command: &Command) -> ReportOptions {
    let rollout = match command {
        Command::Deploy(args) => &args.rollout,
        Command::Rollback(args) => &args.rollout,
        Command::Recover(args) => &args.rollout,
        Command::Status(StatusArgs { output, .. }) | Command::History(HistoryArgs { output, .. }) => {
            return ReportOptions { json: *output == OutputFormat::Json, ..ReportOptions::default() };
        }
        Command::Check(CheckArgs { output, quiet, .. }) => {
            let detail = if *quiet { Verbosity::Quiet } else { Verbosity::Normal };
            return ReportOptions { detail, json: *output == OutputFormat::Json, ..ReportOptions::default() };
        }
        _ => return ReportOptions::default(),
    };
    ReportOptions {
        detail: detail(rollout),
        json: rollout.output == OutputFormat::Json,
        rollout: true,
        timeline: rollout.timeline.clone(),
    }
}

fn detail(args: &RolloutArgs) -> Verbosity {
    match (args.quiet, args.verbose) {
        (true, _) => Verbosity::Quiet,
        (_, true) => Verbosity::Verbose,
        _ => Verbosity::Normal,
    }
}
