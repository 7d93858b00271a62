//! The command line: commands, flags and help texts.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValue, PossibleValuesParser, StyledStr};
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

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
    "update_parallelism",
    "health_path",
    "health_deadline",
    "drain_timeout",
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

/// Flags of docker and Compose, accepted before and after the command.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Project (as in docker compose)")]
pub struct ComposeArgs {
    /// Compose configuration file; may be given several times
    #[arg(short, long = "file", global = true, value_name = "FILE")]
    pub file: Vec<PathBuf>,
    /// Project name
    #[arg(short, long, global = true, value_name = "NAME")]
    pub project_name: Option<String>,
    /// Folder for relative paths
    #[arg(long, global = true, value_name = "DIR", hide_short_help = true)]
    pub project_directory: Option<PathBuf>,
    /// Environment file; may be given several times
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub env_file: Vec<PathBuf>,
    /// Profile to enable; may be given several times
    #[arg(long, global = true, value_name = "NAME", hide_short_help = true)]
    pub profile: Vec<String>,
    /// Docker context to use
    #[arg(long, global = true, value_name = "NAME", hide_short_help = true)]
    pub context: Option<String>,
    /// Docker engine to connect to
    #[arg(short = 'H', long, global = true, value_name = "URL", hide_short_help = true)]
    pub host: Option<String>,
    /// Longest silence of the engine before a command fails [default: 2m]
    #[arg(long, global = true, env = "COMPOSE_ZD_ENGINE_TIMEOUT", value_name = "DURATION",
          value_parser = engine_timeout, help_heading = ENGINE, hide_short_help = true)]
    pub engine_timeout: Option<Duration>,
    /// Flags of docker before the name of the plugin
    #[arg(skip)]
    pub docker: Vec<String>,
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

#[derive(Args, Debug, Clone, Default)]
pub struct InitArgs {
    /// Service to put behind a proxy, and its port; may be given several times [default: the only service that looks
    /// like a web application]
    #[arg(long, value_name = "SERVICE[:PORT]", value_parser = service_and_port)]
    pub service: Vec<(String, Option<u16>)>,
    /// Host port of the proxy, if the service publishes none [default: 8080]
    #[arg(long, value_name = "[ADDRESS:]PORT", value_parser = publication)]
    pub publish: Option<(String, u16)>,
    /// Path of health probes, for the proxy and for deploys [default: path of the healthcheck]
    #[arg(long, value_name = "PATH", value_parser = url_path)]
    pub health_path: Option<String>,
    /// Add no proxy
    #[arg(long, conflicts_with_all = ["service", "publish", "health_path"])]
    pub no_proxy: bool,
    /// Print the file converted for a Swarm, with a comment for each change; needs --print
    #[arg(long, requires = "print", conflicts_with_all = ["service", "publish", "health_path"])]
    pub swarm: bool,
    /// Write the Compose file of a Swarm service from `docker service create`, and import the service
    #[arg(long, value_name = "NAME", conflicts_with_all = ["service", "publish", "health_path", "swarm"])]
    pub from_service: Option<String>,
    /// Print the files, write nothing
    #[arg(long)]
    pub print: bool,
    /// Overwrite existing files
    #[arg(long, conflicts_with = "print")]
    pub force: bool,
}

#[derive(ValueEnum, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OutputFormat {
    #[default]
    Text,
    Json,
}

#[derive(Args, Debug, Clone, Default)]
pub struct StatusArgs {
    /// Services or pairs to show [default: all that are deployed]
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,
    /// Repeat until Ctrl-C [default without a duration: every 2s]
    #[arg(short, long, value_name = "DURATION", value_parser = duration, num_args = 0..=1, require_equals = true,
          default_missing_value = "2s")]
    pub watch: Option<Duration>,
    /// text, or json: one document; with --watch one document a line
    #[arg(long, env = "COMPOSE_ZD_OUTPUT", value_name = "FORM", value_enum, default_value_t)]
    pub output: OutputFormat,
    /// Folder for releases [default: .compose-zd beside the compose file]
    #[arg(long, env = "COMPOSE_ZD_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// compose or swarm [default: swarm if the project is a stack, else compose]
    #[arg(long, env = "COMPOSE_ZD_ENGINE", value_name = "ENGINE", value_parser = ["compose", "swarm"])]
    pub engine: Option<String>,
}

#[derive(Args, Debug, Clone, Default)]
pub struct HistoryArgs {
    /// Print the timeline of the rollout of a release, as an HTML page
    #[arg(long, value_name = "RELEASE")]
    pub timeline: Option<u32>,
    /// text, or json: one document
    #[arg(long, env = "COMPOSE_ZD_OUTPUT", value_name = "FORM", value_enum, default_value_t)]
    pub output: OutputFormat,
    /// Folder for releases [default: .compose-zd beside the compose file]
    #[arg(long, env = "COMPOSE_ZD_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// compose or swarm [default: swarm if the project is a stack, else compose]
    #[arg(long, env = "COMPOSE_ZD_ENGINE", value_name = "ENGINE", value_parser = ["compose", "swarm"])]
    pub engine: Option<String>,
}

#[derive(Args, Debug, Clone, Default)]
pub struct CheckArgs {
    /// Services or pairs to check [default: all that a deploy may replace]
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,
    /// Print only losses
    #[arg(short, long)]
    pub quiet: bool,
    /// text, or json: one document
    #[arg(long, env = "COMPOSE_ZD_OUTPUT", value_name = "FORM", value_enum, default_value_t)]
    pub output: OutputFormat,
    /// Folder for releases [default: .compose-zd beside the compose file]
    #[arg(long, env = "COMPOSE_ZD_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// compose or swarm [default: swarm if the project is a stack, else compose]
    #[arg(long, env = "COMPOSE_ZD_ENGINE", value_name = "ENGINE", value_parser = ["compose", "swarm"])]
    pub engine: Option<String>,
}

#[derive(Args, Debug, Clone, Default)]
pub struct DeployArgs {
    /// Services or pairs to deploy [default: every service behind a proxy]
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,
    /// Replace every instance, even if nothing has changed
    #[arg(long)]
    pub force: bool,
    /// Image of a service for this release, such as app=shop:42; may be given several times
    #[arg(long, value_name = "SERVICE=REF", value_parser = image)]
    pub image: Vec<(String, String)>,
    /// Resume a paused rollout
    #[arg(long, conflicts_with_all = ["services", "force", "scale", "image", "pull", "build", "no_build"])]
    pub resume: bool,
    /// Number of instances of a service, such as app=3; may be given several times
    #[arg(long, value_name = "SERVICE=N", value_parser = scale)]
    pub scale: Vec<(String, u32)>,
    /// Pull images first
    #[arg(long)]
    pub pull: bool,
    /// Build images first (the default for services with `build`)
    #[arg(long, overrides_with = "no_build")]
    pub build: bool,
    /// Do not build images
    #[arg(long, overrides_with = "build")]
    pub no_build: bool,
    // The order of these fields is the order of the groups in the help.
    #[command(flatten)]
    pub update: UpdateArgs,
    #[command(flatten)]
    pub rollout: RolloutArgs,
}

#[derive(Args, Debug, Clone, Default)]
pub struct RollbackArgs {
    /// Services or pairs to restore [default: those that the last rollout changed]
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,
    /// Release to restore [default: the previous one]
    #[arg(long, value_name = "RELEASE")]
    pub to: Option<u32>,
    #[command(flatten)]
    pub rollout: RolloutArgs,
}

#[derive(Args, Debug, Clone, Default)]
pub struct RecoverArgs {
    #[command(flatten)]
    pub rollout: RolloutArgs,
}

#[derive(Args, Debug, Clone, Default)]
pub struct PruneArgs {
    /// All projects of this engine that were taken down; needs no compose file
    #[arg(long)]
    pub all: bool,
    /// Print what would be removed and remove nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Flags of every rollout. The order of the groups is their order in the help.
#[derive(Args, Debug, Default, Clone)]
pub struct RolloutArgs {
    /// Print the plan and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Several services: all become ready before the first switch; all or none (the default)
    #[arg(long, overrides_with = "one_by_one")]
    pub together: bool,
    /// Several services: replace and watch one after the other; all or none
    #[arg(long, overrides_with = "together")]
    pub one_by_one: bool,
    /// fresh: give each new instance empty anonymous volumes, if they hold only a cache
    #[arg(long, env = "COMPOSE_ZD_ANONYMOUS_VOLUMES", value_name = "HOW", value_parser = ["fresh"])]
    pub anonymous_volumes: Option<String>,
    /// text, or json: one event a line on stderr, a summary on stdout
    #[arg(long, env = "COMPOSE_ZD_OUTPUT", value_name = "FORM", value_enum, default_value_t)]
    pub output: OutputFormat,
    /// Write a timeline of all instances, as an HTML page
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    pub timeline: Option<PathBuf>,
    /// Print only the result and warnings
    #[arg(short, long)]
    pub quiet: bool,
    /// Print every docker command with its duration
    #[arg(short, long, action = ArgAction::SetTrue, conflicts_with = "quiet")]
    pub verbose: bool,
    #[command(flatten)]
    pub health: HealthArgs,
    #[command(flatten)]
    pub drain: DrainArgs,
    #[command(flatten)]
    pub proxy: ProxyArgs,
    #[command(flatten)]
    pub witness: WitnessArgs,
    #[command(flatten)]
    pub rollback_config: RollbackConfigArgs,
    /// Releases to keep for a rollback [default: 5]
    #[arg(long, env = "COMPOSE_ZD_KEEP", value_name = "N", help_heading = RELEASES)]
    pub keep: Option<usize>,
    /// Folder for releases [default: .compose-zd beside the compose file]
    #[arg(long, env = "COMPOSE_ZD_STATE_DIR", value_name = "DIR", help_heading = RELEASES)]
    pub state_dir: Option<PathBuf>,
    #[command(flatten)]
    pub lock: LockArgs,
    #[command(flatten)]
    pub swarm: SwarmArgs,
}

/// Heading of the flags of releases.
const RELEASES: &str = "Releases (x-zd.keep)";

/// Heading of the flags of the engine.
const ENGINE: &str = "Engine (x-zd.engine)";

/// Behaviour while another run holds the lock of the project.
#[derive(Args, Debug, Default, Clone)]
#[command(next_help_heading = "Lock")]
pub struct LockArgs {
    /// Wait at most this long for another run [default without a duration: no limit; without the flag: exit 5 at once]
    #[arg(long, env = "COMPOSE_ZD_WAIT", value_name = "DURATION", value_parser = wait_duration,
          num_args = 0..=1, default_missing_value = UNLIMITED)]
    pub wait: Option<Duration>,
    /// Wait; only the newest of all runs that wait with this flag deploys, the others exit 0 (for hooks)
    #[arg(long)]
    pub latest: bool,
}

/// Default of `--wait` without a duration.
const UNLIMITED: &str = "1000000days";

impl LockArgs {
    /// Longest wait for another run.
    pub fn limit(&self) -> Duration {
        let long = Duration::from_secs(1_000_000 * 24 * 3600);
        self.wait.unwrap_or(if self.latest { long } else { Duration::ZERO })
    }
}

/// The engine, and flags of `docker stack deploy`.
#[derive(Args, Debug, Default, Clone)]
#[command(next_help_heading = ENGINE)]
pub struct SwarmArgs {
    /// compose or swarm [default: swarm if the project is a stack, else compose]
    #[arg(long, env = "COMPOSE_ZD_ENGINE", value_name = "ENGINE", value_parser = ["compose", "swarm"])]
    pub engine: Option<String>,
    /// Swarm: remove services that are no longer in the file, after the others have converged
    #[arg(long)]
    pub prune: bool,
    /// Swarm: first push the images of services with `build`, so that every node can pull them
    #[arg(long)]
    pub push: bool,
    /// Swarm: resolve images in their registry: always, changed, or never, for images that every node has already
    /// [default: always, except for images that were built on this machine]
    #[arg(long, value_name = "WHEN", value_parser = ["always", "changed", "never"])]
    pub resolve_image: Option<String>,
}

/// Replacement of instances, with the flags of `docker service update`.
#[derive(Args, Debug, Default, Clone)]
#[command(next_help_heading = "Update (deploy.update_config)")]
pub struct UpdateArgs {
    /// Instances to replace at a time; 0 is all at once [default: 0, or 1 if the file has an update_config]
    #[arg(long, env = "COMPOSE_ZD_UPDATE_PARALLELISM", value_name = "N")]
    pub update_parallelism: Option<u32>,
    /// Time between two batches [default: 0s]
    #[arg(long, env = "COMPOSE_ZD_UPDATE_DELAY", value_name = "DURATION", value_parser = duration_or_zero)]
    pub update_delay: Option<Duration>,
    /// Time to watch new instances before the old ones stop; 0s does not watch [default: 5s]
    #[arg(long, env = "COMPOSE_ZD_UPDATE_MONITOR", value_name = "DURATION", value_parser = duration_or_zero)]
    pub update_monitor: Option<Duration>,
    /// Action if more instances fail than allowed [default: rollback, or pause if the file has an update_config]
    #[arg(long, env = "COMPOSE_ZD_UPDATE_FAILURE_ACTION", value_name = "ACTION", value_parser = ACTIONS)]
    pub update_failure_action: Option<String>,
    /// Share of the instances that may fail, from 0 to 1 [default: 0]
    #[arg(long, env = "COMPOSE_ZD_UPDATE_MAX_FAILURE_RATIO", value_name = "RATIO", value_parser = ratio)]
    pub update_max_failure_ratio: Option<f64>,
    /// start-first or stop-first [default: start-first]
    #[arg(long, env = "COMPOSE_ZD_UPDATE_ORDER", value_name = "ORDER", value_parser = ORDERS)]
    pub update_order: Option<String>,
}

/// Rollback of instances, with the flags of `docker service update`.
#[derive(Args, Debug, Default, Clone)]
#[command(next_help_heading = "Rollback (deploy.rollback_config)")]
pub struct RollbackConfigArgs {
    /// Instances to restore at a time; 0 is all at once [default: the update parallelism, or 1 if the file has a
    /// rollback_config]
    #[arg(long, env = "COMPOSE_ZD_ROLLBACK_PARALLELISM", value_name = "N")]
    pub rollback_parallelism: Option<u32>,
    /// Time between two batches [default: 0s]
    #[arg(long, env = "COMPOSE_ZD_ROLLBACK_DELAY", value_name = "DURATION", value_parser = duration_or_zero)]
    pub rollback_delay: Option<Duration>,
    /// Time to watch restored instances before the others stop; 0s does not watch [default: 5s]
    #[arg(long, env = "COMPOSE_ZD_ROLLBACK_MONITOR", value_name = "DURATION", value_parser = duration_or_zero)]
    pub rollback_monitor: Option<Duration>,
    /// Action if more instances fail than allowed; a rollback is never rolled back [default: pause]
    #[arg(long, env = "COMPOSE_ZD_ROLLBACK_FAILURE_ACTION", value_name = "ACTION", value_parser = ["pause", "continue"])]
    pub rollback_failure_action: Option<String>,
    /// Share of the instances that may fail, from 0 to 1 [default: 0]
    #[arg(long, env = "COMPOSE_ZD_ROLLBACK_MAX_FAILURE_RATIO", value_name = "RATIO", value_parser = ratio)]
    pub rollback_max_failure_ratio: Option<f64>,
    /// start-first or stop-first [default: start-first]
    #[arg(long, env = "COMPOSE_ZD_ROLLBACK_ORDER", value_name = "ORDER", value_parser = ORDERS)]
    pub rollback_order: Option<String>,
}

/// Readiness of a new instance, with the keys of `x-zd.health`.
#[derive(Args, Debug, Default, Clone)]
#[command(next_help_heading = "Readiness (x-zd.health)")]
pub struct HealthArgs {
    /// Path of the probe; a new instance is ready when its answer is as expected
    #[arg(long, env = "COMPOSE_ZD_HEALTH_PATH", value_name = "PATH")]
    pub health_path: Option<String>,
    /// Port of the probe [default: the port that the proxy uses]
    #[arg(long, env = "COMPOSE_ZD_HEALTH_PORT", value_name = "PORT")]
    pub health_port: Option<u16>,
    /// http or https (certificates are not verified: the probe goes to an address)
    #[arg(long, env = "COMPOSE_ZD_HEALTH_SCHEME", value_name = "SCHEME")]
    pub health_scheme: Option<String>,
    /// Host header of the probe
    #[arg(long, env = "COMPOSE_ZD_HEALTH_HOST", value_name = "HOST")]
    pub health_host: Option<String>,
    /// Status codes that mean ready, such as 200-399 or 200,204
    #[arg(long, env = "COMPOSE_ZD_HEALTH_EXPECT", value_name = "CODES")]
    pub health_expect: Option<String>,
    /// Text that the answer must contain
    #[arg(long, env = "COMPOSE_ZD_HEALTH_BODY", value_name = "TEXT")]
    pub health_body: Option<String>,
    /// Time between two probes [default: 200ms]
    #[arg(long, env = "COMPOSE_ZD_HEALTH_INTERVAL", value_name = "DURATION", value_parser = duration)]
    pub health_interval: Option<Duration>,
    /// Timeout for one answer [default: 2s]
    #[arg(long, env = "COMPOSE_ZD_HEALTH_TIMEOUT", value_name = "DURATION", value_parser = duration)]
    pub health_timeout: Option<Duration>,
    /// Time within which every new instance must be ready [default: 60s]
    #[arg(long, env = "COMPOSE_ZD_HEALTH_DEADLINE", value_name = "DURATION", value_parser = duration)]
    pub health_deadline: Option<Duration>,
    /// Good answers in a row that mean ready [default: 1]
    #[arg(long, env = "COMPOSE_ZD_HEALTH_SUCCESSES", value_name = "N")]
    pub health_successes: Option<u32>,
}

/// Drain of an old instance, with the keys of `x-zd.drain`.
#[derive(Args, Debug, Default, Clone)]
#[command(next_help_heading = "Drain (x-zd.drain)")]
pub struct DrainArgs {
    /// Longest wait for the requests in flight [default: 30s]
    #[arg(long, env = "COMPOSE_ZD_DRAIN_TIMEOUT", value_name = "DURATION", value_parser = duration)]
    pub drain_timeout: Option<Duration>,
    /// Command to run in an old instance after it leaves rotation (with `sh -c`)
    #[arg(long, env = "COMPOSE_ZD_DRAIN_COMMAND", value_name = "COMMAND")]
    pub drain_command: Option<String>,
}

/// The proxy, if detection is wrong, with the keys of `x-zd.proxy`.
#[derive(Args, Debug, Default, Clone)]
#[command(next_help_heading = "Proxy (x-zd.proxy)")]
pub struct ProxyArgs {
    /// Container of the proxy, by name or id
    #[arg(long, env = "COMPOSE_ZD_PROXY_CONTAINER", value_name = "CONTAINER")]
    pub proxy_container: Option<String>,
    /// Kind of the proxy: nginx-proxy, haproxy, dockercloud, caddy or traefik; none deploys without gate and drain
    #[arg(long, env = "COMPOSE_ZD_PROXY_KIND", value_name = "KIND")]
    pub proxy_kind: Option<String>,
    /// Allow settings that stay in the running proxy (a marker test in a template, a keep-alive setting)
    #[arg(long, env = "COMPOSE_ZD_PROXY_TUNE", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub proxy_tune: Option<bool>,
}

/// The witness, with the keys of `x-zd.witness`.
#[derive(Args, Debug, Default, Clone)]
#[command(next_help_heading = "Witness (x-zd.witness)")]
pub struct WitnessArgs {
    /// URL to probe during the rollout [default: URL at which the proxy publishes the service]
    #[arg(long, env = "COMPOSE_ZD_WITNESS_URL", value_name = "URL")]
    pub witness_url: Option<String>,
    /// Probes a second, from 1 to 100 [default: 10]
    #[arg(long, env = "COMPOSE_ZD_WITNESS_RATE", value_name = "N")]
    pub witness_rate: Option<u32>,
    /// Probe no URL
    #[arg(long, env = "COMPOSE_ZD_NO_WITNESS")]
    pub no_witness: bool,
    /// Exit 6 after a lost request, and exit 1 if the URL does not answer before the deploy
    #[arg(long, env = "COMPOSE_ZD_STRICT")]
    pub strict: bool,
}

const ACTIONS: [&str; 3] = ["pause", "continue", "rollback"];
const ORDERS: [&str; 2] = ["start-first", "stop-first"];

/// A duration that may be zero.
fn duration_or_zero(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|e| format!("{e}; expected a duration such as 0s, 500ms or 1m30s"))
}

fn wait_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|e| {
        format!("{e}; write `--wait=10m`, or put `--wait` after the services to wait without a limit")
    })
}

fn ratio(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|r| (0.0..=1.0).contains(r));
    number.ok_or("expected a number from 0 to 1, such as 0.25".into())
}

fn image(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((_, reference)) if !reference.starts_with(|c: char| c.is_ascii_alphanumeric()) => {
            Err("an image begins with a letter or a digit; expected SERVICE=REF, such as app=shop:42".into())
        }
        Some((service, reference)) if !service.is_empty() && !reference.contains(|c: char| c <= ' ') => {
            Ok((service.into(), reference.into()))
        }
        _ => Err("expected SERVICE=REF, such as app=shop:42".into()),
    }
}

/// A duration as in Compose: `500ms`, `1m30s`.
fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        Ok(_) => Err("the duration must be longer than 0, such as 500ms".into()),
        Err(e) => Err(format!("{e}; expected a duration such as 500ms or 1m30s")),
    }
}

/// Bounded, because other timeouts are fractions of this one.
fn engine_timeout(text: &str) -> Result<Duration, String> {
    let day = Duration::from_secs(24 * 3600);
    let limit = duration(text)?;
    if limit >= Duration::from_secs(1) && limit <= day {
        Ok(limit)
    } else {
        Err("the timeout must be from 1s to 1day, such as 2m".into())
    }
}

fn service_and_port(text: &str) -> Result<(String, Option<u16>), String> {
    let invalid = || "expected SERVICE or SERVICE:PORT, such as web:3000".to_string();
    match text.split_once(':') {
        _ if text.is_empty() || text.starts_with(':') => Err(invalid()),
        None => Ok((text.into(), None)),
        Some((service, port)) => Ok((service.into(), Some(port_number(port).ok_or_else(invalid)?))),
    }
}

/// A port, or an address and a port; an IPv6 address is in brackets.
fn publication(text: &str) -> Result<(String, u16), String> {
    let (address, port) = text.rsplit_once(':').unwrap_or(("", text));
    let port = port_number(port).ok_or("expected a port, or ADDRESS:PORT such as 127.0.0.1:8080")?;
    let bare = address.trim_start_matches('[').trim_end_matches(']');
    if bare.is_empty() || bare.parse::<std::net::IpAddr>().is_ok() {
        Ok((bare.into(), port))
    } else {
        Err(format!("`{address}` is not an IP address such as 127.0.0.1"))
    }
}

fn port_number(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port > 0)
}

fn url_path(text: &str) -> Result<String, String> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "/-._~%?=&+,;@".contains(c);
    if text.starts_with('/') && text.chars().all(is_allowed) {
        Ok(text.into())
    } else {
        Err("expected a path that begins with `/`, such as /health".into())
    }
}

fn scale(text: &str) -> Result<(String, u32), String> {
    let (service, number) = text.split_once('=').ok_or("expected SERVICE=N, such as app=3")?;
    match number.parse::<u32>() {
        Ok(n) if n > 0 && !service.is_empty() => Ok((service.into(), n)),
        Ok(0) => Err("0 instances would stop the service; use `docker compose stop` instead".into()),
        _ => Err("expected SERVICE=N with a whole number, such as app=3".into()),
    }
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
    fn a_scale_needs_a_service_and_a_positive_number() {
        assert_eq!(scale("app=3"), Ok(("app".into(), 3)));
        for bad in ["app", "app=", "app=x", "=3", "app=0", "app=-1"] {
            assert!(scale(bad).is_err(), "{bad}");
        }
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
    fn the_engine_timeout_is_from_a_second_to_a_day() {
        assert_eq!(engine_timeout("20s"), Ok(Duration::from_secs(20)));
        for (bad, message) in
            [("999ms", "from 1s to 1day"), ("25h", "from 1s to 1day"), ("soon", "such as"), ("0s", "longer")]
        {
            assert!(engine_timeout(bad).unwrap_err().contains(message), "{bad}");
        }
        let error = parse("compose-zd status --engine-timeout soon").unwrap_err();
        assert!(error.to_string().contains("--engine-timeout <DURATION>"), "{error}");
    }

    #[test]
    fn an_impossible_duration_names_the_flag() {
        let error = parse("compose-zd deploy --health-deadline soon").unwrap_err();
        assert!(error.to_string().contains("--health-deadline <DURATION>"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}
