//! Flags of the commands.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, ValueEnum};

use super::settings::positive_duration;
use super::update::duration;
use super::{
    AnonymousVolumes, DrainLayer, EngineKind, FlagLayers, HealthLayer, ProxyLayer, RollbackConfigArgs,
    SettingsLayer, UpdateLayer, WitnessArgs,
};

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

#[derive(ValueEnum, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OutputFormat {
    #[default]
    Text,
    Json,
}

/// Releases and engine of a command that only reads.
#[derive(Args, Debug, Clone, Default)]
pub struct StateArgs {
    /// Folder for releases [default: .compose-zd beside the compose file]
    #[arg(long, env = "COMPOSE_ZD_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// compose or swarm [default: swarm if the project is a stack, else compose]
    #[arg(long, env = "COMPOSE_ZD_ENGINE", value_name = "ENGINE")]
    pub engine: Option<EngineKind>,
}

#[derive(Args, Debug, Clone, Default)]
pub struct StatusArgs {
    /// Services or pairs to show [default: all that are deployed]
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,
    /// Repeat until Ctrl-C [default without a duration: every 2s]
    #[arg(short, long, value_name = "DURATION", value_parser = positive_duration, num_args = 0..=1, require_equals = true,
          default_missing_value = "2s")]
    pub watch: Option<Duration>,
    /// text, or json: one document; with --watch one document a line
    #[arg(long, env = "COMPOSE_ZD_OUTPUT", value_name = "FORM", value_enum, default_value_t)]
    pub output: OutputFormat,
    #[command(flatten)]
    pub state: StateArgs,
}

#[derive(Args, Debug, Clone, Default)]
pub struct HistoryArgs {
    /// Print the timeline of the rollout of a release, as an HTML page
    #[arg(long, value_name = "RELEASE")]
    pub timeline: Option<u32>,
    /// text, or json: one document
    #[arg(long, env = "COMPOSE_ZD_OUTPUT", value_name = "FORM", value_enum, default_value_t)]
    pub output: OutputFormat,
    #[command(flatten)]
    pub state: StateArgs,
}

#[derive(Args, Debug, Clone, Default)]
pub struct CheckArgs {
    /// Services or pairs to check [default: all that a deploy may replace]
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,
    /// Print only losses
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Print the notes of each service; without it, those of one rule are one note
    #[arg(short, long)]
    pub verbose: bool,
    /// text, or json: one document
    #[arg(long, env = "COMPOSE_ZD_OUTPUT", value_name = "FORM", value_enum, default_value_t)]
    pub output: OutputFormat,
    #[command(flatten)]
    pub state: StateArgs,
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
    #[arg(long, conflicts_with = "no_build")]
    pub build: bool,
    /// Do not build images
    #[arg(long)]
    pub no_build: bool,
    // The order of these fields is the order of the groups in the help.
    #[command(flatten)]
    pub update: UpdateLayer,
    #[command(flatten)]
    pub rollout: RolloutArgs,
}

#[derive(Args, Debug, Clone, Default)]
pub struct UpArgs {
    /// Services or pairs to bring up [default: all; dependencies that are down are started]
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,
    /// Recreate what cannot be replaced without downtime: databases, the proxy
    #[arg(short, long)]
    pub yes: bool,
    /// Remove containers of services that the file no longer has
    #[arg(long)]
    pub remove_orphans: bool,
    /// With --dry-run: print each key that differs, with its old and new value
    #[arg(long, requires = "dry_run")]
    pub diff: bool,
    /// Accepted, as in Compose: the containers always run in the background
    #[arg(short, long, hide = true)]
    pub detach: bool,
    /// Pull images first
    #[arg(long)]
    pub pull: bool,
    /// Build images first (the default for services with `build`)
    #[arg(long, conflicts_with = "no_build")]
    pub build: bool,
    /// Do not build images
    #[arg(long)]
    pub no_build: bool,
    #[command(flatten)]
    pub update: UpdateLayer,
    #[command(flatten)]
    pub rollout: RolloutArgs,
}

impl UpArgs {
    /// Arguments of the rollout.
    pub fn deploy_args(&self) -> DeployArgs {
        DeployArgs {
            services: self.services.clone(),
            pull: self.pull,
            build: self.build,
            no_build: self.no_build,
            update: self.update.clone(),
            rollout: self.rollout.clone(),
            ..DeployArgs::default()
        }
    }
}

#[derive(Args, Debug, Clone, Default)]
pub struct RollbackArgs {
    /// Services or pairs to restore [default: those that the last rollout changed]
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,
    /// Release to restore [default: the previous one]
    #[arg(long, value_name = "RELEASE")]
    pub to: Option<u32>,
    /// Recreate what cannot be restored without downtime: databases, the proxy
    #[arg(short, long)]
    pub yes: bool,
    #[command(flatten)]
    pub rollout: RolloutArgs,
}

#[derive(Args, Debug, Clone, Default)]
pub struct RecoverArgs {
    #[command(flatten)]
    pub rollout: RolloutArgs,
}

/// Flags of every rollout. The order of the groups is their order in the help.
#[derive(Args, Debug, Default, Clone)]
#[command(next_help_heading = "Rollout")]
pub struct RolloutArgs {
    /// Print the plan and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Several services: all or none, and each starts after its dependencies are switched (the default)
    #[arg(long, conflicts_with = "one_by_one")]
    pub together: bool,
    /// Several services: replace and watch one after the other; all or none
    #[arg(long)]
    pub one_by_one: bool,
    /// fresh: give each new instance empty anonymous volumes, if they hold only a cache
    #[arg(long, env = "COMPOSE_ZD_ANONYMOUS_VOLUMES", value_name = "HOW")]
    pub anonymous_volumes: Option<AnonymousVolumes>,
    /// Longest wait of requests for the new version, where only one instance may run; 0s does not hold [default: 30s]
    #[arg(long, env = "COMPOSE_ZD_HOLD", value_name = "DURATION", value_parser = duration)]
    pub hold: Option<Duration>,
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
    pub health: HealthLayer,
    #[command(flatten)]
    pub drain: DrainLayer,
    #[command(flatten)]
    pub proxy: ProxyLayer,
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

impl RolloutArgs {
    /// Settings of the flags, with those of an update.
    pub fn settings(&self, update: &UpdateLayer) -> FlagLayers {
        FlagLayers {
            zd: SettingsLayer {
                health: self.health.clone(),
                drain: self.drain.clone(),
                proxy: self.proxy.clone(),
                anonymous_volumes: self.anonymous_volumes,
                hold: self.hold,
                ..SettingsLayer::default()
            },
            update: update.clone(),
            rollback: self.rollback_config.layer(),
            keep: self.keep,
            witness: self.witness.clone(),
        }
    }

    /// Flags that locate the releases.
    pub fn state(&self) -> StateArgs {
        StateArgs { state_dir: self.state_dir.clone(), engine: self.swarm.engine }
    }
}

/// Name of a run, which other runs print while they wait. Flags are left out, because they may hold a secret.
pub fn run_name(verb: &str, services: &[String]) -> String {
    std::iter::once(verb).chain(services.iter().map(String::as_str)).collect::<Vec<_>>().join(" ")
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
    #[arg(long, env = "COMPOSE_ZD_ENGINE", value_name = "ENGINE")]
    pub engine: Option<EngineKind>,
    /// Remove images that only older releases than the kept ones have; Swarm: remove services that are no longer in the
    /// file, after the others have converged
    #[arg(long)]
    pub prune: bool,
    /// Swarm: first push the images of services with `build`, so that every node can pull them
    #[arg(long)]
    pub push: bool,
    /// Swarm: resolve images in their registry: always, changed, or never, for images that every node has already
    /// [default: always, except for images that were built on this machine]
    #[arg(long, value_name = "WHEN")]
    pub resolve_image: Option<ResolveImage>,
}

/// When `docker stack deploy` looks images up in their registries.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResolveImage {
    Always,
    Changed,
    Never,
}

fn wait_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|e| {
        format!("{e}; write `--wait=10m`, or put `--wait` after the services to wait without a limit")
    })
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

/// Bounded, because other timeouts are fractions of this one.
fn engine_timeout(text: &str) -> Result<Duration, String> {
    let day = Duration::from_secs(24 * 3600);
    let limit = positive_duration(text)?;
    if limit >= Duration::from_secs(1) && limit <= day {
        Ok(limit)
    } else {
        Err("the timeout must be from 1s to 1day, such as 2m".into())
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

    #[test]
    fn a_scale_needs_a_service_and_a_positive_number() {
        assert_eq!(scale("app=3"), Ok(("app".into(), 3)));
        for bad in ["app", "app=", "app=x", "=3", "app=0", "app=-1"] {
            assert!(scale(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_engine_timeout_is_from_a_second_to_a_day() {
        assert_eq!(engine_timeout("20s"), Ok(Duration::from_secs(20)));
        for (bad, message) in
            [("999ms", "from 1s to 1day"), ("25h", "from 1s to 1day"), ("soon", "such as"), ("0s", "longer")]
        {
            assert!(engine_timeout(bad).unwrap_err().contains(message), "{bad}");
        }
    }
}
