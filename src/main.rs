//! Reads the command line, runs the command, prints its error and sets the exit code.

#![forbid(unsafe_code)]

mod cli;
mod commands;
mod configuration;
mod context;
mod deploy;
mod docker;
mod engine;
mod error;
mod finding;
mod git;
mod health;
mod http;
mod jobs;
mod lock;
mod manual;
mod mask;
mod model;
mod mounted_files;
mod observe;
mod observed;
mod plan;
mod plugin;
mod preflight;
mod process;
mod project_plan;
mod proxy;
mod relay;
mod release;
mod report;
mod request;
mod rollback;
mod rollout;
mod shell;
mod swarm;
mod targets;
mod up;
mod wait;
mod witness;

#[cfg(test)]
#[path = "tests/fuzz.rs"]
mod fuzz;

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::OnceLock;

use cli::{Cli, Command};
use commands::completions::{self, CompletionRequest};
use commands::{help, notify};
use context::Invocation;
use engine::compose::watchdog::{self, Watchdog};
use error::Error;
use model::args::{CheckArgs, HistoryArgs, OutputFormat, RolloutArgs, StatusArgs};
use model::{ReceiverList, UpdateLayer};
use plugin::program;
use report::record::SCHEMA_TEXT;
use report::{Report, ReportOptions, Verbosity};
use wait::StopSignal;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if let Some(request) = CompletionRequest::parse(&arguments) {
        Report::new(ReportOptions::default()).print_page(&request.answer(Cli::described("compose-zd")));
        return ExitCode::SUCCESS;
    }
    let cli = match read(arguments.clone()) {
        Ok(cli) => cli,
        Err(error) => return usage_error(&error, &arguments),
    };
    let report = Report::new(report_options(&cli.command));
    let receivers = OnceLock::new();
    let exit = match run(&cli, report, &receivers) {
        Ok(()) => 0,
        Err(error) => {
            let error = Error::from_error(error);
            report.error(&error);
            error.exit.code()
        }
    };
    if let Some(receivers) = receivers.get() {
        notify::send(receivers, report.summary(exit), report);
    }
    report.end(exit);
    ExitCode::from(exit)
}

/// Parses the command line, of the program itself or of the docker plugin.
fn read(arguments: Vec<OsString>) -> Result<Cli, clap::Error> {
    if !plugin::is_plugin(arguments.first()) {
        return Cli::read(arguments, program());
    }
    let call = plugin::parse_invocation(arguments);
    let mut cli = Cli::read(call.words, program())?;
    cli.compose.docker = call.docker;
    Ok(cli)
}

/// Prints an error of the command line as text, or as JSON if the command line asks for that; or the help.
fn usage_error(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    let options = Cli::json_options(arguments).filter(|_| error.use_stderr());
    let habit = cli::compose_habit(error);
    if options.is_none() && habit.is_none() {
        error.exit();
    }
    let options = options.unwrap_or_default();
    let text = error.to_string();
    let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
    let lines = || rest.lines().map(str::trim).filter(|line| !line.is_empty());
    let tips = || lines().filter_map(|line| line.strip_prefix("tip: "));
    let tip = tips().find(|tip| tip.contains("similar"));
    let hint =
        habit.or(tip).or_else(|| lines().find(|line| line.starts_with("Usage: "))).unwrap_or("try `--help`");
    let report = Report::new(options);
    let error = Error::usage(first.trim_start_matches("error: ")).hint(hint);
    report.error(&error);
    report.end(error.exit.code());
    ExitCode::from(error.exit.code())
}

fn run(cli: &Cli, report: Report, receivers: &OnceLock<ReceiverList>) -> anyhow::Result<()> {
    let _watchdog = start_watchdog(&cli.command);
    // Only these commands handle signals; Ctrl-C ends the others.
    let stop = match &cli.command {
        Command::Up(_)
        | Command::Plan(_)
        | Command::Deploy(_)
        | Command::Rollback(_)
        | Command::Recover(_)
        | Command::Status(_)
        | Command::Watchdog { .. }
        | Command::Helper { .. } => StopSignal::listen(move |effect| report.stop_requested(effect))?,
        _ => StopSignal::default(),
    };
    let call = Invocation { compose: &cli.compose, report, stop: &stop, receivers };
    match &cli.command {
        Command::Up(args) => up::up(call, args),
        Command::Plan(args) => up::plan(call, args),
        Command::Deploy(args) => deploy::deploy(call, args),
        Command::Rollback(args) => rollback::rollback(call, args),
        Command::Recover(args) => deploy::recover(call, &args.rollout),
        Command::Status(args) => commands::status::status(&cli.compose, args, report, &stop),
        Command::History(args) => commands::history::history(&cli.compose, args, report),
        Command::Prune(args) => commands::prune::prune(&cli.compose, args, report),
        Command::Check(args) => commands::check::check(&cli.compose, args, report),
        Command::Init(args) => commands::init::init(&cli.compose, args, report),
        Command::Help { word } => {
            help::help(Cli::described(program()), word.as_deref(), &report);
            Ok(())
        }
        Command::Man { dir: Some(dir) } => help::write_pages(Cli::described("compose-zd"), dir),
        Command::Man { dir: None } => {
            help::page(Cli::described("compose-zd")).map(|page| report.print_page(&page))
        }
        Command::Completions { shell } => {
            completions::script(Cli::described("compose-zd"), *shell).map(|script| report.print_page(&script))
        }
        Command::Schema => {
            report.print_page(SCHEMA_TEXT);
            Ok(())
        }
        Command::Watchdog { arguments } => watch(arguments.clone(), report, &stop),
        Command::Helper { job } => commands::helper::helper(job, report, &stop),
        Command::Metadata => {
            report.print_line(&plugin::metadata(env!("ZD_VERSION")));
            Ok(())
        }
    }
}

/// Watchdog of a command that changes containers.
fn start_watchdog(command: &Command) -> Option<Watchdog> {
    let rollout = match command {
        Command::Up(args) => &args.rollout,
        Command::Deploy(args) => &args.rollout,
        Command::Rollback(args) => &args.rollout,
        Command::Recover(args) => &args.rollout,
        _ => return None,
    };
    if rollout.dry_run { None } else { Watchdog::start() }
}

/// Watches over the rollout of another process with this command line.
fn watch(arguments: Vec<OsString>, report: Report, stop: &StopSignal) -> anyhow::Result<()> {
    let cli = read(arguments).map_err(|error| Error::usage(error.to_string()))?;
    // The watched run itself notifies.
    let receivers = OnceLock::new();
    let call = Invocation { compose: &cli.compose, report, stop, receivers: &receivers };
    let none = UpdateLayer::default();
    let (services, args, update) = match &cli.command {
        Command::Up(args) => (&args.services[..], &args.rollout, &args.update),
        Command::Deploy(args) => (&args.services[..], &args.rollout, &args.update),
        Command::Rollback(args) => (&args.services[..], &args.rollout, &none),
        Command::Recover(args) => (&[][..], &args.rollout, &none),
        _ => return Ok(()),
    };
    watchdog::watch(call, services, args, args.settings(update))
}

/// Options of the report for a command.
fn report_options(command: &Command) -> ReportOptions {
    let rollout = match command {
        Command::Up(args) | Command::Plan(args) => &args.rollout,
        Command::Deploy(args) => &args.rollout,
        Command::Rollback(args) => &args.rollout,
        Command::Recover(args) => &args.rollout,
        Command::Status(StatusArgs { output, .. }) | Command::History(HistoryArgs { output, .. }) => {
            return ReportOptions { json: *output == OutputFormat::Json, ..ReportOptions::default() };
        }
        Command::Check(CheckArgs { output, quiet, .. }) => {
            let detail = if *quiet { Verbosity::Quiet } else { Verbosity::Normal };
            return ReportOptions {
                verbosity: detail,
                json: *output == OutputFormat::Json,
                ..ReportOptions::default()
            };
        }
        _ => return ReportOptions::default(),
    };
    ReportOptions {
        verbosity: verbosity(rollout),
        json: rollout.output == OutputFormat::Json,
        rollout: true,
        timeline: rollout.timeline.clone(),
    }
}

fn verbosity(args: &RolloutArgs) -> Verbosity {
    match (args.quiet, args.verbose) {
        (true, _) => Verbosity::Quiet,
        (_, true) => Verbosity::Verbose,
        _ => Verbosity::Normal,
    }
}
