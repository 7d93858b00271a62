//! The command line: commands, flags and help texts.

use std::borrow::Cow;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser, StyledStr};
use clap::error::{ContextKind, ErrorKind};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;

use crate::commands::helper::HelperJob;
use crate::commands::init::InitArgs;
use crate::manual::{TOPICS, title};
use crate::model::args::{
    CheckArgs, ComposeArgs, DeployArgs, HistoryArgs, PruneArgs, RecoverArgs, RollbackArgs, StatusArgs, UpArgs,
};
use crate::report::ReportOptions;

const EXIT_CODES: &str = include_str!("cli/exit-codes.txt");
const EXAMPLES: &str = include_str!("cli/deploy.txt");
const SHORT_EXAMPLES: &str = include_str!("cli/deploy-short.txt");

/// Flags of the short help, with texts that fit a line: those that a user types, not those that usually are in the file.
const SHORT_HELP_FLAGS: [(&str, &str); 22] = [
    ("yes", "Also recreate databases and the proxy, with downtime"),
    ("remove_orphans", "Remove containers of services not in the file"),
    ("force", "Replace every instance, even if nothing has changed"),
    ("image", "Image for this release, such as app=shop:42"),
    ("scale", "Number of instances, such as app=3"),
    ("pull", "Pull images first"),
    ("build", "Build images first (the default with `build`)"),
    ("dry_run", "Print what would be done, and change nothing"),
    ("output", "text or json [default: text]"),
    ("quiet", "Print only the result and warnings"),
    ("verbose", "Print more: each docker command, or each note"),
    ("to", "Release to restore [default: the previous one]"),
    ("health-path", "Path of the probe of a new instance"),
    ("file", "Compose file; may be given several times"),
    ("project_name", "Name of the project"),
    ("watch", "Repeat until Ctrl-C [default: every 2s]"),
    ("all", "All projects of this engine that were taken down"),
    ("service", "Service to put behind the proxy, and its port"),
    ("publish", "Host port of the proxy [default: that of the app]"),
    ("print", "Print the files, write nothing"),
    ("history timeline", "Print the timeline of a release as a web page"),
    ("init force", "Overwrite existing files"),
];

/// Short descriptions of commands, for the list of the program's short help.
const SHORT_ABOUTS: [(&str, &str); 6] = [
    ("up", "Bring the whole project to what its file says"),
    ("plan", "Print what `up` would do and why; changes nothing"),
    ("rollback", "Restore an earlier release, without losing a request"),
    ("status", "Show what runs, and which instances get requests"),
    ("check", "Report what a deploy would lose, with fixes"),
    ("init", "Add a proxy, a Makefile and a hook for `git push`"),
];

/// Commands that the short help of the program leaves out.
const RARE_COMMANDS: [&str; 4] = ["schema", "completions", "man", "prune"];

const ROLLBACK: &str = include_str!("cli/rollback.txt");
const GETTING_STARTED: &str = include_str!("cli/start.txt");
const KEYS: &str = include_str!("cli/keys.txt");
const INIT: &str = include_str!("cli/init.txt");
const COMPLETIONS: &str = include_str!("cli/completions.txt");
const MAN: &str = include_str!("cli/man.txt");
const UP: &str = include_str!("cli/up.txt");
const PLAN: &str = include_str!("cli/plan.txt");
const PRUNE: &str = include_str!("cli/prune.txt");
const CHECK: &str = include_str!("cli/check.txt");

/// Chapters that the long help of a command refers to.
const SEE_ALSO: [(&str, &[&str]); 14] = [
    ("up", &["project", "exit-codes"]),
    ("plan", &["project", "json"]),
    ("deploy", &["update", "settings", "exit-codes"]),
    ("rollback", &["releases", "exit-codes"]),
    ("recover", &["recovery"]),
    ("status", &["output", "json"]),
    ("history", &["releases", "output"]),
    ("prune", &["releases"]),
    ("check", &["rules", "json"]),
    ("schema", &["json"]),
    ("init", &["no-proxy", "ci"]),
    ("help", &["how-it-works"]),
    ("completions", &["install"]),
    ("man", &["install"]),
];

/// Commands with the flags and the report of a rollout.
const ROLLOUTS: [&str; 5] = ["up", "plan", "deploy", "rollback", "recover"];

/// Commands that read no project.
const WITHOUT_PROJECT: [&str; 4] = ["schema", "help", "completions", "man"];

/// Replaces running Docker Compose services by their next version without losing a request
#[derive(Parser, Debug)]
#[command(name = "compose-zd", version = env!("ZD_VERSION"), max_term_width = 100, disable_help_subcommand = true)]
#[command(after_help = text(&[GETTING_STARTED, EXIT_CODES]))]
pub struct Cli {
    #[command(flatten)]
    pub compose: ComposeArgs,
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Parses the arguments, with `name` as the name of the program in help and usage.
    pub fn read(arguments: Vec<OsString>, name: &'static str) -> Result<Cli, clap::Error> {
        let command = Cli::described(name).bin_name(name).display_name(name);
        // Only `-h` is short: the usage of an error and `--help` come from the whole description.
        let is_short = arguments.iter().any(|word| word == "-h");
        let command = if is_short { with_short_help(command) } else { command };
        Cli::from_arg_matches(&command.try_get_matches_from(arguments)?)
    }

    /// Options of the report of a command line that cannot be parsed, but asks for JSON.
    pub fn json_options(arguments: &[OsString]) -> Option<ReportOptions> {
        let words: Vec<Cow<str>> = arguments.iter().skip(1).map(|word| word.to_string_lossy()).collect();
        let by_flag = words.windows(2).any(|pair| pair == ["--output", "json"]);
        let by_variable = || std::env::var("COMPOSE_ZD_OUTPUT").is_ok_and(|output| output == "json");
        let rollout = words.iter().any(|word| ROLLOUTS.contains(&word.as_ref()));
        (by_flag || words.iter().any(|word| word == "--output=json") || by_variable())
            .then(|| ReportOptions { json: true, rollout, ..ReportOptions::default() })
    }

    /// Command line of a program of this name, with the words of `help` and the chapters of each command.
    pub fn described(name: &str) -> clap::Command {
        // `mut_subcommand` moves a command to the end of the list, so each is changed once.
        let command = with_program_name(Cli::command(), name).mut_subcommands(|c| with_program_name(c, name));
        let command = SEE_ALSO.iter().fold(command, |command, (word, topics)| {
            command.mut_subcommand(word, |command| see_also(command, name, topics))
        });
        let commands: Vec<PossibleValue> =
            command.get_subcommands().filter(|c| !c.is_hide_set()).map(|c| value(c.get_name())).collect();
        let topics = TOPICS.iter().map(|(topic, text)| value(topic).help(title(text).to_string()));
        let command =
            WITHOUT_PROJECT.iter().fold(command, |c, word| c.mut_subcommand(word, hide_project_flags));
        let words = PossibleValuesParser::new(commands.into_iter().chain(topics));
        command.mut_subcommand("help", |help| help.mut_arg("word", |word| word.value_parser(words)))
    }
}

/// Commands and flags of Compose that users try, and what takes their place.
const HABITS: [(&str, &str); 12] = [
    ("ps", "`compose-zd status` shows what runs"),
    ("ls", "`compose-zd status` shows what runs"),
    ("restart", "`compose-zd deploy --force` replaces every instance"),
    ("logs", "`docker compose logs` shows the logs"),
    ("down", "`docker compose down` removes the project; compose-zd leaves nothing that runs"),
    ("stop", "`docker compose stop` stops the project"),
    ("-d", "leave it out: a deploy returns once the new version serves, and the containers go on"),
    ("--detach", "leave it out: a deploy returns once the new version serves, and the containers go on"),
    (
        "--scale",
        "`compose-zd deploy --scale SERVICE=N` sets it for one release, and `services.SERVICE.scale` in the file for all",
    ),
    ("--timeout", "`services.SERVICE.stop_grace_period` in the file is the time to stop"),
    ("--force-recreate", "`--force` replaces every instance, even if nothing has changed"),
    ("--no-deps", "leave it out: a deploy starts dependencies that are down, and leaves the others alone"),
];

/// Answer to a command or flag of Compose that compose-zd does not have.
pub fn compose_habit(error: &clap::Error) -> Option<&'static str> {
    let kinds = [ContextKind::InvalidSubcommand, ContextKind::InvalidArg];
    let word = kinds.into_iter().find_map(|kind| error.get(kind))?.to_string();
    let is_unknown = matches!(error.kind(), ErrorKind::InvalidSubcommand | ErrorKind::UnknownArgument);
    HABITS.iter().find(|(name, _)| is_unknown && *name == word).map(|(_, answer)| *answer)
}

/// Parts of a help text, with an empty line between them.
fn text(parts: &[&str]) -> String {
    parts.join("\n").trim_end().into()
}

/// Gives the examples of a help text the name that the program was called by.
fn with_program_name(mut command: clap::Command, name: &str) -> clap::Command {
    let named = |text: &StyledStr| text.to_string().replace("compose-zd ", &format!("{name} "));
    if let Some(text) = command.get_after_help().map(named) {
        command = command.after_help(text);
    }
    match command.get_after_long_help().map(named) {
        Some(text) => command.after_long_help(text),
        None => command,
    }
}

fn value(word: &str) -> PossibleValue {
    PossibleValue::new(word.to_string())
}

/// Hides the project's flags, which have no effect, from help and completions. They stay accepted, because docker gives
/// them to every command of its plugin.
fn hide_project_flags(command: clap::Command) -> clap::Command {
    let flags = ComposeArgs::augment_args(clap::Command::new("flags"));
    let hidden = flags.get_arguments().map(|flag| flag.clone().hide(true).help_heading(None::<&str>));
    command.args(hidden.collect::<Vec<_>>())
}

/// The same commands with a help that fits a screen of 80 by 24: flags in one list, a line each, and few examples.
fn with_short_help(command: clap::Command) -> clap::Command {
    let command = RARE_COMMANDS.iter().fold(command, |c, word| c.mut_subcommand(word, |c| c.hide(true)));
    let command =
        command.after_help("`help` lists the chapters of the manual.").mut_args(|arg| shorten("", arg));
    command.mut_subcommands(|command| {
        let name = command.get_name().to_string();
        let command = command.mut_args(|arg| shorten(&name, arg));
        let about = SHORT_ABOUTS.iter().find(|(word, _)| *word == name);
        let command = about.map_or(command.clone(), |(_, text)| command.about(*text));
        match command.get_after_help().map(ToString::to_string) {
            Some(text) => command.after_help(short_examples(&text)),
            None => command,
        }
    })
}

fn shorten(command: &str, arg: clap::Arg) -> clap::Arg {
    let id = arg.get_id().to_string();
    let named = format!("{command} {id}");
    let text = |wanted: &str| SHORT_HELP_FLAGS.iter().find(|(id, _)| *id == wanted).map(|(_, text)| *text);
    let has_value = arg.get_action().takes_values();
    let arg = arg.hide_env(true).hide_default_value(has_value).hide_possible_values(has_value);
    match text(&named).or(text(&id)) {
        Some(text) => arg.help(text).help_heading(None::<&str>),
        // Arguments without an entry are in the usage.
        None => arg.hide_short_help(true),
    }
}

/// The first examples of a help text that fit a line.
fn short_examples(text: &str) -> String {
    let lines = text.lines().take_while(|line| !line.is_empty()).filter(|line| line.chars().count() < 80);
    let lines: Vec<&str> = lines.take(3).collect();
    format!("{}\n`--help` lists all flags.", lines.join("\n"))
}

fn see_also(command: clap::Command, name: &str, topics: &[&str]) -> clap::Command {
    let topics: Vec<_> = topics.iter().map(|topic| format!("{name} help {topic}")).collect();
    let pointer = format!("see also: {}", topics.join(", "));
    let help = command.get_after_long_help().or(command.get_after_help());
    let help = help.map_or(pointer.clone(), |text| format!("{text}\n\n{pointer}"));
    command.after_long_help(help)
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Bring the whole project to what the file says, in place of `docker compose up -d`
    #[command(after_help = text(&[UP]), after_long_help = text(&[UP, EXIT_CODES]))]
    Up(Box<UpArgs>),
    /// Print what `up` would do and why, with differences and commands; changes nothing
    #[command(after_help = text(&[PLAN]))]
    Plan(Box<UpArgs>),
    /// Replace services by their next version, without losing a request
    #[command(after_help = text(&[SHORT_EXAMPLES]), after_long_help = text(&[EXAMPLES, KEYS, EXIT_CODES]))]
    Deploy(Box<DeployArgs>),
    /// Restore an earlier release, configuration and images, without losing a request
    #[command(after_help = text(&[ROLLBACK]), after_long_help = text(&[ROLLBACK, EXIT_CODES]))]
    Rollback(Box<RollbackArgs>),
    /// Finish a deploy that was killed
    #[command(after_long_help = text(&[EXIT_CODES]))]
    Recover(Box<RecoverArgs>),
    /// Show running releases and instances, and whether they receive requests
    Status(StatusArgs),
    /// List the releases, and the one that a rollback restores
    History(HistoryArgs),
    /// Remove the images that compose-zd keeps for rollbacks of a project that was taken down
    #[command(after_help = text(&[PRUNE]))]
    Prune(PruneArgs),
    /// Report what a deploy of each service would lose, with fixes; works before the first deploy
    #[command(after_help = text(&[CHECK]))]
    Check(CheckArgs),
    /// Print the JSON Schema of everything that `--output json` prints
    Schema,
    /// Prepare a project for deploys without a loss: add a proxy, a Makefile and a hook for `git push`
    #[command(after_help = text(&[INIT]))]
    Init(InitArgs),
    /// Show the help of a command, or a chapter of the manual
    Help {
        /// Command or topic [default: list all]
        #[arg(value_name = "COMMAND|TOPIC")]
        word: Option<String>,
    },
    /// Print the completions of a shell
    #[command(after_help = text(&[COMPLETIONS]))]
    Completions {
        /// bash, zsh, fish, elvish or powershell
        shell: Shell,
    },
    /// Print the manual page
    #[command(after_help = text(&[MAN]))]
    Man {
        /// Write the pages of all commands and topics into `man1` and `man7` of this folder instead
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Print the metadata of a docker plugin
    #[command(name = "docker-cli-plugin-metadata", hide = true)]
    Metadata,
    /// Watch over the rollout of this command line
    #[command(name = "__watchdog", hide = true)]
    Watchdog {
        #[arg(last = true)]
        arguments: Vec<OsString>,
    },
    /// Do the work of a helper container
    #[command(name = "__helper", hide = true)]
    Helper {
        #[command(subcommand)]
        job: HelperJob,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(words: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(words.split(' '))
    }

    #[test]
    fn the_short_help_fits_a_screen() {
        let mut program = with_short_help(Cli::described("compose-zd")).term_width(80);
        program.build();
        let commands = program.get_subcommands_mut().filter(|command| !command.get_name().starts_with("__"));
        let mut texts: Vec<String> = commands.map(|command| command.render_help().to_string()).collect();
        texts.push(program.render_help().to_string());
        for text in texts.iter().filter(|text| !text.contains("[COMMAND|TOPIC]")) {
            assert!(text.lines().count() <= 24, "{} lines:\n{text}", text.lines().count());
            assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        }
        let ids = |command: &clap::Command| {
            command.get_arguments().map(|arg| arg.get_id().to_string()).collect::<Vec<_>>()
        };
        let all: Vec<String> = program.get_subcommands().flat_map(ids).collect();
        assert!(
            SHORT_HELP_FLAGS
                .iter()
                .filter_map(|(id, _)| id.split(' ').next_back())
                .all(|id| all.iter().any(|other| other == id)),
            "{all:?}"
        );
    }

    #[test]
    fn the_long_help_has_all_flags() {
        let mut command = Cli::described("compose-zd");
        command.build();
        for word in ROLLOUTS {
            let command = command.find_subcommand_mut(word).unwrap();
            assert!(command.render_long_help().to_string().contains("--rollback-order"), "{word}");
        }
    }

    #[test]
    fn the_groups_of_the_help_are_in_the_order_of_use() {
        let mut command = Cli::described("compose-zd");
        command.build();
        let deploy = command.find_subcommand_mut("deploy").unwrap().render_long_help().to_string();
        let headings = [
            "Update",
            "Readiness",
            "Drain",
            "Proxy",
            "Witness",
            "Rollback",
            "Releases",
            "Lock",
            "Engine",
            "Project",
        ];
        let positions: Vec<_> =
            headings.map(|heading| deploy.lines().position(|line| line.starts_with(heading))).into();
        assert!(positions.iter().all(Option::is_some) && positions.is_sorted(), "{positions:?}\n{deploy}");
    }

    #[test]
    fn examples_begin_with_the_name_of_the_program() {
        let mut command = Cli::described("docker zd");
        let texts: Vec<String> = command
            .get_subcommands_mut()
            .flat_map(|c| [c.render_help().to_string(), c.render_long_help().to_string()])
            .collect();
        let texts = [command.render_help().to_string(), texts.concat()].concat();
        assert!(texts.contains("  docker zd deploy app --health-path /up"), "{texts}");
        let examples: Vec<_> = texts.lines().filter(|l| l.trim_start().starts_with("compose-zd ")).collect();
        assert_eq!(examples, [""; 0]);
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_of_compose_are_accepted_before_and_after_the_command() {
        let before = parse("compose-zd -f a.yaml -f b.yaml -p x deploy app").unwrap();
        let after = parse("compose-zd deploy app -f a.yaml -f b.yaml -p x").unwrap();
        assert_eq!(before.compose.file, after.compose.file);
        assert_eq!(before.compose.file.len(), 2);
        assert_eq!(before.compose.project_name, after.compose.project_name);
    }

    #[test]
    fn a_run_waits_for_the_lock_as_long_as_its_flags_allow() {
        let wait = |words: &str| match parse(&format!("compose-zd deploy {words}")).unwrap().command {
            Command::Deploy(args) => (args.rollout.lock.limit().as_secs(), args.services.len()),
            _ => unreachable!(),
        };
        assert_eq!(wait("app"), (0, 1));
        assert_eq!(wait("--wait 90s app"), (90, 1));
        assert_eq!(wait("--wait=90s app"), (90, 1));
        assert!(wait("app --wait").0 > 1_000_000_000);
        assert!(wait("--latest app").0 > 1_000_000_000);
        assert_eq!(wait("--latest --wait 5m"), (300, 0));
        let error = parse("compose-zd deploy --wait app").unwrap_err();
        assert!(error.to_string().contains("--wait=10m"), "{error}");
    }

    #[test]
    fn an_impossible_duration_names_the_flag() {
        let error = parse("compose-zd status --engine-timeout soon").unwrap_err();
        assert!(error.to_string().contains("--engine-timeout <DURATION>"), "{error}");
        let error = parse("compose-zd deploy --health-deadline soon").unwrap_err();
        assert!(error.to_string().contains("--health-deadline <DURATION>"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}
