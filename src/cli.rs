//! What may be typed, and nothing else.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

const EXIT_CODES: &str = "\
Exit codes:
  0        the new release serves (or nothing had to change)
  1        failed before anything was changed
  2        wrong usage or configuration
  3        failed; the old release serves, unchanged, or the rollout is paused
  4        failed, and the public URL or what served before is lost: act now
  5        another run holds the project
  6        deployed, but the witness lost requests (only with `--strict`)
  7        another run took the lock of this one, and finishes what it left
  130/143  interrupted; the old release serves";

const EXAMPLES: &str = "\
Examples:
  compose-zd deploy                      every service that a proxy routes to
  compose-zd deploy app --health-path /up
  compose-zd deploy web                  a pair: web_a and web_b, or web-blue and web-green
  compose-zd deploy app worker           both or neither; --one-by-one takes one after the other
  compose-zd deploy --image app=shop:42  this image for this release; the next deploy takes the file's again
  compose-zd deploy --scale app=4        the same release on four instances
  compose-zd deploy --resume             goes on with a rollout that paused
  compose-zd deploy --dry-run            the plan, and nothing touched";

const FIRST_EXAMPLES: &str = "\
Examples:
  compose-zd deploy                      every service that a proxy routes to
  compose-zd deploy app --health-path /up
  compose-zd deploy --dry-run            the plan, and nothing touched

`--help` has the other flags, by group, the keys of `x-zd` and the exit codes.";

/// The flags of a rollout in the short help: those that a user types, and not those that a file has.
const COMMON: [&str; 17] = [
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
  compose-zd rollback                    the release before; once more returns to the newer one
  compose-zd rollback app --to 5         one service, as release 5 had it";

const START: &str = "\
Start here:
  compose-zd init      a project without a proxy gets one, and a Makefile and a hook for `git push`
  compose-zd check     what a deploy would lose, and the fix
  compose-zd deploy    the next version of every service that a proxy routes to
  compose-zd rollback  the release before

`compose-zd help COMMAND` has the examples, `compose-zd help` lists the chapters of the manual.";

const KEYS: &str = "\
Keys of the compose file (all optional; a flag goes before its variable, that before the file):
  services:
    app:
      deploy: { replicas: 2, update_config: { parallelism: 1, monitor: 10s } }    # as in Swarm
      x-zd:
        health: { path: /up, port: 3000, scheme: http, host: app.example, expect: 200-399, body: ok,
                  interval: 200ms, timeout: 2s, deadline: 60s, successes: 1 }
        drain:  { timeout: 30s, command: [touch, /tmp/drain] }
        proxy:  { container: lb, kind: haproxy, tune: true }      # only where detection is wrong
        before: { service: migrate }    # run to its end before the switch
        after:  { service: warm }       # run to its end after it
  x-zd: { keep: 5, engine: compose, pairs: { web: [web_one, web_two] },
          witness: { url: \"http://localhost:8000/\", rate: 10 } }";

const INIT: &str = "\
Examples:
  compose-zd init                                what is missing; what is there stays as it is
  compose-zd init --print                        shows it, and writes nothing
  compose-zd init --service web:3000             this service, which listens there
  compose-zd init --publish 80 --health-path /up
  compose-zd init --no-proxy                     the Makefile and the scripts only

What it adds:
  compose.override.yaml          HAProxy, at the host port that the app had
  haproxy/haproxy.cfg            its configuration
  Makefile                       deploy, rollback, status
  scripts/post-receive           the hook of a bare repository: `git push` deploys
  scripts/deploy-and-restart.sh  for whoever calls one now

Exit codes:
  0  everything is there, or is the user's own
  1  nothing was written, or the proxy is left to be added by hand: the message says what
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
  compose-zd prune --all --dry-run          what is left of projects whose folder is gone, too

A project that has a container, running or not, keeps its images. Every deploy removes
those of releases that are not kept any more. The records stay in .compose-zd; a rollback
to a release whose image is gone is refused.";

const CHECK: &str = "\
Examples:
  compose-zd check                       the project and its proxy, by the file and by what runs
  compose-zd check app worker            only these; a service that a deploy leaves alone, too
  compose-zd check --quiet               only what would be lost (for CI)
  compose-zd check --output json         one document: see `compose-zd help json`

Nothing is changed.

Exit codes:
  0  nothing would be lost
  1  something would be lost, or a deploy would be refused
  2  wrong usage or configuration";

/// Chapters of the manual, in the order of reading; the first line of a chapter is its title.
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

/// Topics that the long help of a command points to.
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

/// Title of a chapter, without its mark of a heading.
pub fn title(chapter: &str) -> &str {
    chapter.lines().next().unwrap_or_default().trim_start_matches(['#', ' '])
}

/// Replaces running Docker Compose services by their next version without losing a request.
#[derive(Parser, Debug)]
#[command(name = "compose-zd", version = env!("ZD_VERSION"), max_term_width = 100, disable_help_subcommand = true)]
#[command(after_help = format!("{START}\n\n{EXIT_CODES}"))]
pub struct Cli {
    #[command(flatten)]
    pub compose: ComposeArgs,
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Reads the words of a call; usage shows this name of the program.
    pub fn read(words: Vec<OsString>, name: &'static str) -> Cli {
        let command = Cli::described(name).bin_name(name).display_name(name);
        let matches = command.get_matches_from(words);
        Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    /// Command line with the words that `help` knows and the topics of each command, for a program of this name.
    pub fn described(name: &str) -> clap::Command {
        // Each moves to the end of the list, so it is changed once.
        let command = SEE_ALSO.iter().fold(Cli::command(), |command, (word, topics)| {
            command.mut_subcommand(word, |command| with_short_help(see_also(command, name, topics)))
        });
        let commands: Vec<PossibleValue> =
            command.get_subcommands().filter(|c| !c.is_hide_set()).map(|c| value(c.get_name())).collect();
        let topics = TOPICS.iter().map(|(topic, text)| value(topic).help(title(text).to_string()));
        let words = PossibleValuesParser::new(commands.into_iter().chain(topics));
        command.mut_subcommand("help", |help| help.mut_arg("word", |word| word.value_parser(words)))
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
        let is_common = COMMON.contains(&arg.get_id().as_str());
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

/// Docker's and Compose's own flags; they stand before or after the command.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Project (as in docker compose)")]
pub struct ComposeArgs {
    /// Compose configuration file; may be given several times
    #[arg(short, long = "file", global = true, value_name = "FILE")]
    pub file: Vec<PathBuf>,
    /// Project name
    #[arg(short, long, global = true, value_name = "NAME")]
    pub project_name: Option<String>,
    /// Folder that relative paths start from
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
    /// Time for which the engine may be silent before it counts as lost [default: 2m]
    #[arg(long, global = true, env = "COMPOSE_ZD_ENGINE_TIMEOUT", value_name = "DURATION",
          value_parser = engine_timeout, help_heading = "Engine", hide_short_help = true)]
    pub engine_timeout: Option<Duration>,
    /// Flags of docker's own that were in front of a plugin's name
    #[arg(skip)]
    pub docker: Vec<String>,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Replace services by their next version, without losing a request
    #[command(after_help = FIRST_EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{KEYS}\n\n{EXIT_CODES}"))]
    Deploy(Box<DeployArgs>),
    /// Restore an earlier release, configuration and images, without losing a request
    #[command(after_help = ROLLBACK, after_long_help = format!("{ROLLBACK}\n\n{EXIT_CODES}"))]
    Rollback(Box<RollbackArgs>),
    /// Finish a deploy that was killed
    #[command(after_long_help = EXIT_CODES)]
    Recover(Box<RecoverArgs>),
    /// Show what runs: releases, instances, and whether they get requests
    Status(StatusArgs),
    /// List the releases, and which one a rollback goes to
    History(HistoryArgs),
    /// Remove the images that compose-zd keeps for rollbacks of a project that was taken down
    #[command(after_help = PRUNE)]
    Prune(PruneArgs),
    /// Report what a deploy would lose, service by service, with the fix; before the first deploy too
    #[command(after_help = CHECK)]
    Check(CheckArgs),
    /// Print the JSON Schema of what `--output json` prints
    Schema,
    /// Add what is missing for deploys without a loss: a proxy, a Makefile, a hook for `git push`
    #[command(after_help = INIT)]
    Init(InitArgs),
    /// Show the help of a command, or a chapter of the manual
    Help {
        /// Command or topic; without one, all of them are listed
        #[arg(value_name = "COMMAND|TOPIC")]
        word: Option<String>,
    },
    /// Print a shell's completions
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
    /// What docker asks of a plugin
    #[command(name = "docker-cli-plugin-metadata", hide = true)]
    Metadata,
}

#[derive(Args, Debug, Clone, Default)]
pub struct InitArgs {
    /// Service that gets a proxy, and the port it listens on; may be given several times [default: the one that looks
    /// like a web application]
    #[arg(long, value_name = "SERVICE[:PORT]", value_parser = service_and_port)]
    pub service: Vec<(String, Option<u16>)>,
    /// Host port of the proxy, where the service publishes none [default: 8080]
    #[arg(long, value_name = "[ADDRESS:]PORT", value_parser = publication)]
    pub publish: Option<(String, u16)>,
    /// Path that a healthy instance answers, for the proxy and for deploys [default: that of the healthcheck]
    #[arg(long, value_name = "PATH", value_parser = url_path)]
    pub health_path: Option<String>,
    /// Add no proxy
    #[arg(long, conflicts_with_all = ["service", "publish", "health_path"])]
    pub no_proxy: bool,
    /// The file as it has to be for a Swarm, with each change named; needs --print
    #[arg(long, requires = "print", conflicts_with_all = ["service", "publish", "health_path"])]
    pub swarm: bool,
    /// Write the Compose file of a Swarm service that was made by `docker service create`, and adopt the service
    #[arg(long, value_name = "NAME", conflicts_with_all = ["service", "publish", "health_path", "swarm"])]
    pub from_service: Option<String>,
    /// Show what would be written, and write nothing
    #[arg(long)]
    pub print: bool,
    /// Overwrite files that are there already
    #[arg(long, conflicts_with = "print")]
    pub force: bool,
}

/// The form in which results are printed.
#[derive(ValueEnum, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OutputFormat {
    #[default]
    Text,
    Json,
}

#[derive(Args, Debug, Clone, Default)]
pub struct StatusArgs {
    /// Services or pairs to show; without a name all that are deployed
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,
    /// Show it again and again, until Ctrl-C [default without a duration: every 2s]
    #[arg(short, long, value_name = "DURATION", value_parser = duration, num_args = 0..=1, require_equals = true,
          default_missing_value = "2s")]
    pub watch: Option<Duration>,
    /// text, or json: one document, with --watch one a line
    #[arg(long, env = "COMPOSE_ZD_OUTPUT", value_name = "FORM", value_enum, default_value_t)]
    pub output: OutputFormat,
    /// Folder for releases [default: .compose-zd beside the compose file]
    #[arg(long, env = "COMPOSE_ZD_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// compose or swarm [default: swarm where the project is a stack already, else compose]
    #[arg(long, env = "COMPOSE_ZD_ENGINE", value_name = "ENGINE", value_parser = ["compose", "swarm"])]
    pub engine: Option<String>,
}

#[derive(Args, Debug, Clone, Default)]
pub struct HistoryArgs {
    /// Print the picture of a release's rollout, one HTML page, to stdout
    #[arg(long, value_name = "RELEASE")]
    pub timeline: Option<u32>,
    /// text, or json: one document
    #[arg(long, env = "COMPOSE_ZD_OUTPUT", value_name = "FORM", value_enum, default_value_t)]
    pub output: OutputFormat,
    /// Folder for releases [default: .compose-zd beside the compose file]
    #[arg(long, env = "COMPOSE_ZD_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// compose or swarm [default: swarm where the project is a stack already, else compose]
    #[arg(long, env = "COMPOSE_ZD_ENGINE", value_name = "ENGINE", value_parser = ["compose", "swarm"])]
    pub engine: Option<String>,
}

#[derive(Args, Debug, Clone, Default)]
pub struct CheckArgs {
    /// Services or pairs to judge; without a name all that a deploy may be about
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,
    /// Print only what would be lost
    #[arg(short, long)]
    pub quiet: bool,
    /// text, or json: one document
    #[arg(long, env = "COMPOSE_ZD_OUTPUT", value_name = "FORM", value_enum, default_value_t)]
    pub output: OutputFormat,
    /// Folder for releases [default: .compose-zd beside the compose file]
    #[arg(long, env = "COMPOSE_ZD_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// compose or swarm [default: swarm where the project is a stack already, else compose]
    #[arg(long, env = "COMPOSE_ZD_ENGINE", value_name = "ENGINE", value_parser = ["compose", "swarm"])]
    pub engine: Option<String>,
}

#[derive(Args, Debug, Clone, Default)]
pub struct DeployArgs {
    /// Services or pairs to deploy; without a name every service that a proxy routes to
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,
    /// Replace every instance, even when nothing has changed
    #[arg(long)]
    pub force: bool,
    /// Image of a service for this release, such as app=shop:42; may be given several times
    #[arg(long, value_name = "SERVICE=REF", value_parser = image)]
    pub image: Vec<(String, String)>,
    /// Resume the rollout that paused
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
    // First, because its own flags stand under no heading.
    #[command(flatten)]
    pub rollout: RolloutArgs,
    #[command(flatten)]
    pub update: UpdateArgs,
}

#[derive(Args, Debug, Clone, Default)]
pub struct RollbackArgs {
    /// Services or pairs to put back; without a name those that the last rollout changed
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,
    /// Number of the release to put back [default: the one before]
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
    /// Every project that was taken down on this engine; needs no compose file
    #[arg(long)]
    pub all: bool,
    /// Print what would be removed and remove nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// What every rollout can be told.
#[derive(Args, Debug, Default, Clone)]
pub struct RolloutArgs {
    /// Print the plan and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Several services: all or none, all ready before the first is switched (the default)
    #[arg(long, overrides_with = "one_by_one")]
    pub together: bool,
    /// Several services: each is switched and watched before the next one starts; all or none all the same
    #[arg(long, overrides_with = "together")]
    pub one_by_one: bool,
    /// Anonymous volumes that hold a cache: each new instance gets empty ones (`fresh`)
    #[arg(long, env = "COMPOSE_ZD_ANONYMOUS_VOLUMES", value_name = "HOW", value_parser = ["fresh"])]
    pub anonymous_volumes: Option<String>,
    /// Releases to keep for a rollback [default: 5]
    #[arg(long, env = "COMPOSE_ZD_KEEP", value_name = "N")]
    pub keep: Option<usize>,
    /// Folder for releases [default: .compose-zd beside the compose file]
    #[arg(long, env = "COMPOSE_ZD_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// text, or json: an event a line on stderr, a summary on stdout
    #[arg(long, env = "COMPOSE_ZD_OUTPUT", value_name = "FORM", value_enum, default_value_t)]
    pub output: OutputFormat,
    /// Draw what happened to each instance, and when, as one HTML page
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    pub timeline: Option<PathBuf>,
    /// Print the result only
    #[arg(short, long)]
    pub quiet: bool,
    /// Print every docker command with the time it took
    #[arg(short, long, action = ArgAction::SetTrue, conflicts_with = "quiet")]
    pub verbose: bool,
    #[command(flatten)]
    pub turn: LockArgs,
    #[command(flatten)]
    pub swarm: SwarmArgs,
    #[command(flatten)]
    pub going_back: RollbackConfigArgs,
    #[command(flatten)]
    pub health: HealthArgs,
    #[command(flatten)]
    pub drain: DrainArgs,
    #[command(flatten)]
    pub proxy: ProxyArgs,
    #[command(flatten)]
    pub witness: WitnessArgs,
}

/// One rollout of a project at a time.
#[derive(Args, Debug, Default, Clone)]
#[command(next_help_heading = "While another run holds the project")]
pub struct LockArgs {
    /// Wait until it is done, for at most this long [default without a duration: as long as it takes; without the flag:
    /// exit 5 at once]
    #[arg(long, env = "COMPOSE_ZD_WAIT", value_name = "DURATION", value_parser = patience,
          num_args = 0..=1, default_missing_value = FOR_EVER)]
    pub wait: Option<Duration>,
    /// Wait, and deploy only the newest of all runs that wait so; the others exit 0 (for hooks)
    #[arg(long)]
    pub latest: bool,
}

/// Longer than any machine runs.
const FOR_EVER: &str = "1000000days";

impl LockArgs {
    /// How long another run is waited for.
    pub fn limit(&self) -> Duration {
        let long = Duration::from_secs(1_000_000 * 24 * 3600);
        self.wait.unwrap_or(if self.latest { long } else { Duration::ZERO })
    }
}

/// Where it runs, and what `docker stack deploy` is told.
#[derive(Args, Debug, Default, Clone)]
#[command(next_help_heading = "Engine (x-zd.engine)")]
pub struct SwarmArgs {
    /// compose or swarm [default: swarm where the project is a stack already, else compose]
    #[arg(long, env = "COMPOSE_ZD_ENGINE", value_name = "ENGINE", value_parser = ["compose", "swarm"])]
    pub engine: Option<String>,
    /// Swarm: remove services of the stack that the file has no more, once the others have converged
    #[arg(long)]
    pub prune: bool,
    /// Swarm: push the images of services with `build` first, so that every node can pull them
    #[arg(long)]
    pub push: bool,
    /// Swarm: look images up in their registry: always, changed or never, which takes this engine's images and trusts that
    /// every node has them [default: always, but for images that were built on this machine]
    #[arg(long, value_name = "WHEN", value_parser = ["always", "changed", "never"])]
    pub resolve_image: Option<String>,
}

/// How instances are replaced; the words of `docker service update`.
#[derive(Args, Debug, Default, Clone)]
#[command(next_help_heading = "Update (deploy.update_config)")]
pub struct UpdateArgs {
    /// Instances replaced at a time; 0 is all at once [default: 0, or 1 where the file has an update_config]
    #[arg(long, env = "COMPOSE_ZD_UPDATE_PARALLELISM", value_name = "N")]
    pub update_parallelism: Option<u32>,
    /// Time between two batches [default: 0s]
    #[arg(long, env = "COMPOSE_ZD_UPDATE_DELAY", value_name = "DURATION", value_parser = any_duration)]
    pub update_delay: Option<Duration>,
    /// How long new instances are watched before the old ones are stopped; 0s does not watch [default: 5s]
    #[arg(long, env = "COMPOSE_ZD_UPDATE_MONITOR", value_name = "DURATION", value_parser = any_duration)]
    pub update_monitor: Option<Duration>,
    /// Action once more have failed than allowed [default: rollback, or pause where the file has an update_config]
    #[arg(long, env = "COMPOSE_ZD_UPDATE_FAILURE_ACTION", value_name = "ACTION", value_parser = ACTIONS)]
    pub update_failure_action: Option<String>,
    /// Share of the instances that may fail, from 0 to 1 [default: 0]
    #[arg(long, env = "COMPOSE_ZD_UPDATE_MAX_FAILURE_RATIO", value_name = "RATIO", value_parser = ratio)]
    pub update_max_failure_ratio: Option<f64>,
    /// start-first or stop-first [default: start-first]
    #[arg(long, env = "COMPOSE_ZD_UPDATE_ORDER", value_name = "ORDER", value_parser = ORDERS)]
    pub update_order: Option<String>,
}

/// How instances are put back; the words of `docker service update`.
#[derive(Args, Debug, Default, Clone)]
#[command(next_help_heading = "Rollback (deploy.rollback_config)")]
pub struct RollbackConfigArgs {
    /// Instances put back at a time; 0 is all at once [default: as many as are replaced at a time, or 1 where the file
    /// has a rollback_config]
    #[arg(long, env = "COMPOSE_ZD_ROLLBACK_PARALLELISM", value_name = "N")]
    pub rollback_parallelism: Option<u32>,
    /// Time between two batches [default: 0s]
    #[arg(long, env = "COMPOSE_ZD_ROLLBACK_DELAY", value_name = "DURATION", value_parser = any_duration)]
    pub rollback_delay: Option<Duration>,
    /// How long instances are watched before the others are stopped; 0s does not watch [default: 5s]
    #[arg(long, env = "COMPOSE_ZD_ROLLBACK_MONITOR", value_name = "DURATION", value_parser = any_duration)]
    pub rollback_monitor: Option<Duration>,
    /// Action once more have failed than allowed; a rollback is never rolled back [default: pause]
    #[arg(long, env = "COMPOSE_ZD_ROLLBACK_FAILURE_ACTION", value_name = "ACTION", value_parser = ["pause", "continue"])]
    pub rollback_failure_action: Option<String>,
    /// Share of the instances that may fail, from 0 to 1 [default: 0]
    #[arg(long, env = "COMPOSE_ZD_ROLLBACK_MAX_FAILURE_RATIO", value_name = "RATIO", value_parser = ratio)]
    pub rollback_max_failure_ratio: Option<f64>,
    /// start-first or stop-first [default: start-first]
    #[arg(long, env = "COMPOSE_ZD_ROLLBACK_ORDER", value_name = "ORDER", value_parser = ORDERS)]
    pub rollback_order: Option<String>,
}

/// When a new instance is ready; the same words as `x-zd.health`.
#[derive(Args, Debug, Default, Clone)]
#[command(next_help_heading = "Readiness (x-zd.health)")]
pub struct HealthArgs {
    /// Path of the probe; a new instance is ready when it answers as expected
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
    /// Text that the answer has to contain
    #[arg(long, env = "COMPOSE_ZD_HEALTH_BODY", value_name = "TEXT")]
    pub health_body: Option<String>,
    /// Time between two probes [default: 200ms]
    #[arg(long, env = "COMPOSE_ZD_HEALTH_INTERVAL", value_name = "DURATION", value_parser = duration)]
    pub health_interval: Option<Duration>,
    /// Timeout for one answer [default: 2s]
    #[arg(long, env = "COMPOSE_ZD_HEALTH_TIMEOUT", value_name = "DURATION", value_parser = duration)]
    pub health_timeout: Option<Duration>,
    /// Time until every new instance has to be ready [default: 60s]
    #[arg(long, env = "COMPOSE_ZD_HEALTH_DEADLINE", value_name = "DURATION", value_parser = duration)]
    pub health_deadline: Option<Duration>,
    /// Good answers in a row that mean ready [default: 1]
    #[arg(long, env = "COMPOSE_ZD_HEALTH_SUCCESSES", value_name = "N")]
    pub health_successes: Option<u32>,
}

/// How an old instance finishes; the same words as `x-zd.drain`.
#[derive(Args, Debug, Default, Clone)]
#[command(next_help_heading = "Drain (x-zd.drain)")]
pub struct DrainArgs {
    /// Longest wait for the requests in flight [default: 30s]
    #[arg(long, env = "COMPOSE_ZD_DRAIN_TIMEOUT", value_name = "DURATION", value_parser = duration)]
    pub drain_timeout: Option<Duration>,
    /// Command to run in an old instance once it is out of rotation (by `sh -c`)
    #[arg(long, env = "COMPOSE_ZD_DRAIN_COMMAND", value_name = "COMMAND")]
    pub drain_command: Option<String>,
}

/// Which proxy, where detection is wrong; the same words as `x-zd.proxy`.
#[derive(Args, Debug, Default, Clone)]
#[command(next_help_heading = "Proxy (x-zd.proxy)")]
pub struct ProxyArgs {
    /// Container of the proxy, by name or id
    #[arg(long, env = "COMPOSE_ZD_PROXY_CONTAINER", value_name = "CONTAINER")]
    pub proxy_container: Option<String>,
    /// What the proxy is: nginx-proxy, haproxy, dockercloud, caddy or traefik; none deploys without gate and drain
    #[arg(long, env = "COMPOSE_ZD_PROXY_KIND", value_name = "KIND")]
    pub proxy_kind: Option<String>,
    /// Whether anything may be left in the running proxy (a marker test in a template, a keep-alive setting)
    #[arg(long, env = "COMPOSE_ZD_PROXY_TUNE", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub proxy_tune: Option<bool>,
}

/// The steady probe of the public URL; the same words as `x-zd.witness`.
#[derive(Args, Debug, Default, Clone)]
#[command(next_help_heading = "Witness (x-zd.witness)")]
pub struct WitnessArgs {
    /// URL that is probed during the rollout [default: where the proxy publishes the service]
    #[arg(long, env = "COMPOSE_ZD_WITNESS_URL", value_name = "URL")]
    pub witness_url: Option<String>,
    /// Probes a second, from 1 to 100 [default: 10]
    #[arg(long, env = "COMPOSE_ZD_WITNESS_RATE", value_name = "N")]
    pub witness_rate: Option<u32>,
    /// Probe no URL
    #[arg(long, env = "COMPOSE_ZD_NO_WITNESS")]
    pub no_witness: bool,
    /// A lost request makes a deploy end with 6, and a URL that does not answer before it with 1
    #[arg(long, env = "COMPOSE_ZD_STRICT")]
    pub strict: bool,
}

const ACTIONS: [&str; 3] = ["pause", "continue", "rollback"];
const ORDERS: [&str; 2] = ["start-first", "stop-first"];

/// A duration that may be none at all.
fn any_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|e| format!("{e}; expected a duration such as 0s, 500ms or 1m30s"))
}

fn patience(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|e| {
        format!("{e}; write `--wait=10m`, or put `--wait` after the services to wait as long as it takes")
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

/// Durations as Compose writes them: `500ms`, `1m30s`.
fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        Ok(_) => Err("it has to be longer than 0, such as 500ms".into()),
        Err(e) => Err(format!("{e}; expected a duration such as 500ms or 1m30s")),
    }
}

/// Other limits are shares of it, so it has bounds.
fn engine_timeout(text: &str) -> Result<Duration, String> {
    let day = Duration::from_secs(24 * 3600);
    let limit = duration(text)?;
    match limit >= Duration::from_secs(1) && limit <= day {
        true => Ok(limit),
        false => Err("it has to be from 1s to 1day, such as 2m".into()),
    }
}

fn service_and_port(text: &str) -> Result<(String, Option<u16>), String> {
    let wrong = || "expected SERVICE or SERVICE:PORT, such as web:3000".to_string();
    match text.split_once(':') {
        _ if text.is_empty() || text.starts_with(':') => Err(wrong()),
        None => Ok((text.into(), None)),
        Some((service, port)) => Ok((service.into(), Some(port_number(port).ok_or_else(wrong)?))),
    }
}

/// The address may be one of IPv6 in brackets.
fn publication(text: &str) -> Result<(String, u16), String> {
    let (address, port) = text.rsplit_once(':').unwrap_or(("", text));
    let port = port_number(port).ok_or("expected a port, or ADDRESS:PORT such as 127.0.0.1:8080")?;
    let bare = address.trim_start_matches('[').trim_end_matches(']');
    match bare.is_empty() || bare.parse::<std::net::IpAddr>().is_ok() {
        true => Ok((bare.into(), port)),
        false => Err(format!("`{address}` is no address of this machine, such as 127.0.0.1")),
    }
}

fn port_number(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port > 0)
}

fn url_path(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-._~%?=&+,;@".contains(c);
    match text.starts_with('/') && text.chars().all(plain) {
        true => Ok(text.into()),
        false => Err("expected a path that begins with `/`, such as /health".into()),
    }
}

fn scale(text: &str) -> Result<(String, u32), String> {
    let (service, number) = text.split_once('=').ok_or("expected SERVICE=N, such as app=3")?;
    match number.parse::<u32>() {
        Ok(n) if n > 0 && !service.is_empty() => Ok((service.into(), n)),
        Ok(0) => Err("0 instances would stop the service; use `docker compose stop` for that".into()),
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
        assert!(COMMON.iter().filter(own).all(|id| ids.contains(id)), "{ids:?}");
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn composes_flags_stand_before_or_after_the_command() {
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
    fn a_run_waits_as_long_as_it_is_told() {
        let wait = |words: &str| match parse(&format!("compose-zd deploy {words}")).unwrap().command {
            Command::Deploy(args) => (args.rollout.turn.limit().as_secs(), args.services.len()),
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
    fn an_engine_is_waited_for_from_a_second_to_a_day() {
        assert_eq!(engine_timeout("20s"), Ok(Duration::from_secs(20)));
        for (bad, told) in
            [("999ms", "from 1s to 1day"), ("25h", "from 1s to 1day"), ("soon", "such as"), ("0s", "longer")]
        {
            assert!(engine_timeout(bad).unwrap_err().contains(told), "{bad}");
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
