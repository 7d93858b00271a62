//! The command line: commands, flags and help texts.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser, StyledStr};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;

use crate::commands::init::InitArgs;
use crate::model::args::{
    CheckArgs, ComposeArgs, DeployArgs, HistoryArgs, PruneArgs, RecoverArgs, RollbackArgs, StatusArgs,
};

const EXIT_CODES: &str = "\
Exit codes:
  0        the new release serves (or nothing had to change)
  1        failed before anything was changed
  2        wrong usage or configuration
  3        failed; the old release serves, or the rollout is paused
  4        failed, and the service or its public URL is down: act now
  5        another run holds the lock of the project
  6        deployed, but the witness lost requests (only with `--strict`)
  7        another run took over the lock and finishes the rollout
  130/143  interrupted; the old release serves";

const EXAMPLES: &str = "\
Examples:
  compose-zd deploy                      every service behind a proxy
  compose-zd deploy app --health-path /up
  compose-zd deploy web                  a pair: web_a and web_b, or web-blue and web-green
  compose-zd deploy app worker           all or none; --one-by-one replaces one after the other
  compose-zd deploy --image app=shop:42  this image for one release; the next deploy uses the file again
  compose-zd deploy --scale app=4        four instances
  compose-zd deploy --resume             resume a paused rollout
  compose-zd deploy --dry-run            print the plan, change nothing";

const SHORT_EXAMPLES: &str = "\
Examples:
  compose-zd deploy                      every service behind a proxy
  compose-zd deploy app --health-path /up
  compose-zd deploy --dry-run            print the plan, change nothing

`--help` lists all flags by group, the keys of `x-zd` and the exit codes.";

/// Flags of a rollout in the short help: those that a user types, not those that usually are in the file.
const SHORT_HELP_FLAGS: [&str; 17] = [
    "services",
    "force",
    "image",
    "scale",
    "pull",
    "build",
    "dry_run",
    "output",
    "quiet",
    "verbose",
    "to",
    "update-parallelism",
    "health-path",
    "health-deadline",
    "drain-timeout",
    "strict",
    "file",
];

const ROLLBACK: &str = "\
Examples:
  compose-zd rollback                    the previous release; a second rollback returns to the newer one
  compose-zd rollback app --to 5         one service, as in release 5";

const GETTING_STARTED: &str = "\
Start here:
  compose-zd init      add a proxy, a Makefile and a hook for `git push`
  compose-zd check     report what a deploy would lose, with fixes
  compose-zd deploy    replace every service behind a proxy by its next version
  compose-zd rollback  restore the previous release

`compose-zd help COMMAND` shows examples, `compose-zd help` lists the chapters of the manual.";

const KEYS: &str = "\
Keys of the compose file (all optional; a flag overrides its variable, which overrides the file):
  services:
    app:
      deploy: { replicas: 2, update_config: { parallelism: 1, monitor: 10s } }    # as on Swarm
      x-zd:
        health: { path: /up, port: 3000, scheme: http, host: app.example, expect: 200-399, body: ok,
                  interval: 200ms, timeout: 2s, deadline: 60s, successes: 1 }
        drain:  { timeout: 30s, command: [touch, /tmp/drain] }
        proxy:  { container: lb, kind: haproxy, tune: true }      # only if detection is wrong
        before: { service: migrate }    # a job before the switch
        after:  { service: warm }       # a job after the switch
  x-zd: { keep: 5, engine: compose, pairs: { web: [web_one, web_two] },
          witness: { url: \"http://localhost:8000/\", rate: 10 } }";

const INIT: &str = "\
Examples:
  compose-zd init                                add missing files; existing files stay unchanged
  compose-zd init --print                        print the files, write nothing
  compose-zd init --service web:3000             a proxy for this service, which listens on port 3000
  compose-zd init --publish 80 --health-path /up
  compose-zd init --no-proxy                     only the Makefile and the scripts

What it adds:
  compose.override.yaml          HAProxy, on the host port of the app
  haproxy/haproxy.cfg            its configuration
  Makefile                       deploy, rollback, status
  scripts/post-receive           a hook of a bare repository: `git push` deploys
  scripts/deploy-and-restart.sh  a deploy script for cron jobs and other tools

Exit codes:
  0  all files exist
  1  nothing was written, or the proxy has to be added by hand: see the message
  2  wrong usage or configuration";

const COMPLETIONS: &str = "\
Examples:
  compose-zd completions bash > /etc/bash_completion.d/compose-zd
  compose-zd completions zsh > ~/.zfunc/_compose-zd
  compose-zd completions fish > ~/.config/fish/completions/compose-zd.fish";

const MAN: &str = "\
Examples:
  compose-zd man | man -l -
  compose-zd man --dir /usr/local/share/man";

const PRUNE: &str = "\
Examples:
  docker compose down && compose-zd prune   this project
  compose-zd prune --all --dry-run          leftovers of all projects, even if their folder is gone

A project with a container, running or not, keeps its images. Every deploy removes the
images of releases that are no longer kept. The records stay in .compose-zd; a rollback to
a release without its image is refused.";

const CHECK: &str = "\
Examples:
  compose-zd check                       the project and its proxy, from the file and the running containers
  compose-zd check app worker            only these services, even those that a deploy leaves alone
  compose-zd check --quiet               only losses (for CI)
  compose-zd check --output json         one JSON document, see `compose-zd help json`

Nothing is changed.

Exit codes:
  0  a deploy loses nothing
  1  a deploy would lose requests or data, or would be refused
  2  wrong usage or configuration";

/// Chapters of the manual, in reading order. The first line of a chapter is its title.
pub const TOPICS: [(&str, &str); 24] = [
    ("install", include_str!("manual/install.md")),
    ("no-proxy", include_str!("manual/no-proxy.md")),
    ("settings", include_str!("manual/settings.md")),
    ("services", include_str!("manual/services.md")),
    ("update", include_str!("manual/update.md")),
    ("jobs", include_str!("manual/jobs.md")),
    ("releases", include_str!("manual/releases.md")),
    ("recovery", include_str!("manual/recovery.md")),
    ("witness", include_str!("manual/witness.md")),
    ("rules", include_str!("manual/rules.md")),
    ("output", include_str!("manual/output.md")),
    ("json", include_str!("manual/json.md")),
    ("exit-codes", include_str!("manual/exit-codes.md")),
    ("nginx-proxy", include_str!("manual/nginx-proxy.md")),
    ("haproxy", include_str!("manual/haproxy.md")),
    ("dockercloud", include_str!("manual/dockercloud.md")),
    ("caddy", include_str!("manual/caddy.md")),
    ("traefik", include_str!("manual/traefik.md")),
    ("swarm", include_str!("manual/swarm.md")),
    ("engines", include_str!("manual/engines.md")),
    ("ci", include_str!("manual/ci.md")),
    ("how-it-works", include_str!("manual/how-it-works.md")),
    ("performance", include_str!("manual/performance.md")),
    ("limits", include_str!("manual/limits.md")),
];

/// Chapters that the long help of a command refers to.
const SEE_ALSO: [(&str, &[&str]); 12] = [
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

/// Title of a chapter, without the `#`.
pub fn title(chapter: &str) -> &str {
    chapter.lines().next().unwrap_or_default().trim_start_matches(['#', ' '])
}

/// Replaces running Docker Compose services by their next version without losing a request
#[derive(Parser, Debug)]
#[command(name = "compose-zd", version = env!("ZD_VERSION"), max_term_width = 100, disable_help_subcommand = true)]
#[command(after_help = format!("{GETTING_STARTED}\n\n{EXIT_CODES}"))]
pub struct Cli {
    #[command(flatten)]
    pub compose: ComposeArgs,
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Parses the arguments, with `name` as the name of the program in help and usage.
    pub fn read(arguments: Vec<OsString>, name: &'static str) -> Cli {
        let command = Cli::described(name).bin_name(name).display_name(name);
        let matches = command.get_matches_from(arguments);
        Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    /// Command line of a program of this name, with the words of `help` and the chapters of each command.
    pub fn described(name: &str) -> clap::Command {
        // `mut_subcommand` moves a command to the end of the list, so each is changed once.
        let command = with_program_name(Cli::command(), name).mut_subcommands(|c| with_program_name(c, name));
        let command = SEE_ALSO.iter().fold(command, |command, (word, topics)| {
            command.mut_subcommand(word, |command| with_short_help(see_also(command, name, topics)))
        });
        let commands: Vec<PossibleValue> =
            command.get_subcommands().filter(|c| !c.is_hide_set()).map(|c| value(c.get_name())).collect();
        let topics = TOPICS.iter().map(|(topic, text)| value(topic).help(title(text).to_string()));
        let words = PossibleValuesParser::new(commands.into_iter().chain(topics));
        command.mut_subcommand("help", |help| help.mut_arg("word", |word| word.value_parser(words)))
    }
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

/// Hides the flags of a rollout that are not common from its short help.
fn with_short_help(command: clap::Command) -> clap::Command {
    if !["deploy", "rollback", "recover"].contains(&command.get_name()) {
        return command;
    }
    command.mut_args(|arg| {
        let is_common = SHORT_HELP_FLAGS.contains(&arg.get_id().as_str());
        arg.hide_short_help(!is_common)
    })
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
    /// Replace services by their next version, without losing a request
    #[command(after_help = SHORT_EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{KEYS}\n\n{EXIT_CODES}"))]
    Deploy(Box<DeployArgs>),
    /// Restore an earlier release, configuration and images, without losing a request
    #[command(after_help = ROLLBACK, after_long_help = format!("{ROLLBACK}\n\n{EXIT_CODES}"))]
    Rollback(Box<RollbackArgs>),
    /// Finish a deploy that was killed
    #[command(after_long_help = EXIT_CODES)]
    Recover(Box<RecoverArgs>),
    /// Show running releases and instances, and whether they receive requests
    Status(StatusArgs),
    /// List the releases, and the one that a rollback restores
    History(HistoryArgs),
    /// Remove the images that compose-zd keeps for rollbacks of a project that was taken down
    #[command(after_help = PRUNE)]
    Prune(PruneArgs),
    /// Report what a deploy of each service would lose, with fixes; works before the first deploy
    #[command(after_help = CHECK)]
    Check(CheckArgs),
    /// Print the JSON Schema of `--output json`
    Schema,
    /// Prepare a project for deploys without a loss: add a proxy, a Makefile and a hook for `git push`
    #[command(after_help = INIT)]
    Init(InitArgs),
    /// Show the help of a command, or a chapter of the manual
    Help {
        /// Command or topic [default: list all]
        #[arg(value_name = "COMMAND|TOPIC")]
        word: Option<String>,
    },
    /// Print the completions of a shell
    #[command(after_help = COMPLETIONS)]
    Completions {
        /// bash, zsh, fish, elvish or powershell
        shell: Shell,
    },
    /// Print the manual page
    #[command(after_help = MAN)]
    Man {
        /// Write the pages of all commands and topics into `man1` and `man7` of this folder instead
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Print the metadata of a docker plugin
    #[command(name = "docker-cli-plugin-metadata", hide = true)]
    Metadata,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(words: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(words.split(' '))
    }

    #[test]
    fn the_short_help_of_a_rollout_fits_a_screen() {
        for word in ["deploy", "rollback", "recover"] {
            let mut command = Cli::described("compose-zd").term_width(80);
            command.build();
            let command = command.find_subcommand_mut(word).unwrap();
            let lines = command.render_help().to_string().lines().count();
            assert!(lines <= 60, "{word}: {lines} lines");
            assert!(command.render_long_help().to_string().contains("--rollback-order"), "{word}");
        }
        let deploy = Cli::command();
        let deploy = deploy.find_subcommand("deploy").unwrap();
        let ids: Vec<&str> = deploy.get_arguments().map(|arg| arg.get_id().as_str()).collect();
        let own = |id: &&&str| !["to", "file"].contains(id);
        assert!(SHORT_HELP_FLAGS.iter().filter(own).all(|id| ids.contains(id)), "{ids:?}");
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
